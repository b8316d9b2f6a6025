"""The study: a grid of (language, seed, CT tokens, method, setting), computed once.

``run`` computes what the store lacks and returns all results as data frames. Work goes in
waves of independent jobs on as many processes as there are cores: the experts, the experts
trained on experts, the evaluations, the diagnostics.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from langmerge import base as base_module
from langmerge import device, families, grid, jobs, languages, merging, profiles
from langmerge.cells import (
    Cell,
    Election,
    diagnose_cell,
    diagnostics_spec,
    evaluate_cell,
    evaluation_spec,
    plain,
)
from langmerge.errors import LangmergeError, nearest
from langmerge.evaluate import Suite
from langmerge.profiles import Profile
from langmerge.provenance import provenance
from langmerge.statistics import wilson
from langmerge.store import Store

#: Cells of one suite that one job evaluates: its tasks are built once for them.
BATCH = 8
#: Methods whose losses to trimming and election are diagnosed.
DIAGNOSED = ("ties_mean", "ties_sv", "rescaled_ct", "heavier_sft", "ties_mean_repeated")
#: What a row of every frame says of its model.
HEAD = (
    "base", "language", "seed", "ct_tokens", "method", "setting", "slack", "variant", "cell",
)  # fmt: skip
Work = tuple[Cell, Suite]


@dataclass(frozen=True)
class Results:
    """What a run found.

    rows: one row per evaluated model and task (and ``text``, in bits per byte).
    items: one row per evaluated model and item.
    diagnostics: one row per tensor of every TIES merge: what trimming and election discard.
    english: the SFT experts on English items, which decides whether a task is one.
    cells: the models themselves, to load checkpoints from.
    blocks: for the findings' own models ("core") and each family: how many models, how many of
        them were evaluated now, and the seconds that took.
    """

    rows: pd.DataFrame
    items: pd.DataFrame
    diagnostics: pd.DataFrame
    english: pd.DataFrame
    cells: list[Cell]
    plan: Profile
    provenance: dict[str, object]
    blocks: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def profile(self) -> str:
        """The profile's name."""
        return self.plan.name

    @property
    def only(self) -> list[str]:
        """The methods that are run; empty where all are."""
        return self.plan.only

    @property
    def languages(self) -> list[str]:
        """The reported languages."""
        return self.plan.languages

    @property
    def seeds(self) -> list[int]:
        """The run seeds."""
        return self.plan.seeds

    @property
    def budgets(self) -> list[int]:
        """The CT budgets in tokens."""
        return self.plan.budgets

    @property
    def tasks(self) -> list[str]:
        """The reported tasks: those of the profile that English SFT has been shown to teach.

        A language of the core tier may not have all of them.
        Raises LangmergeError where it has taught none.
        """
        asked = set(self.rows["task"])
        taught = self.english_check().groupby("task")["counts"].all()
        reported = [task for task in self.plan.tasks if taught[task] and task in asked]
        if not reported:
            raise LangmergeError(
                f"no task is one: the lower end of English SFT's Wilson interval is below "
                f"{self.plan.english_floor} on all of {', '.join(self.plan.tasks)}. Give "
                "fine-tuning more steps, or lower english_floor in the profile."
            )
        return reported

    def model(self, method: str, ct_tokens: int | None = None) -> Cell:
        """The first seed's model of a method, of one budget or of the smallest that it has.

        Raises LangmergeError where there is none.
        """
        its = [cell for cell in self.cells if cell.method == method]
        its = [cell for cell in its if ct_tokens in (None, cell.ct_tokens)]
        if not its:
            there = sorted({cell.ct_tokens for cell in self.cells if cell.method == method})
            known = nearest(method, {cell.method for cell in self.cells})
            raise LangmergeError(
                f"no model of {method!r} at {ct_tokens:,} CT tokens: it has {there}"
                if there
                else f"no model of {method!r} in the results: {known}"
            )
        return min(its, key=lambda cell: (self.seeds.index(cell.seed), cell.ct_tokens))

    def english_check(self) -> pd.DataFrame:
        """English SFT on English items: accuracy, Wilson interval and whether the task counts."""
        rows = self.english[self.english["metric"] == "accuracy"]
        bounds = [wilson(round(row.value * row.n), row.n) for row in rows.itertuples()]
        low, high = zip(*bounds, strict=True)
        checked = rows[["task", "seed", "value", "n", "chance"]].assign(low=low, high=high)
        return checked.assign(counts=checked["low"] >= self.plan.english_floor)


