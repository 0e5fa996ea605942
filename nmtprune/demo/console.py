"""How the small commands of this package end: failures are one line on stderr with the documented exit code."""

import sys
from typing import NoReturn

import click

from nmtprune.errors import NmtpruneError

USAGE_ERROR = 2
INTERRUPTED = 130

_ADVICE = " (`force` replaces it)"
"""Of the library, for programs with such an option; these commands have none and replace no file."""


def run_as_program(command: click.Command) -> NoReturn:
    """Run a command with the arguments of the process and exit."""
    try:
        command.main(standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        fail(error.format_message(), USAGE_ERROR)
    except NmtpruneError as error:
        fail(str(error).removesuffix(_ADVICE), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        fail("interrupted", INTERRUPTED)
    sys.exit(0)


def fail(message: str, code: int) -> NoReturn:
    """Print one line and exit."""
    click.echo("Error: " + " ".join(message.splitlines()), err=True)
    sys.exit(code)
