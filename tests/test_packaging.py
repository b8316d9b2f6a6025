"""The dependency files agree, and the wheel carries what a run without a clone needs."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins(name: str) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def version_of(pin: Requirement) -> str:
    (specifier,) = pin.specifier
    assert specifier.operator == "==", f"{pin} is not pinned"
    return specifier.version


def declared() -> dict[str, Requirement]:
    groups = [
        PYPROJECT["project"]["dependencies"],
        *PYPROJECT["project"]["optional-dependencies"].values(),
    ]
    found = [Requirement(line) for group in groups for line in group]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


@pytest.mark.parametrize("name", ["requirements.txt", "constraints.txt"])
def test_every_package_is_pinned_once(name):
    names = [canonicalize_name(pin.name) for pin in pins(name)]
    assert len(names) == len(set(names))
    for pin in pins(name):
        assert "+" not in version_of(pin), f"{pin}: a local version binds to one wheel"


def test_constraints_hold_every_requirement_at_the_same_version():
    constraints = {canonicalize_name(pin.name): version_of(pin) for pin in pins("constraints.txt")}
    for pin in pins("requirements.txt"):
        assert constraints.get(canonicalize_name(pin.name)) == version_of(pin), pin


def test_requirements_are_pyprojects_dependencies_inside_their_ranges():
    required = {canonicalize_name(pin.name): version_of(pin) for pin in pins("requirements.txt")}
    assert required.keys() == declared().keys()
    for name, requirement in declared().items():
        assert requirement.specifier.contains(required[name]), requirement


def test_pyproject_pins_nothing():
    for name, requirement in declared().items():
        assert all(item.operator != "==" for item in requirement.specifier), name


def test_environment_refers_to_requirements_and_constraints():
    parts = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = [part["pip"] for part in parts if isinstance(part, dict)]
    assert pip == ["-r requirements.txt", "-c constraints.txt"]
    (python,) = [part for part in parts if str(part).startswith("python=")]
    assert python.removeprefix("python=") in PYPROJECT["project"]["requires-python"]


@pytest.mark.parametrize(
    "name", ["requirements.txt", "constraints.txt", "environment.yml", "pyproject.toml"]
)
def test_no_file_names_an_index(name):
    text = (ROOT / name).read_text()
    assert not re.search(r"--(extra-)?index-url|--find-links|https?://|file://", text)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of the tracked sources (a copy, so that the tree stays as it is)."""
    source = tmp_path_factory.mktemp("source") / "copy"
    leave = shutil.ignore_patterns(".git", ".venv", "build", "_build", "dist", "_executed")
    shutil.copytree(ROOT, source, ignore=leave)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "out"]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (path,) = (source / "out").glob("*.whl")
    return path


def test_wheel_carries_data_and_notebooks(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    for folder, place in (("data", "_data"), ("notebooks", "_notebooks")):
        tracked = subprocess.run(
            ["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True
        ).stdout.split()
        assert {f"langmerge/{place}/{Path(f).relative_to(folder)}" for f in tracked} <= inside
    assert "langmerge/_data/concepts.yaml" in inside
    assert not any("__pycache__" in name or name.startswith("tests") for name in inside)


def test_wheel_runs_from_an_empty_folder(wheel, tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    zipfile.ZipFile(wheel).extractall(site)
    empty.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site), "LANGMERGE_HOME": str(tmp_path / "home")}
    code = (
        "from langmerge import languages, paths\n"
        "assert paths.checkout() is None, paths.checkout()\n"
        "assert languages.load('tam_Taml').name == 'Tamil'\n"
        "print(paths.data(), paths.home())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=empty, env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == [str(site / "langmerge" / "_data"), str(tmp_path / "home")], done
    done = subprocess.run(
        [sys.executable, "-m", "langmerge", "book"],
        cwd=empty, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "clone" in done.stderr
    assert "Traceback" not in done.stderr


def test_study_and_plain_papermill_run_from_the_wheel_and_an_empty_folder(wheel, tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    zipfile.ZipFile(wheel).extractall(site)
    empty.mkdir()
    # A small study of one seed; the kernel takes the library's path from the environment too.
    profiles = tmp_path / "home" / "profiles"
    profiles.mkdir(parents=True)
    small = "extends: smoke\nseeds: [0, 1]\nitems: 12\nenglish_items: 20\nslacks: [1]\n"
    (profiles / "small.yaml").write_text(small)
    environment = {
        **os.environ,
        "PYTHONPATH": str(site),
        "LANGMERGE_HOME": str(tmp_path / "home"),
        "OMP_NUM_THREADS": "1",
    }

    def run(*command):
        command = [sys.executable, "-m", *command]
        done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    table = run("langmerge", "run", "--profile", "small", "--language", "tam_Taml")
    assert "ties_mean" in table
    notebook = site / "langmerge" / "_notebooks" / "01_merging_vs_ct_then_sft.ipynb"
    run("papermill", str(notebook), "out.ipynb", "-k", "python3", "-p", "profile", "small")
    cells = json.loads((empty / "out.ipynb").read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert [output for output in outputs if "image/png" in output.get("data", {})]
