"""Rows as `langmerge paper` keeps them, made up, with items whose differences are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from langmerge import hub_rows, paper, paper_results, paths

#: Texts of a task; every text has as many questions.
TEXTS, QUESTIONS = 120, 2


def chosen(language: str = "tam_Taml", triple: str | None = None) -> paper.Chosen:
    """The shipped study of a language."""
    return paper.choose(language, triple, paper.read_study())


def answers(accuracy: float, seed: int = 0) -> np.ndarray:
    """Right or wrong by item: the first share of the items in a shuffled order, so nested."""
    order = np.random.default_rng(seed).permutation(TEXTS * QUESTIONS)
    return (order < round(accuracy * TEXTS * QUESTIONS)).astype(float)


def row(
    it: paper.Chosen, model: paper.Model, task: str, value: float, **changes: object
) -> hub_rows.Row:
    """One whole row."""
    commit = changes.pop("commit", "a" * 40)
    roles = paper.ROLES if model.role == "merge" else (model.role,)
    named = {role: f"{it.references[role]}@{commit}" for role in roles}
    made = {"time": "2020-01-01T00:00:00", "langmerge": "0", "commit": "c", "cpu": "a", "cores": 1}
    told = {
        "schema": hub_rows.VERSION,
        "key": f"{model.title}-{commit[:4]}".replace(" ", "-"),
        "triple": it.triple_name,
        "language": it.language.code,
        "model": f"{it.references['base']}@{commit}",
        "role": model.role,
        "method": model.method,
        "setting": model.setting,
        "params": dict(model.params),
        "ct_tokens": None if model.role in ("ct", "merge") else 0,
        "sft_tokens": None if model.role in ("sft", "merge") else 0,
        "seed": None,
        "task": task,
        "metric": "acc_norm" if "sib200" in task else "acc",
        "value": value,
        "stderr": 0.02,
        "n": TEXTS * QUESTIONS,
        "chance": 0.25,
        "repositories": {**named, "data": f"some/{task}@{commit}"},
        "weights": "ab",
        "dtype": "bfloat16",
        "device": "cuda:0",
        "provenance": made,
    }
    return hub_rows.made(told | changes)


def keep(
    language: str = "tam_Taml",
    gain: float = 0.0,
    triple: str | None = None,
    discarded: tuple[float, float] = (0.4, 0.1),
    **changes: object,
) -> Path:
    """Rows, items and diagnosis of a whole run in the present LANGMERGE_HOME; the rows' file.

    gain: of TIES with the judged slack over TIES, in accuracy on every task. discarded: the share
    of SFT entries out-voted by TIES, and at every slack.
    """
    it = chosen(language, triple)
    file = paths.results() / paper_results.FOLDER / f"{it.name}.jsonl"
    for model in it.models:
        value = 0.5 + (gain if model.slack == it.study.judged_slack else 0.0)
        for task in it.tasks:
            found = answers(value)
            made = row(it, model, task, float(found.mean()), **changes)
            hub_rows.append(file, [made])
            items(file, made, found)
    diagnosed(file, it, discarded)
    return file


def items(file: Path, made: hub_rows.Row, found: np.ndarray) -> None:
    """The outcomes of a row's items, beside the rows."""
    number = np.arange(len(found))
    frame = pd.DataFrame(
        {
            "task": made.task,
            "item": number.astype(str),
            "concept": (number // QUESTIONS).astype(str),
            made.metric: found,
        }
    )
    path = paper_results.items_file(file, made.key, made.task)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(frame.to_json(orient="records", lines=True))


def diagnosed(file: Path, it: paper.Chosen, discarded: tuple[float, float]) -> None:
    """A diagnosis of one tensor."""
    slacks = sorted({model.slack for model in it.models if model.slack is not None})
    tensors = [
        {
            "slack": "inf" if slack == float("inf") else slack,
            "kept_sft": 1000 - round(1000 * share),
            "trimmed_sft": 100,
            "outvoted_sft": round(1000 * share),
            "norm_ct": 2.0,
            "norm_sft": 1.0,
        }
        for slack in slacks
        for share in [discarded[0] if slack == 0 else discarded[1]]
    ]
    commits = {f"model:{name}": "a" * 40 for name in it.references.values()}
    path = paper_results.diagnosis_file(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"about": {"commits": commits}, "tensors": tensors}))
