"""Rows of results with models of the hub: one schema, whoever computed them.

`langmerge paper` (released checkpoints) and `langmerge hub-small` (a study trained here) write such
rows, and readers hand them in. The file is JSON lines. A row is whole or absent: a line that a
killed run left unfinished is dropped by the next one, which computes it again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import Field, ValidationError, field_validator, model_validator

from langmerge.errors import LangmergeError, readable
from langmerge.files import append_lines
from langmerge.profiles import Whole
from langmerge.scale.settings import Strict

#: The schema's version; a row says with which it was written.
VERSION = 2
Role = Literal["base", "ct", "sft", "ct_then_sft", "merge"]
#: Metrics of a task; `acc_norm` compares options by likelihood per character.
ACCURACIES = ("acc", "acc_norm")
_KEY = (
    "language", "model", "role", "method", "setting", "ct_tokens", "seed", "task", "metric",
    "triple", "dtype", "limit",
)  # fmt: skip


class Row(Strict):
    """One number about one model. Null is what nobody stated, or what there is none of.

    language: FLORES code. model: the base, with its revision if pinned. triple: of released
    checkpoints, which; repositories: the commit of each, and of the data set. role: what the
    evaluated model is; method, setting, variant: of a merge, else empty; params: its recipe's
    parameters, infinity as "inf". ct_tokens, sft_tokens: what it was trained on (0: not at all).
    ct_data, sft_data: of what. seed: of the data's order. task: lm-eval's name, or ``diagnosis``
    for what a merge discards. value: accuracy from 0 to 1, or a share. stderr: items of one text
    count together. others: the mean by lm-eval's other metrics. n: items, or parameters. chance: of
    guessing. limit: items that a task was cut to. key: a model has it in all its rows. weights:
    hash of the evaluated weights. merge_dtype, dtype: what a merge is stored and a model evaluated
    in; device: on what; seconds, tokens: what that took. provenance: commit, versions, time.
    """

    schema_: Literal[2] = Field(alias="schema")
    language: str
    model: str
    triple: str = ""
    repositories: dict[str, str] = Field(default_factory=dict)
    role: Role
    method: str = ""
    setting: str = ""
    variant: str = ""
    params: dict[str, object] = Field(default_factory=dict)
    ct_tokens: Whole | None
    sft_tokens: Whole | None
    ct_data: str = ""
    sft_data: str = ""
    seed: Whole | None
    task: str
    metric: Literal["acc", "acc_norm", "sft_outvoted", "sft_outvoted_l2", "norm_ratio", "cosine"]
    value: float
    stderr: float | None = Field(default=None, ge=0)
    others: dict[str, float] = Field(default_factory=dict)
    n: Whole = Field(gt=0)
    chance: float | None = Field(default=None, ge=0, le=1)
    limit: Whole | None = None
    key: str = ""
    weights: str = ""
    merge_dtype: str | None = None
    dtype: str = ""
    device: str = ""
    seconds: float | None = Field(default=None, ge=0)
    tokens: Whole | None = None
    provenance: dict[str, object]

    @field_validator("params")
    @classmethod
    def _finite(cls, given: dict[str, object]) -> dict[str, object]:
        """JSON has no infinity."""
        return {name: "inf" if value == math.inf else value for name, value in given.items()}

    @model_validator(mode="after")
    def _makes_sense(self) -> Row:
        if not math.isfinite(self.value):
            raise ValueError(f"value: {self.value} is no number")
        low = -1.0 if self.metric == "cosine" else 0.0
        if self.value < low or (self.metric != "norm_ratio" and self.value > 1):
            raise ValueError(f"value: {self.value} is no {self.metric}")
        if (self.role == "merge") != bool(self.method):
            raise ValueError(f"method: {self.method!r} does not go with the role {self.role}")
        trained = {"ct": self.ct_tokens, "sft": self.sft_tokens}
        for part in self.parts():
            if trained[part] == 0 or (trained[part] is None and part not in self.repositories):
                raise ValueError(f"{part}_tokens: {trained[part]}, for the role {self.role}")
        if self.metric in ACCURACIES:
            self._check_accuracy()
        return self

    def _check_accuracy(self) -> None:
        if self.chance is None or not self.weights:
            raise ValueError("an accuracy has a chance and the hash of its weights")
        hits = self.value * self.n
        if abs(hits - round(hits)) > 1e-6 * self.n:
            raise ValueError(f"value: {self.value} of {self.n} items is {hits:.3f} items")

    @property
    def slack(self) -> float | None:
        """The slack of the election: 0 for plain TIES, None where there is no election."""
        return election_slack(self.method, self.params)

    def parts(self) -> tuple[str, ...]:
        """Which trainings the model has had."""
        return {"base": (), "ct": ("ct",), "sft": ("sft",)}.get(self.role, ("ct", "sft"))

    def identity(self) -> tuple[object, ...]:
        """What tells a row from others."""
        where = tuple(sorted(self.repositories.items()))
        return (*(getattr(self, name) for name in _KEY), where)

    def line(self) -> str:
        """The row as a line of its file."""
        found = self.model_dump(mode="json", by_alias=True)
        return json.dumps(found, ensure_ascii=False, allow_nan=False) + "\n"


#: The names of a row's values, as a file has them.
FIELDS = tuple(field.alias or name for name, field in Row.model_fields.items())


def election_slack(method: str, params: Mapping[str, Any]) -> float | None:
    """The slack of a merge's election: 0 for plain TIES, None where there is no election."""
    if method == "ties":
        return 0.0
    value = params.get("slack")
    return None if value is None else float(value)


def append(path: Path, rows: Iterable[Row]) -> None:
    """Add rows to a file, all on the disk before this returns; half a line of a kill goes first."""
    append_lines(path, "".join(row.line() for row in rows))


def made(told: Mapping[str, Any]) -> Row:
    """A row from its values; raises LangmergeError naming one that is wrong."""
    try:
        return Row.model_validate(told)
    except ValidationError as error:
        raise LangmergeError(f"a row of results: {readable(error).removeprefix(': ')}") from None


def read(path: Path) -> list[Row]:
    """A file's rows; LangmergeError naming the line and the key of one that is none."""
    if not path.is_file():
        raise LangmergeError(f"{path}: there is no such file.")
    return _parsed(path, path.read_text(encoding="utf-8"))


def frame(path: Path) -> pd.DataFrame:
    """The whole rows of a file that a run may be writing, with `slack`; none where it is absent.

    Raises LangmergeError as `read`.
    """
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    rows = _parsed(path, text[: text.rfind("\n") + 1])
    columns = [*FIELDS, "slack"]
    told = [row.model_dump(by_alias=True) | {"slack": row.slack} for row in rows]
    return pd.DataFrame(told, columns=columns).astype({"slack": float, "stderr": float})


def _parsed(path: Path, text: str) -> list[Row]:
    rows = []
    # Not splitlines: a text may hold other ends of lines than a file of JSON lines.
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), start=1):
        try:
            rows.append(Row.model_validate(json.loads(line)))
        except json.JSONDecodeError as error:
            raise LangmergeError(f"{path}, line {number}: it is not JSON ({error}).") from None
        except ValidationError as error:
            told = readable(error).removeprefix(": ")
            raise LangmergeError(
                f"{path}, line {number}: {told}. It is no row of schema {VERSION}."
            ) from None
    return rows
