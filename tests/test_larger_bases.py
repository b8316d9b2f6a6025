"""Several bases of the larger size: made-up runs whose sizes differ by what was put in."""

from dataclasses import replace

import numpy as np
import pytest
import synthetic
from scipy import stats

from langmerge import base, book, claims, larger, larger_bases, other_bases, profiles, reference

CODES = ("tam_Taml", "ben_Beng", "swh_Latn", "eus_Latn")
SMALL = ("base", "second", "third", "fourth")
#: What slack gives at the largest budget, by base.
SLACK = {"base": 0.14, "second": 0.06, "third": 0.09, "fourth": 0.1,
         "large": -0.1, "large-second": -0.06, "large-third": -0.14,
         "large-fourth": -0.12, "large-fifth": -0.08}  # fmt: skip
HASHES = {name: f"{number:08x}" for number, name in enumerate(SLACK)}


def one_base(name, profile, languages=CODES, seeds=(0,)):
    ties = synthetic.ACCURACY["ties_mean"]
    made = synthetic.results(
        accuracy={"ties_sv": lambda step: ties(step) + SLACK[name] * step},
        languages=languages, seeds=seeds, budgets=profiles.load(profile).budgets, items=60,
        seed=list(SLACK).index(name),
    )  # fmt: skip
    return synthetic.on_base(made, profile, name, HASHES[name])


def joined(names, profile, seeds=(0,)):
    first, *others = (one_base(name, profile, seeds=seeds) for name in names)
    for other in others:
        first = reference.joined(first, other)
    return first


@pytest.fixture(scope="module")
def runs():
    few = one_base("base", reference.PROFILE, ("zzz_0002", *CODES), (0, 1))
    return {
        reference.PROFILE: few,
        other_bases.THREE: joined(SMALL[1:3], other_bases.THREE, (0, 1)),
        other_bases.PROFILE: joined(SMALL[3:], other_bases.PROFILE, (0, 1)),
        larger.PROFILE: one_base("large", larger.PROFILE),
        larger_bases.PROFILE: joined(("large-second", "large-third"), larger_bases.PROFILE),
    }


@pytest.fixture
def given(runs, monkeypatch):
    monkeypatch.setattr(reference, "load", lambda profile=reference.PROFILE: runs.get(profile))
    monkeypatch.setattr(base, "hash_of", lambda name, code: HASHES[name])
    monkeypatch.setattr(larger, "between", lambda name: dict.fromkeys(CODES, 3))


@pytest.fixture(scope="module")
def two_more():
    """Bases that were trained when the others had been looked at; on one SFT taught no topic."""
    made, other = (one_base(it, larger_bases.PROFILE) for it in ("large-fourth", "large-fifth"))
    taught = np.where(made.english["task"] == "topic", 0.63, made.english["value"])
    return reference.joined(replace(made, english=made.english.assign(value=taught)), other)


@pytest.fixture
def given_four(runs, two_more, given, monkeypatch):
    more = reference.joined(runs[larger_bases.PROFILE], two_more)
    four = {**runs, larger_bases.PROFILE: more}
    monkeypatch.setattr(reference, "load", lambda profile=reference.PROFILE: four.get(profile))


def test_a_task_that_one_base_has_not_learnt_is_left_out_on_all(given_four, tmp_path):
    found = larger_bases.runs()
    every = profiles.load(larger_bases.PROFILE).tasks
    assert [run.tasks for run in found] == [[task for task in every if task != "topic"]] * 4
    assert larger_bases.not_learnt(found[-1]) == {"large-fourth": ["topic"]}
    assert f"in {len(CODES)} of the languages and on 3 of 4 tasks: " in larger_bases.headline()
    learnt = [*larger_bases.LOOKED_AT, "large-fifth"]
    small, _, more, together = larger_bases.runs(learnt)
    assert small.tasks == together.tasks == list(every), "without that base nothing is left out"
    difference, _, word = larger_bases.size_and_slack(small, more)
    said = larger_bases.page(tmp_path)
    assert "misses the floor of 80 % on English items: `large-fourth` on topic." in said
    (line,) = (it for it in said.splitlines() if it.startswith("Without `large-fourth`, on all 4"))
    assert f"{claims.as_text('accuracy', difference)} points" in line and f"**{word}**" in line


def test_nothing_is_said_of_tasks_where_every_base_has_learnt_them(given, tmp_path):
    assert larger_bases.not_learnt(larger_bases.runs()[-1]) == {}
    assert "misses the floor" not in larger_bases.page(tmp_path)


