"""Tuning: equal trials for all, the best kept, nothing of a reported language looked at."""

import math

import pandas as pd
import pytest
import yaml
from conftest import write_profile
from hypothesis import given
from hypothesis import strategies as st

from langmerge import cells, evaluate, profiles, tuning
from langmerge.errors import LangmergeError
from langmerge.tuning import MARK, Search, best_trials, trials

SEARCH = {
    "languages": ["zzz_0000", "zzz_0001"],
    "seeds": [1000],
    "budgets": [512],
    "items": 2,
    "text_documents": 3,
    "trials": 3,
    "seed": 0,
    "methods": {
        "average": {"alpha": [0.0, 0.2, 0.5, 1.0]},
        "ties_mean": {"density_ct": [0.3, 1.0], "lambda_": [0.5, 1.0, 2.0]},
        "ties_sv": {"lambda_": [1.0, 2.0], "slack": [1.0, float("inf")]},
        "ct_then_sft": {"learning_rate": [1e-3, 1e-2], "steps": [1, 3]},
    },
}
WHAT = Search.model_validate(SEARCH)


def plain(settings: dict) -> tuple:
    return tuple(sorted(settings.items()))


# --- trials --------------------------------------------------------------------------------


@given(
    number=st.integers(1, 6),
    seed=st.integers(0, 1000),
    default=st.sampled_from(
        [{"density_ct": 0.3, "lambda_": 1.0}, {"density_ct": 0.7, "lambda_": 1.0, "w_ct": 2.0}]
    ),
)
def test_trials_are_as_many_as_asked_the_default_first_and_none_twice(number, seed, default):
    what = WHAT.model_copy(update={"trials": number, "seed": seed})
    drawn = trials(what, "ties_mean", default)
    assert len(drawn) == number
    assert drawn[0] == default
    assert len({plain(settings) for settings in drawn}) == number
    for settings in drawn[1:]:
        assert settings.keys() == SEARCH["methods"]["ties_mean"].keys()
        for name, value in settings.items():
            assert value in SEARCH["methods"]["ties_mean"][name]
    assert drawn == trials(what, "ties_mean", default)


def test_other_seeds_and_methods_draw_otherwise():
    what = WHAT.model_copy(update={"methods": {"a": SEARCH["methods"]["ties_mean"]} | WHAT.methods})
    default = {"density_ct": 0.7}
    drawn = trials(what, "ties_mean", default)
    reseeded = [
        trials(what.model_copy(update={"seed": seed}), "ties_mean", default) for seed in range(1, 6)
    ]
    assert any(other != drawn for other in reseeded)
    seeds = range(5)
    pairs = [(what.model_copy(update={"seed": seed}), seed) for seed in seeds]
    assert any(trials(w, "a", default) != trials(w, "ties_mean", default) for w, _ in pairs)


def test_too_few_combinations_are_told():
    what = WHAT.model_copy(update={"trials": 5})
    assert len(trials(what, "average", {"alpha": 0.7})) == 5  # the default is one more
    with pytest.raises(LangmergeError, match=r"average has 4 combinations.*5"):
        trials(what, "average", {"alpha": 0.5})


def test_the_shipped_search_gives_every_method_of_the_lab_equal_trials():
    what, plan = tuning.search(), profiles.load("lab")
    assert what.methods.keys() == plan.default.keys()
    numbers = {m: len(trials(what, m, plan.default[m])) for m in what.methods}
    trained = {number for method, number in numbers.items() if method in what.fewer}
    assert set(what.fewer) == {*profiles.BASELINES, *profiles.REPEATED} and len(trained) == 1
    assert {n for method, n in numbers.items() if method not in what.fewer} == {what.trials}


def test_every_method_of_the_lab_is_tuned_over_all_combinations_of_its_lists():
    what, plan = tuning.search(), profiles.load("lab")
    for method, lists in what.methods.items():
        drawn = trials(what, method, plan.default[method])
        assert len(drawn) == math.prod(map(len, lists.values())), method


