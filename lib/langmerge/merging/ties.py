"""TIES in three steps: trim, elect a sign, merge what agrees (NeurIPS 2023, arXiv 2306.01708).

In the paper's symbols, for the two task vectors tau_ct and tau_sft:

1. trim:  tau' = the share `density` of tau of largest magnitude
2. elect: gamma = sign(w_ct * tau'_ct + w_sft * tau'_sft), per parameter
3. merge: tau = the mean (or sum) of those tau' whose sign is gamma

and theta = theta_base + lambda * tau. The slack variable (TIES-SV) relaxes step 2 in favour of
SFT; it is a slack of our construction, see `election.by_slack`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from langmerge.errors import LangmergeError
from langmerge.merging import combine as combining
from langmerge.merging import election as electing
from langmerge.merging.election import Election, Variant
from langmerge.merging.sparsify import check_density, model_threshold, trim, trim_below
from langmerge.merging.task_vectors import StateDict, TaskVectors, check_numbers


@dataclass(frozen=True)
class Ties:
    """The settings of one TIES merge, checked when they are made (LangmergeError)."""

    density_ct: float = 0.7
    density_sft: float = 0.7
    w_ct: float = 1.0
    w_sft: float = 1.0
    lambda_: float = 1.0
    combine: str = "mean"
    variant: str = "weighted"
    slack: float | None = None
    slack_kind: str = "multiplicative"
    election: Election | None = None

    def __post_init__(self) -> None:
        check_density(self.density_ct)
        check_density(self.density_sft)
        check_numbers(w_ct=self.w_ct, w_sft=self.w_sft, lambda_=self.lambda_)
        combining.check_combine(self.combine)
        if self.slack is not None:
            electing.check_slack(self.slack, self.slack_kind)
        if self.election is not None and not callable(self.election):
            raise LangmergeError(
                f"election {self.election!r}: give a function of (tau_ct, tau_sft) that returns "
                "a tensor of signs."
            )
        if self.row.weights == "none" and (self.w_ct, self.w_sft) != (1, 1):
            raise LangmergeError(
                f"variant {self.variant!r} knows no weights, but w_ct is {self.w_ct} and w_sft "
                f"{self.w_sft}: leave them at 1, or use variant 'weighted' or 'peft'."
            )

    @property
    def row(self) -> Variant:
        """The variant as a row of the table."""
        return electing.variant_named(self.variant)


class Elected(NamedTuple):
    """One tensor after its election: trimmed (and weighted) vectors and the elected sign."""

    name: str
    vote_ct: torch.Tensor
    vote_sft: torch.Tensor
    sign: torch.Tensor


def merge(vectors: TaskVectors, settings: Ties) -> StateDict:
    """theta_base plus lambda times the merged task vector, in fp32."""
    return {
        elected.name: vectors.theta_base[elected.name].add(merge_tensor(elected, settings))
        for elected in elect(vectors, settings)
    }


def merge_tensor(elected: Elected, settings: Ties) -> torch.Tensor:
    """Step 3 for one tensor: lambda times the mean or sum of what agrees with the sign."""
    kept_ct = combining.agreeing(elected.vote_ct, elected.sign)
    kept_sft = combining.agreeing(elected.vote_sft, elected.sign)
    weights, ones = (settings.w_ct, settings.w_sft), (1.0, 1.0)
    weighed = settings.row.weights
    tau = combining.weighted_sum(kept_ct, kept_sft, *(weights if weighed == "after" else ones))
    if settings.combine == "mean":
        by = weights if weighed == "before" else ones
        tau.div_(combining.weight_present(kept_ct, kept_sft, *by))
    return tau if settings.lambda_ == 1 else tau.mul_(settings.lambda_)


def elect(vectors: TaskVectors, settings: Ties) -> Iterator[Elected]:
    """Steps 1 and 2: trimmed vectors and elected signs, tensor by tensor."""
    if settings.election is not None:
        for name, vote_ct, vote_sft in trimmed(vectors, settings):
            sign = electing.checked(settings.election, vote_ct, vote_sft)
            yield Elected(name, vote_ct, vote_sft, sign)
    elif settings.row.tie == "plus":
        for name, vote_ct, vote_sft in trimmed(vectors, settings):
            sign = electing.zero_is_plus(_lean(vote_ct, vote_sft, settings))
            yield Elected(name, vote_ct, vote_sft, sign)
    else:
        yield from _elect_by_majority(vectors, settings)


def trimmed(
    vectors: TaskVectors, settings: Ties
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Step 1: (name, CT vector, SFT vector), trimmed, and weighted if weights come first."""
    row = settings.row
    trim_ct = _trimmer(vectors.tau_ct, settings.density_ct, row)
    trim_sft = _trimmer(vectors.tau_sft, settings.density_sft, row)
    before = row.weights == "before"
    w_ct, w_sft = (settings.w_ct, settings.w_sft) if before else (1.0, 1.0)
    for name in vectors.theta_base:
        vote_ct = combining.weigh(trim_ct(vectors.tau_ct[name]), w_ct)
        vote_sft = combining.weigh(trim_sft(vectors.tau_sft[name]), w_sft)
        yield name, vote_ct, vote_sft


def _trimmer(
    tau: StateDict, density: float, row: Variant
) -> Callable[[torch.Tensor], torch.Tensor]:
    if row.trim == "per-tensor":
        return lambda tensor: trim(tensor, density, row.at_least)
    threshold = model_threshold(tau, density)
    return lambda tensor: trim_below(tensor, threshold)


def _lean(vote_ct: torch.Tensor, vote_sft: torch.Tensor, settings: Ties) -> torch.Tensor:
    if settings.row.vote == "count":
        vote_ct, vote_sft = vote_ct.sign(), vote_sft.sign()
    if settings.slack is None:
        return electing.lean(vote_ct, vote_sft)
    return electing.lean_with_slack(vote_ct, vote_sft, settings.slack, settings.slack_kind)


def _elect_by_majority(vectors: TaskVectors, settings: Ties) -> Iterator[Elected]:
    """The reference code's tie rule needs the signs of the whole model before the first merge."""
    leaning = [
        Elected(name, vote_ct, vote_sft, _lean(vote_ct, vote_sft, settings))
        for name, vote_ct, vote_sft in trimmed(vectors, settings)
    ]
    # fp64: in fp32 a sum of signs is not exact beyond 2**24 parameters.
    total = sum(elected.sign.sum(dtype=torch.float64).item() for elected in leaning)
    majority = (total > 0) - (total < 0)
    for elected in leaning:
        yield elected._replace(sign=electing.zero_is_majority(elected.sign, majority))
