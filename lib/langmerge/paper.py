"""The study with released checkpoints: what is merged and evaluated, and what that can test.

`choose` takes a triple (base, CT, SFT) of ``data/paper.yaml`` and a language; `pin` fixes every
repository at a commit, so that a run that goes on later goes on with the same weights and items.
The stages themselves are in `paper_run`, the costs in `paper_plan`, and what a run left on the disk
is read by `paper_results`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field

from langmerge import files, hub_fetch, hub_languages, paths
from langmerge.errors import LangmergeError, nearest
from langmerge.hub_fetch import Repository
from langmerge.hub_languages import HubLanguage
from langmerge.hub_rows import election_slack
from langmerge.merging import recipe
from langmerge.merging.recipe import Recipe

ROLES = ("base", "ct", "sft")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Triple(_Strict):
    """Three checkpoints of one architecture; without `ct`, the language file names it.

    languages: those that the CT model was made for, where it is one for several. Names are hub
    ids, with ``@`` and a revision if one is wanted.
    """

    title: str
    base: str
    sft: str
    ct: str | None = None
    languages: tuple[str, ...] = ()
    parameters: int = Field(gt=0)
    licence: str | None = None


class Gpu(_Strict):
    """A graphics card as plans assume it: dense bfloat16 peak, and what an hour costs."""

    name: str
    peak_tflops: float = Field(gt=0)
    usd_per_hour: float = Field(ge=0)


class Assumed(_Strict):
    """What plans assume where nothing is measured yet."""

    merge_seconds_per_parameter: float = Field(gt=0)
    megabit_per_second: float = Field(gt=0)
    utilisation: float = Field(gt=0, le=1)
    gpus: tuple[Gpu, ...] = Field(min_length=1)


class OwnSft(_Strict):
    """The fine-tuning of the paper, for its price."""

    steps: int = Field(gt=0)
    tokens_per_step: int = Field(gt=0)


class Study(_Strict):
    """``data/paper.yaml``, or a file like it.

    judged_slack: the one slack that the claims of finding 3 are judged at, whatever the others do.
    """

    triples: dict[str, Triple] = Field(min_length=1)
    grid: dict[str, dict[str, float | str | list[float | str]]]
    out_dtype: str = "bfloat16"
    judged_slack: float = Field(default=1.0, gt=0)
    assumed: Assumed
    own_sft: OwnSft


@dataclasses.dataclass(frozen=True)
class Model:
    """A model to be evaluated: one of the three parts, or a merge.

    role: "base", "ct", "sft" or "merge". params: a recipe's parameters; empty for parts.
    """

    role: str
    method: str = ""
    params: Mapping[str, float | str] = dataclasses.field(default_factory=dict)

    @property
    def title(self) -> str:
        """What it is called in tables, such as ``ties_sv slack 2``."""
        return f"{self.method} {self.setting}".rstrip() if self.role == "merge" else self.role

    @property
    def setting(self) -> str:
        """The parameters in words; empty for parts."""
        return " ".join(
            f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self.params.items()
        )

    @property
    def slack(self) -> float | None:
        """The slack of the election: 0 for plain TIES, None where there is no election."""
        return election_slack(self.method, self.params)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A triple and a language, with everything that is to be computed."""

    triple_name: str
    triple: Triple
    language: HubLanguage
    study: Study
    tasks: tuple[str, ...]
    models: tuple[Model, ...]

    @property
    def references(self) -> dict[str, str]:
        """The three models by role, as they are named."""
        ct = self.triple.ct or self.language.hub.ct_checkpoint
        return {"base": self.triple.base, "ct": ct, "sft": self.triple.sft}

    @property
    def name(self) -> str:
        """``paper-tam_Taml``: what folders and files of this run are called."""
        return f"{self.triple_name}-{self.language.code}"

    @property
    def folder(self) -> Path:
        """Where pins, merges and the report lie."""
        return paths.home() / "paper" / self.name

    @property
    def results(self) -> Path:
        """The file of finished rows."""
        return paths.results() / "paper" / f"{self.name}.jsonl"


