"""Equations of the manual as MathML, which browsers show without scripts and without the network."""

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

NAME = "mathml"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer, for `html_math_renderer = "mathml"`."""
    app.add_html_math_renderer(NAME, inline_renderers=(_inline, None), block_renderers=(_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def mathml(latex: str, display: str) -> str:
    r"""An equation as a `math` element; `display` is inline or block.

    Raises:
        ExtensionError: a command that is not known, such as `\foo`, would be shown as it is.
    """
    found = convert(latex.strip(), display=display)
    if "\\" in found:
        raise ExtensionError(f"no MathML for a command of the equation {latex!r}")
    return found


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(f'<span class="math notranslate nohighlight">{mathml(node.astext(), "inline")}</span>')
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math notranslate nohighlight">{mathml(node.astext(), "block")}</div>')
    raise nodes.SkipNode
