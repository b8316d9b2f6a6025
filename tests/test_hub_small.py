"""`langmerge hub-small` end to end on a tiny base, and the rows that readers contribute."""

import json
import math
import random
import sys

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file
from test_scale import STEP, hub, offline, write_lines  # noqa: F401 (fixtures)

from langmerge import cli, hub_rows, paths
from langmerge.errors import LangmergeError
from langmerge.scale import contributed, evaluation, hub_small, plan

TASK = "belebele_tel_Telu"


@pytest.fixture(scope="module")
def study_file(hub, tmp_path_factory):  # noqa: F811
    """Settings of a study of a few hundred tokens, its items in the schema of Belebele."""
    rng, top = random.Random(0), tmp_path_factory.mktemp("study")
    items = [
        {
            "link": f"https://example.org/{i // 2}",
            "question_number": i % 2 + 1,
            "flores_passage": f"passage {i // 2}",
            "question": "teru sa",
            **{f"mc_answer{n}": rng.choice(["ko", "lima", "vu"]) for n in (1, 2, 3, 4)},
            "correct_answer_num": str(i % 4 + 1),
            "dialect": "tel_Telu",
            "ds": "2023-05-03",
        }
        for i in range(12)
    ]
    raw = {
        "model": str(hub / "base"),
        "budgets": [256, 512],
        "target": {"files": [str(hub / "target.jsonl")], "share": 4},
        "english": {"files": [str(hub / "english.jsonl")]},
        "instructions": [
            {"files": [str(hub / "flan.jsonl")], "prompt": "{inputs}", "answer": " {targets}"}
        ],
        "ct": {**STEP, "min_learning_rate": 1e-2},
        "sft": {**STEP, "tokens": 256},
        "merges": [
            {"method": "ties_sv", "each": {"weight": 0.5}, "parameters": {"slack": math.inf}}
        ],
        "questions": {"tasks": [TASK], "data": {TASK: write_lines(top / "belebele.jsonl", items)}},
    }
    path = top / "study.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


class Cut(Exception):
    """Stands for the plug being pulled."""


@pytest.fixture(scope="module")
def done(study_file, tmp_path_factory):
    """The study, broken off in the middle and run again."""
    study = hub_small.Study(
        hub_small.read(study_file), "tel_Telu", tmp_path_factory.mktemp("hub_small")
    )
    told = []

    def cut(line):
        told.append(line)
        if line.startswith("ties_sv"):
            raise Cut

    with pytest.raises(Cut):
        hub_small.run(study, cut)
    with study.rows.open("a") as file:
        file.write('{"schema": 1, "lang')
    hub_small.run(study, told.append)
    return study, told


def test_every_model_is_asked_once_however_often_it_is_run(done):
    study, told = done
    rows = contributed.check(study.rows)
    asked = [(row.role, row.ct_tokens) for row in rows if row.metric == "acc"]
    parts = [(role, n) for n in (256, 512) for role in ("ct", "ct_then_sft", "merge")]
    assert asked == [("base", 0), ("sft", 0), *parts]
    assert len(asked) == study.models() == len({row.weights for row in rows if row.weights})
    again = []
    hub_small.run(study, again.append)
    assert again == []
    assert len([line for line in told if "steps" in line]) == 4  # CT, SFT, and SFT after each CT


def test_rows_say_what_a_model_answered(done):
    study, _ = done
    for row in hub_rows.read(study.rows):
        if row.metric != "acc":
            continue
        items = json.loads((study.out / "items" / f"{row.weights[:16]}-{TASK}.json").read_text())
        assert np.mean([item["prediction"] == item["answer"] for item in items]) == row.value
        assert [item["answer"] for item in items] == [i % 4 for i in range(12)]
        assert row.n == 12
        assert row.chance == 0.25


