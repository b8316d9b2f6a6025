"""Whether the committed results come out again: a random part of them, computed anew.

What is drawn is a *block*: all models of one slice (a language on a base with a run seed) at one
CT budget, with those that have no CT. The draw is seeded, so that two readers verify the same
blocks, and a reader who doubts them draws others. A block costs its own training alone: the CT
run up to its budget, the fine-tunings on top of it and its merges. Nothing is read from the
store.

On the same versions and the same type of processor every number has to come out identical.
Elsewhere sums are taken in another order, training carries the last bits on, and answers near a
tie turn: there the tolerances below hold. They are some times what was measured: the fourteen
trained models of one block (Bengali, three budgets) on another machine than that of the committed
rows were off by one item of 150 at most, and by less than 3 in 100,000 of their bits per byte.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from langmerge import paths, profiles, reference, study
from langmerge.errors import LangmergeError
from langmerge.profiles import Profile
from langmerge.provenance import PACKAGES, provenance
from langmerge.reference import PROFILE, Slice

#: The part of the models that is computed anew.
SHARE = 0.1
#: Budgets of one slice that are drawn together: their CT runs are one run.
TOGETHER = 3
#: What may differ on other versions or another processor, a row: accuracy in shares, and bits
#: per byte as a part of the committed value.
TOLERANCE = {"accuracy": 0.02, "bits_per_byte": 0.001}
#: What has to be the same for every number to be identical.
SAME = ("python", "platform", "machine", "cpu", "lab_device", *PACKAGES)
_KEY = ["language", "base", "seed", "ct_tokens", "method", "setting", "slack", "task", "metric"]


@dataclass(frozen=True)
class Block:
    """Some CT budgets of a slice."""

    slice: Slice
    budgets: tuple[int, ...]


@dataclass(frozen=True)
class Report:
    """What came out.

    blocks: a row a block and budget: base, seed, language, ct_tokens, models, numbers, same (how
        many are identical), accuracy and bits (the largest differences, in shares and as parts of
        the committed value), exact (whether they had to be identical), holds.
    differing: the rows beyond what is allowed: the committed `value`, and the one `found`.
    elsewhere: what is another than when the rows were computed, with both values; empty where
        identity was asked for.
    """

    blocks: pd.DataFrame
    differing: pd.DataFrame
    elsewhere: list[str]

    @property
    def holds(self) -> bool:
        """Whether everything came out as it has to."""
        return self.differing.empty


def check(profile: str = PROFILE) -> list[Slice]:
    """The slices of a profile that are there, after a check that they are what they say.

    Raises LangmergeError, naming the hash that differs, for a file that was edited, for results
    of other stage versions, settings or texts, and for rows from another base than there is.
    """
    how = profiles.load(profile)
    there = [one for one in reference.slices(how) if one.told()]
    for one in there:
        one.require_whole()
        differing = one.differs(how)
        if differing:
            raise LangmergeError(
                f"{one.folder} was computed from something else than there is now: "
                f"{'; '.join(differing)}. Compute it anew with `langmerge reference --profile "
                f"{profile}`, or check out the commit that its provenance names."
            )
    if not there:
        raise LangmergeError(
            f"profile {profile!r} has no results to verify: `langmerge reference --profile "
            f"{profile}` makes them."
        )
    return there


def draw(
    there: list[Slice], how: Profile, share: float = SHARE, seed: int = 0, limit: int | None = None
) -> list[Block]:
    """A random part of the slices' budgets, a few of a slice together, from the generator `seed`.

    limit: at most so many slices. Raises LangmergeError for a share that is none.
    """
    if not 0 < share <= 1:
        raise LangmergeError(f"a share of the models lies above 0 and at most at 1, not {share}.")
    rng = np.random.default_rng(seed)
    left = math.ceil(share * len(there) * len(how.budgets))
    blocks = []
    for index in rng.permutation(len(there)):
        if left <= 0:
            break
        some = rng.permutation(how.budgets)[: min(TOGETHER, left)]
        # Some models of families are made of several budgets: of the shortest and longest update.
        if share == 1 or how.families:
            some = how.budgets
        blocks.append(Block(there[index], tuple(sorted(int(budget) for budget in some))))
        left -= len(some)
    return blocks[:limit]


def seconds(blocks: list[Block], how: Profile) -> list[float]:
    """About what each block takes: its part of what its slice does, by `reference.plan`."""
    slices = reference.plan(how.name).set_index(["base", "seed", "language"])["seconds"]
    return [
        slices[block.slice.base, block.slice.seed, block.slice.language]
        * len(block.budgets)
        / len(how.budgets)
        for block in blocks
    ]


def verify(
    profile: str = PROFILE,
    share: float = SHARE,
    seed: int = 0,
    limit: int | None = None,
    processes: int | None = None,
    quiet: bool = False,
) -> Report:
    """Compute a random part of the committed results anew, and compare.

    Raises LangmergeError as `check` and `draw`.
    """
    how = profiles.load(profile)
    found, differing, elsewhere = [], [], []
    for block in draw(check(profile), how, share, seed, limit):
        one = block.slice
        with _empty_store():
            anew = study.run(
                language=one.language,
                profile=profile,
                seeds=[one.seed],
                bases=[one.base],
                budgets=list(block.budgets),
                processes=processes,
                quiet=quiet,
            )
        other = _elsewhere(one.told())
        pairs = compare(reference.read(one, "rows"), anew.rows, exact=not other)
        found.append(_by_budget(pairs, one, exact=not other))
        differing.append(pairs[~pairs["holds"]])
        elsewhere += [it for it in other if it not in elsewhere]
    return Report(pd.concat(found, ignore_index=True), pd.concat(differing), elsewhere)


def compare(committed: pd.DataFrame, anew: pd.DataFrame, exact: bool) -> pd.DataFrame:
    """Committed rows beside the ones computed anew, one a model, task and metric.

    exact: whether they have to be identical. Columns: what names a row, `value`, `found`,
    `difference` (as a part of the value for bits per byte), `holds`. A row that one side lacks is
    there with NaN, and does not hold.
    """
    budgets = anew["ct_tokens"].unique()
    committed = committed[committed["ct_tokens"].isin(budgets)]
    ours, theirs = (it.drop_duplicates(_KEY)[[*_KEY, "value"]] for it in (committed, anew))
    pairs = ours.merge(theirs.rename(columns={"value": "found"}), how="outer", on=_KEY)
    difference = (pairs["found"] - pairs["value"]).abs()
    relative = pairs["metric"] == "bits_per_byte"
    pairs["difference"] = difference.where(~relative, difference / pairs["value"])
    allowed = 0.0 if exact else pairs["metric"].map(TOLERANCE)
    return pairs.assign(holds=pairs["difference"] <= allowed)


def in_common(committed: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """The rows that two runs both have of the same models; as `compare`, elsewhere's tolerances."""
    return compare(committed, other, exact=False).dropna(subset=["value", "found"])


