"""Training of hub models: rows, schedule, resume, two processes, and what goes wrong."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    TrainerCallback,
    get_cosine_with_min_lr_schedule_with_warmup,
)

from langmerge import cli, paths
from langmerge.cli import options
from langmerge.errors import LangmergeError
from langmerge.scale import cost, measure, plan, rows, settings, sources, training

WORDS = ["ko", "lima", "sa", "teru", "bani", "dor", "mek", "illa", "vu", "parn"]
STEP = {"sequence": 32, "tokens_per_step": 128, "per_device_batch": 2, "learning_rate": 1e-2}


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    """A tiny base as transformers writes it, and data in the schemas of the hub's data sets."""
    top, rng = tmp_path_factory.mktemp("hub"), random.Random(0)
    texts = [" ".join(rng.choice(WORDS) for _ in range(rng.randint(5, 30))) for _ in range(300)]
    write_lines(top / "target.jsonl", ({"id": i, "text": text} for i, text in enumerate(texts)))
    write_lines(top / "english.jsonl", ({"text": f"the {text}"} for text in reversed(texts)))
    write_lines(
        top / "flan.jsonl",
        ({"inputs": t[: 4 + i % 9], "targets": t[20:26], "task": "x"} for i, t in enumerate(texts)),
    )
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=290, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=290,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(top / "base")
    tokenizer.save_pretrained(top / "base")
    return top


@pytest.fixture(scope="session", autouse=True)
def offline():
    """No test may look for anything on the hub."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


def ct(hub, out, **more):
    raw = {
        "model": str(hub / "base"),
        "out": str(out),
        "tokens": 768,
        "budgets": [256],
        "save_steps": 3,
        "data": [
            {"files": [str(hub / "target.jsonl")], "share": 4},
            {"files": [str(hub / "english.jsonl")]},
        ],
        **STEP,
    }
    return settings.parse("ct", raw | more)


def sft(hub, out, **more):
    data = [{"files": [str(hub / "flan.jsonl")], "prompt": "{inputs}", "answer": " {targets}"}]
    raw = {"model": str(hub / "base"), "out": str(out), "tokens": 256, "data": data, **STEP}
    return settings.parse("sft", raw | more)


class Stop(TrainerCallback):
    """Ends a run after a step as running out of memory does."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.fixture(scope="session")
def whole(hub, tmp_path_factory):
    """A run in one process without a break: its settings and the weights at its end."""
    run = ct(hub, tmp_path_factory.mktemp("whole") / "ct")
    folders = training.continual_pretrain(run)
    assert list(folders) == [256, 768]
    return run, weights(run.final())


def weights(folder):
    return load_file(folder / "model.safetensors")


def losses(run):
    return [line["loss"] for line in training.read_log(run.out / "log.jsonl")]


# Settings


def test_defaults_are_the_papers():
    one = settings.parse(
        "ct", {"model": "m", "out": "o", "tokens": 10**9, "data": [{"files": ["f"]}]}
    )
    assert (one.tokens_per_step, one.learning_rate, one.min_learning_rate) == (2**20, 3e-5, 1e-6)
    assert one.decay_steps == 10_240
    data = [{"files": ["f"], "prompt": "{a}", "answer": "{b}"}]
    two = settings.parse("sft", {"model": "m", "out": "o", "data": data})
    assert (two.tokens_per_step, two.learning_rate, two.min_learning_rate) == (2**18, 3e-5, 1e-5)
    assert (two.steps, two.decay_steps) == (884, 2_048)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"learning_rat": 1}, "no key 'learning_rat': did you mean learning_rate"),
        ({"data": [{"files": ["f"], "colum": "x"}]}, "did you mean column"),
        ({"data": [{"files": ["f"], "dataset": "x"}]}, "either `dataset:`"),
        ({"tokens_per_step": 1000}, "no multiple of the sequence"),
        ({"tokens": 100}, "less than one step"),
        ({"budgets": [10**6]}, "above tokens"),
        ({"min_learning_rate": 1.0}, "min_learning_rate is above"),
    ],
)
def test_wrong_settings_name_the_key(hub, tmp_path, change, told):
    with pytest.raises(LangmergeError, match=re.escape(told)):
        ct(hub, tmp_path, **change)


