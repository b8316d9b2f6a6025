"""Effects with their intervals: from test items to a number that a verdict can stand on.

One language: the unit is the *concept*. Test items about one concept stand or fall
together, and so do the same concept's items in two seeds or tasks, so concepts are the
clusters and seeds are held fixed (an interval says what other concepts would give, not
what other seeds would). Bits per byte and the diagnostics have one value per seed: there
the seed is the unit. Several languages: the language is the unit, seeds nested in it.

Several bases: languages and bases are crossed, seeds nested in both. What differs between
languages and what differs between bases are two sources of error, and an interval over the
one says nothing of the other. So there are two intervals, t over the languages' means over
bases and t over the bases' means over languages, and the wider one is reported with its p
(`pool`). How often such intervals hold the truth is simulated (`langmerge.coverage`). Languages
share a run seed's SFT expert and items, so many seeds on one base are pooled in the same way.

Tasks weigh equally whatever their number of items, and so do seeds: the estimand is the
mean over seeds and tasks of the mean over items.

Sources: cluster-robust variance with the G/(G-1) correction and t on G-1 degrees of
freedom, Cameron & Miller (2015), A Practitioner's Guide to Cluster-Robust Inference;
Wilson (1927); Holm (1979); two one-sided tests, Schuirmann (1987); BCa, the bias-corrected
and accelerated bootstrap, Efron (1987), Better Bootstrap Confidence Intervals. Computed with scipy
and statsmodels where they have the method; the tests hold the rest against them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.anova import AnovaRM
from statsmodels.stats.proportion import proportion_confint
from statsmodels.tools import add_constant

from langmerge.errors import LangmergeError, nearest

LEVEL = 0.95
RESAMPLES = 9_999
PAIR = ["language", "base", "seed", "task", "item"]


class Results(Protocol):
    """What a run gives, as far as statistics, claims and figures read it."""

    rows: pd.DataFrame
    items: pd.DataFrame
    diagnostics: pd.DataFrame
    languages: Sequence[str]
    seeds: Sequence[int]
    budgets: Sequence[int]
    tasks: Sequence[str]
    profile: str
    only: Sequence[str]  # the methods that are run, where not all are


@dataclass(frozen=True)
class Effect:
    """An estimate with its interval.

    `p` is two-sided against 0; `n` counts what was averaged (items, or seeds where the
    seed is the unit), `n_clusters` the independent units; `se` and `df` belong to the t
    interval. With one unit there is no interval: `low` and `high` are infinite, `p` is 1.
    `seeds` are those of a language on a base. `over` says what the units of the interval are
    where languages, bases or seeds are: "languages", "bases" or "seeds". `by_seed` and `seeds_p`
    are those of `between_seeds`, where it was asked.
    """

    estimate: float
    low: float
    high: float
    p: float
    se: float
    df: float
    n: int
    n_clusters: int
    seeds: int
    bases: int = 1
    over: str = ""
    by_seed: tuple[tuple[int, float], ...] = ()
    seeds_p: float = math.nan


def wilson(correct: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's interval for the proportion `correct` / `n` of independent trials.

    Raises LangmergeError for counts that are no proportion.
    """
    if not 0 <= correct <= n or n == 0:
        raise LangmergeError(f"{correct} of {n} is no proportion: give 0 <= correct <= n, n > 0.")
    low, high = proportion_confint(correct, n, alpha=1 - level, method="wilson")
    return float(low), float(high)


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Holm's step-down adjusted p values, in the order given (familywise error).

    p: shape (..., family): each family is adjusted by itself. As statsmodels' `multipletests`,
    which collects garbage at every call, a third of a second where a book's runs are in memory.
    """
    p = np.asarray(p, dtype=float)
    order = p.argsort(axis=-1)
    steps = np.take_along_axis(p, order, axis=-1) * np.arange(p.shape[-1], 0, -1)
    stepped = np.minimum(np.maximum.accumulate(steps, axis=-1), 1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, stepped, axis=-1)
    return adjusted


def one_sided(effect: Effect, bound: float, side: str) -> float:
    """p of the t test that the effect lies beyond `bound`; `side` is "greater" or "less"."""
    distance = effect.estimate - bound if side == "greater" else bound - effect.estimate
    if not np.isfinite(effect.se):
        return 1.0
    if effect.se == 0:
        return float(distance <= 0)
    return float(stats.t.sf(distance / effect.se, effect.df))


def tost(effect: Effect, margin: float) -> float:
    """p of the two one-sided tests that the effect lies within ±`margin` (equivalence)."""
    if margin <= 0:
        raise LangmergeError(f"an equivalence margin must be positive, not {margin}.")
    return max(one_sided(effect, -margin, "greater"), one_sided(effect, margin, "less"))


def t_interval(values: ArrayLike, level: float = LEVEL) -> Effect:
    """Mean of independent units (seeds, languages) with its t interval and t test.

    `values`: one number per unit, shape (units,). A single unit has no interval.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise LangmergeError(f"a t interval needs one finite number per unit, not {values}.")
    n = values.size
    se = float(stats.sem(values)) if n > 1 else np.inf
    return _with_interval(float(values.mean()), se, n - 1, level, n=n, n_clusters=n, seeds=n)


