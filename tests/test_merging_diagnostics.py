"""Diagnostics: what a merge throws away, by hand and in sum."""

import math

import numpy as np
import pytest
import torch

from langmerge.errors import LangmergeError
from langmerge.merging import diagnose, summarize
from langmerge.merging.diagnostics import COLUMNS, place

FULL = {"density_ct": 1.0, "density_sft": 1.0}


def one_tensor(tau_ct, tau_sft, name="model.layers.3.mlp.up_proj.weight"):
    tau_ct, tau_sft = torch.tensor(tau_ct), torch.tensor(tau_sft)
    return {name: torch.zeros_like(tau_ct)}, {name: tau_ct}, {name: tau_sft}


def test_a_row_by_hand():
    # SFT: kept (agrees), outvoted (-2 against 3), kept (wins -4 against 1), trimmed (0).
    row = diagnose(*one_tensor([1.0, 3, 1, 5], [2.0, -2, -4, 0]), **FULL).iloc[0]
    assert (row.parameter, row.layer, row.module, row.n) == (
        "model.layers.3.mlp.up_proj.weight",
        3,
        "mlp",
        4,
    )
    assert (row.kept_sft, row.outvoted_sft, row.trimmed_sft) == (2, 1, 1)
    assert (row.kept_ct, row.outvoted_ct, row.trimmed_ct) == (3, 1, 0)
    assert (row.both, row.conflicts) == (3, 2)
    assert row.conflict_rate == pytest.approx(2 / 3)
    assert (row.l1_kept_sft, row.l1_outvoted_sft, row.l1_trimmed_sft) == (6, 2, 0)
    assert row.l2_kept_sft == pytest.approx(20)
    assert row.l2_outvoted_sft == pytest.approx(4)
    assert row.discarded_sft_share == pytest.approx(1 / 3)
    assert row.discarded_sft_share_l2 == pytest.approx(4 / 24)
    assert row.discarded_ct_share == pytest.approx(1 / 4)
    assert row.norm_ct == pytest.approx(6)
    assert row.cosine == pytest.approx((2 - 6 - 4) / (6 * math.sqrt(24)))


def test_trim_losses_are_counted_with_the_mass_of_the_untrimmed_vector():
    row = diagnose(*one_tensor([4.0, 3, 2, 1], [1.0, 2, 3, 4]), density_ct=0.5, density_sft=0.25)
    assert row.trimmed_ct.item() == 2
    assert row.l1_trimmed_ct.item() == 3
    assert row.trimmed_sft.item() == 3
    assert row.l2_trimmed_sft.item() == pytest.approx(1 + 4 + 9)


def test_discarded_share_rises_as_the_ct_update_grows_and_falls_with_slack():
    generator = torch.Generator().manual_seed(0)
    base = {"x": torch.zeros(5000)}
    sft = {"x": torch.randn(5000, generator=generator)}
    step = torch.randn(5000, generator=generator)
    shares = [
        diagnose(base, {"x": step * size}, sft)["discarded_sft_share"].item()
        for size in (0.1, 0.5, 1, 4)
    ]
    assert shares == sorted(shares)
    assert shares[0] < 0.05 < 0.25 < shares[-1]
    relaxed = [
        diagnose(base, {"x": step}, sft, slack=slack)["discarded_sft_share"].item()
        for slack in (0, 1, 4, math.inf)
    ]
    assert relaxed == sorted(relaxed, reverse=True)
    assert relaxed[-1] == 0


def test_an_own_election_is_diagnosed():
    trio = one_tensor([1.0, 3, 1, 5], [2.0, -2, -4, 0])
    row = diagnose(*trio, **FULL, election=lambda tau_ct, tau_sft: -torch.ones_like(tau_ct))
    assert row.outvoted_ct.item() == 4
    assert row.kept_sft.item() == 2


def test_ratios_without_a_denominator_are_nan():
    row = diagnose(*one_tensor([1.0, 2], [0.0, 0])).iloc[0]
    assert math.isnan(row.discarded_sft_share)
    assert math.isnan(row.cosine)
    assert row.discarded_ct_share == 0


@pytest.mark.parametrize(
    ("parameter", "expected"),
    [
        ("model.embed_tokens.weight", (-1, "embed")),
        ("lm_head.weight", (-1, "embed")),
        ("model.norm.weight", (-1, "norm")),
        ("model.layers.0.self_attn.q_proj.weight", (0, "attention")),
        ("model.layers.11.mlp.down_proj.weight", (11, "mlp")),
        ("model.layers.2.post_attention_layernorm.weight", (2, "norm")),
        ("model.layers.2.input_layernorm.weight", (2, "norm")),
        ("transformer.h.4.attn.c_attn.weight", (4, "attention")),
        ("something", (-1, "other")),
    ],
)
def test_layer_and_module_of_a_parameter(parameter, expected):
    assert place(parameter) == expected


def test_sums_over_layers_and_modules_are_those_of_the_whole():
    generator = torch.Generator().manual_seed(1)
    names = [f"model.layers.{layer}.{part}.weight" for layer in (0, 1) for part in ("mlp", "norm")]
    base, ct, sft = (
        {name: torch.randn(30, generator=generator) for name in names} for _ in range(3)
    )
    table = diagnose(base, ct, sft)
    assert list(table.columns) == list(COLUMNS)
    whole, layers = summarize(table), summarize(table, ["layer"])
    assert len(whole) == 1
    assert layers["layer"].tolist() == [0, 1]
    assert summarize(table, ["module"])["module"].tolist() == ["mlp", "norm"]
    assert whole["n"].item() == 120 == layers["n"].sum()
    assert whole["outvoted_sft"].item() == layers["outvoted_sft"].sum()
    survivors = whole["kept_sft"] + whole["outvoted_sft"]
    assert whole["discarded_sft_share"].item() == (whole["outvoted_sft"] / survivors).item()
    tau = [torch.cat([theta[name] - base[name] for name in names]).double() for theta in (ct, sft)]
    np.testing.assert_allclose(whole["norm_ct"], tau[0].norm(), rtol=1e-6)
    cosine = torch.nn.functional.cosine_similarity(*tau, dim=0)
    np.testing.assert_allclose(whole["cosine"], cosine, rtol=1e-5)


def test_unknown_parameters_are_named():
    with pytest.raises(LangmergeError, match="did you mean slack"):
        diagnose(*one_tensor([1.0], [1.0]), slak=1)
    with pytest.raises(LangmergeError, match="slack -1"):
        diagnose(*one_tensor([1.0], [1.0]), slack=-1)
