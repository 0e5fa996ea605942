"""The style sheets of the page, and what WeasyPrint needs of them inside every drawing."""

import re
from importlib import resources

from markupsafe import escape

_PAGE, _DRAWING = "page.css", "drawing.css"


def resource(name: str) -> str:
    """A file of this package."""
    return resources.files("nmtprune.page").joinpath(name).read_text(encoding="utf-8")


def page_style() -> str:
    """The style sheet of the page, its drawings included."""
    return f"{resource(_DRAWING)}{resource(_PAGE)}"


def with_styled_drawings(html: str) -> str:
    """The page for WeasyPrint, which applies the styles of a page to no drawing in it and knows no variables there.

    Without them everything is black: a removed head would look like one that is kept.
    """
    _, _, printed = resource(_PAGE).partition("@media print")
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", printed))
    rules = re.sub(r"var\(--(\w+)\)", lambda match: colours[match[1]], resource(_DRAWING))
    style = f"<style>{escape(rules)}</style>".replace("\\", "\\\\")
    return re.sub(r"(<svg [^>]*>)", rf"\1{style}", html)
