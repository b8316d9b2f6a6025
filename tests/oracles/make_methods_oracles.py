"""Freeze what mergekit and PEFT make of small random tensors and of a tiny checkpoint.

Both are oracles that we did not write and no dependencies of ours. Install them aside, as
``make_ties_oracles.py`` says, and run ``PYTHONPATH=ORACLES python
tests/oracles/make_methods_oracles.py``: it writes ``methods_oracles.json`` and
``recipe_oracles.json`` beside this file (or into another folder, given as its argument), which
``tests/test_merging_methods.py`` and ``tests/test_recipe.py`` read. Where the oracles are
installed beside us, ``tests/test_oracles.py`` makes both anew and compares.

Random methods draw from `pattern` in place of a generator, here and in the tests, so that what
is compared is everything but the draw.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from importlib.metadata import version
from pathlib import Path

import mergekit.sparsify
import numpy as np
import torch
import yaml
from make_ties_oracles import lists
from mergekit.config import MergeConfiguration
from mergekit.merge import MergeOptions, run_merge
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import TensorGroup
from peft.utils import merge_utils as peft
from safetensors.torch import load_file, save_file

SHAPES = ((3, 5), (7,), (6, 4))
ARITHMETIC = ("task_arithmetic", "dare_linear", "della_linear", "breadcrumbs")
ELECTIONS = ("ties", "dare_ties", "della", "breadcrumbs_ties")
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4,
    "intermediate_size": 6,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "vocab_size": 8,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}
TWO = """
models:
  - model: BASE
  - model: CT
    parameters: {weight: 0.3, density: 0.6}
  - model: SFT
    parameters: {weight: 0.7, density: 0.4}
base_model: BASE
dtype: float32
"""
RECIPES = {
    "ties": "merge_method: ties" + TWO + "parameters: {normalize: true, int8_mask: true}",
    "ties sum": "merge_method: ties" + TWO + "parameters: {normalize: false, lambda: 0.8}",
    "dare_ties": "merge_method: dare_ties" + TWO,
    "dare_linear": "merge_method: dare_linear" + TWO + "parameters: {rescale: false}",
    "della": "merge_method: della" + TWO + "parameters: {epsilon: 0.2}",
    "della_linear": "merge_method: della_linear" + TWO + "parameters: {lambda: [1.0, 0.5]}",
    "breadcrumbs": "merge_method: breadcrumbs" + TWO + "parameters: {gamma: 0.1}",
    "gradients and filters": """
merge_method: ties
base_model: BASE
models:
  - model: CT
    parameters:
      weight: [0.0, 0.5, 1.0]
      density:
        - {filter: mlp, value: [0.2, 0.9]}
        - {filter: q_proj, value: 0.5}
        - value: 0.8
  - model: SFT
    parameters:
      weight:
        - {filter: layers.1, value: 0.25}
      density: "0.75"
parameters:
  weight: [1.0, 0.1]
  lambda:
    - {filter: "*", value: [1, 2, 1]}
  normalize: [true, false]
dtype: float32
""",
    "task_arithmetic": """
merge_method: task_arithmetic
base_model: BASE
models:
  - model: CT
  - model: SFT
  - model: THIRD
    parameters: {weight: [0.2, 0.8]}
parameters: {weight: 0.5, normalize: true}
""",
    "linear": """
merge_method: linear
models:
  - {model: CT, parameters: {weight: 1.0}}
  - {model: SFT, parameters: {weight: [0.5, 2.0]}}
  - {model: THIRD, parameters: {weight: 0.25}}
out_dtype: float32
""",
    "linear with a base": """
merge_method: linear
base_model: BASE
models:
  - model: CT
  - {model: SFT, parameters: {weight: 0.25}}
parameters: {weight: 1.5, normalize: false}
""",
    "slerp": """
merge_method: slerp
base_model: CT
slices:
  - sources:
      - {model: CT, layer_range: [0, 3]}
      - {model: SFT, layer_range: [0, 3]}
parameters:
  t:
    - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
    - {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}
    - value: 0.5
dtype: float32
""",
    "slerp to the first listed": """
merge_method: slerp
base_model: CT
models: [{model: SFT}, {model: CT}]
parameters: {t: 0.2}
""",
    "model_stock": """
merge_method: model_stock
base_model: BASE
models: [{model: CT}, {model: SFT}, {model: THIRD}]
""",
    "model_stock by rows": """
