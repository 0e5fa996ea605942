"""The options that name TEST DATA, shared by commands that choose on one set of sentences and report another one."""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from nmtprune.cli.option_groups import PATH_OR_STDIN, REFERENCES, added
from nmtprune.cli.panels import Panel, panel_option
from nmtprune.data.directions import Directions, Sets
from nmtprune.data.options import DataOptions
from nmtprune.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])


def with_test_data(command: F) -> F:
    """TEST DATA in addition to DATA: the command receives ``test_data`` too, a `DataOptions` or None.

    Stands below `data_options` in the list of decorators.
    """

    @functools.wraps(command)
    def wrapper(*args: Any, **values: Any) -> Any:
        named = {name: values.pop(f"test_{name}") for name in ("subset", "source", "reference", "examples")}
        return command(*args, **values, test_data=_test_data_of(values["data"], **named))

    options = (
        panel_option(
            Panel.TEST_DATA,
            "--test-subset",
            metavar="NAME[,NAME...]",
            help="Binarized subset of --data-bin for the reported results.",
        ),
        panel_option(
            Panel.TEST_DATA,
            "--test-source",
            type=PATH_OR_STDIN,
            metavar="FILE",
            help="Raw text for the reported results, instead of a subset.",
        ),
        panel_option(
            Panel.TEST_DATA,
            "--test-reference",
            type=REFERENCES,
            multiple=True,
            metavar="FILE",
            help="References of --test-source. Repeat the option if sentences have several references.",
        ),
        panel_option(
            Panel.TEST_DATA,
            "--test-examples",
            type=PATH_OR_STDIN,
            metavar="FILE",
            help="Table for the reported results of a classifier, with the columns of --examples.",
        ),
    )
    decorated: F = added(wrapper, options)
    return decorated


def _test_data_of(
    data: Sets, subset: str | None, source: Path | None, reference: tuple[Path, ...], examples: Path | None
) -> DataOptions | None:
    if isinstance(data, Directions):
        if subset is not None or source is not None or reference or examples is not None:
            raise UsageError("test data goes with one set of sentences, not with --directions")
        return None
    if examples is not None:
        if subset is not None or source is not None or reference:
            raise UsageError("test data: --test-examples excludes --test-subset, --test-source and --test-reference")
        if data.examples is None:
            raise UsageError("test data: --test-examples needs --examples FILE")
        return replace(data, examples=examples)
    if subset is not None and source is not None:
        raise UsageError("test data: give --test-subset or --test-source, not both")
    if source is not None and not reference:
        raise UsageError("test data: --test-source needs --test-reference FILE")
    if subset is None and source is None:
        if reference:
            raise UsageError("test data: --test-reference needs --test-source FILE or --test-subset NAME")
        return None
    return replace(data, subset=subset, source=source, reference=reference)
