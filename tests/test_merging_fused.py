"""The compiled loops equal the torch functions bit for bit, ties and all."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langmerge.errors import LangmergeError
from langmerge.merging import kernels, magnitudes, merge_vectors
from langmerge.merging.magnitudes import Cut, NotFinite, Whole
from langmerge.merging.sparsify import model_threshold, trim
from langmerge.merging.sweep import Sweep
from langmerge.merging.task_vectors import TaskVectors

#: Values that tie often, lie on both sides of a round threshold, and are zero or subnormal.
TIED = st.sampled_from([0.0, -0.0, 0.5, -0.5, 0.5000001, 1.0, -1.0, 3e-45, 1.5, -1.5, 1.0001])
VALUES = st.one_of(TIED, st.floats(-4, 4, width=32))
DENSITIES = st.sampled_from([1e-6, 0.1, 0.25, 0.5, 0.7, 0.999, 1.0])


def kept(tau: np.ndarray, cut: Cut) -> np.ndarray:
    """What a cut keeps, in plain words: the oracle of how kernels read it."""
    out, left = np.zeros_like(tau), cut.left
    for i, value in enumerate(tau):
        key = int(np.abs(value).view(np.int32))
        if key > cut.key or (key == cut.key and left != 0):
            out[i] = value
            left -= key == cut.key
    return out


class InPieces(Whole):
    """A tensor in pieces, so that what goes on over their borders is tested too."""

    def slabs(self):
        for start in range(0, len(self.ct), 7):
            yield tuple(None if one is None else one[start : start + 7] for one in self)


@pytest.fixture(params=["sorted", "guessed", "counted"])
def way(request, monkeypatch):
    """Every way to a cut, for tensors of every size."""
    monkeypatch.setattr(magnitudes, "SORTED", 1 << 14 if request.param == "sorted" else 1)
    monkeypatch.setattr(magnitudes, "GUESSES", 0 if request.param == "counted" else 3)
    return request.param


ANY_WAY = settings(
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@ANY_WAY
@given(st.lists(VALUES, min_size=1, max_size=80), DENSITIES, st.sampled_from([0, 1]))
def test_a_cut_keeps_what_trim_keeps(way, values, density, at_least):
    tau = np.array(values, dtype=np.float32)
    other = tau[::-1].copy()
    cuts = magnitudes.tensor_cuts(InPieces(None, tau, other), len(tau), (density, 0.5), at_least)
    for vector, cut, share in zip((tau, other), cuts, (density, 0.5), strict=True):
        expected = trim(torch.from_numpy(vector), share, at_least).numpy()
        np.testing.assert_array_equal(kept(vector, cut), expected)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.lists(VALUES, min_size=1, max_size=30), min_size=1, max_size=4), DENSITIES)
def test_a_model_cut_is_the_models_threshold(tensors, density):
    if density == 1:
        return
    taus = [np.array(values, dtype=np.float32) for values in tensors]
    counts = sum(
        magnitudes.count(InPieces(None, tau, tau), (True, False))[0].astype(np.int64)
        for tau in taus
    )
    search = magnitudes.model_cut(counts, sum(map(len, taus)), density)
    for tau in taus:
        magnitudes.refine(InPieces(None, tau, tau), (search, None))
    expected = model_threshold({str(i): torch.from_numpy(t) for i, t in enumerate(taus)}, density)
    key = search.cut().key
    assert np.uint32(key).view(np.float32) == np.float32(expected)


def test_bf16_pairs_are_counted_as_their_fp32_difference(way):
    rng = np.random.default_rng(0)
    base = torch.from_numpy(rng.normal(0, 0.02, 5000).astype(np.float32)).bfloat16()
    ct = (base.float() + torch.from_numpy(rng.normal(0, 2e-3, 5000).astype(np.float32))).bfloat16()
    bits = [one.view(torch.int16).numpy().view(np.uint16) for one in (base, ct)]
    cut, _ = magnitudes.tensor_cuts(Whole(bits[0], bits[1], bits[1]), 5000, (0.7, 1.0))
    tau = ct.float() - base.float()
    np.testing.assert_array_equal(kept(tau.numpy(), cut), trim(tau, 0.7).numpy())


def test_a_wrong_guess_is_corrected_or_given_up():
    # Ten values of equal share: a sample of one of them alone guesses wrong.
    tau = np.repeat(np.arange(1, 11, dtype=np.float32), 100)

    class Misleading(Whole):
        def sample(self):
            return None, np.full(500, self.wrong, np.float32), np.full(500, 6, np.float32)

    for wrong in (1, 5, 10):
        Misleading.wrong = np.float32(wrong)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(magnitudes, "SORTED", 1)
            cuts = magnitudes.tensor_cuts(Misleading(None, tau, tau), 1000, (0.55, 0.55))
        assert cuts == (Cut(int(np.float32(5).view(np.int32)), 50),) * 2


def test_a_histogram_meets_what_is_no_number(way):
    for bad in (math.nan, math.inf, -math.inf):
        tau = np.array([1.0, bad, 2.0], dtype=np.float32)
        with pytest.raises(NotFinite):
            magnitudes.tensor_cuts(Whole(None, tau, tau), 3, (0.5, 0.5))


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40))
def test_bf16_is_written_to_the_nearest_even(bits):
    values = np.array(bits, dtype=np.uint32).view(np.float32)
    values = np.where(np.isfinite(values), values, np.float32(1.5))
    out = np.empty(len(values), np.uint16)
    one = np.float32(1)
    kernels.average(values, np.zeros_like(values), out, one, one, one)
    expected = torch.from_numpy(values).bfloat16()
    found = torch.from_numpy(out.view(np.int16)).view(torch.bfloat16)
    assert torch.equal(found, expected)


def models(quantum: float, seed: int = 0):
    """Three models whose task vectors tie (a quantum above 0) or hardly ever do (0)."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"embed.weight": (37, 53), "layers.0.b": (1,), "layers.1.c": (5000,), "n": (3, 3)}

    def draw(shape, scale):
        values = torch.randn(shape, generator=generator) * scale
        return (values / quantum).round() * quantum if quantum else values

    base = {name: draw(shape, 1.0) for name, shape in shapes.items()}
    ct = {name: theta + draw(theta.shape, 0.5) for name, theta in base.items()}
    sft = {name: theta + draw(theta.shape, 0.25) for name, theta in base.items()}
    return base, ct, sft


