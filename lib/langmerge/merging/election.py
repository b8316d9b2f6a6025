"""Elect: one sign for every parameter, from the trimmed task vectors of one tensor.

Second step of TIES (Yadav et al., NeurIPS 2023, arXiv 2306.01708) and the place of the slack
variable. An election is a pure function of tensors of one shape, one of each model (a CT and an
SFT vector), trimmed and (where the variant weighs before it votes) weighted; it returns a tensor
of signs in {-1, 0, +1}. What agrees with the sign is merged, the rest is dropped; 0 elects
nobody, and all are dropped.

"TIES" is several functions in the wild; `VARIANTS` names them.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from langmerge.errors import LangmergeError, nearest
from langmerge.later import torch
from langmerge.merging.task_vectors import tensor_rms

Election: TypeAlias = "Callable[..., torch.Tensor]"

SLACK_KINDS = ("multiplicative", "additive")


@dataclass(frozen=True)
class Variant:
    """One of the functions that are called TIES: a row of `VARIANTS`."""

    name: str
    trim: str  # "per-tensor" | "whole model"
    at_least: int  # entries that trim keeps of a tensor whatever the density
    weights: str  # "before" the election | "after" it | "none"
    vote: str  # "sum" | "count"
    tie: str  # "plus": a vote of zero counts as + | "majority": it takes the model's sign
    source: str
    summary: str

    def describe(self, combine: str) -> str:
        """The variant in the words that stand beside every result."""
        vote = {"before": "weighted", "after": "unweighted", "none": "unweighted"}[self.weights]
        return f"{self.trim}, {vote}{' count' if self.vote == 'count' else ''}, {combine}"


VARIANTS: dict[str, Variant] = {
    row.name: row
    for row in (
        Variant(
            name="weighted",
            trim="per-tensor",
            at_least=1,
            weights="before",
            vote="sum",
            tie="plus",
            source="mergekit `ties`; combine='mean' is normalize: true, 'sum' normalize: false",
            summary="weights are applied before the election; the mean is weighted",
        ),
        Variant(
            name="weighted_whole",
            trim="whole model",
            at_least=0,
            weights="before",
            vote="sum",
            tie="plus",
            source="ours: `weighted` with the trim of the TIES authors' code",
            summary="as weighted, with one threshold for the whole model",
        ),
        Variant(
            name="reference",
            trim="whole model",
            at_least=0,
            weights="none",
            vote="sum",
            tie="majority",
            source="the TIES authors' code, FusionBench and MergeLM ('sum' in FusionBench)",
            summary="one threshold for the whole model; the mean of what agrees, times lambda",
        ),
        Variant(
            name="peft",
            trim="per-tensor",
            at_least=0,
            weights="after",
            vote="sum",
            tie="plus",
            source="PEFT `ties`, majority_sign_method='total'",
            summary="unweighted election; the weighted sum of what agrees over its count",
        ),
        Variant(
            name="peft_count",
            trim="per-tensor",
            at_least=0,
            weights="after",
            vote="count",
            tie="plus",
            source="PEFT `ties`, majority_sign_method='frequency'",
            summary="as peft, with one vote a model, whatever the magnitude",
        ),
    )
}


def variant_named(name: str) -> Variant:
    """The variant of that name; raises LangmergeError naming the nearest one."""
    if name not in VARIANTS:
        raise LangmergeError(f"unknown TIES variant {name!r}: {nearest(str(name), VARIANTS)}")
    return VARIANTS[name]


def by_sum(*taus: torch.Tensor) -> torch.Tensor:
    """TIES' election: the sign of the sum, so the larger magnitude wins; zero counts as +."""
    return zero_is_plus(lean(*taus))


def by_count(*taus: torch.Tensor) -> torch.Tensor:
    """One vote a model, whatever the magnitude; a tie counts as +."""
    return by_sum(*(tau.sign() for tau in taus))


def by_slack(
    tau_ct: torch.Tensor, tau_sft: torch.Tensor, slack: float, slack_kind: str = "multiplicative"
) -> torch.Tensor:
    """The election by sum, relaxed in favour of SFT by a slack of our construction.

    Where both vote and disagree, SFT is elected if ``(1 + slack) * |b| > |a|`` (multiplicative)
    or ``|b| + slack * rms(b) > |a|`` (additive; rms over the non-zero entries of b), where a is
    the CT vote and b the SFT vote; equality counts as +. Slack 0 is `by_sum`, infinite slack
    never out-votes SFT. Raises LangmergeError for a negative slack or NaN.
    """
    return zero_is_plus(lean_with_slack(tau_ct, tau_sft, slack, slack_kind))


