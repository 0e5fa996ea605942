"""Completion in a shell, and what `--version` says."""

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.cli import nmtprune, refused

BIN = Path(sys.executable).parent


def complete(*words: str) -> list[str]:
    """What bash is offered for the last word."""
    settings = {"_NMTPRUNE_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    result = subprocess.run([BIN / "nmtprune"], capture_output=True, text=True, env=os.environ | settings, check=True)
    return [line.split(",", 1)[1] for line in result.stdout.splitlines()]


def test_commands_options_and_values_are_completed() -> None:
    assert complete("nmtprune", "s") == ["slim", "score"]
    assert complete("nmtprune", "slim", "--mo") == ["--mode"]
    assert complete("nmtprune", "slim", "--mode", "") == ["cut", "masked", "uniform"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_that_of_the_shell(shell: str) -> None:
    result = nmtprune("completion", shell)
    assert result.code == 0
    assert f"_NMTPRUNE_COMPLETE={shell}_complete" in result.stdout


def test_bash_takes_the_script() -> None:
    code = f'eval "$({BIN}/nmtprune completion bash)" && complete -p nmtprune'
    result = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip().endswith("nmtprune")


def test_an_unknown_shell_is_refused() -> None:
    result = nmtprune("completion", "tcsh")
    assert result.code == 2


def test_version_names_packages_and_devices() -> None:
    result = nmtprune("--version")
    assert result.code == 0
    first, packages, devices = result.stdout.splitlines()
    assert first == f"nmtprune {version('nmtprune')}"
    assert f"torch {version('torch')}" in packages and f"fairseq-fixed {version('fairseq-fixed')}" in packages
    assert re.fullmatch(r"devices: cpu, \d+ of \d+ cores used(, cuda:\d+ .*)*", devices)


def test_version_is_not_taken_for_a_commands_option() -> None:
    assert refused("inspect", "nowhere.pt")[0] == 3
