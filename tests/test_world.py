"""The world, its sentences and its running text."""

import re
from itertools import islice

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from langmerge import corpus, paths, world
from langmerge.errors import LangmergeError
from langmerge.languages import load
from langmerge.realize import Realizer
from langmerge.tasks import instruction
from langmerge.world import Proposition, Speaker, concepts, split_of

SHIPPED = sorted(path.stem for path in (paths.data() / "languages").glob("*.yaml"))
CONTROLS = [f"zzz_{number:04d}" for number in range(3)]
BILINGUAL = {"bilingual": 1.0}


def documents(code, seed=0, n=60, modes=None):
    return list(islice(corpus.documents(code, np.random.default_rng(seed), modes), n))


@pytest.fixture
def concepts_file(tmp_path, monkeypatch):
    """Write a concepts.yaml of the test's own; the cache is emptied before and after."""
    monkeypatch.setattr(world.paths, "data", lambda: tmp_path)
    world.concepts.cache_clear()
    shipped = concepts_of_checkout()

    def put(change):
        content = yaml.safe_load(shipped)
        change(content)
        (tmp_path / "concepts.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")

    yield put
    world.concepts.cache_clear()


def concepts_of_checkout() -> str:
    return (paths.checkout() / "data" / "concepts.yaml").read_text(encoding="utf-8")


def test_every_topic_offers_enough_for_four_options():
    topics = concepts().topics
    assert len(topics) >= 6
    assert all(len(topic.things) >= 4 and len(topic.actions) >= 4 for topic in topics.values())


def test_a_thing_belongs_to_its_topic_and_a_neutral_action_to_none():
    world_ = concepts()
    for name, topic in world_.topics.items():
        assert {world_.topic_of(concept) for concept in topic.things + topic.actions} == {name}
    assert {world_.topic_of(action) for action in world_.neutral} == {None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["topics"]["food"]["things"].append("cow"), "things named twice: cow"),
        (lambda c: c["neutral"].append("cook"), "actions named twice: cook"),
        (lambda c: c["persons"].append("mother"), "persons named twice: mother"),
        (lambda c: c["core"]["persons"].append("yak"), "core.persons: no such concept: yak"),
        (lambda c: c.pop("places"), "places: Field required"),
        (lambda c: c.update(placez=[]), "placez"),
    ],
)
def test_a_bad_inventory_is_one_message(concepts_file, change, message):
    concepts_file(change)
    with pytest.raises(LangmergeError, match=r"concepts\.yaml: .*" + re.escape(message)):
        world.concepts()


@pytest.mark.parametrize(
    "roles", [{}, {"person": "mother"}, {"thing": "cow", "topic": "animal", "place": "city"}]
)
def test_a_proposition_needs_exactly_its_roles(roles):
    with pytest.raises(ValueError, match="roles missing or unknown"):
        Proposition.of("kind", **roles)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_what_a_speaker_says_is_true_of_the_world(seed):
    speaker = Speaker(np.random.default_rng(seed))
    world_ = speaker.concepts
    topic = speaker.choose(speaker.topics)
    act = speaker.act(topic)
    assert world_.topic_of(act.role("thing")) == topic
    assert world_.topic_of(act.role("action")) in (topic, None)
    kind = speaker.kind(topic)
    assert world_.topic_of(kind.role("thing")) == kind.role("topic") == topic
    assert speaker.other_topic(topic) != topic
    drawn = speaker.sample(speaker.topics, 4)
    assert len(set(drawn)) == 4 and set(drawn) <= set(speaker.topics)


def test_every_concept_is_spoken_of():
    speaker = Speaker(np.random.default_rng(0))
    said = {
        concept
        for _ in range(2000)
        for sentence in corpus.document(speaker)
        for _, concept in sentence.roles
    }
    assert said == {concept for ids in concepts().by_kind().values() for concept in ids}


def test_every_document_is_about_what_it_says():
    """Most of a paragraph's sentences are on its topic, or no reader could tell it."""
    speaker = Speaker(np.random.default_rng(0))
    on = off = 0
    for _ in range(300):
        topic = speaker.choose(speaker.topics)
        sentences = corpus.paragraph(speaker, topic)
        abouts = {s.role("topic") for s in sentences if s.construction == "about"}
        assert abouts <= {topic}
        things = [dict(s.roles)["thing"] for s in sentences if "thing" in dict(s.roles)]
        same = sum(speaker.concepts.topic_of(thing) == topic for thing in things)
        on, off = on + same, off + len(things) - same
    assert off / (on + off) == pytest.approx(corpus.OFF_TOPIC, abs=0.05)


