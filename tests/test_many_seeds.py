"""The chapter on many run seeds: made-up runs in which a seed's luck is in all languages alike."""

import numpy as np
import pytest
import synthetic
from scipy import stats

from langmerge import book, claims, many_seeds, plotting, plotting_families, profiles, reference

CODES = ("tam_Taml", "ben_Beng", "swh_Latn", "eus_Latn")
SEEDS = tuple(range(2, 8))
#: By seed, how many of the items that were missed its SFT expert and its merges get right.
LUCK = dict(zip(SEEDS, np.linspace(0.0, 0.5, len(SEEDS)), strict=True))


def made(profile, languages, seeds, luck):
    plan = profiles.load(profile)
    run = synthetic.results(languages=languages, seeds=seeds, budgets=plan.budgets, items=60)
    rng = np.random.default_rng(1)
    items, rows = run.items, run.rows
    for seed, share in luck.items():
        lucky = items["seed"].eq(seed) & items["method"].isin(["sft", *many_seeds.AGAINST.values()])
        items["correct"] |= lucky & (rng.uniform(size=len(items)) < share)
    of = ["language", "seed", "method", "setting", "slack", "ct_tokens", "task"]
    found = items.groupby(of, dropna=False)["correct"].mean().rename("found").reset_index()
    value = rows.merge(found, on=of, how="left")["found"]
    rows["value"] = np.where(rows["metric"] == "accuracy", value, rows["value"])
    return synthetic.as_study(run, profile)


@pytest.fixture(scope="module")
def runs():
    return {
        reference.PROFILE: made(reference.PROFILE, ("zzz_0002", *CODES), (0, 1), {}),
        many_seeds.PROFILE: made(many_seeds.PROFILE, CODES, SEEDS, LUCK),
    }


@pytest.fixture
def said(runs, monkeypatch, tmp_path):
    monkeypatch.setattr(reference, "load", lambda profile=reference.PROFILE: runs[profile])
    return many_seeds.page(tmp_path)


def test_a_seeds_luck_is_in_the_interval(said, runs):
    many = runs[many_seeds.PROFILE]
    (judged,) = (it for it in many_seeds.judge(many) if it.claim == "f1-accuracy")
    expected = stats.ttest_1samp([mean for _, mean in judged.by_seed], 0).confidence_interval()
    assert judged.over == "seeds"
    assert (judged.low, judged.high) == pytest.approx(tuple(expected))
    (line,) = (it for it in said.splitlines() if it.startswith(f"| {judged.statement} |"))
    _, _, few, other, _ = (cell.strip() for cell in line.split("|"))
    assert "over languages)" in few and f"over seeds): **{judged.verdict}**" in other
    assert claims.effect(judged) in other
    assert f"**{judged.verdict}** ({claims.effect(judged)}" in many_seeds.headline()


def test_what_is_beside_it_has_the_same_languages_and_budgets_with_its_own_seeds(runs):
    many = runs[many_seeds.PROFILE]
    few = many_seeds._beside(runs[reference.PROFILE], many)
    assert (few.languages, few.seeds, few.budgets) == (list(CODES), [0, 1], many.budgets)
    assert set(few.items["language"]) == set(CODES) and set(few.items["seed"]) == {0, 1}


def test_effects_go_with_the_expert_where_they_were_made_to(said, runs):
    points = many_seeds.by_expert(runs[many_seeds.PROFILE])
    assert len(points) == len(SEEDS) * len(many_seeds.AGAINST)
    assert set(points["seed"]) == set(SEEDS)
    for _, its in points.groupby("method"):
        assert its["sft"].corr(its["effect"]) > 0.9
    text = plotting.alt(plotting_families.effect_by_expert(points))
    low = 100 * points.loc[points["method"] == "average", "effect"].min()
    assert f"weighted average {low:+.1f} to".replace("-", "−") in text
    assert "+0.9" in said or "+1.0" in said


def test_the_table_of_seeds_and_the_spread_are_those_of_the_rows(said, runs):
    many = runs[many_seeds.PROFILE]
    rows = many.rows[(many.rows["method"] == "sft") & (many.rows["metric"] == "accuracy")]
    expected = rows.groupby("seed")["value"].mean()
    for seed in SEEDS:
        (line,) = (it for it in said.splitlines() if it.startswith(f"| {seed} |"))
        assert line.split("|")[2].strip() == f"{100 * expected[seed]:.1f}"
    (claim,) = (it for it in claims.load() if it.id == "f1-accuracy")
    means = many_seeds.effects(many, claim).mean()
    assert list(means.index) == list(SEEDS)
    assert f"| {many_seeds.seeds_needed(means.std())} | `f1-accuracy` |" in said


def test_as_many_seeds_as_the_interval_needs():
    number = many_seeds.seeds_needed(0.035)
    half = [stats.t.ppf(0.975, n - 1) * 0.035 / n**0.5 for n in (number - 1, number)]
    assert half[1] <= many_seeds.WANTED < half[0]
    assert many_seeds.seeds_needed(0.0) == 2


def test_it_says_how_many_of_the_planned_seeds_are_in(said):
    assert "Run seeds: 2 to 7 (6 of 12 that were planned)" in said


def test_its_seeds_and_its_budgets_are_as_the_plan_has_them():
    many, few = profiles.load(many_seeds.PROFILE), profiles.load(reference.PROFILE)
    assert not set(many.seeds) & set(few.seeds)
    assert many.budgets == few.budgets[:2] and set(many.languages) <= set(few.languages)
    assert many.tuned == few.tuned and many.items == few.items
    assert set(many_seeds.AGAINST.values()) <= set(many.only)


def test_without_rows_it_says_what_computes_them(monkeypatch, tmp_path):
    monkeypatch.setattr(reference, "load", lambda profile=reference.PROFILE: None)
    assert "langmerge reference --profile reference-seeds" in many_seeds.page(tmp_path)
    assert many_seeds.headline() is None
    assert "_executed/many_seeds.md" in (book.require_checkout() / "book/many_seeds.md").read_text()
