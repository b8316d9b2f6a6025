"""`langmerge merge` and `langmerge diagnose` on tiny checkpoints, end to end."""

import dataclasses
import json
import math
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_merge_pages import ADDING, blocks
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from langmerge import cli, merging
from langmerge.merging import METHODS, recipe, stream
from langmerge.merging.methods import merge_models
from langmerge.merging.tensors import Tensors

CONFIG = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 2,
    "vocab_size": 40,
    "max_position_embeddings": 32,
}
NAMES = ("base", "ct", "sft")


def make(folder, seed, **more):
    """A checkpoint as transformers writes it; models other than the base are near to it."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**CONFIG, **more}))
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * seed * torch.randn_like(weight))
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="6KB")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of base, CT and SFT, in several shards each."""
    top = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(NAMES):
        make(top / name, seed)
    return top


def weights(folder):
    return {
        name: tensor
        for shard in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(shard).items()
    }


def written(top, tmp_path, **raw):
    """A recipe's file for these models."""
    raw = {"merge_method": "ties", "base_model": "base", "out_dtype": "float32", **raw}
    raw.setdefault("models", [{"model": "ct"}, {"model": "sft"}])
    raw["models"] = [{**one, "model": str(top / one["model"])} for one in raw["models"]]
    if raw["base_model"]:
        raw["base_model"] = str(top / raw["base_model"])
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in raw.items() if value}))
    return file


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(one) for one in arguments], env={"COLUMNS": "200"})


def expected(file):
    """The merge in memory, by the torch functions."""
    made = recipe.read(file)
    job = made.job()
    base = weights(job.base) if job.base else None
    thetas = [weights(folder) for folder in job.models]
    tensors = {
        name: Tensors(
            name, base[name].float() if base else None, tuple(it[name].float() for it in thetas)
        )
        for name in thetas[0]
    }
    return merge_models(made.row, tensors, job.settings)


GRADIENT = {"weight": [{"filter": "mlp", "value": [0.2, 0.9]}, {"value": 0.5}], "density": 0.6}
PARAMETERS = {
    "ties": GRADIENT,
    "ties_sv": {**GRADIENT, "slack": 0.5, "slack_kind": "additive"},
    "dare_ties": {**GRADIENT, "seed": 3},
    "della": {**GRADIENT, "epsilon": 0.2},
    "della_linear": GRADIENT,
    "task_arithmetic": {"weight": 0.4, "lambda": [1, 0.5]},
    "linear": {"weight": [0.5, 2]},
    "slerp": {"t": [0.1, 0.7]},
    "shuffled_ct": {"density": 0.5},
}


@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_on_disk_gives_what_merging_in_memory_gives(models, tmp_path, method):
    parameters = PARAMETERS.get(method, {name: 0.5 for name in METHODS[method].required})
    base = {"slerp": "ct", "linear": None, "average": None, "layer_swapping": None}
    file = written(
        models,
        tmp_path,
        merge_method=method,
        parameters=parameters,
        base_model=base.get(method, "base"),
    )
    done = run("merge", file, tmp_path / "out")
    assert done.exit_code == 0, done.output
    found, wanted = weights(tmp_path / "out"), expected(file)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-7, msg=name)
    assert LlamaForCausalLM.from_pretrained(tmp_path / "out").config.num_hidden_layers == 2


def test_the_variant_of_the_authors_is_trimmed_over_the_whole_model(models, tmp_path):
    parameters = {"weight": 1, "density": 0.3, "variant": "reference"}
    file = written(models, tmp_path, parameters=parameters)
    assert run("merge", file, tmp_path / "out").exit_code == 0
    for name, tensor in expected(file).items():
        found = weights(tmp_path / "out")[name]
        torch.testing.assert_close(found, tensor, rtol=1e-6, atol=1e-7, msg=name)


def test_the_method_of_the_page_runs_on_disk(models, tmp_path):
    function, row = blocks(ADDING, "python")[:2]
    exec(compile(function + row, str(ADDING), "exec"), {})
    try:
        file = written(models, tmp_path, merge_method="unanimous", parameters={"weight": [2, 1]})
        assert run("merge", file, tmp_path / "out").exit_code == 0
        found = weights(tmp_path / "out")
        for name, tensor in expected(file).items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-7, msg=name)
    finally:
        del METHODS["unanimous"]


def test_a_plan_writes_nothing(models, tmp_path):
    file = written(models, tmp_path, parameters={"weight": 1})
    done = run("merge", file, tmp_path / "out", "--plan")
    assert done.exit_code == 0, done.output
    assert str(models / "ct") in done.output
    assert not (tmp_path / "out").exists()


def test_the_output_says_where_it_is_from(models, tmp_path):
    file = written(models, tmp_path, parameters={"weight": 1})
    assert run("merge", file, tmp_path / "out", "--threads", "2").exit_code == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "merge_method: ties" in card
    assert (tmp_path / "out" / "config.json").is_file()


class Killed(BaseException):
    """What stands for a power cut."""


