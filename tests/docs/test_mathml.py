"""The manual's equations become MathML, which needs neither scripts nor the network."""

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("latex2mathml")
pytest.importorskip("sphinx")

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS))

import mathml  # noqa: E402

_EQUATION = re.compile(r"\$\$(.+?)\$\$|(?<![\w`$\\])\$([^$`]+?)\$(?!\w)", re.DOTALL)


def _equations() -> list[tuple[str, str]]:
    """Equations of the methods, with whether they stand in lines of their own."""
    text = re.sub(r"```.*?```", "", (DOCS / "methods.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    return [(block or inline, "block" if block else "inline") for block, inline in _EQUATION.findall(text)]


def test_every_equation_of_the_methods_is_well_formed_mathml() -> None:
    found = [ElementTree.fromstring(mathml.mathml(latex, display)) for latex, display in _equations()]
    assert len(found) > 80
    assert {element.tag for element in found} == {"{http://www.w3.org/1998/Math/MathML}math"}


def test_a_fraction_is_one() -> None:
    found = ElementTree.fromstring(mathml.mathml(r"\frac{a}{b}", "block"))
    assert [element.tag.rpartition("}")[2] for element in found.iter()] == [
        "math",
        "mrow",
        "mfrac",
        *["mrow", "mi"] * 2,
    ]
    assert found.get("display") == "block"


def test_a_command_that_is_not_known_ends_the_build() -> None:
    with pytest.raises(Exception, match="no MathML for a command of the equation"):
        mathml.mathml(r"a \foo b", "inline")
