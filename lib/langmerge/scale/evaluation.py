"""A checkpoint's folder through lm-eval: accuracy by task, and what was answered to each item."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("LMEVAL_LOG_LEVEL", "ERROR")

import numpy as np
import torch

from langmerge.errors import LangmergeError, nearest

#: Where an item says which text it is about: questions about one text are not independent.
_TEXTS = ("flores_passage", "passage", "text")


@dataclass(frozen=True)
class Asked:
    """What a model is asked.

    tasks: lm-eval's names. data: by task, files (JSONL or parquet) in the schema of its data set
    that are read instead. folder: task files of one's own. items: at most so many a task.
    """

    tasks: tuple[str, ...]
    data: Mapping[str, str]
    folder: Path | None = None
    items: int | None = None
    batch_size: int = 8
    fewshot: int = 0


@dataclass(frozen=True)
class Score:
    """One task's accuracy. stderr: over texts where items share them. items: one dict an item."""

    task: str
    metric: str
    value: float
    stderr: float
    n: int
    chance: float
    items: list[dict[str, object]]


def evaluate(
    model: Path, asked: Asked, tasks: Mapping[str, object] | None = None, dtype: str = "auto"
) -> list[Score]:
    """Ask a model all tasks.

    tasks: what `load_tasks` gave, for many models. dtype: what it computes in; ``auto``: bfloat16
    on a GPU, else fp32. Raises LangmergeError for unknown tasks, data without a column that the
    task reads, and a GPU whose memory does not suffice.
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    tasks = load_tasks(asked) if tasks is None else tasks
    gpu = torch.cuda.is_available()
    dtype = ("bfloat16" if gpu else "float32") if dtype == "auto" else dtype
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            harness = HFLM(
                pretrained=str(model),
                dtype=dtype,
                device="cuda" if gpu else "cpu",
                batch_size=asked.batch_size,
            )
            found = lm_eval.evaluate(
                lm=harness,
                task_dict={task: tasks[task] for task in asked.tasks},
                limit=asked.items,
                bootstrap_iters=0,
                log_samples=True,
            )
    except torch.OutOfMemoryError:
        raise LangmergeError(
            f"The GPU ran out of memory in evaluation: lower batch_size (now {asked.batch_size})."
        ) from None
    return [_score(task, found["samples"][task]) for task in asked.tasks]


def load_tasks(asked: Asked) -> dict[str, object]:
    """lm-eval's tasks, on the files of `asked.data` where it names some."""
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

    manager = _manager(asked)
    for task in asked.tasks:
        if task not in manager.all_subtasks:
            raise LangmergeError(
                f"lm-eval has no task {task!r}: {nearest(task, manager.all_subtasks)}"
            )
    # In a group a known task takes other settings.
    listed = [_spec(task, asked) for task in asked.tasks]
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # without bars
            loaded = manager.load([{"group": "langmerge_asked", "task": listed}])["tasks"]
        for task in loaded.values():
            for document in list(task.eval_docs)[:1]:
                task.doc_to_text(document), task.doc_to_choice(document)
                task.doc_to_target(document)
    except (DatasetNotFoundError, DatasetGenerationError, OSError, KeyError, ValueError) as error:
        raise _unreadable(asked, error) from None
    except Exception as error:  # jinja2 names a column that is not there
        if type(error).__name__ != "UndefinedError":
            raise
        raise _unreadable(asked, error) from None
    return loaded


def _manager(asked: Asked) -> object:
    """An index of the tasks' folders alone: that of all lm-eval's tasks takes seconds."""
    from lm_eval import tasks
    from lm_eval.tasks import TaskManager

    own = Path(tasks.__file__).parent
    known = [task for task in asked.tasks if not task.startswith("langmerge_")]  # tasks of our own
    folders = {own / task.partition("_")[0] for task in known}
    include = [*sorted(folders), *([asked.folder] if asked.folder else [])]
    if all(folder.is_dir() for folder in folders):
        return TaskManager(include_path=include, include_defaults=False)
    return TaskManager(include_path=asked.folder, include_defaults=True)


def _spec(task: str, asked: Asked) -> dict[str, object]:
    shots = {"num_fewshot": asked.fewshot}
    if task not in asked.data:
        return {"task": task, **shots}
    path = Path(asked.data[task]).expanduser()
    if not path.is_file():
        raise LangmergeError(f"data of {task}: there is no file {path}.")
    kind = "parquet" if path.suffix == ".parquet" else "json"
    files = {"data_files": {"test": str(path)}}
    return {
        "task": task,
        "dataset_path": kind,
        "dataset_name": None,
        "dataset_kwargs": files,
        "test_split": "test",
        "fewshot_split": "test",
        **shots,
    }


def _unreadable(asked: Asked, error: Exception) -> LangmergeError:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return LangmergeError(
        f"the data of {', '.join(asked.tasks)} cannot be read ({first or type(error).__name__}). "
        "Check the network, or the columns of the file given under `data:`, which has to be in "
        "the schema of the task's data set."
    )


def _score(task: str, samples: Sequence[Mapping[str, object]]) -> Score:
    items = []
    for sample in samples:
        scores = [float(np.ravel(np.array(r, dtype=object))[0]) for r in sample["resps"]]
        answer = int(sample["target"])
        items.append(
            {
                "item": int(sample["doc_id"]),
                "answer": answer,
                "prediction": int(np.argmax(scores)),
                "correct": bool(np.argmax(scores) == answer),
                "scores": [round(score, 4) for score in scores],
            }
        )
    texts = [
        _text(sample["doc"], item["item"]) for sample, item in zip(samples, items, strict=True)
    ]
    correct = np.array([item["correct"] for item in items], dtype=float)
    chance = float(np.mean([1 / len(item["scores"]) for item in items]))
    stderr = clustered_stderr(correct, texts)
    return Score(task, "acc", float(correct.mean()), stderr, len(items), chance, items)


def _text(document: Mapping[str, object], item: int) -> object:
    return next((document[name] for name in _TEXTS if name in document), item)


def clustered_stderr(values: np.ndarray, clusters: Sequence[object]) -> float:
    """The standard error of a mean whose items are drawn in clusters (Miller 2024, eq. 4)."""
    residuals: dict[object, float] = {}
    mean = values.mean()
    for value, cluster in zip(values, clusters, strict=True):
        residuals[cluster] = residuals.get(cluster, 0.0) + float(value - mean)
    return float(np.sqrt(sum(r * r for r in residuals.values())) / len(values))
