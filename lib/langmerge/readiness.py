"""Whether a base is ready for a study of a language: neither noise nor solved beforehand.

A language in which the English SFT expert alone is at chance on every task has no trace to
build on, and one in which it does as well as in English leaves nothing to gain. Measured on
items of the dev split, so that no test item is looked at.
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from langmerge import experts, profiles, study
from langmerge.base import NEEDED, Base
from langmerge.cells import Cell
from langmerge.evaluate import Suite
from langmerge.statistics import wilson
from langmerge.store import Store

PROFILE = "reference"  # whose fine-tuning, items and documents are used
SEED = 1000  # no run seed of a profile
ALONE = 4  # languages for which it is not worth starting processes


def check(base: Base, codes: list[str]) -> pd.DataFrame:
    """How the English SFT expert does in each language, one row a language and task.

    Columns: language, task, value (accuracy), n, chance, low and high (95 % Wilson interval) and
    standing: ``at chance`` where the interval reaches down to chance, ``at the ceiling`` where it
    reaches up to the interval of the same expert in English, else ``between``.
    """
    plan = profiles.load(PROFILE)
    expert = experts.finetune(Store(), base, "eng_Latn", SEED, plan.finetuning)
    work = [
        (Cell(base.folder, code, SEED, 0, "sft", "fixed", expert=expert), _suite(plan, code))
        for code in dict.fromkeys(["eng_Latn", *codes])
    ]
    # One language is asked here; a card's twenty share the cores.
    study.evaluate_all(work, processes=1 if len(work) <= ALONE else None, quiet=True)
    rows = study.scores(work)
    rows = rows[rows["metric"] == "accuracy"]
    low, high = zip(*(wilson(round(r.value * r.n), r.n) for r in rows.itertuples()), strict=True)
    rows = rows.assign(low=low, high=high)
    ceiling = rows[rows["language"] == "eng_Latn"].set_index("task")["low"]
    rows["standing"] = [_standing(row, ceiling[row.task]) for row in rows.itertuples()]
    kept = ["language", "task", "value", "n", "chance", "low", "high", "standing"]
    return rows.loc[rows["language"].isin(codes), kept].reset_index(drop=True)


def is_ready(rows: pd.DataFrame) -> bool:
    """Whether one language's rows are between chance and ceiling on enough tasks."""
    return int((rows["standing"] == "between").sum()) >= NEEDED


def _suite(plan: profiles.Profile, code: str) -> Suite:
    """Items alone: a standing needs no running text."""
    return replace(study.suite(plan, code, SEED, split="dev"), text_documents=0)


def _standing(row: tuple, ceiling: float) -> str:
    if row.low <= row.chance:
        return "at chance"
    return "at the ceiling" if row.high >= ceiling else "between"
