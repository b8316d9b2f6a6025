"""The chapter on controls: made-up runs in which they do, or do not do, what they should."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import synthetic

from langmerge import (
    base,
    book,
    claims,
    control_checks,
    many_seeds,
    other_bases,
    other_traces,
    profiles,
    reference,
    tasks,
)

CODES = ("tam_Taml", "ben_Beng", "swh_Latn", "eus_Latn")
HASHES = {"base": "0badcafe", "second": "00000002", "third": "00000003", "fourth": "00000004"}
CEILING = {"target_sft": lambda step: 0.93}


def one_base(name, profile, accuracy):
    made = synthetic.results(
        accuracy=accuracy, languages=CODES, seeds=(0, 1), items=60,
        budgets=profiles.load(profile).budgets, seed=list(HASHES).index(name),
    )  # fmt: skip
    for which in ("rows", "items"):  # half of SFT is a model without CT
        frame = getattr(made, which)
        half = frame["method"] == "half_sft"
        frame = frame[~half | frame["ct_tokens"].eq(min(made.budgets))].reset_index(drop=True)
        frame.loc[frame["method"] == "half_sft", "ct_tokens"] = 0
        setattr(made, which, frame)
    answer = made.items["item"].str.rpartition("-")[2].astype(int) % 4
    wrong = (answer + np.random.default_rng(0).integers(1, 4, len(answer))) % 4
    made.items["answer"] = answer
    made.items["prediction"] = np.where(made.items["correct"], answer, wrong)
    return synthetic.on_base(made, profile, name, HASHES[name])


def make(shuffled):
    accuracy = {"shuffled_ct": shuffled, "half_sft": lambda step: 0.35}
    with pytest.MonkeyPatch.context() as patch:
        fourth = one_base("fourth", other_bases.PROFILE, accuracy)
        patch.setitem(synthetic.METHODS, "target_sft", "fixed")
        patch.setitem(synthetic.ACCURACY, "target_sft", CEILING["target_sft"])
        patch.setitem(synthetic.BITS, "target_sft", lambda step: 0.6)
        first = one_base("base", reference.PROFILE, accuracy)
        second, third = (one_base(it, other_bases.THREE, accuracy) for it in ("second", "third"))
    three = reference.joined(second, third)
    for which in ("rows", "items"):  # the ceiling is at the largest budget alone there
        frame = getattr(three, which)
        kept = frame["method"].ne("target_sft") | frame["ct_tokens"].eq(max(three.budgets))
        three = replace(three, **{which: frame[kept].reset_index(drop=True)})
    return {reference.PROFILE: first, other_bases.THREE: three, other_bases.PROFILE: fourth}


@pytest.fixture(scope="module")
def behaving():
    return make(lambda step: 0.3)


@pytest.fixture(scope="module")
def helping():
    return make(lambda step: 0.8)


def give(monkeypatch, runs):
    monkeypatch.setattr(reference, "load", lambda profile=reference.PROFILE: runs.get(profile))
    monkeypatch.setattr(base, "hash_of", lambda name, code: HASHES[name])


def judged(runs):
    return control_checks.judge(runs[reference.PROFILE], other_bases.three_bases())


def test_controls_that_behave_are_said_to(monkeypatch, behaving, tmp_path):
    give(monkeypatch, behaving)
    said = control_checks.page(tmp_path)
    words = {it.claim: it.verdict for it in control_checks.deciding(judged(behaving))}
    assert words["f0-shuffled-scarce"] == words["f0-ceiling-ties-large"] == "holds"
    wrong = [name for name, word in words.items() if word != "holds"]
    assert wrong == [], "the made-up controls behave"
    assert said.startswith("All 9 checks hold")
    assert (tmp_path / "controls.png").is_file()


def test_one_that_helps_is_said_before_anything_else(monkeypatch, helping, tmp_path):
    give(monkeypatch, helping)
    said = control_checks.page(tmp_path)
    found = {it.claim: it for it in control_checks.deciding(judged(helping))}
    it = found["f0-shuffled-large"]
    assert it.verdict == "fails" and it.bases == 3
    first, _, *rest = said.splitlines()
    assert first.startswith("Of 9 checks ") and first.endswith(" do not hold:")
    (line,) = (line for line in rest[: len(found)] if line.startswith(f"- {it.statement}"))
    assert f"{it.said()}; by base " in line


def test_what_is_on_one_base_alone_is_judged_there(monkeypatch, behaving):
    give(monkeypatch, behaving)
    by_name = {alone.claim: (alone, three) for alone, three in judged(behaving)}
    alone, three = by_name["f0-ceiling-ties"]
    assert three.verdict == claims.NOT_TESTED and alone.bases == 1
    assert by_name["f0-ceiling-ties-large"][1].bases == 3, "there at this budget"
    seven = [it for it in control_checks.stated() if "ceiling" not in it.id or "large" in it.id]
    them = claims.judge_all(other_bases.three_bases(), seven)
    assert {name: three for name, (_, three) in by_name.items() if name in them} == them
    alone, three = by_name["f0-half"]
    assert three.bases == 3 and control_checks.deciding([(alone, three)]) == [three]


def test_every_model_stands_beside_the_others_on_each_base(monkeypatch, behaving):
    give(monkeypatch, behaving)
    three = other_bases.three_bases()
    table = [line.split(" | ") for line in control_checks._beside(three)]
    assert table[0] == ["| model", "first base", "second base", "third base |"]
    rows = {name.removeprefix("| "): cells for name, *cells in table[2:] if cells}
    assert rows["SFT in the target language"][0].split(" → ")[0] > "80", "at all budgets there"
    assert rows["SFT in the target language"][1].startswith("— → ")
    assert rows["TIES (mean), untuned"] == ["—", "—", "— |"], "this run has none"
    assert "→" not in rows["half of SFT"][0]
    its = three.rows[(three.rows["base"] == HASHES["second"]) & (three.rows["method"] == "ct")]
    its = its[(its["ct_tokens"] == max(three.budgets)) & (its["metric"] == "accuracy")]
    assert rows["CT only"][1].endswith(f"→ {100 * its['value'].mean():.1f}")


def test_answers_dealt_anew_are_right_as_often_as_all_deals_say():
    rng = np.random.default_rng(3)
    answer, prediction = rng.integers(0, 4, 40), rng.choice(4, 40, p=[0.7, 0.1, 0.1, 0.1])
    items = pd.DataFrame({"task": "kind", "cell": "x", "base": "b", "language": "l", "seed": 0,
                          "answer": answer, "prediction": prediction})  # fmt: skip
    run = type("Run", (), {"items": items, "tasks": ["kind"]})
    found = control_checks.dealt_anew(run).loc["kind"]
    dealt = [(rng.permutation(answer) == prediction).mean() for _ in range(20_000)]
    assert found["low"] == found["high"] == pytest.approx(np.mean(dealt), abs=2e-3)
    assert found["commonest"] == np.bincount(prediction).max() / 40
    even = items.assign(answer=np.arange(40) % 4)
    run = type("Run", (), {"items": even, "tasks": ["kind"]})
    assert control_checks.dealt_anew(run).loc["kind", "high"] == pytest.approx(1 / 4)


def test_a_task_on_which_luck_moves_a_model_is_left_out_for_once(monkeypatch, behaving, tmp_path):
    give(monkeypatch, behaving)
    far = control_checks.dealt_anew(other_bases.three_bases())
    assert control_checks.uneven(far) == ["topic"], "answers are drawn among four, of its six"
    assert control_checks.uneven(far.drop(index="topic")) == []
    said = control_checks.page(tmp_path)
    run = other_bases.all_bases()
    kept = reference.on_tasks(run, ["kind", "thing", "action"])
    assert run.tasks != kept.tasks == ["kind", "thing", "action"]
    was, now = (
        next(it for it in other_bases.judge(its) if it.claim == "f1-accuracy")
        for its in (run, kept)
    )
    assert f"| {was.statement} (4 bases) | {was.said()} | {now.said()} |" in said
    kept = reference.on_tasks(other_bases.others(), ["kind", "thing", "action"])
    guessed = other_bases.tested_on(kept, other_bases.names_of(kept))
    assert f"The guess about slack ({{doc}}`other_bases`), without *topic*: {guessed}" in said


def test_run_seeds_and_traces_are_asked_without_the_task_too(monkeypatch, behaving):
    give(monkeypatch, behaving)
    seeds = one_base("base", other_bases.PROFILE, {"ties_mean": lambda step: 0.5})
    told = text_of(control_checks._between_seeds(seeds, ["topic"]))
    every, less = (
        many_seeds.components(
            many_seeds.effects(run, next(it for it in claims.load() if it.id == "f1-accuracy"))
        )[1]
        for run in (seeds, reference.on_tasks(seeds, ["kind", "thing", "action"]))
    )
    assert f"TIES (mean) {100 * every:.1f} and {100 * less:.1f};" in told
    five = other_bases.all_bases()
    far = one_base("fourth", other_bases.PROFILE, {"ties_mean": lambda step: 0.1 + 0.9 * step})
    monkeypatch.setattr(other_traces, "_by_base", lambda run, claim: claims.by_base(run, claim))
    far.plan.bases[:] = [HASHES["fourth"]]
    told = text_of(control_checks._other_traces(five, far, ["topic"]))
    assert "the same lie outside" in told and other_bases.DRAWN["f2-merge-stops"] in told


def text_of(lines):
    return "\n".join(lines)


def test_what_changes_beyond_the_papers_findings_is_named(monkeypatch, behaving):
    give(monkeypatch, behaving)
    (was, _) = next(pair for pair in judged(behaving) if pair[0].claim == "f0-half")
    now = replace(was, verdict="fails")
    run = behaving[reference.PROFILE]
    monkeypatch.setattr(control_checks.verdicts, "PROFILES", {7: reference.PROFILE, 8: "none"})
    verdict_on = {tuple(run.tasks): [was, was], ("kind", "thing", "action"): [now, was]}
    monkeypatch.setattr(claims, "judge", lambda it, *_, **__: verdict_on[tuple(it.tasks)])
    (said, _) = control_checks._beyond(["topic"])
    assert said.startswith("Of 2 verdicts on accuracy beyond the paper's findings 1 is another")
    assert f"{was.statement}: holds, then {now.said()}." in said


def test_the_bases_own_accuracy_is_over_languages_and_bases(monkeypatch, behaving):
    give(monkeypatch, behaving)
    three = other_bases.three_bases()
    found = control_checks.untrained(three)
    assert set(found) == set(tasks.TASKS)
    rows = three.rows[(three.rows["method"] == "base") & (three.rows["task"] == "kind")]
    assert found["kind"].estimate == pytest.approx(rows["value"].mean())
    assert found["kind"].bases == 3 and found["kind"].low < found["kind"].estimate


def test_every_check_is_of_the_reference_run_and_has_a_rule():
    checks = control_checks.stated()
    assert {it.finding for it in checks} == {0} and 0 not in claims.FINDINGS
    assert not {it.id for it in checks} & {it.id for it in claims.load()}


def test_without_rows_it_says_what_computes_them(monkeypatch, tmp_path):
    monkeypatch.setattr(reference, "load", lambda profile=reference.PROFILE: None)
    assert "`langmerge reference --profile reference` computes" in control_checks.page(tmp_path)
    text = (book.require_checkout() / "book/controls.md").read_text()
    assert "_executed/controls.md" in text
