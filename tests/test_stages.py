"""Each stage's version is tied to the sources that its results come from.

Finished work is found again by its key, which holds the stage's version and not the code:
who changes what a stage computes has to raise its version, or old results would pass for
new ones. This file notices: it knows the hash of every stage's sources at its version.

    python tests/test_stages.py     # writes stage_sources.json as things are now
"""

import ast
import hashlib
import json
from pathlib import Path

import pytest

from langmerge import store

PACKAGE = Path(store.__file__).parent
RECORD = Path(__file__).with_name("stage_sources.json")

CT = [
    "world",
    "languages",
    "controls",
    "realize",
    "corpus",
    "tokenizer",
    "train",
    "model",
    "experts",
]
SFT = [*CT, "tasks"]
#: The modules (patterns of file names without .py) that a stage's results come from.
SOURCES = {
    "ct": CT,
    "sft": SFT,
    "evaluation": [*SFT, "evaluate", "harness", "cells", "merging/*"],
    "diagnostics": ["merging/*", "cells"],
}


def modules(patterns: list[str]) -> list[Path]:
    """The files of a stage, each once, in an order that no file system decides."""
    return sorted({path for pattern in patterns for path in PACKAGE.glob(f"{pattern}.py")})


def normalised(source: str) -> str:
    """What code says: without comments, layout and docstrings, the same in every Python."""
    return written(ast.parse(source))


def written(node: object) -> str:
    """A syntax tree as text. Fields that are empty are left out: newer Pythons have more."""
    if isinstance(node, list):
        return f"[{', '.join(map(written, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if value not in (None, [])}
    if is_docstring_holder(node) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = node.body[1:]
    inside = ", ".join(f"{name}={written(value)}" for name, value in fields.items())
    return f"{type(node).__name__}({inside})"


def is_docstring_holder(node: ast.AST) -> bool:
    return isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)


def fingerprint(paths: list[Path]) -> str:
    """The hash of the files' code and of their places in the package."""
    digest = hashlib.sha256()
    for path in paths:
        name = path.relative_to(PACKAGE).as_posix()
        digest.update(f"{name}\n{normalised(path.read_text(encoding='utf-8'))}\n".encode())
    return digest.hexdigest()


def now() -> dict[str, dict[str, object]]:
    return {
        stage: {"version": store.VERSIONS[stage], "sha256": fingerprint(modules(patterns))}
        for stage, patterns in SOURCES.items()
    }


def test_every_stage_has_a_version_and_sources():
    assert set(SOURCES) == set(store.VERSIONS) == set(json.loads(RECORD.read_text()))
    assert all(isinstance(version, int) for version in store.VERSIONS.values())


@pytest.mark.parametrize("stage", SOURCES)
def test_every_pattern_names_a_module(stage):
    for pattern in SOURCES[stage]:
        assert modules([pattern]), f"{stage}: no module {pattern} any more; mend SOURCES"


@pytest.mark.parametrize("stage", SOURCES)
def test_a_stage_whose_sources_changed_has_a_new_version(stage):
    recorded, found = json.loads(RECORD.read_text())[stage], now()[stage]
    assert found == recorded, (
        f"the code of the stage {stage!r} is not the recorded one. If its results change, raise "
        f"VERSIONS[{stage!r}] in lib/langmerge/store.py (recorded: {recorded['version']}), or "
        "stores would go on giving the old results; if they do not, leave it. Then refresh the "
        "record with `python tests/test_stages.py` and commit it with the change."
    )


CODE = '''
"""A module."""

class Thing:
    """A thing."""

    size = 1  # bytes

def double(x):
    """Twice x."""
    return x * 2
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("A module.", "The module."),
        ("A thing.", "Some thing."),
        ("Twice x.", "Two times x, in short.\n\n    Longer."),
        ('    """Twice x."""\n', ""),
        ("  # bytes", ""),
        ("x * 2", "(x\n        * 2)"),
    ],
)
def test_docstrings_comments_and_layout_do_not_count(old, new):
    assert old in CODE
    assert normalised(CODE.replace(old, new)) == normalised(CODE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x * 2", "x * 3"),
        ("x * 2", "2 * x"),
        ("size = 1", "size = 1.0"),
        ("size = 1", "size: int = 1"),
        ("double(x)", "double(x=1)"),
        ('"""Twice x."""', "'''Twice x.''' + str(x)"),
    ],
)
def test_code_counts(old, new):
    assert old in CODE
    assert normalised(CODE.replace(old, new)) != normalised(CODE)


def test_a_module_that_is_added_or_renamed_counts(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    (tmp_path / "a.py").write_text(CODE)
    one = fingerprint(modules(["*"]))
    (tmp_path / "b.py").write_text("")
    two = fingerprint(modules(["*"]))
    (tmp_path / "b.py").rename(tmp_path / "c.py")
    assert len({one, two, fingerprint(modules(["*"]))}) == 3


def main() -> None:
    """Write the record as things are now, and say which stages are new in it."""
    before = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    RECORD.write_text(json.dumps(now(), indent=1) + "\n")
    changed = [stage for stage, entry in now().items() if entry != before.get(stage)]
    print(f"{RECORD.name}: {', '.join(changed) or 'nothing'} changed")


if __name__ == "__main__":
    main()
