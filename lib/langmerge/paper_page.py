"""What a run with released checkpoints says: a table, a figure by slack, and a page in Markdown.

Differences between a merge and its parts are paired on items, with the items of one text as a
cluster; every number on the page is computed from the rows and items of the run.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from langmerge import files, plotting, statistics
from langmerge.errors import LangmergeError
from langmerge.hub_languages import task_set
from langmerge.paper import ROLES, Chosen, Model, Pinned, key_of
from langmerge.paper_plan import testable
from langmerge.paper_run import Setting, items_file
from langmerge.statistics import Effect

_HEIGHT = 0.6  # where infinite slack stands beyond the largest finite one, on the axis' scale


def shown_metric(task: str) -> str:
    """The metric of a task that tables and figures show."""
    return task_set(task)[0].metric


def table(chosen: Chosen, rows: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Titles and lines: a model each, its accuracy on every task with its standard error."""
    tasks = [task for task in chosen.tasks if (rows["task"] == task).any()]
    shown = pd.concat([_of(rows, task) for task in tasks]) if tasks else rows
    lines = []
    for model in chosen.models:
        cells = []
        for task in tasks:
            found = shown[_is(shown, model) & (shown["task"] == task)]
            cells.append(_cell(found.iloc[0]) if len(found) else "")
        lines.append([model.title, *cells])
    return ["model", *tasks], lines


def figure(chosen: Chosen, rows: pd.DataFrame) -> Figure:
    """Accuracy against slack, a panel a task, with the parts and chance as level lines.

    Bars are 95 % intervals over items. Raises LangmergeError where there are no rows with a slack.
    """
    with rc_context(plotting.STYLE):
        tasks = [task for task in chosen.tasks if len(_curve(_of(rows, task)))]
        if not tasks:
            raise LangmergeError(f"{chosen.results}: no merge with an election is evaluated yet.")
        fig = Figure(figsize=(4.2 * len(tasks) + 1.6, 3.4), layout="constrained", facecolor="white")
        axes = fig.subplots(1, len(tasks), squeeze=False)[0]
        for ax, task in zip(axes, tasks, strict=True):
            _panel(ax, _of(rows, task), task)
        handles, labels = axes[-1].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside right upper")
        fig.alt_text = " ".join(_alt(_of(rows, task), task) for task in tasks)
    return fig


def differences(
    chosen: Chosen, pinned: Pinned, setting: Setting
) -> Iterator[tuple[str, str, str, Effect]]:
    """Every merge against each of its parts, by task: merge, part, task and the paired effect."""
    for task in chosen.tasks:
        answers = {
            model.title: _items(chosen, pinned, setting, model, task) for model in chosen.models
        }
        for model in chosen.models:
            for part in ROLES if model.role == "merge" else ():
                pair = [(1.0, answers[model.title]), (-1.0, answers[part])]
                if all(items is not None for _, items in pair):
                    scores = statistics.contrast_scores(pair, shown_metric(task))
                    yield model.title, part, task, statistics.mean_of_items(scores, "score")


def write(chosen: Chosen, pinned: Pinned, setting: Setting, rows: pd.DataFrame) -> Path:
    """Write ``report.md`` and its figures into the run's folder; the page's path."""
    figures, alts = [], []
    if rows["slack"].notna().any():
        drawn = figure(chosen, rows)
        figures.append(plotting.save(drawn, chosen.folder / "slack"))
        alts.append(plotting.alt(drawn))
    if (chosen.folder / "diagnosis.png").is_file():
        figures.append(chosen.folder / "diagnosis.png")
        alts.append("Share of surviving SFT parameters that the election discards, by slack.")
    pictures = [f"![{alt}]({path.name})" for alt, path in zip(alts, figures, strict=True)]
    effects = [
        [merge, part, task, f"{e.estimate:+.3f}", f"{e.low:+.3f} to {e.high:+.3f}"]
        for merge, part, task, e in differences(chosen, pinned, setting)
    ]
    parts = [
        f"# {chosen.language.name} ({chosen.language.code}): {chosen.triple.title}",
        _limited(setting),
        "## What these weights can test",
        _markdown(["", ""], testable(chosen)),
        "## Scores",
        "Accuracy, with its standard error over items.",
        _markdown(*table(chosen, rows)),
        *pictures,
        "## Merges against their parts",
        "Differences of accuracy, paired on items, with 95 % intervals that take the items of one "
        "text together. They speak of these items and these weights: one run has no seeds.",
        _markdown(["merge", "against", "task", "difference", "interval"], effects),
        "## Where it is from",
        _markdown(["", ""], _sources(chosen, pinned, rows)),
    ]
    path = chosen.folder / "report.md"
    files.write_text(path, "\n\n".join(part for part in parts if part) + "\n")
    return path


