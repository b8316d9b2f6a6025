"""Languages: one YAML file each, validated, or generated (the control languages ``zzz_NNNN``).

A language file gives, for every concept of ``data/concepts.yaml``, its word with the
inflected forms that the language's sentence templates use, and a template for every
construction of ``world.CONSTRUCTIONS`` (a file of the core tier: for the core of both, and
whatever more it likes). A file of the reader's own comes before a shipped one of the same
code. Word order, case and agreement live in the
templates and forms, so that adding a language needs no code. Where a word agrees with
another one of the sentence, as a Swahili adjective does with its noun, the slot names
that other role in place of a form (``{property.thing}``).

Control languages are generated (`controls`): the first two, on which everything is tuned,
have word orders and words that differ from English as the reported languages do.
"""

from __future__ import annotations

import builtins
import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from langmerge import hub_languages, orthography, paths
from langmerge.errors import LangmergeError, nearest, readable
from langmerge.files import read_yaml
from langmerge.world import CONSTRUCTIONS, Inventory, concepts, everything

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
#: A code as FLORES has it: a language of ISO 639-3 and a script of ISO 15924.
CODE = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")
SLOT = re.compile(r"\{(\w+)(?:\.(\w+))?\}")
#: The "form" of a word that says which form of another word agrees with it: ``{property.thing}``
#: is the property's form whose name is the thing's ``class`` (a noun class, a gender).
CLASS = "class"
Word = str | dict[str, str]
#: The orders of subject, object and verb.
ORDERS = ("SOV", "SVO", "VSO", "VOS", "OVS", "OSV")
#: The constructions that a core language has to have; its answers follow from them.
CORE = ("act", "question_thing", "question_action")
#: An answer whose template a file leaves out is the word alone, as this construction has it.
ANSWERS = {
    "answer_about": ("topic", "about"),
    "answer_kind": ("topic", "kind"),
    "answer_thing": ("thing", "act"),
    "answer_action": ("action", "act"),
}


class Attestation(BaseModel):
    """What an independent list of words says of a file's: all are found but those named."""

    model_config = ConfigDict(extra="forbid")
    list: str
    version: str = ""
    note: str = ""
    found: int = Field(ge=0)
    not_found: builtins.list[str] = []


class Language(BaseModel):
    """One language: its description, word forms, sentence templates and words.

    tier: ``full`` (every concept and construction) or ``core`` (at least the core; what it does
        not have is never said in it).
    word_separator: what stands between words; a language that has no spaces between them
        (Tibetan, with its tsheg between syllables) has none in its words and templates either.
    local: the English for words that stand for a local thing in place of the world's, by kind
        and concept, in English's forms.
    """

    model_config = ConfigDict(extra="forbid")
    code: str
    name: str
    autonym: str
    script: str
    family: str
    word_order: str
    direction: Literal["ltr", "rtl"] = "ltr"
    word_separator: str = " "
    provenance: str
    reviewed: bool
    tier: Literal["core", "full"] = "full"
    forms: dict[str, list[str]]
    templates: dict[str, str]
    words: dict[str, dict[str, Word]]
    local: dict[str, dict[str, Word]] = {}
    hub: dict[str, object] = {}
    attested: list[Attestation] = []

    @model_validator(mode="before")
    @classmethod
    def _without_what_is_not_filled_in(cls, content: Any) -> Any:
        """Leave out the words and templates that are empty, as a new file's are."""
        if not isinstance(content, dict):
            return content
        content = dict(content)
        if isinstance(content.get("templates"), dict):
            content["templates"] = _filled(content["templates"])
        if isinstance(content.get("words"), dict):
            words = content["words"].items()
            content["words"] = {k: _filled(v) if isinstance(v, dict) else v for k, v in words}
        return content

    @model_validator(mode="after")
    def _answers(self) -> Language:
        for answer, (role, source) in ANSWERS.items():
            slots = SLOT.finditer(self.templates.get(source, ""))
            slot = next((slot[0] for slot in slots if slot[1] == role), None)
            if slot is not None:
                self.templates.setdefault(answer, slot)
        return self

    def inventory(self) -> Inventory:
        """What can be said in the language: everything, or what a core file has words for."""
        if self.tier == "full":
            return everything()
        return Inventory(
            concepts().within({kind: set(words) for kind, words in self.words.items()}),
            frozenset(
                name
                for name in self.templates
                if all(self.words.get(_KIND[role]) for role in CONSTRUCTIONS.get(name, ()))
            ),
        )

    def spoken(self) -> str:
        """All of a file that its text depends on, as JSON.

        The rest is about the language.
        """
        return self.model_dump_json(include={"code", "forms", "templates", "words", "local"})

    def form(self, role: str, concept: str, form: str | None = None) -> str:
        """A concept's word in one of its forms (the citation form where none is named)."""
        word = self.words[_KIND[role]][concept]
        return word if isinstance(word, str) else word[form or self.forms[role][0]]

    def agreeing(self, role: str, concept: str, controller: str, other: str) -> str:
        """A concept's word in the form that agrees with another word of the sentence."""
        return self.form(role, concept, self.form(controller, other, CLASS))

    def letters(self) -> set[str]:
        """The letters and the marks on them that its words and templates are written with."""
        texts = [SLOT.sub("", template) for template in self.templates.values()]
        for words in self.words.values():
            for word in words.values():
                texts += [word] if isinstance(word, str) else word.values()
        return {it for it in "".join(texts) if unicodedata.category(it)[0] in "LM"}

    @property
    def is_control(self) -> bool:
        """Whether this is a generated control language."""
        return CONTROL.fullmatch(self.code) is not None


