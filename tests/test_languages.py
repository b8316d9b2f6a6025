"""Languages: the shipped files are whole, generated ones keep their promises, bad ones teach."""

import contextlib
import re
import unicodedata
from functools import cache

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langmerge import controls, language_check, languages, paths
from langmerge.errors import LangmergeError
from langmerge.files import read_yaml
from langmerge.languages import CLASS, ROLE, SLOT, Language
from langmerge.realize import Realizer
from langmerge.world import CONSTRUCTIONS, Proposition, concepts

SHIPPED = sorted(path.stem for path in (paths.data() / "languages").glob("*.yaml"))
CONTROLS = [f"zzz_{number:04d}" for number in range(12)]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A LANGMERGE_HOME of the test's own; what was cached from another is forgotten."""
    monkeypatch.setenv("LANGMERGE_HOME", str(tmp_path))
    languages.load.cache_clear()
    (tmp_path / "languages").mkdir()
    yield tmp_path
    languages.load.cache_clear()


def words_of(language: Language, role: str) -> dict[str, list[str]]:
    """All forms of the words of a role, by concept."""
    kind = next(kind for kind, its in ROLE.items() if its == role)
    forms = [form for form in language.forms[role] if form != CLASS]
    return {
        concept: [language.form(role, concept, form) for form in forms]
        for concept in language.words[kind]
    }


def vocabulary(language: Language) -> set[str]:
    """Every token that the language's sentences may contain, in lower case."""
    texts = [SLOT.sub(" ", template) for template in language.templates.values()]
    for role in ROLE.values():
        texts += [form for forms in words_of(language, role).values() for form in forms]
    # \w leaves combining marks out, which are half of a word in Devanagari.
    kept = (c if unicodedata.category(c)[0] in "LMN" else " " for c in " ".join(texts).casefold())
    return set("".join(kept).split())


@cache
def raw(code: str) -> str:
    return (paths.data() / "languages" / f"{code}.yaml").read_text(encoding="utf-8")


def mended(**changes) -> dict:
    """English as its file has it, ready to be spoilt."""
    return yaml.safe_load(raw("eng_Latn")) | changes


def write(folder, content, name="eng_Latn"):
    path = folder / f"{name}.yaml"
    text = content if isinstance(content, str) else dump(content)
    path.write_text(text, encoding="utf-8")
    return path


def dump(content: dict) -> str:
    return yaml.safe_dump(content, allow_unicode=True, sort_keys=False)