def _limited(setting: Setting) -> str:
    if setting.limit is None:
        return ""
    return f"**Only the first {setting.limit} items of each task: for trying the machinery.**"


def _sources(chosen: Chosen, pinned: Pinned, rows: pd.DataFrame) -> list[list[str]]:
    found = [[f"{one.kind} {one.name}", f"`{one.commit}`"] for one in pinned.all]
    last = rows.iloc[-1]
    made = last["provenance"]
    versions = ("langmerge", "commit", "torch", "transformers", "lm_eval", "time")
    found.append(["made with", ", ".join(f"{name} {made[name]}" for name in versions)])
    found.append(["evaluated in", f"{last['dtype']} on {last['device']}"])
    return [*found, ["rows", os.path.relpath(chosen.results, chosen.folder)]]


def _items(
    chosen: Chosen, pinned: Pinned, setting: Setting, model: Model, task: str
) -> pd.DataFrame | None:
    path = items_file(chosen, key_of(chosen, model, pinned, **setting.key), task)
    if not path.is_file():
        return None
    types = {"item": str, "concept": str}
    items = pd.read_json(path, orient="records", lines=True, dtype=types)
    return items.assign(language=chosen.language.code, seed=0)


def _of(rows: pd.DataFrame, task: str) -> pd.DataFrame:
    return rows[rows["task"] == task]


def _is(rows: pd.DataFrame, model: Model) -> pd.Series:
    return pd.Series([_title(row) == model.title for row in rows.itertuples()], rows.index, bool)


def _title(row: object) -> str:
    return Model(row.role, row.method, row.params).title


def _cell(row: pd.Series) -> str:
    if pd.isna(row["stderr"]):
        return f"{row['value']:.3f}"
    return f"{row['value']:.3f} ± {row['stderr']:.3f}"


def _curve(rows: pd.DataFrame) -> pd.DataFrame:
    """The merges with an election by slack."""
    found = rows[rows["slack"].notna()]
    return found.assign(slack=found["slack"].astype(float)).sort_values("slack")


def _panel(ax: Axes, rows: pd.DataFrame, task: str) -> None:
    curve = _curve(rows)
    finite = curve["slack"][~curve["slack"].map(math.isinf)]
    beyond = (finite.max() if len(finite) else 1) * (1 + _HEIGHT) + _HEIGHT
    at = curve["slack"].where(~curve["slack"].map(math.isinf), beyond)
    look = plotting.look("ties_sv")
    ax.errorbar(
        at, curve["value"], yerr=1.96 * curve["stderr"].fillna(0), color=look.colour,
        marker=look.marker, label=look.label, capsize=2,
    )  # fmt: skip
    for role in ("base", "ct", "sft"):
        part = rows[rows["role"] == role]
        if len(part):
            its = plotting.look(role)
            ax.axhline(part["value"].iloc[0], color=its.colour, linestyle=its.dash, label=its.label)
    average = rows[rows["method"] == "average"]
    if len(average):
        its = plotting.look("average")
        best = average["value"].max()
        ax.axhline(best, color=its.colour, linestyle=its.dash, label="best weighted average")
    ax.axhline(rows["chance"].iloc[0], color="#BBBBBB", linewidth=1, label="chance")
    ax.set_xticks(at, [f"{slack:g}" for slack in curve["slack"]])
    ax.set_xlabel(f"slack\n{task}")
    ax.set_ylabel("accuracy")
    ax.set_ylim(bottom=max(0, ax.get_ylim()[0]))


def _alt(rows: pd.DataFrame, task: str) -> str:
    told = ", ".join(f"{row.slack:g}: {row.value:.2f}" for row in _curve(rows).itertuples())
    parts = ", ".join(
        f"{row.role} {row.value:.2f}" for row in rows[rows["role"] != "merge"].itertuples()
    )
    return f"Accuracy on {task} by slack, {told}; {parts}; chance {rows['chance'].iloc[0]:.2f}."


def _markdown(titles: list[str], lines: list) -> str:
    rows = [titles, ["---"] * len(titles), *lines]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)