def test_the_newest_bases_are_asked_by_themselves(given_four, tmp_path):
    small, _, more, _ = larger_bases.runs()
    newest = other_bases.on_known(more, ["large-fourth", "large-fifth"])
    difference, p, word = larger_bases.size_and_slack(small, newest)
    assert p == pytest.approx(1 / 15), "two of six bases"
    (line,) = (it for it in larger_bases.page(tmp_path).splitlines() if it.startswith("On the new"))
    assert f"{claims.as_text('accuracy', difference)} points, one-sided p .067" in line
    assert f"**{word}**" in line and "on the large-fourth base and" in line
    assert "large-third" not in line


def slack_of(run):
    (claim,) = (it for it in claims.load() if it.id == larger.SLACK)
    return claims.by_base(run, claim)


def test_sizes_are_compared_with_the_same_languages_and_seeds(given):
    small, _, _, together = larger_bases.runs()
    assert small.seeds == together.seeds == [0] and small.languages == list(CODES)
    assert list(small.plan.bases) == list(SMALL)
    assert list(together.plan.bases) == ["large", "large-second", "large-third"]
    assert set(together.rows["base"]) == {HASHES[name] for name in together.plan.bases}


def test_the_prediction_is_asked_of_the_new_bases_alone(given, tmp_path):
    small, _, more, _ = larger_bases.runs()
    difference, p, word = larger_bases.size_and_slack(small, more)
    assert difference == pytest.approx(slack_of(more).mean() - slack_of(small).mean())
    assert p == pytest.approx(1 / 15) and word == "open", "two of six bases: 15 ways to deal"
    said = larger_bases.page(tmp_path)
    assert "The 2 that had no part in the idea against the 4 smaller ones" in said
    assert f"{claims.as_text('accuracy', difference)} points, one-sided p .067" in said


@pytest.mark.parametrize(
    ("theirs", "ours", "word"),
    [
        ((-0.2, -0.1), (0.1, 0.2, 0.3, 0.4, 0.5), "supported"),
        ((-0.2, 0.15), (0.1, 0.2, 0.3, 0.4, 0.5), "open"),
        ((0.6, 0.7), (0.1, 0.2, 0.3, 0.4, 0.5), "contradicted"),
    ],
)
def test_what_is_said_of_the_prediction_follows_the_rule(monkeypatch, theirs, ours, word):
    monkeypatch.setattr(claims, "by_base", lambda run, claim: np.array(run))
    assert larger_bases.size_and_slack(ours, theirs)[2] == word


def test_the_sizes_differ_by_what_was_put_in(given, tmp_path):
    small, _, _, together = larger_bases.runs()
    expected = stats.ttest_ind(slack_of(together), slack_of(small), equal_var=False)
    low, high = (claims.as_text("accuracy", it) for it in expected.confidence_interval())
    said = larger_bases.page(tmp_path)
    (line,) = (it for it in said.splitlines() if it.endswith("| `f3-accuracy` |"))
    assert f"({low} to {high})" in line
    assert "| Claim | 4 smaller bases | first larger base | all 3 bases |" in said
    assert "larger bases together" in said and (tmp_path / "larger-bases.png").is_file()
    assert "| large-third | larger |" in said and "| first | smaller |" in said


def test_the_first_page_says_what_the_larger_bases_say_together(given, runs, monkeypatch):
    said = larger_bases.headline()
    assert said.startswith("On 3 bases of 11 times the size together")
    (line,) = (it for it in book.other_runs() if "times the size" in it)
    assert line == f"{said} See {{doc}}`larger_model`."
    alone = {**runs, larger_bases.PROFILE: None}
    monkeypatch.setattr(reference, "load", lambda profile=reference.PROFILE: alone[profile])
    assert larger_bases.headline() == larger.headline()


def test_without_rows_it_says_what_computes_them(monkeypatch, tmp_path):
    monkeypatch.setattr(reference, "load", lambda profile=reference.PROFILE: None)
    assert "langmerge reference --profile reference-larger" in larger_bases.page(tmp_path)
    text = (book.require_checkout() / "book/larger_model.md").read_text()
    assert "_executed/larger_bases.md" in text


def test_the_profile_asks_what_the_smaller_bases_were_asked():
    ours, theirs = (profiles.load(it) for it in (larger_bases.PROFILE, other_bases.PROFILE))
    assert ours.identity() == theirs.identity()
    assert ours.languages == theirs.languages and set(ours.seeds) < set(theirs.seeds)
    large = base.known("large").recipe
    for number, name in enumerate(ours.bases, start=1):
        assert base.known(name).recipe == large.model_copy(update={"seed": number})
