"""Profiles: how large a study is and with which settings, plain YAML that a user can copy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from langmerge import paths
from langmerge.errors import LangmergeError, nearest
from langmerge.tasks import TASKS


def _whole(value: object) -> object:
    """Seeds and sizes are integers; pydantic alone would take True for 1."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r} is no integer")
    return value


Whole = Annotated[int, BeforeValidator(_whole), Field(ge=0)]
Settings = dict[str, float | int | str]


class ContinualPretraining(BaseModel):
    """Continual pre-training on monolingual target text and English, at a constant rate."""

    model_config = ConfigDict(extra="forbid")
    learning_rate: float = Field(gt=0)
    batch: Whole
    sequence: Whole
    target_share: float = Field(gt=0, le=1)

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimizer step sees."""
        return self.batch * self.sequence


class Finetuning(BaseModel):
    """Supervised fine-tuning; every step sees new examples."""

    model_config = ConfigDict(extra="forbid")
    learning_rate: float = Field(gt=0)
    steps: Whole
    batch: Whole


class Profile(BaseModel):
    """A profile, its inheritance resolved."""

    model_config = ConfigDict(extra="forbid")
    name: str
    languages: list[str] = Field(min_length=1)
    seeds: list[Whole] = Field(min_length=1)
    budgets: list[Whole] = Field(min_length=1)
    items: Whole
    text_documents: Whole = Field(ge=2)
    english_items: Whole
    tasks: list[str]
    slacks: list[float]
    continual_pretraining: ContinualPretraining
    finetuning: Finetuning
    default: dict[str, Settings]
    tuned: dict[str, Settings]

    def settings(self, method: str) -> dict[str, Settings]:
        """A method's settings by name ("tuned", "default"); tuned is absent before tuning."""
        both = {"tuned": self.tuned.get(method), "default": self.default.get(method)}
        return {name: settings for name, settings in both.items() if settings is not None}


def load(name: str, **overrides: object) -> Profile:
    """The profile of that name, with some of its keys replaced.

    Raises LangmergeError for an unknown profile or key, naming the nearest known ones.
    """
    raw = _read(name)
    unknown = set(overrides) - set(Profile.model_fields)
    if unknown:
        key = sorted(unknown)[0]
        raise LangmergeError(f"no profile key {key!r}: {nearest(key, Profile.model_fields)}")
    raw |= {key: value for key, value in overrides.items() if value is not None}
    try:
        profile = Profile.model_validate({"name": name} | raw)
    except ValidationError as error:
        raise LangmergeError(f"profile {name}: {_readable(error)}") from None
    for task in profile.tasks:
        if task not in TASKS:
            raise LangmergeError(f"profile {name}: no task {task!r}: {nearest(task, TASKS)}")
    step = profile.continual_pretraining.tokens_per_step
    for budget in profile.budgets:
        if budget == 0 or budget % step:
            raise LangmergeError(
                f"profile {name}: the budget {budget} is no multiple of {step} tokens, one CT step"
            )
    return profile


def _read(name: str, seen: tuple[str, ...] = ()) -> dict:
    path = paths.find("profiles", name) if Path(name).name == name else None
    if path is None:
        raise LangmergeError(f"no profile {name!r}: {nearest(name, paths.names('profiles'))}")
    if name in seen:
        raise LangmergeError(f"{path}: `extends` goes in a circle: {' -> '.join((*seen, name))}")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise LangmergeError(f"{path}: {error}") from None
    parent = raw.pop("extends", None)
    return (_read(parent, (*seen, name)) if parent else {}) | raw


def _readable(error: ValidationError) -> str:
    """Pydantic's complaint, one `key: what is wrong` after another."""
    return "; ".join(
        f"{'.'.join(map(str, problem['loc']))}: {problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors()
    )