@pytest.mark.parametrize("threads", [1, 2])
def test_a_merge_that_was_killed_goes_on_and_ends_with_the_same_bytes(
    models, tmp_path, monkeypatch, threads
):
    file = written(models, tmp_path, merge_method="dare_ties", parameters=GRADIENT)
    assert run("merge", file, tmp_path / "whole").exit_code == 0
    row, calls = METHODS["dare_ties"], []

    def killed(tensors, settings):
        calls.append(tensors.name)
        if len(calls) > 30:  # the check before the merge calls it for all 21 tensors
            raise Killed
        return row.tensor(tensors, settings)

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setitem(METHODS, "dare_ties", dataclasses.replace(row, tensor=killed))
        with pytest.raises(Killed):
            recipe_job = recipe.read(file).job()
            stream.run(recipe_job, out, threads=threads)
    assert not (out / "config.json").exists()
    assert not list(out.glob("*.safetensors"))
    assert "--resume" in fails("merge", file, out)
    done = run("merge", file, out, "--resume", "--threads", threads)
    assert done.exit_code == 0, done.output
    assert "by an earlier run" in done.output
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == sorted(path.name for path in out.iterdir())
    for name in names:
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_diagnose_prints_and_writes_the_numbers_of_the_library(models, tmp_path):
    places = [models / name for name in NAMES]
    arguments = ["--keep", 0.5, "--slack", 0, "--slack", "inf", "--out", tmp_path / "figures"]
    done = run("diagnose", *places, *arguments)
    assert done.exit_code == 0, done.output
    assert "SFT out-voted" in done.output
    assert (tmp_path / "figures" / "diagnosis.png").is_file()
    told = json.loads((tmp_path / "figures" / "diagnosis.json").read_text())
    assert [row["slack"] for row in told["model"]] == [0, "inf"]
    for slack in (0.0, math.inf):
        trio = [weights(place) for place in places]
        frame = merging.diagnose(*trio, density_ct=0.5, density_sft=0.5, slack=slack)
        rows = [row for row in told["tensors"] if row["slack"] == ("inf" if slack else 0)]
        by_name = {row["parameter"]: row for row in rows}
        assert by_name.keys() == set(frame["parameter"])
        for row in frame.to_dict(orient="records"):
            found = by_name[row["parameter"]]
            for column in ("n", "conflicts", "both", "outvoted_sft", "kept_ct", "trimmed_sft"):
                assert found[column] == row[column], (column, row["parameter"])
            for column in ("norm_ct", "cosine", "l2_outvoted_sft", "discarded_sft_share_l2"):
                if not math.isnan(row[column]):
                    assert found[column] == pytest.approx(row[column], rel=1e-5, abs=1e-9)


# --- wrong input: one message, exit code 2, nothing under the final name


def fails(*arguments):
    """The message of a command that has to fail."""
    done = run(*arguments)
    assert done.exit_code != 0
    assert isinstance(done.exception, Exception | SystemExit)
    return cli.explain(done.exception) or done.output


def test_what_is_not_there_is_named(models, tmp_path):
    out = tmp_path / "out"
    assert "there is no such file" in fails("merge", tmp_path / "no.yaml", out)
    assert "it is a folder" in fails("merge", models, out)
    assert "did you mean laptop" in fails("merge", "labtop", out)
    file = written(models, tmp_path, models=[{"model": "cct"}], parameters={"weight": 1})
    assert "cct" in fails("merge", file, out)
    assert "there is no such folder" in fails("diagnose", tmp_path / "a", models / "ct", "./b")
    assert not out.exists()


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({}, "weight is not given for"),
        ({"parameters": {"weight": 1, "density": 1.5}}, "density 1.5"),
        ({"parameters": {"weight": math.nan}}, "nan"),
        ({"parameters": {"weight": 1, "variant": "referense"}}, "did you mean reference"),
        ({"merge_method": "della", "parameters": {"weight": 1, "density": 0.9}}, "epsilon"),
        (
            {
                "merge_method": "ties",
                "parameters": {"weight": 1, "variant": "reference", "density": [0.1, 0.9]},
            },
            "one number a model",
        ),
    ],
)
def test_settings_that_make_no_sense_are_named_before_anything_is_written(
    models, tmp_path, raw, says
):
    file = written(models, tmp_path, **raw)
    assert says in fails("merge", file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_models_that_do_not_fit_are_named(models, tmp_path):
    make(tmp_path / "wide", 1, vocab_size=41)
    raw = {"models": [{"model": "ct"}, {"model": tmp_path / "wide"}], "parameters": {"weight": 1}}
    file = written(models, tmp_path, **raw)
    told = fails("merge", file, tmp_path / "out")
    assert "(40, 16)" in told
    assert "(41, 16)" in told
    assert "(41, 16)" in fails("diagnose", models / "base", models / "ct", tmp_path / "wide")
    assert not (tmp_path / "out").exists()


def test_an_output_that_holds_something_is_left_alone(models, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    file = written(models, tmp_path, parameters={"weight": 1})
    assert str(tmp_path / "out") in fails("merge", file, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--keep", "0"], "density 0"), (["--slack", "-1"], "slack -1")],
)
def test_diagnose_names_wrong_settings(models, arguments, says):
    assert says in fails("diagnose", *(models / name for name in NAMES), *arguments)


FRESH = """
import sys
from pathlib import Path
from langmerge.cli import app
for recipe in sys.argv[1:]:
    for extra in (["--plan"], ["--threads", "2"]):
        app(["merge", recipe, str(Path(recipe).with_name("out")), *extra], standalone_mode=False)
    print("loaded:", *sorted({"torch", "pandas", "transformers"} & set(sys.modules)))
"""


def test_a_merge_by_compiled_loops_does_not_wait_for_torch(models, tmp_path):
    slack = {"variant": "reference", "slack": 0.5, "slack_kind": "additive"}
    recipes = {
        "ties_sv": {"parameters": slack},
        "average": {"base_model": None},
        "task_arithmetic": {"parameters": {"weight": 0.5}},
        "slerp": {"parameters": {"t": 0.5}, "base_model": "ct"},  # no compiled loop: the control
    }
    files = []
    for method, raw in recipes.items():
        (tmp_path / method).mkdir()
        files.append(written(models, tmp_path / method, merge_method=method, **raw))
    command = [sys.executable, "-c", FRESH, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("loaded:")]
    assert loaded == [[], [], [], ["torch"]]
