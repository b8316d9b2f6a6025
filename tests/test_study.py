"""The study, whole and for real, on a base and a profile of toy size."""

import dataclasses
import itertools
import json
import math
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY_PROFILE, write_profile
from joblib.externals.loky import get_reusable_executor
from pandas.testing import assert_frame_equal

from langmerge import base, cells, experts, jobs, merging, study, tasks, train
from langmerge.errors import LangmergeError
from langmerge.evaluate import Evaluator
from langmerge.profiles import ContinualPretraining
from langmerge.store import Store

BUDGETS = [512, 1024]
SLACKS = [1.0, math.inf]
ROWS = {
    "base", "language", "seed", "ct_tokens", "method", "setting", "slack", "params", "variant",
    "task", "metric", "value", "stderr", "n", "chance", "cell",
}  # fmt: skip
ITEMS = {
    "cell", "language", "seed", "ct_tokens", "method", "setting", "slack", "task", "item",
    "concept", "correct", "margin",
}  # fmt: skip

#: The columns that name a model within one language and seed.
MODEL = ["method", "setting", "ct_tokens", "slack"]


def run(**options) -> study.Results:
    return study.run(**{"profile": "tiny", "processes": 1, "quiet": True} | options)


@pytest.fixture(scope="module")
def results(tiny_lab):
    return run()


@pytest.fixture
def idle(monkeypatch):
    """Whatever would train, evaluate or diagnose fails instead."""

    def fail(*_, **__):
        raise AssertionError("something was computed")

    monkeypatch.setattr(train, "fit", fail)
    monkeypatch.setattr(Evaluator, "__call__", fail)
    monkeypatch.setattr(merging, "diagnose", fail)


@pytest.fixture
def untrained(monkeypatch):
    """Training fails."""

    def fail(*_, **__):
        raise AssertionError("something was trained")

    monkeypatch.setattr(train, "fit", fail)


@pytest.fixture
def fits(monkeypatch):
    """Counts the runs of training, and lets them."""
    counted = []
    fit = train.fit
    monkeypatch.setattr(train, "fit", lambda *a, **k: counted.append(1) or fit(*a, **k))
    return counted


# --- what comes out ------------------------------------------------------------------------


def expected_models() -> set[tuple]:
    """(method, setting, CT tokens, slack) of every model; NaN slack as None."""
    found = {("base", "fixed", 0, None), ("sft", "fixed", 0, None), ("half_sft", "fixed", 0, None)}
    for budget in BUDGETS:
        found |= {(method, "fixed", budget, None) for method in ("ct", "chat_vector", "target_sft")}
        found |= {
            (method, "default", budget, None)
            for method in ("ct_then_sft", "average", "task_arithmetic", "ties_mean", "ties_sum")
        }
        found |= {("shuffled_ct", "default", budget, None)}
        found |= {("norm_matched_ct", "default", budget, None)}
        found |= {("ties_sv", "default", budget, 1.0), ("ties_sv", "without slack", budget, 0.0)}
        found |= {("ties_sv", "sweep", budget, slack) for slack in SLACKS}
    return found


def models(frame: pd.DataFrame) -> list[tuple]:
    return [
        (method, setting, tokens, None if math.isnan(slack) else slack)
        for method, setting, tokens, slack in frame[MODEL].itertuples(index=False)
    ]


def test_every_model_is_there_once_per_task(results):
    for task in (*tasks.TASKS, "text"):
        found = models(results.rows[results.rows["task"] == task])
        assert len(found) == len(set(found))
        assert set(found) == expected_models(), task


