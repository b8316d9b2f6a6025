"""The exercises' solutions: in the instructor's build of the book, not in the student's.

Both are built from the same notebooks. A solution is a cell with one of `TAGS`: code that the page
folds away, or prose that belongs to it. Solutions are executed in either build, so that a student's
pages come from the same run; they are left out when the executed notebooks are put in place, and
from the zip of the study that the pages offer.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

TAGS = frozenset({"hide-cell", "solution"})
_CELL = re.compile(r"^# %%", re.MULTILINE)
_TAGGED = re.compile(r"^# %%.*\btags=\[([^\]]*)\]")


def without(notebook: str) -> str:
    """A notebook's JSON without its solutions; its text as it is where it has none."""
    import nbformat

    read = nbformat.reads(notebook, as_version=4)
    kept = [cell for cell in read.cells if not TAGS & set(cell.metadata.get("tags", ()))]
    if len(kept) == len(read.cells):
        return notebook
    read.cells = kept
    return nbformat.writes(read) + "\n" * notebook.endswith("\n")


def without_percent(source: str) -> str:
    """The same of a notebook's ``.py`` in jupytext's percent format."""
    starts = [found.start() for found in _CELL.finditer(source)]
    if not starts:
        return source
    ends = [*starts[1:], len(source)]
    cells = (source[start:end] for start, end in zip(starts, ends, strict=True))
    return source[: starts[0]] + "".join(cell for cell in cells if not _is_solution(cell))


def of_file(name: str, data: bytes) -> bytes:
    """A file of the study as a student gets it: a notebook without its solutions.

    name: its path in the study, with slashes. Every other file stays as it is.
    """
    path = PurePosixPath(name)
    if path.parts[:1] != ("notebooks",):
        return data
    if path.suffix == ".ipynb":
        return without(data.decode("utf-8")).encode("utf-8")
    return without_percent(data.decode("utf-8")).encode("utf-8") if path.suffix == ".py" else data


def _is_solution(cell: str) -> bool:
    tagged = _TAGGED.match(cell)
    return bool(tagged and TAGS & set(re.findall(r"[\w-]+", tagged[1])))
