"""Drawings that explain: a model of two weights, TIES on six numbers, the plane of the slack.

They show definitions, not results, in the style and the colours of `plotting`. Each takes what
`langmerge.background` computed and gives a figure with its alternative text, made from the same
numbers. Shapes, dashes and hatches tell apart what colours do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from langmerge import plotting

if TYPE_CHECKING:
    from langmerge.background import Losses

#: The models of two weights that are drawn, the base first.
SHOWN = ("base", "ct", "sft", "ct_then_sft", "task_arithmetic", "average")
#: Slacks whose boundaries the plane shows.
SLACKS = (0.0, 1.0, 4.0)
#: The losses on text at which rings are drawn.
RINGS = (0.02, 0.1, 0.3, 0.7, 1.3, 2.2)
_MODELS = ("ct", "sft")
_HALO = [withStroke(linewidth=3, foreground="white")]


@dataclass(frozen=True)
class Toy:
    """Models of two weights: their paths, of shape (steps, 2), and losses along them."""

    paths: dict[str, np.ndarray]
    text: dict[str, np.ndarray]
    task: dict[str, np.ndarray]
    losses: Losses

    def at(self, name: str) -> int:
        """Which point of a path is the model: its end, but of the averages the one by halves."""
        return len(self.paths[name]) // 2 if name == "average" else -1


@dataclass(frozen=True)
class Steps:
    """Two task vectors (CT, SFT), what trim leaves of them, the elected signs, and the merge."""

    taus: tuple[tuple[float, ...], ...]
    votes: tuple[tuple[float, ...], ...]
    sign: tuple[float, ...]
    merged: tuple[float, ...]

    def conflicts(self, vectors: Sequence[Sequence[float]] | None = None) -> list[int]:
        """The entries in which two vectors (the trimmed ones) disagree in sign, from 0."""
        pairs = zip(*(vectors or self.votes), strict=True)
        return [entry for entry, (a, b) in enumerate(pairs) if a * b < 0]

    def out_voted(self, model: int) -> list[int]:
        """The entries of a model (0 is CT, 1 is SFT) that lose the election, from 0."""
        pairs = zip(self.votes[model], self.sign, strict=True)
        return [entry for entry, (vote, sign) in enumerate(pairs) if vote * sign < 0]

    def sft_survived(self) -> int:
        """How many SFT entries trim leaves."""
        return sum(vote != 0 for vote in self.votes[1])

    def sft_lost(self) -> int:
        """How many of them the election discards."""
        return len(self.out_voted(1))


@mpl.rc_context(plotting.STYLE)
def forgetting(toy: Toy) -> Figure:
    """The plane of the two weights: rings of the text's loss, the task's line, the paths."""
    fig, ax = _figure(5.6, 4.4)
    across, up = np.meshgrid(np.linspace(-1.1, 2.2, 120), np.linspace(-0.55, 2.3, 120))
    plane = np.stack([across, up], axis=-1)
    ax.contour(across, up, toy.losses.text(plane), RINGS, colors="#BBBBBB", linewidths=0.8)
    _solved(ax, toy)
    for name in ("ct", "sft", "ct_then_sft"):
        _path(ax, toy.paths[name], name, 8)
    ct, merged = toy.paths["ct"][-1], toy.paths["task_arithmetic"][-1]
    colour = plotting.COLOURS["task_arithmetic"]
    arrow = {"arrowstyle": "->", "color": colour, "linestyle": "dashed", "linewidth": 1.6}
    ax.annotate("", merged, ct, arrowprops=arrow)
    for name in ("base", "ct", "sft", "ct_then_sft", "task_arithmetic"):
        _model(ax, toy.paths[name][-1], name)
    ax.set_xlim(-1.1, 2.2)
    ax.set_ylim(-0.55, 2.3)
    ax.set_aspect("equal")
    ax.set_xlabel("first weight")
    ax.set_ylabel("second weight")
    ax.grid(visible=False)
    where = {name: toy.paths[name][-1] for name in ("ct", "sft", "ct_then_sft", "task_arithmetic")}
    listed = "; ".join(
        f"{plotting.label(name)} at ({x:.2f}, {y:.2f}), loss on text {toy.text[name][-1]:.2f}, "
        f"on the task {toy.task[name][-1]:.2f}"
        for name, (x, y) in where.items()
    )
    return _with_alt(
        fig,
        "A plane of two weights. Rings around the optimum of the text and a straight line where "
        f"the task is solved. Paths from the base at (0, 0): {listed}. From CT, the path of "
        "CT-then-SFT runs to the line, away from the centre of the rings.",
    )


def _solved(ax: Axes, toy: Toy) -> None:
    """The line on which the task's loss is 0."""
    u = np.array(toy.losses.direction)
    ax.axline(u, u + np.array([u[1], -u[0]]), color="#6E6E6E", linewidth=1, dashes=(6, 3))
    ax.text(-0.2, 1.25, "task solved", ha="right", va="center", fontsize=9, color="#444444",
            path_effects=_HALO)  # fmt: skip
    top = toy.losses.optimum[1] + math.sqrt(2 * RINGS[2] / toy.losses.curvature[1])
    ax.text(toy.losses.optimum[0], top, "equal loss on text", ha="center", va="center",
            fontsize=9, color="#444444", path_effects=_HALO)  # fmt: skip


