"""How the small commands of this package end: failures are one line on stderr with the documented exit code."""

import sys
from typing import NoReturn

import click

from nmtprune.errors import NmtpruneError

USAGE_ERROR = 2
INTERRUPTED = 130


def run_as_program(command: click.Command) -> NoReturn:
    """Run a command with the arguments of the process and exit."""
    try:
        command.main(standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        fail(error.format_message(), USAGE_ERROR)
    except NmtpruneError as error:
        fail(_in_options(str(error), command), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        fail("interrupted", INTERRUPTED)
    sys.exit(0)


def _in_options(message: str, command: click.Command) -> str:
    """A message of the library, which names settings as Python does (`max_tokens`), with the command's options."""
    for parameter in command.params:
        message = message.replace(f"`{parameter.name}`", max(parameter.opts, key=len))
    return message


def fail(message: str, code: int) -> NoReturn:
    """Print one line and exit."""
    click.echo("Error: " + " ".join(message.splitlines()), err=True)
    sys.exit(code)
