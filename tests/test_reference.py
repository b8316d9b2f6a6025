"""The reference run: slices that are saved as they come, and read as one run."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import write_profile
from typer.testing import CliRunner

from langmerge import cli, paths, reference, statistics, study
from langmerge.errors import LangmergeError

CODES = ["tam_Taml", "zzz_0001"]


@pytest.fixture(scope="module")
def lab(tiny_lab):
    write_profile(tiny_lab.home, "many", languages=CODES, seeds=[0, 1])
    return tiny_lab


@pytest.fixture(scope="module")
def finished(lab):
    first = reference.run("many", processes=1, quiet=True, limit=3)
    some = reference.load("many")
    rest = reference.run("many", processes=1, quiet=True)
    return first, some, rest


def test_a_run_goes_on_with_what_is_missing(finished, lab):
    first, _, rest = finished
    assert [(one.language, one.seed) for one in first] == [(c, 0) for c in CODES] + [(CODES[0], 1)]
    assert [(one.language, one.seed) for one in rest] == [(CODES[1], 1)]
    assert reference.run("many", processes=1, quiet=True) == []
    assert all(one.folder.is_relative_to(lab.home / "results") for one in first)


def test_what_is_read_is_what_the_study_finds(finished):
    found = reference.load("many")
    fresh = study.run(language=CODES, profile="many", processes=1, quiet=True)
    assert found.languages == fresh.languages and found.seeds == fresh.seeds
    assert found.tasks == fresh.tasks and found.budgets == fresh.budgets
    keys = ["language", "seed", "cell", "task", "metric"]
    columns = [*keys, "value", "base", "n"]
    once = {"ignore_index": True, "subset": keys}
    ours, theirs = (
        it.rows.sort_values(keys)[columns].drop_duplicates(**once) for it in (found, fresh)
    )
    pd.testing.assert_frame_equal(ours, theirs)
    for method, setting in (("ties_mean", "default"), ("sft", "fixed")):
        one, other = (
            statistics.select(it.items, method=method, setting=setting) for it in (found, fresh)
        )
        order = ["language", "seed", "ct_tokens", "task", "item"]
        one, other = (it.sort_values(order, ignore_index=True) for it in (one, other))
        assert (one["correct"] == other["correct"]).all()
        assert (one["prediction"] == other["prediction"]).all()
        close = other["margin"].clip(-127 / 16, 127 / 16)
        assert np.allclose(one["margin"], close, atol=reference.MARGIN_STEP / 2 + 1e-6)
    whole = statistics.whole_model(found.diagnostics)
    theirs = statistics.whole_model(fresh.diagnostics)
    assert np.allclose(whole["discarded_sft_share"], theirs["discarded_sft_share"])
    assert len(whole) == len(theirs)


def test_a_seed_that_is_not_complete_is_left_out(finished):
    _, some, _ = finished
    assert some.seeds == [0] and some.languages == CODES
    assert set(some.items["seed"]) == {0}
    assert reference.load("many").seeds == [0, 1]


def test_without_a_complete_seed_the_languages_that_are_there_are_read(lab, finished, monkeypatch):
    write_profile(lab.home, "more", languages=[*CODES, "zzz_0000"], seeds=[0])
    shutil.copytree(lab.home / "results" / "many", lab.home / "results" / "more")
    assert reference.load("more").languages == CODES
    (lab.home / "profiles" / "more.yaml").unlink()


def test_results_of_other_settings_count_as_missing(lab, finished):
    shutil.copytree(lab.home / "results" / "many", lab.home / "results" / "changed")
    write_profile(lab.home, "changed", languages=CODES, seeds=[0, 1], items=5)
    assert reference.load("changed") is None
    assert not reference.plan("changed")["done"].any()


def test_a_damaged_slice_is_named(lab, finished):
    one = reference.slices(reference.profiles.load("many"))[0]
    path = one.folder / "items.parquet"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:100])
        with pytest.raises(LangmergeError, match=r"items\.parquet: it is not readable"):
            reference.load("many")
    finally:
        path.write_bytes(whole)


def test_the_plan_says_what_is_there_and_what_the_rest_takes(lab, finished):
    found = reference.plan("many")
    assert found["done"].all() and (found["seconds"] >= 0).all()
    told = CliRunner().invoke(cli.app, ["reference", "--profile", "many", "--plan"])
    assert told.exit_code == 0 and "To do: 0 of 4 slices" in told.output
    done = CliRunner().invoke(cli.app, ["reference", "--profile", "many"])
    assert "0 slices computed, 0 to go." in done.output


def test_it_is_kept_in_the_checkout_unless_a_home_says_otherwise(monkeypatch, tmp_path):
    monkeypatch.delenv("LANGMERGE_HOME", raising=False)
    assert paths.results() == paths.data() / "results"
    monkeypatch.setenv("LANGMERGE_HOME", str(tmp_path))
    assert paths.results() == tmp_path / "results"


def test_the_shipped_results_are_small_and_say_where_they_come_from():
    top = paths.data() / "results"
    files = [path for path in top.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20e6
    for path in top.rglob("provenance.json"):
        told = json.loads(path.read_text())
        assert {"key", "seconds", "base", "time", "torch"} <= set(told)
