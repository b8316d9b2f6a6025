"""Merging: golden vectors, the table of methods, trim, and errors that teach."""

import math

import numpy as np
import pytest
import torch

from langmerge import merging
from langmerge.errors import LangmergeError
from langmerge.merging import election, methods, sparsify, task_vectors

TAU_CT = [0.9, -0.4, 0.05, 0.3, -0.2, 0.1]
TAU_SFT = [-0.5, -0.6, 0.02, -0.3, 0.25, 0.8]
HALF = {"density_ct": 0.5, "density_sft": 0.5}
WEIGHTS = {"w_ct": 0.3, "w_sft": 0.7}


def models(tau_ct=TAU_CT, tau_sft=TAU_SFT):
    """A base of zeros and the two models with these task vectors."""
    tau_ct, tau_sft = torch.tensor(tau_ct), torch.tensor(tau_sft)
    return {"x": torch.zeros_like(tau_ct)}, {"x": tau_ct}, {"x": tau_sft}


def random_models(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"model.layers.0.mlp.up_proj.weight": (8, 6), "model.norm.weight": (9,)}
    return tuple(
        {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
        for _ in range(3)
    )


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"variant": "reference"}, [0.9, -0.5, 0, -0.3, -0.2, 0.8]),
        ({**WEIGHTS, "combine": "mean"}, [-0.5, -0.54, 0, 0.3, 0, 0.8]),
        ({**WEIGHTS, "combine": "sum"}, [-0.35, -0.54, 0, 0.09, 0, 0.56]),
        ({**WEIGHTS, "variant": "peft"}, [0.27, -0.27, 0, 0.09, 0, 0.56]),
    ],
    ids=["reference", "mergekit normalize", "mergekit no-normalize", "peft"],
)
def test_golden_vectors_of_the_variants(params, expected):
    merged = merging.merge("ties", *models(), **HALF, **params)["x"]
    assert torch.allclose(merged, torch.tensor(expected), atol=1e-7)


def test_slack_elects_sft_exactly_where_the_inequality_holds():
    # a = 1 everywhere; SFT disagrees with growing magnitude. Weights 1, nothing trimmed.
    trio = models([1.0, 1.0, 1.0, 1.0, -1.0], [-0.25, -0.5, -0.75, -1.5, 0.5])
    everything = {"density_ct": 1, "density_sft": 1}
    # (1 + 1) * .5 = 1: equality, + is elected: CT in entry 1, SFT in entry 4.
    merged = merging.merge("ties_sv", *trio, **everything, slack=1.0)["x"]
    assert merged.tolist() == [1.0, 1.0, -0.75, -1.5, 0.5]
    rms = math.sqrt((0.25**2 + 0.5**2 + 0.75**2 + 1.5**2 + 0.5**2) / 5)
    slack = 0.3 / rms  # |b| + .3 > 1 from .75 on
    merged = merging.merge("ties_sv", *trio, **everything, slack=slack, slack_kind="additive")
    assert merged["x"].tolist() == [1.0, 1.0, -0.75, -1.5, -1.0]
    merged = merging.merge("ties_sv", *trio, **everything, slack=math.inf)["x"]
    assert merged.tolist() == [-0.25, -0.5, -0.75, -1.5, 0.5]


def test_rms_is_over_the_nonzero_entries():
    assert task_vectors.tensor_rms(torch.tensor([3.0, 0, 0, -3.0])) == pytest.approx(3)
    assert task_vectors.tensor_rms(torch.tensor([1e-30, 0.0])) == pytest.approx(1e-30)
    assert task_vectors.tensor_rms(torch.zeros(3)) == 0


@pytest.mark.parametrize("slack", [1e30, 1e38, 1e300, math.inf])
@pytest.mark.parametrize("slack_kind", election.SLACK_KINDS)
def test_huge_slack_is_infinite_slack_and_makes_no_nan(slack, slack_kind):
    params = {"slack_kind": slack_kind, **HALF}
    merged = merging.merge("ties_sv", *models(), slack=slack, **params)["x"]
    infinite = merging.merge("ties_sv", *models(), slack=math.inf, **params)["x"]
    assert torch.equal(merged, infinite)
    assert torch.isfinite(merged).all()


def test_reference_breaks_ties_by_the_majority_sign_of_the_model():
    # Entry 0 cancels. The other entries decide which of the two is kept.
    for others, kept in (([1.0, 1.0], 2.0), ([-1.0, -1.0], -2.0), ([1.0, -1.0], -2.0)):
        trio = models([2.0, *others], [-2.0, *others])
        merged = merging.merge("ties", *trio, density_ct=1, density_sft=1, variant="reference")
        assert merged["x"][0] == kept


