"""What a merge throws away: conflict, trim and election losses of each tensor.

Every entry of a task vector ends in exactly one of three places: *trimmed* (zero after trim),
*outvoted* (it survived trim, but the elected sign is not its own) or *kept*. Finding 2 stands
on these counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import pandas as pd
import torch

from langmerge.errors import LangmergeError, nearest
from langmerge.merging import ties as ties_steps
from langmerge.merging.combine import agreeing
from langmerge.merging.methods import METHODS, ties_settings
from langmerge.merging.task_vectors import (
    StateDict,
    TaskVectors,
    tensor_dot,
    tensor_norm,
)
from langmerge.merging.ties import Elected

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
      ``l1_`` they are sums of |tau|, with ``l2_`` sums of tau squared, which add up to norm
      squared. A survivor with a weight of 0 has no vote and counts as trimmed.
    - ``discarded_*_share`` is outvoted / (kept + outvoted), by count and by squares.

    Ratios without a denominator are NaN. Raises LangmergeError as `merge` does.
    """
    return diagnose_vectors(TaskVectors.of(theta_base, theta_ct, theta_sft), **params)


def diagnose_vectors(vectors: TaskVectors, **params: object) -> pd.DataFrame:
    """As `diagnose`, from task vectors that a sweep shares."""
    known = {**METHODS["ties"].defaults, **METHODS["ties_sv"].defaults}
    for name in params:
        if name not in known:
            raise LangmergeError(f"diagnose has no parameter {name!r}: {nearest(name, known)}")
    elected = ties_steps.elect(vectors, ties_settings(params))
    rows = [_row(one, vectors.tau_ct[one.name], vectors.tau_sft[one.name]) for one in elected]
    return pd.DataFrame(rows, columns=list(COLUMNS))


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
    layer = re.search(r"\.(?:layers|h|blocks)\.(\d+)\.", f".{parameter}")
    return int(layer[1]) if layer else -1, _module(parameter)


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


def _row(elected: Elected, tau_ct: torch.Tensor, tau_sft: torch.Tensor) -> dict[str, object]:
    """The diagnostics of one tensor."""
    layer, module = place(elected.name)
    norm_ct, norm_sft = tensor_norm(tau_ct), tensor_norm(tau_sft)
    sign_ct, sign_sft = elected.vote_ct.sign(), elected.vote_sft.sign()
    both = int(torch.count_nonzero(sign_ct * sign_sft))
    conflicts = int(torch.count_nonzero(sign_ct * sign_sft < 0))
    return {
        "parameter": elected.name,
        "layer": layer,
        "module": module,
        "n": tau_ct.numel(),
        "norm_ct": norm_ct,
        "norm_sft": norm_sft,
        "cosine": _ratio(tensor_dot(tau_ct, tau_sft), norm_ct * norm_sft),
        "conflicts": conflicts,
        "both": both,
        "conflict_rate": _ratio(conflicts, both),
        **_fates(tau_ct, elected.vote_ct, elected.sign, "ct"),
        **_fates(tau_sft, elected.vote_sft, elected.sign, "sft"),
    }


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
