"""What it cost: every measurement of quality, and the verdicts of `check`."""

from collections.abc import Iterator, Sequence

from nmtprune.page import numbers
from nmtprune.page.blocks import Block, Listing, Row, Section, Table
from nmtprune.page.claims import PrunedModel, QualityChange
from nmtprune.page.lead import metric_name, significant


def what_it_cost(models: Sequence[PrunedModel]) -> Section:
    """A row for every pruned model and file that measured it."""
    return Section.of("What it cost", _blocks(models))


def _blocks(models: Sequence[PrunedModel]) -> Iterator[Block]:
    rows = [_row(model, quality) for model in models for quality in model.qualities]
    if rows:
        columns = ("model", "metric", "before", "after", "change", "95 % interval", "p", "data", "sentences", "from")
        yield Table("Quality against the full model, on the same sentences", columns, rows)
    for model in models:
        if model.conditions:
            yield Listing([
                (f"{'Passed' if each.passed else 'Failed'}: {each.option}: {each.says} ({model.name})",
                 "good" if each.passed else "bad")
                for each in model.conditions
            ])  # fmt: skip


def _row(model: PrunedModel, quality: QualityChange) -> Row:
    mark = "" if not significant(quality) else "bad" if quality.change < 0 else "good"
    tested = "" if quality.ci is None else numbers.interval(*quality.ci)
    return [
        model.name, metric_name(quality.metric), numbers.cell(quality.before, "{:.2f}".format),
        numbers.cell(quality.value, "{:.2f}".format), numbers.cell(quality.change, numbers.signed, mark), tested,
        numbers.cell(quality.p, numbers.p_value), quality.data, numbers.cell(quality.sentences), quality.source,
    ]  # fmt: skip
