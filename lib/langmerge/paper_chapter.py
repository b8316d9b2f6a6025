"""The rows of released checkpoints as the book's chapter shows them."""

from __future__ import annotations

from langmerge import paper_page, paper_results
from langmerge.paper_results import NOTEBOOK, Run

NONE_YET = (
    "*No rows are here yet: they come from `langmerge paper`, and this page shows them when the "
    "book is built after it.*\n"
)


def page() -> str:
    """A table for every triple and language that whole rows are here of, as Markdown.

    Rows of runs that were cut to some items are left out: they are for trying the machinery.
    """
    found = paper_results.runs()
    return "\n\n".join(map(_section, found)) + "\n" if found else NONE_YET


def _section(run: Run) -> str:
    its = run.chosen
    missing = paper_page.lacking(run)
    link = f"{{doc}}`/book/_executed/{its.name}/{NOTEBOOK}`"
    return "\n\n".join(
        [
            f"**{its.language.name} (`{its.language.code}`)**",
            paper_page.about(run).data,
            paper_page.score_table(run).data,
            missing or f"Figures, differences and the verdict: {link}.",
        ]
    )
