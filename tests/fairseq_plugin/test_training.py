"""``fairseq-train --arch nmtprune``: what it starts from, what it trains, what it saves."""

from argparse import Namespace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from nmtprune import slim
from nmtprune.architecture import parse_heads
from nmtprune.errors import CheckpointError, UsageError
from nmtprune.fairseq_plugin.train_settings import starting_point
from nmtprune.formats.fairseq.checkpoint import FairseqCheckpoint
from nmtprune.plan import Plan
from tests.support import fairseq_files
from tests.support.fairseq_commands import eval_lm, generate, hypotheses, train
from tests.support.fairseq_files import REMOVED, SIZES, Files, make_files

ADAM = ("--lr-scheduler", "inverse_sqrt", "--warmup-updates", 4, "--adam-betas", "(0.9, 0.98)")


def as_options(settings: dict[str, Any]) -> list[Any]:
    return [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]


def lineage_of(path: Path) -> Any:
    return FairseqCheckpoint.load(path).lineage


def test_resuming_starts_with_the_masked_models_loss(files: Files, tmp_path: Path) -> None:
    """The optimizer state is cut with the weights; dropout is on, attention dropout off. 3 updates were made before."""
    stock = as_options(SIZES | {"dropout": 0.2})
    expected = train(
        files.data,
        tmp_path / "a",
        "--arch",
        "transformer",
        *stock,
        "--restore-file",
        files.masked,
        *ADAM,
        "--max-epoch",
        4,
    )
    found = train(
        files.data, tmp_path / "b", "--arch", "nmtprune", "--restore-file", files.cut, *ADAM, "--max-epoch", 6
    )
    assert len(expected) == 1
    assert len(found) == 3
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    trained = FairseqCheckpoint.load(tmp_path / "b" / "checkpoint_last.pt")
    assert trained.lineage == lineage_of(files.cut)
    assert trained.architecture == FairseqCheckpoint.load(files.cut).architecture
    assert trained.state["optimizer_history"][-1]["num_updates"] == 6
    assert generate(trained.path, files.data, "--beam", 2)


