"""The algebra of state dicts: what a model learnt, as a vector that can be added and scaled.

``tau = theta - theta_base`` (Ilharco et al., ICLR 2023, arXiv 2212.04089). Every operation is
strict: the tensors must have the same names and shapes, nothing is skipped with a warning.
All arithmetic is in fp32 whatever the storage dtype.
"""

from __future__ import annotations

import math
import numbers
from typing import NamedTuple, TypeAlias

from langmerge.errors import LangmergeError, nearest
from langmerge.later import torch

StateDict: TypeAlias = "dict[str, torch.Tensor]"


class TaskVectors(NamedTuple):
    """Three models and their two differences, in fp32: what all merges of them share.

    A sweep over settings makes it once (`TaskVectors.of`) and hands it to every merge.

    theta_base, theta_ct, theta_sft: tensors by name, of the same names and shapes.
    tau_ct, tau_sft: a model minus the base, tensor by tensor.
    """

    theta_base: StateDict
    theta_ct: StateDict
    theta_sft: StateDict
    tau_ct: StateDict
    tau_sft: StateDict

    @classmethod
    def of(cls, theta_base: StateDict, theta_ct: StateDict, theta_sft: StateDict) -> TaskVectors:
        """The task vectors of continual pre-training and of fine-tuning.

        Raises LangmergeError where names or shapes differ, for tensors that are no floating
        point and for NaN or infinite weights, naming the tensor.
        """
        base = _all_fp32(theta_base, "theta_base")
        ct = _all_fp32(theta_ct, "theta_ct")
        sft = _all_fp32(theta_sft, "theta_sft")
        check_alike(base, ct, "theta_base", "theta_ct")
        check_alike(base, sft, "theta_base", "theta_sft")
        vectors = cls(base, ct, sft, _difference(ct, base), _difference(sft, base))
        _check_finite(vectors)
        return vectors


def task_vector(theta: StateDict, theta_base: StateDict) -> StateDict:
    """``theta - theta_base`` in fp32; raises LangmergeError where names or shapes differ."""
    check_alike(theta_base, theta, "theta_base", "theta")
    return _difference(theta, theta_base)


def add(theta: StateDict, tau: StateDict) -> StateDict:
    """``theta + tau`` in fp32; raises LangmergeError where names or shapes differ."""
    check_alike(theta, tau, "theta", "tau")
    return {name: tensor.float() + tau[name].float() for name, tensor in theta.items()}


def scale(tau: StateDict, factor: float) -> StateDict:
    """``factor * tau`` in fp32."""
    return {name: tensor.float() * factor for name, tensor in tau.items()}


def dot(tau: StateDict, other: StateDict) -> float:
    """The inner product over all tensors, accumulated in fp64."""
    check_alike(tau, other, "tau", "other")
    return sum(tensor_dot(tensor, other[name]) for name, tensor in tau.items())


def norm(tau: StateDict) -> float:
    """The Euclidean norm over all tensors, accumulated in fp64."""
    return math.sqrt(sum(tensor_norm(tensor) ** 2 for tensor in tau.values()))


def cosine(tau: StateDict, other: StateDict) -> float:
    """The cosine of the angle between two task vectors; NaN where one of them is zero."""
    product = norm(tau) * norm(other)
    return dot(tau, other) / product if product else math.nan


def tensor_dot(tensor: torch.Tensor, other: torch.Tensor) -> float:
    """The inner product of two tensors of one shape, accumulated in fp64."""
    # fp64: the squares of small updates (1e-25) vanish in fp32.
    return torch.dot(tensor.flatten().double(), other.flatten().double()).item()


def tensor_norm(tensor: torch.Tensor) -> float:
    """The Euclidean norm of one tensor, accumulated in fp64."""
    return torch.linalg.vector_norm(tensor, dtype=torch.float64).item()


def tensor_rms(tensor: torch.Tensor) -> float:
    """The root mean square of the non-zero entries of one tensor; 0 where there is none."""
    return tensor_norm(tensor) / math.sqrt(max(int(torch.count_nonzero(tensor)), 1))


def check_numbers(**named: float) -> None:
    """Raise LangmergeError unless all values are finite numbers (numpy's included)."""
    for name, value in named.items():
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise LangmergeError(f"{name} {value!r}: has to be a finite number.")


def check_alike(one: StateDict, other: StateDict, one_is: str, other_is: str) -> None:
    """Raise LangmergeError unless both state dicts have the same names and shapes."""
    missing = [name for name in one if name not in other]
    extra = [name for name in other if name not in one]
    if missing or extra:
        name, has, lacks = (
            (missing[0], one_is, other_is) if missing else (extra[0], other_is, one_is)
        )
        there = other if missing else one
        raise LangmergeError(
            f"{has} has a tensor {name!r} that {lacks} lacks "
            f"({len(missing)} missing from {other_is}, {len(extra)} extra in it); "
            f"{nearest(name, there)} Merge models of one architecture, and list tied weights "
            "in all of them or in none."
        )
    for name, tensor in one.items():
        if tensor.shape != other[name].shape:
            raise LangmergeError(
                f"{name}: {one_is} has shape {tuple(tensor.shape)}, {other_is} "
                f"{tuple(other[name].shape)}. Only models of one architecture and one "
                "vocabulary can be merged; bring both to the base's before merging."
            )


def _difference(theta: StateDict, theta_base: StateDict) -> StateDict:
    return {
        name: (theta[name].float() - tensor.float()).contiguous()
        for name, tensor in theta_base.items()
    }


def _all_fp32(theta: StateDict, model: str) -> StateDict:
    for name, tensor in theta.items():
        if not tensor.is_floating_point():
            raise LangmergeError(
                f"{name}: {model} stores {str(tensor.dtype).removeprefix('torch.')}; only "
                "floating-point weights can be merged. Dequantize the model, or drop the buffer."
            )
    return {name: tensor.detach().float() for name, tensor in theta.items()}


def _check_finite(vectors: TaskVectors) -> None:
    for name in vectors.theta_base:
        # A sum is one fast pass and finite unless an entry is not (or, rarely, it overflows).
        if math.isfinite((vectors.tau_ct[name].sum() + vectors.tau_sft[name].sum()).item()):
            continue
        for model in ("theta_base", "theta_ct", "theta_sft", "tau_ct", "tau_sft"):
            tensor = getattr(vectors, model)[name]
            if bad := tensor.numel() - int(torch.isfinite(tensor).sum()):
                raise LangmergeError(
                    f"{name}: {bad} of {tensor.numel()} entries of {model} are NaN or infinite. "
                    "The checkpoint is damaged or its training diverged; make it again."
                )
