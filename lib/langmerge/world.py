"""The lab's world: which concepts exist, what belongs to what, what can be said.

A *proposition* is a sentence without a language: a construction (the name of a template)
and the concept in each of its roles. ``realize`` says it in any language, which is what
makes translations, code-switching and the same test item in two languages possible.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from langmerge import paths
from langmerge.files import read_yaml_as

Split = Literal["train", "dev", "test"]
#: The kinds of word that belong to no topic.
Untopical = Literal["persons", "places", "properties", "times"]
_SPLIT_TENTHS: dict[Split, range] = {"train": range(0, 6), "dev": range(6, 8), "test": range(8, 10)}

#: The construction's name and the roles that its template may use, in every language.
CONSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "act": ("person", "action", "thing"),
    "act_property": ("person", "action", "property", "thing"),
    "act_place": ("person", "action", "thing", "place"),
    "act_time": ("time", "person", "action", "thing"),
    "kind": ("thing", "topic"),
    "property": ("thing", "property"),
    "place": ("thing", "place"),
    "about": ("topic",),
    "question_about": (),
    "question_kind": ("thing",),
    "question_thing": ("person", "action"),
    "question_action": ("person", "thing"),
    "answer_about": ("topic",),
    "answer_kind": ("topic",),
    "answer_thing": ("thing",),
    "answer_action": ("action",),
    "request_about": ("topic",),
    "request_describe": ("thing",),
}


class Topic(BaseModel):
    """A topic's things and the actions that people do to them."""

    model_config = ConfigDict(extra="forbid")
    things: list[str]
    actions: list[str]


class Concepts(BaseModel):
    """The inventory in ``data/concepts.yaml``."""

    model_config = ConfigDict(extra="forbid")
    version: int
    topics: dict[str, Topic]
    neutral: list[str]
    persons: list[str]
    places: list[str]
    properties: list[str]
    times: list[str]
    core: dict[str, list[str]] = {}

    @model_validator(mode="after")
    def _no_concept_twice(self) -> Concepts:
        for kind, ids in self.by_kind().items():
            twice = {name for name in ids if ids.count(name) > 1}
            if twice:
                raise ValueError(f"{kind} named twice: {', '.join(sorted(twice))}")
        return self

    @model_validator(mode="after")
    def _core_is_of_these(self) -> Concepts:
        known = self.by_kind()
        for kind, ids in self.core.items():
            if unknown := set(ids) - set(known.get(kind, [])):
                raise ValueError(f"core.{kind}: no such concept: {', '.join(sorted(unknown))}")
        return self

    def by_kind(self) -> dict[str, list[str]]:
        """All concept ids by kind of word, the keys being those of a language file's words."""
        topics = self.topics.values()
        return {
            "topics": list(self.topics),
            "things": [thing for topic in topics for thing in topic.things],
            "actions": [action for topic in topics for action in topic.actions] + self.neutral,
            "persons": self.persons,
            "places": self.places,
            "properties": self.properties,
            "times": self.times,
        }

    def within(self, ids: dict[str, set[str]]) -> Concepts:
        """The inventory cut down to some concepts of each kind; all topics stay, to group them."""

        def kept(kind: str, names: list[str]) -> list[str]:
            return [name for name in names if name in ids.get(kind, ())]

        topics = {
            name: Topic(things=kept("things", it.things), actions=kept("actions", it.actions))
            for name, it in self.topics.items()
        }
        others = {kind: kept(kind, getattr(self, kind)) for kind in get_args(Untopical)}
        neutral = kept("actions", self.neutral)
        return Concepts(version=self.version, topics=topics, neutral=neutral, **others)

    def topic_of(self, concept: str) -> str | None:
        """The topic of a thing or an action; None where it fits any (a neutral action)."""
        for name, topic in self.topics.items():
            if concept in topic.things or concept in topic.actions:
                return name
        return None


@cache
def concepts() -> Concepts:
    """The shipped inventory of concepts."""
    return read_yaml_as(Concepts, paths.data() / "concepts.yaml")


@dataclass(frozen=True, eq=False)
class Inventory:
    """What can be spoken of and how: all of the world, or what a core language has words for."""

    concepts: Concepts
    constructions: frozenset[str]


def everything() -> Inventory:
    """The whole world, as every language of the full tier says it."""
    return Inventory(concepts(), frozenset(CONSTRUCTIONS))