DENSITY_PAIRS = [(0.7, 0.2), (1.0, 0.5), (0.0001, 1.0)]
WEIGHT_PAIRS = [(1.0, 1.0), (0.3, 0.7), (-1.0, 0.5), (0.0, 1.0), (1e-50, 1.0)]


def ties_params(variant):
    weights = WEIGHT_PAIRS if variant != "reference" else [(1.0, 1.0)]
    for (k_ct, k_sft), (w_ct, w_sft), lambda_, combine in itertools.product(
        DENSITY_PAIRS, weights, (1.0, 0.4), ("mean", "sum")
    ):
        yield {
            "density_ct": k_ct,
            "density_sft": k_sft,
            "w_ct": w_ct,
            "w_sft": w_sft,
            "lambda_": lambda_,
            "combine": combine,
            "variant": variant,
        }


def assert_same(sweep, method, params):
    expected = merge_vectors(method, sweep.vectors, **params)
    found = sweep.merge(method, **params)
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), (method, params, name)


@pytest.mark.parametrize("quantum", [0, 0.125])
@pytest.mark.parametrize("variant", ["weighted", "peft", "peft_count", "reference"])
def test_ties_in_a_sweep_equals_the_torch_path(quantum, variant):
    sweep = Sweep(*models(quantum))
    for params in ties_params(variant):
        assert_same(sweep, "ties", params)


@pytest.mark.parametrize("kind", ["multiplicative", "additive"])
@pytest.mark.parametrize("variant", ["weighted", "peft", "reference"])
def test_slack_in_a_sweep_equals_the_torch_path(kind, variant):
    sweep = Sweep(*models(0.125))
    for params in ties_params(variant):
        for slack in (0, 0.5, 3.0, 1e39, math.inf):
            assert_same(sweep, "ties_sv", {**params, "slack": slack, "slack_kind": kind})


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("average", {"alpha": 0.3}),
        ("linear", {"w_ct": 0.3, "w_sft": 0.4}),
        ("linear", {"w_ct": 0.3, "w_sft": 0.4, "normalize": False}),
        ("task_arithmetic", {"w_ct": 0.3, "w_sft": 0.4, "lambda_": 0.7}),
        ("task_arithmetic", {"w_ct": 0.3, "w_sft": 0.4, "normalize": True}),
        ("task_arithmetic", {"w_ct": 1.0, "w_sft": -1.0, "normalize": True}),
        ("chat_vector", {}),
        ("half_sft", {}),
        ("slerp", {"t": 0.3}),
        ("shuffled_ct", {"seed": 3}),
    ],
)
def test_other_methods_in_a_sweep_equal_the_torch_path(method, params):
    assert_same(Sweep(*models(0)), method, params)


def test_a_sweep_complains_as_a_merge_does():
    sweep = Sweep(*models(0))
    for method, params, message in (
        ("average", {"alpha": 2}, "share of CT"),
        ("ties", {"density_ct": 0}, "above 0"),
        ("linear", {"w_ct": 1.0, "w_sft": -1.0}, "add up to 0"),
        ("tiess", {}, "did you mean"),
    ):
        with pytest.raises(LangmergeError, match=message):
            sweep.merge(method, **params)


def test_a_sweep_of_task_vectors_holds_the_same_ones():
    vectors = TaskVectors.of(*models(0))
    sweep = Sweep.of(vectors)
    for mine, theirs in zip(sweep.vectors, vectors, strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("model", ["base", "ct", "sft"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_no_kernel_swallows_what_is_no_number(model, bad):
    n = 300
    arrays = {
        name: np.full(n, value, np.float32) for name, value in {"b": 1, "c": 2, "s": 0.5}.items()
    }
    arrays[{"base": "b", "ct": "c", "sft": "s"}[model]][137] = bad
    base, ct, sft = arrays.values()
    out, one = np.empty(n, np.float32), np.float32(1)
    cuts, left = np.array([0, 0]), np.array([-1, -1])
    scalars = np.ones(kernels.SCALARS, np.float32)
    scalars[kernels.FLOOR] = 0
    for bonus in (None, np.float32(0.1), np.float32(np.inf)):
        for scaled in (None, True):
            how = (scalars, bonus, None, scaled, True)
            largest = kernels.merge_ties(base, ct, sft, base, out, cuts, left, *how)
            assert largest >= kernels.NOT_FINITE
    largest = kernels.add_weighted(base, ct, sft, base, out, one, one, one, one)
    assert largest >= kernels.NOT_FINITE
    if model != "base":
        assert kernels.average(ct, sft, out, one, one, one) >= kernels.NOT_FINITE
