"""Merging measured: wall and CPU time and peak memory of whole merges, beside mergekit's.

Each merge runs in a process of its own, on checkpoints of random weights in the shape of
TinyLlama; runs of the two programs alternate. ::

    python -m langmerge.bench_merge /tmp/bench --size 1.1B --mergekit /path/to/mergekit-yaml

`make bench` does the same after the study's figures.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from langmerge.dtypes import Dtype
from langmerge.errors import LangmergeError, nearest
from langmerge.later import torch
from langmerge.merging import shards

#: Vocabulary, width, key-value width, MLP width, layers.
SIZES = {
    "1.1B": (32000, 2048, 256, 5632, 22),
    "160M": (32000, 768, 192, 2048, 14),
    "7B": (32000, 4096, 4096, 11008, 32),
    "5M": (4096, 256, 256, 768, 4),
}
#: Standard deviations of the base's weights and of the task vectors of CT and SFT.
SPREAD, SPREAD_CT, SPREAD_SFT = 0.02, 2e-3, 1e-3
SHARD_BYTES = 10**9

_HEAD = "models: [{model: ct, parameters: {weight: 1.0, density: 0.7}}, "
_HEAD += "{model: sft, parameters: {weight: 1.0, density: 0.7}}]\n"
#: Recipes by name; mergekit runs those whose method it has.
RECIPES = {
    "ties": f"merge_method: ties\nbase_model: base\n{_HEAD}parameters: {{normalize: true}}\n",
    "ties, whole model": "merge_method: ties\nbase_model: base\nmodels: [{model: ct, parameters: "
    "{weight: 1.0, density: 0.7}}, {model: sft, parameters: {weight: 1.0, density: 0.7}}]\n"
    "parameters: {variant: reference}\n",
    "ties_sv": f"merge_method: ties_sv\nbase_model: base\n{_HEAD}parameters: {{slack: 1.0}}\n",
    "linear": "merge_method: linear\nmodels: [{model: ct, parameters: {weight: 0.5}}, "
    "{model: sft, parameters: {weight: 0.5}}]\n",
}
MERGEKIT = ("ties", "linear")
#: What two measurements say together: a name, then what is divided by what.
RATIOS = {
    "mergekit's TIES / TIES": ("mergekit ties, 1 thread", "ties, 1 thread"),
    "mergekit's TIES / TIES with slack": ("mergekit ties, 1 thread", "ties_sv, 1 thread"),
    "mergekit's linear / linear": ("mergekit linear, 1 thread", "linear, 1 thread"),
    "reading three and writing one / TIES": ("read three, write one", "ties, 1 thread"),
    "whole model's threshold / each tensor's": ("ties, whole model, 1 thread", "ties, 1 thread"),
    "TIES, one thread / two": ("ties, 1 thread", "ties, 2 threads"),
    "TIES with slack, one thread / two": ("ties_sv, 1 thread", "ties_sv, 2 threads"),
}
_MEMORY = "peak memory, mergekit's TIES / TIES"
#: Bytes that three checkpoints of 1.1 billion parameters and a merge of them take.
ROOM = 10 * 10**9


@dataclasses.dataclass(frozen=True)
class Measured:
    """One run: seconds of wall and CPU time, and the peak of resident memory in bytes."""

    wall: float
    cpu: float
    memory: int


def make(folder: Path, size: str = "1.1B", seed: int = 0) -> None:
    """Write base, ct and sft: sharded bf16 checkpoints of random weights (once)."""
    if size not in SIZES:
        raise LangmergeError(f"unknown size {size!r}: {nearest(size, SIZES)}")
    vocabulary, width, _, mlp, layers = SIZES[size]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "num_key_value_heads": SIZES[size][2] // 64,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    tensors = {name: (Dtype.BF16, shape) for name, shape in shapes(size).items()}
    layout = shards.lay_out(tensors, SHARD_BYTES)
    writers = {
        model: shards.Writer(folder / model, layout, f"{size} {seed} {model}")
        for model in ("base", "ct", "sft")
        if not (folder / model / "config.json").exists()
    }
    if not writers:
        return
    generator = torch.Generator().manual_seed(seed)
    for name, (_, shape) in tensors.items():
        base = torch.randn(shape, generator=generator) * SPREAD
        made = {"base": base}
        for model, spread in (("ct", SPREAD_CT), ("sft", SPREAD_SFT)):
            # To the nearest bf16 first: a task vector is a difference of what is stored.
            stored = base.bfloat16().float()
            made[model] = stored + torch.randn(shape, generator=generator) * spread
        for model, writer in writers.items():
            data = made[model].bfloat16().reshape(-1).view(torch.uint8).numpy()
            writer.write(name, 0, data)
            writer.commit(name, {"xxh3": ""})
    for model, writer in writers.items():
        writer.finish()
        writer.clear()
        (folder / model / "config.json").write_text(json.dumps(config))


def shapes(size: str) -> dict[str, tuple[int, ...]]:
    """The tensors of a Llama of this size."""
    vocabulary, width, narrow, mlp, layers = SIZES[size]
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, width)}
    for layer in range(layers):
        for name, shape in (
            ("self_attn.q_proj", (width, width)),
            ("self_attn.k_proj", (narrow, width)),
            ("self_attn.v_proj", (narrow, width)),
            ("self_attn.o_proj", (width, width)),
            ("mlp.gate_proj", (mlp, width)),
            ("mlp.up_proj", (mlp, width)),
            ("mlp.down_proj", (width, mlp)),
            ("input_layernorm", (width,)),
            ("post_attention_layernorm", (width,)),
        ):
            found[f"model.layers.{layer}.{name}.weight"] = shape
    return {**found, "model.norm.weight": (width,), "lm_head.weight": (vocabulary, width)}


def ours(recipe: Path, out: Path, threads: int) -> list[str]:
    """The command that merges a recipe with langmerge."""
    code = (
        "import sys; from pathlib import Path; from langmerge.merging import recipe, stream; "
        "stream.run(recipe.read(sys.argv[1]).job(), Path(sys.argv[2]), threads=int(sys.argv[3]))"
    )
    return [sys.executable, "-c", code, str(recipe), str(out), str(threads)]


def floor(folder: Path, out: Path) -> list[str]:
    """The command that reads three checkpoints and writes one, and does nothing else."""
    code = (
        "import os, sys; from pathlib import Path\n"
        "folder, out = map(Path, sys.argv[1:]); out.mkdir(); size = 1 << 22\n"
        "buffer = bytearray(size)\n"
        "for model in ('base', 'ct', 'sft'):\n"
        "  for path in sorted((folder / model).glob('*.safetensors')):\n"
        "    target = open(out / path.name, 'wb', 0) if model == 'base' else None\n"
        "    with open(path, 'rb', 0) as file:\n"
        "      while read := file.readinto(buffer):\n"
        "        target and target.write(memoryview(buffer)[:read])\n"
    )
    return [sys.executable, "-c", code, str(folder), str(out)]


def measure(command: list[str], folder: Path, threads: int = 1) -> Measured:
    """Run a command to its end in a folder; raises LangmergeError where it fails."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[name] = str(threads)
    if command[0] == sys.executable:  # the command runs in another folder than this process
        here = str(Path(__file__).resolve().parents[1])
        environment["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    else:  # another program has libraries of its own
        environment.pop("PYTHONPATH", None)
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    errors = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise LangmergeError(f"{' '.join(command)}: it failed.\n{errors[-2000:]}")
    # The unit of ru_maxrss: kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return Measured(wall, used.ru_utime + used.ru_stime, used.ru_maxrss * unit)


def run(
    folder: Path,
    size: str = "1.1B",
    mergekit: str | None = None,
    rounds: int = 3,
    threads: tuple[int, ...] = (1, 2),
) -> dict[str, list[Measured]]:
    """Measure all recipes in alternating runs; print and return what was measured."""
    # In a process of its own, as said in `run_all`.
    maker = multiprocessing.get_context("spawn").Process(target=make, args=(folder, size))
    maker.start()
    maker.join()
    mergekit = mergekit or shutil.which("mergekit-yaml")
    commands: dict[str, tuple[list[str], int]] = {}
    out = folder / "out"
    commands["read three, write one"] = (floor(folder, out), 1)
    for name, text in RECIPES.items():
        path = folder / f"{name.replace(', ', '-').replace(' ', '-')}.yaml"
        path.write_text(f"{text}dtype: bfloat16\n")
        for count in threads:
            commands[f"{name}, {_threads(count)}"] = (ours(path, out, count), count)
        if mergekit and name in MERGEKIT:
            command = [
                mergekit,
                str(path),
                str(out),
                "--no-copy-tokenizer",
                "--no-write-model-card",
            ]
            commands[f"mergekit {name}, 1 thread"] = (command, 1)
    found: dict[str, list[Measured]] = {name: [] for name in commands}
    for number in range(rounds):
        for name, (command, count) in commands.items():
            # mergekit's ties takes minutes, and varies little.
            if number and name.startswith("mergekit ties"):
                continue
            shutil.rmtree(out, ignore_errors=True)
            found[name].append(measure(command, folder, count))
    shutil.rmtree(out, ignore_errors=True)
    _show(found)
    return found


def run_all(folder: Path | None = None, mergekit: str | None = None, rounds: int = 3) -> None:
    """Merges of 1.1 billion parameters on disk and of five million in memory, and their ratios.

    folder: where the checkpoints go, and stay; None for a temporary one.
    """
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "langmerge.bench_merge", str(folder or temporary)]
        command += ["--rounds", str(rounds), *(("--mergekit", mergekit) if mergekit else ())]
        # In a process of its own, and a small one: a child begins with the peak memory of the
        # parent it forks from.
        subprocess.run(command, check=True)


