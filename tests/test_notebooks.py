"""The notebooks' sources: paired, parameterized, with figures that can be cited and heard."""

import ast
import importlib.util
import json
import re

import pytest

from langmerge import execution, paper_results, paths
from langmerge.errors import LangmergeError
from langmerge.notebook import LANGUAGE_TOKEN, check_parameters

SOURCES = sorted(paths.notebooks().glob("*.py"))
IDS = [source.stem for source in SOURCES]
#: What sets a notebook's run: of the lab's, and of released checkpoints.
LAB = ["language", "profile", "seeds"]
REAL = ["language", "profile", "triple", "limit", "dtype", "study"]


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_py_and_ipynb_say_the_same(source):
    assert execution.paired(source), f"run `langmerge pair`: {source.stem}.ipynb differs"


def test_no_ipynb_stands_alone():
    assert {path.stem for path in paths.notebooks().glob("*.ipynb")} == set(IDS)


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_the_books_parameters_are_the_notebooks(source):
    given = REAL if source.stem == paper_results.NOTEBOOK else LAB
    execution.check_parameters(source.with_suffix(".ipynb"), given)


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_labels_differ_between_languages(source):
    text = source.read_text()
    labels = re.findall(r"^# \(([^)\s]+)\)=$", text, re.MULTILINE)
    labels += re.findall(r"\{(?:num)?ref\}`(?:[^`<]*<)?([^`>]+)>?`", text)
    for label in labels:
        assert LANGUAGE_TOKEN in label, label


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_figures_have_a_label_for_their_language(source):
    calls = [
        node
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Call)
        and (getattr(node.func, "id", None) or getattr(node.func, "attr", "")) == "figure"
    ]
    calls = [call for call in calls if any(word.arg == "caption" for word in call.keywords)]
    for call in calls:
        given = {word.arg: word.value for word in call.keywords}
        assert LANGUAGE_TOKEN in ast.unparse(given["name"])
        assert given.keys() >= {"name", "caption", "alt"}


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_a_notebook_alone_says_how_to_get_the_library(source, monkeypatch):
    cells = json.loads(source.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]
    first = next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"needs langmerge.*pip install"):
        exec(first, {})


def test_a_misspelt_parameter_is_told():
    known = ["language", "profile", "seeds"]
    check_parameters(known, {"language": "tam_Taml", "shown": 3, "_langauge": 1, "languages": ast})
    with pytest.raises(LangmergeError, match=r"'langauge'.*did you mean language"):
        check_parameters(known, {"language": "tam_Taml", "langauge": "ben_Beng"})
    with pytest.raises(LangmergeError, match=r"seeds is the text '\[0\]'.*-y \"seeds: \[0\]\""):
        check_parameters([*known, "seeds"], {"language": "tam_Taml", "seeds": "[0]"})


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_notebooks_check_the_very_parameters_that_they_have(source):
    (call,) = re.findall(r"^check_parameters\((\[.*?\]), globals\(\)\)$", source.read_text(), re.M)
    cell = source.read_text().split('tags=["parameters"]')[1].split("# %%")[0]
    assert ast.literal_eval(call) == re.findall(r"^(\w+) =", cell, re.M)