@dataclass(frozen=True)
class Proposition:
    """One thing that can be said: a construction and the concept in each role."""

    construction: str
    roles: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, construction: str, **roles: str) -> Proposition:
        """The proposition with these roles; a role that the construction lacks is an error."""
        wrong = set(roles) ^ set(CONSTRUCTIONS[construction])
        if wrong:
            raise ValueError(
                f"{construction}: roles missing or unknown: {', '.join(sorted(wrong))}"
            )
        return cls(construction, tuple(roles.items()))

    def role(self, name: str) -> str:
        """The concept in a role."""
        return dict(self.roles)[name]


@cache
def split_of(person: str, action: str, thing: str) -> Split:
    """The split that a word combination belongs to: 6 tenths train, 2 dev, 2 test.

    Running text and instructions are made of the combinations of ``train``, dev and test
    items of their own.
    """
    digest = hashlib.blake2b(f"{person} {action} {thing}".encode(), digest_size=4).digest()
    tenth = int.from_bytes(digest, "big") % 10
    return next(split for split, tenths in _SPLIT_TENTHS.items() if tenth in tenths)


class Speaker:
    """Draws propositions that are true of the world, from one random generator.

    It keeps to an inventory (default: the whole world): what a language has no words for is
    never drawn, and what its templates cannot say is said as a plain act.
    numpy's scalar draws are slow (microseconds each), and a base corpus needs tens of
    millions: integers are drawn in blocks.
    """

    def __init__(self, rng: np.random.Generator, inventory: Inventory | None = None) -> None:
        inventory = inventory or everything()
        self.concepts = inventory.concepts
        self._constructions = inventory.constructions
        self.topics = list(self.concepts.topics)
        self._rng = rng
        self._uniform: list[float] = []

    def can_say(self, construction: str) -> bool:
        """Whether the inventory has that construction."""
        return construction in self._constructions

    def uniform(self) -> float:
        """A float in [0, 1)."""
        if not self._uniform:
            self._uniform = self._rng.random(8192).tolist()
        return self._uniform.pop()

    def choose(self, values: list[str]) -> str:
        """One of the values, all equally likely."""
        return values[int(self.uniform() * len(values))]

    def sample(self, values: list[str], n: int) -> list[str]:
        """n different values in random order."""
        pool = list(values)
        return [pool.pop(int(self.uniform() * len(pool))) for _ in range(n)]

    def thing(self, topic: str) -> str:
        """A thing of the topic."""
        return self.choose(self.concepts.topics[topic].things)

    def action(self, topic: str) -> str:
        """An action that people do to things of the topic."""
        return self.choose(self.concepts.topics[topic].actions)

    def triple(self, topic: str, split: Split = "train", neutral: bool = False) -> dict[str, str]:
        """Who does what to which thing of the topic: a combination that belongs to the split.

        neutral: with an action that fits things of any topic.
        """
        while True:
            roles = {
                "person": self.choose(self.concepts.persons),
                "action": self.choose(self.concepts.neutral) if neutral else self.action(topic),
                "thing": self.thing(topic),
            }
            if split_of(**roles) == split:
                return roles

    def act(self, topic: str, neutral: float = 0.15) -> Proposition:
        """Somebody does something to a thing of the topic, with or without a circumstance."""
        world = self.concepts
        roles = self.triple(topic, neutral=self.uniform() < neutral)
        extra = self.uniform()
        if 0.4 <= extra < 0.6 and self.can_say("act_property"):
            return Proposition.of("act_property", **roles, property=self.choose(world.properties))
        if 0.6 <= extra < 0.8 and self.can_say("act_place"):
            return Proposition.of("act_place", **roles, place=self.choose(world.places))
        if extra >= 0.8 and self.can_say("act_time"):
            return Proposition.of("act_time", **roles, time=self.choose(world.times))
        return Proposition.of("act", **roles)

    def state(self, topic: str) -> Proposition:
        """A thing of the topic has a property or is somewhere."""
        thing = self.thing(topic)
        first = self.uniform() < 0.5
        if self.can_say("property") and (first or not self.can_say("place")):
            return Proposition.of(
                "property", thing=thing, property=self.choose(self.concepts.properties)
            )
        if self.can_say("place"):
            return Proposition.of("place", thing=thing, place=self.choose(self.concepts.places))
        return self.act(topic)

    def kind(self, topic: str) -> Proposition:
        """A thing of the topic belongs to its category."""
        return Proposition.of("kind", thing=self.thing(topic), topic=topic)

    def other_topic(self, topic: str) -> str:
        """A topic that is not this one."""
        return self.choose([name for name in self.topics if name != topic])