def test_shipped_settings_are_valid():
    for path in (paths.data() / "training").glob("*.yaml"):
        kind = path.stem.partition("_")[0]
        if kind in settings.KINDS:
            run = settings.read(kind, path.stem)
            assert run.steps <= run.decay_steps or run.min_learning_rate == run.learning_rate


def test_schedule_is_transformers_cosine_and_stays_at_its_minimum(hub, tmp_path):
    run = ct(hub, tmp_path, decay_steps=20, warmup_steps=5, min_learning_rate=1e-3)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1e-2)
    theirs = get_cosine_with_min_lr_schedule_with_warmup(optimizer, 5, 20, min_lr=1e-3)
    for place in range(20):
        if place >= 5:  # their warm-up begins at a rate of 0, ours does not waste that step
            assert run.learning_rate_at(place) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    assert run.learning_rate_at(0) == pytest.approx(2e-3)
    assert run.learning_rate_at(20) == run.learning_rate_at(500) == 1e-3


# Rows


def test_rows_are_the_documents_one_after_the_other(hub, tmp_path):
    run = ct(hub, tmp_path, shuffle_buffer=0, data=[{"files": [str(hub / "target.jsonl")]}])
    tokenizer = AutoTokenizer.from_pretrained(hub / "base")
    texts = [json.loads(line)["text"] for line in (hub / "target.jsonl").open()]
    flat = list(chain.from_iterable([*tokenizer(text)["input_ids"], 0] for text in texts))
    found = rows.prepare(run, tokenizer)
    assert len(found) == run.steps * run.rows_per_step
    ids = torch.cat([row["input_ids"] for row in found])
    assert ids.tolist() == flat[: len(ids)]
    assert all(torch.equal(row["input_ids"], row["labels"]) for row in found)


def test_sources_are_mixed_by_their_share_of_tokens(hub, tmp_path):
    run = ct(hub, tmp_path, tokens=6400)
    rows.prepare(run, AutoTokenizer.from_pretrained(hub / "base"))
    target, english = json.loads((tmp_path / "data/manifest.json").read_text())["tokens"].values()
    longest = 100  # a document's tokens, by which a share may be off
    assert abs(target - 0.8 * (target + english)) < longest


def test_packing_that_was_killed_goes_on_to_the_same_bytes(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "_SAVE_EVERY", 500)
    tokenizer = AutoTokenizer.from_pretrained(hub / "base")
    for make, name in ((ct, "ct"), (sft, "sft")):
        one, two = (make(hub, tmp_path / f"{name}{i}", tokens=6400, repeat=True) for i in (1, 2))
        rows.prepare(one, tokenizer)

        def kill(done, of):
            if done > of // 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            rows.prepare(two, tokenizer, kill)
        with (two.out / "data/rows.bin").open("ab") as file:
            file.write(b"half a block")
        begun = []
        rows.prepare(two, tokenizer, lambda done, of, begun=begun: begun.append(done))
        assert begun[0] > one.steps * one.rows_per_step // 2
        for file in ("rows.bin", "manifest.json"):
            assert (one.out / "data" / file).read_bytes() == (two.out / "data" / file).read_bytes()


def test_examples_in_one_row_do_not_see_each_other(hub, tmp_path):
    run = sft(hub, tmp_path)
    data = training.prepare(run)
    model = LlamaForCausalLM.from_pretrained(hub / "base")
    model.config.use_cache = False
    row = data[0]
    starts = [*torch.nonzero(row["position_ids"] == 0)[:, 0].tolist(), len(row["labels"])]
    assert len(starts) > 3
    with torch.no_grad():
        together = model(
            input_ids=row["input_ids"][None], position_ids=row["position_ids"][None]
        ).logits[0]
        for start, end in pairwise(starts):
            alone = model(input_ids=row["input_ids"][None, start:end]).logits[0]
            torch.testing.assert_close(together[start:end], alone, atol=1e-5, rtol=1e-4)


