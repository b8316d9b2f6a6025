"""Compiled loops of the merging engine: one pass over memory, no copies in fp32.

The torch functions of the other rooms are the oracle and the fallback of everything here: what
these loops compute is bit for bit what those do, in fp32, whatever the storage dtype. An array
is fp32, or bf16 as the uint16 of its bits; fp16 is widened by the caller. `ref` is what a task
vector is the difference to, or None where the arrays are task vectors already.

A *key* is the magnitude of an fp32 number as an integer: its bits without the sign, which are
ordered like the magnitudes. Trim keeps keys at or above `cuts` ([CT, SFT]); of those that equal
the cut only the first `left` ([CT, SFT], counted down while a tensor is walked through; -1: all)
in index order.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import overload

#: No finite key is as large: the key of infinity, and of NaN above it.
NOT_FINITE = 0x7F800000
#: Bins of the first histogram: 16 bits of the key, and whether any of the 15 below is set.
BINS = 1 << 17
LOW_BINS = 1 << 15
#: Entries whose ties are counted at once: three inputs stay in the first-level cache.
_BLOCK = 2048
#: Entries that are counted in 32 bits before the counts are added up in 64.
_LONG = 1 << 20
_LIMIT = np.int32(0x7FFFFFFF)
_SIGN = np.int32(-0x80000000)
_COMPILE = {"nogil": True, "cache": True, "error_model": "numpy"}

# Places in the array of scalars of `merge_ties`, see `fused.scalars`.
BEFORE_CT, BEFORE_SFT, FACTOR, FLOOR, AFTER_CT, AFTER_SFT = range(6)
ONLY_CT, ONLY_SFT, BOTH, LAMBDA = range(6, 10)
WEIGHTS = [BEFORE_CT, BEFORE_SFT, AFTER_CT, AFTER_SFT, LAMBDA]
SCALARS = 10


def _value(x):  # pragma: no cover - replaced by its overload
    raise NotImplementedError


@overload(_value, inline="always")
def _overload_value(x):
    if isinstance(x, types.Integer):
        return lambda x: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)
    return lambda x: x


def _delta(model, ref, i):  # pragma: no cover - replaced by its overload
    raise NotImplementedError


@overload(_delta)
def _overload_delta(model, ref, i):
    if isinstance(ref, types.NoneType):
        return lambda model, ref, i: _value(model[i])
    return lambda model, ref, i: _value(model[i]) - _value(ref[i])


def _cut(ref, start, stop):  # pragma: no cover - replaced by its overload
    raise NotImplementedError


@overload(_cut)
def _overload_cut(ref, start, stop):
    if isinstance(ref, types.NoneType):
        return lambda ref, start, stop: None
    return lambda ref, start, stop: ref[start:stop]


def _stored(value, like):  # pragma: no cover - replaced by its overload
    raise NotImplementedError


@overload(_stored, inline="always")
def _overload_stored(value, like):
    if isinstance(like, types.Integer):

        def to_bf16(value, like):
            bits = np.float32(value).view(np.uint32)
            # To the nearest, ties to even.
            even = (bits >> np.uint32(16)) & np.uint32(1)
            return np.uint16((bits + np.uint32(0x7FFF) + even) >> np.uint32(16))

        return to_bf16
    return lambda value, like: value


@njit(inline="always")
def _key(x):
    # Without the cast numba computes in 64 bits, which halves what a vector holds.
    return np.int32(np.float32(x).view(np.int32) & _LIMIT)


@njit(inline="always")
def _one_more(count, here):
    # Without the cast numba counts in 64 bits, at a quarter of the speed.
    return np.int32(count + (np.int32(1) if here else np.int32(0)))


@njit(**_COMPILE)
def _bins_of(model, ref, bins):
    for j in range(len(bins)):
        key = _key(_delta(model, ref, j))
        low = np.int32(1) if (key & np.int32(0x7FFF)) != 0 else np.int32(0)
        bins[j] = ((key >> np.int32(15)) << np.int32(1)) | low


@njit(**_COMPILE)
def count_keys(model, ref, counts):
    """Add the keys of a task vector to its histogram (uint32, 2 by `BINS`; the rows add up)."""
    n, start = len(model), 0
    bins = np.empty(_BLOCK, np.int32)
    while start < n:
        stop = min(start + _BLOCK, n)
        here = bins[: stop - start]
        _bins_of(model[start:stop], _cut(ref, start, stop), here)
        # Two rows: many magnitudes of a bf16 model are equal, and a count that was raised just
        # now has to be waited for.
        even = len(here) // 2 * 2
        for j in range(0, even, 2):
            counts[0, here[j]] += np.uint32(1)
            counts[1, here[j + 1]] += np.uint32(1)
        if even < len(here):
            counts[0, here[even]] += np.uint32(1)
        start = stop


@njit(**_COMPILE)
def _hits(model, ref, high):
    hits = np.int32(0)
    for j in range(len(model)):
        hits = _one_more(hits, (_key(_delta(model, ref, j)) >> np.int32(15)) == high)
    return hits


@njit(**_COMPILE)
def count_at(model, ref, cut):
    """How many keys are above a cut, how many equal it, and the largest key."""
    above, at, largest = np.int64(0), np.int64(0), np.int32(0)
    n, start = len(model), 0
    while start < n:
        stop = min(start + _LONG, n)
        found = _count_at(model[start:stop], _cut(ref, start, stop), np.int32(cut))
        above, at = above + found[0], at + found[1]
        largest = found[2] if found[2] > largest else largest
        start = stop
    return above, at, largest


@njit(**_COMPILE)
def _count_at(model, ref, cut):
    above, at, largest = np.int32(0), np.int32(0), np.int32(0)
    for i in range(len(model)):
        key = _key(_delta(model, ref, i))
        above, at = _one_more(above, key > cut), _one_more(at, key == cut)
        largest = key if key > largest else largest
    return above, at, largest


@njit(**_COMPILE)
def count_both(ct, sft, ref, cuts, found):
    """`count_at` for two models at once, which reads what they are differences to once.

    found: int64, 2 by 3, (above, at, largest) of CT and of SFT; counts are added to.
    """
    n, start = len(ct), 0
    while start < n:
        stop = min(start + _BLOCK, n)
        there = _cut(ref, start, stop)
        one = _count_at(ct[start:stop], there, np.int32(cuts[0]))
        other = _count_at(sft[start:stop], there, np.int32(cuts[1]))
        for model, counts in enumerate((one, other)):
            found[model, 0] += counts[0]
            found[model, 1] += counts[1]
            found[model, 2] = max(found[model, 2], np.int64(counts[2]))
        start = stop


@njit(**_COMPILE)
def keys_of(model, ref, keys):
    """Write the keys of a task vector into an array (int32)."""
    for i in range(len(model)):
        keys[i] = _key(_delta(model, ref, i))


@njit(**_COMPILE)
def count_low_keys(model, ref, high, counts):
    """Add the low 15 bits of those keys whose upper bits are `high` to a histogram (uint32)."""
    n, start = len(model), 0
    wanted = np.int32(high)
    while start < n:
        stop = min(start + 128, n)
        here, there = model[start:stop], _cut(ref, start, stop)
        if _hits(here, there, wanted):
            for j in range(len(here)):
                key = _key(_delta(here, there, j))
                if (key >> np.int32(15)) == wanted:
                    counts[key & np.int32(0x7FFF)] += np.uint32(1)
        start = stop


@njit(**_COMPILE)
def descend(counts, k):
    """The bin of the k-th largest (k from 1), and how many lie in the bins above it."""
    above = np.int64(0)
    for i in range(len(counts) - 1, -1, -1):
        here = np.int64(counts[i])
        if above + here >= k:
            return i, above
        above += here
    return 0, above


@njit(**_COMPILE)
def _ties_in(model, ref, cut):
    count = np.int32(0)
    for i in range(len(model)):
        count = _one_more(count, _key(_delta(model, ref, i)) == cut)
    return np.int64(count)


@njit(**_COMPILE)
def _same_cut(model, ref, start, stop, cut, left):
    """How far the cut stays as it is, where only `left` more ties may be kept."""
    if left <= 0:
        return stop
    for i in range(start, stop):
        if _key(_delta(model, ref, i)) == cut:
            left -= 1
            if left == 0:
                return i + 1
    return stop


@njit(**_COMPILE)
def _ties_here(model, ref, start, stop, cut, left):
    """How many ties there are, where they have to be counted."""
    if left <= 0:
        return np.int64(0)
    return _ties_in(model[start:stop], _cut(ref, start, stop), cut)


@njit(**_COMPILE)
def _segment(ct, sft, ref, start, n, cuts, left):
    """The next entries for which one smallest kept key a model is right; counts `left` down."""
    cut_ct, cut_sft = np.int32(cuts[0]), np.int32(cuts[1])
    stop = min(start + (_BLOCK if left[0] > 0 or left[1] > 0 else _LONG), n)
    ties_ct = _ties_here(ct, ref, start, stop, cut_ct, left[0])
    ties_sft = _ties_here(sft, ref, start, stop, cut_sft, left[1])
    low_ct = np.int32(cut_ct + (1 if left[0] == 0 else 0))
    low_sft = np.int32(cut_sft + (1 if left[1] == 0 else 0))
    if (left[0] > 0 and ties_ct > left[0]) or (left[1] > 0 and ties_sft > left[1]):
        # Once a model, somewhere in this block, no more ties are kept: stop there.
        stop = _same_cut(ct, ref, start, stop, cut_ct, left[0])
        stop = _same_cut(sft, ref, start, stop, cut_sft, left[1])
        ties_ct = _ties_here(ct, ref, start, stop, cut_ct, left[0])
        ties_sft = _ties_here(sft, ref, start, stop, cut_sft, left[1])
    left[0] -= ties_ct
    left[1] -= ties_sft
    return stop, low_ct, low_sft


@njit(inline="always")
def _kept(tau, low):
    return tau if _key(tau) >= low else np.float32(0)


def _raised(vote, factor, bonus):  # pragma: no cover - replaced by its overload
    raise NotImplementedError


@overload(_raised, inline="always")
def _overload_raised(vote, factor, bonus):
    """The SFT vote with its slack; an infinite bonus never out-votes it (0 * inf is not asked)."""
    if isinstance(bonus, types.NoneType):
        return lambda vote, factor, bonus: vote * factor

    def raised(vote, factor, bonus):
        return vote + (bonus if vote > 0 else (-bonus if vote < 0 else np.float32(0)))

    return raised


def _shared(total, by, inverse):  # pragma: no cover - replaced by its overload
    raise NotImplementedError


@overload(_shared, inline="always")
def _overload_shared(total, by, inverse):
    """A total divided by how many share in it, or times the inverse of that, which is faster."""
    if isinstance(inverse, types.NoneType):
        return lambda total, by, inverse: total / by
    return lambda total, by, inverse: total * by


def _times(x, weight, scaled):  # pragma: no cover - replaced by its overload
    raise NotImplementedError


@overload(_times, inline="always")
def _overload_times(x, weight, scaled):
    """A product that is left out where every weight is 1."""
    if isinstance(scaled, types.NoneType):
        return lambda x, weight, scaled: x
    return lambda x, weight, scaled: x * weight


def _poison(a, watched):  # pragma: no cover - replaced by its overload
    raise NotImplementedError


@overload(_poison, inline="always")
def _overload_poison(a, watched):
    """0; NaN where a slack would out-vote an infinite entry of CT unseen."""
    if isinstance(watched, types.NoneType):
        return lambda a, watched: np.float32(0)
    return lambda a, watched: a - a


def _larger(largest, merged, watched):  # pragma: no cover - replaced by its overload
    raise NotImplementedError


@overload(_larger, inline="always")
def _overload_larger(largest, merged, watched):
    """The larger of a key and that of a number, where somebody wants to know."""
    if isinstance(watched, types.NoneType):
        return lambda largest, merged, watched: largest

    def larger(largest, merged, watched):
        key = _key(merged)
        return key if key > largest else largest

    return larger


@njit(inline="always")
def _turned(x, turn):
    return np.int32(np.float32(x).view(np.int32) ^ turn).view(np.float32)


@njit(inline="always")
def _agreeing(x):
    # Not a maximum: NaN has to stay, so that it is found in the result.
    return np.float32(0) if x < 0 else x


@njit(**_COMPILE)
def _merge_segment(
    base, ct, sft, ref, out, low_ct, low_sft, scalars, bonus, inverse, scaled, watched
):
    before_ct, before_sft = scalars[BEFORE_CT], scalars[BEFORE_SFT]
    factor, floor = scalars[FACTOR], scalars[FLOOR]
    after_ct, after_sft = scalars[AFTER_CT], scalars[AFTER_SFT]
    only_ct, only_sft, both = scalars[ONLY_CT], scalars[ONLY_SFT], scalars[BOTH]
    lambda_ = scalars[LAMBDA]
    largest = np.int32(0)
    for i in range(len(out)):
        a = _times(_kept(_delta(ct, ref, i), low_ct), before_ct, scaled)
        b = _times(_kept(_delta(sft, ref, i), low_sft), before_sft, scaled)
        plus = a + _raised(b, factor, bonus) >= floor
        poison = _poison(a, watched)
        # With the signs turned so that the elected one is +, what agrees is a maximum.
        turn = np.int32(0) if plus else _SIGN
        a, b = _agreeing(_turned(a, turn)), _agreeing(_turned(b, turn))
        by_ct = only_ct if a != 0 else np.float32(1)
        by_sft = both if a != 0 else only_sft
        by = by_sft if b != 0 else by_ct
        a, b = _times(a, after_ct, scaled), _times(b, after_sft, scaled)
        total = _shared(a + b, by, inverse) + poison
        merged = _value(base[i]) + _times(_turned(total, turn), lambda_, scaled)
        largest = _larger(largest, merged, watched)
        out[i] = _stored(merged, out[i])
    return largest


@njit(**_COMPILE)
def merge_ties(base, ct, sft, ref, out, cuts, left, scalars, bonus, inverse, scaled, watched):
    """Trim, elect, combine and add to the base.

    bonus: what additive slack adds to SFT's vote; None for multiplicative slack or none.
    inverse: True where the scalars `ONLY_CT`, `ONLY_SFT` and `BOTH` are the inverses of what is
    divided by; None where not. scaled: None where all weights and lambda are 1, else True.
    watched: None for numbers that are known to be finite, of which nothing is returned.
    Returns the largest key of the result: `NOT_FINITE` or more where an input was NaN or infinite
    (neither is trimmed nor out-voted), or where the result is too large for fp32.
    """
    n, start, largest = len(out), 0, np.int32(0)
    while start < n:
        stop, low_ct, low_sft = _segment(ct, sft, ref, start, n, cuts, left)
        made = _merge_segment(
            base[start:stop],
            ct[start:stop],
            sft[start:stop],
            _cut(ref, start, stop),
            out[start:stop],
            low_ct,
            low_sft,
            scalars,
            bonus,
            inverse,
            scaled,
            watched,
        )
        largest = max(largest, made)
        start = stop
    return largest


@njit(**_COMPILE)
def _signs(ct, sft, ref, low_ct, low_sft, scalars, bonus):
    before_ct, before_sft, factor = scalars[BEFORE_CT], scalars[BEFORE_SFT], scalars[FACTOR]
    plus, minus = np.int32(0), np.int32(0)
    for i in range(len(ct)):
        a = _kept(_delta(ct, ref, i), low_ct) * before_ct
        b = _kept(_delta(sft, ref, i), low_sft) * before_sft
        lean = a + _raised(b, factor, bonus)
        plus, minus = _one_more(plus, lean > 0), _one_more(minus, lean < 0)
    return plus, minus


@njit(**_COMPILE)
def majority(ct, sft, ref, cuts, left, scalars, bonus):
    """The sum of the signs that the entries lean to, before any tie rule."""
    total = np.int64(0)
    n, start = len(ct), 0
    while start < n:
        stop, low_ct, low_sft = _segment(ct, sft, ref, start, n, cuts, left)
        there = _cut(ref, start, stop)
        plus, minus = _signs(
            ct[start:stop], sft[start:stop], there, low_ct, low_sft, scalars, bonus
        )
        total += np.int64(plus) - np.int64(minus)
        start = stop
    return total


# The votes are rounded one by one; only their squares may be added up in any order.
@njit(fastmath={"reassoc", "nsz"}, **_COMPILE)
def _sum_squares(sft, ref, low, weight):
    total, votes = 0.0, np.int32(0)
    for i in range(len(sft)):
        b = _kept(_delta(sft, ref, i), low) * weight
        total += np.float64(b) * np.float64(b)
        votes += np.int32(1) if b != 0 else np.int32(0)
    return total, votes


@njit(**_COMPILE)
def squares(sft, ref, cuts, left, weight):
    """The sum of squares of the SFT votes, and how many there are: what their rms needs."""
    total, votes = 0.0, np.int64(0)
    n, start = len(sft), 0
    while start < n:
        stop, _, low = _segment(sft, sft, ref, start, n, cuts, left)
        found, counted = _sum_squares(sft[start:stop], _cut(ref, start, stop), low, weight)
        total += found
        votes += counted
        start = stop
    return total, votes


@njit(**_COMPILE)
def add_weighted(base, ct, sft, ref, out, weight_ct, weight_sft, by, lambda_):
    """The base plus lambda times the weighted sum of the task vectors, divided by `by`.

    Returns the largest key of the result, as `merge_ties`.
    """
    largest = np.int32(0)
    for i in range(len(out)):
        total = _delta(ct, ref, i) * weight_ct + _delta(sft, ref, i) * weight_sft
        merged = _value(base[i]) + total / by * lambda_
        key = _key(merged)
        largest = key if key > largest else largest
        out[i] = _stored(merged, out[i])
    return largest


@njit(**_COMPILE)
def average(ct, sft, out, weight_ct, weight_sft, by):
    """The weighted sum of two models, divided by `by`; returns the largest key as `merge_ties`."""
    largest = np.int32(0)
    for i in range(len(out)):
        merged = (_value(ct[i]) * weight_ct + _value(sft[i]) * weight_sft) / by
        key = _key(merged)
        largest = key if key > largest else largest
        out[i] = _stored(merged, out[i])
    return largest


#: What `diagnose` sums once: squares of CT and SFT, their product, entries where both survive,
#: those of opposite sign, then for CT and for SFT: L1 of all, survivors' count, L1, L2.
ONCE = 13
#: And for every slack: how often SFT wins a conflict, L1 and L2 of CT there, L1 and L2 of SFT
#: where it loses one.
PER_SLACK = 5


@njit(**_COMPILE)
def _votes(ct, sft, ref, low_ct, low_sft, weights, tau_ct, tau_sft, vote_ct, vote_sft):
    """The task vectors and the votes of some entries, which `diagnose` looks at several times."""
    weight_ct, weight_sft = weights[0], weights[1]
    for i in range(len(ct)):
        a, b = _delta(ct, ref, i), _delta(sft, ref, i)
        tau_ct[i], tau_sft[i] = a, b
        a, b = _kept(a, low_ct) * weight_ct, _kept(b, low_sft) * weight_sft
        vote_ct[i], vote_sft[i] = a, b


# Sums may be taken in any order here: elections are done by then.
@njit(fastmath={"reassoc", "nsz"}, **_COMPILE)
def _sum_once(tau_ct, tau_sft, vote_ct, vote_sft, once):
    square_ct = square_sft = product = l1_ct = l1_sft = 0.0
    both = conflicts = n_ct = n_sft = np.int32(0)
    kept_ct = kept_sft = kept2_ct = kept2_sft = 0.0
    for i in range(len(tau_ct)):
        x, y = np.float64(tau_ct[i]), np.float64(tau_sft[i])
        one, other = vote_ct[i] != 0, vote_sft[i] != 0
        square_ct += x * x
        square_sft += y * y
        product += x * y
        l1_ct += abs(x)
        l1_sft += abs(y)
        both += np.int32(1) if one & other else np.int32(0)
        opposite = (vote_ct[i] > 0) != (vote_sft[i] > 0)
        conflicts += np.int32(1) if one & other & opposite else np.int32(0)
        n_ct += np.int32(1) if one else np.int32(0)
        n_sft += np.int32(1) if other else np.int32(0)
        x, y = (x if one else 0.0), (y if other else 0.0)
        kept_ct += abs(x)
        kept_sft += abs(y)
        kept2_ct += x * x
        kept2_sft += y * y
    once[0] += square_ct
    once[1] += square_sft
    once[2] += product
    once[3] += both
    once[4] += conflicts
    once[5] += l1_ct
    once[6] += n_ct
    once[7] += kept_ct
    once[8] += kept2_ct
    once[9] += l1_sft
    once[10] += n_sft
    once[11] += kept_sft
    once[12] += kept2_sft


@njit(**_COMPILE)
def _wins(vote_ct, vote_sft, factor, bonus, floor, wins):
    """1 where SFT wins a conflict, -1 where it loses one, 0 where there is none."""
    for i in range(len(vote_ct)):
        a, b = vote_ct[i], vote_sft[i]
        lean = a + (b * factor + (bonus if b > 0 else (-bonus if b < 0 else np.float32(0))))
        conflict = (a != 0) & (b != 0) & ((a > 0) != (b > 0))
        won = (lean >= floor) == (b > 0)
        outcome = np.float32(1) if won else np.float32(-1)
        wins[i] = outcome if conflict else np.float32(0)


@njit(fastmath={"reassoc", "nsz"}, **_COMPILE)
def _sum_wins(tau_ct, tau_sft, wins, found):
    won, l1_ct, l2_ct, l1_sft, l2_sft = np.int32(0), 0.0, 0.0, 0.0, 0.0
    for i in range(len(wins)):
        x = np.float64(tau_ct[i]) if wins[i] > 0 else 0.0
        y = np.float64(tau_sft[i]) if wins[i] < 0 else 0.0
        won += np.int32(1) if wins[i] > 0 else np.int32(0)
        l1_ct += abs(x)
        l2_ct += x * x
        l1_sft += abs(y)
        l2_sft += y * y
    found[0] += won
    found[1] += l1_ct
    found[2] += l2_ct
    found[3] += l1_sft
    found[4] += l2_sft


@njit(**_COMPILE)
def diagnose(ct, sft, ref, cuts, left, weights, factors, bonuses, floors, once, slacks):
    """Add up the fates of all entries for many slacks; weights: [CT, SFT], before the election.

    A slack is a factor, a bonus and a `FLOOR`: (1 + slack, 0, .) or (1, slack * rms, .). once
    (fp64, `ONCE`) and slacks (fp64, one row of `PER_SLACK` for each) are added to. Returns the
    largest key of the task vectors.
    """
    n, start = len(ct), 0
    tau_ct, tau_sft = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    vote_ct, vote_sft = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    wins = np.empty(_BLOCK, np.float32)
    largest = np.int32(0)
    while start < n:
        end = min(start + _BLOCK, n)
        stop, low_ct, low_sft = _segment(ct, sft, ref, start, end, cuts, left)
        size = stop - start
        taus, votes = (tau_ct[:size], tau_sft[:size]), (vote_ct[:size], vote_sft[:size])
        here, there = _cut(ref, start, stop), wins[:size]
        _votes(
            ct[start:stop],
            sft[start:stop],
            here,
            low_ct,
            low_sft,
            weights,
            taus[0],
            taus[1],
            votes[0],
            votes[1],
        )
        largest = max(largest, max(_largest(taus[0]), _largest(taus[1])))
        _sum_once(taus[0], taus[1], votes[0], votes[1], once)
        for s in range(len(factors)):
            _wins(votes[0], votes[1], factors[s], bonuses[s], floors[s], there)
            _sum_wins(taus[0], taus[1], there, slacks[s])
        start = stop
    return largest


@njit(**_COMPILE)
def _largest(values):
    largest = np.int32(0)
    for i in range(len(values)):
        key = _key(values[i])
        largest = key if key > largest else largest
    return largest