def complaint(path) -> str:
    with pytest.raises(LangmergeError) as caught:
        languages.read(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def every_proposition():
    """Every construction, each concept at least once in each of its roles."""
    ids = {ROLE[kind]: names for kind, names in concepts().by_kind().items()}
    for construction, roles in CONSTRUCTIONS.items():
        for number in range(max((len(ids[role]) for role in roles), default=1)):
            yield Proposition.of(
                construction, **{role: ids[role][number % len(ids[role])] for role in roles}
            )


def test_english_and_three_languages_of_three_scripts_are_shipped():
    assert "eng_Latn" in SHIPPED
    assert len({languages.load(code).script for code in SHIPPED} - {"Latin"}) >= 3


@pytest.mark.parametrize("code", SHIPPED)
def test_a_shipped_file_says_whose_it_is(code):
    language = languages.load(code)
    assert language.code == code
    assert language.provenance and language.family and language.autonym
    assert not language.is_control


@pytest.mark.parametrize("code", [*SHIPPED, *CONTROLS[:3]])
def test_every_construction_is_said_with_every_word(code):
    language = languages.load(code)
    say = Realizer(language)
    for proposition in every_proposition():
        text = say(proposition)
        assert not set("{}<>") & set(text), text
        assert text == " ".join(text.split()), text
        assert text == unicodedata.normalize("NFC", text), text
        for role, concept in proposition.roles:
            assert any(form in text for form in words_of(language, role)[concept]), (role, text)


@pytest.mark.parametrize("code", SHIPPED)
def test_every_letter_of_every_sentence_is_of_the_script(code):
    language = languages.load(code)
    say = Realizer(language)
    for letter in {letter for it in every_proposition() for letter in say(it) if letter.isalpha()}:
        assert unicodedata.name(letter).startswith(language.script.upper()), letter


@pytest.mark.parametrize("code", SHIPPED)
def test_the_autonym_is_in_the_languages_script(code):
    language = languages.load(code)
    letter = next(letter for letter in language.autonym if letter.isalpha())
    assert unicodedata.name(letter).startswith(language.script.upper())


def test_an_adjective_agrees_with_the_class_of_its_noun():
    """The classes of Swahili, as any grammar of it lists them."""
    say = Realizer(languages.load("swh_Latn"))
    new = {"tree": "mti ni mpya", "milk": "maziwa ni mapya", "hut": "kibanda ni kipya"}
    new |= {"car": "gari ni jipya", "house": "nyumba ni mpya", "cow": "ng'ombe ni mpya"}
    big = {"tree": "mti ni mkubwa", "milk": "maziwa ni makubwa", "hut": "kibanda ni kikubwa"}
    big |= {"car": "gari ni kubwa", "house": "nyumba ni kubwa", "cow": "ng'ombe ni mkubwa"}
    for adjective, said in {"new": new, "big": big}.items():
        for thing, text in said.items():
            assert say(Proposition.of("property", thing=thing, property=adjective)) == text + "."


def test_an_agreeing_word_is_said_with_a_loan_and_as_a_loan():
    """The class is the language's own, whichever language the noun's word comes from."""
    swahili, english = (Realizer(languages.load(code)) for code in ("swh_Latn", "eng_Latn"))
    said = Proposition.of("property", thing="hut", property="big")
    assert swahili.switched(said, english, {"thing"}) == "hut ni kikubwa."
    assert swahili.switched(said, english, {"property"}) == "kibanda ni big."


def test_a_loan_stands_apart_in_a_language_without_spaces_between_words():
    """Or it would be cut into other tokens than in its own language."""
    tibetan, english = (Realizer(languages.load(code)) for code in ("bod_Tibt", "eng_Latn"))
    said = Proposition.of("act", person="mother", thing="rice", action="eat")
    assert tibetan(said) == "ཨ་མས་འབྲས་ཟ།"
    assert tibetan.switched(said, english, {"thing", "action"}) == "ཨ་མས་ rice་ eats།"
    assert tibetan.switched(said, english, {"person"}) == "mother་འབྲས་ཟ།"
    assert english.switched(said, tibetan, {"thing"}) == "the mother eats the འབྲས."


@pytest.mark.parametrize("spoilt", ["a class of no form", "a word without a class"])
def test_agreement_with_a_class_that_no_form_has_names_the_word(tmp_path, spoilt):
    content = yaml.safe_load(raw("swh_Latn"))
    hut = content["words"]["things"]["hut"]
    content["words"]["things"]["hut"] = (
        hut | {"class": "vi"} if spoilt == "a class of no form" else hut["noun"]
    )
    message = complaint(write(tmp_path, content, "swh_Latn"))
    assert "{property.thing}" in message and "the class of hut is" in message
    assert "n, m, ma, ki, ji" in message


def test_the_three_word_orders_come_in_turn():
    """As sentences show them: where the verb stands, and what comes first."""
    said = Proposition.of("act", person="mother", action="cook", thing="rice")
    for number, code in enumerate(CONTROLS):
        language = languages.load(code)
        names = {
            "S": language.form("person", "mother"),
            "V": language.form("action", "cook"),
            "O": words_of(language, "thing")["rice"][-1],
        }
        words = Realizer(language)(said).rstrip(".").split()
        order = "".join(next(k for k, name in names.items() if name == word) for word in words)
        assert order == language.word_order == ("SOV", "VSO", "SVO")[number % 3]


def test_generation_is_deterministic():
    for number in (0, 1, 2, 4711):
        assert controls.generate(number) == controls.generate(number)
    assert languages.load("zzz_0007") == controls.generate(7)


@pytest.mark.parametrize("number", range(4))
def test_the_shipped_base_has_met_these_words(number):
    """A generator that draws in another order needs a base of its own."""
    said = {
        0: "momgisi jikzu diroma zoju.",
        1: "дика пикшак горипи йосокпил.",
        2: "ζιξχελ νοφοξχιξ ποξφιξ πεφολζελ.",
        3: "ვუწი ვამდისუ სისუჰე რეზისზამ.",
    }
    say = Realizer(languages.load(f"zzz_{number:04d}"))
    roles = {"person": "mother", "action": "cook", "thing": "rice"}
    evening = Proposition.of("act_time", time="evening", **roles)
    assert say(evening) == said[number]


def test_twelve_control_languages_have_every_order_in_every_script():
    made = [controls.generate(number) for number in range(7, 19)]
    assert len({(it.word_order, it.script) for it in made}) == 12
    assert {it.script for it in made} == set(controls.SCRIPTS)


def test_the_letters_of_a_script_stand_for_latin_ones_one_for_one():
    letters = read_yaml(paths.data() / "controls.yaml")["letters"]
    assert set(letters) == set(controls.SCRIPTS)
    for script, its in letters.items():
        assert len(its) == len(set(its)) == len(letters["Latin"]), script


def test_control_languages_share_no_word_with_english():
    english = vocabulary(languages.load("eng_Latn"))
    for code in CONTROLS:
        assert not vocabulary(languages.load(code)) & english


def test_words_of_one_control_language_are_all_different():
    for code in CONTROLS:
        language = languages.load(code)
        forms = [
            form
            for role in ROLE.values()
            for forms in words_of(language, role).values()
            for form in set(forms)
        ]
        assert len(forms) == len(set(forms)), code


def test_control_languages_coincide_by_chance_at_most():
    """Each draws its own lexicon: a form or two may be the same, a vocabulary may not."""
    vocabularies = [vocabulary(languages.load(code)) for code in CONTROLS]
    for i, one in enumerate(vocabularies):
        for other in vocabularies[:i]:
            assert len(one & other) <= 0.02 * min(len(one), len(other))


def test_no_form_means_the_same_in_two_of_the_control_languages_that_the_base_has_met():
    """The book says how many are shared at all."""
    said = [
        {
            form: concept
            for role in ROLE.values()
            for concept, forms in words_of(languages.load(f"zzz_{number:04d}"), role).items()
            for form in forms
        }
        for number in range(12)
    ]
    shared = [
        (one[form], other[form])
        for i, one in enumerate(said)
        for other in said[:i]
        for form in one.keys() & other.keys()
    ]
    assert len(shared) == 1
    assert all(here != there for here, there in shared)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 9999))
