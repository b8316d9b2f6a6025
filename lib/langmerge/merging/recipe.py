"""Recipes: a merge written down in YAML, in mergekit's schema, and what extends it.

A mergekit recipe for a method that both have runs unchanged. What is not supported is refused by
name, and no key is ignored in silence. ::

    merge_method: ties_sv
    base_model: meta-llama/Llama-2-7b-hf
    models:
      - model: pkupie/llama-2-7b-tam      # CT first
        parameters: {weight: 0.5, density: 0.7}
      - model: pkupie/llama-2-7b-flan     # then SFT
        parameters: {weight: 0.5, density: 0.7}
    parameters: {slack: 1.0}
    out_dtype: bfloat16
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from langmerge import paths
from langmerge.dtypes import Dtype
from langmerge.errors import LangmergeError, nearest, readable
from langmerge.files import read_yaml
from langmerge.merging import hub
from langmerge.merging.job import Job
from langmerge.merging.methods import METHODS, Method
from langmerge.merging.parameters import Parameter, check, parameters_of, resolve
from langmerge.merging.tensors import Settings, layer_of

DTYPES = {dtype.value: dtype for dtype in (Dtype.F32, Dtype.BF16, Dtype.F16)}
#: Methods of mergekit that are not here.
OTHERS = (
    "arcee_fusion",
    "karcher",
    "multislerp",
    "nearswap",
    "nuslerp",
    "passthrough",
    "ram",
    "ramplus_tl",
    "sce",
)
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


class _Strict(BaseModel):
    """No key that it does not know; `unsupported` are mergekit's that we lack, and why."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            raise ValueError(f"{given!r}: has to be a list of `key: value` lines")
        for key in given:
            if why := cls.unsupported().get(key):
                raise ValueError(f"{key!r} is mergekit's and not supported here: {why}")
            if key not in cls.model_fields:
                raise ValueError(f"no key {key!r}: {nearest(str(key), cls.model_fields)}")
        return given

    @classmethod
    def unsupported(cls) -> Mapping[str, str]:
        """Keys of mergekit's schema that are refused, with the reason."""
        return {}


class Model(_Strict):
    """One model and the parameters that are its own."""

    model: str
    parameters: dict[str, Any] | None = None


class Source(Model):
    """One model's layers, from the first to the one before the last number."""

    layer_range: tuple[int, int]


class Slice(_Strict):
    """The same layers of all models, with parameters of their own."""

    sources: list[Source] = Field(min_length=1)
    base_model: str | None = None
    parameters: dict[str, Any] | None = None

    @classmethod
    def unsupported(cls) -> Mapping[str, str]:
        """See `_Strict`."""
        return {"residual_weight": "it belongs to passthrough merges."}


class Module(_Strict):
    """What newer recipes of mergekit wrap a model's one stack of layers in."""

    models: list[Model] | None = None
    slices: list[Slice] | None = None

    @classmethod
    def unsupported(cls) -> Mapping[str, str]:
        """See `_Strict`."""
        return {"parameters": "put them under the `parameters:` at the left margin."}


class Tokenizer(_Strict):
    """The long form of `tokenizer_source`."""

    source: str

    @classmethod
    def unsupported(cls) -> Mapping[str, str]:
        """See `_Strict`."""
        reason = "the vocabulary stays as it is."
        return {"tokens": reason, "pad_to_multiple_of": reason}


