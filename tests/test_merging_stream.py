"""Merges on disk equal merges in memory, whatever the files, threads and interruptions."""

import json
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from langmerge import bench_merge, checkpoints, merging
from langmerge.dtypes import Dtype
from langmerge.errors import LangmergeError
from langmerge.files import sha256
from langmerge.merging import shards, stream, stream_diagnostics
from langmerge.merging.job import Job
from langmerge.merging.methods import METHODS, settings_from

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SHAPES = {
    EMBED: (40, 16),
    "model.layers.0.self_attn.q_proj.weight": (16, 16),
    "model.layers.0.input_layernorm.weight": (16,),
    "model.layers.1.mlp.up_proj.weight": (37, 16),
    "model.layers.1.input_layernorm.weight": (1,),
    "model.norm.weight": (16,),
    HEAD: (40, 16),
}
CONFIG = {"model_type": "llama", "num_hidden_layers": 2, "torch_dtype": "bfloat16"}


def states(dtype=torch.bfloat16, seed=0):
    """Base, CT and SFT; in bf16 their task vectors are full of ties."""
    generator = torch.Generator().manual_seed(seed)
    base = {n: torch.randn(s, generator=generator).to(dtype) for n, s in SHAPES.items()}
    made = {"base": base}
    for name, scale in (("ct", 0.1), ("sft", 0.05)):
        made[name] = {
            n: (t.float() + torch.randn(t.shape, generator=generator) * scale).to(dtype)
            for n, t in base.items()
        }
    return made


