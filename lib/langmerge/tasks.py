"""The tasks: items built from propositions, so that one item exists in every language.

Four tasks, all scored by log-likelihood over at least four options:

- ``topic`` (6 options): what a short text is about, as SIB-200;
- ``kind`` (4): what kind of thing something is;
- ``thing`` (4): what somebody does something to ("what does the mother cook?");
- ``action`` (4): what somebody does with something, as COPA asks for the plausible event.

Training, development and test items are disjoint in word combinations: every
(person, action, thing) triple belongs to one split (`world.split_of`), and an item is
built from triples of its own split alone; running text has those of ``train``.
Supervised fine-tuning adds two kinds of free text.

A language of the core tier cannot say all of this: its items keep to what it has words for,
and a task whose templates it lacks is left out (`possible`). With the core's three templates
``thing`` and ``action`` remain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from langmerge.realize import Realizer
from langmerge.world import Inventory, Proposition, Speaker, Split

#: Number of options per task.
TASKS: dict[str, int] = {"topic": 6, "kind": 4, "thing": 4, "action": 4}
#: The constructions without which a task, or a kind of free text, cannot be put into words.
NEEDS: dict[str, tuple[str, ...]] = {
    "topic": ("act", "question_about", "answer_about"),
    "kind": ("act", "question_kind", "answer_kind"),
    "thing": ("question_thing", "answer_thing"),
    "action": ("question_action", "answer_action"),
    "write": ("request_about", "act"),
    "describe": ("request_describe", "kind", "property", "place"),
}
#: Kinds of free text in supervised fine-tuning, for breadth.
FREE_TEXT = ("write", "describe")


def name_of(task: str, number: int) -> str:
    """What an item is called: its task and its number in a draw."""
    return f"{task}-{number:04d}"


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
        return name_of(self.task, self.number)

    def prompt(self, say: Realizer) -> str:
        """The prompt in a language; the answer follows after one space."""
        return instruction(" ".join(say(sentence) for sentence in (*self.context, self.question)))

    def choices(self, say: Realizer) -> list[str]:
        """The options in a language, with the space that precedes an answer."""
        return [" " + say(option) for option in self.options]


def instruction(text: str) -> str:
    """The wrapper around an instruction: the same signs in every language."""
    return f"> {text}\n="


def possible(inventory: Inventory) -> list[str]:
    """The tasks that can be put into words with an inventory's constructions, in order."""
    return [task for task in TASKS if inventory.constructions.issuperset(NEEDS[task])]


def draw(
    task: str, split: Split, n: int, seed: int, inventory: Inventory | None = None
) -> list[Item]:
    """n items of a task, all different, drawn by the seed.

    The same seed gives the same items in every language of the full tier; a core language's
    own inventory gives it items of its own.
    """
    code = [ord(letter) for letter in task + split]
    speaker = Speaker(np.random.default_rng([seed, *code]), inventory)
    items: list[Item] = []
    seen: set[tuple] = set()
    while len(items) < n:
        item = _DRAW[task](speaker, split, len(items))
        key = (item.context, item.question, frozenset(item.options), item.options[item.answer])
        if key not in seen:
            seen.add(key)
            items.append(item)
    return items


def _act(speaker: Speaker, roles: dict[str, str]) -> Proposition:
    """The act, plainly or with a place or a time."""
    draw_ = speaker.uniform()
    if 0.5 <= draw_ < 0.75 and speaker.can_say("act_place"):
        return Proposition.of("act_place", **roles, place=speaker.choose(speaker.concepts.places))
    if draw_ >= 0.75 and speaker.can_say("act_time"):
        return Proposition.of("act_time", **roles, time=speaker.choose(speaker.concepts.times))
    return Proposition.of("act", **roles)


def _draw_topic(speaker: Speaker, split: Split, number: int) -> Item:
    topics = speaker.sample(speaker.topics, 3)
    on_topic = 2 if speaker.uniform() < 0.5 else 3
    about = speaker.sample([topics[0]] * on_topic + topics[1 : 5 - on_topic], 4)
    acts = [speaker.triple(topic, split) for topic in about]
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
    roles = speaker.triple(topics[0], split, neutral=True)
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
    roles = speaker.triple(topics[0], split)
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
    roles = speaker.triple(topics[0], split)
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
    inventory = say.language.inventory()
    asked = possible(inventory)
    told = [kind for kind in FREE_TEXT if inventory.constructions.issuperset(NEEDS[kind])]
    kinds = rng.choice([*asked, *told], size=n)
    pools = {
        task: iter(draw(task, "train", int((kinds == task).sum()), seed, inventory))
        for task in asked
    }
    speaker = Speaker(rng, inventory)
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
        acts = [_act(speaker, speaker.triple(topic)) for _ in range(3)]
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