def test_words_of_the_other_language_come_in_their_citation_form():
    tamil, english = Realizer(load("tam_Taml")), Realizer(load("eng_Latn"))
    said = Proposition.of("act", person="mother", action="cook", thing="rice")
    rice = english.language.form("thing", "rice")
    switched = tamil.switched(said, english, {"thing"})
    assert rice in switched.split() and rice not in tamil(said)
    assert switched == tamil(said).replace(tamil.language.form("thing", "rice", "accusative"), rice)
    assert tamil.switched(said, english, set()) == tamil(said)


@pytest.mark.parametrize("code", ["eng_Latn", "tam_Taml", "zzz_0000"])
@pytest.mark.parametrize("modes", [None, BILINGUAL, {"monolingual": 0.5, "switched": 0.5}])
def test_a_corpus_is_its_seeds(code, modes):
    assert documents(code, 5, 30, modes) == documents(code, 5, 30, modes)
    assert documents(code, 5, 30, modes) != documents(code, 6, 30, modes)


def test_a_longer_corpus_begins_with_the_shorter_one():
    assert documents("tam_Taml", n=40)[:10] == documents("tam_Taml", n=10)


@pytest.mark.parametrize("code", [code for code in SHIPPED if not code.endswith("_Latn")])
def test_monolingual_text_has_no_english_letters(code):
    text = "".join(documents(code, n=300))
    assert not re.findall("[A-Za-z]", text)
    assert re.findall("[a-z]", "".join(documents(code, modes=BILINGUAL)))


def test_monolingual_control_text_has_no_english_words():
    english = set(re.findall(r"\w+", " ".join(documents("eng_Latn", n=400)).casefold()))
    for code in CONTROLS:
        words = set(re.findall(r"\w+", " ".join(documents(code, n=100)).casefold()))
        assert not words & english


@pytest.mark.parametrize("code", [code for code in SHIPPED if code != "eng_Latn"] + CONTROLS)
def test_bilingual_documents_translate_every_sentence(code):
    """The same documents, either language first: each sentence has its translation behind it."""
    say, english = Realizer(load(code)), Realizer(load("eng_Latn"))
    speaker = Speaker(np.random.default_rng(3))
    first = {True: 0, False: 0}
    for _ in range(40):
        sentences = corpus.document(speaker)
        text = corpus.render(sentences, "bilingual", say, english, speaker)
        pairs = [(say(sentence), english(sentence)) for sentence in sentences]
        ours = " ".join(f"{a} ({b})" for a, b in pairs)
        theirs = " ".join(f"{b} ({a})" for a, b in pairs)
        assert text in (ours, theirs)
        first[text == ours] += 1
    assert min(first.values()) >= 8


def test_code_switched_documents_mix_both_languages():
    texts = documents("tam_Taml", n=100, modes={"switched": 1.0})
    mixed = [t for t in texts if re.search("[a-z]", t) and re.search("[\u0b80-\u0bff]", t)]
    assert len(mixed) > 80


def test_modes_come_in_their_shares():
    texts = documents("tam_Taml", n=1000, modes={"monolingual": 3.0, "bilingual": 1.0})
    bilingual = sum("(" in text for text in texts)
    assert bilingual / 1000 == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("code", [*SHIPPED, *CONTROLS])
def test_no_document_contains_the_instruction_format(code):
    """Only fine-tuning teaches it, or its effect could not be told from pre-training's."""
    start, end = re.fullmatch("(.*)x(.*)", instruction("x"), re.DOTALL).groups()
    assert start.strip() == ">" and "=" in end
    modes = None if code == "eng_Latn" else {"monolingual": 1.0, "bilingual": 1.0, "switched": 1.0}
    for text in documents(code, n=200, modes=modes):
        assert not set("<>=\n") & set(text), text


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_running_text_says_no_combination_of_a_dev_or_test_item(seed):
    speaker = Speaker(np.random.default_rng(seed))
    said = [
        dict(sentence.roles)
        for _ in range(200)
        for sentence in corpus.document(speaker)
        if sentence.construction.startswith("act")
    ]
    assert said
    splits = {split_of(roles["person"], roles["action"], roles["thing"]) for roles in said}
    assert splits == {"train"}
