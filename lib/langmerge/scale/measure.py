"""Real speed and memory of training a Llama of given sizes, with random weights and tokens."""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from pathlib import Path

import psutil
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from langmerge.errors import LangmergeError
from langmerge.provenance import provenance
from langmerge.scale import cost
from langmerge.scale.plan import gb
from langmerge.scale.training import checkpoint_activations, use_bf16


def measure(
    shape: cost.Shape,
    rows: int = 1,
    sequence: int = 2048,
    steps: int = 20,
    warmup: int = 3,
    precision: str = "auto",
    checkpointing: bool = True,
) -> dict[str, object]:
    """Train for some steps on one device and report it, as values that JSON can hold.

    A step is forward, backward, clipping and AdamW on fp32 weights, as training does it, without
    accumulation. tokens_per_second is over the median step; flops_per_second counts 6 N a token;
    memory is the most that torch had reserved on the GPU, on a CPU the process's.
    Raises LangmergeError where the device's memory does not suffice.
    """
    if precision not in ("auto", "bf16", "fp32"):
        raise LangmergeError(f"precision {precision!r}: auto, bf16 or fp32.")
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    if cuda:  # what was measured before in this process is no part of it
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        model = _model(shape, sequence, device, checkpointing)
        seconds = _times(model, shape, rows, sequence, steps + warmup, use_bf16(precision))
    except torch.OutOfMemoryError:
        need = cost.memory(shape, rows, sequence, checkpointing=checkpointing)["sum"]
        raise LangmergeError(
            f"The device ran out of memory with {rows} row(s) of {sequence} tokens (by the formula "
            f"it takes {need / 1e9:.1f} GB). Lower --rows or --sequence, or a smaller --shape."
        ) from None
    median = statistics.median(seconds[warmup:])
    speed = rows * sequence / median
    return {
        "device": torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU",
        "shape": vars(shape),
        "parameters": sum(one.numel() for one in model.parameters()),
        "rows": rows,
        "sequence": sequence,
        "steps": steps,
        "bf16": use_bf16(precision),
        "gradient_checkpointing": checkpointing,
        "seconds_per_step": median,
        "tokens_per_second": speed,
        "flops_per_second": 6 * shape.parameters * speed,
        "memory": torch.cuda.max_memory_reserved() if cuda else _peak(),
        "memory_by_formula": cost.memory(shape, rows, sequence, checkpointing=checkpointing)["sum"],
        "provenance": provenance(),
    }


def _model(
    shape: cost.Shape, sequence: int, device: torch.device, checkpointing: bool
) -> PreTrainedModel:
    torch.manual_seed(0)
    # Qwen is a Llama with biases in attention.
    kind, config_of = (
        (Qwen2ForCausalLM, Qwen2Config) if shape.biased else (LlamaForCausalLM, LlamaConfig)
    )
    config = config_of(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocab,
        max_position_embeddings=sequence,
        tie_word_embeddings=shape.tied,
        use_cache=False,
    )
    with device:
        model = kind(config).float()
    if checkpointing:
        checkpoint_activations(model)
    return model.train()


def _times(
    model: PreTrainedModel, shape: cost.Shape, rows: int, sequence: int, steps: int, bf16: bool
) -> list[float]:
    device = model.device
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=device.type == "cuda")
    seconds = []
    for _ in range(steps):
        ids = torch.randint(shape.vocab, (rows, sequence), device=device)
        started = _now(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(_now(device) - started)
    return seconds


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _peak() -> int:
    """The process's largest resident memory in bytes ; Linux tells it in kB."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else found * 1024


def lines(found: dict[str, object]) -> list[tuple[str, str]]:
    """What was measured as lines, with what the paper's trainings would take at that speed."""
    speed, parameters = float(found["tokens_per_second"]), int(found["parameters"])
    told = [
        ("parameters", f"{parameters:,}"),
        ("a step", f"{found['seconds_per_step']:.3f} s, median of {found['steps']}"),
        ("tokens/s", f"{speed:,.0f}"),
        ("FLOP/s", f"{found['flops_per_second']:.3g} (6 a parameter and token)"),
        ("memory", f"{gb(found['memory'])}, {gb(found['memory_by_formula'])} by formula"),
    ]
    gpu = cost.GPUS.get(_listed(str(found["device"])))
    if gpu is not None:
        told.append(("MFU", f"{found['flops_per_second'] / gpu.flops:.2f} of {gpu.flops:.3g}"))
    paper = cost.SHAPES["llama-2-7b"]
    hours = cost.PAPER_CT_TOKENS / (speed * parameters / paper.parameters) / 3600
    scaled = f"{hours:,.0f} device hours for {cost.PAPER_CT_TOKENS:,} tokens at 7 B parameters"
    return [*told, ("the paper's CT", f"{scaled}, scaled by parameters")]


def table(folder: Path) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of the measurements in a folder, as `langmerge train measure --out` wrote.

    The memory by formula is that of the formula as it is now.
    """
    titles = ["model", "GPU", "rows", "activations", "tokens/s", "MFU", "memory", "by formula"]
    names = {shape: name for name, shape in cost.SHAPES.items()}
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    told = []
    for it in sorted(found, key=lambda it: (it["parameters"], it["rows"])):
        shape = cost.Shape(**it["shape"])
        kept, rows = not it["gradient_checkpointing"], it["rows"]
        needed = cost.memory(shape, rows, it["sequence"], checkpointing=not kept)["sum"]
        gpu = cost.GPUS[_listed(it["device"])]
        told.append(
            [
                names[shape],
                it["device"].removeprefix("NVIDIA "),
                str(rows),
                "kept" if kept else "computed anew",
                f"{it['tokens_per_second']:,.0f}",
                f"{it['flops_per_second'] / gpu.flops:.2f}",
                gb(it["memory"]),
                gb(needed),
            ]
        )
    return titles, told


def _listed(device: str) -> str:
    """The name in the table of GPUs of a device as its driver calls it."""
    return next((name for name in cost.GPUS if set(name.split()) <= set(_words(device))), "")


def _words(device: str) -> list[str]:
    # "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB", "NVIDIA GeForce RTX 4090", "NVIDIA H200"
    words = device.replace("-", " ").split()
    return [*words, "141GB"] if "H200" in words else words
