"""What grammars say of the shipped languages' forms: typing errors in the files break a rule.

The rules are those of any reference grammar, written here independently of the files.
"""

import pytest

from langmerge import languages, paths
from langmerge.languages import Language
from langmerge.realize import Realizer
from langmerge.world import Proposition, concepts

SHIPPED = {path.stem for path in (paths.data() / "languages").glob("*.yaml")}
CODES = sorted(SHIPPED - {"eng_Latn"})
ANIMALS = set(concepts().topics["animal"].things)
# The script in which each released checkpoint of the paper's authors was trained. Their
# Mongolian is that of Inner Mongolia, in the traditional script.
SCRIPT_OF_CHECKPOINT = {
    "pkupie/Llama-2-7b-tam": "Taml",
    "pkupie/Llama-2-7b-tel": "Telu",
    "pkupie/Llama-2-7b-ben": "Beng",
    "pkupie/Llama-2-7b-bod": "Tibt",
    "pkupie/Llama-2-7b-uig": "Arab",
    "pkupie/Llama-2-7b-mon": "Mong",
}
SCRIPT_NAMES = {
    "Arab": "Arabic",
    "Beng": "Bengali",
    "Cyrl": "Cyrillic",
    "Latn": "Latin",
    "Mong": "Mongolian",
    "Orya": "Oriya",
    "Taml": "Tamil",
    "Telu": "Telugu",
    "Tibt": "Tibetan",
}


def forms(language: Language, role: str, *names: str | None):
    """(concept, form, form, …) for every word of a role."""
    kind = {"person": "persons", "property": "properties"}.get(role, f"{role}s")
    for concept in language.words[kind]:
        yield concept, *(language.form(role, concept, name) for name in names)


@pytest.mark.parametrize("code", CODES)
def test_the_hubs_names_are_of_the_files_language_and_script(code):
    language = languages.load(code)
    script = code.split("_")[1]
    assert SCRIPT_NAMES[script] == language.script
    for name in ("flores", "fineweb2", "sib200"):
        assert language.hub[name] == code
    assert all(task.endswith(f"_{code}") for task in language.hub.get("lm_eval", []))
    checkpoint = language.hub.get("ct_checkpoint")
    assert checkpoint is None or SCRIPT_OF_CHECKPOINT[checkpoint] == script


def test_mongolian_in_cyrillic_is_paired_with_no_checkpoint():
    assert "ct_checkpoint" not in languages.load("khk_Cyrl").hub


@pytest.mark.parametrize("code", CODES)
def test_arabic_script_alone_runs_from_right_to_left(code):
    language = languages.load(code)
    assert language.direction == ("rtl" if language.script == "Arabic" else "ltr")


@pytest.mark.parametrize("code", CODES)
def test_the_finite_verb_stands_where_the_word_order_says(code):
    language = languages.load(code)
    said = Proposition.of("act", person="father", action="see", thing="cow")
    text = Realizer(language)(said)
    # The stems, which every form of these words has in these languages.
    person = text.index(min((f for _, f in _of(language, "person", "father")), key=len)[:3])
    verb = text.index(language.form("action", "see"))
    thing = text.index(min((f for _, f in _of(language, "thing", "cow")), key=len)[-3:])
    if language.word_order == "SOV":
        assert person < thing < verb
    elif language.word_order == "SVO":
        assert person < verb < thing
    else:  # an auxiliary is the finite verb and opens the sentence; the verbal noun follows
        assert language.word_order == "VSO"
        assert 0 < person < verb < thing


def _of(language: Language, role: str, concept: str):
    for name in language.forms[role]:
        if name != languages.CLASS and name not in ("located", "copula"):
            yield name, language.form(role, concept, name)


def test_basque_cases_are_built_on_the_definite_form():
    basque = languages.load("eus_Latn")
    for concept, absolutive, ergative in forms(basque, "person", "absolutive", "ergative"):
        assert ergative == absolutive + "k", concept
    for concept, definite, bare, comitative in forms(
        basque, "thing", "absolutive", "bare", "comitative"
    ):
        assert definite in {bare + "a", bare + "ra"} or (definite == bare and bare[-1] == "a"), (
            concept
        )
        assert comitative == definite + "rekin", concept


