"""The command `nmtprune completion`."""

import click
from click.shell_completion import get_completion_class

from nmtprune.cli.panels import PanelCommand

PROGRAM = "nmtprune"


@click.command(
    cls=PanelCommand,
    epilog='Example: eval "$(nmtprune completion bash)" in ~/.bashrc; likewise for zsh; '
    "nmtprune completion fish | source in fish.",
    short_help="Print a completion script for a shell.",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that makes SHELL complete the commands, options and file names of nmtprune."""
    from nmtprune.cli.main import main

    found = get_completion_class(shell)
    if found is None:  # the choice above names those that click has
        raise click.UsageError(f"{shell}: click has no completion for this shell")
    click.echo(found(main, {}, PROGRAM, f"_{PROGRAM.upper()}_COMPLETE").source())
