"""`nmtprune compare`: do two score files agree on which heads, neurons or layers matter?"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmtprune.cli.options import force_option, format_option, say, verbosity_options
from nmtprune.cli.panels import Panel, PanelCommand, panel_option
from nmtprune.cli.quality_options import few_sentences_option
from nmtprune.cli.render import emit_json, emit_tsv

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nmtprune.evaluate.correlation import Correlation
    from nmtprune.scores import Scores


@click.command(
    cls=PanelCommand,
    epilog="Example: nmtprune compare valid.json test2017.json --plot heads.png",
    short_help="Correlate two score files over their units.",
)
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@panel_option(
    Panel.OUTPUT,
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a scatter plot of the scores (PNG).",
)
@few_sentences_option
@force_option
@format_option
@verbosity_options
def compare(
    first: Path, second: Path, plot: Path | None, allow_few_sentences: bool, force: bool, output_format: str
) -> None:
    """Correlate the scores of FIRST and SECOND: Pearson's r, Spearman's rho and their p-values.

    Heads, neurons and layers each have correlations of their own. Both files must score the same units in the same
    mode; the metric and the data may differ. Heads that matter in one domain mostly matter in another, too (Michel et
    al. 2019, section 3.4, figure 2).
    """
    from nmtprune.evaluate.correlation import correlate_sorts
    from nmtprune.files import atomic_output, check_output
    from nmtprune.scores import Scores, refuse_mix

    if plot is not None:
        check_output(plot, force=force, inputs=(first, second))
    names = str(first), str(second)
    scores = Scores.read(first), Scores.read(second)
    refuse_mix(scores, names)
    for name, own in zip(names, scores, strict=True):
        _check_sentences(name, own, allowed=allow_few_sentences)
    correlations = correlate_sorts(scores[0].scores_by_unit(), scores[1].scores_by_unit(), names)
    if plot is not None:
        from nmtprune.plots import comparison_png

        with atomic_output(plot, force=force, inputs=(first, second)) as file:
            file.write(comparison_png(*scores, names=names))
    _report(correlations, names, output_format)
    if plot is not None:
        say(f"wrote {plot}")


def _check_sentences(name: str, scores: "Scores", *, allowed: bool) -> None:
    """Warn of scores from few sentences; files without a number of sentences, or without tests, are accepted."""
    from nmtprune.runs.baseline import check_sentences

    sentences = scores.baseline.get("sentences")
    if isinstance(sentences, int) and "significance" in scores.baseline:
        for remark in check_sentences(name, sentences, allowed=allowed):
            say(f"{name}: {remark}")


def _report(correlations: "Mapping[str, Correlation]", names: tuple[str, str], output_format: str) -> None:
    if output_format == "text":
        for sort, correlation in correlations.items():
            click.echo(f"{names[0]} and {names[1]}, {correlation.heads} {sort}")
            click.echo(f"Pearson r     {correlation.pearson:+.4f}  p {correlation.pearson_p:.3g}")
            click.echo(f"Spearman rho  {correlation.spearman:+.4f}  p {correlation.spearman_p:.3g}")
        return
    files = {"first": names[0], "second": names[1]}
    if list(correlations) == ["heads"]:
        rows = [files | asdict(correlations["heads"])]
    else:
        rows = [files | {"group": sort} | _of_units(correlation) for sort, correlation in correlations.items()]
    if output_format == "tsv":
        emit_tsv(list(rows[0]), [list(row.values()) for row in rows])
    elif "group" not in rows[0]:
        emit_json(rows[0])
    else:
        emit_json(files | {"groups": {sort: _of_units(correlation) for sort, correlation in correlations.items()}})


def _of_units(correlation: "Correlation") -> dict[str, Any]:
    figures = asdict(correlation)
    return {"units": figures.pop("heads"), **figures}
