"""CT at twice the rate on other bases: made-up runs with and without a fall of the merge."""

import dataclasses

import pandas as pd
import pytest
import synthetic

from langmerge import arms, base, book, claims, faster_bases, plotting, profiles, reference
from langmerge.statistics import select

CODES = ("tam_Taml", "ben_Beng", "swh_Latn", "eus_Latn")
HASHES = {"second": "00000002", "third": "00000003", "fourth": "00000004"}
(TWICE,) = arms.ARMS["faster"]
#: How far mean-TIES falls at twice the rate, by base; the average gains there on each.
FALL = {"second": 0.30, "third": 0.36, "fourth": 0.33}


def one_base(name):
    plan = profiles.load(faster_bases.PROFILE)
    how = dict(languages=CODES, seeds=(0,), budgets=plan.budgets, items=60,
               seed=list(HASHES).index(name))  # fmt: skip
    run = synthetic.results({"ties_mean": lambda step: 0.5 + 0.1 * step}, **how)
    truths = {
        "ties_mean": lambda step: 0.62 - FALL[name] * step,
        "ties_sv": lambda step: 0.62 - 0.05 * step,
        "average": lambda step: 0.5 + 0.1 * step,
    }
    fast = synthetic.results(truths, share=lambda step: 0.1 + 0.3 * step, **how)
    for frame in ("rows", "items", "diagnostics"):
        those = getattr(fast, frame)
        those = those[~those["method"].isin(["base", "sft"])]
        those = those.assign(method=f"{TWICE}/" + those["method"])
        if "cell" in those:
            those = those.assign(cell=TWICE + those["cell"])
        setattr(run, frame, pd.concat([getattr(run, frame), those], ignore_index=True))
    return synthetic.on_base(run, faster_bases.PROFILE, name, HASHES[name])


@pytest.fixture(scope="module")
def run():
    first, *others = map(one_base, HASHES)
    for other in others:
        first = reference.joined(first, other)
    return first


@pytest.fixture
def said(run, monkeypatch, tmp_path):
    runs = {faster_bases.PROFILE: run}
    monkeypatch.setattr(reference, "load", runs.get)
    monkeypatch.setattr(base, "hash_of", lambda name, code: HASHES[name])
    return faster_bases.page(tmp_path)


def test_the_claims_find_what_was_put_in(run, said):
    judged = {it.claim: it for it in claims.judge(run, faster_bases.FINDING)}
    assert {it.bases for it in judged.values()} == {3}
    words = {name.removeprefix("f10-"): it.verdict for name, it in judged.items()}
    for name in ("saturates", "saturates-more", "average", "ct", "discarded", "slack"):
        assert words[name] == "holds", name
    stated = {claim.id: claim for claim in claims.load()}
    fall, more = (claims.measure(run, stated[f"f10-{it}"]) for it in ("saturates", "average"))
    assert more.estimate < fall.estimate < 0
    line, _ = (it for it in said.splitlines() if it.startswith("| On four other bases"))
    assert claims.effect(judged["f10-saturates"]) in line and "**holds**" in line
    assert "fails where CT goes far is no one base's; it loses more than the average" in said


def test_every_base_is_told_from_the_middle_to_the_largest_budget(run, said):
    assert "| Claim | second base | third base | fourth base |" in said
    assert "| method | second base | third base | fourth base |" in said, "no first base, no column"
    rows = select(run.rows, base=HASHES["third"], method=f"{TWICE}/ties_mean", metric="accuracy")
    rows = rows[rows["task"].isin(run.tasks) & rows["setting"].eq("tuned")]
    mean = rows.groupby("ct_tokens")["value"].mean()
    ends = " → ".join(f"{100 * mean[budget]:.1f}" for budget in run.budgets[1:])
    label = plotting.label("ties_mean")
    (line,) = (it for it in said.splitlines() if it.startswith(f"| {label} |"))
    assert line.split(" | ")[2] == ends


@pytest.mark.parametrize(
    ("fall", "average", "ct", "slack", "said"),
    [
        ("holds", "holds", "holds", "holds", ("no one base's", "trim and election", "stands")),
        ("holds", "fails", "holds", "fails", ("no one base's", "is enough", "first base's")),
        ("fails", "inconclusive", "holds", "inconclusive", ("was the first base's", "is open")),
        ("holds", "holds", "fails", "holds", ("falls on other bases is open",)),
        ("not tested", "holds", "holds", "holds", ("nothing is said",)),
    ],
)
def test_what_is_said_follows_the_rule(run, fall, average, ct, slack, said):
    (some, *_) = claims.judge(run, faster_bases.FINDING)
    words = {"saturates": fall, "average": average, "ct": ct, "slack": slack}
    judged = {
        f"f10-{name}": dataclasses.replace(some, verdict=verdict) for name, verdict in words.items()
    }
    told = faster_bases.outcome(judged)
    assert all(it in told for it in said)


def test_the_profile_asks_what_the_first_base_was_asked():
    ours, first = profiles.load(faster_bases.PROFILE), profiles.load("reference-faster")
    assert (ours.budgets, ours.families) == (first.budgets, first.families)
    assert set(first.only) < set(ours.only) and "base" not in ours.bases
    first_stated, ours_stated = (
        {it.id.partition("-")[2]: it for it in claims.load() if it.finding == number}
        for number in (8, faster_bases.FINDING)
    )
    assert set(ours_stated) - set(first_stated) == {"average"}
    for name, claim in first_stated.items():
        assert ours_stated[name].contrast == claim.contrast, name


def test_without_rows_it_says_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr(reference, "load", lambda *_: None)
    said = faster_bases.page(tmp_path)
    assert f"langmerge reference --profile {faster_bases.PROFILE}" in said
    text = (book.require_checkout() / "book/full_run.md").read_text()
    assert "_executed/faster_bases.md" in text
