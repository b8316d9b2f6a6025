"""Families of further models, for real on toy models: what they are, and that nothing mixes."""

import pytest
from conftest import write_profile

from langmerge import profiles, study

ALL = ["beyond", "untuned", "mechanism", "baselines", "sensitivity", "bilingual", "rates", "oracle"]
BUDGETS = [512, 1024]
TRIED = {
    "ct_then_sft_slow": {"learning_rate": 5e-4, "steps": 2},
    "ct_then_sft_replay": {"learning_rate": 1e-3, "steps": 3, "replay": 1.0},
    "joint": {"learning_rate": 1e-3, "steps": 3},
}
TUNED = {"widen": {"t": 0.5, "s": 1.0}, "scaled_sft": {"lambda_": 0.8}}


@pytest.fixture(scope="module")
def plan(tiny_lab):
    default = profiles.load("tiny").default | TRIED
    write_profile(tiny_lab.home, "full", families=ALL, default=default, tuned=TUNED)
    return profiles.load("full")


@pytest.fixture(scope="module")
def results(plan):
    return study.run(profile="full", processes=1, quiet=True)


def test_x(results):
    print(results.blocks)
    print(results.rows.groupby(["method", "setting"]).size().to_string())
