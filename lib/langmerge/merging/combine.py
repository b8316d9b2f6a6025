"""Merge what agrees with the elected sign: the third step of TIES (arXiv 2306.01708).

Functions of one tensor, pure, fp32. Which parameters agree is found with products and clamps
instead of boolean masks, which are slow on a CPU.
"""

from __future__ import annotations

import torch

from langmerge.errors import LangmergeError, nearest

COMBINES = ("mean", "sum")


def agreeing(tau: torch.Tensor, sign: torch.Tensor) -> torch.Tensor:
    """The entries of tau that have the elected sign, unchanged; the others zero."""
    return torch.mul(tau, sign).clamp_(min=0).mul_(sign)


def weighted_sum(
    kept_ct: torch.Tensor, kept_sft: torch.Tensor, w_ct: float = 1.0, w_sft: float = 1.0
) -> torch.Tensor:
    """The sum of what agrees, weighted here where the votes were not."""
    return weigh(kept_ct, w_ct) + weigh(kept_sft, w_sft)


def weight_present(
    kept_ct: torch.Tensor, kept_sft: torch.Tensor, w_ct: float = 1.0, w_sft: float = 1.0
) -> torch.Tensor:
    """What a mean divides by: the weights of those that agree, or with weights of 1 their count.

    1 where nobody agrees (0 / 1 instead of 0 / 0) and where weights of both signs cancel.
    """
    present = torch.sign(kept_ct).abs_().mul_(w_ct)
    present.add_(torch.sign(kept_sft).abs_(), alpha=w_sft)
    if min(w_ct, w_sft) < 0:
        return present.add_(present == 0)
    # Without negative weights a clamp does the same in a tenth of the time. The weights as
    # fp32 sees them: one of 1e-50 is 0 there.
    positive = torch.tensor([w for w in (w_ct, w_sft) if w > 0], dtype=torch.float32)
    return present.clamp_(min=min((w for w in positive.tolist() if w > 0), default=1.0))


def weigh(tau: torch.Tensor, weight: float) -> torch.Tensor:
    """``weight * tau``; tau itself for a weight of 1."""
    return tau if weight == 1 else tau * weight


def check_combine(combine: str) -> None:
    """Raise LangmergeError unless the name is "mean" or "sum"."""
    if combine not in COMBINES:
        raise LangmergeError(f"unknown combine {combine!r}: {nearest(str(combine), COMBINES)}")
