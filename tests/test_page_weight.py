"""What a page weighs, as a browser loads it."""

import pytest

from langmerge import browser, page_weight
from langmerge.page_weight import Page


@pytest.fixture
def site(tmp_path):
    """A page with a script, one that no page names, an image, and a page that leads on."""
    tmp_path = tmp_path / "a site"
    (tmp_path / "_static").mkdir(parents=True)
    (tmp_path / "_static" / "x.js").write_text("//" + 998 * "x")
    (tmp_path / "_static" / "late.js").write_text("//" + 498 * "x")
    (tmp_path / "_static" / "unused.html").write_text("<p>")
    (tmp_path / "x.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    head = '<script src="_static/x.js"></script>'
    late = "<script>document.head.append(Object.assign(document.createElement('script'), "
    late += "{src: '_static/late.js', async: false}))</script>"
    (tmp_path / "page.html").write_text(f"<html><head>{head}{late}</head><p>x<img src=x.svg>")
    (tmp_path / "old.html").write_text('<meta http-equiv="refresh" content="0; url=page.html">')
    return tmp_path


def test_pages_that_lead_on_are_none(site):
    assert page_weight.pages(site) == ["page.html"]


def test_a_page_weighs_what_it_loads_without_its_images(site):
    with page_weight.started() as chromium:
        if chromium is None:
            (pytest.fail if browser.is_needed() else pytest.skip)(browser.HOW)
        page = page_weight.load(chromium, site, "page.html")
    assert page.size == (site / "page.html").stat().st_size + 1000 + 500
    assert page.first_paint > 0


def test_without_a_browser_it_says_how_to_get_one(site, monkeypatch):
    monkeypatch.setattr(browser, "find", lambda: None)
    (said,) = page_weight.measure(site).values()
    assert said.startswith("skipped") and browser.PROGRAM in said


def test_the_figures_name_the_worst_pages():
    found = [Page("a", 1_000_000, 90.0), Page("b", 1_240_000, 100.0), Page("c", 10, 210.0)]
    told = page_weight.figures(found)
    assert told["first paint from disk"] == "100 ms (median of 3 pages), 210 ms at most (c)"
    assert told["heaviest page without its images"] == "1.24 MB (b)"
