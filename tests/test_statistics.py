"""Statistics against closed forms, scipy, statsmodels and simulated coverage."""

import itertools

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from langmerge import statistics
from langmerge.errors import LangmergeError


def clustered(rng, runs=1, clusters=60, per_cluster=8, effect=0.1, spread=0.3):
    """Item differences, shape (runs, items), that go together within their cluster."""
    cluster = np.repeat(np.arange(clusters), per_cluster)
    shared = rng.normal(effect, spread, (runs, clusters))
    return shared[:, cluster] + rng.normal(0, 0.5, (runs, len(cluster))), cluster


def frame(correct, seed=0, task="topic", concept=None):
    n = len(correct)
    return pd.DataFrame(
        {
            "language": "tam_Taml",
            "seed": seed,
            "task": task,
            "item": [f"{task}-{index}" for index in range(n)],
            "concept": [f"c{index}" for index in (range(n) if concept is None else concept)],
            "correct": correct,
        }
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_scipy_and_holds_the_share(counts):
    correct, n = counts
    low, high = statistics.wilson(correct, n)
    expected = stats.binomtest(correct, n).proportion_ci(method="wilson")
    assert low == pytest.approx(expected.low, abs=1e-12)
    assert high == pytest.approx(expected.high, abs=1e-12)
    assert low - 1e-12 <= correct / n <= high + 1e-12


@pytest.mark.parametrize(("correct", "n"), [(3, 2), (-1, 5), (0, 0)])
def test_wilson_refuses_what_is_no_proportion(correct, n):
    with pytest.raises(LangmergeError, match="no proportion"):
        statistics.wilson(correct, n)


def test_holm_is_its_definition():
    assert statistics.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert statistics.holm([]).size == 0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_a_p_and_keeps_the_order(p):
    adjusted = statistics.holm(p)
    assert (adjusted >= np.asarray(p)).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12))
def test_the_half_length_is_that_of_the_interval(values):
    its = statistics.t_interval(values)
    half = statistics.half_length(float(np.std(values, ddof=1)), len(values))
    assert half == pytest.approx((its.high - its.low) / 2, abs=1e-12)
    assert statistics.half_length(1.0, 1) == np.inf


def test_t_interval_equals_scipy():
    values = np.array([0.1, 0.25, 0.02, 0.3])
    effect, expected = statistics.t_interval(values), stats.ttest_1samp(values, 0)
    assert (effect.low, effect.high) == pytest.approx(expected.confidence_interval())
    assert effect.p == pytest.approx(expected.pvalue)


def test_one_unit_gives_no_interval():
    effect = statistics.t_interval([0.3])
    assert (effect.low, effect.high, effect.p) == (-np.inf, np.inf, 1.0)


def test_cluster_robust_equals_statsmodels_with_a_dummy_per_stratum():
    rng = np.random.default_rng(1)
    values, cluster = clustered(rng, clusters=20)
    strata = rng.integers(0, 3, values.shape[-1])
    estimate, se, n_clusters = statistics.cluster_robust(values[0], cluster, strata)
    dummies = np.eye(3)[strata]
    fitted = sm.OLS(values[0], dummies).fit(
        cov_type="cluster", cov_kwds={"groups": cluster, "use_correction": False}
    )
    mean = fitted.t_test(np.full(3, 1 / 3))
    assert estimate == pytest.approx(mean.effect[0])
    assert se == pytest.approx(mean.sd.item() * np.sqrt(20 / 19))
    assert n_clusters == 20


def test_cluster_robust_with_singletons_is_the_t_test():
    values = np.random.default_rng(2).normal(0.2, 1, 30)
    estimate, se, _ = statistics.cluster_robust(values, np.arange(30))
    assert estimate / se == pytest.approx(stats.ttest_1samp(values, 0).statistic)


def test_one_cluster_has_no_standard_error():
    estimate, se, n_clusters = statistics.cluster_robust([1.0, 0.0], ["a", "a"])
    assert (estimate, se, n_clusters) == (0.5, np.inf, 1)


def test_interval_covers_95_percent_at_60_clusters():
    runs, effect = 4_000, 0.1
    values, cluster = clustered(np.random.default_rng(3), runs, effect=effect)
    estimate, se, n_clusters = statistics.cluster_robust(values, cluster)
    half = stats.t.ppf(0.975, n_clusters - 1) * se
    assert np.mean(abs(estimate - effect) <= half) == pytest.approx(0.95, abs=0.02)
    naive = 1.96 * values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])
    assert np.mean(abs(estimate - effect) <= naive) < 0.9  # or clustering made no difference


