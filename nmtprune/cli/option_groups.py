"""What options of DATA have in common: their paths, and how a list of them becomes those of a command."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

# Existence is not checked here: a missing file is bad data (exit code 5), not bad usage (2).
PATH = click.Path(path_type=Path)
PATH_OR_STDIN = click.Path(path_type=Path, allow_dash=True)


class _OneOfSeveral(click.Path):
    """A path of an option that may be repeated; its environment variable is one path, which may contain colons."""

    def split_envvar_value(self, rv: str) -> tuple[str, ...]:
        """The whole value."""
        return (rv,)


REFERENCES = _OneOfSeveral(path_type=Path, allow_dash=True)


def added(command: Callable[..., Any], options: tuple[Callable[[Any], Any], ...]) -> Any:
    """A command with options, in the order of its help."""
    for option in reversed(options):
        command = option(command)
    return command
