"""Languages: one YAML file each, validated, or generated (the control languages ``zzz_NNNN``).

A language file gives, for every concept of ``data/concepts.yaml``, its word with the
inflected forms that the language's sentence templates use, and a template for every
construction of ``world.CONSTRUCTIONS``. Word order, case and agreement live in the
templates and forms, so that adding a language needs no code.

Control languages draw their lexicon from a seeded phonotactic model. They share no word
with English, and come in the word orders SOV, VSO and SVO in turn: the first two, on
which everything is tuned, therefore differ from English as the reported languages do.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from langmerge import paths
from langmerge.errors import LangmergeError, nearest, readable
from langmerge.files import read_yaml
from langmerge.world import CONSTRUCTIONS, concepts

#: The role that a word of each kind plays in a template.
ROLE = {
    "topics": "topic",
    "things": "thing",
    "actions": "action",
    "persons": "person",
    "places": "place",
    "properties": "property",
    "times": "time",
}
CONTROL = re.compile(r"zzz_(\d{4})")
SLOT = re.compile(r"\{(\w+)(?:\.(\w+))?\}")
WORD_ORDERS = ("SOV", "VSO", "SVO")
# The joiners that some scripts need inside a word, and the signs that all scripts share.
_ANY_SCRIPT = {"\u200c", "\u200d", " ", "-", "'", "\u2019"}
# Signs whose Unicode name names no script: tone marks over a Latin letter, an ejective's sign.
_SHARED_NAMES = ("COMBINING ", "MODIFIER LETTER ")


class Language(BaseModel):
    """One language: its description, word forms, sentence templates and words."""

    model_config = ConfigDict(extra="forbid")
    code: str
    name: str
    autonym: str
    script: str
    family: str
    word_order: str
    direction: str = "ltr"
    provenance: str
    reviewed: bool
    forms: dict[str, list[str]]
    templates: dict[str, str]
    words: dict[str, dict[str, str | dict[str, str]]]
    hub: dict[str, object] = {}

    def form(self, role: str, concept: str, form: str | None = None) -> str:
        """A concept's word in one of its forms (the citation form where none is named)."""
        word = self.words[_KIND[role]][concept]
        return word if isinstance(word, str) else word[form or self.forms[role][0]]

    @property
    def is_control(self) -> bool:
        """Whether this is a generated control language."""
        return CONTROL.fullmatch(self.code) is not None


_KIND = {role: kind for kind, role in ROLE.items()}


def codes() -> list[str]:
    """The codes of all languages that have a file, sorted (control languages have none)."""
    return paths.names("languages")


@cache
def load(code: str) -> Language:
    """The language of that FLORES code (``tam_Taml``), or a control language (``zzz_0003``).

    Raises LangmergeError for an unknown code (with the nearest known ones) and for a file
    that is not valid, naming the file, the concept and what is wrong with it.
    """
    if control := CONTROL.fullmatch(str(code)):
        return generate(int(control[1]))
    path = paths.find("languages", str(code)) if re.fullmatch(r"\w+", str(code)) else None
    if path is None:
        raise LangmergeError(
            f"no language {code!r}: {nearest(str(code), codes())} "
            "(or a control language, zzz_0000 to zzz_9999)"
        )
    return read(path)


def read(path: Path) -> Language:
    """Read and check a language file."""
    try:
        language = Language.model_validate(read_yaml(path))
    except ValidationError as error:
        raise LangmergeError(f"{path}: {readable(error)}") from None
    problems = list(_problems(language))
    if language.code != path.stem:
        problems.insert(0, f"code is {language.code!r}, but the file is called {path.name}")
    if problems:
        listed = "\n  ".join(problems[:20])
        raise LangmergeError(f"{path} is not a complete language:\n  {listed}")
    return language


def _problems(language: Language) -> Iterator[str]:
    """What is wrong with a language, a line each."""
    yield from _problems_of_templates(language)
    for kind in sorted(set(language.words) - set(ROLE)):
        yield f"words.{kind}: no such kind of word, {nearest(kind, ROLE)}"
    for kind, ids in concepts().by_kind().items():
        words = language.words.get(kind, {})
        for concept in ids:
            if concept not in words:
                yield f"words.{kind}.{concept} is missing"
        for concept in sorted(set(words) - set(ids)):
            yield f"words.{kind}.{concept}: no such concept, {nearest(concept, ids)}"
        yield from _problems_of_words(language, kind, words)


def _problems_of_templates(language: Language) -> Iterator[str]:
    for role in ROLE.values():
        if not language.forms.get(role):
            yield f"forms.{role} is missing: name at least the citation form"
    for role in sorted(set(language.forms) - set(ROLE.values())):
        yield f"forms.{role}: no such role, {nearest(role, ROLE.values())}"
    for name, roles in CONSTRUCTIONS.items():
        if name not in language.templates:
            yield f"templates.{name} is missing"
            continue
        slots = SLOT.findall(language.templates[name])
        for role, form in slots:
            if role not in roles:
                known = ", ".join(roles) or "none"
                yield f"templates.{name}: no slot {{{role}}} here; it has {known}"
            elif form and form not in language.forms.get(role, []):
                yield f"templates.{name}: {{{role}.{form}}} is no form of forms.{role}"
        for role in sorted(set(roles) - {role for role, _ in slots}):
            yield f"templates.{name}: the slot {{{role}}} is missing"
        literal = SLOT.sub("", language.templates[name])
        if "{" in literal or "}" in literal:
            yield f"templates.{name}: a brace that is no slot; slots are {{role}} or {{role.form}}"
        letters = "".join(filter(str.isalpha, literal))
        text = language.templates[name].replace("{", " ").replace("}", " ")
        for problem in (*_not_normal(text), *_foreign(language, letters)):
            yield f"templates.{name}: {problem}"
    for name in sorted(set(language.templates) - set(CONSTRUCTIONS)):
        yield f"templates.{name}: no such template, {nearest(name, CONSTRUCTIONS)}"


