"""Errors that a user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


class LangmergeError(Exception):
    """Something the user can mend: the message says what was wrong, where, and the mend.

    The command line prints the message alone, without a traceback, and exits with 2.
    """


def nearest(value: str, known: Iterable[str], n: int = 3) -> str:
    """Name the known values nearest to `value`, as the tail of an error message."""
    known = sorted(known)
    close = difflib.get_close_matches(value, known, n=n, cutoff=0.4)
    return f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(known)}"


def readable(error: ValidationError) -> str:
    """Pydantic's complaint in one line: `key: what is wrong; key: …`, without its links."""
    return "; ".join(
        ": ".join(filter(None, (".".join(map(str, it["loc"])), _said(it)))) for it in error.errors()
    )


def _said(problem: ErrorDetails) -> str:
    if problem["type"] == "model_type":  # the file as a whole is a list, a word or empty
        return "has no `key: value` lines"
    return problem["msg"].removeprefix("Value error, ")
