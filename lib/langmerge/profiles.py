"""Profiles: how large a study is and with which settings, plain YAML that a user can copy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from langmerge import paths
from langmerge.errors import LangmergeError, nearest, readable
from langmerge.files import read_yaml
from langmerge.tasks import TASKS


def _whole(value: object) -> object:
    """Seeds and sizes are integers; pydantic alone would take True for 1."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r} is no integer")
    return value


def _different(values: list) -> list:
    """A seed given twice would count as two independent runs."""
    twice = {value for value in values if values.count(value) > 1}
    if twice:
        raise ValueError(f"given twice: {', '.join(map(str, sorted(twice)))}")
    return values


Whole = Annotated[int, BeforeValidator(_whole), Field(ge=0)]
Positive = Annotated[int, BeforeValidator(_whole), Field(gt=0)]
Once = AfterValidator(_different)
Settings = dict[str, float | int | str]

#: What is tuned of every study: the merges of the findings, and CT-then-SFT.
MERGES = ("average", "task_arithmetic", "ties_mean", "ties_sum", "ties_sv")
CORE = (*MERGES, "ct_then_sft")
#: The remedies of the family `beyond`, Chat Vector aside, which has nothing to tune.
BEYOND = (
    "widen", "dare_linear", "dare_ties", "della", "breadcrumbs", "model_stock", "slerp",
    "layer_swapping", "scaled_sft",
)  # fmt: skip
#: The family `baselines`: other orders of the same two trainings.
BASELINES = ("ct_then_sft_slow", "ct_then_sft_replay", "sft_then_ct", "joint")
#: The family `repeated`: methods of the findings whose CT expert reads its text again.
REPEATED = {
    "ct_then_sft_repeated": "ct_then_sft",
    "average_repeated": "average",
    "task_arithmetic_repeated": "task_arithmetic",
    "ties_mean_repeated": "ties_mean",
    "layer_swapping_repeated": "layer_swapping",
}
#: What the findings compare beside CORE: controls, and the ceiling in the target language.
CONTROLS = ("target_sft", "half_sft", "chat_vector", "shuffled_ct", "norm_matched_ct")
#: The family `frozen`: methods of the findings with SFT that leaves the embeddings as they are.
FROZEN = {
    "ct_then_sft_frozen": "ct_then_sft",
    "task_arithmetic_frozen": "task_arithmetic",
    "ties_mean_frozen": "ties_mean",
    "layer_swapping_frozen": "layer_swapping",
}
#: Families of further models beside those of the findings; `langmerge.families` makes them.
#: beyond: other remedies. untuned: their untuned defaults, and the baselines'. mechanism:
#: interventions on the election. baselines: other ways to train on both. repeated: the findings
#: with CT that reads its text again. sensitivity: one setting at a time. bilingual, rates: the
#: findings with other CT. faster: with CT at twice the rate alone. oracle: settings chosen on a
#: language's own dev items. parts: embeddings and layers of the updates apart. frozen: the findings
#: with SFT that leaves the embeddings as they are.
Family = Literal[
    "beyond",
    "untuned",
    "mechanism",
    "baselines",
    "repeated",
    "sensitivity",
    "bilingual",
    "rates",
    "faster",
    "oracle",
    "parts",
    "frozen",
]


class ContinualPretraining(BaseModel):
    """Continual pre-training on target text and English, at a constant rate.

    bilingual: the share of the target's documents that say every sentence in English too.
    """

    model_config = ConfigDict(extra="forbid")
    learning_rate: float = Field(gt=0)
    batch: Positive
    sequence: Positive
    target_share: float = Field(gt=0, le=1)
    bilingual: float = Field(default=0.0, ge=0, le=1)

    def spec(self) -> dict[str, object]:
        """What a run depends on; without what stands at its default, which older runs lack."""
        return self.model_dump(exclude_defaults=True)

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimizer step sees."""
        return self.batch * self.sequence


class Finetuning(BaseModel):
    """Supervised fine-tuning; every step sees new examples.

    freeze_embeddings: whether all that is outside the layers stays as it is.
    """

    model_config = ConfigDict(extra="forbid")
    learning_rate: float = Field(gt=0)
    steps: Positive
    batch: Positive
    freeze_embeddings: bool = False

    @model_serializer(mode="wrap")
    def _without_default(self, told: SerializerFunctionWrapHandler) -> dict[str, object]:
        """What a run depends on; older runs lack what was always so."""
        found = told(self)
        if not self.freeze_embeddings:
            del found["freeze_embeddings"]
        return found


class RepeatedText(BaseModel):
    """CT that goes on over the text it has read, by so many steps."""

    model_config = ConfigDict(extra="forbid")
    repeat_steps: Positive


class MixedFinetuning(Finetuning):
    """Fine-tuning with steps on CT text between: `replay` of them for each step of SFT."""

    replay: float = Field(gt=0)


class Profile(BaseModel):
    """A profile, its inheritance resolved."""

    model_config = ConfigDict(extra="forbid")
    name: str
    note: str = ""
    bases: Annotated[list[str], Field(min_length=1), Once] = ["base"]
    languages: Annotated[list[str], Field(min_length=1), Once]
    seeds: Annotated[list[Whole], Field(min_length=1), Once]
    budgets: Annotated[list[Positive], Field(min_length=1), Once]
    items: Positive
    text_documents: Whole = Field(ge=2)
    english_items: Positive
    english_floor: float = Field(ge=0, le=1)
    tasks: Annotated[list[str], Field(min_length=1), Once]
    slacks: Annotated[list[Annotated[float, Field(ge=0)]], Once]
    continual_pretraining: ContinualPretraining
    finetuning: Finetuning
    default: dict[str, Settings]
    tuned: dict[str, Settings]
    families: Annotated[list[Family], Once] = []
    #: The methods that are run, where not all are: CORE, CONTROLS, BEYOND, BASELINES, REPEATED
    #: and FROZEN.
    #: Base, SFT and CT always are.
    only: Annotated[list[str], Once] = []
    #: The CT budgets of methods of the findings that are not run at all of them; ``default.NAME``
    #: or ``tuned.NAME`` is a method in these settings alone.
    budgets_of: dict[str, Annotated[list[Positive], Field(min_length=1), Once]] = {}

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods whose settings matter: of the findings, and of the families."""
        more = {
            "beyond": BEYOND,
            "baselines": BASELINES,
            "repeated": (*REPEATED,),
            "frozen": (*FROZEN,),
        }
        return (*CORE, *(name for family in self.families for name in more.get(family, ())))

    def identity(self) -> dict[str, object]:
        """What the results depend on, for a key; languages, seeds, bases and families aside.

        Settings of methods that the profile does not run are no part of it.
        """
        told = self.model_dump(exclude={"languages", "seeds", "bases", "name", "note", "families"})
        told["continual_pretraining"] = self.continual_pretraining.spec()
        for key in ("only", "budgets_of"):
            if not told[key]:  # as runs had it that are older than the key
                del told[key]
        for which in ("default", "tuned"):
            told[which] = {
                name: values for name, values in told[which].items() if name in self.methods
            }
        return told

    def runs(self, method: str, ct_tokens: int | None = None, setting: str = "") -> bool:
        """Whether a method of the findings, or of a family that `only` can name some of, is run.

        ct_tokens: at this CT budget; None asks whether it is run at any. setting: in these alone.
        """
        its = self.budgets_of.get(method, self.budgets)
        at = self.budgets_of.get(f"{setting}.{method}", its)
        return (not self.only or method in self.only) and ct_tokens in (None, *at)

    def settings(self, method: str) -> dict[str, Settings]:
        """A method's settings by name ("tuned", "default"); tuned is absent before tuning."""
        both = {"tuned": self.tuned.get(method), "default": self.default.get(method)}
        return {name: settings for name, settings in both.items() if settings is not None}