@dataclasses.dataclass(frozen=True)
class Pinned:
    """The repositories at their commits: models by role, data sets by name."""

    models: Mapping[str, Repository]
    datasets: Mapping[str, Repository]

    @property
    def all(self) -> list[Repository]:
        """Each once."""
        return list(
            {(r.kind, r.name): r for r in [*self.models.values(), *self.datasets.values()]}.values()
        )

    def commits(self) -> dict[str, str]:
        """The commit of each repository by kind and name."""
        return {f"{one.kind}:{one.name}": one.commit for one in self.all}


def read_study(path: str | Path | None = None) -> Study:
    """The shipped study, or that of a file. Raises LangmergeError for what is none."""
    path = Path(path).expanduser() if path else paths.data() / "paper.yaml"
    if not path.is_file():
        raise LangmergeError(f"study {str(path)!r}: there is no such file; data/paper.yaml is one.")
    study = files.read_yaml_as(Study, path)
    for model in _grid(study.grid):
        _check(model, study.out_dtype, path)
    return study


def choose(
    language: str,
    triple: str | None = None,
    study: Study | None = None,
    slacks: Sequence[float] = (),
) -> Chosen:
    """What is to be computed for a language.

    triple: its name in the study; the first that has a checkpoint for the language where it is not
    given. slacks: in place of the study's. Raises LangmergeError where nobody released a
    checkpoint for the language, saying what there is.
    """
    study = study or read_study()
    it = hub_languages.load(language)
    if triple is not None and triple not in study.triples:
        raise LangmergeError(f"no triple {triple!r}: {nearest(triple, study.triples)}")
    names = [triple] if triple else list(study.triples)
    fitting = [name for name in names if _fits(study.triples[name], it)]
    if not fitting:
        raise LangmergeError(_nothing_released(it, triple, study))
    if not it.hub.tasks:
        raise LangmergeError(f"{language}: its file names no task; add some under `hub:`.")
    name = fitting[0]
    parts = tuple(Model(role) for role in ROLES)
    merges = tuple(_grid(_with_slacks(study.grid, slacks)))
    for model in merges:
        _check(model, study.out_dtype, "--slack")
    return Chosen(name, study.triples[name], it, study, it.hub.tasks, parts + merges)


def overview(study: Study | None = None) -> list[tuple[str, str, str, str]]:
    """What there is for each language: code, name, checkpoint (or its lack), tasks."""
    study = study or read_study()
    rows = []
    for code in hub_languages.codes():
        it = hub_languages.load(code)
        found = [
            f"{name}: {triple.ct or it.hub.ct_checkpoint}"
            for name, triple in study.triples.items()
            if _fits(triple, it)
        ]
        rows.append((code, it.name, ", ".join(found) or "none released", ", ".join(it.hub.tasks)))
    return rows


def pin(chosen: Chosen, repin: bool = False) -> Pinned:
    """Every repository at the commit of the first run, or at today's where there was none.

    The commits are kept in ``pins.json`` of the run's folder; `write_pins` does that. repin: take
    today's anew. Raises LangmergeError as `hub_fetch.resolve`.
    """
    known = {} if repin else read_pins(chosen)
    models = {role: _resolved(name, "model", known) for role, name in chosen.references.items()}
    names = {hub_languages.task_set(task)[0].dataset for task in chosen.tasks}
    datasets = {name: _resolved(name, "dataset", known) for name in sorted(names)}
    return Pinned(models, datasets)


def read_pins(chosen: Chosen) -> dict[str, str]:
    """The commits of an earlier run by kind and name; none where there was none."""
    path = chosen.folder / "pins.json"
    if not path.is_file():
        return {}
    try:
        pins = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): str(commit) for name, commit in pins.items()}
    except (ValueError, AttributeError):
        raise LangmergeError(f"{path} is not readable: remove it, or run with --repin.") from None


def write_pins(chosen: Chosen, pinned: Pinned) -> None:
    """Keep the commits for later runs."""
    chosen.folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(pinned.commits(), indent=1, sort_keys=True)
    files.write_text(chosen.folder / "pins.json", text + "\n")


