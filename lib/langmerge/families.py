"""Families of further models: other remedies, interventions, one setting at a time.

A profile names the families that it has beside the models of the findings (`grid`). Their merges
go through the same table of methods and are evaluated on the same items. What has to be trained
for them is in `arms`, the settings chosen on a language's own dev items in `oracle`.

A model of an arm or of a sweep is named ``<which>/<what>``, so that no reader of the findings'
models takes it for one of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from langmerge import arms, oracle
from langmerge import base as base_module
from langmerge.cells import Cell, plain
from langmerge.experts import Expert
from langmerge.grid import best, chosen, merge_cell, pairs, run_of
from langmerge.merging.task_vectors import norm, task_vector
from langmerge.profiles import BASELINES, BEYOND, FROZEN, REPEATED, Profile

#: Methods that draw at random: from the run's seed.
RANDOM = ("dare_linear", "dare_ties", "della")
#: How often as many SFT entries as the election discards are dropped at random.
DRAWS = 3
#: Slack's simpler rivals, by what they multiply at the settings of mean-TIES.
RIVALS = {
    "heavier_sft": ("w_sft", (2.0, 4.0)),
    "larger_lambda": ("lambda_", (1.5, 2.0)),
}
#: What tau_ct is multiplied by before the election.
SCALES = (0.5, 0.25)
#: What of the two updates is put on the base beside SFT's layers, by model; the eighth is task
#: arithmetic, and with SFT's embeddings alone it is the SFT model.
PARTS: dict[str, tuple[str, ...]] = {
    "parts/none": (),
    "parts/ct_embeddings": ("ct_embeddings",),
    "parts/ct_layers": ("ct_layers",),
    "parts/ct": ("ct_embeddings", "ct_layers"),
    "parts/sft+ct_embeddings": ("sft_embeddings", "ct_embeddings"),
    "parts/sft+ct_layers": ("sft_embeddings", "ct_layers"),
}
#: One setting at a time around the best ones: merge, parameter, values.
SWEEPS: dict[str, tuple[str, str, tuple[float | str, ...]]] = {
    "k1": ("ties_mean", "density_ct", (0.1, 0.3, 0.5, 0.7, 1.0)),
    "k2": ("ties_mean", "density_sft", (0.1, 0.3, 0.5, 0.7, 1.0)),
    "lambda": ("ties_mean", "lambda_", (0.5, 0.75, 1.0, 1.3, 1.7, 2.2)),
    "alpha": ("average", "alpha", (0.05, 0.1, 0.25, 0.5, 0.75, 0.9)),
    "slack": ("ties_sv", "slack", (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, math.inf)),
    "additive slack": ("ties_sv", "slack", (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, math.inf)),
    "trim": ("ties_mean", "variant", ("weighted", "weighted_whole")),
    "variant": ("ties_mean", "variant", ("weighted", "reference", "peft", "peft_count")),
    "variant, sum": ("ties_sum", "variant", ("weighted", "reference", "peft", "peft_count")),
    "combine": ("ties", "combine", ("mean", "sum")),
}


def cells(
    family: str,
    plan: Profile,
    core: list[Cell],
    processes: int | None = None,
    quiet: bool = False,
) -> list[Cell]:
    """The models of one family; core: those of the findings, whose experts they are made of.

    What has to be trained is trained where the store lacks it. Raises LangmergeError where the
    profile has no settings of a method.
    """
    if family in ("baselines", "repeated", "frozen", *arms.ARMS):
        return arms.cells(family, plan, core, processes, quiet)
    if family == "oracle":
        return oracle.cells(plan, core, processes, quiet)
    make = {
        "beyond": beyond, "mechanism": mechanism, "sensitivity": sensitivity, "parts": parts,
    }  # fmt: skip
    return list(make[family](plan, core))


def of(plan: Profile) -> list[str]:
    """The profile's families that have models of their own (`untuned` adds to the others')."""
    return [family for family in plan.families if family != "untuned"]


def identity(plan: Profile) -> dict[str, object]:
    """What a profile's results depend on, for their key; what its families consist of included."""
    told = {
        "beyond": [*BEYOND],
        "mechanism": [DRAWS, RIVALS, SCALES],
        "baselines": [*BASELINES],
        "repeated": [*REPEATED],
        "frozen": [*FROZEN],
        "parts": {name: [*its] for name, its in PARTS.items()},
        "sensitivity": {name: [*sweep[:2], *map(str, sweep[2])] for name, sweep in SWEEPS.items()},
        "bilingual": arms.ARMS["bilingual"],
        "rates": arms.ARMS["rates"],
        "faster": arms.ARMS["faster"],
    }
    found = {family: told.get(family, True) for family in plan.families}
    if "oracle" in found:
        found["oracle"] = {
            method: [plain(values) for values in oracle.candidates(plan, method)]
            for method in oracle.METHODS
        }
    return plan.identity() | ({"families": found} if found else {})


# --- beyond: other remedies -----------------------------------------------------------------