def test_rows_have_the_documented_columns(results):
    rows = results.rows
    assert set(rows.columns) >= ROWS
    assert set(rows["language"]) == {"tam_Taml"}
    assert set(rows["metric"]) == {"accuracy", "bits_per_byte"}
    text = rows["task"] == "text"
    assert (rows["metric"] == "bits_per_byte").equals(text)
    assert rows["chance"].isna().equals(text)
    assert (rows.loc[~text, "n"] == 4).all()
    assert rows.loc[~text, "value"].between(0, 1).all()
    assert rows["value"].notna().all()
    assert rows["stderr"].notna().all()
    for row in rows.itertuples():
        params = json.loads(row.params)
        if row.method == "ties_sv":
            assert float(params["slack"]) == row.slack
        assert ("density_ct" in params) == row.method.startswith(("ties", "shuffled", "norm_m"))
    assert (rows.loc[rows["method"] == "ties_sum", "variant"].str.contains("sum")).all()


def test_rows_are_the_means_of_the_items(results):
    assert set(results.items.columns) >= ITEMS
    keys = [*MODEL, "task"]
    means = results.items.groupby(keys, dropna=False)["correct"].mean()
    values = results.rows[results.rows["task"] != "text"].set_index(keys)["value"]
    assert_frame_equal(
        means.to_frame("value").sort_index(), values.to_frame().sort_index(), check_names=False
    )


def test_models_are_asked_the_same_items(results):
    asked = results.items.groupby(MODEL, dropna=False)["item"].agg(tuple)
    (items,) = set(asked)
    assert len(items) == len(set(items)) == 4 * len(tasks.TASKS)


def test_english_is_asked_of_the_fine_tuned_model_alone(results):
    english = results.english
    assert set(english["method"]) == {"sft"}
    assert set(english["task"]) == {*tasks.TASKS, "text"}
    target = results.rows[(results.rows["method"] == "sft") & (results.rows["task"] == "text")]
    assert english.set_index("task").loc["text", "value"] != target["value"].iloc[0]


def test_results_say_what_they_are_of(results, tiny_base):
    assert results.profile == "tiny"
    assert (results.languages, results.seeds, results.budgets) == (["tam_Taml"], [0], BUDGETS)
    assert results.tasks == list(tasks.TASKS)
    assert results.provenance["base"] == tiny_base.hash
    assert set(results.rows["base"]) == {tiny_base.hash}


# --- the models themselves -----------------------------------------------------------------


def cell_of(results, method: str, tokens: int, setting: str | None = None, slack=None):
    (cell,) = [
        cell
        for cell in results.cells
        if (cell.method, cell.ct_tokens) == (method, tokens)
        and setting in (None, cell.setting)
        and slack in (None, cell.params.get("slack"))
    ]
    return cell


def same(one, other) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("budget", BUDGETS)
def test_slack_zero_is_mean_ties_bit_for_bit(results, tiny_base, budget):
    ties = cell_of(results, "ties_mean", budget).weights()
    without = cell_of(results, "ties_sv", budget, "without slack")
    assert without.params["slack"] == 0
    assert same(without.weights(), ties)
    assert not same(cell_of(results, "ties_sv", budget, "sweep", math.inf).weights(), ties)


def test_merges_and_controls_are_what_their_names_say(results, tiny_base):
    base = tiny_base.weights
    ct = cell_of(results, "ct", 1024).weights()
    sft = cell_of(results, "sft", 0).weights()
    expected = {
        ("average", 1024): {n: 0.5 * ct[n] + 0.5 * sft[n] for n in base},
        ("chat_vector", 1024): {n: ct[n] + sft[n] - base[n] for n in base},
        ("half_sft", 0): {n: 0.5 * base[n] + 0.5 * sft[n] for n in base},
        ("base", 0): base,
    }
    for (method, tokens), weights in expected.items():
        found = cell_of(results, method, tokens).weights()
        for name in base:
            torch.testing.assert_close(found[name], weights[name], atol=1e-6, rtol=1e-5)
    distinct = [cell.weights() for cell in results.cells if cell.ct_tokens == 1024]
    ties = cell_of(results, "ties_mean", 1024).weights()
    assert sum(same(ties, weights) for weights in distinct) == 2  # itself and "without slack"


