"""Every method on one tensor of any number of models: oracles, golden vectors, properties."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from langmerge import merging
from langmerge.errors import LangmergeError
from langmerge.merging import METHODS, averages, methods, sparsify, ties, widen
from langmerge.merging.tensors import Tensors, count_layers, generator, layer_of

ORACLES = json.loads((Path(__file__).parent / "oracles" / "methods_oracles.json").read_text())
CASES = ORACLES["cases"]
some_examples = settings(deadline=None, max_examples=25)

PEFT = {
    "peft task_arithmetic": ("task_arithmetic", {}),
    "peft ties total": ("ties", {"variant": "peft", "combine": "mean"}),
    "peft ties frequency": ("ties", {"variant": "peft_count", "combine": "mean"}),
    "peft dare_linear": ("dare_linear", {"rescale": "density"}),
    "peft dare_ties total": ("dare_ties", {"variant": "peft", "combine": "mean"}),
    "peft dare_ties frequency": ("dare_ties", {"variant": "peft_count", "combine": "mean"}),
}
# What is the same arithmetic in the same order is equal to the last bit.
BITWISE = ("ties", "task_arithmetic", "breadcrumbs", "dare", "della")


def pattern(shape, generator=None):
    """What stands for a random draw, here as where the oracles were frozen."""
    n = math.prod(shape)
    return (((torch.arange(n) * 37 + 11) % 101) / 101).reshape(shape)


def tensors_of(case):
    found = {n: torch.tensor(v, dtype=torch.float32) for n, v in case["tensors"].items()}
    return Tensors("x", found.pop("base"), tuple(found.values()))


def shared(name, **more):
    """Defaults of a row as its function takes them, without what a model has of its own."""
    return {**methods.settings_from(METHODS[name].parameters({})), "layers": 0, **more}


def ours(oracle, case):
    tensors, count = tensors_of(case), len(case["weight"])
    if oracle in PEFT:
        name, more = PEFT[oracle]
        its = {"weight": tuple(case["weight"]), "density": (case["density"][0],) * count}
        its["rescale"] = "density"
        return METHODS[name].tensor(tensors, shared(name, **{**its, **more}))
    _, name, *options = oracle.split()
    its = {
        "weight": tuple(case["weight"]),
        "density": tuple(case["density"]),
        "epsilon": (case["epsilon"],) * count,
        "gamma": (case["gamma"],) * count,
        "lambda_": case["lambda"],
        "t": case["t"],
    }
    flags = [option == "1" for option in options]
    if name == "model_stock":
        its |= {"filter_wise": flags[0], "lambda_": 1.0}  # mergekit's has no factor
    elif flags:
        its |= {"normalize": flags[0], "combine": "mean" if flags[0] else "sum"}
        its["rescale"] = "l1" if flags[-1] else "none"
    if name == "slerp":
        tensors = Tensors("x", None, tensors.models[:2])
    if name == "linear":
        tensors = Tensors("x", None, tensors.models)
    return METHODS[name].tensor(tensors, shared(name, **its))


@pytest.mark.parametrize("oracle", CASES[0]["expected"])
def test_equals_the_oracle(oracle, monkeypatch):
    monkeypatch.setattr(sparsify.torch, "rand", pattern)
    exact = any(word in oracle for word in BITWISE)
    for number, case in enumerate(CASES):
        expected = torch.tensor(case["expected"][oracle], dtype=torch.float32)
        found = ours(oracle, case)
        # SLERP, Model Stock and linear sum in another precision or order: a few units in the
        # last place of numbers up to 4.
        bound = 0 if exact else 2e-6
        assert (found - expected).abs().max() <= bound, (number, found - expected)


def test_the_oracles_tell_methods_apart():
    """Were two the same function on these cases, a swapped one would pass."""
    names = list(CASES[0]["expected"])
    for number, one in enumerate(names):
        for other in names[number + 1 :]:
            pairs = ((case["expected"][one], case["expected"][other]) for case in CASES)
            assert any(left != right for left, right in pairs), (one, other)


# --- WIDEN


W0 = torch.tensor([[1, 2, -1, 0.5], [0, 1, 2, -1.5]])
D1 = torch.tensor([[0.1, -0.2, 0, 0.3], [0.05, 0.1, -0.1, 0]])
D2 = torch.tensor([[-0.3, 0, 0.2, 0.05], [0.4, 0.1, 0.3, -0.2]])
WIDENED = torch.tensor([[0.818877, 1.8, -0.8, 0.833021], [0.321939, 1.137932, 2.262246, -1.632082]])


def widened(name, base, *deltas, **more):
    tensors = Tensors(name, base, tuple(base + delta for delta in deltas))
    return widen.widen(tensors, {"t": 1.0, "s": 1.0, **more})


def test_widen_golden_vector():
    assert torch.allclose(
        widened("model.layers.0.mlp.up_proj.weight", W0, D1, D2), WIDENED, atol=2e-6
    )


def test_widen_turns_the_embedding_and_not_the_head():
    turned = widened("model.embed_tokens.weight", W0.T, D1.T, D2.T)
    assert torch.allclose(turned, WIDENED.T, atol=2e-6)
    assert turned.is_contiguous()
    assert torch.allclose(widened("lm_head.weight", W0, D1, D2), WIDENED, atol=2e-6)


def test_widen_of_a_vector_by_hand():
    base, d1, d2 = torch.zeros(2), torch.tensor([0.3, 0.0]), torch.tensor([0.1, 0.1])
    # Entry 0 of d1 exceeds its mean .15, so it has the score s; the others have the softmax.
    soft = math.exp(0.1) / (math.exp(0.1) + math.exp(0.3))
    other = math.exp(0.1) / (math.exp(0.1) + 1)
    assert widened("norm", base, d1, d2, s=2.0).tolist() == pytest.approx(
        [2 * 0.3 + soft * 0.1, other * 0.1]
    )


def test_widen_makes_no_nan_of_zero_columns_and_one_model_keeps_itself():
    base = W0.clone()
    base[:, 1] = 0
    assert widened("w", base, D1, D2).isfinite().all()
    # A softmax over one model is 1.
    assert torch.allclose(widened("w", W0, D1), W0 + D1)


# --- random methods


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della_linear", "della"])
def test_draws_depend_on_seed_model_and_name_alone(method):
    base = {name: torch.zeros(400) for name in ("a", "b")}
    theta = {name: torch.ones(400) for name in base}
    zero = merging.merge(method, base, theta, theta, seed=1)
    assert not torch.equal(zero["a"], zero["b"])
    again = merging.merge(
        method, *(dict(reversed(m.items())) for m in (base, theta, theta)), seed=1
    )
    assert all(torch.equal(zero[name], again[name]) for name in base)
    other = merging.merge(method, base, theta, theta, seed=2)
    assert not torch.equal(zero["a"], other["a"])
    first = methods.dropped_at_random(
        Tensors("a", base["a"], (theta["a"], theta["a"])),
        {"density": (0.5, 0.5), "seed": 1, "rescale": "none"},
    )
    assert not torch.equal(*first)


@given(st.floats(0.2, 0.9), st.integers(0, 1000))
@some_examples
def test_dare_keeps_its_share_and_the_expectation(density, seed):
    tau = torch.linspace(-1, 2, 20_000)
    kept = sparsify.drop_at_random(tau, density, generator(seed, 0, "x"), "density")
    # Five standard deviations of a binomial share, and of the sum.
    spread = math.sqrt(density * (1 - density) / tau.numel())
    assert abs((kept != 0).float().mean().item() - density) < 5 * spread
    deviation = math.sqrt((1 - density) / density) * tau.norm().item()
    assert abs((kept.sum() - tau.sum()).item()) < 5 * deviation
    survivors = kept != 0
    assert torch.allclose(kept[survivors] * density, tau[survivors])
    norm = sparsify.drop_at_random(tau, density, generator(seed, 0, "x"), "l1")
    assert norm.abs().sum().item() == pytest.approx(tau.abs().sum().item(), rel=1e-4)


@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 99))
@some_examples
def test_della_keeps_large_entries_more_often(n, rows, seed):
    tau = torch.randn(rows, n, generator=torch.Generator().manual_seed(seed))
    keep = sparsify.keep_by_rank(tau, 0.5, 0.2)
    assert keep.shape == tau.shape
    assert torch.allclose(keep.mean(dim=1), torch.full((rows,), 0.5), atol=1e-6)
    for row in range(rows):
        order = tau[row].abs().argsort()
        assert (keep[row][order].diff() > 0).all()
    if n > 1:
        assert keep.min().item() == pytest.approx(0.3)
        assert keep.max().item() == pytest.approx(0.7)


def test_density_1_drops_nothing():
    trio = [{"x": torch.randn(9, generator=torch.Generator().manual_seed(n))} for n in range(3)]
    everything = {"density_ct": 1, "density_sft": 1}
    plain = merging.merge("task_arithmetic", *trio)["x"]
    for method in ("dare_linear", "della_linear", "breadcrumbs"):
        assert torch.equal(merging.merge(method, *trio, **everything)["x"], plain)
    elected = merging.merge("ties", *trio, **everything)["x"]
    for method in ("dare_ties", "della", "breadcrumbs_ties"):
        found = merging.merge(method, *trio, **everything, combine="mean")["x"]
        assert torch.equal(found, elected)


# --- the whole model


@given(
    st.lists(
        st.lists(st.sampled_from([0.0, 0.1, -0.1, 0.25, -3.0, 7.5, 1e-38]), min_size=1, max_size=9),
        min_size=1,
        max_size=4,
    ),
    st.floats(0.01, 1),
)
@some_examples
def test_the_threshold_of_a_model_is_the_authors(parts, density):
    tau = {str(n): torch.tensor(values) for n, values in enumerate(parts)}
    flat = torch.cat(list(tau.values())).abs()
    k = flat.numel() - int(density * flat.numel())
    expected = flat.kthvalue(k).values.item() if k else 0.0
    assert sparsify.model_threshold(tau, density) == expected


def test_a_survey_is_asked_for():
    tensors = Tensors("x", torch.zeros(2), (torch.ones(2), -torch.ones(2)))
    its = shared("ties", variant="reference")
    with pytest.raises(LangmergeError, match="has to see the whole model"):
        ties.merge(tensors, its)
    with pytest.raises(LangmergeError, match="looks at the whole model"):
        METHODS["dare_ties"].tensor(tensors, shared("dare_ties", variant="reference"))


def test_densities_that_differ_by_tensor_cannot_be_trimmed_over_the_model():
    def passes():
        for name, density in (("a", 0.5), ("b", 0.7)):
            yield (
                Tensors(name, torch.zeros(2), (torch.ones(2), torch.ones(2))),
                shared("ties", variant="reference", density=(density, 0.5)),
            )

    with pytest.raises(LangmergeError, match=r"b: density \(0\.7, 0\.5\)"):
        ties.survey(passes)


# --- layers, arcs, numbers of models


def test_layers_by_name():
    assert layer_of("model.layers.12.mlp.up_proj.weight") == 12
    assert layer_of("transformer.h.3.attn.c_attn.weight") == 3
    assert layer_of("lm_head.weight") is None
    assert count_layers(["model.layers.0.x.y", "model.layers.4.x.y", "model.norm.weight"]) == 5
    assert count_layers(["model.norm.weight"]) == 0


def test_layer_swapping_by_hand():
    names = ["model.embed_tokens.weight", *(f"model.layers.{n}.w.weight" for n in range(8))]
    names.append("lm_head.weight")
    base = {name: torch.zeros(1) for name in names}
    ct = {name: torch.ones(1) for name in names}
    sft = {name: torch.full((1,), 3.0) for name in names}

    def swapped(**params):
        merged = merging.merge("layer_swapping", base, ct, sft, **params)
        return [int(merged[name]) for name in names]

    assert swapped() == [1, 1, 1, 3, 3, 3, 3, 1, 1, 1]
    assert swapped(bottom=1, top=3) == [1, 1, 3, 3, 3, 3, 1, 1, 1, 1]
    assert swapped(bottom=1, top=2, transition=1) == [1, 1, 2, 3, 3, 3, 2, 1, 1, 1]
    assert swapped(bottom=0, top=0.5) == [1, 3, 3, 3, 3, 1, 1, 1, 1, 1]
    with pytest.raises(LangmergeError, match="bottom 5 and top 4: the model has 8 layers"):
        swapped(bottom=5, top=4)
    with pytest.raises(LangmergeError, match=r"top 1\.5: has to be a number of layers"):
        swapped(top=1.5)


@given(st.floats(0, 1), st.integers(0, 99))
@some_examples
def test_slerp_stays_on_the_sphere_and_meets_its_ends(t, seed):
    draw = torch.Generator().manual_seed(seed)
    one, other = (
        torch.nn.functional.normalize(torch.randn(8, generator=draw), dim=0) for _ in "ab"
    )
    on_arc = averages.slerp(Tensors("x", None, (one, other)), {"t": t})
    assert on_arc.norm().item() == pytest.approx(1, abs=1e-4)
    for end, theta in ((0.0, one), (1.0, other)):
        found = averages.slerp(Tensors("x", None, (one, other)), {"t": end})
        assert torch.allclose(found, theta, atol=1e-6)


def test_slerp_of_what_has_no_arc_is_a_line():
    one = torch.tensor([1.0, 2.0])
    for other in (2 * one, -one, torch.zeros(2)):
        found = averages.slerp(Tensors("x", None, (one, other)), {"t": 0.25})
        assert torch.allclose(found, 0.75 * one + 0.25 * other)


def test_model_stock_of_equal_models_is_the_model_and_of_opposite_ones_the_base():
    base, tau = torch.ones(6), torch.arange(6.0)
    its = {"filter_wise": False}
    same = averages.model_stock(Tensors("x", base, (base + tau, base + tau)), its)
    assert torch.allclose(same, base + tau)
    opposite = averages.model_stock(Tensors("x", base, (base + tau, base - tau)), its)
    assert torch.equal(opposite, base)


def test_a_number_of_models_that_a_method_does_not_merge_is_named():
    one = Tensors("x", torch.zeros(2), (torch.ones(2),) * 3)
    for name in ("ties_sv", "slerp", "chat_vector"):
        with pytest.raises(LangmergeError, match=rf"{name} merges exactly 2 models.*not 3"):
            methods.merge_models(METHODS[name], {"x": one}, lambda _, name=name: shared(name))
    with pytest.raises(LangmergeError, match="at least 2 models beside the base, not 1"):
        methods.merge_models(
            METHODS["model_stock"],
            {"x": one._replace(models=one.models[:1])},
            lambda _: shared("model_stock"),
        )


@pytest.mark.parametrize("method", ["ties", "task_arithmetic", "dare_ties", "della", "widen"])
def test_no_order_of_the_models_matters_where_none_is_favoured(method):
    draw = torch.Generator().manual_seed(3)
    base, *thetas = (torch.randint(-8, 9, (5, 4), generator=draw) / 8.0 for _ in range(4))
    one_each = {"weight": (1.0,) * 3, "density": (1.0,) * 3, "epsilon": (0.1,) * 3}
    merged = {
        METHODS[method]
        .tensor(Tensors("x", base, order), shared(method, **one_each))
        .mul(2**16)
        .round()
        .numpy()
        .tobytes()
        for order in (tuple(thetas), tuple(reversed(thetas)))
    }
    assert len(merged) == 1


@pytest.mark.parametrize(
    ("method", "params", "says"),
    [
        ("dare_linear", {"density_ct": 0}, "density 0"),
        ("dare_linear", {"rescale": "l2"}, "unknown rescale 'l2'"),
        ("della", {"density_ct": 0.9}, "epsilon 0.15 with density 0.9"),
        ("della", {"epsilon_ct": -0.1}, "epsilon -0.1"),
        ("breadcrumbs", {"gamma_sft": 1}, "gamma 1"),
        ("slerp", {"t": math.nan}, "t nan"),
        ("widen", {"t": -1}, "t -1"),
        ("linear", {"w_ct": 1, "w_sft": -1}, "add up to 0"),
    ],
)
def test_wrong_settings_are_named(method, params, says):
    trio = [{"x": torch.ones(4) * n} for n in range(3)]
    with pytest.raises(LangmergeError, match=says):
        merging.merge(method, *trio, **params)


@pytest.mark.parametrize("method", METHODS)
def test_default_settings_pass_the_check_before_a_merge(method):
    names = ["model.embed_tokens.weight", "model.layers.0.w.weight", "model.norm.weight"]
    methods.check_settings(METHODS[method], names, lambda _: shared(method), 2)


@pytest.mark.parametrize(
    ("method", "more", "says"),
    [
        ("ties", {"density": (0.5, 0)}, "density 0"),
        ("ties", {"weight": (math.nan, 1)}, "weight 1 nan"),
        ("della", {"epsilon": (0.5, 0.1)}, "epsilon 0.5"),
        ("task_arithmetic", {"weight": (1e39, 1)}, "not finite"),
        ("layer_swapping", {"bottom": 9}, "bottom 9"),
    ],
)
def test_wrong_settings_are_found_before_a_merge(method, more, says):
    its = shared(method, **more)
    with pytest.raises(LangmergeError, match=says):
        methods.check_settings(METHODS[method], ["model.layers.0.w"], lambda _: its, 2)
