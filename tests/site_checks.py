"""Checks of a built book, in the files and in a browser.

`langmerge test` runs them over its smoke book (pytest itself collects only ``test_*.py``):

    LANGMERGE_SITE=_build/html python -m pytest tests/site_checks.py

Every page is opened once, from the disk as a reader may open it, and everything that is asked of
it is asked then.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

from langmerge import browser, bundle, page_weight

if "LANGMERGE_SITE" not in os.environ:
    pytest.skip("LANGMERGE_SITE names no built book", allow_module_level=True)
SITE = Path(os.environ["LANGMERGE_SITE"]).resolve()
#: A phone that is still in use, in CSS pixels.
NARROW = 360
SERIOUS = ("serious", "critical")
MATHS = "book/_executed/tam_Taml/03_slack_variable.html"
EXPLORER = "book/explorer.html"
#: Letters of scripts that the lab's languages have and the book's English has not.
FOREIGN = re.compile(r"[\u0600-\u06ff\u0900-\u0dff\u0f00-\u0fff\u10a0-\u10ff\u1800-\u18af]")


def pages() -> list[str]:
    """All pages of the site, by their path in it."""
    found = (path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))
    return sorted(path for path in found if not path.startswith("_static/"))


@pytest.fixture(scope="session")
def trees() -> dict[str, BeautifulSoup]:
    """Every page, parsed."""
    return {
        page: BeautifulSoup((SITE / page).read_text(encoding="utf-8"), "html.parser")
        for page in pages()
    }


# In the files


def test_there_is_a_book():
    assert {"index.html", "book/index.html", EXPLORER, MATHS, "search.html"} <= set(pages())


def test_every_internal_link_and_image_resolves(trees):
    anchors = {
        page: {node["id"] for node in tree.find_all(id=True)}
        | {node["name"] for node in tree.find_all("a", attrs={"name": True})}
        for page, tree in trees.items()
    }
    broken = []
    for page, tree in trees.items():
        for node in tree.find_all(["a", "link", "img", "script"]):
            address = node.get("href") or node.get("src") or ""
            parts = urlsplit(address)
            if not address or parts.scheme or parts.netloc:
                continue
            target = ((SITE / page).parent / unquote(parts.path)).resolve()
            target = SITE / page if not parts.path else target
            name = target.relative_to(SITE).as_posix() if target.is_relative_to(SITE) else None
            here = name is not None and target.is_file()
            known = name not in anchors or not parts.fragment or parts.fragment in anchors[name]
            if not here or not known:
                broken.append(f"{page}: {address}")
    assert not broken


def test_every_figure_says_what_it_shows(trees):
    silent = [
        f"{page}: {image.get('src', '')[:80]}"
        for page, tree in trees.items()
        for image in tree.find_all("img")
        if not image.get("alt", "").strip()
        or image["alt"] in image.get("src", "")  # a file's name is what Sphinx puts for want of one
    ]
    assert not silent


def test_text_in_another_script_says_its_language(trees):
    unmarked = []
    for page, tree in trees.items():
        for text in (tree.body or tree).find_all(string=FOREIGN):
            holders = list(text.parents)
            if any(holder.name in ("pre", "script", "code") for holder in holders):
                continue
            marked = next((it for it in holders if it.get("lang", "en") != "en"), None)
            if marked is None or not marked.get("dir"):
                unmarked.append(f"{page}: {text.strip()[:40]}")
    assert not unmarked


def test_every_table_can_be_downloaded(trees):
    for page, tree in ((page, tree) for page, tree in trees.items() if page.startswith("book/")):
        for table in tree.select("article table"):
            link = table.find_next("a", attrs={"download": True})
            assert link is not None, f"{page}: a table without its CSV"
            assert link["href"].startswith("data:text/csv"), page


def test_the_study_can_be_downloaded():
    assert (SITE / bundle.NAME).stat().st_size > 100_000
    page = (SITE / MATHS).read_text(encoding="utf-8")
    assert f"../../../{bundle.NAME}" in page
    executed = SITE / "_sources" / MATHS.replace(".html", ".ipynb")
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    assert any(cell.get("outputs") for cell in cells), "the notebook that is offered was executed"


# In a browser


@dataclass
class Visit:
    """What a browser met on one page."""

    errors: list[str] = field(default_factory=list)
    away: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    wide: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    formulas: int = 0
    rendered: int = 0


@pytest.fixture(scope="session")
def chromium():
    """A headless browser; without one the checks are skipped, or fail where CI needs them."""
    program = browser.find()
    if program is None:
        (pytest.fail if browser.is_needed() else pytest.skip)(browser.HOW)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        started = player.chromium.launch(executable_path=program, args=browser.arguments())
        yield started
        started.close()


@pytest.fixture(scope="session")
def visits(chromium) -> dict[str, Visit]:
    """Every page, visited once, but those that only lead on to another."""
    return {page: _visit(chromium, page) for page in page_weight.pages(SITE)}


def _visit(chromium, page: str) -> Visit:
    seen = Visit()
    tab = _open(chromium, page, seen)
    seen.formulas, seen.rendered = tab.evaluate(
        """() => [document.querySelectorAll("article .math").length,
                  [...document.querySelectorAll("article .math > math")]
                    .filter((it) => it.getBoundingClientRect().width > 0).length]"""
    )
    seen.unseen = tab.evaluate(
        """async () => {
             const images = [...document.images].filter((image) => image.checkVisibility());
             for (const image of images) image.loading = "eager";
             await Promise.allSettled(images.map((image) => image.decode()));
             return images.filter((image) => !image.naturalWidth).map((image) => image.src); }"""
    )
    seen.violations = _violations(tab, "light") + _violations(tab, "dark", ["color-contrast"])
    tab.set_viewport_size({"width": NARROW, "height": 740})
    seen.wide = tab.evaluate(
        """(width) => document.documentElement.scrollWidth <= width ? [] :
             [...document.querySelectorAll("main *")]
               .filter((it) => it.getBoundingClientRect().right > width + 1)
               .slice(0, 3).map((it) => it.outerHTML.slice(0, 120))
               .concat(`the page is ${document.documentElement.scrollWidth} px wide`)""",
        NARROW,
    )
    # What lies to the left of its place cannot be scrolled to.
    seen.cut = tab.evaluate(
        """() => [...document.querySelectorAll("article div.math > math")]
                 .filter((it) => it.getBoundingClientRect().left
                                 < it.parentElement.getBoundingClientRect().left - 1)
                 .map((it) => it.textContent)"""
    )
    seen.silent = tab.evaluate(
        """async () => {
             const silent = () =>
               [...document.querySelectorAll("article table, article figure > *")]
                 .map((it) => it.closest("figure, .text_html, .pst-scrollable-table-container"))
                 .filter((it) => it && it.checkVisibility() && it.scrollWidth > it.clientWidth + 1
                                 && !(it.matches(".more-right") && it.tabIndex === 0));
             // A place that changes may change others: the browser tells them frame by frame.
             for (let i = 0; i < 120 && silent().length; i++)
               await new Promise(requestAnimationFrame);
             return silent().map((it) => it.outerHTML.slice(0, 120)); }"""
    )
    tab.close()
    return seen


def _open(chromium, page: str, seen: Visit):
    tab = chromium.new_page(viewport={"width": 1280, "height": 900})
    site = SITE.as_uri()

    def asked(request) -> None:
        if not request.url.startswith((site, "data:", "blob:")):
            seen.away.append(request.url)

    def said(message) -> None:
        if message.type == "error":
            seen.errors.append(message.text)

    tab.on("request", asked)
    tab.on("requestfailed", lambda request: seen.errors.append(f"not loaded: {request.url}"))
    tab.on("console", said)
    tab.on("pageerror", lambda error: seen.errors.append(str(error)))
    tab.goto(f"{site}/{page}", wait_until="load")
    return tab


def _violations(tab, theme: str, rules: list[str] | None = None) -> list[str]:
    """What axe-core finds serious, a line a rule and element."""
    import axe_playwright_python

    if not tab.evaluate("() => typeof axe === 'object'"):
        script = Path(axe_playwright_python.__file__).parent / "axe.min.js"
        tab.evaluate(script.read_text(encoding="utf-8"))
    # A colour that is on its way from one theme to the other is neither's.
    tab.add_style_tag(content="* { transition: none !important; animation: none !important; }")
    tab.evaluate(
        """(theme) => { document.documentElement.dataset.theme = theme;
                        document.documentElement.dataset.mode = theme; }""",
        theme,
    )
    # It would fetch the style sheets again, which a page from a disk may not.
    options = {"resultTypes": ["violations"], "preload": False}
    if rules:
        options["runOnly"] = {"type": "rule", "values": rules}
    found = tab.evaluate("(options) => axe.run(document, options)", options)["violations"]
    return [
        f"{theme}, {one['id']} ({one['help']}): {node['html'][:160]}"
        for one in found
        if one["impact"] in SERIOUS
        for node in one["nodes"][:3]
    ]


def _told(visits: dict[str, Visit], what: str) -> list[str]:
    """A line for everything of a kind that was met, with its page."""
    return [f"{page}: {it}" for page, seen in visits.items() for it in getattr(seen, what)]


def test_every_page_loads_without_an_error(visits):
    assert _told(visits, "errors") == []


def test_no_page_asks_for_anything_elsewhere(visits):
    assert _told(visits, "away") == []


def test_every_image_is_shown(visits):
    assert _told(visits, "unseen") == []


def test_no_page_is_heavy(chromium, visits):
    """With everything that it loads by itself but its images: scripts, style sheets, fonts."""
    loaded = [page_weight.load(chromium, SITE, page) for page in visits]
    assert {page.path: page.size for page in loaded if page.size > page_weight.HEAVIEST} == {}


def test_maths_is_set(visits):
    assert visits[MATHS].formulas >= 3
    assert {page for page, seen in visits.items() if seen.formulas != seen.rendered} == set()


def test_no_page_has_a_serious_barrier(visits):
    assert _told(visits, "violations") == []


def test_every_page_fits_a_phone(visits):
    assert _told(visits, "wide") == []


def test_no_formula_begins_outside_its_place(visits):
    assert _told(visits, "cut") == []


def test_what_goes_on_to_the_side_says_so(visits):
    assert _told(visits, "silent") == []


def test_search_finds_a_term(chromium):
    seen = Visit()
    tab = _open(chromium, "search.html?q=saturation", seen)
    tab.wait_for_selector("#search-results li a", timeout=30_000)
    found = tab.eval_on_selector_all("#search-results li a", "(all) => all.map((it) => it.href)")
    tab.close()
    assert any("02_saturation" in address for address in found)
    assert seen.away == []


def test_every_font_of_the_book_loads(chromium):
    tab = _open(chromium, "book/data_card.html", Visit())
    loaded = tab.evaluate(
        """async () => {
             const ours = [...document.fonts].filter((font) => font.family.includes("Lab "));
             await Promise.allSettled(ours.map((font) => font.load()));
             return ours.map((font) => [font.family, font.status]); }"""
    )
    tab.close()
    assert len(loaded) == len(list((SITE / "_static" / "fonts").glob("*.woff2")))
    assert [family for family, status in loaded if status != "loaded"] == []


@pytest.fixture
def explorer(chromium):
    """The explorer's page, and the points that it holds."""
    seen = Visit()
    tab = _open(chromium, EXPLORER, seen)
    held = tab.query_selector("#explorer-data")
    if held is None:
        assert "langmerge reference" in tab.inner_text("main")
        tab.close()
        pytest.skip("this book was built without a reference run")
    yield tab, json.loads(held.text_content())
    tab.close()
    assert seen.errors == []