class Recipe(_Strict):
    """A recipe as it is written; `job` makes it ready to run.

    name: a title, which changes nothing.
    """

    merge_method: str
    name: str | None = None
    base_model: str | None = None
    models: list[Model] | None = None
    slices: list[Slice] | None = None
    parameters: dict[str, Any] | None = None
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer_source: str | None = None
    _text: str = PrivateAttr(default="")

    @classmethod
    def unsupported(cls) -> Mapping[str, str]:
        """See `_Strict`."""
        return {
            "chat_template": "put it into the output's tokenizer_config.json after the merge.",
        }

    @property
    def row(self) -> Method:
        """The method's row of the table."""
        return METHODS[self.merge_method]

    def references(self) -> list[str]:
        """The models as the recipe names them, each once, in order; without a base."""
        listed = self.models or self.slices[0].sources
        names = [one.model for one in listed]
        if self.base_model is None:
            return names
        if self.row.base:
            return [name for name in names if name != self.base_model]
        if self.merge_method == "slerp":  # from the base to the other
            return [self.base_model, *(name for name in names if name != self.base_model)]
        # As in mergekit: a base that is not listed is one more model.
        if self.merge_method == "linear" and self.base_model not in names:
            return [*names, self.base_model]
        return names

    def references_and_base(self) -> list[str]:
        """All models that a merge reads, each once, the base first."""
        return list(dict.fromkeys([*self._base(), *self.references()]))

    def job(self) -> Job:
        """The merge with its models on this disk, fetched from the hub where they are not.

        Raises LangmergeError for a model that cannot be had, for slices that are not the
        model's layers in order, and for vocabularies that differ where a tokenizer is chosen.
        """
        names = self.references()
        folders = {name: hub.folder_of(name) for name in self.references_and_base()}
        first = next(iter(folders.values()))
        base = folders[self.base_model] if self.row.base else None
        dtype = self.out_dtype or self.dtype
        return Job(
            method=self.merge_method,
            base=base,
            models=tuple(folders[name] for name in names),
            settings=self.settings(_layers(first)),
            out_dtype=DTYPES[dtype.removeprefix("torch.")] if dtype else None,
            recipe_text=self._text,
            names=tuple([*self._base(), *names]),
            tokenizer=self._tokenizer(folders),
        )

    def settings(self, layers: int) -> Callable[[str], Settings]:
        """The settings of each tensor by its name, in a model of so many layers.

        Raises LangmergeError where the slices are not these layers in order.
        """
        places = self._places(layers)
        known = parameters_of(self.row)
        names = self.references()

        def settings_of(tensor: str) -> Settings:
            slice_, position = places(tensor)
            found: dict[str, object] = {**self.row.fixed, "layers": layers}
            for parameter in known.values():
                if not parameter.setting:
                    continue
                if parameter.per_model:
                    found[parameter.setting] = tuple(
                        resolve(parameter, self._own(slice_, name), tensor, position, name)
                        for name in names
                    )
                elif parameter.setting not in found or self._given(parameter, slice_):
                    value = resolve(parameter, self._shared(slice_), tensor, position)
                    found[parameter.setting] = parameter.as_setting(value)
            return found

        return settings_of

    def _base(self) -> list[str]:
        return [self.base_model] if self.row.base else []

    def _shared(self, slice_: Slice | None) -> list[Mapping[str, object] | None]:
        """Where parameters of the whole merge may stand, the nearest first."""
        return [slice_.parameters if slice_ else None, self.parameters]

    def _own(self, slice_: Slice | None, name: str) -> list[Mapping[str, object] | None]:
        """Where a model's parameters may stand, the nearest first."""
        listed = slice_.sources if slice_ else self.models
        return [*(one.parameters for one in listed if one.model == name), *self._shared(slice_)]

    def _given(self, parameter: Parameter, slice_: Slice | None) -> bool:
        return any(source and parameter.name in source for source in self._shared(slice_))

    def _places(self, layers: int) -> Callable[[str], tuple[Slice | None, float]]:
        """The slice of a tensor and its layer's position in it, from 0 to 1."""
        if self.slices is None:
            return lambda tensor: (None, _position(layer_of(tensor), layers))
        borders = [0]
        for one in self.slices:
            start, end = one.sources[0].layer_range
            if start != borders[-1] or end <= start:
                raise LangmergeError(
                    f"slices: the layers {start} to {end} follow the layer {borders[-1]}; only "
                    "slices that give every layer once and in order are supported."
                )
            borders.append(end)
        if borders[-1] != layers:
            raise LangmergeError(
                f"slices: they end at layer {borders[-1]}, and the models have {layers} layers; "
                "a merge of some layers only is not supported."
            )

        def place(tensor: str) -> tuple[Slice, float]:
            layer = layer_of(tensor)
            if layer is None:  # as in mergekit: what comes before the layers, and after them
                before = any(word in tensor for word in ("embed", "wte", "wpe"))
                return self.slices[0 if before else -1], 0.0
            number = next(number for number, end in enumerate(borders[1:]) if layer < end)
            start, end = borders[number : number + 2]
            return self.slices[number], _position(layer - start, end - start)

        return place

    def _tokenizer(self, folders: Mapping[str, Path]) -> Path | None:
        if self.tokenizer_source is None:
            return None
        # The union of vocabularies that are alike is any of them.
        source = self.tokenizer_source
        chosen = next(iter(folders)) if source == "union" else source
        chosen = self.base_model if source == "base" else chosen
        if chosen not in folders:
            folders = {**folders, chosen: hub.folder_of(chosen)}
        vocabularies = {name: _vocabulary(folder) for name, folder in folders.items()}
        for name, vocabulary in vocabularies.items():
            if vocabulary != vocabularies[chosen]:
                raise LangmergeError(
                    f"tokenizer_source {source}: {name} has another vocabulary "
                    f"({len(vocabulary)} tokens) than {chosen} "
                    f"({len(vocabularies[chosen])}); embeddings are not moved from one to the "
                    "other here. Bring all models to one vocabulary before merging."
                )
        return folders[chosen]