def test_reference_trims_over_the_whole_model_and_weighted_per_tensor():
    base = {"large": torch.zeros(4), "small": torch.zeros(4)}
    theta = {"large": torch.tensor([4.0, 5, 6, 7]), "small": torch.tensor([0.1, 0.2, 0.3, 0.4])}
    zero = {name: tensor.clone() for name, tensor in base.items()}
    reference = merging.merge("ties", base, theta, zero, **HALF, variant="reference")
    # int(8 * .5) + 1 = 5 entries stay: all of "large" and one of "small".
    assert reference["large"].tolist() == [4, 5, 6, 7]
    assert reference["small"].tolist() == pytest.approx([0, 0, 0, 0.4])
    weighted = merging.merge("ties", base, theta, zero, **HALF)
    assert weighted["large"].tolist() == [0, 0, 6, 7]
    assert weighted["small"].tolist() == pytest.approx([0, 0, 0.3, 0.4])


@pytest.mark.parametrize(
    ("n", "density", "k"), [(10, 0.5, 5), (10, 0.59, 5), (3, 0.1, 1), (7, 1, 7)]
)
def test_trim_keeps_exactly_k(n, density, k):
    tau = torch.randn(n, generator=torch.Generator().manual_seed(n))
    kept = sparsify.trim(tau, density)
    assert torch.count_nonzero(kept) == k
    survivors = kept != 0
    assert torch.equal(kept[survivors], tau[survivors])
    if k < n:
        assert tau[survivors].abs().min() >= tau[~survivors].abs().max()


def test_trim_takes_ties_in_index_order_and_never_zeros():
    tau = torch.tensor([[1.0, -1.0, 2.0], [1.0, -1.0, 0.0]])
    assert sparsify.trim(tau, 0.5).tolist() == [[1, -1, 2], [0, 0, 0]]
    assert sparsify.trim(tau, 0.2).tolist() == [[0, 0, 2], [0, 0, 0]]
    mostly_zero = torch.tensor([0.0, 0, 0, 0, 3])
    assert torch.equal(sparsify.trim(mostly_zero, 0.6), mostly_zero)
    assert torch.equal(sparsify.trim(torch.zeros(5), 0.6), torch.zeros(5))


def test_trim_does_not_depend_on_the_memory_layout_and_changes_nothing():
    tau = torch.tensor([[1.0, 3.0, 1.0], [2.0, 1.0, 0.5]])
    before = tau.clone()
    transposed = tau.T.contiguous().T
    assert torch.equal(sparsify.trim(tau, 0.5), sparsify.trim(transposed, 0.5))
    assert torch.equal(tau, before)


def test_methods_by_hand():
    base, ct, sft = random_models()
    both = {name: (ct[name] - base[name], sft[name] - base[name]) for name in base}
    for method, params, expected in (
        ("average", {"alpha": 0.25}, lambda b, c, s: 0.25 * (b + c) + 0.75 * (b + s)),
        (
            "task_arithmetic",
            {"w_ct": 2, "w_sft": 3, "lambda_": 0.5},
            lambda b, c, s: b + c + 1.5 * s,
        ),
        ("chat_vector", {}, lambda b, c, s: b + c + s),
        ("half_sft", {}, lambda b, c, s: b + s / 2),
    ):
        merged = merging.merge(method, base, ct, sft, **params)
        for name, tensor in merged.items():
            assert torch.allclose(tensor, expected(base[name], *both[name]), atol=1e-6), method


def test_average_gives_the_models_themselves_at_its_ends():
    base, ct, sft = random_models()
    assert_equal(merging.merge("average", base, ct, sft, alpha=1), ct)
    assert_equal(merging.merge("average", base, ct, sft, alpha=0), sft)


def test_ties_mean_and_sum_are_ties_with_their_combine():
    trio = random_models()
    for combine in ("mean", "sum"):
        assert_equal(
            merging.merge(f"ties_{combine}", *trio, w_ct=0.5),
            merging.merge("ties", *trio, w_ct=0.5, combine=combine),
        )


def test_norm_matched_ct_has_the_norm_of_sft():
    base, ct, sft = random_models()
    vectors = merging.TaskVectors.of(base, ct, task_vectors.add(base, task_vectors.scale(sft, 9)))
    matched = methods.with_norm_matched_ct(vectors)
    assert task_vectors.norm(matched.tau_ct) == pytest.approx(task_vectors.norm(vectors.tau_sft))
    assert task_vectors.cosine(matched.tau_ct, vectors.tau_ct) == pytest.approx(1)
    assert_equal(
        merging.merge_vectors("norm_matched_ct", vectors), merging.merge_vectors("ties", matched)
    )


