"""The reference run on three bases: made-up runs in real and in control languages."""

import pandas as pd
import pytest
import synthetic

from langmerge import base, book, claims, control_bases, other_bases, profiles, reference

REAL = ("tam_Taml", "ben_Beng", "swh_Latn")
CONTROLS = ("zzz_0002", "zzz_0003", "zzz_0004", "zzz_0005")
HASHES = {"base": "0badcafe", "second": "00000002", "third": "00000003"}
#: What TIES gives at every budget beside what `synthetic` says, in the control languages alone.
LIFT = 0.3


def one_base(name, profile):
    """A base in both kinds of language: the rows of either, one below the other."""
    ties = synthetic.ACCURACY["ties_mean"]
    real, controls = (
        synthetic.results(
            accuracy={"ties_mean": lambda step, lift=lift: ties(step) + lift},
            languages=some, budgets=profiles.load(profile).budgets, seeds=(0, 1), items=40,
            seed=list(HASHES).index(name),
        )
        for some, lift in ((REAL, 0.0), (CONTROLS, LIFT))
    )  # fmt: skip
    for frame in ("rows", "items", "diagnostics"):
        both = [getattr(its, frame) for its in (real, controls)]
        setattr(real, frame, pd.concat(both, ignore_index=True))
    real.languages += controls.languages
    return synthetic.on_base(real, profile, name, HASHES[name])


@pytest.fixture(scope="module")
def runs():
    second, third = (one_base(name, other_bases.THREE) for name in ("second", "third"))
    return {
        reference.PROFILE: one_base("base", reference.PROFILE),
        other_bases.THREE: reference.joined(second, third),
    }


@pytest.fixture
def given(runs, monkeypatch):
    monkeypatch.setattr(reference, "load", lambda profile=reference.PROFILE: runs[profile])
    monkeypatch.setattr(base, "hash_of", lambda name, code: HASHES[name])
    monkeypatch.setattr(other_bases.larger, "between", lambda name: dict.fromkeys(REAL, 3))


def test_both_kinds_of_language_are_of_the_same_bases(given):
    together, real, controls = control_bases.runs()
    for run in (together, real, controls):
        assert run.plan.bases == ["base", "second", "third"]
        assert set(run.rows["base"]) == {HASHES[name] for name in run.plan.bases}
    assert set(real.languages) == set(REAL) and set(controls.languages) == set(CONTROLS)
    assert len(together.rows) == len(real.rows) + len(controls.rows)
    assert set(together.items["language"]) == {*REAL, *CONTROLS}


def test_effects_are_told_apart_by_kind_of_language(given, tmp_path):
    said = control_bases.page(tmp_path)
    _, real, controls = control_bases.runs()
    (claim,) = (it for it in claims.load() if it.id == "f1-accuracy")
    for_second = [
        claims.as_text("accuracy", claims.by_base(run, claim)[HASHES["second"]])
        for run in (real, controls)
    ]
    (line,) = (it for it in said.splitlines() if it.startswith("| TIES − CT-then-SFT | "))
    assert " / ".join(for_second) in line
    lift = claims.by_base(controls, claim).mean() - claims.by_base(real, claim).mean()
    assert lift > 0.1
    assert "| Claim | these bases in the real languages | all 3 bases |" in said
    assert "over the 4 control languages: " in said and "so that it is **" in said


def test_the_profile_asks_the_languages_and_budgets_of_the_reference_run():
    ours, theirs = (profiles.load(it) for it in (other_bases.THREE, reference.PROFILE))
    for what in ("languages", "budgets", "seeds", "items"):
        assert getattr(ours, what) == getattr(theirs, what)
    assert len(ours.bases) == 2 and len(ours.budgets) == 6
    assert max(ours.budgets) == 100 * min(ours.budgets)


def test_without_rows_it_says_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr(reference, "load", lambda profile=reference.PROFILE: None)
    assert "`langmerge reference --profile reference` computes" in control_bases.page(tmp_path)
    text = (book.require_checkout() / "book/other_bases.md").read_text()
    assert "_executed/control_bases.md" in text
