"""What a merging method sees: one tensor of every model, and its settings.

Every method is a pure function of `Tensors` and `Settings`, so that the same function merges
state dicts in memory and checkpoints that do not fit into it. A method that has to know the
whole model first (a threshold, a norm) has a *survey*: passes over all tensors whose findings
are added to every tensor's settings.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

from langmerge.errors import LangmergeError
from langmerge.later import torch


class Tensors(NamedTuple):
    """One tensor of every model, in fp32 and of one shape.

    base: None for methods without a base.
    models: CT and SFT, in this order, where a method tells them apart; else any number.
    deltas: the task vectors where the caller has them already.
    """

    name: str
    base: torch.Tensor | None
    models: tuple[torch.Tensor, ...]
    deltas: tuple[torch.Tensor, ...] | None = None

    def task_vectors(self) -> tuple[torch.Tensor, ...]:
        """``tau = theta - theta_base`` of every model; LangmergeError where there is no base."""
        if self.deltas is not None:
            return self.deltas
        if self.base is None:
            raise LangmergeError(
                f"{self.name}: a task vector is the difference to a base, and no base is given."
            )
        return tuple(theta - self.base for theta in self.models)


#: The settings of one tensor: shared ones by name (``lambda_``, ``combine``, ``seed``, ...), one
#: value for each model in tuples (``weight``, ``density``, ``epsilon``, ``gamma``), and ``layers``.
Settings = Mapping[str, object]
#: A method: the merged tensor in fp32. Pure, and it leaves its arguments as they are.
TensorFunction: TypeAlias = "Callable[[Tensors, Settings], torch.Tensor]"
#: All tensors with their settings, once more at each call.
Passes = Callable[[], Iterable[tuple[Tensors, Settings]]]
#: What a method must know of the whole model before the first merge.
Survey = Callable[[Passes], Mapping[str, object]]

_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.(\d+)\.")


def layer_of(name: str) -> int | None:
    """The layer that a parameter belongs to, from its name; None outside the layers."""
    found = _LAYER.search(name)
    return int(found[1]) if found else None


def count_layers(names: Iterable[str]) -> int:
    """How many layers the parameters' names speak of (setting ``layers`` of every method)."""
    return 1 + max((layer for name in names if (layer := layer_of(name)) is not None), default=-1)


def surveyed(survey: Survey | None, passes: Passes) -> Iterator[tuple[Tensors, Settings]]:
    """All tensors with their settings, a survey's findings added."""
    found = survey(passes) if survey else {}
    for tensors, settings in passes():
        yield tensors, {**settings, **found}


def generator(*parts: object) -> torch.Generator:
    """Random numbers that depend on these parts alone, e.g. (seed, model, tensor name).

    So a draw depends neither on the order of tensors nor on threads nor on other models.
    """
    return torch.Generator().manual_seed(seed_from(*parts))


def seed_from(*parts: object) -> int:
    """A seed from everything that a random draw depends on."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
