"""What `langmerge paper` left on the disk, for who shows it: rows, items, diagnosis.

Nothing here asks the hub, loads a model or computes a score. A run's rows lie in one file a triple
and language; beside it, in a folder of the file's name, the outcome of every item and what the
election discards. Rows are read where runs are kept (`paths.results`), else where they ship.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pandas as pd

from langmerge import hub_languages, hub_rows, paper, paths
from langmerge.errors import LangmergeError
from langmerge.paper import ROLES, Chosen, Model

FOLDER = "paper"
PROFILE = "paper"
NOTEBOOK = "05_real_checkpoints"


@dataclasses.dataclass(frozen=True)
class Run:
    """The rows of a triple in a language: one state of the weights and data, one type, one limit.

    rows: with the columns of `hub_rows` and `model`, what it is called; a model and task once.
    file: where the rows lie.
    """

    chosen: Chosen
    rows: pd.DataFrame
    file: Path

    @property
    def models(self) -> list[str]:
        """Titles of the models: the parts, then the merges, by slack within a method."""
        each = self.rows.drop_duplicates("model")
        methods = list(dict.fromkeys(each["method"]))
        ordered = sorted(
            each.itertuples(),
            key=lambda row: (
                [*ROLES, "merge"].index(row.role),
                methods.index(row.method),
                -1.0 if pd.isna(row.slack) else row.slack,
            ),
        )
        return [row.model for row in ordered]

    @property
    def merges(self) -> list[str]:
        """Titles of the merges."""
        return [title for title in self.models if title not in ROLES]

    @property
    def tasks(self) -> list[str]:
        """The tasks that have rows, in the order of the language's file."""
        there = list(dict.fromkeys(self.rows["task"]))
        known = [task for task in self.chosen.tasks if task in there]
        return known + [task for task in there if task not in known]

    def row(self, model: str, task: str) -> pd.Series | None:
        """A model's row on a task; None where it was not evaluated."""
        found = self.rows[(self.rows["model"] == model) & (self.rows["task"] == task)]
        return found.iloc[0] if len(found) else None

    def items(self, model: str, task: str) -> pd.DataFrame | None:
        """Every item's outcome, with `language` and `seed`; None where they are not here."""
        row = self.row(model, task)
        path = None if row is None else items_file(self.file, row["key"], task)
        if path is None or not path.is_file():
            return None
        types = {"item": str, "concept": str}
        items = pd.read_json(path, orient="records", lines=True, dtype=types)
        return items.assign(language=self.chosen.language.code, seed=0)

    def diagnosis(self) -> pd.DataFrame | None:
        """What the election discards, a row a tensor and slack; None where it is not here.

        Nor is it where it was made of other commits than the rows.
        """
        path = diagnosis_file(self.file)
        if not path.is_file():
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
        last = self.rows[self.rows["role"] == "merge"].iloc[-1:]
        for repositories in last["repositories"]:
            for role in ROLES:
                name, _, commit = repositories[role].partition("@")
                if content["about"]["commits"].get(f"model:{name}") != commit:
                    return None
        tensors = pd.DataFrame(content["tensors"])
        return tensors.assign(slack=tensors["slack"].astype(float))


def check_profile(profile: str) -> None:
    """Raise LangmergeError for a profile that the rows of `langmerge paper` do not have."""
    if profile != PROFILE:
        raise LangmergeError(
            f"profile {profile!r}: rows of released checkpoints have the profile {PROFILE!r}; the "
            "lab's profiles are for the other notebooks."
        )


def load(chosen: Chosen, limit: int | None = None, dtype: str | None = None) -> Run:
    """The present rows of a triple in a language.

    limit: rows of runs that were cut to so many items; whole ones where it is None. dtype: that the
    models were evaluated in; that of the last row where it is None. Raises LangmergeError, naming
    the command that makes them, where there are none.
    """
    file = next((path for path in files() if path.stem == chosen.name), chosen.results)
    rows = present(hub_rows.frame(file), limit, dtype)
    if rows.empty:
        cut = f", cut to {limit} items a task" if limit else ""
        command = f"langmerge paper --language {chosen.language.code}"
        more = (f" --limit {limit}" if limit else "") + (f" --dtype {dtype}" if dtype else "")
        raise LangmergeError(
            f"no rows of {chosen.triple.title} in {chosen.language.name}{cut} are here yet. "
            f"`{command}{more}` makes them; with --plan it first says what that takes."
        )
    return Run(chosen, rows, file)


def present(rows: pd.DataFrame, limit: int | None = None, dtype: str | None = None) -> pd.DataFrame:
    """The rows of one limit and type at the commits that each repository had last.

    Adds `model`, a row's title. Of a model and task that were evaluated twice the last is kept.
    """
    rows = rows[rows["limit"].isna() if limit is None else rows["limit"] == limit]
    if rows.empty:
        return rows.assign(model=[])
    rows = rows[rows["dtype"] == (dtype or rows.iloc[-1]["dtype"])]
    last: dict[str, str] = {}
    for repositories in rows["repositories"]:
        last |= {name: commit for name, _, commit in map(_split, repositories.values())}
    now = [
        all(last[name] == commit for name, _, commit in map(_split, its.values()))
        for its in rows["repositories"]
    ]
    rows = rows[pd.Series(now, rows.index, bool)]
    named = rows.assign(model=[title(row) for row in rows.itertuples()])
    return named.drop_duplicates(["model", "task"], keep="last").reset_index(drop=True)


def title(row: object) -> str:
    """What a row's model is called: its role, or its method with the parameters."""
    return Model(row.role, row.method, row.params).title


def files() -> list[Path]:
    """The files of rows that are here: kept ones, and those that ship, each name once."""
    found = {
        path.stem: path
        for folder in (paths.data() / "results", paths.results())
        for path in (folder / FOLDER).glob("*.jsonl")
    }
    return [found[name] for name in sorted(found)]


def runs() -> list[Run]:
    """All triples and languages of the shipped study that whole rows are here of."""
    study = paper.read_study()
    found = []
    for file in files():
        triple, _, language = file.stem.rpartition("-")
        if triple not in study.triples or language not in hub_languages.codes():
            continue
        rows = present(hub_rows.frame(file))
        if len(rows):
            found.append(Run(paper.choose(language, triple, study), rows, file))
    return found


def items_file(rows: Path, key: str, task: str) -> Path:
    """Where the outcomes of a model on a task's items are kept, beside the file of rows."""
    return rows.with_suffix("") / f"{key}-{task}.jsonl"


def diagnosis_file(rows: Path) -> Path:
    """Where it is kept what the election discards."""
    return rows.with_suffix("") / "diagnosis.json"


def _split(reference: str) -> tuple[str, str, str]:
    return reference.partition("@")
