"""No result is typed into prose: what a run found comes from the rows, through code.

Looked at are the notebooks (their Markdown and every string in their code), the first page, the
background, the page of verdicts, and their generators. A number that looks like a result is a
decimal, a percentage, or a count of points, nats or languages. The few that define something are
listed.
"""

import ast
import re
from pathlib import Path

import pytest

from langmerge import paths

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(paths.notebooks().glob("*.py"))
PAGES = [ROOT / "book" / f"{name}.md" for name in ("index", "background", "verdicts", "status")]
#: What looks like a result.
RESULT = re.compile(
    r"""(?<![\w.])[-+−]?(?:
        \d*\.\d+(?:\s*%|\s*points?)?      # .31, 0.05, 12.5 %
      | \d+\s*(?:%|\\%|per\ cent|percent)
      | \d+\s+(?:points?|nats|of\ \d+|languages?|seeds?|bases?|times)
      | \d{1,3}(?:,\d{3})+                # 163,840
    )""",
    re.VERBOSE,
)
#: Numbers that define something and that no run could change.
DEFINED = (
    r"95 % interval", r"95 of 100", r"arXiv 2407\.03994", r"Llama-2-7B",
    r"in 95 of", r"p = 1\b",
)  # fmt: skip
#: Strings of code that are formats, no prose.
CODE = (r"^\{?:?[^a-z ]*\.\d[ef%]?\}?$",)


def prose_of(source: Path) -> list[str]:
    """A notebook's Markdown, a text a cell, and the texts in its code."""
    text = source.read_text(encoding="utf-8")
    cells = re.split(r"^# %%", text, flags=re.MULTILINE)
    markdown = [
        " ".join(line.removeprefix("# ") for line in cell.splitlines()[1:])
        for cell in cells
        if cell.startswith(" [markdown]")
    ]
    return markdown + strings_of(ast.parse(text))


def strings_of(tree: ast.Module) -> list[str]:
    """The texts of code without its docstrings and format specifications."""
    left_out = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FormattedValue) and node.format_spec:
            left_out |= {id(part) for part in ast.walk(node.format_spec)}
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (
            ast.get_docstring(node, clean=False) is not None
        ):
            left_out.add(id(node.body[0].value))
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in left_out
    ]


def typed(text: str) -> list[str]:
    """The numbers of a text that look like results and are not defined."""
    for known in DEFINED:
        text = re.sub(known, "", text)
    return [found.group().strip() for found in RESULT.finditer(text)]


def found_in(texts: list[str]) -> list[str]:
    kept = (text for text in texts if not any(re.search(format_, text) for format_ in CODE))
    return [f"{number!r} in {text!r}" for text in kept for number in typed(text)]


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_result_is_typed_into_a_notebook(source):
    assert found_in(prose_of(source)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_no_result_is_typed_into_a_page(page):
    assert found_in(page.read_text(encoding="utf-8").splitlines()) == []


def test_no_result_is_typed_into_the_page_for_teaching():
    text = (ROOT / "book" / "teach.md").read_text(encoding="utf-8")
    without_exercises = re.sub(r"\b[1-4]\.[1-5]\b", "", text)
    assert found_in(without_exercises.splitlines()) == []


@pytest.mark.parametrize(
    "module",
    [
        "verdicts", "power", "coverage", "other_languages", "background", "drawings", "teaching",
        "status", "paper_page", "paper_verdicts", "paper_chapter",
    ],
)  # fmt: skip
def test_the_code_that_writes_the_pages_says_no_result_either(module):
    tree = ast.parse((ROOT / "lib" / "langmerge" / f"{module}.py").read_text(encoding="utf-8"))
    assert found_in(strings_of(tree)) == []


@pytest.mark.parametrize(
    "planted",
    [
        "TIES is better by 8 points", "it rises to 42 %", "an accuracy of .61", "0.073 bits",
        "in 14 of 16 languages", "at 163,840 tokens", "falls by −3.0", "over 16 languages",
    ],
)  # fmt: skip
def test_a_typed_result_is_found(planted):
    assert found_in([planted])


@pytest.mark.parametrize(
    "harmless",
    ["their 95 % intervals", "Llama-2-7B reports", "finding 2 is about the merge", "**4.** Write"],
)
def test_what_is_no_result_is_left_alone(harmless):
    assert found_in([harmless]) == []
