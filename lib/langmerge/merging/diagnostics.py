"""What a merge throws away: conflict, trim and election losses of each tensor.

Every entry of a task vector ends in exactly one of three places: *trimmed* (zero after trim),
*outvoted* (it survived trim, but the elected sign is not its own) or *kept*. Finding 2 stands
on these counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from langmerge.errors import LangmergeError, nearest
from langmerge.later import pandas as pd
from langmerge.later import torch
from langmerge.merging import ties as ties_steps
from langmerge.merging.combine import agreeing
from langmerge.merging.methods import METHODS, settings_from, tensors_of
from langmerge.merging.task_vectors import (
    StateDict,
    TaskVectors,
    tensor_dot,
    tensor_norm,
)
from langmerge.merging.tensors import Settings, Tensors, layer_of, surveyed
from langmerge.merging.ties import Ties

MODELS = ("ct", "sft")
FATES = ("kept", "trimmed", "outvoted")
MASSES = ("", "l1_", "l2_")
COUNTED = tuple(f"{mass}{fate}_{model}" for model in MODELS for mass in MASSES for fate in FATES)
COLUMNS = (
    "parameter",
    "layer",
    "module",
    "n",
    "norm_ct",
    "norm_sft",
    "cosine",
    "conflicts",
    "both",
    "conflict_rate",
    *COUNTED,
    "discarded_ct_share",
    "discarded_ct_share_l2",
    "discarded_sft_share",
    "discarded_sft_share_l2",
)


def diagnose(
    theta_base: StateDict, theta_ct: StateDict, theta_sft: StateDict, **params: object
) -> pd.DataFrame:
    """Conflict and losses of a TIES or TIES-SV merge, one row a tensor (columns: `COLUMNS`).

    `params` are those of `ties` and `ties_sv` (the slack is 0 when none is given).

    - ``layer`` is -1 outside the layers; ``module`` embed, attention, mlp, norm or other.
    - ``norm_*`` and ``cosine`` are of the task vectors before trim.
    - ``both`` counts entries where both survive trim, ``conflicts`` those of opposite sign,
      ``conflict_rate`` is their ratio.
    - ``kept_*``, ``trimmed_*``, ``outvoted_*`` count entries and add up to n; with prefix
      ``l1_`` they are sums of abs(tau), with ``l2_`` sums of tau squared, which add up to norm
      squared. A survivor with a weight of 0 has no vote and counts as trimmed.
    - ``discarded_*_share`` is outvoted / (kept + outvoted), by count and by squares.

    Ratios without a denominator are NaN. Raises LangmergeError as `merge` does.
    """
    return diagnose_vectors(TaskVectors.of(theta_base, theta_ct, theta_sft), **params)


def diagnose_vectors(vectors: TaskVectors, **params: object) -> pd.DataFrame:
    """As `diagnose`, from task vectors that a sweep shares."""
    settings, tensors = diagnosed_settings(params), tensors_of(vectors).values()
    found = surveyed(ties_steps.survey, lambda: ((one, settings) for one in tensors))
    rows = [diagnose_tensor(one, its) for one, its in found]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def diagnosed_settings(params: Mapping[str, object]) -> Settings:
    """Settings for `diagnose_tensor` from parameters of `ties` and `ties_sv`; slack 0 by default.

    Raises LangmergeError for an unknown parameter, naming the nearest.
    """
    known = {**METHODS["ties"].defaults, **METHODS["ties_sv"].defaults}
    for name in params:
        if name not in known:
            raise LangmergeError(f"diagnose has no parameter {name!r}: {nearest(name, known)}")
    return settings_from({**METHODS["ties"].defaults, **params})


def diagnose_tensor(tensors: Tensors, settings: Settings) -> dict[str, object]:
    """One row of `diagnose`: the fates of the CT and SFT entries of one tensor.

    settings: as `ties` takes them, with what `ties.survey` found where the variant needs it.
    """
    layer, module = place(tensors.name)
    tau_ct, tau_sft = tensors.task_vectors()
    elected = ties_steps.elect(tensors, Ties.of(settings))
    vote_ct, vote_sft = elected.votes
    norm_ct, norm_sft = tensor_norm(tau_ct), tensor_norm(tau_sft)
    sign_ct, sign_sft = vote_ct.sign(), vote_sft.sign()
    both = int(torch.count_nonzero(sign_ct * sign_sft))
    conflicts = int(torch.count_nonzero(sign_ct * sign_sft < 0))
    return {
        "parameter": tensors.name,
        "layer": layer,
        "module": module,
        "n": tau_ct.numel(),
        "norm_ct": norm_ct,
        "norm_sft": norm_sft,
        "cosine": _ratio(tensor_dot(tau_ct, tau_sft), norm_ct * norm_sft),
        "conflicts": conflicts,
        "both": both,
        "conflict_rate": _ratio(conflicts, both),
        **_fates(tau_ct, vote_ct, elected.sign, "ct"),
        **_fates(tau_sft, vote_sft, elected.sign, "sft"),
    }


def summarize(diagnostics: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Diagnostics summed over tensors, e.g. by=["layer"], ["module"] or () for the whole model.

    Counts and masses are added up, norms, cosine and shares computed anew from the sums. One
    row a group, with the columns of `by` first.
    """
    by = list(by)
    dot = diagnostics["cosine"].fillna(0) * diagnostics["norm_ct"] * diagnostics["norm_sft"]
    table = diagnostics.assign(
        dot=dot, norm_ct=diagnostics["norm_ct"] ** 2, norm_sft=diagnostics["norm_sft"] ** 2
    )
    summed = ["n", "norm_ct", "norm_sft", "dot", "conflicts", "both", *COUNTED]
    if by:
        total = table.groupby(by, sort=True)[summed].sum().reset_index()
    else:
        total = table[summed].sum().to_frame().T
    total[["norm_ct", "norm_sft"]] **= 0.5
    total["cosine"] = total["dot"] / (total["norm_ct"] * total["norm_sft"])
    total["conflict_rate"] = total["conflicts"] / total["both"]
    for model in MODELS:
        for mass, suffix in (("", ""), ("l2_", "_l2")):
            lost, kept = total[f"{mass}outvoted_{model}"], total[f"{mass}kept_{model}"]
            total[f"discarded_{model}_share{suffix}"] = lost / (kept + lost)
    return total[[*by, *(column for column in COLUMNS[3:])]]


