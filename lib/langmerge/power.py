"""What a run of so many languages, bases and seeds could show, from a pilot.

The pilot is a study of the development languages, which are not reported. It gives, for every
claim, an effect by language, base and seed. Runs are drawn from these: the effect of a language
departs from the mean by a normal draw with the covariance, over all claims, that the pilot's
languages have; bases depart likewise, and seeds within a language and base. Each drawn run is put
to the decision rule of ``data/claims.yaml``, Holm and all, and the share of runs that end in each
verdict is the power.

Two things limit it. Two languages say little of how much languages differ (one degree of
freedom), so the table has a row with twice their spread as well. One base says nothing of how
much bases differ: that is taken from the run on several bases (`other_bases`), for the claims that
it has the models of, and assumed as a part of the languages' spread for the others. A base's mean
there is that of two run seeds, each with an English SFT expert of its own, whose luck is thus in
the spread of the bases.
The spread of the pilot's languages contains some of its seeds' noise, which makes power a little
too small rather than too large.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from langmerge import claims, paths, statistics
from langmerge.claims import Claim
from langmerge.errors import LangmergeError
from langmerge.files import write_text
from langmerge.statistics import Effect, Results

PROFILE = "pilot"
FILE = "power.csv"
TRIALS = 1_000
#: How much bases differ where it is not measured, as a part of how much languages do.
BASE_SPREAD = 0.5
#: Of the larger designs that stand beside the reference run's.
BASES = (3, 12)
#: The true effects that runs are drawn with, by what the table calls them.
TRUTHS = ("as in the pilot", "the smallest of interest", "twice the smallest")
SPREADS = (1.0, 2.0)
_RUN = ["language", "base", "seed"]


@dataclass(frozen=True)
class Design:
    """How large a run is."""

    languages: int
    bases: int
    seeds: int


def design(profile: str = "reference") -> Design:
    """The design of a profile."""
    from langmerge import profiles

    how = profiles.load(profile)
    return Design(len(how.languages), len(how.bases), len(how.seeds))


def designs() -> list[Design]:
    """What the power is computed for: the runs as far as they are, as planned, and larger."""
    from langmerge import other_bases, reference

    planned = design()
    larger = [Design(planned.languages, bases, max(planned.seeds, 2)) for bases in BASES]
    there = [run for run in (reference.load(), other_bases.all_bases()) if run is not None]
    found = [Design(len(it.languages), it.rows["base"].nunique(), len(it.seeds)) for it in there]
    return list(dict.fromkeys([*found[:1], planned, *found[1:], *larger]))


def bases_apart(stated: Sequence[Claim]) -> pd.DataFrame | None:
    """How the bases of the run on several lie apart: their mean effects, a column a claim.

    Of the claims that it has the models of; None where there is no such run.
    """
    from langmerge import other_bases

    if (run := other_bases.all_bases()) is None:
        return None
    judged = claims.judge_all(run, stated)
    there = [claim for claim in stated if judged[claim.id].verdict != claims.NOT_TESTED]
    return pd.DataFrame({it.id: claims.by_base(run, it) for it in there})


def effects(results: Results, stated: Sequence[Claim]) -> pd.DataFrame:
    """Every claim's effect (columns) in each language, base and seed of a pilot (rows).

    Raises LangmergeError where the pilot has one language or one seed alone.
    """
    found = pd.DataFrame({claim.id: claims.by_seed(results, claim) for claim in stated})
    languages = found.index.get_level_values("language").nunique()
    seeds = found.groupby(["language", "base"]).size().min()
    if languages < 2 or seeds < 2:
        raise LangmergeError(
            f"a pilot of {languages} language(s) and {seeds} seed(s) does not say how much they "
            "differ: give it two of each at least."
        )
    return found


def simulate(
    pilot: pd.DataFrame,
    stated: Sequence[Claim],
    size: Design,
    steady: dict[str, float] | None = None,
    trials: int = TRIALS,
    base_spread: float = BASE_SPREAD,
    seed: int = 0,
    bases: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The share of drawn runs that end in each verdict, a row a claim, truth and spread.

    pilot: as `effects` gives. steady: by monotone claim the share of the pilot's seeds that move
    to the claimed side at every step. bases: as `bases_apart` gives, for the claims of which the
    spread of the bases is measured; that of the others is `base_spread` of the languages'.
    Columns: claim, truth, effect, spread (of the languages, as a multiple of the pilot's), holds,
    fails, inconclusive.
    Raises LangmergeError for a design without several languages.
    """
    if size.languages < 2 or size.bases < 1 or size.seeds < 1:
        raise LangmergeError(
            f"power is that of several languages on one base or more, not of {size.languages} "
            f"language(s), {size.bases} base(s) and {size.seeds} seed(s)."
        )
    rows = []
    for spread in SPREADS:
        rng = np.random.default_rng(seed)
        apart = _departures(pilot, size, trials, spread, base_spread, bases, rng)
        for truth in TRUTHS:
            mean = np.array([_true(claim, truth, pilot[claim.id].mean()) for claim in stated])
            words = _decided(apart + mean, stated, size, steady or {}, rng)
            rows += [
                {"claim": claim.id, "truth": truth, "effect": effect, "spread": spread}
                | {word: float(np.mean(its == word)) for word in ("holds", "fails", "inconclusive")}
                for claim, effect, its in zip(stated, mean, words, strict=True)
            ]
    return pd.DataFrame(rows)


