"""The study: a grid of (language, seed, CT tokens, method, setting), computed once.

``run`` computes what the store lacks and returns all results as data frames. Work goes in
three waves, each a set of independent jobs on as many processes as there are cores: the
experts, the experts trained on experts, and the evaluations.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.progress import TimeElapsedColumn, TimeRemainingColumn

from langmerge import base as base_module
from langmerge import languages, merging, profiles, provenance
from langmerge.base import Base
from langmerge.errors import LangmergeError
from langmerge.evaluate import Evaluator, Suite
from langmerge.experts import Expert, continual_pretrain, fingerprint, finetune
from langmerge.model import StateDict
from langmerge.profiles import Finetuning, Profile
from langmerge.store import Store

#: The study's names for merging methods: the function that computes each and what it fixes.
MERGES: dict[str, tuple[str, dict[str, object]]] = {
    "average": ("average", {}),
    "task_arithmetic": ("task_arithmetic", {}),
    "ties_mean": ("ties", {"combine": "mean"}),
    "ties_sum": ("ties", {"combine": "sum"}),
    "ties_sv": ("ties_sv", {"combine": "mean"}),
}
#: Controls, with the merge whose settings they borrow.
CONTROLS: dict[str, tuple[str, str | None]] = {
    "chat_vector": ("chat_vector", None),
    "half_sft": ("half_sft", None),
    "shuffled_ct": ("shuffled_ct", "ties_mean"),
    "norm_matched_ct": ("norm_matched_ct", "ties_mean"),
}
Election = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Cell:
    """One model to evaluate: an expert, or a merge of the CT and the SFT expert."""

    language: str
    seed: int
    ct_tokens: int
    method: str
    setting: str
    expert: Expert | None = None
    merge: str | None = None
    params: dict[str, object] = field(default_factory=dict)
    ct: Expert | None = None
    sft: Expert | None = None
    election: Election | None = None

    def identity(self) -> dict[str, object]:
        """What the weights depend on, for the store's key."""
        if self.expert is not None:
            return {"expert": self.expert.sha256}
        if self.merge is None:
            return {"expert": "base"}
        identity = {"merge": self.merge, "params": _plain(self.params), "sft": self.sft.sha256}
        if self.ct is not None:
            identity["ct"] = self.ct.sha256
        if self.election is not None:
            identity["election"] = textwrap.dedent(inspect.getsource(self.election))
        return identity

    def weights(self, base: Base) -> StateDict:
        """The model's weights, merged in memory where it is a merge."""
        if self.expert is not None:
            return self.expert.weights()
        if self.merge is None:
            return base.weights
        params = dict(self.params)
        if self.election is not None:
            params["election"] = self.election
        ct = self.ct.weights() if self.ct else base.weights
        return merging.merge(self.merge, base.weights, ct, self.sft.weights(), **params)


@dataclass(frozen=True)
class Results:
    """What a run found.

    rows: one row per evaluated model and task (and ``text``, in bits per byte).
    items: one row per evaluated model and item.
    diagnostics: one row per tensor of every CT/SFT pair: what trimming and election discard.
    english: the SFT expert on English items, which decides whether a task is one.
    """

    rows: pd.DataFrame
    items: pd.DataFrame
    diagnostics: pd.DataFrame
    english: pd.DataFrame
    profile: str
    languages: list[str]
    seeds: list[int]
    budgets: list[int]
    tasks: list[str]
    provenance: dict[str, object]


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
    Raises LangmergeError for an unknown language, profile or key.
    """
    chosen = [language] if isinstance(language, str) else language
    plan = profiles.load(profile, languages=chosen, seeds=seeds, **overrides)
    base = base_module.load()
    for code in plan.languages:
        languages.load(code)
        base.require(code)
    store = Store()
    with _progress(quiet) as progress:
        cells = _experts(plan, base, store, processes, progress)
        cells += [
            cell for pair in list(_pairs(cells)) for cell in _merges(plan, *pair, elections or {})
        ]
        english = _english_cells(plan, cells)
        work = [(cell, suite(plan, cell.language, cell.seed)) for cell in cells]
        work += [(cell, english_suite(plan, cell.seed)) for cell in english]
        _evaluate_all(work, base, store, processes, progress)
        diagnostics = _diagnose_all(plan, cells, base, store, processes, progress)
    return _collect(plan, cells, english, diagnostics, base, store)


def suite(plan: Profile, language: str, seed: int, split: str = "test") -> Suite:
    """The items and text on which a language's models are compared for one seed."""
    return Suite(language, split, seed, plan.items, plan.text_documents)


