"""How often the intervals hold the truth: simulated, where the truth is known.

A 95 % interval is one by its assumptions, and few units stretch these. What is simulated is what
the study does: right and wrong answers paired by item and clustered by concept; effects of
languages, of a normal and of a skewed spread; and languages crossed with bases. The table is
kept in ``data/coverage.csv`` (`langmerge coverage` makes it anew) and shown beside the verdicts.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from langmerge import paths, statistics
from langmerge.errors import LangmergeError
from langmerge.files import write_text

FILE = "coverage.csv"
TRIALS = 4_000
#: Trials of the bootstrap, which resamples each of them.
BOOTSTRAP_TRIALS = 1_000
RESAMPLES = 999
CONCEPTS = (5, 10, 20, 40, 60)
LANGUAGES = (3, 5, 7, 10, 16, 30, 60)
#: How much bases differ, as a part of how much languages do.
BASE_SPREADS = (0.0, 0.25, 0.5, 1.0)
COLUMNS = ("units", "number", "spread", "interval", "trials", "coverage", "low", "high")
Bounds = tuple[NDArray[np.float64], NDArray[np.float64]]


def simulate(trials: int = TRIALS, bootstrap_trials: int = BOOTSTRAP_TRIALS) -> pd.DataFrame:
    """The share of 95 % intervals that hold the truth, a row a design and interval.

    Columns: units (concepts, languages, languages and bases), number (of them), spread (of the
    effects), interval, trials, coverage, low and high (Wilson's interval of the coverage).
    """
    rng = np.random.default_rng(53)
    rows = [
        *(
            _row("concepts", n, "answers", "t, clustered", _concepts(rng, n, trials))
            for n in CONCEPTS
        ),
        *_of_languages(rng, bootstrap_trials),
        *_of_bases(rng, trials),
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def measure() -> pd.DataFrame:
    """Simulate, and write the table into ``data/coverage.csv``."""
    table = simulate()
    write_text(paths.data() / FILE, table.to_csv(index=False))
    return table


def load() -> pd.DataFrame:
    """The table as it was made last; LangmergeError where it is missing."""
    path = paths.data() / FILE
    if not path.is_file():
        raise LangmergeError(f"{path} is missing: make it with `langmerge coverage`.")
    return pd.read_csv(path)


def _row(units: str, number: object, spread: str, interval: str, held: NDArray) -> tuple:
    low, high = statistics.wilson(int(held.sum()), held.size)
    return units, str(number), spread, interval, held.size, float(held.mean()), low, high


def _holds(bounds: Bounds, truth: float) -> NDArray[np.bool_]:
    return (bounds[0] <= truth) & (truth <= bounds[1])


def _around(middle: NDArray, standard_error: NDArray, units: int) -> Bounds:
    half = stats.t.ppf((1 + statistics.LEVEL) / 2, units - 1) * standard_error
    return middle - half, middle + half


def _concepts(
    rng: np.random.Generator, clusters: int, trials: int, items: int = 150, strata: int = 2
) -> NDArray[np.bool_]:
    """Paired answers of two models, right at .6 and .5, skills and sizes uneven by concept."""
    concept = rng.choice(clusters, (strata, items), p=rng.dirichlet(np.full(clusters, 3.0)))
    skill = rng.normal(0, 0.12, (trials, 2, clusters))
    differences = [
        (rng.uniform(size=(trials, items)) < 0.6 + skill[:, 0][:, its]).astype(float)
        - (rng.uniform(size=(trials, items)) < 0.5 + skill[:, 1][:, its])
        for its in concept
    ]
    estimate, error, units = statistics.cluster_robust(
        np.concatenate(differences, axis=1), concept.ravel(), np.repeat(np.arange(strata), items)
    )
    return _holds(_around(estimate, error, units), 0.1)


def _of_languages(rng: np.random.Generator, trials: int) -> Iterator[tuple]:
    """t, BCa and the percentile bootstrap over languages whose effects are 0 in the mean."""
    spreads = {
        "normal": lambda size: rng.normal(0, 1, size),
        "skewed": lambda size: rng.exponential(1, size) - 1,
    }
    for spread, draw in spreads.items():
        for number in LANGUAGES:
            values = draw((trials, number))
            t = _around(values.mean(axis=1), stats.sem(values, axis=1), number)
            yield _row("languages", number, spread, "t", _holds(t, 0))
            for name, method in (("BCa", "BCa"), ("percentile", "percentile")):
                held = _holds(_bootstrapped(values, method), 0)
                yield _row("languages", number, spread, name, held)


def _bootstrapped(values: NDArray[np.float64], method: str) -> Bounds:
    """Bootstrap intervals of the rows' means, as `statistics.bca` takes them."""
    found = [
        stats.bootstrap(
            (some,),
            np.mean,
            axis=-1,
            n_resamples=RESAMPLES,
            method=method,
            vectorized=True,
            rng=np.random.default_rng(0),
        ).confidence_interval
        for some in np.array_split(values, max(1, len(values) // 100))
    ]
    low, high = zip(*((it.low, it.high) for it in found), strict=True)
    return np.concatenate(low), np.concatenate(high)


def _of_bases(
    rng: np.random.Generator, trials: int, languages: int = 16, bases: int = 3
) -> Iterator[tuple]:
    """Languages crossed with bases: each interval alone, and the wider one, which is reported."""
    for spread in BASE_SPREADS:
        values = (
            rng.normal(0, 1, (trials, languages, 1))
            + rng.normal(0, spread, (trials, 1, bases))
            + rng.normal(0, 0.7, (trials, languages, bases))
        )
        middle = values.mean(axis=(1, 2))
        by_language, by_base = values.mean(axis=2), values.mean(axis=1)
        over_languages = _around(middle, stats.sem(by_language, axis=1), languages)
        over_bases = _around(middle, stats.sem(by_base, axis=1), bases)
        pooled = statistics.pool_many(values)
        wider = pooled["low"], pooled["high"]
        told = f"bases {spread:g} of the languages"
        for name, bounds in (
            ("over languages", over_languages), ("over bases", over_bases), ("the wider", wider),
        ):  # fmt: skip
            held = _holds(bounds, 0)
            yield _row("languages and bases", f"{languages} and {bases}", told, name, held)
