"""What all engines have in common."""

from pathlib import Path

import pytest
import torch

from nmtprune import slim
from nmtprune.architecture import Architecture, AttentionModule, GroupId, Neurons
from nmtprune.cli.search_options import ENGINES as OFFERED
from nmtprune.data.batching import BatchLimits
from nmtprune.engines import EngineSettings, open_engine
from nmtprune.engines.base import ENGINES, masked, removed
from nmtprune.errors import UsageError
from nmtprune.formats import load
from nmtprune.model.search import MarianSearchOptions, SearchOptions
from nmtprune.plan import Plan
from tests.support.fairseq_files import Build
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


def test_removed_neurons_and_layers() -> None:
    """What goes with a layer is not listed beside it."""
    modules = tuple(AttentionModule(GroupId(kind, layer), 2, 4) for kind in ("decoder", "cross") for layer in range(3))
    neurons = tuple(Neurons(GroupId("decoder-ffn", layer), 3) for layer in range(3))
    architecture, layers = Architecture(modules, neurons), GroupId("decoder-layers")
    assert removed(architecture, architecture.units) == {}
    assert removed(architecture, {GroupId("decoder-ffn", 1): [2]}) == {GroupId("decoder-ffn", 1): [0, 1]}
    kept = {layers: [0, 2], GroupId("decoder", 1): [], GroupId("cross", 2): [1], GroupId("decoder-ffn", 1): []}
    assert removed(architecture, kept) == {layers: [1], GroupId("cross", 2): [0]}
    with pytest.raises(ValueError, match=r"^decoder-layers has no layers \[3\]$"):
        removed(architecture, {layers: [0, 3]})


@pytest.mark.parametrize("layers", [(), (0, 2)])
def test_files_without_units_of_any_group(build: Build, layers: tuple[int, ...]) -> None:
    """Process engines get what a plan makes of the checkpoint."""
    checkpoint = load(build(layers=3))
    kept = {GroupId("encoder-ffn", 0): range(3), GroupId("cross", 2): [1]}
    kept |= {GroupId("decoder-layers"): layers} if layers else {}
    plan = Plan.of(checkpoint.base, checkpoint.architecture.full(kept))
    expected, found = slim.apply(plan, checkpoint, "masked"), masked(checkpoint, kept)
    assert found.architecture == expected.architecture and found.lineage == expected.lineage
    assert found.sha256 == expected.sha256 != checkpoint.sha256
    assert masked(checkpoint, checkpoint.architecture.units) is checkpoint
