"""Claims: what the file may say, and verdicts checked against runs whose truth is known."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
import yaml

from langmerge import claims, paths, statistics
from langmerge.errors import LangmergeError
from langmerge.statistics import Effect

SHIPPED = Path(__file__).parents[1] / "data" / "claims.yaml"


@pytest.fixture(scope="module")
def stated():
    return claims.load(SHIPPED)


@pytest.fixture(scope="module")
def run():
    return synthetic.results()


def by_id(verdicts):
    return {verdict.claim: verdict for verdict in verdicts}


def effect(low, high, seeds=3):
    middle = (low + high) / 2
    return Effect(middle, low, high, 0.01, (high - low) / 4, 59, 480, 60, seeds)


def claim(**changed):
    fields = {
        "id": "f9-made-up",
        "finding": 9,
        "statement": "One method is better than another",
        "metric": "accuracy",
        "unit": "item",
        "test": "difference",
        "side": "greater",
        "smallest_effect": 0.03,
        "correction": "holm",
        "contrast": [
            {"method": "ties_mean", "budgets": "largest", "weight": 1},
            {"method": "ct_then_sft", "budgets": "largest", "weight": -1},
        ],
    }
    fields |= changed
    return {key: value for key, value in fields.items() if value is not None}


def written(tmp_path, *entries):
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump({"claims": list(entries)}), encoding="utf-8")
    return path


def test_shipped_claims_cover_every_finding_that_has_a_name(stated):
    assert {claim.finding for claim in stated} == set(claims.FINDINGS)
    assert all(claim.id.startswith(f"f{claim.finding}-") for claim in stated)


def test_shipped_claims_are_found_by_default(monkeypatch, stated):
    monkeypatch.setattr(paths, "data", lambda: SHIPPED.parent)
    assert claims.load() == stated


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"smallest_efect": 0.1}, "claim f9-made-up › smallest_efect: .*did you mean smallest_eff"),
        ({"metric": "acuracy"}, "claim f9-made-up › metric: .*accuracy"),
        ({"smallest_effect": None}, "difference states smallest_effect"),
        ({"margin": 0.1}, "states smallest_effect, and no margin"),
        ({"smallest_effect": -0.1}, "smallest_effect: .*greater than 0"),
        ({"unit": "seed"}, "accuracy has no unit 'seed'"),
        ({"monotone": True}, "condition on a slope"),
        ({"test": "slope"}, "budgets: all"),
        ({"id": "first"}, "claim first › id"),
        ({"contrast": []}, "contrast: "),
        (
            {"contrast": [{"method": "ct", "budgets": "largest", "weight": 1}]},
            "weights of a contrast sum to 0",
        ),
        (
            {"contrast": [{"metod": "ct", "budgets": "largest", "weight": 1}]},
            "contrast › 0 › metod: .*did you mean method",
        ),
    ],
)
def test_malformed_claims_say_where_and_how(tmp_path, changed, message):
    path = written(tmp_path, claim(**changed))
    with pytest.raises(LangmergeError, match=message) as raised:
        claims.load(path)
    assert str(path) in str(raised.value)


def test_claim_ids_are_unique(tmp_path):
    with pytest.raises(LangmergeError, match="occur twice: f9-made-up"):
        claims.load(written(tmp_path, claim(), claim()))


@pytest.mark.parametrize("text", ["claims: [", "- a\n- b", "", "claims:\n  - 3"])
def test_a_file_that_is_no_list_of_claims_is_named(tmp_path, text):
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    with pytest.raises(LangmergeError, match=r"claims\.yaml"):
        claims.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(LangmergeError, match="cannot be read"):
        claims.load(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("low", "high", "p", "word"),
    [
        (0.01, 0.09, 0.01, "holds"),
        (0.01, 0.09, 0.06, "inconclusive"),
        (-0.01, 0.09, 0.01, "inconclusive"),
        (-0.01, 0.02, 0.50, "fails"),
        (0.01, 0.02, 0.01, "fails"),
        (-0.20, -0.10, 0.01, "fails"),
        (-np.inf, np.inf, 1.0, "inconclusive"),
    ],
)
def test_difference_follows_its_rule_on_both_sides(low, high, p, word):
    greater = claims.Claim(**claim())
    less = claims.Claim(**claim(side="less"))
    assert claims.decide(greater, effect(low, high), p) == word
    assert claims.decide(less, effect(-high, -low), p) == word


@pytest.mark.parametrize(
    ("low", "high", "p", "word"),
    [
        (-0.02, 0.04, 0.01, "holds"),
        (0.01, 0.04, 0.01, "holds"),
        (-0.02, 0.04, 0.06, "inconclusive"),
        (0.02, 0.08, 0.01, "inconclusive"),
        (0.06, 0.08, 1.0, "fails"),
    ],
)
def test_non_inferiority_follows_its_rule_on_both_sides(low, high, p, word):
    fields = claim(test="non_inferiority", smallest_effect=None, margin=0.05)
    less, greater = (claims.Claim(**fields | {"side": side}) for side in ("less", "greater"))
    assert claims.decide(less, effect(low, high), p) == word
    assert claims.decide(greater, effect(-high, -low), p) == word


def test_monotone_is_a_condition():
    stated = claims.load(SHIPPED)
    slope = next(one for one in stated if one.monotone)
    assert claims.decide(slope, effect(0.1, 0.2), 0.01) == "holds"
    assert claims.decide(slope, effect(0.1, 0.2), 0.01, is_steady=False) == "inconclusive"


def test_the_truth_put_in_comes_out(run, stated):
    verdicts = [verdict for finding in (1, 2, 3) for verdict in claims.judge(run, finding, stated)]
    assert {verdict.claim: verdict.verdict for verdict in verdicts} == {
        one.id: "holds" for one in stated if one.finding in (1, 2, 3)
    }
    assert {verdict.at_7b for verdict in verdicts} == {"not tested"}


def test_the_opposite_truth_fails(stated):
    run = synthetic.results(
        accuracy={
            "sft": lambda step: 0.75,
            "ct_then_sft": lambda step: 0.75,
            "ties_mean": lambda step: 0.45 + 0.2 * step,
            "ties_sv": lambda step: 0.45 + 0.1 * step,
            "average": lambda step: 0.5,
            "task_arithmetic": lambda step: 0.5,
        },
        bits={
            "ct_then_sft": lambda step: 0.4,
            "ct": lambda step: 0.4 + 0.1 * step,
            "ties_mean": lambda step: 0.5,
            "ties_sv": lambda step: 0.6,
        },
        share=lambda step: 0.3 - 0.2 * step,
        share_with_slack=lambda step: 0.4,
    )
    words = [one.verdict for finding in (1, 2, 3) for one in claims.judge(run, finding, stated)]
    assert words == ["fails"] * sum(one.finding in (1, 2, 3) for one in stated)


def test_no_difference_does_not_hold(stated):
    same = {name: (lambda step: 0.5) for name in ("ct_then_sft", "ties_mean", "ties_sv")}
    verdicts = by_id(claims.judge(synthetic.results(accuracy=same), 1, stated))
    assert verdicts["f1-accuracy"].verdict != "holds"
    assert verdicts["f1-accuracy"].low < 0 < verdicts["f1-accuracy"].high


def test_pairs_rest_on_all_reported_tasks_and_seeds(run, stated):
    verdict = by_id(claims.judge(run, 1, stated))["f1-accuracy"]
    assert (verdict.n, verdict.n_clusters, verdict.seeds) == (3 * 4 * 120, 60, 3)
    items = statistics.select(run.items, ct_tokens=list(run.budgets[:2]))
    a, b = (
        statistics.select(items, method=method, setting="tuned")
        for method in ("ties_mean", "ct_then_sft")
    )
    assert verdict.effect == pytest.approx(a["correct"].mean() - b["correct"].mean())


def test_saturation_compares_the_largest_with_the_lower_middle_budget(run, stated):
    verdict = by_id(claims.judge(run, 2, stated))["f2-merge-stops"]
    tuned = statistics.select(run.items, method="ties_mean", setting="tuned")
    mean = tuned.groupby("ct_tokens")["correct"].mean()
    assert verdict.effect == pytest.approx(mean[run.budgets[3]] - mean[run.budgets[1]])


def test_slack_where_discarded_is_a_difference_of_differences(run, stated):
    verdict = by_id(claims.judge(run, 3, stated))["f3-where-discarded"]
    pair = statistics.select(run.items, method="ties_sv", setting=["tuned", "without slack"])
    mean = pair.groupby(["setting", "ct_tokens"])["correct"].mean()
    gain = mean["tuned"] - mean["without slack"]
    assert verdict.effect == pytest.approx(gain[run.budgets[-1]] - gain[run.budgets[0]])


def test_holm_counts_the_claims_of_the_finding_alone(run, stated):
    verdicts = claims.judge(run, 2, stated)
    expected = statistics.holm([verdict.p for verdict in verdicts])
    assert [verdict.p_holm for verdict in verdicts] == pytest.approx(expected)
    smallest = min(verdicts, key=lambda verdict: verdict.p)
    assert smallest.p_holm == pytest.approx(len(verdicts) * smallest.p)


def test_one_dip_in_one_seed_takes_the_monotone_claim_away(stated):
    run = synthetic.results()
    assert by_id(claims.judge(run, 2, stated))["f2-discarded"].verdict == "holds"
    tensors = run.diagnostics
    late = (tensors["ct_tokens"] == run.budgets[2]) & (tensors["seed"] == 1)
    tensors.loc[late, "kept_sft"] += tensors.loc[late, "outvoted_sft"]
    tensors.loc[late, "outvoted_sft"] = 0
    verdict = by_id(claims.judge(run, 2, stated))["f2-discarded"]
    assert verdict.verdict == "inconclusive"
    before, dip = (f"{budget:,}" for budget in run.budgets[1:3])
    told = f"not every seed moves that way from each budget to the next: from {before} to {dip}"
    assert verdict.note == f"{told} CT tokens 1 of 3 do not"


def test_budgets_at_which_nothing_is_discarded_are_told_apart(stated):
    run = synthetic.results()
    tensors = run.diagnostics
    early = tensors["ct_tokens"].isin(run.budgets[:2])
    tensors.loc[early, "kept_sft"] += tensors.loc[early, "outvoted_sft"]
    tensors.loc[early, "outvoted_sft"] = 0
    verdict = by_id(claims.judge(run, 2, stated))["f2-discarded"]
    assert verdict.verdict == "inconclusive"
    first, second = (f"{budget:,}" for budget in run.budgets[:2])
    assert verdict.note.endswith(f"from {first} to {second} CT tokens 3 of 3 stay the same")


def test_one_seed_leaves_what_needs_seeds_inconclusive(stated):
    verdicts = by_id(claims.judge(synthetic.results(seeds=(4,)), 1, stated))
    assert verdicts["f1-language"].verdict == "inconclusive"
    assert "one seed alone gives no interval" in verdicts["f1-language"].sentence()
    assert verdicts["f1-accuracy"].verdict == "holds"


def test_several_languages_are_pooled(stated):
    run = synthetic.results(languages=("tam_Taml", "ben_Beng", "bod_Tibt"))
    verdict = by_id(claims.judge(run, 1, stated))["f1-accuracy"]
    assert verdict.n_clusters == 3
    assert "3 languages" in verdict.sentence()


def test_missing_models_name_the_run_to_make(run, stated):
    lacking = synthetic.results(seeds=(0, 1), items=20)
    items = lacking.items
    gone = (items["method"] == "ties_mean") & (items["seed"] == 1)
    lacking.items = items[~(gone & (items["ct_tokens"] == lacking.budgets[1]))]
    with pytest.raises(claims.MissingResults) as raised:
        claims.judge(lacking, 1, stated)
    for part in ("f1-accuracy", "ties_mean", "30,720", "tam_Taml", "seed 1", "langmerge run"):
        assert part in str(raised.value)


def test_a_method_that_the_profile_does_not_run_is_to_be_named_there(stated):
    lacking = synthetic.results(seeds=(0, 1), items=20)
    lacking.items = lacking.items[lacking.items["method"] != "ties_mean"]
    lacking.only = ["average", "ct_then_sft"]
    with pytest.raises(claims.MissingResults, match=r"runs average, ct_then_sft alone.*`only`"):
        claims.judge(lacking, 1, stated)


def test_a_claim_whose_data_are_missing_is_not_tested_and_nothing_else(stated):
    lacking = synthetic.results(seeds=(0, 1), items=20)
    lacking.items = lacking.items[lacking.items["method"] != "average"]
    judged = claims.judge_all(lacking, stated)
    assert judged["f1-accuracy-average"].verdict == "not tested"
    assert "average" in judged["f1-accuracy-average"].note
    papers = {claim.id for claim in stated if claim.finding in claims.PAPERS} - {
        "f1-accuracy-average"
    }
    others = [judged[name] for name in papers]
    assert all(one.verdict != "not tested" for one in others)
    assert [judged[c.id].effect for c in stated if c.finding == 2] == [
        verdict.effect for verdict in claims.judge(lacking, 2, stated)
    ]
    raw = [1.0 if c.id == "f1-accuracy-average" else judged[c.id].p for c in stated[:5]]
    assert judged["f1-accuracy"].p_holm == pytest.approx(statistics.holm(raw)[0])
    nothing = claims.judge_all(None, stated)
    assert {verdict.verdict for verdict in nothing.values()} == {"not tested"}
    for verdict in [*nothing.values(), judged["f1-accuracy-average"]]:
        said = [verdict.sentence(), *claims.numbers([verdict]).values(), verdict.basis()]
        assert not any("nan" in text for text in said)
        assert claims.effect(verdict) == "not tested"


def test_a_base_that_lacks_a_language_is_missing_data(stated):
    run, other = (synthetic.results(seeds=(0,), items=10, languages=("a", "b")) for _ in range(2))
    for frame in (other.rows, other.items):
        frame["cell"] += "-other"
    other.rows["base"], other.diagnostics["base"] = "1badcafe", "1badcafe"
    run.rows = pd.concat([run.rows, other.rows])
    run.items = pd.concat([run.items, other.items])
    run.diagnostics = pd.concat([run.diagnostics, other.diagnostics])
    verdict = by_id(claims.judge(run, 1, stated))["f1-accuracy"]
    assert verdict.bases == 2 and "2 languages on 2 bases, 1 seed each" in verdict.basis()
    assert claims.estimates(run, stated[0]).shape == (2, 2)
    gone = (run.items["language"] == "b") & run.items["cell"].str.endswith("-other")
    run.items = run.items[~(gone & (run.items["method"] == "ties_mean"))]
    assert claims.judge_all(run, stated)["f1-accuracy"].verdict == "not tested"


def test_one_budget_is_too_few(stated):
    with pytest.raises(claims.MissingResults, match=r"2 CT budgets.*has 1"):
        claims.judge(synthetic.results(budgets=(7_680,), items=20), 2, stated)


def test_two_slacks_under_one_setting_are_ambiguous(stated):
    run = synthetic.results(items=20)
    twice = run.items[run.items["setting"] == "sweep"].assign(setting="tuned")
    run.items = pd.concat([run.items, twice])
    with pytest.raises(LangmergeError, match="several models"):
        claims.judge(run, 3, stated)


def test_unknown_finding_names_the_known(run, stated):
    with pytest.raises(LangmergeError, match=r"\[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14\]"):
        claims.judge(run, 99, stated)


def test_a_claim_whose_models_are_not_in_the_run_is_not_tested_and_nothing_else(run, stated):
    with pytest.raises(claims.MissingResults, match=r"f4-widen.*does not run it: `families`"):
        claims.judge(run, 4, stated)
    found = by_id(claims.judge(run, 4, stated, missing_ok=True))
    tested = {name for name, verdict in found.items() if verdict.verdict != "not tested"}
    assert tested == {"f4-no-election", "f4-no-election-language"}
    lacking = found["f4-widen"]
    assert "not tested in the lab" in lacking.sentence() and "nan" not in lacking.sentence()
    table = claims.table(list(found.values()))
    assert table.loc["f4-widen", ["in the lab", "effect"]].tolist() == ["not tested"] * 2
    # Holm counts what is not tested: a run that lacks models gets no easier a test.
    raw = [verdict.p if name in tested else 1.0 for name, verdict in found.items()]
    assert found["f4-no-election"].p_holm == pytest.approx(statistics.holm(raw)[2])


def test_all_of_a_finding_is_untested_where_there_is_no_run(stated):
    one = claims.judge_all(None, stated)["f5-restored"]
    assert one.verdict == "not tested" and "there are no results" in one.sentence()


# --- equivalence ---------------------------------------------------------------------------

EQUAL = {"test": "equivalence", "side": "either", "margin": 0.03, "smallest_effect": None}


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(-0.01, 0.012, "holds"), (-0.05, 0.05, "inconclusive"), (-0.02, 0.06, "inconclusive"),
     (0.04, 0.08, "fails"), (-0.09, -0.04, "fails")],
)  # fmt: skip
def test_equivalence_holds_between_the_margins_and_fails_beyond_either(low, high, word):
    stated = claims.Claim.model_validate(claim(**EQUAL))
    found = effect(low, high)
    p = claims.p_value(stated, found)
    assert p == pytest.approx(statistics.tost(found, 0.03))
    assert claims.decide(stated, found, p) == word


@pytest.mark.parametrize("changed", [{"side": "greater"}, {"margin": None}])
def test_an_equivalence_has_no_side_and_a_margin(tmp_path, changed):
    with pytest.raises(LangmergeError, match="f9-made-up"):
        claims.load(written(tmp_path, claim(**EQUAL | changed)))


def test_random_draws_are_averaged_item_by_item(stated):
    run = synthetic.results(items=20)
    plain = run.items["method"].eq("ties_mean")
    worse = run.items[plain].assign(method="random_drop", correct=False, setting="draw 0")
    same = run.items[plain].assign(method="random_drop", setting="draw 1")
    run.items = pd.concat([run.items, worse, same])
    which = next(one for one in stated if one.id == "f5-which")
    measured = claims.measure(run, which).estimate
    late = statistics.select(run.items, method="ties_mean", ct_tokens=max(run.budgets))
    assert measured == pytest.approx(-late.groupby(["seed", "task"])["correct"].mean().mean() / 2)


def test_sentence_gives_the_numbers_of_the_run(run, stated):
    verdict = by_id(claims.judge(run, 1, stated))["f1-accuracy"]
    made_up = dataclasses.replace(
        verdict, effect=0.0523, low=-0.011, high=0.0947, p_holm=0.0312, verdict="inconclusive"
    )
    sentence = made_up.sentence()
    assert "inconclusive in the lab" in sentence and "at 7B: not tested" in sentence
    assert "+5.2 points" in sentence and "−1.1 to +9.5" in sentence
    assert "p = .031 after Holm" in sentence and "60 concepts, 3 seeds" in sentence


def test_relative_bits_are_shown_in_percent(run, stated):
    verdict = by_id(claims.judge(run, 1, stated))["f1-language"]
    shown = dataclasses.replace(verdict, effect=np.log(0.9), low=np.log(0.8), high=0.0)
    assert "−10.0 % of bits per byte" in shown.measured()
    assert "−20.0 to +0.0" in shown.measured()
    assert "margin +5.0" in shown.measured()


def test_table_and_quoted_numbers_agree(run, stated):
    verdicts = claims.judge(run, 3, stated)
    table, quoted = claims.table(verdicts), claims.numbers(verdicts)
    assert list(table.index) == [verdict.claim for verdict in verdicts]
    for name, row in table.iterrows():
        assert quoted[f"{name}-verdict"] == row["in the lab"]
        assert quoted[f"{name}-effect"] == row["effect"]
    assert claims.styled(verdicts, "one").to_html() == claims.styled(verdicts, "one").to_html()
    assert "not tested" in claims.styled(verdicts).to_html()


# --- across languages ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def many():
    return synthetic.results(languages=("tam_Taml", "ben_Beng", "zzz_0002", "zzz_0003"), items=30)


@pytest.mark.parametrize("finding", [1, 2, 3])
def test_each_language_says_what_it_says_alone_and_all_say_what_is_judged(many, stated, finding):
    found = claims.across(many, finding, stated)
    pooled = found[found["language"] == ""].set_index("claim")
    for verdict in claims.judge(many, finding, stated):
        assert pooled.loc[verdict.claim, "effect"] == pytest.approx(verdict.effect)
        assert pooled.loc[verdict.claim, "low"] == pytest.approx(verdict.low)
    alone = synthetic.results(languages=("tam_Taml",), items=30)
    ours = found[found["language"] == "tam_Taml"].set_index("claim")
    for verdict in claims.judge(alone, finding, stated):
        assert ours.loc[verdict.claim, "effect"] == pytest.approx(verdict.effect)
    means = found[found["language"] != ""].groupby("claim")["effect"].mean()
    assert np.allclose(means, pooled.loc[means.index, "effect"])


def test_one_language_is_not_pooled(run, stated):
    assert set(claims.across(run, 1, stated)["language"]) == {"tam_Taml"}


def test_kinds_of_languages_are_averaged_apart(many, stated):
    found = claims.across(many, 1, stated)
    kinds = {"made": {"tam_Taml": "real", "ben_Beng": "real", "zzz_0002": "generated"}}
    table = claims.by_kind(found, kinds).set_index(["claim", "kind"])
    assert table.loc[("f1-accuracy", "real"), "languages"] == 2
    effects = found[found["claim"] == "f1-accuracy"].set_index("language")["effect"]
    expected = effects[["tam_Taml", "ben_Beng"]].mean()
    assert table.loc[("f1-accuracy", "real"), "effect"] == pytest.approx(expected)
    assert np.isinf(table.loc[("f1-accuracy", "generated"), "low"]), "one language has no interval"
