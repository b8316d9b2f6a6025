"""Cells: one model to evaluate each, and what is computed of it.

A cell is an expert or a merge of a CT and an SFT expert. Its identity is the hash of the
weights that go in and of the settings, never a name: two names for one model are computed
once.
"""

from __future__ import annotations

import inspect
import math
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

import torch

from langmerge import base as base_module
from langmerge import merging
from langmerge.base import Base
from langmerge.errors import LangmergeError
from langmerge.evaluate import Evaluator, Suite
from langmerge.experts import Expert, fingerprint
from langmerge.model import StateDict
from langmerge.store import Store

Election = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def source_of(election: Election) -> str:
    """A reader's election as text, which stands for it in the store's keys.

    The text is its source, the values of the variables that it takes from around it (a knob
    in a parameter cell) and the sources of helpers beside it. It is read where the function
    was written: a worker process has no source for it.
    Raises LangmergeError where there is none (a function made by exec, or a builtin).
    """
    return "\n".join(_sources(election, seen=set()))


def _sources(function: Callable, seen: set[Callable]) -> Iterator[str]:
    seen.add(function)
    try:
        yield textwrap.dedent(inspect.getsource(function))
        outside = inspect.getclosurevars(function)
    except (OSError, TypeError):
        raise LangmergeError(
            f"the election {function!r} has no source to be known by: write it as a `def` in a "
            "cell or a file"
        ) from None
    yield f"defaults: {function.__defaults__!r} {function.__kwdefaults__!r}"
    for name, value in sorted({**outside.globals, **outside.nonlocals}.items()):
        if isinstance(value, torch.Tensor):
            yield f"{name} = {value.tolist()!r}"
        elif isinstance(value, bool | int | float | str | tuple | list | dict):
            yield f"{name} = {value!r}"
        elif _is_helper(value, function):
            if value not in seen:
                yield from _sources(value, seen)
        elif not inspect.ismodule(value) and not callable(value):
            raise LangmergeError(
                f"the election uses {name}, a {type(value).__name__}, whose value cannot be told "
                "apart from another: use a number, a list or a tensor"
            )


def _is_helper(value: object, function: Callable) -> bool:
    """Whether a value is a function written beside this one."""
    return inspect.isfunction(value) and value.__module__ == function.__module__


@dataclass(frozen=True)
class Cell:
    """One model to evaluate: an expert, or a merge of the CT and the SFT expert."""

    language: str
    seed: int
    ct_tokens: int
    method: str
    setting: str
    expert: Expert | None = None
    merge: str | None = None
    params: dict[str, object] = field(default_factory=dict)
    ct: Expert | None = None
    sft: Expert | None = None
    election: Election | None = None
    election_source: str = ""

    def identity(self) -> dict[str, object]:
        """What the weights depend on, for the store's key."""
        if self.expert is not None:
            return {"expert": self.expert.sha256}
        if self.merge is None:
            return {"expert": "base"}
        identity = {"merge": self.merge, "params": plain(self.params), "sft": self.sft.sha256}
        if self.ct is not None:
            identity["ct"] = self.ct.sha256
        if self.election is not None:
            identity["election"] = self.election_source
        return identity

    def weights(self, base: Base) -> StateDict:
        """The model's weights, merged in memory where it is a merge."""
        if self.expert is not None:
            return self.expert.weights()
        if self.merge is None:
            return base.weights
        params = dict(self.params)
        if self.election is not None:
            params["election"] = self.election
        ct = self.ct.weights() if self.ct else base.weights
        return merging.merge(self.merge, base.weights, ct, self.sft.weights(), **params)


def evaluation_spec(cell: Cell, asked: Suite, base: Base) -> dict[str, object]:
    """What an evaluation depends on."""
    return {
        "base": base.hash,
        "suite": asdict(asked),
        "text": fingerprint(asked.language),
        "weights": cell.identity(),
    }


@cache
def _evaluator(asked: Suite, base_hash: str) -> Evaluator:
    # Known by the base too: another base in the same process has another tokenizer.
    base = base_module.load()
    return Evaluator(base.architecture, base.tokenizer, asked)


def evaluate_cell(root: Path, cell: Cell, asked: Suite) -> Path:
    """The folder with a cell's ``scores.json`` and ``items.parquet``, evaluated if missing."""
    base = base_module.load()

    def compute(folder: Path) -> None:
        found = _evaluator(asked, base.hash)(cell.weights(base))
        text = found.scores.to_json(orient="records", double_precision=15)
        (folder / "scores.json").write_text(text)
        found.items.to_parquet(folder / "items.parquet")

    return Store(root).get("evaluation", evaluation_spec(cell, asked, base), compute)


def diagnostics_spec(cell: Cell, base: Base) -> dict[str, object]:
    """What a merge's diagnostics depend on."""
    return {"base": base.hash, "weights": cell.identity()}


def diagnose_cell(root: Path, cell: Cell) -> Path:
    """The folder with ``diagnostics.json`` of a TIES cell: what its merge discards."""
    base = base_module.load()

    def compute(folder: Path) -> None:
        frame = merging.diagnose(base.weights, cell.ct.weights(), cell.sft.weights(), **cell.params)
        text = frame.to_json(orient="records", double_precision=15)
        (folder / "diagnostics.json").write_text(text)

    return Store(root).get("diagnostics", diagnostics_spec(cell, base), compute)


def plain(params: dict[str, object]) -> dict[str, object]:
    """Parameters as JSON can hold them: infinity as a word."""
    return {
        name: "inf" if isinstance(value, float) and math.isinf(value) else value
        for name, value in params.items()
    }