def run(
    language: str | list[str] | None = None,
    profile: str = "lab",
    seeds: list[int] | None = None,
    processes: int | None = None,
    elections: dict[str, Election] | None = None,
    quiet: bool = False,
    **overrides: object,
) -> Results:
    """Compute what the store lacks of the study and return its results.

    language: FLORES code or a list of them (default: the profile's).
    seeds: run seeds, each with its own CT order, SFT order and test items.
    processes: default as many as cores; one thread each.
    elections: a reader's own elections by name, ``(tau_ct, tau_sft) -> signs``; each enters
        the comparison as method ``custom:<name>`` with the settings of tuned mean-TIES.
    overrides: any other key of the profile, e.g. ``budgets=[16384, 65536]``.
    Raises LangmergeError for an unknown language, profile or key, or a device that is not here.
    """
    device.chosen()  # complains before anything is trained
    chosen = [language] if isinstance(language, str) else language
    plan = profiles.load(profile, languages=chosen, seeds=seeds, **overrides)
    for code in plan.languages:
        languages.load(code)
        for name in plan.bases:
            base_module.meeting(name, code)
    plan = plan.model_copy(update={"note": " ".join(filter(None, [plan.note, *_warnings(plan)]))})
    if plan.note and not quiet:
        Console(stderr=True).print(plan.note)
    blocks = Blocks(plan, processes, quiet)
    core = blocks.compute("core", lambda: grid.cells(plan, elections, processes, quiet))
    for family in families.of(plan):
        blocks.compute(family, lambda f=family: families.cells(f, plan, core, processes, quiet))
    models = blocks.models
    work = [(cell, suite(plan, cell.language, cell.seed)) for cell in models]
    english = [(cell, english_suite(plan, cell.seed)) for cell in _english_experts(models)]
    diagnosed = [cell for cell in models if is_diagnosed(cell)]
    return Results(
        rows=scores(work),
        items=_items(work),
        diagnostics=_diagnostics(diagnosed),
        english=scores(english),
        cells=models,
        plan=plan,
        provenance=provenance() | {"base": ", ".join(_hashes(models))},
        blocks=blocks.told,
    )


class Blocks:
    """The parts of a study, computed one after the other, each with what it took."""

    def __init__(self, plan: Profile, processes: int | None, quiet: bool) -> None:
        self.plan, self.processes, self.quiet = plan, processes, quiet
        self.models: list[Cell] = []
        self.told: dict[str, dict[str, float]] = {}

    def compute(self, name: str, make: Callable[[], list[Cell]]) -> list[Cell]:
        """Train, evaluate and diagnose the models that `make` gives, and return them."""
        started = time.monotonic()
        models = make()
        work = [(cell, suite(self.plan, cell.language, cell.seed)) for cell in models]
        work += [(it, english_suite(self.plan, it.seed)) for it in _english_experts(models)]
        computed = evaluate_all(work, self.processes, self.quiet)
        _diagnose_all([cell for cell in models if is_diagnosed(cell)], self.processes, self.quiet)
        self.models += models
        seconds = round(time.monotonic() - started, 1)
        self.told[name] = {"models": len(models), "computed": computed, "seconds": seconds}
        return models


def is_diagnosed(cell: Cell) -> bool:
    """Whether it is a merge whose losses to trimming and election are counted, an arm's too."""
    return cell.method.rpartition("/")[-1] in DIAGNOSED


def _warnings(plan: Profile) -> Iterator[str]:
    """What a reader has to know of languages that are no fair test."""
    # The search runs studies of its own.
    from langmerge import tuning

    for code in sorted(set(plan.languages) & set(tuning.search().languages)):
        if plan.tuned:
            yield f"{code} is a development language: the tuned settings were chosen on it."
    for name in plan.bases:
        for code in plan.languages:
            tasks = base_module.meeting(name, code).between(code)
            if tasks is not None and len(tasks) < base_module.NEEDED:
                yield (
                    f"{code}: English fine-tuning alone is between chance and ceiling on "
                    f"{' and '.join(tasks) or 'no task'} only: most of its effects are noise."
                )


def suite(plan: Profile, language: str, seed: int, split: str = "test") -> Suite:
    """The items and text on which a language's models are compared for one seed."""
    return Suite(language, split, seed, plan.items, plan.text_documents)


def english_suite(plan: Profile, seed: int) -> Suite:
    """The English items on which the SFT expert has to show that a task is one."""
    return Suite("eng_Latn", "test", seed, plan.english_items, plan.text_documents)


def _english_experts(models: list[Cell]) -> list[Cell]:
    """The SFT experts, one a base and seed whatever the languages they are merged for."""
    return list({(cell.base, cell.seed): cell for cell in models if cell.method == "sft"}.values())


def _hashes(models: list[Cell]) -> list[str]:
    """The hashes of the bases that the models started from."""
    return list(dict.fromkeys(base_module.load(cell.base).hash for cell in models))