def test_every_control_language_passes_the_check_of_files(number):
    assert not list(languages._problems(controls.generate(number)))


@pytest.mark.parametrize(
    ("spoil", "where", "what"),
    [
        (lambda d: d["words"]["things"].pop("rice"), "words.things.rice", "missing"),
        (lambda d: d["words"].pop("times"), "words.times.today", "missing"),
        (lambda d: d["words"]["persons"].pop("uncle"), "words.persons.uncle", "missing"),
        (lambda d: d["words"].update(thing={}), "words.thing:", "did you mean things"),
        (lambda d: d["words"]["things"].update(ric="rice"), "words.things.ric", "rice"),
        (lambda d: d["words"]["places"].update(city="รณ"), "words.places.city", "script Latin"),
        (lambda d: d["words"]["places"].update(city="<b>city</b>"), "places.city", "'<'"),
        (lambda d: d["words"]["places"].update(city="city1"), "words.places.city", "'1'"),
        (lambda d: d["words"]["places"].update(city="cite\u0301"), "places.city", "normal form C"),
        (lambda d: d["words"]["places"].update(city=""), "words.places.city", "empty"),
        (lambda d: d["words"]["places"].update(city=" city"), "words.places.city", "space"),
        (lambda d: d["words"]["places"].update(city=3), "words.places.city", "string"),
        (lambda d: d["words"]["places"].update(city={}), "words.places.city", "forms missing"),
        (lambda d: d["words"]["places"].update(city={"x": "y"}), "words.places.city", "x"),
        (lambda d: d["templates"].pop("act"), "templates.act", "missing"),
        (lambda d: d["templates"].update(akt="x"), "templates.akt", "did you mean act"),
        (lambda d: d["templates"].update(act="{person} {action}."), "templates.act", "{thing}"),
        (lambda d: d["templates"].update(about="{topic} {plase}"), "templates.about", "{plase}"),
        (lambda d: d["templates"].update(about="{topic.xyz}"), "templates.about", "topic.xyz"),
        (lambda d: d["templates"].update(about="{topic} { topic}"), "templates.about", "brace"),
        (lambda d: d["templates"].update(about="{topic} இது"), "templates.about", "script Latin"),
        (lambda d: d["templates"].update(about="{topic} e\u0301"), "templates.about", "form C"),
        (lambda d: d["forms"].pop("thing"), "forms.thing", "missing"),
        (lambda d: d["forms"].update(thingy=["a"]), "forms.thingy", "did you mean thing"),
        (lambda d: d["forms"].update(place=["noun", "thing"]), "forms.place", "name of a role"),
        (lambda d: d["forms"].update(place=["class"]), "forms.place", "citation form"),
        (lambda d: d["templates"].update(about="{topic.class}"), "templates.about", "no form"),
        (lambda d: d.update(code="eng_Latin"), "'eng_Latin'", "eng_Latn.yaml"),
        (lambda d: d.pop("script"), "script", "required"),
        (lambda d: d.update(skript="Latin"), "skript", "not permitted"),
        (lambda d: d["words"]["places"].update(city="ci\u202ety"), "places.city", "bidirectional"),
        (lambda d: d["words"]["places"].update(city="ci\u0007ty"), "places.city", "U+0007"),
        (lambda d: d["words"]["places"].update(city=None), "words.places.city", "missing"),
        (lambda d: d["templates"].update(about="`{topic}`"), "templates.about", "markup"),
        (lambda d: d["templates"].update(about="{topic} \u2066"), "templates.about", "U+2066"),
        (lambda d: d["templates"].update(about="{topic}  is."), "templates.about", "two in a row"),
        (lambda d: d["templates"].update(about="{topic} \u09e7"), "templates.about", "digit"),
        (lambda d: d["templates"].update(act="{person}{thing} {action}"), "templates.act", "slots"),
        (lambda d: d.update(word_order="SOVV"), "word_order", "did you mean"),
        (lambda d: d.update(script="Latn"), "script", "Latin"),
        (lambda d: d.update(direction="rtl"), "direction", "Latin"),
        (lambda d: d.update(direction="up"), "direction", "ltr"),
        (lambda d: d.update(provenance="<script>"), "provenance", "markup"),
        (lambda d: d.update(tier="half"), "tier", "core"),
        (lambda d: d.update(word_separator="\u0f0b"), "templates.act", "has a space"),
        (lambda d: d.update(local={"things": {"ric": "x"}}), "local.things.ric", "no such"),
        (lambda d: d.update(local={"thing": {"rice": "x"}}), "local.thing.rice", "no such"),
        (lambda d: d.update(local={"things": {"rice": "bread"}}), "local", "already the word"),
    ],
)
def test_a_bad_file_is_named_with_concept_and_problem(tmp_path, spoil, where, what):
    content = mended()
    spoil(content)
    message = complaint(write(tmp_path, content))
    assert any(where in line and what in line for line in message.splitlines()), message