def test_shuffled_ct_permutes_inside_each_tensor_whatever_the_order_of_tensors():
    vectors = merging.TaskVectors.of(*random_models())
    shuffled = methods.with_shuffled_ct(vectors, seed=1).tau_ct
    for name, tensor in vectors.tau_ct.items():
        assert torch.equal(shuffled[name].flatten().sort()[0], tensor.flatten().sort()[0])
        assert not torch.equal(shuffled[name], tensor)
    turned = merging.TaskVectors(*(dict(reversed(part.items())) for part in vectors))
    for name, tensor in methods.with_shuffled_ct(turned, seed=1).tau_ct.items():
        assert torch.equal(tensor, shuffled[name])
    twins = {name: torch.arange(50.0) for name in ("one", "other")}
    zeros = {name: torch.zeros(50) for name in twins}
    drawn = methods.with_shuffled_ct(merging.TaskVectors.of(zeros, twins, zeros), seed=1).tau_ct
    assert not torch.equal(drawn["one"], drawn["other"])
    other_seed = methods.with_shuffled_ct(vectors, seed=2).tau_ct
    assert any(not torch.equal(other_seed[name], shuffled[name]) for name in shuffled)


@pytest.mark.parametrize("method", merging.METHODS)
def test_every_method_computes_in_fp32_from_bf16_and_leaves_its_inputs_alone(method):
    trio = random_models(dtype=torch.bfloat16)
    copies = [{name: tensor.clone() for name, tensor in theta.items()} for theta in trio]
    merged = merging.merge(method, *trio)
    upcast = [{name: tensor.float() for name, tensor in theta.items()} for theta in trio]
    assert all(tensor.dtype == torch.float32 for tensor in merged.values())
    assert_equal(merged, merging.merge(method, *upcast))
    for theta, copy in zip(trio, copies, strict=True):
        assert_equal(theta, copy)
    rounded = merging.merge(method, *trio, dtype=torch.bfloat16)
    assert_equal(rounded, {name: tensor.bfloat16() for name, tensor in merged.items()})


@pytest.mark.parametrize("method", merging.METHODS)
def test_every_row_of_the_table_says_where_it_is_from(method):
    row = merging.METHODS[method]
    assert row.name == method
    assert row.summary
    assert "https://" in row.paper or row.paper == "control"
    assert all(theta.isfinite().all() for theta in merging.merge(method, *random_models()).values())


def test_describe_names_the_variant():
    assert merging.describe("ties_mean") == "per-tensor, weighted, mean"
    assert merging.describe("ties_sum") == "per-tensor, weighted, sum"
    assert merging.describe("ties", variant="reference") == "whole model, unweighted, mean"
    assert merging.describe("ties", election=torch.add).endswith("own election")
    assert merging.describe("ties_sv", slack_kind="additive").endswith("additive slack")
    assert merging.describe("average") == ""


@pytest.mark.parametrize("weight", [0.0, 1e-50])
def test_a_weight_that_is_zero_in_fp32_silences_its_model(weight):
    for combine in ("mean", "sum"):
        params = {"combine": combine, **HALF}
        one = merging.merge("ties", *models(), w_ct=weight, **params)["x"]
        alone = merging.merge("ties", *models(tau_ct=[0.0] * 6), **params)["x"]
        assert torch.equal(one, alone)
        silent = merging.merge("ties", *models(), w_ct=weight, w_sft=weight, **params)["x"]
        assert not silent.any()


def test_negative_weights_that_cancel_make_no_nan():
    trio = models([1.0, 1.0], [-1.0, 1.0])
    merged = merging.merge("ties", *trio, density_ct=1, density_sft=1, w_ct=1, w_sft=-1)["x"]
    # Entry 0: votes 1 and 1 over weights 1 - 1 = 0, which mergekit replaces by 1.
    assert merged.tolist() == [2.0, 1.0]


# --- a reader's own election


def test_own_election_that_copies_ours_changes_nothing():
    def my_election(tau_ct, tau_sft):
        return torch.where(tau_ct + tau_sft >= 0, 1, -1)

    trio = random_models()
    for combine in ("mean", "sum"):
        ours = merging.merge("ties", *trio, **WEIGHTS, combine=combine)
        own = merging.merge("ties", *trio, **WEIGHTS, combine=combine, election=my_election)
        assert_equal(ours, own)


def test_own_election_can_drop_what_conflicts_and_cannot_write_into_the_merge():
    def no_conflicts(tau_ct, tau_sft):
        sign = torch.where(tau_ct * tau_sft < 0, 0, (tau_ct + tau_sft).sign())
        tau_ct.zero_()
        return sign

    merged = merging.merge("ties", *models(), **HALF, election=no_conflicts)["x"]
    assert merged.tolist() == pytest.approx([0, -0.5, 0, 0.3, 0, 0.8])


