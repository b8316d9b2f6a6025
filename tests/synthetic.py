"""A made-up run with a known truth, in the shape that `study.run` gives.

For tests of statistics, claims and figures: quick, deterministic, and its effects are
chosen by the test, so that a verdict can be checked against what was put in.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from langmerge import profiles, reference, study

BUDGETS = (7_680, 30_720, 122_880, 491_520)
TASKS = {"topic": 6, "kind": 4, "thing": 4, "action": 4}
SLACKS = (0.0, 0.5, 1.0, 4.0, np.inf)
METHODS = {
    "base": "fixed",
    "sft": "fixed",
    "ct": "fixed",
    "ct_then_sft": "tuned",
    "average": "tuned",
    "task_arithmetic": "tuned",
    "ties_mean": "tuned",
    "ties_sv": "tuned",
    "half_sft": "fixed",
    "shuffled_ct": "tuned",
}
WITHOUT_CT = ("base", "sft", "sft_frozen", "parts/none")
Truth = Callable[[float], float]


ACCURACY: dict[str, Truth] = {
    "base": lambda step: 0.24,
    "sft": lambda step: 0.45,
    "ct": lambda step: 0.25 + 0.15 * step,
    "ct_then_sft": lambda step: 0.45 + 0.3 * step,
    "average": lambda step: 0.55 + 0.05 * step,
    "task_arithmetic": lambda step: 0.57 + 0.08 * step,
    "ties_mean": lambda step: 0.62 - 0.12 * step,
    "ties_sv": lambda step: 0.62 + 0.05 * step,
    "half_sft": lambda step: 0.5,
    "shuffled_ct": lambda step: 0.35,
}
BITS: dict[str, Truth] = {
    "base": lambda step: 0.60,
    "sft": lambda step: 0.66,
    "ct": lambda step: 0.50 - 0.10 * step,
    "ct_then_sft": lambda step: 0.56 - 0.08 * step,
    "average": lambda step: 0.54 - 0.06 * step,
    "task_arithmetic": lambda step: 0.53 - 0.06 * step,
    "ties_mean": lambda step: 0.52 - 0.09 * step,
    "ties_sv": lambda step: 0.52 - 0.08 * step,
    "half_sft": lambda step: 0.62,
    "shuffled_ct": lambda step: 0.70,
}


def results(
    accuracy: Mapping[str, Truth] | None = None,
    bits: Mapping[str, Truth] | None = None,
    share: Truth = lambda step: 0.02 + 0.28 * step,
    share_with_slack: Truth = lambda step: 0.01 + 0.09 * step,
    languages: Sequence[str] = ("tam_Taml",),
    seeds: Sequence[int] = (0, 1, 2),
    budgets: Sequence[int] = BUDGETS,
    items: int = 120,
    concepts: int = 60,
    seed: int = 0,
) -> SimpleNamespace:
    """A run whose models have the given true accuracies and bits per byte by budget.

    The truths take a step from 0 (smallest budget) to 1 (largest); what a test leaves out
    comes from ACCURACY and BITS. Models share their items' difficulty, as real ones do.
    """
    rng = np.random.default_rng(seed)
    accuracy, bits = {**ACCURACY, **(accuracy or {})}, {**BITS, **(bits or {})}
    models = _models(budgets)
    rows, answers, diagnostics = [], [], []
    for language in languages:
        for run in seeds:
            test = _test_items(rng, items, concepts)
            noise = rng.normal(0, 0.004)
            for model in models:
                like = _behaves_like(model)
                answered = _answer(test, accuracy[like], model, rng)
                where = {"language": language, "seed": run} | _identity(model, language, run)
                answers.append(answered.assign(**where))
                rows += _task_rows(answered, where)
                rows.append(_text_row(bits[like], model, where, noise + rng.normal(0, 0.002)))
            diagnostics += _diagnostics(language, run, budgets, share, share_with_slack, rng)
    return SimpleNamespace(
        rows=pd.DataFrame(rows),
        items=pd.concat(answers, ignore_index=True).drop(columns=["difficulty", "base"]),
        diagnostics=pd.DataFrame(diagnostics),
        languages=list(languages),
        seeds=list(seeds),
        budgets=list(budgets),
        tasks=list(TASKS),
        profile="lab",
        only=[],
        plan=SimpleNamespace(note=""),
        provenance={},
    )


def as_study(made: SimpleNamespace, profile: str, **provenance: str) -> study.Results:
    """A made-up run as one of a profile, whose English SFT experts all have learned the tasks."""
    plan = profiles.load(profile, languages=made.languages, seeds=made.seeds)
    english = pd.DataFrame(
        {"task": task, "seed": run, "metric": "accuracy", "value": 1.0, "n": 1000, "chance": 0.25}
        for task in TASKS
        for run in made.seeds
    )
    frames = {name: getattr(made, name) for name in ("rows", "items", "diagnostics")}
    return study.Results(**frames, english=english, cells=[], plan=plan, provenance=provenance)


def on_base(made: SimpleNamespace, profile: str, name: str, digest: str) -> study.Results:
    """As `as_study`, on a base of this name whose hash is `digest`."""
    for frame in (made.rows, made.items, made.diagnostics):
        frame["base"] = digest
    for frame in (made.rows, made.items):
        frame["cell"] = frame["cell"] + name
    run = as_study(made, profile)
    run.plan.bases[:] = [name]
    return dataclasses.replace(run, english=run.english.assign(base=digest))


def of_levels(
    levels: Mapping[str, tuple[str, float, float]],
    profile: str,
    hashes: Mapping[str, str],
    codes: Sequence[str],
) -> study.Results:
    """Runs of a profile on several bases as one, in which some methods have levels of their own.

    levels: by method its setting, its accuracy and its bits per byte, the same at all budgets.
    hashes: of the bases, by name.
    """
    plan = profiles.load(profile)
    made = []
    with pytest.MonkeyPatch.context() as patch:
        for method, (setting, accuracy, bits) in levels.items():
            patch.setitem(METHODS, method, setting)
            patch.setitem(ACCURACY, method, lambda step, level=accuracy: level)
            patch.setitem(BITS, method, lambda step, level=bits: level)
        for seed, (name, digest) in enumerate(hashes.items()):
            run = results(
                languages=codes, seeds=plan.seeds, items=60, budgets=plan.budgets, seed=seed
            )
            made.append(on_base(run, profile, name, digest))
    return functools.reduce(reference.joined, made)


def _models(budgets: Sequence[int]) -> list[dict]:
    models = []
    for method, setting in METHODS.items():
        for index, budget in enumerate([0] if method in WITHOUT_CT else budgets):
            step = index / max(1, len(budgets) - 1)
            slack = 1.0 if method == "ties_sv" else np.nan
            model = {"method": method, "setting": setting, "slack": slack}
            models.append(model | {"ct_tokens": budget, "step": step, "lift": 0.0})
            if method == "ties_sv":
                ablated = {"setting": "without slack", "slack": 0.0}
                models.append(models[-1] | ablated)
                models += [
                    model
                    | {"ct_tokens": budget, "step": step, "setting": "sweep", "slack": slack}
                    | {"lift": 0.02 * min(slack, 6) * (step - 0.3)}
                    for slack in SLACKS
                ]
    return models


def _behaves_like(model: dict) -> str:
    """The method whose truth a model follows: without its slack, TIES-SV is plain TIES."""
    return "ties_mean" if model["setting"] == "without slack" else model["method"]


def _identity(model: dict, language: str, run: int) -> dict:
    cell = "-".join(str(part) for part in [*model.values(), language, run])
    keep = {key: model[key] for key in ("method", "setting", "slack", "ct_tokens")}
    return keep | {"base": "0badcafe", "cell": cell}


def _test_items(rng: np.random.Generator, items: int, concepts: int) -> pd.DataFrame:
    hardness = rng.normal(0, 0.08, concepts)
    frames = []
    for task in TASKS:
        concept = rng.integers(0, concepts, items)
        difficulty = rng.uniform(size=items) + hardness[concept]
        names = [f"{task}-{index}" for index in range(items)]
        frame = {"task": task, "item": names, "concept": [f"c{index}" for index in concept]}
        frames.append(pd.DataFrame(frame | {"difficulty": difficulty}))
    return pd.concat(frames, ignore_index=True)


def _answer(test: pd.DataFrame, truth: Truth, model: dict, rng) -> pd.DataFrame:
    skill = truth(model["step"]) + model["lift"] + rng.normal(0, 0.1, len(test))
    margin = skill - test["difficulty"]
    return test.assign(correct=margin > 0, margin=margin)


def _task_rows(answered: pd.DataFrame, where: dict) -> list[dict]:
    rows = []
    for task, part in answered.groupby("task", sort=False):
        value, n = float(part["correct"].mean()), len(part)
        stderr = float(np.sqrt(value * (1 - value) / n))
        scored = {"task": task, "metric": "accuracy", "value": value, "stderr": stderr, "n": n}
        rows.append(where | scored | {"chance": 1 / TASKS[task], "params": "{}", "variant": ""})
    return rows


def _text_row(truth: Truth, model: dict, where: dict, noise: float) -> dict:
    value = truth(model["step"]) * (1 + noise) + 0.1 * model["lift"]
    scored = {"task": "text", "metric": "bits_per_byte", "value": value, "stderr": 0.004, "n": 200}
    return where | scored | {"chance": np.nan, "params": "{}", "variant": ""}


def _diagnostics(language, run, budgets, share, share_with_slack, rng) -> list[dict]:
    rows = []
    for index, budget in enumerate(budgets):
        step = index / max(1, len(budgets) - 1)
        for method, setting, slack, truth in (
            ("ties_mean", "tuned", np.nan, share),
            ("ties_sv", "tuned", 1.0, share_with_slack),
            ("ties_sv", "without slack", 0.0, share),
        ):
            for layer in (-1, 0, 1, 2, 3):
                where = {"language": language, "seed": run, "base": "0badcafe"}
                where |= {"ct_tokens": budget, "method": method, "setting": setting, "slack": slack}
                lost = float(
                    np.clip(truth(step) * (0.8 + 0.1 * layer) + rng.normal(0, 0.004), 0, 1)
                )
                rows.append(where | _tensor(layer, lost, step))
    return rows


def _tensor(layer: int, lost: float, step: float) -> dict:
    n, surviving = 10_000, 7_000
    outvoted = round(lost * surviving)
    return {
        "parameter": f"layers.{layer}.weight",
        "layer": layer,
        "module": "embed" if layer < 0 else "mlp",
        "n": n,
        "norm_ct": 0.8 + 9 * step,
        "norm_sft": 4.0,
        "kept_sft": surviving - outvoted,
        "trimmed_sft": n - surviving,
        "outvoted_sft": outvoted,
        "discarded_sft_share": outvoted / surviving,
    }