def check_room(folder: Path | None = None) -> None:
    """Raise LangmergeError where the checkpoints of `run_all` would not fit."""
    place = folder or Path(tempfile.gettempdir())
    place.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(place).free
    if free < ROOM and not (place / "sft" / "config.json").exists():
        raise LangmergeError(
            f"{place}: the merges that are measured take {ROOM / 1e9:.0f} GB and the disk has "
            f"{free / 1e9:.1f} GB left. Name another place by --folder, or leave them out by "
            "--only study."
        )


def in_memory(merges: int = 100, seed: int = 0) -> float:
    """The median seconds of a TIES merge of five million parameters in a `Sweep`, on one thread.

    What merges share was made before.
    """
    from langmerge.merging.sweep import Sweep  # the measured processes begin with our memory

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    spreads = {"base": SPREAD, "ct": SPREAD_CT, "sft": SPREAD_SFT}
    made = {
        model: {n: torch.randn(s, generator=generator) * spread for n, s in shapes("5M").items()}
        for model, spread in spreads.items()
    }
    base = made["base"]
    ct, sft = ({n: base[n] + tau for n, tau in made[model].items()} for model in ("ct", "sft"))
    sweep, seconds = Sweep(base, ct, sft), []
    for number in range(merges + 3):  # the first ones compile, and look thresholds up
        start = time.perf_counter()
        sweep.merge("ties")
        if number >= 3:
            seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def copying(copies: int = 100) -> float:
    """The median seconds of copying five million parameters: what memory alone takes, once."""
    model = np.ones(sum(int(np.prod(shape)) for shape in shapes("5M").values()), np.float32)
    out, seconds = np.empty_like(model), []
    for _ in range(copies):
        start = time.perf_counter()
        np.copyto(out, model)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def mergekits_in_memory(mergekit: str) -> float:
    """The median seconds of mergekit's own TIES of the same models, tensor by tensor.

    mergekit: the path of ``mergekit-yaml``, whose interpreter computes them on one thread.
    """
    code = (
        "import json, statistics, sys, time, torch\n"
        "from mergekit.merge_methods.base import TensorGroup\n"
        "from mergekit.merge_methods import registry\n"
        "torch.set_num_threads(1)\n"
        "shapes, spreads = json.loads(sys.argv[1])\n"
        "parts = []\n"
        "for shape in shapes:\n"
        "  base, *taus = (torch.randn(shape) * spread for spread in spreads)\n"
        "  tensors = [base, *(base + tau for tau in taus)]\n"
        "  parts.append(TensorGroup.from_tensors(tensors, base_index=0))\n"
        "method = registry.get('ties')\n"
        "each = {'weight': {1: 1.0, 2: 1.0}, 'density': {1: 0.7, 2: 0.7}}\n"
        "shared = {'normalize': True, 'rescale': False, 'int8_mask': False, 'lambda': 1.0}\n"
        "seconds = []\n"
        "for _ in range(5):\n"
        "  start = time.perf_counter()\n"
        "  merged = [method.merge_group(group, **each, **shared) for group in parts]\n"
        "  seconds.append(time.perf_counter() - start)\n"
        "print(statistics.median(seconds))\n"
    )
    spreads = [SPREAD, SPREAD_CT, SPREAD_SFT]
    given = json.dumps([[*shapes("5M").values()], spreads])
    python = Path(shutil.which(mergekit) or mergekit).with_name(Path(sys.executable).name)
    found = subprocess.run([python, "-c", code, given], capture_output=True, text=True, check=False)
    if found.returncode:
        raise LangmergeError(f"{python}: mergekit's TIES failed.\n{found.stderr[-2000:]}")
    return float(found.stdout)