def test_interval_of_right_and_wrong_answers_covers_too():
    """Paired accuracies over three seeds and two tasks, with concepts of uneven size."""
    rng = np.random.default_rng(4)
    runs, clusters, items = 1_500, 60, 120
    concept = rng.choice(clusters, (6, items), p=rng.dirichlet(np.full(clusters, 3.0)))
    skill = rng.normal(0, 0.12, (runs, 2, clusters))
    differences = [
        (rng.uniform(size=(runs, items)) < 0.6 + skill[:, 0][:, stratum]).astype(float)
        - (rng.uniform(size=(runs, items)) < 0.5 + skill[:, 1][:, stratum])
        for stratum in concept
    ]
    strata = np.repeat(np.arange(6), items)
    estimate, se, n_clusters = statistics.cluster_robust(
        np.concatenate(differences, axis=1), concept.ravel(), strata
    )
    half = stats.t.ppf(0.975, n_clusters - 1) * se
    assert np.mean(abs(estimate - 0.1) <= half) == pytest.approx(0.95, abs=0.02)


def test_sign_flip_is_exact_for_few_units():
    assert statistics.sign_flip([1.0, 2.0, 3.0]) == pytest.approx(2 / 8)
    assert statistics.sign_flip([1.0, 2.0, 3.0, 4.0, -10.0]) == pytest.approx(1.0)
    assert statistics.sign_flip([0.0, 0.0]) == 1.0


def test_sign_flip_repeats_itself_and_agrees_with_the_t_test():
    values = np.random.default_rng(5).normal(0.2, 0.8, 60)
    p = statistics.sign_flip(values)
    assert p == statistics.sign_flip(values)
    assert p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.02)


def test_tost_equals_statsmodels():
    rng = np.random.default_rng(6)
    a = rng.normal(0, 1, 40)
    b = a + rng.normal(0.05, 0.2, 40)
    effect = statistics.t_interval(a - b)
    assert statistics.tost(effect, 0.15) == pytest.approx(ttost_paired(a, b, -0.15, 0.15)[0])
    with pytest.raises(LangmergeError, match="positive"):
        statistics.tost(effect, 0)


@pytest.mark.parametrize(("side", "p"), [("less", 0.0), ("greater", 1.0)])
def test_one_sided_without_variance_is_certain(side, p):
    assert statistics.one_sided(statistics.t_interval([0.2, 0.2]), 0.5, side) == p


def test_paired_difference_weighs_tasks_equally():
    a = pd.concat([frame([1] * 10), frame([0, 1], task="kind")])
    b = pd.concat([frame([0] * 10), frame([1, 1], task="kind")])
    effect = statistics.paired(a, b)
    assert effect.estimate == pytest.approx((1.0 - 0.5) / 2)
    assert (effect.n, effect.n_clusters, effect.seeds) == (12, 10, 1)


def test_paired_difference_ignores_the_order_of_items():
    rng = np.random.default_rng(7)
    concept = rng.integers(0, 12, 80)
    a, b = (frame(rng.integers(0, 2, 80), concept=concept) for _ in range(2))
    shuffled = b.sample(frac=1, random_state=0)
    assert statistics.paired(a, shuffled) == statistics.paired(a, b)
    assert statistics.paired(a, b).estimate == pytest.approx(-statistics.paired(b, a).estimate)


def test_paired_p_is_the_sign_flip_over_concepts():
    a = frame([1] * 12, concept=np.repeat([0, 1, 2], 4))
    b = frame([0] * 12, concept=np.repeat([0, 1, 2], 4))
    assert statistics.paired(a, b).p == pytest.approx(2 / 8)  # not 2 / 2**12: items are no units


def test_unpaired_items_are_refused():
    with pytest.raises(LangmergeError, match=r"1 items lack a partner.*topic-2"):
        statistics.paired(frame([1, 0, 1]), frame([1, 0]))


def exact_bca(values, level=0.95):
    """Efron's BCa from all n**n resamples, with the closed form of the acceleration."""
    values = np.asarray(values)
    means = np.sort(
        values[np.indices([len(values)] * len(values)).reshape(len(values), -1)].mean(0)
    )
    below = np.mean(means < values.mean() - 1e-12) + np.mean(abs(means - values.mean()) < 1e-12) / 2
    apart = values - values.mean()  # the jackknife's influences, up to their sign and scale
    acceleration = (apart**3).sum() / (6 * (apart**2).sum() ** 1.5)
    shift, tails = stats.norm.ppf(below), stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
    at = stats.norm.cdf(shift + (shift + tails) / (1 - acceleration * (shift + tails)))
    return np.quantile(means, at)


