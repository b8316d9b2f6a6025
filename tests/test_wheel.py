"""Installed, not only cloned: the wheel runs the study and the notebooks from an empty folder."""

import json
import os
import subprocess
import sys

import pytest

from langmerge import paths


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The environment of a process that has the wheel and no checkout, and its empty folder."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run(build, cwd=paths.checkout(), check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    site = folder / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, "--target", str(site), str(wheel)], check=True)
    empty = folder / "empty"
    empty.mkdir()
    # papermill's kernel takes the path from here, as the process itself does.
    environment = {
        **os.environ,
        "PYTHONPATH": str(site),
        "LANGMERGE_HOME": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
    }
    return site, empty, environment


def run(installed, *command):
    """Run a Python module with the wheel alone and return what it prints."""
    _, empty, environment = installed
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=empty,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_carries_its_data(installed):
    site, _, _ = installed
    shipped = site / "langmerge"
    for name in ("_data/concepts.yaml", "_data/claims.yaml", "_data/base/model.safetensors"):
        assert (shipped / name).is_file(), name
    assert len(list((shipped / "_notebooks").glob("*.ipynb"))) == 3


def test_the_smoke_study_and_plain_papermill_run_from_an_empty_folder(installed):
    site, empty, _ = installed
    where = "import langmerge; print(langmerge.__file__)"
    _, _, environment = installed
    found = subprocess.run(
        [sys.executable, "-c", where], cwd=empty, env=environment, capture_output=True, text=True
    )
    assert found.stdout.startswith(str(site)), "the test must not run the checkout's langmerge"
    table = run(installed, "langmerge", "run", "--profile", "smoke", "--language", "tam_Taml")
    assert "ties_mean" in table or "TIES" in table
    notebook = site / "langmerge" / "_notebooks" / "01_merging_vs_ct_then_sft.ipynb"
    run(
        installed,
        "papermill",
        str(notebook),
        "out.ipynb",
        *("-k", "python3", "-p", "profile", "smoke", "-p", "language", "tam_Taml"),
    )
    executed = json.loads((empty / "out.ipynb").read_text())
    outputs = [output for cell in executed["cells"] for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert [output for output in outputs if "image/png" in output.get("data", {})]
