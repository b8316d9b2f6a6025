"""The data card: tables about every language, computed for the book's chapter of that name.

Every sentence in a language carries its language and direction, so that a browser chooses
the right font, a screen reader the right voice, and right-to-left text runs as it should.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from itertools import islice

import numpy as np
from babel.core import get_global

from langmerge import base as lab_base
from langmerge import corpus, language_attest, language_check, languages, tasks
from langmerge import shortcuts as cues
from langmerge.languages import Language
from langmerge.realize import Realizer

#: Documents that the sizes are counted in.
DOCUMENTS = 500
#: The control languages that stand for all of them: every word order, and every script once.
CONTROLS = ("zzz_0000", "zzz_0001", "zzz_0002", "zzz_0003")
#: The constructions whose sentences are shown.
SHOWN = ("act", "act_property", "act_place", "kind", "property", "question_thing")


def shown() -> list[str]:
    """The codes of the card's languages: English, all others that have a whole file, controls."""
    codes = sorted(languages.whole(), key=lambda code: (code != "eng_Latn", code))
    return [*codes, *CONTROLS]


def tag(code: str) -> str:
    """The BCP 47 tag of a code, as HTML's ``lang`` takes it: ``tam_Taml`` is ``ta-Taml``."""
    language, _, script = code.partition("_")
    if languages.CONTROL.fullmatch(code):
        return f"art-x-zzz{script}"  # a private tag among the artificial languages
    return f"{get_global('language_aliases').get(language, language)}-{script}"


def marked(language: Language, text: str, element: str = "span") -> str:
    """A text of a language as HTML that says so."""
    attributes = f'lang="{tag(language.code)}" dir="{language.direction}"'
    return f"<{element} {attributes}>{escape(text, quote=False)}</{element}>"


def described() -> str:
    """A Markdown table: what the languages are, and which the base has met."""
    titles = ("Language", "Code", "Own name", "Script", "Family", "Order", "In the base")
    met = {"eng_Latn", *lab_base.load().languages}
    rows = []
    for code in shown():
        it = languages.load(code)
        own = marked(it, it.autonym) if not it.is_control else ""
        known = "yes" if code in met else "no"
        rows.append((it.name, f"`{code}`", own, it.script, it.family, it.word_order, known))
    return _table(titles, rows)


def sizes() -> str:
    """A Markdown table: what each file has, how large its text is, who vouches for it."""
    titles = (
        "Code", "Tier", "Concepts", "Word types", "Words", "Tokens", "Tokens a word", "Attested",
        "Reviewed",
    )  # fmt: skip
    base = lab_base.load()
    rows = []
    for code in shown():
        it = languages.load(code)
        texts = list(islice(corpus.documents(code, np.random.default_rng([47])), DOCUMENTS))
        words = sum(len(re.split(f"[ {re.escape(it.word_separator)}]+", text)) for text in texts)
        encoded = base.tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
        tokens = sum(len(encoding.ids) for encoding in encoded)
        rows.append(
            (
                f"`{code}`",
                it.tier,
                str(sum(map(len, it.words.values()))),
                f"{len(language_attest.words(it)):,}",
                f"{words:,}",
                f"{tokens:,}",
                f"{tokens / words:.1f}",
                _attested(it),
                "generated" if it.is_control else "yes" if it.reviewed else "no",
            )
        )
    return _table(titles, rows)


def _attested(language: Language) -> str:
    """The share of a language's words that an independent list has."""
    found = language_attest.share(language)
    if found is None:
        return "–"
    # Rounded down: one word that is missing is not all of them.
    return f"{100 * found[0] // found[1]} % ({found[0]} of {found[1]})"


def attestations() -> str:
    """A Markdown table: which list was asked about each language, and what it does not have."""
    rows = [
        (
            it.name,
            given.list + (f" ({given.version})" if given.version else ""),
            f"{given.found} of {given.found + len(given.not_found)}",
            given.note,
            marked(it, ", ".join(given.not_found)) if given.not_found else "none",
        )
        for it in map(languages.load, languages.whole())
        for given in it.attested
    ]
    return _table(("Language", "List", "Found", "How", "Not found, which need not be wrong"), rows)


