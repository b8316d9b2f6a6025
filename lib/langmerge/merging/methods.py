"""Methods are rows of a table: a name, one pure function, its defaults and its paper.

A function takes one tensor of every model and its settings (`tensors.Tensors`,
`tensors.Settings`) and returns the merged tensor in fp32. Adding a method is one function and
one row; merging in memory, recipes and the streaming engine then know it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping

from langmerge.errors import LangmergeError, nearest
from langmerge.later import torch
from langmerge.merging import averages, interventions, sparsify
from langmerge.merging import ties as ties_steps
from langmerge.merging.combine import weigh
from langmerge.merging.election import check_slack
from langmerge.merging.task_vectors import (
    StateDict,
    TaskVectors,
    check_numbers,
    norm,
    scale,
    tensor_norm,
)
from langmerge.merging.tensors import (
    Passes,
    Settings,
    Survey,
    TensorFunction,
    Tensors,
    count_layers,
    generator,
    seed_from,
    surveyed,
)
from langmerge.merging.ties import Ties
from langmerge.merging.widen import widen

#: Settings with one value for each model, by the parameter that gives CT's and SFT's.
PER_MODEL = {"weight": "w", "density": "density", "epsilon": "epsilon", "gamma": "gamma"}
MODELS = ("ct", "sft")


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of `METHODS`.

    defaults: parameters of `merge`; ``w_ct`` and ``w_sft``, ``density_ct`` and ``density_sft``,
        ... become the tuples ``weight``, ``density``, ... of the function's settings.
    fixed: settings that the row does not leave open.
    survey: what has to be known of the whole model before the first tensor is merged.
    base: whether there has to be a base model.
    models: how many models besides the base, at least and at most (None: any number).
    required: settings that a recipe has to give (mergekit asks for them, too).
    """

    name: str
    tensor: TensorFunction
    defaults: Mapping[str, object]
    paper: str
    summary: str
    fixed: Mapping[str, object] = dataclasses.field(default_factory=dict)
    survey: Survey | None = None
    base: bool = True
    models: tuple[int, int | None] = (2, 2)
    required: tuple[str, ...] = ()

    def parameters(self, params: Mapping[str, object]) -> dict[str, object]:
        """Defaults, replaced by `params`; raises LangmergeError for an unknown parameter."""
        for name in params:
            if name not in self.defaults:
                known = nearest(name, self.defaults) if self.defaults else "it has none."
                raise LangmergeError(f"{self.name} has no parameter {name!r}: {known}")
        return {**self.defaults, **params, **self.fixed}

    def check_models(self, count: int) -> None:
        """Raise LangmergeError unless the method merges so many models (without the base)."""
        least, most = self.models
        if count < least or (most is not None and count > most):
            many = "exactly" if least == most else "at least"
            raise LangmergeError(
                f"{self.name} merges {many} {least} model{'s' * (least > 1)}"
                f"{' beside the base' if self.base else ''}, not {count}."
            )


def average(tensors: Tensors, settings: Settings) -> torch.Tensor:
    """``alpha * theta_ct + (1 - alpha) * theta_sft``; alpha is the share of CT."""
    alpha = settings["alpha"]
    check_alpha(alpha)
    return averages.average(tensors, {"weight": (alpha, 1 - alpha)})


def check_alpha(alpha: float) -> None:
    """Raise LangmergeError unless alpha is a share."""
    check_numbers(alpha=alpha)
    if not 0 <= alpha <= 1:
        raise LangmergeError(f"alpha {alpha}: the share of CT has to be from 0 to 1.")


def ties_sv(tensors: Tensors, settings: Settings) -> torch.Tensor:
    """TIES with an election relaxed in favour of SFT (`election.by_slack`); slack may be inf."""
    check_slack(settings["slack"], settings["slack_kind"])
    return ties_steps.merge(tensors, settings)


def dare_linear(tensors: Tensors, settings: Settings) -> torch.Tensor:
    """Task arithmetic with entries of the task vectors dropped at random."""
    return averages.add_weighted(tensors, dropped_at_random(tensors, settings), settings)


def dare_ties(tensors: Tensors, settings: Settings) -> torch.Tensor:
    """TIES with entries dropped at random instead of by magnitude."""
    return ties_steps.merge_sparse(tensors, dropped_at_random(tensors, settings), settings)


def della_linear(tensors: Tensors, settings: Settings) -> torch.Tensor:
    """Task arithmetic with entries dropped at random, small ones more often."""
    return averages.add_weighted(tensors, dropped_by_rank(tensors, settings), settings)


