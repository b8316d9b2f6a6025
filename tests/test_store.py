"""The store: work is done once, and nobody ever meets half of it."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langmerge import files, jobs, store
from langmerge.errors import LangmergeError
from langmerge.store import ENTRY, Store, key_of

SPEC = {"language": "tam_Taml", "seed": 0}
VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
SPECS = st.dictionaries(st.text(max_size=5), VALUES, min_size=2, max_size=6)


def write(text="weights"):
    """A piece of work that writes one file and counts how often it is done."""

    def compute(folder: Path) -> None:
        compute.times += 1
        (folder / "model").write_text(text)

    compute.times = 0
    return compute


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


def leftovers(root: Path) -> list[str]:
    """All files of a store, whatever they are."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def start(code: str, *arguments: object) -> subprocess.Popen:
    """A Python process of its own that talks over its pipes."""
    lib = Path(store.__file__).parent.parent
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(lib)},
    )


def test_work_is_done_once(root):
    compute = write()
    first = Store(root).get("ct", SPEC, compute)
    assert (first / "model").read_text() == "weights"
    assert Store(root).get("ct", SPEC, compute) == first
    assert compute.times == 1
    assert Store(root).has("ct", SPEC) and Store(root).find("ct", SPEC) == first


def test_other_work_is_other_entries(root):
    its = Store(root)
    folders = {
        its.get(stage, spec, write())
        for stage in store.VERSIONS
        for spec in (SPEC, SPEC | {"seed": 1})
    }
    assert len(folders) == 2 * len(store.VERSIONS)


def test_what_is_missing_is_none(root):
    assert Store(root).find("ct", SPEC) is None
    assert not Store(root).has("ct", SPEC)
    assert not root.exists(), "asking makes nothing"


def test_an_entry_says_what_it_is(root):
    folder = Store(root).get("ct", SPEC, write())
    entry = json.loads((folder / ENTRY).read_text())
    assert entry["spec"] == SPEC and entry["stage"] == "ct"
    assert entry["version"] == store.VERSIONS["ct"]
    assert entry["sha256"] == {"model": hashlib.sha256(b"weights").hexdigest()}
    (listed,) = Store(root).entries()
    assert (listed.stage, listed.key, listed.spec) == ("ct", folder.name, SPEC)
    assert listed.size == sum(path.stat().st_size for path in folder.iterdir())


def test_an_empty_store_lists_nothing(root):
    assert list(Store(root).entries()) == []


@given(SPECS, st.randoms())
def test_a_key_does_not_depend_on_the_order(spec, random):
    names = list(spec)
    random.shuffle(names)
    shuffled = {name: spec[name] for name in names}
    assert key_of("ct", shuffled) == key_of("ct", spec)
    nested = {"a": {"b": spec}}
    assert key_of("ct", nested) == key_of("ct", {"a": {"b": shuffled}})


@given(SPECS, SPECS)
def test_a_key_tells_specifications_apart(one, other):
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (key_of("ct", one) == key_of("ct", other)) == same


@given(SPECS, st.text(max_size=5), VALUES)
def test_a_key_changes_with_every_value(spec, name, value):
    changed = spec | {name: value}
    same = json.dumps(changed, sort_keys=True) == json.dumps(spec, sort_keys=True)
    assert (key_of("ct", changed) == key_of("ct", spec)) == same


def test_a_key_changes_with_stage_and_version(monkeypatch):
    before = {stage: key_of(stage, SPEC) for stage in store.VERSIONS}
    assert len(set(before.values())) == len(before)
    monkeypatch.setitem(store.VERSIONS, "ct", store.VERSIONS["ct"] + 1)
    assert key_of("ct", SPEC) != before["ct"]
    assert key_of("sft", SPEC) == before["sft"]


