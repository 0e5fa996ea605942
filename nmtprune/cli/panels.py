"""Help pages that group options in panels: every option names its panel where it is defined."""

import textwrap
from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_WIDEST_TERM = 28
"""Columns for the spelling of an option; longer ones have a line of their own."""


class Panel(StrEnum):
    """Headings of help pages, in the order in which a page shows them."""

    MODEL = "Model"
    CONDITIONS = "Conditions"
    SCORING = "Scoring"
    TRAINING = "Training"
    REMOVAL = "Heads to remove"
    OTHERS = "Neurons and layers to remove"
    GATES = "Gates"
    GATE_TRAINING = "Training of gates"
    SYNTHETIC = "Synthetic models"
    CALIBRATION = "Calibration"
    DATA = "Data"
    EXAMPLES = "Texts and labels"
    TEST_DATA = "Test data"
    TEXT = "Text"
    IMPORTANCE = "Importance"
    CONFIDENCE = "Confidence"
    SEARCH = "Search"
    MARIAN_SEARCH = "Search with Marian models"
    HUGGINGFACE_SEARCH = "Search with Hugging Face models"
    ENGINE = "Engine"
    QUALITY = "Quality"
    SIGNIFICANCE = "Significance"
    OUTPUT = "Output"
    GENERAL = "General"


class PanelOption(click.Option):
    """An option with the panel of help pages that it belongs to."""

    def __init__(self, *args: Any, panel: Panel, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.panel = panel

    def get_help_extra(self, ctx: click.Context) -> "click.types.OptionHelpExtra":
        """The notes in brackets after the description; a default in words is shown without parentheses."""
        extra = super().get_help_extra(ctx)
        if isinstance(self.show_default, str):
            extra["default"] = self.show_default
        return extra


def panel_option(panel: Panel, *declarations: str, **attributes: Any) -> Callable[[F], F]:
    """``click.option`` for an option of a panel."""
    return click.option(*declarations, cls=PanelOption, panel=panel, **attributes)


class PanelCommand(click.Command):
    """A command whose help page shows its options panel by panel, all descriptions in one column."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example without breaking an option at a hyphen."""
        if self.epilog:
            formatter.write_paragraph()
            indent = " " * 2
            lines = textwrap.wrap(
                self.epilog,
                formatter.width,
                initial_indent=indent,
                subsequent_indent=indent,
                break_on_hyphens=False,
                break_long_words=False,
            )
            formatter.write("\n".join(lines) + "\n")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section per panel; ``--help``, which click adds, is in the last one."""
        write_panels(self, ctx, formatter)


class PanelGroup(click.Group):
    """A group whose help page shows its own options in the same way, and its commands above them."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, then a section per panel."""
        self.format_commands(ctx, formatter)
        write_panels(self, ctx, formatter)


def write_panels(command: click.Command, context: click.Context, formatter: click.HelpFormatter) -> None:
    """Write a section per panel of the command's options; arguments are in the usage line."""
    rows: dict[Panel, list[tuple[str, str]]] = {}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record is not None:
            rows.setdefault(getattr(parameter, "panel", Panel.GENERAL), []).append(record)
    widths = (len(term) for records in rows.values() for term, _ in records)
    width = max((width for width in widths if width <= _WIDEST_TERM), default=0)
    for panel in sorted(rows, key=list(Panel).index):
        with formatter.section(panel.value):
            formatter.write_dl([(term.ljust(width), text) for term, text in rows[panel]], col_max=width)
