"""Teaching: builds without solutions, what to expect, and pages that match the sources."""

import ast
import builtins
import copy
import re
import zipfile
from types import SimpleNamespace

import jupytext
import nbformat
import numpy as np
import pandas as pd
import pytest
import synthetic

from langmerge import (
    book,
    bundle,
    execution,
    files,
    paper_results,
    paths,
    reference,
    solutions,
    status,
    teaching,
)
from langmerge.execution import Job
from langmerge.statistics import select

ROOT = paths.checkout()
SOURCES = sorted(paths.notebooks().glob("*.py"))
IDS = [source.stem for source in SOURCES]
#: The notebooks that a class works through; that of released checkpoints only shows rows.
TAUGHT = [source for source in SOURCES if source.stem != paper_results.NOTEBOOK]
ENDS = (7_680, 491_520)
SMALL = """\
# %% [markdown]
# # A title
#
# Text.

# %% tags=["parameters"]
language = "tam_Taml"

# %% [markdown] tags=["solution"]
# There is a solution.

# %% [markdown]
# **1.** What is it?

# %% tags=["hide-cell"]
secret = 42

# %% tags=["hide-input"]
print(language)
"""


def as_student(source):
    """The cells of a notebook's ``.ipynb`` as a student gets it."""
    text = source.with_suffix(".ipynb").read_text(encoding="utf-8")
    return nbformat.reads(solutions.without(text), as_version=4).cells


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_both_forms_lose_the_same_cells_and_keep_the_rest(source, tmp_path):
    before = nbformat.read(source.with_suffix(".ipynb"), as_version=4).cells
    kept = as_student(source)
    assert [c for c in before if not solutions.TAGS & set(c.metadata.get("tags", []))] == kept
    name = f"notebooks/{source.name}"
    percent = solutions.of_file(name, source.read_bytes()).decode("utf-8")
    read = jupytext.reads(percent, fmt="py:percent").cells
    assert [(c.cell_type, c.source) for c in read] == [(c.cell_type, c.source) for c in kept]


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_a_students_notebook_says_nothing_of_solutions_and_has_every_exercise(source):
    text = "\n".join(cell.source for cell in as_student(source))
    assert "solution" not in text.lower()
    numbers = re.findall(r"^\*\*(\d)\.\*\*", text, re.M)
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)]
    assert len(numbers) >= 4
    after = text[text.index("## Try it") :]
    assert "def " not in after and "plotting." not in after, "code that solves an exercise is left"


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_a_students_notebook_needs_nothing_of_a_solution(source):
    code = "\n".join(cell.source for cell in as_student(source) if cell.cell_type == "code")
    names = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)]
    known = {node.id for node in names if isinstance(node.ctx, ast.Store)} | set(dir(builtins))
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.FunctionDef):
            known |= {node.name, *(argument.arg for argument in node.args.args)}
        if isinstance(node, ast.Import | ast.ImportFrom):
            known |= {(name.asname or name.name).split(".")[0] for name in node.names}
    assert {node.id for node in names} <= known


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A small executed notebook, kept as `execution` keeps it."""
    monkeypatch.setenv("LANGMERGE_HOME", str(tmp_path / "home"))
    source = tmp_path / "notebooks" / "01_small.py"
    source.parent.mkdir()
    source.write_text(SMALL)
    made = Job(execution.pair(source), "tam_Taml", {"profile": "lab"})
    execution._keep(made, made.source.read_text(), 12.34)
    return made


def test_a_student_gets_the_same_run_without_solutions_and_back(job, tmp_path):
    target = tmp_path / "book"
    installed = target / "tam_Taml" / "01_small.ipynb"
    execution.install([job], target)
    assert installed.read_text() == job.cached.read_text()
    execution.install([job], target, student=True)
    assert "secret" not in installed.read_text() and "There is a" not in installed.read_text()
    assert "What is it?" in installed.read_text()
    assert "secret" in job.cached.read_text(), "what is kept has them"
    execution.install([job], target)
    assert installed.read_text() == job.cached.read_text()


def test_the_students_zip_differs_by_the_solutions_alone(job, tmp_path):
    root = tmp_path
    (root / "lib").mkdir()
    (root / "build").mkdir()
    (root / "lib" / "x.py").write_text('# %% tags=["hide-cell"]\nkept = 1\n')
    (root / "notebooks" / "note.txt").write_text("hide-cell")
    read = {}
    for student in (False, True):
        made = bundle.write(root, root / "build" / f"{student}.zip", student)
        with zipfile.ZipFile(made) as archive:
            read[student] = {name: archive.read(name) for name in archive.namelist()}
    differ = {name for name in read[False] if read[False][name] != read[True][name]}
    assert differ == {f"{bundle.FOLDER}/notebooks/01_small{end}" for end in (".py", ".ipynb")}
    assert not any(b"secret" in read[True][name] for name in differ)


def test_the_student_build_has_a_site_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("LANGMERGE_HOME", str(tmp_path))
    told = {}
    for name in ("_study", "_jobs", "_execute", "_write_pages"):
        monkeypatch.setattr(book, name, lambda *given: {})
    monkeypatch.setattr(
        execution, "install", lambda jobs, target, student: told.update(student=student)
    )
    monkeypatch.setattr(book, "_render", lambda root, toc, output, *rest: told.update(at=output))
    book.build()
    assert told == {"student": False, "at": ROOT}
    book.build(student=True)
    assert told == {"student": True, "at": tmp_path / "student"}
    keys = {book._site_key(tmp_path, {}, True, [], student) for student in (False, True)}
    assert len(keys) == 2, "one build is not taken for the other"


def test_how_a_notebook_came_about_is_kept_and_goes_with_it(job):
    assert job.told["seconds"] == 12.3
    assert {"time", "torch", "commit", "cpu"} <= job.told.keys()
    later = Job(job.source, job.language, job.parameters, "something else")
    assert later.told == {}
    execution._keep(later, "{}", 1)
    assert later.told["seconds"] == 1 and job.told == {}
    later.cached.with_suffix(".json").write_text("{broken")
    assert later.told == {}


# What to expect


def test_the_expected_numbers_are_those_that_were_put_in():
    codes = ("tam_Taml", "ben_Beng", "zzz_0002")
    run = synthetic.results(languages=codes, seeds=(0,), budgets=ENDS, items=80)
    found = teaching.measures(run).groupby(["what", "ct_tokens"])["value"].mean()
    low, high = min(run.budgets), max(run.budgets)
    for what, tokens, truth in (
        ("SFT only", 0, 45),
        ("CT-then-SFT", high, 75),
        ("TIES (mean)", low, 62),
        ("TIES (mean) less CT-then-SFT", high, -25),
        ("TIES with slack less itself without slack", high, 17),
        (teaching.DISCARDED, high, 30),
    ):
        assert found[what, tokens] == pytest.approx(truth, abs=8), (what, tokens)
    rows = select(run.rows, method="ct", metric="accuracy", ct_tokens=low, language="ben_Beng")
    text = teaching.expected(run)
    by_hand = f"{100 * rows['value'].mean():.1f}"
    (row,) = [line for line in text.split("By language")[1].splitlines() if "ben_Beng" in line]
    assert row.split(" | ")[2] == by_hand
    assert "0 of 3" in text and "nan" not in text and "Run seeds: 1 (0)" in text


def test_of_one_language_no_other_is_predicted():
    text = teaching.expected(synthetic.results(seeds=(0,), budgets=ENDS, items=5))
    assert "one language tells nothing" in text and "inf" not in text


def test_without_a_reference_run_the_page_names_the_command():
    assert "`langmerge reference`" in teaching.expected(None)


def test_a_prediction_interval_holds_the_next_draw_as_often_as_it_says():
    rng = np.random.default_rng(0)
    draws = rng.normal(3, 2, (1000, 9))
    held = [low <= last <= high for *seen, last in draws for low, high in [teaching.next_one(seen)]]
    assert 0.93 < np.mean(held) < 0.97
    assert teaching.next_one([1.0]) == (-np.inf, np.inf)


# The pages against the sources


def section_rows(page, anchor):
    """The rows of the first table after an anchor, as lists of cells."""
    text = (ROOT / "book" / page).read_text(encoding="utf-8")
    table = re.search(r"(?:^\|.*\n)+", text[text.index(f"({anchor})=") :], re.M)[0]
    return [line.strip("| \n").split(" | ") for line in table.splitlines()[2:]]


def test_every_exercise_is_marked_once_and_trains_a_goal_of_the_list():
    marked = [row[0] for row in section_rows("teach.md", "teach-marking")]
    there = []
    for number, source in enumerate(TAUGHT, start=1):
        exercises = re.findall(r"\*\*(\d)\.\*\* ", source.read_text(encoding="utf-8"))
        there += [f"{number}.{exercise}" for exercise in exercises]
    assert marked == there
    text = (ROOT / "book" / "teach.md").read_text(encoding="utf-8")
    goals = set(re.findall(r"^\d\. \*\*(\w+)\*\*:", text, re.M))
    trained = {row[1] for row in section_rows("teach.md", "teach-marking")}
    assert trained == goals and len(goals) == 6
    efforts = [(row[0][0], int(row[2])) for row in section_rows("teach.md", "teach-marking")]
    assert efforts == sorted(efforts), "graded by effort within a notebook"


def test_every_cell_to_adapt_is_where_the_page_says():
    rows = section_rows("teach.md", "teach-cells")
    named = {source.stem.split("_")[0]: source.stem for source in TAUGHT}
    assert {row[0] for row in rows} == named.keys()
    for notebook, section, parameters, _ in rows:
        text = (paths.notebooks() / f"{named[notebook]}.py").read_text(encoding="utf-8")
        found = text.split(f"# ## {section}\n")
        assert len(found) == 2, (notebook, section)
        cell = found[1].split("\n# ## ")[0]
        for parameter in re.findall(r"`(\w+)`", parameters):
            assert re.search(rf"\b{parameter}\b( =|=|\()", cell), (notebook, section, parameter)


def test_the_log_of_results_says_no_number_that_the_design_log_has_not():
    words = re.compile(r"[+−-]?\d[\d.,]*\d|\b\d\b")
    known = set(words.findall((ROOT / "design-log.md").read_text(encoding="utf-8")))
    said = set(words.findall((ROOT / "book" / "results_log.md").read_text(encoding="utf-8")))
    assert said and said <= known


# Provenance and status


@pytest.fixture
def run():
    return SimpleNamespace(
        rows=pd.DataFrame({"base": ["0badcafe"] * 2}), seeds=[0, 1], profile="lab"
    )


def test_the_status_page_has_a_row_a_notebook_with_its_hashes(job, run, tmp_path, monkeypatch):
    monkeypatch.setattr(status, "_reference", lambda: ())
    folder = tmp_path / "book"
    execution.install([job], folder)
    lines = status.page([job], {"tam_Taml": run}, folder, ["numpy"]).splitlines()
    row = "".join(line for line in lines if line.startswith("| A title "))
    made = files.sha256(folder / "tam_Taml" / "01_small.ipynb")
    for part in ("Tamil (`tam_Taml`)", "0, 1", "| 0badcafe |", "| 12.3 |", made[:12], job.key[:12]):
        assert part in row
    assert sum(line.startswith("| all | langmerge") for line in lines) == 1
    again = status.page([job], {"tam_Taml": run}, folder, ["numpy"]).splitlines()
    assert again == lines, "nothing of the moment is in it"
    job.cached.with_suffix(".json").unlink()
    text = status.page([job], {"tam_Taml": run}, folder, ["numpy"])
    assert text.count(status.NOT_KEPT) == 5


def test_the_status_page_names_the_gpu_of_a_run_that_had_one():
    told = {"platform": "Linux", "machine": "x86_64", "cores": 16, "cpu": "A processor"}
    assert status._machine(told) == "Linux x86_64, 16 cores, A processor"
    told["lab_device"] = "NVIDIA H200"
    assert status._machine(told).endswith("A processor, trained on NVIDIA H200")


def test_the_status_page_tells_what_is_there_of_a_reference_run(monkeypatch):
    monkeypatch.setattr(status, "PROFILES", ("reference",))
    monkeypatch.setattr(reference.Slice, "parts", lambda self, plan: {"base": "0badcafe"})
    seeds = {"zero": lambda self, plan: self.seed == 0, "none": lambda self, plan: False}
    how = reference.profiles.load("reference")
    monkeypatch.setattr(reference.Slice, "is_done", seeds["zero"])
    text = "\n".join(status._reference())
    languages, every = len(how.languages), len(reference.slices(how))
    there = sum(bool(one.told()) for one in reference.slices(how))
    assert f"| {languages} of {every} |" in text
    told = reference.slices(how)[0].told()
    assert text.count(f"{told['time'][:10]}") >= 1 and told["commit"][:12] in text
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert sum("`reference`" not in row for row in rows) == languages, "a row a slice"
    assert "| `base` (0badcafe) |" in text and f"torch {told['torch']}" in text
    monkeypatch.setattr(reference.Slice, "is_done", seeds["none"])
    text = "\n".join(status._reference())
    assert f"| 0 of {every} |" in text
    assert f"| 0 of {every} | {there} | |" in text.replace("|  |", "| |")
    assert "Slice by slice" not in text


def test_numbers_that_two_machines_computed_stand_beside_each_other(monkeypatch):
    run = synthetic.results(items=4)
    other = copy.copy(run)
    other.rows = run.rows.copy()
    accuracy = other.rows.index[other.rows["metric"] == "accuracy"]
    other.rows.loc[accuracy[0], "value"] += 0.01
    other.rows.loc[accuracy[1], "value"] += 0.3
    other.rows = other.rows.drop(index=accuracy[2])
    runs = {"reference": run, "reference-faster": other}
    monkeypatch.setattr(reference, "load", runs.get)
    monkeypatch.setattr(status, "_told", lambda done: done)
    told = {name: ([{"platform": "Linux", "machine": "x86_64", "cores": 2, "cpu": cpu}], 1, 0)
            for name, cpu in zip(runs, ("one", "two"), strict=True)}  # fmt: skip
    (row,) = [line for line in status._computed_twice(told) if line.startswith("| `")]
    pairs = run.rows.drop_duplicates(
        ["language", "base", "seed", "ct_tokens", "method", "setting", "slack", "task", "metric"]
    )
    number, of = len(pairs) - 1, (pairs["metric"] == "accuracy").sum() - 1
    said = [
        f"{number:,}",
        f"{of - 2:,} of {of:,}",
        "30.0",
        "0.000",
        f"{number - 1:,} of {number:,}",
    ]
    assert [cell.strip() for cell in row.strip("|").split("|")[1:]] == said
    same = {name: (told["reference"][0], 1, 0) for name in runs}
    assert not list(status._computed_twice(same)), "nothing was computed elsewhere"
