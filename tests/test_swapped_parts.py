"""What of swapping layers helps: made-up runs in which a part of an update acts, or does not."""

import re
from dataclasses import replace

import pytest
import synthetic

from langmerge import (
    base,
    book,
    claims,
    other_bases,
    profiles,
    reference,
    repeated_text,
    swapped_parts,
)

CODES = ("tam_Taml", "ben_Beng", "swh_Latn")
HASHES = {"second": "00000002", "third": "00000003", "fourth": "00000004"}
PROFILE, _ = repeated_text.ON_BASES
#: What each part adds to the accuracy and to the bits per byte of SFT's layers alone.
ADDED = {"ct_embeddings": (0.15, -0.10), "ct_layers": (-0.10, 0.0), "sft_embeddings": (-0.06, 0.02)}
METHODS = {**swapped_parts.MODELS, "layer_swapping": ("ct_embeddings",)}


@pytest.fixture(scope="module")
def run():
    levels = {}
    for method, there in METHODS.items():
        setting = "tuned" if method in ("task_arithmetic", "layer_swapping") else "fixed"
        added = (sum(ADDED[part][i] for part in there) for i in range(2))
        levels[method] = (setting, 0.5 + next(added), 0.6 + next(added))
    return synthetic.of_levels(levels, PROFILE, HASHES, CODES)


@pytest.fixture
def said(run, monkeypatch, tmp_path):
    monkeypatch.setattr(reference, "load", lambda profile: run if profile == PROFILE else None)
    monkeypatch.setattr(base, "hash_of", lambda name, code: HASHES[name])
    return swapped_parts.page(tmp_path)


def judged(run):
    found = claims.judge(run, swapped_parts.FINDING)
    return {it.claim.removeprefix("f13-"): it for it in found}


def test_parts_that_act_are_told_from_each_other(run, said):
    found = judged(run)
    for part, (added, _) in ADDED.items():
        verdict = found[part.replace("_", "-")]
        assert verdict.verdict == "holds" and verdict.bases == 3
        assert verdict.effect == pytest.approx(added, abs=0.02), part
    assert "what helps is the CT model's embeddings, and no layer of it is needed" in said
    assert "its update of the layers costs; the SFT model's update of the embeddings costs" in said


def test_the_claims_are_contrasts_of_the_eight_models():
    """Every model counts for a part where it is there and against it where it is not."""
    stated = {it.id: it for it in claims.load() if it.finding == swapped_parts.FINDING}
    for factor in swapped_parts.FACTORS:
        terms = stated[f"f13-{factor.replace('_', '-')}"].contrast
        assert {it.method: it.weight for it in terms} == {
            method: 0.25 if factor in there else -0.25
            for method, there in swapped_parts.MODELS.items()
        }
        without = {it.method for it in terms if it.budgets == "none"}
        assert without == {
            method for method, there in swapped_parts.MODELS.items() if "ct_" not in str(there)
        }


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"embeddings": "fails"}, "the CT model's layer does something"),
        ({"embeddings": "inconclusive"}, "whether the CT model's layer is needed is open"),
        ({"embeddings-language": "inconclusive"}, "whether the CT model's layer is needed is open"),
        ({"ct-embeddings": "inconclusive"}, "update of the embeddings helps is open"),
        ({"ct-layers": "fails"}, "layers does not cost by as much as three points"),
        ({"sft-embeddings": "fails"}, "embeddings does not cost by as much as three points"),
        ({"ct-layers": claims.NOT_TESTED}, "nothing is said"),
    ],
)
def test_what_is_said_follows_the_rule(run, changed, words):
    found = {it.claim: replace(it, verdict="holds") for it in judged(run).values()}
    for name, verdict in changed.items():
        found[f"f13-{name}"] = replace(found[f"f13-{name}"], verdict=verdict)
    assert words in swapped_parts.outcome(found)


def test_the_table_has_each_model_on_each_base(run, said):
    lines = said.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("| CT's embeddings |"))
    rows = [line.strip("| ").split(" | ") for line in lines[head + 2 : head + 10]]
    there = {tuple(cell == "yes" for cell in row[:3]) for row in rows}
    assert len(there) == 8, "every choice of three parts"
    (alone,) = (row for row in rows if row[:3] == ["—", "—", "yes"])
    its = run.rows[(run.rows["method"] == "sft") & (run.rows["metric"] == "accuracy")]
    by_base = its.groupby("base")["value"].mean()
    assert alone[3:6] == [f"{100 * by_base[found]:.1f}" for found in HASHES.values()]
    text = run.rows[(run.rows["method"] == "sft") & (run.rows["task"] == "text")]
    assert alone[6] == f"{text['value'].mean():.3f}"


def test_the_figure_is_told_in_words(said, tmp_path):
    (alt,) = re.findall(r":alt: (.+)", said)
    assert "accuracy (%) without SFT's embeddings: nothing" in alt
    assert "bits per byte with SFT's embeddings" in alt
    assert (tmp_path / "swapped-parts.png").is_file()


def test_the_trials_are_those_of_the_search():
    tried = swapped_parts.trials()
    chosen = profiles.load("lab").tuned["layer_swapping"]
    assert tried.iloc[0][list(chosen)].to_dict() == chosen
    assert len(tried) == 12 and tried["accuracy"].is_monotonic_decreasing


def test_without_rows_it_says_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr(other_bases, "whole", lambda profile: None)
    assert f"langmerge reference --profile {PROFILE}" in swapped_parts.page(tmp_path)
    text = (book.require_checkout() / "book/swapped_layers.md").read_text()
    assert "_executed/swapped_parts.md" in text
