"""The store: finished work on disk, found again by the hash of all it depends on.

An entry is a folder ``<stage>/<key>`` with the files of one piece of work, the
specification that its key is the hash of, and the SHA-256 of every file. It is written
under a temporary name and renamed when complete, so that a run killed at any moment leaves
either a whole entry or none. A damaged entry is named, thrown away and made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langmerge import paths
from langmerge.files import sha256

#: The version of what each stage computes. Raise it when a stage's results change: the
#: entries of older versions are then no longer found. A test ties them to the sources.
VERSIONS = {"ct": 1, "sft": 1, "evaluation": 2, "diagnostics": 2}
ENTRY = "entry.json"
Spec = dict[str, Any]


def key_of(stage: str, spec: Spec) -> str:
    """The key of a piece of work: a hash of its stage, the stage's version and its spec."""
    text = json.dumps([stage, VERSIONS[stage], spec], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Entry:
    """A finished entry as `langmerge show` lists it."""

    stage: str
    key: str
    spec: Spec
    size: int  # bytes


class Store:
    """A folder of finished entries; several processes may use it at once."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or paths.store()
        self._checked: set[str] = set()

    def has(self, stage: str, spec: Spec) -> bool:
        """Whether the work is finished (its files are checked when they are first used)."""
        return (self.root / stage / key_of(stage, spec) / ENTRY).is_file()

    def get(self, stage: str, spec: Spec, compute: Callable[[Path], None]) -> Path:
        """The folder of the finished work; `compute(folder)` writes its files where it is missing."""
        found = self.find(stage, spec)
        return found if found is not None else self._make(stage, spec, compute)

    def find(self, stage: str, spec: Spec) -> Path | None:
        """The folder of the finished work, or None where there is none that is whole."""
        folder = self.root / stage / key_of(stage, spec)
        if not (folder / ENTRY).is_file():
            return None
        if folder.name in self._checked:
            return folder
        damaged = damaged_file(folder)
        if damaged is None:
            self._checked.add(folder.name)
            return folder
        print(
            f"store entry {stage}/{folder.name} is damaged ({damaged} does not match its "
            "SHA-256); it is thrown away and made again",
            file=sys.stderr,
        )
        shutil.rmtree(folder, ignore_errors=True)
        return None

    def _make(self, stage: str, spec: Spec, compute: Callable[[Path], None]) -> Path:
        key = key_of(stage, spec)
        folder = self.root / stage / key
        scratch = self.root / "unfinished" / f"{key}-{uuid.uuid4().hex[:8]}"
        scratch.mkdir(parents=True)
        try:
            compute(scratch)
            files = {path.name: sha256(path) for path in sorted(scratch.iterdir())}
            entry = {"stage": stage, "version": VERSIONS[stage], "spec": spec, "sha256": files}
            (scratch / ENTRY).write_text(json.dumps(entry, indent=1, sort_keys=True))
            _flush(scratch)
            folder.parent.mkdir(parents=True, exist_ok=True)
            if not folder.exists():  # another process may have finished the same work
                os.replace(scratch, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        self._checked.add(key)
        return folder

    def entries(self) -> Iterator[Entry]:
        """All finished entries."""
        for path in sorted(self.root.glob(f"*/*/{ENTRY}")):
            if path.parent.parent.name == "unfinished":
                continue
            entry = json.loads(path.read_text())
            size = sum(file.stat().st_size for file in path.parent.iterdir())
            yield Entry(entry["stage"], path.parent.name, entry["spec"], size)


def damaged_file(folder: Path) -> str | None:
    """The first file of an entry that is missing or does not match its hash, or None."""
    try:
        hashes = json.loads((folder / ENTRY).read_text())["sha256"]
    except (ValueError, KeyError):
        return ENTRY
    for name, expected in hashes.items():
        path = folder / name
        if not path.is_file() or sha256(path) != expected:
            return name
    return None


def _flush(folder: Path) -> None:
    """Bring an entry's files to the disk before its name appears."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
