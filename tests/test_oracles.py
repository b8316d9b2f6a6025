"""Where mergekit and PEFT are installed: what is frozen of them is what they say.

They are no dependencies of ours; elsewhere these tests are skipped, and the frozen numbers stand
for them.
"""

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch

ORACLES = Path(__file__).parent / "oracles"
FILES = ("methods_oracles.json", "recipe_oracles.json")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder with the files made anew."""
    frozen = json.loads((ORACLES / FILES[0]).read_text())["versions"]
    for name in ("mergekit", "peft"):
        try:
            found = version(name)
        except PackageNotFoundError:
            pytest.skip(f"{name} is not installed")
        if found != frozen[name]:
            pytest.skip(f"{name} is {found}, and what is frozen is of {frozen[name]}")
    out = tmp_path_factory.mktemp("oracles")
    # A process of its own: the script replaces torch's random draws.
    subprocess.run([sys.executable, ORACLES / "make_methods_oracles.py", out], check=True)
    return out


@pytest.mark.parametrize("name", FILES)
def test_what_is_frozen_is_what_the_oracles_say(made, name):
    frozen, found = (json.loads((at / name).read_text()) for at in (ORACLES, made))
    assert len(frozen["cases"]) == len(found["cases"])
    for one, other in zip(frozen["cases"], found["cases"], strict=True):
        for key in ("expected", "tensors", "weights"):
            assert one.get(key, {}).keys() == other.get(key, {}).keys()
            for tensor, values in one.get(key, {}).items():
                # Another version of torch may round otherwise.
                found_values = torch.tensor(other[key][tensor])
                torch.testing.assert_close(found_values, torch.tensor(values), rtol=0, atol=1e-5)
