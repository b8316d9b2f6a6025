"""Independent jobs on as many processes as cores, one thread each.

joblib is the engine here; where a scheduler is named, `langmerge.cluster` takes the same jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import joblib
import torch
from rich.console import Console

from langmerge import allocator, cluster
from langmerge.progress import bar

Job = tuple  # a function and its arguments


def run(name: str, jobs: list[Job], processes: int | None = None, quiet: bool = False) -> None:
    """Run all jobs and show how far they are; jobs save what they compute themselves.

    processes: default as many as this process may use cores; with 1 the jobs run in this process.
    Where a scheduler is named and no number of processes, its workers run them.
    """
    if not jobs:
        return
    if processes is None and cluster.address() is not None:
        results = cluster.run([(_one_thread, *job) for job in jobs])
    else:
        results = _results(jobs, min(processes or joblib.cpu_count(), len(jobs)))
    with bar(name, len(jobs), Console(stderr=True, quiet=quiet)) as report:
        for done, _ in enumerate(results, start=1):
            report(done, len(jobs))


def _results(jobs: list[Job], processes: int) -> Iterable[None]:
    if processes == 1:
        yield from (_one_thread(*job) for job in jobs)
        return
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        parallel = joblib.Parallel(n_jobs=processes, return_as="generator_unordered")
        yield from parallel(joblib.delayed(_in_worker)(*job) for job in jobs)


def _in_worker(function: Callable[..., object], *arguments: object) -> None:
    """Run a job in a process that is there for jobs alone."""
    allocator.keep_freed()
    _one_thread(function, *arguments)


def _one_thread(function: Callable[..., object], *arguments: object) -> None:
    """Run a job on one thread: at this size more threads only get in each other's way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        function(*arguments)
    finally:
        torch.set_num_threads(threads)
