"""The chapter on repeated text, from a made-up run whose effects are known."""

import dataclasses
import re

import pandas as pd
import pytest
import synthetic

from langmerge import claims, languages, profiles, reference, repeated_text
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


def test_without_rows_it_says_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr(reference, "load", lambda *_: None)
    said = repeated_text.page(tmp_path)
    assert f"langmerge reference --profile {repeated_text.PROFILE}" in said