def as_recipe(model: Model, references: Mapping[str, str], out_dtype: str) -> Recipe:
    """A merge as a recipe: what the engine reads, and what its model card shows.

    references: the three models by role, as the recipe is to name them.
    """
    raw: dict[str, object] = {"merge_method": model.method}
    if model.method != "average":
        raw["base_model"] = references["base"]
    raw["models"] = [{"model": references["ct"]}, {"model": references["sft"]}]
    raw |= {"parameters": dict(model.params), "out_dtype": out_dtype}
    return recipe.parse(raw, yaml.safe_dump(raw, sort_keys=False))


def key_of(chosen: Chosen, model: Model, pinned: Pinned, **setting: object) -> str:
    """The key of an evaluated model: a hash of commits, method, parameters and setting."""
    weights = {role: f"{one.name}@{one.commit}" for role, one in pinned.models.items()}
    if model.role != "merge":
        weights = {model.role: weights[model.role]}
    params = {name: _plain(value) for name, value in sorted(model.params.items())}
    parts = [weights, model.role, model.method, params, chosen.study.out_dtype, setting]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def _resolved(reference: str, kind: str, known: Mapping[str, str]) -> Repository:
    name, _, revision = reference.partition("@")
    pinned = known.get(f"{kind}:{name}")
    if hub_fetch.is_offline():
        if pinned is None:
            raise LangmergeError(
                f"{kind} {name!r} was never pinned here, and HF_HUB_OFFLINE forbids the network: "
                "unset it for the first run."
            )
        return hub_fetch.from_cache(name, pinned, kind)
    return hub_fetch.resolve(name, pinned or revision or None, kind)


def _fits(triple: Triple, language: HubLanguage) -> bool:
    if triple.ct is not None:
        return language.code in triple.languages
    return language.hub.ct_checkpoint is not None and language.hub.ct_base == triple.base


def _nothing_released(language: HubLanguage, triple: str | None, study: Study) -> str:
    names = [triple] if triple else list(study.triples)
    released = {
        name: [
            code
            for code in hub_languages.codes()
            if _fits(study.triples[name], hub_languages.load(code))
        ]
        for name in names
    }
    there = "; ".join(f"{name}: {', '.join(codes) or 'none'}" for name, codes in released.items())
    size = language.hub.fineweb2_gb
    text = f" ({size:g} GB of it in FineWeb-2)" if size else ""
    return (
        f"no CT checkpoint of {language.name} ({language.code}) is released, so there is nothing "
        f"to merge. Released: {there}. A checkpoint of your own, from the same base by continual "
        f"pre-training on text in {language.name}{text}, is named as `ct` in a file for --study."
    )


def _with_slacks(grid: Mapping[str, dict], slacks: Sequence[float]) -> dict[str, dict]:
    if not slacks:
        return dict(grid)
    return {
        method: {**params, "slack": list(slacks)} if "slack" in params else params
        for method, params in grid.items()
    }


def _grid(grid: Mapping[str, Mapping[str, object]]) -> list[Model]:
    """One merge for every combination of listed values."""
    models = []
    for method, params in grid.items():
        values = [value if isinstance(value, list) else [value] for value in params.values()]
        for combination in itertools.product(*values):
            models.append(Model("merge", method, dict(zip(params, combination, strict=True))))
    return models


def _check(model: Model, out_dtype: str, where: object) -> None:
    """Raise LangmergeError for a merge whose settings the engine would refuse."""
    try:
        written = as_recipe(model, {"base": "a/base", "ct": "a/ct", "sft": "a/sft"}, out_dtype)
        written.settings(2)("model.layers.0.mlp.up_proj.weight")
        if model.slack is not None and not model.slack >= 0:
            raise LangmergeError(f"slack {model.slack} has to be at least 0 (or inf)")
    except LangmergeError as error:
        raise LangmergeError(f"{where}: {model.title}: {error}") from None


def _plain(value: object) -> object:
    """A parameter as JSON and a title can hold it."""
    if isinstance(value, float):
        return "inf" if math.isinf(value) else float(f"{value:g}")
    return value
