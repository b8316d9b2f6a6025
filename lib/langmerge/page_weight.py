"""What a page of the built book weighs and how soon it shows, opened from a disk in a browser.

A page weighs what the browser really loads for it, its images left out: the page itself, style
sheets, scripts and fonts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from langmerge import browser

#: The limit of a page without its images, in bytes.
HEAVIEST = 1_500_000


@dataclass(frozen=True)
class Page:
    """A page as it was loaded: bytes without its images, and milliseconds to its first paint."""

    path: str
    size: int
    first_paint: float


def pages(site: Path) -> list[str]:
    """The pages of a site by their path in it, without those that only lead on to another."""
    found = (path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    return sorted(page for page in found if not page.startswith("_static/") and _stays(site / page))


def _stays(page: Path) -> bool:
    return '<meta http-equiv="refresh"' not in page.read_text(encoding="utf-8")[:200].lower()


@contextmanager
def started() -> Iterator[Any]:
    """A headless browser, or None where there is none or playwright is not installed."""
    program = browser.find()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        program = None
    if program is None:
        yield None
        return
    with sync_playwright() as player:
        chromium = player.chromium.launch(executable_path=program, args=browser.arguments())
        try:
            yield chromium
        finally:
            chromium.close()


def load(chromium: Any, site: Path, page: str) -> Page:
    """A page of a site, loaded by a browser that has kept nothing of it."""
    context = chromium.new_context()
    tab = context.new_page()
    loaded: dict[str, str] = {}
    tab.on("requestfinished", lambda request: loaded.update({request.url: request.resource_type}))
    tab.goto(f"{site.resolve().as_uri()}/{page}", wait_until="load")
    tab.wait_for_function("performance.getEntriesByName('first-paint').length")
    paint = tab.evaluate("performance.getEntriesByName('first-paint')[0].startTime")
    context.close()
    files = {_file(url) for url, kind in loaded.items() if kind != "image" and url[:5] == "file:"}
    return Page(page, sum(file.stat().st_size for file in files), float(paint))


def _file(url: str) -> Path:
    return Path(url2pathname(unquote(urlsplit(url).path)))


def measure(site: Path) -> dict[str, str]:
    """The two figures of `make bench`; why they are skipped where there is no browser."""
    with started() as chromium:
        if chromium is None:
            return {"pages from disk": f"skipped. {browser.HOW}"}
        listed = pages(site)
        load(chromium, site, listed[0])  # what a browser does once, at its first page
        return figures([load(chromium, site, page) for page in listed])


def figures(found: Sequence[Page]) -> dict[str, str]:
    """First paint and weight of the pages, in words."""
    slowest = max(found, key=lambda page: page.first_paint)
    heaviest = max(found, key=lambda page: page.size)
    return {
        "first paint from disk": f"{median(page.first_paint for page in found):,.0f} ms (median of "
        f"{len(found)} pages), {slowest.first_paint:,.0f} ms at most ({slowest.path})",
        "heaviest page without its images": f"{heaviest.size / 1e6:.2f} MB ({heaviest.path})",
    }