@mpl.rc_context(plotting.STYLE)
def three_steps(steps: Steps) -> Figure:
    """Trim, elect, merge: three panels, one above the other, six parameters in each."""
    fig = Figure(figsize=(5.4, 6.6), layout="constrained", facecolor="white")
    axes = fig.subplots(3, 1, sharex=True, sharey=True)
    count = len(steps.sign)
    for model in range(2):
        kept = [entry for entry, vote in enumerate(steps.votes[model]) if vote]
        lost = steps.out_voted(model)
        _bars(axes[0], steps.taus[model], model, kept, [])
        _bars(axes[1], steps.votes[model], model, [e for e in kept if e not in lost], lost)
    for entry, sign in enumerate(steps.sign):
        voted = any(votes[entry] for votes in steps.votes)
        text = {1.0: "+", -1.0: "−"}[sign] if voted else ""
        axes[1].text(entry, 1.12, text, ha="center", va="center", fontsize=13, weight="bold")
    colour = plotting.COLOURS["ties_mean"]
    axes[2].bar(range(count), steps.merged, 0.6, color=colour, edgecolor="#333333")
    for entry, value in enumerate(steps.merged):
        above = value >= 0
        axes[2].annotate(f"{value:g}".replace("-", "−"), (entry, value), (0, 3 if above else -3),
                         textcoords="offset points", ha="center", fontsize=9,
                         va="bottom" if above else "top")  # fmt: skip
    for ax, name in zip(axes, ("1. trim", "2. elect", "3. merge"), strict=True):
        ax.axhline(0, color="#333333", linewidth=0.8)
        ax.set_ylim(-1.0, 1.35)
        ax.set_ylabel(name)
    axes[2].set_xticks(range(count), [str(entry + 1) for entry in range(count)])
    axes[2].set_xlabel("parameter")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return _with_alt(fig, _alt_steps(steps))


def _bars(
    ax: Axes, values: Sequence[float], model: int, kept: Sequence[int], lost: Sequence[int]
) -> None:
    """A model's entries: filled where kept, empty where trimmed, crossed out where out-voted."""
    name = _MODELS[model]
    width, hatch = 0.36, ("", "////")[model]
    for entry, value in enumerate(values):
        if not value:
            continue
        at = entry + (model - 0.5) * width
        filled = entry in kept
        ax.bar(at, value, width, facecolor=plotting.COLOURS[name] if filled else "white",
               edgecolor="#333333", hatch=hatch if filled else "", linewidth=0.9,
               linestyle="solid" if filled else "dotted",
               label=f"τ of {name.upper()}" if entry == min(kept) else None)  # fmt: skip
        if entry in lost:
            ax.plot(at, value / 2, marker="x", color="#000000", markersize=9, markeredgewidth=2)


def _alt_steps(steps: Steps) -> str:
    parts = []
    for entry, merged in enumerate(steps.merged):
        said = []
        for model, name in enumerate(("CT", "SFT")):
            value, vote = steps.taus[model][entry], steps.votes[model][entry]
            fate = "trimmed" if not vote else "kept"
            fate = "out-voted" if entry in steps.out_voted(model) else fate
            said.append(f"{name} {value:g} {fate}")
        parts.append(f"{entry + 1}: {', '.join(said)}, merged {merged:g}")
    return (
        "Three panels of bars, one above the other: trim, elect, merge, for six parameters. "
        f"{'; '.join(parts)}."
    )


