"""The rules of docs/architecture.md, held against the code: who imports what, and who may tell formats apart."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

import nmtprune
from nmtprune.cli.main import COMMANDS
from nmtprune.formats import classes
from nmtprune.formats.base import Checkpoint

PACKAGE = Path(nmtprune.__file__).parent
ALLOWED = {
    "errors": set(),
    "architecture": set(),
    "files": set(),
    "network": set(),
    "process": set(),
    "profile": set(),
    "progress": set(),
    "strictjson": {"files"},
    "plan": {"architecture", "files", "strictjson"},
    "budget": {"architecture", "plan"},
    "scores": {"architecture", "plan", "budget", "files", "strictjson"},
    "provenance": {"files"},
    "gates": {"architecture"},
    "formats": {
        "architecture",
        "gates",
        "network",
        "profile",
        "plan",
        "files",
        "strictjson",
        "provenance",
        "model.search.options",
    },
    "slim": {"architecture", "plan", "formats.base"},
    "summary": {"architecture", "formats", "slim", "plan"},
    "model": {"architecture", "network"},
    "data": {"files", "profile", "strictjson"},
    "ctranslate2_model": {"architecture", "network", "formats", "model", "data"},
    "convert": {
        "architecture",
        "network",
        "profile",
        "formats",
        "data",
        "files",
        "model.embedding",
        "model.search.options",
    },
    "engines": {
        "architecture",
        "network",
        "formats",
        "model",
        "data",
        "plan",
        "slim",
        "ctranslate2_model",
        "process",
        "user_dir",
    },
    "evaluate": {"architecture", "plan", "formats", "model", "data", "engines", "scores"},
    "methods": {"architecture", "gates", "plan", "budget", "scores", "model", "data", "formats", "evaluate.prices"},
    "fairseq_plugin": {"architecture", "gates", "plan", "formats", "model"},
    "user_dir": {"fairseq_plugin"},
    "training": {"files", "formats", "fairseq_plugin", "process", "progress", "user_dir"},
    "plots": {"architecture", "plan", "scores", "files"},
    "page": {
        "architecture",
        "data.text",
        "files",
        "formats",
        "plan",
        "process",
        "provenance",
        "runs.cost_table",
        "runs.functions_file",
        "runs.json_model",
        "runs.report",
        "runs.state",
        "scores",
        "strictjson",
        "summary",
    },
}
EVERYTHING_BUT_CLI = {"runs", "demo"}
COMMAND_MODULES = {target.partition(":")[0].removeprefix("nmtprune.") for target in COMMANDS.values()}
PURE = {"errors", "architecture", "budget", "plan", "scores"}
"""What needs the standard library, numpy and pydantic alone."""


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _import_statements(path: Path) -> list[ast.Import | ast.ImportFrom]:
    return [node for node in ast.walk(_tree(path)) if isinstance(node, ast.Import | ast.ImportFrom)]


def _against(paths: Iterable[Path], faults: Callable[[Path], Iterable[str]]) -> dict[str, list[str]]:
    """What is wrong with each module that breaks a rule."""
    found = {str(path.relative_to(PACKAGE)): list(faults(path)) for path in paths}
    assert found
    return {name: own for name, own in found.items() if own}


def _imports(path: Path) -> Iterator[str]:
    """Dotted names below nmtprune that a module imports anywhere, for types alone or not."""
    for node in _import_statements(path):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "nmtprune":
            below = node.module.removeprefix("nmtprune").removeprefix(".")
            yield from [below] if below else []
            yield from (f"{below}.{alias.name}".removeprefix(".") for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (
                alias.name.removeprefix("nmtprune.") for alias in node.names if alias.name.startswith("nmtprune.")
            )


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


def _part(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


COMMAND_LINE = [path for path in MODULES if _part(path) == "cli"]


def test_no_command_imports_another_one() -> None:
    """What two commands need belongs to neither."""
    assert _against(COMMAND_LINE, lambda path: COMMAND_MODULES.intersection(_imports(path))) == {}


def test_every_command_has_a_module_that_could_be_imported() -> None:
    modules = {".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in COMMAND_LINE}
    assert modules >= COMMAND_MODULES and len(COMMAND_MODULES) == len(COMMANDS)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("from nmtprune.cli.score import score", "cli.score"),
        ("from nmtprune.cli import score", "cli.score"),
        ("from nmtprune import slim", "slim"),
        ("import nmtprune.cli.score", "cli.score"),
        ("def f():\n    from nmtprune.model.search import passes", "model.search"),
    ],
)
def test_imports_are_found(tmp_path: Path, code: str, found: str) -> None:
    (tmp_path / "module.py").write_text(code)
    assert found in set(_imports(tmp_path / "module.py"))


def _forbidden_imports(path: Path) -> Iterator[str]:
    part = _part(path)
    if part not in ALLOWED and part not in EVERYTHING_BUT_CLI:
        yield f"{part} has no import rule"
        return
    for name in _imports(path):
        own = name.split(".")[0]
        if part in EVERYTHING_BUT_CLI:
            allowed = own != "cli"
        else:
            rules = ALLOWED[part]
            allowed = own in {"errors", part, *rules} or any(name.startswith(rule) for rule in rules if "." in rule)
        if not allowed:
            yield f"imports {name}"


def test_imports_follow_the_layers() -> None:
    assert _against((path for path in MODULES if path not in COMMAND_LINE), _forbidden_imports) == {}


def _is_below_ablation(path: Path) -> bool:
    return path.is_relative_to(PACKAGE / "model") and not path.is_relative_to(PACKAGE / "model" / "ablation")


def _imported_ablation(path: Path) -> list[str]:
    return [name for name in _imports(path) if name.startswith("model.ablation")]


def test_the_model_and_its_search_know_no_ablation() -> None:
    assert _against(filter(_is_below_ablation, MODULES), _imported_ablation) == {}


def _packages(path: Path) -> set[str]:
    """Top-level packages that a module imports anywhere."""
    return {
        alias.name.split(".")[0]
        for node in _import_statements(path)
        for alias in ([ast.alias(node.module or "")] if isinstance(node, ast.ImportFrom) else node.names)
    }


BELOW_THE_COMMAND_LINE = [path for path in MODULES if _part(path) not in ("cli", "demo")]


def test_only_the_command_line_knows_click_and_rich() -> None:
    assert _against(BELOW_THE_COMMAND_LINE, lambda path: _packages(path) & {"click", "rich"}) == {}


def test_plans_budgets_and_scores_need_no_torch() -> None:
    allowed = sys.stdlib_module_names | {"nmtprune", "numpy", "pydantic"}
    assert _against((path for path in MODULES if _part(path) in PURE), lambda path: _packages(path) - allowed) == {}


OUTSIDE_FORMATS = [path for path in MODULES if _part(path) != "formats"]
FORMATS = {each.format for each in classes()}
_KINDS = {base for each in classes() for base in each.__mro__ if issubclass(base, Checkpoint)}
CLASSES = {kind.__name__ for kind in _KINDS - {Checkpoint}}
TESTS_OF_TYPE = {"isinstance": 1, "issubclass": 1, "cast": 0}
"""Functions that say of which class something is, and the place of the class among their arguments."""

MAY_IMPORT = "fairseq_plugin"
"""fairseq's own plug-in reads fairseq's own files."""

IS_A_PACKAGE = "error.name != 'fairseq'"
"""The name of the package that is missing, which is that of the format by chance."""


def _told_apart(code: ast.Module) -> Iterator[str]:
    """Where code asks for the format of a checkpoint."""
    for node in ast.walk(code):
        if any(_is_told_apart(node)):
            yield f"line {getattr(node, 'lineno', '?')}: {ast.unparse(node)}"


def _is_told_apart(node: ast.AST) -> Iterator[bool]:
    match node:
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=args) if name in TESTS_OF_TYPE:
            yield from (_words(arg) & CLASSES != set() for arg in args[TESTS_OF_TYPE[name] :][:1])
        case ast.Compare(left=left, comparators=others):
            found = any(_constants(side) & FORMATS or _names(side) & CLASSES for side in (left, *others))
            yield found and ast.unparse(node) != IS_A_PACKAGE
        case ast.MatchValue(value=value):
            yield bool(_constants(value) & FORMATS)
        case ast.MatchClass(cls=cls):
            yield bool(_names(cls) & CLASSES)
        case ast.Subscript(slice=ast.Attribute(attr="format")):
            yield True
        case ast.Call(func=ast.Attribute(attr="get"), args=[ast.Attribute(attr="format"), *_]):
            yield True


def _words(node: ast.AST) -> set[str]:
    """Names in an expression and in the strings that stand for types in it."""
    texts = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)}
    return _names(node) | {name for text in texts for name in _names(ast.parse(text, mode="eval"))}


def _names(node: ast.AST) -> set[str]:
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    return names | {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}


def _constants(node: ast.expr) -> set[object]:
    """A constant, or those of a tuple, list or set."""
    values = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
    return {value.value for value in values if isinstance(value, ast.Constant)}


def _known_formats(path: Path) -> Iterator[str]:
    """Where a module tells formats apart, and classes of formats that it imports, for the types alone or not."""
    yield from _told_apart(_tree(path))
    if _part(path) != MAY_IMPORT:
        names = {each.__name__ for each in classes()}
        yield from (
            f"imports {alias.name}"
            for node in _import_statements(path)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
            if alias.name in names
        )


def test_only_formats_tells_formats_apart() -> None:
    assert _against(OUTSIDE_FORMATS, _known_formats) == {}


@pytest.mark.parametrize(
    "code",
    [
        "isinstance(checkpoint, FairseqCheckpoint)",
        "isinstance(checkpoint, (int, marian.MarianCheckpoint))",
        "isinstance(checkpoint, FairseqCheckpoint | None)",
        "isinstance(checkpoint, TrainableCheckpoint)",
        "issubclass(kind, FairseqCheckpoint)",
        "type(checkpoint) is MarianCheckpoint",
        "cast('FairseqCheckpoint | None', checkpoint).state",
        "typing.cast(MarianCheckpoint, checkpoint)",
        "checkpoint.format == 'marian'",
        "'fairseq' != checkpoint.format",
        "checkpoint.format in ('fairseq', 'other')",
        "kind = checkpoint.format\nif kind == 'fairseq':\n    pass",
        "READERS[checkpoint.format](checkpoint)",
        "READERS.get(checkpoint.format)",
        "match checkpoint:\n    case MarianCheckpoint():\n        pass",
        "match checkpoint.format:\n    case 'marian' | 'other':\n        pass",
    ],
)
def test_what_tells_formats_apart_is_found(code: str) -> None:
    assert len(list(_told_apart(ast.parse(code)))) == 1


@pytest.mark.parametrize(
    "code",
    [
        "before.format != after.format",
        "open_engine('marian', checkpoint, settings)",
        "checkpoint.trainable().progress",
        "isinstance(value, int)",
        "f'a checkpoint of {checkpoint.format}'",
    ],
)
def test_what_holds_for_every_format_is_not(code: str) -> None:
    assert list(_told_apart(ast.parse(code))) == []


@pytest.mark.parametrize("command", [[], ["score"], ["greedy"], ["lottery"]])
def test_help_imports_neither_torch_nor_fairseq(command: list[str]) -> None:
    code = (
        "import sys\nfrom nmtprune.cli.main import main\n"
        f"try:\n    main([*{command}, '--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'fairseq', 'scipy', 'matplotlib', 'sacrebleu', 'sentencepiece'} & set(sys.modules)\n"
        "sys.exit(','.join(sorted(heavy)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Usage: ")
