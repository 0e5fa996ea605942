"""Fixtures that every test may use: tiny checkpoints made once per session, and real models where they are given."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings

from nmtprune import process
from tests.support import fairseq_encoders, fairseq_files, warm
from tests.support.fairseq_encoders import BuildEncoder
from tests.support.fairseq_files import Build
from tests.support.pictures import render, rendered_once

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


BEGUN_FIRST = ("docs/test_commands.py", "runs/lottery/test_rewinding.py")
"""Files that take one process minutes: begun last they would keep the other one waiting."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Take the files of `BEGUN_FIRST` first, all others as they were found."""
    first = {Path(__file__).parent / name: place for place, name in enumerate(BEGUN_FIRST)}
    items.sort(key=lambda item: first.get(item.path, len(first)))


@pytest.fixture(scope="session", autouse=True)
def warm_toolkits() -> Iterator[None]:
    """Commands of fairseq and Marian that nmtprune starts are forks of a process that has imported both."""
    with mock.patch.object(process, "_start", warm.start):
        yield


@pytest.fixture(scope="session", autouse=True)
def few_pictures() -> Iterator[None]:
    """Pictures of runs are drawn, but those with the same titles are rendered only once."""
    with mock.patch("nmtprune.plots._rendered", rendered_once):
        yield


@pytest.fixture
def every_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every picture is rendered, for tests that look at them."""
    monkeypatch.setattr("nmtprune.plots._rendered", render)


@pytest.fixture
def cold_toolkits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of fairseq and Marian start as they do for a user."""
    monkeypatch.setattr(process, "_start", warm.really_start)


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """`fairseq_checkpoint` without the folder: equal options give the same file, made once; do not change it.

    Its data-bin is the folder ``data-bin`` beside it.
    """
    made: dict[str, Path] = {}

    def make(**options: Any) -> Path:
        key = repr(sorted(options.items()))
        if key not in made:
            made[key] = fairseq_files.fairseq_checkpoint(tmp_path_factory.mktemp("fairseq"), **options)
        return made[key]

    return make


@pytest.fixture(scope="session")
def build_encoder(tmp_path_factory: pytest.TempPathFactory) -> BuildEncoder:
    """`encoder_checkpoint` without the folder, with large random weights, made once; do not change the file."""
    made: dict[str, Path] = {}

    def make(**options: Any) -> Path:
        key = repr(sorted(options.items()))
        if key not in made:
            path = fairseq_encoders.encoder_checkpoint(tmp_path_factory.mktemp("encoder"), **options)
            made[key] = fairseq_encoders.randomized(path)
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny(build: Build) -> Path:
    """A trained pre-norm translation model: 2 + 2 layers of 4 heads, d 16, all embeddings shared, two Adam updates."""
    return build(
        updates=2, encoder_normalize_before=True, decoder_normalize_before=True, share_all_embeddings=True, dropout=0.0
    )


@pytest.fixture(scope="session")
def tiny_lm(build: Build) -> Path:
    """A trained language model: 2 layers of 4 heads, d 16, two Adam updates."""
    return build(arch="transformer_lm", updates=2)


@pytest.fixture(scope="session")
def test_models() -> Path:
    """The folder of real models that NMTPRUNE_TEST_MODELS names; skips where it is not set."""
    folder = os.environ.get("NMTPRUNE_TEST_MODELS")
    if not folder:
        pytest.skip("NMTPRUNE_TEST_MODELS is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def shared_model(test_models: Path) -> Path:
    """A real fairseq checkpoint: 6 + 6 layers of 8 heads, EN-DE; its data-bin lies beside it."""
    return test_models / "m30k-ende" / "checkpoint.pt"