def test_an_update_moves_what_stays_as_in_the_full_model(files: Files, tmp_path: Path) -> None:
    """One resumed update changes the kept heads as it changes them in the masked model: the moments fit the weights."""
    stock = as_options(SIZES | {"dropout": 0.2})
    for path, arch in ((files.masked, ("--arch", "transformer", *stock)), (files.cut, ("--arch", "nmtprune"))):
        train(files.data, tmp_path / path.stem, *arch, "--restore-file", path, *ADAM, "--max-epoch", 4)
    masked, cut = (
        FairseqCheckpoint.load(tmp_path / name / "checkpoint_last.pt").model_tensors for name in ("masked", "cut")
    )
    name = "encoder.layers.0.self_attn.k_proj.weight"
    kept = [row for head in (0, 2, 3) for row in range(4 * head, 4 * head + 4)]
    torch.testing.assert_close(cut[name], masked[name][kept], rtol=1e-5, atol=1e-6)
    shared = "decoder.layers.1.fc1.weight"
    torch.testing.assert_close(cut[shared], masked[shared], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("option", ["--finetune-from-model", "--restore-file"])
def test_fine_tuning_starts_at_the_masked_models_loss(files: Files, tmp_path: Path, option: str) -> None:
    reset = ("--reset-optimizer", "--reset-dataloader", "--reset-meters", "--reset-lr-scheduler")
    options = (*ADAM, "--max-epoch", 2, *(reset if option == "--restore-file" else ()))
    found = train(files.data, tmp_path / "a", "--arch", "nmtprune", option, files.cut, *options)
    stock = as_options(SIZES | {"dropout": 0.2})
    expected = train(files.data, tmp_path / "b", "--arch", "transformer", *stock, option, files.masked, *options)
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert lineage_of(tmp_path / "a" / "checkpoint_last.pt") == lineage_of(files.cut)
    if option == "--finetune-from-model":  # which goes on where its folder has a checkpoint
        resumed = train(files.data, tmp_path / "a", "--arch", "nmtprune", option, files.cut, *ADAM, "--max-epoch", 3)
        assert len(resumed) == 1


def test_training_from_a_stock_checkpoint(files: Files, tmp_path: Path) -> None:
    """Not one size is repeated on the command line; losses are those of stock fairseq, several updates long."""
    options = ("--restore-file", files.full, *ADAM, "--max-epoch", 6)
    found = train(files.data, tmp_path / "a", "--arch", "nmtprune", *options)
    stock = as_options(SIZES | {"dropout": 0.2})
    expected = train(files.data, tmp_path / "b", "--arch", "transformer", *stock, *options)
    assert found == pytest.approx(expected, rel=1e-5)
    trained = FairseqCheckpoint.load(tmp_path / "a" / "checkpoint_last.pt")
    assert trained.lineage is None
    assert trained.architecture == FairseqCheckpoint.load(files.full).architecture
    assert trained.architecture_name == "transformer"


def test_uniform_files_keep_their_zero_heads(files: Files, tmp_path: Path) -> None:
    losses = [
        train(files.data, tmp_path / name, "--arch", "nmtprune", "--restore-file", path, *ADAM, "--max-epoch", 6)
        for name, path in (("a", files.uniform), ("b", files.cut))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    trained = FairseqCheckpoint.load(tmp_path / "a" / "checkpoint_last.pt")
    assert trained.architecture == FairseqCheckpoint.load(files.uniform).architecture
    assert not trained.model_tensors["encoder.layers.1.self_attn.v_proj.weight"].any()


@pytest.mark.slow
def test_reinitialized_files_train(files: Files, tmp_path: Path) -> None:
    FairseqCheckpoint.load(files.cut).reinitialized(3).save(tmp_path / "fresh.pt")
    options = ("--arch", "nmtprune", "--restore-file", tmp_path / "fresh.pt", *ADAM, "--max-epoch", 2)
    assert len(train(files.data, tmp_path / "a", *options)) == 2
    assert lineage_of(tmp_path / "a" / "checkpoint_last.pt") == lineage_of(files.cut)


def test_explicit_options_win(files: Files, tmp_path: Path) -> None:
    train(
        *(
            files.data,
            tmp_path / "a",
            "--arch",
            "nmtprune",
            "--finetune-from-model",
            files.cut,
            *ADAM,
            "--max-epoch",
            1,
        ),
        *("--dropout", 0.4, "--attention-dropout", 0.25, "--encoder-layerdrop", 0.1, "--max-source-positions", 30),
    )
    settings = FairseqCheckpoint.load(tmp_path / "a" / "checkpoint_last.pt").settings
    changed = {"dropout": 0.4, "attention_dropout": 0.25, "encoder_layerdrop": 0.1, "max_source_positions": 30}
    assert {name: settings[name] for name in changed} == changed
    own = FairseqCheckpoint.load(files.cut).settings
    for name in ("activation_dropout", "max_target_positions", "encoder_ffn_embed_dim", "decoder_layerdrop"):
        assert settings[name] == own[name]


def test_language_models_train(lm_files: Files, tmp_path: Path) -> None:
    task = ("--task", "language_modeling", "--tokens-per-sample", 32, "--sample-break-mode", "none", *ADAM)
    gpt = as_options(
        {"decoder_layers": 2, "decoder_embed_dim": 16, "decoder_ffn_embed_dim": 24, "decoder_attention_heads": 4}
    )
    gpt += as_options({"decoder_input_dim": 16, "decoder_output_dim": 16}) + ["--share-decoder-input-output-embed"]
    quiet = ("--attention-dropout", 0)
    expected = train(
        *(lm_files.data, tmp_path / "a", "--arch", "transformer_lm_gpt", *gpt, *task, *quiet),
        *("--restore-file", lm_files.masked, "--max-epoch", 4),
    )
    found = train(
        *(lm_files.data, tmp_path / "b", "--arch", "nmtprune_lm", *task, *quiet),
        *("--restore-file", lm_files.cut, "--max-epoch", 4),
    )
    assert found == pytest.approx(expected, rel=1e-6)
    path = tmp_path / "b" / "checkpoint_last.pt"
    assert lineage_of(path) == lineage_of(lm_files.cut)
    assert FairseqCheckpoint.load(path).architecture_name == "transformer_lm_gpt"
    assert eval_lm(path, lm_files.data) > 0


def test_learned_positions_of_a_language_model_are_kept(tmp_path: Path) -> None:
    """Their number comes from the checkpoint, not from the length of the samples that it is trained on now."""
    files = make_files(tmp_path / "m", "decoder.0.1-3 decoder.1", arch="transformer_lm_gpt3_small")
    task = ("--task", "language_modeling", "--tokens-per-sample", 16, "--sample-break-mode", "none", *ADAM)
    train(
        files.data, tmp_path / "a", "--arch", "nmtprune_lm", *task, "--finetune-from-model", files.cut, "--max-epoch", 1
    )
    trained = FairseqCheckpoint.load(tmp_path / "a" / "checkpoint_last.pt")
    before = FairseqCheckpoint.load(files.cut)
    assert trained.settings["max_target_positions"] == before.settings["max_target_positions"] == 32
    assert trained.architecture == before.architecture


def test_head_width_without_a_checkpoint(files: Files, tmp_path: Path) -> None:
    options = ("--arch", "nmtprune", "--nmtprune-base-arch", "transformer_iwslt_de_en", *as_options(SIZES))
    options += ("--encoder-head-dim", 8, "--decoder-attention-heads", 3, "--decoder-head-dim", 5, *ADAM)
    first = train(files.data, tmp_path / "a", *options, "--max-epoch", 2)
    assert len(first) == 2
    path = tmp_path / "a" / "checkpoint_last.pt"
    trained = FairseqCheckpoint.load(path)
    assert trained.architecture_name == "transformer_iwslt_de_en"
    assert trained.lineage is None
    assert [(str(m.id), m.heads, m.head_dim) for m in trained.architecture] == [
        ("encoder.0", 4, 8), ("encoder.1", 4, 8), ("decoder.0", 3, 5), ("decoder.1", 3, 5),
        ("cross.0", 3, 5), ("cross.1", 3, 5),
    ]  # fmt: skip
    assert trained.model_tensors["encoder.layers.0.self_attn.out_proj.weight"].shape == (16, 32)
    assert len(hypotheses(generate(path, files.data, "--beam", 2))) == 16
    assert len(train(files.data, tmp_path / "a", *options, "--max-epoch", 3)) == 1  # the same command resumes


def test_plain_nmtprune_from_scratch_is_the_stock_model(files: Files, tmp_path: Path) -> None:
    options = (*as_options(SIZES), *ADAM, "--max-epoch", 3, "--attention-dropout", 0.2)
    expected = train(files.data, tmp_path / "a", "--arch", "transformer", *options)
    found = train(files.data, tmp_path / "b", "--arch", "nmtprune", *options)
    assert found == pytest.approx(expected, rel=1e-5)


def test_half_precision_state_resumes(tmp_path: Path) -> None:
    """The optimizer of --fp16 holds one flat vector; modules without heads have no place in it."""
    files = make_files(tmp_path / "m", fp16=True, dropout=0.2)
    options = ("--fp16", "--fp16-init-scale", 4, *ADAM, "--max-epoch", 5)
    stock = as_options(SIZES | {"dropout": 0.2})
    with mock.patch("torch.cuda.current_device", return_value=0):  # fairseq asks even on a CPU
        found = train(files.data, tmp_path / "a", "--arch", "nmtprune", *options, "--restore-file", files.cut)
        expected = train(
            files.data, tmp_path / "b", "--arch", "transformer", *stock, *options, "--restore-file", files.masked
        )
    assert len(found) == 2
    assert found[0] == pytest.approx(expected[0], rel=1e-3)
    assert lineage_of(tmp_path / "a" / "checkpoint_last.pt") == lineage_of(files.cut)


def test_validation_with_bleu(files: Files, tmp_path: Path) -> None:
    """``--eval-bleu`` generates between updates, and leaves numpy values in the checkpoint."""
    options = ("--restore-file", files.cut, *ADAM, "--max-epoch", 4, "--eval-bleu", "--eval-bleu-args", '{"beam": 2}')
    enabled = ("--arch", "nmtprune", *options, "--eval-bleu-remove-bpe", "--best-checkpoint-metric", "bleu")
    save_dir = tmp_path / "a"
    train_with_validation(files.data, save_dir, *enabled)
    path = save_dir / "checkpoint_last.pt"
    assert lineage_of(path) == lineage_of(files.cut)
    assert len(hypotheses(generate(path, files.data, "--beam", 2))) == 16
    assert len(train(files.data, save_dir, "--arch", "nmtprune", *ADAM, "--max-epoch", 5)) == 1


def train_with_validation(data: Path, save_dir: Path, *options: Any) -> None:
    from tests.support.fairseq_commands import run

    run(
        *("train", data, "--save-dir", save_dir, "--optimizer", "adam", "--lr", 0.01, "--cpu", "--max-tokens", 400),
        *("--num-workers", 0, "--required-batch-size-multiple", 1, "--no-epoch-checkpoints", "--no-progress-bar"),
        *options,
    )


@pytest.mark.slow
def test_moving_average_goes_on(files: Files, tmp_path: Path) -> None:
    full = FairseqCheckpoint.load(fairseq_files.store_as(files.full, tmp_path / "full.pt", ema=0.5))
    heads = parse_heads(REMOVED, full.architecture)
    slim.apply(Plan.removing(full.base, heads), full).save(tmp_path / "cut.pt")
    options = ("--restore-file", tmp_path / "cut.pt", *ADAM, "--max-epoch", 4, "--store-ema", "--ema-decay", 0.5)
    train(files.data, tmp_path / "a", "--arch", "nmtprune", *options)
    before, after = fairseq_files.load(tmp_path / "cut.pt"), fairseq_files.load(tmp_path / "a" / "checkpoint_last.pt")
    averages = {
        name: tensor for name, tensor in after["extra_state"]["ema"].items() if "_proj." in name or "fc" in name
    }
    assert len(averages) == 2 * (2 * 6 + 2 * 10)
    for name, average in averages.items():
        expected = (before["extra_state"]["ema"][name] + after["model"][name]) / 2
        torch.testing.assert_close(average, expected)


@pytest.mark.slow
def test_layers_can_be_dropped(files: Files, tmp_path: Path) -> None:
    """With LayerDrop's options a stock checkpoint loses layers; what is saved lists the heads of the others."""
    keep = ("--encoder-layers-to-keep", "1", "--decoder-layers-to-keep", "0,1")
    train(files.data, tmp_path / "a", "--arch", "nmtprune", "--finetune-from-model", files.full, *ADAM, *keep,
          "--max-epoch", 1, "--lr", 0)  # fmt: skip
    trained = FairseqCheckpoint.load(tmp_path / "a" / "checkpoint_last.pt")
    assert trained.architecture.heads_by_kind() == {"encoder": [4], "decoder": [4, 4], "cross": [4, 4]}
    full = FairseqCheckpoint.load(files.full).model_tensors
    assert torch.equal(trained.model_tensors["encoder.layers.0.fc1.weight"], full["encoder.layers.1.fc1.weight"])
    assert generate(trained.path, files.data)


CONFLICTS = [
    (("--encoder-attention-heads", 2, "--decoder-head-dim", 8),
     "--encoder-attention-heads 2: the checkpoint has 4; --decoder-head-dim 8: the checkpoint has 4"),
    (("--encoder-layers", 3), "--encoder-layers 3: the checkpoint has 2"),
    (("--nmtprune-base-arch", "transformer_tiny"),
     "--nmtprune-base-arch transformer_tiny: the checkpoint has transformer"),
    (("--encoder-layers-to-keep", "0"),
     "--encoder-layers-to-keep 0: the checkpoint is slim or names layers itself; its layers stay"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), CONFLICTS)
def test_options_against_the_checkpoint_are_one_line(
    files: Files, tmp_path: Path, options: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        train(files.data, tmp_path / "a", "--arch", "nmtprune", "--restore-file", files.cut, *options, *ADAM)
    assert str(caught.value) == f"--arch nmtprune continues from {files.cut}: {message}"
    assert not (tmp_path / "a").exists()


FROM_SCRATCH = [
    (("--encoder-attention-heads", 3, "--decoder-attention-heads", 0),
     "--arch nmtprune: --encoder-attention-heads 3 does not divide 512: give --encoder-head-dim;"
     " --decoder-attention-heads 0: at least one"),
    (("--encoder-head-dim", 0), "--arch nmtprune: --encoder-head-dim 0: at least 1"),
    (("--quant-noise-pq", 0.1, "--ddp-backend", "fully_sharded"),
     "--arch nmtprune: unsupported: quant_noise_pq 0.1 (quantization noise); --ddp-backend fully_sharded (FSDP)"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), FROM_SCRATCH)
def test_options_that_do_not_fit_are_one_line(
    files: Files, tmp_path: Path, options: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        train(files.data, tmp_path / "a", "--arch", "nmtprune", *options, *ADAM)
    assert str(caught.value) == message


def test_strings_that_fairseq_would_run_are_refused(lm_files: Files, tmp_path: Path) -> None:
    options = ("--task", "language_modeling", "--adaptive-softmax-cutoff", "__import__('os').getcwd()", *ADAM)
    with pytest.raises(UsageError) as caught:
        train(lm_files.data, tmp_path / "a", "--arch", "nmtprune_lm", *options)
    assert str(caught.value) == (
        "--arch nmtprune_lm: unsupported: adaptive_softmax_cutoff is \"__import__('os').getcwd()\", no plain literal:"
        " fairseq would run it as code"
    )


def test_the_architecture_must_fit_the_kind_of_model(files: Files, lm_files: Files, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        train(files.data, tmp_path / "a", "--arch", "nmtprune", "--restore-file", lm_files.cut, *ADAM)
    assert str(caught.value) == (
        f"--arch nmtprune: {lm_files.cut} is of architecture transformer_lm_gpt; train it with --arch nmtprune_lm"
    )


def test_a_checkpoint_that_cannot_be_read_is_one_line(files: Files, tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no checkpoint")
    with pytest.raises(CheckpointError, match="text.pt: not a fairseq checkpoint"):
        train(files.data, tmp_path / "a", "--arch", "nmtprune", "--restore-file", tmp_path / "text.pt", *ADAM)


def arguments(folder: Path, **given: Any) -> Namespace:
    defaults = {"restore_file": "checkpoint_last.pt", "save_dir": str(folder), "checkpoint_suffix": ""}
    return Namespace(**defaults | {"continue_once": None, "finetune_from_model": None} | given)


def test_starting_point_is_what_fairseq_loads(tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt", "c.pt", "a_s.pt"):
        (tmp_path / name).touch()
    a, b, c = (str(tmp_path / name) for name in ("a.pt", "b.pt", "c.pt"))
    assert starting_point(arguments(tmp_path)) is None
    assert starting_point(arguments(tmp_path, finetune_from_model=c)) == Path(c)
    assert starting_point(arguments(tmp_path, finetune_from_model=c, continue_once=b)) == Path(b)
    assert starting_point(arguments(tmp_path, restore_file=a)) == Path(a)
    assert starting_point(arguments(tmp_path, restore_file=a, checkpoint_suffix="_s")) == tmp_path / "a_s.pt"
    last = tmp_path / "checkpoint_last.pt"
    last.touch()
    assert starting_point(arguments(tmp_path, finetune_from_model=c, continue_once=b)) == last
    assert starting_point(arguments(tmp_path, restore_file=a)) == Path(a)


@pytest.mark.parametrize("option", ["restore_file", "continue_once", "finetune_from_model"])
def test_a_starting_point_that_is_not_there_is_an_error(tmp_path: Path, option: str) -> None:
    with pytest.raises(UsageError) as caught:
        starting_point(arguments(tmp_path, **{option: "missing.pt"}))
    flag = option.replace("_", "-")
    assert str(caught.value) == f"--{flag} missing.pt: no such file; to train from scratch leave the option out"
