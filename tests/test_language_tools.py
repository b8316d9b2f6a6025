"""`language new`, `language check`, `language attest`: from an empty file to a language."""

import re
import subprocess
import sys

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from langmerge import (
    cli,
    extension,
    language_attest,
    language_check,
    language_new,
    languages,
    orthography,
    paths,
    tasks,
)
from langmerge.errors import LangmergeError
from langmerge.languages import ROLE
from langmerge.realize import Realizer
from langmerge.world import CONSTRUCTIONS, Proposition, concepts

SHIPPED = sorted(path.stem for path in (paths.data() / "languages").glob("*.yaml"))
EXAMPLES = sorted((paths.data() / "examples").glob("*.yaml"))


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LANGMERGE_HOME", str(tmp_path))
    languages.load.cache_clear()
    yield tmp_path
    languages.load.cache_clear()


def langmerge(*arguments: str):
    return CliRunner().invoke(cli.app, list(arguments), env={"COLUMNS": "200"})


def draft(code: str) -> dict:
    return yaml.safe_load(language_new.draft(code, language_new.script_of(code)))


def filled(content: dict, everything: bool = False) -> dict:
    """A new file as a hand would fill it: made-up words of the core, or of all concepts."""
    content = content | {"family": "invented", "word_order": "SVO", "autonym": "Nimi", "name": "N"}
    core = concepts().core
    number = iter(range(10**6))

    def word() -> str:
        digits = f"{next(number):04d}"
        return "".join("aeioubdfgk"[int(digit)] for digit in digits)

    content["words"] = {
        kind: {c: word() if everything or c in core.get(kind, ()) else "" for c in ids}
        for kind, ids in content["words"].items()
    }
    for name in CONSTRUCTIONS if everything else languages.CORE:
        roles = " ".join(f"{{{role}}}" for role in CONSTRUCTIONS[name])
        content["templates"][name] = f"ne {name.replace('_', '')} {roles}".strip()
    return content


@pytest.mark.parametrize("code", ["gsw_Latn", "heb_Hebr", "nqo_Nkoo", "mvf_Mong", "quy_Latn"])
def test_a_new_file_has_every_slot_once(code):
    content = draft(code)
    assert set(content["templates"]) == set(CONSTRUCTIONS)
    assert list(content["templates"])[:3] == list(languages.CORE)
    for kind, ids in concepts().by_kind().items():
        assert sorted(content["words"][kind]) == sorted(ids)
    for kind, ids in concepts().core.items():
        assert set(list(content["words"][kind])[: len(ids)]) == set(ids), "the core comes first"


def test_a_new_file_has_the_english_beside_every_slot():
    text = language_new.draft("quy_Latn", "Latin")
    english = Realizer(languages.load("eng_Latn"))
    for kind, ids in concepts().by_kind().items():
        for concept in ids:
            (line,) = re.findall(rf"(?m)^    {concept}: .*# (.*)$", text)
            assert english.language.form(ROLE[kind], concept) in line
    for name in CONSTRUCTIONS:
        (line,) = re.findall(rf'(?m)^  {name}: ""(.*)$', text)
        assert all(f"{{{role}}}" in line for role in CONSTRUCTIONS[name])
        assert "# " in line


@pytest.mark.parametrize("code", ["gsw_Latn", "nno_Latn", "deu_Latn"])
def test_a_comment_never_touches_what_is_before_it(code):
    for line in language_new.draft(code, "Latin").splitlines():
        assert line.startswith("#") or "#" not in line or " # " in line, line


def test_what_the_cldr_knows_is_filled_in():
    swiss = draft("gsw_Latn")
    assert swiss["autonym"] == "Schwiizertüütsch" and swiss["name"] == "Swiss German"
    assert swiss["words"]["times"]["evening"] == "zaabig"
    hebrew = draft("heb_Hebr")
    assert (hebrew["direction"], hebrew["script"]) == ("rtl", "Hebrew")
    assert draft("ory_Orya")["script"] == "Oriya"
    assert draft("quy_Latn")["autonym"] == "", "no guess where the CLDR has nothing"


