"""The buttons and tables of the book's pages, the study as a zip, and the browser's search."""

import base64
import csv
import io
import os
import re
import subprocess
import sys
import zipfile

import pytest

from langmerge import book, browser, bundle, checks, paths, site_pages

HUB = "https://github.com/someone/something"
CHAPTER = "book/_executed/tam_Taml/02_saturation"


def test_without_an_address_no_button_needs_one():
    assert site_pages.links("book/index", ".md", "", launch=("colab",)) == []
    configured = book.read_toc(paths.checkout() / "_config.yml")["repository"]
    found = site_pages.links("book/index", ".md", configured["url"], configured["branch"])
    assert bool(found) == bool(configured["url"])


def test_buttons_point_at_the_sources_and_never_at_what_is_made():
    found = site_pages.links(CHAPTER, ".ipynb", f"{HUB}/", "main", ("colab", "binder"))
    by_text = {it["text"]: it["url"] for it in found}
    root = paths.checkout()
    assert by_text["Repository"] == HUB
    assert by_text["Edit this page"] == f"{HUB}/edit/main/notebooks/02_saturation.py"
    assert by_text["Open in Colab"].endswith(
        "/github/someone/something/blob/main/notebooks/02_saturation.ipynb"
    )
    assert by_text["Ask or report"].startswith(f"{HUB}/issues/new?title=")
    for address in (by_text["Edit this page"], by_text["Open in Colab"]):
        assert (root / address.split("/main/")[1]).is_file()
    page = {it["text"]: it["url"] for it in site_pages.links("book/index", ".md", HUB)}
    assert set(page) == {"Repository", "Edit this page", "Ask or report"}
    assert (root / page["Edit this page"].split("/main/")[1]).is_file()


def test_other_hosts_get_what_they_have():
    texts = {
        host: {it["text"] for it in site_pages.links(CHAPTER, ".ipynb", host, launch=("colab",))}
        for host in ("https://gitlab.com/a/b", "https://git.example.org/a/b")
    }
    assert list(texts.values()) == [
        {"Repository", "Edit this page", "Ask or report"},
        {"Repository"},
    ]


TABLES = """<p>before</p><table class="x"><thead><tr><th></th><th colspan="2">Text, with comma</th>
</tr></thead><tbody><tr><th>a</th><td>1 <b>2</b></td><td>&lt;b&gt; "said"</td></tr>
<tr><td>=1+1</td><td>-0.5</td><td>+cmd</td></tr></tbody></table>
<p>between</p><table><tr><td lang="ta-Taml">பசு</td></tr></table>after"""


def test_every_table_is_followed_by_its_csv():
    body = site_pages.with_csv(TABLES, 'page"x')
    assert re.sub(r'<p class="table-csv">.*?</p>', "", body) == TABLES
    files = re.findall(r'download="([^"]+)" href="data:text/csv;charset=utf-8;base64,(.*?)"', body)
    assert [name for name, _ in files] == ["page&quot;x-1.csv", "page&quot;x-2.csv"]
    first, second = (
        list(csv.reader(io.StringIO(base64.b64decode(data).decode("utf-8-sig"))))
        for _, data in files
    )
    assert first == [
        ["", "Text, with comma", ""],
        ["a", "1 2", '<b> "said"'],
        ["'=1+1", "-0.5", "'+cmd"],
    ]
    assert second == [["பசு"]]


def test_what_the_theme_leaves_over_goes_and_nothing_else():
    kept = (
        '<link rel="stylesheet" href="../_static/langmerge.css">\n'
        '<link rel="preload" as="script" href="../_static/x.js" />\n'
        '<script src="../_static/explorer.js" defer></script>\n'
        '<script type="application/json" id="explorer-data">{}</script>\n'
    )
    left = (
        '<link rel="preload" as="font" type="font/woff2" crossorigin href="../fa.woff2" />\n'
        '<script defer src="../_static/vendor/fontawesome/6.5.2/js/all.min.js?digest=d"></script>\n'
        '<script>const THEBE_JS_URL = "https://unpkg.example"; const thebe_selector = ""</script>\n'
        '<script async="async" src="../_static/sphinx-thebe.js?v=1"></script>\n'
        '<link rel="stylesheet" type="text/css" href="../_static/sphinx-thebe.css?v=1" />\n'
        '<script type="text/x-thebe-config">\n{ a: "<b>" }\n</script>\n'
    )
    assert site_pages.tidy(left + kept + left) == kept
    entry = '<div class="citation" id="id1" role="doc-biblioentry">x</div>'
    assert "role" not in site_pages.tidy(f'<div role="list" class="citation-list">{entry}</div>')


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The study's zip, unpacked."""
    folder = tmp_path_factory.mktemp("study")
    made = bundle.write(paths.checkout(), folder / bundle.NAME)
    with zipfile.ZipFile(made) as archive:
        archive.extractall(folder)
    return folder / bundle.FOLDER


def test_the_study_runs_from_its_zip(study, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(study / "lib")}
    environment.pop("LANGMERGE_HOME", None)
    code = (
        "from langmerge import languages, paths\n"
        "print(paths.checkout(), paths.home().name, languages.load('tam_Taml').code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(study), "build", "tam_Taml"]
    assert (study / "data" / "base" / "model.safetensors").stat().st_size > 1_000_000


def test_the_zip_is_the_tracked_files_and_the_same_without_git(study):
    root = paths.checkout()
    inside = bundle.files(study)  # here is no git: all but what is made
    assert inside == bundle.files(root)
    for name in ("Makefile", "lib/langmerge/book.py", "data/base/model.safetensors", "_toc.yml"):
        assert (study / name).read_bytes() == (root / name).read_bytes()
    assert not any(name.startswith(("build/", "_build/", ".venv/")) for name in inside)


def test_an_equal_study_is_an_equal_zip(tmp_path):
    root = tmp_path / "root"
    (root / "build").mkdir(parents=True)
    (root / "one.txt").write_text("one")
    (root / "build" / "made").write_text("made")
    first = bundle.write(root, tmp_path / "first.zip").read_bytes()
    os.utime(root / "one.txt", (0, 10**9))
    assert bundle.write(root, tmp_path / "second.zip").read_bytes() == first
    assert zipfile.ZipFile(tmp_path / "first.zip").namelist() == [f"{bundle.FOLDER}/one.txt"]


def test_a_browser_is_named_or_found_or_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv(browser.PROGRAM, "/opt/mine")
    assert browser.find() == "/opt/mine"
    monkeypatch.delenv(browser.PROGRAM)
    monkeypatch.setattr(browser, "_PLACES", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert browser.find() is None
    own = tmp_path / "chromium"
    own.touch(mode=0o755)
    assert browser.find() == str(own)
    monkeypatch.delenv(browser.NEEDED, raising=False)
    assert not browser.is_needed()
    monkeypatch.setenv(browser.NEEDED, "1")
    assert browser.is_needed()
    assert "apt-get install chromium-headless-shell" in browser.HOW


def test_without_a_book_its_pages_are_not_passed(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("LANGMERGE_HOME", str(tmp_path))
    assert not checks._pages(paths.checkout())
    assert "no smoke book" in capsys.readouterr().err
