"""The chapter on the background: two examples small enough to draw, computed by the library.

The first is a model of two weights with two quadratic losses, trained by gradient descent: one
loss stands for text in the language, the other for the task. The second is six numbers of two
task vectors, merged by TIES. Both are definitions, no results; what follows from them is computed
when the book is built, and the chapter includes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from langmerge import drawings, markdown, merging, plotting
from langmerge.drawings import Steps, Toy
from langmerge.merging import ties
from langmerge.merging.ties import Ties

#: The golden vector: two task vectors of six parameters, half of which trim keeps.
TAU_CT = (0.9, -0.4, 0.05, 0.3, -0.2, 0.1)
TAU_SFT = (-0.5, -0.6, 0.02, -0.3, 0.25, 0.8)
DENSITY = 0.5
#: The slack that is shown beside plain TIES.
SLACK = 1.0
#: Weights of CT and SFT where the variants are compared: with equal ones few of them differ.
WEIGHTS = (0.3, 0.7)
#: The functions that are called TIES: in whose words, variant, combine, whether it has weights.
VARIANTS = (
    ("the authors' code {cite:p}`yadav2023ties`", "reference", "mean", False),
    ("MergeKit {cite:p}`goddard2024mergekit`, normalised", "weighted", "mean", True),
    ("MergeKit, not normalised", "weighted", "sum", True),
    ("PEFT {cite:p}`mangrulkar2022peft`", "peft", "mean", True),
)


@dataclass(frozen=True)
class Losses:
    """Two losses of two weights: text (a bowl) and task (a valley along one line).

    text: half of sum_i curvature_i * (w_i - optimum_i)**2. task: half of (u . w - 1)**2 for the
    unit vector u. The two can both be zero: what is lost is lost on the way, not for want of room.
    """

    optimum: tuple[float, float] = (1.6, 0.3)
    curvature: tuple[float, float] = (1.0, 0.4)
    direction: tuple[float, float] = (-0.6, 0.8)

    def text(self, w: np.ndarray) -> np.ndarray:
        """The loss on text; w of shape (..., 2)."""
        return ((w - self.optimum) ** 2 * self.curvature).sum(-1) / 2

    def task(self, w: np.ndarray) -> np.ndarray:
        """The loss on the task; w of shape (..., 2)."""
        return (w @ np.array(self.direction) - 1) ** 2 / 2

    def text_slope(self, w: np.ndarray) -> np.ndarray:
        """The gradient of `text`, of shape (2,)."""
        return (w - self.optimum) * self.curvature

    def task_slope(self, w: np.ndarray) -> np.ndarray:
        """The gradient of `task`, of shape (2,)."""
        return (w @ np.array(self.direction) - 1) * np.array(self.direction)


def toy(losses: Losses | None = None, steps: int = 40, rate: float = 0.1) -> Toy:
    """Base, CT, SFT, CT-then-SFT by gradient descent, and merges of the first three's weights."""
    losses = losses or Losses()
    base = np.zeros(2)
    ct = _descend(base, losses.text_slope, steps, rate)
    sft = _descend(base, losses.task_slope, steps, rate)
    both = _descend(ct[-1], losses.task_slope, steps, rate)
    shares = np.linspace(0, 1, 41)[:, None]
    paths = {
        "base": base[None],
        "ct": ct,
        "sft": sft,
        "ct_then_sft": both,
        # Task arithmetic with lambda from 0 to 1; averages from SFT alone to CT alone.
        "task_arithmetic": shares * (ct[-1] + sft[-1]),
        "average": (1 - shares) * sft[-1] + shares * ct[-1],
    }
    return Toy(
        paths=paths,
        text={name: losses.text(path) for name, path in paths.items()},
        task={name: losses.task(path) for name, path in paths.items()},
        losses=losses,
    )


def _descend(
    start: np.ndarray, slope: Callable[[np.ndarray], np.ndarray], steps: int, rate: float
) -> np.ndarray:
    """Weights on the way down, the start first, of shape (steps + 1, 2)."""
    path = [start]
    for _ in range(steps):
        path.append(path[-1] - rate * slope(path[-1]))
    return np.array(path)


def steps(slack: float = 0.0) -> Steps:
    """The golden vector's way through TIES with equal weights, by the library's own steps."""
    base, ct, sft = _models()
    tensors = merging.Tensors("x", base["x"], (ct["x"], sft["x"]))
    elected = ties.elect(tensors, Ties(density=(DENSITY, DENSITY), slack=slack))
    settings = {"density_ct": DENSITY, "density_sft": DENSITY}
    merged = merging.merge("ties_sv", base, ct, sft, slack=slack, **settings)["x"]
    votes = tuple(_numbers(vote) for vote in elected.votes)
    return Steps((TAU_CT, TAU_SFT), votes, _numbers(elected.sign), _numbers(merged))


def variant(name: str, combine: str, weighted: bool) -> tuple[float, ...]:
    """The golden vector merged by one of the functions that are called TIES."""
    weights = dict(zip(("w_ct", "w_sft"), WEIGHTS, strict=True)) if weighted else {}
    merged = merging.merge(
        "ties", *_models(), variant=name, combine=combine,
        density_ct=DENSITY, density_sft=DENSITY, **weights,
    )  # fmt: skip
    return _numbers(merged["x"])