def samples() -> str:
    """A Markdown table of sentences a language, each with its English and its gloss."""
    parts = []
    for code in shown():
        it = languages.load(code)
        if code == "eng_Latn":
            continue
        told = [sample for sample in language_check.samples(it, SHOWN) if sample.said]
        rows = [(marked(it, one.said), one.english, f"`{one.gloss}`") for one in told]
        titled = f"**{it.name}** (`{code}`), written {_runs(it)}"
        parts.append(f"{titled}\n\n{_table(('Sentence', 'English', 'Gloss'), rows)}")
    return "\n".join(parts)


def _runs(language: Language) -> str:
    side = "from right to left" if language.direction == "rtl" else "from left to right"
    spaced = language.word_separator == " "
    between = marked(language, language.word_separator)
    return side if spaced else f"{side}, with {between} and no spaces between words"


def examples(codes: tuple[str, ...] = ("eng_Latn", "tam_Taml")) -> str:
    """The first development item of each task in some languages, as a model is asked it."""
    return "\n\n".join(_example(task, codes) for task in tasks.TASKS)


def _example(task: str, codes: tuple[str, ...]) -> str:
    (item,) = tasks.draw(task, "dev", 1, 0)
    lines = [f"**{task}**, {tasks.TASKS[task]} options", ""]
    for it in map(languages.load, codes):
        say = Realizer(it)
        options = " / ".join(option.strip() for option in item.choices(say))
        right = item.choices(say)[item.answer].strip()
        lines += [
            f"- {it.name}: {marked(it, item.prompt(say).strip('> =').strip())}",
            f"  *Options:* {marked(it, options)} *Right:* {marked(it, right)}",
        ]
    return "\n".join(lines)


def shortcuts() -> str:
    """A Markdown table: the best shortcut of each language and task; bold where above chance."""
    found = cues.measured()
    best = found.loc[found.groupby(["language", "task"])["value"].idxmax()]
    rows = []
    for code, theirs in best.groupby("language", sort=False):
        by_task = {row.task: row for row in theirs.itertuples()}
        cells = (_shortcut(by_task[task]) if task in by_task else "–" for task in tasks.TASKS)
        rows.append((f"{languages.load(code).name} ({code})", *cells))
    titles = (f"{task} (chance {1 / options:.2f})" for task, options in tasks.TASKS.items())
    return _table(("Language", *titles), rows)


def _shortcut(row: tuple) -> str:
    """A shortcut's accuracy with its interval and name; bold where the interval is above chance."""
    text = f"{row.value:.2f} ({row.low:.2f} to {row.high:.2f}), {row.shortcut}"
    return f"**{text}**" if row.low > row.chance else text


def limits() -> str:
    """A Markdown list of what the files themselves say is not sure."""
    return "\n".join(_limits())


def _limits() -> Iterator[str]:
    real = [languages.load(code) for code in languages.whole()]
    unchecked = [it.name for it in real if not it.reviewed]
    if unchecked:
        yield (
            f"- No speaker has checked {', '.join(unchecked)}: their text is *written for this "
            "project, not checked by a speaker*."
        )
    if core := [it.name for it in real if it.tier == "core"]:
        yield f"- {', '.join(core)}: the core alone, and two of the four tasks."
    if local := [it.name for it in real if it.local]:
        yield f"- {', '.join(local)}: some things are replaced by local ones."


def page() -> dict[str, str]:
    """The computed parts of the data card, by the name of the file that the chapter includes."""
    return {
        "card_languages.md": described(),
        "card_sizes.md": sizes(),
        "card_attestations.md": attestations(),
        "card_samples.md": samples(),
        "card_tasks.md": examples(),
        "card_shortcuts.md": shortcuts(),
        "card_limits.md": limits(),
    }


def _table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [titles, ("---",) * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
