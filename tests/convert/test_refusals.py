"""Conversions that are refused or end early: every reason in one line, and nothing half-written."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nmtprune import slim
from nmtprune.architecture import EVERY_KIND, UnitId
from nmtprune.formats import load
from nmtprune.plan import Plan
from nmtprune.runs import convert as runs_convert
from tests.support import huggingface_folders, marian_files
from tests.support.cli import nmtprune, refused
from tests.support.conversions import converted, marian_with_pieces, of_fairseq, scores, text_of
from tests.support.fairseq_files import Build
from tests.support.subwords import ENGLISH, GERMAN, sentencepiece_model


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sentencepiece_model(tmp_path_factory.mktemp("pieces") / "spm.model", [*ENGLISH, *GERMAN])


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_of(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def marian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return marian_with_pieces(tmp_path_factory.mktemp("marian"))


def test_what_marian_cannot_say_of_a_fairseq_model_is_one_line(tiny: Path, tmp_path: Path) -> None:
    found = refused("convert", tiny, tmp_path / "m", "--to", "marian", "--data-bin", tiny.parent / "data-bin")
    assert found == (3, (
        f"{tiny}: cannot be converted to marian: positions of the encoder are sinusoids from row 2: Marian has its own "
        "sinusoids from row 0; positions of the decoder are sinusoids from row 2: Marian has its own sinusoids from "
        "row 0; translations that begin with </s>: Marian begins with a row of zeros; <pad> in the midst of the source "
        "vocabulary: Marian has no padding; <pad> in the midst of the target vocabulary: Marian has no padding"
    ))  # fmt: skip
    assert not any(tmp_path.iterdir())


def test_what_fairseq_cannot_say_of_a_marian_model_is_one_line(marian: Path, english: Path, tmp_path: Path) -> None:
    code, line = refused("convert", marian, tmp_path / "f", "--to", "fairseq", "--source", english)
    assert code == 3
    assert line.split(": ", 1)[1].split("; ")[:2] == [
        "cannot be converted to fairseq: translations that begin with a row of zeros: fairseq begins with </s>, whose "
        "embedding is that of the output layer too", "a bias of the output layer",
    ]  # fmt: skip
    assert "two vocabularies" not in line and "(fairseq's ids 0 to 3)" in line


UNSAYABLE: dict[str, tuple[dict[str, Any], str]] = {
    "SSRU decoder": (marian_files.SSRU, "an SSRU decoder; tied decoder layers"),
    "right to left": ({"right_left": True}, "sentences from right to left (right-left)"),
    "pre-norm": (
        {"transformer_preprocess": "n", "transformer_postprocess": "da"},
        "MarianMTModel: pre-norm layers in the encoder, pre-norm layers in the decoder; "
        "M2M100ForConditionalGeneration: no final norm in the encoder, no final norm in the decoder, a bias of the "
        "output layer, a row of zeros before the first word; MBartForConditionalGeneration: no final norm in the "
        "encoder, no norm of embeddings in the encoder, no final norm in the decoder, no norm of embeddings in the "
        "decoder",
    ),
}  # fmt: skip


@pytest.mark.parametrize("variant", UNSAYABLE)
def test_what_no_class_of_transformers_can_say(english: Path, tmp_path: Path, variant: str) -> None:
    options, expected = UNSAYABLE[variant]
    model = marian_with_pieces(tmp_path, **options)
    code, line = refused("convert", model, tmp_path / "hf", "--to", "huggingface", "--source", english)
    assert code == 3 and line.startswith(f"{model}: cannot be converted to huggingface: ") and expected in line, line


def test_a_fairseq_model_needs_its_sentencepiece_model(tiny: Path, tmp_path: Path) -> None:
    code, line = refused("convert", tiny, tmp_path / "h", "--to", "huggingface", "--data-bin", tiny.parent / "data-bin")
    assert code == 3 and line.endswith(
        "no SentencePiece model of the source side, which the tokenizer needs: name --source-sentencepiece; "
        "no SentencePiece model of the target side, which the tokenizer needs: name --target-sentencepiece"
    )


def test_outputs_that_are_refused(marian: Path, english: Path, tmp_path: Path) -> None:
    to = ("--to", "huggingface", "--source", english)
    assert refused("convert", marian, marian.parent, *to, "--force")[0] == 8  # its own folder
    assert refused("convert", marian, marian, *to) == (8, f"{marian}: is a file, not a folder")
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").touch()
    assert refused("convert", marian, other, *to, "--force") == (
        8, f"{other}: is not empty and holds no such model: name another folder"
    )  # fmt: skip
    converted(marian, tmp_path / "hf", *to[1:])
    assert refused("convert", marian, tmp_path / "hf", *to) == (8, f"{tmp_path / 'hf'}: exists (--force replaces it)")
    same = refused("convert", tmp_path / "hf", tmp_path / "hf", "--to", "marian", "--source", english, "--force")
    assert same[0] == 8
    again = refused("convert", tmp_path / "hf", tmp_path / "again", *to)
    assert again == (3, f"{tmp_path / 'hf'}: is a model of Hugging Face's transformers already")
    (tmp_path / "hf" / "vocab.json").unlink()
    code, line = refused("convert", tmp_path / "hf", tmp_path / "again", "--to", "marian", "--source", english)
    assert code == 5 and "has no vocab.json" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "other"]


def test_text_that_no_other_toolkit_splits_is_refused(tmp_path: Path) -> None:
    """Random words, which nothing splits, would not show it."""
    folder = huggingface_folders.fsmt_folder(tmp_path / "fsmt")
    for to in ("fairseq", "marian"):
        code, line = refused("convert", folder, tmp_path / "new", "--to", to)
        assert code == 3 and "text of FSMTTokenizer, which no other toolkit splits" in line
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("option", ["--source-bpe-codes", "--target-bpe-codes", "--bpe-codes"])
def test_a_folder_with_what_splits_the_text_is_not_replaced(
    tiny: Path, english: Path, tmp_path: Path, option: str
) -> None:
    codes = tmp_path / "old" / "codes"
    codes.parent.mkdir()
    (codes.parent / "config.json").touch()
    codes.write_text("#version: 0.2\nt h\n")
    data = ("--data-bin", tiny.parent / "data-bin", "--source", english, "--post-process", "none", option, codes)
    found = refused("convert", tiny, codes.parent, "--to", "huggingface", *data, "--force")
    assert found == (
        8, f"{codes.parent}: holds the input {codes}; nothing is changed in place, choose another output"
    )  # fmt: skip


def _killed(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _full(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(("failure", "code"), [(_killed, 130), (_full, 8)], ids=["killed", "disk full"])
@pytest.mark.parametrize("place", ["nmtprune.convert.vocabularies.write_json", "nmtprune.runs.convert._compared"])
def test_a_conversion_that_ends_early_leaves_nothing(
    marian: Path, english: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Callable[..., None],
    code: int, place: str,
) -> None:  # fmt: skip
    if failure is _full and place.endswith("_compared"):
        pytest.skip("nothing is written there")
    monkeypatch.setattr(place, failure)
    found = nmtprune("convert", marian, tmp_path / "hf", "--to", "huggingface", "--source", english)
    assert found.code == code
    assert failure is not _full or found.stderr.endswith("cannot be written: No space left on device\n")
    assert not any(tmp_path.iterdir())


def test_a_model_that_translates_otherwise_is_not_written(
    marian: Path, english: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_convert, "EQUAL", 2.0)  # more sentences must be equal than there are
    code, line = refused("convert", marian, tmp_path / "hf", "--to", "huggingface", "--source", english)
    assert code == 3 and "nothing was written: converted to huggingface: 0 of 12 sentences are split" in line
    assert "; 0 of 12 sentences are translated otherwise" in line and not any(tmp_path.iterdir())


CUT = ["encoder.0.1", "cross.1.0", "cross.1.2", "decoder.0.3", "encoder-layers.1",
       *(f"decoder-ffn.{layer}.{neuron}" for layer in (0, 1) for neuron in (layer, 7, 11))]  # fmt: skip


def test_a_cut_model_keeps_its_lineage_there_and_back(
    build: Build, pieces: Path, english: Path, tmp_path: Path
) -> None:
    """Heads that are gone are zeros in transformers, which are no units; back in fairseq nothing is left of them."""
    path = build()
    base = load(path)
    plan = Plan.removing(base.base, [UnitId.parse(name, EVERY_KIND) for name in CUT])
    slim.apply(plan, base).save(tmp_path / "slim.pt")
    cut = load(tmp_path / "slim.pt")
    data = ("--data-bin", path.parent / "data-bin", "--sentencepiece", pieces)
    said = converted(tmp_path / "slim.pt", tmp_path / "hf", "huggingface", *data)
    assert any(note.startswith("4 heads that are gone are stored as zeros") for note in said["notes"])
    folder = load(tmp_path / "hf")
    assert folder.lineage == cut.lineage is not None
    assert folder.architecture.heads_by_kind() == cut.architecture.heads_by_kind()
    assert folder.architecture.neurons_by_kind() == cut.architecture.neurons_by_kind()
    assert (scores(folder, 24, folder.profile().target_symbols or 0) - scores(cut, 24, 2)).abs().max() < 1e-5
    converted(tmp_path / "hf", tmp_path / "back", "fairseq", "-s", "xx", "-t", "yy", "--source", english)
    again = load(tmp_path / "back" / "checkpoint.pt")
    assert again.lineage == cut.lineage and again.architecture == cut.architecture
    for name, tensor in cut.parameters.items():
        assert (again.model_tensors[name] == tensor).all(), name


def test_layers_of_several_widths_are_filled_up_with_zero_neurons(marian: Path, english: Path, tmp_path: Path) -> None:
    base = load(marian)
    plan = Plan.removing(base.base, [UnitId.parse(name, EVERY_KIND) for name in ("encoder.1.0", "decoder.1.2")])
    slim.apply(plan, base).save(tmp_path / "slim.npz")
    for name in ("vocab.spm", "model.npz.decoder.yml"):
        (tmp_path / name.replace("model", "slim")).write_bytes((marian.parent / name).read_bytes())
    said = converted(tmp_path / "slim.npz", tmp_path / "hf", "huggingface", "--source", english)
    assert any(note.startswith("2 heads") for note in said["notes"])
    back = converted(tmp_path / "hf", tmp_path / "back", "marian", "--source", english)
    assert any("so that every Marian runs the model" in note for note in back["notes"])
    again = load(tmp_path / "back" / "model.npz")
    assert again.lineage == load(tmp_path / "slim.npz").lineage and not any(again.toolkit_faults("marian"))


def test_half_precision_stays(build: Build, pieces: Path, tmp_path: Path) -> None:
    import torch

    path = build(stored={"dtype": torch.float16})
    converted(path, tmp_path / "hf", "huggingface", *of_fairseq(path, pieces))
    kinds = {str(tensor.dtype) for name, tensor in load(tmp_path / "hf").tensors.items() if "positions" not in name}
    assert kinds == {"torch.float16"}
    assert '"dtype": "float16"' in (tmp_path / "hf" / "config.json").read_text()
