"""The rows of released checkpoints as the book's chapter shows them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from langmerge import paper_rows, paths

FOLDER = "paper"
NONE_YET = (
    "*No rows are here yet: they come from `langmerge paper`, and this page shows them when the "
    "book is built after it.*\n"
)


def page(folder: Path | None = None) -> str:
    """A table for every triple and language whose rows lie in a folder, as Markdown.

    folder: where `langmerge paper` keeps its rows, if it is not given. Rows of runs that were cut
    to some items are left out: they are for trying the machinery.
    """
    folder = folder or paths.results() / FOLDER
    tables = [_section(path) for path in sorted(folder.glob("*.jsonl"))]
    return "\n\n".join(filter(None, tables)) + "\n" if any(tables) else NONE_YET


def title(row: object) -> str:
    """What a row's model is called: its role, or its method with the parameters."""
    told = [f"{name} {_brief(value)}" for name, value in row.params.items()]
    return " ".join([row.method, *told]) if row.role == "merge" else row.role


def _section(path: Path) -> str:
    rows = paper_rows.read(path)
    rows = rows[rows["limit"].isna()]
    if rows.empty:
        return ""
    tasks = list(dict.fromkeys(rows["task"]))
    named = rows.assign(model=[title(row) for row in rows.itertuples()])
    # A second run at other commits adds rows below; the last of each model is the present one.
    named = named.drop_duplicates(["model", "task"], keep="last")
    lines = [
        f"**{rows.iloc[-1]['language']}, {rows.iloc[-1]['triple']}**",
        "",
        _line(["Model", *tasks]),
        _line(["---"] * (len(tasks) + 1)),
    ]
    for model, part in named.groupby("model", sort=False):
        its = part.set_index("task")
        lines.append(_line([model, *(_cell(its, task) for task in tasks)]))
    last = rows.iloc[-1]
    made = f"{last['dtype']} on {last['device']}, {last['provenance']['time']}"
    chances = ", ".join(
        f"{task} {chance:.3f}" for task, chance in rows.groupby("task")["chance"].first().items()
    )
    return "\n".join([*lines, "", f"Evaluated in {made}. Chance: {chances}."])


def _cell(rows: pd.DataFrame, task: str) -> str:
    if task not in rows.index:
        return ""
    row = rows.loc[task]
    return f"{row['value']:.3f}" + ("" if pd.isna(row["stderr"]) else f" ± {row['stderr']:.3f}")


def _brief(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
