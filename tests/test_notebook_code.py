"""What a notebook shows as its subject is what the library computes."""

import ast
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from langmerge import merging, paths
from langmerge.merging import election


def shown(notebook: str, name: str):
    """A function as the notebook's source defines it, beside the others that it defines."""
    source = (paths.notebooks() / f"{notebook}.py").read_text(encoding="utf-8")
    definitions = {
        node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)
    }
    namespace = {"torch": torch, "math": math}
    exec(compile(ast.Module([*definitions.values()], []), notebook, "exec"), namespace)
    return namespace[name]


ELECT = shown("03_slack_variable", "elect")
MINE = shown("03_slack_variable", "my_election")
# Multiples of 1/8, so that ties occur and sums are exact.
votes = arrays.arrays("float32", 24, elements=st.integers(-16, 16).map(lambda n: n / 8))


@given(votes, votes, st.sampled_from([0.0, 0.5, 1.0, 3.0, math.inf]))
def test_the_election_of_notebook_3_is_the_librarys(tau_ct, tau_sft, slack):
    tau_ct, tau_sft = torch.from_numpy(tau_ct), torch.from_numpy(tau_sft)
    assert torch.equal(ELECT(tau_ct, tau_sft, slack), election.by_slack(tau_ct, tau_sft, slack))


def test_the_readers_election_of_notebook_3_changes_a_merge():
    rng = torch.Generator().manual_seed(0)
    base, ct, sft = ({"weight": torch.randn(40, 8, generator=rng)} for _ in range(3))
    plain = merging.merge("ties", base, ct, sft)
    mine = merging.merge("ties", base, ct, sft, election=MINE)
    assert not torch.equal(plain["weight"], mine["weight"])
    assert torch.isfinite(mine["weight"]).all()


@pytest.mark.parametrize("slack", [0.0, 2.0, math.inf])
def test_merging_by_the_shown_election_is_merging_with_slack(slack):
    rng = torch.Generator().manual_seed(1)
    base, ct, sft = ({"weight": torch.randn(40, 8, generator=rng)} for _ in range(3))
    shown_merge = merging.merge(
        "ties", base, ct, sft, election=lambda tau_ct, tau_sft: ELECT(tau_ct, tau_sft, slack)
    )
    library = merging.merge("ties_sv", base, ct, sft, slack=slack)
    torch.testing.assert_close(shown_merge, library, rtol=0, atol=0)


WIDEN = shown("04_beyond_slack", "widen")


@pytest.mark.parametrize(("t", "s"), [(1.0, 1.0), (0.5, 0.7), (1e9, 1.0)])
def test_the_widen_of_notebook_4_is_the_librarys(t, s):
    rng = torch.Generator().manual_seed(2)
    base, ct, sft = (torch.randn(12, 40, generator=rng) for _ in range(3))
    trio = ({"layers.0.weight": it} for it in (base, base + 0.3 * ct, base + 0.2 * sft))
    library = merging.merge("widen", *trio, t=t, s=s)["layers.0.weight"]
    ours = WIDEN(base, base + 0.3 * ct, base + 0.2 * sft, t, s)
    torch.testing.assert_close(ours, library, atol=1e-6, rtol=1e-5)
