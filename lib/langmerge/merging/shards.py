"""Writing a checkpoint piece by piece: shards planned before the first byte, whole or absent.

A shard is written under a temporary name and renamed when its last tensor is there; the index
comes last. A journal beside them holds the hash of every tensor that is written, so that a merge
that was killed goes on where it stopped and ends with the same bytes.
"""

from __future__ import annotations

import json
import math
import os
import struct
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import xxhash

from langmerge.dtypes import Dtype
from langmerge.errors import LangmergeError
from langmerge.files import write_text

try:
    import fcntl
except ImportError:  # Windows has no locks of this kind
    fcntl = None

JOURNAL = ".langmerge-journal.jsonl"
_PART = ".part"
_READ = 1 << 22


class Place(NamedTuple):
    """Where a tensor lies: a shard's name, and its bytes' start and length there."""

    shard: str
    start: int
    length: int


class Shard(NamedTuple):
    """A planned file: its header, size and tensors."""

    name: str
    header: bytes
    size: int
    tensors: tuple[str, ...]


class Layout(NamedTuple):
    """A planned checkpoint: its shards in order, and where every tensor lies."""

    shards: tuple[Shard, ...]
    places: Mapping[str, Place]

    @property
    def size(self) -> int:
        """The bytes of all shards."""
        return sum(shard.size for shard in self.shards)


def lay_out(tensors: Mapping[str, tuple[Dtype, tuple[int, ...]]], shard_bytes: int) -> Layout:
    """Spread tensors over shards in their order; only one that is larger alone exceeds a shard."""
    groups: list[list[str]] = []
    filled = 0
    for name in tensors:
        size = _size(*tensors[name])
        if not groups or filled + size > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    shards, places = [], {}
    for number, names in enumerate(groups, start=1):
        file = "model.safetensors"
        if len(groups) > 1:
            file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        header, starts, end = _header({name: tensors[name] for name in names})
        shards.append(Shard(file, header, end, tuple(names)))
        for name, start in starts.items():
            places[name] = Place(file, start, _size(*tensors[name]))
    return Layout(tuple(shards), places)


def _size(dtype: Dtype, shape: Sequence[int]) -> int:
    return math.prod(shape) * dtype.itemsize


