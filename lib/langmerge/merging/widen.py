"""WIDEN: merging by weight disentanglement (Yu et al., 2024, arXiv 2408.03092).

A weight matrix is split into the magnitude and the direction of its columns. How far each
column of each model moved from the base, in magnitude and in direction, is ranked within the
model; the ranks become scores by a softmax over the models, and columns that moved more than
`t` times the mean get the score `s` and are kept whole. The merged weight is the base plus the
task vectors, every column scaled by the mean of its two scores.
"""

from __future__ import annotations

from collections.abc import Sequence

from langmerge.errors import LangmergeError
from langmerge.later import torch
from langmerge.merging.task_vectors import check_numbers
from langmerge.merging.tensors import Settings, Tensors

_EMBEDDING = ("embed_tokens", "wte", "word_embeddings", "embeddings")


def widen(tensors: Tensors, settings: Settings) -> torch.Tensor:
    """Merge one tensor by the columns of a matrix (d_out, d_in), or entry by entry of a vector.

    Embeddings (vocabulary, d) are transposed first, so that each token is a column; a head is
    not. Raises LangmergeError for settings that are no numbers or a negative `t`.
    """
    t, s = settings["t"], settings["s"]
    check_numbers(t=t, s=s)
    if t < 0:
        raise LangmergeError(f"t {t}: the factor of the mean has to be 0 or more.")
    taus = tensors.task_vectors()
    if tensors.base.ndim < 2:
        scores = calibrated([tau.abs() for tau in taus], t, s)
        return _add(tensors.base, taus, scores)
    turned = any(word in tensors.name for word in _EMBEDDING)
    base, *thetas = (
        theta.flatten(1).T if turned else theta.flatten(1)
        for theta in (tensors.base, *tensors.models)
    )
    length = column_norms(base)
    moved = [(column_norms(theta) - length).abs() for theta in thetas]
    turns = [1 - column_cosines(theta, base) for theta in thetas]
    by_length = calibrated([share_of_rank(values) for values in moved], t, s)
    by_turn = calibrated([share_of_rank(values) for values in turns], t, s)
    scores = [(one + other) / 2 for one, other in zip(by_length, by_turn, strict=True)]
    merged = _add(base, [theta - base for theta in thetas], scores)
    return (merged.T if turned else merged).reshape(tensors.base.shape).contiguous()


def column_norms(weight: torch.Tensor) -> torch.Tensor:
    """The Euclidean norm of each column."""
    return torch.linalg.vector_norm(weight, dim=0)


def column_cosines(weight: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The cosine between columns; 1 (no turn) where one of the two is zero."""
    lengths = column_norms(weight) * column_norms(other)
    cosines = (weight * other).sum(dim=0) / torch.where(lengths > 0, lengths, 1)
    return torch.where(lengths > 0, cosines, 1)


def share_of_rank(values: torch.Tensor) -> torch.Tensor:
    """The rank of each value, ascending and stable, as a share of n: 0, 1/n, ..., (n-1)/n."""
    order = values.argsort(stable=True)
    ranks = torch.empty_like(values)
    ranks[order] = torch.arange(len(values), dtype=values.dtype)
    return ranks / len(values)


def calibrated(importances: Sequence[torch.Tensor], t: float, s: float) -> tuple[torch.Tensor, ...]:
    """Softmax over the models, and s where an importance exceeds t times its model's mean."""
    scores = torch.stack(tuple(importances)).softmax(dim=0)
    pairs = zip(importances, scores, strict=True)
    return tuple(
        torch.where(importance > t * importance.mean(), s, score) for importance, score in pairs
    )


def _add(
    base: torch.Tensor, taus: Sequence[torch.Tensor], scores: Sequence[torch.Tensor]
) -> torch.Tensor:
    merged = base.clone()
    for tau, score in zip(taus, scores, strict=True):
        merged.add_(tau * score)
    return merged
