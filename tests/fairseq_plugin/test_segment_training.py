"""``fairseq-train --task segment_language_modeling``: what is trained, resumed, validated and evaluated."""

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import nmtprune.fairseq_plugin  # noqa: F401  # registers models and task
from nmtprune.errors import UsageError
from nmtprune.formats.fairseq.segment_settings import ALL_ATTENTION, TASK, TRANSFORMER_XL
from nmtprune.user_dir import USER_DIR
from tests.support.fairseq_commands import run, run_process, validate
from tests.support.fairseq_files import data_bin
from tests.support.segment_files import LANES, MEMORY, SEGMENT, SIZES, TEXT, VECTORS, train_segments

LAST = "checkpoint_last.pt"
SHORT = ("--dropout", 0, "--attention-dropout", 0, "--max-epoch", 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_bin(tmp_path_factory.mktemp("text") / "data-bin", language_model=True, sentences=24)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """Two epochs with dropout, without an interruption: the folder and the losses."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, train_segments(data, folder, "--max-epoch", 2)


def model_tensors(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=False)["model"]
    return state


def load(path: Path, **overrides: Any) -> Any:
    """The model of a checkpoint, and the task that fairseq makes for it."""
    from fairseq.checkpoint_utils import load_model_ensemble_and_task

    (model,), _, task = load_model_ensemble_and_task([str(path)], arg_overrides=overrides)
    return model.double().eval(), task


def loss_at_once(path: Path, data: Path, split: str) -> tuple[float, int]:
    """Summed loss of a text that is read in one piece, with what each token may see of it; and the number of tokens."""
    model, task = load(path, data=str(data))
    task.load_dataset(split)
    tokens = torch.from_numpy(task.dataset(split)._text).long()
    source = torch.cat([torch.tensor([2]), tokens[:-1]])
    total = 0.0
    with torch.no_grad():
        memory = None
        for start in range(0, len(tokens), SEGMENT):
            part = slice(start, start + SEGMENT)
            scores, extra = model.decoder(source[None, part], memory=memory)
            memory = extra["memory"]
            total -= float(scores.log_softmax(-1)[0].gather(1, tokens[part, None]).sum())
    return total, len(tokens)


def test_training_learns_and_a_resumed_one_is_the_one_that_was_interrupted(
    data: Path, trained: tuple[Path, list[float]], tmp_path: Path
) -> None:
    """Interrupted in the middle of each epoch, with dropout: same losses to the last bit, same weights."""
    folder, losses = trained
    per_epoch = len(losses) // 2
    assert per_epoch == math.ceil(math.ceil(loss_at_once(folder / LAST, data, "train")[1] / LANES) / SEGMENT)
    assert sum(losses[per_epoch:]) < 0.9 * sum(losses[:per_epoch])
    found = []
    for updates in (2, per_epoch + 1):
        found += train_segments(data, tmp_path, "--max-update", updates)
        state = torch.load(tmp_path / LAST, weights_only=False)["extra_state"]["SegmentLanguageModelingTask"]
        assert [each.shape for each in state["memory"]] == [(LANES, min(updates % per_epoch * SEGMENT, MEMORY), 12)] * 2
    found += train_segments(data, tmp_path, "--max-epoch", 2)
    assert found == losses
    assert "SegmentLanguageModelingTask" not in torch.load(tmp_path / LAST, weights_only=False)["extra_state"]
    expected = model_tensors(folder / LAST)
    for name, tensor in model_tensors(tmp_path / LAST).items():
        assert torch.equal(tensor, expected[name]), name


def test_an_epoch_that_goes_on_with_other_lanes_is_refused(data: Path, tmp_path: Path) -> None:
    train_segments(data, tmp_path, "--max-update", 2)
    with pytest.raises(
        UsageError, match="keep --batch-size, --tokens-per-sample and the data, or begin an epoch anew with --reset"
    ):
        train_segments(data, tmp_path, "--max-update", 3, "--batch-size", 2)


def test_several_batches_an_update_carry_the_memory(data: Path, tmp_path: Path) -> None:
    """Weights that do not move: the losses are the same, however many batches make an update, and in any process."""
    still = (*SHORT, "--lr", 0)
    one = train_segments(data, tmp_path / "one", *still)
    assert train_segments(data, tmp_path / "two", *still, "--update-freq", 2, "--num-workers", 2) == one
    without = train_segments(data, tmp_path / "none", *still, "--memory-length", 0)
    assert without[0] == one[0] and all(a != b for a, b in zip(without[1:], one[1:], strict=True))


def test_an_update_of_two_segments_has_the_gradient_of_both(data: Path, tmp_path: Path) -> None:
    """Plain gradient descent from the same weights: one update of both is the mean of theirs, weighted by tokens."""
    sgd = (*SHORT, "--optimizer", "sgd", "--lr", 0.5, "--seed", 3)
    train_segments(data, tmp_path / "a", *sgd, "--update-freq", 2, "--max-update", 1)
    moved = model_tensors(tmp_path / "a" / LAST)
    train_segments(data, tmp_path / "b", *sgd, "--lr", 0, "--max-update", 1)
    model, task = load(tmp_path / "b" / LAST)
    task.load_dataset("train")
    lanes, memory, tokens, loss = task.dataset("train").in_lanes(LANES), None, 0, torch.zeros(())
    for number in range(2):
        batch = lanes[number]
        scores, extra = model.decoder(batch["net_input"]["src_tokens"], memory=memory)
        memory, tokens = extra["memory"], tokens + batch["ntokens"]
        flat = scores.log_softmax(-1).flatten(0, 1)
        loss = loss + torch.nn.functional.nll_loss(flat, batch["target"].flatten(), ignore_index=1, reduction="sum")
    (loss / tokens).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            moved[name].double(), parameter.detach() - 0.5 * parameter.grad, rtol=1e-4, atol=1e-6
        )


def test_a_validation_in_the_middle_of_an_epoch_changes_nothing(
    data: Path, trained: tuple[Path, list[float]], tmp_path: Path
) -> None:
    _, losses = trained
    run(
        *("train", data, "--save-dir", tmp_path, *TEXT, "--arch", ALL_ATTENTION, *SIZES, *VECTORS, "--max-epoch", 2),
        *("--optimizer", "adam", "--lr", 0.01, "--clip-norm", 0, "--cpu", "--num-workers", 0, "--no-progress-bar"),
        *("--no-epoch-checkpoints", "--validate-interval-updates", 1),
    )
    expected, found = (model_tensors(folder / LAST) for folder in (trained[0], tmp_path))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    best = torch.load(tmp_path / "checkpoint_best.pt", weights_only=False)["extra_state"]["best"]
    losses = validate(tmp_path / "checkpoint_best.pt", data, *TEXT)
    tokens = loss_at_once(tmp_path / "checkpoint_best.pt", data, "valid")[1]
    assert sum(losses) / tokens / math.log(2) == pytest.approx(best, abs=6e-4)


@pytest.mark.parametrize("arch", [ALL_ATTENTION, TRANSFORMER_XL])
def test_eval_lm_reads_a_text_in_one_lane_with_its_memory(
    data: Path, trained: tuple[Path, list[float]], tmp_path: Path, arch: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = trained[0] / LAST
    if arch != ALL_ATTENTION:
        train_segments(data, tmp_path, *SHORT, arch=arch)
        path = tmp_path / LAST
    for split in ("test", "train"):
        total, tokens = loss_at_once(path, data, split)
        with caplog.at_level(logging.INFO):
            run(
                *("eval-lm", data, "--path", path, "--gen-subset", split, "--task", TASK, "--cpu", "--no-progress-bar"),
                *("--tokens-per-sample", SEGMENT, "--num-workers", 0),
            )
        assert f"Evaluated {tokens:,} tokens" in caplog.text
        assert f"Loss (base 2): {total / tokens / math.log(2):.4f}" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "with --memory-length 10 needs `--task segment_language_modeling`"),
        (("--task", TASK, "--context-window", 4), "--context-window 4: the memory is the context"),
        (("--task", TASK, "--num-shards", 2), "runs in one process, not in 2"),
    ],
)
def test_eval_lm_that_would_compute_something_else_is_refused(
    data: Path, trained: tuple[Path, list[float]], options: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run("eval-lm", data, "--path", trained[0] / LAST, "--cpu", "--tokens-per-sample", SEGMENT, *options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch-size", 300), "too few for 300 lanes of a segment of 8: choose fewer lanes"),
        (("--max-tokens", 23), "3 lanes of segments of 8 tokens do not fit --max-tokens 23"),
        (("--arch", "lstm_lm"), "is for --arch all_attention_lm and transformer_xl_lm, not for lstm_lm"),
        (("--task", "language_modeling"), "needs `--task segment_language_modeling`"),
    ],
)
def test_trainings_that_cannot_be_right_are_refused(
    data: Path, tmp_path: Path, options: tuple[Any, ...], message: str
) -> None:
    own = [] if "lstm_lm" in options else [*SIZES, *VECTORS]
    with pytest.raises(UsageError, match=message):
        run(
            *("train", data, "--save-dir", tmp_path, *TEXT, "--arch", ALL_ATTENTION, *own, "--max-update", 1),
            *("--optimizer", "adam", "--cpu", "--num-workers", 0, "--disable-validation", *options),
        )


def test_batches_without_a_number_of_lanes_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs --batch-size, the number of lanes"):
        run(
            *("train", data, "--save-dir", tmp_path, "--task", TASK, "--arch", ALL_ATTENTION, *SIZES, *VECTORS),
            *("--max-tokens", 400, "--optimizer", "adam", "--cpu", "--num-workers", 0, "--disable-validation"),
        )


def test_a_memory_longer_than_the_text_is_remarked_on(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        long = train_segments(data, tmp_path / "a", *SHORT, "--memory-length", 9999)
    assert "--memory-length 9999 is longer than a lane of" in caplog.text
    assert train_segments(data, tmp_path / "b", *SHORT, "--memory-length", 500) == long


def test_data_of_another_dictionary_are_refused(trained: tuple[Path, list[float]], tmp_path: Path) -> None:
    other = data_bin(tmp_path / "data-bin", language_model=True)
    words = (other / "dict.txt").read_text().splitlines()
    (other / "dict.txt").write_text("".join(f"{word}\n" for word in reversed(words)))
    with pytest.raises(Exception, match="Cannot load model parameters") as caught:
        train_segments(other, tmp_path / "a", "--finetune-from-model", trained[0] / LAST, "--max-update", 1)
    assert "dict.txt has other words" in str(caught.value.__context__)


@pytest.mark.slow
def test_the_commands_train_resume_and_evaluate_in_processes_of_their_own(data: Path, tmp_path: Path) -> None:
    assert USER_DIR.is_dir()
    options = (
        *("train", data, "--save-dir", tmp_path, *TEXT, "--arch", ALL_ATTENTION, *SIZES, *VECTORS, "--cpu"),
        *("--optimizer", "adam", "--lr", 0.01, "--no-epoch-checkpoints", "--no-progress-bar", "--num-workers", 2),
    )
    assert "done training" in run_process(*options, "--max-update", 3)
    assert "Loaded checkpoint" in run_process(*options, "--max-epoch", 2)
    said = run_process(
        *("eval-lm", data, "--path", tmp_path / "checkpoint_best.pt", "--task", TASK, "--cpu", "--no-progress-bar"),
        *("--tokens-per-sample", SEGMENT),
    )
    total, tokens = loss_at_once(tmp_path / "checkpoint_best.pt", data, "test")
    assert f"Loss (base 2): {total / tokens / math.log(2):.4f}" in said
