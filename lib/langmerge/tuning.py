"""Tuning: every method's settings, chosen on development languages that are not reported.

All methods get the same number of trials, CT-then-SFT's rate and steps included, and each
keeps the settings with the highest mean accuracy; what trains anew for every trial, beyond
CT-then-SFT itself, gets the fewer that ``tuning.yaml`` states. The choice is written into the
profile and frozen there; no item of a reported language is ever looked at.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict

from langmerge import arms, families, grid, paths, profiles, study
from langmerge.cells import Cell
from langmerge.errors import LangmergeError, nearest
from langmerge.files import read_yaml_as, write_text
from langmerge.profiles import BASELINES, BEYOND, CORE, FROZEN, REPEATED, Profile, Settings

MARK = "# --- below: chosen on the development languages by `langmerge tune`, then frozen ---\n"


class Search(BaseModel):
    """What is tried: ``data/tuning.yaml``; `fewer`: the methods with another number of trials.

    items and text_documents are what trials are judged on, whatever the profile's are: what was
    frozen can then be chosen again.
    """

    model_config = ConfigDict(extra="forbid")
    languages: list[str]
    seeds: list[int]
    budgets: list[int]
    items: int
    text_documents: int
    trials: int
    seed: int
    methods: dict[str, dict[str, list[float | int]]]
    fewer: dict[str, int] = {}

    def number(self, method: str) -> int:
        """How many trials a method gets."""
        return self.fewer.get(method, self.trials)


def search() -> Search:
    """The shipped search."""
    return read_yaml_as(Search, paths.data() / "tuning.yaml")


def trials(what: Search, method: str, default: Settings) -> list[Settings]:
    """A method's trials, its default first, the others drawn from the lists without repetition."""
    values, number = what.methods[method], what.number(method)
    combinations = [_settings(values, drawn) for drawn in itertools.product(*values.values())]
    others = [combination for combination in combinations if combination != default]
    if len(others) < number - 1:
        every = "it" if method in what.fewer else "every method"
        raise LangmergeError(
            f"tuning.yaml: {method} has {len(combinations)} combinations, fewer than the "
            f"{number} trials that {every} gets"
        )
    rng = np.random.default_rng([what.seed, *map(ord, method)])
    drawn = rng.permutation(len(others))[: number - 1]
    return [default, *(others[i] for i in drawn)]


def _settings(values: dict[str, list], drawn: tuple) -> Settings:
    """One combination; a key like ``density_ct + density_sft`` gives both the same value."""
    return {
        name.strip(): value
        for names, value in zip(values, drawn, strict=True)
        for name in names.split("+")
    }


def tune(
    profile: str = "lab",
    processes: int | None = None,
    quiet: bool = False,
    methods: list[str] | None = None,
    missing: bool = False,
) -> dict[str, Settings]:
    """Choose methods' settings, write them into the profile and return them.

    methods: which (default: all). missing: those alone that have no tuned settings yet. Settings
    of other methods stay as they are. The table of all trials is written beside the profile
    (``<profile>.trials.csv``). Raises LangmergeError where a development language is one that the
    profile reports, and for an unknown method.
    """
    what, target = search(), paths.find("profiles", profile)
    _check_unreported(what, profiles.load(profile))
    if target is None or MARK not in target.read_text(encoding="utf-8"):
        raise LangmergeError(f"profile {profile}: there is no line {MARK.strip()!r} to write after")
    above, below = target.read_text(encoding="utf-8").split(MARK)
    frozen = (yaml.safe_load(below) or {}).get("tuned") or {}
    asked = _asked(what, methods, frozen if missing else {})
    if not asked:
        return {}
    found: dict[str, Settings] = {}
    tables = []
    # What reads its text again is built on its method as tuned, so that it comes second.
    for names in ([n for n in asked if n not in REPEATED], [n for n in asked if n in REPEATED]):
        if names:
            known = frozen | found
            built_on = {REPEATED[name] for name in names if name in REPEATED} & known.keys()
            plan = profiles.load(
                profile,
                languages=what.languages,
                seeds=what.seeds,
                budgets=what.budgets,
                items=what.items,
                text_documents=what.text_documents,
                tuned={name: known[name] for name in sorted(built_on)},
            )
            some = what.model_copy(update={"methods": {name: what.methods[name] for name in names}})
            tables.append(run_trials(plan, some, processes, quiet))
            found |= best_trials(tables[-1])
    table = pd.concat(tables, ignore_index=True)
    whole = len(asked) == len(what.methods)
    _write_trials(target.with_suffix(".trials.csv"), table, keep_others=not whole)
    tuned = found if whole else frozen | found
    write_text(target, above + MARK + yaml.safe_dump({"tuned": tuned}, sort_keys=False))
    return found


def _asked(what: Search, methods: list[str] | None, frozen: dict[str, Settings]) -> list[str]:
    """The methods to tune, in the search's order."""
    for name in methods or ():
        if name not in what.methods:
            known = nearest(name, what.methods)
            raise LangmergeError(f"tuning.yaml has no method {name!r}: {known}")
    return [name for name in what.methods if name in (methods or [name]) and name not in frozen]


def _write_trials(path: Path, table: pd.DataFrame, keep_others: bool) -> None:
    """The trials as CSV; those of methods that were not tuned now stay where asked for."""
    table = table.drop(columns="settings")
    if keep_others and path.is_file():
        before = pd.read_csv(path, float_precision="round_trip")
        others = before[~before["method"].isin(table["method"])]
        table = pd.concat([others, table]).sort_values(["method", "trial"], kind="stable")
    write_text(path, table.to_csv(index=False))


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
        for number in range(max(map(len, tried.values())))
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
    settings = {
        method: options[number] for method, options in tried.items() if number < len(options)
    }
    trial = plan.model_copy(
        update={"default": plan.default | settings, "slacks": [], "families": []}
    )
    beyond = [method for method in settings if method in BEYOND]
    trained = tuple(method for method in settings if method in BASELINES)
    repeated = tuple(method for method in settings if method in REPEATED)
    frozen = tuple(method for method in settings if method in FROZEN)
    found: list[Cell] = []
    if any(method in CORE for method in settings):
        found += grid.cells(trial, processes=processes, quiet=quiet)
    if beyond or trained or repeated or frozen:
        starts = grid.starts(trial, processes, quiet)
        found += families.beyond(trial, starts, beyond)
        found += arms.baselines(trial, starts, processes, quiet, trained)
        found += arms.repeated(trial, starts, processes, quiet, repeated)
        if frozen:
            found += arms.frozen(trial, starts, processes, quiet, frozen)
    return [
        replace(cell, setting=str(number))
        for cell in found
        if cell.method in settings and cell.setting == "default"
    ]


def best_trials(table: pd.DataFrame) -> dict[str, Settings]:
    """Each method's settings of the highest accuracy; of equals the earlier trial."""
    best = (
        table.sort_values(["accuracy", "trial"], ascending=[False, True]).groupby("method").first()
    )
    return {method: dict(settings) for method, settings in best["settings"].items()}