def _header(
    tensors: Mapping[str, tuple[Dtype, tuple[int, ...]]],
) -> tuple[bytes, dict[str, int], int]:
    """A safetensors header, where each tensor starts, and the file's size."""
    # Wide types first: then every tensor is aligned to its own width, as readers like it.
    ordered = sorted(tensors, key=lambda name: -tensors[name][0].itemsize)
    about: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offsets, end = {}, 0
    for name in ordered:
        dtype, shape = tensors[name]
        offsets[name] = end
        end += _size(dtype, shape)
        about[name] = {
            "dtype": dtype.name,
            "shape": list(shape),
            "data_offsets": [offsets[name], end],
        }
    text = json.dumps(about, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = struct.pack("<Q", len(text)) + text
    return header, {name: len(header) + at for name, at in offsets.items()}, len(header) + end


class Writer:
    """Writes the tensors of a layout in any order, from any number of threads.

    fingerprint: everything that the output's bytes depend on. To resume, it has to be that of
    the journal (LangmergeError); `done` then holds the notes of the tensors that are there.
    """

    def __init__(self, folder: Path, layout: Layout, fingerprint: str) -> None:
        self._folder, self._layout = folder, layout
        self._lock, self._place = threading.Lock(), threading.Lock()
        self._files: dict[str, int] = {}
        self.done: dict[str, dict[str, object]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._journal = (folder / JOURNAL).open("a+b", buffering=0)
        _lock(self._journal, folder)
        self._recover(fingerprint)
        self._missing = {
            shard.name: {name for name in shard.tensors if name not in self.done}
            for shard in layout.shards
        }
        for shard in layout.shards:
            final, part = folder / shard.name, folder / f".{shard.name}{_PART}"
            if not self._missing[shard.name]:
                self._finish(shard.name)
            elif final.exists():  # it was changed since; what is right in it is kept
                os.replace(final, part)

    def write(self, name: str, at: int, data: memoryview | bytes) -> None:
        """Write bytes of a tensor, `at` counted from its first one."""
        place = self._layout.places[name]
        file, start = self._file(place.shard), place.start + at
        view = memoryview(data).cast("B")
        while view:
            written = self._write_at(file, view, start)
            view, start = view[written:], start + written

    def commit(self, name: str, notes: Mapping[str, object]) -> None:
        """All bytes of a tensor are written; notes: its ``xxh3`` and what else resuming needs."""
        line = json.dumps({"tensor": name, **notes}) + "\n"
        with self._lock:
            self._journal.write(line.encode())
            self.done[name] = dict(notes)
            shard = self._layout.places[name].shard
            self._missing[shard].discard(name)
            if not self._missing[shard]:
                self._finish(shard)

    def close(self) -> None:
        """Close all files; what is not finished stays under its temporary name."""
        self._journal.close()
        for file in self._files.values():
            os.close(file)
        self._files.clear()

    def finish(self) -> None:
        """All tensors are there: write the index. The journal goes with `clear`."""
        self.close()
        if len(self._layout.shards) > 1:
            index = {
                "metadata": {"total_size": sum(p.length for p in self._layout.places.values())},
                "weight_map": {n: place.shard for n, place in self._layout.places.items()},
            }
            text = json.dumps(index, indent=2) + "\n"
            write_text(self._folder / "model.safetensors.index.json", text)

    def discard(self) -> None:
        """The merge cannot be done: remove what it wrote, and the folder where that was all."""
        self.close()
        for shard in self._layout.shards:
            (self._folder / shard.name).unlink(missing_ok=True)
            (self._folder / f".{shard.name}{_PART}").unlink(missing_ok=True)
        self.clear()
        if not any(self._folder.iterdir()):
            self._folder.rmdir()

    def clear(self) -> None:
        """Everything is written: the journal is not needed any more."""
        (self._folder / JOURNAL).unlink(missing_ok=True)

    def _file(self, shard: str) -> int:
        with self._lock:
            if shard not in self._files:
                self._files[shard] = self._open(shard)
            return self._files[shard]

    def _open(self, shard: str) -> int:
        planned = next(one for one in self._layout.shards if one.name == shard)
        path = self._folder / f".{shard}{_PART}"
        file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        os.truncate(file, planned.size)
        self._write_at(file, planned.header, 0)
        return file

    def _write_at(self, file: int, data: memoryview | bytes, start: int) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(file, data, start)
        with self._place:  # Windows only knows a file's one place, which threads share
            os.lseek(file, start, os.SEEK_SET)
            return os.write(file, data)

    def _finish(self, shard: str) -> None:
        if shard in self._files:
            file = self._files.pop(shard)
            os.close(file)
        path = self._folder / f".{shard}{_PART}"
        if path.exists():  # else it was renamed before a merge was killed
            os.replace(path, self._folder / shard)

    def _recover(self, fingerprint: str) -> None:
        """Begin a journal, or believe the one that is there where the bytes have its hashes."""
        self._journal.seek(0)
        # What follows the last line end was cut off by a kill.
        *lines, torn = self._journal.read().split(b"\n")
        self._journal.truncate(self._journal.tell() - len(torn))
        if not lines:
            self._journal.write(json.dumps({"fingerprint": fingerprint}).encode() + b"\n")
            return
        try:
            begun = json.loads(lines[0])["fingerprint"]
        except (ValueError, KeyError, TypeError):
            self._journal.close()
            raise LangmergeError(
                f"{self._folder / JOURNAL}: it is not readable, so the merge cannot be resumed. "
                "Empty the folder and merge anew."
            ) from None
        if begun != fingerprint:
            self._journal.close()
            raise LangmergeError(
                f"{self._folder}: the merge that was begun here had another recipe or other input "
                "files. Resume with those, or empty the folder and merge anew."
            )
        for line in lines[1:]:
            notes = json.loads(line)
            name = notes.pop("tensor")
            if name in self._layout.places and self._hash(name) == notes["xxh3"]:
                self.done[name] = notes

    def _hash(self, name: str) -> str | None:
        """The hash of what lies where a tensor has to be; None where there is too little."""
        place = self._layout.places[name]
        paths = (self._folder / place.shard, self._folder / f".{place.shard}{_PART}")
        path = next((path for path in paths if path.exists()), None)
        if path is None:
            return None
        digest, left = xxhash.xxh3_128(), place.length
        with path.open("rb") as file:
            file.seek(place.start)
            while left:
                data = file.read(min(left, _READ))
                if not data:
                    return None
                digest.update(data)
                left -= len(data)
        return digest.hexdigest()


def _lock(journal: BinaryIO, folder: Path) -> None:
    """Two merges into one folder would spoil each other; the lock ends with the process."""
    if fcntl is None:
        return
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        journal.close()
        raise LangmergeError(
            f"{folder}: another merge is writing into this folder. Wait for it, or choose another."
        ) from None
    except OSError:
        return  # a file system without locks
