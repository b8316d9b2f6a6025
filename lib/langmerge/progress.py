"""Progress bars with elapsed and remaining time, in the one look of all commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@contextmanager
def bar(
    description: str, total: int | None = None, console: Console | None = None
) -> Iterator[Callable[[int, int], None]]:
    """Show a bar while the block runs; call what it gives with (done, total).

    `total` may become known only with the first call.
    """
    columns = [
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("elapsed"),
        TimeElapsedColumn(),
        TextColumn("remaining"),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(description, total=total)
        yield lambda done, of: progress.update(task, completed=done, total=of)