def test_a_word_used_twice_is_named_with_both_concepts(tmp_path):
    content = mended()
    content["words"]["places"]["city"] = content["words"]["places"]["village"]
    message = complaint(write(tmp_path, content))
    assert "words.places.city" in message and "already the word of village" in message


def test_options_have_to_differ_in_the_form_that_options_take(tmp_path):
    """Two topics may not be told apart by their citation forms alone."""
    content = mended(forms=mended()["forms"] | {"topic": ["plain", "option"]})
    topics = list(concepts().topics)
    content["words"]["topics"] = {
        topic: {"plain": "abcdef"[i] * 2, "option": "same" if i < 2 else "ghijkl"[i] * 2}
        for i, topic in enumerate(topics)
    }
    for name, template in content["templates"].items():
        content["templates"][name] = re.sub(r"\{topic\.\w+\}", "{topic}", template)
    languages.read(write(tmp_path, content))  # where no task asks for that form it may be shared
    content["templates"]["answer_kind"] = "{topic.option}"
    message = complaint(write(tmp_path, content))
    assert f"words.topics.{topics[1]}: 'same' (option)" in message


def test_a_key_given_twice_is_an_error(tmp_path):
    text = re.sub(r"(?m)^( +)(city: .*)$", r"\1\2\n\1\2", raw("eng_Latn"), count=1)
    assert text != raw("eng_Latn")
    assert "'city' is given twice" in complaint(write(tmp_path, text))


