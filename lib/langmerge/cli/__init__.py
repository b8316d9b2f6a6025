"""The command line: thin calls into the library, and errors a user can mend.

A module of commands each; importing it adds them to the application, in the order of ``--help``.
Heavy modules are imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys

# isort: off
from langmerge.cli import study, languages, merging, hub, publishing

# isort: on
from langmerge.cli.application import app
from langmerge.cli.errors import explain
from langmerge.cli.options import parse_seeds

__all__ = ["app", "explain", "main", "parse_seeds"]
__all__ += ["hub", "languages", "merging", "publishing", "study"]


def main() -> None:
    """Run the command line; a mendable error is one message on stderr and exit code 2."""
    try:
        app()
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        print(f"langmerge: {message}", file=sys.stderr)
        sys.exit(2)
