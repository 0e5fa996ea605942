"""What all engines have in common."""

from pathlib import Path

import pytest
import torch

from nmtprune.architecture import Architecture, AttentionModule, GroupId
from nmtprune.cli.search_options import ENGINES as OFFERED
from nmtprune.data.batching import BatchLimits
from nmtprune.engines import EngineSettings, open_engine
from nmtprune.engines.base import ENGINES, removed
from nmtprune.errors import UsageError
from nmtprune.formats import load
from nmtprune.model.search import MarianSearchOptions, SearchOptions
from tests.support.marian_files import marian_model

SETTINGS = EngineSettings(SearchOptions(), BatchLimits.of(), torch.device("cpu"))


def test_engines_by_name(tiny: Path, tmp_path: Path) -> None:
    assert tuple(ENGINES) == OFFERED
    checkpoint, marian = load(tiny), load(marian_model(tmp_path / "model.npz"))
    settings = {"marian": EngineSettings(MarianSearchOptions(), BatchLimits.of(), torch.device("cpu"))}
    for name in ENGINES:
        own, given = marian if name == "marian" else checkpoint, settings.get(name, SETTINGS)
        engine = open_engine(name, own, given)
        assert type(engine).__name__.lower() == f"{name}engine"
        assert engine.checkpoint is own and engine.settings is given
    with pytest.raises(UsageError) as raised:
        open_engine("opennmt", checkpoint, SETTINGS)
    assert str(raised.value) == "`engine` 'opennmt': choose native or fairseq or marian or ctranslate2"


def test_removed_heads() -> None:
    encoder, cross = GroupId("encoder", 0), GroupId("cross", 0)
    architecture = Architecture((AttentionModule(encoder, 3, 4), AttentionModule(cross, 2, 4, padding=1)))
    assert removed(architecture, {}) == {}
    assert removed(architecture, {encoder: [2, 0, 1]}) == {}
    assert removed(architecture, {encoder: [1], cross: []}) == {encoder: [0, 2], cross: [0, 1]}
    with pytest.raises(ValueError, match=r"^cross\.0 has no heads \[2\]$"):
        removed(architecture, {cross: [0, 1, 2]})
    with pytest.raises(KeyError, match="decoder.0"):
        removed(architecture, {GroupId("decoder", 0): []})