@pytest.mark.parametrize(
    "text", ["", "[]", "code: [", "? [a, b]\n: c\n", "- a\n- b\n", "code: \tx: y", "3"]
)
def test_a_file_that_is_no_language_at_all(tmp_path, text):
    complaint(write(tmp_path, text))


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("code: !!python/object/apply:os.system [echo]\n", "tag"),
        ("code: !!str x\n", "tag"),
        ("code: !mine x\n", "tag"),
        (LAUGHS, "aliases"),
        ("a: &a [*a]\n", "aliases"),
        ("[" * 5000, "levels deep"),
        ("a: '" + "x" * 1_000_001 + "'\n", "bytes"),
        ("a: 1\n---\nb: 2\n", "document"),
        ("a: x\0y\n", "characters are not allowed"),
        ("d: 2026-13-45\n", "month"),
    ],
)
def test_yaml_that_would_do_harm_is_refused_by_name(tmp_path, text, told):
    assert told in complaint(write(tmp_path, text))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=4,
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each example writes it anew
)
@given(st.data())
def test_whatever_stands_in_a_file_is_read_or_refused_by_name(tmp_path, data):
    """A part of English replaced by anything at all: never an exception of another kind."""
    content = mended(tier=data.draw(st.sampled_from(["core", "full"])))
    at = content
    while True:
        key = data.draw(st.sampled_from(sorted(at)))
        if not (isinstance(at[key], dict) and at[key]) or data.draw(st.booleans()):
            break
        at = at[key]
    at[key] = data.draw(JUNK)
    path = write(tmp_path, content)
    try:
        language = languages.read(path)
    except LangmergeError as error:
        assert str(path) in str(error)
    else:
        assert language.inventory().constructions >= {*languages.CORE}
    with contextlib.suppress(LangmergeError):
        language_check.check(path)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace"))
)
def test_bytes_of_any_kind_are_read_or_refused_by_name(tmp_path, content):
    path = tmp_path / "eng_Latn.yaml"
    path.write_bytes(content)
    complaint(path)


def test_a_file_in_another_encoding(tmp_path):
    path = tmp_path / "eng_Latn.yaml"
    path.write_bytes(raw("eng_Latn").encode("utf-16"))
    complaint(path)


def test_all_problems_of_a_file_are_listed_at_once(tmp_path):
    content = mended()
    del content["words"]["things"]["rice"], content["templates"]["act"]
    message = complaint(write(tmp_path, content))
    assert "words.things.rice" in message and "templates.act" in message


def test_merge_keys_of_yaml_are_no_duplicates(tmp_path):
    content = mended()
    content.pop("hub", None)
    text = dump(content) + "hub: {a: &a {x: 1}, b: {<<: *a, y: 2}}\n"
    assert languages.read(write(tmp_path, text)).hub["b"] == {"x": 1, "y": 2}


def test_tone_marks_without_a_composed_letter_are_latin(tmp_path):
    content = mended()
    content["words"]["places"]["city"] = unicodedata.normalize("NFC", "ìlú ọ́ 'ʼ")
    assert languages.read(write(tmp_path, content)).form("place", "city").startswith("ìlú")


@pytest.mark.parametrize(
    ("code", "near"), [("tam_Tamil", "tam_Taml"), ("tam", "tam_Taml"), ("eng_latn", "eng_Latn")]
)
def test_an_unknown_language_names_the_nearest(code, near):
    with pytest.raises(LangmergeError, match=f"{code!r}.*{near}"):
        languages.load(code)


@pytest.mark.parametrize("code", ["", "zzz_3", "../eng_Latn", "zzz_00000", 3, "q w", "a\0b"])
def test_a_code_that_is_none_says_what_there_is(code):
    with pytest.raises(LangmergeError, match="zzz_0000 to zzz_9999"):
        languages.load(code)


def test_a_users_own_language_is_found(home):
    write(home / "languages", mended(code="qqq_Latn"), "qqq_Latn")
    assert "qqq_Latn" in languages.codes()
    assert languages.load("qqq_Latn").code == "qqq_Latn"


def test_a_file_cannot_pose_as_a_control_language(home):
    path = write(home / "languages", mended(code="zzz_0000"), "zzz_0000")
    assert "none of FLORES" in complaint(path)
    assert languages.load("zzz_0000") == controls.generate(0)


