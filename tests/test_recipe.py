"""Recipes: mergekit's numbers from mergekit's YAML, and what is refused."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st

from langmerge import paths
from langmerge.dtypes import Dtype
from langmerge.errors import LangmergeError
from langmerge.merging import METHODS, hub, recipe, sparsify
from langmerge.merging.methods import merge_models
from langmerge.merging.parameters import Parameter, evaluate
from langmerge.merging.tensors import Tensors

ORACLES = json.loads((Path(__file__).parent / "oracles" / "recipe_oracles.json").read_text())
MODELS = {
    case["model"]: {n: torch.tensor(v, dtype=torch.float32) for n, v in case["weights"].items()}
    for case in ORACLES["cases"]
    if "model" in case
}
RECIPES = {case["name"]: case for case in ORACLES["cases"] if "recipe" in case}
LAYERS = ORACLES["versions"]["config"]["num_hidden_layers"]
TIES = {
    "merge_method": "ties",
    "base_model": "./base",
    "models": [{"model": "./ct"}, {"model": "./sft"}],
    "parameters": {"weight": 0.5},
}


def pattern(shape, generator=None):
    """What stands for a random draw, here as where the oracles were frozen."""
    return (((torch.arange(math.prod(shape)) * 37 + 11) % 101) / 101).reshape(shape)


def merged(text):
    """A recipe on the models of the oracles, in memory."""
    made = recipe.parse(yaml.safe_load(text))
    models = [MODELS[name] for name in made.references()]
    base = MODELS[made.base_model] if made.row.base else None
    tensors = {
        name: Tensors(name, base[name] if base else None, tuple(theta[name] for theta in models))
        for name in models[0]
    }
    return merge_models(made.row, tensors, made.settings(LAYERS))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_of_mergekit_gives_mergekits_numbers(name, monkeypatch):
    monkeypatch.setattr(sparsify.torch, "rand", pattern)
    case = RECIPES[name]
    exact = METHODS[yaml.safe_load(case["recipe"])["merge_method"]].name not in (
        # They sum in another order or precision there: a few units in the last place, and
        # more where Model Stock divides by nearly nothing (opposite rows).
        "linear",
        "slerp",
        "model_stock",
    )
    found = merged(case["recipe"])
    assert found.keys() == case["expected"].keys()
    for tensor, values in case["expected"].items():
        difference = (found[tensor] - torch.tensor(values, dtype=torch.float32)).abs().max()
        assert difference <= (0 if exact else 1e-5), tensor


def test_the_recipes_tell_each_other_apart():
    texts = [json.dumps(case["expected"]) for case in RECIPES.values()]
    assert len(set(texts)) == len(texts)


# --- parameters

NUMBER = Parameter("weight", "weight", float, 1.0, per_model=True)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6), st.floats(0, 1))
def test_a_gradient_is_a_line_through_its_numbers(numbers, position):
    value = evaluate(NUMBER, numbers, "x", position)
    assert min(numbers) - 1e-9 <= value <= max(numbers) + 1e-9
    for place, number in enumerate(numbers):
        at = place / (len(numbers) - 1) if len(numbers) > 1 else 0
        assert evaluate(NUMBER, numbers, "x", at) == pytest.approx(number, abs=1e-9)


def test_the_first_filter_that_fits_counts():
    setting = [
        {"filter": "mlp", "value": 1},
        {"filter": "layers.1", "value": [2, 4]},
        {"value": 5},
        {"filter": "norm", "value": 6},
    ]
    assert evaluate(NUMBER, setting, "layers.1.mlp", 0.5) == 1
    assert evaluate(NUMBER, setting, "layers.1.attn", 0.5) == 3
    assert evaluate(NUMBER, setting, "norm", 0) == 5
    assert evaluate(NUMBER, setting[:1], "norm", 0) is None
    assert evaluate(NUMBER, {"filter": "*", "value": "2.5"}, "norm", 0) == 2.5


def test_words_and_truth_values_are_picked_and_not_interpolated():
    flag = Parameter("normalize", "combine", bool, True)
    assert [evaluate(flag, [True, False], "x", at) for at in (0, 0.5, 1)] == [True, True, False]


def settings_of(raw, tensor="model.layers.0.mlp.up_proj.weight", layers=2):
    return recipe.parse(raw).settings(layers)(tensor)


def test_what_a_recipe_does_not_say_is_mergekits_default():
    found = settings_of(TIES)
    assert found["density"] == (1.0, 1.0)
    assert (found["combine"], found["lambda_"], found["variant"]) == ("mean", 1.0, "weighted")
    assert settings_of({**TIES, "merge_method": "dare_ties"})["combine"] == "sum"
    assert settings_of({**TIES, "merge_method": "dare_ties"})["rescale"] == "l1"
    assert settings_of({**TIES, "merge_method": "task_arithmetic"})["normalize"] is False


def test_our_methods_and_knobs_extend_it():
    slack = {"slack": [0, math.inf], "slack_kind": "additive", "density": 0.5}
    raw = {**TIES, "merge_method": "ties_sv", "parameters": slack}
    found = settings_of(raw, "model.layers.0.w")
    assert (found["slack"], found["slack_kind"], found["weight"]) == (0, "additive", (1.0, 1.0))
    raw = {**TIES, "parameters": {"weight": 1, "variant": "reference", "combine": "sum"}}
    found = settings_of(raw)
    assert (found["variant"], found["combine"]) == ("reference", "sum")
    raw = {**TIES, "merge_method": "layer_swapping", "parameters": {"bottom": 1, "top": 0.5}}
    found = settings_of(raw, layers=6)
    assert (found["bottom"], found["top"], found["layers"]) == (1, 0.5, 6)
    assert settings_of({**TIES, "merge_method": "ties_sum"})["combine"] == "sum"
    raw = {**TIES, "merge_method": "chat_vector", "parameters": None}
    assert settings_of(raw)["weight"] == (1.0, 1.0)
    raw = {**TIES, "merge_method": "dare_linear", "parameters": {"weight": 1, "rescale": "density"}}
    assert settings_of(raw)["rescale"] == "density"
    raw["parameters"]["rescale"] = False
    assert settings_of(raw)["rescale"] == "none"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_written_as_a_recipe(method):
    row = METHODS[method]
    required = {name: 0.5 for name in row.required}
    if method.startswith(("della", "dare")):
        required["density"] = 0.5
    raw = {**TIES, "merge_method": method, "parameters": required}
    if method in ("slerp", "linear", "average", "layer_swapping"):
        raw = {**raw, "base_model": "./ct"}
    made = recipe.parse(raw)
    theta = {n: {"model.layers.0.w": torch.tensor([1.0 + i, -2.0])} for i, n in enumerate("bcs")}
    count = len(made.references())
    base = theta["b"]["model.layers.0.w"] if row.base else None
    tensors = tuple(theta[n]["model.layers.0.w"] for n in "cs")[:count]
    one = Tensors("model.layers.0.w", base, tensors)
    found = merge_models(row, {"model.layers.0.w": one}, made.settings(1))
    assert found["model.layers.0.w"].isfinite().all()


# --- what is refused


def without(key):
    return {name: value for name, value in TIES.items() if name != key}


def with_parameters(**parameters):
    return {**TIES, "parameters": {"weight": 0.5, **parameters}}


def sliced(*ranges):
    slices = [
        {
            "sources": [
                {"model": "./ct", "layer_range": of_ct},
                {"model": "./sft", "layer_range": of_sft},
            ]
        }
        for of_ct, of_sft in ranges
    ]
    return {**without("models"), "slices": slices}


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (None, "it says nothing"),
        ([], "has to be a list of `key: value` lines"),
        ({}, "no `merge_method:`"),
        ({**TIES, "merge_method": "tise"}, "unknown merge_method 'tise': did you mean ties"),
        ({**TIES, "merge_method": "sce"}, "'sce' is mergekit's and not supported here"),
        ({**TIES, "merge_method": ["ties"]}, "has to be a name"),
        ({**TIES, "base": "x"}, "no key 'base': did you mean base_model"),
        ({**TIES, "modules": {}}, "modules: only models with one stack"),
        (
            {**without("models"), "modules": {"default": {"models": [], "parameters": {}}}},
            "'parameters' is mergekit's and not supported here",
        ),
        ({**TIES, "chat_template": "auto"}, "'chat_template' is mergekit's and not supported"),
        ({**TIES, "tokenizer": {}}, "source: Field required"),
        ({**TIES, "tokenizer": {"source": "base", "tokens": {}}}, "'tokens' is mergekit's"),
        ({**TIES, "tokenizer": {"source": "b"}, "tokenizer_source": "b"}, "give either"),
        ({**TIES, "dtype": "int8"}, "dtype 'int8'"),
        ({**TIES, "out_dtype": "bfloat"}, "did you mean bfloat16"),
        ({**TIES, "models": []}, "give either `models:` or `slices:`"),
        ({**TIES, "models": [{"model": "./base"}]}, "merges at least 1 model"),
        ({**TIES, "models": [{"model": "./a", "weight": 1}]}, "models.0: no key 'weight'"),
        ({**TIES, "models": [{"model": "./a"}, {"model": "./a"}]}, "'./a' is given twice"),
        ({**TIES, "models": [{"model": "org/a+org/lora"}]}, "a LoRA is not supported"),
        (without("models"), "give either `models:` or `slices:`"),
        (without("base_model"), "ties needs a `base_model:`"),
        ({**TIES, "merge_method": "ties_sv", "models": [{"model": "./a"}]}, "exactly 2 models"),
        (with_parameters(densty=0.5), "parameters: no parameter 'densty': did you mean density"),
        (with_parameters(slack=1), "no parameter 'slack'"),
        (with_parameters(rescale=True), "no parameter 'rescale'"),
        (with_parameters(combine="mean", normalize=True), "say the same"),
        (with_parameters(density="half"), "density 'half': has to be a number"),
        (
            with_parameters(density={"filtr": "x", "value": 1}),
            "no key 'filtr': did you mean filter",
        ),
        (with_parameters(density={"filter": "x"}), "a filter without a `value:`"),
        (with_parameters(density={"filter": 3, "value": 1}), "filter 3 has to be text"),
        (with_parameters(density=[{"value": 1}, 0.5]), r"0\.5 stands among filters"),
        (with_parameters(density=[[1]]), r"\[1\] is no value"),
        (with_parameters(normalize="perhaps"), "normalize 'perhaps': has to be a bool"),
        ({**TIES, "parameters": [1]}, "parameters"),
        (
            {**TIES, "models": [{"model": "./a", "parameters": {"lambda": 1}}]},
            r"models\[0\]: lambda is one for the whole merge",
        ),
        (sliced(([0, 2], [0, 3])), "layer ranges differ"),
        ({**sliced(([0, 2], [0, 2])), "models": TIES["models"]}, "either `models:` or `slices:`"),
        ({**TIES, "merge_method": "chat_vector"}, "no parameter 'weight': the method has none"),
    ],
)
def test_wrong_recipes_are_explained(raw, says):
    with pytest.raises(LangmergeError, match=says):
        recipe.parse(raw)


@pytest.mark.parametrize(
    ("ranges", "says"),
    [
        ([([0, 2], [0, 2])], "end at layer 2, and the models have 4 layers"),
        ([([1, 4], [1, 4])], "the layers 1 to 4 follow the layer 0"),
        ([([0, 3], [0, 3]), ([2, 4], [2, 4])], "the layers 2 to 4 follow the layer 3"),
    ],
)
def test_slices_that_are_not_the_model_are_refused(ranges, says):
    made = recipe.parse(sliced(*ranges))
    with pytest.raises(LangmergeError, match=says):
        made.settings(4)


def test_a_weight_that_is_missing_is_named_with_tensor_and_model():
    raw = {**TIES, "parameters": {"weight": {"filter": "mlp", "value": 1}}}
    with pytest.raises(LangmergeError, match=r"weight is not given for model\.norm\.w of \./ct"):
        settings_of(raw, "model.norm.w")


def test_a_file_that_is_no_recipe_is_named(tmp_path):
    with pytest.raises(LangmergeError, match="there is no such file"):
        recipe.read(tmp_path / "nothing.yaml")
    file = tmp_path / "r.yaml"
    for text, says in (
        ("merge_method: ties\nmerge_method: slerp", "given twice"),
        ("a: !!python/object/apply:os.system [ls]", "tags are not read"),
        ("merge_method: ties\nmodles: []", "no key 'modles': did you mean models"),
    ):
        file.write_text(text)
        with pytest.raises(LangmergeError, match=re.escape(str(file))) as error:
            recipe.read(file)
        assert says in str(error.value)


# --- models


def checkpoint(folder, layers=3, vocabulary=("a", "b")):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"num_hidden_layers": layers}))
    words = {word: number for number, word in enumerate(vocabulary)}
    Tokenizer(WordLevel(words, unk_token=vocabulary[0])).save(str(folder / "tokenizer.json"))
    return folder


def test_a_job_has_the_models_in_order_and_the_recipe_as_it_is(tmp_path):
    for name in ("base", "ct", "sft"):
        checkpoint(tmp_path / name)
    text = "# mine\n" + yaml.safe_dump({**TIES, "out_dtype": "bfloat16"}).replace(
        "./", f"{tmp_path}/"
    )
    file = tmp_path / "r.yaml"
    file.write_text(text)
    job = recipe.read(file).job()
    assert (job.method, job.base) == ("ties", tmp_path / "base")
    assert job.models == (tmp_path / "ct", tmp_path / "sft")
    assert job.names == tuple(str(tmp_path / name) for name in ("base", "ct", "sft"))
    assert job.out_dtype is Dtype.BF16
    assert job.recipe_text == text
    assert job.settings("model.layers.2.w")["layers"] == 3
    assert recipe.parse({**yaml.safe_load(text), "out_dtype": None}).job().out_dtype is None


def test_a_tokenizer_is_chosen_only_where_all_are_alike(tmp_path):
    for name in ("base", "ct", "sft"):
        checkpoint(tmp_path / name)
    raw = yaml.safe_load(yaml.safe_dump(TIES).replace("./", f"{tmp_path}/"))
    assert recipe.parse({**raw, "tokenizer_source": "base"}).job().tokenizer == tmp_path / "base"
    sft = str(tmp_path / "sft")
    assert recipe.parse({**raw, "tokenizer_source": sft}).job().tokenizer == tmp_path / "sft"
    long = {**raw, "tokenizer": {"source": "union"}}
    assert recipe.parse(long).job().tokenizer == tmp_path / "base"
    checkpoint(tmp_path / "other", vocabulary=("a", "b", "c"))
    raw["models"][1]["model"] = str(tmp_path / "other")
    with pytest.raises(LangmergeError, match=r"another vocabulary \(3 tokens\)"):
        recipe.parse({**raw, "tokenizer_source": "base"}).job()
    (tmp_path / "other" / "tokenizer.json").unlink()
    with pytest.raises(LangmergeError, match=r"other/tokenizer\.json"):
        recipe.parse({**raw, "tokenizer_source": "union"}).job()


def test_a_module_is_what_it_wraps():
    plain = sliced(([0, 2], [0, 2]))
    wrapped = {key: value for key, value in plain.items() if key != "slices"}
    wrapped["modules"] = {"default": {"slices": plain["slices"]}}
    assert recipe.parse(wrapped) == recipe.parse(plain)
    assert recipe.parse({**plain, "name": "mine"}).name == "mine"


def test_a_folder_without_a_configuration_is_named(tmp_path):
    (tmp_path / "base").mkdir()
    raw = yaml.safe_load(yaml.safe_dump(TIES).replace("./", f"{tmp_path}/"))
    with pytest.raises(LangmergeError, match="there is no such folder"):
        recipe.parse(raw).job()
    for name in ("ct", "sft"):
        (tmp_path / name).mkdir()
    with pytest.raises(LangmergeError, match=r"base/config\.json"):
        recipe.parse(raw).job()


class Hub:
    """Stands for the hub: remembers what is asked of it."""

    def __init__(self, monkeypatch, folder, files):
        self.asked = None
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in files.items()]
        info = SimpleNamespace(siblings=siblings)
        api = SimpleNamespace(model_info=lambda *_, **__: info)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)

        def snapshot(name, **options):
            self.asked = (name, options)
            return str(folder)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)


@pytest.mark.parametrize(
    ("files", "wanted", "unwanted", "size"),
    [
        ({"model.safetensors": 7, "pytorch_model.bin": 8, "a.py": 1}, "*.safetensors", "*.bin", 7),
        (
            {"pytorch_model.bin": 8, "original/model.safetensors": 7, "config.json": 2},
            "*.bin",
            "*.safetensors",
            10,
        ),
    ],
)
def test_of_a_hub_repository_come_its_weights_and_no_code(
    monkeypatch, tmp_path, files, wanted, unwanted, size
):
    asked = Hub(monkeypatch, tmp_path, files)
    assert hub.folder_of("org/model@abc123") == tmp_path
    name, options = asked.asked
    assert (name, options["revision"]) == ("org/model", "abc123")
    assert wanted in options["allow_patterns"]
    assert unwanted not in options["allow_patterns"]
    assert not any(pattern.endswith("py") for pattern in options["allow_patterns"])
    assert hub.folder_of("org/model") == tmp_path
    assert asked.asked[1]["revision"] is None
    assert hub.bytes_to_fetch("org/model") == size


def test_a_model_that_the_hub_does_not_give_is_explained(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(hub, "_files", refuse)
    with pytest.raises(LangmergeError, match=r"'org/nothing' is no folder here.*no route"):
        hub.folder_of("org/nothing")


@pytest.mark.parametrize("name", paths.names("recipes"))
def test_every_shipped_recipe_is_one(name):
    made = recipe.read(name)
    assert made.settings(24)("model.layers.3.mlp.up_proj.weight")
    assert all(hub._ID.fullmatch(one.partition("@")[0]) for one in made.references())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{}", "it has none"),
        ("{", "Expecting property name"),
        ('{"num_hidden_layers": "many"}', "invalid literal"),
        (None, "No such file"),
    ],
)
def test_a_configuration_without_its_layers_is_named_with_the_reason(tmp_path, text, why):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(LangmergeError, match=rf"config\.json: .*num_hidden_layers in it \(.*{why}"):
        recipe._layers(tmp_path)
