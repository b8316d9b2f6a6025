"""Running text: what the base, continual pre-training and perplexity see.

Documents are topical paragraphs, facts, and questions with their answers as running
text; never the instruction format, which only supervised fine-tuning teaches. The base's
*trace* of a language is partly bilingual (a sentence and its translation in brackets) and
partly code-switched, as incidental bilingual text on the web is; continual pre-training
text is monolingual. No sentence says a (person, action, thing) combination of a dev or
test item.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from langmerge.languages import Language, english_beside, load
from langmerge.realize import Realizer
from langmerge.world import Proposition, Speaker

Mode = Literal["monolingual", "bilingual", "switched"]
#: The share of a paragraph's sentences that belong to another topic: with it, a topic has
#: to be read from several sentences.
OFF_TOPIC = 0.3
#: The roles whose words a code-switched sentence may take from the other language.
SWITCHED_ROLES = ("thing", "action", "topic", "person", "property", "place")


def paragraph(speaker: Speaker, topic: str) -> list[Proposition]:
    """A few sentences about a topic, some of them off it, often saying what they are about."""
    about = Proposition.of("about", topic=topic)
    start, end = speaker.uniform(), speaker.uniform()
    can_ask = speaker.can_say("about") and speaker.can_say("question_about")
    sentences = [about] if start < 0.4 and speaker.can_say("about") else []
    for _ in range(3 + int(speaker.uniform() * 3)):
        other = speaker.uniform() < OFF_TOPIC
        now = speaker.other_topic(topic) if other else topic
        sentences.append(speaker.act(now) if speaker.uniform() < 0.8 else speaker.state(now))
    if end < 0.3 and speaker.can_say("about"):
        sentences.append(about)
    elif 0.3 <= end < 0.5 and can_ask:
        sentences += [Proposition.of("question_about"), about]
    return sentences


def facts(speaker: Speaker, topic: str) -> list[Proposition]:
    """What a few things are, how they are and where."""
    sentences = []
    for _ in range(2 + int(speaker.uniform() * 3)):
        kind = speaker.kind(topic)
        thing = kind.role("thing")
        if speaker.uniform() < 0.3 and speaker.can_say("question_kind"):
            sentences.append(Proposition.of("question_kind", thing=thing))
        sentences.append(kind)
        if speaker.uniform() < 0.4 and speaker.can_say("property"):
            value = speaker.choose(speaker.concepts.properties)
            sentences.append(Proposition.of("property", thing=thing, property=value))
        topic = speaker.choose(speaker.topics)
    return sentences


def exchange(speaker: Speaker, topic: str) -> list[Proposition]:
    """Questions about who does what, each answered by a whole sentence."""
    sentences = []
    for _ in range(2 + int(speaker.uniform() * 2)):
        roles = speaker.triple(topic)
        asked = "thing" if speaker.uniform() < 0.5 else "action"
        given = {role: concept for role, concept in roles.items() if role != asked}
        sentences += [Proposition.of(f"question_{asked}", **given), Proposition.of("act", **roles)]
        topic = speaker.choose(speaker.topics)
    return sentences


def document(speaker: Speaker) -> list[Proposition]:
    """A document of a random kind about a random topic."""
    draw, topic = speaker.uniform(), speaker.choose(speaker.topics)
    write = paragraph if draw < 0.6 else facts if draw < 0.8 else exchange
    if write is facts and not speaker.can_say("kind"):
        write = paragraph
    return write(speaker, topic)


def render(
    sentences: list[Proposition],
    mode: Mode,
    say: Realizer,
    english: Realizer,
    speaker: Speaker,
) -> str:
    """A document as text: in one language, with translations, or code-switched.

    Bilingual and code-switched documents take either language as the main one, half of
    the documents each.
    """
    if mode == "monolingual":
        return " ".join(map(say, sentences))
    first, second = (say, english) if speaker.uniform() < 0.5 else (english, say)
    if mode == "bilingual":
        return " ".join(f"{first(sentence)} ({second(sentence)})" for sentence in sentences)
    return " ".join(
        first.switched(
            sentence, second, {role for role in SWITCHED_ROLES if speaker.uniform() < 0.4}
        )
        for sentence in sentences
    )


def documents(
    language: str, rng: np.random.Generator, modes: dict[Mode, float] | None = None
) -> Iterator[str]:
    """Endless documents in a language; `modes` are the shares of documents per mode."""
    return spoken(load(language), rng, modes)


def spoken(
    language: Language, rng: np.random.Generator, modes: dict[Mode, float] | None = None
) -> Iterator[str]:
    """Endless documents, as `documents`, in a language that need not be in its place yet."""
    say, english = Realizer(language), Realizer(english_beside(language))
    speaker = Speaker(rng, language.inventory())
    names: list[Mode] = list(modes or {"monolingual": 1.0})
    cumulated = np.cumsum(list((modes or {"monolingual": 1.0}).values()))
    while True:
        mode = names[int(np.searchsorted(cumulated, speaker.uniform() * cumulated[-1]))]
        yield render(document(speaker), mode, say, english, speaker)