def della(tensors: Tensors, settings: Settings) -> torch.Tensor:
    """TIES with entries dropped at random, small ones more often."""
    return ties_steps.merge_sparse(tensors, dropped_by_rank(tensors, settings), settings)


def breadcrumbs(tensors: Tensors, settings: Settings) -> torch.Tensor:
    """Task arithmetic without the smallest entries and without the largest ones."""
    return averages.add_weighted(tensors, without_outliers(tensors, settings), settings)


def breadcrumbs_ties(tensors: Tensors, settings: Settings) -> torch.Tensor:
    """TIES without the smallest entries and without the largest ones."""
    return ties_steps.merge_sparse(tensors, without_outliers(tensors, settings), settings)


def without_outliers(tensors: Tensors, settings: Settings) -> list[torch.Tensor]:
    """Breadcrumbs' vectors: neither the largest nor the smallest entries."""
    one_each = zip(tensors.task_vectors(), settings["density"], settings["gamma"], strict=True)
    return [sparsify.without_outliers(tau, density, gamma) for tau, density, gamma in one_each]


def dropped_at_random(tensors: Tensors, settings: Settings) -> list[torch.Tensor]:
    """DARE's vectors: each entry of a model's stays with the probability `density`."""
    sparse = []
    for model, tau in enumerate(tensors.task_vectors()):
        density = settings["density"][model]
        sparsify.check_density(density)
        draw = generator(settings["seed"], model, tensors.name)
        kept = sparsify.drop_at_random(tau, density, draw, settings["rescale"])
        sparse.append(tau if density == 1 else kept)
    return sparse


def dropped_by_rank(tensors: Tensors, settings: Settings) -> list[torch.Tensor]:
    """DELLA's vectors: an entry's probability grows with the rank of its magnitude."""
    sparse = []
    for model, tau in enumerate(tensors.task_vectors()):
        density, epsilon = settings["density"][model], settings["epsilon"][model]
        sparsify.check_density(density)
        if density == 1:
            sparse.append(tau)
            continue
        keep = sparsify.keep_by_rank(tau, density, epsilon)
        draw = generator(settings["seed"], model, tensors.name)
        sparse.append(sparsify.drop_at_random(tau, keep, draw, settings["rescale"]))
    return sparse


def shuffled_ct(tensors: Tensors, settings: Settings) -> torch.Tensor:
    """TIES with tau_ct permuted inside the tensor: its size and shape without its content."""
    tau_ct, tau_sft = tensors.task_vectors()
    tau_ct = shuffled(tau_ct, settings["seed"], tensors.name)
    return ties_steps.merge(tensors._replace(deltas=(tau_ct, tau_sft)), settings)


def norm_matched_ct(tensors: Tensors, settings: Settings) -> torch.Tensor:
    """TIES with tau_ct scaled to the norm of tau_sft over the whole model (see the survey)."""
    return ties_steps.merge(_norm_matched(tensors, settings["factor_ct"]), settings)


def survey_shuffled(passes: Passes) -> Mapping[str, object]:
    """TIES' survey of the shuffled vectors."""

    def shuffled_passes() -> Iterable[tuple[Tensors, Settings]]:
        for tensors, settings in passes():
            tau_ct, tau_sft = tensors.task_vectors()
            tau_ct = shuffled(tau_ct, settings["seed"], tensors.name)
            yield tensors._replace(deltas=(tau_ct, tau_sft)), settings

    return ties_steps.survey(shuffled_passes)


def survey_norms(passes: Passes) -> Mapping[str, object]:
    """The factor that gives tau_ct the norm of tau_sft (1 for no tau_ct), and TIES' survey."""
    squares = [0.0, 0.0]
    for tensors, _ in passes():
        for model, tau in enumerate(tensors.task_vectors()):
            squares[model] += tensor_norm(tau) ** 2
    norm_ct, norm_sft = (square**0.5 for square in squares)
    factor = norm_sft / norm_ct if norm_ct else 1.0

    def matched_passes() -> Iterable[tuple[Tensors, Settings]]:
        for tensors, settings in passes():
            yield _norm_matched(tensors, factor), settings

    return {"factor_ct": factor, **ties_steps.survey(matched_passes)}


def _norm_matched(tensors: Tensors, factor: float) -> Tensors:
    tau_ct, tau_sft = tensors.task_vectors()
    return tensors._replace(deltas=(weigh(tau_ct, factor), tau_sft))


