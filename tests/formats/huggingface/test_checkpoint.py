"""Folders of Hugging Face's transformers: masked = cut, nothing else changes, and bad input is one line."""

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nmtprune import slim
from nmtprune.architecture import EVERY_KIND, UnitId
from nmtprune.errors import CheckpointError, DataError, OutputError, UsageError
from nmtprune.evaluate.verify import verify
from nmtprune.formats import load
from nmtprune.formats.huggingface import HuggingFaceCheckpoint
from nmtprune.formats.huggingface.safetensors_file import TensorFile, read_safetensors, write_safetensors
from nmtprune.plan import Plan
from tests.support import huggingface_folders
from tests.support.cli import nmtprune, refused
from tests.support.subwords import ENGLISH, GERMAN


@pytest.fixture(scope="module")
def opus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return huggingface_folders.folder_of(tmp_path_factory.mktemp("opus") / "model")


def plan_of(base: HuggingFaceCheckpoint, *names: str) -> Plan:
    return Plan.removing(base.base, [UnitId.parse(name, EVERY_KIND) for name in names])


def loaded(path: Path) -> HuggingFaceCheckpoint:
    found = load(path)
    assert isinstance(found, HuggingFaceCheckpoint)
    return found


HEADS = ("encoder.0.0", "encoder.0.3", *(f"decoder.1.{head}" for head in range(4)), "cross.2.1")
NEURONS = tuple(f"encoder-ffn.{layer}.{neuron}" for layer in (0, 1) for neuron in (3, 4, layer))
RAGGED = ("encoder-ffn.0.7", "decoder-ffn.2.0", "decoder-ffn.2.19")
LAYERS = ("decoder-layers.0", "encoder-layers.1")
CUTS: dict[str, tuple[tuple[str, ...], str]] = {
    "heads": (HEADS, "cut"), "neurons": (NEURONS, "cut"), "layers": (LAYERS, "cut"),
    "all": ((*HEADS[:3], *NEURONS, "decoder-layers.2"), "cut"), "ragged, padded": ((*HEADS, *RAGGED), "uniform"),
    "masked": ((*HEADS, *RAGGED, "decoder-layers.0"), "masked"),
}  # fmt: skip


@pytest.mark.parametrize(("removed", "mode"), CUTS.values(), ids=CUTS)
def test_masked_is_cut(opus: Path, tmp_path: Path, removed: tuple[str, ...], mode: str) -> None:
    """In memory, as a folder, and cut again by a plan of what is left."""
    base = loaded(opus)
    plan = plan_of(base, *removed)
    slim.apply(plan, base, mode).save(tmp_path / "cut")
    found = loaded(tmp_path / "cut")
    verify(base, found, plan).raise_if_different()
    again = slim.apply(plan_of(found), found, mode)
    assert again is found
    further = plan_of(found, "encoder.0.0", "cross.0.0")
    slim.apply(further, found, mode).save(tmp_path / "further")
    verify(found, loaded(tmp_path / "further"), further).raise_if_different()


def test_settings_say_what_is_left_and_nothing_else_changes(opus: Path, tmp_path: Path) -> None:
    (opus / "README.md").write_text("a model")
    (opus / "tf_model.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    state = ("optimizer.pt", "rng_state.pth", "scheduler.pt", "training_args.bin")
    for name in state:
        (opus / name).write_bytes(b"")
    base = loaded(opus)
    assert "weights in other formats, which a rewritten folder does not have: tf_model.h5" in base.notes
    assert f"state of a training, which a rewritten folder does not have: {', '.join(state)}" in base.notes
    slim.apply(plan_of(base, *NEURONS, *LAYERS), base).save(tmp_path / "cut", provenance={"seed": 3})
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (opus, tmp_path / "cut"))
    note = after.pop("nmtprune")
    changes = {"encoder_layers": 1, "num_hidden_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 21}
    assert after == before | changes
    assert note["format"] == "nmtprune-huggingface" and note["provenance"] == {"seed": 3}
    assert json.loads(loaded(tmp_path / "cut").provenance or "") == {"seed": 3}
    names = {path.name for path in opus.iterdir()} - {"tf_model.h5", *state}
    assert {path.name for path in (tmp_path / "cut").iterdir()} == names
    for name in names - {"config.json", "model.safetensors"}:
        assert (tmp_path / "cut" / name).read_bytes() == (opus / name).read_bytes()
    for name in ("tf_model.h5", *state):
        (opus / name).unlink()


def test_ragged_neurons_are_refused_by_cut(opus: Path) -> None:
    base = loaded(opus)
    with pytest.raises(CheckpointError, match="one width for the feed-forward layers of the encoder, not 23 to 24"):
        slim.apply(plan_of(base, *RAGGED), base)


def test_shards_and_pickles_are_rewritten_as_they_are(opus: Path, tmp_path: Path) -> None:
    base = loaded(opus)
    folder = tmp_path / "sharded"
    folder.mkdir()
    (folder / "config.json").write_bytes((opus / "config.json").read_bytes())
    names = sorted(base.tensors)
    for shard, own in (("pytorch_model-1.bin", names[::2]), ("pytorch_model-2.bin", names[1::2])):
        torch.save({name: torch.nn.Parameter(base.tensors[name]) for name in own}, folder / shard)
    places = {name: f"pytorch_model-{1 + number % 2}.bin" for number, name in enumerate(names)}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {"x": 1}, "weight_map": places}))
    found = loaded(folder)
    assert found.sha256 == base.sha256 and not any(tensor.requires_grad for tensor in found.tensors.values())
    slim.apply(plan_of(found, *LAYERS, *NEURONS), found).save(tmp_path / "cut")
    slim.apply(plan_of(base, *LAYERS, *NEURONS), base).save(tmp_path / "single")
    assert loaded(tmp_path / "cut").sha256 == loaded(tmp_path / "single").sha256
    index = json.loads((tmp_path / "cut" / "pytorch_model.bin.index.json").read_text())
    assert index["metadata"] == {"x": 1, "total_size": sum(t.nbytes for t in loaded(tmp_path / "cut").tensors.values())}


