"""What may stand in a word or a template: the letters of one script, in one normal form.

Texts of language files end up in training data and in web pages. Nothing that is markup
there, is invisible, or turns the direction of what follows may be in them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Container, Iterator
from functools import cache

#: Signs with a meaning in HTML, Markdown, LaTeX, MyST or the templates themselves.
MARKUP = "<>&`{}[]*_|$\\"
#: The characters that set or override the direction of a text.
BIDI = {chr(point) for point in (0x061C, 0x200E, 0x200F)} | {
    chr(point) for point in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
#: Joiners, and the scripts that spell words with them.
JOINERS = {"\u200c", "\u200d"}
JOINING = {
    "Arabic", "Bengali", "Devanagari", "Gujarati", "Gurmukhi", "Kannada", "Khmer", "Malayalam",
    "Mongolian", "Myanmar", "Oriya", "Sinhala", "Syriac", "Tamil", "Telugu",
}  # fmt: skip
#: What separates a suffix in the traditional Mongolian script; its variation selectors and
#: vowel separator (U+180B to U+180F) carry the script's name and need no exception.
NARROW_SPACE = "\u202f"
#: What is not seen itself, and changes how letters look: joiners, and Mongolian's vowel separator.
_INVISIBLE = JOINERS | {"\u180e"}
# What stands between the letters of words in any script. The letters that name no script are
# tone marks over a Latin letter and signs such as that of an ejective.
_ANY_SCRIPT = {" ", "-", "'", "\u2019"}
_SHARED_NAMES = ("COMBINING ", "MODIFIER LETTER ")


def problems(script: str, text: str) -> Iterator[str]:
    """What is wrong with a word of a language in that script, a line each."""
    if text != text.strip(" ") or "  " in text:
        yield f"{text!r} has a space at an end or two in a row"
    unsafe = list(_unsafe(text))
    yield from unsafe
    yield from _not_normal(text)
    if not unsafe:
        yield from _foreign(script, text)


def template_problems(script: str, literal: str) -> Iterator[str]:
    """What is wrong with a template, given with a letter of no script in place of its slots."""
    if literal != literal.strip(" ") or "  " in literal:
        yield f"{literal!r} has a space at an end or two in a row"
    yield from _unsafe(literal)
    yield from _not_normal(literal)
    yield from _foreign(script, "".join(it for it in literal if it.isalpha() or it in _INVISIBLE))
    yield from _digits(script, literal)


def note_problems(text: str) -> Iterator[str]:
    """What is wrong with a text about a language, in any script: it, too, reaches the pages.

    Codes have underscores, and versions of word lists have brackets.
    """
    yield from _unsafe(text, set(MARKUP) - set("_[]*"))


@cache
def is_script(name: str) -> bool:
    """Whether the names of some of Unicode's letters begin with that name of a script."""
    return letter_of(name) is not None


@cache
def letter_of(script: str) -> str | None:
    """A letter of a script, or None where no letter is named after it."""
    for point in (*range(0x41, 0xFFFF), *range(0x10000, 0x1F000)):
        letter = chr(point)
        if letter.isalpha() and unicodedata.name(letter, "").startswith(f"{script.upper()} "):
            return letter
    return None


def direction(script: str) -> str:
    """The direction in which a script is written: ``rtl`` or ``ltr``."""
    letter = letter_of(script)
    return "rtl" if letter and unicodedata.bidirectional(letter) in ("R", "AL") else "ltr"


def _unsafe(text: str, markup: Container[str] = MARKUP) -> Iterator[str]:
    for character in dict.fromkeys(text):
        point = f"U+{ord(character):04X}"
        if character in BIDI:
            yield f"has the bidirectional control {point}: `direction:` says how a text runs"
        elif unicodedata.category(character) in ("Cc", "Cs", "Co", "Cn", "Zl", "Zp"):
            yield f"has the control character {point}"
        elif unicodedata.category(character) == "Cf" and character not in _INVISIBLE:
            yield f"has the invisible character {point}"
        elif character in markup:
            yield f"{text!r} has the sign {character!r}, which is markup"


def _not_normal(text: str) -> Iterator[str]:
    normal = unicodedata.normalize("NFC", text)
    if text != normal:
        yield f"{text!r} is not in Unicode normal form C, which is {normal!r}"


def _foreign(script: str, text: str) -> Iterator[str]:
    """What of a text is not written in the language's script."""
    ours = (f"{script.upper()} ", *_SHARED_NAMES)
    allowed = set(_ANY_SCRIPT)
    if script in JOINING:
        allowed |= JOINERS
    if script == "Mongolian":
        allowed.add(NARROW_SPACE)
    for character in dict.fromkeys(text):
        if character not in allowed and not unicodedata.name(character, "").startswith(ours):
            yield f"{text!r}: {character!r} is not of the script {script}"


def _digits(script: str, text: str) -> Iterator[str]:
    """Digits have to be of one system: the script's own or the European ones."""
    digits = [character for character in text if unicodedata.category(character) == "Nd"]
    own = [digit for digit in digits if unicodedata.name(digit).startswith(script.upper())]
    for digit in digits:
        if digit not in own and (own or not digit.isascii()):
            yield f"{text!r}: the digit {digit!r} is of another system than {script}'s"
