"""One name for one idea, and one idea in one file that can be read at once."""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import nmtprune
from nmtprune.cli.main import COMMANDS

PACKAGE = Path(nmtprune.__file__).parent
MOST_LINES = 500

ONE_IDEA = {
    "base": "the interface of a package: formats/, engines/",
    "checkpoint": "the checkpoint of a format",
    "layout": "where heads lie in the tensors of a format",
    "refit": "fitting output projections: the method, and the run that does it",
    "network": "the description of a network, and how a format describes its own",
    "options": "the options of a package as values",
    "describe_network": "of a format",
    "depth": "taking layers out of a model, in a format",
    "renamed": "names of tensors in a model without some layers",
    "unit_axes": "of a format",
    "native_tensors": "of a format",
    "parse_config": "settings of a kind of model of transformers",
    "stored_architecture": "of a kind of model of transformers",
    "entries": "of a kind of model of transformers",
    "is_buffer": "of a kind of model of transformers",
    "without_layers": "of a kind of model of transformers",
    "native_of": "of a kind of model of transformers",
}
"""Names of modules, classes and functions that stand for one idea in several places."""

Definition = ast.ClassDef | ast.FunctionDef


def _modules(package: Path) -> Iterator[Path]:
    """The modules of a package, its programs left out: the name of such a module is that of a command."""
    commands = {package / "cli" / f"{target.partition(':')[0].rpartition('.')[2]}.py" for target in COMMANDS.values()}
    for path in sorted(package.rglob("*.py")):
        if path.name != "__init__.py" and path not in commands and "\nif __name__ ==" not in path.read_text("utf-8"):
            yield path


def _twice(places: Mapping[str, list[str]]) -> dict[str, list[str]]:
    return {name: found for name, found in places.items() if len(found) > 1}


def modules_of_one_name(package: Path) -> dict[str, list[str]]:
    """Names that several modules have."""
    places: dict[str, list[str]] = defaultdict(list)
    for path in _modules(package):
        places[path.stem].append(str(path.relative_to(package)))
    return _twice(places)


def definitions_of_one_name(package: Path) -> dict[str, list[str]]:
    """Names that several public classes and functions at the top level of modules have."""
    places: dict[str, list[str]] = defaultdict(list)
    for path in _modules(package):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, Definition) and not node.name.startswith("_"):
                places[node.name].append(f"{path.relative_to(package)}:{node.lineno}")
    return _twice(places)


def _other_than(allowed: Mapping[str, str], found: Mapping[str, list[str]]) -> dict[str, list[str]]:
    return {name: places for name, places in found.items() if name not in allowed}


def test_no_two_modules_have_one_name_for_two_ideas() -> None:
    assert _other_than(ONE_IDEA, modules_of_one_name(PACKAGE)) == {}


def test_no_two_definitions_have_one_name_for_two_ideas() -> None:
    assert _other_than(ONE_IDEA, definitions_of_one_name(PACKAGE)) == {}


def test_exceptions_are_needed() -> None:
    several = {*modules_of_one_name(PACKAGE), *definitions_of_one_name(PACKAGE)}
    assert several >= ONE_IDEA.keys()


def test_a_file_can_be_read_at_once() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert lines and {path for path, count in lines.items() if count > MOST_LINES} == set()


def test_what_has_one_name_is_found(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "cli").mkdir()
    (tmp_path / "one" / "loop.py").write_text("class Job:\n    pass\n\n\ndef _own() -> None:\n    pass\n")
    (tmp_path / "two" / "loop.py").write_text("def Job() -> None:\n    pass\n\n\ndef _own() -> None:\n    pass\n")
    (tmp_path / "cli" / "slim.py").write_text("def slim() -> None:\n    pass\n")
    (tmp_path / "slim.py").write_text("def slim() -> None:\n    pass\n")
    assert modules_of_one_name(tmp_path) == {"loop": ["one/loop.py", "two/loop.py"]}
    assert definitions_of_one_name(tmp_path) == {"Job": ["one/loop.py:1", "two/loop.py:1"]}
