"""The chapter on repeated text, from a made-up run whose effects are known."""

import dataclasses
import re

import pandas as pd
import pytest
import synthetic

from langmerge import base, book, claims, languages, plotting, profiles, reference, repeated_text
from langmerge.profiles import REPEATED
from langmerge.statistics import select

CODES = ("tam_Taml", "swh_Latn", "cym_Latn")
#: What the made-up methods answer like.
LIKE = {
    "ct_then_sft_replay": "ties_sv",
    "joint": "half_sft",
    "ct_then_sft_repeated": "ct_then_sft",
    "average_repeated": "average",
    "task_arithmetic_repeated": "task_arithmetic",
    "ties_mean_repeated": "ct_then_sft",
    "layer_swapping": "average",
    "layer_swapping_repeated": "average",
}


def with_repeated(frame):
    parts = [frame]
    for method, like in LIKE.items():
        its = select(frame, method=like, setting=["tuned", "fixed"])
        parts.append(its.assign(method=method, setting="tuned", cell=its["cell"] + method))
    its = select(frame, method="ct")
    read = its.assign(method="ct_repeated", setting="50 steps", cell=its["cell"] + "again")
    return pd.concat([*parts, read], ignore_index=True)


@pytest.fixture(scope="module")
def run():
    made = synthetic.results(languages=CODES, seeds=(0, 1), items=12)
    made.rows, made.items = with_repeated(made.rows), with_repeated(made.items)
    tensors = select(made.diagnostics, method="ties_mean")
    longer = tensors.assign(method="ties_mean_repeated", norm_ct=2 * tensors["norm_ct"])
    made.diagnostics = pd.concat([made.diagnostics, longer], ignore_index=True)
    made.profile = repeated_text.PROFILE
    tuned = profiles.load("lab").tuned | {method: {"repeat_steps": 50} for method in REPEATED}
    made.plan = profiles.load(repeated_text.PROFILE, tuned=tuned)
    return made


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("executed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "load", {repeated_text.PROFILE: run}.get)
        return repeated_text.page(folder), folder


def cells(text, first, number=0):
    rows = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in rows[number].strip("|").split("|")[1:]]


def test_every_claim_and_language_and_the_figure_are_there(page):
    text, folder = page
    for claim in claims.load():
        if claim.finding == repeated_text.FINDING:
            assert f"| {' '.join(claim.statement.split())} |" in text
    assert all(languages.load(code).name in text for code in CODES)
    assert (folder / "repeated-text.png").stat().st_size > 5_000
    assert re.search(r"^:alt: .{40,}$", text, re.M) and "nan" not in text


def test_the_tables_are_those_of_the_rows(page, run):
    text, _ = page
    budget = run.budgets[1]
    its = select(run.rows, method="average_repeated", metric="accuracy", ct_tokens=budget)
    mean = its[its["task"].isin(run.tasks)]["value"].mean()
    assert cells(text, "average, text repeated")[1] == f"{100 * mean:.1f}"
    bits = select(run.rows, method="ct_repeated", metric="bits_per_byte", ct_tokens=budget)
    assert cells(text, "CT, 50 steps again", 1)[1] == f"{bits['value'].mean():.3f}"


def test_a_method_is_held_against_itself_without_repeated_text(page, run):
    text, _ = page
    row = next(line for line in text.splitlines() if re.match(r"\| CT-then-SFT \| \+0\.0 ", line))
    assert "+0.0 (+0.0 to +0.0)" in row, "its answers are the same"
    once, again, *_ = cells(text, f"{run.budgets[0]:,}", -1)
    assert float(again) == pytest.approx(2 * float(once), abs=0.011)


def verdict(run, claim, **numbers):
    (found,) = [
        it for it in claims.judge(run, repeated_text.FINDING, missing_ok=True) if it.claim == claim
    ]
    return dataclasses.replace(found, **numbers)


@pytest.mark.parametrize(
    ("gain", "low", "high", "said"),
    [
        ("fails", -0.2, -0.1, "does not gain"),
        ("inconclusive", -0.2, -0.1, "is open, and with it"),
        ("holds", -0.2, -0.1, "still behind replay: reading the text again is a part."),
        ("holds", -0.02, 0.1, "how often it reads"),
        ("holds", -0.2, 0.1, "a part or all"),
        (claims.NOT_TESTED, -0.2, 0.1, "nothing is said"),
    ],
)
def test_what_is_said_follows_the_rule(run, gain, low, high, said):
    judged = {
        "f7-gain": verdict(run, "f7-gain", verdict=gain),
        "f7-replay": verdict(run, "f7-replay", verdict="fails", low=low, high=high),
    }
    assert said in repeated_text.outcome(judged)


