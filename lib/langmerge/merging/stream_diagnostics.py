"""The diagnostics of a merge for checkpoints on disk and many slacks, in one pass over them.

The numbers of `diagnostics.diagnose`, tensor by tensor, without a model in memory.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from langmerge.errors import LangmergeError
from langmerge.later import pandas as pd
from langmerge.merging import diagnostics, election, kernels
from langmerge.merging import ties as ties_steps
from langmerge.merging.fused import FusedTies, as_arrays, floor_of, sft_rms, slack_terms
from langmerge.merging.job import Job
from langmerge.merging.magnitudes import Cut, NotFinite
from langmerge.merging.stream import Opened, Progress, Unit, each, majority, named, thresholds
from langmerge.merging.tensors import surveyed
from langmerge.merging.ties import Ties


def diagnose(
    base: Path,
    ct: Path,
    sft: Path,
    params: Mapping[str, object] | None = None,
    slacks: Sequence[float] = (0.0,),
    *,
    threads: int = 1,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Conflict and losses of a TIES merge for a range of slacks, one row a slack and tensor.

    Columns: ``slack``, then those of `diagnostics.diagnose`. params: what `diagnostics.diagnose`
    takes, without the slack (``density_ct``, ``w_sft``, ``variant``, ``slack_kind``, ...). Raises
    LangmergeError for parameters or checkpoints that make no sense.
    """
    params = dict(params or {})
    if "slack" in params:
        raise LangmergeError("slack is given as a range here: leave it out of the parameters.")
    kind = params.get("slack_kind", "multiplicative")
    for slack in slacks:
        election.check_slack(slack, kind)
    settings = diagnostics.diagnosed_settings(params)
    job = Job("ties", base, (ct, sft), lambda _: settings, None, "")
    opened = Opened(job)
    units = [unit for unit in opened.weights if unit.numel]
    if any(not isinstance(unit.fused, FusedTies) for unit in units):
        return _by_torch(opened, settings, slacks, kind)
    ties = dataclasses.replace(Ties.of(settings), slack_kind=kind)
    surveys = _surveys(opened, ties, slacks, threads)

    def look(unit: Unit) -> list[dict[str, object]]:
        with named(opened, unit):
            return _rows(unit, surveys, slacks)

    rows = [row for found in each(units, look, threads, progress) for row in found]
    table = pd.DataFrame(rows, columns=["slack", *diagnostics.COLUMNS])
    order = {slack: number for number, slack in enumerate(slacks)}
    return table.sort_values("slack", key=lambda s: s.map(order), kind="stable", ignore_index=True)


def _surveys(opened: Opened, ties: Ties, slacks: Sequence[float], threads: int) -> list[Ties]:
    """The settings of each slack, with what the variant has to know of the whole model."""
    found: dict[str, object] = {}
    if ties.row.trim != "per-tensor":
        found["thresholds"] = thresholds(opened, ties, threads)
    each_slack = [dataclasses.replace(ties, slack=slack, **found) for slack in slacks]
    if ties.row.tie == "majority":
        each_slack = [
            dataclasses.replace(one, majority=majority(opened, one, threads)) for one in each_slack
        ]
    return each_slack


def _rows(unit: Unit, surveys: Sequence[Ties], slacks: Sequence[float]) -> list[dict[str, object]]:
    """One tensor's rows, of all slacks."""
    ties = surveys[0]
    cuts = FusedTies(ties).cuts(unit, unit.numel)
    once, per_slack = _sums(unit, ties, surveys, cuts)
    rows = zip(slacks, per_slack, strict=True)
    return [{"slack": slack, **_row(unit, once, found)} for slack, found in rows]


def _sums(
    unit: Unit, ties: Ties, surveys: Sequence[Ties], cuts: tuple[Cut, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """What `kernels.diagnose` adds up over one tensor."""
    rms = sft_rms(ties, cuts, unit) if ties.slack_kind == "additive" else 0.0
    terms = [slack_terms(one, one.slack, lambda: rms) for one in surveys]
    factors = np.array([factor for factor, _ in terms], np.float32)
    bonuses = np.array([bonus or 0 for _, bonus in terms], np.float32)
    floors = np.array([floor_of(one) for one in surveys], np.float32)
    before = ties.row.weights == "before"
    weights = np.array(ties.weight if before else (1, 1), np.float32)
    once = np.zeros(kernels.ONCE)
    per_slack = np.zeros((len(surveys), kernels.PER_SLACK))
    keys, left = as_arrays(cuts)
    for ref, ct, sft in unit.slabs():
        largest = kernels.diagnose(
            ct, sft, ref, keys, left, weights, factors, bonuses, floors, once, per_slack
        )
        if largest >= kernels.NOT_FINITE:
            raise NotFinite
    return once, per_slack


def _row(unit: Unit, once: np.ndarray, found: np.ndarray) -> dict[str, object]:
    square_ct, square_sft, product, both, conflicts = once[:5]
    won, l1_ct, l2_ct, l1_sft, l2_sft = found
    layer, module = diagnostics.place(unit.name)
    norm_ct, norm_sft = math.sqrt(square_ct), math.sqrt(square_sft)
    n = unit.numel
    return {
        "parameter": unit.name,
        "layer": layer,
        "module": module,
        "n": n,
        "norm_ct": norm_ct,
        "norm_sft": norm_sft,
        "cosine": _ratio(product, norm_ct * norm_sft),
        "conflicts": int(conflicts),
        "both": int(both),
        "conflict_rate": _ratio(conflicts, both),
        **_fates((n, once[5], square_ct), once[6:9], (won, l1_ct, l2_ct), "ct"),
        **_fates((n, once[9], square_sft), once[10:13], (conflicts - won, l1_sft, l2_sft), "sft"),
    }


def _fates(
    everything: Sequence[float], survived: Sequence[float], outvoted: Sequence[float], model: str
) -> dict[str, object]:
    """Counts and masses (count, L1, L2) of one model's entries by where they ended."""
    kept = _less(survived, outvoted)
    trimmed = _less(everything, survived)
    fates: dict[str, object] = {}
    for fate, masses in (("kept", kept), ("trimmed", trimmed), ("outvoted", outvoted)):
        for prefix, mass in zip(("", "l1_", "l2_"), masses, strict=True):
            fates[f"{prefix}{fate}_{model}"] = float(mass) if prefix else int(mass)
    for number, suffix in ((0, ""), (2, "_l2")):
        lost = outvoted[number]
        fates[f"discarded_{model}_share{suffix}"] = _ratio(lost, kept[number] + lost)
    return fates


def _less(whole: Sequence[float], part: Sequence[float]) -> tuple[float, ...]:
    """The rest of a count and its masses; nothing at all where nothing is left to count."""
    rest = tuple(max(one - other, 0.0) for one, other in zip(whole, part, strict=True))
    return rest if rest[0] else (0.0, 0.0, 0.0)


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan


def _by_torch(
    opened: Opened, settings: Mapping[str, object], slacks: Sequence[float], kind: str
) -> pd.DataFrame:
    """The same by `diagnostics.diagnose_tensor`, for what has no compiled form."""
    rows = []
    for slack in slacks:
        its = {**settings, "slack": slack, "slack_kind": kind}

        def passes(its: Mapping[str, object] = its):
            return ((unit.tensors(), its) for unit in opened.weights)

        for tensors, found in surveyed(ties_steps.survey, passes):
            rows.append({"slack": slack, **diagnostics.diagnose_tensor(tensors, found)})
    return pd.DataFrame(rows, columns=["slack", *diagnostics.COLUMNS])
