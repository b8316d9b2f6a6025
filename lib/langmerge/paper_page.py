"""What a run with released checkpoints says: tables, figures and differences, from its rows.

Differences between a merge and its parts are paired on items, with the items of one text as a
cluster. The notebook of real checkpoints shows these, the command its table of scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from IPython.display import Markdown
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from langmerge import diagnosis, plotting, statistics
from langmerge.errors import LangmergeError
from langmerge.hub_languages import task_set
from langmerge.paper import ROLES, Chosen
from langmerge.paper_results import Run, items_file
from langmerge.paper_testable import testable
from langmerge.statistics import Effect

#: A merge, a part, a task and the paired effect.
Difference = tuple[str, str, str, Effect]

_HEIGHT = 0.6  # where infinite slack stands beyond the largest finite one, on the axis' scale
_VERSIONS = ("langmerge", "commit", "python", "torch", "transformers", "lm_eval")


def shown_metric(task: str) -> str:
    """The metric of a task that tables and figures show."""
    return task_set(task)[0].metric


def scores(run: Run) -> tuple[list[str], list[list[str]]]:
    """Titles and lines: a model each, its accuracy on every task with its standard error."""
    lines = [[model, *(_cell(run.row(model, task)) for task in run.tasks)] for model in run.models]
    return ["model", *run.tasks], lines


def can_test(chosen: Chosen) -> Markdown:
    """What the weights of a triple can test, and what the rest would cost, as a table."""
    return markdown(["Question", "Answer"], testable(chosen.triple, chosen.study))


def about(run: Run) -> Markdown:
    """What the rows are of, in sentences."""
    first = run.rows.iloc[0]
    guessing = run.rows.groupby("task")["chance"].first()
    chances = ", ".join(f"{task} {chance:.3f}" for task, chance in guessing.items())
    said = (
        f"{run.chosen.triple.title}, in **{run.chosen.language.name}** "
        f"(`{run.chosen.language.code}`): {len(run.models)} models, {len(run.merges)} of them "
        f"merges, evaluated in {first['dtype']} on {first['device']}. Chance: {chances}."
    )
    if pd.notna(first["limit"]):
        said += (
            f"\n\n**Only the first {int(first['limit'])} items of each task: for trying the "
            "machinery, and no result.**"
        )
    return Markdown(said)


def score_table(run: Run) -> Markdown:
    """`scores` for a page."""
    return markdown(*scores(run))


def difference_table(found: Sequence[Difference]) -> Markdown:
    """`differences` for a page."""
    lines = [
        [merge, part, task, f"{e.estimate:+.3f}", _interval(e), f"{e.n:,}", f"{e.n_clusters:,}"]
        for merge, part, task, e in found
    ]
    heads = ["merge", "against", "task", "difference", "95 % interval", "items", "texts"]
    return markdown(heads, lines)


def discarded_table(run: Run) -> Markdown:
    """What the election discards of the whole model, by slack."""
    found = run.diagnosis()
    if found is None:
        return Markdown(_no_diagnosis(run))
    return markdown(*diagnosis.lines(found))


def sources(run: Run) -> Markdown:
    """Where the numbers are from: commits, hashes, versions, machine."""
    commits = {
        role: reference.replace("@", " at ")
        for its in run.rows["repositories"]
        for role, reference in its.items()
        if role != "data"
    }
    data = {its["data"].replace("@", " at ") for its in run.rows["repositories"]}
    last = run.rows.iloc[-1]
    made = last["provenance"]
    lines = [[role, commits[role]] for role in ROLES if role in commits]
    lines += [["data", one] for one in sorted(data)]
    lines += [
        ["stored, evaluated in", f"{run.chosen.study.out_dtype}, {last['dtype']}"],
        ["evaluated on", f"{last['device']}, {made.get('cpu')}, {made.get('cores')} cores"],
        ["made with", ", ".join(f"{name} {made.get(name)}" for name in _VERSIONS)],
        ["last row", str(made.get("time"))],
        ["rows", f"{len(run.rows)} in {run.file.name}"],
    ]
    return markdown(["Provenance", ""], lines)


def differences(run: Run) -> list[Difference]:
    """Every merge against each of its parts, by task: merge, part, task and the paired effect.

    What lacks its items is left out. Raises LangmergeError where all do.
    """
    found = []
    for task in run.tasks:
        answers = {model: run.items(model, task) for model in run.models}
        for merge in run.merges:
            for part in ROLES:
                pair = [(1.0, answers.get(merge)), (-1.0, answers.get(part))]
                if all(items is not None for _, items in pair):
                    scored = statistics.contrast_scores(pair, shown_metric(task))
                    effect = statistics.mean_of_items(scored, "score")
                    found.append((merge, part, task, effect))
    if not found:
        raise LangmergeError(_no_items(run))
    return found


def slack_figure(run: Run) -> Figure:
    """Accuracy against slack, a panel a task, with the parts and chance as level lines.

    Bars are 95 % intervals over items. Raises LangmergeError where there are no rows with a slack.
    """
    with rc_context(plotting.STYLE):
        tasks = [task for task in run.tasks if len(_curve(_of(run, task)))]
        if not tasks:
            raise LangmergeError(f"{run.file}: no merge with an election is evaluated yet.")
        fig = Figure(figsize=(4.2 * len(tasks) + 1.6, 3.4), layout="constrained", facecolor="white")
        axes = fig.subplots(1, len(tasks), squeeze=False)[0]
        for ax, task in zip(axes, tasks, strict=True):
            _panel(ax, _of(run, task), task)
        _legend(fig, axes[-1])
        fig.alt_text = " ".join(_alt(_of(run, task), task) for task in tasks)
    return fig


def difference_figure(found: Sequence[Difference]) -> Figure:
    """Every merge against its parts: differences with 95 % intervals, a panel a task."""
    with rc_context(plotting.STYLE):
        tasks = list(dict.fromkeys(task for _, _, task, _ in found))
        merges = list(dict.fromkeys(merge for merge, _, _, _ in found))
        size = (3.4 * len(tasks) + 3.2, 0.42 * len(merges) + 1.4)
        fig = Figure(figsize=size, layout="constrained", facecolor="white")
        axes = fig.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
        for ax, task in zip(axes, tasks, strict=True):
            its = {(merge, part): e for merge, part, of, e in found if of == task}
            _forest(ax, its, merges)
            ax.set_xlabel(f"difference of accuracy\n{task}")
        axes[0].set_yticks(range(len(merges)), merges)
        axes[0].invert_yaxis()
        _legend(fig, axes[-1])
        fig.alt_text = "Difference of accuracy of each merge from its parts. " + " ".join(
            f"{task}: {_beyond(found, task)}" for task in tasks
        )
    return fig


def discarded_figure(run: Run) -> Figure:
    """`diagnosis.figure` of the run; raises LangmergeError where there is no diagnosis."""
    found = run.diagnosis()
    if found is None:
        raise LangmergeError(_no_diagnosis(run))
    return diagnosis.figure(found)


def markdown(titles: list[str], lines: list) -> Markdown:
    """A table for a page."""
    rows = [titles, ["---"] * len(titles), *lines]
    return Markdown("\n".join(f"| {' | '.join(map(str, row))} |" for row in rows))


def lacking(run: Run) -> str:
    """What the notebook of a run needs and is not here; empty where nothing is missing."""
    if run.rows["slack"].isna().all():
        return f"{run.file}: no merge with an election was evaluated, so there is no notebook."
    for row in run.rows.itertuples():
        if not items_file(run.file, row.key, row.task).is_file():
            return _no_items(run)
    return "" if run.diagnosis() is not None else _no_diagnosis(run)


def _no_items(run: Run) -> str:
    return (
        f"The outcomes of the items are not here, so nothing is paired: they belong into the "
        f"folder {run.file.stem} beside {run.file.name}, where `langmerge paper` writes them."
    )


def _no_diagnosis(run: Run) -> str:
    return (
        f"There is no diagnosis of these commits beside {run.file.name}: `langmerge paper "
        f"--language {run.chosen.language.code}` makes it."
    )


def _of(run: Run, task: str) -> pd.DataFrame:
    return run.rows[run.rows["task"] == task]


def _cell(row: pd.Series | None) -> str:
    if row is None:
        return ""
    if pd.isna(row["stderr"]):
        return f"{row['value']:.3f}"
    return f"{row['value']:.3f} ± {row['stderr']:.3f}"


def _interval(effect: Effect) -> str:
    if not math.isfinite(effect.low):
        return "none: one text"
    return f"{effect.low:+.3f} to {effect.high:+.3f}"


def _curve(rows: pd.DataFrame) -> pd.DataFrame:
    """The merges with an election by slack."""
    return rows[rows["slack"].notna()].sort_values("slack")


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
    for role in ROLES:
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


def _forest(ax: Axes, effects: Mapping[tuple[str, str], Effect], merges: list[str]) -> None:
    """Each merge's row: a point a part, its interval as a bar."""
    for place, part in enumerate(ROLES):
        look = plotting.look(part)
        shift = 0.22 * (place - 1)
        for row, merge in enumerate(merges):
            its = effects.get((merge, part))
            if its is None:
                continue
            reach = its.high - its.estimate if math.isfinite(its.high) else 0.0
            ax.errorbar(
                its.estimate, row + shift, xerr=reach, color=look.colour, marker=look.marker,
                linestyle="none", capsize=2, label=f"against {part}" if row == 0 else None,
            )  # fmt: skip
    ax.axvline(0, color="#888888", linewidth=1)


def _beyond(found: Sequence[Difference], task: str) -> str:
    """For each part how many merges are clearly better and worse than it."""
    told = []
    for part in ROLES:
        its = [effect for _, of, on, effect in found if of == part and on == task]
        better = sum(effect.low > 0 for effect in its)
        worse = sum(effect.high < 0 for effect in its)
        told.append(f"of {len(its)}, {better} clearly better and {worse} clearly worse than {part}")
    return "; ".join(told) + "."


def _legend(fig: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside right upper")
