"""Pieces of the Markdown that chapters include: a figure that was drawn, a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from langmerge import plotting


def picture(folder: Path, name: str, fig: Figure, caption: str) -> Iterator[str]:
    """A figure, saved into a folder (``_executed``), as a directive of a page beside it.

    name: of the file, and of the label ``fig-<name>`` with hyphens for underscores.
    """
    saved = plotting.save(fig, folder / name)
    yield f"```{{figure}} _executed/{saved.name}"
    yield f":name: fig-{name.replace('_', '-')}"
    yield f":alt: {plotting.alt(fig)}"
    yield ""
    yield caption
    yield "```"
    yield ""


def table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = False
) -> Iterator[str]:
    """A table and an empty line; with `numbers` all columns but the first are set to the right."""
    yield f"| {' | '.join(heads)} |"
    rest = "---:" if numbers else "---"
    yield f"|---{f'|{rest}' * (len(heads) - 1)}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""