def evaluate_all(work: list[Work], processes: int | None = None, quiet: bool = False) -> int:
    """Evaluate what the store lacks, a few cells of one suite a job; how many it lacked."""
    store = Store()
    by_suite: dict[tuple[Suite, Path], dict[str, Cell]] = {}
    for cell, asked in work:
        spec = evaluation_spec(cell, asked)
        if not store.has("evaluation", spec):
            by_suite.setdefault((asked, cell.base), {})[json.dumps(spec, sort_keys=True)] = cell
    batches = [
        (_evaluate_batch, store.root, list(missing.values())[start : start + BATCH], asked)
        for (asked, _), missing in by_suite.items()
        for start in range(0, len(missing), BATCH)
    ]
    jobs.run(f"evaluations, {BATCH} models a step", batches, processes, quiet)
    return sum(map(len, by_suite.values()))


def _evaluate_batch(root, cells: list[Cell], asked: Suite) -> None:
    for cell in cells:
        evaluate_cell(root, cell, asked)


def _diagnose_all(cells: list[Cell], processes: int | None, quiet: bool) -> None:
    store = Store()
    by_spec: dict[str, Cell] = {}
    for cell in cells:
        spec = diagnostics_spec(cell)
        if not store.has("diagnostics", spec):
            by_spec[json.dumps(spec, sort_keys=True)] = cell
    missing = list(by_spec.values())
    batches = [
        (_diagnose_batch, store.root, missing[start : start + BATCH])
        for start in range(0, len(missing), BATCH)
    ]
    jobs.run(f"diagnostics, {BATCH} merges a step", batches, processes, quiet)


def _diagnose_batch(root, cells: list[Cell]) -> None:
    for cell in cells:
        diagnose_cell(root, cell)


# --- results -----------------------------------------------------------------------------


def scores(work: list[Work]) -> pd.DataFrame:
    """One row per evaluated model and task, read from the store."""
    frames, heads = [], []
    for cell, asked in work:
        folder = evaluate_cell(Store().root, cell, asked)
        frames.append(_records(folder / "scores.json"))
        params = json.dumps(plain(cell.params), sort_keys=True)
        heads.append(_head(cell, folder.name) | {"params": params})
    return _stacked(frames, heads)


def _items(work: list[Work]) -> pd.DataFrame:
    frames, heads = [], []
    for cell, asked in work:
        folder = evaluate_cell(Store().root, cell, asked)
        frames.append(pd.read_parquet(folder / "items.parquet"))
        heads.append(_head(cell, folder.name))
    return _stacked(frames, heads)


def _diagnostics(cells: list[Cell]) -> pd.DataFrame:
    if not cells:  # a profile without TIES
        return pd.DataFrame(columns=[*merging.diagnostics.COLUMNS, *HEAD])
    frames, heads = [], []
    for cell in cells:
        folder = diagnose_cell(Store().root, cell)
        frames.append(_records(folder / "diagnostics.json"))
        heads.append(_head(cell, folder.name))
    return _stacked(frames, heads)


def _records(path: Path) -> pd.DataFrame:
    return pd.DataFrame(json.loads(path.read_text()))


def _stacked(frames: list[pd.DataFrame], heads: list[dict[str, object]]) -> pd.DataFrame:
    """The frames one below the other, each row with its frame's head as further columns."""
    which = np.repeat(np.arange(len(frames)), [len(frame) for frame in frames])
    head = pd.DataFrame(heads).iloc[which].reset_index(drop=True)
    return pd.concat(frames, ignore_index=True).assign(**dict(head.items()))


def _head(cell: Cell, key: str) -> dict[str, object]:
    """The columns that name a model in every frame."""
    told = (
        cell.load_base().hash,
        cell.language,
        cell.seed,
        cell.ct_tokens,
        cell.method,
        cell.setting,
        float(cell.params.get("slack", math.nan)),
        merging.describe(cell.merge, **cell.params) if cell.merge else "",
        key,
    )
    return dict(zip(HEAD, told, strict=True))


def show() -> pd.DataFrame:
    """What is in the store: entries and bytes per stage, language and seed."""
    rows = []
    for entry in Store().entries():
        spec = entry.spec
        language = spec.get("language", [None])[0] or spec.get("suite", {}).get("language", "")
        seed = spec.get("seed", spec.get("suite", {}).get("seed"))
        rows.append({"stage": entry.stage, "language": language, "seed": seed, "bytes": entry.size})
    frame = pd.DataFrame(rows, columns=["stage", "language", "seed", "bytes"])
    return (
        frame.groupby(["stage", "language", "seed"], dropna=False)["bytes"]
        .agg(entries="count", bytes="sum")
        .reset_index()
    )
