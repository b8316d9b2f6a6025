"""A merge to be done on disk: what the streaming engine executes, and what a recipe becomes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from langmerge.dtypes import Dtype
from langmerge.merging.tensors import Settings


@dataclasses.dataclass(frozen=True)
class Job:
    """One merge of checkpoints that lie on this disk.

    method: a row of `METHODS`. base: None for methods without one. models: in the recipe's
    order, CT before SFT where a method tells them apart. settings: those of each tensor by its
    name. out_dtype: None keeps the storage dtype. recipe_text: goes into the output as it is.
    names: how the recipe calls base (where there is one) and models: paths or hub ids.
    tokenizer: the folder whose tokenizer the output gets; None for that of the base, or of the
    first model.
    """

    method: str
    base: Path | None
    models: tuple[Path, ...]
    settings: Callable[[str], Settings]
    out_dtype: Dtype | None
    recipe_text: str
    names: tuple[str, ...] = ()
    tokenizer: Path | None = None