def soft(word: str, spared: tuple[str, ...] = ()) -> str:
    """A Welsh word after the soft mutation; the spared initials do not mutate."""
    initials = {"ll": "l", "rh": "r", "ch": "ch", "dd": "dd", "ff": "ff", "ph": "ph", "th": "th"}
    initials |= {"p": "b", "t": "d", "c": "g", "b": "f", "d": "dd", "g": "", "m": "f"}
    for initial, mutated in initials.items():
        if word.startswith(initial):
            return word if initial in spared else mutated + word.removeprefix(initial)
    return word


def test_welsh_words_mutate_softly():
    welsh = languages.load("cym_Latn")
    for concept, plain, mutated in forms(welsh, "action", "plain", "soft"):
        assert mutated == soft(plain), concept
    for concept, *pairs in forms(
        welsh, "topic", "plural", "soft_plural", "singular", "soft_singular"
    ):
        assert pairs[1] == soft(pairs[0]) and pairs[3] == soft(pairs[2]), concept
    for concept, plain, mutated in forms(welsh, "property", "plain", "soft"):
        assert mutated == soft(plain, spared=("ll", "rh")), concept
    for role, form in (("thing", "indefinite"), ("person", "plain")):
        for concept, plain, definite in forms(welsh, role, form, "definite"):
            assert definite in {plain, soft(plain, spared=("ll", "rh"))}, concept


def test_uyghur_raises_a_final_open_vowel_before_the_accusative():
    uyghur = languages.load("uig_Arab")
    for concept, word, accusative in forms(uyghur, "thing", "nominative", "accusative"):
        stem = word[:-1] + "\u0649" if word[-1] in "\u0627\u06d5" else word
        assert accusative == stem + "\u0646\u0649", concept


def test_uyghur_is_written_with_its_own_letters():
    """Not with the look-alikes of Persian and Arabic keyboards."""
    language = languages.load("uig_Arab")
    texts = [*language.templates.values()]
    texts += [
        form
        for words in language.words.values()
        for word in words.values()
        for form in ([word] if isinstance(word, str) else word.values())
    ]
    assert not set("".join(texts)) & set("\u06cc\u06a9\u0647\u0629\u0623\u0622\u064b\u06d2")


def test_swahili_agreement_follows_the_noun_class():
    swahili = languages.load("swh_Latn")
    located = {"m": {"yuko", "uko"}, "ma": {"yako"}, "ki": {"kiko"}, "ji": {"liko"}}
    located["n"] = {"iko", "ziko"}
    for concept, word, where, its in forms(swahili, "thing", "noun", "located", "class"):
        assert where in located[its], concept
        assert (where == "yuko") == (concept in ANIMALS), concept
        assert its != "ki" or word.startswith(("ki", "ch")), concept
    for concept, m, ma, ki in forms(swahili, "property", "m", "ma", "ki"):
        if len({m, ma, ki}) > 1:  # the others do not agree
            assert m[0] == "m" and ma[0] == "m" and ki.startswith(("ki", "che")), concept


def test_mongolian_endings_follow_vowel_harmony():
    mongolian = languages.load("khk_Cyrl")
    back, front = set("аоуяёАОУ"), set("эөүеЭӨҮ")
    for concept, finite, participle in forms(mongolian, "action", "finite", "participle"):
        stem = participle.split()[-1].removesuffix("х")
        assert participle.endswith("х") and finite[-2:] in {"на", "нэ", "но", "нө"}, concept
        assert bool(back & set(stem)) == (finite[-1] in "ао"), concept
        assert bool(back & set(stem)) != bool(front & set(stem)), concept
    for concept, word, accusative in forms(mongolian, "thing", "nominative", "accusative"):
        assert accusative.endswith("г") and accusative[:2] == word[:2], concept
        assert not (accusative.endswith("ыг") and front & set(accusative.split()[-1])), concept


@pytest.mark.parametrize(("code", "ending"), [("ben_Beng", "কে"), ("ory_Orya", "କୁ")])
def test_animals_alone_are_marked_as_objects(code, ending):
    language = languages.load(code)
    for concept, word, objective in forms(language, "thing", "nominative", "objective"):
        assert objective == (word + ending if concept in ANIMALS else word), concept


@pytest.mark.parametrize(("code", "endings"), [("tam_Taml", "ை"), ("tel_Telu", ("ను", "ని"))])
def test_dravidian_objects_end_in_the_accusative(code, endings):
    for concept, accusative in forms(languages.load(code), "thing", "accusative"):
        assert accusative.endswith(endings), concept
