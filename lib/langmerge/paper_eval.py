"""Evaluating checkpoints on disk by lm-eval: its own Belebele, and SIB-200 and MiLiC-Eval by ours.

Task files of ours are in ``data/tasks``; they run under plain lm-eval too
(``lm_eval --include_path data/tasks``). Data sets are loaded at pinned commits and looked at
before a model is: what lacks a column or a split is named at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import io
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

os.environ.setdefault("LMEVAL_LOG_LEVEL", "ERROR")

import datasets
import lm_eval
import numpy as np
import pandas as pd
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from langmerge import hub_fetch, paths, statistics
from langmerge.errors import LangmergeError
from langmerge.hub_fetch import Repository
from langmerge.hub_languages import TaskSet, task_set

METRICS = ("acc", "acc_norm")
GROUP = "langmerge_paper"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a model answered on one task.

    value, stderr: by the task's metric; the items of one text are a cluster, and with one cluster
    there is no standard error (None). others: the mean by lm-eval's other metrics. items: task,
    item, concept (what makes items dependent) and the metrics. tokens: those that were scored.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    chance: float
    others: Mapping[str, float]
    items: pd.DataFrame
    seconds: float
    tokens: int


class Judge:
    """The tasks of one language, loaded once, for many models."""

    def __init__(self, tasks: Sequence[str], pinned: Mapping[str, Repository]) -> None:
        """Load the tasks' data; raises LangmergeError for data that is not as the tasks need it."""
        self.sets = {task: task_set(task)[0] for task in tasks}
        specs = []
        for task in tasks:
            its, code = task_set(task)
            found = _load(its, code, pinned[its.dataset])
            _check(task, its, found)
            # The very items that were checked, at the pinned commit.
            specs.append({"task": task, "custom_dataset": lambda found=found, **_: found})
        with _quiet():
            # As members of a group, tasks take what is given here in place of their files'.
            self._tasks = _manager(tasks).load([{"group": GROUP, "task": specs}])

    def each(
        self,
        folder: Path,
        tasks: Sequence[str],
        *,
        dtype: str = "float32",
        device: str = "cpu",
        batch_size: int = 8,
        limit: int | None = None,
    ) -> Iterator[Evaluation]:
        """Evaluate the checkpoint of a folder on some of the tasks, one after the other.

        Raises LangmergeError where the device's memory does not hold it, saying what to lower.
        """
        settings = {"dtype": dtype, "device": device, "batch_size": batch_size}
        with _enough_memory(settings), _quiet():
            model = HFLM(pretrained=str(folder), **settings)
        try:
            for task in tasks:
                with _enough_memory(settings), _quiet():
                    found = self._evaluate(model, task, limit)
                yield found
        finally:
            del model
            gc.collect()
            if device.startswith("cuda"):
                torch.cuda.empty_cache()

    def _evaluate(self, model: HFLM, task: str, limit: int | None) -> Evaluation:
        started = time.monotonic()
        found = lm_eval.evaluate(
            lm=model,
            task_dict={"tasks": {task: self._tasks["tasks"][task]}},
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,
        )
        seconds = time.monotonic() - started
        samples = found["samples"][task]
        tokens = sum(len(model.tok_encode(text)) for text in _prompts(samples))
        its = self.sets[task]
        items = _items(task, its, samples)
        value, se, _ = statistics.cluster_robust(items[its.metric], items["concept"])
        return Evaluation(
            task=task,
            metric=its.metric,
            value=float(value),
            stderr=float(se) if np.isfinite(se) else None,
            chance=_chance(samples),
            others={m: float(items[m].mean()) for m in METRICS if m in items and m != its.metric},
            items=items,
            seconds=seconds,
            tokens=tokens,
        )


def data_file(repository: Repository, its: TaskSet, code: str) -> str | None:
    """The path of a task's items in a data set without configurations; None for one with them.

    Raises LangmergeError where the data set has no such file, or several.
    """
    if its.file is None:
        return None
    ending = its.file.format(code=code)
    found = [name for name in repository.files if f"/{name}".endswith(f"/{ending}")]
    if not found and hub_fetch.is_offline():
        return ending
    if len(found) != 1:
        raise LangmergeError(
            f"data set {its.dataset}: {len(found)} files end in {ending}, and one is needed. Has "
            "it been laid out anew? Its commit is " + repository.commit + "."
        )
    return found[0]


