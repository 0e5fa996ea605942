"""How a file was made: command, versions, seed, inputs; part of every file that nmtprune writes."""

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nmtprune.files import sha256_file

PACKAGES = (
    "nmtprune",
    "torch",
    "numpy",
    "fairseq",
    "fairseq-fixed",
    "sacrebleu",
    "sentencepiece",
    "subword-nmt",
    "sacremoses",
    "ctranslate2",
    "pymarian",
)
"""Distributions whose version can change a result."""


def collect(
    *,
    seed: int | None = None,
    inputs: Iterable[Path | str] = (),
    **facts: Any,
) -> dict[str, Any]:
    """What has to be known to make a file again, as a JSON object.

    Args:
        seed: seed of whatever was drawn; None where nothing was.
        inputs: files that were read; each is named with the SHA-256 of its bytes.
        facts: further JSON values, such as the method and its settings.

    Raises:
        DataError: an input cannot be read.
    """
    found: dict[str, Any] = {"command": command(), "time": datetime.now(UTC).isoformat(timespec="seconds")}
    if seed is not None:
        found["seed"] = seed
    paths = [str(path) for path in inputs]
    if paths:
        found["inputs"] = [{"path": path, "sha256": sha256_file(path)} for path in paths]
    return found | facts | {"versions": versions(), "platform": platform.platform()}


def command() -> list[str]:
    """The command line as a list of arguments, the program by its name without its folder."""
    program, *arguments = [*sys.argv] or [""]
    return [os.path.basename(program) or "python", *arguments]


def versions() -> dict[str, str]:
    """Version of Python and of each of PACKAGES that is installed; no package is imported for it."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