def test_the_shipped_search_gives_no_reported_language_a_say():
    what, plan = tuning.search(), profiles.load("lab")
    assert not set(what.languages) & set(plan.languages)
    assert not set(what.seeds) & set(plan.seeds)


def test_a_mistaken_search_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning.paths, "data", lambda: tmp_path)
    (tmp_path / "tuning.yaml").write_text(yaml.safe_dump(SEARCH | {"trails": 3}))
    with pytest.raises(LangmergeError, match=r"tuning\.yaml(.|\n)*trails"):
        tuning.search()


# --- the best ------------------------------------------------------------------------------


def table(rows: list[tuple]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["method", "trial", "accuracy"])
    return frame.assign(settings=[{"of": f"{row[0]} {row[1]}"} for row in rows])


def test_the_best_trial_of_each_method_is_kept_and_of_equals_the_earlier():
    rows = [
        ("average", 0, 0.4), ("average", 1, 0.6), ("average", 2, 0.5),
        ("ties_mean", 2, 0.7), ("ties_mean", 1, 0.7), ("ties_mean", 0, 0.1),
        ("ties_sum", 1, 0.3), ("ties_sum", 0, 0.3),
    ]  # fmt: skip
    kept = {"average": {"of": "average 1"}, "ties_mean": {"of": "ties_mean 1"}}
    assert best_trials(table(rows)) == kept | {"ties_sum": {"of": "ties_sum 0"}}
    assert best_trials(table(rows[::-1])) == best_trials(table(rows))


# --- the whole search ----------------------------------------------------------------------

HEAD = "# A profile of mine — மரம்\n"


@pytest.fixture(scope="module")
def tuned(tiny_lab):
    """The tiny profile before and after tuning, what was chosen, and every suite that was asked."""
    path = write_profile(tiny_lab.home, "mine")
    inherited = {key: value for key, value in yaml.safe_load(path.read_text()).items()}
    del inherited["tuned"]
    before = HEAD + yaml.safe_dump(inherited) + "\n\n# a last word\n" + MARK + "tuned: {}\n"
    path.write_text(before, encoding="utf-8")
    suites = []
    evaluator = evaluate.Evaluator.__init__

    def note(self, architecture, tokenizer, suite, *rest):
        suites.append(suite)
        evaluator(self, architecture, tokenizer, suite, *rest)

    cells._evaluator.cache_clear()  # one of another module's would not be noted
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "search", lambda: WHAT)
        patch.setattr(evaluate.Evaluator, "__init__", note)
        chosen = tuning.tune("mine", processes=1, quiet=True)
    return path, before, chosen, suites


def test_it_writes_below_the_mark_and_leaves_what_is_above(tuned):
    path, before, chosen, _ = tuned
    above, below = path.read_text(encoding="utf-8").split(MARK)
    assert above.encode() == before.split(MARK)[0].encode()
    assert yaml.safe_load(below) == {"tuned": chosen}


def test_the_profile_reads_back_what_was_chosen(tuned):
    _, _, chosen, _ = tuned
    plan = profiles.load("mine")
    assert plan.tuned == chosen
    assert chosen.keys() == SEARCH["methods"].keys()
    assert isinstance(plan.tuned["ct_then_sft"]["steps"], int)
    assert plan.settings("average")["tuned"] == chosen["average"]


def test_the_best_of_all_trials_was_chosen(tuned):
    path, _, chosen, _ = tuned
    tried = pd.read_csv(path.with_suffix(".trials.csv"))
    assert (tried.groupby("method")["trial"].agg(tuple) == (0, 1, 2)).all()
    assert tried["accuracy"].between(0, 1).all()
    for method, of_method in tried.groupby("method"):
        best = of_method.sort_values(["accuracy", "trial"], ascending=[False, True]).iloc[0]
        assert best["values"] == str(chosen[method])


def test_only_dev_items_of_development_languages_are_looked_at(tuned):
    _, _, _, suites = tuned
    assert {(suite.language, suite.split) for suite in suites} == {
        ("zzz_0000", "dev"),
        ("zzz_0001", "dev"),
    }
    assert {suite.seed for suite in suites} == {1000}
    # The search's own numbers, which are not those of the profile that it tunes.
    assert {(suite.items, suite.text_documents) for suite in suites} == {(2, 3)}
    assert profiles.load("mine").items == 4


