"""SFT that leaves the embeddings as they are: made-up runs in which it helps, or does not."""

from dataclasses import replace

import pytest
import synthetic

from langmerge import base, book, claims, frozen_embeddings, other_bases, plotting, repeated_text

CODES = ("tam_Taml", "ben_Beng", "swh_Latn")
HASHES = {"second": "00000002", "third": "00000003", "fourth": "00000004"}
PROFILE, _ = repeated_text.ON_BASES
METHODS = {
    "ct_then_sft": ("tuned", 0.55, 0.50),
    "layer_swapping": ("tuned", 0.62, 0.46),
    "ct_then_sft_replay": ("tuned", 0.66, 0.48),
    "sft_frozen": ("fixed", 0.50, 0.60),
    "ct_then_sft_frozen": ("tuned", 0.68, 0.47),
    "task_arithmetic_frozen": ("tuned", 0.56, 0.46),
    "ties_mean_frozen": ("tuned", 0.54, 0.46),
    "layer_swapping_frozen": ("tuned", 0.60, 0.46),
}


@pytest.fixture(scope="module")
def run():
    return synthetic.of_levels(METHODS, PROFILE, HASHES, CODES)


@pytest.fixture
def said(run, monkeypatch):
    monkeypatch.setattr(other_bases, "whole", lambda profile: run if profile == PROFILE else None)
    monkeypatch.setattr(base, "hash_of", lambda name, code: HASHES[name])
    return frozen_embeddings.page()


def judged(run):
    return {it.claim: it for it in claims.judge(run, frozen_embeddings.FINDING)}


def test_a_better_rival_takes_the_lead(run, said):
    found = judged(run)
    assert found["f14-frozen"].verdict == found["f14-replay"].verdict == "holds"
    assert {found[f"f14-{name}"].verdict for name in ("swapping", "merging", "ties")} == {"fails"}
    assert {it.bases for it in found.values()} == {3}
    assert "the lead of swapping layers was its rival's fault, and is had without merging" in said
    assert "finding does not stand for task arithmetic" in said
    assert "and does not stand for TIES." in said
    for it in found.values():
        assert f"| {it.statement} | {claims.effect(it)} |" in said


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "the lead of swapping layers is one over the better rival too"),
        ({}, "finding stands for task arithmetic"),
        ({}, "and stands for TIES."),
        ({"swapping": "inconclusive"}, "whether swapping layers is ahead of the better rival is"),
        ({"merging": "fails"}, "does not stand for task arithmetic"),
        ({"merging-language": "fails"}, "does not stand for task arithmetic"),
        ({"merging": "inconclusive"}, "is open for task arithmetic"),
        ({"ties": "inconclusive"}, "and is open for TIES."),
        ({"replay": claims.NOT_TESTED}, "nothing is said"),
    ],
)
def test_what_is_said_follows_the_rule(run, changed, words):
    found = {name: replace(it, verdict="holds") for name, it in judged(run).items()}
    for name, verdict in changed.items():
        found[f"f14-{name}"] = replace(found[f"f14-{name}"], verdict=verdict)
    assert words in frozen_embeddings.outcome(found)


def test_the_tables_have_both_kinds_of_sft(run, said):
    rows = [line.strip("| ").split(" | ") for line in said.splitlines()]
    name = plotting.label("ct_then_sft")
    accuracy, bits = (row for row in rows if row[0] == name)
    its = run.rows[run.rows["base"] == HASHES["second"]]
    for row, metric, form in ((accuracy, "accuracy", "{:.1f}"), (bits, "bits_per_byte", "{:.3f}")):
        means = its[its["metric"] == metric].groupby("method")["value"].mean()
        scale = 100 if metric == "accuracy" else 1
        both = (form.format(scale * means[it]) for it in ("ct_then_sft", "ct_then_sft_frozen"))
        assert row[1] == " → ".join(both)
    alone = next(row for row in rows if row[0] == plotting.label("ct_then_sft_replay"))
    assert "→" not in alone[1]


def test_without_rows_it_says_how_to_get_them(monkeypatch):
    monkeypatch.setattr(other_bases, "whole", lambda profile: None)
    assert f"langmerge reference --profile {PROFILE}" in frozen_embeddings.page()
    text = (book.require_checkout() / "book/swapped_layers.md").read_text()
    assert "_executed/frozen_embeddings.md" in text
