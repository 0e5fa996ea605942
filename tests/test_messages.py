"""Messages below runs/ name settings as Python does, in backticks; the command line spells them as its options."""

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click

import nmtprune
from nmtprune.cli.main import COMMANDS, main
from nmtprune.cli.options import SETTINGS, in_options, spelled
from nmtprune.model.search import MarianSearchOptions, SearchOptions
from tests.support.cli import refused

PACKAGE = Path(nmtprune.__file__).parent
MAY_NAME_OPTIONS = ("cli", "runs", "demo", "page")
"""Commands, the runs that they are made of, and the page that tells their users what to run next."""

SPEAK_TO_PROGRAMS = (
    "training", "fairseq_plugin", "user_dir", "gates", "engines/fairseq.py", "engines/marian.py", "data/moses.py",
)  # fmt: skip
"""What writes or reads command lines of fairseq and Marian, or names its values as they do."""

OF_OTHERS = {
    "--dataset-impl", "--trainpref", "--validpref", "--testpref", "--use-sharded-state", "--user-dir", "--mini-batch",
    "--echo", "--force-reinstall", "--alignment", "--only-source",
}  # fmt: skip
"""Options of other programs, which a message tells the user to give them."""

_OPTION = re.compile(r"(?<![\w`-])--[a-z][\w-]*")
_SETTING = re.compile(r"`(\w+)`")


def _texts(path: Path) -> Iterator[tuple[int, str]]:
    """String constants of a module with their lines.

    Left out are docstrings, and what is written for the command line: names of fields in a run's state, help of the
    settings of scorers.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    others = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if _is_for_the_command_line(node):
            others |= {id(each) for each in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in others:
            yield node.lineno, node.value


def _is_for_the_command_line(node: ast.AST) -> bool:
    match node:
        case ast.keyword(arg="metadata") | ast.Call(func=ast.Name(id="setting")):
            return True
        case ast.Assign(targets=[ast.Name(id="searches" | "summary" | "brief")]):
            return True
    return False


def _below(*more: str) -> list[Path]:
    left_out = (*MAY_NAME_OPTIONS, *more)
    names = ((path, str(path.relative_to(PACKAGE))) for path in sorted(PACKAGE.rglob("*.py")))
    return [path for path, name in names if name not in left_out and name.split("/")[0] not in left_out]


def test_no_message_names_an_option_of_a_command() -> None:
    found = {
        f"{path.relative_to(PACKAGE)}:{line}: {option}"
        for path in _below(*SPEAK_TO_PROGRAMS)
        for line, text in _texts(path)
        for option in _OPTION.findall(text)
        if option not in OF_OTHERS
    }
    assert found == set()


def test_settings_in_messages_are_those_that_the_command_line_spells() -> None:
    named = {name for path in _below() for _, text in _texts(path) for name in _SETTING.findall(text)}
    assert named - SETTINGS == set()
    assert {each.name for options in (SearchOptions, MarianSearchOptions) for each in fields(options)} <= SETTINGS


def test_settings_are_parameters_of_commands_under_their_spelling() -> None:
    commands = [main.get_command(click.Context(main), command) for command in COMMANDS]  # type: ignore[attr-defined]
    options = {own.name: own.opts for command in commands for own in command.params if isinstance(own, click.Option)}
    assert {name for name in SETTINGS if spelled(name) not in options.get(name, ())} == set()


def test_a_message_in_options() -> None:
    message = "`max_tokens` 4 is too small in `x`.txt: `skip_invalid` or `unknown`"
    expected = "--max-tokens 4 is too small in `x`.txt: --skip-invalid-size-inputs-valid-test or `unknown`"
    assert in_options(message) == expected


def test_users_read_options(tiny: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text("{}")
    message = f"{plan}: exists (--force replaces it)"
    assert refused("plan", tiny, "--random", 1, "-o", plan) == (8, message)
    assert refused("translate", tiny, "--source", plan)[1].startswith("data: --source needs --data-bin DIR, whose")
