"""The study's jobs on many machines: a scheduler hands them to workers over a shared store.

Dask is the engine, through its own client. joblib's backend for Dask waits for ever for a job
whose workers all died (joblib 1.6.0, distributed 2026.8.0); the client reports it.

Everything that a job computes goes into the store, which all machines share; the scheduler
carries the jobs alone. A job that was on a dead worker is run again elsewhere, and finds what
the dead one had finished. Before its first job a worker is asked whether it has the same code,
data and store as the one who sent it: otherwise it would fill a store of its own.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import socket
import sys
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from langmerge import __version__, paths
from langmerge.errors import LangmergeError
from langmerge.provenance import PACKAGES, version_of

if TYPE_CHECKING:
    from distributed import Client, Future

#: The environment variable that names the scheduler; notebooks and their kernels follow it.
VARIABLE = "LANGMERGE_SCHEDULER"
#: Seconds to reach the scheduler, and to wait where there is no worker.
CONNECT_SECONDS = 20
WORKER_SECONDS = 300
_KEPT = "What is finished is in the store: the same command goes on from there."
Standing = dict[str, str]


def address() -> str | None:
    """The scheduler that jobs go to, ``tcp://host:port``; None where they stay on this machine.

    Raises LangmergeError where the variable names no address.
    """
    given = os.environ.get(VARIABLE, "").strip()
    if not given:
        return None
    match = re.fullmatch(r"(?:tcp|tls)://(?:[\w.-]+|\[[0-9a-fA-F:]+\]):(\d{1,5})", given)
    if not match or not 0 < int(match[1]) < 2**16:
        raise LangmergeError(
            f"the scheduler {given!r} is no address such as tcp://node01:8786: give what "
            "`dask scheduler` prints"
        )
    return given


def use(scheduler: str | None) -> None:
    """Send all jobs of this process to a scheduler (None: the one in the environment, if any).

    Raises LangmergeError where it cannot be reached or has no worker.
    """
    if scheduler is not None:
        os.environ[VARIABLE] = scheduler
    found = address()
    if found is not None:
        _wait_for_workers(_client(found))


def run(jobs: list[tuple]) -> Iterator[None]:
    """Run jobs, each a function and its arguments, on the workers; yield as each is finished.

    Raises LangmergeError where a worker has other code or another store, where a job killed all
    workers that it was given to, and where the scheduler is gone; and what a job itself raises.
    """
    import cloudpickle

    client = _client(address())
    _wait_for_workers(client)
    with _mark(paths.store()) as mark:
        told = standing()
        futures = [
            # Pickled here, because Dask would look into the arguments for results of its own.
            client.submit(_work, told, str(mark), cloudpickle.dumps(job), pure=False)
            for job in jobs
        ]
        try:
            yield from _gather(client, futures)
        finally:
            client.cancel(futures)
    _look_again(paths.store())


def _gather(client: Client, futures: list[Future]) -> Iterator[None]:
    """Yield once for each future that is done."""
    import distributed

    pending = set(futures)
    while pending:
        try:
            done, pending = distributed.wait(
                pending, timeout=WORKER_SECONDS, return_when="FIRST_COMPLETED"
            )
            for future in done:
                future.result()
                yield
        except (TimeoutError, distributed.TimeoutError):
            _wait_for_workers(client)  # long jobs are no trouble, no worker at all is
        except distributed.KilledWorker as error:
            raise LangmergeError(
                f"a job killed every worker that it was given to, the last one "
                f"{error.last_worker.address}: most often they had too little memory. Give each "
                f"worker more. {_KEPT}"
            ) from None
        except CancelledError:
            raise LangmergeError(
                f"the scheduler {address()} is gone, or dropped the jobs: start it again with its "
                f"workers. {_KEPT}"
            ) from None


@cache
def _client(scheduler: str) -> Client:
    """This process's connection to a scheduler."""
    try:
        import distributed
    except ImportError:
        raise LangmergeError(
            f"the scheduler {scheduler} needs the package distributed: "
            "`python -m pip install distributed`, here and where the workers run"
        ) from None
    # What it would say of a lost scheduler, with tracebacks, is said here in a sentence.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL + 1)
    try:
        return distributed.Client(scheduler, timeout=CONNECT_SECONDS)
    except (OSError, TimeoutError, distributed.TimeoutError) as error:
        raise LangmergeError(
            f"no scheduler answers at {scheduler}: start one with `dask scheduler` and give the "
            f"address that it prints, or unset {VARIABLE} to compute here ({_first_line(error)})"
        ) from None


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _wait_for_workers(client: Client) -> None:
    """Wait for the first worker; raises LangmergeError where none comes."""
    import distributed

    try:
        if not client.ncores():
            print("the scheduler has no worker: waiting for one", file=sys.stderr)
            client.wait_for_workers(1, timeout=WORKER_SECONDS)
    except (TimeoutError, distributed.TimeoutError):
        raise LangmergeError(
            f"the scheduler {address()} has had no worker for {WORKER_SECONDS} s: start some with "
            f"`dask worker {address()} --nthreads 1`. {_KEPT}"
        ) from None
    except (OSError, RuntimeError, CancelledError) as error:
        raise LangmergeError(
            f"the scheduler {address()} is gone ({_first_line(error)}): start it again with its "
            f"workers. {_KEPT}"
        ) from None


