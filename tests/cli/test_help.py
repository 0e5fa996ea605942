"""Help pages: every option in a panel, readable in a pipe of any width, and near misses of command names."""

from collections import Counter
from importlib import import_module
from itertools import takewhile

import click
import pytest
from click.testing import CliRunner

from nmtprune.cli.main import COMMANDS, main
from nmtprune.cli.panels import Panel, PanelCommand, PanelOption
from tests.support.cli import nmtprune, refused

LONG, FULL = 20, 15
"""Commands with more options than LONG have at most FULL of them in a panel."""


def command(name: str) -> click.Command:
    module, _, attribute = COMMANDS[name].partition(":")
    found: click.Command = getattr(import_module(module), attribute)
    return found


def options(name: str) -> list[click.Option]:
    return [parameter for parameter in command(name).params if isinstance(parameter, click.Option)]


def page(name: str, width: int) -> list[str]:
    result = CliRunner().invoke(main, [name, "--help"], terminal_width=width)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout.splitlines()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_stands_in_the_panel_that_it_names(name: str) -> None:
    assert isinstance(command(name), PanelCommand)
    shown: dict[str, str] = {}
    heading = ""
    for line in takewhile(lambda line: not line.startswith("  Example"), page(name, 100)):
        if line and not line.startswith(" "):
            heading = line.removesuffix(":")
        elif line.startswith("  -"):
            spellings = line.strip().split("  ")[0].split()
            shown |= dict.fromkeys((word for word in spellings if word.startswith("--")), heading)
    for option in options(name):
        assert isinstance(option, PanelOption), option.name
        assert shown[max(option.opts, key=len).split("/")[0]] == option.panel.value
    assert shown["--help"] == Panel.GENERAL.value


@pytest.mark.parametrize("name", [name for name in COMMANDS if len(options(name)) > LONG])
def test_a_panel_of_a_long_command_can_be_taken_in_at_a_glance(name: str) -> None:
    sizes = Counter(option.panel for option in options(name) if isinstance(option, PanelOption))
    assert max(sizes.values()) <= FULL, sizes


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_is_plain_text_that_fits_its_width(name: str, width: int) -> None:
    lines = page(name, width)
    assert len(lines) > 5
    assert all(line.isascii() and line.isprintable() and len(line) <= width for line in lines)


@pytest.mark.parametrize("name", COMMANDS)
def test_descriptions_are_sentences_in_one_column(name: str) -> None:
    for option in options(name):
        text = option.help or ""
        assert text.endswith(".") and not text.startswith(" "), f"{name} --{option.name}: {text}"
    columns = {len(line) - len(line.lstrip()) for line in page(name, 80) if line.startswith(" " * 8)}
    assert len(columns) <= 1, columns


@pytest.mark.parametrize("name", COMMANDS)
def test_no_line_break_falls_into_a_word_of_the_example(name: str) -> None:
    shown = " ".join(page(name, 80)).partition("  Example:")[2]
    assert ["Example:", *shown.split()] == (command(name).epilog or "").split()


def test_the_orders_of_greedy_are_those_that_its_help_names() -> None:
    from nmtprune.runs.greedy.orders import parse_orders

    order = next(option for option in options("greedy") if option.name == "orders")
    listed = (order.help or "").partition(": ")[2].partition(", or a score FILE")[0]
    names = [part.split(" (")[0].strip() for part in listed.split(", ")]
    assert len(names) == 12
    assert [each.name for each in parse_orders(names, reestimate=False)] == names


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("scor", "'score'"), ("lotery", "'lottery'"), ("inspekt", "'inspect'"), ("translat", "'translate'")],
)
def test_a_near_miss_of_a_command_names_the_command(wrong: str, meant: str) -> None:
    code, line = refused(wrong, "x.pt")
    assert code == 2
    assert line.startswith(f"No such command '{wrong}'. Did you mean {meant}? (see ")


def test_a_command_like_no_other_gets_no_suggestion() -> None:
    assert refused("zzz") == (2, "No such command 'zzz'. (see 'nmtprune --help')")


def test_an_unknown_option_of_the_group_is_no_unknown_command() -> None:
    assert refused("--versoin")[1].startswith("No such option '--versoin'. Did you mean '--version'?")
    assert nmtprune("--version").code == 0
