"""Libraries that take a second to import, imported when something of them is first asked for.

``from langmerge.later import torch`` reads like ``import torch`` and costs nothing until then: the
merging engine's compiled loops need neither library, and a merge would otherwise begin with
the second that they take. In annotations they are never asked for anything.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

__all__ = ["pandas", "torch"]


class _Later:
    """A module by its name, imported at the first look at one of its attributes."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._module: ModuleType | None = None

    def __getattr__(self, attribute: str) -> object:
        if self._module is None:
            # From several threads at once it is still imported once: imports have a lock.
            self._module = importlib.import_module(self._name)
        return getattr(self._module, attribute)

    def __repr__(self) -> str:
        return f"<{self._name}, imported when it is used>"


if TYPE_CHECKING:
    import pandas
    import torch
else:
    pandas = _Later("pandas")
    torch = _Later("torch")