def test_files_of_safetensors_and_of_its_library_are_the_same(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.torch")
    tensors = {"b": torch.arange(6).reshape(2, 3).half(), "a": torch.randn(3), "none": torch.zeros(0, 4),
               "flag": torch.tensor([True]), "c": torch.randn(2, 2).bfloat16()}  # fmt: skip
    with open(tmp_path / "ours", "wb") as file:
        write_safetensors(file, TensorFile(tensors, {"format": "pt"}))
    library.save_file(tensors, tmp_path / "theirs", {"format": "pt"})
    read = read_safetensors(tmp_path / "theirs")
    for found in (library.load_file(tmp_path / "ours"), read.tensors):
        assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert read.metadata == {"format": "pt"}


def test_an_output_is_written_whole_or_not_at_all(opus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = loaded(opus)
    out = tmp_path / "out"
    base.save(out)
    with pytest.raises(OutputError, match="exists"):
        base.save(out)
    for inside in (opus, opus.parent):
        with pytest.raises(OutputError, match="holds the input"):
            base.save(inside, force=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letters").write_text("")
    with pytest.raises(OutputError, match="is not empty and holds no model"):
        base.save(tmp_path / "other", force=True)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nmtprune.formats.huggingface.model_folder.write_safetensors", full)
    with pytest.raises(OutputError, match="No space left"):
        base.save(out, force=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]


def _header(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "model.safetensors"
    stored = path.read_bytes()
    (length,) = struct.unpack("<Q", stored[:8])
    header = json.loads(stored[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + stored[8 + length :])


def _entry(name: str, **changes: Any) -> Callable[[Path], None]:
    return lambda folder: _header(folder, lambda header: header[name].update(changes))


def _weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = {name: tensor.clone() for name, tensor in load(folder).tensors.items()}
        change(tensors)
        huggingface_folders.write_weights(folder, tensors)

    return damage


def _settings(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: (huggingface_folders.changed(folder, **changes), None)[1]


def _pickle(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors: dict[str, Any] = {name: tensor.clone() for name, tensor in load(folder).tensors.items()}
        (folder / "model.safetensors").unlink()
        change(tensors)
        torch.save(tensors, folder / "pytorch_model.bin")

    return damage


def _bits(folder: Path) -> None:
    """A damaged number in a file that is whole otherwise."""
    _pickle(lambda tensors: tensors.update({FC1: torch.full((24, 16), 1.5)}))(folder)
    path, numbers = folder / "pytorch_model.bin", torch.full((24, 16), 1.5).numpy().tobytes()
    stored = path.read_bytes()
    assert stored.count(numbers) == 1
    path.write_bytes(stored.replace(numbers, b"\1" + numbers[1:]))


def _scripted(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        for name in ("data.pkl", "constants.pkl"):
            archive.writestr(f"archive/{name}", b"")


def _shardless(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"model.shared.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


SHARED, FC1 = "model.shared.weight", "model.encoder.layers.0.fc1.weight"
BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "no settings": (lambda folder: (folder / "config.json").unlink(), "config.json: cannot be read: No such file"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "has no weights (model.safetensors or"),
    "another family": (_settings(model_type="t5", architectures=["T5ForConditionalGeneration"]),
                       'unsupported: model_type "t5" (T5ForConditionalGeneration): nmtprune reads MarianMTModel'),
    "decoder only": (_settings(model_type="llama", architectures=["LlamaForCausalLM"]),
                     "a language model without an encoder"),
    "a head of another class": (_settings(architectures=["MarianForCausalLM"]), "not MarianMTModel"),
    "quantized": (_settings(quantization_config={"quant_method": "gptq"}), "quantization_config (gptq)"),
    "sizes of text": (_settings(d_model="16", encoder_ffn_dim=0), 'd_model is "16", no whole number from 1; '),
    "heads": (_settings(encoder_attention_heads=3), "encoder_attention_heads 3 does not divide d_model 16"),
    "two depths": (_settings(num_hidden_layers=3), "num_hidden_layers 3 and encoder_layers 2 differ"),
    "ignored norms": (_settings(normalize_before=True), "normalize_before true (transformers ignores it"),
    "activation": (_settings(activation_function="mish"), 'activation_function "mish"'),
    "no end of its own": (_settings(pad_token_id=0), "pad_token_id and eos_token_id are both 0: sentences would end"),
    "huge depth": (_settings(encoder_layers=1 << 70, num_hidden_layers=1 << 70), f"encoder_layers is {1 << 70}, more"),
    "family in a list": (_settings(model_type=["marian"]), 'model_type ["marian"] (MarianMTModel): nmtprune reads'),
    "class of a number": (_settings(architectures=5), "architectures 5, not MarianMTModel"),
    "end": (_settings(eos_token_id=[0, 1]), "eos_token_id is [0, 1], no id of a token"),
    "a note of another": (_settings(nmtprune={"format": "x"}), 'nmtprune is damaged: format is "x", not'),
    "quantized pickle": (_pickle(lambda tensors: tensors.update({FC1: torch.quantize_per_tensor(
                         torch.zeros(24, 16), 0.1, 0, torch.qint8)})), f"'{FC1}' is no plain tensor"),
    "sparse": (_pickle(lambda tensors: tensors.update({FC1: torch.zeros(24, 16).to_sparse()})), "is no plain tensor"),
    "no numbers": (_pickle(lambda tensors: tensors.update({FC1: torch.zeros(24, 16, device="meta")})),
                   "is no plain tensor"),
    "a damaged number": (_bits, "pytorch_model.bin: damaged (the checksum of 'pytorch_model/data/"),
    "TorchScript": (_scripted, "not weights of a model of transformers (a TorchScript archive"),
    "pickled code": (_pickle(lambda tensors: tensors.update({FC1: Path("x")})), "refused: it names pathlib."),
    "a shard": (_shardless, "model-00001-of-00002.safetensors, which model.safetensors.index.json names, are missing"),
    "truncated": (_truncated, "bytes, the file has"),
    "huge header": (lambda folder: (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{" * 99),
                    "a header of 4611686018427387904 bytes in a file of 107"),
    "huge shape": (_entry(SHARED, shape=[1 << 40, 1 << 40]), "takes 4835703278458516698824704 bytes, not"),
    "empty and huge": (_entry(SHARED, shape=[0, 1 << 70], data_offsets=[0, 0]), "which no tensor of a model has"),
    "too many axes": (_entry(SHARED, shape=[1] * 100_000), "which no tensor of a model has"),
    "negative": (_entry(SHARED, data_offsets=[-8, 8]), "the place [-8, 8]"),
    "overlap": (_entry("final_logits_bias", data_offsets=[0, 400], shape=[1, 100]), "overlaps the tensor before it"),
    "type": (_entry(SHARED, dtype="Q4"), 'is of type "Q4"'),
    "missing": (_weights(lambda tensors: tensors.pop(FC1)), f"{FC1} is missing"),
    "unknown": (_weights(lambda tensors: tensors.update(x=torch.zeros(2))), "nmtprune knows no x"),
    "shape": (_weights(lambda tensors: tensors.update({FC1: torch.zeros(3, 16)})), 
              "is 3 x 16, the settings make it 24 x 16"),
    "integers": (_weights(lambda tensors: tensors.update({FC1: torch.zeros(24, 16, dtype=torch.int8)})),
                 f"{FC1} holds int8: quantized weights"),
    "unequal tables": (_weights(lambda tensors: tensors.update({"lm_head.weight": tensors[SHARED] + 1})),
                       f"lm_head.weight and {SHARED} differ, though the settings share them"),
    "shared without ties": (_settings(tie_word_embeddings=False),
                            "model.encoder.embed_tokens.weight is missing: transformers shares no table without tie_w"),
    "not finite": (_weights(lambda tensors: tensors["final_logits_bias"].fill_(float("nan"))),
                   "final_logits_bias holds NaN"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "text"), BAD.values(), ids=BAD)
def test_bad_folders_are_one_line(opus: Path, tmp_path: Path, damage: Callable[[Path], None], text: str) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    for path in opus.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    damage(folder)
    with pytest.raises(CheckpointError) as error:
        load(folder)
    assert text in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith(str(folder))


PLAN = ("--random", "30%", "--keep-neurons", "encoder=16 decoder=16", "--keep-layers", "decoder=2")


@pytest.fixture(scope="module")
def cut(opus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cut folder, with the plan and texts beside it."""
    folder = tmp_path_factory.mktemp("cut")
    (folder / "source").write_text("\n".join(ENGLISH) + "\n")
    (folder / "reference").write_text("\n".join(GERMAN) + "\n")
    assert nmtprune("plan", opus, *PLAN, "-o", folder / "plan.json").code == 0
    done = nmtprune("slim", opus, "--plan", folder / "plan.json", "-o", folder / "cut")
    assert done.code == 0 and "loads in transformers (from_pretrained)" in done.stderr, done.stderr
    return folder / "cut"


def test_a_plan_on_the_fly_translates_as_what_it_cuts(opus: Path, cut: Path) -> None:
    """Heads, neurons and layers of the plan count."""
    data = ("--source", cut.parent / "source", "--threads", "1")
    lines = nmtprune("translate", opus, *data)
    assert lines.code == 0 and len(lines.stdout.splitlines()) == len(ENGLISH), lines.stderr
    assert "source.spm and" in lines.stderr
    masked = nmtprune("translate", opus, *data, "--plan", cut.parent / "plan.json", "--beam", 2, "--max-length", 9)
    assert masked.stdout == nmtprune("translate", cut, *data, "--beam", 2, "--max-length", 9).stdout != lines.stdout


@pytest.mark.slow
def test_every_command_takes_a_folder(opus: Path, cut: Path, tmp_path: Path) -> None:
    def done(*arguments: Any) -> None:
        found = nmtprune(*arguments)
        assert found.code == 0, found.stderr

    data = ("--source", cut.parent / "source", "--threads", 1, "--reference", cut.parent / "reference")
    few = ("--beam", 1, "--allow-few-sentences")
    done("refit", opus, cut, *data, "--force-worse", "-o", tmp_path / "refit")
    done("check", cut, "--baseline", opus, *data, *few, "--max-drop", 100)
    done("bench", opus, cut, *data, "--beam", 1, "--batch-size", 4, "--repeat", 3, "-o", tmp_path / "bench.json")
    done("score", opus, *data, "--metric", "importance", "-o", tmp_path / "importance.json")
    done("score", opus, *data, *few, "--group", "heads,layers", "-o", tmp_path / "bleu.json")
    done("greedy", opus, *data, *few, "--budget", "macs=80%", "--uniform", "--refit", "-o", tmp_path / "greedy")
    assert loaded(tmp_path / "greedy" / "slim").lineage is not None
    done("export", cut, "--to", "ctranslate2", "-o", tmp_path / "ct2", "--sentences", 12)
    note = json.loads((tmp_path / "ct2" / "nmtprune.json").read_text())
    assert note["lineage"]["root"]["format"] == "huggingface"
    heads = json.loads((tmp_path / "ct2" / "config.json").read_text())
    assert heads["decoder_start_token"] == "<pad>"
    translated = nmtprune("translate", cut, *data[:4], "--engine", "ctranslate2", "--beam", 1)
    assert translated.stdout == nmtprune("translate", cut, *data[:4], "--beam", 1).stdout


def test_commands_refuse_what_a_folder_cannot_do(opus: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("a man\n")
    assert refused("translate", opus, "--source", text, "--lenpen", 1)[1] == (
        "search: --lenpen goes with models of fairseq: this is a model of Hugging Face's transformers"
    )
    assert refused("translate", opus, "--source", text, "--decoder-config", text)[1] == (
        "--decoder-config goes with models of Marian: this is none"
    )
    code, line = refused("translate", opus, "--source", text, "--engine", "ctranslate2", "--early-stopping", "never")
    assert code == UsageError.exit_code and line.endswith("rule of its own for full beams: leave --early-stopping out")
    code, line = refused("slim", opus, "--plan", text, "-o", text)
    assert code == OutputError.exit_code and "is a file, not a folder" in line
    cache = tmp_path / "models--x--y"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots" / "0123").mkdir(parents=True)
    code, line = refused("inspect", cache)
    assert code == CheckpointError.exit_code and line.endswith("name the model in its snapshots/ (0123)")
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((opus / name).read_bytes())
    code, line = refused("translate", bare, "--source", text)
    assert code == DataError.exit_code and "has no vocab.json and no source.spm and no target.spm" in line
