"""Cut RoBERTa models in fairseq: ragged ones with the plug-in, others without; loading, training, fine-tuning."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from nmtprune import fairseq_plugin, slim
from nmtprune.architecture import UnitId
from nmtprune.data.batching import BatchLimits
from nmtprune.data.labelled import load_examples
from nmtprune.data.options import DataOptions
from nmtprune.engines import native
from nmtprune.errors import UsageError
from nmtprune.evaluate.verify import texts
from nmtprune.methods.drift import drift
from nmtprune.methods.measuring import batches
from nmtprune.model.classifier import label_losses
from nmtprune.plan import Plan
from tests.support import fairseq_files
from tests.support.fairseq_commands import run_stock, train, validate
from tests.support.fairseq_encoders import (
    LABELS,
    POSITIONS,
    SHORT,
    TEXTS,
    encoder_checkpoint,
    labelled_data,
    load_encoder,
    stock_model,
)

ADAM = ("--lr-scheduler", "inverse_sqrt", "--warmup-updates", 4, "--adam-betas", "(0.9, 0.98)")
RESET = ("--reset-optimizer", "--reset-dataloader", "--reset-meters", "--reset-lr-scheduler")
TASK = ("--task", "sentence_prediction", "--criterion", "sentence_prediction", "--num-classes", len(LABELS),
        "--init-token", 0, "--separator-token", 2)  # fmt: skip
assert fairseq_plugin, "models with --user-dir are built in this process"

WHOLE = (*TASK, "--required-batch-size-multiple", 1)
"""fairseq-validate leaves out texts at the end of a set unless it is told this."""

SIZES = {"heads": 4, "layers": 3, "width": 16, "ffn": 24}
EVERY = ("encoder", "encoder-ffn", "encoder-layers")
RAGGED = ("encoder.0.1", *(f"encoder.2.{head}" for head in range(4)), *(f"encoder-ffn.0.{each}" for each in range(14)))
UNIFORM = (*(f"encoder-ffn.{layer}.{each}" for layer in range(3) for each in range(layer, layer + 9)),)


def stock(layers: int = 3, ffn: int = 24) -> tuple[Any, ...]:
    """What a user must repeat to train the stock model; --arch nmtprune_roberta finds it in the checkpoint."""
    sizes = SIZES | {"layers": layers, "ffn": ffn}
    options = {f"--{SHORT[name].replace('_', '-')}": value for name, value in sizes.items()}
    options |= {"--arch": "roberta", "--max-positions": POSITIONS, "--attention-dropout": 0.0}
    return tuple(word for option in options.items() for word in option)


@dataclass(frozen=True)
class Cuts:
    """A checkpoint, its data, and what plans make of it."""

    data: Path
    full: Path
    files: dict[str, Path]


def cuts(folder: Path, task: str) -> Cuts:
    full = load_encoder(encoder_checkpoint(folder, task=task, updates=3, attention_dropout=0.0))
    files = {}
    for name, units in {"ragged": (*RAGGED, "encoder-layers.1"), "uniform": (*UNIFORM, "encoder-layers.0"),
                        "heads": RAGGED}.items():  # fmt: skip
        plan = Plan.removing(full.base, [UnitId.parse(unit, EVERY) for unit in units])
        for mode in slim.MODES:
            files[f"{name}, {mode}"] = folder / f"{name}-{mode}.pt"
            slim.apply(plan, full, mode).save(files[f"{name}, {mode}"])
    return Cuts(folder / "data-bin", full.path, files)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Cuts:
    return cuts(tmp_path_factory.mktemp("labels"), "sentence_prediction")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Cuts:
    return cuts(tmp_path_factory.mktemp("words"), "masked_lm")


@pytest.mark.parametrize("name", ["ragged, cut", "ragged, uniform", "uniform, cut", "ragged, masked"])
@pytest.mark.parametrize("task", ["classifier", "pretrained"])
def test_fairseq_computes_what_the_native_model_does(request: pytest.FixtureRequest, task: str, name: str) -> None:
    path = request.getfixturevalue(task).files[name]
    checkpoint = load_encoder(path)
    model = native.load_encoder(checkpoint)
    tokens, _ = texts(model, 1)
    head = {"classification_head_name": checkpoint.label_head} if checkpoint.classifies else {}
    with torch.inference_mode():
        found, expected = model(tokens), stock_model(path)(tokens, **head)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))
    assert ("--user-dir $(nmtprune user-dir)" in checkpoint.engines("cut")) == (
        name in ("ragged, cut", "ragged, uniform")
    )


def test_resuming_starts_with_the_masked_models_loss(classifier: Cuts, tmp_path: Path) -> None:
    """The optimizer state is cut with the weights, and dropout is on. 3 updates were made before."""
    masked = ("--restore-file", classifier.files["ragged, masked"])
    expected = train(classifier.data, tmp_path / "a", *TASK, *stock(2), *masked, *ADAM, "--max-epoch", 4)
    cut = ("--arch", "nmtprune_roberta", "--restore-file", classifier.files["ragged, cut"])
    found = train(classifier.data, tmp_path / "b", *TASK, *cut, *ADAM, "--max-epoch", 6)
    assert (len(expected), len(found)) == (1, 3) and found[0] == pytest.approx(expected[0], rel=1e-6)
    trained = load_encoder(tmp_path / "b" / "checkpoint_last.pt")
    assert trained.architecture == load_encoder(classifier.files["ragged, cut"]).architecture
    assert trained.lineage == load_encoder(classifier.files["ragged, cut"]).lineage
    assert trained.progress.updates == 6
    assert validate(trained.path, classifier.data, *WHOLE)


def test_pretraining_goes_on_at_the_masked_models_loss(pretrained: Cuts, tmp_path: Path) -> None:
    task = ("--task", "masked_lm", "--criterion", "masked_lm", "--tokens-per-sample", POSITIONS)
    masked = (*stock(2), "--restore-file", pretrained.files["ragged, masked"])
    cut = ("--arch", "nmtprune_roberta", "--restore-file", pretrained.files["ragged, cut"])
    expected, found = (
        train(pretrained.data, tmp_path / name, *task, *arch, *ADAM, "--max-epoch", 4)
        for name, arch in (("masked", masked), ("cut", cut))
    )
    assert len(found) > 0 and found[0] == pytest.approx(expected[0], rel=1e-6)
    assert not load_encoder(tmp_path / "cut" / "checkpoint_last.pt").classifies


def test_a_uniform_cut_trains_on_without_the_plug_in(classifier: Cuts, tmp_path: Path) -> None:
    losses = [
        train(classifier.data, tmp_path / mode, *TASK, *stock(2, ffn), *ADAM, "--max-epoch", 4,
              "--restore-file", classifier.files[f"uniform, {mode}"], plugin=False)
        for mode, ffn in (("cut", 15), ("masked", 24))
    ]  # fmt: skip
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert load_encoder(tmp_path / "cut" / "checkpoint_last.pt").progress.updates == 4


def test_a_uniform_cut_runs_in_stock_fairseq_of_its_own_process(classifier: Cuts) -> None:
    said = run_stock("validate", classifier.data, "--path", classifier.files["uniform, cut"], *WHOLE, "--cpu",
                     "--num-workers", 0, "--max-tokens", 400, "--log-format", "json")  # fmt: skip
    found = float(re.search(r'"valid_loss": "([0-9.]+)"', said).group(1))  # type: ignore[union-attr]
    expected = sum(validate(classifier.files["uniform, masked"], classifier.data, *WHOLE)) / TEXTS / math.log(2)
    assert found == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("name", ["uniform, cut", "ragged, cut"])
def test_the_hub_interface_loads_a_cut(classifier: Cuts, name: str) -> None:
    from fairseq.models.roberta import RobertaModel

    path = classifier.files[name]
    trusted = mock.patch.dict("os.environ", TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1")
    with trusted, fairseq_files.on_cpu():
        hub = RobertaModel.from_pretrained(str(path.parent), path.name, str(classifier.data), bpe="characters").eval()
    model = native.load_encoder(load_encoder(path))
    tokens, _ = texts(model, 2)
    with torch.inference_mode():
        found = hub.predict("sentence_classification_head", tokens, return_logits=True)
        torch.testing.assert_close(found, model(tokens), rtol=0, atol=1e-5)


def test_losses_are_those_of_fairseq_validate(classifier: Cuts) -> None:
    """Pairs of texts as the task frames them: the settings in the file say how."""
    for name in ("ragged, cut", "uniform, cut"):
        checkpoint = load_encoder(classifier.files[name])
        examples = load_examples(DataOptions(data_bin=classifier.data, subset="valid"), checkpoint.classifier_profile())
        model, found = native.load_classifier(checkpoint), 0.0
        for batch in batches(examples, BatchLimits.of(60)):
            assert batch.labels is not None
            found += float(label_losses(model(batch.tokens), batch.labels).sum())
        assert found == pytest.approx(sum(validate(checkpoint.path, classifier.data, *WHOLE)), rel=1e-5)


def test_a_pruned_pretrained_model_is_fine_tuned(pretrained: Cuts, tmp_path: Path) -> None:
    """First prune, then fine-tune (Budhraja et al. 2020): the head is new, and the first loss the masked model's."""
    data = labelled_data(tmp_path / "data-bin")
    start = (*TASK, *ADAM, *RESET, "--restore-file")
    cut = train(data, tmp_path / "a", *start, pretrained.files["heads, cut"], "--arch", "nmtprune_roberta",
                "--attention-dropout", 0.0, "--max-epoch", 3)  # fmt: skip
    masked = train(data, tmp_path / "b", *start, pretrained.files["heads, masked"], *stock(), "--max-epoch", 1)
    assert len(cut) == 3 and cut[0] == pytest.approx(masked[0], rel=1e-6)
    tuned = load_encoder(tmp_path / "a" / "checkpoint_last.pt")
    assert tuned.label_head == "sentence_classification_head" and tuned.lineage is not None
    assert tuned.architecture == load_encoder(pretrained.files["heads, cut"]).architecture
    assert tuned.classifier_profile().max_positions == POSITIONS
    moved = drift(load_encoder(pretrained.files["heads, cut"]), tuned)
    assert moved.related and len(moved.heads) == 7 and all(head.mean > 0 for head in moved.heads)


