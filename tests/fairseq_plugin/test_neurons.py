"""Neurons and layers that are cut: in stock fairseq without the plug-in where it can be, through the plug-in else."""

import json
import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

import nmtprune.fairseq_plugin  # noqa: F401  # registers the models
from nmtprune import slim
from nmtprune.architecture import GroupId
from nmtprune.errors import CheckpointError, UsageError
from nmtprune.formats.fairseq import FairseqCheckpoint
from nmtprune.plan import Plan
from tests.support import fairseq_files
from tests.support.fairseq_commands import generate, hypotheses, run_stock, scores, train
from tests.support.fairseq_files import SIZES, Files, make_files
from tests.support.thinned import thinned

ADAM = ("--lr-scheduler", "inverse_sqrt", "--warmup-updates", 4, "--adam-betas", "(0.9, 0.98)")
QUICK = ("--max-tokens", 400, "--cpu", "--num-workers", 0, "--required-batch-size-multiple", 1)

UNIFORM = {
    "neurons": {"encoder-ffn": [(0, 2, 3, 17), (5, 6, 7, 23)], "decoder-ffn": [(1,), (22,)]},
    "layers": {"encoder-layers": (1,), "decoder-layers": (0,)},
    "neurons and layers": {"decoder-ffn": [(), tuple(range(0, 24, 3))], "decoder-layers": (1,)},
    "no neurons": {"encoder-ffn": [(), ()]},
}
"""What stays, of neurons by layer, and of layers: what stock fairseq runs."""

RAGGED = {"encoder-ffn": [(0, 2, 3, 17), ()], "decoder-ffn": [tuple(range(24)), (1, 5, 23)]}

Kept = Mapping[str, Sequence[Any]]


def cut(files: Files, kept: Kept, target: Path, mode: str = "cut", heads: Mapping[str, Sequence[int]] = {}) -> Path:
    """Write what a plan that keeps these units makes of the full model."""
    base = FairseqCheckpoint.load(files.full)
    units = dict(base.base.units)
    for kind, own in kept.items():
        if kind.endswith("-layers"):
            units[GroupId(kind)] = tuple(own)
        else:
            units |= {GroupId(kind, layer): numbers for layer, numbers in enumerate(own)}
    units |= {GroupId.parse(name): tuple(numbers) for name, numbers in heads.items()}
    target.parent.mkdir(exist_ok=True, parents=True)
    slim.apply(Plan.of(base.base, units), base, mode).save(target, force=True)
    return target


def stock_sizes(path: Path) -> list[Any]:
    """What a user repeats on the command line to train a stock model: the sizes in the file."""
    settings = FairseqCheckpoint.load(path).settings
    names = [*SIZES, "decoder_embed_dim", "decoder_ffn_embed_dim"]
    return [word for name in names for word in (f"--{name.replace('_', '-')}", settings[name])]


@pytest.mark.parametrize("kept", thinned(UNIFORM.values(), 2), ids=UNIFORM.keys())
def test_stock_fairseq_translates_with_uniform_cuts(files: Files, tmp_path: Path, kept: Kept) -> None:
    paths = {mode: cut(files, kept, tmp_path / f"{mode}.pt", mode) for mode in ("cut", "masked")}
    assert not FairseqCheckpoint.load(paths["cut"]).description.needs_plugin
    options = ("--beam", 2, "--max-len-b", 20, *QUICK)
    found, expected = (run_stock("generate", files.data, "--path", path, *options) for path in paths.values())
    assert len(hypotheses(found)) == 16
    assert hypotheses(found) == hypotheses(expected)
    assert scores(found) == pytest.approx(scores(expected), abs=2e-4)