@pytest.mark.parametrize(
    "code", ["gsw_Latn", "uzn_Latn", "uzn_Cyrl", "kas_Deva", "srp_Cyrl", "yue_Hant"]
)
def test_nothing_is_filled_in_that_is_of_another_script_or_english(code):
    content = draft(code)
    english = languages.load("eng_Latn")
    texts = {c: w for words in content["words"].values() for c, w in words.items() if w}
    for text in [*texts.values(), content["autonym"]]:
        assert not list(orthography.problems(content["script"], text))
    for concept, text in texts.items():
        assert text.casefold() != english.form("time", concept).casefold()


@pytest.mark.parametrize(
    "code", ["gsw", "gsw_latn", "GSW_Latn", "gsw_Xxxx", "../x_Latn", "zzz_0001", ""]
)
def test_a_code_that_is_none_makes_no_file(home, code):
    done = langmerge("language", "new", code)
    assert isinstance(done.exception, LangmergeError)
    assert not list(home.rglob("*.yaml"))


def test_nothing_is_overwritten(home, tmp_path):
    path = language_new.write("gsw_Latn")
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(LangmergeError, match="there already"):
        language_new.write("gsw_Latn")
    assert path.read_text() == "mine"
    with pytest.raises(LangmergeError, match="shipped language"):
        language_new.write("tam_Taml")
    assert language_new.write("tam_Taml", out=tmp_path / "tam_Taml.yaml").is_file()


def test_a_fresh_file_fails_with_a_list_that_can_be_read(home):
    assert langmerge("language", "new", "gsw_Latn").exit_code == 0
    done = langmerge("language", "check", "gsw_Latn")
    lines = str(done.exception).splitlines()
    assert any("words.things: 42 to fill in: rice, bread" in line for line in lines)
    assert any("templates: 3 to fill in: act, question_thing" in line for line in lines)
    assert any("word_order is empty" in line for line in lines)
    assert len(lines) < 12, "one line a kind of word"
    (left_out,) = [line for line in done.output.splitlines() if "left out" in line]
    assert "topic" in left_out and "thing" not in left_out


