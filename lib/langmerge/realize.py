"""Say a proposition in a language: templates filled with the words' inflected forms.

A slot may be filled from another language, which is code-switching at the word level.
"""

from __future__ import annotations

from functools import cache

from langmerge.languages import SLOT, Language
from langmerge.world import Proposition


class Realizer:
    """Says propositions in one language.

    Templates are compiled once into literal pieces and slots: corpora need millions of
    sentences.
    """

    def __init__(self, language: Language) -> None:
        self.language = language
        self._templates = {name: _compile(text) for name, text in language.templates.items()}
        self._form = cache(language.form)
        self._agreeing = cache(language.agreeing)

    def __call__(self, proposition: Proposition) -> str:
        """The sentence (or, for an ``answer_*`` construction, the phrase)."""
        return self.switched(proposition, None, ())

    def switched(
        self, proposition: Proposition, other: Realizer | None, roles: tuple[str, ...] | set[str]
    ) -> str:
        """The sentence with the words of the named roles taken from another language.

        The other language's words come in their citation forms, as loans do; in a language without
        spaces between words there is a space before them all the same, as it is written.
        """
        concepts = dict(proposition.roles)
        pieces = []
        for literal, role, form in self._templates[proposition.construction]:
            pieces.append(literal)
            if role is not None and role in roles:
                apart = " " if self.language.word_separator != " " and any(pieces) else ""
                pieces.append(apart + other._form(role, concepts[role]))
            elif form in concepts:
                pieces.append(self._agreeing(role, concepts[role], form, concepts[form]))
            elif role is not None:
                pieces.append(self._form(role, concepts[role], form))
        return "".join(pieces)

    def gloss(self, proposition: Proposition) -> str:
        """The sentence with each word's concept in its place: ``mother.ergative rice cook``.

        A form other than the citation form is named behind the concept.
        """
        concepts = dict(proposition.roles)
        pieces = []
        for literal, role, form in self._templates[proposition.construction]:
            pieces.append(literal)
            if role is not None:
                plain = form in (None, self.language.forms[role][0])
                pieces.append(concepts[role] if plain else f"{concepts[role]}.{form}")
        return "".join(pieces)


def _compile(template: str) -> list[tuple[str, str | None, str | None]]:
    """A template as (literal, role, form) pieces; role is None after the last slot."""
    pieces, end = [], 0
    for slot in SLOT.finditer(template):
        pieces.append((template[end : slot.start()], slot[1], slot[2]))
        end = slot.end()
    return [*pieces, (template[end:], None, None)]
