"""Properties of merging that hold for any models and settings."""

import itertools
import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from langmerge.merging import VARIANTS, TaskVectors, diagnose_vectors, merge, merge_vectors

# A busy machine is no failure, so there is no deadline.
some_examples = settings(deadline=None, max_examples=30)

SHAPES = {"model.embed_tokens.weight": (4, 3), "model.layers.0.mlp.up_proj.weight": (7,)}
MODELS = ("theta_base", "theta_ct", "theta_sft")

# Few distinct values make ties, cancellations and zeros frequent; wide ones find overflows.
few = st.sampled_from([-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0])
wide = st.floats(-1e4, 1e4, width=32)
densities = st.floats(0.05, 1.0)
weights = st.floats(0.0, 4.0)
slacks = st.one_of(st.floats(0, 16), st.sampled_from([0.0, 1.0, 3.0, math.inf]))
kinds = st.sampled_from(["multiplicative", "additive"])


@st.composite
def trios(draw):
    """Base, CT and SFT models."""
    elements = draw(st.sampled_from([few, wide]))
    arrays = {
        name: hnp.arrays(np.float32, shape, elements=elements) for name, shape in SHAPES.items()
    }
    return tuple(
        {name: torch.from_numpy(draw(array)) for name, array in arrays.items()} for _ in MODELS
    )


@st.composite
def ties_params(draw):
    """Settings of a TIES merge, any variant."""
    variant = draw(st.sampled_from(list(VARIANTS)))
    params = {
        "variant": variant,
        "density_ct": draw(densities),
        "density_sft": draw(densities),
        "lambda_": draw(weights),
        "combine": draw(st.sampled_from(["mean", "sum"])),
    }
    if VARIANTS[variant].weights != "none":
        params |= {"w_ct": draw(weights), "w_sft": draw(weights)}
    return params


def close(one, other, models, ulps=8):
    """Equal within rounding, relative to the largest weight that went in."""
    for name in one:
        size = max(theta[name].abs().max().item() for theta in models)
        bound = ulps * torch.finfo(torch.float32).eps * size
        assert (one[name] - other[name]).abs().max().item() <= bound, name


@some_examples
@given(trios(), ties_params(), kinds)
def test_slack_zero_is_the_variant_bit_for_bit(models, params, kind):
    vectors = TaskVectors.of(*models)
    plain = merge_vectors("ties", vectors, **params)
    slack = merge_vectors("ties_sv", vectors, **params, slack=0.0, slack_kind=kind)
    for name in plain:
        assert torch.equal(plain[name].view(torch.int32), slack[name].view(torch.int32))


@some_examples
@given(trios(), ties_params(), slacks, kinds)
def test_no_nan_for_any_slack_and_nothing_moves_where_both_are_trimmed(models, params, slack, kind):
    vectors = TaskVectors.of(*models)
    merged = merge_vectors("ties_sv", vectors, **params, slack=slack, slack_kind=kind)
    for name, tensor in merged.items():
        assert torch.isfinite(tensor).all()
        still = (vectors.tau_ct[name] == 0) & (vectors.tau_sft[name] == 0)
        assert torch.equal(tensor[still], models[0][name][still])


@some_examples
@given(trios(), ties_params(), slacks, kinds)
def test_every_entry_is_kept_or_trimmed_or_outvoted(models, params, slack, kind):
    vectors = TaskVectors.of(*models)
    rows = diagnose_vectors(vectors, **params, slack=slack, slack_kind=kind)
    for model in ("ct", "sft"):
        fates = [f"{fate}_{model}" for fate in ("kept", "trimmed", "outvoted")]
        assert (rows[fates].sum(axis=1) == rows["n"]).all()
        l2 = rows[[f"l2_{fate}" for fate in fates]].sum(axis=1)
        np.testing.assert_allclose(l2, rows[f"norm_{model}"] ** 2, rtol=1e-6)
    # Of two survivors of opposite sign exactly one is out-voted, and nothing else is.
    assert (rows["outvoted_ct"] + rows["outvoted_sft"] == rows["conflicts"]).all()
    if slack == math.inf:
        assert (rows["outvoted_sft"] == 0).all()


