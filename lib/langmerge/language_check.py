"""`langmerge language check`: what a language file lacks, how it reads, how hard it will be.

The problems are those for which `languages.read` refuses a file, gathered so that a person
can work through them. Warnings keep no file from being used.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from langmerge import corpus, language_attest, languages, paths, tasks
from langmerge.base import Base
from langmerge.errors import LangmergeError, nearest
from langmerge.languages import CLASS, ROLE, Language
from langmerge.realize import Realizer
from langmerge.world import CONSTRUCTIONS, Proposition, Speaker

#: Documents from which learnability is estimated.
DOCUMENTS = 300
_EXAMPLES = (
    {"person": "mother", "action": "cook", "thing": "rice", "topic": "food"},
    {"person": "farmer", "action": "see", "thing": "cow", "topic": "animal"},
)
_CIRCUMSTANCES = {"place": "village", "property": "big", "time": "today"}
_MISSING = re.compile(r"(words\.\w+|templates)\.(\w+) is missing or empty")


@dataclass(frozen=True)
class Sample:
    """A sentence, its English, and its gloss: concepts in the places of their words."""

    said: str
    english: str
    gloss: str


@dataclass(frozen=True)
class Report:
    """What there is to say about a language file.

    problems: what keeps the file from being used; warnings: what a speaker should look at.
    """

    path: Path
    language: Language
    problems: list[str]
    warnings: list[str]
    samples: list[Sample]
    tasks: list[str]


@dataclass(frozen=True)
class Learnability:
    """How hard a language will be for a base, estimated before anything is trained.

    tokens_per_word: of running text, words being what the word separator separates.
    first_tokens: by kind of word, how many of its words are the only ones that begin with
        their first token, and of how many; an option is told from the others by its tokens.
    documents: how many the base meets of a language; tokens: what they come to.
    mentions: how often the median thing or action is met in them.
    """

    code: str
    tokens_per_word: float
    first_tokens: dict[str, tuple[int, int]]
    documents: int
    tokens: int
    mentions: float


def find(target: str) -> Path:
    """The file of a code, or the file itself; LangmergeError where there is none."""
    if target.endswith((".yaml", ".yml")) or "/" in target:
        path = Path(target).expanduser()
        if not path.is_file():
            raise LangmergeError(f"no file {path}")
        return path
    path = paths.find("languages", target) if re.fullmatch(r"\w+", target) else None
    if path is None:
        raise LangmergeError(
            f"no language {target!r}: {nearest(target, languages.codes())} "
            f"`langmerge language new {target}` begins a file of your own."
        )
    return path


def check(path: Path) -> Report:
    """Everything about a file but its learnability; LangmergeError where it is no language."""
    language = languages.parse(path)
    problems = languages.problems(language, path)
    inventory = language.inventory()
    return Report(
        path=path,
        language=language,
        problems=_gathered(problems),
        warnings=[*_like_english(language), *_about_the_file(language, path)],
        samples=samples(language),
        tasks=tasks.possible(inventory),
    )


def _gathered(problems: list[str]) -> list[str]:
    """The problems, what is missing of one kind in one line, in the order of the file."""
    missing: dict[str, list[str]] = {}
    others = []
    for problem in problems:
        if match := _MISSING.fullmatch(problem):
            missing.setdefault(match[1], []).append(match[2])
        else:
            others.append(problem)
    lists = [f"{where}: {len(ids)} to fill in: {', '.join(ids)}" for where, ids in missing.items()]
    return others + lists


def _like_english(language: Language) -> list[str]:
    """A line for the words that are the English ones; a loan is no mistake, a gap filled is."""
    if language.code == "eng_Latn":
        return []
    english = languages.english_beside(language)
    same = [
        f"{concept} ({text})"
        for kind, words in language.words.items()
        for concept, word in words.items()
        for text in dict.fromkeys(_said(word))
        if text.casefold() in map(str.casefold, _said(english.words.get(kind, {}).get(concept, "")))
    ]
    return [f"as in English, so loans or gaps: {', '.join(same)}"] if same else []


def _said(word: languages.Word) -> list[str]:
    """The forms of a word that are said."""
    return [word] if isinstance(word, str) else [its for f, its in word.items() if f != CLASS]


def _about_the_file(language: Language, path: Path) -> list[str]:
    """What somebody who trusts a file should know of it."""
    told = []
    if not language.reviewed:
        told.append("not checked by a speaker (`reviewed: false`)")
    shipped = paths.data() / "languages" / f"{language.code}.yaml"
    if path.resolve() != shipped.resolve() and shipped.is_file():
        told.append(f"comes before the shipped file of that code, {shipped}")
    # What the problems name already is not said again: the core, and the answers it brings along.
    core = {*languages.CORE, "answer_thing", "answer_action"}
    can_say = language.inventory().constructions | core
    left_out = {
        task: [name for name in tasks.NEEDS[task] if name not in can_say]
        for task in tasks.TASKS
        if task not in tasks.possible(language.inventory())
    }
    lacks = [f"{task} (lacks {', '.join(names)})" for task, names in left_out.items() if names]
    if language.tier == "core" and lacks:
        told.append(f"the core has two tasks; left out: {', '.join(lacks)}")
    if old := language_attest.stale(language):
        told.append(f"words have changed since they were looked up in {', '.join(old)}")
    return told


def _sentences() -> list[Proposition]:
    """Each construction about two examples."""
    return [
        Proposition.of(name, **{role: (its | _CIRCUMSTANCES)[role] for role in roles})
        for name, roles in CONSTRUCTIONS.items()
        for its in (_EXAMPLES if name in languages.CORE else _EXAMPLES[:1])
        if not name.startswith("answer_")
    ]


class _Sayer:
    """Says a proposition with its English and gloss, or nothing where a part is not there yet."""

    def __init__(self, language: Language) -> None:
        self._language = language
        self._say = Realizer(language)
        self._english = Realizer(languages.english_beside(language))

    def __call__(self, proposition: Proposition) -> Sample | None:
        if proposition.construction not in self._language.templates:
            return None
        try:
            said, gloss = self._say(proposition), self._say.gloss(proposition)
        except (KeyError, IndexError):  # a word or a form that the problems name
            return None
        return Sample(said, self._english(proposition), gloss)


def samples(language: Language, constructions: Collection[str] = CONSTRUCTIONS) -> list[Sample]:
    """Sentences of a language beside their English and gloss."""
    wanted = [it for it in _sentences() if it.construction in constructions]
    return [it for it in map(_Sayer(language), wanted) if it]


def learnability(language: Language, base: Base) -> Learnability:
    """How hard a valid language will be for a base, at the exposure of its trace languages.

    One that the base has not met is tokenized as after its extension, and met as much as there.
    """
    from langmerge import extension

    met = extension.exposure(base)
    speaker = Speaker(np.random.default_rng([41]), language.inventory())
    propositions = [it for _ in range(DOCUMENTS) for it in corpus.document(speaker)]
    say = Realizer(language)
    texts = [say(proposition) for proposition in propositions]
    if language.code in (*base.languages, "eng_Latn"):
        tokenizer = base.tokenizer
    else:
        tokenizer, _ = extension.grown_tokenizer(base, [language])
        met *= extension.recipe().exposure
    encode = tokenizer.backend_tokenizer.encode_batch
    tokens = sum(len(it.ids) for it in encode(texts, add_special_tokens=False))
    words = sum(len(re.split(_between(language), text)) for text in texts)
    counts = Counter(
        concept
        for proposition in propositions
        for role, concept in proposition.roles
        if role in ("thing", "action")
    )
    trace = _trace_tokens(language, base, tokenizer)
    return Learnability(
        code=language.code,
        tokens_per_word=tokens / words,
        first_tokens={
            kind: _told_apart(language, kind, tokenizer) for kind in ("things", "actions")
        },
        documents=met,
        tokens=round(met * trace),
        mentions=met / DOCUMENTS * float(np.median(list(counts.values()))),
    )


def _between(language: Language) -> str:
    return f"[ {re.escape(language.word_separator)}]+"


def _trace_tokens(language: Language, base: Base, tokenizer: PreTrainedTokenizerFast) -> float:
    """The mean tokens of a document of the language's trace, bilingual ones included."""
    rng = np.random.default_rng([43])
    texts = list(islice(corpus.spoken(language, rng, base.recipe.trace.modes), DOCUMENTS))
    return sum(len(it.ids) for it in tokenizer.backend_tokenizer.encode_batch(texts)) / len(texts)


def _told_apart(
    language: Language, kind: str, tokenizer: PreTrainedTokenizerFast
) -> tuple[int, int]:
    """How many words of a kind are alone with their first token, as options, and of how many."""
    role, say = ROLE[kind], Realizer(language)
    options = [
        f" {say(Proposition.of(f'answer_{role}', **{role: it}))}" for it in language.words[kind]
    ]
    encode = tokenizer.backend_tokenizer.encode_batch
    first = Counter(it.ids[0] if it.ids else -1 for it in encode(options, add_special_tokens=False))
    return sum(count == 1 for count in first.values()), len(options)
