"""Exact trim thresholds, without sorting a model and without a copy of it.

The bits of non-negative floats are ordered like the floats, so the k-th largest magnitude is
found by counting. Task vectors of bf16 checkpoints have few different magnitudes: a sample guesses
the one that is the threshold, and one pass counts what is above it and what equals it, which
proves the guess, or corrects it. Where magnitudes hardly ever tie, a histogram of the upper 16 bits
of the keys finds the threshold, and a second one of the lower bits among those that share its
upper ones. Counts that are added up over all tensors give the threshold of the whole model.

What is kept equals `sparsify.trim` and `sparsify.model_threshold`: exactly k entries a tensor,
ties in index order, zeros never; and everything at or above the model's threshold. No sample
decides about that.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from langmerge.merging import kernels
from langmerge.merging.sparsify import check_density

#: Pieces of one tensor: base (None where the others are task vectors), CT, SFT.
Slab = tuple[np.ndarray | None, np.ndarray, np.ndarray]

#: A tensor of at most so many entries is sorted as it is.
SORTED = 1 << 14
#: How often a guess is corrected before a histogram is made.
GUESSES = 3
#: The share of a sample that has to equal a guess: else magnitudes hardly tie.
TIED = 1 / 256
#: The first bin of what is infinite or no number.
_NOT_FINITE_BIN = kernels.NOT_FINITE >> 15 << 1


class Cut(NamedTuple):
    """What trim keeps: keys above `key`, and of those equal to it the first `left` (-1: all)."""

    key: int
    left: int = -1


EVERYTHING = Cut(0)
NOTHING = Cut(kernels.NOT_FINITE)


class NotFinite(ArithmeticError):
    """A histogram met NaN or infinity; the caller knows the tensor's name."""


class Source(Protocol):
    """A tensor that can be walked through."""

    def slabs(self) -> Iterable[Slab]:
        """All of it in pieces, once more at each call."""

    def sample(self) -> Slab:
        """Some of it, for a guess."""


