"""A Sphinx extension that sets the book's formulas as MathML, which browsers draw by themselves.

MathJax would be 1.2 MB of scripts on every page with a formula. The conversion is docutils' own,
made when the book is built; a formula that it does not know fails the build.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

_LOG = logging.getLogger(__name__)
#: What the bars of an absolute value become.
_BAR = '<mo stretchy="false">|</mo>'


def formula(tex: str, display: bool = False) -> str:
    """A formula in LaTeX as a ``math`` element.

    Raises ValueError, with the formula, where docutils cannot read it.
    """
    try:
        written = latex2mathml.tex2mathml(tex, as_block=display)
    except (MathError, SyntaxError) as error:
        raise ValueError(f"no MathML can be made of {tex!r}: {error}") from error
    # Without the space that browsers put around a bar between two operands.
    return written.replace(_BAR, _BAR.replace("<mo", '<mo lspace="0" rspace="0"'))


def _written(node: nodes.Element, display: bool) -> str:
    try:
        return formula(node.astext(), display)
    except ValueError as error:
        _LOG.warning(str(error), location=node)
        return nodes.unescape(node.astext())


def _inline(self: Any, node: nodes.math) -> None:
    self.body.append(self.starttag(node, "span", "", CLASS="math notranslate nohighlight"))
    self.body.append(f"{_written(node, display=False)}</span>")
    raise nodes.SkipNode


def _display(self: Any, node: nodes.math_block) -> None:
    self.body.append(self.starttag(node, "div", "", CLASS="math notranslate nohighlight"))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})</span>')
    self.body.append(f"{_written(node, display=True)}</div>\n")
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """Sphinx's entry point."""
    app.add_html_math_renderer("mathml", (_inline, None), (_display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
