"""The preflight: each finding, its mend, and the exit code, with machines that are not this one."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from langmerge import cli, doctor, paths
from langmerge.doctor import Check

GIB = 2**30
LOADED = {
    "torch": "2.13.0+cpu", "cuda": None, "gpu": False, "base": "abc", "languages": 3,
    "fonts": {"Tamil": True},
}  # fmt: skip


@pytest.mark.parametrize("version", [(3, 10, 12), (2, 7), (3, 11, 0), (3, 12), (4, 0)])
def test_python_is_compared_as_numbers(version):
    assert doctor.python(version).status == ("ok" if version >= (3, 11) else "fail")


def statuses(found) -> dict[str, str]:
    return {check.name: check.status for check in found}


def test_packages_are_held_against_ranges_and_pins():
    pins = doctor._pins()
    assert pins["torch"]
    assert statuses(doctor.packages(pins.get)) == {"packages": "ok"}
    (lacking, optional) = doctor.packages({**pins, "torch": None, "spylls": None}.get)
    assert (lacking.status, optional.status) == ("fail", "look")
    assert "torch" in lacking.found and "spylls" in optional.found and lacking.mend
    old = list(doctor.packages({**pins, "torch": "1.0"}.get))
    assert old[0].status == "fail" and "torch 1.0 (needs" in old[0].found
    other = list(doctor.packages({**pins, "numpy": "1.26.0"}.get))
    assert statuses(other) == {"packages": "ok", "pinned versions": "look"}
    assert statuses(doctor.packages({**pins, "torch": pins["torch"] + "+cu130"}.get)) == {
        "packages": "ok"
    }


def test_without_pip_and_packaging_it_says_so(monkeypatch):
    monkeypatch.setattr(doctor, "_requirement_class", lambda: None)
    assert statuses(doctor.packages()) == {"packages": "fail"}


@pytest.mark.parametrize(
    ("check", "status"),
    [
        (lambda: doctor.cores(1), "look"),
        (lambda: doctor.cores(2), "ok"),
        (lambda: doctor.memory(2 * GIB), "look"),
        (lambda: doctor.memory(8 * GIB), "ok"),
        (lambda: doctor.disk(GIB // 2), "fail"),
        (lambda: doctor.disk(2 * GIB), "look"),
        (lambda: doctor.disk(20 * GIB), "ok"),
    ],
)
def test_sizes(check, status):
    found = check()
    assert found.status == status
    assert bool(found.mend) == (status != "ok")


def test_a_home_that_is_a_file_cannot_be_written(monkeypatch, tmp_path):
    place = tmp_path / "home"
    monkeypatch.setenv("LANGMERGE_HOME", str(place))
    assert doctor.writing().status == "ok"
    assert list(place.iterdir()) == []
    monkeypatch.setenv("LANGMERGE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").touch()
    found = doctor.writing()
    assert found.status == "fail" and "LANGMERGE_HOME" in found.mend


def test_long_paths_are_windows_matter():
    long = Path("C:/" + "x" * 250)
    assert list(doctor.path_length("Linux", long)) == []
    assert statuses(doctor.path_length("Windows", long)) == {"path length": "fail"}
    assert statuses(doctor.path_length("Windows", Path("C:/langmerge"))) == {"path length": "ok"}


@pytest.mark.parametrize(
    ("changes", "name", "status"),
    [
        ({}, "torch", "ok"),
        ({"torch": "2.13.0", "cuda": "13.0"}, "torch", "look"),
        ({"torch": "2.13.0", "cuda": "13.0", "gpu": True}, "torch", "ok"),
        ({"fonts": {"Tamil": False, "Odia": True}}, "fonts", "look"),
        ({}, "network", "ok"),
        ({}, "base", "ok"),
    ],
)
def test_what_the_packages_tell_is_judged(changes, name, status):
    assert statuses(doctor.loading(lambda: LOADED | changes))[name] == status


def test_a_base_or_package_that_does_not_load_is_told_in_its_own_words():
    (found,) = doctor.loading(lambda: "LangmergeError: base is corrupted")
    assert found.status == "fail" and "base is corrupted" in found.found


def test_the_probe_finds_a_damaged_base(monkeypatch, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(paths.data() / "base", base)
    (base / "tokenizer.json").write_text("{}")
    monkeypatch.setenv("LANGMERGE_BASE", str(base))
    told = doctor._probe()
    assert isinstance(told, str) and "tokenizer.json is corrupted" in told


@pytest.mark.parametrize("system", ["Linux", "macOS", "Windows", "Colab"])
def test_each_system_has_its_install_line(system):
    assert doctor.install_line(system)


def test_colab_is_told_from_linux(monkeypatch):
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    monkeypatch.setattr(doctor.platform, "system", lambda: "Linux")
    assert doctor.where() == "Linux"
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release")
    assert doctor.where() == "Colab"


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("look", 0), ("fail", 1)])
def test_only_what_fails_makes_the_exit_code(monkeypatch, status, code):
    checks = [Check("disk", "ok", "much"), Check("thing", status, "found so", "mend it so")]
    monkeypatch.setattr(doctor, "run", lambda: checks)
    shown = CliRunner().invoke(cli.app, ["doctor"])
    assert shown.exit_code == code
    assert ("-> mend it so" in shown.output) == (status != "ok")
    shown = CliRunner().invoke(cli.app, ["doctor", "--json"])
    assert shown.exit_code == code
    told = json.loads(shown.output)
    assert told["ready"] == (code == 0)
    assert told["checks"][1] == {
        "name": "thing", "status": status, "found": "found so", "mend": "mend it so",
    }  # fmt: skip


def test_it_runs_where_no_package_is_installed(tmp_path):
    command = [sys.executable, "-E", "-S", doctor.__file__, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    told = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert told["packages"]["status"] == "fail" and told["packages"]["mend"]
