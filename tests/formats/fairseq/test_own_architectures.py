"""Architectures that a user's own code registers, which give fairseq's transformer other sizes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from nmtprune import slim
from nmtprune.architecture import EVERY_KIND, UnitId
from nmtprune.data.batching import BatchLimits
from nmtprune.data.corpus import load_corpus
from nmtprune.data.options import DataOptions
from nmtprune.engines import EngineSettings, open_engine
from nmtprune.errors import CheckpointError
from nmtprune.formats import load
from nmtprune.formats.base import Checkpoint
from nmtprune.formats.fairseq import FairseqCheckpoint, containers
from nmtprune.model.search import SearchOptions
from nmtprune.plan import Plan
from tests.support import fairseq_commands, fairseq_files
from tests.support.fairseq_files import Build

ARCH = "transformer_3_2"
SETTINGS = {"encoder_normalize_before": True, "decoder_normalize_before": True, "activation_fn": "gelu",
            "layernorm_embedding": True}  # fmt: skip
"""What the user's function sets, like IndicTrans2's ``transformer_18_18``."""

SEARCH = SearchOptions(beam=3, max_len_b=20)


@pytest.fixture(scope="module")
def own(build: Build) -> Iterator[Path]:
    """A checkpoint of an architecture that fairseq knows while this module runs, as with a ``--user-dir``."""
    from fairseq import models

    def function(args: Any) -> None:
        for name, value in SETTINGS.items():
            setattr(args, name, value)
        models.ARCH_CONFIG_REGISTRY["transformer"](args)

    models.register_model_architecture("transformer", ARCH)(function)
    yield build(arch=ARCH, updates=2, layers=(3, 2))
    for registry in (models.ARCH_MODEL_REGISTRY, models.ARCH_MODEL_NAME_REGISTRY, models.ARCH_CONFIG_REGISTRY):
        del registry[ARCH]
    models.ARCH_MODEL_INV_REGISTRY["transformer"].remove(ARCH)


def translations(checkpoint: Checkpoint, data: Path) -> list[str]:
    corpus = load_corpus(DataOptions(data_bin=data, subset="test"), checkpoint.profile(), references=False)
    settings = EngineSettings(SEARCH, BatchLimits.of(400), torch.device("cpu"), 1)
    found = open_engine("native", checkpoint, settings).translate(corpus, {})
    return [corpus.target_vocabulary.string(best[0].tokens) for best in found]


def of_fairseq(path: Path, data: Path, *, plugin: bool) -> list[str]:
    options = ("--beam", 3, "--max-tokens", 400, "--max-len-b", 20, "--cpu", "--num-workers", 0)
    with mock.patch.dict("os.environ", TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1"):
        printed = fairseq_commands.run("generate", data, "--path", path, *options, plugin=plugin)
    return fairseq_commands.hypotheses(printed)


def cut(path: Path, saved: Path, *names: str) -> Checkpoint:
    base = load(path)
    slim.apply(Plan.removing(base.base, [UnitId.parse(name, EVERY_KIND) for name in names]), base).save(saved)
    return load(saved)


def said(checkpoint: Checkpoint) -> dict[str, Any]:
    assert isinstance(checkpoint, FairseqCheckpoint)
    given = containers.section(checkpoint.state, "model")
    return {name: given.get(name) for name in ("arch", "_name", "nmtprune_base_arch")}


def test_an_architecture_of_an_unknown_name_is_what_its_sizes_say(own: Path) -> None:
    found = load(own)
    assert found.architecture_name == ARCH
    assert [len(found.architecture.of_kind(kind)) for kind in ("encoder", "cross")] == [3, 2]
    assert found.notes == (
        f"architecture '{ARCH}' is not one of fairseq's: it is taken for fairseq's transformer with the sizes in the "
        "file",
    )
    data = own.parent / "data-bin"
    assert translations(found, data) == of_fairseq(own, data, plugin=False)


UNIFORM = ("encoder-layers.1", *(f"decoder-ffn.{layer}.{neuron}" for layer in (0, 1) for neuron in (3, 17)))


def test_a_result_without_ragged_units_is_of_the_users_own_architecture(own: Path, tmp_path: Path) -> None:
    """Stock fairseq with the user's own code loads it and translates as the native model does."""
    data, path = own.parent / "data-bin", tmp_path / "cut.pt"
    found = cut(own, path, *UNIFORM)
    assert said(found) == {"arch": ARCH, "_name": ARCH, "nmtprune_base_arch": None}
    lines = translations(found, data)
    assert lines == of_fairseq(path, data, plugin=False) and len(set(lines)) > 1