def shuffled(tau: torch.Tensor, seed: int, name: str) -> torch.Tensor:
    """The entries of one tensor of tau_ct in random order, seeded per (seed, tensor name)."""
    draw = torch.Generator().manual_seed(seed_from(seed, "tau_ct", name))
    return tau.flatten()[torch.randperm(tau.numel(), generator=draw)].view(tau.shape)


def with_shuffled_ct(vectors: TaskVectors, seed: int) -> TaskVectors:
    """The same vectors with the entries of each tensor of tau_ct in random order."""
    tau_ct = {name: shuffled(tensor, seed, name) for name, tensor in vectors.tau_ct.items()}
    return _with_tau_ct(vectors, tau_ct)


def with_norm_matched_ct(vectors: TaskVectors) -> TaskVectors:
    """The same vectors with tau_ct scaled to the norm of tau_sft, over the whole model."""
    norm_ct = norm(vectors.tau_ct)
    if norm_ct == 0:
        return vectors
    return _with_tau_ct(vectors, scale(vectors.tau_ct, norm(vectors.tau_sft) / norm_ct))


def _with_tau_ct(vectors: TaskVectors, tau_ct: StateDict) -> TaskVectors:
    theta_ct = {name: theta + tau_ct[name] for name, theta in vectors.theta_base.items()}
    return vectors._replace(tau_ct=tau_ct, theta_ct=theta_ct)


_WEIGHTS: dict[str, object] = {"w_ct": 1.0, "w_sft": 1.0}
_DENSITIES: dict[str, object] = {"density_ct": 0.7, "density_sft": 0.7}
_TIES: dict[str, object] = {
    **_DENSITIES,
    **_WEIGHTS,
    "lambda_": 1.0,
    "combine": "mean",
    "variant": "weighted",
}
_TIES_ELECTION = {**_TIES, "election": None}
_NO_COMBINE = {name: value for name, value in _TIES_ELECTION.items() if name != "combine"}
_ARITHMETIC = {**_WEIGHTS, "lambda_": 1.0, "normalize": False}
_RANDOM: dict[str, object] = {"rescale": "l1", "seed": 0}
_EPSILONS = {"epsilon_ct": 0.15, "epsilon_sft": 0.15}
_GAMMAS = {"gamma_ct": 0.01, "gamma_sft": 0.01}

_PARTS = {f"{model}_{part}": 1.0 for model in MODELS for part in ("embeddings", "layers")}

_TIES_PAPER = "Yadav et al., NeurIPS 2023, https://arxiv.org/abs/2306.01708"
_ARITHMETIC_PAPER = "Ilharco et al., ICLR 2023, https://arxiv.org/abs/2212.04089"
_SOUP_PAPER = "Wortsman et al., ICML 2022, https://arxiv.org/abs/2203.05482"
_DARE_PAPER = "Yu et al., ICML 2024, https://arxiv.org/abs/2311.03099"
_DELLA_PAPER = "Deep et al., 2024, https://arxiv.org/abs/2406.11617"
_BREADCRUMBS_PAPER = "Davari and Belilovsky, ECCV 2024, https://arxiv.org/abs/2312.06795"
_TAO = "Tao et al., EMNLP Findings 2024, https://arxiv.org/abs/2407.03994"

