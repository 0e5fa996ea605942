"""Folders with language codes (NLLB, M2M-100, mBART-50, shrunk) to fairseq's multilingual task and back."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nmtprune.formats import load
from tests.support import huggingface_folders
from tests.support.conversions import converted, text_of

FOLDERS: dict[str, tuple[Callable[..., Path], tuple[str, str]]] = {
    "nllb": (huggingface_folders.nllb_folder, ("eng_Latn", "deu_Latn")),
    "m2m100": (huggingface_folders.m2m100_folder, ("en", "de")),
    "mbart50": (huggingface_folders.mbart50_folder, ("en_XX", "de_DE")),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_becomes_a_multilingual_checkpoint_and_comes_back(tmp_path: Path, kind: str) -> None:
    """Token ids, translations and tensors are the same, and the tokenizer is the one that it was."""
    make, (source, target) = FOLDERS[kind]
    folder, text = make(tmp_path / "model"), text_of(tmp_path)
    tensors = {name: each.clone() for name, each in load(folder).tensors.items()}
    if "final_logits_bias" in tensors:  # mBART's is zero
        tensors["final_logits_bias"].zero_()
        huggingface_folders.write_weights(folder, tensors)
    data = ("--source", text, "-s", source, "-t", target)
    said = converted(folder, tmp_path / "fs", "fairseq", *data)
    assert any("copy one to dict.LANG.txt" in note for note in said["notes"])
    checkpoint = load(tmp_path / "fs" / "checkpoint.pt")
    tokens = checkpoint.profile().language_tokens
    assert tokens is not None and tokens.source == tokens.target == "__{}__" and tokens.place == "front"
    words = (tmp_path / "fs" / f"dict.{target}.txt").read_text().split()
    assert f"__{target}__" in words
    binarized = ("--data-bin", tmp_path / "fs", "--sentencepiece", tmp_path / "fs" / "source.model", *data)
    converted(tmp_path / "fs" / "checkpoint.pt", tmp_path / "hf", "huggingface", *binarized)
    again, before = load(tmp_path / "hf"), load(folder)
    assert again.architecture_name == before.architecture_name
    for name, tensor in before.parameters.items():
        first = 2 if "embed_positions" in name else 0  # no token has the first rows of a table of positions
        assert torch.equal(again.parameters[name][first:], tensor[first:]), name
    settings = [json.loads((path / "tokenizer_config.json").read_text()) for path in (folder, tmp_path / "hf")]
    assert settings[0]["tokenizer_class"] == settings[1]["tokenizer_class"]
    assert (settings[1]["src_lang"], settings[1]["tgt_lang"]) == (source, target)