_KIND = {role: kind for kind, role in ROLE.items()}


def _filled(values: dict) -> dict:
    """The entries with something in them."""

    def empty(value: object) -> bool:
        if isinstance(value, dict):
            return bool(value) and all(empty(its) for name, its in value.items() if name != CLASS)
        return value is None or (isinstance(value, str) and not value.strip())

    return {key: value for key, value in values.items() if not empty(value)}


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
        # The generator fills this module's schema, and so imports it.
        from langmerge import controls

        return controls.generate(int(control[1]))
    path = paths.find("languages", str(code)) if re.fullmatch(r"\w+", str(code)) else None
    if path is None:
        if told := hub_languages.refusal(str(code)):
            raise LangmergeError(told)
        raise LangmergeError(
            f"no language {code!r}: {nearest(str(code), codes())} "
            "(or a control language, zzz_0000 to zzz_9999)"
        )
    return read(path)


def read(path: Path) -> Language:
    """Read and check a language file."""
    language = parse(path)
    if found := problems(language, path):
        listed = "\n  ".join(found[:20])
        more = f"\n  and {len(found) - 20} more" if len(found) > 20 else ""
        raise LangmergeError(
            f"{path} is not a complete language:\n  {listed}{more}\n"
            f"`langmerge language check {path.stem}` says all of it."
        )
    return language


def problems(language: Language, path: Path) -> list[str]:
    """What keeps a file from being used as a language, a line each; empty where nothing does."""
    found = list(_problems(language))
    if language.code != path.stem:
        found.insert(0, f"code is {language.code!r}, but the file is called {path.name}")
    if not CODE.fullmatch(language.code):
        found.insert(0, f"code: {language.code!r} is none of FLORES, such as gsw_Latn")
    return found


def whole() -> list[str]:
    """The codes of the languages whose file is complete: a new one is not until it is filled."""

    def is_whole(code: str) -> bool:
        try:
            load(code)
        except LangmergeError:
            return False
        return True

    return [code for code in codes() if is_whole(code)]


def parse(path: Path) -> Language:
    """A language file as it is, complete or not; LangmergeError where it is no language file."""
    try:
        return Language.model_validate(read_yaml(path))
    except ValidationError as error:
        raise LangmergeError(f"{path}: {readable(error)}") from None


def english_beside(language: Language) -> Language:
    """English as it translates a language: with the names of the local things."""
    english = load("eng_Latn")
    if not language.local:
        return english
    words = {kind: its | language.local.get(kind, {}) for kind, its in english.words.items()}
    return english.model_copy(update={"words": words})


def required(language: Language) -> dict[str, list[str]]:
    """The concepts that a file of its tier has to have, by kind of word.

    Topics are the options of a task: a core file has none of them or all.
    """
    everything_ = concepts().by_kind()
    if language.tier == "full":
        return everything_
    topics = everything_["topics"] if language.words.get("topics") else []
    return concepts().core | {"topics": topics}


def _problems(language: Language) -> Iterator[str]:
    """What is wrong with a language, a line each."""
    yield from _problems_of_head(language)
    yield from _problems_of_local_words(language)
    yield from _problems_of_templates(language)
    for kind in sorted(set(language.words) - set(ROLE)):
        yield f"words.{kind}: no such kind of word, {nearest(kind, ROLE)}"
    for kind, ids in concepts().by_kind().items():
        words = language.words.get(kind, {})
        for concept in required(language).get(kind, []):
            if concept not in words:
                yield f"words.{kind}.{concept} is missing or empty"
        for concept in sorted(set(words) - set(ids)):
            yield f"words.{kind}.{concept}: no such concept, {nearest(concept, ids)}"
        yield from _problems_of_words(language, kind, words)


def _problems_of_head(language: Language) -> Iterator[str]:
    """What is wrong with what a file says about its language."""
    for key in ("name", "autonym", "script", "family", "word_order", "provenance"):
        text = getattr(language, key)
        if not text.strip():
            yield f"{key} is empty"
        yield from (f"{key} {problem}" for problem in orthography.note_problems(text))
    for given in language.attested:
        for text in (given.list, given.version, given.note, *given.not_found):
            yield from (f"attested {problem}" for problem in orthography.note_problems(text))
    if language.word_order.strip() and language.word_order not in ORDERS:
        near = nearest(language.word_order, ORDERS)
        yield f"word_order: no order {language.word_order!r}, {near}"
    if language.script.strip() and not orthography.is_script(language.script):
        yield (
            f"script: Unicode names no letters after {language.script!r}; it is the first word of "
            "the names of its letters, such as Latin, Cyrillic, Arabic, Bengali or Oriya"
        )
    elif language.direction != orthography.direction(language.script):
        yield f"direction is {language.direction}, but {language.script} is not written so"


