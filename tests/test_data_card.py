"""The data card: every language is in it, marked as what it is, and numbers are counted."""

import re
from html.parser import HTMLParser

import pytest

from langmerge import data_card, languages, paths

SHIPPED = sorted(path.stem for path in (paths.data() / "languages").glob("*.yaml"))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANGMERGE_HOME", str(tmp_path_factory.mktemp("home")))
        languages.load.cache_clear()
        yield data_card.page()
    languages.load.cache_clear()


def test_the_chapter_includes_every_part(page):
    chapter = (paths.checkout() / "book" / "data_card.md").read_text(encoding="utf-8")
    assert set(re.findall(r"_executed/(\w+\.md)", chapter)) == set(page)


def test_a_code_becomes_the_tag_that_browsers_know():
    known = {"tam_Taml": "ta-Taml", "swh_Latn": "sw-Latn", "khk_Cyrl": "mn-Cyrl",
             "gsw_Latn": "gsw-Latn", "zzz_0001": "art-x-zzz0001"}  # fmt: skip
    assert {code: data_card.tag(code) for code in known} == known


@pytest.mark.parametrize("code", SHIPPED)
def test_every_language_is_in_the_table_once(page, code):
    for part in ("card_languages.md", "card_sizes.md"):
        assert page[part].count(f"`{code}`") == 1
    (line,) = [line for line in page["card_languages.md"].splitlines() if f"`{code}`" in line]
    assert languages.load(code).autonym in line


class Spans(HTMLParser):
    """The texts of the page by language and direction; fails on a tag that is none of ours."""

    def __init__(self):
        super().__init__()
        self.found, self.inside = [], None

    def handle_starttag(self, tag, attributes):
        assert tag == "span" and self.inside is None
        self.inside = dict(attributes)
        assert set(self.inside) == {"lang", "dir"}

    def handle_endtag(self, tag):
        assert tag == "span"
        self.inside = None

    def handle_data(self, data):
        if self.inside:
            self.found.append((self.inside["lang"], self.inside["dir"], data))


def test_every_sentence_says_its_language_and_direction(page):
    spans = Spans()
    spans.feed("\n".join(page.values()))
    by_language = {lang: direction for lang, direction, _ in spans.found}
    assert by_language["ug-Arab"] == "rtl" and by_language["ta-Taml"] == "ltr"
    assert len(by_language) >= len(SHIPPED) + 3
    outside = re.sub(r"<span.*?</span>|`[^`]*`", "", page["card_samples.md"])
    outside = outside.replace("་", "")
    assert outside.isascii(), "nothing in a script stands unmarked"


def test_rows_have_as_many_cells_as_titles(page):
    for name in ("card_languages.md", "card_sizes.md", "card_attestations.md", "card_samples.md"):
        tables = [part.splitlines() for part in page[name].split("\n\n") if part.startswith("|")]
        for lines in tables:
            assert {line.count("|") for line in lines} == {lines[0].count("|")}


def test_a_share_is_never_rounded_up(page):
    (line,) = [line for line in page["card_sizes.md"].splitlines() if "`cym_Latn`" in line]
    assert "99 % (240 of 241)" in line


def test_those_whom_no_speaker_has_checked_are_named(page):
    for code in SHIPPED:
        it = languages.load(code)
        assert (it.name in page["card_limits.md"]) == (not it.reviewed)
