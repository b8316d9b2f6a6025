"""A recipe's parameters: which a method has, and what a tensor gets of them.

The notation is mergekit's. A *setting* is a scalar; a list of scalars, a *gradient* over the
layers; or one or a list of ``{filter: ..., value: ...}``, where the first whose filter is part
of the tensor's name counts (none or ``*`` fits all) and its value is a scalar or a gradient.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from langmerge.errors import LangmergeError, nearest
from langmerge.merging.methods import MODELS, PER_MODEL, Method

#: What mergekit recipes may say and what makes no difference there nor here, by method.
WITHOUT_EFFECT = {
    "int8_mask": ("task_arithmetic", "ties", "dare_", "della", "breadcrumbs"),
    "density": ("task_arithmetic",),
}
_REQUIRED = object()
# Making one takes longer than all that a tensor's parameters need of it.
_adapter = functools.cache(TypeAdapter)
_SCALARS = bool | int | float | str


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of a method as a recipe writes it.

    name: in the recipe. setting: in the function's settings ("" for those that mergekit knows
    and that make no difference). kind: the scalar's type.
    per_model: one value for each model, else one for all.
    """

    name: str
    setting: str
    kind: Any
    default: object
    per_model: bool = False

    def validate(self, value: object) -> object:
        """The scalar in its type; LangmergeError for another one."""
        try:
            return _adapter(self.kind).validate_python(value)
        except ValidationError:
            kind = getattr(self.kind, "__name__", str(self.kind)).replace("float", "number")
            raise LangmergeError(f"{self.name} {value!r}: has to be a {kind}.") from None

    def as_setting(self, value: object) -> object:
        """What the method's function calls it: mergekit's truth values become our words."""
        if self.name == "normalize" and self.setting == "combine":
            return "mean" if value else "sum"
        if self.name == "rescale" and isinstance(value, bool):
            return "l1" if value else "none"
        return value


def parameters_of(method: Method) -> dict[str, Parameter]:
    """The parameters of a method in a recipe, by name, from its row's defaults.

    In a recipe a density is 1 unless it is given, as in mergekit, and what the row requires
    (mergekit's weights) has no default.
    """
    known: dict[str, Parameter] = {}
    for key, default in method.defaults.items():
        if default is None:
            continue  # functions cannot be written in a recipe
        name = _per_model(key)
        setting = name or key
        name = name or key.rstrip("_")
        kind = float if isinstance(default, float) else type(default)
        if key == "rescale":
            kind = bool | str
        if name == "density":
            default = 1.0
        if name in method.required:
            default = _REQUIRED
        known[name] = Parameter(name, setting, kind, default, _per_model(key) is not None)
    if "combine" in known:
        mean = known["combine"].default == "mean"
        known["normalize"] = Parameter("normalize", "combine", bool, mean)
    for name, methods in WITHOUT_EFFECT.items():
        if name not in known and method.name.startswith(methods):
            known[name] = Parameter(name, "", float, None, per_model=name in PER_MODEL)
    return known


def _per_model(key: str) -> str | None:
    """``weight`` for ``w_ct``, ``density`` for ``density_sft``, ...; None for shared ones."""
    short, _, model = key.rpartition("_")
    return next((name for name, its in PER_MODEL.items() if its == short and model in MODELS), None)


def check(parameters: object, known: Mapping[str, Parameter], where: str, shared: bool) -> None:
    """Raise LangmergeError unless these are settings of known parameters, in the notation.

    shared: whether parameters of the whole merge may stand here, or a model's own only.
    """
    if parameters is None:
        return
    if not isinstance(parameters, Mapping):
        raise LangmergeError(f"{where}: parameters are `name: value` lines, not {parameters!r}.")
    for name, setting in parameters.items():
        if name not in known:
            hint = nearest(str(name), known) if known else "the method has none."
            raise LangmergeError(f"{where}: no parameter {name!r}: {hint}")
        if not shared and not known[name].per_model:
            raise LangmergeError(
                f"{where}: {name} is one for the whole merge, not a model's own. Move it to the "
                "`parameters:` at the left margin."
            )
        _check_setting(setting, f"{where}: {name}")
        for scalar in _scalars(setting):
            known[name].validate(scalar)


