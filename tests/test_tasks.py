"""Tasks: splits that cannot leak, options that can be told apart, one item in every language."""

import dataclasses
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langmerge import corpus, paths, tasks
from langmerge.languages import CORE, ROLE, load, read
from langmerge.realize import Realizer
from langmerge.tasks import TASKS, Item
from langmerge.world import Proposition, concepts, everything, split_of

SHIPPED = sorted(path.stem for path in (paths.data() / "languages").glob("*.yaml"))
LANGUAGES = [*SHIPPED, *(f"zzz_{number:04d}" for number in range(4))]
SPLITS = ("train", "dev", "test")
SEEDS = st.integers(0, 2**31)


def triples(item: Item) -> set[tuple[str, str, str]]:
    """Every (person, action, thing) that an item says or, answered rightly, implies."""
    said = [dict(proposition.roles) for proposition in item.context]
    question = dict(item.question.roles) | dict(item.options[item.answer].roles)
    return {
        (roles["person"], roles["action"], roles["thing"])
        for roles in (*said, question)
        if {"person", "action", "thing"} <= set(roles)
    }


def drawn(split: str, seed: int, n: int = 12) -> list[Item]:
    return [item for task in TASKS for item in tasks.draw(task, split, n, seed)]


def test_there_are_at_least_four_options():
    assert min(TASKS.values()) >= 4
    for item in drawn("test", seed=0):
        assert len(item.options) == TASKS[item.task]
        assert 0 <= item.answer < len(item.options)


@settings(max_examples=25, deadline=None)
@given(*[SEEDS] * 3)
def test_splits_share_no_triple_over_all_tasks(train, dev, test):
    found = {
        split: set().union(*map(triples, drawn(split, seed)))
        for split, seed in zip(SPLITS, (train, dev, test), strict=True)
    }
    assert all(found.values())
    assert not found["train"] & found["dev"]
    assert not found["train"] & found["test"]
    assert not found["dev"] & found["test"]


def test_every_item_has_its_triples():
    """The property above would hold of items in which no triple is found."""
    for item in drawn("test", seed=3):
        assert triples(item), item
        assert {split_of(*triple) for triple in triples(item)} == {"test"}


def test_splits_have_their_sizes():
    world = concepts()
    actions, things = world.by_kind()["actions"], world.by_kind()["things"]
    counts = Counter(split_of(p, a, t) for p in world.persons for a in actions for t in things)
    total = sum(counts.values())
    assert {split: round(counts[split] / total, 1) for split in SPLITS} == {
        "train": 0.6,
        "dev": 0.2,
        "test": 0.2,
    }


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from(SPLITS))
def test_the_right_option_belongs_and_no_other_does(seed, split):
    topic_of = concepts().topic_of
    for item in drawn(split, seed):
        roles = [dict(option.roles) for option in item.options]
        right = roles[item.answer]
        wrong = [other for number, other in enumerate(roles) if number != item.answer]
        if item.task == "topic":
            about = Counter(topic_of(act.role("thing")) for act in item.context)
            (first, most), (_, second) = about.most_common(2)
            assert right["topic"] == first and most > second
        elif item.task == "kind":
            assert right["topic"] == topic_of(item.question.role("thing"))
        else:
            asked = "action" if item.task == "thing" else "thing"
            topic = topic_of(item.question.role(asked))
            assert topic_of(right[item.task]) == topic
            assert topic not in {topic_of(other[item.task]) for other in wrong}


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_an_item_is_about_a_concept_it_names(seed):
    for item in drawn("test", seed):
        right = item.options[item.answer]
        said = (*item.context, item.question, right)
        named = {concept for proposition in said for _, concept in proposition.roles}
        assert item.concept in named


@pytest.mark.parametrize("code", LANGUAGES)
def test_options_are_different_strings(code):
    """All of a kind, so that no draw of them can fail; then as the items draw them."""
    say, world = Realizer(load(code)), concepts()
    for construction, role, ids in [
        ("answer_about", "topic", list(world.topics)),
        ("answer_kind", "topic", list(world.topics)),
        ("answer_thing", "thing", world.by_kind()["things"]),
        ("answer_action", "action", world.by_kind()["actions"]),
    ]:
        said = [say(Proposition.of(construction, **{role: concept})) for concept in ids]
        assert len(set(said)) == len(said), construction
    for item in drawn("test", seed=1):
        choices = item.choices(say)
        assert len(set(choices)) == len(choices)
        assert all(choice.startswith(" ") and choice.strip() for choice in choices)


@pytest.mark.parametrize("code", LANGUAGES)
def test_different_items_have_different_questions(code):
    say = Realizer(load(code))
    for task in TASKS:
        asked = [
            (item.prompt(say), frozenset(item.choices(say)), item.choices(say)[item.answer])
            for item in tasks.draw(task, "test", 100, 0)
        ]
        assert len(set(asked)) == len(asked)


def test_the_same_seed_gives_the_same_items():
    assert drawn("test", seed=4) == drawn("test", seed=4)
    assert [item.id for item in tasks.draw("kind", "test", 3, 0)] == [
        "kind-0000",
        "kind-0001",
        "kind-0002",
    ]


def test_an_item_that_comes_again_is_drawn_anew(monkeypatch):
    original, last = tasks._DRAW["kind"], []

    def stutter(speaker, split, number):
        if number and len(last) == number:
            last.append(last[-1])
            return dataclasses.replace(last[-1], number=number)
        last.append(original(speaker, split, number))
        return last[-1]

    monkeypatch.setitem(tasks._DRAW, "kind", stutter)
    items = tasks.draw("kind", "test", 10, 0)
    assert len({(item.context, item.options) for item in items}) == 10
    assert len(last) > 10, "some were drawn again"