def english_suite(plan: Profile, seed: int) -> Suite:
    """The English items on which the SFT expert has to show that a task is one."""
    return Suite("eng_Latn", "test", seed, plan.english_items, 2)


# --- experts -----------------------------------------------------------------------------


def _experts(
    plan: Profile, base: Base, store: Store, processes: int | None, progress: Progress
) -> list[Cell]:
    """Train what is missing, in two waves, and return the experts' cells."""
    first = [(_train_sft, plan, store.root, seed) for seed in plan.seeds]
    first += [
        (_train_ct, plan, store.root, language, seed)
        for language in plan.languages
        for seed in plan.seeds
    ]
    _wave("experts: CT and SFT", sorted(first, key=lambda job: job[0] is _train_sft), processes, progress)
    sft = {seed: _train_sft(plan, store.root, seed) for seed in plan.seeds}
    ct = {
        (language, seed): _train_ct(plan, store.root, language, seed)
        for language in plan.languages
        for seed in plan.seeds
    }
    second = [
        (_train_on_ct, plan, store.root, language, seed, expert, tuning)
        for (language, seed), experts in ct.items()
        for tokens, expert in experts.items()
        for tuning in _ct_then_sft_settings(plan, tokens, language)
    ]
    _wave("experts: CT-then-SFT", second, processes, progress)
    cells = []
    for (language, seed), experts in ct.items():
        cells += [
            Cell(language, seed, 0, "base", "fixed"),
            Cell(language, seed, 0, "sft", "fixed", expert=sft[seed]),
        ]
        for tokens, expert in experts.items():
            cells.append(Cell(language, seed, tokens, "ct", "fixed", expert=expert))
            for method, setting, code, how in _ct_then_sft_settings(plan, tokens, language):
                trained = _train_on_ct(
                    plan, store.root, language, seed, expert, (method, setting, code, how)
                )
                cells.append(
                    Cell(language, seed, tokens, method, setting, trained, params=how.model_dump())
                )
    return cells


def _ct_then_sft_settings(
    plan: Profile, tokens: int, language: str
) -> list[tuple[str, str, str, Finetuning]]:
    """What is fine-tuned from a CT expert: (method, setting, language of the SFT, how)."""
    found = [
        ("ct_then_sft", setting, "eng_Latn", plan.finetuning.model_copy(update=values))
        for setting, values in plan.settings("ct_then_sft").items()
    ]
    if tokens == max(plan.budgets):
        found.append(("target_sft", "fixed", language, plan.finetuning))
    return found


def _train_sft(plan: Profile, root: Path, seed: int) -> Expert:
    return finetune(Store(root), base_module.load(), "eng_Latn", seed, plan.finetuning)


def _train_ct(plan: Profile, root: Path, language: str, seed: int) -> dict[int, Expert]:
    return continual_pretrain(
        Store(root), base_module.load(), language, seed, plan.continual_pretraining, plan.budgets
    )


def _train_on_ct(
    plan: Profile,
    root: Path,
    language: str,
    seed: int,
    expert: Expert,
    tuning: tuple[str, str, str, Finetuning],
) -> Expert:
    _, _, code, how = tuning
    return finetune(Store(root), base_module.load(), code, seed, how, start=expert)


# --- merges ------------------------------------------------------------------------------


def _pairs(cells: Iterable[Cell]) -> Iterable[tuple[Cell, Cell]]:
    """Every CT expert with the SFT expert of its seed."""
    sft = {(cell.language, cell.seed): cell for cell in cells if cell.method == "sft"}
    for cell in cells:
        if cell.method == "ct":
            yield cell, sft[cell.language, cell.seed]


def _merges(
    plan: Profile, ct: Cell, sft: Cell, elections: dict[str, Election]
) -> Iterable[Cell]:
    """All merges and controls of one CT expert and the SFT expert."""
    where = {"language": ct.language, "seed": ct.seed}
    pair = {"ct": ct.expert, "sft": sft.expert}
    for method, (function, fixed) in MERGES.items():
        for setting, values in plan.settings(method).items():
            params = fixed | values
            yield Cell(
                **where, ct_tokens=ct.ct_tokens, method=method, setting=setting, merge=function,
                params=params, **pair,
            )
    ties = plan.settings("ties_mean")
    best = ties.get("tuned", ties["default"])
    for slack in plan.slacks:
        yield Cell(
            **where, ct_tokens=ct.ct_tokens, method="ties_sv", setting="sweep", merge="ties_sv",
            params={"combine": "mean"} | best | {"slack": slack}, **pair,
        )
    yield from _controls(plan, ct, sft)
    for name, election in elections.items():
        yield Cell(
            **where, ct_tokens=ct.ct_tokens, method=f"custom:{name}", setting="tuned", merge="ties",
            params={"combine": "mean"} | best, election=election, **pair,
        )