def place(parameter: str) -> tuple[int, str]:
    """The layer (-1 for none) and the module of a parameter, from its name."""
    layer = layer_of(parameter)
    return -1 if layer is None else layer, _module(parameter)


def _module(parameter: str) -> str:
    # Norms first: "post_attention_layernorm" is no attention.
    for module, pattern in (
        ("norm", r"norm|\bln_"),
        ("attention", r"attn|attention"),
        ("mlp", r"mlp|feed_forward|ffn"),
        ("embed", r"embed|lm_head|\bwte\b|\bwpe\b"),
    ):
        if re.search(pattern, parameter):
            return module
    return "other"


def _fates(
    tau: torch.Tensor, vote: torch.Tensor, sign: torch.Tensor, model: str
) -> dict[str, float]:
    """Counts and masses of what one model's vector lost where."""
    survives = vote != 0
    kept = agreeing(vote, sign) != 0
    where = {"kept": kept, "trimmed": ~survives, "outvoted": survives & ~kept}
    magnitude = tau.abs()
    fates: dict[str, float] = {}
    for fate, mask in where.items():
        lost = magnitude * mask
        fates[f"{fate}_{model}"] = int(mask.sum())
        fates[f"l1_{fate}_{model}"] = lost.sum(dtype=torch.float64).item()
        fates[f"l2_{fate}_{model}"] = tensor_norm(lost) ** 2
    for mass, suffix in (("", ""), ("l2_", "_l2")):
        outvoted = fates[f"{mass}outvoted_{model}"]
        survivors = fates[f"{mass}kept_{model}"] + outvoted
        fates[f"discarded_{model}_share{suffix}"] = _ratio(outvoted, survivors)
    return fates


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