METHODS: dict[str, Method] = {
    row.name: row
    for row in (
        Method(
            "average",
            average,
            {"alpha": 0.5},
            _SOUP_PAPER,
            "weighted average of the two models",
            base=False,
        ),
        Method(
            "linear",
            averages.average,
            {**_WEIGHTS, "normalize": True},
            _SOUP_PAPER,
            "weighted average of any number of models",
            base=False,
            models=(1, None),
            required=("weight",),
        ),
        Method(
            "slerp",
            averages.slerp,
            {"t": 0.5},
            "Shoemake, SIGGRAPH 1985, https://doi.org/10.1145/325165.325242",
            "along the arc from the first model to the second",
            base=False,
            required=("t",),
        ),
        Method(
            "task_arithmetic",
            averages.task_arithmetic,
            _ARITHMETIC,
            _ARITHMETIC_PAPER,
            "base plus the weighted sum of the task vectors",
            models=(1, None),
            required=("weight",),
        ),
        Method(
            "chat_vector",
            averages.task_arithmetic,
            {},
            "Huang et al., ACL 2024, https://arxiv.org/abs/2310.04799",
            "the CT model plus the SFT task vector",
            {"weight": (1.0, 1.0), "lambda_": 1.0},
        ),
        Method(
            "ties",
            ties_steps.merge,
            _TIES_ELECTION,
            _TIES_PAPER,
            "trim, elect a sign, merge",
            survey=ties_steps.survey,
            models=(1, None),
            required=("weight",),
        ),
        Method(
            "ties_mean",
            ties_steps.merge,
            _NO_COMBINE,
            _TIES_PAPER,
            "TIES with the mean of what agrees",
            {"combine": "mean"},
            survey=ties_steps.survey,
            models=(1, None),
        ),
        Method(
            "ties_sum",
            ties_steps.merge,
            _NO_COMBINE,
            _TIES_PAPER,
            "TIES with the sum of what agrees",
            {"combine": "sum"},
            survey=ties_steps.survey,
            models=(1, None),
        ),
        Method(
            "ties_sv",
            ties_sv,
            {**_TIES, "slack": 1.0, "slack_kind": "multiplicative"},
            f"{_TAO}; a slack of our construction",
            "TIES with an election relaxed in favour of SFT",
            survey=ties_steps.survey,
        ),
        Method(
            "dare_linear",
            dare_linear,
            {**_DENSITIES, **_ARITHMETIC, **_RANDOM},
            _DARE_PAPER,
            "task arithmetic with entries dropped at random",
            models=(1, None),
            required=("weight",),
        ),
        Method(
            "dare_ties",
            dare_ties,
            {**_TIES, "combine": "sum", **_RANDOM},
            _DARE_PAPER,
            "TIES with entries dropped at random instead of by magnitude",
            models=(1, None),
            required=("weight",),
        ),
        Method(
            "della_linear",
            della_linear,
            {**_DENSITIES, **_EPSILONS, **_ARITHMETIC, **_RANDOM},
            _DELLA_PAPER,
            "task arithmetic with small entries dropped at random more often",
            models=(1, None),
            required=("weight",),
        ),
        Method(
            "della",
            della,
            {**_TIES, **_EPSILONS, **_RANDOM},
            _DELLA_PAPER,
            "TIES with small entries dropped at random more often",
            models=(1, None),
            required=("weight",),
        ),
        Method(
            "breadcrumbs",
            breadcrumbs,
            {**_DENSITIES, **_GAMMAS, **_ARITHMETIC},
            _BREADCRUMBS_PAPER,
            "task arithmetic without the smallest and the largest entries",
            models=(1, None),
            required=("weight",),
        ),
        Method(
            "breadcrumbs_ties",
            breadcrumbs_ties,
            {**_TIES, **_GAMMAS, "combine": "sum"},
            _BREADCRUMBS_PAPER,
            "TIES without the smallest and the largest entries",
            models=(1, None),
            required=("weight",),
        ),
        Method(
            "model_stock",
            averages.model_stock,
            {"filter_wise": False, "lambda_": 1.0},
            "Jang et al., ECCV 2024, https://arxiv.org/abs/2403.19522",
            "from the base towards the mean, as far as the models agree",
            models=(2, None),
        ),
        Method(
            "widen",
            widen,
            {"t": 1.0, "s": 1.0},
            "Yu et al., 2024, https://arxiv.org/abs/2408.03092",
            "columns weighted by how far magnitude and direction moved",
            models=(1, None),
        ),
        Method(
            "layer_swapping",
            averages.layer_swapping,
            {"bottom": 0.25, "top": 0.25, "transition": 0.0},
            "Bandarkar et al., ICLR 2025, https://arxiv.org/abs/2410.01335",
            "bottom and top layers from CT, those between from SFT",
            base=False,
        ),
        Method(
            "half_sft",
            averages.task_arithmetic,
            {},
            "control",
            "base plus half of the SFT task vector",
            {"weight": (0.0, 0.5), "lambda_": 1.0},
        ),
        Method(
            "scaled_sft",
            averages.task_arithmetic,
            {"lambda_": 0.5},
            "control",
            "base plus the SFT task vector times lambda, nothing of CT",
            {"weight": (0.0, 1.0)},
        ),
        Method(
            "shuffled_ct",
            shuffled_ct,
            {"seed": 0, **_TIES_ELECTION},
            "control",
            "TIES with the CT task vector shuffled inside each tensor",
            survey=survey_shuffled,
        ),
        Method(
            "norm_matched_ct",
            norm_matched_ct,
            _TIES_ELECTION,
            "control",
            "TIES with the CT task vector scaled to the norm of the SFT one",
            survey=survey_norms,
        ),
        Method(
            "rescaled_ct",
            interventions.rescaled_ct,
            {"scale_ct": 1.0, **_TIES},
            "control",
            "TIES with the CT task vector scaled before the election",
            survey=interventions.survey_rescaled,
        ),
        Method(
            "restored_sft",
            interventions.restored_sft,
            _TIES,
            "control",
            "TIES with the out-voted SFT entries added back",
            survey=ties_steps.survey,
        ),
        Method(
            "random_drop",
            interventions.random_drop,
            {"seed": 0, **_TIES},
            "control",
            "as many SFT entries lost at random as TIES out-votes",
            survey=ties_steps.survey,
        ),
        Method(
            "arithmetic_by_part",
            interventions.arithmetic_by_part,
            _PARTS,
            "control",
            "task arithmetic with embeddings and layers weighted apart",
        ),
    )
}


