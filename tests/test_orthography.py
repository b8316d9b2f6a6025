"""What may stand in words and templates, by script."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langmerge import orthography

SCRIPTS = {
    "Latin": ("a", "ltr"), "Arabic": ("ئ", "rtl"), "Hebrew": ("א", "rtl"), "Tamil": ("அ", "ltr"),
    "Tibetan": ("བ", "ltr"), "Mongolian": ("ᠮ", "ltr"), "Cyrillic": ("ж", "ltr"),
    "Thaana": ("ހ", "rtl"), "Oriya": ("ଅ", "ltr"),
}  # fmt: skip


def wrong(script, text):
    return list(orthography.problems(script, text))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_has_its_letters_and_its_direction(script):
    letter, direction = SCRIPTS[script]
    assert orthography.is_script(script)
    assert orthography.direction(script) == direction
    assert not wrong(script, letter * 3)
    for other in SCRIPTS.keys() - {script}:
        assert any("is not of the script" in line for line in wrong(other, letter))


@pytest.mark.parametrize("name", ["", "Klingon", "Latn", "Bangla"])
def test_a_name_after_which_no_letter_is_named_is_no_script(name):
    assert not orthography.is_script(name)


@given(st.characters(categories=["Cc", "Cs", "Zl", "Zp"]))
def test_no_control_character_passes(character):
    assert any(f"U+{ord(character):04X}" in line for line in wrong("Latin", f"a{character}b"))


@pytest.mark.parametrize("character", sorted(orthography.BIDI))
def test_nothing_that_turns_the_direction_passes(character):
    assert unicodedata.bidirectional(character) not in ("L", "R") or ord(character) in (
        0x200E,
        0x200F,
    )
    (line,) = wrong("Arabic", f"ئ{character}ئ")
    assert "bidirectional" in line and f"U+{ord(character):04X}" in line
    assert list(orthography.template_problems("Arabic", f"…{character}."))
    assert list(orthography.note_problems(character))


def test_every_bidirectional_control_of_unicode_is_refused():
    """Those of the standard's annex 9, found by their classes and names in Python's own table."""
    classes = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    found = {chr(i) for i in range(0x110000) if unicodedata.bidirectional(chr(i)) in classes}
    marks = {unicodedata.lookup(f"{name} MARK") for name in (
        "LEFT-TO-RIGHT", "RIGHT-TO-LEFT", "ARABIC LETTER")}  # fmt: skip
    assert found | marks == orthography.BIDI


@pytest.mark.parametrize("sign", sorted("<>&`{[*_|$"))
def test_markup_is_named(sign):
    for found in (wrong("Latin", f"a{sign}b"), list(orthography.template_problems("Latin", sign))):
        assert any(repr(sign) in line and "markup" in line for line in found)


@pytest.mark.parametrize(
    ("script", "letter"), [("Tamil", "அ"), ("Arabic", "ئ"), ("Mongolian", "ᠮ")]
)
def test_joiners_stand_where_a_script_needs_them(script, letter):
    assert not wrong(script, f"{letter}\u200d{letter}") and not wrong(
        script, f"{letter}\u200c{letter}"
    )
    assert wrong("Latin", "a\u200db") and wrong("Tibetan", "བ\u200cབ")


def test_mongolian_has_its_variation_selectors():
    for point in (0x180B, 0x180C, 0x180D, 0x180E, 0x180F, 0x202F):
        assert not wrong("Mongolian", f"ᠮ{chr(point)}ᠮ"), hex(point)
        assert wrong("Cyrillic", f"ж{chr(point)}ж")


@pytest.mark.parametrize(
    ("script", "text", "bad"),
    [("Bengali", "১ …", None), ("Bengali", "1 …", None), ("Bengali", "১1", "'1'"),
     ("Tamil", "… ১", "'১'"), ("Latin", "… ٣", "'٣'")],
)  # fmt: skip
def test_digits_are_of_one_system(script, text, bad):
    found = list(orthography.template_problems(script, text))
    assert bool(found) == (bad is not None)
    assert bad is None or any(bad in line for line in found)


@given(st.text(max_size=12))
def test_what_passes_is_normal_and_safe(text):
    if not wrong("Latin", text):
        assert text == unicodedata.normalize("NFC", text)
        assert not set(text) & (set("<>&`{}[]*_|$\n\t") | orthography.BIDI)
        assert text == text.strip()


@pytest.mark.parametrize("character", ["\u200b", "\ufeff", "\u00ad", "\U000e0041", "\u2060"])
def test_nothing_invisible_passes(character):
    for found in (
        orthography.problems("Tamil", f"அ{character}அ"),
        orthography.template_problems("Tamil", f"…{character}."),
        orthography.note_problems(f"a{character}b"),
    ):
        assert f"has the invisible character U+{ord(character):04X}" in list(found)


def test_a_template_has_joiners_only_where_its_script_needs_them():
    (told,) = orthography.template_problems("Latin", "…\u200d.")
    assert "is not of the script" in told
    assert not list(orthography.template_problems("Bengali", "… র\u200dয।"))