def read(source: str | Path) -> Recipe:
    """The recipe of a YAML file, or a shipped one by its name (``tam``, ``laptop``).

    Raises LangmergeError for a file that is not there or is no recipe: unknown keys, methods
    and parameters are named with the nearest known ones.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        raise LangmergeError(f"recipe {str(source)!r}: it is a folder; name the YAML file in it.")
    if not path.is_file():
        shipped = paths.find("recipes", str(source)) if path.name == str(source) else None
        if shipped is None:
            known = nearest(str(source), paths.names("recipes"))
            raise LangmergeError(
                f"recipe {str(source)!r}: there is no such file, and no shipped recipe of that "
                f"name; {known}"
            )
        path = shipped
    raw = read_yaml(path)
    try:
        return parse(raw, path.read_text(encoding="utf-8"))
    except LangmergeError as error:
        raise LangmergeError(f"{path}: {error}") from None


def parse(raw: object, text: str = "") -> Recipe:
    """A recipe from what its YAML says; raises LangmergeError as `read` does."""
    if raw is None:
        raise LangmergeError("it says nothing; a recipe begins with `merge_method:`.")
    if isinstance(raw, Mapping):
        if "merge_method" not in raw:
            raise LangmergeError("no `merge_method:`; is this a recipe?")
        _check_method(raw["merge_method"])
    try:
        recipe = Recipe.model_validate(_unwrapped(raw))
    except ValidationError as error:
        raise LangmergeError(readable(error).removeprefix(": ")) from None
    recipe._text = text
    _check_models(recipe)
    _check_words(recipe)
    _check_parameters(recipe)
    return recipe


def _unwrapped(raw: object) -> object:
    """A recipe without the long forms: `modules:` of one module, `tokenizer:` of a source."""
    if not isinstance(raw, Mapping):
        return raw
    raw = dict(raw)
    if "modules" in raw:
        modules = raw.pop("modules")
        if not isinstance(modules, Mapping) or len(modules) != 1 or {"models", "slices"} & set(raw):
            raise LangmergeError(
                "modules: only models with one stack of layers can be merged, so one module, and "
                "no `models:` or `slices:` beside it."
            )
        module = Module.model_validate(next(iter(modules.values())))
        raw |= {key: value for key, value in module.model_dump().items() if value is not None}
    if "tokenizer" in raw:
        if "tokenizer_source" in raw:
            raise LangmergeError("give either `tokenizer:` or `tokenizer_source:`.")
        raw["tokenizer_source"] = Tokenizer.model_validate(raw.pop("tokenizer")).source
    return raw


def _check_method(name: object) -> None:
    if not isinstance(name, str):
        raise LangmergeError(f"merge_method {name!r}: has to be a name, such as ties.")
    if name in OTHERS:
        raise LangmergeError(
            f"merge_method {name!r} is mergekit's and not supported here; supported: "
            f"{', '.join(METHODS)}."
        )
    if name not in METHODS:
        raise LangmergeError(f"unknown merge_method {name!r}: {nearest(name, METHODS)}")


def _check_models(recipe: Recipe) -> None:
    if bool(recipe.models) == bool(recipe.slices):
        raise LangmergeError("give either `models:` or `slices:`.")
    for name in (recipe.base_model, recipe.tokenizer_source, *_listed(recipe)):
        if name and "+" in name and not Path(name).expanduser().is_dir():
            raise LangmergeError(
                f"model {name!r}: a LoRA is not supported. Merge it into its model first "
                "(PEFT's merge_and_unload) and name the result."
            )
    for number, one in enumerate(recipe.slices or []):
        _check_slice(recipe, one, number)
    if (recipe.row.base or recipe.merge_method == "slerp") and recipe.base_model is None:
        raise LangmergeError(f"{recipe.merge_method} needs a `base_model:`.")
    names = recipe.references()
    if twice := {name for name in names if names.count(name) > 1}:
        raise LangmergeError(f"model {sorted(twice)[0]!r} is given twice.")
    recipe.row.check_models(len(names))


def _listed(recipe: Recipe) -> list[str]:
    slices = recipe.slices or []
    return [one.model for one in (recipe.models or [])] + [
        one.model for slice_ in slices for one in slice_.sources
    ]


def _check_slice(recipe: Recipe, one: Slice, number: int) -> None:
    where = f"slices[{number}]"
    ranges = {source.layer_range for source in one.sources}
    if len(ranges) > 1:
        listed = ", ".join(f"{start} to {end}" for start, end in sorted(ranges))
        raise LangmergeError(
            f"{where}: its models' layer ranges differ ({listed}); only the same layers of all "
            "models can be merged here."
        )
    if [s.model for s in one.sources] != [s.model for s in recipe.slices[0].sources]:
        raise LangmergeError(f"{where}: it has other models than the first slice.")
    if one.base_model not in (None, recipe.base_model):
        raise LangmergeError(
            f"{where}: base_model {one.base_model!r} is not the recipe's; one base for all."
        )


def _check_words(recipe: Recipe) -> None:
    for key in ("dtype", "out_dtype"):
        value = getattr(recipe, key)
        if value is not None and value.removeprefix("torch.") not in DTYPES:
            raise LangmergeError(f"{key} {value!r}: {nearest(value, DTYPES)}")
    source = recipe.tokenizer_source
    if source == "base" and recipe.base_model is None:
        raise LangmergeError("tokenizer_source 'base': there is no `base_model:`.")


def _check_parameters(recipe: Recipe) -> None:
    known = parameters_of(recipe.row)
    check(recipe.parameters, known, "parameters", shared=True)
    for number, one in enumerate(recipe.models or []):
        check(one.parameters, known, f"models[{number}]", shared=False)
    for number, slice_ in enumerate(recipe.slices or []):
        check(slice_.parameters, known, f"slices[{number}]", shared=True)
        for place, source in enumerate(slice_.sources):
            check(source.parameters, known, f"slices[{number}].sources[{place}]", shared=False)
    if {"combine", "normalize"} <= set(recipe.parameters or {}):
        raise LangmergeError("parameters: combine and normalize say the same; give one of them.")


def _position(layer: int | None, layers: int) -> float:
    """Where a layer stands, from 0 to 1; mergekit puts a single layer at 1, the rest at 0."""
    if layer is None:
        return 0.0
    return layer / (layers - 1) if layers > 1 else 1.0


def _layers(folder: Path) -> int:
    """The number of layers, from a model's config.json."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        found = [config[name] for name in _LAYERS if config.get(name) is not None]
        if not found:
            raise ValueError("it has none")
        return int(found[0])
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise LangmergeError(
            f"{path}: it has to be a model's configuration with {_LAYERS[0]} in it ({error})."
        ) from None


def _vocabulary(folder: Path) -> dict[str, int]:
    """The vocabulary of a model's fast tokenizer; LangmergeError where it has none."""
    import tokenizers

    path = folder / "tokenizer.json"
    try:
        return tokenizers.Tokenizer.from_file(str(path)).get_vocab()
    except Exception as error:  # tokenizers raises nothing narrower
        raise LangmergeError(
            f"{path}: a `tokenizer_source` needs every model's tokenizer.json, to see that their "
            f"vocabularies are alike ({error}). Leave it out to copy the base's files unseen."
        ) from None
