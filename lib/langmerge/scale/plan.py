"""A run's plan in lines: tokens, steps, memory, disk, hours and price."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from langmerge.errors import LangmergeError
from langmerge.merging import hub
from langmerge.scale import cost
from langmerge.scale.settings import Run


@dataclass(frozen=True)
class Means:
    """What a run is to be done with.

    tokens_per_second, measured: a speed as stated, or a file of `langmerge train measure`; else it
    is computed for the GPUs at an assumed MFU. price: of one GPU for an hour, in any currency.
    """

    gpu: str = "RTX 4090"
    gpus: int = 1
    sharded: bool = False
    tokens_per_second: float | None = None
    measured: Path | None = None
    mfu: float = cost.MFU
    price: float | None = None

    def card(self) -> cost.Gpu:
        """The GPU; LangmergeError for one that is not known."""
        return cost.named(cost.GPUS, self.gpu, "GPU")

    def speed(self, shape: cost.Shape) -> cost.Speed:
        """Tokens a second for a shape, and where the number is from."""
        card = self.card()
        if self.tokens_per_second is not None:
            return cost.Speed(self.tokens_per_second, "as stated")
        if self.measured is not None:
            return _measured(self.measured, shape, self.gpus)
        told = f"by formula, MFU {self.mfu:.2f} assumed"
        return cost.Speed(cost.tokens_per_second(shape, card, self.gpus, self.mfu), told)

    def paid(self, seconds: float) -> str:
        """Hours, and the price where one is given."""
        hours = seconds / 3600
        text = f"{hours:,.1f} h" if hours >= 0.1 else f"{seconds:,.0f} s"
        if self.price is None:
            return text
        return f"{text}, price {hours * self.gpus * self.price:,.2f}"


def _measured(path: Path, shape: cost.Shape, gpus: int) -> cost.Speed:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        speed, parameters = float(found["tokens_per_second"]), int(found["parameters"])
        device = found["device"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LangmergeError(
            f"{path}: it is no file of `langmerge train measure --out` ({type(error).__name__}: "
            f"{error})."
        ) from None
    told = f"measured on one {device}"
    if gpus > 1:
        told += f", times {gpus}"
    if parameters != shape.parameters:
        told += f" at {parameters:,} parameters, scaled by them"
    return cost.Speed(gpus * speed * parameters / shape.parameters, told)


def shape(model: str) -> cost.Shape:
    """A model's shape from its configuration alone: a folder, or an id on the hub."""
    if hub.is_local(model):
        return cost.shape_of(hub.folder_of(model))
    known = {"Qwen/Qwen1.5-0.5B": "qwen1.5-0.5b", "meta-llama/Llama-2-7b-hf": "llama-2-7b"}
    name = model.partition("@")[0]
    if name in known:
        return cost.SHAPES[known[name]]
    try:
        return cost.shape_of(name)
    except OSError as error:
        first = str(error).strip().splitlines()[0]
        raise LangmergeError(
            f"model {model!r}: its config.json could not be had ({first}) Check the id and the "
            "network; for a gated model accept its terms and log in with `hf auth login`."
        ) from None


def lines(run: Run, means: Means) -> list[tuple[str, str]]:
    """The plan of one training run."""
    sizes = shape(run.model)
    shards = means.gpus if means.sharded else 1
    need = cost.memory(
        sizes, run.per_device_batch, run.sequence, shards, run.gradient_checkpointing
    )
    tokens = run.steps * run.tokens_per_step
    speed = means.speed(sizes)
    disk = cost.disk(sizes.parameters, run)
    saved = ", ".join(f"{step * run.tokens_per_step:,}" for step in run.checkpoints())
    return [
        ("model", f"{run.model}, {sizes.parameters:,} parameters"),
        ("data", "; ".join(f"{one.name} (share {one.share:g})" for one in run.data)),
        ("tokens", f"{tokens:,} in {run.steps:,} steps of {run.tokens_per_step:,}"),
        ("saved after", f"{saved} tokens"),
        ("rate", _rate(run)),
        ("memory of a GPU", fit(need, means)),
        ("disk", f"rows {gb(disk['rows'])}, checkpoints and state {gb(disk['checkpoints'])}"),
        ("speed", f"{speed} on {means.gpus} x {means.gpu}"),
        ("time", means.paid(speed.seconds(tokens))),
    ]  # fmt: skip


def _rate(run: Run) -> str:
    if run.min_learning_rate == run.learning_rate:
        return f"{run.learning_rate:g}, constant"
    return (
        f"{run.learning_rate:g}, cosine to {run.min_learning_rate:g} in {run.decay_steps:,} steps"
    )


def cost_table(
    tokens: float, mfu: float = cost.MFU, price: float | None = None
) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of the cost table: what `tokens` take by model and GPU."""
    titles = ["model", "GPU", "GPUs", "memory of each", "tokens/s", f"hours, {tokens:,.0f} tokens"]
    lines = []
    for model, name, gpus, needed, speed, hours in cost.table(tokens, mfu=mfu):
        line = [model, name, str(gpus), gb(needed), f"{speed:,.0f}", f"{hours:,.1f}"]
        lines.append(line if price is None else [*line, f"{hours * gpus * price:,.2f}"])
    return (titles if price is None else [*titles, "price"]), lines


def fit(need: dict[str, float], means: Means) -> str:
    """What a GPU has to hold, and whether it can."""
    parts = ", ".join(f"{name} {gb(size)}" for name, size in need.items() if name != "sum")
    has = means.card().memory
    fits = "fits" if need["sum"] <= has else "DOES NOT FIT: shard it over more GPUs (FSDP)"
    return f"{gb(need['sum'])} of {gb(has)}, {fits} ({parts})"


def gb(size: float) -> str:
    """Bytes as GB."""
    return f"{size / 1e9:,.1f} GB" if size >= 5e7 else f"{size / 1e6:,.1f} MB"
