"""Run the steps of the demo in a folder of its own, and gather what they found into one table."""

import json
import os
import re
import time
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from nmtprune.demo.commands import MODELS, DemoSettings, all_steps
from nmtprune.demo.datasets import ParallelSet
from nmtprune.demo.display import ConsoleDisplay
from nmtprune.errors import DataError, EngineError, OutputError
from nmtprune.files import write_text
from nmtprune.process import Command, run_command, shown

DEFAULT_FOLDER = Path("demo-run")
LOGS = "logs"

_SPEED = re.compile(r"Translated ([\d,]+) sentences \([\d,]+ tokens\) in ([\d.]+)s \(([\d.]+) sentences/s")


@dataclass(frozen=True)
class ModelFigures:
    """One row of the table.

    Attributes:
        model: one of MODELS.
        heads: attention heads.
        parameters: trainable parameters.
        model_bytes: of the model's tensors.
        file_bytes: of the file, optimizer state and settings included.
        bleu: by test set.
        sentences_per_s: by test set, as fairseq-generate times itself (start-up and loading not counted).
    """

    model: str
    heads: int
    parameters: int
    model_bytes: int
    file_bytes: int
    bleu: dict[str, float]
    sentences_per_s: dict[str, float]


def fresh_folder(wanted: Path | None) -> Path:
    """An empty folder for a run: `wanted`, else the next number under ``demo-run``; no file is ever removed.

    Raises:
        OutputError: `wanted` holds something, or no folder can be made.
    """
    if wanted is not None:
        try:
            wanted.mkdir(parents=True, exist_ok=True)
            occupied = any(wanted.iterdir())
        except OSError as error:
            raise OutputError(f"{wanted}: the folder cannot be made: {error.strerror}") from None
        if occupied:
            raise OutputError(f"{wanted}: holds files already; name a new folder (without --run: demo-run/NUMBER)")
        return wanted
    for number in count(1):
        folder = DEFAULT_FOLDER / str(number)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise OutputError(f"{folder}: the folder cannot be made: {error.strerror}") from None
        return folder
    raise OutputError(f"{DEFAULT_FOLDER}: no free number")


def run_all(settings: DemoSettings, display: ConsoleDisplay, environment: dict[str, str]) -> list[ModelFigures]:
    """Run every step, write ``results.json``, and return the rows of the table.

    Raises:
        CommandFailed: a step failed; what ran before it stays.
        NmtpruneError: what a step wrote cannot be read.
    """
    steps = all_steps(settings)
    logs = settings.folder / LOGS
    logs.mkdir()
    begun = time.monotonic()
    seconds = {}
    for number, step in enumerate(steps, 1):
        display.begin(number, len(steps), step, step.text)
        before = time.monotonic()
        run_command(step, log_of(settings, steps, step), display.update, os.environ | environment)
        seconds[step.name] = round(time.monotonic() - before, 2)
        display.end(seconds[step.name])
    figures = [model_figures(settings, steps, model) for model in MODELS]
    results = {
        "format": "nmtprune-demo",
        "version": 1,
        "settings": _settings_json(settings) | environment,
        "models": {row.model: asdict(row) for row in figures},
        "bleu_signature": {test.name: _bleu(settings, "before", test)["signature"] for test in settings.corpus.tests},
        "seconds": seconds | {"total": round(time.monotonic() - begun, 2)},
        "commands": {step.name: list(step.argv) for step in steps},
    }
    write_text(settings.folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    return figures


def log_of(settings: DemoSettings, steps: list[Command], step: Command) -> Path:
    """File of a step's log, numbered in the order of the steps."""
    return settings.folder / LOGS / f"{steps.index(step) + 1:02d}-{step.name}.log"


def model_figures(settings: DemoSettings, steps: list[Command], model: str) -> ModelFigures:
    """What the steps found about one model.

    Raises:
        DataError: the output of a step cannot be read.
        EngineError: fairseq-generate does not say how fast it was.
    """
    inspected = _read_json(settings.inspected(model))
    by_name = {step.name: step for step in steps}
    tests = settings.corpus.tests
    logs = {test.name: log_of(settings, steps, by_name[f"translate-{model}-{test.name}"]) for test in tests}
    return ModelFigures(
        model=model,
        heads=inspected["heads"],
        parameters=inspected["parameters"]["total"],
        model_bytes=inspected["bytes"]["model"],
        file_bytes=inspected["bytes"]["file"],
        bleu={test.name: _bleu(settings, model, test)["score"] for test in tests},
        sentences_per_s={name: sentences_per_second(log) for name, log in logs.items()},
    )


def sentences_per_second(log: Path) -> float:
    """Speed that fairseq-generate reports about itself.

    Raises:
        EngineError: it does not.
    """
    match = _SPEED.search(log.read_text(encoding="utf-8"))
    if match is None:
        raise EngineError(f"{log}: fairseq-generate does not say how fast it was")
    return float(match[3])


def table_rows(figures: list[ModelFigures]) -> tuple[list[str], list[list[str]]]:
    """Column titles and cells: one row per model."""
    tests = list(figures[0].bleu)
    columns = ["model", "heads", "parameters", "model MB", "file MB"]
    for test in tests:
        suffix = f" {test}" if len(tests) > 1 else ""
        columns += [f"BLEU{suffix}", f"sentences/s{suffix}"]
    rows = []
    for row in figures:
        cells = [MODELS[row.model], str(row.heads), f"{row.parameters:,}"]
        cells += [f"{row.model_bytes / 1e6:.2f}", f"{row.file_bytes / 1e6:.2f}"]
        for test in tests:
            cells += [f"{row.bleu[test]:.1f}", f"{row.sentences_per_s[test]:.0f}"]
        rows.append(cells)
    return columns, rows


def _settings_json(settings: DemoSettings) -> dict[str, Any]:
    return {
        "corpus": shown(settings.corpus.train.source.parent),
        "languages": settings.languages,
        "generated_sentences": settings.sentences,
        "recipe": asdict(settings.recipe),
        "remove": settings.remove,
        "seed": settings.seed,
        "beam": settings.beam,
        "max_minutes": settings.max_minutes,
    }


def _bleu(settings: DemoSettings, model: str, test: ParallelSet) -> dict[str, Any]:
    return _read_json(settings.translated(model, test, "bleu"))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from None
    return content