merge_method: model_stock
base_model: BASE
models: [{model: CT}, {model: SFT}]
parameters: {filter_wise: true}
""",
    "slices": """
merge_method: ties
base_model: BASE
slices:
  - sources:
      - {model: CT, layer_range: [0, 2], parameters: {weight: [0.1, 0.9]}}
      - {model: SFT, layer_range: [0, 2], parameters: {weight: 0.6}}
      - {model: BASE, layer_range: [0, 2]}
    parameters: {density: 0.5}
  - sources:
      - {model: CT, layer_range: [2, 3]}
      - {model: SFT, layer_range: [2, 3]}
      - {model: BASE, layer_range: [2, 3]}
    parameters: {weight: [0.3, 0.4], lambda: 1.5}
parameters: {density: 0.7}
dtype: float32
""",
}


def main() -> None:
    """Make the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", default=Path(__file__).parent)
    out = parser.parse_args().out
    mergekit.sparsify.torch.bernoulli = lambda keep: (pattern(keep.shape) < keep).to(keep.dtype)
    versions = {name: version(name) for name in ("peft", "mergekit", "torch")}
    cases = [tensor_case(seed) for seed in range(9)]
    write(out / "methods_oracles.json", versions, cases)
    models = {name: tiny_llama(seed) for seed, name in enumerate(("BASE", "CT", "SFT", "THIRD"))}
    recipes = [
        {"name": name, "recipe": text, "expected": lists(run(text, models))}
        for name, text in RECIPES.items()
    ]
    plain = [{"model": name, "weights": lists(theta)} for name, theta in models.items()]
    write(out / "recipe_oracles.json", {**versions, "config": LLAMA}, [*plain, *recipes])


def write(path: Path, versions: dict, cases: list[dict]) -> None:
    """JSON with one line a case, so that a diff shows which one changed."""
    lines = ",\n".join(json.dumps(case) for case in cases)
    text = f'{{"versions": {json.dumps(versions)}, "cases": [\n{lines}\n]}}\n'
    path.write_text(text)


def pattern(shape: tuple[int, ...], generator: object = None) -> torch.Tensor:
    """Numbers from 0 to 1 that stand for a random draw."""
    n = int(np.prod(shape))
    return (((torch.arange(n) * 37 + 11) % 101) / 101).reshape(shape)


def tensor_case(seed: int) -> dict[str, object]:
    """One tensor of a base and of two to four models, and what each method makes of it."""
    rng = np.random.default_rng(seed)
    shape, count = SHAPES[seed % 3], 2 + seed // 3
    base = rng.normal(size=shape).astype(np.float32)
    models = [base + rng.normal(size=shape).astype(np.float32) * 0.4 for _ in range(count)]
    case = {
        "weight": [round(float(w), 3) for w in rng.uniform(0.2, 1.5, count)],
        "density": [round(float(d), 3) for d in rng.uniform(0.3, 0.7, count)],
        "epsilon": 0.2,
        "gamma": 0.15,
        "lambda": round(float(rng.uniform(0.5, 2)), 3),
        "t": round(float(rng.uniform(0, 1)), 3),
    }
    base, *models = (torch.from_numpy(theta) for theta in (base, *models))
    expected = {**mergekits(base, models, case), **pefts(base, models, case)}
    tensors = {"base": base, **{f"model {n}": theta for n, theta in enumerate(models)}}
    return {**case, "tensors": lists(tensors), "expected": lists(expected)}


def mergekits(base: torch.Tensor, models: list, case: dict) -> dict[str, torch.Tensor]:
    """What mergekit makes of one tensor, by method and options."""
    found = {}
    count = len(models)
    group = TensorGroup.from_tensors([base, *models], base_index=0)
    each = {
        "weight": dict(enumerate(case["weight"], 1)),
        "density": dict(enumerate(case["density"], 1)),
    }
    for method in (*ARITHMETIC, *ELECTIONS):
        for rescale in (False, True) if method.startswith(("da", "de")) else (False,):
            for normalize in (False, True):
                more = {}
                if method.startswith("della"):
                    more["epsilon"] = dict.fromkeys(range(1, count + 1), case["epsilon"])
                if method.startswith("breadcrumbs"):
                    more["gamma"] = dict.fromkeys(range(1, count + 1), case["gamma"])
                found[f"mergekit {method} {normalize:d} {rescale:d}"] = registry.get(
                    method
                ).merge_group(
                    group,
                    **each,
                    normalize=normalize,
                    rescale=rescale,
                    int8_mask=False,
                    **{"lambda": case["lambda"]},
                    **more,
                )
    for filter_wise in (False, True):
        found[f"mergekit model_stock {filter_wise:d}"] = call(
            "model_stock", group, filter_wise=filter_wise
        )
    without_base = TensorGroup.from_tensors(models)
    for normalize in (False, True):
        found[f"mergekit linear {normalize:d}"] = call(
            "linear", without_base, weight=dict(enumerate(case["weight"])), normalize=normalize
        )
    pair = TensorGroup.from_tensors(models[:2], base_index=0)
    found["mergekit slerp"] = call("slerp", pair, t=case["t"])
    return found


