"""The control languages on other bases: made-up runs, joined over bases and over languages."""

import pytest
import synthetic

from langmerge import base, book, claims, control_bases, other_bases, profiles, reference
from langmerge.errors import LangmergeError

REAL = ("tam_Taml", "ben_Beng", "swh_Latn")
CONTROLS = ("zzz_0002", "zzz_0003", "zzz_0004", "zzz_0005")
HASHES = {"base": "0badcafe", "second": "00000002", "third": "00000003", "fourth": "00000004"}
#: What TIES gives at every budget beside what `synthetic` says, in the control languages alone.
LIFT = 0.3


def one_base(name, profile, languages, seeds=(0, 1)):
    ties = synthetic.ACCURACY["ties_mean"]
    parts = []
    for some in (set(languages) & set(REAL), set(languages) & set(CONTROLS)):
        lift = LIFT if some <= set(CONTROLS) else 0.0
        if some:
            made = synthetic.results(
                accuracy={"ties_mean": lambda step, lift=lift: ties(step) + lift},
                languages=sorted(some), seeds=seeds, budgets=profiles.load(profile).budgets,
                items=40, seed=list(HASHES).index(name),
            )  # fmt: skip
            parts.append(synthetic.on_base(made, profile, name, HASHES[name]))
    first, *others = parts
    for other in others:
        first = reference.in_more_languages(first, other)
    return first


@pytest.fixture(scope="module")
def runs():
    second, third, fourth = (one_base(name, other_bases.PROFILE, REAL) for name in [*HASHES][1:])
    controls = [one_base(name, control_bases.PROFILE, CONTROLS) for name in ("second", "third")]
    return {
        reference.PROFILE: one_base("base", reference.PROFILE, (*REAL, *CONTROLS)),
        other_bases.PROFILE: reference.joined(reference.joined(second, third), fourth),
        control_bases.PROFILE: reference.joined(*controls),
    }


@pytest.fixture
def given(runs, monkeypatch):
    monkeypatch.setattr(reference, "load", lambda profile=reference.PROFILE: runs[profile])
    monkeypatch.setattr(base, "hash_of", lambda name, code: HASHES[name])
    monkeypatch.setattr(other_bases.larger, "between", lambda name: dict.fromkeys(REAL, 3))


def test_the_bases_of_both_kinds_of_language_are_the_same(given):
    real, controls, new = control_bases.runs()
    assert real.plan.bases == controls.plan.bases == ["base", "second", "third"]
    assert set(real.rows["base"]) == set(controls.rows["base"]) and len(new.plan.bases) == 2
    assert set(real.languages) == set(REAL) and set(controls.languages) == set(CONTROLS)
    together = reference.in_more_languages(real, controls)
    assert len(together.rows) == len(real.rows) + len(controls.rows)
    assert set(together.items["language"]) == {*REAL, *CONTROLS}


def test_effects_are_told_apart_by_kind_of_language(given, tmp_path):
    said = control_bases.page(tmp_path)
    real, controls, _ = control_bases.runs()
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


def test_languages_are_not_laid_together_that_were_asked_differently(runs):
    few, controls = runs[other_bases.PROFILE], runs[control_bases.PROFILE]
    with pytest.raises(LangmergeError, match="other bases are no run together"):
        reference.in_more_languages(few, controls)
    with pytest.raises(LangmergeError, match="both runs have the language"):
        reference.in_more_languages(controls, controls)


def test_the_profile_has_the_control_languages_of_the_reference_run():
    ours, theirs = (profiles.load(it) for it in (control_bases.PROFILE, other_bases.PROFILE))
    assert ours.identity() == theirs.identity() and ours.seeds == theirs.seeds
    assert set(ours.languages) | set(theirs.languages) == set(profiles.load("reference").languages)


def test_without_rows_it_says_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr(reference, "load", lambda profile=reference.PROFILE: None)
    assert "langmerge reference --profile reference-controls" in control_bases.page(tmp_path)
    text = (book.require_checkout() / "book/other_bases.md").read_text()
    assert "_executed/control_bases.md" in text
