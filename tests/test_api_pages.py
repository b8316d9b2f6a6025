"""Docstrings as the book's page on the library shows them."""

import re

from langmerge import api_pages, paths

GIVEN = """What it does.

one: the first, which goes on
    in the next line.
two, three: both.
Raises LangmergeError: not a parameter.

one: after a blank line, again a bullet.
other: no parameter of it.""".splitlines()


def test_parameters_become_a_list_and_nothing_is_lost():
    listed = api_pages.as_list(GIVEN, {"one", "two", "three"})
    assert "- **one**: the first, which goes on" in listed
    assert "  in the next line." in listed
    assert "- **two, three**: both." in listed
    assert listed[listed.index("Raises LangmergeError: not a parameter.") - 1] == ""
    words = re.sub(r"[-*]", "", " ".join(listed)).split()
    assert words == " ".join(GIVEN).split()


def test_every_name_on_the_page_is_there():
    page = (paths.checkout() / "book" / "api.md").read_text()
    for _, name in re.findall(r"\.\. auto(function|class):: (\S+)", page):
        module, _, attribute = name.rpartition(".")
        assert getattr(__import__(module, fromlist=[attribute]), attribute).__doc__, name
