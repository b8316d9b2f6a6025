"""Figures: one style, one colour per method through the whole book.

Every function takes results and gives a `matplotlib.figure.Figure` on white, with units on
its axes, intervals on its points and no title (the caption has it). `alt(fig)` is the text
for readers who do not see it: what the figure shows, in numbers computed from the same
data. The figures are made without pyplot, so that a notebook shows each once.

Colours are Okabe & Ito's (2008, Color Universal Design) for the models of the findings and
Paul Tol's muted scheme for controls; markers and dashes differ too, so that the figures
can be read in grey.
"""

from __future__ import annotations

import contextlib
import functools
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import font_manager, ft2font, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from langmerge import statistics
from langmerge.claims import shown
from langmerge.errors import LangmergeError, nearest
from langmerge.statistics import Results, select


@dataclass(frozen=True)
class Look:
    """How a method is called and drawn; `dash` is matplotlib's (offset, (on, off, …))."""

    label: str
    colour: str
    marker: str
    dash: str | tuple[int, tuple[float, ...]]


LOOKS: dict[str, Look] = {
    "base": Look("base", "#6E6E6E", "x", (0, (1, 2))),
    "ct": Look("CT only", "#56B4E9", "s", (0, (1, 1))),
    "sft": Look("SFT only", "#E69F00", "D", (0, (5, 3))),
    "ct_then_sft": Look("CT-then-SFT", "#000000", "o", "solid"),
    "average": Look("weighted average", "#009E73", "^", (0, (6, 2))),
    "task_arithmetic": Look("task arithmetic", "#CC79A7", "v", (0, (6, 2, 1, 2))),
    "ties_mean": Look("TIES (mean)", "#0072B2", "P", (0, (3, 1))),
    "ties_sum": Look("TIES (sum)", "#332288", "X", (0, (3, 1, 1, 1))),
    "ties_sv": Look("TIES with slack", "#D55E00", "*", (0, (9, 2))),
    "chat_vector": Look("Chat Vector", "#AA4499", "<", (0, (4, 2, 1, 2, 1, 2))),
    "half_sft": Look("half of SFT", "#999933", ">", (0, (2, 2))),
    "shuffled_ct": Look("shuffled CT", "#A0A0A0", "d", (0, (1, 3))),
    "norm_matched_ct": Look("norm-matched CT", "#882255", "h", (0, (8, 3, 2, 3))),
    "target_sft": Look("SFT in the target language", "#117733", "p", (0, (10, 3))),
}
# A reader's own elections (custom:<name>), in the order in which they are drawn.
CUSTOM: tuple[Look, ...] = (
    Look("", "#44AA99", "8", (0, (2, 1))),
    Look("", "#B8860B", "H", (0, (7, 1, 1, 1))),
    Look("", "#7B3294", "1", (0, (12, 2))),
)
METHODS: tuple[str, ...] = tuple(LOOKS)
#: A model with so many times the others' bits per byte would squeeze them into one place.
FAR = 3.0
#: What tables call the columns of results and diagnostics.
COLUMNS = {
    "ct_tokens": "CT tokens",
    "conflict_rate": "conflicts",
    "kept_sft": "SFT kept",
    "trimmed_sft": "trimmed",
    "outvoted_sft": "out-voted",
    "discarded_sft_share": "discarded share",
    "norm_ratio": "CT norm / SFT norm",
    "counts": "a task",
}
# What the families add (`langmerge.families`). Letters are told apart where colours are many.
LOOKS |= {
    "widen": Look("WIDEN", "#1B7837", "$W$", (0, (11, 1, 1, 1))),
    "dare_linear": Look("DARE (linear)", "#E31A8C", "$d$", (0, (2, 3))),
    "dare_ties": Look("DARE (TIES)", "#8C1D40", "$D$", (0, (4, 1, 1, 1))),
    "della": Look("DELLA", "#B15928", "$\\ell$", (0, (5, 1, 2, 1))),
    "breadcrumbs": Look("breadcrumbs", "#6A3D9A", "$b$", (0, (3, 3))),
    "model_stock": Look("Model Stock", "#0B525B", "$M$", (0, (13, 3))),
    "slerp": Look("SLERP", "#5E8C00", "$S$", (0, (6, 1, 3, 1))),
    "layer_swapping": Look("layer swapping", "#3D5A80", "$L$", (0, (8, 1, 2, 1, 2, 1))),
    "scaled_sft": Look("shrunk SFT", "#C9A000", "$\\lambda$", (0, (4, 4))),
    "ct_then_sft_slow": Look("CT-then-SFT, lower rate", "#4D4D4D", "$o$", (0, (1, 4))),
    "ct_then_sft_replay": Look("CT-then-SFT with replay", "#005F73", "$R$", (0, (7, 2))),
    "sft_then_ct": Look("SFT-then-CT", "#9B2226", "$c$", (0, (5, 5))),
    "joint": Look("CT and SFT in one run", "#7F4F24", "$J$", (0, (9, 1, 1, 1, 1, 1))),
    "ct_repeated": Look("CT, text repeated", "#6C757D", "$C$", (0, (3, 2, 1, 2))),
    "ct_then_sft_repeated": Look("CT-then-SFT, text repeated", "#F4772E", "$F$", (0, (7, 3))),
    "average_repeated": Look("average, text repeated", "#1F78B4", "$A$", (0, (4, 2, 1, 2))),
    "task_arithmetic_repeated": Look(
        "task arithmetic, text repeated", "#33A02C", "$K$", (0, (9, 2, 2, 2))
    ),
    "ties_mean_repeated": Look("TIES (mean), text repeated", "#5D3A9B", "$T$", (0, (12, 3, 2, 3))),
    "layer_swapping_repeated": Look(
        "layer swapping, text repeated", "#C1121F", "$Y$", (0, (2, 2, 6, 2))
    ),
    "sft_frozen": Look("SFT, embeddings frozen", "#B8B000", "$e$", (0, (1, 1, 4, 2))),
    "ct_then_sft_frozen": Look(
        "CT-then-SFT, embeddings frozen", "#C44E00", "$E$", (0, (10, 2, 1, 2))
    ),
    "task_arithmetic_frozen": Look(
        "task arithmetic, embeddings frozen", "#1A9850", "$k$", (0, (8, 2, 4, 2))
    ),
    "ties_mean_frozen": Look(
        "TIES (mean), embeddings frozen", "#7A52C7", "$h$", (0, (14, 2, 2, 2))
    ),
    "layer_swapping_frozen": Look(
        "layer swapping, embeddings frozen", "#27496D", "$y$", (0, (3, 2, 8, 2))
    ),
    "restored_sft": Look("lost SFT restored", "#2A9D8F", "$+$", (0, (2, 5))),
    "random_drop": Look("as many lost at random", "#7A7A00", "$?$", (0, (1, 5))),
    "rescaled_ct": Look("CT rescaled before election", "#2166AC", "$\\tau$", (0, (3, 5))),
    "heavier_sft": Look("larger weight of SFT", "#B2182B", "$w$", (0, (4, 6))),
    "larger_lambda": Look("larger lambda", "#542788", "$\\Lambda$", (0, (6, 6))),
    "trimmed_sft": Look("trimmed SFT, no CT", "#A6761D", "$t$", (0, (8, 8))),
}
LABELS: dict[str, str] = {method: look.label for method, look in LOOKS.items()}
COLOURS: dict[str, str] = {method: look.colour for method, look in LOOKS.items()}
TASKS = {
    "mean": "mean of the tasks",
    "topic": "topic of a text",
    "kind": "kind of a thing",
    "thing": "what is acted on",
    "action": "what is done",
}
COMPARED = ("base", "sft", "ct", "ct_then_sft", "average", "task_arithmetic", "ties_mean")
STYLE = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.transparent": False,
    "savefig.dpi": 150,
    "figure.dpi": 110,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "axes.edgecolor": "#333333",
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "axes.labelsize": 10,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "lines.markersize": 6,
    "svg.hashsalt": "langmerge",
}


