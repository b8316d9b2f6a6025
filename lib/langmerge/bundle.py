"""The study as one zip: what the book's button gives to a reader who has no clone.

It holds the tracked files as they are in the working tree, so that what is downloaded is what
the book was built from; equal files give an equal zip.
"""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

from langmerge import solutions

NAME = "langmerge-study.zip"
#: The folder that it unpacks into.
FOLDER = "langmerge-study"
#: Where there is no git to ask: what is made, not written.
_MADE = {".git", ".venv", "build", "_build", "dist", "_executed", "__pycache__", ".hypothesis"}
_MADE |= {".pytest_cache", ".ruff_cache", ".ipynb_checkpoints"}
#: The earliest time that a zip can hold, for all files: when they were written is nobody's concern.
_TIME = (1980, 1, 1, 0, 0, 0)


def files(root: Path) -> list[str]:
    """The study's files under `root`, sorted: those git tracks, else all but what is made."""
    asked = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z", "."], capture_output=True, text=True
    )
    # A study that was unpacked somewhere inside another repository is none of its files.
    tracked = [name for name in asked.stdout.split("\0") if name and (root / name).is_file()]
    if asked.returncode == 0 and tracked:
        return sorted(tracked)
    every = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in every if not _MADE & set(path.parts))


def write(root: Path, target: Path, student: bool = False) -> Path:
    """Write the zip of the study at `root`; return its path.

    student: the notebooks in it have no solutions.
    """
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as made:
        for name in files(root):
            path = root / name
            entry = zipfile.ZipInfo(f"{FOLDER}/{name}", _TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            may_run = path.stat().st_mode & 0o100
            entry.external_attr = (0o100755 if may_run else 0o100644) << 16
            data = path.read_bytes()
            made.writestr(entry, solutions.of_file(name, data) if student else data)
    return target
