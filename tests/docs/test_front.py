"""The picture of the manual's front page is that of its plan and figures."""

import importlib.util
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from nmtprune.plan import Plan

DOCS = Path(__file__).parents[2] / "docs"
RECTANGLE = "{http://www.w3.org/2000/svg}rect"


@pytest.fixture(scope="module")
def front() -> ModuleType:
    spec = importlib.util.spec_from_file_location("front", DOCS / "front.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_up_to_date(front: ModuleType) -> None:
    assert front.PICTURE.read_text(encoding="utf-8") == front.draw(), "draw it again: python docs/front.py"


def test_the_picture_shows_every_head_before_and_those_that_stay_after(front: ModuleType) -> None:
    plan = Plan.read(DOCS / "images" / "front-plan.json")
    boxes = [box for box in ElementTree.parse(front.PICTURE).getroot().iter(RECTANGLE) if box.get("height") == "11"]
    squares = [box for box in boxes if box.get("width") == "11.0"]
    heads = sum(map(sum, plan.base.heads.values()))
    kept = sum(len(own) for group, own in plan.kept_units.items() if group.sort == "heads")
    assert len(squares) == 2 * heads
    assert sum(box.get("fill") != "#fff" for box in squares) == heads + kept
