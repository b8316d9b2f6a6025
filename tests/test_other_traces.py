"""The chapter on other traces: made-up runs on bases of three traces, whose effects are known."""

import numpy as np
import pandas as pd
import pytest
import synthetic
from scipy import stats

from langmerge import base, claims, other_bases, other_traces, profiles, reference, statistics
from langmerge.base import BaseRecipe

CODES = ("tam_Taml", "ben_Beng", "swh_Latn", "eus_Latn")
HASHES = {"base": "0badcafe", "second": "00000002", "third": "00000003",
          "scant": "00000005", "ample": "00000006"}  # fmt: skip
#: What TIES gives at every budget beside what `synthetic` says: far out on one base alone.
LIFT = {"base": 0.0, "second": 0.02, "third": -0.02, "scant": 0.0, "ample": 0.35}
SHARES = {"scant": 0.0075, "ample": 0.03}


def made(name, number):
    ties = synthetic.ACCURACY["ties_mean"]
    profile = other_traces.PROFILE if name in SHARES else other_bases.PROFILE
    run = synthetic.results(
        accuracy={"ties_mean": lambda step: ties(step) + LIFT[name]}, languages=CODES,
        seeds=(0, 1), budgets=profiles.load(profile).budgets, items=60, seed=number,
    )  # fmt: skip
    return synthetic.on_base(run, profile, name, HASHES[name])


@pytest.fixture(scope="module")
def runs():
    parts = {name: made(name, number) for number, name in enumerate(HASHES)}
    alike = reference.joined(reference.joined(parts["base"], parts["second"]), parts["third"])
    return alike, reference.joined(parts["scant"], parts["ample"])


@pytest.fixture
def given(runs, monkeypatch):
    alike, traced = runs
    monkeypatch.setattr(other_bases, "all_bases", lambda: alike)
    monkeypatch.setattr(other_bases, "whole", lambda profile: traced)
    monkeypatch.setattr(base, "hash_of", lambda name, code: HASHES[name])
    usual = base.recipe()

    def known(name):
        trace = usual.trace.model_copy(update={"share": SHARES.get(name, usual.trace.share)})
        recipe = BaseRecipe.model_validate(usual.model_dump() | {"trace": trace})
        return base.Known(None, HASHES[name], recipe)

    monkeypatch.setattr(base, "known", known)
    monkeypatch.setattr(other_traces.larger, "between", lambda name: dict.fromkeys(CODES[1:], 3))
    monkeypatch.setattr(other_traces.larger_bases, "runs", lambda known=None: None)
    return alike, traced


def test_an_effect_far_out_is_told_and_no_other(given, tmp_path):
    alike, traced = given
    found = other_traces.effects(alike, traced)
    (claim,) = (it for it in claims.load() if it.id == "f1-accuracy")
    usual = claims.estimates(alike, claim).mean()
    half = stats.t.ppf(0.975, 2) * usual.std(ddof=1) * np.sqrt(1 + 1 / 3)
    row = found.loc["f1-accuracy"]
    assert (row["low"], row["high"]) == pytest.approx((usual.mean() - half, usual.mean() + half))
    assert row["ample"] == pytest.approx(claims.estimates(traced, claim)[HASHES["ample"]].mean()), (
        "the base's own mean"
    )
    said = other_traces.page(tmp_path)
    (line,) = (it for it in said.splitlines() if it.startswith("Effects that lie outside"))
    scant, ample = line.split(", and ")[:2]
    assert "TIES − CT-then-SFT" not in scant and "TIES − CT-then-SFT;" in ample
    (line,) = (it for it in said.splitlines() if it.endswith("`f1-accuracy` |"))
    assert f"**{claims.as_text('accuracy', row['ample'])}**" in line and line.count("**") == 2


