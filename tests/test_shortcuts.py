"""Shortcuts: each finds its own cue where it is planted, and the shipped table is theirs."""

import numpy as np
import pytest

from langmerge import shortcuts, tasks
from langmerge.languages import load
from langmerge.realize import Realizer
from langmerge.world import Proposition

ENGLISH = Realizer(load("eng_Latn"))
THINGS = ["cow", "rice", "rose", "boat"]


def an_item(answer: int) -> tasks.Item:
    return tasks.Item(
        task="thing",
        number=0,
        context=(),
        question=Proposition.of("question_thing", person="mother", action="cook"),
        options=tuple(Proposition.of("answer_thing", thing=thing) for thing in THINGS),
        answer=answer,
        concept="cook",
    )


def pick(scorer, prompt: str, options: list[str]) -> str:
    return options[int(np.argmax(scorer(an_item(0), prompt, options)))]


def test_overlap_takes_the_option_that_stands_in_the_prompt():
    assert (
        pick(shortcuts._overlap, "> who sees the camel\n=", [" rice", " camel", " ox"]) == " camel"
    )


def test_majority_takes_the_concept_that_is_right_most_often():
    scorer = shortcuts._majority([an_item(2), an_item(2), an_item(1)])
    assert int(np.argmax(scorer(an_item(0), "", []))) == 2


@pytest.mark.parametrize("longest", [True, False])
def test_length_goes_the_way_that_is_right_in_training(longest):
    lengths = [len(text) for text in an_item(0).choices(ENGLISH)]
    answer = int(np.argmax(lengths) if longest else np.argmin(lengths))
    scorer = shortcuts._length([an_item(answer)], ENGLISH)
    assert pick(scorer, "", [" a", " aaa", " aa"]) == (" aaa" if longest else " a")


def test_characters_learn_a_spelling_that_gives_the_answer_away():
    # Always the rose is right: its letters are all that a classifier needs.
    train = [an_item(2) for _ in range(40)]
    scorer = shortcuts._characters(train, ENGLISH, prompts=False)
    assert pick(scorer, "", an_item(0).choices(ENGLISH)) == an_item(0).choices(ENGLISH)[2]


def test_a_table_has_every_shortcut_with_its_interval(monkeypatch):
    monkeypatch.setattr(shortcuts, "TRAIN", 30)
    monkeypatch.setattr(shortcuts, "DEV", 20)
    found = shortcuts.table(["tam_Taml"])
    assert len(found) == len(tasks.TASKS) * 5
    assert (found["low"] <= found["value"]).all()
    assert (found["value"] <= found["high"]).all()
    assert set(found["n"]) == {20}
