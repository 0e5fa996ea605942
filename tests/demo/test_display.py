"""What the demo shows while it runs."""

import io

import pytest
from rich.console import Console

from nmtprune.demo import display as display_module
from nmtprune.demo.display import ConsoleDisplay
from nmtprune.process import Command, ProgressUpdate

STEP = Command("train", "Train a transformer", ("fairseq-train", "x" * 200, "--adam-betas", "(0.9, 0.98)"))


def _run(console: Console) -> None:
    display = ConsoleDisplay(console)
    display.begin(2, 20, STEP, STEP.text)
    display.update(ProgressUpdate(0.5, "update 500 of 1,000, loss 2.1"))
    display.update(ProgressUpdate(None, "validation loss 2.0 [not markup]"))
    display.end(12.34)
    display.halt()


def test_a_log_file_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display_module, "EVERY_S", 0.0)
    output = io.StringIO()
    _run(Console(file=output, width=80))
    assert output.getvalue() == (
        f"\n[2/20] Train a transformer\n{STEP.text}\n    0 s: update 500 of 1,000, loss 2.1\n"
        "    0 s: validation loss 2.0 [not markup]\n    done in 12.3 s\n"
    )


def test_lines_of_progress_are_rare() -> None:
    output = io.StringIO()
    _run(Console(file=output, width=80))
    assert "update 500" not in output.getvalue()


def test_a_terminal_gets_a_bar_that_goes_away() -> None:
    output = io.StringIO()
    _run(Console(file=output, width=80, force_terminal=True, color_system=None))
    text = output.getvalue()
    assert "validation loss 2.0 [not markup]" in text
    assert "\x1b[2K" in text
    assert text.rstrip().endswith("done in 12.3 s")
