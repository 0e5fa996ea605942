"""fairseq's own commands, run in this process (the same functions that the commands call) or as real commands."""

import contextlib
import importlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from nmtprune.user_dir import USER_DIR
from tests.support import warm
from tests.support.fairseq_settings import composed_quickly


def run(command: str, *arguments: Any, plugin: bool = True) -> str:
    """stdout of ``fairseq-<command>`` in this process, with or without the user dir; exceptions come through.

    What was imported before stays: only a process of its own shows that a command does without the plug-in.
    """
    module = importlib.import_module(f"fairseq_cli.{command.replace('-', '_')}")
    argv = [f"fairseq-{command}", *map(str, arguments), *(("--user-dir", str(USER_DIR)) if plugin else ())]
    output = io.StringIO()
    with composed_quickly(), mock.patch.object(sys, "argv", argv), contextlib.redirect_stdout(output):
        module.cli_main()
    return output.getvalue()


def executable(command: str) -> Path:
    """Where ``fairseq-<command>`` is installed."""
    return Path(sys.executable).parent / f"fairseq-{command}"


def run_process(command: str, *arguments: Any, stdin: str = "") -> str:
    """stdout and stderr of ``fairseq-<command>`` with the user dir, as a process of its own."""
    call = [str(executable(command)), *map(str, arguments), "--user-dir", str(USER_DIR)]
    done = subprocess.run(call, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def run_stock(command: str, *arguments: Any) -> str:
    """stdout of ``fairseq-<command>`` without the user dir, in a process that has not imported the plug-in.

    Torch refuses the settings in any checkpoint of fairseq unless it is told that the file is trusted.
    """
    trusted = {**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    words = [str(executable(command)), *map(str, arguments)]
    started = warm.start(words, subprocess.PIPE, subprocess.PIPE, trusted)
    printed, said = started.communicate()
    assert started.returncode == 0, said
    return str(printed)


def hypotheses(output: str) -> list[str]:
    """Translations in the output of fairseq-generate or -interactive, by sentence, without scores."""
    lines = [line.split("\t") for line in output.splitlines() if line.startswith("H-")]
    return [fields[2] for fields in sorted(lines, key=lambda fields: int(fields[0].removeprefix("H-")))]


def scores(output: str) -> list[float]:
    """Log-probabilities of the translations, by sentence."""
    lines = [line.split("\t") for line in output.splitlines() if line.startswith("H-")]
    return [float(fields[1]) for fields in sorted(lines, key=lambda fields: int(fields[0].removeprefix("H-")))]


def generate(path: Path | str, data: Path, *options: Any) -> str:
    """Output of fairseq-generate on the test set; `path` may name several checkpoints, separated by colons."""
    return run(
        "generate", data, "--path", path, "--max-tokens", 400, "--max-len-b", 20, "--cpu", "--num-workers", 0, *options
    )


def train(data: Path, save_dir: Path, *options: Any, plugin: bool = True) -> list[float]:
    """Run fairseq-train; the sum of the losses of every batch in its order, in full precision."""
    with _losses("train_step") as losses:
        run(
            *("train", data, "--save-dir", save_dir, "--optimizer", "adam", "--lr", 0.01, "--clip-norm", 0, "--cpu"),
            *("--max-tokens", 400, "--num-workers", 0, "--required-batch-size-multiple", 1, "--disable-validation"),
            *("--no-epoch-checkpoints", "--no-progress-bar", *options),
            plugin=plugin,
        )
    return losses


def validate(path: Path, data: Path, *options: Any) -> list[float]:
    """Run fairseq-validate; the sum of the losses of every batch."""
    fixed = ("--task", "translation", "--max-tokens", 60, "--cpu", "--num-workers", 0)
    with _losses("valid_step") as losses:
        run("validate", data, "--path", path, *fixed, *options)
    return losses


def eval_lm(path: Path, data: Path) -> float:
    """Run fairseq-eval-lm on the test set; the loss per token."""
    module = importlib.import_module("fairseq_cli.eval_lm")
    seen: list[float] = []
    evaluate = module.eval_lm

    def observed(*args: Any, **kwargs: Any) -> Any:
        results = evaluate(*args, **kwargs)
        seen.append(float(results["loss"]))
        return results

    with mock.patch.object(module, "eval_lm", observed):
        run(
            *("eval-lm", data, "--path", path, "--tokens-per-sample", 32, "--sample-break-mode", "none", "--cpu"),
            *("--max-tokens", 400, "--num-workers", 0, "--no-progress-bar"),
        )
    return seen[0]


@contextlib.contextmanager
def _losses(method: str) -> Iterator[list[float]]:
    """Collects what a step of a fairseq task returns as loss, each time."""
    from fairseq.tasks import FairseqTask

    losses: list[float] = []
    step = getattr(FairseqTask, method)

    def observed(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        losses.append(float(result[0]))
        return result

    with mock.patch.object(FairseqTask, method, observed):
        yield losses


def in_this_process(_name: str, command: Sequence[str], _settings: object) -> str:
    """What `toolkit.run` does for ``python -P -m fairseq_cli.COMMAND``, without the seconds that a start takes."""
    assert command[1:3] == ["-P", "-m"]
    return run(command[3].removeprefix("fairseq_cli."), *command[4:])