@pytest.mark.parametrize("mode", ["cut", "uniform"])
def test_the_plugin_translates_with_ragged_cuts(files: Files, tmp_path: Path, mode: str) -> None:
    heads = {"cross.1": (0, 3), "encoder.0": ()} if mode == "cut" else {}
    found, expected = (
        generate(cut(files, RAGGED, tmp_path / f"{own}.pt", own, heads), files.data, "--beam", 2)
        for own in (mode, "masked")
    )
    assert len(hypotheses(found)) == 16
    assert hypotheses(found) == hypotheses(expected)
    assert scores(found) == pytest.approx(scores(expected), abs=2e-4)
    assert FairseqCheckpoint.load(tmp_path / f"{mode}.pt").description.needs_plugin == (mode == "cut")


@pytest.mark.parametrize("kept", thinned(UNIFORM.values(), 2), ids=UNIFORM.keys())
def test_stock_training_goes_on_from_cut_moments(files: Files, tmp_path: Path, kept: Kept) -> None:
    """Its first loss is the masked model's, and its next one too: the moments are those of what is left."""
    losses = {}
    for mode in ("cut", "masked"):
        path = cut(files, kept, tmp_path / f"{mode}.pt", mode)
        arch = ("--arch", "transformer", *stock_sizes(path), "--dropout", 0)
        losses[mode] = train(
            files.data, tmp_path / mode, *arch, "--restore-file", path, *ADAM, "--max-epoch", 4, plugin=False
        )
    assert len(losses["cut"]) == 1
    assert losses["cut"] == pytest.approx(losses["masked"], rel=1e-6)


def test_stock_training_moves_what_stays_as_in_the_full_model(files: Files, tmp_path: Path) -> None:
    kept = UNIFORM["neurons"]
    trained = {}
    for mode in ("cut", "masked"):
        path = cut(files, kept, tmp_path / f"{mode}.pt", mode)
        arch = ("--arch", "transformer", *stock_sizes(path), "--dropout", 0)
        train(files.data, tmp_path / mode, *arch, "--restore-file", path, *ADAM, "--max-epoch", 4, plugin=False)
        trained[mode] = FairseqCheckpoint.load(tmp_path / mode / "checkpoint_last.pt").model_tensors
    rows = list(kept["encoder-ffn"][1])
    name = "encoder.layers.1.fc2.bias"
    torch.testing.assert_close(trained["cut"][name], trained["masked"][name], rtol=1e-5, atol=1e-6)
    name = "encoder.layers.1.fc1.weight"
    before = FairseqCheckpoint.load(tmp_path / "cut.pt").model_tensors[name]
    assert not torch.equal(trained["cut"][name], before)
    # Where W_2 is not masked, as for the neurons that stay, gradients of W_1 are the same.
    torch.testing.assert_close(trained["cut"][name], trained["masked"][name][rows], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("option", ["--finetune-from-model", "--restore-file"])
def test_the_plugin_trains_ragged_cuts(files: Files, tmp_path: Path, option: str) -> None:
    heads = {"cross.1": (0, 3), "encoder.0": ()}
    path = cut(files, RAGGED, tmp_path / "cut.pt", heads=heads)
    masked = cut(files, RAGGED, tmp_path / "masked.pt", "masked", heads)
    ends = ("--dropout", 0, *ADAM, "--max-epoch", 4)
    found = train(files.data, tmp_path / "a", "--arch", "nmtprune", option, path, *ends)
    expected = train(files.data, tmp_path / "b", "--arch", "nmtprune", option, masked, *ends)
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    trained = FairseqCheckpoint.load(tmp_path / "a" / "checkpoint_last.pt")
    before = FairseqCheckpoint.load(path)
    assert trained.architecture == before.architecture
    assert trained.lineage == before.lineage
    assert len(hypotheses(generate(trained.path, files.data, "--beam", 2))) == 16
    if option == "--restore-file":  # and from what it has written itself
        again = train(files.data, tmp_path / "a", "--arch", "nmtprune", *ends[:-1], 5)
        assert len(again) == 1


def test_the_plugin_trains_what_stock_fairseq_runs(files: Files, tmp_path: Path) -> None:
    """Its lineage goes on; stock fairseq loses it."""
    path = cut(files, UNIFORM["neurons and layers"], tmp_path / "cut.pt")
    train(files.data, tmp_path / "a", "--arch", "nmtprune", "--restore-file", path, *ADAM, "--max-epoch", 4)
    trained, before = FairseqCheckpoint.load(tmp_path / "a" / "checkpoint_last.pt"), FairseqCheckpoint.load(path)
    assert trained.architecture == before.architecture
    assert trained.lineage == before.lineage


def test_half_precision_moments_of_ragged_cuts_resume(tmp_path: Path) -> None:
    files = make_files(tmp_path / "m", fp16=True, dropout=0.0)
    kept = RAGGED | {"decoder-layers": (1,)}
    options = ("--arch", "nmtprune", "--fp16", "--fp16-init-scale", 4, *ADAM, "--max-epoch", 4)
    losses = []
    for mode in ("cut", "masked"):
        path = cut(files, kept, tmp_path / f"{mode}.pt", mode)
        with mock.patch("torch.cuda.current_device", return_value=0):  # fairseq asks even on a CPU
            losses.append(train(files.data, tmp_path / mode, *options, "--restore-file", path))
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-3)