def test_accuracy_is_the_mean_over_tasks_languages_and_budgets(tuned, monkeypatch):
    """Recomputed from the store for one trial, without training or evaluating anything."""
    from langmerge import study, train

    def fail(*_, **__):
        raise AssertionError("something was computed")

    monkeypatch.setattr(train, "fit", fail)
    monkeypatch.setattr(evaluate.Evaluator, "__call__", fail)
    path, *_ = tuned
    plan = profiles.load(
        "mine",
        languages=WHAT.languages,
        seeds=[1000],
        budgets=[512],
        items=WHAT.items,
        text_documents=WHAT.text_documents,
        tuned={},
    )
    again = tuning.run_trials(plan, WHAT, processes=1, quiet=True)
    tried = pd.read_csv(path.with_suffix(".trials.csv"))
    assert again["accuracy"].tolist() == pytest.approx(tried["accuracy"].tolist())
    models = [
        cell
        for cell in tuning.grid.cells(plan, processes=1, quiet=True)
        if (cell.method, cell.setting) == ("average", "default")
    ]
    asked = [(cell, study.suite(plan, cell.language, 1000, split="dev")) for cell in models]
    rows = study.scores(asked)
    mean = rows[rows["task"] != "text"]["value"].mean()
    first = tried[(tried["method"] == "average") & (tried["trial"] == 0)]["accuracy"].iloc[0]
    assert first == pytest.approx(mean)


def test_tuning_one_method_more_leaves_the_others_as_they_are(tuned, tiny_lab, monkeypatch):
    path, _, chosen, _ = tuned
    other = path.with_name("again.yaml")
    frozen = {name: values for name, values in chosen.items() if name != "average"}
    frozen["ties_mean"] = {"density_ct": 0.123}  # nothing that a search would find
    above = path.read_text(encoding="utf-8").split(MARK)[0]
    other.write_text(above + MARK + yaml.safe_dump({"tuned": frozen}), encoding="utf-8")
    before = path.with_suffix(".trials.csv").read_text()
    other.with_suffix(".trials.csv").write_text(before)
    monkeypatch.setattr(tuning, "search", lambda: WHAT)
    found = tuning.tune("again", processes=1, quiet=True, missing=True)
    assert found == {"average": chosen["average"]}
    assert profiles.load("again").tuned == frozen | found
    assert other.with_suffix(".trials.csv").read_text() == before
    assert tuning.tune("again", missing=True) == {}
    with pytest.raises(LangmergeError, match=r"'averge'.*average"):
        tuning.tune("again", methods=["averge"])
    other.unlink()


# --- what is refused -----------------------------------------------------------------------


@pytest.fixture
def searching(tiny_lab, monkeypatch):
    monkeypatch.setattr(tuning, "search", lambda: WHAT)
    monkeypatch.setattr(tuning, "run_trials", None)  # refused before any trial
    return tiny_lab.home


def test_a_profile_without_the_mark_is_refused(searching):
    path = write_profile(searching, "markless")
    text = path.read_text()
    with pytest.raises(LangmergeError, match="no line"):
        tuning.tune("markless")
    assert path.read_text() == text


def test_a_profile_that_reports_a_development_language_is_refused(searching):
    path = write_profile(searching, "leaky", languages=["tam_Taml", "zzz_0001"])
    path.write_text(path.read_text() + MARK)
    with pytest.raises(LangmergeError, match="zzz_0001"):
        tuning.tune("leaky")


def test_an_unknown_profile_is_refused(searching):
    with pytest.raises(LangmergeError, match="tiny"):
        tuning.tune("tinny")


def test_a_method_without_a_default_is_refused(tiny_lab):
    plan = profiles.load("tiny")
    what = WHAT.model_copy(update={"methods": {"tie_mean": {"lambda_": [1.0, 2.0, 3.0]}}})
    with pytest.raises(LangmergeError, match="ties_mean"):
        tuning.run_trials(plan, what)
