"""What `langmerge paper` will take, before it takes it: bytes, disk, memory, hours, and a price.

Sizes are those that the hub states. Times are measured where a run on this machine has left rows;
else they rest on the assumptions of ``data/paper.yaml``, and say so.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path

import psutil
import torch

from langmerge import hub_fetch, hub_rows
from langmerge.hub_languages import task_set
from langmerge.merging import stream
from langmerge.merging.recipe import DTYPES
from langmerge.paper import Chosen, Pinned
from langmerge.paper_eval import data_bytes
from langmerge.paper_run import Setting, merged_bytes
from langmerge.paper_testable import testable

_SIZE = 1024  # of the matrices whose product measures a device


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is fetched and computed. Bytes; seconds; `rows` are for a reader.

    flops: of all evaluations. measured: whether the seconds of evaluating are from rows.
    """

    fetch: int
    disk: int
    free: int
    merge_memory: int
    evaluation_memory: int
    download_seconds: float
    merge_seconds: float
    evaluation_seconds: float
    measured: bool
    flops: float
    rows: tuple[tuple[str, str], ...]


def plan(chosen: Chosen, pinned: Pinned, setting: Setting) -> Plan:
    """What `paper_run.run` will take. Nothing is fetched or written."""
    assumed = chosen.study.assumed
    fetch = sum(f.size for one in pinned.models.values() for f in one.missing().values())
    data = sum(
        data_bytes(pinned.datasets[its.dataset], its, code)
        for its, code in map(task_set, chosen.tasks)
    )
    parameters, merged = chosen.triple.parameters, merged_bytes(chosen)
    merges = sum(model.role == "merge" for model in chosen.models)
    tokens = tokens_of_one(chosen, setting) * len(chosen.models)
    flops = 2 * parameters * tokens
    known = measured_seconds(chosen, setting)
    download = (fetch + data) * 8 / (assumed.megabit_per_second * 1e6)
    merging = merges * parameters * assumed.merge_seconds_per_parameter
    evaluating = known * len(chosen.models) if known else flops / speed(setting)
    made = Plan(
        fetch=fetch + data,
        disk=fetch + data + merged,
        free=_free(hub_fetch.cache_folder()),
        merge_memory=stream.COMPILED_MEMORY,
        evaluation_memory=int(1.2 * parameters * DTYPES[setting.dtype].itemsize),
        download_seconds=download,
        merge_seconds=merging,
        evaluation_seconds=evaluating,
        measured=known is not None,
        flops=flops,
        rows=(),
    )
    return dataclasses.replace(made, rows=tuple(_rows(chosen, pinned, setting, made)))


def tokens_of_one(chosen: Chosen, setting: Setting) -> int:
    """Tokens that one model has to read for all tasks, as assumed until they are counted."""
    sets = [task_set(task)[0] for task in chosen.tasks]
    return sum(min(its.items, setting.limit or its.items) * its.tokens for its in sets)


def measured_seconds(chosen: Chosen, setting: Setting) -> float | None:
    """What evaluating one model took in this run's rows on this device; None without such rows."""
    rows = hub_rows.frame(chosen.results)
    same = rows[(rows["device"] == setting.device) & (rows["dtype"] == setting.dtype)]
    same = same[same["limit"].isna() if setting.limit is None else same["limit"] == setting.limit]
    each = same.drop_duplicates(["key", "task"]).groupby("task")["seconds"].median()
    return float(each.sum()) if set(chosen.tasks) <= set(each.index) else None


def speed(setting: Setting, seconds: float = 0.2) -> float:
    """Floating-point operations a second that a product of matrices reaches here and now."""
    dtype = DTYPES[setting.dtype].in_torch
    one = torch.ones(_SIZE, _SIZE, dtype=dtype, device=setting.device)

    def product() -> None:
        float((one @ one)[0, 0])  # the number is there only when the device is done

    product()
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        product()
        done += 1
    return done * 2 * _SIZE**3 / (time.perf_counter() - started)


def _rows(chosen: Chosen, pinned: Pinned, setting: Setting, made: Plan) -> list[tuple[str, str]]:
    size = hub_fetch.gigabytes
    merges = sum(model.role == "merge" for model in chosen.models)
    how = "measured on this device" if made.measured else (
        f"{made.flops:.2g} operations, tokens assumed, at the speed of a matrix product just "
        f"measured on {setting.device}"
    )  # fmt: skip
    rows = [("triple", chosen.triple.title)]
    if chosen.triple.licence:
        rows.append(("licence", chosen.triple.licence))
    for role, one in pinned.models.items():
        missing = sum(file.size for file in one.missing().values())
        gated = ", gated: accept its terms first" if one.gated else ""
        there = f"{size(missing)} to fetch" if missing else "here"
        rows.append((role, f"{one.name} at {one.commit[:12]}: {there}{gated}"))
    network = chosen.study.assumed.megabit_per_second
    return [
        *rows,
        ("tasks", ", ".join(chosen.tasks)),
        ("models", f"{len(chosen.models)}: base, CT, SFT and {merges} merges"),
        ("download", f"{size(made.fetch)}, {_hours(made.download_seconds)} at {network:g} Mbit/s"),
        ("disk", f"{size(made.disk)} (one merged model at a time); free {size(made.free)}"),
        ("memory, merging", f"about {size(made.merge_memory)}"),
        ("memory, evaluating", f"about {size(made.evaluation_memory)} on {setting.device}, in "
                               f"{setting.dtype}; here {size(_memory(setting.device))}"),
        ("time, merging", f"about {_hours(made.merge_seconds)}, {merges} merges on two cores"),
        ("time, evaluating", f"about {_hours(made.evaluation_seconds)} ({how})"),
        *testable(chosen.triple, chosen.study),
    ]  # fmt: skip


def _memory(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().total


def _free(folder: Path) -> int:
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(place).free


def _hours(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"
