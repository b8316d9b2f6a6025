"""Interventions on a merge: each changes the one thing that it says, and nothing else."""

import math

import pytest
import torch

from langmerge import merging
from langmerge.errors import LangmergeError
from langmerge.merging import interventions
from langmerge.merging.sparsify import trim
from langmerge.merging.sweep import Sweep
from langmerge.merging.task_vectors import TaskVectors, norm

TIES = {"density_ct": 0.6, "density_sft": 0.5, "w_ct": 0.5, "w_sft": 1.0, "lambda_": 1.3}
NAMES = ("model.embed_tokens.weight", "model.layers.0.mlp.weight", "model.norm.weight")


@pytest.fixture
def trio():
    rng = torch.Generator().manual_seed(7)
    shapes = dict(zip(NAMES, [(30, 8), (8, 12), (64,)], strict=True))
    return [
        {name: scale * torch.randn(shape, generator=rng) for name, shape in shapes.items()}
        for scale in (1.0, 4.0, 1.2)
    ]


def taus(trio):
    return TaskVectors.of(*trio)


def lost(trio, name):
    """Where SFT survives trim and is out-voted, from the definition alone."""
    vectors = taus(trio)
    ct = 0.5 * trim(vectors.tau_ct[name], 0.6, 1)
    sft = trim(vectors.tau_sft[name], 0.5, 1)
    return (ct * sft < 0) & (ct.abs() > sft.abs())


def differs(one, other):
    return (one - other).abs() > 1e-6


@pytest.mark.parametrize("combine", ["mean", "sum"])
def test_restoring_adds_the_out_voted_entries_alone(trio, combine):
    plain = merging.merge("ties", *trio, combine=combine, **TIES)
    restored = merging.merge("restored_sft", *trio, combine=combine, **TIES)
    for name in NAMES:
        gone = lost(trio, name)
        assert gone.any() and torch.equal(differs(restored[name], plain[name]), gone)
        back = 1.3 * taus(trio).tau_sft[name]
        found = (restored[name] - plain[name])[gone]
        torch.testing.assert_close(found, back[gone], atol=1e-5, rtol=1e-5)


def test_losing_the_out_voted_entries_instead_of_random_ones_is_ties(trio, monkeypatch):
    plain = merging.merge("ties", *trio, **TIES)
    drawn = {}

    def as_voted(among, count, seed, name):
        drawn[name] = int(lost(trio, name).sum()), count
        return lost(trio, name)

    monkeypatch.setattr(interventions, "as_many", as_voted)
    found = merging.merge("random_drop", *trio, **TIES)
    for name in NAMES:
        torch.testing.assert_close(found[name], plain[name], atol=1e-6, rtol=1e-6)
        assert drawn[name][0] == drawn[name][1]


def test_as_many_are_lost_among_the_survivors_and_another_seed_draws_others(trio):
    among = torch.rand(40, 9, generator=torch.Generator().manual_seed(1)) < 0.5
    one = interventions.as_many(among, 17, 0, "a")
    assert int(one.sum()) == 17 and not (one & ~among).any()
    assert torch.equal(one, interventions.as_many(among, 17, 0, "a"))
    assert not torch.equal(one, interventions.as_many(among, 17, 1, "a"))
    assert not torch.equal(one, interventions.as_many(among, 17, 0, "b"))


def test_a_random_loss_differs_from_the_restored_merge_in_as_many_entries_at_most(trio):
    restored = merging.merge("restored_sft", *trio, **TIES)
    found = merging.merge("random_drop", *trio, seed=3, **TIES)
    for name in NAMES:
        assert 0 < int(differs(found[name], restored[name]).sum()) <= int(lost(trio, name).sum())


