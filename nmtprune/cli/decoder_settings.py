"""The settings of Marian's decoder that a command uses: given by an option, or found next to the model."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmtprune.cli.options import model_of, say
from nmtprune.cli.panels import Panel, panel_option

if TYPE_CHECKING:
    from nmtprune.formats.marian.decoder import DecoderSettings

_READ = "nmtprune.decoder_settings"

decoder_config_option = panel_option(
    Panel.DATA,
    "--decoder-config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    show_default="MODEL.decoder.yml, or else decoder.yml or config.yml in the same folder, if it names the model",
    help="Marian models: the decoder settings, as for marian-decoder -c (vocabularies, search, cropping).",
)


def decoder_settings(values: Mapping[str, Any]) -> "DecoderSettings | None":
    """Settings for the model among the values of a command's parameters; read once, with notes on unused settings.

    Raises:
        UsageError, CheckpointError: as for `settings_of`.
    """
    context = click.get_current_context()
    if _READ not in context.meta:
        from nmtprune.runs.model_settings import settings_of

        settings = settings_of(model_of(values), context.params.get("decoder_config"))
        context.meta[_READ] = settings
        for note in settings.notes if settings else ():
            say(note)
    found: DecoderSettings | None = context.meta[_READ]
    return found
