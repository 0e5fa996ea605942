"""What commands copy so that `--help` stays fast is what the library has: choices, defaults and names."""

import inspect
from collections.abc import Iterable
from dataclasses import fields
from itertools import combinations
from typing import Any

import click
import pytest

from nmtprune import ctranslate2_model, gates, slim
from nmtprune.architecture import STACKS
from nmtprune.cli.main import COMMANDS, main
from nmtprune.cli.search_options import SEARCH_NAMES
from nmtprune.data.batching import MAX_TOKENS
from nmtprune.engines.base import ENGINES
from nmtprune.evaluate.metrics import Bleu, Chrf
from nmtprune.evaluate.significance import CORRECTIONS, SignificanceTest
from nmtprune.methods.plans import SCOPES
from nmtprune.model.search import GenerateOptions, MarianSearchOptions, SearchOptions
from nmtprune.runs.lottery.schedule import RANDOM, REINIT
from nmtprune.runs.run import LABELS

TEST = SignificanceTest()
FAIRSEQ, MARIAN, GENERATE = SearchOptions(), MarianSearchOptions(), GenerateOptions()
LABELLING = ("score", "greedy", "check")
"""Commands that measure classifiers too."""
OF_A_FOLDER = {"forced_eos", "never", "renormalize"}
"""Settings of the search of Hugging Face models that only the folder can say."""


def option(command: str, name: str) -> click.Option:
    """The option of a command with that parameter name."""
    found = main.get_command(click.Context(main), command)  # type: ignore[attr-defined]
    return next(parameter for parameter in found.params if parameter.name == name)  # type: ignore[no-any-return]


def with_option(name: str) -> list[str]:
    """Commands that have an option of that parameter name."""
    commands = {command: main.get_command(click.Context(main), command) for command in COMMANDS}  # type: ignore[attr-defined]
    return [command for command, found in commands.items() if any(own.name == name for own in found.params)]


@pytest.mark.parametrize(
    ("command", "name", "original"),
    [
        ("slim", "mode", slim.MODES),
        ("plan", "per", SCOPES),
        ("score", "correction", CORRECTIONS),
        ("export", "quantization", ctranslate2_model.QUANTIZATIONS),
        ("l0", "gate", gates.DISTRIBUTIONS),
        ("l0", "test_gate", gates.TEST_GATES),
        ("l0", "freeze", [",".join(some) for count in (1, 2) for some in combinations(STACKS, count)]),
        ("lottery", "controls", (REINIT, RANDOM)),
        *((command, "engine", tuple(ENGINES)) for command in with_option("engine")),
        *((command, "metric", (Bleu.name, Chrf.name)) for command in with_option("metric") if command not in LABELLING),
        *((command, "metric", (Bleu.name, Chrf.name, *LABELS)) for command in LABELLING if command != "score"),
    ],
)
def test_choices(command: str, name: str, original: Iterable[str]) -> None:
    kind = option(command, name).type
    assert isinstance(kind, click.Choice) and list(kind.choices) == list(original)


@pytest.mark.parametrize(
    ("command", "name", "original"),
    [
        ("slim", "mode", inspect.signature(slim.apply).parameters["mode"].default),
        ("score", "correction", TEST.correction),
        *((command, "alpha", TEST.alpha) for command in with_option("alpha")),
        *((command, "resamples", TEST.resamples) for command in with_option("resamples")),
    ],
)
def test_defaults(command: str, name: str, original: Any) -> None:
    assert option(command, name).default == original


def test_names_and_defaults_of_the_search() -> None:
    own = {each.name: each.default for options in (GENERATE, FAIRSEQ, MARIAN) for each in fields(options)}
    own = {name: default for name, default in own.items() if name not in OF_A_FOLDER}
    generate = {each.name for each in fields(GENERATE)} - {"beam"}
    assert set(SEARCH_NAMES) == set(own) and len(SEARCH_NAMES) == len(own)
    for name in SEARCH_NAMES:
        shown = option("translate", name)
        if name == "beam":
            assert str(shown.show_default).startswith(f"{FAIRSEQ.beam}; Marian models: ")
            assert f"else {MARIAN.beam}; Hugging Face models: " in str(shown.show_default)
            assert str(shown.show_default).endswith(f"else {GENERATE.beam}")
        elif name in generate:
            assert str(shown.show_default).startswith("the value in the folder, else ")
            assert own[name] is None or str(shown.show_default).endswith(f"else {own[name]}")
        elif shown.is_flag:
            assert own[name] is False
        else:
            assert shown.show_default == str(own[name])


def test_the_default_size_of_batches() -> None:
    commands = with_option("max_tokens")
    assert "translate" in commands
    assert all(f"Default: {MAX_TOKENS}," in str(option(command, "max_tokens").help) for command in commands)
