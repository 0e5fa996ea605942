"""Files that are no checkpoint, are damaged, hold code, or are not supported: one line each, and nothing runs."""

import io
import itertools
import os
import pickle
import tarfile
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nmtprune.errors import CheckpointError
from nmtprune.formats import load
from nmtprune.formats.fairseq import FairseqCheckpoint
from tests.support import fairseq_files
from tests.support.fairseq_files import Build
from tests.support.thinned import thinned

State = dict[str, Any]
WROTE = "; fairseq's checkpoints hold the settings too: name the file that fairseq-train wrote"
PAIR = (
    ": models of these tasks are supported: translation, translation_l0, translation_multi_simple_epoch, "
    "translation_from_pretrained_bart"
)
PER_LANGUAGE = "an encoder and a decoder of its own for each language or direction"
NO_SETTINGS = f"it has no settings: neither 'cfg' nor 'args'{WROTE}"


def message(path: Path) -> str:
    """What `load` says of a file that it refuses, without the path."""
    with pytest.raises(CheckpointError) as caught:
        load(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{path}: ")
    assert caught.value.exit_code == 3
    return text.removeprefix(f"{path}: ")


def saved(path: Path, tiny: Path, change: Callable[[State], Any]) -> Path:
    state = fairseq_files.load(tiny)
    change(state)
    torch.save(state, path)
    return path


def model_setting(**changes: Any) -> Callable[[State], None]:
    return lambda state: vars(state["cfg"]["model"]).update(changes)


def test_no_file_a_folder_and_an_empty_file(tmp_path: Path) -> None:
    assert message(tmp_path / "none.pt") == "there is no such file"
    assert message(tmp_path) == "is a folder without a checkpoint in it (fairseq's .pt or Marian's .npz)"
    (tmp_path / "empty.pt").touch()
    assert message(tmp_path / "empty.pt") == "is empty"
    os.mkfifo(tmp_path / "pipe.pt")
    assert message(tmp_path / "pipe.pt") == "is no regular file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "closed.pt").write_bytes(b"PK")
    (tmp_path / "closed.pt").chmod(0)
    assert message(tmp_path / "closed.pt") == "cannot be read: Permission denied"


def test_files_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    path.write_text("# Heads\n")
    assert message(path) == "is a text file (it begins with '# Heads'), no checkpoint"
    path.write_bytes(b"\1\2\3")
    assert message(path) == "not a fairseq checkpoint (neither a zip nor a torch file)"
    path.write_bytes(pickle.dumps({"model": {}}))
    assert message(path) == "not a fairseq checkpoint (a pickle that torch.save did not write)"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert message(path) == "is a zip archive, without a model that nmtprune knows in it"
    with open(path, "wb") as file:
        np.savez(file, weights=np.zeros(3))
    assert message(path).startswith("has no special:model.yml: no Marian model, or one without its options")
    with pytest.raises(CheckpointError, match=r"not a fairseq checkpoint \(an \.npz archive of NumPy without a torch"):
        FairseqCheckpoint.load(path)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    assert message(path) == (
        "not a fairseq checkpoint (a TorchScript archive: name the checkpoint that it was exported from)"
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([1, 2], "it holds a list, not a dict"),
        ({"encoder.weight": torch.zeros(2)}, f"a bare state dict, without 'model' and 'cfg'{WROTE}"),
        ({"state": 1}, f"it has no 'model'{WROTE}"),
        ({"model": {}, "cfg": {}}, f"it has no 'model'{WROTE}"),
        ({"model": {"a": torch.zeros(1)}}, NO_SETTINGS),
        ({"model": {"a": torch.zeros(1)}, "cfg": None, "args": None}, NO_SETTINGS),
        ({"model": {"a": [1]}, "cfg": {"model": {}}}, "model entry 'a' is no plain tensor"),
        ({"model": {"a": torch.eye(2).to_sparse()}, "cfg": {"model": {}}}, "model entry 'a' is no plain tensor"),
        ({"model": {1: torch.zeros(1)}, "cfg": {"model": {}}}, "a name in 'model' is no text"),
    ],
)
def test_torch_files_of_another_kind(tmp_path: Path, content: Any, expected: str) -> None:
    torch.save(content, tmp_path / "file.pt")
    assert message(tmp_path / "file.pt") == f"not a fairseq checkpoint ({expected})"