def data_bytes(repository: Repository, its: TaskSet, code: str) -> int:
    """What the items of one language weigh."""
    path = data_file(repository, its, code)
    names = [path] if path else [name for name in repository.wanted() if code in name]
    return sum(repository.files[name].size for name in names if name in repository.files)


def default_dtype(device: str) -> str:
    """bfloat16 on an accelerator, float32 on a CPU, where bfloat16 is slow."""
    return "float32" if device == "cpu" else "bfloat16"


def default_device() -> str:
    """The accelerator that torch finds, or the CPU."""
    if torch.cuda.is_available():
        return "cuda:0"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _load(its: TaskSet, code: str, repository: Repository) -> datasets.DatasetDict:
    """The items of one language; raises LangmergeError for a configuration that is not there."""
    path = data_file(repository, its, code)
    config = None if path else code
    files = {"data_files": {its.split: path}} if path else {}
    what = f"data set {its.dataset}" + (f", configuration {config!r}" if config else f", {path}")
    try:
        with hub_fetch.explained(its.dataset, "dataset", repository.commit), _quiet():
            return _loaded(what, its.dataset, config, revision=repository.commit, **files)
    except datasets.exceptions.DatasetGenerationError as error:
        cause = error.__cause__ or error
        raise LangmergeError(f"{what} is not readable: {str(cause).splitlines()[0]}") from None


def _loaded(what: str, name: str, config: str | None, **given: object) -> datasets.DatasetDict:
    try:
        return datasets.load_dataset(name, config, **given)
    except StopIteration:
        raise LangmergeError(f"{what}: there are no items in it.") from None
    except ValueError as error:
        if "BuilderConfig" not in str(error):
            raise
        raise LangmergeError(f"{what}: there is no such configuration.") from None


def _check(task: str, its: TaskSet, found: datasets.DatasetDict) -> None:
    """Raise LangmergeError where a split or a column is missing."""
    if its.split not in found:
        raise LangmergeError(
            f"data set {its.dataset} has no split {its.split!r} for {task}; it has "
            f"{', '.join(found)}. Name the one that is meant in data/hub.yaml."
        )
    columns = found[its.split].column_names
    needed = [*its.columns, *([its.group] if its.group else [])]
    if missing := [name for name in needed if name not in columns]:
        raise LangmergeError(
            f"data set {its.dataset}, split {its.split}, has no column {missing[0]!r}, which "
            f"{task} needs; it has {', '.join(columns)}."
        )
    if not len(found[its.split]):
        raise LangmergeError(f"data set {its.dataset}, split {its.split}: there are no items.")


def _manager(tasks: Sequence[str]) -> TaskManager:
    """lm-eval's index of the folders that these tasks are in; all of it takes seconds to read."""
    shipped = Path(lm_eval.__file__).parent / "tasks"
    folders = {shipped / task.split("_")[0] for task in tasks if not task.startswith("langmerge_")}
    here = [folder for folder in sorted(folders) if folder.is_dir()]
    return TaskManager(
        include_path=[*here, paths.data() / "tasks"], include_defaults=len(here) < len(folders)
    )


def _prompts(samples: Sequence[dict]) -> Iterator[str]:
    """Each prompt once, with what has to be scored behind it."""
    for sample in samples:
        options = [(prompt, option) for prompt, option, *_ in sample["arguments"]]
        single = len({prompt for prompt, _ in options}) == 1 and all(
            len(o) <= 2 for _, o in options
        )
        yield from (prompt + option for prompt, option in (options[:1] if single else options))


def _items(task: str, its: TaskSet, samples: Sequence[dict]) -> pd.DataFrame:
    rows = []
    for sample in samples:
        item = str(sample["doc_id"])
        # A hash, for the text of a benchmark is no part of results.
        concept = short_hash(str(sample["doc"][its.group])) if its.group else item
        scored = {metric: float(sample[metric]) for metric in METRICS if metric in sample}
        rows.append({"task": task, "item": item, "concept": concept, **scored})
    return pd.DataFrame(rows)


def short_hash(text: str) -> str:
    """Twelve digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _chance(samples: Sequence[dict]) -> float:
    return float(np.mean([1 / len(sample["resps"]) for sample in samples]))


@contextlib.contextmanager
def _enough_memory(settings: Mapping[str, object]) -> Iterator[None]:
    """Full memory as a message."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise LangmergeError(
            f"{settings['device']} has too little memory for this model in {settings['dtype']} "
            f"with {settings['batch_size']} prompts at once: lower --batch-size, take --dtype "
            "bfloat16, or --device cpu. What was evaluated is kept."
        ) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars of the libraries."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield
