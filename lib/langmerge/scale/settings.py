"""What a training run is told: a YAML file, checked key by key.

The defaults are those of the model cards of Tao et al. (2024): CT at 3e-5, cosine to 1e-6 over
10,240 steps of 2,048 x 512 tokens; SFT at 3e-5, cosine to 1e-5 over 2,048 steps of 128 x 2,048
tokens, stopped after 884. What the cards do not say (weight decay, clipping, Adam's betas) is as
in Llama 2's pre-training.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from langmerge import paths
from langmerge.errors import LangmergeError, nearest, readable
from langmerge.files import read_yaml
from langmerge.profiles import Positive, Whole

#: A column's place in a template: {instruction}.
PLACE = re.compile(r"\{(\w+)\}")


class Strict(BaseModel):
    """No key that it does not know; the nearest known ones are named."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            known = [field.alias or name for name, field in cls.model_fields.items()]
            for key in given:
                if key not in known:
                    raise ValueError(f"no key {key!r}: {nearest(str(key), known)}")
        return given


class Source(Strict):
    """Where examples come from: a hub data set, streamed, or files on this disk.

    dataset, config, data_dir, revision, split: as `datasets.load_dataset` takes them.
    files: paths or patterns of .jsonl, .json or .parquet files, instead of a data set.
    share: its part of the tokens, relative to the other sources.
    """

    dataset: str | None = None
    config: str | None = None
    data_dir: str | None = None
    revision: str | None = None
    split: str = "train"
    files: list[str] | None = None
    share: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        if (self.dataset is None) == (self.files is None):
            raise ValueError("give either `dataset:` (a hub id) or `files:` (a list of paths)")
        return self

    @property
    def name(self) -> str:
        """How messages and manifests call it."""
        if self.files is not None:
            return ", ".join(self.files)
        return f"{self.dataset} {self.config or self.data_dir or ''}".strip()

    def columns(self) -> list[str]:
        """The columns that it has to have."""
        raise NotImplementedError


class Text(Source):
    """Running text: one document in one column."""

    column: str = "text"

    def columns(self) -> list[str]:
        """See `Source`."""
        return [self.column]


class Instructions(Source):
    """Instruction examples; only the answer carries loss.

    prompt, answer: templates in which ``{column}`` stands for a column's text.
    """

    prompt: str
    answer: str

    def columns(self) -> list[str]:
        """See `Source`."""
        return list(dict.fromkeys(PLACE.findall(self.prompt + self.answer)))

    @model_validator(mode="after")
    def _names_columns(self) -> Instructions:
        for key in ("prompt", "answer"):
            if not PLACE.search(getattr(self, key)):
                raise ValueError(f"{key} {getattr(self, key)!r} names no column, such as {{text}}")
        return self


