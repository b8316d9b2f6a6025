"""What a run costs, by formula: memory, disk, hours and price, before anything is started.

Compute: a token costs 6 N FLOPs for N parameters, two for the forward and four for the backward
pass (Kaplan et al. 2020); a GPU does its peak times the MFU, the share of it that training keeps
busy (Chowdhery et al. 2022). It was measured on one kind of GPU (``data/measured``) and is an
assumption on any other until `langmerge train measure` has measured the tokens a second.

Memory of one GPU: weights, gradients and Adam's two moments in fp32, 16 bytes a parameter, over
the GPUs where they are sharded; the copy of the weights that autocast makes in bf16, 2 bytes; the
layers' activations; and the logits with their fp32 copy, its log-softmax and the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from langmerge.errors import LangmergeError, nearest
from langmerge.scale.settings import Run

#: What of its peak a GPU does in training: that of an H200 at 7B with two rows (data/measured).
MFU = 0.28
#: What the driver, the kernels and fragments take of a GPU's memory: an assumption, in bytes.
OVERHEAD = 1.5e9
#: What the table's memory is of.
ROWS_TOLD = "Memory is of one row of 2,048 tokens a GPU, with gradient checkpointing."
#: CT tokens of the paper: 10,240 steps of 2,048 x 512.
PAPER_CT_TOKENS = 10_240 * 2048 * 512


@dataclass(frozen=True)
class Gpu:
    """A GPU: dense bf16 FLOPs a second and bytes of memory, as its maker states them."""

    flops: float
    memory: float


GPUS = {
    "L4": Gpu(121e12, 24e9),
    "RTX 3090": Gpu(71e12, 24e9),
    "RTX 4090": Gpu(165e12, 24e9),
    "A100 40GB": Gpu(312e12, 40e9),
    "A100 80GB": Gpu(312e12, 80e9),
    "H100 80GB": Gpu(989e12, 80e9),
    "H200 141GB": Gpu(989e12, 141e9),
}


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama-like model. biased: biases of query, key and value, as in Qwen."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    tied: bool = False
    biased: bool = False

    @property
    def kv(self) -> int:
        """The width of keys, and of values."""
        return self.hidden // self.heads * self.kv_heads

    @property
    def parameters(self) -> int:
        """All weights; a tied output matrix once."""
        attention = 2 * self.hidden * (self.hidden + self.kv)
        attention += (self.hidden + 2 * self.kv) * self.biased
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        embeddings = (1 if self.tied else 2) * self.vocab * self.hidden
        return self.layers * layer + embeddings + self.hidden


SHAPES = {
    "qwen1.5-0.5b": Shape(1024, 24, 16, 16, 2816, 151_936, tied=True, biased=True),
    "llama-1b": Shape(2048, 22, 32, 4, 5632, 32_000),
    "llama-2-7b": Shape(4096, 32, 32, 32, 11_008, 32_000),
    "llama-2-13b": Shape(5120, 40, 40, 40, 13_824, 32_000),
}


def shape_of(folder: Path) -> Shape:
    """The shape of a checkpoint; LangmergeError where its config.json lacks a size."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    try:
        heads = config.num_attention_heads
        return Shape(
            config.hidden_size,
            config.num_hidden_layers,
            heads,
            getattr(config, "num_key_value_heads", None) or heads,
            config.intermediate_size,
            config.vocab_size,
            bool(config.tie_word_embeddings),
            config.model_type == "qwen2" or bool(getattr(config, "attention_bias", False)),
        )
    except AttributeError as error:
        raise LangmergeError(
            f"{folder}: a plan needs the sizes of a Llama-like model, and config.json lacks one "
            f"({error}). The training itself does not."
        ) from None


def named(table: dict, name: str, what: str) -> object:
    """A row of SHAPES or GPUS by its name; LangmergeError with the nearest names."""
    if name not in table:
        raise LangmergeError(f"no {what} {name!r}: {nearest(name, table)}")
    return table[name]


def memory(
    shape: Shape, rows: int, sequence: int, sharded_over: int = 1, checkpointing: bool = True
) -> dict[str, float]:
    """Bytes of one GPU in training with bf16 autocast, by what takes them, and their sum.

    rows: sequences at once on the GPU. sharded_over: GPUs that share the state (FSDP).
    """
    tokens = rows * sequence
    # Of one layer and token, as the backward pass needs them: inputs and outputs of projections
    # in bf16, and the norms' inputs in fp32. Attention by tiles keeps no scores.
    layer = 2 * (6 * shape.hidden + 2 * shape.kv + 4 * shape.intermediate) + 8 * shape.hidden
    # With checkpointing only the layers' inputs are kept, and one layer is computed anew.
    layers = shape.layers * 2 * shape.hidden + layer if checkpointing else shape.layers * layer
    parts = {
        "weights, gradients, Adam": 16 * shape.parameters / sharded_over,
        "bf16 copies": 2 * shape.parameters / (shape.layers if sharded_over > 1 else 1),
        "activations": float(layers * tokens),
        "logits": 14.0 * shape.vocab * tokens,
        "overhead": OVERHEAD,
    }
    return parts | {"sum": sum(parts.values())}


def disk(parameters: int, run: Run) -> dict[str, float]:
    """Bytes on disk: packed rows; the models at the budgets, and two training states."""
    size = 2 if run.save_dtype == "bfloat16" else 4
    # A state has weights and Adam's moments in fp32; the third is there while it is written.
    models = len(run.checkpoints()) * size * parameters
    return {
        "rows": 4.0 * run.steps * run.tokens_per_step,
        "checkpoints": models + 3 * 12.0 * parameters,
    }


def tokens_per_second(shape: Shape, gpu: Gpu, gpus: int = 1, mfu: float = MFU) -> float:
    """Training speed by the formula: GPUs x peak x MFU / 6 N."""
    return gpus * gpu.flops * mfu / (6 * shape.parameters)


@dataclass(frozen=True)
class Speed:
    """Tokens a second of training, and where the number is from."""

    tokens_per_second: float
    told: str

    def __str__(self) -> str:
        speed = self.tokens_per_second
        return (
            f"{speed:,.0f} tokens/s ({self.told})"
            if speed >= 10
            else f"{speed:.2g} tokens/s ({self.told})"
        )

    def seconds(self, tokens: float) -> float:
        """Seconds of training."""
        return tokens / self.tokens_per_second


def table(
    tokens: float, rows: int = 1, sequence: int = 2048, mfu: float = MFU
) -> Iterator[tuple[str, str, int, float, float, float]]:
    """Rows of (model, GPU, GPUs, bytes of a GPU, tokens a second, hours for `tokens`).

    The fewest GPUs, of 1, 2, 4 and so on to 64, that hold the training; sharded above one.
    """
    for model, shape in SHAPES.items():
        for name, gpu in GPUS.items():
            for gpus in (1, 2, 4, 8, 16, 32, 64):
                needed = memory(shape, rows, sequence, gpus)["sum"]
                if needed <= gpu.memory:
                    break
            else:
                continue
            speed = tokens_per_second(shape, gpu, gpus, mfu)
            yield model, name, gpus, needed, speed, tokens / speed / 3600