def test_a_readers_own_english_with_local_things_is_read(home):
    local = {"things": {"lotus": {"noun": "lily", "generic": "a lily"}}}
    write(home / "languages", mended(local=local))
    assert languages.load("eng_Latn").local == local


def test_a_users_own_file_comes_before_the_shipped_one(home):
    write(home / "languages", mended(name="My English"))
    assert languages.load("eng_Latn").name == "My English"
    assert languages.codes().count("eng_Latn") == 1


def core_file(**changes) -> dict:
    """English as a language of the core tier: three templates and the core's words."""
    content = mended(tier="core") | changes
    content["templates"] = {
        name: text if name in languages.CORE else "" for name, text in content["templates"].items()
    }
    content["words"] = {
        kind: {c: w for c, w in words.items() if c in concepts().core.get(kind, ())}
        for kind, words in content["words"].items()
    }
    return content


def test_the_core_is_seventy_concepts_and_three_templates():
    assert sum(map(len, concepts().core.values())) == 70
    assert languages.CORE == ("act", "question_thing", "question_action")
    for topic in concepts().topics.values():
        assert len(set(topic.things) & set(concepts().core["things"])) == 7
        assert len(set(topic.actions) & set(concepts().core["actions"])) == 3


def test_a_core_file_is_valid_and_says_what_it_can(tmp_path):
    language = languages.read(write(tmp_path, core_file()))
    inventory = language.inventory()
    answers = {"answer_thing", "answer_action"}
    assert inventory.constructions == {*languages.CORE, *answers}
    assert language.templates["answer_thing"] == "{thing}"
    kept = inventory.concepts.by_kind()
    assert {kind: set(kept[kind]) for kind in concepts().core} == {
        kind: set(ids) for kind, ids in concepts().core.items()
    }


def test_an_answer_left_out_is_the_word_as_the_act_has_it(tmp_path):
    content = mended(code="tam_Taml") | yaml.safe_load(raw("tam_Taml"))
    del content["templates"]["answer_thing"]
    path = write(tmp_path, content, "tam_Taml")
    assert languages.read(path).templates["answer_thing"] == "{thing.accusative}"


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (lambda d: d["words"]["things"].pop("rice"), "words.things.rice"),
        (lambda d: d["words"]["persons"].pop("aunt"), "words.persons.aunt"),
        (lambda d: d["templates"].update(act=""), "templates.act"),
        (lambda d: d["words"].update(topics={"food": "food"}), "words.topics.animal"),
        (lambda d: d["templates"].update(place="{thing} {place}"), "needs words.places"),
    ],
)
def test_a_core_file_needs_its_core(tmp_path, spoil, where):
    content = core_file()
    spoil(content)
    assert where in complaint(write(tmp_path, content))


def test_a_core_file_may_say_more(tmp_path):
    content = core_file()
    content["words"]["places"] = {"city": "city"}
    content["templates"]["act_place"] = mended()["templates"]["act_place"]
    language = languages.read(write(tmp_path, content))
    assert "act_place" in language.inventory().constructions
    assert language.inventory().concepts.places == ["city"]


def test_a_local_thing_is_called_by_its_name_in_english(tmp_path):
    content = mended(local={"things": {"lotus": {"noun": "edelweiss", "generic": "an edelweiss"}}})
    language = languages.read(write(tmp_path, content))
    english = languages.english_beside(language)
    assert english.form("thing", "lotus") == "edelweiss"
    assert english.form("thing", "rose") == "rose"
    assert languages.load("eng_Latn").form("thing", "lotus") == "lotus"
    assert languages.english_beside(languages.load("tam_Taml")) is languages.load("eng_Latn")


def test_what_is_said_about_a_language_is_no_part_of_its_text(tmp_path):
    plain = languages.read(write(tmp_path, mended()))
    about = mended(
        provenance="a speaker", reviewed=False, hub={"x": 1}, family="x", name="y", autonym="z",
        attested=[{"list": "a list", "found": 3, "not_found": ["cow"]}],
    )  # fmt: skip
    assert languages.read(write(tmp_path, about)).spoken() == plain.spoken()
    for key, value in {"templates": "act", "words": "city"}.items():
        other = mended()
        (other[key] if key == "templates" else other[key]["places"])[value] = (
            "{person} {action} {thing}" if key == "templates" else "town"
        )
        assert languages.read(write(tmp_path, other)).spoken() != plain.spoken()