def _models() -> tuple[dict[str, torch.Tensor], ...]:
    """A base of zeros, and the CT and SFT models with the golden task vectors."""
    ct, sft = torch.tensor(TAU_CT), torch.tensor(TAU_SFT)
    return {"x": torch.zeros_like(ct)}, {"x": ct}, {"x": sft}


def _numbers(tensor: torch.Tensor) -> tuple[float, ...]:
    """A tensor's values without fp32's last digits."""
    return tuple(round(value, 6) for value in tensor.tolist())


def pages(folder: Path) -> dict[str, str]:
    """What the chapter includes, by file name; its drawings are saved into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    it = toy()
    parts = {
        "forgetting": [*_forgetting(it, folder)],
        "ties": [*_ties(steps(), folder)],
        "variants": [*_variants()],
        "slack": [*_slack(folder)],
        "balance": [*_balance(it, folder)],
    }
    return {f"background_{name}.md": "\n".join(lines) + "\n" for name, lines in parts.items()}


def _forgetting(it: Toy, folder: Path) -> Iterator[str]:
    yield from markdown.picture(folder, "background_forgetting", drawings.forgetting(it),
        "Two weights, two losses. Rings: equal loss on text. Broken line: the task is solved. "
        "Each path is gradient descent; the arrow is the SFT task vector, added to the CT model.",
    )  # fmt: skip
    ct, both = it.text["ct"][-1], it.text["ct_then_sft"][-1]
    yield (
        f"CT brings the loss on text from {it.text['base'][-1]:.2f} to {ct:.2f}. "
        f"The SFT that follows solves the task, and the loss on text is back at {both:.2f}: "
        f"{_percent((both - ct) / (it.text['base'][-1] - ct))} of what CT had gained is lost."
    )
    yield ""


def _ties(it: Steps, folder: Path) -> Iterator[str]:
    fig = drawings.three_steps(it)
    caption = (
        "Six parameters of two task vectors. Trim empties the small entries, the election gives "
        "each parameter a sign, and the mean of what agrees is merged."
    )
    yield from markdown.picture(folder, "background_ties", fig, caption)
    yield (
        f"The vectors disagree in sign in {_entries(it.conflicts(it.taus))}. Trim keeps "
        f"{_percent(DENSITY)} of each, and what is left disagrees in {_entries(it.conflicts())}."
    )
    for entry in it.conflicts():
        a, b = (votes[entry] for votes in it.votes)
        winner, loser, lost = ("CT", "SFT", b) if abs(a) > abs(b) else ("SFT", "CT", a)
        yield (
            f"There CT has {_signed(a)} and SFT {_signed(b)}. {winner} wins, and {loser}'s "
            f"{_signed(lost)} is discarded."
        )
    survived, lost = it.sft_survived(), it.sft_lost()
    yield (
        f"That is {lost} of the {survived} SFT entries that survived trim: a "
        f"{{term}}`discarded share` of {_percent(lost / survived)}."
    )
    yield ""


def _variants() -> Iterator[str]:
    weights = f"{WEIGHTS[0]:g} for CT and {WEIGHTS[1]:g} for SFT"
    yield f"The same six numbers, with weights of {weights} where the function has weights:"
    yield ""
    rows = [
        [words, *map(_signed, variant(name, combine, weighted))]
        for words, name, combine, weighted in VARIANTS
    ]
    yield from markdown.table(
        ["Called TIES by", *map(str, range(1, len(TAU_CT) + 1))], rows, numbers=True
    )


def _slack(folder: Path) -> Iterator[str]:
    plain, relaxed = steps(), steps(SLACK)
    points = [tuple(abs(votes[entry]) for votes in plain.votes) for entry in plain.conflicts()]
    yield from markdown.picture(folder, "background_slack", drawings.slack_plane(points, SLACK),
        "Where the two votes disagree: SFT is elected below the line of the slack. The star is "
        "the disagreement of the example above.",
    )  # fmt: skip
    for entry in plain.conflicts():
        yield (
            f"In the example, entry {entry + 1} of the merged vector is "
            f"{_signed(plain.merged[entry])} without slack and {_signed(relaxed.merged[entry])} "
            f"with a slack of {SLACK:g}."
        )
    yield ""


def _balance(it: Toy, folder: Path) -> Iterator[str]:
    yield from markdown.picture(folder, "background_balance", drawings.balance(it),
        "The models of the first drawing by their two losses, the better corner at the upper "
        "left. Curves: SFT on its way from CT, task arithmetic by its λ, and averages by their "
        "share of CT (the triangle is the average by halves).",
    )  # fmt: skip
    rows = [
        [plotting.label(name), *(f"{loss[name][it.at(name)]:.2f}" for loss in (it.text, it.task))]
        for name in drawings.SHOWN
    ]
    yield from markdown.table(
        ["Model of two weights", "Loss on text", "Loss on the task"], rows, numbers=True
    )


def _entries(found: Sequence[int]) -> str:
    *most, last = (str(entry + 1) for entry in found)
    return f"entries {', '.join(most)} and {last}" if most else f"entry {last}"


def _signed(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
