"""Slim checkpoints in fairseq's own commands."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from nmtprune import slim
from nmtprune.architecture import parse_heads
from nmtprune.formats.fairseq.checkpoint import FairseqCheckpoint
from nmtprune.plan import Plan
from tests.support import fairseq_files
from tests.support.fairseq_commands import eval_lm, generate, hypotheses, run_process, scores, validate
from tests.support.fairseq_files import REMOVED, Files


def first_quick(variants: Iterable[str]) -> list[Any]:
    """Test variants of which only the first is part of the quick tests."""
    first, *others = variants
    return [first, *(pytest.param(name, marks=pytest.mark.slow) for name in others)]


@pytest.mark.parametrize("beam", [1, 5])
def test_generate_translates_as_the_masked_model(files: Files, beam: int) -> None:
    expected = generate(files.masked, files.data, "--beam", beam)
    assert len(hypotheses(expected)) == 16
    for path in (files.cut, files.uniform):
        found = generate(path, files.data, "--beam", beam)
        assert hypotheses(found) == hypotheses(expected)
        assert scores(found) == pytest.approx(scores(expected), abs=1e-5)
    assert hypotheses(generate(files.full, files.data, "--beam", beam)) != hypotheses(expected)


OTHER_SEARCHES = {
    "sampling": ("--sampling", "--beam", 3, "--nbest", 3, "--seed", 3),
    "forced prefix": ("--prefix-size", 2, "--beam", 3),
    "diverse beams": ("--diverse-beam-groups", 2, "--beam", 4),
    "scoring references": ("--score-reference",),
}


@pytest.mark.parametrize("search", first_quick(OTHER_SEARCHES))
def test_other_searches(files: Files, search: str) -> None:
    expected = generate(files.masked, files.data, *OTHER_SEARCHES[search])
    found = generate(files.cut, files.data, *OTHER_SEARCHES[search])
    assert hypotheses(found) == hypotheses(expected)
    assert scores(found) == pytest.approx(scores(expected), abs=1e-5)


def test_ensemble_of_slim_and_full(files: Files) -> None:
    expected = generate(f"{files.masked}:{files.full}", files.data, "--beam", 3)
    found = generate(f"{files.cut}:{files.full}", files.data, "--beam", 3)
    assert hypotheses(found) == hypotheses(expected)
    assert scores(found) == pytest.approx(scores(expected), abs=1e-5)


STORED: dict[str, dict[str, Any]] = {
    "legacy args, packed": {"cfg": "args", "packed": True, "without_optimizer": True},
    "omegaconf": {"cfg": "omegaconf"},
    "dict, half precision": {"cfg": "dict", "dtype": torch.float16, "without_optimizer": True},
    "shared tables stored twice": {"cloned": True},
}


@pytest.mark.parametrize("stored", first_quick(STORED))
def test_other_containers_load_too(files: Files, tmp_path: Path, stored: str) -> None:
    path = fairseq_files.store_as(files.full, tmp_path / "stored.pt", **STORED[stored])
    expected = generate(path, files.data, "--beam", 2)
    checkpoint = FairseqCheckpoint.load(path)
    plan = Plan.removing(checkpoint.base, parse_heads(REMOVED, checkpoint.architecture))
    outputs = []
    for mode in ("cut", "masked"):
        slim.apply(plan, checkpoint, mode).save(tmp_path / f"{mode}.pt")
        outputs.append(hypotheses(generate(tmp_path / f"{mode}.pt", files.data, "--beam", 2)))
    assert outputs[0] == outputs[1] != hypotheses(expected)


def test_modules_without_heads_leave_alignments_defined(files: Files) -> None:
    """fairseq asks for the weights of the last cross module, which has no head here: a uniform distribution."""
    output = generate(files.cut, files.data, "--beam", 2, "--print-alignment", "soft")
    lines = [line.split("\t")[1] for line in output.splitlines() if line.startswith("A-")]
    assert len(lines) == 16
    for line in lines:
        for step in line.split(" "):
            weights = [float(weight) for weight in step.split(",")]
            assert weights == pytest.approx([1 / len(weights)] * len(weights), abs=1e-3)


def test_dropout_can_be_retained(files: Files) -> None:
    options = ("--beam", 1, "--retain-dropout", "--retain-dropout-modules", "MultiheadAttention", "--seed", 1)
    dropping = make_dropout(files)
    assert scores(generate(dropping, files.data, *options)) != scores(generate(files.cut, files.data, "--beam", 1))


def make_dropout(files: Files) -> Path:
    path = files.cut.parent / "dropout.pt"
    state = fairseq_files.load(files.cut)
    state["cfg"]["model"].attention_dropout = 0.5
    torch.save(state, path)
    return path


def test_average_of_slim_checkpoints(files: Files, tmp_path: Path) -> None:
    """What scripts/average_checkpoints.py writes: the first checkpoint with the mean of every tensor."""
    states = [fairseq_files.load(files.cut) for _ in range(2)]
    for name, tensor in states[1]["model"].items():
        states[0]["model"][name] = (tensor + 3 * tensor) / 4
    torch.save(states[0], tmp_path / "average.pt")
    assert hypotheses(generate(tmp_path / "average.pt", files.data, "--beam", 2)) == hypotheses(
        generate(files.cut, files.data, "--beam", 2)
    )


def test_validate_gives_the_masked_models_loss(files: Files) -> None:
    expected = validate(files.masked, files.data)
    assert len(expected) > 1
    assert validate(files.cut, files.data) == pytest.approx(expected, rel=1e-6)
    assert validate(files.full, files.data) != pytest.approx(expected, rel=1e-3)


def test_eval_lm_gives_the_masked_models_loss(lm_files: Files) -> None:
    expected = eval_lm(lm_files.masked, lm_files.data)
    assert eval_lm(lm_files.cut, lm_files.data) == pytest.approx(expected, rel=1e-6)
    assert eval_lm(lm_files.uniform, lm_files.data) == pytest.approx(expected, rel=1e-6)
    assert eval_lm(lm_files.full, lm_files.data) != pytest.approx(expected, rel=1e-4)


def test_layers_can_be_dropped_at_load_time(files: Files) -> None:
    overrides = "{'encoder_layers_to_keep': '1', 'decoder_layers_to_keep': '0'}"
    options = ("--beam", 2, "--model-overrides", overrides)
    assert hypotheses(generate(files.cut, files.data, *options)) == hypotheses(
        generate(files.masked, files.data, *options)
    )


def test_a_real_command(files: Files) -> None:
    """fairseq-interactive as a process: only ``--user-dir`` is added."""
    expected = hypotheses(generate(files.cut, files.data, "--beam", 2))
    source = (files.data / "test.xx").read_text()
    options = ("--path", files.cut, "--beam", 2, "--max-len-b", 20, "--cpu")
    assert hypotheses(run_process("interactive", files.data, *options, stdin=source)) == expected


@pytest.mark.slow
def test_the_other_real_commands(files: Files, lm_files: Files, tmp_path: Path) -> None:
    generated = run_process(
        "generate", files.data, "--path", files.cut, "--max-tokens", 400, "--max-len-b", 20, "--cpu"
    )
    assert hypotheses(generated) == hypotheses(generate(files.cut, files.data))
    validated = run_process(
        "validate", files.data, "--path", files.cut, "--task", "translation", "--max-tokens", 400, "--cpu"
    )
    assert "| loss " in validated
    evaluated = run_process("eval-lm", lm_files.data, "--path", lm_files.cut, "--tokens-per-sample", 32, "--cpu")
    assert "Perplexity: " in evaluated
    options = ("--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--lr-scheduler", "inverse_sqrt", "--cpu")
    trained = run_process(
        *("train", files.data, "--arch", "nmtprune", "--restore-file", files.cut, "--save-dir", tmp_path / "save"),
        *("--lr", 0.01, "--max-tokens", 400, "--max-epoch", 4, *options),
    )
    assert "done training" in trained
    assert FairseqCheckpoint.load(tmp_path / "save" / "checkpoint_last.pt").lineage is not None


def test_damaged_settings_are_one_line(files: Files, tmp_path: Path) -> None:
    state = fairseq_files.load(files.cut)
    state["cfg"]["model"].nmtprune_heads = state["cfg"]["model"].nmtprune_heads.replace("3", "2", 1)
    torch.save(state, tmp_path / "damaged.pt")
    with pytest.raises(Exception) as caught:
        generate(tmp_path / "damaged.pt", files.data, "--beam", 1)
    message = str(caught.value)
    assert message.startswith(
        "weights and settings are of different models: encoder.layers.0.self_attn.k_proj.weight is"
    )
    assert "\n" not in message
