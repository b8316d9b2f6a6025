"""Methods are rows of a table: a name, one pure function, its defaults and its paper.

A function takes the `TaskVectors` of one (base, CT, SFT) triple and keyword parameters and
returns the merged state dict in fp32. Adding a method is one function and one row.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping

import torch

from langmerge.errors import LangmergeError, nearest
from langmerge.merging import ties as ties_steps
from langmerge.merging.combine import weigh
from langmerge.merging.election import Election, check_slack
from langmerge.merging.task_vectors import (
    StateDict,
    TaskVectors,
    check_numbers,
    norm,
    scale,
)
from langmerge.merging.ties import Ties


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of `METHODS`."""

    name: str
    function: Callable[..., StateDict]
    defaults: Mapping[str, object]
    paper: str
    summary: str
    fixed: Mapping[str, object] = dataclasses.field(default_factory=dict)

    def parameters(self, params: Mapping[str, object]) -> dict[str, object]:
        """Defaults, replaced by `params`; raises LangmergeError for an unknown parameter."""
        for name in params:
            if name not in self.defaults:
                known = nearest(name, self.defaults) if self.defaults else "it has none."
                raise LangmergeError(f"{self.name} has no parameter {name!r}: {known}")
        return {**self.defaults, **params, **self.fixed}


def average(vectors: TaskVectors, alpha: float = 0.5) -> StateDict:
    """``alpha * theta_ct + (1 - alpha) * theta_sft``; alpha is the share of CT."""
    check_numbers(alpha=alpha)
    if not 0 <= alpha <= 1:
        raise LangmergeError(f"alpha {alpha}: the share of CT has to be from 0 to 1.")
    return {
        name: theta * alpha + vectors.theta_sft[name] * (1 - alpha)
        for name, theta in vectors.theta_ct.items()
    }


def task_arithmetic(
    vectors: TaskVectors, w_ct: float = 1.0, w_sft: float = 1.0, lambda_: float = 1.0
) -> StateDict:
    """``theta_base + lambda * (w_ct * tau_ct + w_sft * tau_sft)``."""
    check_numbers(w_ct=w_ct, w_sft=w_sft, lambda_=lambda_)
    return {
        name: theta
        + weigh(weigh(vectors.tau_ct[name], w_ct) + weigh(vectors.tau_sft[name], w_sft), lambda_)
        for name, theta in vectors.theta_base.items()
    }


def chat_vector(vectors: TaskVectors) -> StateDict:
    """``theta_ct + tau_sft``: task arithmetic with all weights 1."""
    return task_arithmetic(vectors)


def half_sft(vectors: TaskVectors) -> StateDict:
    """``theta_base + tau_sft / 2``: what shrinking SFT does without any CT."""
    return task_arithmetic(vectors, w_ct=0.0, w_sft=0.5)


def ties(
    vectors: TaskVectors,
    density_ct: float = 0.7,
    density_sft: float = 0.7,
    w_ct: float = 1.0,
    w_sft: float = 1.0,
    lambda_: float = 1.0,
    combine: str = "mean",
    variant: str = "weighted",
    election: Election | None = None,
) -> StateDict:
    """Trim, elect, merge; `election.VARIANTS` lists the variants.

    `election` replaces the second step: a function of (tau_ct, tau_sft), the trimmed (and, in
    variant "weighted", weighted) vectors of one tensor, that returns signs in {-1, 0, +1}.
    Raises LangmergeError for settings or signs that make no sense.
    """
    settings = Ties(
        density_ct, density_sft, w_ct, w_sft, lambda_, combine, variant, election=election
    )
    return ties_steps.merge(vectors, settings)


def ties_sv(
    vectors: TaskVectors,
    density_ct: float = 0.7,
    density_sft: float = 0.7,
    w_ct: float = 1.0,
    w_sft: float = 1.0,
    lambda_: float = 1.0,
    combine: str = "mean",
    variant: str = "weighted",
    slack: float = 1.0,
    slack_kind: str = "multiplicative",
) -> StateDict:
    """TIES with an election relaxed in favour of SFT (`election.by_slack`); slack may be inf."""
    check_slack(slack, slack_kind)
    settings = Ties(
        density_ct, density_sft, w_ct, w_sft, lambda_, combine, variant, slack, slack_kind
    )
    return ties_steps.merge(vectors, settings)


def shuffled_ct(vectors: TaskVectors, seed: int = 0, **params: object) -> StateDict:
    """TIES with tau_ct permuted inside every tensor: its size and shape without its content."""
    return ties(with_shuffled_ct(vectors, seed), **params)


def norm_matched_ct(vectors: TaskVectors, **params: object) -> StateDict:
    """TIES with tau_ct scaled to the norm of tau_sft before anything else."""
    return ties(with_norm_matched_ct(vectors), **params)


def with_shuffled_ct(vectors: TaskVectors, seed: int) -> TaskVectors:
    """The same vectors with the entries of each tensor of tau_ct in random order.

    Seeded per (seed, tensor name), so that a result does not depend on the order of tensors.
    """
    tau_ct = {}
    for name, tensor in vectors.tau_ct.items():
        generator = torch.Generator().manual_seed(_seed(seed, "tau_ct", name))
        order = torch.randperm(tensor.numel(), generator=generator)
        tau_ct[name] = tensor.flatten()[order].view(tensor.shape)
    return _with_tau_ct(vectors, tau_ct)