def test_the_exit_code_of_a_file_that_cannot_be_used_is_2(tmp_path):
    path = language_new.write("gsw_Latn", out=tmp_path / "gsw_Latn.yaml")
    command = [sys.executable, "-m", "langmerge", "language", "check", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "words.things: 42" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("everything", [False, True])
def test_a_filled_file_is_a_language(home, everything):
    path = language_new.write("gsw_Latn")
    content = filled(yaml.safe_load(path.read_text()), everything)
    content["tier"] = "full" if everything else "core"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    report = language_check.check(path)
    assert not report.problems
    assert report.tasks == (list(tasks.TASKS) if everything else ["thing", "action"])
    assert languages.load("gsw_Latn").code in languages.whole()


def test_a_file_that_is_not_filled_yet_is_listed_and_breaks_nothing(home, monkeypatch):
    language_new.write("gsw_Latn")
    monkeypatch.setattr(cli.languages, "_met_by_base", lambda: None)
    shown = langmerge("languages")
    assert shown.exit_code == 0
    (line,) = [line for line in shown.output.splitlines() if "gsw_Latn" in line]
    assert "not complete" in line and "yours" in line
    assert "gsw_Latn" not in languages.whole() and set(SHIPPED) <= set(languages.whole())


def test_a_readers_file_comes_before_the_shipped_one_and_says_so(home, monkeypatch):
    (home / "languages").mkdir()
    own = home / "languages" / "swh_Latn.yaml"
    own.write_text((paths.data() / "languages" / "swh_Latn.yaml").read_text(encoding="utf-8"))
    assert any("comes before the shipped" in it for it in language_check.check(own).warnings)
    monkeypatch.setattr(cli.languages, "_met_by_base", lambda: None)
    (line,) = [line for line in langmerge("languages").output.splitlines() if "swh_Latn" in line]
    assert "yours, not the shipped one" in line


@pytest.mark.parametrize("code", SHIPPED)
def test_a_shipped_file_passes_its_check_with_samples(code):
    report = language_check.check(language_check.find(code))
    assert not report.problems and report.tasks == list(tasks.TASKS)
    said = [name for name in CONSTRUCTIONS if not name.startswith("answer_")]
    assert len(report.samples) == len(said) + len(languages.CORE)
    for sample in report.samples:
        assert sample.said and sample.english and sample.gloss


def test_a_gloss_names_concepts_and_forms_in_their_words_places():
    say = Realizer(languages.load("swh_Latn"))
    said = Proposition.of(
        "act_property", person="mother", action="see", thing="hut", property="big"
    )
    assert say(said) == "mama anaona kibanda kikubwa."
    assert say.gloss(said) == "mother see hut big.thing."


def test_words_equal_to_english_are_a_warning(home):
    path = language_new.write("gsw_Latn")
    content = filled(yaml.safe_load(path.read_text()))
    content["words"]["things"]["bus"] = "Bus"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    report = language_check.check(path)
    assert not report.problems
    assert any("bus (Bus)" in warning for warning in report.warnings)


@pytest.mark.parametrize("code", ["tam_Taml", "zzz_0001", "bod_Tibt"])
def test_learnability_is_counted_in_the_bases_tokens(tiny_base, code):
    found = language_check.learnability(languages.load(code), tiny_base)
    assert found.tokens_per_word >= 1 and found.documents > 0
    assert found.tokens > found.documents
    assert found.first_tokens["things"][1] == len(concepts().by_kind()["things"])
    assert all(0 <= told <= of for told, of in found.first_tokens.values())
    again = language_check.learnability(languages.load(code), tiny_base)
    assert again == found


def test_a_language_that_the_base_has_met_takes_fewer_tokens_than_bytes(tiny_base):
    tamil, tibetan = (
        language_check.learnability(languages.load(code), tiny_base)
        for code in ("tam_Taml", "bod_Tibt")
    )
    assert tamil.tokens_per_word / 20 < 1 < tibetan.tokens_per_word


def test_a_language_to_be_met_is_tokenized_as_after_its_extension(tiny_base, monkeypatch):
    grown = language_check.learnability(languages.load("bod_Tibt"), tiny_base)
    none = extension.recipe().model_copy(update={"vocabulary": 0})
    monkeypatch.setattr(extension, "recipe", lambda: none)
    bytes_alone = language_check.learnability(languages.load("bod_Tibt"), tiny_base)
    assert grown.tokens_per_word < 0.5 * bytes_alone.tokens_per_word
    assert bytes_alone.first_tokens["things"][0] == 0, "every word begins with the same byte"
    assert grown.first_tokens["things"][0] > 0


# --- attestation -------------------------------------------------------------------------


@pytest.mark.parametrize("code", sorted(set(SHIPPED) - {"eng_Latn"}))
def test_every_shipped_language_says_which_words_a_list_has(code):
    language = languages.load(code)
    found, of = language_attest.share(language)
    assert not language_attest.stale(language), "attest it anew"
    assert 0.6 < found / of <= 1
    words = set(language_attest.words(language))
    for given_ in language.attested:
        assert set(given_.not_found) <= words
        assert given_.found == len(words) - len(given_.not_found)


def test_the_words_of_a_text():
    assert language_attest.split("Mae'r gath, ng\u2019ombe! (két-Szó)") == [
        "mae'r", "gath", "ng'ombe", "két", "szó",
    ]  # fmt: skip
    assert language_attest.split("བོད་སྐད།") == ["བོད", "སྐད"]
    assert language_attest.split("ক\u200dখ") == ["কখ"]


@given(st.text(alphabet="abcé '\u2019-.", max_size=20))
def test_words_have_neither_spaces_nor_apostrophes_at_their_ends(text):
    for word in language_attest.split(text):
        assert word == word.strip(" '-.") and word
        assert language_attest.normal(word) == word


@pytest.fixture
def swahili(tmp_path):
    path = tmp_path / "swh_Latn.yaml"
    source = (paths.data() / "languages" / "swh_Latn.yaml").read_text(encoding="utf-8")
    path.write_text(source[: source.index("attested:")], encoding="utf-8")
    return path


def test_a_plain_list_is_looked_up_and_noted_in_the_file(swahili, tmp_path):
    before = swahili.read_text(encoding="utf-8")
    words = language_attest.words(languages.read(swahili))
    known = tmp_path / "list.dic"
    known.write_text("3\n" + "\n".join(f"{word.title()}/AB\tx" for word in words[5:]) + "\n")
    done = langmerge("language", "attest", str(swahili), "--list", str(known), "--name", "A list")
    assert done.exit_code == 0 and f"{len(words) - 5} of {len(words)}" in done.output
    after = swahili.read_text(encoding="utf-8")
    assert after.startswith(before), "comments and all"
    language = languages.read(swahili)
    (found,) = language.attested
    assert (found.list, found.found) == ("A list", len(words) - 5)
    assert sorted(found.not_found) == words[:5]
    assert language_attest.share(language) == (len(words) - 5, len(words))


def test_a_second_list_adds_and_the_same_list_replaces(swahili, tmp_path):
    words = language_attest.words(languages.read(swahili))
    for name, kept in (("One", words[2:]), ("Two", words[:-2]), ("One", words[1:])):
        known = tmp_path / "list.txt"
        known.write_text("\n".join(kept))
        language_attest.attest(swahili, known, name, version="1", note='it\'s: a "note" #1')
    language = languages.read(swahili)
    assert [it.list for it in language.attested] == ["Two", "One"]
    assert language.attested[1].not_found == words[:1]
    assert language_attest.share(language) == (len(words), len(words)), "either list is enough"


def test_a_word_that_changed_makes_an_attestation_stale(swahili, tmp_path):
    known = tmp_path / "list.txt"
    known.write_text("\n".join(language_attest.words(languages.read(swahili))))
    language_attest.attest(swahili, known, "A list")
    text = swahili.read_text(encoding="utf-8").replace("father: baba", "father: baba mzee")
    swahili.write_text(text, encoding="utf-8")
    assert any("looked up in A list" in it for it in language_check.check(swahili).warnings)


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00", b"12\n"])
def test_a_list_that_is_none_is_refused(swahili, tmp_path, content):
    known = tmp_path / "list.txt"
    if content is not None:
        known.write_bytes(content)
    before = swahili.read_text(encoding="utf-8")
    with pytest.raises(LangmergeError, match=re.escape(str(known))):
        language_attest.attest(swahili, known, "A list")
    assert swahili.read_text(encoding="utf-8") == before


def test_markup_in_a_lists_name_is_refused(swahili, tmp_path):
    known = tmp_path / "list.txt"
    known.write_text("mama\n")
    with pytest.raises(LangmergeError, match="markup"):
        language_attest.attest(swahili, known, "<b>")
    assert "attested" not in swahili.read_text(encoding="utf-8")


def test_affixes_of_hunspell_are_understood(swahili, tmp_path):
    pytest.importorskip("spylls")
    (tmp_path / "sw.aff").write_text("SET UTF-8\nSFX A Y 1\nSFX A 0 ni .\n")
    (tmp_path / "sw.dic").write_text("2\nsoko/A\nJiko/A\n")
    known = language_attest.knower(tmp_path / "sw.dic")
    assert known("soko") and known("sokoni") and known("jikoni") and not known("mtoni")


def test_without_spylls_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "spylls.hunspell", None)
    (tmp_path / "sw.aff").write_text("SET UTF-8\n")
    (tmp_path / "sw.dic").write_text("1\nsoko\n")
    with pytest.raises(LangmergeError, match="pip install spylls"):
        language_attest.knower(tmp_path / "sw.dic")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_how_tos_example_is_a_language_that_is_not_shipped(path):
    assert path.stem not in SHIPPED
    report = language_check.check(path)
    assert not report.problems and len(report.tasks) >= 2
    assert len(report.samples) >= 6
