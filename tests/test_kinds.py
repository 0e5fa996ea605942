"""What a file or folder is that somebody named in place of a model: recognized by content, with what to do."""

import bz2
import gzip
import io
import json
import lzma
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch

from nmtprune.errors import CheckpointError
from nmtprune.files import kinds
from nmtprune.files.places import describe_folder, describe_missing, is_of_transformers, parts
from nmtprune.formats import load
from tests.support.cli import refused as command_refused
from tests.support.marian_files import marian_model

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 4572\n"


def refused(path: Path) -> str:
    """What `load` says of a path, without the path."""
    with pytest.raises(CheckpointError) as caught:
        load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text.removeprefix(f"{path}: ")


def safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(8)


def marian_binary(*types: int) -> bytes:
    headers = b"".join(struct.pack("<QQQQ", 5, code, 2, 64) for code in types)
    return struct.pack("<QQ", 1, len(types)) + headers + bytes(200)


def ctranslate2() -> bytes:
    name = b"TransformerSpec\0"
    return struct.pack("<IH", 6, len(name)) + name + bytes(100)


CONTENTS: dict[str, tuple[bytes, str]] = {
    "pointer": (POINTER, "is a Git LFS pointer, not the file of 4572 bytes itself: run git lfs pull"),
    "git-annex": (b"/annex/objects/SHA256E-s4572--0.npz\n", "is a git-annex pointer"),
    "page": (b"<!DOCTYPE html>\n<html lang=en>", "is an HTML page, as a failed download leaves it"),
    "page without type": (b"\xef\xbb\xbf\n<html><head><title>404</title>", "is an HTML page"),
    "bucket": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is an XML document"),
    "float": (
        marian_binary(0x404, 0x101),
        "is a model in Marian's binary form: name the .npz that it was made from, or",
    ),
    "int8": (
        marian_binary(0x404, 0x4101),
        "is a model in Marian's binary form with quantized weights (intgemm8): name",
    ),
    "fbgemm": (
        marian_binary(0x404, 0x1801),
        "is a model in Marian's binary form with quantized weights (packed8): name",
    ),
    "safetensors": (safetensors(), "is a safetensors file"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(90), "is an HDF5 file, as Keras writes models"),
    "gguf": (b"GGUF\3\0\0\0", "is a GGUF model"),
    "onnx": (b"\x08\x07\x12\x07pytorch\x1a\x052.0.0:", "is an ONNX model"),
    "ctranslate2": (ctranslate2(), "is a model of CTranslate2 (model.bin)"),
    "seven": (b"7z\xbc\xaf\x27\x1c\0\4", "is a 7-Zip archive"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(9), "is compressed by Zstandard: unpack it first (unzstd file)"),
    "gzip": (gzip.compress(b"\1" * 2000), "is compressed by gzip: unpack it first (gunzip file)"),
    "bzip2": (bz2.compress(b"\1" * 2000), "is compressed by bzip2: unpack it first"),
    "xz": (lzma.compress(b"\1" * 2000), "is compressed by xz: unpack it first"),
    "index": (
        b"MMIDIDX\0\0" + bytes(30),
        "is an index of fairseq-preprocess: it belongs to a data folder (`data_bin`)",
    ),
    "plan": (b'{"format": "nmtprune-plan", "version": 1}', "is a file of nmtprune's (nmtprune-plan), no checkpoint"),
    "json": (b'{"a": 1}', "is a JSON file, no checkpoint"),
    "text": ("Grüße\n".encode(), r"is a text file (it begins with 'Gr\xfc\xdfe'), no checkpoint"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_files_are_known_by_their_content(tmp_path: Path, name: str) -> None:
    content, expected = CONTENTS[name]
    path = tmp_path / "file"
    path.write_bytes(content)
    assert refused(path).startswith(expected)


def test_models_and_files_that_nothing_is_known_of_are_nothing_else(tiny: Path, tmp_path: Path) -> None:
    marian = marian_model(tmp_path / "model.npz")
    old = tmp_path / "old.pt"
    torch.save(torch.zeros(3), old, _use_new_zipfile_serialization=False)
    noise = tmp_path / "noise"
    noise.write_bytes(np.random.default_rng(1).bytes(5000))
    assert [kinds.no_model(path) for path in (tiny, marian, old, noise, tmp_path / "none")] == [None] * 5


def test_a_sentencepiece_model_is_no_translation_model(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("".join(f"w{number % 9} w{number % 7}\n" for number in range(90)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "spm"), vocab_size=20, minloglevel=2, hard_vocab_limit=False
    )
    assert refused(tmp_path / "spm.model").startswith("is a SentencePiece model: it goes with `sentencepiece` or")


def test_a_binary_model_of_marians_own(tmp_path: Path) -> None:
    """Marian writes its binary form where the name of the model ends in .bin."""
    (tmp_path / "text").write_text("a b\n" * 9)
    (tmp_path / "v.yml").write_text("</s>: 0\n<unk>: 1\na: 2\nb: 3\n")
    options = (
        "--type transformer --model m.bin --train-sets text text --vocabs v.yml v.yml --dim-emb 16 --enc-depth 1 "
        "--dec-depth 1 --transformer-dim-ffn 16 --transformer-heads 2 --cpu-threads 1 --after-batches 1 --workspace 100"
    )
    code = f"import pymarian; pymarian.Trainer({options!r}).train()"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    assert refused(tmp_path / "m.bin").startswith("is a model in Marian's binary form: name the .npz")
    assert refused(tmp_path / "m.bin.optimizer.npz").startswith("is the state of Marian's optimizer")
    assert refused(tmp_path / "m.bin.yml").startswith("is a file of settings (YAML), no model")


def tar(path: Path, mode: Any, *names: str) -> Path:
    with tarfile.open(path, mode) as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 3000
            archive.addfile(member, io.BytesIO(b"\1" * 3000))
    return path


def test_models_in_archives_are_listed(tmp_path: Path) -> None:
    names = ("README", "opus/vocab.yml", "opus/model.npz", "data/train.bin")
    listed = " that holds opus/model.npz: unpack it and name the file in it"
    assert refused(tar(tmp_path / "a.tar", "w", *names)) == f"is a tar archive{listed}"
    assert refused(tar(tmp_path / "a.pt", "w:gz", *names)) == f"is a tar archive compressed by gzip{listed}"
    assert refused(tar(tmp_path / "b.npz", "w:xz", *names)) == f"is a tar archive compressed by xz{listed}"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    assert refused(tmp_path / "a.zip") == f"is a zip archive{listed}"
    many = tar(tmp_path / "many.tar", "w", *(f"checkpoint{number}.pt" for number in range(9)))
    assert "that holds checkpoint0.pt, checkpoint1.pt, checkpoint2.pt and 6 more: unpack" in refused(many)
    truncated = tmp_path / "short.tar.gz"
    truncated.write_bytes(tar(tmp_path / "c.tgz", "w:gz", *names).read_bytes()[:-40])
    assert "compressed by gzip" in refused(truncated)


def test_marian_settings_are_not_read_of_what_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    path.write_bytes(POINTER)
    code, line = command_refused("translate", path, "--source", path)
    assert code == 3 and line.startswith(f"{path}: is a Git LFS pointer")


def test_folders(tmp_path: Path) -> None:
    def folder(name: str, *files: str, **contents: str) -> Path:
        made = tmp_path / name
        for file in files:
            (made / file).parent.mkdir(parents=True, exist_ok=True)
            (made / file).write_text(contents.get(file.replace(".", "_"), ""))
        return made

    run = folder("run", "checkpoint1.pt", "checkpoint_best.pt", "checkpoint_last.pt", "last-shard1.pt")
    best = "checkpoint_best.pt, checkpoint_last.pt, checkpoint1.pt and 1 more"
    assert refused(run) == f"is a folder; name the checkpoint file in it: {best}"
    release = folder("opus", "opus.npz", "opus.npz.optimizer.npz", "decoder.yml", "source.spm")
    assert describe_folder(release) == ("is a folder; name the checkpoint file in it: opus.npz, opus.npz.optimizer.npz")
    settings = json.dumps({"model_type": "marian", "architectures": ["MarianMTModel"]})
    assert is_of_transformers(folder("hf", "config.json", config_json=settings))
    assert is_of_transformers(folder("no settings", "pytorch_model.bin"))
    assert not is_of_transformers(folder("ct2", "model.bin", "config.json", config_json="{}"))
    assert "CTranslate2" in describe_folder(folder("ct2", "model.bin", "config.json", "shared_vocabulary.json"))
    assert "TensorFlow" in describe_folder(folder("tf", "checkpoint", "model.ckpt-1.index"))
    assert "`data_bin`" in describe_folder(folder("bin", "dict.en.txt", "dict.de.txt"))
    assert "such as checkpoints/a.pt" in describe_folder(folder("outer", "checkpoints/a.pt"))
    assert "without a checkpoint" in describe_folder(folder("empty", "README"))


def test_paths_of_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.pt", "b.pt", "c-shard0.pt", "c-shard1.pt", "model.ckpt-7.index", "model.ckpt-7.meta", "x:y"):
        Path(name).write_text("")
    several = describe_missing(Path("a.pt:b.pt"))
    assert "a.pt and b.pt are several" in several and "name one checkpoint" in several
    assert parts(Path("x:y")) == [] and parts(Path("none:nowhere")) == []
    assert "c-shard0.pt, c-shard1.pt are parts of one model (FSDP)" in describe_missing(Path("c.pt"))
    assert "are a TensorFlow checkpoint" in describe_missing(Path("model.ckpt-7"))
    assert describe_missing(Path("zzz.pt")) == "there is no such file"
    assert describe_missing(Path("nowhere/zzz.pt")) == "there is no such file"


WEIGHTS = {"encoder.a": torch.zeros(2), "decoder.b": torch.zeros(2)}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"model": {f"module.{name}": tensor for name, tensor in WEIGHTS.items()}, "cfg": {"model": {}}},
         "the names of its tensors begin with 'module.'"),
        ({"model": {f"_orig_mod.module.{name}": tensor for name, tensor in WEIGHTS.items()}, "cfg": {"model": {}}},
         "the names of its tensors begin with '_orig_mod.module.'"),
        (WEIGHTS, "a bare state dict, without 'model' and 'cfg'; fairseq's checkpoints hold the settings too"),
        ({"state_dict": WEIGHTS, "pytorch-lightning_version": "2.0"}, "a checkpoint of PyTorch Lightning"),
        ({"model": WEIGHTS, "generator": {}, "vocab": [], "opt": 1}, "a checkpoint of OpenNMT-py"),
        ({"model_state": WEIGHTS, "best_ckpt_iter": 1}, "a checkpoint of JoeyNMT"),
        ({"model.shared.weight": torch.zeros(2)}, "weights of a model of Hugging Face's transformers"),
        ({"last_optimizer_state": {}, "extra_state": {}}, "optimizer state without a model"),
    ],
)  # fmt: skip
def test_torch_files_of_others(tmp_path: Path, content: Any, expected: str) -> None:
    torch.save(content, tmp_path / "file.pt")
    assert refused(tmp_path / "file.pt").startswith(f"not a fairseq checkpoint ({expected}")


def test_a_model_that_was_pickled_whole(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "file.pt")
    text = refused(tmp_path / "file.pt")
    assert text.startswith("refused: it names torch.nn.modules.linear.Linear")
    assert text.endswith(": a whole model was pickled; save its tensors as its toolkit does")