def measure(
    sizes: Sequence[Design] | None = None,
    profile: str = PROFILE,
    trials: int = TRIALS,
    base_spread: float | None = None,
) -> pd.DataFrame:
    """The power of designs (see `designs`) from a pilot that was run, kept in ``data``.

    base_spread: how much bases differ, as a part of how much languages do; where it is not given
    it is the measured one (`bases_apart`), and `BASE_SPREAD` for what is not measured.
    Raises LangmergeError where the pilot is not complete.
    """
    from langmerge import reference

    if not reference.plan(profile)["done"].all():
        raise LangmergeError(
            f"the pilot {profile!r} is not complete: `langmerge power` runs what is missing."
        )
    found = reference.load(profile)
    stated = [
        claim for claim in claims.load() if claims.judge_all(found, [claim])[claim.id].languages
    ]
    steady = {claim.id: claims.steady_share(found, claim) for claim in stated if claim.monotone}
    pilot, bases = effects(found, stated), bases_apart(stated) if base_spread is None else None
    part = BASE_SPREAD if base_spread is None else base_spread
    table = pd.concat(
        simulate(pilot, stated, size, steady, trials, part, bases=bases).assign(
            languages=size.languages, bases=size.bases, seeds=size.seeds
        )
        for size in sizes or designs()
    )
    spreads = {} if bases is None else dict.fromkeys(bases, f"measured on {len(bases)} bases")
    table = table.assign(
        base_spread=table["claim"].map(spreads).fillna(f"{part:g} of the languages'"),
        trials=trials,
        pilot=f"{' and '.join(found.languages)}, seeds {', '.join(map(str, found.seeds))}",
    )
    write_text(paths.data() / FILE, table.to_csv(index=False))
    return table


def load() -> pd.DataFrame | None:
    """The table as it was made last; None before the first pilot."""
    path = paths.data() / FILE
    return pd.read_csv(path) if path.is_file() else None


def page() -> str:
    """The table as Markdown for the book: the share of runs in which each claim would hold."""
    table = load()
    if table is None:
        return "No pilot has been run yet; `langmerge power` runs it.\n"
    parts = [part for _, part in table.groupby(["languages", "bases", "seeds"], sort=False)]
    return "\n".join(f"{_told(part)}\n{_as_markdown(part)}" for part in parts)


def _told(table: pd.DataFrame) -> str:
    """What one design's numbers were computed from."""
    one = table.iloc[0]
    spreads = table.groupby("base_spread", sort=False)["claim"].unique()
    told = [spreads.index[0], *(f"{it} for {', '.join(spreads[it])}" for it in spreads.index[1:])]
    return (
        f"From {one['trials']:,} drawn runs of {one['languages']} languages on {one['bases']} "
        f"base(s) with {one['seeds']} seed(s) each; pilot: {one['pilot']}; spread of the bases: "
        f"{', and '.join(told)}.\n"
    )


