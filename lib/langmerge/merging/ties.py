"""TIES in three steps: trim, elect a sign, merge what agrees (NeurIPS 2023, arXiv 2306.01708).

In the paper's symbols, for the task vectors tau_i of the models (CT and SFT):

1. trim:  tau'_i = the share `density` of tau_i of largest magnitude
2. elect: gamma = sign(sum_i w_i * tau'_i), per parameter
3. merge: tau = the mean (or sum) of those tau'_i whose sign is gamma

and theta = theta_base + lambda * tau. The slack variable (TIES-SV) relaxes step 2 in favour of
SFT; it is a slack of our construction, see `election.by_slack`. Methods that sparsify otherwise
(DARE, DELLA, breadcrumbs) bring their own vectors to steps 2 and 3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from langmerge.errors import LangmergeError
from langmerge.later import torch
from langmerge.merging import combine as combining
from langmerge.merging import election as electing
from langmerge.merging.election import Election, Variant
from langmerge.merging.sparsify import ThresholdSearch, check_density, trim, trim_below
from langmerge.merging.task_vectors import check_numbers
from langmerge.merging.tensors import Passes, Settings, Tensors


@dataclasses.dataclass(frozen=True)
class Ties:
    """The settings of TIES for one tensor, checked when they are made (LangmergeError).

    density, weight: one for each model. thresholds, majority: what `survey` found, for variants
    that trim or break ties over the whole model.
    """

    density: tuple[float, ...] = (0.7, 0.7)
    weight: tuple[float, ...] = (1.0, 1.0)
    lambda_: float = 1.0
    combine: str = "mean"
    variant: str = "weighted"
    slack: float | None = None
    slack_kind: str = "multiplicative"
    election: Election | None = None
    thresholds: tuple[float, ...] | None = None
    majority: int | None = None

    @classmethod
    def of(cls, settings: Settings) -> Ties:
        """From a tensor's settings; those of other kinds (`seed`) are left out."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in settings.items() if name in known})

    def __post_init__(self) -> None:
        for density in self.density:
            check_density(density)
        check_numbers(
            **{f"weight {number}": weight for number, weight in enumerate(self.weight, 1)},
            lambda_=self.lambda_,
        )
        combining.check_combine(self.combine)
        if self.slack is not None:
            electing.check_slack(self.slack, self.slack_kind)
        if self.election is not None and not callable(self.election):
            raise LangmergeError(
                f"election {self.election!r}: give a function of (tau_ct, tau_sft) that returns "
                "a tensor of signs."
            )
        if self.row.weights == "none" and any(weight != 1 for weight in self.weight):
            raise LangmergeError(
                f"variant {self.variant!r} knows no weights, but they are "
                f"{', '.join(map(str, self.weight))}: leave them at 1, or use variant 'weighted' "
                "or 'peft'."
            )

    @property
    def row(self) -> Variant:
        """The variant as a row of the table."""
        return electing.variant_named(self.variant)


class Elected(NamedTuple):
    """One tensor after its election: trimmed (and weighted) vectors and the elected sign."""

    name: str
    votes: tuple[torch.Tensor, ...]
    sign: torch.Tensor


def merge(tensors: Tensors, settings: Settings) -> torch.Tensor:
    """theta_base plus lambda times the merged task vector, in fp32."""
    ties = Ties.of(settings)
    return tensors.base.add(merge_elected(elect(tensors, ties), ties))


def merge_sparse(
    tensors: Tensors, sparse: Sequence[torch.Tensor], settings: Settings
) -> torch.Tensor:
    """As `merge`, with task vectors that another method made sparse instead of trim."""
    ties = Ties.of(settings)
    if ties.row.tie == "majority":
        raise LangmergeError(
            f"variant {ties.variant!r} looks at the whole model, and is not for methods that draw "
            "or rank entries tensor by tensor: use 'weighted' or 'peft'."
        )
    votes = weighed_before(sparse, ties)
    elected = Elected(tensors.name, votes, sign_of(votes, ties))
    return tensors.base.add(merge_elected(elected, ties))


def merge_elected(elected: Elected, ties: Ties) -> torch.Tensor:
    """Step 3: lambda times the mean or sum of what agrees with the sign."""
    kept = [combining.agreeing(vote, elected.sign) for vote in elected.votes]
    ones = (1.0,) * len(kept)
    tau = combining.weighted_sum(kept, ties.weight if ties.row.weights == "after" else ones)
    if ties.combine == "mean":
        by = ties.weight if ties.row.weights == "before" else ones
        tau.div_(combining.weight_present(kept, by))
    return tau if ties.lambda_ == 1 else tau.mul_(ties.lambda_)


