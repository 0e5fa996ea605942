"""`nmtprune report`: one page that shows what was pruned."""

from pathlib import Path

import click

from nmtprune.cli.options import force_option, output_option, say, verbosity_options
from nmtprune.cli.panels import Panel, PanelCommand, panel_option
from nmtprune.errors import UsageError


@click.command(
    cls=PanelCommand,
    epilog="Example: nmtprune report run bench.json scores.json checkpoint_best.pt --translations before.de after.de "
    "--source test.en --reference test.de -o report.html",
    short_help="Write one HTML or PDF page from runs, results, plans and checkpoints.",
)
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN|FILE...")
@panel_option(
    Panel.TEXT,
    "--translations",
    nargs=2,
    type=click.Path(path_type=Path),
    metavar="BEFORE AFTER",
    help="Translations of the same sentences by the full and by the pruned model, as nmtprune translate prints them. "
    "The page shows the ten that changed most, and how many are empty or loop.",
)
@panel_option(
    Panel.TEXT, "--source", type=click.Path(path_type=Path), metavar="FILE", help="Source sentences of --translations."
)
@panel_option(
    Panel.TEXT, "--reference", type=click.Path(path_type=Path), metavar="FILE", help="References of --translations."
)
@output_option("Page to write: an .html file, or a .pdf file if Chromium or WeasyPrint is installed.")
@force_option
@verbosity_options
def report(
    inputs: tuple[Path, ...],
    translations: tuple[Path, Path] | None,
    source: Path | None,
    reference: Path | None,
    output: Path,
    force: bool,
) -> None:
    """Write one page that shows what was cut, what it cost and what it gained.

    Each RUN is a folder of greedy, l0 or lottery. Each FILE is a score file, a result of bench or check (--format
    json), a cost table, a file of functions, a plan, the JSON output of drift or compare, or a checkpoint. The page is
    one file that needs no network. Files of several models are grouped by model. Files that cannot be shown are named
    on the page.
    """
    from nmtprune.files import atomic_output, check_output
    from nmtprune.page.build import html
    from nmtprune.page.inputs import read_sources
    from nmtprune.page.pdf import check_printer, pdf
    from nmtprune.page.translations import BeforeAndAfter

    printed = output.suffix.lower() == ".pdf"
    if not printed and output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{output}: name a file that ends in .html or .pdf")
    read = [path for path in (*inputs, *(translations or ()), source, reference) if path is not None]
    check_output(output, force=force, inputs=read)
    if printed:
        check_printer()
    texts = BeforeAndAfter.read(translations, source, reference)
    sources = read_sources(inputs)
    page = html(sources, texts)
    content = pdf(page) if printed else page.encode()
    with atomic_output(output, force=force, inputs=[*read, *(Path(each.path) for each in sources)]) as file:
        file.write(content)
    for each in sources:
        if each.fault is not None:
            say(f"not shown: {each.fault}")
    say(f"wrote {output}")
