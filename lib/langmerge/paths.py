"""Where things are: the one place that knows.

Three situations, one answer each:

- a *checkout*: data, notebooks and book lie at the top of the repository, and what is
  computed goes to ``build/`` there;
- an installed *wheel*: data and notebooks lie inside the package (``_data``,
  ``_notebooks``), and what is computed goes to the user's cache folder;
- ``LANGMERGE_HOME``, where set, replaces that place for computed things. Language files
  and profiles of the user's own are found there too (``languages/``, ``profiles/``),
  before the shipped ones.

``LANGMERGE_BASE``, where set, is the folder of the base model that studies start from, in
place of the shipped one: a base of your own, made by ``langmerge.base.build``.

``LANGMERGE_STORE``, where set, is the folder of the store alone: an empty one computes
everything anew from the same bases, languages and profiles.
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

_PACKAGE = Path(__file__).resolve().parent


def checkout() -> Path | None:
    """The repository's top folder, or None where langmerge was installed from a wheel."""
    root = _PACKAGE.parent.parent
    return root if (root / "data" / "concepts.yaml").is_file() else None


def data() -> Path:
    """The shipped data: concepts, languages, tasks, claims, profiles and the lab's base."""
    root = checkout()
    return root / "data" if root else _PACKAGE / "_data"


def base() -> Path:
    """The folder of the base model: ``LANGMERGE_BASE``, else the shipped one."""
    if os.environ.get("LANGMERGE_BASE"):
        return Path(os.environ["LANGMERGE_BASE"]).expanduser().resolve()
    return data() / "base"


def notebooks() -> Path:
    """The notebooks' sources (py:percent and their paired .ipynb)."""
    root = checkout()
    return root / "notebooks" if root else _PACKAGE / "_notebooks"


def home() -> Path:
    """The folder for everything that is computed; it may not exist yet."""
    if os.environ.get("LANGMERGE_HOME"):
        return Path(os.environ["LANGMERGE_HOME"]).expanduser().resolve()
    root = checkout()
    return root / "build" if root else Path(platformdirs.user_cache_dir("langmerge"))


def store() -> Path:
    """The store of finished cells: ``LANGMERGE_STORE``, else ``store`` in the home folder."""
    if os.environ.get("LANGMERGE_STORE"):
        return Path(os.environ["LANGMERGE_STORE"]).expanduser().resolve()
    return home() / "store"


def results() -> Path:
    """Where runs that are to be kept are written: beside the shipped ones in a checkout."""
    own = bool(os.environ.get("LANGMERGE_HOME")) or checkout() is None
    return (home() if own else data()) / "results"


def search(folder: str) -> list[Path]:
    """Where files of a kind (``languages``, ``profiles``) are looked for, in this order."""
    return [home() / folder, data() / folder]


def find(folder: str, name: str) -> Path | None:
    """The file ``<folder>/<name>.yaml``, the user's own before the shipped one, or None."""
    found = (place / f"{name}.yaml" for place in search(folder))
    return next((path for path in found if path.is_file()), None)


def names(folder: str) -> list[str]:
    """The names (stems) of all YAML files of a kind, sorted."""
    return sorted({path.stem for place in search(folder) for path in place.glob("*.yaml")})