def test_a_raised_version_computes_again(root, monkeypatch):
    compute = write()
    old = Store(root).get("ct", SPEC, compute)
    monkeypatch.setitem(store.VERSIONS, "ct", store.VERSIONS["ct"] + 1)
    assert Store(root).get("ct", SPEC, compute) != old
    assert compute.times == 2


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / "model").write_text("weightz"), "model has SHA-256"),
        (lambda folder: truncate(folder / "model"), "model has SHA-256"),
        (lambda folder: (folder / "model").unlink(), "model is missing"),
        (lambda folder: truncate(folder / ENTRY), f"{ENTRY} cannot be read"),
        (lambda folder: (folder / ENTRY).write_bytes(b"\xff\xfe\x00"), f"{ENTRY} cannot be read"),
        (lambda folder: (folder / ENTRY).write_text("[1]"), f"{ENTRY} cannot be read"),
        (lambda folder: (folder / ENTRY).write_text('{"sha256": 3}'), f"{ENTRY} cannot be read"),
        (lambda folder: (folder / ENTRY).write_text("{}"), f"{ENTRY} cannot be read"),
    ],
)
def test_a_damaged_entry_is_named_thrown_away_and_made_again(root, capsys, damage, named):
    compute = write()
    folder = Store(root).get("ct", SPEC, compute)
    damage(folder)
    assert Store(root).get("ct", SPEC, compute) == folder
    assert (folder / "model").read_text() == "weights" and compute.times == 2
    said = capsys.readouterr().err
    assert f"ct/{folder.name} is damaged: {named}" in said and len(said.splitlines()) == 1
    assert Store(root).get("ct", SPEC, compute) == folder
    assert compute.times == 2 and capsys.readouterr().err == ""


def test_the_damaged_files_hashes_are_named(root, capsys):
    folder = Store(root).get("ct", SPEC, write())
    (folder / "model").write_text("weightz")
    assert Store(root).find("ct", SPEC) is None
    said = capsys.readouterr().err
    assert hashlib.sha256(b"weightz").hexdigest()[:16] in said
    assert hashlib.sha256(b"weights").hexdigest()[:16] in said
    assert leftovers(root) == []


def test_a_damaged_entry_that_cannot_be_removed_is_never_used(root, monkeypatch):
    folder = Store(root).get("ct", SPEC, write())
    (folder / "model").write_text("weightz")

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(store.os, "replace", refuse)
    with pytest.raises(PermissionError):
        Store(root).get("ct", SPEC, write())


def test_an_entry_that_lost_its_description_is_made_again(root):
    folder = Store(root).get("ct", SPEC, write())
    (folder / ENTRY).unlink()
    (folder / "model").write_text("weightz")
    assert Store(root).get("ct", SPEC, write()) == folder
    assert (folder / "model").read_text() == "weights"
    assert Store(root).find("ct", SPEC) == folder


def test_a_damaged_entry_does_not_hide_the_others_from_the_list(root, capsys):
    its = Store(root)
    bad, good = (its.get("ct", SPEC | {"seed": seed}, write()) for seed in (0, 1))
    (bad / ENTRY).write_text("{")
    assert [entry.key for entry in its.entries()] == [good.name]
    assert bad.name in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), LangmergeError("no")])
def test_work_that_fails_leaves_nothing(root, error):
    def compute(folder: Path) -> None:
        (folder / "model").write_text("half")
        raise error

    with pytest.raises(type(error)):
        Store(root).get("ct", SPEC, compute)
    assert leftovers(root) == [] and not Store(root).has("ct", SPEC)
    assert (Store(root).get("ct", SPEC, write()) / "model").read_text() == "weights"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_while_computing_leaves_nothing(root):
    def compute(folder: Path) -> None:
        (folder / "config").write_text("fits")
        with open("/dev/full", "w") as full:
            full.write("does not fit")

    with pytest.raises(OSError) as caught:
        Store(root).get("ct", SPEC, compute)
    assert caught.value.errno == errno.ENOSPC
    assert leftovers(root) == []


