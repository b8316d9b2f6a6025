"""The notebook of real checkpoints, executed for a run: beside it as ``.ipynb`` and as HTML.

For the book it is executed for every triple and language that whole rows are here of; the contents
then list it below the chapter on real checkpoints.
"""

from __future__ import annotations

import copy
import html
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from langmerge import execution, paper_page, paper_results, paths
from langmerge.execution import Job
from langmerge.paper import Chosen
from langmerge.paper_results import NOTEBOOK, PROFILE, Run

#: The chapter that the notebooks stand below in the contents.
CHAPTER = "book/real_models"
#: A role of MyST, which a page alone does not know.
_ROLE = re.compile(r"\s*\{cite:p\}`[^`]*`")
_STYLE = (
    "body{margin:2em auto;max-width:62em;padding:0 1em;font:16px/1.5 sans-serif;color:#222;"
    "background:#fff}table{border-collapse:collapse;font-size:14px}th,td{padding:.25em .8em;"
    "border-bottom:1px solid #ddd;text-align:left}img{max-width:100%}a.anchor-link{display:none}"
    ".jp-RenderedMarkdown,.output_markdown{overflow-x:auto}"
)


def job(chosen: Chosen, depends: str, **parameters: Any) -> Job:
    """The notebook for a triple in a language.

    depends: the digest of what it reads. parameters: more of the notebook's, None for its own.
    """
    given = {
        "language": chosen.language.code,
        "profile": PROFILE,
        "triple": chosen.triple_name,
        **{name: value for name, value in parameters.items() if value is not None},
    }
    return Job(paths.notebooks() / f"{NOTEBOOK}.ipynb", chosen.name, given, depends)


def lacking(run: Run) -> str:
    """Why a run's notebook cannot be executed here; empty where it can."""
    if any(importlib.util.find_spec(name) is None for name in ("papermill", "nbconvert")):
        return (
            "The rows are kept. To see them as a notebook, install what executes it "
            "(`pip install 'langmerge[book]'`) and give the same command again: nothing is "
            "evaluated twice."
        )
    return paper_page.lacking(run)


def write(chosen: Chosen, limit: int | None, dtype: str, study: Path | None = None) -> list[Path]:
    """Execute the notebook for the rows of a run; its ``.ipynb`` and ``.html`` in the run's folder.

    study: the file that the triple is from, where it is not the shipped one. Raises LangmergeError
    where a cell fails; the rows are kept.
    """
    named = str(study.expanduser().resolve()) if study else None
    its = job(chosen, execution.surroundings(), limit=limit, dtype=dtype, study=named)
    execution.execute([its], processes=1)
    text = its.cached.read_text(encoding="utf-8")
    stem = "report" if limit is None else f"report-of-{limit}-items"  # a trial replaces no run
    made = [chosen.folder / f"{stem}{end}" for end in (".ipynb", ".html")]
    execution.write_atomically(made[0], text)
    execution.write_atomically(made[1], as_html(text))
    return made


def as_html(text: str) -> str:
    """An executed notebook as one page that loads nothing from elsewhere, its code left out."""
    import nbformat
    from nbconvert import HTMLExporter

    notebook = nbformat.reads(text, as_version=4)
    heading = notebook.cells[0].source.splitlines()[0].lstrip("# ")
    notebook.cells = [new for cell in notebook.cells for new in _for_a_page(cell)]
    exporter = HTMLExporter(template_name="basic", exclude_input=True)
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    body, _ = exporter.from_notebook_node(notebook)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{html.escape(heading)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def jobs(toc: Mapping[str, Any]) -> list[Job]:
    """The notebooks of this kind that contents list, for the runs that are here."""
    listed = {chapter["file"] for part in toc["parts"] for chapter in _below(part)}
    depends = execution.surroundings() if listed else ""
    return [job(run.chosen, depends) for run in shown() if _page(run.chosen.name) in listed]


def shown() -> list[Run]:
    """The runs that have a page in the book: whole ones, with everything that it shows."""
    return [run for run in paper_results.runs() if not paper_page.lacking(run)]


def extend_toc(toc: dict[str, Any]) -> dict[str, Any]:
    """The contents with a page for every run that whole rows are here of, below `CHAPTER`."""
    toc = copy.deepcopy(toc)
    pages = [
        {"file": _page(run.chosen.name), "title": f"Released checkpoints: {_title(run)}"}
        for run in shown()
    ]
    for part in toc["parts"]:
        for chapter in part["chapters"]:
            if chapter["file"] == CHAPTER and pages:
                chapter["sections"] = pages
    return toc


def _below(part: Mapping[str, Any]) -> list[dict[str, str]]:
    return [one for chapter in part["chapters"] for one in chapter.get("sections", [])]


def _title(run: Run) -> str:
    """Language and triple, for pages of one name would stand below each other."""
    return f"{run.chosen.language.name}, {run.chosen.triple_name}"


def _page(name: str) -> str:
    return f"book/_executed/{name}/{NOTEBOOK}"


def _for_a_page(cell: Any) -> list[Any]:
    """A cell without roles of MyST, and a figure's caption as a cell after it."""
    import nbformat

    if cell.cell_type == "markdown":
        if cell.source == "## Parameters":  # the cell that it is over is code
            return []
        cell.source = _ROLE.sub("", cell.source)
    if "outputs" in cell:  # values that are named for prose are no output of a page
        cell.outputs = [
            output
            for output in cell.outputs
            if not any(kind.startswith("application/papermill") for kind in output.get("data", {}))
        ]
    figure = cell.metadata.get("mystnb", {}).get("figure")
    if not figure:
        return [cell]
    alt = cell.metadata["mystnb"]["image"]["alt"]
    for output in cell.get("outputs", []):
        if "image/png" in output.get("data", {}):
            output.metadata["image/png"] = {"alt": alt}
    return [cell, nbformat.v4.new_markdown_cell(f"*{figure['caption']}*")]