def _agrees(tab, told: dict, language: int, budget: int, trim: int, slack: str) -> bool:
    """Whether the three numbers that are shown are those of a point, as far as they are shown."""
    its = told["points"][told["languages"][language]["code"]][told["trims"][trim]["series"]]
    point = dict(zip(told["fields"], its[slack][str(told["budgets"][budget])], strict=True))
    held = (100 * point["accuracy"], point["bits_per_byte"], 100 * point["discarded"])
    names, steps = ("accuracy", "bits", "discarded"), (0.1, 0.001, 0.1)
    shown = [float(tab.inner_text(f"#explorer-{name}").removesuffix(" %")) for name in names]
    return all(
        abs(there - here) <= 0.51 * step
        for there, here, step in zip(held, shown, steps, strict=True)
    )


def test_the_explorer_follows_the_keyboard(explorer):
    tab, told = explorer
    last = len(told["budgets"]) - 1
    assert _agrees(tab, told, 0, last, 0, "0")
    before = tab.inner_text("[role=status]")
    tab.focus("#explorer-language")
    tab.keyboard.press("ArrowDown")
    assert _agrees(tab, told, 1, last, 0, "0")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Home")
    assert tab.get_attribute("#explorer-tokens", "aria-valuetext").startswith(
        f"{told['budgets'][0]:,}"
    )
    assert _agrees(tab, told, 1, 0, 0, "0")
    tab.keyboard.press("End")
    tab.focus("#explorer-slack-0")
    tab.keyboard.press("ArrowRight")
    slack = told["trims"][0]["slacks"][1]
    assert tab.is_checked(f"#explorer-slack-{slack}")
    assert _agrees(tab, told, 1, last, 0, slack)
    tab.focus("#explorer-trim")
    tab.keyboard.press("ArrowDown")
    fewer = told["trims"][1]["slacks"]
    assert _agrees(tab, told, 1, last, 1, slack if slack in fewer else fewer[0])
    after = tab.inner_text("[role=status]")
    assert after != before and told["languages"][1]["name"] in after


def test_without_scripts_the_explorer_is_a_figure(chromium):
    context = chromium.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(f"{SITE.as_uri()}/{EXPLORER}")
    text = tab.inner_text("main")
    figures = tab.locator("main figure img").all()
    shown = [figure.get_attribute("alt") for figure in figures if figure.is_visible()]
    context.close()
    assert "langmerge reference" in text or any("discarded share" in alt for alt in shown)
