"""What is published: the site of the last `langmerge book`, made ready for a web server.

`prepare` copies the site and adds what only a server needs; `problems` checks the copy as
readers will meet it: served, under a path that is not the root of its host.
"""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, unquote, urljoin, urlsplit
from xml.etree import ElementTree

from langmerge import book, offline
from langmerge.errors import LangmergeError
from langmerge.files import write_text
from langmerge.plotting import LOOKS

#: Where the copy lies, beside the site that it is made from.
FOLDER = "_build/publish"
#: The address of a check on this machine; a workflow gives the real one.
NOWHERE = "http://localhost/langmerge/"
_SITEMAP = "http://www.sitemaps.org/schemas/sitemap/0.9"
#: What has a meaning in an address, and what is written as bytes already.
_SAFE = ":/?#[]@!$&'()*+,;=~%"
#: The path under which the check serves the site.
_BELOW = "/some/where/"


def favicon() -> str:
    """The site's icon as SVG: two models in the colours of CT and SFT, and their merge."""
    ct, sft, merged = (LOOKS[name].colour for name in ("ct", "sft", "ties_sv"))
    line = 'fill="none" stroke-width="4" stroke-linecap="round"'
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">\n'
        f'<path d="M5 8 C14 8 14 16 22 16" stroke="{ct}" {line}/>\n'
        f'<path d="M5 24 C14 24 14 16 22 16" stroke="{sft}" {line}/>\n'
        f'<circle cx="5" cy="8" r="4" fill="{ct}"/>\n'
        f'<circle cx="5" cy="24" r="4" fill="{sft}"/>\n'
        f'<circle cx="24" cy="16" r="6" fill="{merged}"/>\n'
        "</svg>\n"
    )


