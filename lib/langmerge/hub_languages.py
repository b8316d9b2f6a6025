"""What the hub has for a language: the `hub:` blocks of the language files, and `data/hub.yaml`.

A language of the lab has words and a `hub:` block in one file. One that is known by its published
data alone has a file in ``hub_languages/``, which `langmerge paper` reads and the lab refuses.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from langmerge import paths
from langmerge.errors import LangmergeError, nearest, readable
from langmerge.files import read_yaml, read_yaml_as

FOLDER = "hub_languages"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Hub(_Strict):
    """A `hub:` block: configurations of data sets, lm-eval's and our tasks, the CT checkpoint.

    fineweb2, culturax, mc2, sib200, milic_eval: the configuration of the data set of that name in
    ``data/hub.yaml``; sizes in GB. ct_text: what the checkpoint was continually pre-trained on.
    """

    flores: str | None = None
    fineweb2: str | None = None
    fineweb2_gb: float | None = Field(None, gt=0)
    culturax: str | None = None
    mc2: str | None = None
    mc2_gb: float | None = Field(None, gt=0)
    sib200: str | None = None
    milic_eval: str | None = None
    lm_eval: tuple[str, ...] = ()
    own_tasks: tuple[str, ...] = ()
    ct_checkpoint: str | None = None
    ct_base: str | None = None
    ct_text: str | None = None
    ct_licence: str | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """All tasks in the language, lm-eval's own first."""
        return self.lm_eval + self.own_tasks


class HubLanguage(_Strict):
    """A language as `langmerge paper` knows it; `in_lab`: whether it has words for the lab."""

    code: str
    name: str
    autonym: str
    script: str
    family: str
    hub: Hub
    in_lab: bool = False


class TextSet(_Strict):
    """A corpus on the hub: its id, the column of its text, its licence where we know it."""

    dataset: str
    column: str
    gated: bool = False
    licence: str | None = None


class TaskSet(_Strict):
    """A data set of test items and what its tasks need of it.

    file: the file of one language's items, where the data set has no configurations. group: the
    column whose equal values make items dependent. metric: the one that is shown. items, tokens:
    how many a language has, and tokens that one item costs; for plans.
    """

    dataset: str
    split: str
    columns: tuple[str, ...]
    metric: str
    items: int = Field(gt=0)
    tokens: int = Field(gt=0)
    file: str | None = None
    group: str | None = None
    gated: bool = False
    licence: str | None = None


class Catalogue(_Strict):
    """``data/hub.yaml``: the data sets by the names that language files use."""

    text: dict[str, TextSet]
    tasks: dict[str, TaskSet]


@cache
def catalogue() -> Catalogue:
    """The data sets that language files refer to."""
    return read_yaml_as(Catalogue, paths.data() / "hub.yaml")


def codes() -> list[str]:
    """All languages with a `hub:` block, sorted."""
    return sorted({*paths.names("languages"), *paths.names(FOLDER)})


def hub_only() -> list[str]:
    """The languages that the lab has no words for, sorted."""
    return sorted({*paths.names(FOLDER)} - {*paths.names("languages")})


def load(code: str) -> HubLanguage:
    """What the hub has for a language, by its FLORES code.

    Raises LangmergeError for a code without a file, and for a file that is not valid.
    """
    path = paths.find("languages", code) or paths.find(FOLDER, code)
    if path is None or Path(code).name != code:
        raise LangmergeError(f"no language {code!r}: {nearest(code, codes())}")
    return _read(path)


@cache
def _read(path: Path) -> HubLanguage:
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise LangmergeError(f"{path}: a language is a list of `key: value` lines.")
    if path.parent.name != FOLDER:
        head = {key: raw.get(key) for key in ("code", "name", "autonym", "script", "family")}
        raw = {**head, "hub": raw.get("hub") or {}, "in_lab": True}
    try:
        return HubLanguage.model_validate(raw)
    except ValidationError as error:
        raise LangmergeError(f"{path}: {readable(error)}") from None


def refusal(code: str) -> str | None:
    """Why the lab does not take a language that only the hub has; None for all others."""
    if code not in hub_only():
        return None
    return (
        f"{code} is known by its published data alone: it has no words, so the lab cannot speak "
        f"it. `langmerge paper --language {code}` works with released checkpoints; to add words, "
        f"begin with `langmerge language new {code}`."
    )


def task_set(task: str) -> tuple[TaskSet, str]:
    """The data set of a task and its configuration, from the task's name.

    ``belebele_tam_Taml`` gives Belebele and ``tam_Taml``. Raises LangmergeError for other names.
    """
    known = catalogue().tasks
    plain = task.removeprefix("langmerge_")
    for name, found in known.items():
        if plain.startswith(f"{name}_"):
            return found, plain.removeprefix(f"{name}_")
    raise LangmergeError(
        f"task {task!r} belongs to none of the data sets of data/hub.yaml ({', '.join(known)})."
    )
