"""The picture of the parts in docs/architecture.md is that of the imports."""

import importlib.util
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def parts() -> ModuleType:
    spec = importlib.util.spec_from_file_location("parts", ROOT / "docs" / "parts.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_up_to_date(parts: ModuleType) -> None:
    drawn = parts.svg(parts.reduced(parts.imports()))
    assert parts.PICTURE.read_text(encoding="utf-8") == drawn, "draw it again: python docs/parts.py"


def test_the_picture_shows_every_part_once(parts: ModuleType) -> None:
    root = ElementTree.parse(parts.PICTURE).getroot()
    shown = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    package = ROOT / "nmtprune"
    there = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert sorted(shown) == sorted(there - {"__init__", *parts.LEFT_OUT})


def test_arrows_that_are_left_out_follow_from_the_others(parts: ModuleType) -> None:
    whole = parts.imports()
    few = parts.reduced(whole)
    assert all(parts.reachable(few, part) == parts.reachable(whole, part) for part in whole)
    assert sum(map(len, few.values())) < sum(map(len, whole.values()))


def test_imports_are_found_wherever_they_stand(parts: ModuleType, tmp_path: Path) -> None:
    package = tmp_path / "pkg"
    (package / "high").mkdir(parents=True)
    (package / "high" / "one.py").write_text(
        "from typing import TYPE_CHECKING\nimport pkg.low\nif TYPE_CHECKING:\n    from pkg import top\n"
        "def late():\n    from pkg.middle import x\n"
    )
    for name in ("low", "middle", "top"):
        (package / f"{name}.py").write_text("import json\n")
    assert parts.imports(package) == {"high": {"low", "middle", "top"}, "low": set(), "middle": set(), "top": set()}


def test_parts_that_import_each_other_are_refused(parts: ModuleType) -> None:
    with pytest.raises(ValueError, match="in a circle: a, b"):
        parts.reduced({"a": {"b"}, "b": {"a"}, "c": {"a"}})
