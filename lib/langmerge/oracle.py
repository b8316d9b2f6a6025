"""Settings chosen on a language's own dev items: what tuning elsewhere costs.

A secondary column and never a result of the study: nothing about a reported language is tuned on
it, except here, where it says so. Each method has a few candidates; at each budget the best by mean
accuracy over the tasks on the dev split, seed by seed, is asked the test items as setting "oracle".
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from langmerge.cells import Cell
from langmerge.grid import best, merge_cell, pairs
from langmerge.profiles import Profile, Settings

#: Merges that get a column of their own.
METHODS = ("average", "task_arithmetic", "ties_mean", "ties_sv")
#: Candidates a method: the best of tuning, the untuned default, and others of the search.
CANDIDATES = 5


def candidates(plan: Profile, method: str) -> list[Settings]:
    """The settings among which a method's are chosen, the frozen ones first."""
    # Tuning and studies use the families, and so this module.
    from langmerge import tuning

    drawn = tuning.trials(tuning.search(), method, plan.default[method])
    _, frozen = best(plan, method)
    return [frozen, *(values for values in drawn if values != frozen)][:CANDIDATES]


def cells(
    plan: Profile, core: list[Cell], processes: int | None = None, quiet: bool = False
) -> list[Cell]:
    """The merges with the settings that do best on their own language's dev items."""
    from langmerge import study

    tried = {method: candidates(plan, method) for method in METHODS}
    trials = [
        merge_cell(ct, sft, method, str(number), method, params=values)
        for ct, sft in pairs(core)
        for method, options in tried.items()
        for number, values in enumerate(options)
    ]
    work = [(cell, study.suite(plan, cell.language, cell.seed, split="dev")) for cell in trials]
    study.evaluate_all(work, processes, quiet)
    chosen = _chosen(plan, study.scores(work))
    return [
        replace(cell, setting="oracle")
        for cell in trials
        if chosen[(*_where(cell), cell.method)] == cell.setting
    ]


def _where(cell: Cell) -> tuple[str, str, int, int]:
    return cell.load_base().hash, cell.language, cell.seed, cell.ct_tokens


def _chosen(plan: Profile, rows: pd.DataFrame) -> dict[tuple, str]:
    """The best trial of each base, language, seed, budget and method; of equals the earlier."""
    keys = ["base", "language", "seed", "ct_tokens", "method"]
    rows = rows[rows["task"].isin(plan.tasks)]
    mean = rows.groupby([*keys, "setting"])["value"].mean().reset_index()
    mean["number"] = mean["setting"].astype(int)
    mean = mean.sort_values(["value", "number"], ascending=[False, True])
    first = mean.groupby(keys)["setting"].first()
    return {tuple(where): setting for where, setting in first.items()}
