"""The options for several directions: the file that lists them, and which figure decides."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from nmtprune.cli.options import given, refuse, spelled, typed
from nmtprune.cli.panels import Panel, panel_option
from nmtprune.data.directions import ACROSS, KEYS, MEAN, Direction, Directions, in_direction, read_directions
from nmtprune.data.options import DataOptions
from nmtprune.errors import UsageError

directions_option = panel_option(
    Panel.DATA,
    "--directions",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="YAML list of the directions of a multilingual model, each a name (en-de) or an object with a name and what "
    f"differs from the command line: {', '.join(key for key in KEYS if key != 'name')}. Paths are relative to FILE.",
)

across_option = panel_option(
    Panel.DATA,
    "--across",
    type=click.Choice(ACROSS),
    default=MEAN,
    show_default=True,
    help="With --directions, the figure that decides: the mean of all directions, or the one that loses most (worst).",
)


def check_across(data: object) -> None:
    """Refuse --across without directions.

    Raises:
        UsageError: it was given.
    """
    if not isinstance(data, Directions):
        refuse([f"{spelled(name)} goes with --directions" for name in given(["across"])])


def directions_of(
    file: Path, shared: Mapping[str, Any], completed: Callable[[dict[str, Any]], DataOptions]
) -> Directions:
    """The directions that a file lists, each completed by the options of the command line.

    Args:
        file: that the user named.
        shared: values of the command line by the names of `DataOptions`.
        completed: makes DATA of such values.

    Raises:
        DataError: as for `read_directions`.
        UsageError: an option that a direction names too, or options that do not fit together.
    """
    entries = read_directions(file)
    found, faults = [], []
    for entry in entries:
        faults += [
            f"{option} is on the command line, and direction {entry.name} names it" for option in typed(entry.given)
        ]
    if faults:
        raise UsageError.of_faults(f"{file}: say it in one of the two places", faults)
    for entry in entries:
        with in_direction(entry.name):
            found.append(Direction(entry.name, completed({**shared, **entry.data}), entry))
    return Directions(file, tuple(found))
