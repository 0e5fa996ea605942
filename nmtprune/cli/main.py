"""The command `nmtprune`: one group of lazily imported commands, and the one place where errors become exit codes."""

import importlib
import os
import sys
import traceback
from typing import Any

import click

from nmtprune.cli import options
from nmtprune.cli.panels import Panel, PanelGroup, panel_option
from nmtprune.cli.repeats import refuse_repeats
from nmtprune.errors import NmtpruneError

COMMANDS = {
    "inspect": "nmtprune.cli.inspect:inspect",
    "plan": "nmtprune.cli.plan:plan",
    "slim": "nmtprune.cli.slim:slim",
    "refit": "nmtprune.cli.refit:refit",
    "export": "nmtprune.cli.export:export",
    "convert": "nmtprune.cli.convert:convert",
    "bench": "nmtprune.cli.bench:bench",
    "check": "nmtprune.cli.check:check",
    "score": "nmtprune.cli.score:score",
    "greedy": "nmtprune.cli.greedy:greedy",
    "l0": "nmtprune.cli.l0:l0",
    "lottery": "nmtprune.cli.lottery:lottery",
    "translate": "nmtprune.cli.translate:translate",
    "compare": "nmtprune.cli.compare:compare",
    "drift": "nmtprune.cli.drift:drift",
    "functions": "nmtprune.cli.functions:functions",
    "attention": "nmtprune.cli.attention:attention",
    "report": "nmtprune.cli.report:report",
    "user-dir": "nmtprune.cli.user_dir:user_dir",
    "completion": "nmtprune.cli.completion:completion",
}

INTERNAL_ERROR = 1
USAGE_ERROR = 2
INTERRUPTED = 130

_SPINS = "1000"
"""How often an OpenMP thread that waits looks again before it sleeps: some 20 microseconds."""


class CommandGroup(PanelGroup):
    """A group that imports a command when it is called, and prints every failure as one line with its exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order in which a user meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        _give_environment_variables(command, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command and its arguments, in which no option with one value may be given twice."""
        if args and not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            _refuse_unknown(ctx, args[0])
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and not ctx.resilient_parsing:
            refuse_repeats(ctx, command, rest)
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an exception becomes one line on stderr and the documented exit code."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except NmtpruneError as error:
            code = _report(str(error), error.exit_code)
        except KeyboardInterrupt:
            code = _report("interrupted", INTERRUPTED)
        except BrokenPipeError:
            # The reader of stdout went away (`| head`); writing to it again at exit would fail once more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 0
        except Exception as error:
            hint = "" if options.verbosity() > 0 else " (-v shows the traceback)"
            code = _report(f"internal error: {type(error).__name__}: {error}{hint}", INTERNAL_ERROR)
        return ctx.exit(code)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run, and end the process; usage errors are one line too."""
        kwargs["standalone_mode"] = False
        try:
            sys.exit(super().main(*args, **kwargs) or 0)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            sys.exit(USAGE_ERROR)
        except click.ClickException as error:
            click.echo(f"Error: {error.format_message()}{_help_hint(error)}", err=True)
            sys.exit(USAGE_ERROR)
        except click.Abort:
            click.echo("Error: interrupted", err=True)
            sys.exit(INTERRUPTED)


def _refuse_unknown(context: click.Context, name: str) -> None:
    """Raise UsageError for a name that is no command, with the commands of similar names."""
    from difflib import get_close_matches

    similar = [f"'{found}'" for found in get_close_matches(name, COMMANDS)]
    hint = f" Did you mean {' or '.join(similar)}?" if similar else ""
    raise click.UsageError(f"No such command '{name}'.{hint}", context)


def _give_environment_variables(command: click.Command, name: str) -> None:
    """``NMTPRUNE_<COMMAND>_<OPTION>`` for every option, by the spelling that a user types."""
    for parameter in command.params:
        long = [spelling for spelling in parameter.opts if spelling.startswith("--")]
        if isinstance(parameter, click.Option) and long and parameter.envvar is None:
            parameter.envvar = f"NMTPRUNE_{name}_{long[0].lstrip('-')}".replace("-", "_").upper()


def _report(message: str, code: int) -> int:
    if options.verbosity() > 0:
        traceback.print_exc()
    click.echo("Error: " + " ".join(options.in_options(message).split("\n")), err=True)
    return code


def _help_hint(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f" (see '{context.command_path} --help')" if context else ""


def _print_version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from nmtprune.cli.version import version_report

        click.echo(version_report())
        context.exit()


@click.group(
    cls=CommandGroup,
    name="nmtprune",
    epilog="Example: nmtprune inspect checkpoint_best.pt; nmtprune COMMAND --help shows one for each command.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@panel_option(
    Panel.GENERAL,
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the versions of nmtprune and of the packages that it uses, and the available devices.",
)
def main() -> None:
    """Remove attention heads, neurons and layers from translation models, and prove that nothing else changed.

    Exit codes: 0 done, 1 internal error, 2 usage, 3 checkpoint, 4 plan or budget, 5 data, 6 engine, 7 quality gate,
    8 output, 9 training, 130 interrupted.
    """
    _let_waiting_threads_sleep()


def _let_waiting_threads_sleep() -> None:
    """Set how long OpenMP's threads spin, where the user has not, before torch is imported and reads it.

    They spin for milliseconds by default, on cores that other processes need: next to other jobs that makes two
    threads several times slower than one.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)


if __name__ == "__main__":
    main()
