"""The command group: exit codes, one line per failure, environment variables."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from nmtprune import errors
from nmtprune.cli import main as module
from nmtprune.cli.main import COMMANDS, main


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_an_example(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert f"nmtprune {name}" in " ".join(result.stdout.split("Example")[1].split())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NmtpruneError("e"), 1),
        (errors.UsageError("e"), 2),
        (errors.CheckpointError("e"), 3),
        (errors.PlanError("e"), 4),
        (errors.BudgetError("e"), 4),
        (errors.DataError("e"), 5),
        (errors.EngineError("e"), 6),
        (errors.QualityGateError("e"), 7),
        (errors.OutputError("e"), 8),
        (errors.TrainingError("e"), 9),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_become_exit_codes(monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int) -> None:
    @click.command()
    def fail() -> None:
        raise error

    monkeypatch.setattr(module.CommandGroup, "get_command", lambda *_: fail)
    result = CliRunner().invoke(main, ["fail"])
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr == ("Error: interrupted\n" if code == 130 else "Error: e\n")


def test_an_internal_error_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def fail() -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr(module.CommandGroup, "get_command", lambda *_: fail)
    result = CliRunner().invoke(main, ["fail"])
    assert result.exit_code == 1
    assert result.stderr == "Error: internal error: ZeroDivisionError: two lines (-v shows the traceback)\n"


def test_verbose_shows_the_traceback(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["inspect", "-v", str(tmp_path / "no.pt")])
    assert result.exit_code == 3
    assert result.stderr.endswith(f"Error: {tmp_path / 'no.pt'}: there is no such file\n")


def test_usage_errors_are_one_line() -> None:
    result = CliRunner().invoke(main, ["slim", "x.pt"])
    assert (result.exit_code, result.stderr) == (
        2,
        "Error: Missing option '--plan'. (see 'nmtprune slim --help')\n",
    )
    result = CliRunner().invoke(main, ["prune"])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


def test_options_have_environment_variables(tiny: Path) -> None:
    result = CliRunner().invoke(main, ["inspect", str(tiny)], env={"NMTPRUNE_INSPECT_FORMAT": "tsv"})
    assert result.stdout.startswith("module\theads\t")


def test_a_closed_pipe_is_no_error(tiny: Path) -> None:
    program = "import sys; from nmtprune.cli.main import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", program, "inspect", str(tiny)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if process.stdout is not None:
        process.stdout.close()
    _, shown = process.communicate(timeout=60)
    assert (process.returncode, shown) == (0, "")


@pytest.mark.parametrize(
    ("given", "found"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_waiting_threads_sleep_unless_the_user_says_how_long_they_wait(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], found: str | None
) -> None:
    @click.command()
    def show() -> None:
        click.echo(str(os.environ.get("GOMP_SPINCOUNT")))

    monkeypatch.setattr(module.CommandGroup, "get_command", lambda *_: show)
    monkeypatch.setattr(os, "environ", dict(given))
    assert CliRunner().invoke(main, ["show"]).stdout == f"{found}\n"


def test_no_command_imports_torch_before_threads_are_told_to_sleep() -> None:
    program = (
        "import sys, click; from nmtprune.cli.main import COMMANDS, main; "
        "commands = [main.get_command(click.Context(main), name) for name in COMMANDS]; "
        "sys.exit(None in commands or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