def use_style() -> None:
    """Sets the book's style for all figures of this process (a notebook's first cell)."""
    mpl.rcParams.update(STYLE)


def look(method: str) -> Look:
    """How a method is drawn; a reader's own `custom:<name>` gets one of its own looks.

    Raises LangmergeError for a method that nobody knows.
    """
    if method in LOOKS:
        return LOOKS[method]
    if not method.startswith("custom:"):
        raise LangmergeError(f"no such method {method!r}: {nearest(method, LOOKS)}")
    name = method.removeprefix("custom:")
    own = CUSTOM[sum(map(ord, name)) % len(CUSTOM)]
    return Look(f"{name} (yours)", own.colour, own.marker, own.dash)


def label(method: str) -> str:
    """A method's name for readers."""
    return look(method).label


def table(frame: pd.DataFrame, name: str) -> Styler:
    """A frame as a table for a page: methods by their labels, three decimals, no index.

    name: makes the table's HTML the same at every run. Columns go by the names that readers know.
    """
    shown = frame.assign(method=frame["method"].map(label)) if "method" in frame else frame
    shown = shown.dropna(axis="columns", how="all").rename(columns=COLUMNS)
    whole = [column for column in shown if pd.api.types.is_integer_dtype(shown[column])]
    formats: dict[str, Any] = {column: "{:,}" for column in whole if column != "seed"}
    if "slack" in shown:
        formats["slack"] = slack_text
    return shown.style.hide().set_uuid(name).format(formats, precision=3, na_rep="")


def slack_text(slack: float) -> str:
    """A slack for a table: as short as it is, and nothing where there is none."""
    if math.isnan(slack):
        return ""
    return "∞" if math.isinf(slack) else f"{slack:g}"


def alt(fig: Figure) -> str:
    """The figure's alternative text: what it shows, computed from its data."""
    return fig.alt_text


def save(fig: Figure, path: Path) -> Path:
    """Writes a figure as PNG, its alternative text in the file's description."""
    path = path.with_suffix(".png")
    with mpl.rc_context(STYLE):
        fig.savefig(path, metadata={"Description": alt(fig)})
    return path


@mpl.rc_context(STYLE)
def accuracy_against_tokens(
    results: Results,
    methods: Sequence[str] | None = None,
    task: str = "mean",
    setting: str = "tuned",
    language: str | None = None,
) -> Figure:
    """Task accuracy against CT tokens (log): seeds as dots, their mean with its 95 % interval.

    Models without CT (base, SFT) are horizontal lines, chance a thin one. `methods`
    defaults to the comparison of finding 1. Raises LangmergeError for a method, task or
    language that the results lack.
    """
    language = statistics.one_language(results, language)
    means, seeds = _means(results, methods, "accuracy", task, setting, language)
    fig, (ax,) = _figure(7.2, 4.0)
    _curves(ax, means, seeds)
    chance = _chance(results, task)
    _chance_line(ax, chance)
    _token_axis(ax, results.budgets)
    _share_axis(ax, f"accuracy, {TASKS.get(task, task)} (%)")
    _within_shares(ax)
    _legend(ax)
    return _with_alt(fig, _alt_accuracy(language, means, task, chance))


