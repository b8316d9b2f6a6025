"""CT at twice the rate on bases of other traces: made-up runs whose effects are known."""

import numpy as np
import pandas as pd
import pytest
import synthetic
from scipy import stats

from langmerge import (
    arms,
    base,
    book,
    claims,
    faster_bases,
    faster_traces,
    other_bases,
    other_traces,
    profiles,
    reference,
)
from langmerge.base import BaseRecipe

CODES = ("tam_Taml", "ben_Beng", "swh_Latn", "eus_Latn")
HASHES = {"second": "00000002", "third": "00000003", "fourth": "00000004",
          "scant": "00000005", "ample": "00000006"}  # fmt: skip
SHARES = {"scant": 0.0075, "ample": 0.03}
(TWICE,) = arms.ARMS["faster"]
#: How far mean-TIES falls at twice the rate: far out on one base alone.
FALL = {"second": 0.10, "third": 0.14, "fourth": 0.12, "scant": 0.12, "ample": 0.55}


def one_base(name):
    profile = faster_traces.PROFILE if name in SHARES else faster_bases.PROFILE
    how = dict(languages=CODES, seeds=(0,), budgets=profiles.load(profile).budgets, items=60,
               seed=list(HASHES).index(name))  # fmt: skip
    run = synthetic.results({"ties_mean": lambda step: 0.5 + 0.1 * step}, **how)
    fast = synthetic.results({"ties_mean": lambda step: 0.7 - FALL[name] * step}, **how)
    for frame in ("rows", "items", "diagnostics"):
        those = getattr(fast, frame)
        those = those[~those["method"].isin(["base", "sft"])]
        those = those.assign(method=f"{TWICE}/" + those["method"])
        if "cell" in those:
            those = those.assign(cell=TWICE + those["cell"])
        setattr(run, frame, pd.concat([getattr(run, frame), those], ignore_index=True))
    return synthetic.on_base(run, profile, name, HASHES[name])


@pytest.fixture(scope="module")
def runs():
    made = {name: one_base(name) for name in HASHES}
    alike = reference.joined(reference.joined(made["second"], made["third"]), made["fourth"])
    return alike, reference.joined(made["scant"], made["ample"])


@pytest.fixture
def given(runs, monkeypatch):
    of = dict(zip((faster_bases.PROFILE, faster_traces.PROFILE), runs, strict=True))
    monkeypatch.setattr(other_bases, "whole", of.get)
    monkeypatch.setattr(base, "hash_of", lambda name, code: HASHES[name])
    usual = base.recipe()

    def known(name):
        trace = usual.trace.model_copy(update={"share": SHARES.get(name, usual.trace.share)})
        recipe = BaseRecipe.model_validate(usual.model_dump() | {"trace": trace})
        return base.Known(None, HASHES[name], recipe)

    monkeypatch.setattr(base, "known", known)
    return runs


def test_a_fall_far_out_is_told_on_the_base_that_has_it(given, tmp_path):
    alike, _ = given
    said = faster_traces.page(tmp_path)
    (line,) = (it for it in said.splitlines() if it.startswith("Effects that lie outside"))
    scant, ample = line.split(", and ")[:2]
    what = faster_bases.DRAWN["f10-saturates"]
    assert what not in scant and what in ample
    (claim,) = (it for it in claims.load() if it.id == "f10-saturates")
    usual = claims.estimates(alike, claim).mean()
    half = stats.t.ppf(0.975, 2) * usual.std(ddof=1) * np.sqrt(1 + 1 / 3)
    ends = (claims.as_text("accuracy", usual.mean() + sign * half) for sign in (-1, 1))
    (row,) = (it for it in said.splitlines() if it.endswith("`f10-saturates` |"))
    assert " to ".join(ends) in row


def test_where_nothing_lies_outside_that_is_said(given):
    alike, traced = given
    found = other_traces.effects(alike, traced, faster_bases.DRAWN)
    inside = found.assign(low=found["mean"] - 9, high=found["mean"] + 9)
    said = other_traces.outside(inside, ["scant", "ample"])
    assert said.startswith(f"None of the {len(found)} effects lies outside")
    assert "on `scant` or `ample`" in said


def test_the_map_has_every_trace_at_both_rates(given, tmp_path):
    alike, traced = given
    effects, order = faster_traces.regimes(alike, traced)
    assert order == [
        f"trace {share} %, {rate}"
        for share in ("0.75", "2", "3")
        for rate in (faster_traces.USUAL_RATE, TWICE)
    ]
    over = effects[effects["effect"] == "TIES over CT-then-SFT"]
    assert over.groupby("arm")["base"].nunique()[order].tolist() == [1, 1, 3, 3, 1, 1]
    last = over[over["ct_tokens"] == max(traced.budgets)].groupby("arm")["value"].mean()
    assert last[f"trace 3 %, {TWICE}"] == pytest.approx(0.7 - 0.55 - 0.75, abs=0.1)
    faster_traces.page(tmp_path)
    assert (tmp_path / "faster-traces.png").stat().st_size > 5_000


def test_each_trace_has_its_ends_at_twice_the_rate(given, tmp_path):
    alike, traced = given
    table = list(faster_traces._ends(alike, traced))
    assert table[0] == "| method | trace 0.75 % | trace 2 % | trace 3 % |"
    (ties,) = (line for line in table if line.startswith("| TIES (mean)"))
    its = alike.rows[alike.rows["method"] == f"{TWICE}/ties_mean"]
    its = its[its["metric"] == "accuracy"].groupby("ct_tokens")["value"].mean()
    _, middle, largest = alike.budgets
    assert f" {100 * its[middle]:.1f} → {100 * its[largest]:.1f} |" in ties
    assert any(line.startswith("| CT-then-SFT |") for line in table)


def test_its_profile_is_that_of_the_usual_trace_on_other_bases():
    ours, theirs = (profiles.load(it.PROFILE) for it in (faster_traces, faster_bases))
    assert ours.identity() == theirs.identity()
    assert ours.bases == profiles.load(other_traces.PROFILE).bases


def test_without_rows_it_says_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr(other_bases, "whole", lambda profile: None)
    assert f"reference --profile {faster_traces.PROFILE}" in faster_traces.page(tmp_path)
    text = (book.require_checkout() / "book/other_traces.md").read_text()
    assert "_executed/faster_traces.md" in text