def test_smaller_budgets_are_points_of_the_same_run(results, tiny_base):
    """At a constant rate a run of fewer tokens is the beginning of a longer one."""
    plan = results.plan
    base = tiny_base.weights
    lengths = []
    for budget in BUDGETS:
        ct = cell_of(results, "ct", budget).weights()
        lengths.append(sum((ct[n] - base[n]).norm() ** 2 for n in base).sqrt())
    assert 0 < lengths[0] < lengths[1]
    assert plan.continual_pretraining.tokens_per_step == 256


def test_ct_text_is_of_both_languages_in_the_profiles_shares(results, tiny_base):
    rows = experts._ct_rows(tiny_base, "tam_Taml", 0, results.plan.continual_pretraining, 64 * 200)
    assert rows.shape == (200, 64)
    flat = rows.ravel()
    starts = np.flatnonzero(flat == tiny_base.tokenizer.eos_token_id)
    documents = np.split(flat, starts[1:])
    decode = tiny_base.tokenizer.decode
    tamil = [len(d) for d in documents if any("஀" <= c <= "௿" for c in decode(d))]
    assert sum(tamil) / flat.size == pytest.approx(0.8, abs=0.02)


# --- diagnostics ---------------------------------------------------------------------------


def test_every_parameter_is_kept_trimmed_or_outvoted(results, tiny_base):
    frame = results.diagnostics
    for model in ("ct", "sft"):
        total = frame[f"kept_{model}"] + frame[f"trimmed_{model}"] + frame[f"outvoted_{model}"]
        assert (total == frame["n"]).all()
        squares = sum(frame[f"l2_{fate}_{model}"] for fate in ("kept", "trimmed", "outvoted"))
        np.testing.assert_allclose(squares, frame[f"norm_{model}"] ** 2, rtol=1e-5)
    for _, of_model in frame.groupby(MODEL, dropna=False):
        assert sorted(of_model["parameter"]) == sorted(tiny_base.weights)


def test_every_ties_merge_is_diagnosed(results):
    wanted = {model for model in expected_models() if model[0] in ("ties_mean", "ties_sv")}
    assert set(models(results.diagnostics)) == wanted


def test_infinite_slack_discards_nothing_of_sft_and_none_discards_some(results):
    sv = results.diagnostics.query("method == 'ties_sv' and setting != 'default'")
    lost = sv.pivot_table(index="ct_tokens", columns="slack", values="outvoted_sft", aggfunc="sum")
    assert (lost[0.0] > lost[1.0]).all()
    assert (lost[1.0] > 0).all()
    assert (lost[np.inf] == 0).all()
    assert (sv.loc[np.isinf(sv["slack"]), "discarded_sft_share"].dropna() == 0).all()


# --- the store -----------------------------------------------------------------------------


def assert_same_results(one: study.Results, other: study.Results) -> None:
    for frame in ("rows", "items", "diagnostics", "english"):
        assert_frame_equal(getattr(one, frame), getattr(other, frame))


def test_a_second_run_computes_nothing(results, idle):
    assert_same_results(run(), results)


def test_other_items_are_asked_without_training(results, untrained):
    more = run(items=5)
    assert set(more.rows.loc[more.rows["task"] != "text", "n"]) == {5}
    assert not set(more.rows["cell"]) & set(results.rows["cell"])
    assert_frame_equal(more.diagnostics, results.diagnostics)


def test_a_study_of_some_methods_trains_and_asks_no_others(results, untrained):
    some = run(only=["ct_then_sft", "average"], slacks=[])
    assert set(some.rows["method"]) == {"base", "sft", "ct", "ct_then_sft", "average"}
    assert set(some.rows["cell"]) <= set(results.rows["cell"])
    assert some.diagnostics.empty
    assert list(some.diagnostics.columns) == list(results.diagnostics.columns)


