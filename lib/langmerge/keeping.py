"""What a merge keeps of the two updates that it is made of, whatever the method.

TIES has its own count of what it throws away (`merging.diagnose`). Other methods trim, vote or
drop nothing, or do so otherwise; here all are asked the same: how far does the merged update point
along tau_SFT and along tau_CT, and how much of tau_SFT still has its sign?
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from langmerge.cells import Cell
from langmerge.errors import LangmergeError, nearest
from langmerge.merging.task_vectors import StateDict, dot, task_vector
from langmerge.study import Results


def kept(
    results: Results, methods: Sequence[str], ct_tokens: int, setting: str = "tuned"
) -> pd.DataFrame:
    """What merges keep, a row a method, at one CT budget of the first language and seed.

    Columns: method, setting; `sft` and `ct`, the coefficients of the merged update's least-squares
    fit by tau_SFT and tau_CT (1: all of it is in the merge at its own length); `signs`, the part
    of tau_SFT's squared length whose entries have their sign in the merged update. Raises
    LangmergeError for a method that the run has no merge of there.
    """
    language, seed = results.languages[0], results.seeds[0]
    cells = [it for it in results.cells if (it.language, it.seed) == (language, seed)]
    rows = []
    for method in methods:
        cell = _cell(cells, method, ct_tokens, setting)
        ct = _one(cells, "ct", ct_tokens)
        start = cell.load_base().weights
        taus = [task_vector(one.weights(), start) for one in (cell, _one(cells, "sft", 0), ct)]
        rows.append({"method": method, "setting": cell.setting, **shares(*taus)})
    return pd.DataFrame(rows, columns=["method", "setting", "sft", "ct", "signs"])


def shares(tau: StateDict, tau_sft: StateDict, tau_ct: StateDict) -> dict[str, float]:
    """`sft`, `ct` and `signs` of a merged update, as `kept` says, over all tensors."""
    both = (tau_sft, tau_ct)
    gram = np.array([[dot(one, other) for other in both] for one in both])
    target = np.array([dot(tau, one) for one in both])
    sft, ct = np.linalg.lstsq(gram, target, rcond=None)[0]
    agreeing = sum(
        float(tau_sft[name][tau[name] * tau_sft[name] > 0].double().square().sum()) for name in tau
    )
    return {"sft": float(sft), "ct": float(ct), "signs": agreeing / float(gram[0, 0])}


def _cell(cells: list[Cell], method: str, ct_tokens: int, setting: str) -> Cell:
    """The merge of a method; those without CT stand at every budget."""
    for cell in cells:
        there = cell.ct_tokens in (0, ct_tokens) and cell.setting in (setting, "fixed")
        if there and cell.method == method:
            return cell
    known = dict.fromkeys(cell.method for cell in cells if cell.merge)
    raise LangmergeError(
        f"the run has no {method!r} with setting {setting!r} at {ct_tokens:,} CT tokens: "
        f"{nearest(method, known)}"
    )


def _one(cells: list[Cell], method: str, ct_tokens: int) -> Cell:
    return next(it for it in cells if (it.method, it.ct_tokens) == (method, ct_tokens))
