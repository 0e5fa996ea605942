"""Options that are given twice: the last one would win, and nobody would know of the others."""

from collections import Counter
from collections.abc import Sequence

import click

_TIMES = {2: "twice"}
_EXCLUDING = {"quiet", "verbose"}
"""Parameters that contradict each other."""


def refuse_repeats(group: click.Context, command: click.Command, arguments: Sequence[str]) -> None:
    """Check the arguments of a command for options that take one value and are given several times.

    Flags may be repeated, since that changes nothing, and so may options that collect values. The command line wins
    over environment variables, which are not looked at.

    Raises:
        click.UsageError: there are such options, all of them.
    """
    context = click.Context(command, parent=group, info_name=command.name, **command.context_settings)
    *_, order = command.make_parser(context).parse_args([*arguments])
    given = Counter(parameter for parameter in order if isinstance(parameter, click.Option))
    if any("--help" in parameter.opts for parameter in given):
        return
    faults = [
        f"{_spelled(option)} is given {_TIMES.get(times, f'{times} times')}"
        for option, times in given.items()
        if times > 1 and not (option.multiple or option.is_flag or option.count)
    ]
    contrary = [_spelled(option) for option in given if option.name in _EXCLUDING]
    if len(contrary) > 1:
        faults.append(f"give {' or '.join(contrary)}, not both")
    if faults:
        raise click.UsageError("; ".join(faults), context)


def _spelled(option: click.Option) -> str:
    """The long form of an option."""
    return max(option.opts, key=len)
