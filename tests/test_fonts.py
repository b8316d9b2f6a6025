"""The fonts that the book ships have the letters that its languages are written in."""

import re
import unicodedata

import pytest

from langmerge import data_card, languages, paths

STATIC = paths.checkout() / "book" / "_static"
SHEET = (STATIC / "langmerge.css").read_text()
#: What every machine has a font for.
EVERYWHERE = ("LATIN", "CYRILLIC", "GREEK", "COMBINING")


def faces() -> list[tuple[str, str, list[range]]]:
    """Family, file and code points of every font of the style sheet."""
    found = []
    for face in re.findall(r"@font-face \{(.*?)\}", SHEET, re.S):
        spans = []
        for first, _, last in re.findall(r"U\+([0-9A-F]+)(-([0-9A-F]+))?", face):
            spans.append(range(int(first, 16), int(last or first, 16) + 1))
        (family,) = re.findall(r'font-family: "(.*?)"', face)
        (file,) = re.findall(r'url\("(.*?)"\)', face)
        found.append((family, file, spans))
    return found


def test_every_font_is_there_and_used_and_licensed():
    files = {path.name for path in (STATIC / "fonts").glob("*.woff2")}
    assert {file.removeprefix("fonts/") for _, file, _ in faces()} == files
    (stack,) = re.findall(r"--pst-font-family-base: (.*?);", SHEET, re.S)
    assert {family for family, _, _ in faces()} == set(re.findall(r'"(.*?)"', stack))
    assert "SIL Open Font License" in (STATIC / "fonts" / "OFL.txt").read_text()


@pytest.mark.parametrize("code", data_card.shown())
def test_every_letter_of_a_language_has_a_font(code):
    it = languages.load(code)
    said = str(it.words) + str(it.templates) + (it.autonym or "")
    letters = {letter for letter in said if unicodedata.category(letter)[0] in "LM"}
    foreign = {
        letter
        for letter in letters
        if not unicodedata.name(letter, "").startswith((*EVERYWHERE, "MODIFIER"))
    }
    spans = [span for _, _, its in faces() for span in its]
    assert {letter for letter in foreign if not any(ord(letter) in span for span in spans)} == set()