def test_a_ragged_result_is_one_of_the_plugins_that_remembers_the_name(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plug-in does without the user's code: all settings are in the file."""
    from fairseq import models

    data, path = own.parent / "data-bin", tmp_path / "cut.pt"
    found = cut(own, path, "encoder.0.1", "cross.1.0", "cross.1.2", "encoder-ffn.2.5")
    assert said(found) == {"arch": "nmtprune", "_name": "nmtprune", "nmtprune_base_arch": ARCH}
    assert found.architecture_name == ARCH
    for registry in (models.ARCH_MODEL_REGISTRY, models.ARCH_CONFIG_REGISTRY):
        monkeypatch.delitem(registry, ARCH)
    assert of_fairseq(path, data, plugin=True) == translations(found, data)
    ragged = cut(own, tmp_path / "ragged.pt", "encoder-ffn.0.1")
    assert said(ragged)["_name"] == "nmtprune"
    again = cut(tmp_path / "ragged.pt", tmp_path / "again.pt", "encoder-ffn.1.0", "encoder-ffn.2.7")
    assert said(again) == {"arch": ARCH, "_name": ARCH, "nmtprune_base_arch": None}


def test_training_starts_from_it(own: Path, tmp_path: Path) -> None:
    options = ("--arch", "nmtprune", "--finetune-from-model", own, "--max-update", 1)
    fairseq_commands.train(own.parent / "data-bin", tmp_path / "run", *options)
    assert said(load(tmp_path / "run" / "checkpoint_last.pt"))["nmtprune_base_arch"] == ARCH


KNOWN = "(fairseq's transformer, transformer_lm and roberta models are supported)"
REFUSED: dict[str, tuple[str, tuple[str, ...], str]] = {
    "missing sizes": ("my_own", ("encoder_layers", "decoder_attention_heads"),
                      "architecture 'my_own' is not fairseq's own, and the settings do not hold encoder_layers, "
                      "decoder_attention_heads: with all sizes in them it is read as fairseq's transformer"),
    "another model of fairseq's": ("bart_large", (), f"architecture 'bart_large' {KNOWN}"),
    "part of another model's name": ("transformer_ulm_own", (), f"architecture 'transformer_ulm_own' {KNOWN}"),
    "no name": ("", (), f"architecture '' {KNOWN}"),
}  # fmt: skip


@pytest.mark.parametrize(("arch", "without", "text"), REFUSED.values(), ids=REFUSED)
def test_other_architectures_are_refused(
    tiny: Path, tmp_path: Path, arch: str, without: tuple[str, ...], text: str
) -> None:
    state = fairseq_files.load(tiny)
    state["cfg"]["model"] = {name: value for name, value in vars(state["cfg"]["model"]).items() if name not in without}
    state["cfg"]["model"] |= {"arch": arch, "_name": arch}
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(CheckpointError) as error:
        load(tmp_path / "x.pt")
    assert str(error.value) == f"{tmp_path / 'x.pt'}: unsupported: {text}"


def test_a_language_model_of_an_unknown_name(build: Build, tmp_path: Path) -> None:
    path = build(arch="transformer_lm")
    state = fairseq_files.load(path)
    model = state["cfg"]["model"]
    for holder in [model] if isinstance(model, dict) else [vars(model)]:
        holder |= {"arch": "transformer_lm_own", "_name": "transformer_lm_own"}
    torch.save(state, tmp_path / "x.pt")
    assert load(tmp_path / "x.pt").base == load(path).base
    assert said(cut(tmp_path / "x.pt", tmp_path / "y.pt", "decoder.0.1"))["_name"] == "nmtprune_lm"
