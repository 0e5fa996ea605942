"""What it gained: speed measured and predicted, memory, and size."""

from collections.abc import Iterator, Sequence

from nmtprune.page import numbers, svg
from nmtprune.page.blocks import Block, Picture, Row, Section, Table
from nmtprune.page.claims import PrunedModel, engine_of
from nmtprune.page.inputs import Source
from nmtprune.page.lead import size_in_words
from nmtprune.runs.report import BenchedModel, BenchFile, Timing

_MOST_BARS = 16


def what_it_gained(sources: Sequence[Source], models: Sequence[PrunedModel]) -> Section:
    """Pictures and tables of every `bench` file, and every comparison of sizes."""
    return Section.of("What it gained", _blocks(sources, models))


def _blocks(sources: Sequence[Source], models: Sequence[PrunedModel]) -> Iterator[Block]:
    bars = [
        svg.Bar(f"{model.name}, {speed.conditions}", speed.ratio, *speed.ci, speed.predicted)
        for model in models
        for speed in model.speeds
    ]
    if bars:
        drawing = svg.bars(bars[:_MOST_BARS], "times as fast as the full model", 1.0, _in_words(bars))
        legend = (("kept", "measured, with its interval"), ("predicted", "predicted from multiply-accumulates"))
        first = f" (the first {_MOST_BARS} of {len(bars)} measurements)" if len(bars) > _MOST_BARS else ""
        yield Picture(f"Speed of the pruned model{'s' if len(models) > 1 else ''}{first}", (drawing,), legend)
    for source in sources:
        if isinstance(source.content, BenchFile):
            yield _speeds(source, source.content)
    rows: list[Row] = [
        [model.name, numbers.cell(size.share, numbers.percent), size_in_words(size), size.source]
        for model in models
        for size in model.sizes
    ]
    if rows:
        yield Table("Size against the full model", ("model", "share", "what", "from"), rows)


def _in_words(bars: Sequence[svg.Bar]) -> str:
    return "; ".join(f"{bar.label}: {bar.value:.2f} times as fast ({bar.low:.2f} to {bar.high:.2f})" for bar in bars)


def _speeds(source: Source, found: BenchFile) -> Table:
    columns = (
        "model", "batch", "sentences/s", "words/s", "ratio", "interval", "predicted", "peak memory", "latency",
        "tensors", "file", "parameters",
    )  # fmt: skip
    rows = [_row(model, timing) for model in found.models for timing in model.timings]
    caption = f"{source.path}: {found.data}, {found.sentences} sentences, {engine_of(found)}, {found.repeat} rounds"
    return Table(caption, columns, rows)


def _row(model: BenchedModel, timing: Timing) -> Row:
    ratio, latency, words = timing.ratio, model.latency_ms, timing.words_per_second
    return [
        model.name, numbers.cell(timing.batch_size),
        numbers.cell(timing.sentences_per_second.median, "{:.1f}".format),
        numbers.cell(None if words is None else words.median, numbers.count),
        numbers.cell(ratio.median, "{:.3f}".format), f"{ratio.low:.3f} to {ratio.high:.3f}",
        numbers.cell(timing.predicted, "{:.3f}".format), numbers.cell(timing.peak_bytes, numbers.megabytes),
        numbers.cell(None if latency is None else latency.median, "{:.1f} ms".format),
        numbers.cell(model.model_bytes, numbers.megabytes), numbers.cell(model.file_bytes, numbers.megabytes),
        numbers.cell(model.parameters),
    ]  # fmt: skip
