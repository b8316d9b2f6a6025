"""Merging checkpoints on disk, tensor by tensor: any size, in memory that does not grow with it.

A `Job` is planned (`plan`: what is read and written, and what it takes) and run (`run`). Methods
that have a compiled form (`fused`) are merged in slabs that stay in the processor's cache, and the
pages that were read are given back; the others by their torch function, one tensor in fp32 at a
time. The output depends on the job alone, whatever the number of threads, and a run that was
killed goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash

from langmerge import __version__, files
from langmerge.checkpoints import Checkpoint, Entry, align, fingerprint
from langmerge.dtypes import Dtype
from langmerge.errors import LangmergeError
from langmerge.later import torch
from langmerge.merging import kernels, magnitudes, output, shards
from langmerge.merging import methods as table
from langmerge.merging.fused import Fused, FusedTies, Slab, as_arrays, fused_for
from langmerge.merging.job import Job
from langmerge.merging.magnitudes import NotFinite
from langmerge.merging.shards import Writer
from langmerge.merging.tensors import Passes, Settings, Tensors, count_layers
from langmerge.merging.ties import Ties

Progress = Callable[[int, int], None]

#: Entries of a tensor that are merged at once.
SLAB = 1 << 20
#: A tensor of more bytes than this gives its pages back after each pass over it, a smaller one
#: after the last.
KEEP_MAPPED = 1 << 27
#: Neighbouring entries of a sample.
RUN = 128
#: Entries of a sample of the whole model.
SAMPLE = 1 << 18
#: The largest shard, as transformers writes them.
SHARD_BYTES = 5 * 10**9
#: What the compiled loops count in.
_LARGEST = 1 << 32
_FUSED_DTYPES = (Dtype.F32, Dtype.BF16, Dtype.F16)
#: Keys that are rounded to infinity in a type.
_TOO_LARGE = {
    Dtype.F32: kernels.NOT_FINITE,
    Dtype.BF16: 0x7F7F8000,
    Dtype.F16: int(np.float32(65520).view(np.int32)),
}
#: What Python and numba take, in bytes, and torch where it is needed; rough seconds for each entry:
#: estimates.
_IMPORTS, _TORCH = 180 << 20, 180 << 20
_SECONDS = {"average": 1.2e-9, "ties": 3.5e-9, "torch": 60e-9}
#: What a merge by compiled loops takes, in bytes, whatever the model's size.
COMPILED_MEMORY = _IMPORTS + 2 * KEEP_MAPPED


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a merge will do. Sizes in bytes; `seconds` and `memory` are estimates.

    read: the inputs' size, which is read `passes` times (mostly from the page cache). fused:
    whether all tensors are merged by the compiled loops. tied: the output embedding is merged as
    the input embedding. notes: what is left out or worth knowing.
    """

    method: str
    inputs: Mapping[str, int]
    tensors: int
    parameters: int
    passes: int
    read: int
    write: int
    shards: tuple[str, ...]
    files: tuple[str, ...]
    dtypes: tuple[str, ...]
    fused: bool
    tied: bool
    memory: int
    seconds: float
    free: int
    notes: tuple[str, ...]

    def rows(self) -> list[tuple[str, str]]:
        """The plan as (what, value) lines."""
        loops = "compiled loops" if self.fused else "torch, tensor by tensor in fp32"
        return [
            ("method", f"{self.method} ({loops})"),
            *((f"reads {name}", _gb(size)) for name, size in self.inputs.items()),
            ("passes over the inputs", str(self.passes)),
            ("tensors", f"{self.tensors:,} of {self.parameters:,} parameters"),
            ("writes", f"{_gb(self.write)}, {', '.join(self.dtypes)}, {len(self.shards)} shards"),
            ("copies", ", ".join(self.files) or "nothing"),
            ("free disk", _gb(self.free)),
            ("memory, about", _gb(self.memory)),
            ("time, about", f"{self.seconds:,.0f} s from a warm cache"),
            *(("note", note) for note in self.notes),
        ]


