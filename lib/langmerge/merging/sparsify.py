"""Trim: keep the entries of a task vector that changed most, set the others to zero.

First step of TIES (Yadav et al., NeurIPS 2023, arXiv 2306.01708), whose thresholds are found by
selection, without sorting; and what other methods do in its place: keep entries at random
(DARE, DELLA) or drop the largest too (breadcrumbs). Functions are pure; tensors are fp32.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence

import numpy as np

from langmerge.errors import LangmergeError, nearest
from langmerge.later import torch
from langmerge.merging.task_vectors import StateDict, check_numbers

#: How a random method makes up for what it drops: see `drop_at_random`.
RESCALES = ("l1", "density", "none")


def trim(tau: torch.Tensor, density: float, at_least: int = 1) -> torch.Tensor:
    """The k entries of largest magnitude of one tensor, the others zero.

    ``k = max(at_least, int(density * n))``, exactly; among equal magnitudes the first in index
    order stay, as in a stable sort. Zeros are never kept: with fewer than k non-zero entries
    all of these stay. Density 1 returns the tensor itself. Raises LangmergeError for a density
    outside (0, 1].
    """
    check_density(density)
    n = tau.numel()
    if density == 1 or n == 0:
        return tau
    k = max(at_least, int(density * n))
    if k == 0:
        return torch.zeros_like(tau)
    threshold, surplus = _kth_largest_magnitude(tau, k)
    kept = trim_below(tau, threshold)
    return _drop_last(kept, threshold, surplus) if surplus and threshold else kept


def trim_below(tau: torch.Tensor, threshold: float) -> torch.Tensor:
    """All entries of magnitude at or above the threshold, the others zero."""
    if threshold <= 0:
        return tau
    # hardshrink keeps what is strictly larger; it is several times faster than a boolean mask.
    below = float(np.nextafter(np.float32(threshold), np.float32(0)))
    return torch.nn.functional.hardshrink(tau, below)


def model_threshold(tau: StateDict, density: float) -> float:
    """The magnitude at or above which the reference code keeps an entry of the whole model.

    With d entries in all it is the (d - int(density * d))-th smallest magnitude, itself
    included, so that int(density * d) + 1 entries stay, and more where magnitudes tie
    (``topk_values_mask`` of the authors' code). 0, which keeps everything, for density 1.
    """
    search = ThresholdSearch((density,))
    while search.unfinished:
        for tensor in tau.values():
            search.look_at((tensor,))
        search.next_pass()
    return search.thresholds[0]


class ThresholdSearch:
    """Every model's `model_threshold`, exactly, without holding a model in memory.

    A radix selection over the bits of the magnitudes, which as integers are ordered like the
    floats: one pass over all tensors counts the upper 16 bits, the next one the lower 16 among
    those whose upper half is the threshold's. Memory: 64 Ki counts a model. ::

        while search.unfinished:
            for taus in tensors:        # one vector a model
                search.look_at(taus)
            search.next_pass()
    """

    def __init__(self, densities: Sequence[float]) -> None:
        for density in densities:
            check_density(density)
        self.densities = tuple(densities)
        self.thresholds = (0.0,) * len(densities)
        self.unfinished = any(density < 1 for density in densities)
        self._upper: list[int] | None = None
        self._ranks: list[int] = []
        self._start()

    def look_at(self, taus: Sequence[torch.Tensor]) -> None:
        """Count one tensor of every model."""
        for model, tau in enumerate(taus):
            if self.densities[model] == 1:
                continue
            bits = tau.abs().flatten().cpu().numpy().view(np.uint32)
            if self._upper is None:
                half = bits >> np.uint32(16)
            else:
                half = bits[(bits >> np.uint32(16)) == self._upper[model]] & np.uint32(0xFFFF)
            self._counts[model] += np.bincount(half, minlength=1 << 16)

    def next_pass(self) -> None:
        """End a pass: the upper halves are known after the first, all after the second."""
        if self._upper is None:
            totals = [int(counts.sum()) for counts in self._counts]
            pairs = zip(totals, self.densities, strict=True)
            self._ranks = [total - int(density * total) for total, density in pairs]
            self._upper = self._select()
            self._start()
            return
        lower = self._select()
        bits = [upper << 16 | low for upper, low in zip(self._upper, lower, strict=True)]
        values = np.array(bits, dtype=np.uint32).view(np.float32).tolist()
        pairs = zip(values, self.densities, strict=True)
        self.thresholds = tuple(value if density < 1 else 0.0 for value, density in pairs)
        self.unfinished = False

    def _start(self) -> None:
        self._counts = [np.zeros(1 << 16, dtype=np.int64) for _ in self.densities]

    def _select(self) -> list[int]:
        """The value of each model's rank-th smallest count (from 1); ranks become those in it."""
        chosen = []
        for model, counts in enumerate(self._counts):
            below = np.cumsum(counts)
            value = min(int(np.searchsorted(below, self._ranks[model])), len(counts) - 1)
            self._ranks[model] -= int(below[value - 1]) if value else 0
            chosen.append(value)
        return chosen


def drop_at_random(
    tau: torch.Tensor,
    keep: float | torch.Tensor,
    generator: torch.Generator,
    rescale: str = "l1",
) -> torch.Tensor:
    """Keep each entry with a probability, drop the others, and make up for what was dropped.

    DARE (Yu et al., ICML 2024, arXiv 2311.03099) with one probability, DELLA with one for each
    entry. rescale: "density" divides what stays by its probability (the papers': the expectation
    is tau), "l1" scales what stays to the L1 norm of tau (mergekit's), "none" leaves it.
    """
    mask = torch.rand(tau.shape, generator=generator) < keep
    return rescaled(tau, mask, keep, rescale)


def rescaled(
    tau: torch.Tensor, mask: torch.Tensor, keep: float | torch.Tensor, rescale: str
) -> torch.Tensor:
    """tau where the mask is, rescaled as `drop_at_random` says."""
    if rescale not in RESCALES:
        raise LangmergeError(f"unknown rescale {rescale!r}: {nearest(str(rescale), RESCALES)}")
    kept = tau * mask
    if rescale == "density":
        return kept / keep
    if rescale == "l1":
        before, after = tau.abs().sum(), kept.abs().sum()
        # Below this mergekit leaves norms alone, and so do we: nothing is there to make up for.
        if before >= 1e-7 and after >= 1e-7:
            return kept * (before / after)
    return kept


def keep_by_rank(tau: torch.Tensor, density: float, epsilon: float) -> torch.Tensor:
    """DELLA's probabilities: from density - epsilon to density + epsilon by rank of magnitude.

    The ranks are within each row (the last dimension; vectors are one row), ascending, ties in
    index order (Deep et al., arXiv 2406.11617). Raises LangmergeError where a probability would
    not lie between 0 and 1.
    """
    check_numbers(epsilon=epsilon)
    if density - epsilon <= 0 or density + epsilon >= 1 or epsilon < 0:
        raise LangmergeError(
            f"epsilon {epsilon} with density {density}: the probabilities density - epsilon and "
            "density + epsilon have to lie between 0 and 1, exclusively. Choose a smaller epsilon."
        )
    n = tau.shape[-1] if tau.ndim else 1
    ranks = tau.abs().reshape(-1, n).sort(dim=1, stable=True).indices.argsort(dim=1)
    share = ranks.float() / (n - 1) if n > 1 else torch.full(ranks.shape, 0.5)
    return ((density - epsilon) + share * 2 * epsilon).reshape(tau.shape)


def without_outliers(tau: torch.Tensor, density: float, gamma: float) -> torch.Tensor:
    """Breadcrumbs: drop the share gamma of largest magnitude, then the smallest ones.

    int(density * n) entries stay (Davari and Belilovsky, ECCV 2024, arXiv 2312.06795); where
    density and gamma add up to more than 1, fewer of the largest are dropped. Density 1 keeps
    everything. Ties in index order.
    """
    check_density(density)
    check_numbers(gamma=gamma)
    if not 0 <= gamma < 1:
        raise LangmergeError(f"gamma {gamma}: the share of outliers has to be from 0 to below 1.")
    if density == 1:
        return tau
    n = tau.numel()
    stay = int(density * n)
    smallest = max(0, n - stay - int(gamma * n))
    order = tau.abs().flatten().sort(stable=True).indices
    mask = torch.zeros(n, dtype=torch.bool)
    mask[order[smallest : smallest + stay]] = True
    return tau * mask.view(tau.shape)


def check_density(density: float) -> None:
    """Raise LangmergeError unless 0 < density <= 1."""
    if not isinstance(density, numbers.Real) or not 0 < density <= 1:
        raise LangmergeError(
            f"density {density!r}: the share of a task vector that trim keeps has to be above 0 "
            "and at most 1 (1 keeps everything, 0.2 is the TIES paper's)."
        )


def _kth_largest_magnitude(tau: torch.Tensor, k: int) -> tuple[float, int]:
    """The k-th largest magnitude (k from 1 to n), and how many entries at it are one too many."""
    magnitudes = tau.abs().flatten()
    place = magnitudes.numel() - k
    if magnitudes.device.type != "cpu":
        threshold = torch.kthvalue(magnitudes, place + 1).values
        return threshold.item(), int((magnitudes >= threshold).sum()) - k
    # The bits of non-negative floats are ordered like the floats, and integers select faster.
    bits = magnitudes.numpy().view(np.uint32)
    bits.partition(place)
    return bits[place].view(np.float32).item(), int(np.count_nonzero(bits[:place] == bits[place]))


def _drop_last(kept: torch.Tensor, threshold: float, surplus: int) -> torch.Tensor:
    """Set the last `surplus` entries whose magnitude is the threshold to zero."""
    flat = kept.flatten()
    tied = torch.nonzero(flat.abs() == threshold).flatten()
    return flat.index_fill(0, tied[-surplus:], 0).view(kept.shape)
