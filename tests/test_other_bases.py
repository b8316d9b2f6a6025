"""The chapter on other bases: made-up runs whose bases differ by what was put in."""

import itertools

import numpy as np
import pandas as pd
import pytest
import synthetic
from scipy import stats

from langmerge import (
    base,
    book,
    claims,
    other_bases,
    plotting,
    plotting_families,
    profiles,
    reference,
    statistics,
)
from langmerge.errors import LangmergeError

CODES = ("tam_Taml", "ben_Beng", "swh_Latn", "eus_Latn")
HASHES = {"base": "0badcafe", "second": "00000002", "third": "00000003", "fourth": "00000004"}
#: What TIES gives at every budget beside what `synthetic` says, by base.
LIFT = {"base": 0.0, "second": -0.15, "third": 0.1, "fourth": 0.3}


def one_base(name, profile, languages, seed):
    budgets = profiles.load(profile).budgets
    ties = synthetic.ACCURACY["ties_mean"]
    made = synthetic.results(
        accuracy={"ties_mean": lambda step: ties(step) + LIFT[name]},
        languages=languages, seeds=(0, 1), budgets=budgets, items=60, seed=seed,
    )  # fmt: skip
    return synthetic.on_base(made, profile, name, HASHES[name])


@pytest.fixture(scope="module")
def runs():
    every = ("zzz_0002", *CODES)
    return {
        reference.PROFILE: one_base("base", reference.PROFILE, every, 0),
        other_bases.THREE: one_base("second", other_bases.THREE, every, 1),
        other_bases.PROFILE: one_base("third", other_bases.PROFILE, CODES, 2),
    }


@pytest.fixture
def given(runs, monkeypatch):
    monkeypatch.setattr(reference, "load", lambda profile=reference.PROFILE: runs[profile])
    monkeypatch.setattr(base, "hash_of", lambda name, code: HASHES[name])
    monkeypatch.setattr(other_bases.larger, "between", lambda name: dict.fromkeys(CODES[1:], 3))


@pytest.fixture
def together(given, runs):
    return other_bases.all_bases()


def test_bases_that_differ_make_the_interval(given, together, tmp_path):
    said = other_bases.page(tmp_path)
    judged = {it.claim: it for it in other_bases.judge(together)}["f1-accuracy"]
    (claim,) = (it for it in claims.load() if it.id == "f1-accuracy")
    by_base = claims.estimates(together, claim).mean()
    expected = stats.ttest_1samp(by_base, 0).confidence_interval()
    assert (judged.over, judged.bases, judged.seeds) == ("bases", 3, 2)
    assert (judged.low, judged.high) == pytest.approx(tuple(expected))
    line, _ = (it for it in said.splitlines() if it.startswith(f"| {judged.statement} |"))
    assert "over languages)" in line and f"over bases): **{judged.verdict}**" in line
    assert "On 3 bases of the same recipe" in other_bases.headline()
    assert "| effect | standard deviation | 3 bases | 5 bases |" in said


def test_verdicts_of_more_bases_stand_beside_those_that_were_looked_at_before(
    given, together, runs, monkeypatch, tmp_path
):
    assert "the 3 bases before" not in other_bases.page(tmp_path), "three is all there is"
    newest = one_base("fourth", other_bases.PROFILE, CODES, 3)
    five = {**runs, other_bases.PROFILE: reference.joined(runs[other_bases.PROFILE], newest)}
    monkeypatch.setattr(reference, "load", lambda profile=reference.PROFILE: five[profile])
    said = other_bases.page(tmp_path)
    assert "| Claim | first base | 3 bases before | all 4 bases |" in said
    before = {it.claim: it for it in other_bases.judge(together)}["f1-accuracy"]
    line, _ = (it for it in said.splitlines() if it.startswith(f"| {before.statement} |"))
    _, _, _, three, four, _ = (cell.strip() for cell in line.split("|"))
    assert three == before.said() != four
    assert "another verdict with 4 bases than on the 3 bases before" in said
    known = other_bases.on_known(other_bases.others(), ["fourth"])
    assert known.plan.bases == ["fourth"] and set(known.rows["base"]) == {HASHES["fourth"]}
    each, _, word = other_bases.guess(known)
    told = f"{each[HASHES['fourth']]:+.2f}".replace("-", "−") + " on the fourth base, one-sided p"
    (newest_alone,) = (it for it in said.splitlines() if it.startswith("On the newest alone"))
    assert told in newest_alone and newest_alone.endswith(f"so that it is **{word}**.")


