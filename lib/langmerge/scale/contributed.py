"""Rows that readers contribute: the check before they are taken in, and what is there.

A file is JSON lines in the schema of `hub_rows`, in ``data/results/contributed/``. Both
`langmerge paper` and `langmerge hub-small` write such files; so can anyone by hand.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from langmerge import hub_languages, languages, paths
from langmerge.errors import LangmergeError
from langmerge.hub_rows import ACCURACIES, Row, read


def check(path: Path) -> list[Row]:
    """A contributed file's rows, checked one by one and together.

    Raises LangmergeError with all that is wrong: rows twice, accuracies without a standard error,
    languages that are not known, a merge or CT-then-SFT without the base and its parts beside it
    (a number alone says nothing), and one task asked with different numbers of items.
    """
    rows = read(path)
    problems = [] if rows else ["it has no row"]
    for key, times in Counter(row.identity() for row in rows).items():
        if times > 1:
            problems.append(f"{times} rows of {' · '.join(str(part) for part in key if part)}")
    asked = [row for row in rows if row.metric in ACCURACIES]
    bare = sorted({row.task for row in asked if row.stderr is None})
    problems += [f"{task}: an accuracy has a stderr" for task in bare]
    problems += _languages(rows)
    problems += _missing_parts(rows)
    sizes: dict[tuple[str, str], set[int]] = {}
    for row in asked:
        sizes.setdefault((row.language, row.task), set()).add(row.n)
    for (_, task), found in sizes.items():
        if len(found) > 1:
            counted = ", ".join(map(str, sorted(found)))
            problems.append(f"{task}: asked with {counted} items; compare like with like")
    if problems:
        listed = "\n  ".join(problems)
        raise LangmergeError(f"{path} cannot be taken in yet:\n  {listed}")
    return rows


def table() -> tuple[list[str], list[tuple[object, ...]]]:
    """Titles and rows of all contributed accuracies; LangmergeError for a file out of order."""
    titles = ["file", "language", "model", "CT tokens", "what", "task", "accuracy", "stderr", "n"]
    lines = []
    for path in sorted(folder().glob("*.jsonl")):
        for row in check(path):
            if row.metric in ACCURACIES:
                what = f"{row.method} ({row.setting})" if row.method else row.role
                found = (f"{row.value:.3f}", f"{row.stderr:.3f}", row.n)
                about = (path.stem, row.language, row.model, _count(row.ct_tokens), what, row.task)
                lines.append((*about, *found))
    return titles, lines


def folder() -> Path:
    """Where contributed files are kept."""
    return paths.data() / "results" / "contributed"


def _languages(rows: list[Row]) -> list[str]:
    problems = []
    for code in sorted({row.language for row in rows} - set(hub_languages.hub_only())):
        try:
            languages.load(code)
        except LangmergeError as error:
            problems.append(str(error))
    return problems


def _missing_parts(rows: list[Row]) -> list[str]:
    def key(row: Row, role: str, ct_tokens: int | None) -> tuple[object, ...]:
        return (row.language, row.model, row.seed, row.task, role, ct_tokens)

    asked = [row for row in rows if row.metric in ACCURACIES]
    there = {key(row, row.role, row.ct_tokens) for row in asked}
    problems = set()
    for row in asked:
        if row.role not in ("merge", "ct_then_sft"):
            continue
        for role, tokens in (("base", 0), ("ct", row.ct_tokens), ("sft", 0)):
            if key(row, role, tokens) not in there:
                what = f"{role} at {_count(tokens)} CT tokens" if role == "ct" else role
                problems.add(
                    f"{row.task}: no row of the {what}, for the {row.role} to stand beside"
                )
    return sorted(problems)


def _count(tokens: int | None) -> str:
    return "not stated" if tokens is None else f"{tokens:,}"