def _controls(plan: Profile, ct: Cell, sft: Cell) -> Iterable[Cell]:
    where = {"language": ct.language, "seed": ct.seed, "ct_tokens": ct.ct_tokens}
    pair = {"ct": ct.expert, "sft": sft.expert}
    for method, (function, borrowed) in CONTROLS.items():
        if method == "half_sft":
            if ct.ct_tokens == min(plan.budgets):
                yield Cell(
                    ct.language, ct.seed, 0, method, "fixed", merge=function, sft=sft.expert
                )
            continue
        settings = plan.settings(borrowed) if borrowed else {"fixed": {}}
        setting = "tuned" if "tuned" in settings else next(iter(settings))
        params = dict(settings[setting]) | ({"combine": "mean"} if borrowed else {})
        if method == "shuffled_ct":
            params["seed"] = ct.seed
        yield Cell(**where, method=method, setting=setting, merge=function, params=params, **pair)


# --- evaluation --------------------------------------------------------------------------


def _english_cells(plan: Profile, cells: list[Cell]) -> list[Cell]:
    """The SFT experts, once per seed."""
    found = {cell.seed: cell for cell in cells if cell.method == "sft"}
    return list(found.values())


def evaluation_spec(cell: Cell, asked: Suite, base: Base) -> dict[str, object]:
    """What an evaluation depends on."""
    return {
        "base": base.hash,
        "suite": asdict(asked),
        "text": fingerprint(asked.language),
        "weights": cell.identity(),
    }


@cache
def _evaluator(asked: Suite) -> Evaluator:
    base = base_module.load()
    return Evaluator(base.architecture, base.tokenizer, asked)


def evaluate_cell(root: Path, cell: Cell, asked: Suite) -> Path:
    """The folder with a cell's ``scores.json`` and ``items.parquet``, evaluated if missing."""
    base = base_module.load()

    def compute(folder: Path) -> None:
        found = _evaluator(asked)(cell.weights(base))
        (folder / "scores.json").write_text(found.scores.to_json(orient="records"))
        found.items.to_parquet(folder / "items.parquet")

    return Store(root).get("evaluation", evaluation_spec(cell, asked, base), compute)


def _evaluate_batch(root: Path, cells: list[Cell], asked: Suite) -> None:
    for cell in cells:
        evaluate_cell(root, cell, asked)


def _evaluate_all(
    work: list[tuple[Cell, Suite]],
    base: Base,
    store: Store,
    processes: int | None,
    progress: Progress,
) -> None:
    """Evaluate the missing cells, a few of one suite a job so that its tasks are built once."""
    by_suite: dict[Suite, list[Cell]] = {}
    for cell, asked in work:
        if not store.has("evaluation", evaluation_spec(cell, asked, base)):
            by_suite.setdefault(asked, []).append(cell)
    jobs = [
        (_evaluate_batch, store.root, cells[start : start + 8], asked)
        for asked, cells in by_suite.items()
        for start in range(0, len(cells), 8)
    ]
    _wave("evaluation", jobs, processes, progress)


def diagnose_cell(root: Path, cell: Cell) -> Path:
    """The folder with ``diagnostics.json`` of a TIES cell: what its merge discards."""
    base = base_module.load()
    spec = {"base": base.hash, "weights": cell.identity()}

    def compute(folder: Path) -> None:
        frame = merging.diagnose(
            base.weights, cell.ct.weights(), cell.sft.weights(), method=cell.merge, **cell.params
        )
        (folder / "diagnostics.json").write_text(frame.to_json(orient="records"))

    return Store(root).get("diagnostics", spec, compute)


def _diagnosed(cells: Iterable[Cell]) -> list[Cell]:
    return [cell for cell in cells if cell.method in ("ties_mean", "ties_sv")]


def _diagnose_all(
    plan: Profile,
    cells: list[Cell],
    base: Base,
    store: Store,
    processes: int | None,
    progress: Progress,
) -> list[Cell]:
    chosen = _diagnosed(cells)
    missing = [
        cell
        for cell in chosen
        if not store.has("diagnostics", {"base": base.hash, "weights": cell.identity()})
    ]
    jobs = [(_diagnose_batch, store.root, missing[i : i + 16]) for i in range(0, len(missing), 16)]
    _wave("diagnostics", jobs, processes, progress)
    return chosen


