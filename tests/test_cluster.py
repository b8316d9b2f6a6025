"""Jobs on a cluster: a real scheduler and two real workers on loopback, one thread each."""

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import conftest
import pandas as pd
import pytest
from typer.testing import CliRunner

from langmerge import cli, cluster, jobs, study
from langmerge.errors import LangmergeError

distributed = pytest.importorskip("distributed")
WORKERS = 2


@dataclasses.dataclass
class Running:
    """A scheduler with its workers, and the home that they share."""

    address: str
    home: Path


@pytest.fixture(scope="module")
def running(tiny_lab, tmp_path_factory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("cluster")
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(Path(__file__).parent)]),
    }
    where = str(folder / "scheduler.json")

    def start(kind: str, *options: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "dask", kind, "--scheduler-file", where, "--no-dashboard"]
        with (folder / f"{kind}.log").open("a") as log:
            return subprocess.Popen(
                [*command, "--host", "127.0.0.1", *options],
                env=environment, cwd=folder, stdout=log, stderr=log,
            )  # fmt: skip

    started = [start("scheduler", "--port", "0")]
    # Without nannies, so that a killed worker stays dead.
    started += [start("worker", "--nthreads", "1", "--no-nanny") for _ in range(WORKERS)]
    try:
        with distributed.Client(scheduler_file=where, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(WORKERS, timeout=60)
            address = client.scheduler.address
        yield Running(address, tiny_lab.home)
        cluster._client(address).close()
        cluster._client.cache_clear()
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()


def test_rows_equal_the_local_run_though_a_worker_is_killed(running, monkeypatch, tmp_path):
    for home in (running.home, tmp_path):
        conftest.write_profile(home, "minimal", budgets=[512], slacks=[1], tasks=["topic"])
    killed = []
    gather = cluster._gather

    def kill_a_busy_one(client, futures):
        """Kill a worker that is at work, once, with more jobs to come than are left workers."""
        pids = client.run(os.getpid)
        for _ in gather(client, futures):
            busy = [worker for worker, keys in client.processing().items() if keys]
            if busy and not killed:
                killed.append(busy[0])
                os.kill(pids[busy[0]], signal.SIGKILL)
            yield

    with monkeypatch.context() as there:
        there.setenv(cluster.VARIABLE, running.address)
        there.setattr(cluster, "_gather", kill_a_busy_one)
        remote = study.run(profile="minimal", quiet=True)
    assert len(killed) == 1
    assert len(cluster._client(running.address).ncores()) == WORKERS - 1
    assert not list((running.home / "store" / "unfinished").glob("run-*"))
    with monkeypatch.context() as here:
        here.setenv("LANGMERGE_HOME", str(tmp_path))
        local = study.run(profile="minimal", processes=1, quiet=True)
    for name in ("rows", "items", "diagnostics", "english"):
        pd.testing.assert_frame_equal(getattr(remote, name), getattr(local, name))


def write_name(path: Path, name: str) -> None:
    path.write_text(f"{name} {os.getpid()}")


def test_jobs_run_on_workers_and_stay_here_where_processes_are_given(
    running, monkeypatch, tmp_path
):
    monkeypatch.setenv(cluster.VARIABLE, running.address)
    work = [(write_name, tmp_path / name, name) for name in "ab"]
    jobs.run("there", work, quiet=True)
    there = dict((tmp_path / name).read_text().split() for name in "ab")
    assert there.keys() == {"a", "b"} and str(os.getpid()) not in there.values()
    jobs.run("here", work, processes=1, quiet=True)
    assert {(tmp_path / name).read_text().split()[1] for name in "ab"} == {str(os.getpid())}


def fail() -> None:
    raise LangmergeError("mend this")


def test_what_a_job_raises_arrives_as_it_is(running, monkeypatch):
    monkeypatch.setenv(cluster.VARIABLE, running.address)
    with pytest.raises(LangmergeError, match=r"^mend this$"):
        jobs.run("fail", [(fail,)], quiet=True)


@pytest.mark.parametrize("name", cluster.standing())
def test_a_worker_with_other_code_data_or_home_is_named(name):
    with pytest.raises(LangmergeError, match=f"has {name} .*, who sent the job has other:"):
        cluster._agree(cluster.standing() | {name: "other"}, "")


def test_a_worker_that_does_not_see_the_store_is_named(tmp_path):
    with pytest.raises(LangmergeError, match=r"does not see the store .*LANGMERGE_HOME"):
        cluster._agree(cluster.standing(), str(tmp_path / "store" / "unfinished" / "run-x"))


def test_standing_follows_sources_and_leaves_results_out(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "a.yaml").write_text("x")
    before = cluster._digest(tmp_path, "**/*")
    (tmp_path / "results" / "rows").write_text("x")
    assert cluster._digest(tmp_path, "**/*") == before
    (tmp_path / "a.yaml").rename(tmp_path / "b.yaml")
    assert cluster._digest(tmp_path, "**/*") != before


@pytest.mark.parametrize(
    "wrong",
    ["node01:8786", "tcp://node01", "http://node01:8786", "tcp://node01:99999", "tcp://a b:1"],
)
def test_what_is_no_address_is_refused_before_anything_is_run(monkeypatch, wrong):
    monkeypatch.setenv(cluster.VARIABLE, "")  # restored after the command sets it
    done = CliRunner().invoke(cli.app, ["run", "--profile", "smoke", "--scheduler", wrong])
    assert "no address such as tcp://" in cli.explain(done.exception)


@pytest.mark.parametrize("command", ["run", "reference", "tune"])
def test_a_scheduler_that_does_not_answer_is_one_clear_error(monkeypatch, command):
    monkeypatch.setenv(cluster.VARIABLE, "")
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.2)
    done = CliRunner().invoke(cli.app, [command, "--scheduler", "tcp://127.0.0.1:9"])
    assert "no scheduler answers at tcp://127.0.0.1:9" in cli.explain(done.exception)


def test_scheduler_and_processes_exclude_each_other():
    asked = ["run", "--scheduler", "tcp://127.0.0.1:9", "--processes", "2"]
    done = CliRunner().invoke(cli.app, asked)
    assert "--processes" in cli.explain(done.exception)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_the_script_of_the_chapter_is_one_for_bash_and_sends_to_its_own_scheduler():
    page = (Path(__file__).parent.parent / "book" / "cluster.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```bash\n(#!.*?)```", page, re.DOTALL)
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr
    assert script.count('"$scheduler"') == 2


def test_a_missing_package_is_named_with_its_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(LangmergeError, match="pip install distributed"):
        cluster._client("tcp://127.0.0.1:10")