def _problems_of_words(language: Language, kind: str, words: dict) -> Iterator[str]:
    wanted = set(language.forms.get(ROLE[kind], []))
    for concept, word in words.items():
        forms = {"": word} if isinstance(word, str) else word
        if not isinstance(word, str) and set(word) != wanted:
            missing = ", ".join(sorted(wanted ^ set(word)))
            yield f"words.{kind}.{concept}: forms missing or unknown: {missing}"
        for form, text in forms.items():
            where = f"words.{kind}.{concept}" + (f".{form}" if form else "")
            yield from (f"{where} {problem}" for problem in _problems_of_text(language, text))
    for form in _telling_forms(language, ROLE[kind]):
        yield from _problems_of_twins(kind, form, words)


def _telling_forms(language: Language, role: str) -> list[str]:
    """The forms that must tell words apart: the citation form and those of a task's options.

    Others may be the same for many words, as a copula or an interrogative is.
    """
    answers = (text for name, text in language.templates.items() if name.startswith("answer_"))
    named = {form for text in answers for where, form in SLOT.findall(text) if where == role}
    citation = language.forms.get(role, [])[:1]
    return [*citation, *sorted(named - {"", *citation})]


def _problems_of_twins(kind: str, form: str, words: dict) -> Iterator[str]:
    seen: dict[str, str] = {}
    for concept, word in words.items():
        text = word if isinstance(word, str) else word.get(form)
        if text in seen:
            yield f"words.{kind}.{concept}: {text!r} ({form}) is already the word of {seen[text]}"
        elif text is not None:
            seen[text] = concept


def _problems_of_text(language: Language, text: str) -> Iterator[str]:
    if not text.strip():
        yield "is empty"
    elif text != " ".join(text.split()):
        yield f"{text!r} has a space at an end or two in a row"
    yield from _not_normal(text)
    yield from _foreign(language, text)


def _not_normal(text: str) -> Iterator[str]:
    if text != unicodedata.normalize("NFC", text):
        yield f"{text!r} is not in Unicode normal form C"


def _foreign(language: Language, text: str) -> Iterator[str]:
    """What of a text is not written in the language's script."""
    ours = (language.script.upper(), *_SHARED_NAMES)
    for character in text:
        if character not in _ANY_SCRIPT and not unicodedata.name(character, "").startswith(ours):
            yield f"{text!r}: {character!r} is not of the script {language.script}"


def generate(number: int) -> Language:
    """The control language ``zzz_<number>``: a seeded lexicon and the word order in its turn."""
    rng = np.random.default_rng([20240703, number])
    order = WORD_ORDERS[number % 3]
    invent = _inventor(rng, taken=_english_tokens())
    words: dict[str, dict[str, str | dict[str, str]]] = {
        kind: {concept: invent() for concept in ids} for kind, ids in concepts().by_kind().items()
    }
    grammar = read_yaml(paths.data() / "controls.yaml")
    function_words = {name: invent() for name in grammar["function_words"]}
    templates = {
        name: re.sub(r"<(\w+)>", lambda match: function_words[match[1]], template)
        for name, template in grammar["word_orders"][order].items()
    }
    forms = {role: ["citation"] for role in ROLE.values()}
    if order == "SOV":
        suffix = invent()[:2]
        forms["thing"] = ["nominative", "accusative"]
        words["things"] = {
            concept: {"nominative": word, "accusative": word + suffix}
            for concept, word in words["things"].items()
        }
    return Language(
        code=f"zzz_{number:04d}",
        name=f"Control language {number}",
        autonym=f"zzz_{number:04d}",
        script="Latin",
        family="generated",
        word_order=order,
        provenance="drawn from a seeded phonotactic model",
        reviewed=True,
        forms=forms,
        templates=templates,
        words=words,
    )


def _english_tokens() -> set[str]:
    """Every word that English sentences may contain."""
    english = load("eng_Latn")
    texts = [SLOT.sub(" ", template) for template in english.templates.values()]
    for words in english.words.values():
        for word in words.values():
            texts += [word] if isinstance(word, str) else word.values()
    return set(re.findall(r"\w+", " ".join(texts)))


def _inventor(rng: np.random.Generator, taken: set[str]) -> Callable[[], str]:
    """A function that invents a new word of two or three syllables at each call."""
    consonants = rng.permutation(list("ptkbdgmnslrvzhjw"))[:11]
    vowels = rng.permutation(list("aeiou"))[: rng.integers(3, 6)]
    codas = ["", "", "", *rng.permutation(list("nmrslk"))[:2]]

    def invent() -> str:
        while True:
            word = "".join(
                rng.choice(consonants) + rng.choice(vowels) + rng.choice(codas)
                for _ in range(rng.integers(2, 4))
            )
            if word not in taken:
                taken.add(word)
                return word

    return invent
