"""Merging methods as compiled loops: what `kernels` does for a row of the table.

A *fused* method merges a CT and an SFT model slab by slab: it is asked once a tensor to
`prepare` (thresholds), then to `merge` its slabs in order. `fused_for` says whether there is one
for a method and its settings; where there is none, the row's torch function is used.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from langmerge.merging import averages, kernels, methods
from langmerge.merging import ties as ties_steps
from langmerge.merging.election import check_slack
from langmerge.merging.magnitudes import EVERYTHING, Cut, Source, tensor_cuts
from langmerge.merging.task_vectors import check_numbers
from langmerge.merging.tensors import Settings
from langmerge.merging.ties import Ties

_F32 = np.float32
_LARGEST = float(np.finfo(np.float32).max)
#: Above zero by the least that fp32 knows: a lean of zero is below it.
_TINY = float(np.finfo(np.float32).smallest_subnormal)


#: Functions of the models themselves and not of their task vectors.
WEIGHTED_MODELS = (methods.average, averages.average)


class Slab(NamedTuple):
    """A piece of one tensor: fp32, or bf16 as uint16.

    base: None for methods without a base. ref: what the models are differences to, which is the
    base; None where they are task vectors already.
    """

    base: np.ndarray | None
    ct: np.ndarray
    sft: np.ndarray
    ref: np.ndarray | None


class Merger(Protocol):
    """One tensor's merge, slab by slab in order."""

    def __call__(self, slab: Slab, out: np.ndarray) -> int:
        """Merge a slab into `out` (fp32, or uint16 for bf16); the largest key of the result."""


class Fused(Protocol):
    """A method and its settings as compiled loops."""

    def prepare(self, source: Source, n: int) -> Merger:
        """Look at a tensor of n entries before it is merged."""


def fused_for(row: methods.Method, settings: Settings) -> Fused | None:
    """The compiled form of a method for two models, or None."""
    if row.tensor in (ties_steps.merge, methods.ties_sv):
        if row.tensor is methods.ties_sv:
            check_slack(settings["slack"], settings["slack_kind"])
        ties = Ties.of(settings)
        ours = ties.election is None and ties.row.vote == "sum" and len(ties.weight) == 2
        return FusedTies(ties) if ours and len(ties.density) == 2 else None
    if row.tensor not in (*WEIGHTED_MODELS, averages.task_arithmetic):
        return None
    if row.tensor is methods.average:
        methods.check_alpha(settings["alpha"])
        return FusedAverage((settings["alpha"], 1 - settings["alpha"]), 1.0)
    weights = averages.checked_weights(settings)
    if len(weights) != 2:
        return None
    total = float(_F32(weights[0]) + _F32(weights[1])) if settings.get("normalize") else 1.0
    if row.tensor is averages.average:
        averages.check_total(weights, total)
        return FusedAverage(weights, total)
    check_numbers(lambda_=settings["lambda_"])
    by = total if abs(total) >= 1e-8 else 1.0  # weights that cancel: the sum, as there
    return FusedArithmetic(weights, by, settings["lambda_"])


class FusedAverage:
    """`averages.average` of two models."""

    def __init__(self, weights: tuple[float, float], by: float) -> None:
        self._scalars = (*map(_F32, weights), _F32(by))

    def prepare(self, source: Source, n: int) -> Merger:
        """Nothing has to be known before."""
        return lambda slab, out: kernels.average(slab.ct, slab.sft, out, *self._scalars)


class FusedArithmetic:
    """`averages.task_arithmetic` of two models."""

    def __init__(self, weights: tuple[float, float], by: float, lambda_: float) -> None:
        self._scalars = (*map(_F32, weights), _F32(by), _F32(lambda_))

    def prepare(self, source: Source, n: int) -> Merger:
        """Nothing has to be known before."""
        return lambda slab, out: kernels.add_weighted(*slab, out, *self._scalars)


