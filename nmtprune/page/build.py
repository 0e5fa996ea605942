"""The page: files are read and sorted by model, and each model gets its answer and its sections."""

import base64
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nmtprune.page import cautions, translations
from nmtprune.page.blocks import Listing, ModelPart, Section
from nmtprune.page.claims import pruned_models
from nmtprune.page.identity import of_base, same_model
from nmtprune.page.inputs import Source
from nmtprune.page.lead import cards, sentence
from nmtprune.page.overview import facts, overview, title
from nmtprune.page.sections import curves, cut, functions_left, gain, made, others, quality_lost, worth
from nmtprune.page.styles import page_style, resource
from nmtprune.provenance import versions

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATE, _SCRIPT = "page.html.j2", "page.js"
_CONTROLS = {*range(0x20), 0x7F, *range(0xD800, 0xE000)} - {*map(ord, "\t\n\r")}
_NO_TEXT = dict.fromkeys(_CONTROLS, "\N{REPLACEMENT CHARACTER}")
"""What paths and names may hold and HTML may not."""


def model_parts(sources: Sequence[Source]) -> list[ModelPart]:
    """What the page says of each model, in the order in which its files were named."""
    shown = [source for source in sources if source.content is not None]
    known = [source for source in shown if any(_says(source))]
    numbers = same_model([of_base(source) for source in known])
    parts = [
        _part([source for source, own in zip(known, numbers, strict=True) if own == number])
        for number in range(max(numbers, default=-1) + 1)
    ]
    unknown = [source for source in shown if not any(_says(source))]
    return parts + ([_part(unknown, "Files that do not name their model")] if unknown else [])


def _says(source: Source) -> list[bool]:
    return [reference.path is not None or reference.tensors is not None for reference in of_base(source)]


def _part(sources: Sequence[Source], name: str | None = None) -> ModelPart:
    models = pruned_models(sources)
    main = models[0] if models else None
    found = cautions.cautions(sources, models)
    sections = (
        overview(models),
        Section("Warnings", (Listing(found),) if found else ()),
        cut.what_was_cut(sources, models),
        quality_lost.what_it_cost(models),
        curves.curves_of_runs(sources),
        functions_left.functions_that_stay(sources),
        gain.what_it_gained(sources, models),
        worth.what_units_are_worth(sources, models),
        others.more_about_models(sources),
    )
    return ModelPart(
        title=name or title(sources),
        facts=facts(sources),
        answer=sentence(main),
        cards=cards(main),
        sections=[section for section in sections if section.blocks],
    )


def html(sources: Sequence[Source], texts: translations.BeforeAndAfter | None) -> str:
    """The whole page: styles, script and drawings are in it, and it loads nothing.

    Args:
        sources: what `read_sources` read.
        texts: translations before and after; None for a page without.
    """
    parts = model_parts(sources)
    files = [*sources, *(texts.sources if texts else [])]
    script = resource(_SCRIPT)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page: str = _environment().get_template(_TEMPLATE).render(
        parts=parts,
        several=len(parts) > 1,
        sentences=translations.changed_translations(texts) if texts else None,
        made=made.how_it_was_made(files),
        faults=[(source.path, str(source.fault)) for source in sources if source.fault is not None],
        version=versions().get("nmtprune", ""),
        style=page_style(),
        script=script,
        script_digest=digest,
    )  # fmt: skip
    return page.translate(_NO_TEXT)


def _environment() -> "Environment":
    from jinja2 import DictLoader, Environment, StrictUndefined

    loader = DictLoader({_TEMPLATE: resource(_TEMPLATE)})
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
