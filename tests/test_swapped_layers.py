"""The chapter on swapping layers: made-up runs in which it is ahead, or is not."""

from dataclasses import replace

import pytest
import synthetic

from langmerge import (
    base,
    book,
    claims,
    other_bases,
    plotting,
    reference,
    repeated_text,
    swapped_layers,
)

CODES = ("tam_Taml", "ben_Beng", "swh_Latn", "eus_Latn")
HASHES = {"base": "0badcafe", "second": "00000002", "third": "00000003", "fourth": "00000004"}
PROFILE, _ = repeated_text.ON_BASES
METHODS = {
    "layer_swapping": ("tuned", 0.72, 0.45),
    "layer_swapping_repeated": ("tuned", 0.80, 0.44),
    "ct_then_sft_replay": ("tuned", 0.76, 0.46),
    "ct_then_sft_repeated": ("tuned", 0.60, 0.52),
}


@pytest.fixture(scope="module")
def runs():
    first = {"base": HASHES["base"]}
    others = {name: digest for name, digest in HASHES.items() if name != "base"}
    return {
        profile: synthetic.of_levels(METHODS, profile, hashes, CODES)
        for profile, hashes in ((repeated_text.PROFILE, first), (PROFILE, others))
    }


@pytest.fixture
def said(runs, monkeypatch):
    monkeypatch.setattr(reference, "load", lambda profile=reference.PROFILE: runs.get(profile))
    monkeypatch.setattr(base, "hash_of", lambda name, code: HASHES[name])
    return swapped_layers.page()


def judged(runs, finding):
    return {it.claim: it for it in claims.judge(runs[PROFILE], finding)}


def test_a_merge_that_is_ahead_is_said_to_be(runs, said):
    once, again = (judged(runs, it) for it in (swapped_layers.ONCE, swapped_layers.AGAIN))
    assert {it.bases for it in once.values()} == {3}, "the first base has no part in it"
    assert once["f11-accuracy"].verdict == once["f11-language"].verdict == "holds"
    assert again["f12-replay"].verdict == again["f12-gain"].verdict == "holds"
    assert "the paper's first finding stands in the lab for a merge other than the paper's" in said
    assert "there is a merge in the lab that one would use with so little text" in said
    for it in (*once.values(), *again.values()):
        assert f"| {it.statement} | {claims.effect(it)} |" in said


@pytest.mark.parametrize(
    ("tell", "prefix", "changed", "words"),
    [
        ("outcome", "f11", {"accuracy": "fails"}, "was its base's, or its three languages'"),
        ("outcome", "f11", {"language": "fails"}, "whether this merge is ahead on other bases"),
        ("outcome", "f11", {"accuracy": "inconclusive"}, "whether this merge is ahead"),
        ("outcome", "f11", {"replay": "fails"}, "against the stronger rival, replay, it falls"),
        ("outcome", "f11", {"replay": "inconclusive"}, "as good at the tasks as replay is open"),
        ("outcome", "f11", {"over-sft": claims.NOT_TESTED}, "nothing is said"),
        ("outcome_again", "f12", {"replay": "fails"}, "replay stays ahead of every merge"),
        ("outcome_again", "f12", {"replay-language": "fails"}, "whether it is as good as replay"),
        ("outcome_again", "f12", {"ct-then-sft": "fails"}, "does not stand for this merge"),
        ("outcome_again", "f12", {"ct-then-sft": "inconclusive"}, "is open for this merge"),
        ("outcome_again", "f12", {"gain": claims.NOT_TESTED}, "nothing is said"),
    ],
)
def test_what_is_said_follows_the_rule(runs, tell, prefix, changed, words):
    found = judged(runs, int(prefix.removeprefix("f")))
    found = {name: replace(it, verdict="holds") for name, it in found.items()}
    for name, verdict in changed.items():
        found[f"{prefix}-{name}"] = replace(found[f"{prefix}-{name}"], verdict=verdict)
    assert words in getattr(swapped_layers, tell)(found)


def test_the_tables_have_what_the_runs_have(runs, said):
    lines = said.splitlines()
    heads = [line for line in lines if line.startswith("| method | ")]
    assert [line.count("base") for line in heads] == [4, 4, 0, 0], "both metrics, twice"
    name = plotting.label("layer_swapping")
    rows = [line.split(" | ") for line in lines if line.startswith(f"| {name} |")]
    its = runs[repeated_text.PROFILE].rows
    its = its[(its["method"] == "layer_swapping") & (its["metric"] == "accuracy")]
    scarce = its[its["ct_tokens"].isin(runs[PROFILE].budgets)]["value"].mean()
    assert rows[0][1] == f"{100 * scarce:.1f}"
    largest = its[its["ct_tokens"] == max(its["ct_tokens"])]["value"].mean()
    assert rows[2][-1] == f"{100 * largest:.1f} |"
    assert not any(line.startswith("| CT and SFT in one run") for line in lines), "not in these"


def test_without_rows_it_says_how_to_get_them(monkeypatch):
    monkeypatch.setattr(other_bases, "whole", lambda profile: None)
    monkeypatch.setattr(reference, "load", lambda profile: None)
    assert f"langmerge reference --profile {PROFILE}" in swapped_layers.page()
    text = (book.require_checkout() / "book/swapped_layers.md").read_text()
    assert "_executed/swapped_layers.md" in text
