"""Trim: keep the entries of a task vector that changed most, set the others to zero.

First step of TIES (Yadav et al., NeurIPS 2023, arXiv 2306.01708). Thresholds are found by
selection, without sorting. Functions are pure; tensors are fp32.
"""

from __future__ import annotations

import numbers

import numpy as np
import torch

from langmerge.errors import LangmergeError
from langmerge.merging.task_vectors import StateDict


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
    check_density(density)
    magnitudes = torch.cat([tensor.flatten() for tensor in tau.values()])
    d = magnitudes.numel()
    dropped = d - int(density * d)
    return _kth_largest_magnitude(magnitudes, d - dropped + 1)[0] if dropped else 0.0


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
