"""The tasks: items built from propositions, so that one item exists in every language.

Four tasks, all scored by log-likelihood over at least four options:

- ``topic`` (6 options): what a short text is about, as SIB-200;
- ``kind`` (4): what kind of thing something is;
- ``thing`` (4): what somebody does something to ("what does the mother cook?");
- ``action`` (4): what somebody does with something, as COPA asks for the plausible event.

Training, development and test items are disjoint in word combinations: every
(person, action, thing) triple belongs to one split, by its hash, and an item is built
from triples of its own split alone. Supervised fine-tuning adds two kinds of free text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from langmerge.realize import Realizer
from langmerge.world import Proposition, Speaker

Split = Literal["train", "dev", "test"]
#: Number of options per task.
TASKS: dict[str, int] = {"topic": 6, "kind": 4, "thing": 4, "action": 4}
#: Kinds of free text in supervised fine-tuning, for breadth.
FREE_TEXT = ("write", "describe")
_SPLIT_TENTHS: dict[Split, range] = {"train": range(0, 6), "dev": range(6, 8), "test": range(8, 10)}


@dataclass(frozen=True)
class Item:
    """A question without a language: what is said, the options, and the right one.

    concept is what the item is about, and items of one concept are one cluster: the topic
    where the answer is a topic's word (there are six of those, however many things there
    are), the action of a ``thing`` item, the thing of an ``action`` item.
    """

    task: str
    number: int
    context: tuple[Proposition, ...]
    question: Proposition
    options: tuple[Proposition, ...]
    answer: int
    concept: str

    @property
    def id(self) -> str:
        """Names the item within one run seed."""
        return f"{self.task}-{self.number:04d}"

    def prompt(self, say: Realizer) -> str:
        """The prompt in a language; the answer follows after one space."""
        return instruction(" ".join(say(sentence) for sentence in (*self.context, self.question)))

    def choices(self, say: Realizer) -> list[str]:
        """The options in a language, with the space that precedes an answer."""
        return [" " + say(option) for option in self.options]


def instruction(text: str) -> str:
    """The wrapper around an instruction: the same signs in every language."""
    return f"> {text}\n="


@cache
def split_of(person: str, action: str, thing: str) -> Split:
    """The split that a word combination belongs to: 6 tenths train, 2 dev, 2 test."""
    digest = hashlib.blake2b(f"{person} {action} {thing}".encode(), digest_size=4).digest()
    tenth = int.from_bytes(digest, "big") % 10
    return next(split for split, tenths in _SPLIT_TENTHS.items() if tenth in tenths)


def draw(task: str, split: Split, n: int, seed: int) -> list[Item]:
    """n items of a task, all different, drawn by the seed.

    The same seed gives the same items in every language.
    """
    code = [ord(letter) for letter in task + split]
    speaker = Speaker(np.random.default_rng([seed, *code]))
    items: list[Item] = []
    seen: set[tuple] = set()
    while len(items) < n:
        item = _DRAW[task](speaker, split, len(items))
        key = (item.context, item.question, frozenset(item.options), item.options[item.answer])
        if key not in seen:
            seen.add(key)
            items.append(item)
    return items


def _triple(speaker: Speaker, split: Split, topic: str, neutral: bool = False) -> dict[str, str]:
    """Roles of an act whose word combination belongs to the split."""
    while True:
        roles = {
            "person": speaker.choose(speaker.concepts.persons),
            "action": speaker.choose(speaker.concepts.neutral)
            if neutral
            else speaker.action(topic),
            "thing": speaker.thing(topic),
        }
        if split_of(**roles) == split:
            return roles


def _act(speaker: Speaker, roles: dict[str, str]) -> Proposition:
    """The act, plainly or with a place or a time."""
    draw_ = speaker.uniform()
    if draw_ < 0.5:
        return Proposition.of("act", **roles)
    if draw_ < 0.75:
        return Proposition.of("act_place", **roles, place=speaker.choose(speaker.concepts.places))
    return Proposition.of("act_time", **roles, time=speaker.choose(speaker.concepts.times))


def _draw_topic(speaker: Speaker, split: Split, number: int) -> Item:
    topics = speaker.sample(speaker.topics, 3)
    on_topic = 2 if speaker.uniform() < 0.5 else 3
    about = speaker.sample([topics[0]] * on_topic + topics[1 : 5 - on_topic], 4)
    acts = [_triple(speaker, split, topic) for topic in about]
    options = tuple(Proposition.of("answer_about", topic=topic) for topic in speaker.topics)
    return Item(
        task="topic",
        number=number,
        context=tuple(_act(speaker, roles) for roles in acts),
        question=Proposition.of("question_about"),
        options=options,
        answer=speaker.topics.index(topics[0]),
        concept=topics[0],
    )


def _draw_kind(speaker: Speaker, split: Split, number: int) -> Item:
    topics = speaker.sample(speaker.topics, 4)
    roles = _triple(speaker, split, topics[0], neutral=True)
    order = speaker.sample(topics, 4)
    return Item(
        task="kind",
        number=number,
        context=(_act(speaker, roles),),
        question=Proposition.of("question_kind", thing=roles["thing"]),
        options=tuple(Proposition.of("answer_kind", topic=topic) for topic in order),
        answer=order.index(topics[0]),
        concept=topics[0],
    )


def _draw_thing(speaker: Speaker, split: Split, number: int) -> Item:
    topics = speaker.sample(speaker.topics, 4)
    roles = _triple(speaker, split, topics[0])
    things = [roles["thing"], *(speaker.thing(topic) for topic in topics[1:])]
    order = speaker.sample(things, 4)
    return Item(
        task="thing",
        number=number,
        context=(),
        question=Proposition.of("question_thing", person=roles["person"], action=roles["action"]),
        options=tuple(Proposition.of("answer_thing", thing=thing) for thing in order),
        answer=order.index(roles["thing"]),
        concept=roles["action"],
    )


def _draw_action(speaker: Speaker, split: Split, number: int) -> Item:
    topics = speaker.sample(speaker.topics, 4)
    roles = _triple(speaker, split, topics[0])
    actions = [roles["action"], *(speaker.action(topic) for topic in topics[1:])]
    order = speaker.sample(actions, 4)
    return Item(
        task="action",
        number=number,
        context=(),
        question=Proposition.of("question_action", person=roles["person"], thing=roles["thing"]),
        options=tuple(Proposition.of("answer_action", action=action) for action in order),
        answer=order.index(roles["action"]),
        concept=roles["thing"],
    )


_DRAW: dict[str, Callable[[Speaker, Split, int], Item]] = {
    "topic": _draw_topic,
    "kind": _draw_kind,
    "thing": _draw_thing,
    "action": _draw_action,
}


def instructions(say: Realizer, n: int, seed: int) -> list[tuple[str, str]]:
    """n supervised examples in a language as (prompt, answer): the tasks and free text."""
    rng = np.random.default_rng([seed, 977])
    kinds = rng.choice([*TASKS, *FREE_TEXT], size=n)
    pools = {task: iter(draw(task, "train", int((kinds == task).sum()), seed)) for task in TASKS}
    speaker = Speaker(rng)
    return [
        _free_text(kind, speaker, say) if kind in FREE_TEXT else _solved(next(pools[kind]), say)
        for kind in kinds
    ]


def _solved(item: Item, say: Realizer) -> tuple[str, str]:
    return item.prompt(say), item.choices(say)[item.answer]


def _free_text(kind: str, speaker: Speaker, say: Realizer) -> tuple[str, str]:
    topic = speaker.choose(speaker.topics)
    if kind == "write":
        request = Proposition.of("request_about", topic=topic)
        acts = [_act(speaker, _triple(speaker, "train", topic)) for _ in range(3)]
        return instruction(say(request)), " " + " ".join(map(say, acts))
    thing = speaker.thing(topic)
    sentences = (
        Proposition.of("kind", thing=thing, topic=topic),
        Proposition.of(
            "property", thing=thing, property=speaker.choose(speaker.concepts.properties)
        ),
        Proposition.of("place", thing=thing, place=speaker.choose(speaker.concepts.places)),
    )
    request = Proposition.of("request_describe", thing=thing)
    return instruction(say(request)), " " + " ".join(map(say, sentences))