def elect(tensors: Tensors, ties: Ties) -> Elected:
    """Steps 1 and 2 for one tensor: trimmed vectors and the elected sign."""
    votes = weighed_before(trimmed(tensors, ties), ties)
    return Elected(tensors.name, votes, sign_of(votes, ties))


def trimmed(tensors: Tensors, ties: Ties) -> tuple[torch.Tensor, ...]:
    """Step 1: the models' vectors, trimmed."""
    taus = tensors.task_vectors()
    if ties.row.trim == "per-tensor":
        pairs = zip(taus, ties.density, strict=True)
        return tuple(trim(tau, density, ties.row.at_least) for tau, density in pairs)
    if ties.thresholds is None:
        raise LangmergeError(_needs_survey(ties))
    return tuple(trim_below(tau, t) for tau, t in zip(taus, ties.thresholds, strict=True))


def weighed_before(taus: Sequence[torch.Tensor], ties: Ties) -> tuple[torch.Tensor, ...]:
    """The votes: weighted where the variant's weights come before the election."""
    if ties.row.weights != "before":
        return tuple(taus)
    pairs = zip(taus, ties.weight, strict=True)
    return tuple(combining.weigh(tau, weight) for tau, weight in pairs)


def sign_of(votes: Sequence[torch.Tensor], ties: Ties) -> torch.Tensor:
    """Step 2: the elected sign."""
    if ties.election is not None:
        return electing.checked(ties.election, *votes)
    leaning = lean(votes, ties)
    if ties.row.tie == "plus":
        return electing.zero_is_plus(leaning)
    if ties.majority is None:
        raise LangmergeError(_needs_survey(ties))
    return electing.zero_is_majority(leaning, ties.majority)


def lean(votes: Sequence[torch.Tensor], ties: Ties) -> torch.Tensor:
    """The election before its tie rule: 0 where the votes cancel."""
    if ties.row.vote == "count":
        votes = [vote.sign() for vote in votes]
    if ties.slack is None:
        return electing.lean(*votes)
    if len(votes) != 2:
        raise LangmergeError(
            f"a slack favours SFT over CT, so it takes these two models, not {len(votes)}."
        )
    return electing.lean_with_slack(*votes, ties.slack, ties.slack_kind)


def survey(passes: Passes) -> Mapping[str, object]:
    """What the reference code's variant has to know: thresholds and majority of the model.

    Passes over all tensors in memory that does not grow with the model: two for exact
    thresholds (none where nothing is trimmed), one for the majority sign. No pass at all for
    variants that look at one tensor at a time.
    """
    ties = next((Ties.of(settings) for _, settings in passes()), None)
    if ties is None or (ties.row.trim == "per-tensor" and ties.row.tie == "plus"):
        return {}
    found: dict[str, object] = {}
    if ties.row.trim != "per-tensor":
        found["thresholds"] = _thresholds(passes, ties)
    if ties.row.tie == "majority" and ties.election is None:
        found["majority"] = _majority(passes, found)
    return found


def _thresholds(passes: Passes, ties: Ties) -> tuple[float, ...]:
    search = ThresholdSearch(ties.density)
    while search.unfinished:
        for tensors, settings in passes():
            if (density := Ties.of(settings).density) != ties.density:
                raise LangmergeError(
                    f"{tensors.name}: density {density} after {ties.density} elsewhere; variant "
                    f"{ties.variant!r} trims over the whole model, so density has to be one "
                    "number a model. Use variant 'weighted' for densities that differ by tensor."
                )
            search.look_at(tensors.task_vectors())
        search.next_pass()
    return search.thresholds


def _majority(passes: Passes, found: Mapping[str, object]) -> int:
    total = 0.0
    for tensors, settings in passes():
        ties = Ties.of({**settings, **found})
        votes = weighed_before(trimmed(tensors, ties), ties)
        # fp64: in fp32 a sum of signs is not exact beyond 2**24 parameters.
        total += lean(votes, ties).sum(dtype=torch.float64).item()
    return (total > 0) - (total < 0)


def _needs_survey(ties: Ties) -> str:
    return (
        f"variant {ties.variant!r} has to see the whole model before it merges a tensor: run "
        "`ties.survey` over all tensors and add what it finds to the settings."
    )
