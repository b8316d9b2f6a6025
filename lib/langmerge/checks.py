"""What ``make test`` does: lint, unit and property tests, a strict smoke book, its pages.

All steps run even where one fails, so that one run tells everything; pytest's closing line
is printed last.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from langmerge import base, book, browser, paths
from langmerge.errors import LangmergeError
from langmerge.provenance import provenance

_CLOSING = re.compile(r"=*\s*\d+ (passed|failed|skipped|error|deselected|xfailed|warning).* in ")


def run() -> int:
    """Run all steps in the checkout; return 0 where all passed, else 1."""
    root = book.require_checkout()
    console = Console()
    closing: list[str] = []
    steps: dict[str, Callable[[], bool]] = {
        "lint": lambda: _lint(root),
        "tests": lambda: _pytest(root, closing),
        "smoke book": _smoke_book,
        "pages": lambda: _pages(root),
    }
    outcomes = {}
    for number, (name, step) in enumerate(steps.items(), start=1):
        console.rule(f"Step {number} of {len(steps)}: {name}")
        started = time.monotonic()
        passed = step()
        outcomes[name] = f"{'passed' if passed else 'FAILED'} in {time.monotonic() - started:.0f} s"
    for name, outcome in outcomes.items():
        console.print(f"{name}: {outcome}", highlight=False)
    console.print(closing[-1] if closing else "pytest printed no closing line", highlight=False)
    return int(not closing or any("FAILED" in outcome for outcome in outcomes.values()))


def _lint(root: Path) -> bool:
    command = [sys.executable, "-m", "ruff", "check", "."]
    return subprocess.run(command, cwd=root).returncode == 0


def _pytest(root: Path, closing: list[str]) -> bool:
    """Run the tests, one process a core; put pytest's closing line into `closing`."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "auto"]
    # Two processes with two spinning threads each would wait for each other.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=root, env=environment, **pipes) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            if _CLOSING.match(line):
                closing.append(line.strip())
    return process.returncode == 0


def in_rotation(codes: Sequence[str], turn: int) -> str:
    """The language whose turn it is."""
    return codes[turn % len(codes)]


def shipped_targets() -> list[str]:
    """The shipped languages that the shipped base has met."""
    return [code for code in base.load().languages if code in _shipped()]


def runnable() -> tuple[list[str], dict[str, str]]:
    """The shipped languages that can be run here, and what keeps each other one from it.

    One that the base has not met can be run after `langmerge base extend`, if that made it ready.
    """
    codes, reasons = [], {}
    for code in _shipped():
        try:
            base.meeting("base", code)
        except LangmergeError as error:
            reasons[code] = str(error)
        else:
            codes.append(code)
    return codes, reasons


def _shipped() -> list[str]:
    """The shipped languages that can be a study's target."""
    files = (paths.data() / "languages").glob("*.yaml")
    return sorted({path.stem for path in files} - {"eng_Latn"})


def _smoke_book() -> bool:
    """Build the book from the smoke profile, apart from the reader's own site.

    Beside the first language stands another one, each shipped one in its turn: commit by commit.
    """
    try:
        turn = int(str(provenance()["commit"] or 0), 16)
        code = in_rotation(shipped_targets(), turn)
        book.build(languages=[code], profile="smoke", output=paths.home() / "smoke")
    except LangmergeError as error:
        print(error, file=sys.stderr)
        return False
    return True


def _pages(root: Path) -> bool:
    """Check the smoke book's pages, in a browser where there is one."""
    site = paths.home() / "smoke" / "_build" / "html"
    if not site.is_dir():
        print(f"There is no smoke book to check ({site}): see the step before", file=sys.stderr)
        return False
    if browser.find() is None:
        print("Failed:" if browser.is_needed() else "Skipped in part:", browser.HOW, flush=True)
    # Of pytest's plugins only what is needed: one process, one browser.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "tests/site_checks.py"]
    environment = {**os.environ, "LANGMERGE_SITE": str(site)}
    return subprocess.run(command, cwd=root, env=environment).returncode == 0
