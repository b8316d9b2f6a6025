"""What a notebook needs to speak to the book, and to run without it.

A value goes into the prose through `glue`, a figure into the page through `figure`. Both
work in plain Jupyter, papermill and Colab, where the book's packages may be missing.

Labels must differ between languages, for the book can show several side by side: write
`LANGUAGE_TOKEN` into every label and figure name (``fig-accuracy-XXlangXX``). The book
replaces it by the language's code after execution.
"""

from __future__ import annotations

import difflib
import io
import numbers
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langmerge.errors import LangmergeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LANGUAGE_TOKEN = "XXlangXX"
FIGURE_KEY = "langmerge_figure"  # in an output's metadata; langmerge.execution reads it


def check_parameters(parameters: Sequence[str], variables: Mapping[str, Any]) -> None:
    """Raise LangmergeError where a variable looks like a misspelt parameter, or a list is text.

    papermill takes ``-p langauge ben_Beng`` with one printed line, sets a variable that nobody
    reads, and runs the default; and ``-p seeds [0]`` sets a text. Call this with ``globals()``
    right after the parameters.
    """
    for name in parameters:
        value = variables.get(name)
        if isinstance(value, str) and value.lstrip().startswith("["):
            raise LangmergeError(
                f"the parameter {name} is the text {value!r}, no list: in the cell leave the "
                f'quotes out, and give it to papermill by `-y "{name}: {value}"`.'
            )
    for name, value in variables.items():
        plain_value = isinstance(value, str | int | float | list | type(None))
        if plain_value and not name.startswith("_") and name not in parameters:
            close = difflib.get_close_matches(name, parameters, n=1, cutoff=0.75)
            if close:
                raise LangmergeError(
                    f"the notebook has no parameter {name!r}: did you mean {close[0]}? "
                    f"It has {', '.join(parameters)}."
                )


def glue(name: str, value: Any, display: bool = False) -> None:
    """Name a value of the run, so that prose can show it: ``{glue:text}`name:.2f` ``.

    Numbers are cast to plain int or float (numpy's would print as ``np.float64(0.5)``), text
    is taken as it is. Without myst-nb nothing happens.
    """
    try:
        from myst_nb import glue as book_glue
    except ImportError:
        return
    book_glue(name, plain(value), display=display)


def plain(value: Any) -> Any:
    """A number as Python's own bool, int or float; anything else unchanged."""
    if getattr(getattr(value, "dtype", None), "kind", "") == "b":
        return bool(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value)


def require_drawn(fig: Figure, name: str) -> None:
    """Raise LangmergeError for a figure with a panel that shows nothing."""
    empty = [number for number, ax in enumerate(fig.axes, start=1) if not ax.has_data()]
    if empty or not fig.axes:
        where = f"panel {empty[0]} of the figure {name}" if empty else f"the figure {name}"
        raise LangmergeError(
            f"{where} shows nothing: the results that it is drawn from are missing. Run "
            "`langmerge run` with the notebook's language and profile (the pooled figures: "
            "`langmerge reference`), and see that the profile has the methods that are drawn."
        )


def figure(fig: Figure, name: str, caption: str, alt: str, dpi: int = 150) -> None:
    """Show a figure with its caption, label and alternative text, and close it.

    `caption` and `alt` may hold numbers that the run computed; `name` is the label for
    ``{numref}`` and holds `LANGUAGE_TOKEN`. One figure a cell. Raises ValueError where one
    of the three is missing: a figure that nobody can cite or hear is not finished; and
    LangmergeError where nothing is drawn, for then results are missing.
    """
    if not (name and caption and alt):
        raise ValueError(f"figure {name!r} needs a name, a caption and an alternative text")
    require_drawn(fig, name)
    from IPython.display import display
    from matplotlib import pyplot as plt

    buffer = io.BytesIO()
    # Opaque, or the axes vanish in dark mode; no Software entry, so that equal figures are
    # equal files.
    fig.savefig(
        buffer, format="png", dpi=dpi, bbox_inches="tight", facecolor="white",
        metadata={"Software": None},
    )  # fmt: skip
    plt.close(fig)
    data = {"image/png": buffer.getvalue(), "text/plain": alt}
    metadata = {FIGURE_KEY: {"name": name, "caption": caption, "alt": alt}}
    display(data, metadata=metadata, raw=True)