# --- on a worker -------------------------------------------------------------------------


def _work(told: Standing, mark: str, job: bytes) -> None:
    """Run a job on a worker, once that is known to stand where its sender does."""
    import cloudpickle

    _agree(told, mark)
    function, *arguments = cloudpickle.loads(job)
    function(*arguments)


def _agree(told: Standing, mark: str) -> None:
    """Raise LangmergeError, naming this worker, where it differs from who sent a job."""
    import distributed

    where = f"the worker on {socket.gethostname()}"
    for name, theirs in told.items():
        if (ours := standing()[name]) != theirs:
            raise LangmergeError(
                f"{where} has {name} {ours}, who sent the job has {theirs}: start the workers "
                "anew, in the same environment and clone"
            )
    if not Path(mark).is_file():
        raise LangmergeError(
            f"{where} does not see the store {Path(mark).parent.parent}: LANGMERGE_HOME has to be "
            "on a file system that all machines share, under the same path"
        )
    threads = distributed.get_worker().state.nthreads
    if threads != 1:
        raise LangmergeError(
            f"{where} runs {threads} jobs at once in one process, in which models share their "
            "threads: start it with `--nthreads 1 --nworkers N`"
        )


def standing() -> Standing:
    """What has to be equal for machines to share a store: code, data, packages, home.

    As this process found it first: what it has read of them since is as old.
    """
    return _standing(paths.home())


@cache
def _standing(home: Path) -> Standing:
    return {
        "langmerge": __version__,
        "library sources": _digest(Path(__file__).parent, "**/*.py"),
        "data": _digest(paths.data(), "**/*"),
        "own languages": _digest(home / "languages", "*.yaml"),
        **{name: str(version_of(name)) for name in PACKAGES},
        "LANGMERGE_HOME": str(home),
    }


def _digest(folder: Path, pattern: str) -> str:
    """A hash of a folder's files and their names; results, which a run writes, are left out."""
    sha = hashlib.sha256()
    for path in sorted(folder.glob(pattern)):
        name = path.relative_to(folder)
        if path.is_file() and name.parts[0] not in ("results", "_data") and path.suffix != ".tmp":
            sha.update(f"{name.as_posix()}\n{path.stat().st_size}\n".encode() + path.read_bytes())
    return sha.hexdigest()[:12]


# --- the shared store --------------------------------------------------------------------


@contextmanager
def _mark(store: Path) -> Iterator[Path]:
    """A file of this run in the store, by which workers know that theirs is the same one."""
    mark = store / "unfinished" / f"run-{uuid.uuid4().hex}"
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)


def _look_again(store: Path) -> None:
    """List the stages' folders: NFS remembers for a while that a file was not there."""
    stages: Iterable[Path] = store.iterdir() if store.is_dir() else ()
    for stage in stages:
        if stage.is_dir():
            os.listdir(stage)