def test_gates_go_on_heads_of_models_with_fewer_neurons_and_layers(files: Files, tmp_path: Path) -> None:
    path = cut(files, RAGGED | {"encoder-layers": (0,)}, tmp_path / "cut.pt", heads={"cross.1": (0, 3)})
    gates = ("--task", "translation_l0", "--criterion", "cross_entropy_l0", "--l0-weight", 0.1, "--target-heads", 9)
    train(files.data, tmp_path / "a", "--arch", "nmtprune", "--finetune-from-model", path, *gates, *ADAM,
          "--max-epoch", 2)  # fmt: skip
    gated, before = FairseqCheckpoint.load(tmp_path / "a" / "checkpoint_last.pt"), FairseqCheckpoint.load(path)
    assert gated.architecture == before.architecture
    assert gated.lineage == before.lineage
    opened = gated.open_units
    assert opened is not None
    assert sum(map(len, opened.values())) == 9
    result = slim.apply(Plan.of(gated.base, opened), gated)
    assert result.architecture.count() == 9
    assert result.architecture.feed_forwards == before.architecture.feed_forwards
    assert result.architecture.layers("encoder") == (0,)


def test_language_models_train_with_ragged_neurons(lm_files: Files, tmp_path: Path) -> None:
    kept = {"decoder-ffn": [(0, 5, 6), (1, 2, 3, 4, 5, 6, 7)]}
    task = ("--task", "language_modeling", "--tokens-per-sample", 32, "--sample-break-mode", "none", *ADAM)
    losses = [
        train(
            *(lm_files.data, tmp_path / mode, "--arch", "nmtprune_lm", *task, "--max-epoch", 4),
            *("--attention-dropout", 0, "--dropout", 0),
            *("--restore-file", cut(lm_files, kept, tmp_path / f"{mode}.pt", mode)),
        )
        for mode in ("cut", "masked")
    ]
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-6)


def test_stock_fairseq_evaluates_a_narrow_and_shallow_language_model(lm_files: Files, tmp_path: Path) -> None:
    kept = {"decoder-ffn": [(0, 5, 6), (1, 2, 7)], "decoder-layers": (1,)}
    paths = [cut(lm_files, kept, tmp_path / f"{mode}.pt", mode) for mode in ("cut", "masked")]
    options = ("--tokens-per-sample", 32, "--sample-break-mode", "none", *QUICK, "--output-word-probs")
    found, expected = (
        re.findall(r"(\S+) \[(-?[0-9.]+)\]", run_stock("eval-lm", lm_files.data, "--path", path, *options))
        for path in paths
    )
    assert len(found) > 50
    assert [word for word, _ in found] == [word for word, _ in expected]
    assert [float(score) for _, score in found] == pytest.approx([float(score) for _, score in expected], abs=2e-4)