def prepare(address: str = NOWHERE, site: Path | None = None, out: Path | None = None) -> Path:
    """Copy the built site and add its sitemap and `.nojekyll`; the copy's folder.

    address: where it will be, with its path. Raises LangmergeError where nothing is built yet,
    and for an address that is none.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise LangmergeError(
            f"{address!r} is no address of a site, such as https://someone.github.io/langmerge/"
        )
    root = book.require_checkout() if site is None or out is None else Path()
    site, out = site or root / "_build" / "html", out or root / FOLDER
    if not (site / "index.html").is_file():
        raise LangmergeError(f"no book in {site}: build it with `langmerge book`")
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(site, out)
    (out / ".nojekyll").touch()
    write_text(out / "sitemap.xml", sitemap(out, address))
    return out


def sitemap(site: Path, address: str) -> str:
    """The addresses of all pages, as sitemaps.org's protocol 0.9 asks for: absolute and escaped."""
    top = ElementTree.Element("urlset", xmlns=_SITEMAP)
    for page in pages(site):
        entry = ElementTree.SubElement(top, "url")
        ElementTree.SubElement(entry, "loc").text = f"{address.rstrip('/')}/{quote(page)}"
    ElementTree.indent(top, " ")
    text = ElementTree.tostring(top, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def pages(site: Path) -> list[str]:
    """All pages for readers, by their path in the site."""
    found = (path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    return sorted(page for page in found if not page.startswith("_static/"))


def problems(site: Path, address: str = NOWHERE) -> list[str]:
    """What keeps a prepared site from being published, a line each."""
    found = []
    if not (site / ".nojekyll").is_file():
        found.append(".nojekyll is missing: GitHub Pages would leave out the folder _static")
    found += _sitemap_problems(site, address)
    found += [f"loads from elsewhere: {line}" for line in offline.external_references(site)]
    told = {page: links(site / page) for page in pages(site)}
    for page, its in told.items():
        if not (its.icon or its.leads_on):
            found.append(f"{page}: no favicon")
        found += [f"{page}: {link}: {why}" for link in its.all if (why := _not_relative(link))]
    return found + _unserved(site, told)


def _sitemap_problems(site: Path, address: str) -> list[str]:
    try:
        tree = ElementTree.parse(site / "sitemap.xml")
    except (OSError, ElementTree.ParseError) as error:
        return [f"sitemap.xml: {error}"]
    listed = {node.text for node in tree.iter(f"{{{_SITEMAP}}}loc")}
    expected = {f"{address.rstrip('/')}/{quote(page)}" for page in pages(site)}
    wrong = sorted(map(str, listed ^ expected))
    return [f"sitemap.xml and the pages differ by {len(wrong)}: {wrong[0]}"] if wrong else []


def _not_relative(link: str) -> str:
    """Why a link breaks where the site moves; empty where it does not, or leads elsewhere."""
    parts = urlsplit(link)
    if parts.scheme == "file":
        return "a path of this machine"
    if not parts.scheme and (parts.netloc or parts.path.startswith("/")):
        return "not relative: it breaks under a sub-path and from a file"
    host = parts.hostname or ""
    if host == "localhost" or host.startswith("127."):
        return "an address of this machine"
    return ""


# --- links -------------------------------------------------------------------------------


class Links(HTMLParser):
    """What a page links to and loads, and the anchors that it has."""

    _ATTRIBUTES = ("href", "src", "poster", "data")

    def __init__(self) -> None:
        super().__init__()
        self.all: list[str] = []
        self.anchors: set[str] = set()
        self.icon = False
        self.leads_on = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the links and anchors of an element."""
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        self.icon |= tag == "link" and "icon" in values.get("rel", "").lower().split()
        if tag == "meta" and values.get("http-equiv", "").lower() == "refresh":
            self.leads_on = True
            self.all.append(values.get("content", "").partition("url=")[2].strip("'\" "))
        self.all += [values[name] for name in self._ATTRIBUTES if values.get(name)]
        candidates = values.get("srcset", "")
        if candidates and not candidates.startswith("data:"):
            self.all += [one.split()[0] for one in candidates.split(",") if one.strip()]


def links(page: Path) -> Links:
    """The links and anchors of a page."""
    found = Links()
    found.feed(page.read_text(encoding="utf-8"))
    found.close()
    return found


def _unserved(site: Path, told: dict[str, Links]) -> list[str]:
    """Links within the site that a server under a sub-path does not answer, or have no anchor."""
    found, known = [], {}
    with serving(site) as top:
        for page, its in told.items():
            here = urljoin(top, quote(page))
            for link in dict.fromkeys(its.all):
                if urlsplit(link).scheme or urlsplit(link).netloc:
                    continue
                # Browsers write letters of other scripts so too.
                target, _, anchor = quote(urljoin(here, link), safe=_SAFE).partition("#")
                if target not in known:
                    known[target] = _answers(target)
                if known[target]:
                    found.append(f"{page}: {link}: {known[target]}")
                    continue
                name = unquote(target.removeprefix(top)) or "index.html"
                if anchor and name in told and unquote(anchor) not in told[name].anchors:
                    found.append(f"{page}: {link}: no such place on {name}")
    return found


def _answers(address: str) -> str:
    """What is wrong with an address that is asked for; empty where it is answered."""
    try:
        with urllib.request.urlopen(address, timeout=30) as reply:
            reply.read()
    except urllib.error.HTTPError as error:
        return f"answered with {error.code}"
    return ""


@contextmanager
def serving(site: Path) -> Iterator[str]:
    """Serve a folder on loopback under a sub-path; gives that path's address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def send_head(self) -> object:
            if not self.path.startswith(_BELOW):
                return self.send_error(404)
            self.path = f"/{self.path.removeprefix(_BELOW)}"
            return super().send_head()

        def list_directory(self, path: object) -> None:
            """A folder without an index is no page on GitHub."""
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Say nothing of what is asked for."""

    handler = functools.partial(Handler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}{_BELOW}"
        finally:
            server.shutdown()
            thread.join()