def test_layers_of_other_shapes_are_drawn_as_berts(tmp_path: Path) -> None:
    """From scratch with heads that do not fill the width."""
    data = labelled_data(tmp_path / "data-bin")
    sizes = ("--encoder-layers", 1, "--encoder-embed-dim", 64, "--encoder-attention-heads", 3, "--encoder-head-dim", 32)
    train(data, tmp_path / "a", *TASK, *ADAM, *sizes, "--encoder-ffn-embed-dim", 96, "--arch", "nmtprune_roberta",
          "--lr", 0, "--max-epoch", 1, "--max-positions", POSITIONS)  # fmt: skip
    tensors = load_encoder(tmp_path / "a" / "checkpoint_last.pt").model_tensors
    own = tensors["encoder.sentence_encoder.layers.0.self_attn.q_proj.weight"]
    assert own.shape == (96, 64) and float(own.std()) == pytest.approx(0.02, rel=0.05)
    assert not tensors["encoder.sentence_encoder.layers.0.self_attn.q_proj.bias"].any()


def test_options_against_the_checkpoint_are_one_line(classifier: Cuts, tmp_path: Path) -> None:
    start = (*TASK, *ADAM, "--arch", "nmtprune_roberta", "--restore-file", classifier.files["ragged, cut"])
    with pytest.raises(UsageError, match=r"^--max-positions 20: the checkpoint has 40$"):
        train(classifier.data, tmp_path / "a", *start, "--max-positions", 20)
    with pytest.raises(UsageError, match="--encoder-layers 3: the checkpoint has 2"):
        train(classifier.data, tmp_path / "a", *start, "--encoder-layers", 3)
    with pytest.raises(UsageError, match="is of architecture roberta; train it with --arch nmtprune_roberta"):
        train(classifier.data, tmp_path / "a", *start[:-4], "--arch", "nmtprune", "--restore-file",
              classifier.files["ragged, cut"])  # fmt: skip
