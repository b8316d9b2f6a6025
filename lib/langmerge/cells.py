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
from functools import cache, lru_cache
from pathlib import Path

import torch

from langmerge import base as base_module
from langmerge import merging
from langmerge.base import Base
from langmerge.errors import LangmergeError
from langmerge.evaluate import Evaluator, Suite
from langmerge.experts import Expert, fingerprint
from langmerge.merging.sweep import Sweep
from langmerge.merging.task_vectors import add, scale, task_vector
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

    base: Path  # the folder of the base that everything started from
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
        params = plain(merging.method_named(self.merge).parameters(self.params))
        identity = {"merge": self.merge, "params": params, "sft": self.sft.sha256}
        if self.ct is not None:
            identity["ct"] = self.ct.sha256
        if self.election is not None:
            identity["election"] = self.election_source
        return identity

    def load_base(self) -> Base:
        """The base that everything started from."""
        return base_module.load(self.base)

    def weights(self) -> StateDict:
        """The model's weights, merged in memory where it is a merge."""
        if self.expert is not None:
            return self.expert.weights()
        if self.merge is None:
            return self.load_base().weights
        params = dict(self.params)
        if self.election is not None:
            params["election"] = self.election
        return _sweep(self.base, self.ct, self.sft).merge(self.merge, **params)


@lru_cache(maxsize=1)
def _sweep(base: Path, ct: Expert | None, sft: Expert) -> Sweep:
    """What all merges of two experts share; without a CT expert the base takes its place.

    A study evaluates the merges of a pair one after the other.
    """
    start = base_module.load(base).weights
    return Sweep(start, ct.weights() if ct else start, sft.weights())


def evaluation_spec(cell: Cell, asked: Suite) -> dict[str, object]:
    """What an evaluation depends on."""
    return {
        "base": cell.load_base().hash,
        "suite": asdict(asked),
        "text": fingerprint(asked.language),
        "weights": cell.identity(),
    }


@cache
def _evaluator(asked: Suite, folder: Path) -> Evaluator:
    base = base_module.load(folder)
    return Evaluator(base.architecture, base.tokenizer, asked)


def evaluate_cell(root: Path, cell: Cell, asked: Suite) -> Path:
    """The folder with a cell's ``scores.json`` and ``items.parquet``, evaluated if missing."""

    def compute(folder: Path) -> None:
        found = _evaluator(asked, cell.base)(cell.weights())
        text = found.scores.to_json(orient="records", double_precision=15)
        (folder / "scores.json").write_text(text)
        found.items.to_parquet(folder / "items.parquet")

    return Store(root).get("evaluation", evaluation_spec(cell, asked), compute)


def diagnostics_spec(cell: Cell) -> dict[str, object]:
    """What a merge's diagnostics depend on."""
    return {"base": cell.load_base().hash, "weights": cell.identity()}


def diagnose_cell(root: Path, cell: Cell) -> Path:
    """The folder with ``diagnostics.json`` of a TIES cell: what its merge discards."""

    def compute(folder: Path) -> None:
        base, params = cell.load_base().weights, dict(cell.params)
        ct = cell.ct.weights()
        if "scale_ct" in params:
            ct = add(base, scale(task_vector(ct, base), params.pop("scale_ct")))
        frame = merging.diagnose(base, ct, cell.sft.weights(), **params)
        text = frame.to_json(orient="records", double_precision=15)
        (folder / "diagnostics.json").write_text(text)

    return Store(root).get("diagnostics", diagnostics_spec(cell), compute)


def plain(params: dict[str, object]) -> dict[str, object]:
    """Parameters as JSON can hold them: infinity as a word."""
    return {
        name: "inf" if isinstance(value, float) and math.isinf(value) else value
        for name, value in params.items()
    }
