"""The reference run: slices that are saved as they come, and read as one run."""

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import write_profile
from typer.testing import CliRunner

from langmerge import base, cli, paths, reference, statistics, study, verify
from langmerge.errors import LangmergeError
from langmerge.files import sha256

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
    pd.testing.assert_frame_equal(ours, theirs, check_dtype=False)
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


def test_a_slice_is_kept_without_the_schemas_of_its_writers(finished):
    one = reference.slices(reference.profiles.load("many"))[0]
    for path in one.folder.glob("*.parquet"):
        assert pq.read_schema(path).metadata is None
    for name in reference._FRAMES:
        found = reference.read(one, name)
        assert set(found.dtypes.astype(str)) <= {"object", "str", "int64", "int8", "float64",
                                                 "float32", "bool"}  # fmt: skip


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


def test_languages_that_a_base_has_not_met_count_as_missing(lab, finished, tiny_base, monkeypatch):
    stranger = base.Base(**vars(tiny_base) | {"languages": (CODES[1],)})
    monkeypatch.setattr(base, "load", lambda folder=None: stranger)
    assert not reference.plan("many").set_index("language").loc[CODES[0], "done"].any()
    assert reference.load("many").languages == [CODES[1]]


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
        with pytest.raises(LangmergeError, match=r"items\.parquet: its SHA-256 is") as raised:
            reference.load("many")
        assert one.told()["sha256"]["items.parquet"][:12] in str(raised.value)
        assert sha256(path)[:12] in str(raised.value)
        refused = CliRunner().invoke(cli.app, ["verify-reference", "--profile", "many"])
        assert isinstance(refused.exception, LangmergeError)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("hashes", [{}, {"english.parquet": "0123"}])
def test_a_slice_of_other_files_is_refused_with_the_mend(lab, finished, hashes):
    one = reference.slices(reference.profiles.load("many"))[0]
    path = one.folder / "provenance.json"
    whole = path.read_text()
    told = json.loads(whole)
    try:
        path.write_text(json.dumps(told | {"sha256": hashes}))
        with pytest.raises(LangmergeError, match=r"another version.*remove its folder"):
            reference.load("many")
    finally:
        path.write_text(whole)


def test_a_slice_from_before_hashes_is_refused_until_it_is_sealed(lab, finished):
    one = reference.slices(reference.profiles.load("many"))[0]
    path = one.folder / "provenance.json"
    whole = path.read_text()
    told = json.loads(whole)
    path.write_text(json.dumps({key: told[key] for key in told if key not in ("sha256", "parts")}))
    with pytest.raises(LangmergeError, match=r"no hashes.*--profile many --seal"):
        reference.load("many")
    sealed = CliRunner().invoke(cli.app, ["reference", "--profile", "many", "--seal"])
    assert "1 slices sealed" in sealed.output
    assert one.told() == told and reference.seal("many") == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"stages": {"ct": 0}}, r"stages \{'ct': 0\}, now \{'ct': "),
        ({"base": "0badcafe"}, r"base 0badcafe, now "),
        ({"settings": "0123"}, r"settings 0123, now "),
    ],
)
def test_rows_of_something_else_are_refused_with_the_hash_that_differs(finished, changed, message):
    one = reference.slices(reference.profiles.load("many"))[0]
    path = one.folder / "provenance.json"
    whole = path.read_text()
    told = json.loads(whole)
    try:
        path.write_text(json.dumps(told | {"parts": told["parts"] | changed}))
        with pytest.raises(LangmergeError, match=message):
            verify.check("many")
        path.write_text(json.dumps(told | {"parts": told["parts"] | changed, "key": "another"}))
        assert reference.load("many").seeds == [1], "what is out of date is never mixed in"
        assert not reference.plan("many")["done"].all()
    finally:
        path.write_text(whole)


def test_an_untouched_run_comes_out_again(lab, finished):
    before = sorted(lab.home.iterdir())
    found = verify.verify("many", limit=1, processes=1, quiet=True)
    assert found.holds and found.elsewhere == []
    assert (found.blocks["same"] == found.blocks["numbers"]).all() and found.blocks["exact"].all()
    assert found.blocks["models"].max() > 10
    assert sorted(lab.home.iterdir()) == before, "nothing stays behind"


def test_a_number_that_does_not_come_out_is_named(lab, finished):
    how = reference.profiles.load("many")
    block = verify.draw(verify.check("many"), how, limit=1)[0]
    folder = block.slice.folder
    rows, told = (folder / "rows.parquet").read_bytes(), (folder / "provenance.json").read_text()
    try:
        frame = pd.read_parquet(folder / "rows.parquet")
        texts = (frame["method"] == "ct") & (frame["metric"] == "bits_per_byte")
        frame.loc[texts, "value"] *= 1.5
        frame.to_parquet(folder / "rows.parquet", index=False)
        hashes = json.loads(told)["sha256"] | {"rows.parquet": sha256(folder / "rows.parquet")}
        (folder / "provenance.json").write_text(json.dumps(json.loads(told) | {"sha256": hashes}))
        arguments = ["verify-reference", "--profile", "many", "--limit", "1", "--processes", "1"]
        differs = CliRunner().invoke(cli.app, arguments)
        assert differs.exit_code == 1
        assert f"{len(block.budgets)} numbers differ" in differs.output and " ct " in differs.output
    finally:
        (folder / "rows.parquet").write_bytes(rows)
        (folder / "provenance.json").write_text(told)


