"""Sharing of memory between tensors, and giving back the memory of a mapped file."""

import shutil
from pathlib import Path
from unittest import mock

import pytest
import torch

from nmtprune.formats import load, storage

HALVES = torch.tensor([1.0, float("nan"), -0.0], dtype=torch.float16)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.bool]
)
def test_bits_are_compared_not_values(dtype: torch.dtype) -> None:
    values = HALVES.nan_to_num(5).to(dtype) if dtype in (torch.int64, torch.bool) else HALVES.to(dtype)
    assert storage.same_bits(values, values.clone())
    assert not storage.same_bits(values, values.to(torch.complex64))
    assert not storage.same_bits(values, values[:2])
    assert storage.same_bits(values.repeat(4).view(4, 3).t(), values.repeat(4).view(4, 3).t().contiguous())


def test_zeros_of_both_signs_differ() -> None:
    assert not storage.same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))


def test_what_shares_a_storage_with_a_changed_tensor_is_copied_once() -> None:
    flat = torch.arange(12.0)
    tensors = {"cut": flat[:6].view(2, 3), "rest": flat[6:], "twin": flat[6:], "other": torch.ones(2)}
    found = storage.separated(tensors, {"cut": torch.zeros(1, 3)})
    assert set(found) == {"cut", "rest", "twin"}
    assert found["rest"] is found["twin"]
    assert torch.equal(found["rest"], tensors["rest"])
    assert found["rest"].untyped_storage().nbytes() == 6 * 4


@pytest.fixture
def released_at_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "LEAST_RELEASED", 0)


@pytest.mark.usefixtures("released_at_any_size")
def test_released_pages_are_read_again(tiny: Path) -> None:
    checkpoint = load(tiny)
    before = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
    storage.release_pages(tiny)
    assert all(torch.equal(tensor, before[name]) for name, tensor in checkpoint.tensors.items())


@pytest.mark.parametrize("least", [0, 1 << 20])
def test_pages_of_large_files_are_released(tiny: Path, least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "LEAST_RELEASED", least)
    checkpoint = load(tiny)
    with mock.patch.object(storage, "_clean_mappings", wraps=storage._clean_mappings) as looked:
        checkpoint.release()
    assert looked.call_count == (tiny.stat().st_size >= least)


@pytest.mark.usefixtures("released_at_any_size")
def test_changes_in_place_survive(tiny: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(tiny, tmp_path / "copy.pt"))
    table = load(path).model_tensors["encoder.embed_tokens.weight"]
    table[3] = 7
    storage.release_pages(path)
    assert torch.equal(table[3], torch.full((16,), 7.0))
    storage.release_pages(tmp_path / "no such file")