def call(method: str, group: TensorGroup, **parameters: object) -> torch.Tensor:
    """A method of mergekit on one tensor, as its executor calls it."""
    from mergekit.merge_methods.base import PerInputValues

    bound = {
        name: PerInputValues(list(value.items())) if isinstance(value, dict) else value
        for name, value in parameters.items()
    }
    (merged,) = registry.get(method)._execute_resolved((group,), [bound])
    return merged


def pefts(base: torch.Tensor, models: list, case: dict) -> dict[str, torch.Tensor]:
    """What PEFT makes of one tensor; it has one density and no lambda."""
    taus = [theta - base for theta in models]
    weights, density = torch.tensor(case["weight"]), case["density"][0]
    peft.torch.bernoulli = lambda keep: (pattern(keep.shape) < keep).to(keep.dtype)
    return {
        "peft task_arithmetic": base + peft.task_arithmetic(taus, weights),
        "peft ties total": base + peft.ties(taus, weights, density, "total"),
        "peft ties frequency": base + peft.ties(taus, weights, density, "frequency"),
        "peft dare_linear": base + peft.dare_linear(taus, weights, density),
        "peft dare_ties total": base + peft.dare_ties(taus, weights, density, "total"),
        "peft dare_ties frequency": base + peft.dare_ties(taus, weights, density, "frequency"),
    }


def tiny_llama(seed: int) -> dict[str, torch.Tensor]:
    """Random weights of the tiny model; all but the first are updates of the base."""
    size, inner, words = (LLAMA[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
    shapes = {"model.embed_tokens.weight": (words, size)}
    for layer in range(LLAMA["num_hidden_layers"]):
        place = f"model.layers.{layer}"
        for name in "qkvo":
            shapes[f"{place}.self_attn.{name}_proj.weight"] = (size, size)
        for name in ("gate", "up"):
            shapes[f"{place}.mlp.{name}_proj.weight"] = (inner, size)
        shapes[f"{place}.mlp.down_proj.weight"] = (size, inner)
        for name in ("input", "post_attention"):
            shapes[f"{place}.{name}_layernorm.weight"] = (size,)
    shapes |= {"model.norm.weight": (size,), "lm_head.weight": (words, size)}
    base, update = np.random.default_rng(0), np.random.default_rng(seed)
    theta = {name: base.normal(size=shape) for name, shape in shapes.items()}
    if seed:
        theta = {name: it + 0.4 * update.normal(size=it.shape) for name, it in theta.items()}
    # Short in the file, exact again when they are read, and no two updates of one magnitude:
    # mergekit sorts unstably, so that which of them it keeps is arbitrary.
    return {name: torch.tensor(it.round(5), dtype=torch.float32) for name, it in theta.items()}


def run(text: str, models: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """mergekit's merge of checkpoints on disk by a recipe."""
    with tempfile.TemporaryDirectory() as folder:
        for name, theta in models.items():
            place = Path(folder) / name
            place.mkdir()
            save_file(theta, place / "model.safetensors", metadata={"format": "pt"})
            (place / "config.json").write_text(json.dumps(LLAMA))
        raw = yaml.safe_load(at(text, Path(folder)))
        out = Path(folder) / "OUT"
        config = MergeConfiguration.model_validate(raw)
        run_merge(config, str(out), MergeOptions(copy_tokenizer=False, quiet=True))
        merged = {}
        for shard in out.glob("*.safetensors"):
            merged |= load_file(shard)
    return {name: merged[name] for name in models["BASE"]}


def at(text: str, folder: Path) -> str:
    """The recipe with its models in a folder."""
    for name in ("BASE", "CT", "SFT", "THIRD"):
        text = text.replace(f"model: {name}", f"model: {folder / name}")
    return text


if __name__ == "__main__":
    main()