@pytest.mark.parametrize(
    ("own", "says"),
    [
        (lambda a, b: a + b, "no sign"),
        (lambda a, b: torch.full_like(a, math.nan), "returned nan"),
        (lambda a, b: torch.full_like(a, math.inf), "returned inf"),
        (lambda a, b: b > a, "torch.where"),
        (lambda a, b: a.sign().sum(), r"shape \(\)"),
        (lambda a, b: None, "NoneType"),
        (lambda a, b: a.sign().numpy(), "ndarray"),
    ],
)
def test_an_election_that_returns_no_signs_is_explained(own, says):
    with pytest.raises(LangmergeError, match=says):
        merging.merge("ties", *models(), election=own)


# --- errors that teach


@pytest.mark.parametrize(
    ("method", "params", "says"),
    [
        ("tis", {}, "did you mean ties"),
        ("ties", {"densty_ct": 0.5}, "did you mean density_ct"),
        ("ties_sum", {"combine": "mean"}, "no parameter 'combine'"),
        ("chat_vector", {"alpha": 1}, "it has none"),
        ("ties", {"density_ct": 0}, "density 0"),
        ("ties", {"density_sft": 1.2}, "density 1.2"),
        ("ties", {"density_sft": math.nan}, "density nan"),
        ("ties", {"density_sft": "half"}, "density 'half'"),
        ("ties", {"w_ct": math.nan}, "w_ct nan"),
        ("ties", {"lambda_": "1"}, "lambda_ '1'"),
        ("ties", {"combine": "avg"}, "unknown combine 'avg'"),
        ("ties", {"variant": "wieghted"}, "did you mean weighted"),
        ("ties", {"variant": "reference", "w_ct": 0.5}, "knows no weights"),
        ("ties", {"election": "mine"}, "give a function"),
        ("ties_sv", {"slack": -0.1}, "slack -0.1"),
        ("ties_sv", {"slack": math.nan}, "slack nan"),
        ("ties_sv", {"slack": None}, "slack None"),
        ("ties_sv", {"slack_kind": "mult"}, "slack_kind 'mult'"),
        ("average", {"alpha": 1.5}, "alpha 1.5"),
        ("task_arithmetic", {"lambda_": math.inf}, "lambda_ inf"),
    ],
)
def test_wrong_settings_are_named(method, params, says):
    with pytest.raises(LangmergeError, match=says):
        merging.merge(method, *models(), **params)


def test_numbers_of_numpy_are_numbers():
    params = {"density_ct": np.float32(0.5), "w_ct": np.int64(2), "slack": np.float32(1)}
    plain = merging.merge("ties_sv", *models(), density_ct=0.5, w_ct=2, slack=1)
    assert_equal(merging.merge("ties_sv", *models(), **params), plain)


def test_models_that_do_not_fit_are_named():
    base, ct, sft = random_models()
    short = dict(list(ct.items())[:1])
    with pytest.raises(LangmergeError, match=r"model\.norm\.weight' that theta_ct lacks"):
        merging.merge("ties", base, short, sft)
    with pytest.raises(LangmergeError, match=r"theta_sft has a tensor 'lm_head' that theta_base"):
        merging.merge("ties", base, ct, {**sft, "lm_head": torch.zeros(2)})
    wider = {**sft, "model.norm.weight": torch.zeros(10)}
    with pytest.raises(LangmergeError, match=r"norm\.weight: .* shape \(9,\), theta_sft \(10,\)"):
        merging.merge("ties", base, ct, wider)
    with pytest.raises(LangmergeError, match=r"shape \(9,\)"):
        task_vectors.add(base, wider)
    with pytest.raises(LangmergeError, match="int64"):
        merging.merge("ties", base, ct, {**sft, "model.norm.weight": torch.zeros(9).long()})


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("which", range(3))
def test_nan_and_infinite_weights_are_named_and_counted(bad, which):
    trio = random_models()
    trio[which]["model.norm.weight"][:2] = bad
    model = ("theta_base", "theta_ct", "theta_sft")[which]
    with pytest.raises(LangmergeError, match=rf"norm\.weight: 2 of 9 entries of {model}"):
        merging.merge("average", *trio)


# --- the algebra


def test_algebra_of_state_dicts():
    base, ct, _ = random_models()
    tau = task_vectors.task_vector(ct, base)
    back = task_vectors.add(base, tau)
    assert all(torch.allclose(back[name], ct[name], atol=1e-6) for name in base)
    flat = torch.cat([tensor.flatten() for tensor in tau.values()]).double()
    assert task_vectors.norm(tau) == pytest.approx(flat.norm().item())
    assert task_vectors.norm(task_vectors.scale(tau, -2)) == pytest.approx(2 * flat.norm().item())
    assert task_vectors.cosine(tau, task_vectors.scale(tau, -2)) == pytest.approx(-1)
    assert math.isnan(task_vectors.cosine(tau, task_vectors.scale(tau, 0)))