@dataclasses.dataclass(frozen=True)
class Report:
    """What a merge did. digest: the hash of all merged tensors; inputs: those of the models.

    resumed: tensors that an earlier run had written. sha256: of the output's shards, on request.
    """

    out: Path
    tensors: int
    resumed: int
    parameters: int
    seconds: float
    digest: str
    inputs: tuple[output.Input, ...]
    sha256: Mapping[str, str]
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Unit:
    """One tensor of the merge. fused: its compiled form; None for torch. copied: no weights."""

    name: str
    base: Entry | None
    models: tuple[Entry, ...]
    dtype: Dtype
    settings: Settings
    fused: Fused | None
    copied: bool

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The tensor in all checkpoints, the base's first."""
        return (*((self.base,) if self.base else ()), *self.models)

    @property
    def numel(self) -> int:
        """The number of entries."""
        return self.models[0].numel

    def tensors(self) -> Tensors:
        """All of it in fp32."""
        base = None if self.base is None else self.base.tensor()
        return Tensors(self.name, base, tuple(entry.tensor() for entry in self.models))

    def slabs(self) -> Iterator[tuple[np.ndarray | None, np.ndarray, np.ndarray]]:
        """CT and SFT in pieces, the base (their `ref`) first."""
        for start, stop in self.pieces():
            yield tuple(None if e is None else _loaded(e, start, stop) for e in self._triple())
            if self.large:
                self.drop(start, stop)

    def sample(self, runs: int = 64) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
        """Short runs of entries, evenly spread: what a threshold is guessed from."""
        runs = max(min(runs, self.numel // RUN), 1)
        step = self.numel // runs
        triple = self._triple()
        return tuple(None if e is None else _sampled(e, runs, step, self.large) for e in triple)

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Where the slabs start and stop."""
        for start in range(0, self.numel, SLAB):
            yield start, min(start + SLAB, self.numel)

    @property
    def large(self) -> bool:
        """Whether its pages are given back after each pass."""
        return sum(len(entry.data) for entry in self.entries) > KEEP_MAPPED

    def drop(self, start: int, stop: int) -> None:
        """Give the pages of some entries back."""
        for entry in self.entries:
            entry.drop(start * entry.dtype.itemsize, stop * entry.dtype.itemsize)

    def _triple(self) -> tuple[Entry | None, Entry, Entry]:
        return (self.base, *self.models)


@dataclasses.dataclass(frozen=True)
class _Small:
    """Four numbers in place of a tensor, as a survey and a merge look at it."""

    name: str
    fused: Fused
    arrays: tuple[np.ndarray | None, np.ndarray, np.ndarray]
    numel: int = 4

    @classmethod
    def of(cls, unit: Unit) -> _Small:
        """In the unit's types, for which the loops are compiled anyway."""
        base = None if unit.base is None else _narrowed(np.zeros(cls.numel, np.float32), unit.base)
        some = np.array([1, 2, -3, 4], np.float32)
        return cls(unit.name, unit.fused, (base, *(_narrowed(some, one) for one in unit.models)))

    def slabs(self) -> tuple[tuple[np.ndarray | None, np.ndarray, np.ndarray]]:
        """See `Unit`."""
        return (self.arrays,)

    def sample(self, runs: int = 1) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
        """See `Unit`."""
        return self.arrays

    def drop(self, start: int, stop: int) -> None:
        """See `Unit`: there are no pages here."""


class _Trial(NamedTuple):
    """What a survey asks of an opened job."""

    weights: list[_Small]
    names: tuple[str, ...] = ()


class Opened:
    """A job whose checkpoints are open and fit together."""

    def __init__(self, job: Job, *, fused: bool = True, shard_bytes: int = SHARD_BYTES) -> None:
        self.job = job
        self.row = table.method_named(job.method)
        self.row.check_models(len(job.models))
        folders = ([job.base] if job.base else []) + list(job.models)
        if self.row.base and job.base is None:
            raise LangmergeError(f"{job.method} needs a base model.")
        self.names = job.names or tuple(folder.name for folder in folders)
        self.roles = (("base",) if job.base else ()) + tuple(
            f"model {number}" for number in range(1, len(job.models) + 1)
        )
        pairs = zip(folders, self.names, strict=True)
        self.checkpoints = [Checkpoint(folder, name) for folder, name in pairs]
        entries, self.tied = align(self.checkpoints)
        layers = count_layers(entries)
        self.units = {name: self._unit(name, its, layers, fused) for name, its in entries.items()}
        self._check_settings()
        self.layout = shards.lay_out(
            {name: (unit.dtype, unit.models[0].shape) for name, unit in self.units.items()},
            shard_bytes,
        )
        source, *others = self.checkpoints
        self.files = output.side_files(source, job.tokenizer, others)

    def _unit(self, name: str, entries: tuple[Entry, ...], layers: int, fused: bool) -> Unit:
        base, models = (entries[0], entries[1:]) if self.job.base else (None, entries)
        if not all(entry.dtype.is_floating_point for entry in entries):
            self._check_equal(name, entries)
            return Unit(name, base, models, entries[0].dtype, {}, None, True)
        settings = {"layers": layers, **self.job.settings(name)}
        dtype = self.job.out_dtype or entries[0].dtype
        types = {entry.dtype for entry in entries} | {dtype}
        can = fused and len(models) == 2 and types <= set(_FUSED_DTYPES)
        can = can and 0 < entries[0].numel < _LARGEST
        loops = fused_for(self.row, settings) if can else None
        return Unit(name, base, models, dtype, settings, loops, False)

    @property
    def compiled(self) -> bool:
        """Whether all tensors are merged by compiled loops."""
        return all(unit.fused is not None for unit in self.weights)

    def _check_settings(self) -> None:
        """Try the settings on a few numbers first: LangmergeError before the first byte is read."""
        if self.compiled:
            _try_out(self.row, self.weights)
        else:
            names = [unit.name for unit in self.weights]
            settings = {unit.name: unit.settings for unit in self.weights}
            table.check_settings(self.row, names, settings.__getitem__, len(self.job.models))

    def _check_equal(self, name: str, entries: Sequence[Entry]) -> None:
        for label, entry in zip(self.names[1:], entries[1:], strict=True):
            same = entry.dtype == entries[0].dtype and np.array_equal(entry.data, entries[0].data)
            if not same:
                kind = entries[0].dtype.value
                raise LangmergeError(
                    f"{name}: {self.names[0]} stores {kind} and {label} something else; only "
                    "floating-point weights can be merged. Dequantize the models, or drop the "
                    "buffer."
                )

    @property
    def weights(self) -> list[Unit]:
        """The units that are merged and not copied."""
        return [unit for unit in self.units.values() if not unit.copied]

    @property
    def parameters(self) -> int:
        """The number of entries of all tensors."""
        return sum(unit.numel for unit in self.units.values())

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The types that the output has, e.g. ("BF16",)."""
        return tuple(sorted({unit.dtype.name for unit in self.units.values()}))

    @property
    def notes(self) -> tuple[str, ...]:
        """What is left out, and why."""
        found = [
            f"{name}: {len(one.ignored)} buffers that models make anew are left out "
            f"({one.ignored[0]}, ...)"
            for name, one in zip(self.names, self.checkpoints, strict=True)
            if one.ignored
        ]
        if self.tied:
            found.append("the output embedding is tied to the input embedding, and merged with it")
        return tuple(found)

    def fingerprint(self) -> str:
        """Everything that the output's bytes depend on, as a hash."""
        settings = {name: repr(sorted(u.settings.items())) for name, u in self.units.items()}
        parts = [
            __version__,
            self.job.method,
            self.job.recipe_text,
            self.names,
            settings,
            [(shard.name, shard.size) for shard in self.layout.shards],
            [hashlib.sha256(shard.header).hexdigest() for shard in self.layout.shards],
            [fingerprint(one) for one in self.checkpoints],
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def plan(job: Job, out: Path, *, fused: bool = True, shard_bytes: int = SHARD_BYTES) -> Plan:
    """What `run` would do, without doing it. Raises LangmergeError where it would at its start."""
    opened = Opened(job, fused=fused, shard_bytes=shard_bytes)
    _check_out(opened, out, resume=(out / shards.JOURNAL).exists())
    loops = [unit.fused for unit in opened.weights]
    compiled = opened.compiled
    passes = _passes(opened, loops)
    largest = max((unit.numel for unit in opened.weights), default=0)
    in_fp32 = largest * 4 * (len(opened.checkpoints) + 4)
    kind = "torch" if not compiled else ("ties" if passes > 1 else "average")
    return Plan(
        method=job.method,
        inputs={
            name: one.bytes() for name, one in zip(opened.names, opened.checkpoints, strict=True)
        },
        tensors=len(opened.units),
        parameters=opened.parameters,
        passes=passes,
        read=sum(one.bytes() for one in opened.checkpoints),
        write=opened.layout.size,
        shards=tuple(shard.name for shard in opened.layout.shards),
        files=tuple(opened.files),
        dtypes=opened.dtypes,
        fused=compiled,
        tied=opened.tied,
        memory=COMPILED_MEMORY if compiled else _IMPORTS + _TORCH + in_fp32,
        seconds=opened.parameters * _SECONDS[kind] * (1.2 if passes > 2 else 1),
        free=_free(out),
        notes=opened.notes,
    )


def run(
    job: Job,
    out: Path,
    *,
    resume: bool = False,
    threads: int = 1,
    progress: Progress | None = None,
    sha256: bool = False,
    fused: bool = True,
    shard_bytes: int = SHARD_BYTES,
) -> Report:
    """Merge the checkpoints of a job into the folder `out`.

    resume: go on with a merge that was killed. progress: called with tensors done and in all.
    sha256: of all shards, read and written, too (slower). fused: use compiled loops where there
    are any; the result is the same without. Raises LangmergeError, naming tensor, file and mend,
    for what cannot be merged, and before the first byte is written wherever that is known before.
    """
    started = time.monotonic()
    opened = Opened(job, fused=fused, shard_bytes=shard_bytes)
    _check_out(opened, out, resume)
    _check_disk(opened, out)
    with contextlib.nullcontext() if opened.compiled else _one_torch_thread():
        writer = Writer(out, opened.layout, opened.fingerprint())
        try:
            resumed = len(writer.done)
            todo = [unit for unit in opened.units.values() if unit.name not in writer.done]
            found = _survey(opened, threads) if todo else {}
            _merge_all(opened, todo, found, writer, threads, progress)
            writer.finish()
        except LangmergeError:
            writer.discard()  # with these inputs it cannot be finished later either
            raise
        finally:
            writer.close()
    notes = writer.done
    inputs = _inputs(opened, notes, sha256)
    digest = _digest(opened, {name: its["xxh3"] for name, its in notes.items()}, None)
    dtype = next((unit.dtype for unit in opened.weights), None)
    output.write_side_files(out, opened.checkpoints[0], opened.files, dtype, opened.tied)
    text = output.card(
        job.method,
        job.recipe_text,
        inputs,
        [one.folder for one in opened.checkpoints],
        tensors=len(opened.units),
        parameters=opened.parameters,
        dtypes=opened.dtypes,
        digest=digest,
    )
    files.write_text(out / "README.md", text)
    hashes = {s.name: files.sha256(out / s.name) for s in opened.layout.shards} if sha256 else {}
    writer.clear()
    return Report(
        out,
        len(opened.units),
        resumed,
        opened.parameters,
        time.monotonic() - started,
        digest,
        inputs,
        hashes,
        opened.notes,
    )


def _merge_all(
    opened: Opened,
    todo: Sequence[Unit],
    found: Mapping[str, object],
    writer: Writer,
    threads: int,
    progress: Progress | None,
) -> None:
    total = len(opened.units)
    if progress:
        progress(total - len(todo), total)

    def merge(unit: Unit) -> None:
        writer.commit(unit.name, _merge(opened, unit, found, writer))
        if progress:
            progress(len(writer.done), total)

    each(todo, merge, threads)


def _merge(
    opened: Opened, unit: Unit, found: Mapping[str, object], writer: Writer
) -> dict[str, object]:
    """Merge and write one tensor; the hashes of what was read and written."""
    if unit.copied:
        return _copy(unit, writer)
    if unit.fused is None:
        return _merge_by_torch(opened, unit, found, writer)
    with named(opened, unit):
        return _merge_fused(unit, found, writer)


def _copy(unit: Unit, writer: Writer) -> dict[str, object]:
    data = unit.models[0].data
    writer.write(unit.name, 0, data)
    inputs = [xxhash.xxh3_128(entry.data).hexdigest() for entry in unit.entries]
    return {"xxh3": xxhash.xxh3_128(data).hexdigest(), "inputs": inputs}


def _merge_by_torch(
    opened: Opened, unit: Unit, found: Mapping[str, object], writer: Writer
) -> dict[str, object]:
    tensors = unit.tensors()
    given = (tensors.base, *tensors.models) if unit.base else tensors.models
    if not all(torch.isfinite(tensor).all() for tensor in given):
        raise not_finite(opened, unit)
    inputs = [xxhash.xxh3_128(entry.data).hexdigest() for entry in unit.entries]
    unit.drop(0, unit.numel)
    merged = opened.row.tensor(tensors, {**unit.settings, **found}).to(unit.dtype.in_torch)
    if bad := merged.numel() - int(torch.isfinite(merged).sum()):
        raise _overflow(unit, bad)
    data = merged.contiguous().reshape(-1).view(torch.uint8).numpy() if merged.numel() else b""
    writer.write(unit.name, 0, data)
    return {"xxh3": xxhash.xxh3_128(data).hexdigest(), "inputs": inputs}


def _merge_fused(unit: Unit, found: Mapping[str, object], writer: Writer) -> dict[str, object]:
    fused = _with(unit.fused, found)
    merger = fused.prepare(unit, unit.numel)
    kind = np.uint16 if unit.dtype is Dtype.BF16 else np.float32
    buffer = np.empty(min(SLAB, unit.numel), kind)
    written = xxhash.xxh3_128()
    read = [xxhash.xxh3_128() for _ in unit.entries]
    for start, stop in unit.pieces():
        arrays = [_loaded(entry, start, stop) for entry in unit.entries]
        base = arrays[0] if unit.base else None
        out = buffer[: stop - start]
        if merger(Slab(base, arrays[-2], arrays[-1], base), out) >= _TOO_LARGE[unit.dtype]:
            raise NotFinite
        data = out.astype(np.float16) if unit.dtype is Dtype.F16 else out
        writer.write(unit.name, start * unit.dtype.itemsize, data)
        written.update(data)
        for entry, digest in zip(unit.entries, read, strict=True):
            size = entry.dtype.itemsize
            digest.update(entry.data[start * size : stop * size])
        unit.drop(start, stop)
    return {"xxh3": written.hexdigest(), "inputs": [digest.hexdigest() for digest in read]}


def _with(fused: Fused, found: Mapping[str, object]) -> Fused:
    """The compiled form with what a survey found."""
    if isinstance(fused, FusedTies) and found:
        return FusedTies(dataclasses.replace(fused.ties, **found))
    return fused


def _loaded(entry: Entry, start: int, stop: int) -> np.ndarray:
    """Entries start to stop as the kernels take them."""
    values = entry.values(start, stop)
    if values.dtype == np.float16:
        values = values.astype(np.float32)
        values.flags.writeable = False
    return values


def _sampled(entry: Entry, runs: int, step: int, large: bool) -> np.ndarray:
    values = entry.values(0, runs * step).reshape(runs, step)[:, :RUN]
    found = np.empty(values.shape, np.float32 if values.dtype == np.float16 else values.dtype)
    # A fault may map two megabytes: of a large tensor no more than some at a time.
    at_once = 8 if large else runs
    for start in range(0, runs, at_once):
        stop = min(start + at_once, runs)
        found[start:stop] = values[start:stop]
        if large:
            size = step * entry.dtype.itemsize
            entry.drop(start * size, stop * size)
    found = found.reshape(-1)
    found.flags.writeable = False
    return found


def _survey(opened: Opened, threads: int) -> Mapping[str, object]:
    """What the method has to know of the whole model."""
    if opened.row.survey is None or not opened.weights:
        return {}
    if not all(isinstance(unit.fused, FusedTies) for unit in opened.weights):
        return opened.row.survey(_passes_of(opened))
    return _survey_ties(opened, threads)


def _survey_ties(opened: Opened | _Trial, threads: int) -> Mapping[str, object]:
    """The same for TIES by compiled loops."""
    ties = opened.weights[0].fused.ties
    found: dict[str, object] = {}
    if ties.row.trim != "per-tensor":
        found["thresholds"] = thresholds(opened, ties, threads)
    if ties.row.tie == "majority":
        found["majority"] = majority(opened, dataclasses.replace(ties, **found), threads)
    return found


def _passes_of(opened: Opened) -> Passes:
    def passes() -> Iterable[tuple[Tensors, Settings]]:
        for unit in opened.weights:
            yield unit.tensors(), unit.settings
            unit.drop(0, unit.numel)

    return passes


def thresholds(opened: Opened | _Trial, ties: Ties, threads: int) -> tuple[float, ...]:
    """The thresholds of the whole model, from histograms that are added up over all tensors."""
    for unit in opened.weights:
        if (density := unit.fused.ties.density) != ties.density:
            raise LangmergeError(
                f"{unit.name}: density {density} after {ties.density} elsewhere; variant "
                f"{ties.variant!r} trims over the whole model, so density has to be one number a "
                "model. Use variant 'weighted' for densities that differ by tensor."
            )
    searched = _guessed(opened, ties, threads)
    missing = [
        density < 1 and found is None for density, found in zip(ties.density, searched, strict=True)
    ]
    if any(missing):
        counted = _counted(opened, ties, missing, threads)
        searched = [one or other for one, other in zip(searched, counted, strict=True)]
    keys = [np.uint32(0 if cut is None else cut.key) for cut in searched]
    return tuple(float(key.view(np.float32)) for key in keys)


def _guessed(opened: Opened, ties: Ties, threads: int) -> list[magnitudes.Cut | None]:
    """Each model's cut, guessed and proved; None where that fails or nothing is trimmed."""
    n = sum(unit.numel for unit in opened.weights)
    ranks = [magnitudes.model_rank(n, density) for density in ties.density]
    runs = [max(round(SAMPLE / RUN * unit.numel / n), 1) for unit in opened.weights]

    def samples() -> Iterator[magnitudes.Slab]:
        for unit, its in zip(opened.weights, runs, strict=True):
            yield unit.sample(its)
            unit.drop(0, unit.numel)

    keys = magnitudes.sample_keys(samples())
    guesses = [
        magnitudes.Guess(its, k / n) if density < 1 else None
        for its, k, density in zip(keys, ranks, ties.density, strict=True)
    ]
    for _ in range(magnitudes.GUESSES):
        asked = [guess if guess and guess.key is not None else None for guess in guesses]
        if not any(asked):
            break

        def count(unit: Unit, asked: list[magnitudes.Guess | None] = asked) -> list:
            with named(opened, unit):
                return magnitudes.count_at(unit, asked)

        counts = np.sum(each(opened.weights, count, threads), axis=0)
        for guess, (above, at), k in zip(asked, counts.tolist(), ranks, strict=True):
            if guess:
                guess.learn(above, at, k)
    return [guess and guess.cut for guess in guesses]


def _counted(
    opened: Opened, ties: Ties, asked: Sequence[bool], threads: int
) -> list[magnitudes.Cut | None]:
    """Each model's cut by histograms."""
    totals = [np.zeros(kernels.BINS, np.int64) for _ in asked]
    # Whole numbers add up to the same in any order.
    lock = threading.Lock()

    def count(unit: Unit) -> None:
        with named(opened, unit):
            counts = magnitudes.count(unit, asked)
        with lock:
            for total, its in zip(totals, counts, strict=True):
                if its is not None:
                    total += its

    each(opened.weights, count, threads)
    n = sum(unit.numel for unit in opened.weights)
    searches = [
        magnitudes.model_cut(total, n, density) if wanted else None
        for total, density, wanted in zip(totals, ties.density, asked, strict=True)
    ]

    def refine(unit: Unit) -> None:
        mine = [one and one.again() for one in searches]
        magnitudes.refine(unit, mine)
        with lock:
            for one, its in zip(searches, mine, strict=True):
                if one and one.unfinished:
                    one.low_counts += its.low_counts

    if any(one and one.unfinished for one in searches):
        each(opened.weights, refine, threads)
    return [one and one.cut() for one in searches]


def majority(opened: Opened, ties: Ties, threads: int) -> int:
    """The sign that most entries of the whole model lean to, as `ties.survey` finds it."""
    # What an entry leans to before the tie rule, so any rule will do here.
    fused = FusedTies(dataclasses.replace(ties, majority=1))

    def leaning(unit: Unit) -> int:
        cuts = fused.cuts(unit, unit.numel)
        keys, left = as_arrays(cuts)
        bonus = fused.bonus(cuts, unit)
        return sum(
            kernels.majority(ct, sft, ref, keys, left, fused.scalars, bonus)
            for ref, ct, sft in unit.slabs()
        )

    total = sum(each(opened.weights, leaning, threads))
    return (total > 0) - (total < 0)


def each(
    units: Sequence[Unit],
    function: Callable[[Unit], object],
    threads: int,
    progress: Progress | None = None,
) -> list:
    """What the function returns for all units, in their order; the first error stops all.

    A unit's pages are given back when it is done.
    """

    def call(unit: Unit) -> object:
        found = function(unit)
        unit.drop(0, unit.numel)
        return found

    found: list[object] = [None] * len(units)
    if threads <= 1:
        for done, unit in enumerate(units, start=1):
            found[done - 1] = call(unit)
            if progress:
                progress(done, len(units))
        return found
    with ThreadPoolExecutor(threads) as pool:
        # The largest first: begun last it would keep one thread busy while the others wait.
        order = sorted(range(len(units)), key=lambda number: -units[number].numel)
        futures = {pool.submit(call, units[number]): number for number in order}
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                found[futures[future]] = future.result()
                if progress:
                    progress(done, len(units))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return found


@contextlib.contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Sums of torch depend on how many threads share them; ours must not."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def named(opened: Opened, unit: Unit) -> Iterator[None]:
    """Say whose entries are no numbers where a loop meets some."""
    try:
        yield
    except NotFinite:
        raise not_finite(opened, unit) from None


def not_finite(opened: Opened, unit: Unit) -> LangmergeError:
    """Who has NaN or infinity in a tensor, and how many; or that the result is too large."""
    for name, entry in zip(opened.names, unit.entries, strict=True):
        bad = sum(
            int(np.count_nonzero(~np.isfinite(_as_floats(entry, start, stop))))
            for start, stop in unit.pieces()
        )
        if bad:
            return LangmergeError(
                f"{unit.name}: {bad} of {unit.numel} entries of {name} ({entry.file}) are NaN or "
                "infinite. The checkpoint is damaged or its training diverged; make it again."
            )
    return _overflow(unit)


def _as_floats(entry: Entry, start: int, stop: int) -> np.ndarray:
    values = entry.values(start, stop)
    if entry.dtype is Dtype.BF16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values


def _overflow(unit: Unit, bad: int | None = None) -> LangmergeError:
    kind = unit.dtype.value
    many = "merged entries" if bad is None else f"{bad} of {unit.numel} merged entries"
    return LangmergeError(
        f"{unit.name}: {many} are too large for {kind}. Choose another out_dtype (bfloat16 and "
        "float32 reach further than float16), or smaller weights or lambda."
    )


def _narrowed(values: np.ndarray, entry: Entry) -> np.ndarray:
    """Small whole numbers as the kernels take those of an entry."""
    if entry.dtype is Dtype.BF16:
        values = (values.view(np.uint32) >> 16).astype(np.uint16)
    values.flags.writeable = False
    return values


def _try_out(row: table.Method, units: Sequence[Unit]) -> None:
    """As `methods.check_settings`, by the compiled loops."""
    trial = _Trial([_Small.of(unit) for unit in units])
    asks = row.survey is not None and units and isinstance(units[0].fused, FusedTies)
    found = _survey_ties(trial, 1) if asks else {}
    for unit, small in zip(units, trial.weights, strict=True):
        merger = _with(unit.fused, found).prepare(small, small.numel)
        base, *models = small.arrays
        out = np.empty(small.numel, np.uint16 if unit.dtype is Dtype.BF16 else np.float32)
        if merger(Slab(base, *models, base), out) >= kernels.NOT_FINITE:
            raise table.not_finite(row, unit.name, unit.settings)


def _inputs(
    opened: Opened, notes: Mapping[str, Mapping[str, object]], sha256: bool
) -> tuple[output.Input, ...]:
    """The models' names and hashes for the card."""
    found = []
    for number, one in enumerate(opened.checkpoints):
        digests = {name: its["inputs"][number] for name, its in notes.items()}
        hashes = {file.name: files.sha256(file) for file in one.files} if sha256 else {}
        name = opened.names[number]
        # A path of this machine says nothing to anybody else.
        name = Path(name).name if Path(name).expanduser().is_dir() else name
        digest = _digest(opened, digests, number)
        found.append(output.Input(name, opened.roles[number], digest, hashes))
    return tuple(found)


def _digest(opened: Opened, digests: Mapping[str, str], number: int | None) -> str:
    """The hash of a model from those of its tensors; number: of an input, None: the output."""
    whole = xxhash.xxh3_128()
    for name in sorted(opened.units):
        unit = opened.units[name]
        dtype = unit.dtype if number is None else unit.entries[number].dtype
        shape = list(unit.models[0].shape)
        whole.update(json.dumps([name, dtype.name, shape, digests[name]]).encode())
    return whole.hexdigest()


def _passes(opened: Opened, loops: Sequence[Fused | None]) -> int:
    """How often the inputs are read: once to merge, and to find thresholds before."""
    ties = [one.ties for one in loops if isinstance(one, FusedTies)]
    if not ties:
        return 1 + 2 * (opened.row.survey is not None)
    trims = any(density < 1 for one in ties for density in one.density)
    majority = ties[0].row.tie == "majority"
    additive = any(one.slack is not None and one.slack_kind == "additive" for one in ties)
    return 1 + trims + majority + additive


def _check_out(opened: Opened, out: Path, resume: bool) -> None:
    """Raise LangmergeError unless the output folder is new, empty or one to be resumed."""
    place = out.expanduser().resolve()
    for one in opened.checkpoints:
        folder = one.folder.resolve()
        if place == folder or folder in place.parents or place in folder.parents:
            raise LangmergeError(
                f"{out}: the output and the input {folder} lie in each other. Choose a folder "
                "apart from the models that are merged."
            )
    if not place.exists():
        if resume:
            raise LangmergeError(f"{out}: there is nothing to resume; merge without --resume.")
        return
    if not place.is_dir():
        raise LangmergeError(f"{out}: it is a file; choose a folder for the output.")
    begun = (place / shards.JOURNAL).exists()
    if resume and not begun:
        raise LangmergeError(
            f"{out}: no merge was begun here, or it is finished; there is nothing to resume."
        )
    if not resume and any(place.iterdir()):
        mend = "resume it with --resume, or empty" if begun else "choose another one, or empty"
        what = "a merge was begun here" if begun else "the folder is not empty"
        raise LangmergeError(f"{out}: {what}; {mend} the folder.")


def _check_disk(opened: Opened, out: Path) -> None:
    """Raise LangmergeError where the output will not fit on the disk."""
    there = 0
    if out.is_dir():
        there = sum(getattr(path.stat(), "st_blocks", 0) * 512 for path in out.iterdir())
    copied = sum(path.stat().st_size for path in opened.files.values())
    needed, free = opened.layout.size + copied + (1 << 20) - there, _free(out)
    if needed > free:
        raise LangmergeError(
            f"{out}: the merged model takes {_gb(needed)} and the disk has {_gb(free)} left. Make "
            "room, choose another disk, or a smaller out_dtype."
        )


def _free(out: Path) -> int:
    place = out.expanduser().resolve()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _gb(size: float) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e7 or not size else f"{math.ceil(size / 1e3):,} kB"