def half_length(spread: float, number: int, level: float = LEVEL) -> float:
    """How far the t interval of the mean of so many units reaches, where they spread so.

    `spread`: standard deviation of the units; the result is in its unit. One unit has no end.
    """
    if number < 2:
        return np.inf
    return float(stats.t.ppf((1 + level) / 2, number - 1)) * spread / np.sqrt(number)


def welch(some: ArrayLike, others: ArrayLike, level: float = LEVEL) -> tuple[float, float, float]:
    """By how much some units' mean is above others', with Welch's t interval (scipy).

    some, others: shape (units,), two or more each. Returns the difference and the interval's ends.
    """
    found = stats.ttest_ind(some, others, equal_var=False)
    low, high = found.confidence_interval(level)
    return float(np.mean(some) - np.mean(others)), float(low), float(high)


def groups_dealt_anew(some: ArrayLike, others: ArrayLike) -> tuple[float, float]:
    """By how much some units' mean is above others', and the one-sided p that it is below.

    some, others: shape (units,). The p is that of a difference as low among all ways to deal the
    units to the two groups anew: exact (`scipy.stats.permutation_test`).
    """

    def difference(one: ArrayLike, other: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
        return np.mean(one, axis=axis) - np.mean(other, axis=axis)

    found = stats.permutation_test(
        (np.asarray(some), np.asarray(others)),
        difference,
        permutation_type="independent",
        alternative="less",
        vectorized=True,
        n_resamples=np.inf,
    )
    return float(found.statistic), float(found.pvalue)


def prediction(values: ArrayLike, level: float = LEVEL) -> tuple[float, float]:
    """Where one more of such normal units would lie: the t prediction interval.

    `values`: shape (units,), two or more. Source: Hahn and Meeker, Statistical Intervals, 1991.
    """
    units = np.asarray(values, dtype=float)
    half = stats.t.ppf((1 + level) / 2, len(units) - 1) * units.std(ddof=1)
    half *= np.sqrt(1 + 1 / len(units))
    return float(units.mean() - half), float(units.mean() + half)


def foretold(x: ArrayLike, y: ArrayLike, new: ArrayLike, level: float = LEVEL) -> pd.DataFrame:
    """What a line of least squares through some units foretells of further ones (statsmodels).

    x, y: shape (units,), three or more. new: shape (further,), their x. Columns: mean, and low and
    high, the ends of the prediction interval of each.
    """
    line = OLS(np.asarray(y, dtype=float), add_constant(np.asarray(x, dtype=float))).fit()
    asked = add_constant(np.asarray(new, dtype=float), has_constant="add")
    found = line.get_prediction(asked).summary_frame(alpha=1 - level)
    kept = {"mean": "mean", "obs_ci_lower": "low", "obs_ci_upper": "high"}
    return found.rename(columns=kept)[list(kept.values())]


def bca(values: ArrayLike, level: float = LEVEL, seed: int = 0) -> tuple[float, float]:
    """The BCa interval (Efron 1987) for the mean of independent units, to stand beside t.

    `values`: one number per unit, shape (units,); resampled with the generator `seed`. Units that
    are all equal give an interval of no length, a single one an infinite one.
    """
    values = np.asarray(values, dtype=float)
    if values.size < 2:
        return -np.inf, np.inf
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    found = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=level,
        n_resamples=RESAMPLES,
        method="BCa",
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def cluster_robust(
    values: ArrayLike, clusters: ArrayLike, strata: ArrayLike | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Equally weighted mean of the strata's means, with its cluster-robust standard error.

    `values`: shape (..., n), one column per item; `clusters` and `strata`: shape (n,).
    Returns the estimates (...), the standard errors (...) and the number of clusters G.
    It is the mean of the coefficients of a regression of `values` on one dummy per
    stratum (seed and task), clustered, with the correction G/(G-1): a cluster's influence
    is its summed weighted distance from its strata's means. G-1 are the degrees of freedom.
    """
    values = np.asarray(values, dtype=float)
    cluster_of, cluster_names = pd.factorize(np.asarray(clusters))
    strata = np.zeros(values.shape[-1]) if strata is None else np.asarray(strata)
    stratum_of, stratum_names = pd.factorize(strata)
    in_cluster = np.eye(len(cluster_names))[cluster_of]
    in_stratum = np.eye(len(stratum_names))[stratum_of]
    sizes = in_stratum.sum(axis=0)
    means = values @ in_stratum / sizes
    weights = 1 / (len(sizes) * sizes[stratum_of])
    influence = ((values - means[..., stratum_of]) * weights) @ in_cluster
    n_clusters = len(cluster_names)
    correction = n_clusters / (n_clusters - 1) if n_clusters > 1 else np.inf
    with np.errstate(invalid="ignore"):
        variance = correction * np.square(influence).sum(axis=-1)
    standard_error = np.sqrt(variance) if n_clusters > 1 else np.full(means.shape[:-1], np.inf)
    return means.mean(axis=-1), standard_error, n_clusters


def sign_flip(values: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Two-sided p of the sign-flip permutation test that `values` are symmetric about 0.

    `values`: one number per independent unit. Exact where 2**units <= `resamples`, else
    from `resamples` random flips of the generator seeded with `seed`.
    """
    values = np.asarray(values, dtype=float)
    if values.size < 2 or not values.any():
        return 1.0
    test = stats.permutation_test(
        (values,),
        lambda flipped, axis: flipped.sum(axis=axis),
        permutation_type="samples",
        n_resamples=resamples,
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


def mean_of_items(items: pd.DataFrame, column: str = "correct", permute: bool = False) -> Effect:
    """Mean of `column` over the items of one language, by concept clusters, given the seeds.

    `items`: columns `seed`, `task`, `concept` and `column` (`base` too, where several).
    The p value against 0 is the sign-flip test over concepts if `permute`, else the t
    test's. Raises LangmergeError where there are no items.
    """
    if items.empty:
        raise LangmergeError("there are no items to average: was the model evaluated?")
    replicate = _replicate(items)
    strata = replicate + "/" + items["task"].astype(str)
    values = items[column].to_numpy(dtype=float)
    estimate, se, n_clusters = cluster_robust(values, items["concept"], strata)
    p = sign_flip(_weighted_sums(values, items["concept"], strata)) if permute else None
    return _with_interval(
        float(estimate),
        float(se),
        n_clusters - 1,
        n=len(items),
        n_clusters=n_clusters,
        seeds=replicate.nunique(),
        p=p,
    )


def contrast(parts: Sequence[tuple[float, pd.DataFrame]], column: str = "correct") -> Effect:
    """Weighted sum of several models' item scores, paired by item, of one language or more.

    `parts`: pairs of a weight and that model's items. A part may hold several CT budgets:
    they are averaged within the item first. See `mean_of_scores`. Raises LangmergeError where
    the parts do not hold the same items.
    """
    return mean_of_scores(contrast_scores(parts, column))


def mean_of_scores(scores: pd.DataFrame, permute: bool = True) -> Effect:
    """The mean of `contrast_scores`, of one language or more.

    One language: concept clusters, given the seeds, and with `permute` the p of the sign-flip
    test. Several languages or bases: see `pool`.
    """
    each = by_run(scores, lambda part: mean_of_items(part, "score"))
    if len({language for language, _ in each}) > 1:
        return pool(each)
    return pool(each, mean_of_items(scores, "score", permute=permute))


def by_run(
    frame: pd.DataFrame, mean: Callable[[pd.DataFrame], Effect], crossed_with: str = "base"
) -> dict[tuple[str, str], Effect]:
    """The effect of every language on every base, from the rows of each (`base` may lack).

    crossed_with: "seed" for the effect of every language with every run seed.
    """
    other = frame[crossed_with] if crossed_with in frame else pd.Series("", index=frame.index)
    return {key: mean(part) for key, part in frame.groupby(["language", other], sort=False)}


def paired(a: pd.DataFrame, b: pd.DataFrame, column: str = "correct") -> Effect:
    """Difference a - b between two models on the same items; see `contrast`."""
    return contrast([(1.0, a), (-1.0, b)], column)


def pool(effects: Mapping[tuple[str, str], Effect], within: Effect | None = None) -> Effect:
    """Mean of the effects by (language, base), with the wider of two intervals.

    One is t over the languages, each the mean of its bases; the other, where all languages are
    on the same bases and there are several, t over the bases, each the mean of its languages.
    `within`: the effect of a single language on all of its bases, whose interval (given the seeds)
    stands for the first.
    """
    table = crossed(effects)
    if within is None:
        found = [replace(t_interval(table.mean(axis="columns")), over="languages")]
    else:
        found = [within]
    if table.shape[1] > 1 and not table.isna().to_numpy().any():
        found.append(replace(t_interval(table.mean(axis="index")), over="bases"))
    widest = max(found, key=lambda effect: effect.high - effect.low)
    each = effects.values()
    return replace(
        widest,
        n=sum(effect.n for effect in each),
        seeds=min(effect.seeds for effect in each),
        bases=table.shape[1],
    )


def pool_seeds(effects: Mapping[tuple[str, int], Effect]) -> Effect:
    """As `pool`, of effects by (language, run seed) on one base: seeds take the part of bases.

    Raises LangmergeError where a language lacks a seed.
    """
    if crossed(effects).isna().to_numpy().any():
        raise LangmergeError("an interval over seeds needs every language with every seed.")
    found = pool(effects)
    over = "seeds" if found.over == "bases" else found.over
    return replace(found, over=over, seeds=found.bases, bases=1)


def components(table: pd.DataFrame) -> tuple[float, float, float]:
    """Standard deviations of a two-way layout: between its rows, between its columns, the rest.

    The analysis of variance's estimates (Searle, Casella & McCulloch, 1992, Variance Components),
    0 where an estimated variance is below that. table: a value a cell, shape (rows, columns), two
    of each or more.
    Raises LangmergeError for a smaller one, or one with a gap.
    """
    values = table.to_numpy(dtype=float)
    if min(values.shape) < 2 or not np.isfinite(values).all():
        raise LangmergeError(f"components need a whole table of 2 x 2 or more, not {values.shape}.")
    rows, columns = values.shape
    by_row = values.mean(axis=1, keepdims=True)
    by_column = values.mean(axis=0, keepdims=True)
    rest = np.square(values - by_row - by_column + values.mean()).sum()
    rest /= (rows - 1) * (columns - 1)
    between_rows = by_row.var(ddof=1) - rest / columns
    between_columns = by_column.var(ddof=1) - rest / rows
    row, column, other = np.sqrt(np.maximum([between_rows, between_columns, rest], 0))
    return float(row), float(column), float(other)


def nested_components(table: pd.DataFrame) -> dict[str, float]:
    """Standard deviations by what a value stands for: base, seed (within a base), language, rest.

    table: a value a language (rows) and run (columns, of base and seed), two of each or more and
    as many seeds on every base. A language's own with a base or a seed is in the rest. Estimates
    of the analysis of variance, as `components` gives them.
    Raises LangmergeError for a smaller table, one with a gap, or bases with fewer seeds.
    """
    language, _, rest = components(table)
    runs = table.mean().groupby(level=0, sort=False)
    seeds = runs.size()
    if len(seeds) < 2 or seeds.min() < max(2, seeds.max()):
        raise LangmergeError(
            "components of bases need two bases or more with as many seeds each, two or more, not "
            f"{dict(seeds)}."
        )
    within = float(runs.var(ddof=1).mean())
    seed = within - rest**2 / len(table)
    base = float(runs.mean().var(ddof=1)) - within / int(seeds.iloc[0])
    found = {"base": base, "seed": seed}
    return {name: math.sqrt(max(value, 0)) for name, value in found.items()} | {
        "language": language,
        "rest": rest,
    }


def dealt_anew(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """The mean rank correlation (Spearman) of several pairs of rows, and its one-sided p.

    x, y: shape (rows, units). The p is that of a mean as high among all ways to deal y's units
    anew, of all rows together: exact (`scipy.stats.permutation_test`), for eight units or fewer.
    """
    ranks_x, ranks_y = (stats.zscore(stats.rankdata(it, axis=-1), axis=-1) for it in (x, y))
    units = np.arange(x.shape[-1])

    def mean_correlation(order: NDArray[np.int64], axis: int = -1) -> NDArray[np.float64]:
        products = ranks_x[:, None] * ranks_y[:, np.atleast_2d(order)]
        return products.mean(axis=-1).mean(axis=0)

    found = stats.permutation_test(
        (units,),
        mean_correlation,
        permutation_type="pairings",
        alternative="greater",
        vectorized=True,
        n_resamples=np.inf,
        batch=5_000,
    )
    return float(np.squeeze(found.statistic)), float(np.squeeze(found.pvalue))


def pool_many(values: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """As `pool`, of many simulated runs at once.

    `values`: shape (..., languages, bases), the mean over seeds. Returns the arrays of
    `estimate`, `low`, `high`, `p`, `se` and `df`, each of shape (...).
    """
    found = []
    for units in (values.mean(axis=-1), values.mean(axis=-2)):
        if (number := units.shape[-1]) > 1:
            error = stats.sem(units, axis=-1)
            half = stats.t.ppf((1 + LEVEL) / 2, number - 1) * error
            found.append((half, error, np.full(error.shape, number - 1.0)))
    half, error, freedom = map(np.stack, zip(*found, strict=True))
    wider = half.argmax(axis=0)[None]
    half, error, freedom = (
        np.take_along_axis(it, wider, axis=0)[0] for it in (half, error, freedom)
    )
    middle = values.mean(axis=(-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(error > 0, 2 * stats.t.sf(abs(middle) / error, freedom), middle == 0)
    return {
        "estimate": middle, "low": middle - half, "high": middle + half,
        "p": p, "se": error, "df": freedom,
    }  # fmt: skip


def crossed(effects: Mapping[tuple[str, str], Effect]) -> pd.DataFrame:
    """The estimates by language (rows) and base (columns), NaN where there is none."""
    listed = [(*key, effect.estimate) for key, effect in effects.items()]
    frame = pd.DataFrame(listed, columns=["language", "base", "estimate"])
    return frame.pivot_table(index="language", columns="base", values="estimate", sort=False)


def between_seeds(scores: pd.DataFrame) -> tuple[tuple[tuple[int, float], ...], float]:
    """What each run seed alone says, as (seed, mean over the languages), and whether they differ.

    scores: columns language, seed and score, and base and task where there are several; tasks
    weigh equally. The p is of a repeated-measures analysis of variance, the languages being the
    subjects (with two seeds the paired t test); NaN with one seed or one language.

    All languages share a run seed's English SFT expert and its test items, so that their luck is
    averaged out by no number of languages: no interval over languages holds it.
    """
    ways = [name for name in ("base", "task") if name in scores]
    each = scores.groupby(["language", "seed", *ways], observed=True)["score"].mean().reset_index()
    table = each.pivot_table(index="language", columns="seed", values="score", observed=True)
    table = table.dropna()
    means = tuple((int(seed), float(mean)) for seed, mean in table.mean().items())
    if min(table.shape) < 2 or np.ptp(table.to_numpy(), axis=1).max() == 0:
        return means, math.nan
    rows = table.reset_index().melt("language", value_name="score")
    rows["language"] = rows["language"].astype(str)  # a category without rows is no subject
    found = AnovaRM(rows, "score", "language", within=["seed"]).fit().anova_table
    return means, float(found["Pr > F"].iloc[0])


def contrast_scores(
    parts: Sequence[tuple[float, pd.DataFrame]], column: str = "correct"
) -> pd.DataFrame:
    """One row per item with its weighted `score`; columns of `PAIR`, `concept`, `score`."""
    scored = [weight * _by_item(items, column) for weight, items in parts]
    for other in scored[1:]:
        lacking = scored[0].index.symmetric_difference(other.index)
        if len(lacking):
            where = dict(zip(scored[0].index.names, lacking[0], strict=True))
            raise LangmergeError(
                f"the models were not evaluated on the same items: {len(lacking)} items lack a "
                f"partner, the first is {where}. Run the study again so that all cells of a "
                "seed share its test items."
            )
    total = sum(scored[1:], start=scored[0])
    return total.rename("score").reset_index()


def summarize(
    results: Results,
    metric: str = "accuracy",
    task: str = "mean",
    language: str | None = None,
    **wanted: Any,
) -> pd.DataFrame:
    """Every evaluated model of one language with its mean over seeds and its 95 % interval.

    `task`: a reported task, or "mean" for all of them, equally weighted. `wanted` selects
    models (``method=["ct", "sft"]``, ``setting="tuned"``). Returns one row per (method,
    setting, slack, ct_tokens) with `value`, `low`, `high`, `n`, `n_clusters`, `seeds`.
    Accuracy: concept clusters, given the seeds. Bits per byte: normal interval from the
    texts' standard errors, given the seeds. Raises LangmergeError for a task or language
    that the results lack.
    """
    language = one_language(results, language)
    keys = ["method", "setting", "slack", "ct_tokens"]
    if metric == "bits_per_byte":
        rows = select(results.rows, language=language, metric=metric, **wanted)
        return _summary(rows, keys, _mean_of_rows)
    items = select(items_with_base(results), language=language, **wanted)
    items = items[items["task"].isin(_tasks(results, task))]
    return _summary(items, keys, mean_of_items)


def comparison(
    results: Results,
    methods: Sequence[str],
    settings: Sequence[str] = ("tuned", "default", "fixed"),
    language: str | None = None,
) -> pd.DataFrame:
    """Accuracy and bits per byte of some methods, each with its 95 % interval, as a table.

    One row per (method, setting, slack, CT tokens); `items` and `seeds` are what accuracy
    rests on.
    """
    wanted = {"language": language, "method": list(methods), "setting": list(settings)}
    keys = ["method", "setting", "slack", "ct_tokens"]
    accuracy = summarize(results, **wanted)
    bits = summarize(results, metric="bits_per_byte", **wanted)
    table = accuracy.merge(bits[[*keys, "value", "low", "high"]], on=keys, suffixes=("", "_bits"))
    return pd.DataFrame(
        {
            "method": table["method"],
            "setting": table["setting"],
            "slack": table["slack"],
            "CT tokens": table["ct_tokens"],
            "accuracy": table["value"],
            "low": table["low"],
            "high": table["high"],
            "bits per byte": table["value_bits"],
            "bits low": table["low_bits"],
            "bits high": table["high_bits"],
            "items": table["n"],
            "seeds": table["seeds"],
        }
    ).sort_values(["CT tokens", "method", "setting"], ignore_index=True)


def per_seed(
    results: Results,
    metric: str = "accuracy",
    task: str = "mean",
    language: str | None = None,
    **wanted: Any,
) -> pd.DataFrame:
    """As `summarize`, but one row per seed with its `value`, tasks equally weighted."""
    language = one_language(results, language)
    rows = select(results.rows, language=language, metric=metric, **wanted)
    if metric == "accuracy":
        rows = rows[rows["task"].isin(_tasks(results, task))]
    keys = ["method", "setting", "slack", "ct_tokens", "base", "seed"]
    return rows.groupby(keys, dropna=False)["value"].mean().reset_index()


def middle(budgets: Sequence[int]) -> list[int]:
    """The middle one of sorted CT budgets, the lower one of an even number; empty where none is."""
    return list(budgets[(len(budgets) - 1) // 2 :][:1])


def select(frame: pd.DataFrame, **wanted: Any) -> pd.DataFrame:
    """The rows of `frame` whose columns equal the wanted values (a list: any of them)."""
    keep = pd.Series(True, index=frame.index)
    for column, value in wanted.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        keep &= frame[column].isin(values)
    return frame[keep]


def items_with_base(results: Results) -> pd.DataFrame:
    """The items, each with the `base` of its cell: a seed of one base is not another's."""
    if "base" in results.items:
        return results.items
    return results.items.assign(base=results.items["cell"].map(_base_of_cell(results)))


def one_language(results: Results, language: str | None) -> str:
    """The language asked for, or the only one; raises LangmergeError where that is open."""
    known = list(results.languages)
    if language is None and len(known) == 1:
        return known[0]
    if language is None:
        raise LangmergeError(f"the results hold {len(known)} languages: name one of {known}.")
    if language not in known:
        raise LangmergeError(f"no results for language {language!r}: {nearest(language, known)}")
    return language


def whole_model(diagnostics: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Sums the tensors' diagnostics per (language, seed, ct_tokens, …) and per `by`.

    Adds `discarded_sft_share` (out-voted over those that survived the trim, by count; 0
    where none survived) and `norm_ratio` (‖tau_ct‖ / ‖tau_sft‖ over all tensors).
    """
    known = ["language", "base", "seed", "ct_tokens", "method", "setting", "slack"]
    keys = [key for key in known if key in diagnostics] + list(by)
    squares = diagnostics.assign(
        squares_ct=np.square(diagnostics["norm_ct"]), squares_sft=np.square(diagnostics["norm_sft"])
    )
    counts = ["kept_sft", "trimmed_sft", "outvoted_sft", "squares_ct", "squares_sft"]
    summed = squares.groupby(keys, dropna=False)[counts].sum().reset_index()
    surviving = summed["kept_sft"] + summed["outvoted_sft"]
    summed["discarded_sft_share"] = summed["outvoted_sft"] / surviving.clip(lower=1)
    summed["norm_ratio"] = np.sqrt(summed["squares_ct"] / summed["squares_sft"])
    return summed.drop(columns=["squares_ct", "squares_sft"])


def slope_per_decade(ct_tokens: ArrayLike, values: ArrayLike) -> float:
    """Least-squares slope of `values` on log10 of the CT tokens: change per tenfold CT."""
    return float(stats.linregress(np.log10(np.asarray(ct_tokens, float)), values).slope)


def _with_interval(
    estimate: float,
    se: float,
    df: float,
    level: float = LEVEL,
    *,
    n: int,
    n_clusters: int,
    seeds: int,
    p: float | None = None,
) -> Effect:
    if np.isinf(se):
        low, high, p = -np.inf, np.inf, 1.0
    else:
        half = float(stats.t.ppf((1 + level) / 2, df)) * se
        low, high = estimate - half, estimate + half
    if p is None:
        p = _t_test(estimate, se, df)
    return Effect(estimate, low, high, p, se, df, n, n_clusters, seeds)


def _t_test(estimate: float, se: float, df: float) -> float:
    if se == 0:
        return float(estimate == 0)
    return float(2 * stats.t.sf(abs(estimate) / se, df))


def _replicate(frame: pd.DataFrame) -> pd.Series:
    """The (base, seed) a row belongs to: a seed number means another run on another base."""
    seed = frame["seed"].astype(str)
    return frame["base"].astype(str) + "/" + seed if "base" in frame else seed


def _weighted_sums(
    values: NDArray[np.float64], clusters: pd.Series, strata: pd.Series
) -> NDArray[np.float64]:
    sizes = strata.map(strata.value_counts()).to_numpy(dtype=float)
    weighted = pd.Series(values / sizes / strata.nunique())
    return weighted.groupby(clusters.to_numpy()).sum().to_numpy()


def _by_item(items: pd.DataFrame, column: str) -> pd.Series:
    keys = [key for key in [*PAIR, "concept"] if key in items]
    return items.groupby(keys, sort=True)[column].mean().astype(float)


def _base_of_cell(results: Results) -> pd.Series:
    return results.rows.drop_duplicates("cell").set_index("cell")["base"]


def _tasks(results: Results, task: str) -> list[str]:
    if task == "mean":
        return list(results.tasks)
    if task not in results.tasks:
        raise LangmergeError(f"unknown task {task!r}: {nearest(task, [*results.tasks, 'mean'])}")
    return [task]


def _mean_of_rows(rows: pd.DataFrame) -> Effect:
    """Mean of the seeds' values, with the interval from their own standard errors."""
    se = float(np.sqrt(np.square(rows["stderr"]).sum()) / len(rows))
    n, seeds = int(rows["n"].sum()), len(rows)
    return _with_interval(float(rows["value"].mean()), se, np.inf, n=n, n_clusters=n, seeds=seeds)


def _summary(frame: pd.DataFrame, keys: list[str], mean: Any) -> pd.DataFrame:
    found = []
    for key, part in frame.groupby(keys, dropna=False):
        effect = mean(part)
        found.append(
            dict(zip(keys, key, strict=True))
            | {"value": effect.estimate, "low": effect.low, "high": effect.high}
            | {"n": effect.n, "n_clusters": effect.n_clusters, "seeds": effect.seeds}
        )
    columns = [*keys, "value", "low", "high", "n", "n_clusters", "seeds"]
    return pd.DataFrame(found, columns=columns)