def merge(
    method: str,
    theta_base: StateDict,
    theta_ct: StateDict,
    theta_sft: StateDict,
    *,
    dtype: torch.dtype | None = None,
    **params: object,
) -> StateDict:
    """Merge a CT and an SFT model of one base by a method of the table.

    Computed in fp32 whatever the storage dtypes and returned in `dtype` (None: fp32). Raises
    LangmergeError for an unknown method or parameter (nearest named), and for models that do not
    fit.
    """
    vectors = TaskVectors.of(theta_base, theta_ct, theta_sft)
    return merge_vectors(method, vectors, dtype=dtype, **params)


def merge_vectors(
    method: str, vectors: TaskVectors, *, dtype: torch.dtype | None = None, **params: object
) -> StateDict:
    """As `merge`, from task vectors that a sweep shares."""
    row = method_named(method)
    settings = settings_from(row.parameters(params))
    return merge_models(row, tensors_of(vectors), lambda _: settings, dtype=dtype)


def merge_models(
    row: Method,
    tensors: Mapping[str, Tensors],
    settings: Callable[[str], Settings],
    *,
    dtype: torch.dtype | None = None,
) -> StateDict:
    """Merge tensors held in memory, any number of models: survey, then tensor by tensor.

    settings: those of each tensor by its name. Raises LangmergeError for a number of models
    that the method does not merge.
    """
    for one in tensors.values():
        row.check_models(len(one.models))
        break
    layers = {"layers": count_layers(tensors)}

    def passes() -> Iterable[tuple[Tensors, Settings]]:
        return ((one, {**settings(name), **layers}) for name, one in tensors.items())

    dtype = dtype or torch.float32
    return {one.name: row.tensor(one, its).to(dtype) for one, its in surveyed(row.survey, passes)}


def check_settings(
    row: Method, names: Iterable[str], settings: Callable[[str], Settings], models: int
) -> None:
    """Raise LangmergeError for what a merge of these tensors would raise for its settings.

    Before the first byte is read: everything is merged once with four numbers in place of each
    tensor, so that a method says itself what it cannot do.
    """
    zeros, ones = torch.zeros(2, 2), torch.tensor([[1.0, 2.0], [-3.0, 4.0]])
    small = {name: Tensors(name, zeros if row.base else None, (ones,) * models) for name in names}
    for name, merged in merge_models(row, small, settings).items():
        if not torch.isfinite(merged).all():
            raise not_finite(row, name, settings(name))


def not_finite(row: Method, name: str, settings: Settings) -> LangmergeError:
    """What `check_settings` says of settings that make too large numbers of small ones."""
    return LangmergeError(
        f"{name}: {row.name} makes numbers that are not finite of {dict(settings)}."
    )


def tensors_of(vectors: TaskVectors) -> dict[str, Tensors]:
    """The tensors of a CT and an SFT model, with the task vectors that are known already."""
    return {
        name: Tensors(
            name,
            theta,
            (vectors.theta_ct[name], vectors.theta_sft[name]),
            (vectors.tau_ct[name], vectors.tau_sft[name]),
        )
        for name, theta in vectors.theta_base.items()
    }


def settings_from(params: Mapping[str, object]) -> dict[str, object]:
    """A function's settings from parameters: ``w_ct`` and ``w_sft`` become ``weight``, etc."""
    settings = dict(params)
    for name, short in PER_MODEL.items():
        given = [f"{short}_{model}" for model in MODELS]
        if given[0] in settings:
            if short != "density":  # trim checks densities, and says more
                check_numbers(**{one: settings[one] for one in given})
            settings[name] = tuple(settings.pop(one) for one in given)
    return settings


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
    """The checked settings of a TIES merge; parameters of other kinds (`seed`) are left out.

    params: those of `merge` (``density_ct``, ...); what is not given has TIES' default.
    """
    return Ties.of(settings_from({**_TIES, **params}))