def _by_budget(pairs: pd.DataFrame, one: Slice, exact: bool) -> pd.DataFrame:
    rows = []
    for budget, part in pairs.groupby("ct_tokens"):
        largest = part.groupby("metric")["difference"].max()
        rows.append(
            {
                "base": one.base,
                "seed": one.seed,
                "language": one.language,
                "ct_tokens": budget,
                "models": len(part.drop_duplicates(["method", "setting", "slack"])),
                "numbers": len(part),
                "same": int((part["difference"] == 0).sum()),
                "accuracy": largest["accuracy"],
                "bits": largest["bits_per_byte"],
                "exact": exact,
                "holds": bool(part["holds"].all()),
            }
        )
    return pd.DataFrame(rows)


def _elsewhere(told: dict[str, object]) -> list[str]:
    """What is another now than a provenance says, or what it does not say."""
    now, told = provenance(), {"lab_device": "cpu"} | told  # before there was a choice
    return [
        f"{name} {told.get(name, 'not recorded')}, here {now[name]}"
        for name in SAME
        if told.get(name) != now[name]
    ]


@contextlib.contextmanager
def _empty_store() -> Iterator[None]:
    """A store of its own for a while, so that nothing is found that was computed before."""
    before = os.environ.get("LANGMERGE_STORE")
    paths.home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="verify-", dir=paths.home()) as folder:
        os.environ["LANGMERGE_STORE"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["LANGMERGE_STORE"]
            else:
                os.environ["LANGMERGE_STORE"] = before
