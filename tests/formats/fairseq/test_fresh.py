"""Fresh weights: distributed as fairseq's, and a file from which fairseq starts."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nmtprune import slim
from nmtprune.architecture import UnitId
from nmtprune.formats import load
from nmtprune.formats.fairseq import FairseqCheckpoint
from nmtprune.plan import Plan
from tests.support import fairseq_files
from tests.support.fairseq_files import Build
from tests.support.fairseq_variants import ADAPTIVE, LM, VARIANTS, difference, sharing

WIDE = {"width": 64, "ffn": 96, "layers": 1, "heads": 4}
DRAWN: dict[str, dict[str, Any]] = {
    "translation": {**WIDE, "joined": False, "layernorm_embedding": True},
    "learned positions, shared": {**WIDE, "encoder_learned_pos": True, "share_all_embeddings": True,
                                  "decoder_learned_pos": True},
    "two widths": {**WIDE, "width": (64, 96)},
    "lm, projections": {**LM, **WIDE, "decoder_input_dim": 48, "decoder_output_dim": 80},
    "lm, adaptive": {**ADAPTIVE, **WIDE},
    "lm, adaptive, tied": {**ADAPTIVE, **WIDE, "tie_adaptive_weights": True},
}  # fmt: skip


def read(path: Path) -> FairseqCheckpoint:
    checkpoint = load(path)
    assert isinstance(checkpoint, FairseqCheckpoint)
    return checkpoint


def is_uniform(tensor: Tensor) -> bool:
    """Whether the largest entry is what it would be of a uniform distribution of that variance."""
    return float(tensor.abs().max() / tensor.std()) < 1.02 * math.sqrt(3)


@pytest.mark.parametrize("name", DRAWN)
def test_weights_are_distributed_as_fairseqs(build: Build, name: str) -> None:
    drawn_by_fairseq = read(build(**DRAWN[name]))
    fresh = drawn_by_fairseq.reinitialized(7)
    assert set(fresh.parameters) == set(drawn_by_fairseq.parameters)
    for own, tensor in drawn_by_fairseq.parameters.items():
        ours = fresh.parameters[own]
        if bool((tensor == tensor.flatten()[0]).all()):
            assert torch.equal(ours, tensor), own
            continue
        assert not torch.equal(ours, tensor), own
        zeros = [[bool((row == 0).all()) for row in table] for table in (ours, tensor) if tensor.dim() == 2]
        assert len(zeros) == 0 or zeros[0] == zeros[1], own
        spread = 6 / math.sqrt(2 * tensor.numel())
        assert abs(float(ours.std() / tensor.std()) - 1) < 2 * spread, own
        assert abs(float(ours.mean() / tensor.std())) < 6 / math.sqrt(tensor.numel()), own
        if tensor.numel() >= 1000:
            assert is_uniform(ours) == is_uniform(tensor), own


def test_a_cut_module_is_drawn_as_one_of_its_own_size(build: Build) -> None:
    full = read(build(**DRAWN["translation"]))
    heads = [id for id in full.architecture.head_ids() if id.group.kind == "encoder" and id.number > 0]
    cut = slim.apply(Plan.removing(full.base, heads), full).reinitialized(0)
    name = "encoder.layers.0.self_attn."
    bound = math.sqrt(6 / (16 + 64))
    assert 0.95 * bound < float(cut.tensors[name + "out_proj.weight"].abs().max()) <= bound
    largest = float(cut.tensors[name + "q_proj.weight"].abs().max())
    assert 0.95 * bound / math.sqrt(2) < largest <= bound / math.sqrt(2)


def test_the_seed_decides(tiny: Path) -> None:
    checkpoint = read(tiny)
    sums = [checkpoint.reinitialized(seed).sha256 for seed in (0, 0, 1)]
    assert sums[0] == sums[1] != sums[2]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert checkpoint.reinitialized(0).sha256 == sums[0]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["pre-norm, shared tables", "tables stored apart", "lm, adaptive, all tied", "half"])
def test_shared_tables_are_one_table(build: Build, tmp_path: Path, name: str) -> None:
    checkpoint = read(build(**VARIANTS[name]))
    checkpoint.reinitialized(3).save(tmp_path / "fresh.pt")
    model = fairseq_files.load(tmp_path / "fresh.pt")["model"]
    for alias, first in checkpoint.aliases.items():
        assert torch.equal(model[alias], model[first])
    assert sum(len(names) - 1 for names in sharing(model)) == len(checkpoint.aliases) > 0
    before = fairseq_files.load(checkpoint.path)["model"]
    assert [(n, t.dtype, t.shape) for n, t in model.items()] == [(n, t.dtype, t.shape) for n, t in before.items()]


def test_padding_heads_stay_zero(tiny: Path) -> None:
    checkpoint = read(tiny)
    padded = slim.apply(Plan.removing(checkpoint.base, [UnitId.parse("encoder.0.1")]), checkpoint, mode="uniform")
    fresh = padded.reinitialized(1)
    for part in ("q_proj.weight", "k_proj.bias", "v_proj.weight"):
        tensor = fresh.tensors[f"encoder.layers.0.self_attn.{part}"]
        assert tensor[12:].count_nonzero() == 0
        assert tensor[:12].count_nonzero() == tensor[:12].numel()
    assert fresh.tensors["encoder.layers.0.self_attn.out_proj.weight"][:, 12:].count_nonzero() == 0


def test_no_trace_of_training_is_left(build: Build, tmp_path: Path) -> None:
    path = build(**VARIANTS["moving average in fp32"])
    read(path).reinitialized(0).save(tmp_path / "fresh.pt")
    before, after = fairseq_files.load(path), fairseq_files.load(tmp_path / "fresh.pt")
    assert set(before) - set(after) == {"last_optimizer_state"}
    assert list(after["extra_state"]) == ["train_iterator"]
    assert [entry["num_updates"] for entry in after["optimizer_history"]] == [0]
    assert difference(before["cfg"], after["cfg"]) == ""
    assert read(tmp_path / "fresh.pt").lineage is None


@pytest.mark.parametrize("how", ["fresh", "without optimizer", "kept"])
@pytest.mark.parametrize("option", ["restore_file", "finetune_from_model"])
def test_fairseq_trains_from_the_file(tiny: Path, tmp_path: Path, how: str, option: str) -> None:
    checkpoint = read(tiny)
    written = {"fresh": checkpoint.reinitialized(0), "without optimizer": checkpoint.without_optimizer()}
    written.get(how, checkpoint).save(tmp_path / "start.pt")
    trainer, extra, iterator = fairseq_files.resumed(tiny.parent / "data-bin", **{option: str(tmp_path / "start.pt")},
        save_dir=str(tmp_path), encoder_normalize_before=True, decoder_normalize_before=True,
        share_all_embeddings=True)  # fmt: skip
    loaded = trainer.model.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in written.get(how, checkpoint).parameters.items())
    resumes = how == "kept" and option == "restore_file"
    assert trainer.get_num_updates() == (2 if resumes else 0)
    assert (len(trainer.optimizer.optimizer.state) > 0) == resumes
    if how == "fresh" or option == "finetune_from_model":
        assert iterator.epoch == 1
    if how == "fresh":
        assert "metrics" not in extra
        assert iterator.iterations_in_epoch == 0
