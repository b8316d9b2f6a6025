"""Merges without an election: weighted sums, SLERP, Model Stock and layer swapping.

Each is a pure function of one tensor of every model (`Tensors`) and its settings; see the table
in `methods` for the papers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from langmerge.errors import LangmergeError
from langmerge.later import torch
from langmerge.merging.combine import weigh, weighted_sum
from langmerge.merging.task_vectors import check_numbers, tensor_dot, tensor_norm
from langmerge.merging.tensors import Settings, Tensors, layer_of

#: Vectors whose cosine is beyond this are interpolated on the line between them, as in mergekit.
_COLLINEAR = 0.9995


def average(tensors: Tensors, settings: Settings) -> torch.Tensor:
    """``sum_i w_i * theta_i``, divided by ``sum_i w_i`` where `normalize` says so."""
    weights = checked_weights(settings)
    # 1 * theta is a multiplication here: an average at its end is a tensor of its own.
    total = tensors.models[0] * weights[0]
    for theta, weight in zip(tensors.models[1:], weights[1:], strict=True):
        total.add_(theta * weight)
    if settings.get("normalize"):
        check_total(weights, _total(weights))
        total.div_(_total(weights))
    return total


def check_total(weights: Sequence[float], total: float) -> None:
    """Raise LangmergeError for weights whose sum a mean cannot be divided by."""
    if abs(total) < 1e-8:
        raise LangmergeError(
            f"the weights {', '.join(map(str, weights))} add up to 0 and have no mean: give "
            "others, or `normalize: false`."
        )


def task_arithmetic(tensors: Tensors, settings: Settings) -> torch.Tensor:
    """``theta_base + lambda * sum_i w_i * tau_i``; normalize divides by ``sum_i w_i``."""
    return add_weighted(tensors, tensors.task_vectors(), settings)


def add_weighted(
    tensors: Tensors, taus: Sequence[torch.Tensor], settings: Settings
) -> torch.Tensor:
    """The base plus lambda times the weighted sum of these task vectors."""
    weights, lambda_ = checked_weights(settings), settings["lambda_"]
    check_numbers(lambda_=lambda_)
    tau = weighted_sum(taus, weights)
    if settings.get("normalize"):
        # Weights that cancel have no mean; mergekit takes the sum then.
        total = _total(weights)
        tau.div_(total if abs(total) >= 1e-8 else 1.0)
    return tensors.base + weigh(tau, lambda_)


def slerp(tensors: Tensors, settings: Settings) -> torch.Tensor:
    """From the first model (t = 0) to the second (t = 1) along the arc between them.

    With the angle omega between the two tensors seen as vectors:
    ``(sin((1 - t) omega) * theta_1 + sin(t omega) * theta_2) / sin(omega)``; on the straight line
    where they are collinear or one of them is zero. Raises LangmergeError unless there are two.
    """
    t = settings["t"]
    check_numbers(t=t)
    first, second = tensors.models
    lengths = tensor_norm(first) * tensor_norm(second)
    cosine = tensor_dot(first, second) / lengths if lengths else 1.0
    if abs(cosine) > _COLLINEAR:
        return first * (1 - t) + second * t
    omega = math.acos(cosine)
    share = math.sin((1 - t) * omega), math.sin(t * omega)
    return (first * share[0] + second * share[1]).div_(math.sin(omega))


def model_stock(tensors: Tensors, settings: Settings) -> torch.Tensor:
    """The base moved towards the mean of the models, as far as their directions agree.

    With N models and the mean cosine c between their task vectors:
    ``t = N c / (1 + (N - 1) c)``, ``theta = t * mean + (1 - t) * theta_base``. The base stays
    where 1 + (N - 1) c is 0. filter_wise: one t a row of a matrix instead of one a tensor.
    lambda_: our addition, a factor of what is added to the base; 1 is the paper's.
    """
    taus = tensors.task_vectors()
    if settings["filter_wise"]:
        taus = [tau.reshape(-1, tau.shape[-1] if tau.ndim else 1) for tau in taus]
    else:
        taus = [tau.reshape(1, -1) for tau in taus]
    n = len(taus)
    pairs = [(a, b) for number, a in enumerate(taus) for b in taus[number + 1 :]]
    cosine = sum(_row_cosines(a, b) for a, b in pairs) / len(pairs)
    denominator = 1 + (n - 1) * cosine
    safe = torch.where(denominator.abs() < 1e-6, torch.inf, denominator)
    step = (n * cosine / safe).float()
    tau = weighted_sum(taus, (1.0,) * n).div_(n).mul_(step)
    lambda_ = settings.get("lambda_", 1.0)
    check_numbers(lambda_=lambda_)
    return tensors.base + weigh(tau, lambda_).reshape(tensors.base.shape)


def _row_cosines(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The cosine of each pair of rows as a column, in fp64; 0 where a row is zero."""
    one, other = one.double(), other.double()
    lengths = one.norm(dim=1, keepdim=True) * other.norm(dim=1, keepdim=True)
    dots = (one * other).sum(dim=1, keepdim=True)
    return (dots / torch.where(lengths > 0, lengths, 1)).clamp_(-1, 1)


def layer_swapping(tensors: Tensors, settings: Settings) -> torch.Tensor:
    """Bottom and top layers from CT, those between from SFT, `transition` layers averaged.

    What is outside the layers (embeddings, final norm, head) lies below the bottom or above the
    top and is CT's, which is our choice. bottom, top, transition: a number of layers or, below 1,
    a share of them; the transition lies on the SFT side of each border.
    """
    theta_ct, theta_sft = tensors.models
    layers, layer = settings["layers"], layer_of(tensors.name)
    counts = [_layers(settings, name, layers) for name in ("bottom", "top", "transition")]
    bottom, top, transition = counts
    if bottom + top > layers:
        raise LangmergeError(
            f"bottom {bottom} and top {top}: the model has {layers} layers. Leave some for SFT."
        )
    if layer is None:
        return theta_ct.clone()
    depth = min(layer - bottom, layers - 1 - top - layer)
    if depth < 0:
        return theta_ct.clone()
    return (theta_ct + theta_sft).div_(2) if depth < transition else theta_sft.clone()


def _layers(settings: Settings, name: str, layers: int) -> int:
    value = settings[name]
    check_numbers(**{name: value})
    if value < 0 or (value >= 1 and value != int(value)):
        raise LangmergeError(
            f"{name} {value}: has to be a number of layers (0, 1, 2, ...) or a share below 1."
        )
    return int(value) if value >= 1 else round(value * layers)


def checked_weights(settings: Settings) -> tuple[float, ...]:
    """The models' weights; LangmergeError unless they are finite numbers."""
    weights = settings["weight"]
    check_numbers(**{f"weight {number}": weight for number, weight in enumerate(weights, 1)})
    return weights


def _total(weights: Sequence[float]) -> float:
    """The sum in fp32, in which the weights are applied."""
    return torch.tensor(weights, dtype=torch.float32).sum().item()
