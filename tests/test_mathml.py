"""Formulas as MathML."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from langmerge import mathml, paths

SPACE = "{http://www.w3.org/1998/Math/MathML}"


def formulas() -> list[str]:
    """Every formula that the book's pages and notebooks hold."""
    root = paths.checkout()
    pages = [*(root / "book").glob("*.md"), *(root / "notebooks").glob("*.py")]
    text = "\n".join(_prose(page) for page in pages)
    return re.findall(r"\$\$?([^$`]+?)\$\$?", text)


def _prose(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".py":
        text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("# "))
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def test_every_formula_of_the_book_can_be_set():
    assert len(formulas()) > 15
    for tex in formulas():
        assert len(ElementTree.fromstring(mathml.formula(tex))), tex


def test_the_bars_of_an_absolute_value_stand_close():
    tree = ElementTree.fromstring(mathml.formula(r"(1 + \xi)\,|b| > |a|", display=True))
    bars = [node for node in tree.iter(f"{SPACE}mo") if node.text == "|"]
    assert len(bars) == 4 and all(bar.get("lspace") == bar.get("rspace") == "0" for bar in bars)
    assert tree.get("display") == "block"


def test_a_formula_that_cannot_be_set_is_named():
    with pytest.raises(ValueError, match="nosuchmacro"):
        mathml.formula(r"\nosuchmacro{x}")
