"""Merge what agrees with the elected sign: the third step of TIES (arXiv 2306.01708).

Functions of one tensor of each model, pure, fp32. Which parameters agree is found with products
and clamps instead of boolean masks, which are slow on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

from langmerge.errors import LangmergeError, nearest
from langmerge.later import torch

COMBINES = ("mean", "sum")


def agreeing(tau: torch.Tensor, sign: torch.Tensor) -> torch.Tensor:
    """The entries of tau that have the elected sign, unchanged; the others zero."""
    return torch.mul(tau, sign).clamp_(min=0).mul_(sign)


def weighted_sum(taus: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """The weighted sum of the models' vectors, in a tensor of its own."""
    first, *others = (weigh(tau, weight) for tau, weight in zip(taus, weights, strict=True))
    total = first.clone() if not others else first + others[0]
    for tau in others[1:]:
        total.add_(tau)
    return total


def weight_present(kept: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """What a mean divides by: the weights of those that agree, or with weights of 1 their count.

    1 where nobody agrees (0 / 1 instead of 0 / 0) and where weights of both signs cancel.
    """
    present = torch.sign(kept[0]).abs_().mul_(weights[0])
    for tau, weight in zip(kept[1:], weights[1:], strict=True):
        present.add_(torch.sign(tau).abs_(), alpha=weight)
    if min(weights) < 0:
        return present.add_(present == 0)
    # Without negative weights a clamp does the same in a tenth of the time. The weights as
    # fp32 sees them: one of 1e-50 is 0 there.
    positive = torch.tensor([w for w in weights if w > 0], dtype=torch.float32)
    return present.clamp_(min=min((w for w in positive.tolist() if w > 0), default=1.0))


def weigh(tau: torch.Tensor, weight: float) -> torch.Tensor:
    """``weight * tau``; tau itself for a weight of 1."""
    return tau if weight == 1 else tau * weight


def check_combine(combine: str) -> None:
    """Raise LangmergeError unless the name is "mean" or "sum"."""
    if combine not in COMBINES:
        raise LangmergeError(f"unknown combine {combine!r}: {nearest(str(combine), COMBINES)}")