class Whole(NamedTuple):
    """A tensor in memory."""

    ref: np.ndarray | None
    ct: np.ndarray
    sft: np.ndarray

    def slabs(self) -> Iterable[Slab]:
        """See `Source`."""
        return (self,)

    def sample(self) -> Slab:
        """See `Source`."""
        step = max(len(self.ct) // SORTED, 1)
        return tuple(None if one is None else one[::step].copy() for one in self)


def tensor_cuts(
    source: Source, n: int, densities: Sequence[float], at_least: int = 1
) -> tuple[Cut, ...]:
    """The cuts of CT and SFT in one tensor of n entries, as `sparsify.trim` makes them.

    Raises NotFinite where a tensor that has to be looked at has NaN or infinity.
    """
    wanted = [_kept(n, density, at_least) for density in densities]
    if not any(wanted):
        return tuple(EVERYTHING if k is None else NOTHING for k in wanted)
    if n <= SORTED:
        found = [
            cut_in(keys, k) if k else None for keys, k in zip(_keys(source, n), wanted, strict=True)
        ]
    else:
        found = _guessed(source, n, wanted)
        missing = [k if k and cut is None else None for k, cut in zip(wanted, found, strict=True)]
        if any(missing):
            counted = _counted(source, missing)
            found = [one or other for one, other in zip(found, counted, strict=True)]
    return tuple(
        cut or (EVERYTHING if k is None else NOTHING) for cut, k in zip(found, wanted, strict=True)
    )


def cut_in(keys: np.ndarray, k: int) -> Cut:
    """The cut that keeps k of all the keys, which are sorted; raises NotFinite."""
    if keys[-1] >= kernels.NOT_FINITE:
        raise NotFinite
    key = keys[len(keys) - k]
    first, last = np.searchsorted(keys, key), np.searchsorted(keys, key, side="right")
    return _cut(int(key), k - (len(keys) - int(last)), int(last - first))


def _cut(key: int, left: int, tied: int) -> Cut:
    # The zeros at a threshold of zero stay what they are.
    return Cut(key) if key == 0 or left == tied else Cut(key, left)


def _keys(source: Source, n: int) -> list[np.ndarray]:
    """The sorted keys of CT and SFT."""
    keys, start = np.empty((2, n), np.int32), 0
    for ref, *taus in source.slabs():
        stop = start + len(taus[0])
        for tau, its in zip(taus, keys, strict=True):
            kernels.keys_of(tau, ref, its[start:stop])
        start = stop
    return [np.sort(its) for its in keys]


def _counted(source: Source, wanted: Sequence[int | None]) -> list[Cut | None]:
    """Cuts by histograms."""
    counts = count(source, [k is not None for k in wanted])
    pairs = zip(counts, wanted, strict=True)
    searches = [None if counted is None else Search(counted, k) for counted, k in pairs]
    refine(source, searches)
    return [None if search is None else search.cut() for search in searches]


def _guessed(source: Source, n: int, wanted: Sequence[int | None]) -> list[Cut | None]:
    """Cuts that a sample guesses and counting proves; None where magnitudes hardly tie."""
    guesses = [
        Guess(keys, k / n) if k else None
        for keys, k in zip(sample_keys([source.sample()]), wanted, strict=True)
    ]
    for _ in range(GUESSES):
        asked = [guess if guess and guess.key is not None else None for guess in guesses]
        if not any(asked):
            break
        pairs = zip(asked, count_at(source, asked), wanted, strict=True)
        for guess, counts, k in pairs:
            if guess:
                guess.learn(*counts, k)
    return [guess and guess.cut for guess in guesses]


def sample_keys(samples: Iterable[Slab]) -> list[np.ndarray]:
    """The sorted keys of CT and SFT in samples."""
    found: tuple[list[np.ndarray], ...] = ([], [])
    for ref, *taus in samples:
        for tau, its in zip(taus, found, strict=True):
            keys = np.empty(len(tau), np.int32)
            kernels.keys_of(tau, ref, keys)
            its.append(keys)
    return [np.sort(np.concatenate(its)) for its in found]


def count_at(source: Source, guesses: Sequence[Guess | None]) -> list[tuple[int, int]]:
    """One pass: how many entries of each model are above its guess and at it."""
    found = np.zeros((len(guesses), 3), np.int64)
    if all(guesses):
        keys = np.array([guess.key for guess in guesses], np.int64)
        for ref, ct, sft in source.slabs():
            kernels.count_both(ct, sft, ref, keys, found)
    else:
        for ref, *taus in source.slabs():
            for its, tau, guess in zip(found, taus, guesses, strict=True):
                if guess:
                    above, at, largest = kernels.count_at(tau, ref, guess.key)
                    its += above, at, 0
                    its[2] = max(its[2], largest)
    if found[:, 2].max() >= kernels.NOT_FINITE:
        raise NotFinite
    return [(int(above), int(at)) for above, at, _ in found]


class Guess:
    """The key of a threshold, guessed from sorted keys of a sample.

    share: of the entries that are kept. key: the guess; None where it is known, or where
    magnitudes hardly tie. cut: what was proved.
    """

    def __init__(self, keys: np.ndarray, share: float) -> None:
        self._keys = keys
        self.cut: Cut | None = None
        self.key: int | None = None
        self._aim(round(len(keys) * (1 - share)))

    def learn(self, above: int, at: int, k: int) -> None:
        """So many entries are above the guess and at it; k are kept."""
        if above < k <= above + at:
            self.cut, self.key = _cut(self.key, k - above, at), None
        else:  # the next larger key of the sample, or the next smaller one
            self._aim(self._last if k <= above else self._first - 1)

    def _aim(self, place: int) -> None:
        """Guess the key at a place of the sample, if enough of it are equal to that."""
        place = min(max(place, 0), len(self._keys) - 1)
        key = self._keys[place]
        self._first = int(np.searchsorted(self._keys, key))
        self._last = int(np.searchsorted(self._keys, key, side="right"))
        tied = self._last - self._first >= TIED * len(self._keys)
        self.key = int(key) if tied and int(key) != self.key else None


def model_cut(counts: np.ndarray, n: int, density: float) -> Search:
    """The search of a whole model of n entries, as `sparsify.model_threshold`; density < 1."""
    return Search(counts, model_rank(n, density), all_ties=True)


def model_rank(n: int, density: float) -> int:
    """Which of a whole model's n keys, from the largest, is its threshold; density < 1."""
    return int(density * n) + 1


def count(source: Source, models: Sequence[bool]) -> list[np.ndarray | None]:
    """One pass: the histogram of each model's keys (uint32), None for those not asked for."""
    counts = [np.zeros((2, kernels.BINS), np.uint32) if asked else None for asked in models]
    if any(models):
        for ref, *taus in source.slabs():
            for tau, its in zip(taus, counts, strict=True):
                if its is not None:
                    kernels.count_keys(tau, ref, its)
    summed = [None if its is None else its[0] + its[1] for its in counts]
    if any(its is not None and its[_NOT_FINITE_BIN:].any() for its in summed):
        raise NotFinite
    return summed


def refine(source: Source, searches: Sequence[Search | None]) -> None:
    """A second pass for those searches that need one (none at all where no one does)."""
    open_ = [one is not None and one.unfinished for one in searches]
    if not any(open_):
        return
    for ref, *taus in source.slabs():
        for tau, search, wanted in zip(taus, searches, open_, strict=True):
            if wanted:
                kernels.count_low_keys(tau, ref, search.high, search.low_counts)


class Search:
    """The k-th largest key of what was counted."""

    def __init__(self, counts: np.ndarray, k: int, all_ties: bool = False) -> None:
        self._all_ties = all_ties
        place, above = kernels.descend(counts, k)
        self.high = int(place) >> 1
        self.unfinished = bool(place & 1)
        self._key, self._tied = self.high << 15, int(counts[place])
        self._left = k - int(above)
        if self.unfinished:
            self.low_counts = np.zeros(kernels.LOW_BINS, np.int64)

    def again(self) -> Search:
        """The same search with counts of its own, for another thread."""
        other = copy.copy(self)
        if self.unfinished:
            other.low_counts = np.zeros_like(self.low_counts)
        return other

    def cut(self) -> Cut:
        """The cut; after `refine` where the search was unfinished."""
        key, tied, left = self._key, self._tied, self._left
        if self.unfinished:
            low, above = kernels.descend(self.low_counts, left)
            key, tied, left = key | int(low), int(self.low_counts[low]), left - int(above)
        return Cut(key) if self._all_ties else _cut(key, left, tied)


def _kept(n: int, density: float, at_least: int) -> int | None:
    """How many entries stay of n; None for all of them."""
    check_density(density)
    return None if density == 1 or n == 0 else max(at_least, int(density * n))
