"""Fixtures: a tiny base, made by the real `base.build`, and a tiny profile to study it with.

Nothing is shared with the developer's own store or base: both lie in a temporary folder.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
import yaml

# A deadline would make a test fail because the machine is busy.
hypothesis.settings.register_profile("langmerge", deadline=None)
hypothesis.settings.load_profile("langmerge")

TINY_LANGUAGES = ["tam_Taml", "zzz_0000", "zzz_0001"]
TINY_RECIPE = {
    "seed": 0,
    "vocab_size": 600,
    "architecture": {"hidden": 32, "layers": 2, "heads": 2, "intermediate": 64},
    "tokens": 40_000,
    "sequence": 64,
    "batch": 16,
    "learning_rate": 3e-3,
    "schedule": "cosine",
    "warmup_steps": 5,
    "weight_decay": 0.1,
    "tokenizer_documents": 300,
    "trace": {
        "share": 0.15,
        "modes": {"monolingual": 0.3, "bilingual": 0.4, "switched": 0.3},
        "languages": TINY_LANGUAGES,
    },
}
TINY_PROFILE = {
    "extends": "lab",
    "languages": ["tam_Taml"],
    "seeds": [0],
    "budgets": [512, 1024],
    "items": 4,
    "text_documents": 2,
    "english_items": 4,
    "english_floor": 0,
    "slacks": [1, float("inf")],
    "continual_pretraining": {
        "learning_rate": 1e-3,
        "batch": 4,
        "sequence": 64,
        "target_share": 0.8,
    },
    "finetuning": {"learning_rate": 1e-3, "steps": 3, "batch": 4},
    "tuned": {},
    "families": [],
}


@dataclass(frozen=True)
class TinyLab:
    """Where a tiny study lives: its base, its recipe and its LANGMERGE_HOME."""

    base: Path
    recipe: Path
    home: Path


def write_profile(home: Path, name: str, **changes: object) -> Path:
    """A tiny profile of that name in a home's ``profiles/``."""
    shipped = yaml.safe_load((Path(__file__).parent.parent / "data/profiles/lab.yaml").read_text())
    default = shipped["default"] | {"ct_then_sft": {"learning_rate": 1e-3, "steps": 3}}
    path = home / "profiles" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(TINY_PROFILE | {"default": default} | changes))
    return path


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory) -> TinyLab:
    """The tiny base and its recipe on disk, and a home with the profile ``tiny``."""
    from langmerge import base, model_card, readiness

    top = tmp_path_factory.mktemp("tiny")
    recipe = top / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(TINY_RECIPE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANGMERGE_HOME", str(top / "home"))
        patch.setattr(readiness, "PROFILE", "tiny")
        patch.setattr(model_card, "TEXTS", 3)
        patch.setattr(model_card, "FERTILITY_DOCUMENTS", 5)
        write_profile(top / "home", "tiny")
        built = base.build(top / "base", recipe)
    return TinyLab(built, recipe, top / "home")


@pytest.fixture(scope="session")
def tiny_base(tiny_files):
    """The tiny base, loaded."""
    from langmerge import base

    return base.load(tiny_files.base)


@pytest.fixture(scope="module")
def tiny_lab(tiny_files, tmp_path_factory) -> Iterator[TinyLab]:
    """The tiny base as the one that studies start from, with an empty store for the module."""
    home = tmp_path_factory.mktemp("home")
    write_profile(home, "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANGMERGE_HOME", str(home))
        patch.setenv("LANGMERGE_BASE", str(tiny_files.base))
        yield TinyLab(tiny_files.base, tiny_files.recipe, home)
