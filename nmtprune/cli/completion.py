"""The command `nmtprune completion`."""

import click
from click.shell_completion import get_completion_class

PROGRAM = "nmtprune"


@click.command(
    epilog='Example: eval "$(nmtprune completion bash)" in ~/.bashrc; the same for zsh; '
    "nmtprune completion fish | source in fish.",
    short_help="Print a script that completes commands and options in a shell.",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script with which SHELL completes commands, options and file names of nmtprune."""
    from nmtprune.cli.main import main

    found = get_completion_class(shell)
    if found is None:  # the choice above names those that click has
        raise click.UsageError(f"{shell}: click completes nothing there")
    click.echo(found(main, {}, PROGRAM, f"_{PROGRAM.upper()}_COMPLETE").source())
