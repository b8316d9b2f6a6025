"""Rows that readers contribute: their schema, and the check before they are taken in.

A file is JSON lines, one row a line, in ``data/results/contributed/``. `langmerge hub-small` writes
such a file; so can anyone by hand.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from langmerge import languages, paths
from langmerge.errors import LangmergeError, readable
from langmerge.files import append_lines
from langmerge.profiles import Whole
from langmerge.scale.settings import Strict

#: The schema's version; a row says with which it was written.
VERSION = 1
Role = Literal["base", "ct", "sft", "ct_then_sft", "merge"]
_KEY = ("language", "model", "role", "method", "setting", "ct_tokens", "seed", "task", "metric")


class Row(Strict):
    """One number about one model.

    language: FLORES code. model: the base, with its revision if pinned. role: what the evaluated
    model is; method, setting: of a merge, else empty; params: its recipe's parameters.
    ct_tokens, sft_tokens: what it was trained on (0: not at all). ct_data, sft_data: of what.
    task: lm-eval's name, or ``diagnosis`` for what a merge discards. value: accuracy from 0 to 1,
    or a share. stderr: null where there is none. n: items, or parameters. chance: of guessing.
    weights: SHA-256 of the evaluated weights. dtype: what it computed in. limit: items that a task
    was cut to, else null. provenance: commit, versions, time; device: what it ran on.
    """

    schema_: Literal[1] = Field(alias="schema")
    language: str
    model: str
    role: Role
    method: str = ""
    setting: str = ""
    params: dict[str, object] = Field(default_factory=dict)
    ct_tokens: Whole
    sft_tokens: Whole
    ct_data: str = ""
    sft_data: str = ""
    seed: Whole
    task: str
    metric: Literal["acc", "sft_outvoted", "sft_outvoted_l2", "norm_ratio", "cosine"]
    value: float
    stderr: float | None = Field(default=None, ge=0)
    n: Whole = Field(gt=0)
    chance: float | None = Field(default=None, ge=0, le=1)
    weights: str = ""
    dtype: str = ""
    device: str = ""
    limit: Whole | None = None
    provenance: dict[str, object]

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
            if not trained[part]:
                raise ValueError(f"{part}_tokens: 0, for a model of the role {self.role}")
        if self.metric == "acc":
            self._check_accuracy()
        return self

    def _check_accuracy(self) -> None:
        if self.stderr is None or self.chance is None or not self.weights:
            raise ValueError("an accuracy has a stderr, a chance and the hash of its weights")
        hits = self.value * self.n
        if abs(hits - round(hits)) > 1e-6 * self.n:
            raise ValueError(f"value: {self.value} of {self.n} items is {hits:.3f} items")

    def parts(self) -> tuple[str, ...]:
        """Which trainings the model has had."""
        return {"base": (), "ct": ("ct",), "sft": ("sft",)}.get(self.role, ("ct", "sft"))

    def key(self) -> tuple[object, ...]:
        """What tells a row from others."""
        return tuple(getattr(self, name) for name in _KEY)

    def line(self) -> str:
        """The row as a line of its file."""
        found = self.model_dump(mode="json", by_alias=True)
        return json.dumps(found, ensure_ascii=False, allow_nan=False) + "\n"


def append(path: Path, rows: Iterable[Row]) -> None:
    """Add rows to a file, all on the disk before this returns; half a line of a kill goes first."""
    append_lines(path, "".join(row.line() for row in rows))


def read(path: Path) -> list[Row]:
    """A file's rows; LangmergeError naming the line and the key of one that is none."""
    if not path.is_file():
        raise LangmergeError(f"{path}: there is no such file.")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append(Row.model_validate(json.loads(line)))
        except json.JSONDecodeError as error:
            raise LangmergeError(f"{path}, line {number}: it is not JSON ({error}).") from None
        except ValidationError as error:
            text = readable(error).removeprefix(": ")
            raise LangmergeError(f"{path}, line {number}: {text}") from None
    return rows


def check(path: Path) -> list[Row]:
    """A contributed file's rows, checked one by one and together.

    Raises LangmergeError with all that is wrong: rows twice, languages that are not known, a
    merge or CT-then-SFT without the base and its parts beside it (a number alone says nothing),
    and one task asked with different numbers of items.
    """
    rows = read(path)
    problems = [] if rows else ["it has no row"]
    for key, times in Counter(row.key() for row in rows).items():
        if times > 1:
            problems.append(f"{times} rows of {' · '.join(str(part) for part in key if part)}")
    problems += _languages(rows)
    problems += _missing_parts(rows)
    sizes: dict[tuple[str, str], set[int]] = {}
    for row in rows:
        if row.metric == "acc":
            sizes.setdefault((row.language, row.task), set()).add(row.n)
    for (_, task), found in sizes.items():
        if len(found) > 1:
            counted = ", ".join(map(str, sorted(found)))
            problems.append(f"{task}: asked with {counted} items; compare like with like")
    if problems:
        listed = "\n  ".join(problems)
        raise LangmergeError(f"{path} cannot be taken in yet:\n  {listed}")
    return rows


def table() -> tuple[list[str], list[tuple[object, ...]]]:
    """Titles and rows of all contributed accuracies; LangmergeError for a file out of order."""
    titles = ["file", "language", "model", "CT tokens", "what", "task", "accuracy", "stderr", "n"]
    lines = []
    for path in sorted(folder().glob("*.jsonl")):
        for row in check(path):
            if row.metric == "acc":
                what = f"{row.method} ({row.setting})" if row.method else row.role
                found = (f"{row.value:.3f}", f"{row.stderr:.3f}", row.n)
                about = (path.stem, row.language, row.model, f"{row.ct_tokens:,}", what, row.task)
                lines.append((*about, *found))
    return titles, lines


def folder() -> Path:
    """Where contributed files are kept."""
    return paths.data() / "results" / "contributed"


def _languages(rows: list[Row]) -> list[str]:
    problems = []
    for code in sorted({row.language for row in rows}):
        try:
            languages.load(code)
        except LangmergeError as error:
            problems.append(str(error))
    return problems


def _missing_parts(rows: list[Row]) -> list[str]:
    def key(row: Row, role: str, ct_tokens: int) -> tuple[object, ...]:
        return (row.language, row.model, row.seed, row.task, role, ct_tokens)

    asked = [row for row in rows if row.metric == "acc"]
    there = {key(row, row.role, row.ct_tokens) for row in asked}
    problems = set()
    for row in asked:
        if row.role not in ("merge", "ct_then_sft"):
            continue
        for role, tokens in (("base", 0), ("ct", row.ct_tokens), ("sft", 0)):
            if key(row, role, tokens) not in there:
                what = f"{role} at {tokens:,} CT tokens" if role == "ct" else role
                problems.add(
                    f"{row.task}: no row of the {what}, for the {row.role} to stand beside"
                )
    return sorted(problems)
