"""Options with one value are given once, whatever the command."""

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from nmtprune.cli.main import COMMANDS, main
from tests.support.cli import nmtprune


def _options() -> Iterator[tuple[str, click.Option]]:
    context = click.Context(main)
    for name in COMMANDS:
        command = main.get_command(context, name)
        assert command is not None
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                yield name, parameter


SINGLE = [(name, each) for name, each in _options() if not (each.multiple or each.is_flag or each.count)]
OTHERS = [(name, each) for name, each in _options() if each.multiple or each.is_flag or each.count]


def _given(option: click.Option, spelled: str) -> list[str]:
    return [spelled] if option.is_flag else [spelled, *["1"] * option.nargs]


def test_every_command_is_looked_at() -> None:
    assert {"score", "greedy", "check", "bench", "l0", "lottery", "plan", "slim", "translate"} <= {n for n, _ in SINGLE}
    assert len(SINGLE) > 200


@pytest.mark.parametrize("command", sorted({name for name, _ in SINGLE}))
def test_a_repeated_option_is_refused(command: str) -> None:
    for option in [each for name, each in SINGLE if name == command]:
        first, *_, last = (*option.opts, *option.opts)
        result = nmtprune(command, "x", *_given(option, first), *_given(option, last))
        name = max(option.opts, key=len)
        said = f"Error: {name} is given twice (see 'nmtprune {command} --help')\n"
        assert (result.code, result.stdout, result.stderr) == (2, "", said)


@pytest.mark.parametrize("command", sorted({name for name, _ in OTHERS}))
def test_flags_and_collecting_options_may_be_repeated(command: str) -> None:
    for option in [each for name, each in OTHERS if name == command]:
        result = nmtprune(command, *_given(option, option.opts[0]) * 2, "--no-such-option")
        assert result.code == 2 and "No such option" in result.stderr and "given" not in result.stderr


def test_all_repeats_are_named_at_once() -> None:
    result = nmtprune("check", "m", "--beam", 1, "--beam", 2, "--beam=3", "--vocabs", "a", "b", "--vocabs", "c", "d")
    assert result.stderr == (
        "Error: --beam is given 3 times; --vocabs is given twice (see 'nmtprune check --help')\n"
    )  # fmt: skip
    result = nmtprune("inspect", "m", "-q", "-v")
    assert (result.code, result.stderr) == (
        2, "Error: give --quiet or --verbose, not both (see 'nmtprune inspect --help')\n"
    )  # fmt: skip


def test_the_command_line_wins_over_the_environment(tiny: Path) -> None:
    result = nmtprune("inspect", tiny, "--format", "json", env={"NMTPRUNE_INSPECT_FORMAT": "tsv"})
    assert result.code == 0 and result.stdout.startswith("{")


def test_values_and_arguments_after_dashes_are_no_options(tiny: Path) -> None:
    result = nmtprune("inspect", "--", tiny)
    assert result.code == 0, result.stderr
    result = nmtprune("l0", "m", "--data-bin", "d", "--l0-weight", 1, "-o", "o", "--", "--beam", 1, "--beam", 2)
    assert "given twice" not in result.stderr
