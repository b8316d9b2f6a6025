"""TIES against implementations that are not ours: frozen PEFT, mergekit, the authors' code."""

import json
from pathlib import Path

import pytest
import torch

from langmerge.merging import merge

ORACLES = json.loads((Path(__file__).parent / "oracles" / "ties_oracles.json").read_text())

# What each oracle computes, in our parameters. "one": it has a single density.
SAME = {
    "mergekit ties normalize": ("ties", {"variant": "weighted", "combine": "mean"}),
    "mergekit ties": ("ties", {"variant": "weighted", "combine": "sum"}),
    "mergekit task_arithmetic": ("task_arithmetic", {}),
    "peft total": ("ties", {"variant": "peft"}),
    "peft frequency": ("ties", {"variant": "peft_count"}),
    "authors dis-mean": ("ties", {"variant": "reference", "combine": "mean"}),
    "authors dis-sum": ("ties", {"variant": "reference", "combine": "sum"}),
}


def state(values):
    return {name: torch.tensor(value, dtype=torch.float32) for name, value in values.items()}


def settings(oracle, case):
    used = {name: case[name] for name in ("w_ct", "w_sft", "lambda_")}
    if oracle.startswith("authors"):
        del used["w_ct"], used["w_sft"]
    if oracle.startswith("peft"):
        del used["lambda_"]
    if SAME[oracle][0] == "ties":
        used["density_ct"] = case["density"]
        used["density_sft"] = case["density_sft" if "mergekit" in oracle else "density"]
    return used


@pytest.mark.parametrize("number", range(len(ORACLES["cases"])))
@pytest.mark.parametrize("oracle", SAME)
def test_equals_the_oracle_bit_for_bit(oracle, number):
    case = ORACLES["cases"][number]
    method, fixed = SAME[oracle]
    models = (state(case[name]) for name in ("theta_base", "theta_ct", "theta_sft"))
    merged = merge(method, *models, **fixed, **settings(oracle, case))
    for name, expected in state(case["expected"][oracle]).items():
        assert torch.equal(merged[name], expected), (name, merged[name] - expected)


def test_the_cases_tell_the_variants_apart():
    """Were two oracles the same function on these cases, a swapped variant would pass."""
    for one in SAME:
        for other in SAME:
            if one < other:
                assert any(
                    case["expected"][one] != case["expected"][other] for case in ORACLES["cases"]
                )