def with_norm_matched_ct(vectors: TaskVectors) -> TaskVectors:
    """The same vectors with tau_ct scaled to the norm of tau_sft, over the whole model."""
    norm_ct = norm(vectors.tau_ct)
    if norm_ct == 0:
        return vectors
    return _with_tau_ct(vectors, scale(vectors.tau_ct, norm(vectors.tau_sft) / norm_ct))


_TIES: dict[str, object] = {
    "density_ct": 0.7,
    "density_sft": 0.7,
    "w_ct": 1.0,
    "w_sft": 1.0,
    "lambda_": 1.0,
    "combine": "mean",
    "variant": "weighted",
}
_TIES_ELECTION = {**_TIES, "election": None}
_NO_COMBINE = {name: value for name, value in _TIES_ELECTION.items() if name != "combine"}

_TIES_PAPER = "Yadav et al., NeurIPS 2023, https://arxiv.org/abs/2306.01708"
_ARITHMETIC_PAPER = "Ilharco et al., ICLR 2023, https://arxiv.org/abs/2212.04089"
_TAO = "Tao et al., EMNLP Findings 2024, https://arxiv.org/abs/2407.03994"

METHODS: dict[str, Method] = {
    row.name: row
    for row in (
        Method(
            "average",
            average,
            {"alpha": 0.5},
            "Wortsman et al., ICML 2022, https://arxiv.org/abs/2203.05482",
            "weighted average of the two models",
        ),
        Method(
            "task_arithmetic",
            task_arithmetic,
            {"w_ct": 1.0, "w_sft": 1.0, "lambda_": 1.0},
            _ARITHMETIC_PAPER,
            "base plus the weighted sum of the task vectors",
        ),
        Method(
            "chat_vector",
            chat_vector,
            {},
            "Huang et al., ACL 2024, https://arxiv.org/abs/2310.04799",
            "the CT model plus the SFT task vector",
        ),
        Method("ties", ties, _TIES_ELECTION, _TIES_PAPER, "trim, elect a sign, merge"),
        Method(
            "ties_mean",
            ties,
            _NO_COMBINE,
            _TIES_PAPER,
            "TIES with the mean of what agrees",
            {"combine": "mean"},
        ),
        Method(
            "ties_sum",
            ties,
            _NO_COMBINE,
            _TIES_PAPER,
            "TIES with the sum of what agrees",
            {"combine": "sum"},
        ),
        Method(
            "ties_sv",
            ties_sv,
            {**_TIES, "slack": 1.0, "slack_kind": "multiplicative"},
            f"{_TAO}; a slack of our construction",
            "TIES with an election relaxed in favour of SFT",
        ),
        Method("half_sft", half_sft, {}, "control", "base plus half of the SFT task vector"),
        Method(
            "shuffled_ct",
            shuffled_ct,
            {"seed": 0, **_TIES_ELECTION},
            "control",
            "TIES with the CT task vector shuffled inside each tensor",
        ),
        Method(
            "norm_matched_ct",
            norm_matched_ct,
            _TIES_ELECTION,
            "control",
            "TIES with the CT task vector scaled to the norm of the SFT one",
        ),
    )
}


def merge(
    method: str,
    theta_base: StateDict,
    theta_ct: StateDict,
    theta_sft: StateDict,
    *,
    dtype: torch.dtype = torch.float32,
    **params: object,
) -> StateDict:
    """Merge a CT and an SFT model of one base by a method of the table.

    Computed in fp32 whatever the storage dtypes and returned in `dtype`. Raises LangmergeError
    for an unknown method or parameter (nearest named), and for models that do not fit.
    """
    vectors = TaskVectors.of(theta_base, theta_ct, theta_sft)
    return merge_vectors(method, vectors, dtype=dtype, **params)


def merge_vectors(
    method: str, vectors: TaskVectors, *, dtype: torch.dtype = torch.float32, **params: object
) -> StateDict:
    """As `merge`, from task vectors that a sweep shares."""
    row = method_named(method)
    merged = row.function(vectors, **row.parameters(params))
    return {name: tensor.to(dtype) for name, tensor in merged.items()}


def method_named(name: str) -> Method:
    """The method of that name; raises LangmergeError naming the nearest one."""
    if name not in METHODS:
        raise LangmergeError(f"unknown merging method {name!r}: {nearest(str(name), METHODS)}")
    return METHODS[name]


def describe(method: str, **params: object) -> str:
    """The variant in words, e.g. "per-tensor, weighted, mean"; "" for methods without TIES."""
    row = method_named(method)
    used = row.parameters(params)
    if "variant" not in used:
        return ""
    settings = ties_settings(used)
    words = [settings.row.describe(settings.combine)]
    if settings.slack is not None and settings.slack_kind == "additive":
        words.append("additive slack")
    if settings.election is not None:
        words.append("own election")
    return ", ".join(words)


def ties_settings(params: Mapping[str, object]) -> Ties:
    """The checked settings of a TIES merge; parameters of other kinds (`seed`) are left out."""
    known = {field.name for field in dataclasses.fields(Ties)}
    return Ties(**{name: value for name, value in params.items() if name in known})


def _with_tau_ct(vectors: TaskVectors, tau_ct: StateDict) -> TaskVectors:
    theta_ct = {name: theta + tau_ct[name] for name, theta in vectors.theta_base.items()}
    return vectors._replace(tau_ct=tau_ct, theta_ct=theta_ct)


def _seed(*parts: object) -> int:
    """A seed from everything that a random draw depends on."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