class FusedTies:
    """`ties.merge` of CT and SFT, with or without slack."""

    def __init__(self, ties: Ties) -> None:
        self.ties = ties

    @functools.cached_property
    def scalars(self) -> np.ndarray:
        """The array of scalars of `kernels.merge_ties`."""
        return scalars_of(self.ties)

    @functools.cached_property
    def _inverted(self) -> tuple[np.ndarray, bool | None]:
        """The scalars with inverses to multiply by, where those are exact: powers of two."""
        scalars, places = self.scalars.copy(), [kernels.ONLY_CT, kernels.ONLY_SFT, kernels.BOTH]
        if any(abs(np.frexp(by)[0]) != 0.5 for by in scalars[places]):
            return scalars, None
        scalars[places] = 1 / scalars[places]
        return scalars, True

    @functools.cached_property
    def _scaled(self) -> bool | None:
        """None where all that is multiplied by is 1."""
        return None if all(self.scalars[kernels.WEIGHTS] == 1) else True

    def prepare(self, source: Source, n: int) -> Merger:
        """Find the thresholds of a tensor, and what an additive slack is worth in it."""
        return self.merger(self.cuts(source, n), source)

    def cuts(self, source: Source, n: int) -> tuple[Cut, ...]:
        """What trim keeps of the two vectors in one tensor."""
        ties = self.ties
        if ties.row.trim == "per-tensor":
            return tensor_cuts(source, n, ties.density, ties.row.at_least)
        if ties.thresholds is None:
            raise ValueError("a variant that trims the whole model has to be surveyed first")
        return tuple(cut_at(threshold) for threshold in ties.thresholds)

    def merger(self, cuts: tuple[Cut, ...], source: Source, finite: bool = False) -> Merger:
        """The merge of one tensor whose cuts are known.

        finite: its entries are known to be finite, and nobody asks for the largest key.
        """
        keys, left = as_arrays(cuts)
        scalars, inverse = self._inverted
        bonus, scaled = self.bonus(cuts, source), self._scaled
        # A weight may make an entry infinite that is not.
        watched = None if finite and scaled is None else True

        def merge(slab: Slab, out: np.ndarray) -> int:
            return kernels.merge_ties(
                *slab, out, keys, left, scalars, bonus, inverse, scaled, watched
            )

        return merge

    def bonus(self, cuts: tuple[Cut, ...], source: Source) -> np.float32 | None:
        """What slack adds to each SFT vote of a tensor; None where it multiplies or is absent."""
        ties = self.ties
        if ties.slack is None:
            return None
        return slack_terms(ties, ties.slack, lambda: sft_rms(ties, cuts, source))[1]


def slack_terms(
    ties: Ties, slack: float, rms: Callable[[], float]
) -> tuple[np.float32, np.float32 | None]:
    """A slack as the factor and the bonus of SFT's vote; rms: a function, asked where needed."""
    # An infinite bonus is right at once and needs no rule for 0 * inf.
    if ties.slack_kind == "multiplicative":
        factor = 1 + float(slack)
        return (_F32(1), _F32(np.inf)) if factor > _LARGEST else (_F32(factor), None)
    bonus = float(slack) * rms() if math.isfinite(slack) else math.inf
    return _F32(1), _F32(np.inf) if bonus > _LARGEST else _F32(bonus)


def sft_rms(ties: Ties, cuts: tuple[Cut, ...], source: Source) -> float:
    """The root mean square of the SFT votes of one tensor that are not zero."""
    keys, left = as_arrays((cuts[1], cuts[1]))
    left[0] = -1
    weight = _F32(ties.weight[1] if ties.row.weights == "before" else 1)
    total, votes = 0.0, 0
    for ref, _, sft in source.slabs():
        square, counted = kernels.squares(sft, ref, keys, left, weight)
        total, votes = total + square, votes + counted
    return math.sqrt(total) / math.sqrt(max(votes, 1))


def as_arrays(cuts: tuple[Cut, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Cuts as the kernels take them: keys, and how many ties are left to be kept."""
    return (
        np.array([cut.key for cut in cuts], np.int64),
        np.array([cut.left for cut in cuts], np.int64),
    )


def cut_at(threshold: float) -> Cut:
    """The cut that keeps every magnitude at or above a threshold."""
    return Cut(int(_F32(threshold).view(np.int32))) if threshold > 0 else EVERYTHING


def scalars_of(ties: Ties) -> np.ndarray:
    """The array of scalars of `kernels.merge_ties`."""
    scalars = np.ones(kernels.SCALARS, np.float32)
    if ties.row.weights == "before":
        scalars[[kernels.BEFORE_CT, kernels.BEFORE_SFT]] = ties.weight
    if ties.row.weights == "after":
        scalars[[kernels.AFTER_CT, kernels.AFTER_SFT]] = ties.weight
    if ties.slack is not None and ties.slack_kind == "multiplicative":
        scalars[kernels.FACTOR] = slack_terms(ties, ties.slack, lambda: 0.0)[0]
    scalars[kernels.FLOOR] = floor_of(ties)
    if ties.combine == "mean":
        scalars[[kernels.ONLY_CT, kernels.ONLY_SFT, kernels.BOTH]] = _denominators(ties)
    scalars[kernels.LAMBDA] = ties.lambda_
    return scalars


def floor_of(ties: Ties) -> np.float32:
    """What the sum of the votes has to reach for +: 0, or more where a tie goes to -."""
    if ties.row.tie == "plus":
        return _F32(0)
    if ties.majority is None:
        raise ValueError("a variant with a majority sign has to be surveyed first")
    return _F32(0) if ties.majority > 0 else _F32(_TINY)


def _denominators(ties: Ties) -> list[float]:
    """What a mean divides by where only CT agrees, only SFT, or both; see `weight_present`."""
    ct, sft = map(_F32, ties.weight if ties.row.weights == "before" else (1.0, 1.0))
    sums = [ct, sft, ct + sft]
    if min(ct, sft) < 0:
        return [float(one) if one != 0 else 1.0 for one in sums]
    least = min((w for w in (ct, sft) if w > 0), default=_F32(1))
    return [float(max(one, least)) for one in sums]