def test_each_base_is_told_as_it_is_alone(given, together, runs, tmp_path):
    said = other_bases.page(tmp_path)
    assert "| Claim | first base | second base | third base |" in said
    (claim,) = (it for it in claims.load() if it.id == "f1-accuracy")
    alone = other_bases.on_bases(together, [HASHES["second"]])
    assert set(alone.rows["base"]) == set(alone.items["base"]) == {HASHES["second"]}
    expected = claims.estimates(together, claim)[HASHES["second"]].mean()
    assert claims.measure(alone, claim).estimate == pytest.approx(expected)
    assert "on the second base in all but Tamil; on the third base in all but Tamil." in said


def test_the_figure_has_every_base_and_seed(given, together):
    names = other_bases.names_of(together)
    effects, pooled = other_bases.drawn(together, other_bases.DRAWN, names)
    assert len(effects) == len(other_bases.DRAWN) * 3 * 2
    assert list(pooled) == list(other_bases.DRAWN.values())
    what = other_bases.DRAWN["f1-accuracy"]
    means = effects[effects["what"] == what].groupby("base", observed=True)["effect"].mean()
    assert means["second"] < means["first"] < means["third"]
    assert means.mean() == pytest.approx(pooled[what].estimate)
    text = plotting.alt(plotting_families.effects_by_base(effects, pooled))
    by_base = ", ".join(f"{100 * it:+.1f}" for it in means).replace("-", "−")
    assert f"{what} {by_base}, all bases" in text


def test_what_a_run_lacks_is_not_tested_and_not_drawn(given, runs, monkeypatch, tmp_path):
    more = runs[other_bases.PROFILE]
    less = other_bases.replace(more, items=more.items[more.items["method"] != "average"])
    fewer = {**runs, other_bases.PROFILE: less}
    monkeypatch.setattr(reference, "load", lambda profile=reference.PROFILE: fewer[profile])
    said = other_bases.page(tmp_path)
    (line,) = (it for it in said.splitlines() if "weighted averaging" in it and "over" in it)
    assert line.endswith("| not tested |")
    assert "average − CT-then-SFT" not in said and "TIES − CT-then-SFT" in said
    less = other_bases.replace(more, items=more.items[more.items["method"] != "ties_sv"])
    fewer[other_bases.PROFILE] = less
    assert other_bases.headline().endswith("a slack variable **not tested**.")


def test_a_seed_that_a_base_lacks_is_left_out(given, runs, monkeypatch):
    fourth = one_base("fourth", other_bases.PROFILE, CODES, 3)
    more = reference.joined(runs[other_bases.PROFILE], fourth)
    lacks = ~(more.rows["base"].eq(HASHES["third"]) & more.rows["seed"].eq(1))
    less = other_bases.replace(more, rows=more.rows[lacks])
    monkeypatch.setattr(reference, "load", lambda profile=None: less)
    assert other_bases.whole().seeds == [0]
    assert set(other_bases.whole().items["seed"]) == {0}


def test_runs_together_have_the_models_that_both_have(runs):
    few, more = runs[reference.PROFILE], runs[other_bases.PROFILE]
    with pytest.raises(LangmergeError, match="other languages are no run together"):
        reference.joined(few, more)
    alike = reference.like(few, more)
    with pytest.raises(LangmergeError, match="both runs have the base 0badcafe"):
        reference.joined(alike, alike)
    fewer = other_bases.replace(more, rows=more.rows[more.rows["setting"] != "sweep"])
    together = reference.joined(alike, fewer)
    ours = together.rows[together.rows["base"] == HASHES["base"]]
    assert "sweep" in set(alike.rows["setting"]) and "sweep" not in set(ours["setting"])
    assert together.plan.bases == ["base", "third"]