def test_methods_with_budgets_of_their_own_are_made_at_no_others(results, untrained):
    least, most = min(BUDGETS), max(BUDGETS)
    few = run(budgets_of={"target_sft": [most], "ties_sv": [least], "ct_then_sft": [most]})
    at = few.rows.groupby("method")["ct_tokens"].unique().map(set)
    assert at["target_sft"] == at["ct_then_sft"] == {most}
    assert at["ties_sv"] == {least}
    assert at["ties_mean"] == at["ct"] == set(BUDGETS)
    assert set(few.rows["cell"]) < set(results.rows["cell"])
    one = run(budgets_of={"default.ct_then_sft": [most], "tuned.average": [least]})
    at = one.rows.groupby(["method", "setting"])["ct_tokens"].unique().map(set)
    assert at["ct_then_sft", "default"] == {most}
    assert at["average", "default"] == set(BUDGETS), "in other settings it is run at all"
    both = run(tuned={"average": {"alpha": 0.3}}, budgets_of={"default.average": [least]})
    at = both.rows.groupby(["method", "setting"])["ct_tokens"].unique().map(set)
    assert at["average", "default"] == {least}
    assert at["average", "tuned"] == set(BUDGETS)


def test_another_seed_is_another_run(results, fits):
    two = run(seeds=[0, 1], budgets=[512])
    # Of seed 0 all is found; of seed 1 nothing: SFT, CT, CT-then-SFT and target SFT.
    assert len(fits) == 4
    text = two.rows[two.rows["task"] == "text"]
    for method in ("base", "ct", "sft"):
        values = text[text["method"] == method]["value"]
        assert values.nunique() == 2, method
    first = two.items[two.items["cell"] == two.items["cell"].iloc[0]]
    other = two.items[(two.items["seed"] == 1) & (two.items["method"] == "base")]
    assert first["concept"].tolist() != other["concept"].tolist()


def test_two_languages_share_the_fine_tuned_model(results, fits):
    both = run(language=["tam_Taml", "zzz_0001"])
    # Of the second language: CT, and CT-then-SFT and target SFT at two budgets.
    assert len(fits) == 1 + 2 + 2
    assert set(both.rows["language"]) == {"tam_Taml", "zzz_0001"}
    tamil = both.rows[both.rows["language"] == "tam_Taml"].reset_index(drop=True)
    keys = ["cell", "task", "method", "setting", "slack"]
    assert_frame_equal(
        tamil.sort_values(keys, ignore_index=True),
        results.rows.sort_values(keys, ignore_index=True),
    )


@pytest.mark.parametrize(("stage", "method", "tokens"), [("sft", "sft", 0), ("ct", "ct", 512)])
def test_a_damaged_expert_is_named_and_trained_again(results, fits, capsys, stage, method, tokens):
    path = cell_of(results, method, tokens).expert.path
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert_same_results(run(), results)
    assert len(fits) == 1
    assert f"{stage}/{path.parent.name} is damaged" in capsys.readouterr().err
    assert path.read_bytes() == content


def test_a_damaged_evaluation_is_named_and_made_again(results, untrained, capsys):
    path = Store().root / "evaluation" / results.rows["cell"].iloc[0] / "scores.json"
    path.write_text(path.read_text().replace("0", "1"))
    assert_same_results(run(), results)
    assert f"evaluation/{path.parent.name} is damaged" in capsys.readouterr().err


def test_the_store_is_counted_by_stage_language_and_seed(tmp_path, monkeypatch, results):
    table = study.show()
    entries = list(Store().entries())
    assert table["entries"].sum() == len(entries)
    assert table["bytes"].sum() == sum(entry.size for entry in entries)
    counted = table.set_index(["stage", "language", "seed"])["entries"]
    assert counted[("sft", "eng_Latn", 0.0)] >= 1
    assert counted[("ct", "tam_Taml", 0.0)] >= 1
    distinct = results.rows["cell"].nunique()
    assert counted[("evaluation", "tam_Taml", 0.0)] >= distinct
    monkeypatch.setenv("LANGMERGE_HOME", str(tmp_path))
    assert len(study.show()) == 0


