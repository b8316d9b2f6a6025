"""The store: finished work on disk, found again by the hash of all it depends on.

An entry is a folder ``<stage>/<key>`` with the files of one piece of work, the
specification that its key is the hash of, and the SHA-256 of every file. It is written
under a temporary name and renamed when complete, so that a run killed at any moment leaves
either a whole entry or none. A damaged entry is named, thrown away and made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langmerge import paths
from langmerge.files import sha256

#: The version of what each stage computes. Raise it when a stage's results change: the
#: entries of older versions are then no longer found. A test ties them to the sources.
VERSIONS = {"ct": 3, "sft": 1, "evaluation": 4, "diagnostics": 3}
ENTRY = "entry.json"
#: Seconds after which an unfinished entry that nobody wrote to belongs to a killed run.
ABANDONED = 7 * 24 * 3600
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
        """The folder of the finished work; where it is missing, `compute(folder)` writes it."""
        found = self.find(stage, spec)
        return found if found is not None else self._make(stage, spec, compute)

    def find(self, stage: str, spec: Spec) -> Path | None:
        """The folder of the finished work, or None where there is none that is whole."""
        folder = self.root / stage / key_of(stage, spec)
        if not (folder / ENTRY).is_file():
            return None
        if folder.name in self._checked:
            return folder
        damage = damage_of(folder)
        if damage is None:
            self._checked.add(folder.name)
            return folder
        print(
            f"store entry {stage}/{folder.name} is damaged: {damage}; "
            "it is thrown away and made again",
            file=sys.stderr,
        )
        self._throw_away(folder)
        return None

    def _make(self, stage: str, spec: Spec, compute: Callable[[Path], None]) -> Path:
        key = key_of(stage, spec)
        folder = self.root / stage / key
        scratch = self._unfinished(key)
        scratch.mkdir(parents=True)
        self._sweep()
        try:
            compute(scratch)
            files = {path.name: sha256(path) for path in sorted(scratch.iterdir())}
            entry = {"stage": stage, "version": VERSIONS[stage], "spec": spec, "sha256": files}
            (scratch / ENTRY).write_text(json.dumps(entry, indent=1, sort_keys=True))
            _flush(scratch)
            folder.parent.mkdir(parents=True, exist_ok=True)
            self._publish(scratch, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        self._checked.add(key)
        return folder

    def _publish(self, scratch: Path, folder: Path) -> None:
        """Give a finished entry its name, unless another process was first."""
        if folder.exists() and damage_of(folder) is not None:  # say, its entry.json is gone
            self._throw_away(folder)
        try:
            os.replace(scratch, folder)
        except OSError:  # a folder that is not empty is never replaced
            if not folder.exists() or damage_of(folder) is not None:
                raise

    def _unfinished(self, key: str) -> Path:
        return self.root / "unfinished" / f"{key}-{uuid.uuid4().hex[:8]}"

    def _throw_away(self, folder: Path) -> None:
        """Take an entry out of its place at once, so that nobody meets half of it."""
        away = self._unfinished(folder.name)
        away.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another process threw it away
            os.replace(folder, away)
        shutil.rmtree(away, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what killed runs left unfinished, once nobody can be at work on it."""
        for path in (self.root / "unfinished").iterdir():
            with contextlib.suppress(FileNotFoundError):  # its process has just finished it
                if time.time() - path.stat().st_mtime > ABANDONED:
                    shutil.rmtree(path, ignore_errors=True)

    def entries(self) -> Iterator[Entry]:
        """All finished entries; a damaged one is named on stderr and left out."""
        for path in sorted(self.root.glob(f"*/*/{ENTRY}")):
            if path.parent.parent.name == "unfinished":
                continue
            damage = damage_of(path.parent)
            if damage is not None:
                print(f"store entry {path.parent} is damaged: {damage}", file=sys.stderr)
                continue
            entry = json.loads(path.read_text())
            size = sum(file.stat().st_size for file in path.parent.iterdir())
            yield Entry(entry["stage"], path.parent.name, entry["spec"], size)


def damage_of(folder: Path) -> str | None:
    """What is wrong with an entry: the first file that does not match its hash, or None."""
    try:
        hashes = dict(json.loads((folder / ENTRY).read_text())["sha256"])
    except FileNotFoundError:
        return f"{ENTRY} is missing"
    except (ValueError, KeyError, TypeError):
        return f"{ENTRY} cannot be read"
    for name, expected in hashes.items():
        try:
            found = sha256(folder / name)
        except FileNotFoundError:
            return f"{name} is missing"
        if found != expected:
            return f"{name} has SHA-256 {found[:16]}…, not {str(expected)[:16]}…"
    return None


def _flush(folder: Path) -> None:
    """Bring an entry's files to the disk before its name appears."""
    for path in folder.iterdir():
        with path.open("r+b") as file:  # Windows flushes only what is open for writing
            os.fsync(file.fileno())
