"""What model a part of the page is about, and the pruned models that were made of it side by side."""

from collections.abc import Iterator, Sequence

from nmtprune.architecture import KINDS, NEURON_KINDS
from nmtprune.page import numbers
from nmtprune.page.blocks import Block, Row, Section, Table
from nmtprune.page.claims import PrunedModel
from nmtprune.page.identity import of_base
from nmtprune.page.inputs import CheckpointFile, Source
from nmtprune.page.lead import metric_name
from nmtprune.plan import Base, Plan
from nmtprune.runs.functions_file import FunctionsFile
from nmtprune.scores import Scores


def title(sources: Sequence[Source]) -> str:
    """The path of the model, or its checksum."""
    references = [reference for source in sources for reference in of_base(source)]
    named = [reference.path for reference in references if reference.path is not None and reference.tensors is not None]
    paths = [reference.path for reference in references if reference.path is not None]
    checksums = [reference.tensors for reference in references if reference.tensors is not None]
    roots = [source.path for source in sources
             if isinstance(source.content, CheckpointFile) and source.content.lineage is None]  # fmt: skip
    if roots or named or (paths and not checksums):
        return next(iter([*roots, *named, *paths]))
    return f"model {checksums[0][:16]}" if checksums else "a model without a name"


def facts(sources: Sequence[Source]) -> list[tuple[str, str]]:
    """Names and values that say which model it is."""
    base = _base(sources)
    if base is None:
        return []
    found = [("format", base.format)]
    for source in sources:
        if isinstance(source.content, CheckpointFile) and source.content.lineage is None:
            summary = source.content.summary
            found.append(("architecture", summary.architecture))
            found.append(("parameters", numbers.count(summary.total_parameters)))
            break
    heads = ", ".join(f"{kind} {_counts(base.heads[kind])}" for kind in KINDS if base.heads.get(kind))
    found.append(("heads", heads))
    neurons = ", ".join(f"{kind} {_counts(base.neurons[kind])}" for kind in NEURON_KINDS if base.neurons.get(kind))
    if neurons:
        found.append(("neurons", neurons))
    found.append(("SHA-256 of its tensors", base.sha256))
    return found


def _base(sources: Sequence[Source]) -> Base | None:
    """The base with most known of it."""
    found: list[Base] = []
    for source in sources:
        match source.content:
            case CheckpointFile() | Plan() | Scores() | FunctionsFile() if source.content.base is not None:
                found.append(source.content.base)
    return max(found, key=lambda base: len(base.neurons), default=None)


def _counts(counts: Sequence[int]) -> str:
    """``6 x 8``, or the counts of the layers where they differ."""
    if len(set(counts)) == 1:
        return f"{len(counts)} × {counts[0]}"
    return " ".join(map(str, counts))


def overview(models: Sequence[PrunedModel]) -> Section:
    """A row per pruned model, where there are several."""
    return Section.of("Pruned models side by side", _blocks(models) if len(models) > 1 else ())


def _blocks(models: Sequence[PrunedModel]) -> Iterator[Block]:
    columns = ("model", "removed", "quality", "change", "95 % interval", "speed", "predicted", "size")
    yield Table("One row for each; the first one is summed up above", columns, [_row(model) for model in models])


def _row(model: PrunedModel) -> Row:
    gone = [(removed, sort) for sort, (removed, _) in model.removed.items() if removed]
    quality = next(iter(model.qualities), None)
    speed, size = next(iter(model.speeds), None), next(iter(model.sizes), None)
    measured: Row = ("", "", "")
    if quality is not None:
        level = "" if quality.value is None else f"{quality.value:.2f} "
        ci = "" if quality.ci is None else numbers.interval(*quality.ci)
        measured = (level + metric_name(quality.metric), numbers.cell(quality.change, numbers.signed), ci)
    return [
        model.name, numbers.named(gone), *measured,
        numbers.cell(None if speed is None else speed.ratio, "{:.3f}".format),
        numbers.cell(None if speed is None else speed.predicted, "{:.3f}".format),
        numbers.cell(None if size is None else size.share, numbers.percent),
    ]  # fmt: skip