def test_processes_do_not_change_results(results, tiny_lab, tmp_path, monkeypatch):
    """Two processes, on an empty store of their own, find the base that LANGMERGE_BASE names."""
    monkeypatch.setenv("LANGMERGE_HOME", str(tmp_path))
    write_profile(tmp_path, "tiny")
    get_reusable_executor().shutdown(wait=True)  # workers of before know another environment
    spread = run(processes=2)
    get_reusable_executor().shutdown(wait=True)
    assert_same_results(spread, results)


def test_jobs_compute_on_one_thread_and_leave_the_setting_as_it_was():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seen = []
        work = [(lambda: seen.append(torch.get_num_threads()),)] * 2
        jobs.run("test", work, processes=1, quiet=True)
        assert seen == [1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# --- a reader's own election ---------------------------------------------------------------


def sft_wins(tau_ct, tau_sft):
    return torch.where(tau_sft != 0, tau_sft.sign(), tau_ct.sign())


def test_a_readers_election_enters_the_comparison(results, tiny_base, untrained):
    mine = run(elections={"mine": sft_wins})
    rows = mine.rows[mine.rows["method"] == "custom:mine"]
    assert set(rows["ct_tokens"]) == set(BUDGETS)
    assert set(rows["task"]) == {*tasks.TASKS, "text"}
    others = mine.rows[mine.rows["method"] != "custom:mine"]
    assert_frame_equal(others.reset_index(drop=True), results.rows)
    # It is what infinite slack elects.
    inf = cell_of(mine, "ties_sv", 1024, "sweep", math.inf).weights()
    assert same(cell_of(mine, "custom:mine", 1024).weights(), inf)


def elections_from(folder, source: str):
    """The function `mine` of a module with that source, as a notebook's cell would define it."""
    name = f"elections_{len(list(folder.glob('*.py')))}_{folder.name}"
    (folder / f"{name}.py").write_text(source)
    sys.path.insert(0, str(folder))
    try:
        return __import__(name).mine
    finally:
        sys.path.remove(str(folder))


SOURCE = """
{knob}
def sign(x):
    return x.sign(){helper}

def mine(tau_ct, tau_sft):
    return sign(tau_ct{body} + factor * tau_sft)
"""


def cell_keys(folder, knob="factor = 2", helper="", body="") -> set[str]:
    election = elections_from(folder, SOURCE.format(knob=knob, helper=helper, body=body))
    found = run(budgets=[512], elections={"mine": election}).rows
    return set(found.loc[found["method"] == "custom:mine", "cell"])


def test_a_changed_election_is_another_cell(results, tmp_path):
    first = cell_keys(tmp_path)
    assert cell_keys(tmp_path) == first
    others = [
        cell_keys(tmp_path, body=" * 3"),
        cell_keys(tmp_path, knob="factor = 7"),  # a knob outside the function
        cell_keys(tmp_path, helper=" * 1"),  # a helper that it calls
    ]
    for one, other in itertools.combinations([first, *others], 2):
        assert not one & other


def test_an_election_without_a_source_is_refused_before_anything_is_trained(idle):
    space = {}
    exec("def mine(tau_ct, tau_sft):\n    return tau_ct.sign()", space)
    with pytest.raises(LangmergeError, match="no source"):
        run(seeds=[77], elections={"mine": space["mine"]})


def test_the_source_of_a_closure_holds_its_values():
    def election(factor):
        def mine(tau_ct, tau_sft):
            return (tau_ct + factor * tau_sft).sign()

        return mine

    assert cells.source_of(election(2)) != cells.source_of(election(3))


# --- bad input -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"language": "tam_Tamil"}, "tam_Taml"),
        ({"language": "ben_Beng"}, "the base has not met ben_Beng"),
        ({"language": "eng_Latn"}, "no target"),
        ({"profile": "tinny"}, "tiny"),
        ({"budgts": [512]}, "budgets"),
        ({"budgets": [500]}, "256"),
        ({"seeds": ["one"]}, "no integer"),
        ({"default": {}}, "ties_mean"),
    ],
)
def test_bad_input_is_told_before_anything_is_trained(tiny_lab, idle, options, told):
    with pytest.raises(LangmergeError, match=told):
        run(**options)


