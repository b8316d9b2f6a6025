"""The figures that the README quotes, measured: `make bench`.

Times are wall-clock times on this machine; the book is built with an empty store of its own
and once more with nothing changed. Memory is the largest sum of resident sizes over all
processes of the build, sampled twice a second (pages that processes share count for each).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table

from langmerge import base as base_module
from langmerge import corpus, model, page_weight, paths, tokenizer, train
from langmerge.evaluate import Evaluator, Suite
from langmerge.provenance import version_of

SAMPLE_SECONDS = 0.5


def run(profile: str = "lab") -> dict[str, str]:
    """Measure everything, print it as a table and return it by name."""
    figures = installation()
    figures["training, one thread"] = f"{training_speed():,.0f} tokens/s"
    figures["evaluation, one thread"] = f"{evaluation_speed():,.0f} items/s"
    with tempfile.TemporaryDirectory() as home:
        for name, command in (
            ("study, empty store", ["run", "--profile", profile]),
            ("make book after it", ["book", "--profile", profile]),
            ("make book, nothing changed", ["book", "--profile", profile]),
        ):
            seconds, peak = measure(command, Path(home))
            figures[name] = f"{seconds:,.0f} s"
            figures[f"{name}: peak memory"] = f"{peak / 2**30:.1f} GiB"
    figures |= site()
    table = Table("", "measured")
    for name, value in figures.items():
        table.add_row(name, value)
    Console().print(table)
    return figures


def installation() -> dict[str, str]:
    """What `make` noted when it installed the environment, and which wheel of torch it is."""
    root = paths.checkout()
    note = root / ".venv" / "installed" if root else None
    if note is None or not note.is_file():
        return {"install": f"not measured (torch {version_of('torch')})"}
    found = dict(part.split("=", 1) for part in note.read_text().split())
    return {"install": f"{found['seconds']} s (torch {found['torch']})"}


def site() -> dict[str, str]:
    """First paint and weight of the pages that were just built, in a browser where there is one."""
    root = paths.checkout()
    return page_weight.measure(root / "_build" / "html") if root else {}


def training_speed(steps: int = 30) -> float:
    """Tokens per second of continual pre-training on one thread, start-up left out."""
    torch.set_num_threads(1)
    base = base_module.load()
    texts = corpus.documents("eng_Latn", np.random.default_rng(0))
    documents = tokenizer.take_tokens(base.tokenizer, texts, steps * 16 * 128 + 256)
    rows = tokenizer.pack(documents, 128)
    times: list[float] = []
    train.fit(
        model.with_state(base.architecture, base.weights).train(),
        train.Rows(rows),
        train.Recipe(steps=steps, batch=16, learning_rate=5e-4),
        progress=lambda step: times.append(time.perf_counter()),
    )
    return (len(times) - 1) * 16 * 128 / (times[-1] - times[0])


def evaluation_speed() -> float:
    """Items per second of one model on one thread, its tasks built already."""
    torch.set_num_threads(1)
    base = base_module.load()
    evaluator = Evaluator(
        base.architecture, base.tokenizer, Suite("eng_Latn", "dev", 0, items=150, text_documents=2)
    )
    evaluator(base.weights)
    start = time.perf_counter()
    answered = evaluator(base.weights)
    return len(answered.items) / (time.perf_counter() - start)


def measure(command: list[str], home: Path) -> tuple[float, int]:
    """Wall seconds and peak bytes of `langmerge <command>` with its store in `home`."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "langmerge", *command],
        env={**os.environ, "LANGMERGE_HOME": str(home)},
    )
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(process.pid, peak), daemon=True)
    watcher.start()
    code = process.wait()
    seconds = time.perf_counter() - start
    watcher.join()
    if code:
        raise subprocess.CalledProcessError(code, command)
    return seconds, peak[0]


def _watch(pid: int, peak: list[int]) -> None:
    """Keep the largest memory of a process and its children until it is gone."""
    while True:
        try:
            root = psutil.Process(pid)
            if root.status() == psutil.STATUS_ZOMBIE:
                return
            peak[0] = max(peak[0], sum(map(_resident, [root, *root.children(recursive=True)])))
        except psutil.NoSuchProcess:
            return
        time.sleep(SAMPLE_SECONDS)


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:  # it ended between the listing and this line
        return 0