def test_what_is_discarded_is_that_of_the_diagnosis(done, hub):  # noqa: F811
    from langmerge.merging.diagnostics import diagnose, summarize

    study, _ = done
    found = [row for row in hub_rows.read(study.rows) if row.metric == "sft_outvoted"]
    assert [row.ct_tokens for row in found] == [256, 512]
    base, ct, sft = (
        {name: one.float() for name, one in load_file(folder / "model.safetensors").items()}
        for folder in (hub / "base", study.ct.final(), study.sft.final())
    )
    table = diagnose(base, ct, sft, density_ct=1.0, density_sft=1.0, slack=math.inf)
    assert found[1].value == pytest.approx(summarize(table)["discarded_sft_share"].iloc[0])


def test_a_plan_adds_up(done):
    study, _ = done
    told = dict(hub_small.plan_lines(study, plan.Means(tokens_per_second=1.0, price=3.0)))
    # 512 tokens of CT, 256 of SFT and 256 after each of two budgets.
    assert told["time of training"] == f"0.4 h, price {1280 / 3600 * 3:.2f}"
    assert told["evaluation"].startswith("8 models")


def test_other_settings_and_languages_are_refused(study_file, done):
    study, _ = done
    wanted = hub_small.read(study_file)
    other = hub_small.Study(wanted.model_copy(update={"seed": 1}), "tel_Telu", study.out)
    with pytest.raises(LangmergeError, match=r"other settings .*\(seed differ"):
        hub_small.run(other)
    smaller = wanted.model_copy(update={"ct": {**wanted.ct, "per_device_batch": 1}})
    hub_small.run(hub_small.Study(smaller, "tel_Telu", study.out))  # no result depends on it
    with pytest.raises(LangmergeError, match="xyz_Latn: lm-eval has no task"):
        hub_small._asked(hub_small.Questions(), "xyz_Latn", {})
    with pytest.raises(LangmergeError, match="tel_Teluu"):
        hub_small.Study(wanted, "tel_Teluu", study.out)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"merges": [{"method": "tis"}]}, "ties"),
        ({"merges": [{"method": "ties_sv", "parameters": {"slak": 1}}]}, "slack"),
        ({"questions": {"tasks": ["belebele_tel_Tel"]}}, "belebele_tel_Telu"),
        ({"questions": {"tasks": [TASK], "data": {TASK: "nowhere.jsonl"}}}, "nowhere"),
        ({"ct": {"learning_rte": 1}}, "did you mean learning_rate"),
        ({"bugets": [1]}, "did you mean budgets"),
    ],
)
def test_wrong_settings_are_told_before_anything_is_trained(study_file, tmp_path, change, told):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(study_file.read_text()) | change))
    with pytest.raises(LangmergeError, match=told):
        hub_small.run(hub_small.Study(hub_small.read(path), "tel_Telu", tmp_path / "out"))
    assert not (tmp_path / "out/ct").exists()


def test_items_without_a_column_are_told(tmp_path):
    path = write_lines(tmp_path / "items.jsonl", [{"question": "a", "correct_answer_num": "1"}])
    with pytest.raises(LangmergeError, match="schema of the task's data set"):
        evaluation.load_tasks(evaluation.Asked((TASK,), {TASK: path}))


def test_tasks_of_ones_own_come_from_their_folder(hub, tmp_path):  # noqa: F811
    task = {
        "task": "langmerge_own",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "nowhere"}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{ask}}",
        "doc_to_choice": ["ko", "sa"],
        "doc_to_target": "right",
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(task))
    data = write_lines(tmp_path / "d.jsonl", ({"ask": f"vu {i}", "right": i % 2} for i in range(6)))
    asked = evaluation.Asked(("langmerge_own",), {"langmerge_own": data}, tmp_path, items=4)
    (score,) = evaluation.evaluate(hub / "base", asked)
    assert (score.n, score.chance) == (4, 0.5)
    assert [item["answer"] for item in score.items] == [0, 1, 0, 1]


def test_the_shipped_settings_are_a_study_of_every_language_with_tasks(tmp_path):
    study = hub_small.Study(hub_small.read(hub_small.SETTINGS), "tel_Telu", tmp_path)
    assert study.ct.data[0].config == "tel_Telu"
    told = dict(hub_small.plan_lines(study, plan.Means(gpu="RTX 4090")))
    assert ", fits (" in told["memory of the GPU"]


