"""A Sphinx extension for every page of the book: its buttons, and a CSV beside each table.

Where the sources are is said once, as ``repository: url`` in ``_config.yml``. Without it the
buttons that need an address are absent. A chapter that is an executed notebook is edited and
opened where its source is, ``notebooks/``, for the executed one is nowhere but in the book.
"""

from __future__ import annotations

import base64
import csv
import io
import re
from html import escape
from typing import Any
from urllib.parse import quote, urlsplit

from bs4 import BeautifulSoup

from langmerge import bundle

_NOTEBOOK = re.compile(r"book/_executed/[^/]+/([^/]+)")
_TABLE = re.compile(r"<table\b.*?</table>", re.DOTALL)
_LEFTOVERS = (
    re.compile(r'<link rel="preload" as="font"[^>]*>\n?'),
    re.compile(r'<script[^>]*src="[^"]*fontawesome[^"]*/all\.min\.js[^"]*"[^>]*></script>\n?'),
    re.compile(r"<script>const THEBE_JS_URL[^<]*</script>\n?"),
    re.compile(r'<script[^>]*src="[^"]*sphinx-thebe\.js[^"]*"[^>]*></script>\n?'),
    re.compile(r'<link[^>]*href="[^"]*sphinx-thebe\.css[^"]*"[^>]*>\n?'),
    re.compile(r'<script type="text/x-thebe-config">.*?</script>\n?', re.DOTALL),
)
#: Where a host has what: {repo} is the address of the repository.
_HOSTS = {
    "github.com": {
        "edit": "{repo}/edit/{branch}/{path}",
        "issue": "{repo}/issues/new?title={title}",
    },
    "gitlab.com": {
        "edit": "{repo}/-/edit/{branch}/{path}",
        "issue": "{repo}/-/issues/new?issue[title]={title}",
    },
}
_COLAB = "https://colab.research.google.com/github/{owner}/blob/{branch}/{path}"
_BINDER = "https://mybinder.org/v2/gh/{owner}/{branch}?urlpath=lab/tree/{path}"
_LAUNCH = {"colab": ("Open in Colab", _COLAB), "binder": ("Open in JupyterLab on Binder", _BINDER)}


def source(page: str, suffix: str) -> str:
    """Where a page is edited: ``notebooks/<stem>.py`` for an executed notebook."""
    notebook = _NOTEBOOK.fullmatch(page)
    return f"notebooks/{notebook[1]}.py" if notebook else f"{page}{suffix}"


def links(
    page: str, suffix: str, repository: str, branch: str = "main", launch: tuple[str, ...] = ()
) -> list[dict[str, str]]:
    """The links of a page that need the address of the repository; none without one.

    launch: of ``colab`` and ``binder``, where a notebook may be opened; both read from GitHub.
    """
    repository = repository.strip().rstrip("/")
    if not repository:
        return []
    host = urlsplit(repository).netloc
    path = source(page, suffix)
    named = {
        "repo": repository,
        "owner": urlsplit(repository).path.strip("/"),
        "branch": quote(branch),
        "path": quote(path),
        "title": quote(f"On the page {page}"),
    }
    found = [_link("Repository", repository, "fas fa-code-branch")]
    if host in _HOSTS:
        addresses = {what: form.format(**named) for what, form in _HOSTS[host].items()}
        found += [
            _link("Edit this page", addresses["edit"], "fas fa-pencil"),
            _link("Ask or report", addresses["issue"], "fas fa-lightbulb"),
        ]
    if host == "github.com" and _NOTEBOOK.fullmatch(page):
        named["path"] = quote(path.removesuffix(".py") + ".ipynb")
        for where in launch:
            text, form = _LAUNCH[where]
            found.append(_link(text, form.format(**named), "fas fa-rocket"))
    return found


def _link(text: str, url: str, icon: str) -> dict[str, str]:
    return {"type": "link", "text": text, "url": url, "icon": icon, "tooltip": text}


def with_csv(body: str, name: str) -> str:
    """The page's HTML with a link to each table's contents as CSV below it.

    The table stands in the link's own address, so that it needs no other file.
    """
    count = 0

    def linked(match: re.Match[str]) -> str:
        nonlocal count
        count += 1
        data = base64.b64encode(as_csv(match[0]).encode("utf-8-sig")).decode()
        file = escape(f"{name}-{count}.csv")
        return (
            f'{match[0]}<p class="table-csv"><a download="{file}" '
            f'href="data:text/csv;charset=utf-8;base64,{data}">Table {count} as CSV</a></p>'
        )

    return _TABLE.sub(linked, body)


def as_csv(table: str) -> str:
    """An HTML table's cells as CSV, a line a row; a cell over several columns fills them."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    for row in BeautifulSoup(table, "html.parser").find_all("tr"):
        cells = []
        for cell in row.find_all(["th", "td"]):
            text = _harmless(" ".join(cell.get_text(" ").split()))
            cells += [text] + [""] * (int(cell.get("colspan", 1)) - 1)
        writer.writerow(cells)
    return written.getvalue()


def _harmless(text: str) -> str:
    """A cell that a spreadsheet does not take for a formula."""
    return f"'{text}" if re.match(r"[=@]|[+-](?!\s*[\d.])", text) else text


def tidy(html: str) -> str:
    """A page without what the theme adds and nobody here uses.

    Preloads of fonts, which a browser refuses on a page that is opened from a disk; the icons as a
    script of 1.5 MB, which the style sheet and its fonts show as well; and Thebe, which runs cells
    on a server elsewhere and is declared twice. The roles of the
    bibliography go too: they claim a list whose entries are none.
    """
    for pattern in _LEFTOVERS:
        html = pattern.sub("", html)
    # Cells that are folded away whole are the exercises' solutions.
    html = html.replace("Show code cell content", "Show the solution")
    html = html.replace("Hide code cell content", "Hide the solution")
    html = html.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
    return html.replace(' role="doc-biblioentry"', "")


def _page(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    if "body" in context and doctree is not None:
        context["body"] = with_csv(context["body"], page.rsplit("/", 1)[-1])
    buttons = context.get("header_buttons")
    if buttons is None or doctree is None:
        return
    options = app.config.html_theme_options
    suffix = context.get("page_source_suffix", "")
    for button in buttons:
        if button.get("label") == "download-buttons":
            study = _link("Study (.zip)", context["pathto"](bundle.NAME, 1), "fas fa-file-zipper")
            button["buttons"].append(study)
    found = links(
        page, suffix, options.get("repository_url") or "",
        options.get("repository_branch") or "main", tuple(app.config.langmerge_launch),
    )  # fmt: skip
    if found:
        buttons.append(
            {
                "type": "group",
                "tooltip": "Sources of this page",
                "icon": "fas fa-code-branch",
                "buttons": found,
                "label": "source-buttons",
            }
        )


def _defaults(app: Any, config: Any) -> None:
    # Without one the theme complains in the console of every reader's browser.
    config.html_context.setdefault("default_mode", "auto")


def setup(app: Any) -> dict[str, bool]:
    """Sphinx's entry point."""
    app.connect("config-inited", _defaults)
    app.add_config_value("langmerge_launch", ["colab"], "html")
    # After the theme's own buttons, which begin the list anew.
    app.connect("html-page-context", _page, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