@pytest.mark.parametrize("old_zip", [False, True])
def test_files_that_end_too_early(build: Build, tmp_path: Path, old_zip: bool) -> None:
    raw = build(layers=1, updates=1, stored={"old_zip": True} if old_zip else {}).read_bytes()
    path = tmp_path / "short.pt"
    for length in [1, 2, 4, 30, 100, *range(1000, len(raw), len(raw) // 25), *range(len(raw) - 4, len(raw))]:
        path.write_bytes(raw[:length])
        text = message(path)
        assert text.startswith(("damaged or truncated (", "not a fairseq checkpoint (")), (length, text)


def test_flipped_bits_are_found(build: Build, tmp_path: Path) -> None:
    raw = build(layers=1, updates=1).read_bytes()
    path = tmp_path / "flipped.pt"
    generator = np.random.default_rng(0)
    intact = 0
    for position in generator.integers(0, len(raw), 60):
        damaged = bytearray(raw)
        damaged[position] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        try:
            load(path)
            intact += 1  # padding between records, time stamps
        except CheckpointError as error:
            assert "\n" not in str(error)
    assert intact < 20


def test_a_wrong_checksum_is_named(tiny: Path, tmp_path: Path) -> None:
    raw = bytearray(tiny.read_bytes())
    weights = fairseq_files.load(tiny)["model"]["encoder.layers.0.fc1.weight"].numpy().tobytes()
    raw[raw.index(weights) + 5] ^= 1
    (tmp_path / "flipped.pt").write_bytes(raw)
    text = message(tmp_path / "flipped.pt")
    assert text.startswith("damaged (the checksum of 'archive/data/")
    assert text.endswith("' in it is wrong)")


def test_a_file_without_checksums_loads(tiny: Path, tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(fairseq_files.load(tiny), tmp_path / "unchecked.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert load(tmp_path / "unchecked.pt").sha256 == load(tiny).sha256


def test_a_file_that_was_compressed_again_loads(tiny: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tiny) as source, zipfile.ZipFile(tmp_path / "c.pt", "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    assert load(tmp_path / "c.pt").sha256 == load(tiny).sha256


class Payload:
    """Runs a command when a pickle of it is loaded without care."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def payloads(mark: Path) -> dict[str, Payload]:
    command = f"open({str(mark)!r}, 'w')"
    return {
        "os.system": Payload(os.system, f"touch {mark}"),
        "eval": Payload(eval, command),
        "exec": Payload(exec, command),
        "pathlib": Payload(Path.touch, mark),
        "getattr": Payload(getattr, "", "format"),
        "tarfile.open": Payload(tarfile.open, str(mark), "w"),
        "numpy.save": Payload(np.save, str(mark), 1),
        "torch.load": Payload(torch.load, str(mark)),
        "torch.save": Payload(torch.save, 1, str(mark)),
    }


@pytest.mark.parametrize(("place", "name"), thinned(itertools.product(
    ["top", "setting", "extra", "key", "inside a meter"], payloads(Path())
), 4))  # fmt: skip
def test_code_in_a_file_does_not_run(tiny: Path, tmp_path: Path, name: str, place: str) -> None:
    mark = tmp_path / "ran"
    payload = payloads(mark)[name]
    state = fairseq_files.load(tiny)
    if place == "top":
        state["payload"] = payload
    elif place == "setting":
        state["cfg"]["model"].arch = payload
    elif place == "extra":
        state["extra_state"]["metrics"]["x"] = [payload]
    elif place == "key":
        state = {payload: 1, **state}  # type: ignore[dict-item]
    else:
        state["extra_state"]["meters"] = Payload(np.dtype, payload)
    torch.save(state, tmp_path / "payload.pt")
    assert message(tmp_path / "payload.pt").startswith("refused: it names ")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert message(tmp_path / "old.pt").startswith("refused: it names ")
    assert not mark.exists()


def test_the_name_of_the_code_is_told(tiny: Path, tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", tiny, lambda state: state.update(payload=Payload(os.system, "true")))
    assert message(path) == "refused: it names posix.system, and no code that a file names is run"


def test_bare_payloads_do_not_run(tmp_path: Path) -> None:
    mark, path = tmp_path / "ran", tmp_path / "file.pt"
    raw = pickle.dumps(Payload(os.system, f"touch {mark}"), protocol=2)
    path.write_bytes(raw)
    assert message(path) == "not a fairseq checkpoint (a pickle that torch.save did not write)"
    path.write_bytes(pickle.dumps(Payload(os.system, f"touch {mark}"), protocol=0))
    assert message(path) == "is a text file (it begins with 'cposix'), no checkpoint"
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    assert message(path) == "is a tar archive, without a model that nmtprune knows in it"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("checkpoint/data.pkl", raw)
        archive.writestr("checkpoint/version", "3")
    assert message(path) == "refused: it names posix.system, and no code that a file names is run"
    assert not mark.exists()


CODE = "__import__('os').system('true')"


@pytest.mark.parametrize(
    ("name", "value"),
    [("adam_betas", CODE), ("adaptive_softmax_cutoff", "print(1)"), ("character_filters", "[exit()]"),
     ("decoder_layers", "[(512, 3)] * 20"), ("model_overrides", "lambda: 0"), ("adam_betas", "f'{exit()}'"),
     ("adafactor_eps", "(1e-30, 1e-3"), ("lamb_betas", "x" * 200)],
)  # fmt: skip
def test_strings_that_fairseq_would_evaluate(tiny: Path, tmp_path: Path, name: str, value: str) -> None:
    shown = ascii(value) if len(ascii(value)) <= 60 else f"{ascii(value)[:60]}..."
    expected = f"unsupported: {name} is {shown}, no plain literal: fairseq would run it as code"
    assert message(saved(tmp_path / "model.pt", tiny, model_setting(**{name: value}))) == expected

    def elsewhere(state: State) -> None:
        state["cfg"]["optimizer"] = {"deep": {name: value}}

    assert message(saved(tmp_path / "elsewhere.pt", tiny, elsewhere)) == expected

    def in_args(state: State) -> None:
        state["args"], state["cfg"] = Namespace(**{**vars(state["cfg"]["model"]), name: value}), None

    assert message(saved(tmp_path / "args.pt", tiny, in_args)) == expected


def test_plain_literals_are_accepted(tiny: Path, tmp_path: Path) -> None:
    path = saved(tmp_path / "literals.pt", tiny, model_setting(adam_betas="(0.9, 0.98)", left_pad_source="True",
                 character_filters="[(1, 64), (2, 128)]", optimizer_overrides="{}"))  # fmt: skip
    assert load(path).architecture == load(tiny).architecture


def everything_at_once(state: State) -> None:
    vars(state["cfg"]["model"]).update(
        arch="fconv", _name="fconv", scale_heads=True, quant_noise_pq=0.1, adam_betas=CODE
    )
    state["cfg"]["task"]["_name"] = "multilingual_translation"
    state["cfg"]["distributed_training"]["pipeline_model_parallel"] = True
    state["fsdp_metadata"] = {}


UNSUPPORTED = {
    "architecture 'fconv' (fairseq's transformer, transformer_lm and roberta models are supported)":
        model_setting(_name="fconv", arch="fconv"),
    "architecture 'roberta_enc_dec' (fairseq's transformer, transformer_lm and roberta models are supported)":
        model_setting(_name="roberta_enc_dec", arch="roberta_enc_dec"),
    "architecture 'transformer_lm_megatron' (fairseq's transformer, transformer_lm and roberta models are supported)":
        model_setting(_name="transformer_lm_megatron"),
    "architecture None (fairseq's transformer, transformer_lm and roberta models are supported)":
        model_setting(_name=None, arch=None),
    "scale_heads True (a learned factor per head)": model_setting(scale_heads=True),
    "char_inputs True (character embeddings)": model_setting(char_inputs=True),
    "character_embeddings True (character embeddings)": model_setting(character_embeddings=True),
    "base_layers 1 (mixture of experts)": model_setting(base_layers=1),
    "quant_noise_pq 0.05 (quantization noise)": model_setting(quant_noise_pq=0.05),
    "quant_noise_scalar 0.5 (quantization noise)": model_setting(quant_noise_scalar=0.5),
    "decoder_xformers_att_config '1' (xformers attention)": model_setting(decoder_xformers_att_config="1"),
    "pipeline_model_parallel (a model in stages)":
        lambda state: state["cfg"]["distributed_training"].update(pipeline_model_parallel=True),
    "use_sharded_state (FSDP: one of several shards; without this option models are saved whole)":
        lambda state: state["cfg"]["distributed_training"].update(use_sharded_state=True),
    "FSDP (fully sharded data parallel) state, a part of a model": lambda state: state.update(fsdp_metadata={}),
    "checkpoint_shard_count 4 (one of several shards)":
        lambda state: state["cfg"]["checkpoint"].update(checkpoint_shard_count=4),
    "model_parallel_size 2 (Megatron, one of several parts)":
        lambda state: state["cfg"]["common"].update(model_parallel_size=2),
    "quantization_config_path (quantized weights)":
        lambda state: state["cfg"]["common"].update(quantization_config_path="x.yaml"),
    f"task 'semisupervised_translation' (multilingual or with several models){PAIR}":
        lambda state: state["cfg"]["task"].update(_name="semisupervised_translation"),
    f"architecture 'multilingual_transformer' ({PER_LANGUAGE}: one model with language tokens is supported)":
        model_setting(_name="multilingual_transformer"),
    "neither langs nor lang_dict nor lang_pairs name the languages, whose tokens the dictionaries get; "
    "lang_tok_style 'x' (fairseq has multilingual and mbart)":
        lambda state: state["cfg"]["task"].update(_name="translation_multi_simple_epoch", lang_tok_style="x"),
    "langs is None: no languages, whose tokens the dictionaries get":
        lambda state: state["cfg"]["task"].update(_name="translation_from_pretrained_bart"),
    "architecture 'fconv' (fairseq's transformer, transformer_lm and roberta models are supported); "
    "scale_heads True (a learned factor per head); quant_noise_pq 0.1 (quantization noise); "
    "pipeline_model_parallel (a model in stages); FSDP (fully sharded data parallel) state, a part of a model; "
    f"task 'multilingual_translation' ({PER_LANGUAGE}){PAIR}; "
    "adam_betas is \"__import__('os').system('true')\", no plain literal: fairseq would run it as code":
        everything_at_once,
}  # fmt: skip


@pytest.mark.parametrize("reason", UNSUPPORTED)
def test_what_is_not_supported_is_named(tiny: Path, tmp_path: Path, reason: str) -> None:
    assert message(saved(tmp_path / "other.pt", tiny, UNSUPPORTED[reason])) == f"unsupported: {reason}"


def test_a_legacy_checkpoint_goes_by_arch_and_task(tiny: Path, tmp_path: Path) -> None:
    def in_args(state: State) -> None:
        settings = {
            **vars(state["cfg"]["model"]),
            "_name": "transformer",
            "arch": "lstm",
            "task": "multilingual_translation",
        }
        state["args"], state["cfg"] = Namespace(**settings), None

    assert message(saved(tmp_path / "args.pt", tiny, in_args)) == (
        "unsupported: architecture 'lstm' (fairseq's transformer, transformer_lm and roberta models are supported); "
        f"task 'multilingual_translation' ({PER_LANGUAGE}){PAIR}"
    )


SETTINGS = {
    "encoder_attention_heads 3 does not divide encoder_embed_dim 16": model_setting(encoder_attention_heads=3),
    "decoder_layers is '2', no whole number from 0": model_setting(decoder_layers="2"),
    "encoder_embed_dim is True, no whole number from 1; decoder_attention_heads is 0, no whole number from 1":
        model_setting(encoder_embed_dim=True, decoder_attention_heads=0),
    "encoder_layers_to_keep is '0,a', no list of different layer numbers": model_setting(encoder_layers_to_keep="0,a"),
    "encoder_layers_to_keep is '1,1', no list of different layer numbers": model_setting(encoder_layers_to_keep="1,1"),
    "adaptive_softmax_cutoff is '16,6', no rising list of whole numbers": model_setting(adaptive_softmax_cutoff="16,6"),
}  # fmt: skip


@pytest.mark.parametrize("fault", SETTINGS)
def test_settings_that_make_no_model(tiny: Path, tmp_path: Path, fault: str) -> None:
    assert message(saved(tmp_path / "other.pt", tiny, SETTINGS[fault])) == f"settings: {fault}"


def tensors(**changes: torch.Tensor | None) -> Callable[[State], None]:
    def change(state: State) -> None:
        for name, tensor in changes.items():
            name = name.replace("__", ".")
            if tensor is None:
                del state["model"][name]
            else:
                state["model"][name] = tensor

    return change


MISFITS = {
    "encoder.layers.0.fc1.bias is missing": tensors(encoder__layers__0__fc1__bias=None),
    "decoder.layers.7.fc1.bias is no part of such a model": tensors(decoder__layers__7__fc1__bias=torch.zeros(24)),
    "encoder.layers.1.self_attn.q_proj.weight has shape [15, 16], not [16, 16]":
        tensors(encoder__layers__1__self_attn__q_proj__weight=torch.zeros(15, 16)),
    "encoder.embed_tokens.weight has shape [28, 15], not [any, 16]":
        tensors(encoder__embed_tokens__weight=torch.zeros(28, 15)),
    "encoder.layers.0.fc1.bias holds int64, no floating-point numbers of 16, 32 or 64 bits":
        tensors(encoder__layers__0__fc1__bias=torch.zeros(24, dtype=torch.int64)),
    "decoder.output_projection.weight and encoder.embed_tokens.weight differ, though the settings share them":
        tensors(decoder__output_projection__weight=torch.zeros(28, 16)),
    "ema entry encoder.layers.0.fc1.bias has shape [3], not [24]":
        lambda state: state["extra_state"].update(ema={"encoder.layers.0.fc1.bias": torch.zeros(3)}),
}  # fmt: skip


@pytest.mark.parametrize("fault", MISFITS)
def test_tensors_that_do_not_fit(tiny: Path, tmp_path: Path, fault: str) -> None:
    text = message(saved(tmp_path / "other.pt", tiny, MISFITS[fault]))
    assert text == f"the tensors do not fit the settings: {fault}"


def test_of_many_misfits_the_first_are_named(tiny: Path, tmp_path: Path) -> None:
    text = message(saved(tmp_path / "other.pt", tiny, model_setting(encoder_ffn_embed_dim=8, decoder_ffn_embed_dim=8)))
    assert text.endswith("encoder.layers.1.fc2.weight has shape [16, 24], not [16, 8]; and 6 more such faults")


def test_shared_tables_that_hold_nan_are_equal(tiny: Path, tmp_path: Path) -> None:
    def poison(state: State) -> None:
        for tensor in state["model"].values():
            tensor.fill_(float("nan")) if tensor.numel() > 1 else None

    path = saved(tmp_path / "nan.pt", tiny, poison)
    assert FairseqCheckpoint.load(path).architecture.count() == 24
    fairseq_files.store_as(path, path, cloned=True)
    assert FairseqCheckpoint.load(path).architecture.count() == 24


def test_settings_that_contain_themselves_and_code(tiny: Path, tmp_path: Path) -> None:
    def nest(state: State) -> None:
        state["cfg"]["task"]["loop"] = state["cfg"]

    path = saved(tmp_path / "loop.pt", tiny, nest)
    load(path).save(tmp_path / "again.pt")
    assert load(tmp_path / "again.pt").sha256 == load(tiny).sha256
    hidden = saved(tmp_path / "code.pt", path, lambda state: state["cfg"]["task"].update(deep={"adam_betas": CODE}))
    assert message(hidden).startswith("unsupported: adam_betas is ")


def test_settings_nested_too_deeply(tiny: Path, tmp_path: Path) -> None:
    path = fairseq_files.store_as(tiny, tmp_path / "deep.pt", cfg="omegaconf")
    state = fairseq_files.load(path)
    task = state["cfg"]["task"]
    task._content["loop"] = task
    torch.save(state, path)
    assert message(path) == "not a fairseq checkpoint (its settings are nested too deeply)"
