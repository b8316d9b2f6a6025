"""Freeze what PEFT, mergekit and the TIES authors' code make of a dozen small random models.

The three are oracles that we did not write and no dependencies of ours. Install them aside:

    pip install --target ORACLES --no-deps peft==0.21.2 mergekit==0.1.5 accelerate
    git clone https://github.com/prateeky2806/ties-merging AUTHORS
    PYTHONPATH=ORACLES python tests/oracles/make_ties_oracles.py AUTHORS/src/utils/merge_utils.py

writes ``ties_oracles.json`` beside this file; ``tests/test_merging_oracles.py`` reads it.
"""

from __future__ import annotations

import argparse
import ast
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import TensorGroup
from peft.utils import merge_utils as peft

StateDict = dict[str, torch.Tensor]
Case = dict[str, object]

SHAPES = ({"a": (3, 5), "b": (7,)}, {"a": (4, 4), "b": (2, 3), "c": (5,)}, {"a": (17,)})
AUTHORS = ("topk_values_mask", "resolve_zero_signs", "resolve_sign", "disjoint_merge")


def main() -> None:
    """Make the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("authors", type=Path, help="merge_utils.py of the TIES authors")
    authors = authors_functions(parser.parse_args().authors)
    cases = [with_oracles(make_case(seed), authors) for seed in range(12)]
    versions = {name: version(name) for name in ("peft", "mergekit", "torch")}
    out = Path(__file__).with_name("ties_oracles.json")
    out.write_text(render(versions, cases))


def render(versions: dict[str, str], cases: list[Case]) -> str:
    """JSON with one line a case, so that a diff shows which one changed."""
    lines = ",\n".join(json.dumps(case) for case in cases)
    return f'{{"versions": {json.dumps(versions)}, "cases": [\n{lines}\n]}}\n'


def authors_functions(path: Path) -> dict[str, Callable]:
    """The four functions of the authors' file, without its imports (wandb, seaborn, ...)."""
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if getattr(node, "name", None) in AUTHORS]
    namespace: dict[str, object] = {"torch": torch}
    exec(compile(tree, str(path), "exec"), namespace)
    return {name: namespace[name] for name in AUTHORS}


def make_case(seed: int) -> Case:
    """Three small models with zeros and exact cancellations among their updates."""
    rng = np.random.default_rng(seed)
    base, ct, sft = {}, {}, {}
    for name, shape in SHAPES[seed % len(SHAPES)].items():
        theta = rng.normal(size=shape).astype(np.float32)
        tau_ct, tau_sft = rng.normal(size=(2, *shape)).astype(np.float32) * 0.3
        fate = rng.random(shape)
        theta[fate < 0.4] = 0  # there theta - theta_base is exact, and so is a cancellation
        tau_sft[fate < 0.2] = -tau_ct[fate < 0.2]
        tau_ct[fate > 0.9] = 0
        base[name], ct[name], sft[name] = (
            torch.from_numpy(theta),
            torch.from_numpy(theta + tau_ct),
            torch.from_numpy(theta + tau_sft),
        )
    return {
        "theta_base": base,
        "theta_ct": ct,
        "theta_sft": sft,
        "density": round(float(rng.uniform(0.2, 0.95)), 3),
        "density_sft": round(float(rng.uniform(0.2, 1.0)), 3),
        "w_ct": round(float(rng.uniform(0.2, 1.5)), 3) if seed % 3 else 1.0,
        "w_sft": round(float(rng.uniform(0.2, 1.5)), 3) if seed % 3 else 1.0,
        "lambda_": round(float(rng.uniform(0.5, 2)), 3) if seed % 2 else 1.0,
    }


def with_oracles(case: Case, authors: dict[str, Callable]) -> Case:
    """The case as plain lists, with what each oracle merges from it."""
    expected = {
        "mergekit ties normalize": mergekit("ties", case, normalize=True),
        "mergekit ties": mergekit("ties", case, normalize=False),
        "mergekit task_arithmetic": mergekit("task_arithmetic", case, normalize=False),
        "peft total": peft_ties(case, "total"),
        "peft frequency": peft_ties(case, "frequency"),
        "authors dis-mean": authors_ties(case, authors, "dis-mean"),
        "authors dis-sum": authors_ties(case, authors, "dis-sum"),
    }
    plain = {
        name: lists(value) if isinstance(value, dict) else value for name, value in case.items()
    }
    return {**plain, "expected": {name: lists(theta) for name, theta in expected.items()}}


def mergekit(method: str, case: Case, normalize: bool) -> StateDict:
    """mergekit on each tensor, with a density for each model."""
    merged = {}
    for name, theta in case["theta_base"].items():
        tensors = [theta.clone(), case["theta_ct"][name].clone(), case["theta_sft"][name].clone()]
        group = TensorGroup.from_tensors(tensors, base_index=0)
        merged[name] = registry.get(method).merge_group(
            group,
            weight={1: case["w_ct"], 2: case["w_sft"]},
            density={1: case["density"], 2: case["density_sft"]},
            normalize=normalize,
            rescale=False,
            int8_mask=False,
            **{"lambda": case["lambda_"]},
        )
    return merged


def peft_ties(case: Case, majority: str) -> StateDict:
    """PEFT on each tensor; it has one density and no lambda."""
    weights = torch.tensor([case["w_ct"], case["w_sft"]])
    return {
        name: theta + peft.ties(taus(case, name), weights, case["density"], majority)
        for name, theta in case["theta_base"].items()
    }


def authors_ties(case: Case, authors: dict[str, Callable], merge: str) -> StateDict:
    """The authors' code on the flattened model; one density, no weights."""
    names = sorted(case["theta_base"])
    flat = [torch.cat([taus(case, name)[model].flatten() for name in names]) for model in (0, 1)]
    trimmed, _ = authors["topk_values_mask"](torch.stack(flat), K=case["density"])
    signs = authors["resolve_sign"](trimmed, "mass")
    tau = authors["disjoint_merge"](trimmed, merge, signs) * case["lambda_"]
    base = [case["theta_base"][name] for name in names]
    parts = tau.split([theta.numel() for theta in base])
    pairs = zip(names, base, parts, strict=True)
    return {name: theta + part.view(theta.shape) for name, theta, part in pairs}


def taus(case: Case, name: str) -> list[torch.Tensor]:
    """The CT and the SFT task vector of one tensor."""
    return [case[model][name] - case["theta_base"][name] for model in ("theta_ct", "theta_sft")]


def lists(theta: StateDict) -> dict[str, list]:
    """A state dict as nested lists, each number as short as fp32 allows."""

    def shorten(values: list | float) -> list | float:
        if isinstance(values, list):
            return [shorten(value) for value in values]
        return float(str(np.float32(values)))

    return {name: shorten(tensor.tolist()) for name, tensor in theta.items()}


if __name__ == "__main__":
    main()