# Standard errors


def test_items_about_one_text_count_as_one_draw():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2, 40).astype(float)
    alone = evaluation.clustered_stderr(values, range(40))
    assert alone == pytest.approx(np.sqrt(values.mean() * (1 - values.mean()) / 40))
    twice = evaluation.clustered_stderr(np.repeat(values, 2), np.repeat(np.arange(40), 2))
    assert twice == pytest.approx(alone)  # the second question of a text says nothing new


# Contributed rows


def good(**more):
    row = {
        "schema": 2,
        "language": "tel_Telu",
        "model": "org/base",
        "role": "base",
        "ct_tokens": 0,
        "sft_tokens": 0,
        "seed": 0,
        "task": TASK,
        "metric": "acc",
        "value": 0.3,
        "stderr": 0.015,
        "n": 900,
        "chance": 0.25,
        "weights": "ab",
        "provenance": {},
    }
    return row | more


CT = {"role": "ct", "ct_tokens": 100}
SFT = {"role": "sft", "sft_tokens": 100}
MERGE = {"role": "merge", "method": "ties", "ct_tokens": 100, "sft_tokens": 100}


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"value": 1.2}], "1.2 is no acc"),
        ([{"value": 0.3333}], "299.970 items"),
        ([{"stderr": None}], "has a stderr"),
        ([{"valu": 0.3}], "did you mean value"),
        ([{"schema": 1}], "schema: Input should be 2"),
        ([{**MERGE, "method": ""}], "does not go with the role merge"),
        ([{**MERGE, "ct_tokens": 0}], "ct_tokens: 0"),
        ([{"language": "xxx_Latn"}], "xxx_Latn"),
        ([{}, {}], "2 rows of"),
        ([{}, CT, MERGE], "no row of the sft"),
        ([{}, SFT, MERGE], "no row of the ct at 100 CT tokens"),
        ([{}, {**SFT, "n": 100}], "asked with 100, 900 items"),
        ([], "it has no row"),
    ],
)
def test_rows_that_cannot_be_taken_in_say_why(tmp_path, rows, told):
    path = write_lines(tmp_path / "rows.jsonl", (good(**row) for row in rows))
    with pytest.raises(LangmergeError, match=told):
        contributed.check(tmp_path / "rows.jsonl")
    assert path


def test_rows_that_are_in_order_are_taken_in(tmp_path, monkeypatch, capsys):
    path = tmp_path / "rows.jsonl"
    given = [hub_rows.Row.model_validate(good(**row)) for row in ({}, CT, SFT, MERGE)]
    hub_rows.append(path, given[:2])
    with path.open("a") as file:
        file.write('{"schema"')  # a kill in the middle of a line
    hub_rows.append(path, given[2:])
    assert hub_rows.read(path) == given
    monkeypatch.setattr(sys, "argv", ["langmerge", "contributed", "check", str(path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert "4 rows of tel_Telu are in order" in capsys.readouterr().out
    monkeypatch.setattr(contributed, "folder", lambda: tmp_path)
    titles, lines = contributed.table()
    assert len(lines) == 4
    assert len(lines[0]) == len(titles)


def test_the_page_describes_every_field_once():
    page = (paths.checkout() / "book" / "train_at_scale.md").read_text(encoding="utf-8")
    table = page[page.index("| Key |") :].split("\n\n")[0]
    named = [name for line in table.splitlines() for name in line.split("|")[1].split("`")[1::2]]
    assert sorted(named) == sorted(hub_rows.FIELDS)


def test_rows_survive_ends_of_lines_in_their_texts(tmp_path):
    path = tmp_path / "rows.jsonl"
    given = hub_rows.made(good(ct_data="a\u2028b\x85c"))
    hub_rows.append(path, [given, given])
    assert hub_rows.read(path) == [given, given]
    assert len(hub_rows.frame(path)) == 2


def test_all_contributed_files_are_in_order():
    for path in contributed.folder().glob("*.jsonl"):
        contributed.check(path)
