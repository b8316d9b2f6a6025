"""What would be published: icon, sitemap, links; and the workflows that would publish it."""

import re
import urllib.error
import urllib.request
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from langmerge import publishing
from langmerge.errors import LangmergeError

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ADDRESS = "https://someone.example/book/"
ICON = '<link rel="icon" href="{}_static/favicon.svg">'


@pytest.fixture
def site(tmp_path):
    """A built site of two pages and the redirect that jupyter-book puts at its top."""
    html = tmp_path / "html"
    (html / "_static").mkdir(parents=True)
    (html / "book" / "தமிழ்").mkdir(parents=True)
    (html / "_static" / "favicon.svg").write_text(publishing.favicon())
    forward = '<meta http-equiv="Refresh" content="0; url=book/a.html" />'
    (html / "index.html").write_text(forward)
    (html / "book" / "a.html").write_text(
        ICON.format("../") + '<h1 id="top">A</h1><a href="#top"></a>'
        '<a href="தமிழ்/b.html#x%20y"></a><a href="https://arxiv.org/abs/2407.03994"></a>'
    )
    (html / "book" / "தமிழ்" / "b.html").write_text(
        ICON.format("../../") + '<p id="x y"><a href="../a.html"></a>'
        '<img src="data:image/png;base64,AA"><img srcset="../../_static/favicon.svg 2x">'
    )
    return html


def prepared(site: Path) -> Path:
    return publishing.prepare(ADDRESS, site, site.parent / "publish")


def test_a_sound_site_has_no_problems_and_stays_as_it_was(site):
    before = sorted(site.rglob("*"))
    out = prepared(site)
    assert publishing.problems(out, ADDRESS) == []
    assert sorted(site.rglob("*")) == before
    tree = ElementTree.parse(out / "sitemap.xml")
    listed = [node.text for node in tree.iter() if node.tag.endswith("}loc")]
    assert len(listed) == 3 and all(url.startswith(ADDRESS) and url.isascii() for url in listed)


@pytest.mark.parametrize(
    ("planted", "told"),
    [
        ('<a href="/book/a.html">', "not relative"),
        ('<img src="//cdn.example/x.png">', "loads from elsewhere"),
        ('<a href="//cdn.example/x">', "not relative"),
        ('<a href="file:///home/x">', "a path of this machine"),
        ('<a href="http://localhost:8888/x">', "an address of this machine"),
        ('<a href="c.html">', "answered with 404"),
        ('<a href="../../../a.html">', "answered with 404"),
        ('<a href="தமிழ்/">', "answered with 404"),
        ('<a href="#nowhere">', "no such place on book/a.html"),
        ('<a href="தமிழ்/b.html#top">', "no such place"),
        ('<img srcset="a.html 1x, none.png 2x">', "none.png: answered with 404"),
        ('<meta http-equiv="refresh" content="0; url=none.html">', "none.html: answered with 404"),
    ],
)
def test_a_link_that_breaks_is_found(site, planted, told):
    page = site / "book" / "a.html"
    page.write_text(page.read_text() + planted)
    (found,) = publishing.problems(prepared(site), ADDRESS)[:1]
    assert told in found


def test_what_is_missing_is_found(site):
    out = prepared(site)
    (out / ".nojekyll").unlink()
    (out / "new.html").write_text("<p>")
    found = "\n".join(publishing.problems(out, ADDRESS))
    assert ".nojekyll is missing" in found
    assert "new.html: no favicon" in found
    assert f"differ by 1: {ADDRESS}new.html" in found
    (out / "sitemap.xml").write_text("<urlset>")
    assert any("sitemap.xml: " in line for line in publishing.problems(out, ADDRESS))


def test_the_site_is_served_under_a_sub_path_alone(site):
    with publishing.serving(site) as top:
        assert urllib.request.urlopen(f"{top}book/a.html").status == 200
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(top.replace("/some/where/", "/book/a.html"))


@pytest.mark.parametrize("address", ["book", "ftp://a/b", "https:///x", "https://a/?q", "//a/b"])
def test_an_address_that_is_none_is_refused(site, address):
    with pytest.raises(LangmergeError, match="no address of a site"):
        publishing.prepare(address, site, site.parent / "publish")


def test_without_a_book_it_says_how_to_build_one(tmp_path):
    with pytest.raises(LangmergeError, match="langmerge book"):
        publishing.prepare(ADDRESS, tmp_path / "html", tmp_path / "publish")


def test_the_icon_is_the_drawn_one_and_the_book_shows_it():
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    icon = ROOT / config["html"]["favicon"]
    assert icon.read_text() == publishing.favicon()
    assert ElementTree.fromstring(icon.read_text()).tag == "{http://www.w3.org/2000/svg}svg"


# --- workflows ---------------------------------------------------------------------------


def steps(path: Path) -> list[dict]:
    jobs = yaml.safe_load(path.read_text())["jobs"].values()
    return [step for job in jobs for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_action_is_pinned_by_its_commit_and_names_its_version(path):
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", one) for one in used)
    lines = [line for line in path.read_text().splitlines() if "uses:" in line]
    assert all(re.search(r" # v\d+\.\d+\.\d+$", line) for line in lines)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_workflow_puts_a_value_into_a_script_or_takes_more_rights_than_it_says(path):
    assert not any("${{" in step.get("run", "") for step in steps(path))
    assert yaml.safe_load(path.read_text())["permissions"]


def test_the_workflows_run_what_there_is():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^(?:COMMANDS :=|([\w -]+):)", makefile, re.MULTILINE)
    targets += re.findall(r"^COMMANDS := (.+)$", makefile, re.MULTILINE)
    targets = {target for line in targets for target in line.split()}
    told = [step["run"] for path in WORKFLOWS for step in steps(path) if "run" in step]
    made = {word for run in told for word in re.findall(r"make ([\w-]+)", run)}
    assert made == {"publish-check", "kit"} and made <= targets
    (published,) = [step for step in steps(WORKFLOWS[1]) if "path" in step.get("with", {})]
    assert published["with"]["path"] == publishing.FOLDER


def test_three_systems_are_tested_in_the_shipped_environment():
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())
    systems = workflow["jobs"]["tests"]["strategy"]["matrix"]["system"]
    assert {system.split("-")[0] for system in systems} == {"ubuntu", "macos", "windows"}
    (made,) = [
        step["with"] for step in steps(WORKFLOWS[2]) if "environment-file" in step.get("with", {})
    ]
    name = yaml.safe_load((ROOT / made["environment-file"]).read_text())["name"]
    assert made["activate-environment"] == name