def test_bca_is_efrons_formula_over_all_resamples():
    values = [0.02, 0.05, 0.06, 0.11, 0.3, 0.09]
    step = np.ptp(values) / 50  # the percentile interval is seven of these off
    assert statistics.bca(values) == pytest.approx(exact_bca(values), abs=step)
    assert statistics.bca(values) == statistics.bca(values)


def test_bca_of_many_normal_units_is_the_normal_interval():
    values = stats.norm.ppf((np.arange(400) + 0.5) / 400, 0.2, 1)
    half = stats.norm.ppf(0.975) * stats.sem(values)
    assert statistics.bca(values) == pytest.approx((0.2 - half, 0.2 + half), abs=0.05 * half)


def test_bca_without_spread_or_with_one_unit():
    assert statistics.bca([0.2, 0.2, 0.2]) == (0.2, 0.2)
    assert statistics.bca([0.2]) == (-np.inf, np.inf)


def of_runs(table):
    """Effects by (language, base), of a table of estimates."""
    return {
        (f"l{i}", f"b{j}"): statistics.t_interval([value])
        for (i, j), value in np.ndenumerate(np.asarray(table))
    }


def test_bases_that_disagree_widen_the_interval_and_say_so():
    rng = np.random.default_rng(8)
    table = rng.normal(0.05, 0.01, (16, 1)) + np.array([[-0.04, 0.0, 0.04]])
    pooled = statistics.pool(of_runs(table))
    expected = stats.ttest_1samp(table.mean(axis=0), 0)
    assert (pooled.over, pooled.n_clusters, pooled.bases) == ("bases", 3, 3)
    assert (pooled.low, pooled.high) == pytest.approx(expected.confidence_interval())
    assert pooled.p == pytest.approx(expected.pvalue)


def test_bases_that_agree_leave_the_interval_over_languages():
    rng = np.random.default_rng(9)
    table = rng.normal(0.05, 0.05, (16, 1)) + rng.normal(0, 0.001, (16, 3))
    pooled = statistics.pool(of_runs(table))
    expected = stats.ttest_1samp(table.mean(axis=1), 0).confidence_interval()
    assert (pooled.over, pooled.n_clusters) == ("languages", 16)
    assert (pooled.low, pooled.high) == pytest.approx(expected)


def test_languages_on_bases_of_their_own_are_not_crossed():
    effects = of_runs(np.eye(3) + 0.5)
    lacking = {key: effects[key] for key in effects if key != ("l0", "b0")}
    assert statistics.pool(lacking).over == "languages"


def test_many_runs_are_pooled_as_one_is():
    values = np.random.default_rng(10).normal(0.02, 0.02, (4, 5, 3))
    values[2:] += np.array([-0.1, 0.0, 0.1])  # there the bases disagree
    many = statistics.pool_many(values)
    for index, table in enumerate(values):
        one = statistics.pool(of_runs(table))
        for name, array in many.items():
            assert array[index] == pytest.approx(getattr(one, name))
    p = np.random.default_rng(11).uniform(size=(20, 5)) ** 3
    theirs = [multipletests(it, method="holm")[1] for it in p]
    assert statistics.holm(p) == pytest.approx(np.array(theirs))


def test_many_seeds_take_the_part_of_bases():
    table = np.random.default_rng(12).normal(0.03, 0.01, (8, 6))
    table += np.linspace(-0.06, 0.06, 6)  # the seeds disagree, in all languages alike
    effects = {(f"l{i}", j): statistics.t_interval([it]) for (i, j), it in np.ndenumerate(table)}
    pooled = statistics.pool_seeds(effects)
    expected = stats.ttest_1samp(table.mean(axis=0), 0)
    assert (pooled.over, pooled.n_clusters, pooled.seeds, pooled.bases) == ("seeds", 6, 6, 1)
    assert (pooled.low, pooled.high) == pytest.approx(expected.confidence_interval())
    assert pooled.p == pytest.approx(expected.pvalue)
    del effects["l0", 0]
    with pytest.raises(LangmergeError, match="every language with every seed"):
        statistics.pool_seeds(effects)