def test_a_mistaken_fine_tuning_setting_is_told(results):
    default = results.plan.default | {"ct_then_sft": {"learning_rat": 1e-3}}
    with pytest.raises(LangmergeError, match=r"default\.ct_then_sft: learning_rat: "):
        run(default=default)


# --- which tasks count ---------------------------------------------------------------------


def test_a_task_that_english_sft_does_not_teach_is_not_reported(results):
    """The lower end of Wilson's interval decides, for the worst of the seeds."""
    english = results.english.copy()
    answered = english["metric"] == "accuracy"
    english.loc[answered, ["value", "n"]] = [0.9, 1000]
    english.loc[answered & (english["task"] == "kind"), "value"] = 0.81  # Wilson from .784
    strict = dataclasses.replace(
        results, english=english, plan=results.plan.model_copy(update={"english_floor": 0.8})
    )
    assert strict.tasks == ["topic", "thing", "action"]
    english["value"] = 0.5
    with pytest.raises(LangmergeError, match="no task is one"):
        _ = dataclasses.replace(strict, english=english).tasks


def test_a_larger_budget_continues_the_text_of_a_smaller_one(tiny_base):
    settings = ContinualPretraining(**TINY_PROFILE["continual_pretraining"])
    rows = [experts._ct_rows(tiny_base, "tam_Taml", 0, settings, tokens) for tokens in (512, 2048)]
    assert (rows[1][: len(rows[0])] == rows[0]).all()
    assert len(rows[0]) * settings.sequence == 512


def test_a_new_budget_trains_up_to_itself_and_keeps_the_others(results, fits):
    more = study.run(profile="tiny", budgets=[512, 1024, 1536], processes=1, quiet=True)
    ct = {cell.ct_tokens: cell.expert for cell in more.cells if cell.method == "ct"}
    before = {cell.ct_tokens: cell.expert for cell in results.cells if cell.method == "ct"}
    assert {tokens: ct[tokens].sha256 for tokens in before} == {
        tokens: expert.sha256 for tokens, expert in before.items()
    }
    assert ct[1536].sha256 not in {expert.sha256 for expert in before.values()}


def test_a_development_language_is_named_before_its_results(tiny_lab):
    write_profile(tiny_lab.home, "chosen", tuned={"average": {"alpha": 0.3}})
    found = study.run(language="zzz_0001", profile="chosen", processes=1, quiet=True)
    assert "zzz_0001 is a development language" in found.plan.note
    untuned = study.run(language="zzz_0001", profile="tiny", processes=1, quiet=True)
    assert "development" not in untuned.plan.note


def test_a_language_that_starts_at_chance_is_named_before_its_results(tiny_lab, capsys):
    path = tiny_lab.base / base.READINESS
    before = path.read_text()
    table = pd.read_csv(path)
    table["standing"] = "at chance"
    try:
        table.to_csv(path, index=False)
        found = study.run(language="tam_Taml", profile="tiny", processes=1)
        assert "tam_Taml: English fine-tuning alone" in found.plan.note
        assert "no task only" in " ".join(capsys.readouterr().err.split())
        table["standing"] = "between"
        table.to_csv(path, index=False)
        assert not study.run(language="tam_Taml", profile="tiny", processes=1).plan.note
        path.unlink()
        assert not study.run(language="tam_Taml", profile="tiny", processes=1).plan.note
    finally:
        path.write_text(before)