def lean(*votes: torch.Tensor) -> torch.Tensor:
    """The sign of the sum of the votes; 0 where they cancel or nobody votes."""
    if len(votes) == 1:
        return votes[0].sign()
    total = torch.add(votes[0], votes[1])
    for vote in votes[2:]:
        total.add_(vote)
    return total.sign_()


def lean_with_slack(
    vote_ct: torch.Tensor, vote_sft: torch.Tensor, slack: float, slack_kind: str
) -> torch.Tensor:
    """As `lean`, with the SFT vote raised by the slack; 0 at equality, before any tie rule.

    Where the votes agree, or only one is cast, raising the SFT vote changes no sign, so that
    the two inequalities of `by_slack` are the sign of one sum.
    """
    check_slack(slack, slack_kind)
    if slack_kind == "multiplicative":
        factor = 1 + float(slack)
        if factor > torch.finfo(torch.float32).max:
            return lean_to_sft(vote_ct, vote_sft)
        return lean(vote_ct, vote_sft * factor)
    bonus = float(slack) * tensor_rms(vote_sft) if math.isfinite(slack) else math.inf
    if bonus > torch.finfo(torch.float32).max:
        return lean_to_sft(vote_ct, vote_sft)
    return lean(vote_ct, vote_sft + vote_sft.sign() * bonus)


def lean_to_sft(vote_ct: torch.Tensor, vote_sft: torch.Tensor) -> torch.Tensor:
    """Infinite slack: the sign of SFT wherever it votes, else the sign of CT.

    A case of its own because ``inf * 0`` at a trimmed entry would be NaN.
    """
    return vote_ct.sign().add_(vote_sft.sign(), alpha=2).clamp_(-1, 1)


def zero_is_plus(sign: torch.Tensor) -> torch.Tensor:
    """The tie rule of mergekit and PEFT: 0 becomes +1."""
    return (sign * 2).add_(1).clamp_(-1, 1)


def zero_is_majority(sign: torch.Tensor, majority: int) -> torch.Tensor:
    """The tie rule of the reference code: 0 becomes the sign that most parameters have.

    Where the majority is 0 as well, the reference keeps negative entries, so 0 becomes -1.
    """
    return (sign * 2).add_(majority or -1).clamp_(-1, 1)


def check_slack(slack: float, slack_kind: str) -> None:
    """Raise LangmergeError unless slack is 0 or more (infinity included) and its kind known."""
    if slack_kind not in SLACK_KINDS:
        raise LangmergeError(f"slack_kind {slack_kind!r}: {nearest(str(slack_kind), SLACK_KINDS)}")
    if isinstance(slack, bool) or not isinstance(slack, numbers.Real) or not slack >= 0:
        raise LangmergeError(
            f"slack {slack!r}: has to be a number, 0 or more. 0 is plain TIES, 1 doubles the "
            "vote of SFT, float('inf') (.inf in YAML) never out-votes it."
        )


def checked(election: Election, *votes: torch.Tensor) -> torch.Tensor:
    """Call a reader's election and make sure that it returned signs.

    Returns fp32 signs; raises LangmergeError for anything but a tensor of the votes' shape with
    values -1, 0 and +1.
    """
    # Clones: an election that writes into its arguments must not change what is merged.
    sign = election(*(vote.clone() for vote in votes))
    name = getattr(election, "__name__", "election")
    if not isinstance(sign, torch.Tensor):
        raise LangmergeError(
            f"{name} returned a {type(sign).__name__}; an election returns a torch tensor of "
            "signs, e.g. torch.sign(tau_ct + tau_sft)."
        )
    if sign.shape != votes[0].shape:
        raise LangmergeError(
            f"{name} returned shape {tuple(sign.shape)} for tensors of shape "
            f"{tuple(votes[0].shape)}; an election gives one sign for each parameter."
        )
    if sign.dtype == torch.bool or sign.is_complex():
        raise LangmergeError(
            f"{name} returned {str(sign.dtype).removeprefix('torch.')} values; an election "
            "returns -1, 0 or +1. A mask of where SFT wins becomes signs by "
            "torch.where(mask, tau_sft.sign(), tau_ct.sign())."
        )
    sign = sign.to(votes[0].device, torch.float32)
    if not torch.equal(sign, sign.sign()):
        wrong = sign[sign != sign.sign()]
        raise LangmergeError(
            f"{name} returned {wrong[0].item():g} ({wrong.numel()} of {sign.numel()} values are "
            "no sign); an election returns only -1, 0 (neither is kept) or +1. Did you forget "
            "torch.sign(...)?"
        )
    return sign
