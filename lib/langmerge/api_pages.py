"""A Sphinx extension for the book's page on the library: parameters as a list.

Docstrings here say ``name: what it is``, a line a parameter, as it is read in an editor. On a
page such lines would run into one paragraph.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

_NAMED = re.compile(r"(\w+(?:, \w+)*): ")


def as_list(lines: list[str], names: set[str]) -> list[str]:
    """Docstring lines with those that begin with one of the names as bullets."""
    listed: list[str] = []
    inside = False
    for line in lines:
        match = _NAMED.match(line)
        if match and set(match[1].split(", ")) <= names:
            if not inside and listed and listed[-1].strip():
                listed.append("")
            listed.append(f"- **{match[1]}**: {line[match.end() :]}")
            inside = True
            continue
        if inside and line.startswith(("Raises", "Returns", "Deterministic")):
            listed.append("")
            inside = False
        inside = inside and bool(line.strip())
        listed.append(f"  {line.strip()}" if inside else line)
    return listed


def _process(app: object, what: str, name: str, it: Any, options: object, lines: list) -> None:
    names: set[str] = set(getattr(it, "__annotations__", {}))
    if callable(it):
        names |= set(inspect.signature(it).parameters)
    lines[:] = as_list(lines, names)


def setup(app: Any) -> dict[str, bool]:
    """Sphinx's entry point."""
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True}
