"""What a diagnosis says: a table for a terminal, a figure by layer and module, and JSON.

A diagnosis here is a frame with the columns of `diagnostics.COLUMNS` and one more, `slack`: one
row for each tensor and slack.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from langmerge import plotting
from langmerge.merging.diagnostics import diagnosed_settings, summarize
from langmerge.merging.ties import Ties

#: The terminal's columns: what they are called, and where their numbers are from.
SHOWN = {
    "slack": "slack",
    "conflict": "conflict_rate",
    "SFT trimmed": "trimmed_sft_share",
    "SFT out-voted": "discarded_sft_share",
    "of its norm": "discarded_sft_norm",
    "CT out-voted": "discarded_ct_share",
    "‖CT‖/‖SFT‖": "norm_ratio",
    "cosine": "cosine",
}
MODULES = ("embed", "attention", "mlp", "norm", "other")


def check(keep: float, slacks: Iterable[float]) -> None:
    """Raise LangmergeError for settings that `merging.diagnose` would refuse."""
    for slack in slacks:
        both = {"density_ct": keep, "density_sft": keep}
        Ties.of(diagnosed_settings({**both, "slack": slack}))


def by(diagnosis: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """A diagnosis summed up for each slack, and within it for each value of the columns.

    Beside the columns of `summarize`: trimmed_sft_share, out of all entries; norm_ratio; and
    discarded_sft_norm, the norm of what is out-voted out of the norm of what survives trim.
    """
    total = summarize(diagnosis, ["slack", *columns])
    return total.assign(
        trimmed_sft_share=total["trimmed_sft"] / total["n"],
        norm_ratio=total["norm_ct"] / total["norm_sft"],
        discarded_sft_norm=total["discarded_sft_share_l2"] ** 0.5,
    )


def lines(diagnosis: pd.DataFrame, *columns: str) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of the terminal's table."""
    table = by(diagnosis, *columns)
    rows = []
    for _, row in table.iterrows():
        shares = [f"{row[name]:.3g}" for name in SHOWN.values() if name != "slack"]
        rows.append([f"{row['slack']:g}", *(str(row[column]) for column in columns), *shares])
    titles = ["slack", *columns, *(title for title in SHOWN if title != "slack")]
    return titles, rows


@rc_context(plotting.STYLE)
def figure(diagnosis: pd.DataFrame) -> Figure:
    """The share of surviving SFT entries that the election discards, by layer and by module.

    One column a slack. Its alternative text is in ``figure.alt_text`` and, saved by
    `plotting.save`, in the file.
    """
    layers = _grid(by(diagnosis, "layer"), "layer").sort_index(ascending=False)
    modules = _grid(by(diagnosis, "module"), "module")
    modules = modules.reindex([name for name in MODULES if name in modules.index])
    top = max(layers.max().max(), modules.max().max())
    height = max(2.6, 0.2 * len(layers) + 1)
    fig = Figure(figsize=(4.2 + 0.8 * layers.shape[1], height), layout="constrained")
    left, right = fig.subplots(1, 2)
    _heat(left, layers, top)
    shown = _heat(right, modules, top)
    left.set_yticklabels(["none" if at < 0 else f"{at + 1}" for at in layers.index])
    left.set_ylabel("layer")
    right.set_ylabel("module")
    percent = PercentFormatter(1, decimals=0, symbol="")
    fig.colorbar(shown, ax=right, format=percent, label="SFT parameters out-voted (%)")
    fig.alt_text = _alt(diagnosis)
    return fig


def _grid(table: pd.DataFrame, rows: str) -> pd.DataFrame:
    return table.pivot_table(
        index=rows, columns="slack", values="discarded_sft_share", dropna=False
    )


def _heat(ax: Axes, grid: pd.DataFrame, top: float) -> object:
    shown = ax.imshow(grid, cmap="cividis", vmin=0, vmax=top or 1, aspect="auto")
    ax.set_xticks(range(grid.shape[1]), [f"{slack:g}" for slack in grid.columns])
    ax.set_yticks(range(grid.shape[0]), grid.index)
    if len(grid) > 40:  # every second layer, or the labels run into each other
        for label in ax.get_yticklabels()[1::2]:
            label.set_visible(False)
    ax.set_xlabel("slack")
    ax.grid(visible=False)
    for row, values in enumerate(grid.to_numpy()):
        for column, value in enumerate(values):
            if math.isfinite(value):
                colour = "white" if value < top / 2 else "black"
                at = {"ha": "center", "va": "center", "fontsize": 8, "color": colour}
                ax.text(column, row, f"{100 * value:.0f}", **at)
    return shown


def _alt(diagnosis: pd.DataFrame) -> str:
    parts = []
    for slack, row in by(diagnosis).set_index("slack").iterrows():
        layers = by(diagnosis[diagnosis["slack"] == slack], "layer").set_index("layer")
        share = layers["discarded_sft_share"].drop(index=-1, errors="ignore").dropna()
        where = ""
        if len(share):
            where = (
                f", from {100 * share.min():.0f} % in layer {share.idxmin() + 1} to "
                f"{100 * share.max():.0f} % in layer {share.idxmax() + 1}"
            )
        parts.append(f"with slack {slack:g} {100 * row['discarded_sft_share']:.0f} %{where}")
    return f"Share of surviving SFT parameters that the election discards: {'; '.join(parts)}."


def as_json(diagnosis: pd.DataFrame, about: Mapping[str, object]) -> dict[str, object]:
    """Everything as JSON can hold it: infinite slack is "inf", a ratio without denominator null.

    about: what was diagnosed and how; it comes first.
    """
    return {
        **about,
        "model": _records(by(diagnosis)),
        "by_layer": _records(by(diagnosis, "layer")),
        "by_module": _records(by(diagnosis, "module")),
        "tensors": _records(diagnosis),
    }


def _records(frame: pd.DataFrame) -> list[dict[str, object]]:
    records = frame.to_dict(orient="records")
    return [{name: _plain(value) for name, value in row.items()} for row in records]


def _plain(value: object) -> object:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf"
    return value