def _as_markdown(table: pd.DataFrame) -> str:
    metrics = {claim.id: claim.metric for claim in claims.load()}
    heads = [f"{truth}, spread × {spread:g}" for truth in TRUTHS for spread in SPREADS]
    lines = [f"| Claim | Effect in the pilot | {' | '.join(heads)} |"]
    lines.append("|---" * (2 + len(heads)) + "|")
    for name, part in table.groupby("claim", sort=False):
        at = part.set_index(["truth", "spread"])
        said = [
            f"{at.loc[(truth, spread), 'holds']:.2f} ({at.loc[(truth, spread), 'fails']:.2f})"
            for truth in TRUTHS
            for spread in SPREADS
        ]
        pilot = at.loc[(TRUTHS[0], SPREADS[0]), "effect"]
        metric = metrics.get(name)
        shown = f"{claims.as_text(metric, pilot)} {claims.shown(metric, 0.0)[1]}" if metric else ""
        lines.append(f"| {name} | {shown} | {' | '.join(said)} |")
    return "\n".join(lines) + "\n"


def _true(claim: Claim, truth: str, pilot: float) -> float:
    """The mean effect that runs are drawn with; where equality is claimed, none."""
    if truth == TRUTHS[0]:
        return pilot
    if claim.test == "non_inferiority":
        return 0.0
    size = claim.smallest_effect * (2 if truth == TRUTHS[2] else 1)
    return size if claim.side == "greater" else -size


def _departures(
    pilot: pd.DataFrame,
    size: Design,
    trials: int,
    spread: float,
    base_spread: float,
    bases: pd.DataFrame | None,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """How far drawn effects lie from the mean: shape (trials, languages, bases, claims).

    Normal draws with the pilot's sample covariances between claims, at each level, and with those
    of measured bases.
    """
    runs = pilot.groupby(["language", "base"])
    within, freedom = pilot - runs.transform("mean"), len(pilot) - runs.ngroups
    languages = _root(pilot.groupby("language").mean())
    of_bases = base_spread * languages
    if bases is not None:
        is_known = pilot.columns.isin(bases.columns)
        measured = np.nan_to_num(_root(bases.reindex(columns=pilot.columns)))
        of_bases = np.vstack([np.where(is_known, 0.0, of_bases), measured])

    def drawn(shape: tuple[int, ...], root: NDArray[np.float64]) -> NDArray[np.float64]:
        return rng.normal(size=(*shape, len(root))) @ root

    noise = within.to_numpy() / np.sqrt(freedom * size.seeds)  # the mean of so many seeds
    return (
        spread * drawn((trials, size.languages, 1), languages)
        + drawn((trials, 1, size.bases), of_bases)
        + drawn((trials, size.languages, size.bases), noise)
    )


def _root(units: pd.DataFrame) -> NDArray[np.float64]:
    """A matrix that turns independent draws, one a unit, into ones of the units' covariance."""
    return (units - units.mean()).to_numpy() / np.sqrt(len(units) - 1)


def _decided(
    drawn: NDArray[np.float64],
    stated: Sequence[Claim],
    size: Design,
    steady: dict[str, float],
    rng: np.random.Generator,
) -> list[NDArray[np.str_]]:
    """Every claim's verdict in each drawn run, by the rule of the claims."""
    pooled = statistics.pool_many(np.moveaxis(drawn, -1, 0))
    p = np.stack([_p(claim, pooled, index) for index, claim in enumerate(stated)])
    for finding in {claim.finding for claim in stated}:
        some = [index for index, claim in enumerate(stated) if claim.finding == finding]
        p[some] = statistics.holm(p[some].T).T
    runs = size.languages * size.bases * size.seeds
    names = ("estimate", "low", "high", "p", "se", "df")
    words = []
    for index, claim in enumerate(stated):
        each = zip(*(pooled[name][index] for name in names), strict=True)
        found = [Effect(*values, runs, size.languages, size.seeds) for values in each]
        moves = rng.uniform(size=len(found)) < steady.get(claim.id, 1.0) ** runs
        rule = zip(found, p[index], moves, strict=True)
        words.append(np.array([claims.decide(claim, *one) for one in rule]))
    return words


def _p(claim: Claim, pooled: dict[str, NDArray[np.float64]], index: int) -> NDArray[np.float64]:
    """As `claims.p_value`, of all drawn runs at once."""
    if claim.test != "non_inferiority":
        return pooled["p"][index]
    sign = 1 if claim.side == "greater" else -1
    distance = claim.margin + sign * pooled["estimate"][index]
    return stats.t.sf(distance / pooled["se"][index], pooled["df"][index])
