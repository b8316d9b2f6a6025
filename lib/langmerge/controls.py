"""Control languages ``zzz_NNNN``: generated, as many as a statistic needs.

Each draws its lexicon from a seeded phonotactic model of its own. They share no word with
English, and come in three word orders and in four scripts in turn, so that any twelve in a
row have every order in every script. The templates of the orders and the letters of the
scripts are in ``data/controls.yaml``.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from langmerge import paths
from langmerge.files import read_yaml
from langmerge.languages import ROLE, SLOT, Language, load
from langmerge.world import concepts

WORD_ORDERS = ("SOV", "VSO", "SVO")
SCRIPTS = ("Latin", "Cyrillic", "Greek", "Georgian")


def generate(number: int) -> Language:
    """The control language ``zzz_<number>``: a seeded lexicon, order and script in their turn."""
    rng = np.random.default_rng([20240703, number])
    order = WORD_ORDERS[number % len(WORD_ORDERS)]
    script = SCRIPTS[number % len(SCRIPTS)]
    grammar = read_yaml(paths.data() / "controls.yaml")
    letters = str.maketrans(grammar["letters"]["Latin"], grammar["letters"][script])
    invent_in_latin = _inventor(rng, taken=_english_tokens())

    def invent() -> str:
        return invent_in_latin().translate(letters)

    words: dict[str, dict[str, str | dict[str, str]]] = {
        kind: {concept: invent() for concept in ids} for kind, ids in concepts().by_kind().items()
    }
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
        script=script,
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