def test_components_are_those_of_the_analysis_of_variance():
    table = np.random.default_rng(13).normal(0, 1, (8, 5)) + np.arange(5) + np.arange(8)[:, None]
    long = pd.DataFrame({"l": i, "s": j, "y": value} for (i, j), value in np.ndenumerate(table))
    found = anova_lm(ols("y ~ C(l) + C(s)", long).fit())["mean_sq"]
    rows = (found["C(l)"] - found["Residual"]) / 5
    columns = (found["C(s)"] - found["Residual"]) / 8
    expected = np.sqrt([rows, columns, found["Residual"]])
    assert statistics.components(pd.DataFrame(table)) == pytest.approx(expected)


@pytest.mark.parametrize("table", [[[1.0, 2.0]], [[1.0], [2.0]], [[1.0, np.nan], [1.0, 2.0]]])
def test_components_need_a_whole_table(table):
    with pytest.raises(LangmergeError, match="2 x 2 or more"):
        statistics.components(pd.DataFrame(table))


def test_components_that_would_be_negative_are_none():
    assert statistics.components(pd.DataFrame([[0.0, 1.0], [1.0, 0.0]]))[:2] == (0.0, 0.0)


def by_language_and_seed(values):
    """Scores of languages (rows) and run seeds (columns), two tasks that weigh equally each."""
    rows = []
    for (language, seed), value in np.ndenumerate(values):
        told = {"language": f"zzz_{language:04d}", "seed": seed}
        rows += [told | {"task": "topic", "score": value - 1.0}]
        rows += [told | {"task": "thing", "score": value + 1.0}] * (1 + language)
    return pd.DataFrame(rows)


def test_two_seeds_are_compared_by_the_paired_t_test():
    values = np.random.default_rng(5).normal([0.0, 0.7], 1.0, (16, 2))
    means, p = statistics.between_seeds(by_language_and_seed(values))
    assert [seed for seed, _ in means] == [0, 1]
    assert [mean for _, mean in means] == pytest.approx(values.mean(axis=0))
    assert p == pytest.approx(stats.ttest_rel(*values.T).pvalue)


def test_a_language_that_was_left_out_is_no_subject():
    rows = by_language_and_seed(np.random.default_rng(7).normal(0.0, 1.0, (5, 2)))
    categories = rows.astype({"language": "category"})
    some = categories[categories["language"] != "zzz_0003"]
    plain = rows[rows["language"] != "zzz_0003"]
    assert statistics.between_seeds(some) == statistics.between_seeds(plain)


def test_more_seeds_are_compared_within_their_languages():
    values = np.random.default_rng(6).normal(0.0, 1.0, (9, 3)) + np.arange(9)[:, None]
    _, p = statistics.between_seeds(by_language_and_seed(values))
    # The two-way layout without replication, as Fisher wrote it.
    rows, columns = values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True)
    between = 9 * ((columns - values.mean()) ** 2).sum() / 2
    within = ((values - rows - columns + values.mean()) ** 2).sum() / 16
    assert p == pytest.approx(stats.f.sf(between / within, 2, 16))


@pytest.mark.parametrize("values", [np.ones((4, 1)), np.ones((1, 3)), np.ones((4, 3))])
def test_seeds_that_cannot_differ_have_no_p(values):
    means, p = statistics.between_seeds(by_language_and_seed(values))
    assert [mean for _, mean in means] == pytest.approx([1.0] * values.shape[1]) and np.isnan(p)


def test_several_budgets_are_averaged_within_the_item():
    late, early = frame([1, 1]), frame([0, 1])
    reference = frame([0, 0])
    effect = statistics.paired(pd.concat([late, early]), reference)
    assert effect.estimate == pytest.approx(0.75)
    assert effect.n == 2


def test_several_languages_are_the_clusters():
    run = synthetic.results(languages=("tam_Taml", "ben_Beng", "bod_Tibt"), items=40)
    at = run.items[run.items["ct_tokens"] == run.budgets[0]]
    a, b = (at[at["method"] == method] for method in ("ties_mean", "ct_then_sft"))
    each = [
        statistics.paired(part, b[b["language"] == language]).estimate
        for language, part in a.groupby("language")
    ]
    pooled = statistics.paired(a, b)
    assert pooled.n_clusters == 3
    assert (pooled.low, pooled.high) == pytest.approx(
        stats.ttest_1samp(each, 0).confidence_interval()
    )