def test_sizes_on_the_command_line_are_those_of_the_checkpoint(files: Files, tmp_path: Path) -> None:
    path = cut(files, UNIFORM["neurons"], tmp_path / "cut.pt")
    with pytest.raises(UsageError) as error:
        train(files.data, tmp_path / "a", "--arch", "nmtprune", "--restore-file", path, *ADAM,
              "--decoder-ffn-embed-dim", 24)  # fmt: skip
    assert str(error.value) == (
        f"--arch nmtprune continues from {path}: --decoder-ffn-embed-dim 24: the checkpoint has 1"
    )


def settings_with(files: Files, folder: Path, **changes: Any) -> tuple[Any, Namespace]:
    """Task, and the settings of a ragged cut with other ones."""
    path = cut(files, RAGGED, folder / "cut.pt")
    model = fairseq_files.load(path)["cfg"]["model"]
    given = dict(vars(model)) if isinstance(model, Namespace) else dict(model)
    cfg = fairseq_files.fairseq_config(files.data, arch="transformer")
    task, _, _ = fairseq_files.fairseq_model(cfg)
    return task, Namespace(**given | changes)


BROKEN = {
    "{": "nmtprune_neurons must be an object with keys among encoder-ffn, decoder-ffn",
    "[" * 100_000: "nmtprune_neurons must be an object with keys among encoder-ffn, decoder-ffn",
    '{"ffn": [1, 2]}': "nmtprune_neurons must be an object with keys among encoder-ffn, decoder-ffn",
    '{"encoder-ffn": [-1, 2], "decoder-ffn": 3}':
        "nmtprune_neurons: encoder-ffn must be a list of neuron counts, one a layer; nmtprune_neurons: decoder-ffn must"
        " be a list of neuron counts, one a layer",
    '{"encoder-ffn": [1], "decoder-ffn": [1, 2, 3]}':
        "nmtprune_neurons lists 1 encoder-ffn layers, the model has 2; nmtprune_neurons lists 3 decoder-ffn layers, the"
        " model has 2",
}  # fmt: skip


@pytest.mark.parametrize("text", BROKEN, ids=lambda text: text[:30])
def test_damaged_settings_are_one_line(files: Files, tmp_path: Path, text: str) -> None:
    task, settings = settings_with(files, tmp_path, nmtprune_neurons=text)
    with pytest.raises(CheckpointError) as error:
        task.build_model(settings)
    assert str(error.value) == f"settings of the model: {BROKEN[text]}"


def test_weights_of_other_widths_are_refused_by_name(files: Files, tmp_path: Path) -> None:
    task, settings = settings_with(files, tmp_path)
    model = task.build_model(settings)
    weights = dict(fairseq_files.load(tmp_path / "cut.pt")["model"])
    model.load_state_dict(weights)
    weights["decoder.layers.1.fc2.weight"] = torch.zeros(16, 4)
    with pytest.raises(CheckpointError) as error:
        model.load_state_dict(weights)
    assert str(error.value) == (
        "weights and settings are of different models: decoder.layers.1.fc2.weight is 16 x 4, 3 neurons make it 16 x 3"
    )


def test_chosen_layers_of_a_ragged_model_keep_their_widths(files: Files, tmp_path: Path) -> None:
    """LayerDrop's option names layers of a file with several widths."""
    task, settings = settings_with(files, tmp_path, encoder_layers_to_keep="1", decoder_layers_to_keep="0,1")
    model = task.build_model(settings)
    assert [layer.fc1.out_features for layer in model.encoder.layers] == [0]
    assert [layer.fc1.out_features for layer in model.decoder.layers] == [24, 3]
    assert json.loads(settings.nmtprune_neurons) == {"encoder-ffn": [0], "decoder-ffn": [24, 3]}