def ratios(found: Mapping[str, Sequence[Measured]]) -> dict[str, float]:
    """Quotients of median wall times (and of peak memory) of what was measured, by `RATIOS`."""
    walls = {name: float(np.median([one.wall for one in runs])) for name, runs in found.items()}
    pairs = {name: pair for name, pair in RATIOS.items() if set(pair) <= set(found)}
    quotients = {name: walls[one] / walls[other] for name, (one, other) in pairs.items()}
    theirs, mine = RATIOS["mergekit's TIES / TIES"]
    if {theirs, mine} <= set(found):
        peaks = [max(one.memory for one in found[name]) for name in (theirs, mine)]
        quotients[_MEMORY] = peaks[0] / peaks[1]
    return quotients


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def _show(found: dict[str, list[Measured]]) -> None:
    table = Table("", "wall s", "CPU s", "peak MB", "runs")
    for name, runs in found.items():
        wall, cpu = (f"{np.median([getattr(r, k) for r in runs]):.2f}" for k in ("wall", "cpu"))
        table.add_row(name, wall, cpu, f"{max(r.memory for r in runs) / 1e6:,.0f}", str(len(runs)))
    Console().print(table)
    for name, quotient in ratios(found).items():
        Console().print(f"{name}: {quotient:.2f}")


def main(
    folder: Annotated[Path, typer.Argument(help="where checkpoints and merges go")],
    size: Annotated[str, typer.Option(help=f"one of {', '.join(SIZES)}")] = "1.1B",
    mergekit: Annotated[str | None, typer.Option(help="mergekit-yaml's path")] = None,
    rounds: Annotated[int, typer.Option(help="alternating runs")] = 3,
) -> None:
    """Measure merges."""
    folder.mkdir(parents=True, exist_ok=True)
    mergekit = mergekit or shutil.which("mergekit-yaml")
    run(folder.resolve(), size, mergekit, rounds)
    print("five million parameters in memory, one thread:")
    print(f"  one TIES merge: {in_memory() * 1e3:.1f} ms")
    print(f"  copying one model: {copying() * 1e3:.1f} ms")
    if mergekit:
        print(f"  mergekit's TIES: {mergekits_in_memory(mergekit) * 1e3:.0f} ms")


if __name__ == "__main__":
    typer.run(main)