def test_the_map_has_every_trace_and_the_table_every_base(given, tmp_path):
    alike, traced = given
    effects, order = other_traces.regimes(alike, traced)
    assert order == ["trace 0.75 %", "trace 2 %", "trace 3 %"]
    over = effects[effects["effect"] == "TIES over CT-then-SFT"]
    assert over.groupby("arm")["base"].nunique().tolist() == [1, 3, 1]
    said = other_traces.page(tmp_path)
    assert "| scant | 0.75 | 75,000 | 84 | 3 of 4 |" in said
    rows = [line for line in said.splitlines() if line.startswith(("| first | 2", "| ample | 3 "))]
    assert len(rows) == 3, "its own row twice, and the first base's once"
    assert (tmp_path / "other-traces.png").stat().st_size > 5_000


def test_an_interval_for_one_more_holds_one_more():
    rng = np.random.default_rng(0)
    draws = rng.normal(3, 2, (4_000, 6))
    held = [low <= last <= high for *its, last in draws
            for low, high in [statistics.prediction(its)]]  # fmt: skip
    assert np.mean(held) == pytest.approx(0.95, abs=0.012)


def test_what_slack_changes_is_foretold_by_the_line_through_the_other_bases(
    given, monkeypatch, tmp_path
):
    alike, traced = given
    gap = np.linspace(-0.2, 0.1, 8)
    slack = 0.01 + 0.3 * gap + np.resize([0.002, -0.002], 8)
    before = pd.DataFrame({"sft": 0.3 + gap, "ct": 0.3, "slack": slack, "size": "smaller"})
    found, word = other_traces.foretold(before, traced)
    assert list(found.index) == ["scant", "ample"]
    known = other_traces.larger.experts_alone(traced).groupby("base").mean(numeric_only=True)
    for name in found.index:
        its = known.loc[HASHES[name]]
        assert found.loc[name, ["sft", "ct", "slack"]].tolist() == pytest.approx(
            its[["sft", "ct", "slack"]].tolist()
        )
    line = np.polynomial.Polynomial.fit(gap, slack, 1)
    foretold = line((found["sft"] - found["ct"]).to_numpy())
    assert found["mean"].to_numpy() == pytest.approx(foretold)
    monkeypatch.setattr(other_traces.larger_bases, "runs", lambda known: (alike, None, None, alike))
    monkeypatch.setattr(other_traces.larger_bases, "experts_by_base", lambda *runs: before)
    said = other_traces.page(tmp_path)
    assert f"line of least squares through the 8 bases, it is **{word}**:" in said
    assert (tmp_path / "other-traces-slack.png").stat().st_size > 5_000
    assert "| base | SFT − CT alone | foretold | 95 % interval | what slack changes |" in said


@pytest.mark.parametrize(
    ("mean", "slack", "word"),
    [
        ((0.00, 0.05), (0.01, 0.04), "supported"),
        ((0.00, 0.05), (0.04, 0.01), "contradicted"),
        ((0.00, 0.01), (0.02, 0.01), "supported"),
        ((0.00, 0.05), (0.01, 0.20), "open"),
        ((0.00, 0.05), (0.10, 0.20), "contradicted"),
    ],
)
def test_what_is_said_of_the_guess_follows_the_rule(mean, slack, word):
    found = pd.DataFrame({"mean": mean, "slack": slack}, index=["scant", "ample"])
    found = found.assign(low=found["mean"] - 0.05, high=found["mean"] + 0.05)
    assert other_traces._said_of(found) == word


def test_a_line_foretells_as_often_as_it_says():
    rng = np.random.default_rng(1)
    x = rng.normal(size=6)
    held = []
    for _ in range(1_000):
        y = 0.5 - 2 * np.array([*x, 1.0]) + rng.normal(size=7)
        (one,) = statistics.foretold(x, y[:6], [1.0]).itertuples()
        held.append(one.low <= y[6] <= one.high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)


def test_without_rows_it_says_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr(other_bases, "whole", lambda profile: None)
    monkeypatch.setattr(other_bases, "all_bases", lambda known=None: None)
    said = other_traces.page(tmp_path)
    assert f"langmerge reference --profile {other_traces.PROFILE}" in said