class Run(Strict):
    """What continual pre-training and fine-tuning have in common.

    model: a hub id (``org/name`` or ``org/name@revision``) or a checkpoint's folder.
    out: where everything of the run is written. sequence: tokens a row. tokens_per_step: of one
    optimizer step, over all devices. tokens: of the whole run; budgets: after how many tokens
    the model is saved, besides at the end (both rounded down to whole steps).
    repeat: whether data that are used up are read again; else that is an error.
    per_device_batch: rows that one device takes at once; it changes speed and memory only.
    """

    model: str
    out: Path
    tokenizer: str | None = None
    sequence: Positive = 2048
    tokens_per_step: Positive
    tokens: Positive
    budgets: list[Positive] = []
    learning_rate: float = Field(default=3e-5, gt=0)
    min_learning_rate: float = Field(gt=0)
    decay_steps: Positive
    warmup_steps: Whole = 0
    weight_decay: float = Field(default=0.1, ge=0)
    seed: Whole = 0
    repeat: bool = False
    shuffle_buffer: Whole = 10_000
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    save_dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = True
    per_device_batch: Positive = 1
    save_steps: Positive = 100
    keep_state: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Run:
        if self.tokens_per_step % self.sequence:
            raise ValueError(
                f"tokens_per_step {self.tokens_per_step:,} is no multiple of the sequence of "
                f"{self.sequence:,} tokens"
            )
        for tokens in (self.tokens, *self.budgets):
            if tokens < self.tokens_per_step:
                raise ValueError(
                    f"{tokens:,} tokens are less than one step of {self.tokens_per_step:,}: "
                    "lower tokens_per_step"
                )
        if self.budgets and max(self.budgets) > self.tokens:
            raise ValueError(f"the budget {max(self.budgets):,} is above tokens {self.tokens:,}")
        if self.min_learning_rate > self.learning_rate:
            raise ValueError("min_learning_rate is above learning_rate")
        return self

    @property
    def rows_per_step(self) -> int:
        """Rows of one optimizer step, over all devices."""
        return self.tokens_per_step // self.sequence

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.tokens // self.tokens_per_step

    def checkpoints(self) -> dict[int, Path]:
        """After which steps the model is saved, and where: ``<out>/tokens-<how many>``."""
        steps = {tokens // self.tokens_per_step for tokens in (*self.budgets, self.tokens)}
        return {step: self.out / f"tokens-{step * self.tokens_per_step}" for step in sorted(steps)}

    def final(self) -> Path:
        """The folder of the model at the end."""
        return self.checkpoints()[self.steps]

    def learning_rate_at(self, step: int) -> float:
        """The rate of a step (from 0): warm-up, cosine to the minimum, and then the minimum."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        whole = max(1, self.decay_steps - self.warmup_steps)
        done = min(1.0, (step - self.warmup_steps) / whole)
        above = (self.learning_rate - self.min_learning_rate) * 0.5 * (1 + math.cos(math.pi * done))
        return self.min_learning_rate + above


class ContinualPretraining(Run):
    """Continual pre-training on running text; the sources' shares are 4:1 in the paper."""

    data: list[Text] = Field(min_length=1)
    tokens_per_step: Positive = 512 * 2048
    min_learning_rate: float = Field(default=1e-6, gt=0)
    decay_steps: Positive = 10_240


class Finetuning(Run):
    """Fine-tuning on instructions, several examples a row, each blind to the others.

    freeze_embeddings: whether the layers alone are trained, so that all outside of them
    (embeddings, final norm, head) stays as it is.
    """

    data: list[Instructions] = Field(min_length=1)
    freeze_embeddings: bool = False
    tokens_per_step: Positive = 128 * 2048
    tokens: Positive = 884 * 128 * 2048
    min_learning_rate: float = Field(default=1e-5, gt=0)
    decay_steps: Positive = 2_048  # of which the released model has gone 884
    repeat: bool = True


KINDS: dict[str, type[Run]] = {"ct": ContinualPretraining, "sft": Finetuning}


def read(kind: str, source: str | Path) -> Run:
    """A run's settings from a YAML file, or a shipped one by its name (``ct_tel``).

    kind: ``ct`` or ``sft``. Raises LangmergeError, naming file, key and the nearest known key.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        shipped = paths.find("training", str(source)) if path.name == str(source) else None
        if shipped is None:
            raise LangmergeError(
                f"training settings {str(source)!r}: there is no such file, and no shipped one of "
                f"that name; {nearest(str(source), paths.names('training'))}"
            )
        path = shipped
    return parse(kind, read_yaml(path), str(path))


def parse(kind: str, raw: object, where: str = "settings") -> Run:
    """A run's settings from what its YAML says; raises LangmergeError as `read` does."""
    if not isinstance(raw, Mapping):
        raise LangmergeError(f"{where}: training settings are a list of `key: value` lines")
    try:
        return KINDS[kind].model_validate(raw)
    except ValidationError as error:
        text = readable(error).removeprefix(": ")
        raise LangmergeError(f"{where} ({kind}): {text}") from None