def test_a_full_disk_while_finishing_leaves_nothing(root, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(OSError) as caught:
        Store(root).get("ct", SPEC, write())
    assert caught.value.errno == errno.ENOSPC
    assert leftovers(root) == [] and not Store(root).has("ct", SPEC)


def test_a_store_where_nothing_can_be_written_says_so(tmp_path):
    (tmp_path / "file").touch()
    compute = write()
    with pytest.raises(OSError):
        Store(tmp_path / "file" / "store").get("ct", SPEC, compute)
    assert compute.times == 0, "nothing is computed that cannot be kept"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_is_an_oserror(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        Store(tmp_path / "store").get("ct", SPEC, write())
    tmp_path.chmod(0o700)


KILLED = """
    import sys
    from pathlib import Path
    from langmerge.store import Store

    def compute(folder):
        (folder / "model").write_text("half")
        print("half", flush=True)
        sys.stdin.readline()

    Store(Path(sys.argv[1])).get("ct", {"language": "tam_Taml", "seed": 0}, compute)
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_killed_process_leaves_no_entry_and_the_next_completes(root):
    finished = Store(root).get("sft", SPEC, write("finished"))
    with start(KILLED, root) as process:
        assert process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert any("unfinished" in name for name in leftovers(root)), "it was in the middle"
    assert not Store(root).has("ct", SPEC)
    assert [entry.stage for entry in Store(root).entries()] == ["sft"]
    assert (Store(root).get("ct", SPEC, write()) / "model").read_text() == "weights"
    assert (finished / "model").read_text() == "finished"


def test_an_entry_that_was_killed_before_its_name_is_no_entry(root):
    """All its files may be there: only the rename makes an entry of them."""
    folder = Store(root).get("ct", SPEC, write())
    (root / "unfinished" / f"{folder.name}-0").parent.mkdir(exist_ok=True)
    folder.rename(root / "unfinished" / f"{folder.name}-0")
    assert list(Store(root).entries()) == [] and not Store(root).has("ct", SPEC)


def test_what_killed_runs_left_is_swept_away_in_the_end(root):
    old, new = root / "unfinished" / "old", root / "unfinished" / "new"
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "model").touch()
    os.utime(old, (0, 0))
    Store(root).get("ct", SPEC, write())
    assert not old.exists() and new.exists()


RACING = """
    import sys
    from pathlib import Path
    from langmerge.store import Store

    def compute(folder):
        (folder / "model").write_text(sys.argv[2])
        print("ready", flush=True)
        sys.stdin.readline()

    found = Store(Path(sys.argv[1])).get("ct", {"language": "tam_Taml", "seed": 0}, compute)
    print((found / "model").read_text(), flush=True)
"""


def test_two_processes_racing_give_one_whole_entry(root):
    """Both are made to compute before either may finish."""
    racers = [start(RACING, root, name) for name in ("first", "second")]
    assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 2
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    answers = [racer.communicate()[0].strip() for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    found = Store(root).find("ct", SPEC)
    assert answers == [(found / "model").read_text()] * 2
    assert len(leftovers(root)) == 2, "one file and its description"


@pytest.mark.parametrize("first", ["whole", "half"])
def test_an_entry_that_appears_at_the_last_moment(root, monkeypatch, first):
    """Between the look and the rename: a whole entry stands, half of one is an error."""
    replace = os.replace

    def late(source, target):
        if Path(target).parent.name == "ct":
            Path(target).mkdir()
            (Path(target) / "model").write_text("other")
            if first == "whole":
                digest = {"model": hashlib.sha256(b"other").hexdigest()}
                (Path(target) / ENTRY).write_text(json.dumps({"sha256": digest}))
        replace(source, target)

    monkeypatch.setattr(store.os, "replace", late)
    if first == "whole":
        assert (Store(root).get("ct", SPEC, write()) / "model").read_text() == "other"
    else:
        with pytest.raises(OSError):
            Store(root).get("ct", SPEC, write())


def test_threads_of_one_process_may_share_a_store(root):
    its, found = Store(root), []
    together = threading.Barrier(4)

    def compute(folder: Path) -> None:
        (folder / "model").write_text("weights")
        together.wait(timeout=60)

    threads = [
        threading.Thread(target=lambda: found.append(its.get("ct", SPEC, compute)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1
    assert len(leftovers(root)) == 2


def test_a_written_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "profile.yaml"
    files.write_text(path, "old: 1\n")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError):
        files.write_text(path, "new: 2\n")
    assert path.read_text() == "old: 1\n"
    assert list(tmp_path.iterdir()) == [path]


def test_jobs_are_all_done_and_one_that_fails_is_heard(tmp_path):
    jobs.run("write", [(files.write_text, tmp_path / name, name) for name in "abc"], 1, quiet=True)
    assert {path.name for path in tmp_path.iterdir()} == set("abc")
    jobs.run("nothing", [], 1, quiet=True)

    def fail() -> None:
        raise LangmergeError("a message for the user")

    with pytest.raises(LangmergeError, match="a message for the user"):
        jobs.run("fail", [(fail,)], 1, quiet=True)