def save(folder: Path, state, *, files=1, kind="safetensors", config=CONFIG):
    """A checkpoint of one file, or of several with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = "model" if kind == "safetensors" else "pytorch_model"
    names, weight_map = list(state), {}
    for number in range(files):
        mine = {name: state[name] for name in names[number::files]}
        file = f"{stem}.{kind}"
        if files > 1:
            file = f"{stem}-{number + 1:05d}-of-{files:05d}.{kind}"
        if kind == "bin":
            torch.save(mine, folder / file)
        else:
            save_file(mine, folder / file)
        weight_map |= dict.fromkeys(mine, file)
    if files > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / f"{stem}.{kind}.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def folders(tmp_path):
    """Three checkpoints on disk."""
    for name, state in states().items():
        save(tmp_path / name, state)
    return tmp_path


def job(folders, method="ties", dtype=None, **params):
    """A job with parameters as `merging.merge` takes them."""
    row = METHODS[method]
    settings = settings_from(row.parameters(params))
    base = folders / "base" if row.base else None
    models = (folders / "ct", folders / "sft")
    dtype = Dtype.of(dtype) if dtype else None
    return Job(method, base, models, lambda _: settings, dtype, f"merge_method: {method}\n")


def load(folder: Path) -> dict[str, torch.Tensor]:
    """A checkpoint by the library that others use."""
    return {
        n: t for file in sorted(folder.glob("*.safetensors")) for n, t in load_file(file).items()
    }


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def content(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in sorted(folder.iterdir())}


CASES = [
    ("ties", {"density_ct": 0.5, "density_sft": 0.3}),
    ("ties", {"variant": "reference"}),
    ("ties", {"variant": "peft_count", "w_ct": 0.4}),
    ("ties_sum", {"variant": "peft", "w_ct": 0.4}),
    ("ties_sv", {"slack": 2.0}),
    ("ties_sv", {"slack": math.inf, "variant": "reference"}),
    ("ties_sv", {"slack": 0.5, "slack_kind": "additive"}),
    ("average", {"alpha": 0.3}),
    ("linear", {"w_ct": 0.3, "w_sft": 0.5}),
    ("task_arithmetic", {"w_ct": 0.3, "lambda_": 0.9}),
    ("slerp", {}),
    ("dare_ties", {"seed": 1}),
    ("norm_matched_ct", {}),
    ("widen", {}),
    ("layer_swapping", {}),
]


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("method", "params"), CASES)
def test_a_merge_on_disk_is_the_merge_in_memory(tmp_path, method, params, stored, monkeypatch):
    monkeypatch.setattr(stream, "SLAB", 100)  # several pieces a tensor
    made = states(stored)
    for name, state in made.items():
        save(tmp_path / name, state, files=2)
    report = stream.run(job(tmp_path, method, **params), tmp_path / "out")
    expected = merging.merge(method, *made.values(), dtype=stored, **params)
    same(load(tmp_path / "out"), expected)
    assert report.tensors == len(SHAPES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fused", [True, False])
def test_types_may_differ_and_the_output_has_the_one_asked_for(tmp_path, dtype, fused):
    made = {
        "base": states(torch.float32)["base"],
        "ct": states(torch.bfloat16)["ct"],
        "sft": states(torch.float16)["sft"],
    }
    for name, state in made.items():
        save(tmp_path / name, state)
    stream.run(job(tmp_path, "ties", dtype), tmp_path / "out", fused=fused)
    same(load(tmp_path / "out"), merging.merge("ties", *made.values(), dtype=dtype))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["torch_dtype"] == str(dtype).removeprefix("torch.")


def test_compiled_loops_and_torch_write_the_same_bytes(folders):
    for number, (method, params) in enumerate(CASES):
        outs = [folders / f"out-{number}-{fused}" for fused in (True, False)]
        for out, fused in zip(outs, (True, False), strict=True):
            stream.run(job(folders, method, **params), out, fused=fused)
        assert content(outs[0]) == content(outs[1]), method


@pytest.mark.parametrize("method", ["ties", "slerp", "ties_sv"])
def test_the_output_does_not_depend_on_threads_or_files(tmp_path, method):
    made = states()
    for files in (1, 3):
        for name, state in made.items():
            save(tmp_path / str(files) / name, state, files=files)
    params = {"variant": "reference"} if method == "ties" else {}
    outs = []
    for files, threads in ((1, 1), (1, 4), (3, 2)):
        outs.append(tmp_path / f"out-{files}-{threads}")
        one = job(tmp_path / str(files), method, **params)
        stream.run(one, outs[-1], threads=threads, shard_bytes=2000)
    assert content(outs[0]) == content(outs[1])
    # Other files have other names in the index and another order, and the same tensors.
    same(load(outs[2]), load(outs[0]))


def test_shards_fill_up_and_transformers_finds_everything(folders):
    stream.run(job(folders), folders / "out", shard_bytes=2000)
    index = json.loads((folders / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(math.prod(s) * 2 for s in SHAPES.values())
    for name, file in index["weight_map"].items():
        assert name in load_file(folders / "out" / file)
    assert set(index["weight_map"]) == set(SHAPES)
    assert not list((folders / "out").glob(".*"))


def test_a_merge_of_bin_shards_is_that_of_safetensors(folders):
    made = states()
    for name, state in made.items():
        save(folders / "bin" / name, state, files=2, kind="bin")
    stream.run(job(folders / "bin"), folders / "out")
    same(load(folders / "out"), merging.merge("ties", *made.values(), dtype=torch.bfloat16))


def test_giving_pages_back_loses_nothing_of_a_bin_shard(tmp_path):
    whole = torch.arange(100_000, dtype=torch.float32)
    save(tmp_path / "m", {"t": whole.view(400, 250).T, "u": whole}, kind="bin")
    entries = checkpoints.Checkpoint(tmp_path / "m").entries
    for name, expected in (("t", whole.view(400, 250).T), ("u", whole)):
        entries[name].drop()
        assert torch.equal(entries[name].tensor(), expected)
    assert not entries["t"].mapped


@pytest.mark.parametrize("method", ["ties", "widen"])
def test_tied_embeddings_are_merged_once(tmp_path, method):
    made = states()
    for name, state in made.items():
        # One lacks the head, one stores a copy, one says so in its configuration alone.
        del state[HEAD]
        stored = dict(state) if name == "base" else {**state, HEAD: state[EMBED].clone()}
        config = {**CONFIG, "tie_word_embeddings": True} if name != "base" else CONFIG
        save(tmp_path / name, stored, config=config)
    plan = stream.plan(job(tmp_path, method), tmp_path / "out")
    assert plan.tied
    stream.run(job(tmp_path, method), tmp_path / "out")
    same(load(tmp_path / "out"), merging.merge(method, *made.values(), dtype=torch.bfloat16))


def test_a_head_that_one_model_lacks_is_its_embedding(tmp_path):
    made = states()
    del made["base"][HEAD]
    save(tmp_path / "base", made["base"], config={**CONFIG, "tie_word_embeddings": True})
    for name in ("ct", "sft"):
        save(tmp_path / name, made[name])
    stream.run(job(tmp_path), tmp_path / "out")
    made["base"][HEAD] = made["base"][EMBED].clone()
    same(load(tmp_path / "out"), merging.merge("ties", *made.values(), dtype=torch.bfloat16))
    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is False


def test_a_system_that_writes_at_a_files_one_place_writes_the_same(folders, monkeypatch):
    monkeypatch.delattr(os, "pwrite")
    stream.run(job(folders), folders / "out", threads=2, shard_bytes=4000)
    same(load(folders / "out"), merging.merge("ties", *states().values(), dtype=torch.bfloat16))


def test_buffers_are_left_out_and_whole_numbers_copied(folders):
    made = states()
    for name, state in made.items():
        extra = {"steps": torch.arange(5)}
        if name == "ct":
            extra["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
        save(folders / name, {**state, **extra})
    report = stream.run(job(folders), folders / "out")
    found = load(folders / "out")
    assert torch.equal(found.pop("steps"), torch.arange(5))
    same(found, merging.merge("ties", *made.values(), dtype=torch.bfloat16))
    assert "inv_freq" in report.notes[0]
    save(folders / "sft", {**made["sft"], "steps": torch.arange(5) + 1})
    with pytest.raises(LangmergeError, match=r"steps: .* only floating-point"):
        stream.run(job(folders), folders / "other")


def test_threads_begin_with_the_largest_tensors(folders):
    units = stream.Opened(job(folders)).weights
    pairs, together = [], threading.Barrier(2)

    def record(unit):
        pairs.append(unit.name)
        together.wait()  # so that two threads go on in pairs
        return unit.name

    found = stream.each(units[:6], record, 2)
    assert found == [unit.name for unit in units[:6]]
    sizes = sorted((unit.numel for unit in units[:6]), reverse=True)
    begun = [math.prod(SHAPES[name]) for name in pairs]
    assert [sorted(begun[at : at + 2]) for at in (0, 2, 4)] == [
        sorted(sizes[at : at + 2]) for at in (0, 2, 4)
    ]


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_merging_stream import job
from langmerge.merging import stream
def progress(done, total):
    if done == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
folders = Path(sys.argv[2])
stream.run(job(folders), folders / "killed", progress=progress, shard_bytes=1500)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
@pytest.mark.parametrize("done", [1, 4, len(SHAPES)])
def test_a_killed_merge_is_resumed_to_the_same_bytes(folders, done):
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(folders), str(done)]
    assert subprocess.run(command, env=os.environ).returncode == -signal.SIGKILL
    out = folders / "killed"
    assert not (out / "model.safetensors.index.json").exists()
    with pytest.raises(LangmergeError, match="--resume"):
        stream.run(job(folders), out, shard_bytes=1500)
    report = stream.run(job(folders), out, resume=True, shard_bytes=1500)
    assert report.resumed == done
    stream.run(job(folders), folders / "whole", shard_bytes=1500)
    assert content(out) == content(folders / "whole")


class Stop(Exception):
    """What stops a merge in these tests."""


def begin(folders, out, done=4, resume=False):
    def progress(now, total):
        if now == done:
            raise Stop

    with pytest.raises(Stop):
        stream.run(job(folders), out, progress=progress, shard_bytes=1500, resume=resume)


def test_what_was_damaged_in_between_is_merged_again(folders):
    out = folders / "out"
    begin(folders, out)
    # Bytes at the end of what is there are a tensor's; a torn line is what a kill leaves.
    path = min(out.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with (out / shards.JOURNAL).open("ab") as file:
        file.write(b'{"tensor": "model.norm.wei')
    written = len((out / shards.JOURNAL).read_bytes().split(b"\n")) - 2
    begin(folders, out, done=6, resume=True)
    report = stream.run(job(folders), out, resume=True, shard_bytes=1500)
    assert (written, report.resumed) == (4, 6)
    stream.run(job(folders), folders / "whole", shard_bytes=1500)
    assert content(out) == content(folders / "whole")


def test_two_merges_do_not_write_into_one_folder(folders):
    def progress(done, total):
        if done == 2:
            with pytest.raises(LangmergeError, match="another merge is writing"):
                stream.run(job(folders), folders / "out", resume=True, shard_bytes=1500)

    stream.run(job(folders), folders / "out", progress=progress, shard_bytes=1500)
    same(load(folders / "out"), merging.merge("ties", *states().values(), dtype=torch.bfloat16))


def test_another_merge_is_not_resumed(folders):
    out = folders / "out"
    begin(folders, out)
    with pytest.raises(LangmergeError, match="another recipe or other input"):
        stream.run(job(folders, density_ct=0.1), out, resume=True, shard_bytes=1500)
    os.utime(folders / "ct" / "model.safetensors", ns=(1, 1))
    with pytest.raises(LangmergeError, match="another recipe or other input"):
        stream.run(job(folders), out, resume=True, shard_bytes=1500)
    (out / shards.JOURNAL).write_text("?\n")
    with pytest.raises(LangmergeError, match="not readable"):
        stream.run(job(folders), out, resume=True, shard_bytes=1500)
    for path, message in ((folders / "new", "nothing to resume"), (folders / "ct", "in each")):
        with pytest.raises(LangmergeError, match=message):
            stream.run(job(folders), path, resume=True)


def refused(folders, message, method="ties", out="out", **params):
    """The merge raises that message, and leaves nothing behind."""
    before = list((folders / out).iterdir()) if (folders / out).exists() else None
    with pytest.raises(LangmergeError, match=message) as caught:
        stream.run(job(folders, method, **params), folders / out, shard_bytes=1500)
    after = list((folders / out).iterdir()) if (folders / out).exists() else None
    assert after == before
    return str(caught.value)


@pytest.mark.parametrize("model", ["base", "ct", "sft"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("method", ["ties", "ties_sv", "task_arithmetic", "linear", "widen"])
def test_no_number_is_refused_by_tensor_and_count(folders, model, bad, method):
    state = states()[model]
    state["model.norm.weight"][[3, 5]] = bad
    save(folders / model, state)
    if method == "linear" and model == "base":
        return
    params = {"slack": math.inf, "density_ct": 1.0} if method == "ties_sv" else {}
    said = refused(folders, "model.norm.weight: 2 of 16 entries", method, **params)
    assert model in said


def test_no_number_is_refused_before_a_whole_model_is_trimmed(folders):
    state = states()["ct"]
    state["model.norm.weight"][3] = math.nan
    save(folders / "ct", state)
    refused(folders, "model.norm.weight: 1 of 16", variant="reference")


@pytest.mark.parametrize("fused", [True, False])
def test_a_result_that_is_too_large_for_its_type_is_refused(tmp_path, fused):
    for name, state in states(torch.float32).items():
        state["model.norm.weight"][3] = 65519.0 if name == "base" else 65536.0
        save(tmp_path / name, state)
    with pytest.raises(LangmergeError, match="too large for float16"):
        stream.run(job(tmp_path, "linear", torch.float16), tmp_path / "out", fused=fused)
    stream.run(job(tmp_path, "linear", torch.bfloat16), tmp_path / "other", fused=fused)


def test_missing_and_extra_tensors_are_named(folders):
    state = states()["ct"]
    del state["model.norm.weight"]
    save(folders / "ct", state)
    refused(folders, r"base has a tensor 'model.norm.weight' that ct lacks \(1 missing")
    save(folders / "ct", {**states()["ct"], "model.norms.weight": torch.ones(2)})
    refused(folders, r"ct has a tensor 'model.norms.weight' that base lacks .*did you mean")


def test_a_head_that_is_missing_though_it_is_not_tied_is_named(folders):
    state = states()["ct"]
    del state[HEAD]
    save(folders / "ct", state, config={**CONFIG, "tie_word_embeddings": False})
    refused(folders, "lm_head.weight is missing")


def test_other_shapes_are_named_and_other_vocabularies_explained(folders):
    state = states()["sft"]
    save(folders / "sft", {**state, "model.norm.weight": torch.ones(17)})
    refused(folders, r"base has shape \(16,\), sft \(17,\)")
    save(folders / "sft", {**state, EMBED: torch.ones(44, 16), HEAD: torch.ones(44, 16)})
    refused(folders, r"vocabularies differ, of 40 and 44 tokens.*resize_token_embeddings")


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_truncated_and_damaged_shards_are_named(folders, kind):
    for name, state in states().items():
        save(folders / kind / name, state, files=2, kind=kind)
    victim = sorted((folders / kind / "ct").glob(f"*.{kind}"))[1]
    whole = victim.read_bytes()
    for damaged in (whole[:-7], whole[:100], whole[:3], b"", b"\xff" * 8 + whole[8:]):
        victim.write_bytes(damaged)
        said = refused(folders / kind, "truncated or damaged|more than tensors")
        assert victim.name in said
    victim.unlink()
    refused(folders / kind, f"the shard {victim.name} is not there")


@pytest.mark.parametrize("name", ["../evil.safetensors", "/etc/passwd", "a/../../x.bin", "..\\x"])
def test_an_index_does_not_lead_out_of_its_folder(folders, name):
    save(folders / "ct", states()["ct"], files=2)
    (folders / "ct" / "model.safetensors").unlink()
    index = folders / "ct" / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"][EMBED] = name
    index.write_text(json.dumps(content))
    refused(folders, "outside its folder")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not readable as JSON"),
        ("[]", "weight_map"),
        ('{"weight_map": {"a": 1}}', "file name"),
    ],
)
def test_a_broken_index_is_named(folders, text, message):
    (folders / "ct" / "model.safetensors.index.json").write_text(text)
    refused(folders, message)


def test_an_index_of_another_checkpoint_is_noticed(folders):
    save(folders / "ct", states()["ct"], files=2)
    index = folders / "ct" / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["more"] = content["weight_map"][EMBED]
    index.write_text(json.dumps(content))
    refused(folders, "'more' has to be in")


class Evil:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_wants_to_run_code_does_not(folders, zipped):
    (folders / "ct" / "model.safetensors").unlink()
    path = folders / "ct" / "pytorch_model.bin"
    if zipped:
        torch.save({"a": Evil(folders / "ran")}, path)
    else:
        path.write_bytes(pickle.dumps(Evil(folders / "ran")))
    refused(folders, "more than tensors|truncated or damaged")
    assert not (folders / "ran").exists()


def test_a_folder_without_a_model_is_named(folders):
    shutil.rmtree(folders / "ct")
    refused(folders, "is not a folder")
    (folders / "ct").mkdir()
    refused(folders, "no model in it")


@pytest.mark.parametrize("out", ["ct", "ct/out", "."])
def test_the_output_lies_apart_from_the_inputs(folders, out):
    with pytest.raises(LangmergeError, match="lie in each other"):
        stream.run(job(folders), folders / out)


def test_a_folder_that_is_not_empty_is_left_alone(folders):
    (folders / "out").mkdir()
    (folders / "out" / "thesis.tex").write_text("mine")
    refused(folders, "not empty")
    assert (folders / "out" / "thesis.tex").read_text() == "mine"
    (folders / "file").write_text("")
    with pytest.raises(LangmergeError, match="it is a file"):
        stream.run(job(folders), folders / "file")


def test_a_full_disk_is_noticed_before_the_first_byte(folders, monkeypatch):
    usage = shutil.disk_usage(folders)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    refused(folders, r"takes .* and the disk has 1 kB left")
    assert not (folders / "out").exists()


def test_a_plan_says_what_a_run_does(folders):
    plan = stream.plan(job(folders), folders / "out", shard_bytes=2000)
    assert not (folders / "out").exists()
    stream.run(job(folders), folders / "out", shard_bytes=2000)
    written = sorted((folders / "out").glob("*.safetensors"))
    assert [path.name for path in written] == list(plan.shards)
    assert sum(path.stat().st_size for path in written) == plan.write
    assert plan.parameters == sum(map(math.prod, SHAPES.values()))
    assert plan.fused and plan.passes == 2
    assert not stream.plan(job(folders, "widen"), folders / "new").fused
    assert all(isinstance(text, str) for row in plan.rows() for text in row)


def test_the_output_carries_what_belongs_to_a_model(folders):
    for name, licence in (("base", "llama2"), ("ct", "llama2"), ("sft", "apache-2.0")):
        (folders / name / "README.md").write_text(f"---\nlicense: {licence}\n---\n# A model\n")
    (folders / "base" / "NOTICE").write_text("a notice")
    (folders / "base" / "tokenizer.json").write_text("{}")
    (folders / "sft" / "generation_config.json").write_text("{}")
    (folders / "sft" / "tokenizer_config.json").write_text("{}")
    out = folders / "out"
    report = stream.run(job(folders), out, sha256=True)
    names = {path.name for path in out.iterdir()}
    assert names == {
        "README.md",
        "NOTICE",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    card = (out / "README.md").read_text()
    assert "license_name: apache-2.0 and llama2" in card
    assert "base_model:\n- base\n- ct\n- sft\n" in card
    assert "merge_method: ties\n" in card
    for one in report.inputs:
        assert one.digest in card
        for value in one.sha256.values():
            assert value in card
    assert report.sha256["model.safetensors"] == sha256(out / "model.safetensors")
    assert str(folders) not in card


def test_a_models_hash_does_not_depend_on_its_files(folders):
    one = stream.run(job(folders), folders / "one")
    for name, state in states().items():
        shutil.rmtree(folders / name)
        save(folders / name, state, files=3)
    three = stream.run(job(folders), folders / "three")
    assert [i.digest for i in one.inputs] == [i.digest for i in three.inputs]
    assert one.digest == three.digest
    assert len({one.digest, *(i.digest for i in one.inputs)}) == 4


SLACKS = [0.0, 0.5, 4.0, math.inf]


@pytest.mark.parametrize("kind", ["multiplicative", "additive"])
@pytest.mark.parametrize(
    "params",
    [
        {"density_ct": 0.6, "density_sft": 0.3},
        {"w_ct": 0.0, "w_sft": 0.5},
        {"w_ct": -0.5, "variant": "peft"},
        {"variant": "reference"},
        {"variant": "peft_count", "density_sft": 1.0},
    ],
)
def test_diagnostics_on_disk_are_those_in_memory(folders, kind, params, monkeypatch):
    monkeypatch.setattr(stream, "SLAB", 100)
    params = {**params, "slack_kind": kind}
    args = [folders / name for name in ("base", "ct", "sft")]
    found = stream_diagnostics.diagnose(*args, params, SLACKS, threads=2)
    expected = pd.concat(
        merging.diagnose(*states().values(), **params, slack=slack).assign(slack=slack)
        for slack in SLACKS
    )
    expected = expected[found.columns].sort_values(["slack", "parameter"], ignore_index=True)
    found = found.sort_values(["slack", "parameter"], ignore_index=True)
    exact = [c for c in found if found[c].dtype.kind in "iO"]
    pd.testing.assert_frame_equal(found[exact], expected[exact], check_dtype=False)
    rest = [c for c in found if c not in exact]
    pd.testing.assert_frame_equal(found[rest], expected[rest], rtol=1e-9, atol=1e-12)


def test_diagnostics_complain_as_in_memory(folders):
    args = [folders / name for name in ("base", "ct", "sft")]
    with pytest.raises(LangmergeError, match="range"):
        stream_diagnostics.diagnose(*args, {"slack": 1.0})
    with pytest.raises(LangmergeError, match="0 or more"):
        stream_diagnostics.diagnose(*args, {}, [-1.0])
    state = states()["ct"]
    state["model.norm.weight"][3] = math.nan
    save(folders / "ct", state)
    with pytest.raises(LangmergeError, match="1 of 16 entries"):
        stream_diagnostics.diagnose(*args, {"density_ct": 1.0, "density_sft": 1.0})


def test_a_layout_fills_shards_and_lets_one_tensor_exceed_them():
    tensors = {
        name: (Dtype.F32, (size,)) for name, size in zip("abcd", (10, 10, 100, 1), strict=True)
    }
    layout = shards.lay_out(tensors, 80)
    assert [shard.tensors for shard in layout.shards] == [("a", "b"), ("c",), ("d",)]
    assert np.all([place.start % 4 == 0 for place in layout.places.values()])


def test_ratios_of_a_benchmark_are_of_what_was_measured():
    def runs(*walls, memory=1):
        return [bench_merge.Measured(wall, 0.0, memory) for wall in walls]

    found = {"ties, 1 thread": runs(4, 2, 3, memory=5), "ties, 2 threads": runs(2)}
    assert bench_merge.ratios(found) == {"TIES, one thread / two": 1.5}
    found |= {"mergekit ties, 1 thread": runs(90, memory=40), "read three, write one": runs(1.5)}
    assert bench_merge.ratios(found) == {
        "mergekit's TIES / TIES": 30,
        "reading three and writing one / TIES": 0.5,
        "TIES, one thread / two": 1.5,
        "peak memory, mergekit's TIES / TIES": 8,
    }


def test_a_benchmark_asks_for_room_before_it_begins(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=9 * 10**9))
    with pytest.raises(LangmergeError, match=r"take 10 GB and the disk has 9\.0 GB left"):
        bench_merge.check_room(tmp_path / "new")
