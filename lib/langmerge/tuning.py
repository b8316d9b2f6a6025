"""Tuning: every method's settings, chosen on development languages that are not reported.

All methods get the same number of trials, CT-then-SFT's rate and steps included, and each
keeps the settings with the highest mean accuracy. The choice is written into the profile
and frozen there; no item of a reported language is ever looked at.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict

from langmerge import grid, paths, profiles, study
from langmerge.cells import Cell
from langmerge.errors import LangmergeError, nearest
from langmerge.files import read_yaml_as, write_text
from langmerge.profiles import Profile, Settings

MARK = "# --- below: chosen on the development languages by `langmerge tune`, then frozen ---\n"


class Search(BaseModel):
    """What is tried: ``data/tuning.yaml``."""

    model_config = ConfigDict(extra="forbid")
    languages: list[str]
    seeds: list[int]
    budgets: list[int]
    trials: int
    seed: int
    methods: dict[str, dict[str, list[float | int]]]


def search() -> Search:
    """The shipped search."""
    return read_yaml_as(Search, paths.data() / "tuning.yaml")


def trials(what: Search, method: str, default: Settings) -> list[Settings]:
    """A method's trials, its default first, the others drawn from the lists without repetition."""
    values = what.methods[method]
    combinations = [_settings(values, drawn) for drawn in itertools.product(*values.values())]
    others = [combination for combination in combinations if combination != default]
    if len(others) < what.trials - 1:
        raise LangmergeError(
            f"tuning.yaml: {method} has {len(combinations)} combinations, fewer than the "
            f"{what.trials} trials that every method gets"
        )
    rng = np.random.default_rng([what.seed, *map(ord, method)])
    drawn = rng.permutation(len(others))[: what.trials - 1]
    return [default, *(others[i] for i in drawn)]


def _settings(values: dict[str, list], drawn: tuple) -> Settings:
    """One combination; a key like ``density_ct + density_sft`` gives both the same value."""
    return {
        name.strip(): value
        for names, value in zip(values, drawn, strict=True)
        for name in names.split("+")
    }


def tune(
    profile: str = "lab", processes: int | None = None, quiet: bool = False
) -> dict[str, Settings]:
    """Choose all methods' settings, write them into the profile and return them.

    The table of all trials is written beside the profile (``<profile>.trials.csv``).
    Raises LangmergeError where a development language is one that the profile reports.
    """
    what, target = search(), paths.find("profiles", profile)
    _check_unreported(what, profiles.load(profile))
    plan = profiles.load(
        profile, languages=what.languages, seeds=what.seeds, budgets=what.budgets, tuned={}
    )
    if target is None or MARK not in target.read_text(encoding="utf-8"):
        raise LangmergeError(f"profile {profile}: there is no line {MARK.strip()!r} to write after")
    table = run_trials(plan, what, processes, quiet)
    chosen = best_trials(table)
    kept = target.read_text(encoding="utf-8").split(MARK)[0]
    block = yaml.safe_dump({"tuned": chosen}, sort_keys=False)
    write_text(
        target.with_suffix(".trials.csv"), table.drop(columns="settings").to_csv(index=False)
    )
    write_text(target, kept + MARK + block)
    return chosen


def _check_unreported(what: Search, plan: Profile) -> None:
    shared = sorted(set(what.languages) & set(plan.languages))
    if shared:
        raise LangmergeError(
            f"profile {plan.name} reports {', '.join(shared)}, on which tuning.yaml tunes: no "
            "reported language may choose its own settings"
        )


def run_trials(
    plan: Profile, what: Search, processes: int | None = None, quiet: bool = False
) -> pd.DataFrame:
    """Mean dev accuracy of every trial: method, trial, settings and accuracy."""
    for method in what.methods:
        if method not in plan.default:
            raise LangmergeError(
                f"tuning.yaml: {method} has no default in profile {plan.name}: "
                f"{nearest(method, plan.default)}"
            )
    tried = {method: trials(what, method, plan.default[method]) for method in what.methods}
    cells = [
        cell
        for number in range(what.trials)
        for cell in _trial_cells(plan, tried, number, processes, quiet)
    ]
    work = [(cell, study.suite(plan, cell.language, cell.seed, split="dev")) for cell in cells]
    study.evaluate_all(work, processes, quiet)
    rows = study.scores(work)
    accuracy = rows[rows["task"].isin(plan.tasks)].groupby(["method", "setting"])["value"].mean()
    table = accuracy.rename("accuracy").reset_index()
    table["trial"] = table.pop("setting").astype(int)
    table["settings"] = [tried[m][n] for m, n in zip(table["method"], table["trial"], strict=True)]
    return table.assign(values=table["settings"].map(str)).sort_values(["method", "trial"])


def _trial_cells(
    plan: Profile,
    tried: dict[str, list[Settings]],
    number: int,
    processes: int | None,
    quiet: bool,
) -> list[Cell]:
    """The cells of every method's trial of one number, named by that number."""
    settings = {method: options[number] for method, options in tried.items()}
    trial = plan.model_copy(update={"default": plan.default | settings, "slacks": []})
    return [
        replace(cell, setting=str(number))
        for cell in grid.cells(trial, processes=processes, quiet=quiet)
        if cell.method in tried and cell.setting == "default"
    ]


def best_trials(table: pd.DataFrame) -> dict[str, Settings]:
    """Each method's settings of the highest accuracy; of equals the earlier trial."""
    best = (
        table.sort_values(["accuracy", "trial"], ascending=[False, True]).groupby("method").first()
    )
    return {method: dict(settings) for method, settings in best["settings"].items()}