@pytest.mark.parametrize("task", TASKS)
def test_different_seeds_and_splits_give_different_items(task):
    assert tasks.draw(task, "test", 10, 0) != tasks.draw(task, "test", 10, 1)
    assert tasks.draw(task, "test", 10, 0) != tasks.draw(task, "dev", 10, 0)


@pytest.mark.parametrize("task", TASKS)
def test_more_items_begin_with_the_fewer(task):
    assert tasks.draw(task, "test", 30, 0)[:10] == tasks.draw(task, "test", 10, 0)


def test_one_item_is_asked_in_every_language():
    """The draw knows no language: the right answer of item 7 is the same concept in all."""
    for task in TASKS:
        item = tasks.draw(task, "test", 8, 0)[7]
        (role, concept) = item.options[item.answer].roles[0]
        for code in LANGUAGES:
            say = Realizer(load(code))
            forms = {load(code).form(role, concept, f) for f in load(code).forms[role]}
            assert any(form in item.choices(say)[item.answer] for form in forms)


@pytest.mark.parametrize("task", TASKS)
def test_the_answers_place_tells_nothing(task):
    items = tasks.draw(task, "test", 600, 0)
    places = Counter(item.answer for item in items)
    assert set(places) == set(range(TASKS[task]))
    assert max(places.values()) < 1.35 * 600 / TASKS[task]


@pytest.mark.parametrize("code", ["eng_Latn", "tam_Taml", "zzz_0000"])
def test_every_example_for_fine_tuning_wears_the_wrapper(code):
    pairs = tasks.instructions(Realizer(load(code)), 120, seed=0)
    assert len(pairs) == 120
    for prompt, answer in pairs:
        assert prompt.startswith("> ") and prompt.endswith("\n=")
        assert answer.startswith(" ") and "=" not in answer


def test_fine_tuning_examples_are_their_seeds():
    say = Realizer(load("eng_Latn"))
    assert tasks.instructions(say, 40, 1) == tasks.instructions(say, 40, 1)
    assert tasks.instructions(say, 40, 1) != tasks.instructions(say, 40, 2)


class Listener(Realizer):
    """A realizer that remembers what it was asked to say."""

    def __init__(self, language):
        super().__init__(language)
        self.heard: list[Proposition] = []

    def __call__(self, proposition):
        self.heard.append(proposition)
        return super().__call__(proposition)


@settings(max_examples=8, deadline=None)
@given(SEEDS)
def test_free_text_never_says_a_triple_of_dev_or_test(seed):
    listener = Listener(load("eng_Latn"))
    tasks.instructions(listener, 100, seed)
    said = [dict(proposition.roles) for proposition in listener.heard]
    splits = [
        split_of(roles["person"], roles["action"], roles["thing"])
        for roles in said
        if {"person", "action", "thing"} <= set(roles)
    ]
    assert splits and set(splits) == {"train"}


def test_supervised_items_are_training_items():
    say = Realizer(load("eng_Latn"))
    prompts = {prompt for prompt, _ in tasks.instructions(say, 300, seed=0)}
    tests = {i.prompt(say) for i in drawn("test", 0, 100) if i.task in ("kind", "topic")}
    assert not prompts & tests


@pytest.fixture
def core(tmp_path):
    """English cut down to the core tier."""
    return read(write_core(tmp_path))


def write_core(folder):
    path = folder / "eng_Latn.yaml"
    content = yaml.safe_load((paths.data() / "languages" / "eng_Latn.yaml").read_text())
    content["tier"] = "core"
    content["templates"] = {name: content["templates"][name] for name in CORE}
    content["words"] = {
        kind: {c: w for c, w in content["words"][kind].items() if c in ids}
        for kind, ids in concepts().core.items()
    }
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_core_language_has_the_tasks_that_it_can_say(core):
    assert tasks.possible(core.inventory()) == ["thing", "action"]
    assert tasks.possible(everything()) == list(TASKS)


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the core is never changed
)
@given(SEEDS)
def test_a_core_language_is_asked_about_its_core_alone(core, seed):
    inventory, say = core.inventory(), Realizer(core)
    known = {ROLE[kind]: set(ids) for kind, ids in concepts().core.items()}
    for task in tasks.possible(inventory):
        items = tasks.draw(task, "test", 40, seed, inventory)
        assert {split_of(*triple) for item in items for triple in triples(item)} == {"test"}
        for item in items:
            assert len(set(item.choices(say))) == 4
            for said in (item.question, *item.options, *item.context):
                assert said.construction in inventory.constructions
                assert all(concept in known[role] for role, concept in said.roles)


def test_a_core_language_is_never_at_a_loss_for_words(core, monkeypatch):
    monkeypatch.setattr("langmerge.corpus.load", lambda code: core)
    rng = np.random.default_rng(0)
    modes = {"monolingual": 1.0, "bilingual": 1.0, "switched": 1.0}
    texts = list(islice(corpus.documents("eng_Latn", rng, modes), 300))
    assert all(text.strip() for text in texts)
    others = {c for kind, ids in concepts().by_kind().items() for c in ids} - {
        c for ids in concepts().core.values() for c in ids
    }
    words = set(" ".join(texts).replace(".", " ").replace("?", " ").split())
    assert not words & (others - {"plant"})  # what one does to a tree, as much as a topic
    for prompt, answer in tasks.instructions(Realizer(core), 60, seed=0):
        assert prompt.startswith("> ") and answer.strip()