@some_examples
@given(trios(), ties_params(), st.lists(slacks, min_size=2, max_size=4), kinds)
def test_discarded_sft_share_never_rises_with_slack(models, params, several, kind):
    vectors = TaskVectors.of(*models)
    tables = [
        diagnose_vectors(vectors, **params, slack=slack, slack_kind=kind)
        for slack in sorted(several)
    ]
    for less, more in itertools.pairwise(tables):
        for column in ("discarded_sft_share", "discarded_sft_share_l2"):
            assert (more[column].fillna(0) <= less[column].fillna(0)).all()


@some_examples
@given(trios(), st.floats(0, 1), st.sampled_from(["weighted", "reference", "peft", "peft_count"]))
def test_merging_a_model_with_itself_gives_the_model(models, alpha, variant):
    base, theta, _ = models
    close(merge("average", base, theta, theta, alpha=alpha), theta, models)
    full = {"density_ct": 1.0, "density_sft": 1.0, "lambda_": 1.0, "variant": variant}
    close(merge("ties_mean", base, theta, theta, **full), theta, models)


@some_examples
@given(trios(), st.floats(0.125, 4), st.floats(0.125, 4))
def test_a_weighted_mean_of_a_model_with_itself_gives_the_model(models, w_ct, w_sft):
    base, theta, _ = models
    full = {"density_ct": 1.0, "density_sft": 1.0, "w_ct": w_ct, "w_sft": w_sft}
    close(merge("ties_mean", base, theta, theta, **full), theta, models)


@some_examples
@given(trios(), st.floats(0, 1))
def test_average_is_symmetric(models, alpha):
    base, ct, sft = models
    one = merge("average", base, ct, sft, alpha=alpha)
    close(one, merge("average", base, sft, ct, alpha=1 - alpha), models)


@some_examples
@given(trios(), ties_params())
def test_ties_is_symmetric_in_its_two_models(models, params):
    base, ct, sft = models
    swapped = {
        **params,
        "density_ct": params["density_sft"],
        "density_sft": params["density_ct"],
    }
    if "w_ct" in params:
        swapped |= {"w_ct": params["w_sft"], "w_sft": params["w_ct"]}
    one, other = merge("ties", base, ct, sft, **params), merge("ties", base, sft, ct, **swapped)
    for name in one:
        assert torch.equal(one[name], other[name])


@some_examples
@given(trios(), st.floats(-2, 2), st.floats(-2, 2))
def test_task_arithmetic_is_linear_in_lambda(models, one, other):
    base = models[0]
    total = merge("task_arithmetic", *models, lambda_=one + other)
    parts = [merge("task_arithmetic", *models, lambda_=lambda_) for lambda_ in (one, other)]
    summed = {name: parts[0][name] + parts[1][name] - base[name] for name in base}
    close(total, summed, models, ulps=64)


@some_examples
@given(trios(), ties_params())
def test_bf16_models_are_merged_in_fp32(models, params):
    stored = [{name: tensor.bfloat16() for name, tensor in theta.items()} for theta in models]
    upcast = [{name: tensor.float() for name, tensor in theta.items()} for theta in stored]
    one, other = merge("ties", *stored, **params), merge("ties", *upcast, **params)
    for name in one:
        assert one[name].dtype == torch.float32
        assert torch.equal(one[name], other[name])


@some_examples
@given(trios(), densities, densities, weights, weights)
def test_ties_is_the_formula_read_off_the_paper(models, density_ct, density_sft, w_ct, w_sft):
    """Variant "weighted" against sorting and masks, entry by entry."""
    params = {"density_ct": density_ct, "density_sft": density_sft, "w_ct": w_ct, "w_sft": w_sft}
    vectors = TaskVectors.of(*models)
    merged = merge_vectors("ties", vectors, **params)

    def top(tau, density):
        order = torch.argsort(tau.flatten().abs(), descending=True, stable=True)
        mask = torch.zeros(tau.numel())
        mask[order[: max(1, int(density * tau.numel()))]] = 1
        return tau * mask.view(tau.shape)

    for name, theta in vectors.theta_base.items():
        a, b = top(vectors.tau_ct[name], density_ct), top(vectors.tau_sft[name], density_sft)
        votes = torch.stack([a * w_ct, b * w_sft])
        agrees = votes.sign() == torch.where(votes.sum(0) >= 0, 1, -1)
        divisor = (agrees * torch.tensor([w_ct, w_sft]).view(2, *[1] * a.dim())).sum(0)
        mean = (votes * agrees).sum(0) / torch.where(divisor == 0, 1, divisor)
        assert torch.equal(merged[name], theta + mean)
