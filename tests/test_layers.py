"""The import rules of docs/architecture.md, held against the code, and what the command line may import at start."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import nmtprune
from nmtprune.cli.main import COMMANDS

PACKAGE = Path(nmtprune.__file__).parent
ALLOWED = {
    "errors": set(),
    "architecture": set(),
    "files": set(),
    "network": set(),
    "profile": set(),
    "strictjson": {"files"},
    "plan": {"architecture", "files", "strictjson"},
    "budget": {"architecture", "plan"},
    "scores": {"architecture", "plan", "budget", "files", "strictjson"},
    "provenance": {"files"},
    "gates": {"architecture"},
    "formats": {"architecture", "gates", "network", "profile", "plan", "files", "provenance"},
    "slim": {"architecture", "plan", "formats.base"},
    "summary": {"architecture", "formats", "slim", "plan"},
    "model": {"architecture", "network"},
    "data": {"files", "profile"},
    "export": {"architecture", "network", "formats", "model", "data"},
    "engines": {"architecture", "network", "formats", "model", "data", "plan", "slim", "export", "user_dir"},
    "evaluate": {"architecture", "plan", "formats", "model", "data", "engines", "scores"},
    "methods": {"architecture", "plan", "budget", "scores", "model", "data", "formats"},
    "fairseq_plugin": {"architecture", "gates", "plan", "formats", "model"},
    "user_dir": {"fairseq_plugin"},
    "plots": {"architecture", "plan", "scores", "files"},
}
EVERYTHING_BUT_CLI = {"runs", "demo"}
COMMAND_MODULES = {target.partition(":")[0].removeprefix("nmtprune.") for target in COMMANDS.values()}
PURE = {"errors", "architecture", "budget", "plan", "scores"}
"""What needs the standard library, numpy and pydantic alone."""


def _imports(path: Path) -> Iterator[str]:
    """Dotted names below nmtprune that a module imports anywhere, type-checking imports left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "nmtprune":
            below = node.module.removeprefix("nmtprune").removeprefix(".")
            yield from [below] if below else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (
                alias.name.removeprefix("nmtprune.") for alias in node.names if alias.name.startswith("nmtprune.")
            )


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_layers(path: Path) -> None:
    part = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if part == "cli":
        commands = set(_imports(path)) & COMMAND_MODULES
        assert not commands, "a command imports another command: what both need belongs to neither"
        return
    assert part in ALLOWED or part in EVERYTHING_BUT_CLI, f"{part} has no import rule"
    for name in _imports(path):
        own = name.split(".")[0]
        if part in EVERYTHING_BUT_CLI:
            assert own != "cli"
        elif own not in ("errors", part):
            allowed = ALLOWED[part]
            assert own in allowed or any(name.startswith(rule) for rule in allowed if "." in rule), f"imports {name}"


def _packages(path: Path) -> set[str]:
    """Top-level packages that a module imports anywhere."""
    return {
        alias.name.split(".")[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in ([ast.alias(node.module or "")] if isinstance(node, ast.ImportFrom) else node.names)
    }


def _part(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


BELOW_THE_COMMAND_LINE = [path for path in MODULES if _part(path) not in ("cli", "demo")]


@pytest.mark.parametrize("path", BELOW_THE_COMMAND_LINE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_command_line_knows_click_and_rich(path: Path) -> None:
    assert not _packages(path) & {"click", "rich"}


@pytest.mark.parametrize(
    "path", [path for path in MODULES if _part(path) in PURE], ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_plans_budgets_and_scores_need_no_torch(path: Path) -> None:
    assert _packages(path) <= sys.stdlib_module_names | {"nmtprune", "numpy", "pydantic"}


def test_help_imports_neither_torch_nor_fairseq() -> None:
    code = (
        "import sys\nfrom nmtprune.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'fairseq', 'scipy', 'matplotlib', 'sacrebleu', 'sentencepiece'} & set(sys.modules)\n"
        "sys.exit(','.join(sorted(heavy)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Usage: ")
