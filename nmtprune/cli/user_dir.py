"""The command `nmtprune user-dir`."""

import click

from nmtprune.cli.panels import PanelCommand
from nmtprune.user_dir import USER_DIR


@click.command(
    "user-dir",
    cls=PanelCommand,
    epilog="Example: fairseq-generate BIN --path slim.pt --user-dir $(nmtprune user-dir)",
    short_help="Print the folder for fairseq's --user-dir.",
)
def user_dir() -> None:
    """Print the folder for fairseq's --user-dir.

    With this folder, fairseq-generate, -interactive, -validate, -score and -eval-lm load slim checkpoints, and
    fairseq-train trains them with --arch nmtprune (nmtprune_lm for language models). Checkpoints that have all of their
    heads, and one number of neurons per stack, run in stock fairseq without it.
    """
    click.echo(USER_DIR)