def _diagnose_batch(root: Path, cells: list[Cell]) -> None:
    for cell in cells:
        diagnose_cell(root, cell)


# --- results -----------------------------------------------------------------------------


def _collect(
    plan: Profile,
    cells: list[Cell],
    english: list[Cell],
    diagnosed: list[Cell],
    base: Base,
    store: Store,
) -> Results:
    rows, items = [], []
    for cell in cells:
        asked = suite(plan, cell.language, cell.seed)
        folder = evaluate_cell(store.root, cell, asked)
        head = _head(cell, folder.name, base)
        scores = pd.read_json(folder / "scores.json", orient="records")
        rows.append(scores.assign(**head, params=json.dumps(_plain(cell.params), sort_keys=True)))
        items.append(pd.read_parquet(folder / "items.parquet").assign(**head))
    frames = []
    for cell in diagnosed:
        folder = diagnose_cell(store.root, cell)
        frame = pd.read_json(folder / "diagnostics.json", orient="records")
        frames.append(frame.assign(**_head(cell, folder.name, base)))
    checks = []
    for cell in english:
        folder = evaluate_cell(store.root, cell, english_suite(plan, cell.seed))
        scores = pd.read_json(folder / "scores.json", orient="records")
        checks.append(scores.assign(seed=cell.seed, cell=folder.name))
    return Results(
        rows=pd.concat(rows, ignore_index=True),
        items=pd.concat(items, ignore_index=True),
        diagnostics=pd.concat(frames, ignore_index=True),
        english=pd.concat(checks, ignore_index=True),
        profile=plan.name,
        languages=plan.languages,
        seeds=plan.seeds,
        budgets=plan.budgets,
        tasks=plan.tasks,
        provenance=provenance.provenance() | {"base": base.hash, "profile": plan.model_dump()},
    )


def _head(cell: Cell, key: str, base: Base) -> dict[str, object]:
    slack = cell.params.get("slack", math.nan)
    return {
        "base": base.hash,
        "language": cell.language,
        "seed": cell.seed,
        "ct_tokens": cell.ct_tokens,
        "method": cell.method,
        "setting": cell.setting,
        "slack": float(slack),
        "variant": variant(cell),
        "cell": key,
    }


def variant(cell: Cell) -> str:
    """Which of the functions called TIES this is; empty for other methods."""
    if cell.merge is None or not cell.merge.startswith("ties"):
        return ""
    return f"per-tensor trim, weighted election, {cell.params.get('combine', 'mean')}"


def _plain(params: dict[str, object]) -> dict[str, object]:
    """Parameters as JSON can hold them: infinity as a word."""
    return {
        name: "inf" if isinstance(value, float) and math.isinf(value) else value
        for name, value in params.items()
    }


# --- running jobs ------------------------------------------------------------------------


def _wave(name: str, jobs: list[tuple], processes: int | None, progress: Progress) -> None:
    """Run independent jobs, each a function and its arguments, and show how far they are."""
    if not jobs:
        return
    processes = min(processes or os.cpu_count() or 1, len(jobs))
    task = progress.add_task(name, total=len(jobs))
    if processes == 1:
        results: Iterable[None] = (_one_thread(*job) for job in jobs)
    else:
        with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
            results = joblib.Parallel(n_jobs=processes, return_as="generator_unordered")(
                joblib.delayed(_one_thread)(*job) for job in jobs
            )
    for _ in results:
        progress.advance(task)


def _one_thread(function: Callable, *arguments: object) -> None:
    """Run a job on one thread: more only get in each other's way at this size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        function(*arguments)
    finally:
        torch.set_num_threads(threads)


def _progress(quiet: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        disable=quiet,
    )


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


def require_languages(codes: Iterable[str]) -> None:
    """Raise LangmergeError unless every language exists and the base has met it."""
    base = base_module.load()
    for code in codes:
        languages.load(code)
        base.require(code)


def mean_accuracy(rows: pd.DataFrame, tasks: list[str]) -> pd.Series:
    """Mean accuracy over tasks (equal weight) per evaluated model."""
    keys = ["language", "seed", "ct_tokens", "method", "setting", "slack"]
    chosen = rows[rows["task"].isin(tasks)]
    return chosen.groupby(keys, dropna=False)["value"].mean()


__all__ = ["LangmergeError", "Results", "mean_accuracy", "np", "run", "show"]
