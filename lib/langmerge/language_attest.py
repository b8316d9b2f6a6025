"""`langmerge language attest`: which words of a language file an independent list knows.

A list says that a word exists, not that it means what the file says; a speaker does that.
The file keeps, for each list, how many of its words were found and which were not: the
dictionaries themselves are never copied.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import yaml

from langmerge import languages
from langmerge.errors import LangmergeError
from langmerge.files import write_text
from langmerge.languages import CLASS, SLOT, Attestation, Language
from langmerge.orthography import JOINERS

_BLOCK = re.compile(r"^attested:.*?(?=^\S|\Z)", re.MULTILINE | re.DOTALL)
_APOSTROPHES = str.maketrans("\u2019\u02bc", "''")


def words(language: Language) -> list[str]:
    """Every orthographic word that the language's sentences may have, normalised and sorted.

    Where nothing but a sign between syllables separates words (Tibetan), they are syllables.
    """
    texts = [SLOT.sub(" ", template) for template in language.templates.values()]
    for its in language.words.values():
        for word in its.values():
            forms = {"": word} if isinstance(word, str) else word
            texts += [text for form, text in forms.items() if form != CLASS]
    return sorted({word for text in texts for word in split(text)})


def split(text: str) -> list[str]:
    """The orthographic words of a text, normalised: letters and marks, apostrophes within."""
    spaced = "".join(
        sign if unicodedata.category(sign)[0] in "LM" or sign == "'" else " "
        for sign in normal(text)
    )
    return [word for part in spaced.split() if (word := part.strip("'"))]


def normal(text: str) -> str:
    """How a word is compared: NFC, without case and joiners, with one kind of apostrophe."""
    kept = "".join(sign for sign in text if sign not in JOINERS)
    return unicodedata.normalize("NFC", kept.translate(_APOSTROPHES)).casefold()


def knower(path: Path) -> Callable[[str], bool]:
    """A function that says whether a list of words has a word.

    path: a hunspell dictionary (``.dic`` with its ``.aff`` beside it, whose affixes are
        understood), or a plain list, one word a line; what follows a slash or a tab is ignored.
    Raises LangmergeError where the list is missing, empty or not UTF-8.
    """
    if not path.is_file():
        raise LangmergeError(f"no list of words {path}")
    if path.suffix == ".dic" and path.with_suffix(".aff").is_file():
        lookup = _hunspell(path)
        return lambda word: lookup(word) or lookup(word.capitalize())
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise LangmergeError(f"{path} is not UTF-8: convert it, for example with iconv") from None
    known = {normal(re.split(r"[/\t]", line.strip())[0].strip()) for line in lines} - {""}
    known = {word for word in known if not word.isdigit()}  # a .dic begins with its length
    if not known:
        raise LangmergeError(f"{path} has no words")
    return known.__contains__


def _hunspell(path: Path) -> Callable[[str], bool]:
    try:
        from spylls.hunspell import Dictionary
    except ImportError:
        raise LangmergeError(
            f"{path} has affixes ({path.with_suffix('.aff').name}), which spylls reads: "
            "pip install spylls. Or give a plain list of words."
        ) from None
    return Dictionary.from_files(str(path.with_suffix(""))).lookup


def attest(
    path: Path, list_file: Path, name: str, version: str = "", note: str = ""
) -> Attestation:
    """Look a file's words up in a list and write what was found into the file.

    name, version: of the list, for the reader; a list of the same name is replaced.
    """
    language = languages.parse(path)
    known, wanted = knower(list_file), words(language)
    missing = [word for word in wanted if not (known(word) or _in_parts(word, known))]
    given = Attestation(
        list=name,
        version=version,
        note=note,
        found=len(wanted) - len(missing),
        not_found=missing,
    )
    put(path, given)
    return given


def _in_parts(word: str, known: Callable[[str], bool]) -> bool:
    """Whether a list has what an apostrophe joins, as in Welsh mae'r; a lone letter is elided."""
    parts = [part for part in word.split("'") if len(part) > 1]
    return "'" in word and bool(parts) and all(map(known, parts))


def put(path: Path, given: Attestation) -> None:
    """Write an attestation into a language file, whose other lines stay as they are.

    Nothing is written where the file would not be the same language afterwards.
    """
    language = languages.parse(path)
    kept = [other for other in language.attested if other.list != given.list]
    block = _text([*kept, given])
    text = path.read_text(encoding="utf-8")
    if _BLOCK.search(text):
        text = _BLOCK.sub(lambda _: block, text, count=1)
    else:
        text = text.rstrip("\n") + "\n" + block
    wrong = languages.problems(language.model_copy(update={"attested": [given]}), path)
    if complaints := [problem for problem in wrong if problem.startswith("attested")]:
        raise LangmergeError("; ".join(complaints))
    write_text(path, text)


def _text(attested: list[Attestation]) -> str:
    """The block of a file, a list's missing words in one flowing list."""
    lines = ["attested:"]
    for given in attested:
        content = given.model_dump(exclude={"not_found"}, exclude_defaults=True)
        entry = yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=88).splitlines()
        missing = yaml.safe_dump(
            given.not_found, allow_unicode=True, default_flow_style=True, width=88
        ).splitlines()
        entry += [f"not_found: {missing[0]}", *(f"  {line}" for line in missing[1:])]
        lines += [f"  - {entry[0]}", *(f"    {line}" for line in entry[1:])]
    return "\n".join(lines) + "\n"


def share(language: Language) -> tuple[int, int] | None:
    """How many words the lists together found, and of how many; None where none was asked."""
    if not language.attested:
        return None
    everything = set(words(language))
    missing = set.intersection(*(set(given.not_found) for given in language.attested))
    return len(everything - missing), len(everything)


def stale(language: Language) -> list[str]:
    """The lists that were asked about other words than the file has now."""
    number = len(words(language))
    return [it.list for it in language.attested if it.found + len(it.not_found) != number]