def test_bases_are_not_mixed_up():
    run = synthetic.results(seeds=(0,), items=30)
    other = synthetic.results(seeds=(0,), items=30, seed=1)
    other.rows["base"], other.rows["cell"] = "1badcafe", other.rows["cell"] + "-other"
    other.items["cell"] += "-other"
    run.rows = pd.concat([run.rows, other.rows])
    run.items = pd.concat([run.items, other.items])
    items = statistics.items_with_base(run)
    part = items[(items["method"] == "sft")]
    same = statistics.paired(part, part)
    assert (same.seeds, same.bases, same.n) == (1, 2, 2 * 4 * 30)


def test_summary_is_the_mean_of_the_rows():
    run = synthetic.results(items=50)
    summary = statistics.summarize(run)
    rows = statistics.select(run.rows, metric="accuracy")
    expected = rows.groupby(["method", "setting", "slack", "ct_tokens"], dropna=False)["value"]
    merged = summary.merge(
        expected.mean().rename("expected").reset_index(),
        on=["method", "setting", "slack", "ct_tokens"],
    )
    assert len(merged) == len(summary)
    assert merged["value"].to_numpy() == pytest.approx(merged["expected"].to_numpy())
    assert (merged["low"] < merged["value"]).all() and (merged["value"] < merged["high"]).all()


def test_summary_of_bits_per_byte_has_the_texts_intervals():
    run = synthetic.results(items=10)
    row = statistics.summarize(run, "bits_per_byte").query("method == 'sft'").iloc[0]
    half = stats.norm.ppf(0.975) * 0.004 / np.sqrt(3)
    assert row["high"] - row["value"] == pytest.approx(half)


def test_per_seed_averages_tasks():
    run = synthetic.results(items=20)
    row = statistics.per_seed(run).query("method == 'sft' and seed == 1")
    rows = statistics.select(run.rows, method="sft", seed=1, metric="accuracy")
    assert row["value"].item() == pytest.approx(rows["value"].mean())


def test_unknown_task_and_language_name_their_neighbours():
    run = synthetic.results(items=5)
    with pytest.raises(LangmergeError, match="topic"):
        statistics.summarize(run, task="topics")
    with pytest.raises(LangmergeError, match="tam_Taml"):
        statistics.summarize(run, language="tam_Tam")
    with pytest.raises(LangmergeError, match="name one of"):
        statistics.one_language(synthetic.results(languages=("a", "b"), items=5), None)


def test_whole_model_counts_every_surviving_parameter():
    run = synthetic.results(items=5)
    summed = statistics.whole_model(run.diagnostics)
    one = statistics.select(run.diagnostics, seed=0, method="ties_mean", ct_tokens=run.budgets[-1])
    share = one["outvoted_sft"].sum() / (one["outvoted_sft"] + one["kept_sft"]).sum()
    row = statistics.select(summed, seed=0, method="ties_mean", ct_tokens=run.budgets[-1])
    assert row["discarded_sft_share"].item() == pytest.approx(share)
    assert row["norm_ratio"].item() == pytest.approx(9.8 / 4)


@settings(max_examples=25, deadline=None)
@given(st.floats(-5, 5), st.floats(-5, 5))
def test_slope_per_decade_recovers_a_line(intercept, slope):
    tokens = np.array([1e3, 1e4, 1e5, 3e5])
    found = statistics.slope_per_decade(tokens, intercept + slope * np.log10(tokens))
    assert found == pytest.approx(slope, abs=1e-9)


def test_two_groups_dealt_anew_are_counted_one_by_one():
    some, others = [0.1, -0.3], [0.2, 0.4, 0.1, -0.1]
    units = np.array([*some, *others])
    every = [
        units[list(chosen)].mean() - np.delete(units, chosen).mean()
        for chosen in itertools.combinations(range(6), 2)
    ]
    difference, p = statistics.groups_dealt_anew(some, others)
    assert difference == pytest.approx(np.mean(some) - np.mean(others))
    assert p == pytest.approx(np.mean(np.array(every) <= difference + 1e-12))


def test_welch_is_the_formula():
    some, others = np.array([0.1, -0.3, 0.0]), np.array([0.2, 0.4, 0.1, -0.1, 0.3])
    parts = [it.var(ddof=1) / len(it) for it in (some, others)]
    df = sum(parts) ** 2 / sum(
        part**2 / (len(it) - 1) for part, it in zip(parts, (some, others), strict=True)
    )
    half = stats.t.ppf(0.975, df) * np.sqrt(sum(parts))
    middle = some.mean() - others.mean()
    assert statistics.welch(some, others) == pytest.approx((middle, middle - half, middle + half))