def test_three_bases_have_every_language_and_five_those_that_all_have(given, runs):
    three, all_of_them = other_bases.three_bases(), other_bases.all_bases()
    assert three.plan.bases == ["base", "second"] and "zzz_0002" in three.languages
    assert set(three.budgets) == set(profiles.load(reference.PROFILE).budgets)
    assert all_of_them.plan.bases == ["base", "second", "third"]
    assert all_of_them.languages == list(CODES)
    assert set(all_of_them.budgets) == set(profiles.load(other_bases.PROFILE).budgets)


@pytest.mark.parametrize(
    ("signs", "word"), [((1, 1), "supported"), ((-1, -1), "contradicted"), ((1, -1), "open")]
)
def test_the_guess_is_judged_by_its_rule(monkeypatch, signs, word):
    more = np.linspace(-0.2, 0.2, 8)
    parts = [
        pd.DataFrame({"language": list("abcdefgh"), "base": name, "ct": 0.3, "sft": 0.3 + more,
                      "slack": sign * more})
        for name, sign in zip(("second", "third"), signs, strict=True)
    ]  # fmt: skip
    monkeypatch.setattr(other_bases.larger, "experts_alone", lambda run: pd.concat(parts))
    each, p, said = other_bases.guess(None)
    assert said == word
    assert list(each.values()) == pytest.approx(list(signs))
    assert p == pytest.approx({"supported": 1 / 40_320, "contradicted": 1}.get(word, p))


def test_correlations_dealt_anew_are_counted_one_by_one():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5))
    y = x + rng.normal(size=(2, 5))
    every = [
        np.mean([stats.spearmanr(a, b[list(order)]).statistic for a, b in zip(x, y, strict=True)])
        for order in itertools.permutations(range(5))
    ]
    mean, p = statistics.dealt_anew(x, y)
    assert mean == pytest.approx(every[0])
    assert p == pytest.approx(np.mean(np.array(every) >= every[0] - 1e-12))


def test_components_of_bases_are_what_was_drawn():
    rng = np.random.default_rng(1)
    true = {"base": 3.0, "seed": 2.0, "language": 1.0, "rest": 0.5}
    runs = pd.MultiIndex.from_product([range(60), range(4)], names=["base", "seed"])
    values = (
        rng.normal(0, true["base"], 60).repeat(4)
        + rng.normal(0, true["seed"], len(runs))
        + rng.normal(0, true["language"], (40, 1))
        + rng.normal(0, true["rest"], (40, len(runs)))
    )
    found = statistics.nested_components(pd.DataFrame(values, columns=runs))
    assert found == pytest.approx(true, rel=0.25)


@pytest.mark.parametrize("runs", [[("a", 0), ("a", 1)], [("a", 0), ("b", 0)],
                                  [("a", 0), ("a", 1), ("b", 0)]])  # fmt: skip
def test_components_need_bases_and_seeds(runs):
    table = pd.DataFrame(np.eye(3)[:, : len(runs)], columns=pd.MultiIndex.from_tuples(runs))
    with pytest.raises(LangmergeError, match="two bases or more with as many seeds each"):
        statistics.nested_components(table)


@pytest.mark.parametrize("lacks", [other_bases.THREE, other_bases.PROFILE])
def test_what_lacks_is_named(given, runs, monkeypatch, tmp_path, lacks):
    fewer = {**runs, lacks: None}
    monkeypatch.setattr(reference, "load", lambda profile=reference.PROFILE: fewer[profile])
    assert f"langmerge reference --profile {lacks}`" in other_bases.page(tmp_path)


def test_without_rows_the_page_says_how_to_make_them(monkeypatch, tmp_path):
    monkeypatch.setattr(reference, "load", lambda profile=reference.PROFILE: None)
    assert "`langmerge reference --profile reference` computes" in other_bases.page(tmp_path)
    assert other_bases.headline() is None
    assert not any("same recipe" in line for line in book.other_runs())