def beyond(plan: Profile, core: list[Cell], methods: Sequence[str] = BEYOND) -> Iterator[Cell]:
    """The remedies beyond slack, each at its best settings (Chat Vector is one of the controls)."""
    settings = {method: chosen(plan, method) for method in filter(plan.runs, methods)}
    scaled = settings.pop("scaled_sft", {})
    for cell in core:
        if cell.method == "sft":
            for setting, values in scaled.items():
                yield alone(cell, "scaled_sft", setting, "scaled_sft", values)
    for ct, sft in pairs(core):
        for method, options in settings.items():
            seed = {"seed": ct.seed} if method in RANDOM else {}
            for setting, values in options.items():
                yield merge_cell(ct, sft, method, setting, method, params=values | seed)


def alone(sft: Cell, method: str, setting: str, merge: str, params: dict[str, object]) -> Cell:
    """A model made of the SFT expert and the base, nothing of CT."""
    return Cell(*run_of(sft), 0, method, setting, merge=merge, params=params, sft=sft.expert)


# --- mechanism: interventions ---------------------------------------------------------------


def mechanism(plan: Profile, core: list[Cell]) -> Iterator[Cell]:
    """Interventions on the election of mean-TIES, all else at its best settings."""
    name, params = best(plan, "ties_mean")
    for cell in core:
        if cell.method == "sft":
            yield alone(cell, "trimmed_sft", name, "ties_mean", params | {"w_ct": 0.0})
    for ct, sft in pairs(core):
        yield merge_cell(ct, sft, "restored_sft", name, "restored_sft", params=params)
        for draw in range(DRAWS):
            drawn = params | {"seed": ct.seed * DRAWS + draw}
            yield merge_cell(ct, sft, "random_drop", f"draw {draw}", "random_drop", params=drawn)
        for rival, (what, factors) in RIVALS.items():
            for factor in factors:
                more = params | {what: float(params.get(what, 1.0)) * factor}
                yield merge_cell(ct, sft, rival, f"{factor:g}", "ties_mean", params=more)
        for factor in SCALES:
            scaled = params | {"scale_ct": factor}
            yield merge_cell(ct, sft, "rescaled_ct", f"{factor:g}", "rescaled_ct", params=scaled)
    yield from _norm_matched(plan, core)


def _norm_matched(plan: Profile, core: list[Cell]) -> Iterator[Cell]:
    """tau_ct of each budget at the norm of the smallest one's and of the largest one's."""
    _, params = best(plan, "ties_mean")
    norms = {(*run_of(ct), ct.ct_tokens): ct_norm(ct) for ct, _ in pairs(core)}
    ends = {"early norm": min(plan.budgets), "late norm": max(plan.budgets)}
    for ct, sft in pairs(core):
        for setting, budget in ends.items():
            if ct.ct_tokens == budget:
                continue
            factor = norms[(*run_of(ct), budget)] / norms[(*run_of(ct), ct.ct_tokens)]
            scaled = params | {"scale_ct": factor}
            yield merge_cell(ct, sft, "rescaled_ct", setting, "rescaled_ct", params=scaled)


def ct_norm(cell: Cell) -> float:
    """The norm of tau_ct of a CT expert's cell."""
    return _norm(cell.base, cell.expert)


@cache
def _norm(base: Path, expert: Expert) -> float:
    return norm(task_vector(expert.weights(), base_module.load(base).weights))


# --- parts: embeddings and layers apart -------------------------------------------------------


def parts(plan: Profile, core: list[Cell]) -> Iterator[Cell]:
    """SFT's layers on the base, with and without each other part of the two updates."""
    none = dict.fromkeys(("ct_embeddings", "ct_layers", "sft_embeddings"), 0.0)
    for ct, sft in pairs(core):
        for method, there in PARTS.items():
            if any(part.startswith("ct_") for part in there):
                params = none | dict.fromkeys(there, 1.0)
                yield merge_cell(ct, sft, method, "fixed", "arithmetic_by_part", params=params)
    for cell in core:
        if cell.method == "sft":
            yield alone(cell, "parts/none", "fixed", "arithmetic_by_part", none)


# --- sensitivity: one setting at a time -----------------------------------------------------


def sensitivity(plan: Profile, core: list[Cell]) -> Iterator[Cell]:
    """Every setting over its values, the others at the best of their method."""
    for ct, sft in pairs(core):
        for sweep, (merge, what, values) in SWEEPS.items():
            for value in values:
                params = around(plan, sweep, merge) | {what: value}
                yield merge_cell(
                    ct, sft, f"sensitivity/{sweep}", _named(value), merge, params=params
                )


def around(plan: Profile, sweep: str, merge: str) -> dict[str, object]:
    """The settings that a sweep leaves as they are."""
    _, params = best(plan, "ties_mean" if merge == "ties" else merge)
    params = dict(params)
    if sweep.startswith("variant"):  # the reference code knows no weights
        params |= {"w_ct": 1.0, "w_sft": 1.0}
    if sweep == "additive slack":
        params["slack_kind"] = "additive"
    return params


def _named(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"