ON_BASES = {"base": "0badcafe", "second": "00000002", "third": "00000003"}


@pytest.fixture(scope="module")
def page_of_bases(tmp_path_factory):
    """A page with rows of two other bases, on which replay is far better and far worse."""
    lift = {"base": 0.0, "second": 0.3, "third": -0.3}
    profile, _ = repeated_text.ON_BASES
    parts = {}
    for number, name in enumerate(ON_BASES):
        which = repeated_text.PROFILE if name == "base" else profile
        made = synthetic.results(
            {"ties_sv": lambda step, name=name: 0.5 + lift[name]},
            languages=CODES, seeds=(0, 1), budgets=profiles.load(which).budgets, items=12,
            seed=number,
        )  # fmt: skip
        made.rows, made.items = with_repeated(made.rows), with_repeated(made.items)
        tensors = select(made.diagnostics, method="ties_mean")
        longer = tensors.assign(method="ties_mean_repeated")
        made.diagnostics = pd.concat([made.diagnostics, longer], ignore_index=True)
        parts[name] = synthetic.on_base(made, which, name, ON_BASES[name])
    runs = {
        repeated_text.PROFILE: parts["base"],
        profile: reference.joined(parts["second"], parts["third"]),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "load", runs.get)
        patch.setattr(base, "hash_of", lambda name, code: ON_BASES[name])
        said = repeated_text.page(tmp_path_factory.mktemp("executed"))
    return said.split("## On other bases")[1], runs


def test_other_bases_are_judged_without_the_first_one(page_of_bases):
    said, runs = page_of_bases
    profile, finding = repeated_text.ON_BASES
    judged = {it.claim: it for it in claims.judge(runs[profile], finding, missing_ok=True)}
    assert judged["f9-replay"].bases == 2 and judged["f9-replay"].over == "bases"
    row = next(line for line in said.splitlines() if line.startswith("| On four other bases"))
    assert claims.effect(judged["f9-replay"]) in row and "inconclusive" in row
    assert "whether replay leads TIES on other bases is open" in said
    assert "| Claim | first base | second base | third base |" in said


def test_the_first_page_says_on_how_many_bases(page_of_bases):
    _, runs = page_of_bases
    profile, finding = repeated_text.ON_BASES
    (said,) = book.headlines(runs[profile], findings=[finding])
    assert "(3 languages on 2 bases together; by run seed" in said


def test_every_base_has_its_column_of_means(page_of_bases):
    said, runs = page_of_bases
    profile, _ = repeated_text.ON_BASES
    second = select(runs[profile].rows, base=ON_BASES["second"], metric="accuracy")
    for method in ("sft", "ct_then_sft_replay"):
        its = select(second, method=method, setting=["tuned", "fixed"])
        mean = its[its["task"].isin(runs[profile].tasks)]["value"].mean()
        assert cells(said, plotting.label(method))[1] == f"{100 * mean:.1f}"


@pytest.mark.parametrize(
    ("replay", "merge", "first", "said"),
    [
        ("holds", "holds", "holds", "no one base's; task arithmetic on repeated text is a merge"),
        ("fails", "fails", "fails", "was the first base's; task arithmetic on repeated text is be"),
        ("holds", "inconclusive", "inconclusive", "is open; the first finding is open"),
        (claims.NOT_TESTED, "holds", "holds", "nothing is said"),
    ],
)
def test_what_is_said_of_other_bases_follows_the_rule(page_of_bases, replay, merge, first, said):
    _, runs = page_of_bases
    profile, finding = repeated_text.ON_BASES
    words = {"f9-replay": replay, "f9-task-arithmetic": merge, "f9-merging": first}
    judged = {
        it.claim: dataclasses.replace(it, verdict=words.get(it.claim, it.verdict))
        for it in claims.judge(runs[profile], finding, missing_ok=True)
    }
    assert said in repeated_text.outcome_on_bases(judged)


def test_without_rows_it_says_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr(reference, "load", lambda *_: None)
    said = repeated_text.page(tmp_path)
    assert f"langmerge reference --profile {repeated_text.PROFILE}" in said