def row(value, **changed):
    known = {"language": "a", "base": "b", "seed": 0, "ct_tokens": 512, "method": "ct"}
    known |= {"setting": "fixed", "slack": np.nan, "task": "text", "metric": "bits_per_byte"}
    return known | {"value": value} | changed


def test_elsewhere_the_stated_tolerance_holds():
    committed = pd.DataFrame([row(2.0), row(0.5, task="topic", metric="accuracy")])
    near = pd.DataFrame([row(2.001), row(0.51, task="topic", metric="accuracy")])
    far = pd.DataFrame([row(2.01), row(0.54, task="topic", metric="accuracy")])
    assert verify.compare(committed, near, exact=False)["holds"].all()
    assert not verify.compare(committed, near, exact=True)["holds"].any()
    assert not verify.compare(committed, far, exact=False)["holds"].any()
    lacking = verify.compare(committed, near[:1], exact=False)
    assert list(lacking.sort_values("metric")["holds"]) == [False, True]


def test_the_draw_is_a_tenth_and_repeats_itself():
    how = reference.profiles.load("reference")
    there = reference.slices(how)
    blocks = verify.draw(there, how, seed=3)
    drawn = sum(len(block.budgets) for block in blocks)
    assert 0 <= drawn - 0.1 * len(there) * len(how.budgets) < 1
    assert len({block.slice for block in blocks}) == len(blocks)
    assert blocks == verify.draw(there, how, seed=3) != verify.draw(there, how, seed=4)
    everything = verify.draw(there, how, share=1)
    assert sum(len(block.budgets) for block in everything) == len(there) * len(how.budgets)
    with pytest.raises(LangmergeError, match="share"):
        verify.draw(there, how, share=0)


def test_the_plan_says_what_is_there_and_what_the_rest_takes(lab, finished):
    found = reference.plan("many")
    assert found["done"].all() and (found["seconds"] >= 0).all()
    told = CliRunner().invoke(cli.app, ["reference", "--profile", "many", "--plan"])
    assert told.exit_code == 0 and "To do: 0 of 4 slices" in told.output
    done = CliRunner().invoke(cli.app, ["reference", "--profile", "many"])
    assert "0 slices computed, 0 to go." in done.output


def test_what_is_added_to_a_run_leaves_the_measured_times_of_the_rest():
    def told(**blocks):
        its = {
            name: {"models": models, "computed": computed, "seconds": seconds}
            for name, (models, computed, seconds) in blocks.items()
        }
        return {"cpu": "one", "cores": 2, "seconds": 1.0, "models": 9, "blocks": its}

    before, now = told(core=(4, 4, 40.0)), told(core=(4, 0, 0.1), beyond=(5, 5, 60.0))
    found = reference._timed(now, before)
    assert found["blocks"] == {"core": before["blocks"]["core"], "beyond": now["blocks"]["beyond"]}
    assert found["seconds"] == 100.0
    for other in (
        {},
        before | {"beside": "another run"},
        before | {"cpu": "another"},
        told(core=(3, 3, 30.0)),
        told(core=(4, 1, 10.0)),
    ):
        assert reference._timed(now, other) == now
    again = told(core=(4, 4, 50.0))
    assert reference._timed(again, before) == again, "measured anew"


def test_what_was_computed_beside_other_work_is_no_measure_of_time(lab, finished):
    how = reference.profiles.load("many")
    (first, *others), known = reference.slices(how), reference.plan("many")
    path = first.folder / "provenance.json"
    whole = path.read_text()
    slow = {"seconds": 9e5, "blocks": {"core": {"models": 1.0, "computed": 1.0, "seconds": 9e5}}}
    try:
        path.write_text(json.dumps(json.loads(whole) | slow))
        assert reference.plan("many")["seconds"].max() == 9e5
        path.write_text(json.dumps(json.loads(whole) | slow | {"beside": "another run"}))
        found = reference.plan("many")
        assert not found["measured"][0] and found["measured"][1:].equals(known["measured"][1:])
        guess = known["seconds"][1:][known["measured"][1:]].median()
        assert found["seconds"][0] == guess
        assert reference.cost("many")["seconds"].max() < 9e5
        (block,) = verify.draw([first], how, share=1)
        assert verify.seconds([block], how) == [guess]
    finally:
        path.write_text(whole)
    assert len(others) == 3


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
        assert {"key", "seconds", "base", "time", "torch", "parts", "sha256"} <= set(told)
        for name, expected in told["sha256"].items():
            assert sha256(path.with_name(name)) == expected, path


def test_the_shipped_items_are_those_of_the_shipped_accuracies():
    for folder in sorted((paths.data() / "results").glob("*/*/"))[::2]:
        one = next(it for it in _slices_of(folder.parent.name) if it.base == folder.name)
        items, rows = (reference.read(one, name) for name in ("items", "rows"))
        model = ["cell", "method", "setting", "slack", "ct_tokens", "task"]
        asked = items.groupby(model, dropna=False)["correct"].mean().reset_index()
        both = asked.merge(statistics.select(rows, metric="accuracy"), on=model)
        assert len(both) == len(asked)
        assert np.allclose(both["correct"], both["value"], atol=1e-12), folder


def _slices_of(profile):
    return reference.slices(reference.profiles.load(profile))