@mpl.rc_context(STYLE)
def per_task(
    results: Results,
    methods: Sequence[str] | None = None,
    setting: str = "tuned",
    language: str | None = None,
) -> Figure:
    """Accuracy against CT tokens, one panel per reported task, with the task's chance."""
    language = statistics.one_language(results, language)
    tasks = list(results.tasks)
    columns = min(2, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    fig, axes = _figure(4.2 * columns + 1.2, 2.7 * rows + 0.4, rows, columns, share=True)
    texts = []
    for ax, task in zip(axes, tasks, strict=False):
        means, seeds = _means(results, methods, "accuracy", task, setting, language)
        _curves(ax, means, seeds)
        _chance_line(ax, _chance(results, task))
        _token_axis(ax, results.budgets)
        _share_axis(ax, "accuracy (%)")
        _panel(ax, TASKS.get(task, task))
        texts.append(_alt_accuracy(language, means, task, _chance(results, task)))
    for ax in axes[len(tasks) :]:
        ax.remove()
    _within_shares(axes[0])
    _inner_labels_off(axes[: len(tasks)], columns)
    _legend(axes[0])
    return _with_alt(fig, " ".join(texts))


@mpl.rc_context(STYLE)
def balance(
    results: Results,
    ct_tokens: int,
    methods: Sequence[str] | None = None,
    setting: str = "tuned",
    language: str | None = None,
) -> Figure:
    """Target bits per byte against mean task accuracy at one CT budget: one point a model.

    Models without CT are drawn too. The better corner is the upper left one. A model that is far
    to the right of the others is named at the edge, with its bits. Raises LangmergeError where the
    budget was not run.
    """
    language = statistics.one_language(results, language)
    if ct_tokens not in results.budgets:
        raise LangmergeError(
            f"no models at {ct_tokens:,} CT tokens: the budgets are {list(results.budgets)}."
        )
    methods = _present(results, methods, METHODS)
    both = [
        _means(results, methods, metric, "mean", setting, language)[0].query(
            f"ct_tokens in (0, {ct_tokens})"
        )
        for metric in ("bits_per_byte", "accuracy")
    ]
    points = both[0].merge(both[1], on="method", suffixes=("_bits", "_accuracy"))
    fig, (ax,) = _figure(7.2, 4.2)
    for point in points.itertuples():
        _point(ax, point)
    chance = _chance(results, "mean")
    _chance_line(ax, chance)
    ax.set_xlabel("bits per byte of the target language (fewer is better)")
    ax.grid(visible=True, axis="both")
    _share_axis(ax, "accuracy, mean of the tasks (%)")
    _name_far_ones(ax, points)
    _legend(ax)
    return _with_alt(fig, _alt_balance(language, ct_tokens, points, chance))


@mpl.rc_context(STYLE)
def discarded_by_layer(
    results: Results,
    method: str = "ties_mean",
    setting: str = "tuned",
    language: str | None = None,
) -> Figure:
    """SFT parameters that the election discards as CT grows: whole model, and by layer.

    Left: the whole model's share of out-voted among surviving SFT entries, seeds as dots,
    their mean with the t interval over seeds. Right: the mean share by layer.
    """
    language = statistics.one_language(results, language)
    tensors = _tensors(results, method, setting, language)
    whole = statistics.whole_model(tensors)
    layers = statistics.whole_model(tensors, by=["layer"])
    fig, (left, right) = _figure(8.6, 3.6, 1, 2)
    _seed_curve(left, whole, "discarded_sft_share", method)
    _token_axis(left, results.budgets)
    _share_axis(left, "SFT parameters out-voted (%)")
    left.set_ylim(bottom=0)
    _layer_map(right, layers)
    return _with_alt(fig, _alt_discarded(language, whole, layers))


@mpl.rc_context(STYLE)
def norms(
    results: Results,
    method: str = "ties_mean",
    setting: str = "tuned",
    language: str | None = None,
) -> Figure:
    """Length of the CT update over the SFT update, against CT tokens (both axes log)."""
    language = statistics.one_language(results, language)
    whole = statistics.whole_model(_tensors(results, method, setting, language))
    fig, (ax,) = _figure(6.0, 3.6)
    _seed_curve(ax, whole, "norm_ratio", "ct")
    ax.axhline(1, color="#6E6E6E", linewidth=1, linestyle="dotted")
    ax.annotate(
        "equal length", (1, 1), (0, 3), ("axes fraction", "data"), "offset points", ha="right"
    )
    _token_axis(ax, results.budgets)
    ax.set_yscale("log", base=2)
    ax.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    ax.set_ylabel(r"$\Vert\tau_{CT}\Vert\ /\ \Vert\tau_{SFT}\Vert$ (ratio)")
    means = whole.groupby("ct_tokens")["norm_ratio"].mean()
    listed = _listed([f"{ratio:.2g} at {_tokens(at)}" for at, ratio in means.items()])
    return _with_alt(
        fig,
        f"Norm of the CT update divided by that of the SFT update against CT tokens, "
        f"{language}, mean over {_seeds(whole['seed'].nunique())}: {listed}.",
    )


@mpl.rc_context(STYLE)
def slack_curve(results: Results, language: str | None = None) -> Figure:
    """Accuracy and bits per byte against slack, one line per CT budget.

    The axis is log2(1 + slack), for slack weighs the SFT vote by 1 + slack; infinite slack
    (SFT is never out-voted) stands at the right edge beyond a gap. Raises LangmergeError
    where the results hold no slack sweep.
    """
    language = statistics.one_language(results, language)
    fig, axes = _figure(9.0, 3.8, 1, 2)
    sweeps = [_sweep(results, metric, language) for metric in ("accuracy", "bits_per_byte")]
    for ax, (means, seeds) in zip(axes, sweeps, strict=True):
        _slack_lines(ax, means, seeds)
    _share_axis(axes[0], "accuracy, mean of the tasks (%)")
    axes[1].set_ylabel("bits per byte, target language")
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside right center", title="CT tokens", handlelength=3)
    return _with_alt(fig, _alt_slack(language, *(means for means, _ in sweeps)))


@mpl.rc_context(STYLE)
def option_probabilities(table: pd.DataFrame) -> Figure:
    """One live test item: each option's probability by each model, the right one marked.

    `table`: columns `method`, `option` (as the model reads it), `gloss` (English),
    `probability`, `correct` (bool), one row per model and option. The option is written in
    its script where an installed font has it, by its gloss alone where none has.
    """
    needed = {"method", "option", "gloss", "probability", "correct"}
    if needed - set(table):
        raise LangmergeError(f"the table of options lacks {sorted(needed - set(table))}.")
    methods = list(dict.fromkeys(table["method"]))
    options = table.drop_duplicates("option")
    columns = min(3, len(methods))
    rows = math.ceil(len(methods) / columns)
    height = rows * (0.34 * len(options) + 0.75) + 0.3
    fig, axes = _figure(2.3 * columns + 2.2, height, rows, columns)
    for ax, method in zip(axes, methods, strict=False):
        _option_bars(ax, table[table["method"] == method], options, method)
        _name_options(ax, options)
    for ax in axes[len(methods) :]:
        ax.remove()
    for index in range(len(methods)):
        axes[index].tick_params(axis="y", labelleft=index % columns == 0)
    _inner_labels_off(axes[: len(methods)], columns)
    return _with_alt(fig, _alt_options(table, methods))


@mpl.rc_context(STYLE)
def effects_by_language(
    across: pd.DataFrame, names: Mapping[str, str], mine: pd.DataFrame | None = None
) -> Figure:
    """What each language says of each claim, a panel a claim: effects with 95 % intervals.

    across: as `claims.across` gives; the row of all languages stands below the others. names: the
    languages' names, in the order in which they stand. mine: the same of a run of the reader's
    own, drawn beside its language or below all. A point without a bar is one seed's value.
    """
    panels = list(dict.fromkeys(across["claim"]))
    own = [] if mine is None else [code for code in dict.fromkeys(mine["language"]) if code]
    order = [code for code in names if (across["language"] == code).any()]
    places = {code: len(order) + 1.5 - index for index, code in enumerate(order)}
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    height = rows * (0.18 * (len(order) + 3) + 0.9)
    fig, axes = _figure(3.1 * columns + 1.4, height, rows, columns)
    texts = []
    for ax, claim in zip(axes, panels, strict=False):
        its = across[across["claim"] == claim]
        _effect_points(ax, its[its["language"] != ""], places, "#0072B2", "o", "reference run")
        ax.axvline(0, color="#333333", linewidth=0.8)
        pooled = its[its["language"] == ""].assign(language="all")
        _effect_points(ax, pooled, {"all": 0.5}, "#000000", "D", "all of them")
        if mine is not None:
            yours = mine[mine["claim"] == claim]
            at = {code: places.get(code, -0.5) - 0.3 for code in own}
            _effect_points(ax, yours[yours["language"] != ""], at, "#D55E00", "*", "your run")
        ax.axhline(1, color="#9A9A9A", linewidth=0.8)
        ax.set_yticks([*places.values(), 0.5], [*(names[code] for code in order), "all"])
        ax.set_ylim(-1.1, len(order) + 2)
        ax.grid(visible=False, axis="y")
        ax.grid(visible=True, axis="x")
        ax.set_xlabel(shown(its["metric"].iloc[0], 0.0)[1])
        _panel(ax, claim)
        texts.append(_alt_effects(claim, its))
    for ax in axes[len(panels) :]:
        ax.remove()
    for index, ax in enumerate(axes[: len(panels)]):
        ax.tick_params(axis="y", labelleft=index % columns == 0, length=0)
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper left", ncols=3)
    return _with_alt(fig, " ".join(texts))


def _effect_points(
    ax: Axes,
    effects: pd.DataFrame,
    places: Mapping[str, float],
    colour: str,
    marker: str,
    label: str,
) -> None:
    """Effects in the units that readers see, each at its language's place."""

    def scaled(column: str) -> np.ndarray:
        return np.array(
            [shown(row.metric, getattr(row, column))[0] for row in effects.itertuples()]
        )

    if effects.empty:
        return
    finite = np.isfinite(effects["low"].to_numpy(dtype=float))
    middle = scaled("effect")
    low, high = np.where(finite, scaled("low"), middle), np.where(finite, scaled("high"), middle)
    ax.errorbar(
        middle,
        effects["language"].map(places),
        xerr=np.array([middle - low, high - middle]),
        color=colour,
        marker=marker,
        markersize=8 if marker == "*" else 5,
        elinewidth=1.1,
        linestyle="none",
        label=label,
    )


def _alt_effects(claim: str, effects: pd.DataFrame) -> str:
    """What a panel shows, in numbers."""
    metric, side = effects[["metric", "side"]].iloc[0]
    single = effects[effects["language"] != ""]
    values = [shown(metric, value)[0] for value in single["effect"]]
    unit = shown(metric, 0.0)[1]
    claimed = sum((value > 0) == (side != "less") for value in values)
    where = "above 0" if side == "either" else "on the claimed side"
    told = (
        f"{claim}: in {claimed} of {len(values)} languages {where}, from "
        f"{min(values):+.1f} to {max(values):+.1f} {unit}"
    )
    for row in effects[effects["language"] == ""].itertuples():
        mean, low, high = (shown(metric, v)[0] for v in (row.effect, row.low, row.high))
        told += f"; all together {mean:+.1f} ({low:+.1f} to {high:+.1f})"
    return f"{told}."


@mpl.rc_context(STYLE)
def effects_against(
    effects: pd.DataFrame, traits: pd.DataFrame, claim: str, mine: pd.DataFrame | None = None
) -> Figure:
    """One claim's effects against what the languages are like, a panel a trait.

    effects and mine: rows as `claims.across` gives, of one claim. traits: a row a language (its
    index), a column a trait; of a column of text the values stand side by side. The alternative
    text has Spearman's rank correlation of every numeric trait.
    """
    columns = min(2, len(traits.columns))
    rows = math.ceil(len(traits.columns) / columns)
    fig, axes = _figure(3.6 * columns + 0.6, 2.7 * rows + 0.4, rows, columns)
    told = []
    for index, (ax, trait) in enumerate(zip(axes, traits.columns, strict=False)):
        kinds = traits[trait]
        if not pd.api.types.is_numeric_dtype(kinds):
            names = sorted(kinds.unique())
            kinds = kinds.map(names.index) + _aside(kinds)
            ax.set_xticks(range(len(names)), names, rotation=45 if len(names) > 4 else 0)
            ax.set_xlim(-0.6, len(names) - 0.4)
        else:
            told.append(_rank_correlation(trait, effects, kinds))
        _upright_effects(ax, effects, kinds, "#0072B2", "o", "reference run")
        if mine is not None:
            _upright_effects(ax, mine, kinds, "#D55E00", "*", "your run")
        ax.axhline(0, color="#333333", linewidth=0.8)
        ax.set_xlabel(f"{trait} (points above chance)" if trait == "English SFT alone" else trait)
        if index % columns == 0:
            ax.set_ylabel(f"effect ({shown(effects['metric'].iloc[0], 0.0)[1]})")
    for ax in axes[len(traits.columns) :]:
        ax.remove()
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    text = f"{_alt_effects(claim, effects)} Against what languages are like: {_listed(told)}."
    return _with_alt(fig, text)


def _aside(kinds: pd.Series) -> pd.Series:
    """How far to the side each of a kind is drawn, so that none hides another."""
    sizes = kinds.map(kinds.value_counts())
    return (kinds.groupby(kinds).cumcount() - (sizes - 1) / 2) * (0.6 / sizes.clip(lower=6))


def _upright_effects(
    ax: Axes, effects: pd.DataFrame, places: pd.Series, colour: str, marker: str, label: str
) -> None:
    """Effects with their intervals on the y axis, at the places of their languages."""
    if effects.empty:
        return
    metric = effects["metric"].iloc[0]
    middle, low, high = (
        np.array([shown(metric, value)[0] for value in effects[column]])
        for column in ("effect", "low", "high")
    )
    finite = np.isfinite(low)
    ax.errorbar(
        effects["language"].map(places),
        middle,
        yerr=[np.where(finite, middle - low, 0), np.where(finite, high - middle, 0)],
        color=colour,
        marker=marker,
        markersize=9 if marker == "*" else 5,
        elinewidth=0.8,
        alpha=0.85,
        linestyle="none",
        label=label,
    )


def _rank_correlation(trait: str, effects: pd.DataFrame, kinds: pd.Series) -> str:
    """Spearman's rho of effects and a trait in words; of fewer than four languages it is none."""
    pairs = pd.DataFrame({"x": effects["language"].map(kinds), "y": effects["effect"]}).dropna()
    if len(pairs) < 4 or pairs["x"].nunique() < 2:
        return f"{trait}, too few languages for a rank correlation"
    rho = pairs["x"].corr(pairs["y"], method="spearman")
    return f"{trait}, rank correlation {rho:+.2f} over {len(pairs)} languages"


@mpl.rc_context(STYLE)
def gains_against(gains: pd.DataFrame, what: str, mine: pd.DataFrame | None = None) -> Figure:
    """Gains in accuracy against norm ratio (log) and discarded share, coloured by CT tokens.

    gains and mine: as `other_languages.gains` gives; one point a language and budget, the mean of
    its bases and seeds, and a black one for the mean of the languages.
    """
    conditions = ["norm_ratio", "discarded_sft_share"]
    each = _means_of(gains, conditions)
    own = None if mine is None else _means_of(mine, conditions)
    fig, axes = _figure(8.6, 3.7, 1, 2)
    budgets = sorted(each["ct_tokens"].unique())
    shades = sns.color_palette("viridis_r", len(budgets) + 1)[1:]
    for ax, condition in zip(axes, conditions, strict=True):
        for budget, shade in zip(budgets, shades, strict=True):
            its = each[each["ct_tokens"] == budget]
            ax.plot(
                its[condition], 100 * its["gain"], "o", color=shade, markersize=4, alpha=0.7,
                label=f"{_tokens(budget)} CT tokens",
            )  # fmt: skip
        middle = each.groupby("ct_tokens")[[*conditions, "gain"]].mean()
        ax.plot(middle[condition], 100 * middle["gain"], "D-", color="black", label="mean")
        if own is not None:
            ax.plot(
                own[condition], 100 * own["gain"], "*", color="#D55E00", markersize=10,
                markeredgecolor="white", label="your run",
            )  # fmt: skip
        ax.axhline(0, color="#333333", linewidth=0.8)
    axes[0].set_xscale("log", base=2)
    axes[0].xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes[0].set_xlabel(r"$\Vert\tau_{CT}\Vert\ /\ \Vert\tau_{SFT}\Vert$ (ratio)")
    axes[0].set_ylabel("gain in accuracy (points)")
    axes[1].xaxis.set_major_formatter(percent_ticks())
    axes[1].set_xlabel("SFT parameters out-voted (%)")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    told = [
        f"{100 * row.gain:+.1f} points at {_tokens(row.Index)} CT tokens, ratio "
        f"{row.norm_ratio:.2g} and {_percent(row.discarded_sft_share)} out-voted"
        for row in middle.itertuples()
    ]
    return _with_alt(
        fig, f"{what}, mean over {each['language'].nunique()} languages: {_listed(told)}."
    )


def _means_of(gains: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    columns = [*conditions, "gain"]
    return gains.groupby(["language", "ct_tokens"])[columns].mean().reset_index()


@mpl.rc_context(STYLE)
def over_reference(
    mine: Mapping[str, pd.DataFrame], many: Mapping[str, pd.DataFrame] | None = None
) -> Figure:
    """A run drawn over the reference run, against CT tokens, a panel a title.

    mine and many: by title, with the columns language, seed, ct_tokens and value (a share). Every
    language of the reference run is a thin grey line, their mean with the interval over languages a
    black one; the run is orange, its seeds dots.
    """
    fig, axes = _figure(4.3 * len(mine), 3.7, 1, len(mine))
    told = []
    for ax, (title, own) in zip(axes, mine.items(), strict=True):
        budgets = sorted(own["ct_tokens"].unique())
        if many:
            each = many[title].groupby(["language", "ct_tokens"])["value"].mean().reset_index()
            budgets = sorted(each["ct_tokens"].unique())
            for _, line in each.groupby("language"):
                ax.plot(line["ct_tokens"], line["value"], color="#B0B0B0", linewidth=0.8, zorder=1)
            _seed_curve(ax, each, "value", "ct_then_sft", "mean of the reference run")
            told.append(f"{title}, mean of {each['language'].nunique()} languages: {_ends(each)}")
        _seed_curve(ax, own, "value", "ties_sv", "your run")
        told.append(f"{title}, your run: {_ends(own)}")
        _token_axis(ax, budgets)
        _share_axis(ax, title)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return _with_alt(fig, f"Against CT tokens. {'; '.join(told)}.")


def _ends(values: pd.DataFrame) -> str:
    """The mean at the smallest and at the largest budget."""
    means = values.groupby("ct_tokens")["value"].mean()
    ends = dict.fromkeys([means.index[0], means.index[-1]])
    return " and ".join(f"{100 * means[at]:.1f} at {_tokens(at)}" for at in ends)


def font_for(text: str) -> list[str] | None:
    """Font families that together draw `text`, the book's own first; None where none can."""
    letters = {ord(one) for one in text if not _invisible(one)}
    own = STYLE["font.family"][0]
    fonts = _fonts()
    foreign = letters - _letters(fonts[own])
    if not foreign:
        return [own]
    for name in sorted(fonts, key=lambda name: (not name.startswith("Noto Sans"), name)):
        if foreign <= _letters(fonts[name]):
            return [name, own]
    return None


@functools.cache
def _fonts() -> dict[str, str]:
    """The file of every installed upright regular font, by family.

    matplotlib keeps a list of fonts from its first run: those installed since are added.
    The last-resort font is left out, for it draws a box for everything.
    """
    listed = font_manager.fontManager
    known = {entry.fname for entry in listed.ttflist}
    for path in sorted(set(font_manager.findSystemFonts()) - known):
        # A file that is no readable font is no font to draw with; there may be others.
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            listed.addfont(path)
    return {
        entry.name: entry.fname
        for entry in reversed(listed.ttflist)
        if entry.style == "normal"
        and entry.weight in (400, "normal", "regular")
        and not entry.name.startswith("Last Resort")
        and Path(entry.fname).is_file()
    }


@functools.cache
def _letters(path: str) -> frozenset[int]:
    """The code points that a font file has."""
    return frozenset(ft2font.FT2Font(path).get_charmap())


def _invisible(letter: str) -> bool:
    return letter.isspace() or unicodedata.category(letter) == "Cf"


def _figure(
    width: float, height: float, rows: int = 1, columns: int = 1, share: bool = False
) -> tuple[Figure, list[Axes]]:
    """A white figure in the book's style, and its axes row by row; sizes in inches."""
    fig = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = fig.subplots(rows, columns, squeeze=False, sharex=share, sharey=share)
    return fig, list(axes.flat)


def _with_alt(fig: Figure, text: str) -> Figure:
    fig.alt_text = text
    return fig


def _present(results: Results, methods: Sequence[str] | None, default: Sequence[str]) -> list[str]:
    """The methods to draw: those asked for, each of which must be there, or the default's."""
    known = list(dict.fromkeys(results.rows["method"]))
    if methods is None:
        return [method for method in default if method in known]
    for method in methods:
        if method not in known:
            raise LangmergeError(f"the results hold no {method!r}: {nearest(method, known)}")
    return list(methods)


def _run(results: Results, language: str) -> str:
    """Which run to make for what is missing."""
    return (
        f"`langmerge run --language {language} --profile {results.profile}` makes it, if the "
        "profile lists it."
    )


def _means(
    results: Results,
    methods: Sequence[str] | None,
    metric: str,
    task: str,
    setting: str,
    language: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The models' means with intervals, and their values by seed, in drawing order."""
    chosen = _present(results, methods, COMPARED)
    wanted = {"method": chosen, "setting": [setting, "fixed"]}
    means = statistics.summarize(results, metric, task, language, **wanted)
    lacking = [method for method in methods or () if method not in set(means["method"])]
    if lacking:
        raise LangmergeError(
            f"the results for {language} hold no {lacking[0]!r} with setting {setting!r}: "
            f"{_run(results, language)}"
        )
    if means.empty:
        raise LangmergeError(
            f"the results for {language} hold nothing to draw ({metric}, {', '.join(chosen)}): "
            f"{_run(results, language)}"
        )
    order = means["method"].map(chosen.index)
    means = means.assign(order=order).sort_values(["order", "ct_tokens"]).drop(columns="order")
    return means, statistics.per_seed(results, metric, task, language, **wanted)


def _curves(ax: Axes, means: pd.DataFrame, seeds: pd.DataFrame) -> None:
    """Models with CT as curves, side by side at a budget; those without as level lines."""
    methods = list(dict.fromkeys(means["method"]))
    with_ct = [method for method in methods if means.query("method == @method")["ct_tokens"].any()]
    for method in methods:
        mean = means[means["method"] == method]
        if method not in with_ct:
            _level(ax, mean.iloc[0], method)
            continue
        aside = 1.035 ** (with_ct.index(method) - (len(with_ct) - 1) / 2)
        each = seeds[seeds["method"] == method]
        _interval_line(ax, mean["ct_tokens"] * aside, mean, look(method))
        _dots(ax, each["ct_tokens"] * aside, each["value"], look(method).colour)


def _level(ax: Axes, mean: pd.Series, method: str) -> None:
    style = look(method)
    ax.axhspan(mean["low"], mean["high"], color=style.colour, alpha=0.12, linewidth=0)
    ax.axhline(mean["value"], color=style.colour, linestyle=style.dash, label=style.label)


def _interval_line(ax: Axes, x: pd.Series, mean: pd.DataFrame, style: Look) -> None:
    """Means joined by a line, with their intervals (left out where one seed gives none)."""
    half = np.abs(mean[["low", "high"]].sub(mean["value"], axis=0).to_numpy(dtype=float).T)
    ax.errorbar(
        x,
        mean["value"],
        yerr=np.where(np.isfinite(half), half, np.nan),
        color=style.colour,
        marker=style.marker,
        linestyle=style.dash,
        markersize=9 if style.marker == "*" else 6,
        elinewidth=1.1,
        capsize=2,
        label=style.label,
    )


def _dots(ax: Axes, x: pd.Series, y: pd.Series, colour: str) -> None:
    ax.plot(x, y, ".", color=colour, alpha=0.4, markersize=4, linestyle="none", zorder=1.5)


def _seed_curve(
    ax: Axes, whole: pd.DataFrame, column: str, method: str, label: str | None = None
) -> None:
    """One value per seed and budget as dots, their mean with the t interval over seeds."""
    means = []
    for ct_tokens, part in whole.groupby("ct_tokens"):
        effect = statistics.t_interval(part[column])
        interval = {"value": effect.estimate, "low": effect.low, "high": effect.high}
        means.append({"ct_tokens": ct_tokens} | interval)
    mean = pd.DataFrame(means)
    style = look(method)
    style = style if label is None else Look(label, style.colour, style.marker, style.dash)
    _interval_line(ax, mean["ct_tokens"], mean, style)
    _dots(ax, whole["ct_tokens"], whole[column], style.colour)


def _tensors(results: Results, method: str, setting: str, language: str) -> pd.DataFrame:
    found = select(results.diagnostics, language=language, setting=setting)
    if "method" in found:
        found = found[found["method"] == method]
    if found.empty:
        raise LangmergeError(
            f"no diagnostics of {method!r} with setting {setting!r} for {language}: "
            f"{_run(results, language)}"
        )
    return found


def _layer_map(ax: Axes, layers: pd.DataFrame) -> None:
    """Heat map of the mean share by layer (top layer above) and CT tokens."""
    grid = layers.pivot_table(
        index="layer", columns="ct_tokens", values="discarded_sft_share", aggfunc="mean"
    ).sort_index(ascending=False)
    sns.heatmap(
        grid,
        ax=ax,
        vmin=0,
        cmap="cividis",
        annot=100 * grid if len(grid) <= 12 else False,
        fmt=".0f",
        linewidths=0.5,
        cbar_kws={"label": "SFT parameters out-voted (%)"},
        xticklabels=[_tokens(at) for at in grid.columns],
        yticklabels=["embedding" if layer < 0 else f"{layer + 1}" for layer in grid.index],
    )
    ax.collections[0].colorbar.formatter = percent_ticks()
    ax.collections[0].colorbar.update_ticks()
    ax.grid(visible=False)
    ax.tick_params(axis="x", rotation=0)
    ax.tick_params(axis="y", rotation=0)
    ax.set_xlabel("CT tokens")
    ax.set_ylabel("layer")


def _sweep(results: Results, metric: str, language: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The slack sweep's means and its values by seed; slack 0 is the TIES mean if not swept."""
    both = []
    for read in (statistics.summarize, statistics.per_seed):
        swept = read(results, metric, "mean", language, method="ties_sv", setting="sweep")
        if swept.empty:
            raise LangmergeError(
                f"the results for {language} hold no slack sweep: {_run(results, language)}"
            )
        if not (swept["slack"] == 0).any():
            plain = read(results, metric, "mean", language, method="ties_mean", setting="tuned")
            swept = pd.concat([swept, plain.assign(slack=0.0)], ignore_index=True)
        both.append(swept.sort_values(["ct_tokens", "slack"]))
    return both[0], both[1]


def _slack_lines(ax: Axes, means: pd.DataFrame, seeds: pd.DataFrame) -> None:
    slacks = sorted(means["slack"].unique())
    finite = [slack for slack in slacks if math.isfinite(slack)]
    place = {slack: math.log2(1 + slack) for slack in finite} | {
        math.inf: math.log2(1 + max(finite)) + 1
    }
    budgets = sorted(means["ct_tokens"].unique())
    shades = sns.color_palette("viridis_r", len(budgets) + 1)[1:]
    for index, (budget, shade) in enumerate(zip(budgets, shades, strict=True)):
        style = Look(_tokens(budget), mpl.colors.to_hex(shade), "os^DvPX*"[index % 8], "solid")
        aside = 0.03 * (index - (len(budgets) - 1) / 2)
        mean, each = (part[part["ct_tokens"] == budget] for part in (means, seeds))
        _dots(ax, each["slack"].map(place) + aside, each["value"], style.colour)
        _interval_line(ax, mean["slack"].map(place) + aside, mean, style)
    if math.inf in slacks:  # the step to infinity has no length: say so
        ax.axvline(place[math.inf] - 0.5, color="#9A9A9A", linewidth=0.8, linestyle=(0, (2, 3)))
    ax.set_xticks([place[slack] for slack in slacks])
    ax.set_xticklabels(["∞" if math.isinf(slack) else f"{slack:g}" for slack in slacks])
    ax.set_xlabel("slack ξ (0: plain TIES; ∞: SFT is never out-voted)")


def _option_bars(ax: Axes, bars: pd.DataFrame, options: pd.DataFrame, method: str) -> None:
    bars = bars.set_index("option").loc[options["option"]]
    places = np.arange(len(bars))[::-1]
    right = bars["correct"].to_numpy(dtype=bool)
    drawn = ax.barh(places, bars["probability"], color=look(method).colour, height=0.7)
    for bar, is_right in zip(drawn, right, strict=True):
        bar.set_alpha(1.0 if is_right else 0.4)
        bar.set_edgecolor("black" if is_right else "none")
    ax.bar_label(drawn, [f"{100 * p:.0f}" for p in bars["probability"]], padding=3, fontsize=9)
    ax.set_xlim(0, 1.15)
    ax.set_xticks([0, 0.5, 1])
    ax.xaxis.set_major_formatter(percent_ticks())
    ax.set_xlabel("probability (%)")
    ax.grid(visible=False, axis="y")
    ax.set_yticks(places)
    _panel(ax, label(method))


def _name_options(ax: Axes, options: pd.DataFrame) -> None:
    """Writes the options with their glosses; by the gloss alone where no font has a script."""
    named = [_option_name(option) for option in options.itertuples()]
    ax.set_yticklabels([text for text, _ in named])
    for tick, (_, families) in zip(ax.get_yticklabels(), named, strict=True):
        tick.set_fontfamily(families)


def _option_name(option: tuple) -> tuple[str, list[str]]:
    mark = "✓ " if option.correct else ""
    if option.option == option.gloss:
        text = f"{mark}{option.option}"
    else:
        text = f"{mark}{option.option} ({option.gloss})"
    families = font_for(text)
    return (
        (f"{mark}({option.gloss})", STYLE["font.family"]) if families is None else (text, families)
    )


def _point(ax: Axes, point: tuple) -> None:
    style = look(point.method)
    ax.errorbar(
        point.value_bits,
        point.value_accuracy,
        xerr=[[point.value_bits - point.low_bits], [point.high_bits - point.value_bits]],
        yerr=[
            [point.value_accuracy - point.low_accuracy],
            [point.high_accuracy - point.value_accuracy],
        ],
        color=style.colour,
        marker=style.marker,
        markersize=11 if style.marker == "*" else 8,
        elinewidth=1,
        linestyle="none",
        label=style.label,
    )


def _name_far_ones(ax: Axes, points: pd.DataFrame) -> None:
    """Cut the axis of bits where one model would squeeze all others, and say where that one is."""
    is_far = points["value_bits"] > FAR * points["value_bits"].median()
    if not is_far.any():
        return
    near = points[~is_far]
    room = 0.08 * (near["high_bits"].max() - near["low_bits"].min())
    right = near["high_bits"].max() + 3 * room
    ax.set_xlim(near["low_bits"].min() - room, right)
    for point in points[is_far].itertuples():
        ax.annotate(
            f"{label(point.method)}: {point.value_bits:.2f} →",
            (right, point.value_accuracy),
            (-4, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=9,
        )


def _chance(results: Results, task: str) -> float:
    """Chance of a task, or the mean of the reported tasks' chances."""
    tasks = list(results.tasks) if task == "mean" else [task]
    rows = select(results.rows, metric="accuracy", task=tasks)
    return float(rows.groupby("task")["chance"].first().mean())


def _chance_line(ax: Axes, chance: float) -> None:
    ax.axhline(chance, color="#9A9A9A", linewidth=0.9, linestyle=(0, (1, 4)), label="chance")


def _token_axis(ax: Axes, budgets: Sequence[int]) -> None:
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(ticker.FixedLocator(sorted(budgets)))
    ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda at, _: _tokens(at)))
    ax.xaxis.set_minor_locator(ticker.NullLocator())
    ax.set_xlabel("CT tokens")


def _share_axis(ax: Axes, text: str) -> None:
    """A y axis of shares, shown in percent."""
    ax.yaxis.set_major_formatter(percent_ticks())
    ax.set_ylabel(text)


def percent_ticks() -> ticker.Formatter:
    """Ticks of shares in percent, with as many decimals as they have: none is rounded."""
    return ticker.FuncFormatter(lambda at, _: f"{round(100 * at, 6):g}".replace("-", "−"))


def _within_shares(ax: Axes) -> None:
    """No share is below 0 or above 1, though the t interval of a few concepts may be."""
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, 0.0), min(high, 1.03))


def _panel(ax: Axes, text: str) -> None:
    """Names a panel of small multiples, above its axes."""
    ax.annotate(
        text, (0, 1), (0, 4), xycoords="axes fraction", textcoords="offset points", fontsize=10
    )


def _inner_labels_off(axes: Sequence[Axes], columns: int) -> None:
    """Keeps axis labels on the outer panels only; a panel above a gap keeps its ticks."""
    for index, ax in enumerate(axes):
        if index % columns:
            ax.set_ylabel("")
        below = index + columns < len(axes)
        ax.tick_params(axis="x", labelbottom=not below)
        if below:
            ax.set_xlabel("")


def _legend(ax: Axes) -> None:
    """The figure's legend, beside the axes, methods in their usual order and chance last."""
    order = [*LABELS.values()]
    named = dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    labels = sorted(named, key=lambda name: order.index(name) if name in order else len(order))
    if "chance" in labels:
        labels.append(labels.pop(labels.index("chance")))
    handles = [named[name] for name in labels]
    ax.figure.legend(handles, labels, loc="outside right center", handlelength=3.4)


def _tokens(count: float) -> str:
    """7,680 as "7.7 k", 491,520 as "492 k"."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= size:
            return f"{float(f'{count / size:.{2 if count < 100 * size else 3}g}'):g}{unit}"
    return f"{count:g}"


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def _seeds(count: float) -> str:
    return "1 seed" if count == 1 else f"{count:.0f} seeds"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _alt_accuracy(language: str, means: pd.DataFrame, task: str, chance: float) -> str:
    told = []
    for method, part in means.groupby("method", sort=False):
        ends = [part.iloc[0], part.iloc[-1]]
        if not part["ct_tokens"].any():
            told.append(f"{label(method)} {_percent(ends[0]['value'])} without CT")
            continue
        steps = [f"{_percent(end['value'])} at {_tokens(end['ct_tokens'])}" for end in ends]
        told.append(f"{label(method)} {' and '.join(dict.fromkeys(steps))}")
    return (
        f"Accuracy ({TASKS.get(task, task)}) against CT tokens, {language}, "
        f"{_seeds(means['seeds'].max())}: {'; '.join(told)}. Chance is {_percent(chance)}."
    )


def _alt_balance(language: str, ct_tokens: int, points: pd.DataFrame, chance: float) -> str:
    told = [
        f"{label(point.method)} {point.value_bits:.3f} bits and {_percent(point.value_accuracy)}"
        for point in points.sort_values("value_accuracy", ascending=False).itertuples()
    ]
    return (
        f"Bits per byte of the target language against mean task accuracy at {_tokens(ct_tokens)} "
        f"CT tokens, {language}, most accurate first: {'; '.join(told)}. "
        f"Chance is {_percent(chance)}."
    )


def _alt_discarded(language: str, whole: pd.DataFrame, layers: pd.DataFrame) -> str:
    means = whole.groupby("ct_tokens")["discarded_sft_share"].mean()
    told = _listed([f"{_percent(share)} at {_tokens(at)}" for at, share in means.items()])
    last = layers[layers["ct_tokens"] == means.index[-1]]
    by_layer = last.groupby("layer")["discarded_sft_share"].mean()
    names = {
        layer: "the embedding" if layer < 0 else f"layer {layer + 1}" for layer in by_layer.index
    }
    return (
        f"Share of surviving SFT parameters that the election discards, {language}, by CT tokens: "
        f"{told}. At the largest budget most in {names[by_layer.idxmax()]} "
        f"({_percent(by_layer.max())}), least in {names[by_layer.idxmin()]} "
        f"({_percent(by_layer.min())})."
    )


def _alt_slack(language: str, accuracy: pd.DataFrame, bits: pd.DataFrame) -> str:
    told = []
    for budget, part in accuracy.groupby("ct_tokens"):
        cost = bits[bits["ct_tokens"] == budget].set_index("slack")["value"]
        best = part.loc[part["value"].idxmax()]
        plain = part.set_index("slack")["value"][0]
        start = f"at {_tokens(budget)} CT tokens accuracy is {_percent(plain)} without slack"
        if best["slack"] == 0:
            told.append(f"{start} and no slack makes it higher")
            continue
        slack = f"slack {best['slack']:g}" if math.isfinite(best["slack"]) else "infinite slack"
        told.append(
            f"{start} and highest with {slack}, {_percent(best['value'])}, where bits per byte go "
            f"from {cost[0]:.3f} to {cost[best['slack']]:.3f}"
        )
    return f"Mean task accuracy and bits per byte against slack, {language}: {'; '.join(told)}."


def _alt_options(table: pd.DataFrame, methods: Sequence[str]) -> str:
    right = table.loc[table["correct"], "gloss"].iloc[0]
    told = []
    for method in methods:
        each = table[table["method"] == method]
        chosen = each.loc[each["probability"].idxmax()]
        verdict = "right" if chosen["correct"] else "wrong"
        share = _percent(chosen["probability"])
        told.append(f"{label(method)} chooses {chosen['gloss']} ({share}), {verdict}")
    return f"Probabilities of the options; the right one is {right}: {'; '.join(told)}."
