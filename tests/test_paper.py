"""`langmerge paper` on stand-ins for the released checkpoints, against a hub on this machine."""

import json
import math
import shutil
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import released
from hub_server import TOKEN, Hub, point_at, served
from safetensors.torch import load_file
from typer.testing import CliRunner

from langmerge import (
    cli,
    files,
    hub_fetch,
    hub_rows,
    offline,
    paper,
    paper_eval,
    paper_notebook,
    paper_page,
    paper_plan,
    paper_results,
    paper_run,
    paper_testable,
)
from langmerge import hub_languages as hub_names
from langmerge.checkpoints import Checkpoint
from langmerge.errors import LangmergeError
from langmerge.merging import merge
from langmerge.scale import contributed

TIES = "weight 0.5 density 0.7"
MERGES = (
    "average alpha 0.5",
    f"ties {TIES}",
    f"ties_sv {TIES} slack 1",
    f"ties_sv {TIES} slack inf",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A hub with the paper's Tamil triple, and homes for the cache and for what is computed."""
    top = tmp_path_factory.mktemp("paper")
    hub = Hub()
    released.fill(hub, top)
    with served(hub) as address, pytest.MonkeyPatch.context() as patch:
        point_at(patch, address, str(top / "hf"))
        patch.setenv("LANGMERGE_HOME", str(top / "home"))
        yield SimpleNamespace(hub=hub, top=top, study=released.study(top), address=address)


@pytest.fixture(scope="module")
def done(place):
    """One whole run by the command, with what it printed."""
    return command(place, "--language", "tam_Taml", "--keep")


def command(place, *arguments):
    given = ["paper", "--study", str(place.study), "--device", "cpu", *arguments]
    return CliRunner().invoke(cli.app, given, env={"COLUMNS": "250"})


def chosen(place, **changes):
    return paper.choose("tam_Taml", study=paper.read_study(place.study), **changes)


def rows(place):
    return hub_rows.frame(chosen(place).results)


def fails(result):
    assert result.exit_code != 0, result.output
    message = cli.explain(result.exception)
    assert message, result.exception
    return message


def test_a_plan_says_what_would_be_fetched_and_writes_nothing(place):
    result = command(place, "--language", "tam_Taml", "--plan")
    assert result.exit_code == 0, result.output
    stated = sum(
        len(data)
        for (kind, _), commits in place.hub.commits.items()
        if kind == "model"
        for name, data in list(commits.values())[-1].items()
        if not name.endswith(".py")
    )
    it = chosen(place)
    plan = paper_plan.plan(it, paper.pin(it), paper_run.setting("cpu"))
    assert plan.fetch >= stated
    assert not plan.measured
    assert hub_fetch.gigabytes(plan.fetch) in result.output
    assert "needs intermediate CT checkpoints" in result.output
    assert not place.hub.files_asked("GET")
    assert not it.folder.exists()
    assert not it.results.exists()


def test_the_whole_run_evaluates_parts_and_merges_on_all_tasks(place, done):
    assert done.exit_code == 0, done.output
    found = rows(place)
    assert set(found["task"]) == {"belebele_tam_Taml", "langmerge_sib200_tam_Taml"}
    assert found.groupby("task")["key"].nunique().to_dict() == dict.fromkeys(set(found["task"]), 7)
    assert list(found.columns) == [*hub_rows.FIELDS, "slack"]
    assert set(found[found["task"] == "belebele_tam_Taml"]["n"]) == {8}
    assert set(found[found["task"] == "langmerge_sib200_tam_Taml"]["n"]) == {7}
    assert found["value"].between(0, 1).all()
    chances = found.drop_duplicates("task").set_index("task")["chance"]
    assert chances["belebele_tam_Taml"] == 1 / 4
    assert chances["langmerge_sib200_tam_Taml"] == pytest.approx(1 / 7)
    for title in MERGES:
        assert title in done.output


def test_every_row_says_which_commits_and_weights_it_is_of(place, done):
    commits = {name: list(it)[-1] for (_, name), it in place.hub.commits.items()}
    for row in rows(place).itertuples():
        data = released.BELEBELE if "belebele" in row.task else released.SIB
        assert row.repositories["data"] == f"{data}@{commits[data]}"
        if row.role == "merge":
            wanted = {"base": released.BASE, "ct": released.CT, "sft": released.SFT}
            for role, name in wanted.items():
                assert row.repositories[role] == f"{name}@{commits[name]}"
            assert row.merge_dtype == "bfloat16"
        else:
            stated = json.loads(row.weights)
            assert stated
            for name, digest in stated.items():
                path = (
                    place.top
                    / "hf/hub"
                    / f"models--{row.repositories[row.role].split('@')[0]}".replace("/", "--")
                )
                (found,) = [p for p in path.parent.glob(f"{path.name}/snapshots/*/{name}")]
                assert files.sha256(found) == digest


def test_merges_are_those_of_merging_in_memory(place, done):
    it = chosen(place)
    pinned = paper.pin(it)
    folders = [hub_fetch.fetch(pinned.models[role]) for role in paper.ROLES]
    thetas = [{n: e.tensor() for n, e in Checkpoint(folder).entries.items()} for folder in folders]
    by_title = {model.title: model for model in it.models}
    params = {"density_ct": 0.7, "density_sft": 0.7, "w_ct": 0.5, "w_sft": 0.5}
    for title, method, given in (
        (MERGES[0], "average", {"alpha": 0.5}),
        (MERGES[1], "ties_mean", params),
        (MERGES[2], "ties_sv", {**params, "slack": 1.0}),
        (MERGES[3], "ties_sv", {**params, "slack": math.inf}),
    ):
        setting = paper_run.setting("cpu")
        key = paper.key_of(it, by_title[title], pinned, **setting.key)
        out = it.folder / "merged" / key
        found = {n: t for shard in out.glob("*.safetensors") for n, t in load_file(shard).items()}
        expected = merge(method, *thetas, **given)
        for name, tensor in expected.items():
            assert np.allclose(found[name].float(), tensor.bfloat16().float(), rtol=1e-2), (
                title,
                name,
            )


def test_the_scores_are_those_of_plain_lm_eval(place, done):
    """The base, by the harness and the shipped task names without anything of ours."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    it = chosen(place)
    folder = hub_fetch.fetch(paper.pin(it).models["base"])
    manager = paper_eval._manager(it.tasks)
    found = lm_eval.evaluate(
        lm=HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=8),
        task_dict=manager.load(list(it.tasks)),
        bootstrap_iters=0,
    )
    base = rows(place).query("role == 'base'")
    assert len(base) == 2
    for row in base.itertuples():
        for metric, value in {row.metric: row.value, **row.others}.items():
            assert value == pytest.approx(found["results"][row.task][f"{metric},none"])


def test_a_run_stays_with_the_commits_of_the_first(place, done):
    it = chosen(place)
    first = paper.pin(it).commits()
    place.hub.add("model", released.SFT, {"config.json": b"{}"})
    try:
        assert paper.pin(it).commits() == first
        assert paper.pin(it, repin=True).commits() != first
    finally:
        place.hub.commits["model", released.SFT].popitem()


def test_what_a_killed_run_left_out_is_computed_again_and_nothing_else(place, done, monkeypatch):
    it = chosen(place)
    lines = it.results.read_text().splitlines(keepends=True)
    it.results.write_text("".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2])
    assert len(rows(place)) == len(lines) - 1
    asked = len(place.hub.files_asked("GET"))
    monkeypatch.setattr(paper_notebook, "write", lambda *_: [])
    result = command(place, "--language", "tam_Taml", "--keep")
    assert result.exit_code == 0, result.output
    assert result.output.count("Evaluating") == 1
    assert "Merging" not in result.output
    assert len(place.hub.files_asked("GET")) == asked
    both = [
        [json.loads(line) for line in text] for text in (lines, it.results.read_text().splitlines())
    ]
    for row in both[0] + both[1]:
        del row["seconds"], row["provenance"]
    assert both[0] == both[1]


def test_the_run_ends_with_its_notebook_executed(place, done):
    it = chosen(place)
    made = nbformat.read(it.folder / "report.ipynb", as_version=4)
    outputs = [one for cell in made.cells for one in cell.get("outputs", [])]
    assert sum("image/png" in one.get("data", {}) for one in outputs) == 3
    assert not [one for one in outputs if one.output_type == "error"]
    page = (it.folder / "report.html").read_text()
    assert page.count('<img alt="') == 3
    assert offline.external_references(it.folder) == []
    found = rows(place)
    for row in found[found["role"] != "merge"].itertuples():
        assert f"<td>{row.value:.3f} ± {row.stderr:.3f}</td>" in page
    assert "its SFT, once" in page and "slack makes the TIES merge better" in page
    for name in ("report.ipynb", "report.html"):
        assert str(it.folder / name) in done.output.replace("\n", "")


def test_differences_are_those_of_the_rows(place, done):
    it = chosen(place)
    run = paper_results.load(it)
    pinned, setting = paper.pin(it), paper_run.setting("cpu")
    keys = {m.title: paper.key_of(it, m, pinned, **setting.key) for m in it.models}
    assert run.models == list(keys)
    value = rows(place).set_index(["key", "task"])["value"]
    found = paper_page.differences(run)
    assert len(found) == len(MERGES) * 3 * 2
    for merged, part, task, effect in found:
        expected = value[keys[merged], task] - value[keys[part], task]
        assert effect.estimate == pytest.approx(expected)


def test_what_is_discarded_is_kept_beside_the_rows(place, done):
    found = paper_results.load(chosen(place)).diagnosis()
    assert sorted(set(found["slack"])) == [0.0, 1.0, math.inf]
    assert (found[found["slack"] == math.inf]["outvoted_sft"] == 0).all()
    assert (found[found["slack"] == 0]["outvoted_sft"] > 0).any()


def test_a_plan_after_a_run_uses_what_was_measured(place, done):
    it = chosen(place)
    plan = paper_plan.plan(it, paper.pin(it), paper_run.setting("cpu"))
    each = rows(place).drop_duplicates(["key", "task"]).groupby("task")["seconds"].median().sum()
    assert plan.measured
    assert plan.evaluation_seconds == pytest.approx(each * 7)


def test_offline_the_finished_run_is_shown_and_a_new_one_is_refused(place, done, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(place.hub.requests)
    it = chosen(place)
    assert paper.pin(it).commits() == json.loads((it.folder / "pins.json").read_text())
    assert len(place.hub.requests) == asked
    other = paper.choose("tel_Telu", study=paper.read_study(place.study))
    with pytest.raises(LangmergeError, match="HF_HUB_OFFLINE"):
        paper.pin(other)


# --- what is refused


def test_a_language_without_a_checkpoint_is_refused_with_what_there_is(place):
    told = fails(command(place, "--language", "ory_Orya"))
    assert "no CT checkpoint of Odia" in told
    assert "tam_Taml" in told
    assert "FineWeb-2" in told


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--slack", "-1"], "slack"),
        (["--dtype", "float3"], "did you mean float32"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--triple", "papr"], "did you mean paper"),
    ],
)
def test_settings_that_make_no_sense_are_named(place, arguments, says):
    assert says in fails(command(place, "--language", "tam_Taml", *arguments))


def test_a_gated_base_is_asked_for_before_anything_is_fetched(place, monkeypatch, tmp_path):
    monkeypatch.setenv("LANGMERGE_HOME", str(tmp_path / "home"))
    point_at(monkeypatch, place.address, str(tmp_path / "hf"))
    place.hub.gate(released.BASE, TOKEN)
    try:
        before = len(place.hub.files_asked("GET"))
        told = fails(command(place, "--language", "tam_Taml"))
        assert released.BASE in told
        assert "hf auth login" in told
        assert len(place.hub.files_asked("GET")) == before
        assert not chosen(place).folder.exists()
        monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
        assert "accept its terms" in fails(command(place, "--language", "tam_Taml"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        it = chosen(place)
        hub_fetch.check_access(paper.pin(it).all)
        assert hub_fetch.fetch(paper.pin(it).models["base"]).is_dir()
    finally:
        place.hub.gated.clear()


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(place, monkeypatch):
    it = chosen(place)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10, total=10, used=0))
    with pytest.raises(LangmergeError, match="Nothing was fetched"):
        paper_run.check_space(it, paper.pin(it))


def test_experts_with_other_tokenizers_are_not_merged(place):
    it = chosen(place)
    paper_run.check_tokenizers(paper.pin(it))
    commits = place.hub.commits["model", released.CT]
    before = dict(commits)
    place.hub.add(
        "model", released.CT, {**released.tokenizer_files(270), "model.safetensors": b"w"}
    )
    asked = len(place.hub.files_asked("GET"))
    try:
        with pytest.raises(LangmergeError, match=rf"{released.CT} has another.*\d+ and \d+"):
            paper_run.check_tokenizers(paper.pin(it, repin=True))
        assert place.hub.files_asked("GET")[asked:].count("model.safetensors") == 0
    finally:
        commits.clear()
        commits.update(before)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (released.belebele(2).replace(b"mc_answer3", b"mc_answer5"), "no column 'mc_answer3'"),
        (b"no json\n", "not readable"),
        (b"", "items|readable"),
    ],
)
def test_data_that_lacks_what_a_task_needs_is_named(place, data, says):
    kept = dict(place.hub.commits["dataset", released.BELEBELE])
    text = released.configs("data/{code}.jsonl", "tam_Taml")
    place.hub.add(
        "dataset",
        released.BELEBELE,
        {"README.md": text, "data/tam_Taml.jsonl": data, "v": data[:9]},
    )
    commit = place.hub.commits["dataset", released.BELEBELE]
    try:
        one = hub_fetch.resolve(released.BELEBELE, kind="dataset")
        with pytest.raises(LangmergeError, match=says):
            paper_eval.Judge(["belebele_tam_Taml"], {released.BELEBELE: one})
    finally:
        commit.clear()
        commit.update(kept)


def test_a_split_or_a_configuration_that_is_not_there_is_named(place):
    one = hub_fetch.resolve(released.BELEBELE, kind="dataset")
    with pytest.raises(LangmergeError, match="ben_Beng"):
        paper_eval.Judge(["belebele_ben_Beng"], {released.BELEBELE: one})
    its, _ = hub_names.task_set("belebele_tam_Taml")
    with pytest.raises(LangmergeError, match="no split 'test'"):
        paper_eval._check("belebele_tam_Taml", its, {"train": []})


def test_milic_eval_is_found_in_its_files_and_scored_by_letters(place, done):
    it = hub_names.load("mvf_Mong")
    one = hub_fetch.resolve(released.MILIC, kind="dataset")
    judge = paper_eval.Judge(it.hub.tasks, {released.MILIC: one})
    folder = hub_fetch.fetch(paper.pin(chosen(place)).models["base"])
    found = list(judge.each(folder, it.hub.tasks, limit=3))
    assert [one.task for one in found] == list(it.hub.tasks)
    for one in found:
        assert (one.metric, len(one.items), one.chance) == ("acc", 3, 0.25)
        assert one.tokens > 0


def test_sft_is_priced_by_its_operations():
    study = paper.read_study()
    gpu = study.assumed.gpus[0]
    name, hours, dollars = paper_testable.sft_price(study.triples["paper"], study)[0]
    operations = 6 * 6_738_415_616 * 884 * 250_000
    assert name == gpu.name
    assert hours == pytest.approx(operations / (0.4 * gpu.peak_tflops * 1e12) / 3600)
    assert dollars == pytest.approx(hours * gpu.usd_per_hour)


def test_the_laptops_triple_is_for_its_languages():
    it = paper.choose("ind_Latn")
    assert it.triple_name == "laptop"
    assert it.references["ct"] == "sail/Sailor-0.5B"
    with pytest.raises(LangmergeError, match="ind_Latn, lao_Laoo, tha_Thai"):
        paper.choose("tam_Taml", "laptop")


def test_the_rows_of_a_run_can_be_contributed(place, done):
    it = chosen(place)
    found = contributed.check(it.results)
    assert len(found) == len(it.models) * len(it.tasks)
    merged = [row for row in found if row.role == "merge"]
    assert {row.slack for row in merged if row.method == "ties_sv"} == {1.0, math.inf}
    assert {row.ct_tokens for row in merged} == {None}
    assert {row.ct_data for row in found if row.role == "ct"} == {"CulturaX"}
    assert {(row.ct_tokens, row.sft_tokens) for row in found if row.role == "base"} == {(0, 0)}


def test_a_row_that_is_none_of_the_schema_is_not_written_nor_read(tmp_path):
    with pytest.raises(LangmergeError, match="value: Field required"):
        hub_rows.made({"schema": hub_rows.VERSION, "language": "tam_Taml"})
    path = tmp_path / "rows.jsonl"
    path.write_text('{"schema": 1}\n')
    with pytest.raises(LangmergeError, match=r"line 1.*no row of schema 2"):
        hub_rows.frame(path)
    path.write_text('{"schema": 1')
    assert hub_rows.frame(path).empty, "half a line of a run that was killed"