def test_only_answers_carry_loss(hub, tmp_path):
    run = sft(hub, tmp_path, shuffle_buffer=0)
    tokenizer = AutoTokenizer.from_pretrained(hub / "base")
    labels = torch.cat([row["labels"] for row in rows.prepare(run, tokenizer)])
    answers = tokenizer.decode(labels[labels >= 0]).split("<|end|>")
    texts = [json.loads(line)["targets"] for line in (hub / "flan.jsonl").open()]
    assert len(answers) > 5
    assert answers[:-1] == [f" {text}" for text in texts[: len(answers) - 1]]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"data": [{"files": ["nothing/*.jsonl"]}]}, "matches nothing"),
        ({"data": [{"files": ["{hub}/target.jsonl"], "column": "texts"}]}, "did you mean text"),
        ({"data": [{"files": ["{hub}/broken.jsonl"]}]}, "cannot be read"),
        ({"data": [{"files": ["{hub}/target.jsonl"]}], "tokens": 10**6}, "are used up at"),
        ({"data": [{"dataset": "{hub}/schema", "split": "dev"}]}, "dev"),
        ({"data": [{"dataset": "{hub}/schema", "config": "tel"}]}, "tel"),
        ({"data": [{"dataset": "org/none"}]}, "org/none"),
    ],
)
def test_data_that_are_not_there_are_named(hub, tmp_path, change, told):
    (hub / "broken.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (hub / "schema").mkdir(exist_ok=True)
    shutil.copy(hub / "target.jsonl", hub / "schema/train.jsonl")
    change = json.loads(json.dumps(change).replace("{hub}", str(hub)))
    run = ct(hub, tmp_path, **change)
    with pytest.raises(LangmergeError, match=told):
        training.prepare(run)


def test_a_hub_data_set_is_streamed_by_its_configuration(hub, tmp_path):
    """FineWeb-2's layout: parquet files by configuration and split, named in the card."""
    import pandas as pd

    card = "---\nconfigs:\n- config_name: tel_Telu\n  data_files:\n"
    card += "  - split: train\n    path: data/tel_Telu/train/*\n---\n"
    folder = tmp_path / "fineweb-2"
    (folder / "data/tel_Telu/train").mkdir(parents=True)
    (folder / "README.md").write_text(card)
    frame = pd.DataFrame({"text": ["sa ko", "vu"], "id": ["a", "b"], "language_score": [1.0, 0.9]})
    frame.to_parquet(folder / "data/tel_Telu/train/000_00000.parquet")
    source = settings.Text(dataset=str(folder), config="tel_Telu")
    found = list(sources.examples(source, seed=0, shuffle_buffer=0, repeat=False))
    assert [one["text"] for one in found] == ["sa ko", "vu"]


# Runs


def test_a_run_that_ran_out_of_memory_goes_on_exactly(hub, whole, tmp_path):
    run = ct(hub, tmp_path / "ct")
    with pytest.raises(LangmergeError, match=r"per_device_batch \(now 2"):
        training.continual_pretrain(run, callbacks=[Stop(5)])
    assert (run.out / "tokens-256").is_dir()
    assert not run.final().exists()
    broken = run.out / "state/checkpoint-5"  # as a kill leaves one: without its mark
    broken.mkdir()
    begun = []
    training.continual_pretrain(run, progress=lambda step, of: begun.append(step))
    assert begun == [4, 5, 6]
    assert losses(run) == losses(whole[0])
    assert all(torch.equal(one, whole[1][name]) for name, one in weights(run.final()).items())


def test_accumulation_does_not_change_a_run(hub, whole, tmp_path):
    run = ct(hub, tmp_path / "ct", per_device_batch=4, gradient_checkpointing=False)
    training.continual_pretrain(run)
    assert losses(run) == pytest.approx(losses(whole[0]), rel=1e-5)


def test_fine_tuning_starts_from_a_checkpoint_and_learns(hub, whole, tmp_path):
    run = sft(
        hub,
        tmp_path / "sft",
        model=str(whole[0].final()),
        tokens=768,
        precision="bf16",
        save_dtype="bfloat16",
    )
    folder = training.finetune(run)
    found = losses(run)
    assert found[-1] < found[0]
    assert {one.dtype for one in weights(folder).values()} == {torch.bfloat16}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    model = training.load(folder, torch.float32)
    assert model.config.use_cache
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_fine_tuning_may_leave_the_embeddings_as_they_are(hub, tmp_path):
    run = sft(hub, tmp_path / "sft", tokens=512, freeze_embeddings=True)
    before, after = weights(hub / "base"), weights(training.finetune(run))
    moved = {name for name, one in after.items() if not torch.equal(one.float(), before[name])}
    assert moved == {name for name in before if ".layers." in name}
    other = run.model_copy(update={"freeze_embeddings": False})
    with pytest.raises(LangmergeError, match=r"other settings .*\(freeze_embeddings differ"):
        training.finetune(other)


def test_a_run_from_before_a_setting_was_there_is_gone_on_with(hub, whole, tmp_path):
    run = sft(hub, tmp_path / "sft", tokens=512)
    folder = training.finetune(run)
    told = json.loads((run.out / "run.json").read_text())
    assert told.pop("freeze_embeddings") is False
    (run.out / "run.json").write_text(json.dumps(told))
    assert training.finetune(run) == folder


def test_other_settings_do_not_go_on_in_a_runs_folder(hub, whole):
    run = whole[0]
    with pytest.raises(LangmergeError, match=r"other settings .*\(learning_rate differ"):
        training.continual_pretrain(run.model_copy(update={"learning_rate": 0.5}))


def test_a_tokenizer_of_another_model_is_refused(hub, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(hub / "base")
    tokenizer.add_tokens(["<one>", "<two>", "<three>"])
    tokenizer.save_pretrained(tmp_path / "longer")
    run = ct(hub, tmp_path / "ct", tokenizer=str(tmp_path / "longer"))
    with pytest.raises(LangmergeError, match=r"29\d tokens, and .* embeds 290"):
        training.prepare(run)
    vocabulary = json.loads((hub / "base/tokenizer.json").read_text())
    table = vocabulary["model"]["vocab"]
    table["ko"], table["sa"] = table["sa"], table["ko"]
    shutil.copytree(hub / "base", tmp_path / "other")
    (tmp_path / "other/tokenizer.json").write_text(json.dumps(vocabulary))
    run = ct(hub, tmp_path / "ct", tokenizer=str(tmp_path / "other"))
    with pytest.raises(LangmergeError, match="another vocabulary"):
        training.prepare(run)


def test_a_disk_that_is_too_small_is_told_before_training(hub, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    with pytest.raises(LangmergeError, match="checkpoints and training state take 0"):
        training.continual_pretrain(ct(hub, tmp_path / "ct"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(LangmergeError, match="the rows take"):
        training.prepare(ct(hub, tmp_path / "ct2"))


def test_rows_that_devices_cannot_share_are_refused(hub, tmp_path):
    with pytest.raises(LangmergeError, match="has 4 rows, which cannot be parted among 1"):
        training.continual_pretrain(ct(hub, tmp_path / "ct", per_device_batch=3))


def test_fsdp_without_a_gpu_is_refused_instead_of_falling_back(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LangmergeError, match="FSDP needs GPUs"):
        training.continual_pretrain(ct(hub, tmp_path / "ct"))


# Two processes


SHIPPED = ["--main_process_port=0", "--num_processes=2", "--config_file"]
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node=2"],
    "ddp": ["accelerate.commands.launch", *SHIPPED, "ddp.yaml"],
    # In bfloat16, as the file has it, the loss curve would be another by rounding.
    "fsdp": ["accelerate.commands.launch", "--mixed_precision=no", *SHIPPED, "fsdp.yaml"],
}


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "part"), [("torchrun", "1.00"), ("fsdp", "0.50")])
def test_two_processes_one_of_them_killed_give_the_run_of_one(hub, whole, tmp_path, launcher, part):
    """DDP under torchrun, FSDP2 as accelerate sets it up from the shipped file, by gloo."""
    run = ct(hub, tmp_path / "ct", per_device_batch=1)
    (tmp_path / "run.json").write_text(run.model_dump_json(exclude_none=True))
    killed = launched(launcher, tmp_path, "killed")
    assert killed.returncode != 0
    begun = (tmp_path / "killed").read_text()
    assert begun == f"at step 0, 2 processes, {part} each", killed.stderr[-3000:]
    assert not run.final().exists()
    done = launched(launcher, tmp_path, "done")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "done").read_text() == f"at step 3, 2 processes, {part} each"
    assert_same_run(run, whole)


@pytest.mark.slow
def test_accelerate_launches_the_command_in_two_processes(hub, whole, tmp_path):
    run = ct(hub, tmp_path / "ct", per_device_batch=1)
    (tmp_path / "run.yaml").write_text(
        yaml.safe_dump(run.model_dump(mode="json", exclude_none=True))
    )
    command = ["-m", "langmerge", "train", "ct", str(tmp_path / "run.yaml")]
    done = started(LAUNCHERS["ddp"], command)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_run(run, whole)


def assert_same_run(run, whole):
    assert losses(run) == pytest.approx(losses(whole[0]), rel=1e-5)
    loaded = training.load(run.final(), torch.float32).state_dict()
    for name, one in whole[1].items():
        torch.testing.assert_close(loaded[name], one, atol=1e-4, rtol=1e-3)


def launched(launcher, folder, what):
    worker = Path(__file__).with_name("scale_worker.py")
    return started(LAUNCHERS[launcher], [str(worker), str(folder / "run.json"), what])


def started(launcher, command):
    here = [str(Path(training.__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(here),
        "HF_HUB_OFFLINE": "1",
        "ACCELERATE_TORCH_DEVICE": "cpu",
    }
    return subprocess.run(
        [sys.executable, "-m", *launcher, *command],
        env=environment,
        cwd=paths.data() / "accelerate",
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.parametrize("name", ["single", "ddp", "fsdp"])
def test_accelerate_reads_the_shipped_files(name):
    from accelerate.commands.config.config_args import load_config_from_file

    path = paths.data() / "accelerate" / f"{name}.yaml"
    config = load_config_from_file(str(path))  # complains of keys that it does not know
    sharded = name == "fsdp"
    assert (str(config.distributed_type) == "DistributedType.FSDP") == sharded
    assert bool(getattr(config, "fsdp_config", None)) == sharded


# Costs


@pytest.mark.parametrize("name", cost.SHAPES)
def test_parameters_are_those_of_transformers(name):
    shape = cost.SHAPES[name]
    kind, config = (
        (Qwen2ForCausalLM, Qwen2Config) if shape.biased else (LlamaForCausalLM, LlamaConfig)
    )
    sizes = config(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocab,
        tie_word_embeddings=shape.tied,
    )
    with torch.device("meta"):
        assert sum(one.numel() for one in kind(sizes).parameters()) == shape.parameters


def test_memory_falls_with_shards_and_grows_with_rows():
    shape = cost.SHAPES["llama-2-7b"]
    state = "weights, gradients, Adam"
    one, eight = (cost.memory(shape, 1, 2048, n) for n in (1, 8))
    assert one[state] == 8 * eight[state] == 16 * shape.parameters
    sizes = [cost.memory(shape, n, 2048)["sum"] for n in (1, 2, 4)]
    assert sizes[2] - sizes[1] == pytest.approx(2 * (sizes[1] - sizes[0]))
    assert cost.memory(shape, 1, 2048, checkpointing=False)["sum"] > sizes[0]


def test_table_has_the_fewest_gpus_that_hold_a_model():
    for model, name, gpus, needed, speed, hours in cost.table(1e8):
        memory = cost.GPUS[name].memory
        assert needed <= memory
        assert gpus == 1 or cost.memory(cost.SHAPES[model], 1, 2048, gpus // 2)["sum"] > memory
        assert hours * 3600 * speed == pytest.approx(1e8)
        flops = speed * 6 * cost.SHAPES[model].parameters
        assert flops == pytest.approx(cost.MFU * gpus * cost.GPUS[name].flops)


def test_a_measurement_is_what_a_plan_reckons_with(hub, tmp_path):
    shape = cost.shape_of(hub / "base")
    found = measure.measure(shape, rows=2, sequence=16, steps=2, warmup=1)
    assert found["parameters"] == shape.parameters
    assert found["tokens_per_second"] == pytest.approx(32 / found["seconds_per_step"])
    assert found["memory"] > 0
    assert measure.lines(found)
    path = tmp_path / "measured.json"
    path.write_text(json.dumps(found | {"tokens_per_second": 100.0}))
    run = ct(hub, tmp_path, tokens=360_000 // 128 * 128)
    told = dict(plan.lines(run, plan.Means(measured=path, price=4.0)))
    assert "measured" in told["speed"]
    assert told["time"] == "1.0 h, price 4.00"
    path.write_text(json.dumps(found | {"tokens_per_second": 100.0, "parameters": 1}))
    assert "scaled" in dict(plan.lines(run, plan.Means(measured=path)))["speed"]
    with pytest.raises(LangmergeError, match="precision 'fp8'"):
        measure.measure(shape, precision="fp8")


@pytest.mark.parametrize(
    "device", ["NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB", "NVIDIA H200"]
)
def test_devices_are_found_in_the_table(device):
    assert measure._listed(device) in cost.GPUS


def test_the_chapters_table_is_computed():
    chapter = (paths.checkout() / "book/train_at_scale.md").read_text(encoding="utf-8")
    titles, lines = plan.cost_table(1e8)
    told = [f"| {' | '.join(line)} |" for line in [titles, ["---"] * len(titles), *lines]]
    block = re.search(r"<!-- cost table.*?-->\n\n(.*?)\n\n<!-- end", chapter, re.DOTALL)
    assert block[1] == "\n".join(told), "paste:\n" + "\n".join(told)


def test_the_chapters_measurements_are_those_that_ship():
    chapter = (paths.checkout() / "book/train_at_scale.md").read_text(encoding="utf-8")
    titles, lines = measure.table(paths.data() / "measured")
    told = [f"| {' | '.join(line)} |" for line in [titles, ["---"] * len(titles), *lines]]
    block = re.search(r"<!-- measured.*?-->\n\n(.*?)\n\n<!-- end", chapter, re.DOTALL)
    assert block[1] == "\n".join(told), "paste:\n" + "\n".join(told)


def test_the_chapter_tells_what_the_papers_trainings_would_take():
    chapter = (paths.checkout() / "book/train_at_scale.md").read_text(encoding="utf-8")
    path = paths.data() / "measured/h200-llama-2-7b-2.json"
    speed = json.loads(path.read_text(encoding="utf-8"))["tokens_per_second"]
    ct, sft = (tokens / speed / 3600 for tokens in (cost.PAPER_CT_TOKENS, 884 * 0.25e6))
    told = f"CT of {cost.PAPER_CT_TOKENS:,} tokens takes {ct:,.0f} hours of one H200, and its SFT"
    assert told in chapter and f"0.25 million tokens {sft:,.0f} hours" in chapter


def test_the_formula_of_memory_is_within_a_fifth_of_what_was_measured():
    for path in (paths.data() / "measured").glob("*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        shape = cost.Shape(**found["shape"])
        kept = not found["gradient_checkpointing"]
        needed = cost.memory(shape, found["rows"], found["sequence"], checkpointing=not kept)["sum"]
        # What the driver holds is part of the formula and not of what torch counts.
        counted = found["memory"] + cost.OVERHEAD
        assert needed == pytest.approx(counted, rel=0.2), path.name


def test_a_shipped_measurement_makes_a_plan(hub, tmp_path):
    path = paths.data() / "measured/h200-llama-2-7b-2.json"
    run = ct(hub, tmp_path)
    assert (
        "measured on one NVIDIA H200" in dict(plan.lines(run, plan.Means(measured=path)))["speed"]
    )


# The command line


def test_the_command_line_trains_and_says_what_is_wrong(hub, tmp_path, monkeypatch, capsys):
    raw = ct(hub, tmp_path / "ct", tokens=256, budgets=[]).model_dump(
        mode="json", exclude_none=True
    )
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(raw))

    def langmerge(*arguments):
        monkeypatch.setattr(sys, "argv", ["langmerge", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr()

    code, told = langmerge("train", "ct", str(path), "--plan")
    assert code == 0
    assert "256 in 2 steps of 128" in told.out
    assert langmerge("train", "ct", str(path), "--prepare")[0] == 0
    code, told = langmerge("train", "ct", str(path))
    assert code == 0
    assert "tokens-256" in told.out
    path.write_text(yaml.safe_dump(raw | {"tokenss": 1}))
    code, told = langmerge("train", "ct", str(path))
    assert code == 2
    assert "did you mean tokens" in told.err
    code, told = langmerge("train", "sft", "sft_flam")
    assert code == 2
    assert "did you mean sft_flan" in told.err


def test_plans_assume_the_mfu_that_the_formula_does():
    assert options.MFU == cost.MFU


def test_numbers_of_rows_survive_a_round_trip(tmp_path):
    ids = np.array([[5, 6, 7, 0]], dtype=np.uint32)
    (tmp_path / "manifest.json").write_text('{"sequence": 4, "blind": true}')
    bits = ids | np.array([rows.START, 0, rows.LOSS, rows.START], dtype=np.uint32)
    bits.tofile(tmp_path / "rows.bin")
    row = rows.Rows(tmp_path)[0]
    assert row["input_ids"].tolist() == [5, 6, 7, 0]
    assert row["labels"].tolist() == [-100, -100, 7, -100]
    assert row["position_ids"].tolist() == [0, 1, 2, 0]
