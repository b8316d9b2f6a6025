"""Tables and numbers as the commands print them."""

from __future__ import annotations

import math
import sys
from typing import Any


def print_table(titles: Any, rows: Any) -> None:
    """A table of any width; what does not fit a cell goes on in its next line."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    # A narrow terminal must not cut names, and a file or a pipe has no width.
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*map(str, row))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def yes(is_so: bool) -> str:
    """A truth value as a word."""
    return "yes" if is_so else "no"


def brief(value: Any) -> str:
    """Three digits of a number, nothing for a missing one, anything else as it is."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.3g}"
    return str(value)


def minutes(seconds: float, measured: bool) -> str:
    """Minutes of some seconds, and whether they were measured; a question mark for none."""
    if math.isnan(seconds):
        return "?"
    return f"{seconds / 60:.1f}" if measured else f"about {seconds / 60:.0f}"


def count(models: float) -> str:
    """A number of models; a question mark where it is not known."""
    return "?" if math.isnan(models) else f"{models:.0f}"


def tokens(budgets: Any) -> str:
    """Budgets with their thousands apart."""
    return ", ".join(f"{budget:,}" for budget in budgets)