def _problems_of_local_words(language: Language) -> Iterator[str]:
    """What is wrong with the English of a language's local things."""
    if not language.local:
        return
    # The shipped English, because it may be the reader's own that is being checked.
    english = parse(paths.data() / "languages" / "eng_Latn.yaml")
    for kind, words in language.local.items():
        for concept in words:
            if concept not in english.words.get(kind, {}):
                yield f"local.{kind}.{concept}: no such concept to replace"
    known = {kind: words for kind, words in language.local.items() if kind in ROLE}
    for kind, words in known.items():
        for problem in _problems_of_words(english, kind, english.words[kind] | words):
            yield f"local (in English), {problem}"


def _problems_of_templates(language: Language) -> Iterator[str]:
    for role in ROLE.values():
        if not language.forms.get(role):
            yield f"forms.{role} is missing: name at least the citation form"
    for role in sorted(set(language.forms) - set(ROLE.values())):
        yield f"forms.{role}: no such role, {nearest(role, ROLE.values())}"
    for role, forms in language.forms.items():
        for form in sorted({*ROLE.values()} & {*forms}):
            yield f"forms.{role}: a form cannot be called {form}, which is the name of a role"
        if forms[:1] == [CLASS]:
            yield f"forms.{role}: {CLASS} cannot be the citation form, since it is never said"
    for name, roles in CONSTRUCTIONS.items():
        if name not in language.templates:
            if language.tier == "full" or name in CORE:
                yield f"templates.{name} is missing or empty"
            continue
        for role in roles:
            if not language.words.get(_KIND[role]):
                yield f"templates.{name} needs words.{_KIND[role]}: add them or empty the template"
        slots = SLOT.findall(language.templates[name])
        for role, form in slots:
            if role not in roles:
                known = ", ".join(roles) or "none"
                yield f"templates.{name}: no slot {{{role}}} here; it has {known}"
            elif form in roles:
                yield from _problems_of_agreement(language, name, role, form)
            elif form and (form == CLASS or form not in language.forms.get(role, [])):
                yield f"templates.{name}: {{{role}.{form}}} is no form of forms.{role}"
        for role in sorted(set(roles) - {role for role, _ in slots}):
            yield f"templates.{name}: the slot {{{role}}} is missing"
        yield from (f"templates.{name}: {it}" for it in _problems_of_literals(language, name))
    for name in sorted(set(language.templates) - set(CONSTRUCTIONS)):
        yield f"templates.{name}: no such template, {nearest(name, CONSTRUCTIONS)}"


def _problems_of_literals(language: Language, name: str) -> Iterator[str]:
    """What is wrong with a template between its slots."""
    template = language.templates[name]
    literal = SLOT.sub("", template)
    if "{" in literal or "}" in literal:
        yield "a brace that is no slot; slots are {role} or {role.form}"
        return
    if "}{" in template:
        yield f"two slots without {language.word_separator!r} between them run into one word"
    if language.word_separator != " " and " " in template:
        yield f"has a space, but words are separated by {language.word_separator!r}"
    # The slot's sign is of no category that the checks look at, and keeps spaces apart.
    yield from orthography.template_problems(language.script, SLOT.sub("\u2026", template))


def _problems_of_agreement(
    language: Language, name: str, role: str, controller: str
) -> Iterator[str]:
    """What keeps ``{role.controller}`` from being said: a class that names no form of role."""
    known = language.forms.get(role, [])
    for concept, word in language.words.get(_KIND[controller], {}).items():
        its = None if isinstance(word, str) else word.get(CLASS)
        if its not in known:
            yield (
                f"templates.{name}: {{{role}.{controller}}} agrees with the {controller}, but the "
                f"{CLASS} of {concept} is {its!r}; forms.{role} has {', '.join(known)}"
            )


def _problems_of_words(language: Language, kind: str, words: dict) -> Iterator[str]:
    wanted = set(language.forms.get(ROLE[kind], []))
    for concept, word in words.items():
        forms = {"": word} if isinstance(word, str) else word
        if not isinstance(word, str) and set(word) != wanted:
            missing = ", ".join(sorted(wanted ^ set(word)))
            yield f"words.{kind}.{concept}: forms missing or unknown: {missing}"
        for form, text in forms.items():
            if form == CLASS:
                continue  # the name of a form, never said
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
    if language.word_separator != " " and " " in text:
        yield f"{text!r} has a space, but words are separated by {language.word_separator!r}"
    yield from orthography.problems(language.script, text)