@mpl.rc_context(plotting.STYLE)
def slack_plane(points: Sequence[tuple[float, float]], slack: float) -> Figure:
    """|b| (the SFT vote) against |a| (the CT vote): who is elected, for some slacks.

    points: pairs (|a|, |b|) of an example. slack: the one whose gain over none is shaded.
    """
    fig, ax = _figure(5.4, 4.2)
    b = np.array([0.0, 1.0])
    ax.fill_between(b, 0, b, facecolor=plotting.COLOURS["sft"], alpha=0.25, linewidth=0)
    ax.fill_between(b, b, (1 + slack) * b, facecolor="white", linewidth=0, hatch="///",
                    edgecolor=plotting.COLOURS["ties_sv"])  # fmt: skip
    for one, dash in zip(SLACKS, ("solid", "dashed", "dotted"), strict=True):
        ax.plot(b, (1 + one) * b, color="#333333", linestyle=dash)
        ax.annotate(f"ξ = {one:g}", (1 / (1 + one), 1), (0, 3), textcoords="offset points",
                    ha="center", va="bottom", annotation_clip=False)  # fmt: skip
    for a_size, b_size in points:
        ax.plot(b_size, a_size, color=plotting.COLOURS["ties_sv"], marker="*", markersize=15,
                markeredgecolor="#000000", linestyle="none", zorder=5)  # fmt: skip
    for x, y, text in (
        (0.74, 0.36, "SFT elected\nat any slack"), (0.255, 0.72, "CT\nelected"),
        (0.56, 0.72, f"SFT elected\nat ξ = {slack:g}"),
    ):  # fmt: skip
        ax.text(x, y, text, path_effects=_HALO, ha="center", va="center")
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.set_xlabel("size of the SFT vote, |b|")
    ax.set_ylabel("size of the CT vote, |a|")
    listed = ", ".join(f"|a| = {1 + one:g} |b| for slack {one:g}" for one in SLACKS)
    shown = "; ".join(
        f"the example at |b| = {b_size:g}, |a| = {a_size:g}, where SFT is elected from a slack "
        f"of {a_size / b_size - 1:.2g} on"
        for a_size, b_size in points
    )
    return _with_alt(
        fig,
        "The size of the SFT vote against that of the CT vote, with lines through the origin: "
        f"{listed}. Below its line SFT is elected, above it CT. The wedge between slack 0 and "
        f"slack {slack:g} is hatched. A star: {shown}.",
    )


@mpl.rc_context(plotting.STYLE)
def balance(toy: Toy) -> Figure:
    """Loss on the task against loss on text for the models of two weights; upper left is better."""
    fig, ax = _figure(5.6, 4.2)
    for name in ("ct_then_sft", "task_arithmetic", "average"):
        look = plotting.look(name)
        ax.plot(toy.text[name], toy.task[name], color=look.colour, linestyle=look.dash)
    for name in SHOWN:
        _model(ax, (toy.text[name][toy.at(name)], toy.task[name][toy.at(name)]), name)
    ax.margins(x=0.22, y=0.14)
    ax.invert_yaxis()
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(ticker.MultipleLocator(0.5))
        # A loss is never below 0; the margin there is for names.
        axis.set_major_formatter(lambda value, _: f"{value:g}" if value >= 0 else "")
    ax.grid(visible=True, axis="both")
    ax.set_xlabel("loss on text (less is better)")
    ax.set_ylabel("loss on the task (less is better, upwards)")
    listed = "; ".join(
        f"{plotting.label(name)} {toy.text[name][toy.at(name)]:.2f} "
        f"and {toy.task[name][toy.at(name)]:.2f}"
        for name in SHOWN
    )
    return _with_alt(
        fig,
        "Loss on the task, less of it further up, against loss on text, for the models of two "
        f"weights, text first: {listed}. Curves run from CT to CT-then-SFT, from the base to task "
        "arithmetic, and through the averages from SFT to CT.",
    )


def _path(ax: Axes, path: np.ndarray, name: str, every: int) -> None:
    look = plotting.look(name)
    ax.plot(*path.T, color=look.colour, linestyle=look.dash, linewidth=2)
    ax.plot(*path[every:-1:every].T, color=look.colour, marker=".", linestyle="none", markersize=5)


#: Where a model's name stands beside its point, in points; to its left where it goes there.
_BESIDE = {
    "base": (8, -10),
    "ct": (9, 2),
    "sft": (-9, 4),
    "ct_then_sft": (9, 4),
    "task_arithmetic": (-9, -12),
    "average": (10, 6),
}


def _model(ax: Axes, at: Sequence[float], name: str) -> None:
    """A model's marker with its name beside it."""
    look = plotting.look(name)
    ax.plot(*at, color=look.colour, marker=look.marker, markersize=9, linestyle="none", zorder=5,
            markeredgecolor=look.colour if look.marker == "x" else "#000000",
            markeredgewidth=2 if look.marker == "x" else 0.8)  # fmt: skip
    offset = _BESIDE[name]
    ax.annotate(look.label, at, offset, textcoords="offset points", fontsize=9, zorder=6,
                ha="left" if offset[0] > 0 else "right", path_effects=_HALO)  # fmt: skip


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A white figure of one panel; sizes in inches, small, so that a phone can show it."""
    fig = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    return fig, fig.subplots()


def _with_alt(fig: Figure, text: str) -> Figure:
    fig.alt_text = text
    return fig