def load(name: str, **overrides: object) -> Profile:
    """The profile of that name, with some of its keys replaced.

    Raises LangmergeError for an unknown profile or key, naming the nearest known ones.
    """
    raw = _read(name)
    whole = raw.get("budgets")
    _check_keys(overrides, "")
    raw |= {key: value for key, value in overrides.items() if value is not None}
    try:
        profile = Profile.model_validate(raw | {"name": name})
    except ValidationError as error:
        raise LangmergeError(f"profile {name}: {readable(error)}") from None
    methods = (*CORE, *CONTROLS, *BEYOND, *BASELINES, *REPEATED, *FROZEN)
    known = {"task": (profile.tasks, TASKS), "method": (profile.only, methods)}
    for what, (given, there) in known.items():
        for one in given:
            if one not in there:
                raise LangmergeError(f"profile {name}: no {what} {one!r}: {nearest(one, there)}")
    for method, budgets in profile.budgets_of.items():
        _check_budgets_of(name, method, budgets, whole)
    step = profile.continual_pretraining.tokens_per_step
    for budget in profile.budgets:
        if budget % step:
            near = max(1, round(budget / step)) * step
            raise LangmergeError(
                f"profile {name}: the budget {budget} is no multiple of {step} tokens, one CT "
                f"step: {near} is the nearest"
            )
    return profile


def _check_budgets_of(name: str, method: str, budgets: list[int], whole: list[int]) -> None:
    """A method's own budgets are some of the profile's, which a caller may ask for a part of."""
    there = [it for it in (*CORE, *CONTROLS) if it != "half_sft"]  # which has no CT in it
    there += [f"{setting}.{it}" for setting in ("tuned", "default") for it in CORE]
    if method not in there:
        known = nearest(method, there)
        raise LangmergeError(f"profile {name}: budgets_of: no method {method!r}: {known}")
    for budget in budgets:
        if budget not in whole:
            raise LangmergeError(
                f"profile {name}: budgets_of: {method} at {budget} CT tokens, which is none of "
                f"the budgets {', '.join(map(str, whole))}"
            )


def _read(name: str, seen: tuple[str, ...] = ()) -> dict:
    given = Path(str(name))
    path = paths.find("profiles", name) if given.name == name else None
    if path is None:
        where = f" that {seen[-1]} extends" if seen else ""
        known = nearest(str(name), paths.names("profiles"))
        if given.suffix or given.name != str(name):
            known = (
                "a profile is given by its name, not by a path: put the file as NAME.yaml into "
                f"{paths.home() / 'profiles'} and give NAME. {known}"
            )
        raise LangmergeError(f"no profile {name!r}{where}: {known}")
    if name in seen:
        raise LangmergeError(f"{path}: `extends` goes in a circle: {' -> '.join((*seen, name))}")
    raw = read_yaml(path)
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise LangmergeError(f"{path}: a profile is a list of `key: value` lines")
    parent = raw.pop("extends", None)
    _check_keys(raw, f"{path}: ")
    return (_read(parent, (*seen, name)) if parent is not None else {}) | raw


def _check_keys(given: dict, where: str) -> None:
    for key in given:
        if key not in Profile.model_fields:
            known = nearest(str(key), Profile.model_fields)
            raise LangmergeError(f"{where}no profile key {key!r}: {known}")