def _check_setting(setting: object, where: str) -> None:
    if isinstance(setting, Mapping):
        _check_condition(setting, where)
    elif isinstance(setting, list) and any(isinstance(one, Mapping) for one in setting):
        for one in setting:
            if not isinstance(one, Mapping):
                raise LangmergeError(
                    f"{where}: {one!r} stands among filters. Write it as `- value: {one}`."
                )
            _check_condition(one, where)
    elif isinstance(setting, list):
        for one in setting:
            _check_scalar(one, where)
    else:
        _check_scalar(setting, where)


def _check_condition(condition: Mapping[str, object], where: str) -> None:
    for key in condition:
        if key not in ("filter", "value"):
            raise LangmergeError(
                f"{where}: no key {key!r}: {nearest(str(key), ('filter', 'value'))}"
            )
    if "value" not in condition:
        raise LangmergeError(f"{where}: a filter without a `value:`.")
    if not isinstance(condition.get("filter"), str | None):
        raise LangmergeError(f"{where}: filter {condition['filter']!r} has to be text.")
    value = condition["value"]
    for one in value if isinstance(value, list) else [value]:
        _check_scalar(one, where)


def _check_scalar(value: object, where: str) -> None:
    if not isinstance(value, _SCALARS):
        raise LangmergeError(
            f"{where}: {value!r} is no value. Give a number, a list of numbers over the layers, "
            "or a list of `filter:` and `value:`."
        )


def _scalars(setting: object) -> Iterable[object]:
    if isinstance(setting, Mapping):
        yield from _scalars(setting["value"])
    elif isinstance(setting, list):
        for one in setting:
            yield from _scalars(one)
    else:
        yield setting


def resolve(
    parameter: Parameter,
    sources: Iterable[Mapping[str, object] | None],
    tensor: str,
    position: float,
    whose: str = "",
) -> object:
    """A parameter's value for one tensor: of the first source that has one, else its default.

    position: the layer's, from 0 (the first, and everything outside the layers) to 1.
    Raises LangmergeError where a parameter that has to be given is not.
    """
    for source in sources:
        if source is not None and parameter.name in source:
            value = evaluate(parameter, source[parameter.name], tensor, position)
            if value is not None:
                return value
    if parameter.default is _REQUIRED:
        raise LangmergeError(
            f"{parameter.name} is not given for {tensor}{f' of {whose}' if whose else ''}: put "
            f"`{parameter.name}:` under {'the model' if parameter.per_model else 'the'} parameters "
            "(a value without filter fits all tensors)."
        )
    return parameter.default


def evaluate(parameter: Parameter, setting: object, tensor: str, position: float) -> object:
    """A setting's value for one tensor; None where no filter fits."""
    if isinstance(setting, Mapping):
        setting = [setting]
    if isinstance(setting, list) and setting and isinstance(setting[0], Mapping):
        for condition in setting:
            wanted = condition.get("filter")
            if wanted in (None, "*") or wanted in tensor:
                return evaluate(parameter, condition["value"], tensor, position)
        return None
    if not isinstance(setting, list):
        return parameter.validate(setting)
    return _interpolate(parameter, setting, position) if setting else None


def _interpolate(parameter: Parameter, setting: list, position: float) -> object:
    """Numbers between the neighbours on a line; the value below for what is no number."""
    values = [parameter.validate(one) for one in setting]
    place = position * (len(values) - 1)
    below = int(place)
    if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in values):
        return values[below]
    above, share = min(len(values) - 1, below + 1), place - below
    if share == 0:  # an infinite neighbour has no part in it, and 0 * inf would be NaN
        return values[below]
    return parameter.validate((1 - share) * values[below] + share * values[above])
