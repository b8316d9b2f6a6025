"""Does a built site load anything from elsewhere?

A reader may open the book on a machine without internet, and nobody but the reader should
know that they do. Links that a reader clicks are no matter; scripts, style sheets, fonts,
images and frames are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

# Attributes by which an element makes the browser fetch something by itself.
_LOADS = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "source": ("src", "srcset"),
    "iframe": ("src",),
    "embed": ("src",),
    "audio": ("src",),
    "video": ("src", "poster"),
    "track": ("src",),
    "object": ("data",),
    "image": ("href", "xlink:href"),
}
_LINKS = {"stylesheet", "preload", "modulepreload", "prefetch", "preconnect", "dns-prefetch"}
_LINKS |= {"icon", "manifest", "apple-touch-icon"}
_EXTERNAL = re.compile(r"(?:^|[\s,])\s*(?:https?:)?//[^\s,]+", re.IGNORECASE)
_IN_STYLE = re.compile(r"""(?:url\(\s*|@import\s+)["']?((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


def external_references(site: Path) -> list[str]:
    """Everything under `site` that a page would fetch from elsewhere, as ``file: address``."""
    found = []
    for page in sorted(site.rglob("*.html")):
        addresses = in_html(page.read_text(encoding="utf-8"))
        found += [f"{page.relative_to(site)}: {address}" for address in addresses]
    for sheet in sorted(site.rglob("*.css")):
        addresses = in_css(sheet.read_text(encoding="utf-8"))
        found += [f"{sheet.relative_to(site)}: {address}" for address in addresses]
    return found


def in_html(text: str) -> list[str]:
    """The external addresses that a page fetches by itself."""
    scanner = _Scanner()
    scanner.feed(text)
    scanner.close()
    return scanner.found


def in_css(text: str) -> list[str]:
    """The external addresses that a style sheet fetches."""
    return _IN_STYLE.findall(_COMMENT.sub("", text))


class _Scanner(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        for value in self._loaded(tag, values):
            self.found += [address.strip(" ,\n") for address in _EXTERNAL.findall(value)]
        self.found += in_css(values.get("style", ""))
        self._in_style = tag == "style"

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.found += in_css(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "style":
            self._in_style = False

    @staticmethod
    def _loaded(tag: str, values: dict[str, str]) -> Iterator[str]:
        names = _LOADS.get(tag, ())
        if tag == "link" and _LINKS & set(values.get("rel", "").lower().split()):
            names = ("href",)
        yield from (values[name] for name in names if name in values)