@pytest.mark.parametrize("variant", merging.VARIANTS)
def test_rescaling_is_merging_with_a_shorter_update(trio, variant):
    base, ct, sft = trio
    params = {"variant": variant, "density_ct": 0.6, "density_sft": 0.5}
    shorter = {name: base[name] + 0.25 * (ct[name] - base[name]) for name in NAMES}
    found = merging.merge("rescaled_ct", *trio, scale_ct=0.25, **params)
    wanted = merging.merge("ties", base, shorter, sft, **params)
    for name in NAMES:
        torch.testing.assert_close(found[name], wanted[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("slack", [0.5, 1.0, 3.0])
def test_slack_is_a_ct_vote_scaled_down_for_the_election_only(trio, slack):
    """Why scaling tau_ct for the election alone is no rival of its own."""
    name = NAMES[0]
    ct, sft = taus(trio).tau_ct[name], taus(trio).tau_sft[name]
    relaxed = merging.election.by_slack(ct, sft, slack)
    scaled = merging.election.by_sum(ct / (1 + slack), sft)
    close = (ct.abs() - (1 + slack) * sft.abs()).abs() < 1e-5
    assert torch.equal(relaxed[~close], scaled[~close])


def test_with_every_part_whole_arithmetic_by_part_is_task_arithmetic(trio):
    whole = merging.merge("task_arithmetic", *trio)
    for name, tensor in merging.merge("arithmetic_by_part", *trio).items():
        torch.testing.assert_close(tensor, whole[name], atol=1e-6, rtol=1e-6)


def test_ct_embeddings_and_sft_layers_are_layer_swapping_without_a_layer_of_ct(trio):
    parts = {"ct_layers": 0.0, "sft_embeddings": 0.0}
    swapped = merging.merge("layer_swapping", *trio, bottom=0, top=0)
    for name, tensor in merging.merge("arithmetic_by_part", *trio, **parts).items():
        torch.testing.assert_close(tensor, swapped[name], atol=1e-5, rtol=1e-5)


def test_each_part_of_an_update_has_a_weight_of_its_own(trio):
    parts = {"ct_embeddings": 0.1, "ct_layers": 0.2, "sft_embeddings": 0.3, "sft_layers": 0.4}
    found, vectors = merging.merge("arithmetic_by_part", *trio, **parts), taus(trio)
    for name in NAMES:
        ct, sft = (0.2, 0.4) if ".layers." in name else (0.1, 0.3)
        wanted = trio[0][name] + ct * vectors.tau_ct[name] + sft * vectors.tau_sft[name]
        torch.testing.assert_close(found[name], wanted, atol=1e-5, rtol=1e-5)


def test_a_part_without_a_number_is_named(trio):
    with pytest.raises(LangmergeError, match="ct_layers"):
        merging.merge("arithmetic_by_part", *trio, ct_layers=math.nan)


def test_the_sft_vector_times_one_half_is_half_of_sft(trio):
    half = merging.merge("half_sft", *trio)
    scaled = merging.merge("scaled_sft", *trio, lambda_=0.5)
    assert all(torch.equal(half[name], scaled[name]) for name in NAMES)


@pytest.mark.parametrize("combine", ["mean", "sum"])
def test_trimming_the_whole_model_is_one_threshold_for_all_tensors(trio, combine):
    params = {**TIES, "combine": combine, "variant": "weighted_whole"}
    found = merging.merge("ties", *trio, **params)
    swept = Sweep(*trio).merge("ties", **params)
    assert all(torch.allclose(found[name], swept[name], atol=1e-6) for name in NAMES)
    everything = params | {"density_ct": 1.0, "density_sft": 1.0}
    per_tensor = merging.merge("ties", *trio, **(everything | {"variant": "weighted"}))
    whole = merging.merge("ties", *trio, **everything)
    assert all(torch.equal(whole[name], per_tensor[name]) for name in NAMES)
    assert merging.describe("ties", **params) == f"whole model, weighted, {combine}"
    alone = merging.merge("ties", *trio, **params | {"w_ct": 0.0, "lambda_": 1.0})
    size = sum(tensor.numel() for tensor in trio[0].values())
    kept = sum(int(differs(alone[name], trio[0][name]).sum()) for name in NAMES)
    assert kept == pytest.approx(0.5 * size, abs=2)


def test_model_stock_times_lambda_goes_that_much_further_from_the_base(trio):
    one = merging.merge("model_stock", *trio)
    two = merging.merge("model_stock", *trio, lambda_=2.0)
    base = trio[0]
    once, twice = ({n: it[n] - base[n] for n in NAMES} for it in (one, two))
    assert math.isclose(norm(twice), 2 * norm(once), rel_tol=1e-4)
