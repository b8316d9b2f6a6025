"""The book's machinery: parameters, cleaning, labels, contents, what is loaded from where."""

import copy
import os
import re
import sys
from types import SimpleNamespace

import nbformat
import numpy as np
import papermill
import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from nbclient.exceptions import DeadKernelError

from langmerge import (
    book,
    checks,
    claims,
    execution,
    notebook,
    offline,
    other_bases,
    paper_results,
    provenance,
    reference,
)
from langmerge.errors import LangmergeError
from langmerge.execution import Job
from langmerge.notebook import LANGUAGE_TOKEN

SOURCE = f"""\
# %% [markdown]
# ({LANGUAGE_TOKEN}-top)=
# # A trial

# %% tags=["parameters"]
language = "tam_Taml"  # FLORES code
profile = "lab"

# %%
import os, sys
from matplotlib import pyplot as plt
from langmerge.notebook import figure, glue
glue("half", 0.5)
print(sys.executable, os.getcwd(), language, profile)

# %%
fig, ax = plt.subplots(figsize=(1, 1))
ax.plot([0, 1])
figure(fig, name="fig-{LANGUAGE_TOKEN}", caption=f"In {{language}}", alt="A line")
"""


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A small notebook, in a place of its own."""
    monkeypatch.setenv("LANGMERGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JUPYTER_PATH", "")
    path = tmp_path / "sources" / "trial.py"
    path.parent.mkdir()
    path.write_text(SOURCE)
    execution.pair(path)
    return path


def job(source, **parameters):
    return Job(source.with_suffix(".ipynb"), "ben_Beng", {"language": "ben_Beng", **parameters})


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (DeadKernelError("Kernel died"), "its kernel died"),
        # As jupyter_client raises it.
        (RuntimeError("Kernel didn't respond in 300 seconds"), "its kernel did not answer"),
    ],
)
def test_a_kernel_that_failed_is_told_without_a_traceback(source, monkeypatch, error, said):
    def failed(*_, **__):
        raise error

    monkeypatch.setattr(papermill, "execute_notebook", failed)
    with pytest.raises(LangmergeError, match=rf"trial\.ipynb \(ben_Beng\): {said}.*is kept"):
        execution.execute([job(source)], processes=1)


def test_a_notebook_is_executed_here_cleaned_labelled_and_kept(source, tmp_path):
    it = job(source, profile="smoke")
    reports = []
    execution.execute([it], processes=1, report=lambda *told: reports.append(told))
    execution.execute([it], processes=1, report=lambda *told: reports.append(told))
    assert [told[0] for told in reports] == [it], "executed once, then found again"
    text = it.cached.read_text()
    assert LANGUAGE_TOKEN not in text
    made = nbformat.reads(text, as_version=4)
    nbformat.validate(made)
    outputs = [output for cell in made.cells for output in cell.get("outputs", ())]
    (printed,) = [output.text for output in outputs if "text" in output]
    assert printed.split() == [sys.executable, str(source.parent), "ben_Beng", "smoke"]
    (injected,) = [c for c in made.cells if "injected-parameters" in c.metadata.get("tags", [])]
    assert "hide-input" not in injected.metadata.tags, "another language than the cell above says"
    assert made.cells[-1].metadata.mystnb.figure == {
        "name": "fig-ben_Beng",
        "caption": "In ben_Beng",
    }
    assert made.cells[-1].metadata.mystnb.image.alt == "A line"
    assert not any("papermill" in held.metadata for held in (made, *made.cells))
    execution.install([it], tmp_path / "book")
    assert (tmp_path / "book" / "ben_Beng" / "trial.ipynb").read_text() == text
    it.cached.unlink()
    execution.execute([it], processes=1)
    assert it.cached.read_text() == text, "equal runs give equal files"


@pytest.mark.parametrize(
    ("injected", "folded"),
    [
        ('# Parameters\nlanguage = "tam_Taml"\nprofile = "lab"\n', True),
        ('# Parameters\nlanguage = "tam_Taml"\n', True),
        ('# Parameters\nlanguage = "ben_Beng"\nprofile = "lab"\n', False),
        ('# Parameters\nlanguage = "tam_Taml"\nseeds = [0]\n', False),
    ],
)
def test_parameters_are_folded_where_the_cell_above_says_the_same(injected, folded):
    source = 'language = "tam_Taml"  # FLORES code\nprofile = "lab"\nseeds = None  # all'
    cells = [
        nbformat.v4.new_code_cell(code, metadata={"tags": [tag]})
        for code, tag in ((source, "parameters"), (injected, "injected-parameters"))
    ]
    made = execution.clean(nbformat.v4.new_notebook(cells=cells), "trial")
    assert ["hide-input" in cell.metadata.tags for cell in made.cells] == [False, folded]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("from langmerge.errors import LangmergeError; raise LangmergeError('mend')", "mend"),
        ("language = 'x'", "drew no figure"),
    ],
)
def test_a_notebook_that_fails_reaches_nothing(source, code, told):
    source.write_text(SOURCE[: SOURCE.index("# %%\nfig")] + "# %%\n" + code + "\n")
    execution.pair(source)
    with pytest.raises(LangmergeError, match=told):
        execution.execute([job(source)], processes=1)
    assert not job(source).cached.exists()


def test_an_unknown_parameter_names_the_nearest(source):
    with pytest.raises(LangmergeError, match="did you mean profile"):
        execution.check_parameters(source.with_suffix(".ipynb"), ["language", "profil"])


def test_pair_is_seen_through(source):
    assert execution.paired(source)
    target = source.with_suffix(".ipynb")
    made = nbformat.read(target, as_version=4)
    made.cells[0].source += " edited"
    nbformat.write(made, target)
    assert not execution.paired(source)
    execution.pair(source)
    made = nbformat.read(target, as_version=4)
    made.cells[-1].outputs = [nbformat.v4.new_output("stream", text="left over")]
    nbformat.write(made, target)
    assert not execution.paired(source)


@pytest.mark.parametrize(
    ("this", "that"),
    [
        ({"profile": "lab"}, {"profile": "smoke"}),
        ({"seeds": [0, 1]}, {"seeds": [0, 2]}),
    ],
)
def test_key_follows_parameters(source, this, that):
    assert job(source, **this).key != job(source, **that).key
    assert job(source, **this).key == job(source, **this).key


def test_key_follows_source_and_surroundings(source):
    before = job(source).key
    assert Job(job(source).source, "ben_Beng", {"language": "ben_Beng"}, "other").key != before
    source.with_suffix(".ipynb").write_text("{}")
    assert job(source).key != before


@given(st.lists(st.text(max_size=4), max_size=4), st.lists(st.text(max_size=4), max_size=4))
def test_digest_tells_parts_apart(these, those):
    assert (execution.digest(*these) == execution.digest(*those)) == (these == those)


def test_two_figures_in_a_cell_are_refused():
    label = {"name": "a", "caption": "b", "alt": "c"}
    output = nbformat.v4.new_output("display_data", metadata={notebook.FIGURE_KEY: label})
    cell = nbformat.v4.new_code_cell(outputs=[output, copy.deepcopy(output)])
    with pytest.raises(LangmergeError, match="one figure a cell"):
        execution.clean(nbformat.v4.new_notebook(cells=[cell]), "trial")


def test_what_a_progress_bar_leaves_is_no_output():
    html = {"text/html": "<pre style='x'>\n</pre>\n", "text/plain": "\n"}
    told = {"text/html": "<pre>done</pre>", "text/plain": "done"}
    image = {"text/html": "<img src='x.png'>", "text/plain": ""}
    outputs = [
        nbformat.v4.new_output("display_data", data=html),
        nbformat.v4.new_output("stream", name="stdout", text=" \n"),
        nbformat.v4.new_output("display_data", data=told),
        nbformat.v4.new_output("display_data", data=image),
        nbformat.v4.new_output("stream", name="stdout", text="2 models\n"),
    ]
    cell = nbformat.v4.new_code_cell(outputs=outputs)
    execution.clean(nbformat.v4.new_notebook(cells=[cell]), "trial")
    assert cell["outputs"] == outputs[2:]


def test_a_declared_figure_must_be_drawn():
    cell = nbformat.v4.new_code_cell(metadata={"mystnb": {"figure": {"name": "x"}}})
    with pytest.raises(LangmergeError, match="cell 1 declares a figure"):
        execution.require_figures(nbformat.v4.new_notebook(cells=[cell]), "trial")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.float64(0.5), float), (np.float32(0.5), float), (np.int64(3), int),
        (np.bool_(True), bool), (True, bool), (2, int), ("a", str), (None, type(None)),
    ],
)  # fmt: skip
def test_glued_values_are_plain(value, kind):
    assert type(notebook.plain(value)) is kind
    assert notebook.plain(value) == value


def test_glue_does_nothing_without_the_books_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "myst_nb", None)
    notebook.glue("name", 1.0)


@pytest.mark.parametrize("missing", ["name", "caption", "alt"])
def test_an_unfinished_figure_is_refused(missing):
    words = {"name": "a", "caption": "b", "alt": "c"} | {missing: ""}
    with pytest.raises(ValueError, match="needs a name"):
        notebook.figure(None, **words)


def test_a_figure_that_shows_nothing_names_the_run_to_make():
    fig = Figure()
    left, right = fig.subplots(1, 2)
    left.plot([0, 1])
    with pytest.raises(LangmergeError, match=r"panel 2 of the figure x.*\n?.*langmerge run"):
        notebook.figure(fig, name="x", caption="b", alt="c")
    with pytest.raises(LangmergeError, match="the figure x shows nothing"):
        notebook.require_drawn(Figure(), "x")
    right.imshow([[1]])
    notebook.require_drawn(fig, "x")


def test_the_first_page_without_a_result_names_the_run_to_make(tmp_path):
    found = synthetic.results(items=10)
    found.items = found.items[found.items["method"] != "ct_then_sft"]
    with pytest.raises(LangmergeError, match="langmerge run --language tam_Taml --profile lab"):
        book.answer({"tam_Taml": found}, tmp_path)
    assert not list(tmp_path.iterdir()), "and draws nothing"


TOC = {
    "root": "book/index",
    "parts": [
        {"caption": "Before", "chapters": [{"file": "book/how_to_run"}]},
        {
            "caption": "The findings in Tamil",
            "chapters": [
                {"file": "book/_executed/tam_Taml/01_a"},
                {"file": "book/_executed/tam_Taml/02_b.ipynb"},
            ],
        },
        {"caption": "After", "chapters": [{"file": "book/references"}]},
    ],
}


def test_contents_grow_by_a_part_a_language():
    assert book.toc_notebooks(TOC) == [("tam_Taml", "01_a"), ("tam_Taml", "02_b")]
    grown = book.extend_toc(TOC, ["tam_Taml", "ben_Beng", "tel_Telu"])
    captions = [part["caption"] for part in grown["parts"]]
    assert captions[1:4] == [f"The findings in {x}" for x in ("Tamil", "Bengali", "Telugu")]
    assert book.toc_languages(grown) == ["tam_Taml", "ben_Beng", "tel_Telu"]
    assert len(book.toc_notebooks(grown)) == 6
    assert book.toc_languages(TOC) == ["tam_Taml"], "the shipped contents stay as they are"


def test_shipped_contents_list_notebooks_that_exist():
    root = book.require_checkout()
    toc = book.read_toc(root / "_toc.yml")
    sources = {path.stem for path in (root / "notebooks").glob("*.ipynb")}
    # Released checkpoints come in when rows of them are there, below their chapter.
    findings = sources - {paper_results.NOTEBOOK}
    assert {stem for _, stem in book.toc_notebooks(toc)} == findings
    assert len(findings) == len(sources) - 1
    pages = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    for page in (page for page in pages if not page.startswith(book.EXECUTED)):
        assert (root / f"{page}.md").is_file(), page


def test_the_first_page_lists_every_verdict_of_every_language(monkeypatch):
    monkeypatch.setattr(reference, "load", lambda *_: None)
    results = synthetic.results(items=40)
    table = book.verdicts({"tam_Taml": results, "ben_Beng": results})
    stated = [claim for claim in claims.load() if claim.finding in claims.PAPERS]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(stated)
    for row, claim in zip(rows, stated, strict=True):
        verdict = {v.claim: v for v in claims.judge(results, claim.finding)}[claim.id]
        assert claim.statement in row
        assert row.count(f"**{verdict.verdict}**: {claims.effect(verdict)}") == 2
        assert row.count(verdict.interval()) == 2
        assert row.endswith("| not tested |")
    assert "Tamil: 3 seeds, profile `lab`; Bengali: 3 seeds" in table


def test_the_first_page_has_the_reference_run_beside_them(monkeypatch):
    many = synthetic.results(languages=("tam_Taml", "ben_Beng", "zzz_0002"), items=20, seeds=(0,))
    monkeypatch.setattr(reference, "load", lambda *_: many)
    monkeypatch.setattr(other_bases, "all_bases", lambda: None)
    table = book.verdicts({"tam_Taml": synthetic.results(items=20)})
    assert "| Tamil, in the lab | 3 languages, in the lab |" in table
    for verdict in claims.judge(many, 1):
        assert f"{claims.effect(verdict)}, {verdict.interval()} | not tested |" in table
    assert "3 languages: 1 seed, profile `lab`" in table
    many.plan = SimpleNamespace(bases=["base", "second"], note="")
    monkeypatch.setattr(other_bases, "all_bases", lambda: many)
    table = book.verdicts({"tam_Taml": synthetic.results(items=20)})
    assert "| 3 languages, in the lab | 2 bases, 3 languages, in the lab | at 7B |" in table


def test_samples_are_said_in_every_language():
    lines = book.samples().splitlines()
    assert "a cow is a kind of animal." in lines[2]
    assert any("பசு" in line for line in lines)
    assert {line.count("|") for line in lines} == {6}


PLANTED = [
    '<script src="https://cdn.example/x.js"></script>',
    '<script async src="//cdn.example/x.js"></script>',
    '<link rel="stylesheet" href="https://cdn.example/x.css">',
    '<link href="http://cdn.example/x.woff2" rel="preload" as="font">',
    '<img src="https://cdn.example/x.png">',
    '<img srcset="small.png 1x, https://cdn.example/x.png 2x">',
    '<iframe src="https://cdn.example/"></iframe>',
    '<style>@import "https://cdn.example/x.css";</style>',
    "<p style=\"background: url('https://cdn.example/x.png')\">",
]
HARMLESS = [
    '<a href="https://arxiv.org/abs/2407.03994">the paper</a>',
    '<link rel="canonical" href="https://book.example/">',
    '<script src="_static/mathjax/tex-chtml.js"></script>',
    '<img src="../_images/x.png">',
    '<img src="data:image/png;base64,AAAA//8=">',
    "<style>a { background: url(data:image/svg+xml;base64,AA//) }</style>",
    "<script>const address = 'https://unpkg.example/thebe';</script>",
]


@pytest.mark.parametrize("planted", PLANTED)
def test_an_external_reference_is_found(tmp_path, planted):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "page.html").write_text(f"<html><body>{planted}</body></html>")
    (found,) = offline.external_references(tmp_path)
    assert found.startswith(os.path.join("sub", "page.html"))
    assert "cdn.example" in found


@pytest.mark.parametrize("harmless", HARMLESS)
def test_a_link_to_click_and_a_file_of_the_site_are_no_external_reference(harmless):
    assert offline.in_html(f"<html><body>{harmless}</body></html>") == []


def test_style_sheets_are_read_too(tmp_path):
    sheet = "/* url(https://a.example) */ @font-face { src: url(//b.example/f.woff2) } "
    (tmp_path / "x.css").write_text(sheet + "p { background: url(local.png) }")
    assert offline.external_references(tmp_path) == ["x.css: //b.example/f.woff2"]


def test_complaints_are_the_warnings_and_else_the_end():
    log = "reading\n\x1b[31mpage.md:3: WARNING: unknown label\x1b[0m\ndone"
    assert book.complaints(log) == "page.md:3: WARNING: unknown label"
    assert book.complaints("a\n\nb") == "a\nb"


def test_provenance_says_where_a_number_is_from():
    known = provenance.provenance()
    assert known["torch"]
    assert known["threads"] >= 1
    assert (known["commit"] is None) == (known["dirty"] is None)
    assert provenance.version_of("no-such-package") is None


def test_each_language_is_tried_and_what_keeps_one_is_told(monkeypatch):
    def study(codes, profile, seeds, console):
        if codes == ["bod_Tibt"]:
            raise LangmergeError("the base has not met bod_Tibt")
        return dict.fromkeys(codes, "results")

    tried = []
    monkeypatch.setattr(book, "_study", study)
    monkeypatch.setattr(book, "_jobs", lambda results, seeds, toc: list(results))
    monkeypatch.setattr(book, "_execute", lambda jobs, console: tried.extend(jobs))
    found = book.try_languages(["ben_Beng", "bod_Tibt", "uig_Arab"])
    assert found == {"ben_Beng": "", "bod_Tibt": "the base has not met bod_Tibt", "uig_Arab": ""}
    assert tried == ["ben_Beng", "uig_Arab"]


def test_every_language_has_its_turn():
    codes = checks.shipped_targets()
    assert {checks.in_rotation(codes, turn) for turn in range(len(codes))} == set(codes)
    assert "bod_Tibt" not in codes and "eng_Latn" not in codes and len(codes) >= 9


def test_every_shipped_language_is_run_or_left_out_with_the_way_in(tmp_path, monkeypatch):
    monkeypatch.setenv("LANGMERGE_HOME", str(tmp_path))  # no extension is here
    codes, left_out = checks.runnable()
    assert codes == sorted(checks.shipped_targets())
    assert set(left_out) == {"bod_Tibt"}
    assert "base extend --language bod_Tibt" in left_out["bod_Tibt"]


def test_the_first_page_answers_in_a_figure_and_a_sentence_a_finding(monkeypatch, tmp_path):
    monkeypatch.setattr(reference, "load", lambda *_: None)
    found = synthetic.results(items=40)
    text = book.answer({"tam_Taml": found}, tmp_path)
    assert (tmp_path / "answer.png").read_bytes().startswith(b"\x89PNG")
    assert ":alt: Accuracy" in text
    for number in (1, 2, 3):
        _, claim = claims.FINDINGS[number]
        verdict = {v.claim: v for v in claims.judge(found, number)}[claim]
        (line,) = [line for line in text.splitlines() if line.startswith(f"{number}. ")]
        assert f"{verdict.verdict}.**" in line and claims.effect(verdict) in line
        assert line.endswith(f"(Tamil{claims.by_run_seed(verdict)}).")
        assert re.search(r"by run seed \S+, \S+ and \S+\)\.$", line)
    many = synthetic.results(languages=("tam_Taml", "ben_Beng", "zzz_0002"), items=20, seeds=(0,))
    assert "beyond the paper" not in text
    runs = {other_bases.PROFILE: None}
    monkeypatch.setattr(reference, "load", lambda name="reference": runs.get(name, many))
    told = book.answer({"tam_Taml": found}, tmp_path)
    assert told.count("(3 languages together).") == len(claims.FINDINGS)
    assert re.findall(r"^(\d+)\. \*\*", told, re.M) == [*map(str, claims.FINDINGS)]


def test_pages_are_made_anew_only_where_a_notebook_or_a_file_is_another(monkeypatch, tmp_path):
    made = []

    def make(results, jobs, folder):
        made.append([job.key for job in jobs])
        execution.write_atomically(folder / "answer.md", "said")

    monkeypatch.setattr(book, "_make_pages", make)
    for keys in (["a", "b"], ["a", "b"], ["a", "c"], ["a", "c"]):
        book._write_pages({}, [SimpleNamespace(key=key) for key in keys], tmp_path)
    assert made == [["a", "b"], ["a", "c"]]
    (tmp_path / "answer.md").unlink()
    book._write_pages({}, [SimpleNamespace(key=key) for key in ("a", "c")], tmp_path)
    assert len(made) == 3 and (tmp_path / "answer.md").is_file()
