"""`nmtprune convert`: the same model in the files of another toolkit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from nmtprune.cli import convert as cli_convert
from nmtprune.convert.target import TARGETS
from nmtprune.formats import load
from nmtprune.network import Positions
from nmtprune.runs import convert as runs_convert
from tests.support import huggingface_folders, marian_files
from tests.support.cli import nmtprune, refused
from tests.support.conversions import converted, drawn, marian_with_pieces, of_fairseq, scores, text_of
from tests.support.fairseq_files import Build
from tests.support.marian_files import marian_arrays
from tests.support.subwords import ENGLISH, GERMAN, sentencepiece_model
from tests.support.thinned import thinned

POST_NORM: dict[str, Any] = {}
"""fairseq's default: sinusoids, three tables of embeddings."""
FAIRSEQ: dict[str, dict[str, Any]] = {
    "post-norm": POST_NORM,
    "post-norm, output tied": {"share_decoder_input_output_embed": True, "no_scale_embedding": True},
    "post-norm, two vocabularies": {"joined": False},
    "post-norm, learned positions": {
        "encoder_learned_pos": True, "decoder_learned_pos": True, "share_all_embeddings": True,
    },
    "post-norm, no positions": {"no_token_positional_embeddings": True, "activation_fn": "gelu"},
    "pre-norm": {"encoder_normalize_before": True, "decoder_normalize_before": True, "share_all_embeddings": True},
    "pre-norm, learned positions, norms of embeddings": {
        "encoder_normalize_before": True, "decoder_normalize_before": True, "share_all_embeddings": True,
        "encoder_learned_pos": True, "decoder_learned_pos": True, "layernorm_embedding": True,
    },
}  # fmt: skip
CLASSES = {"post-norm": "MarianMTModel", "pre-norm": "M2M100ForConditionalGeneration",
           "pre-norm, learned positions, norms of embeddings": "MBartForConditionalGeneration"}  # fmt: skip


@pytest.fixture(scope="module")
def theirs() -> Any:
    return huggingface_folders.transformers()


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece model, whatever the vocabulary of a random model."""
    return sentencepiece_model(tmp_path_factory.mktemp("pieces") / "spm.model", [*ENGLISH, *GERMAN])


@pytest.fixture(scope="module")
def marian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of Marian's whose vocabulary is a SentencePiece model."""
    return marian_with_pieces(tmp_path_factory.mktemp("marian"))


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_of(tmp_path_factory.mktemp("text"))


def test_the_targets_are_those_of_the_option() -> None:
    assert cli_convert.TARGETS == TARGETS


@pytest.mark.parametrize("variant", thinned(FAIRSEQ))
def test_a_fairseq_model_becomes_a_folder_of_transformers_and_comes_back(
    theirs: Any, build: Build, pieces: Path, english: Path, tmp_path: Path, variant: str
) -> None:
    """transformers loads it without code and computes the same; coming back every tensor is bit for bit what it was."""
    path = build(**FAIRSEQ[variant])
    said = converted(path, tmp_path / "hf", "huggingface", *of_fairseq(path, pieces))
    assert said["architecture"] == CLASSES.get(variant, "MarianMTModel")
    base, checkpoint = load(path), load(tmp_path / "hf")
    rows = min(base.profile().source_symbols or 0, base.profile().target_symbols or 0)
    expected = scores(base, rows, 2)
    own = scores(checkpoint, rows, checkpoint.profile().target_symbols or 0)
    assert (own - expected).abs().max() < 1e-5
    model = theirs.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    source, previous = drawn(rows, 2)
    with torch.no_grad():
        their = model(input_ids=source, decoder_input_ids=previous).logits
    assert (their - expected).abs().max() < 1e-5 * max(1.0, float(expected.abs().max()))
    converted(tmp_path / "hf", tmp_path / "back", "fairseq", "-s", "xx", "-t", "yy", "--source", english)
    again = load(tmp_path / "back" / "checkpoint.pt")
    tables = {"encoder.embed_positions.weight", "decoder.embed_positions.weight"}
    if "learned" not in variant and "no positions" not in variant:
        tables = set()
    for name, tensor in base.parameters.items():
        if name not in tables:
            assert torch.equal(again.model_tensors[name], tensor), name
    if "two vocabularies" not in variant:
        assert (tmp_path / "back" / "dict.xx.txt").read_text().split()[::2] == [f"w{word}" for word in range(24)]


MARIAN: dict[str, dict[str, Any]] = {
    "post-norm, all tied": {},
    "untied": {"tied_embeddings_all": False, "transformer_ffn_activation": "relu"},
    "target table tied to the output": {"tied_embeddings_all": False, "tied_embeddings": True},
    "pre-norm with norms at both ends": marian_files.VARIANTS["pre-norm with norms at both ends"],
    "uneven depths and widths": marian_files.VARIANTS["uneven depths and widths"],
}


@pytest.mark.parametrize("variant", thinned(MARIAN))
def test_a_marian_model_becomes_a_folder_and_comes_back(english: Path, tmp_path: Path, variant: str) -> None:
    """Scores of words are equal but for what layer norms add to the variance; parameters come back bit for bit."""
    model = marian_with_pieces(tmp_path, **MARIAN[variant])
    said = converted(model, tmp_path / "hf", "huggingface", "--source", english, "--max-positions", 100)
    assert said["largest_difference"] < 1e-3 and any("100 rows" in note for note in said["notes"]) == (
        said["architecture"] == "MarianMTModel"
    )
    base, folder = load(model), load(tmp_path / "hf")
    own, expected = scores(folder, 90, 91), scores(base, 90, 90)
    assert (own[..., :90] - expected).abs().max() < 2e-3 and float(own[..., 90].max()) < -1e3
    search = json.loads((tmp_path / "hf" / "generation_config.json").read_text())
    assert (search["num_beams"], search["length_penalty"], search["bad_words_ids"]) == (3, 0.7, [[90], [1]])
    converted(tmp_path / "hf", tmp_path / "back", "marian", "--source", english)
    again = load(tmp_path / "back" / "model.npz")
    assert again.parameters.keys() == base.parameters.keys()
    assert all(torch.equal(again.parameters[name], tensor) for name, tensor in base.parameters.items())
    settings = yaml.safe_load((tmp_path / "back" / "model.npz.decoder.yml").read_text())
    assert (settings["beam-size"], settings["normalize"], settings["vocabs"]) == (3, 0.7, ["vocab.spm"] * 2)
    assert "allow-unk" not in settings


def _of_their_script(arrays: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What transformers' own script (convert_marian_to_pytorch.py, up to its version 4) makes of a model's arrays."""
    names = {"self_Wq": "self_attn.q_proj.weight", "self_Wk": "self_attn.k_proj.weight",
             "self_Wv": "self_attn.v_proj.weight", "self_Wo": "self_attn.out_proj.weight",
             "self_bq": "self_attn.q_proj.bias", "self_bk": "self_attn.k_proj.bias", "self_bv": "self_attn.v_proj.bias",
             "self_bo": "self_attn.out_proj.bias", "self_Wo_ln_scale": "self_attn_layer_norm.weight",
             "self_Wo_ln_bias": "self_attn_layer_norm.bias", "ffn_W1": "fc1.weight", "ffn_b1": "fc1.bias",
             "ffn_W2": "fc2.weight", "ffn_b2": "fc2.bias", "ffn_ffn_ln_scale": "final_layer_norm.weight",
             "ffn_ffn_ln_bias": "final_layer_norm.bias"}  # fmt: skip
    names |= {name.replace("self_", "context_", 1): own.replace("self_attn", "encoder_attn", 1)
              for name, own in names.items() if name.startswith("self_")}  # fmt: skip
    found = {}
    for name, array in arrays.items():
        stack, _, rest = name.partition("_l")
        layer, _, part = rest.partition("_")
        if layer.isdecimal():
            found[f"model.{stack}.layers.{int(layer) - 1}.{names[part]}"] = torch.tensor(array.T).squeeze()
    table, bias = arrays["Wemb"], arrays["decoder_ff_logit_out_b"]
    found["model.shared.weight"] = torch.tensor(np.concatenate([table, np.zeros((1, table.shape[1]), np.float32)]))
    found["final_logits_bias"] = torch.tensor(np.concatenate([bias, np.zeros((1, 1), np.float32)], axis=1))
    return found


def test_the_tensors_are_those_of_transformers_own_script(marian: Path, english: Path, tmp_path: Path) -> None:
    """All but the bias of padding, which Marian's softmax does not have; and Marian's own positions are stored."""
    converted(marian, tmp_path / "hf", "huggingface", "--source", english)
    own, expected = dict(load(tmp_path / "hf").tensors), _of_their_script(marian_arrays(words=90))
    positions = [own.pop(f"model.{stack}.embed_positions.weight") for stack in ("encoder", "decoder")]
    bias = own["final_logits_bias"].clone()
    assert bias[0, 90] == -1e4
    bias[0, 90] = 0
    own["final_logits_bias"] = bias
    assert own.keys() == expected.keys()
    assert all(torch.equal(own[name], tensor) for name, tensor in expected.items())
    angles = np.arange(1024)[:, None] / 10000 ** (np.arange(8) / 7)
    assert np.allclose(positions[0], np.concatenate([np.sin(angles), np.cos(angles)], axis=1), atol=1e-4)


def test_transformers_translates_a_converted_model_as_marian_words_it(
    theirs: Any, marian: Path, english: Path, tmp_path: Path
) -> None:
    """The tokenizer and the model that `Auto` classes load give the lines of `nmtprune translate`."""
    converted(marian, tmp_path / "hf", "huggingface", "--source", english)
    tokenizer = theirs.AutoTokenizer.from_pretrained(tmp_path / "hf")
    model = theirs.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "hf").eval()
    made = model.generate(**tokenizer(ENGLISH, return_tensors="pt", padding=True), max_length=12)
    found = nmtprune("translate", tmp_path / "hf", "--source", english, "--max-length", 12, "--threads", 1)
    assert found.code == 0, found.stderr
    assert found.stdout.split("\n")[:-1] == tokenizer.batch_decode(made, skip_special_tokens=True)


def test_a_folder_of_opus_mt_becomes_a_marian_model_with_marians_positions(tmp_path: Path) -> None:
    """transformers computes sinusoids of other rates for such folders: Marian's own are an option."""
    english, folder = text_of(tmp_path), huggingface_folders.folder_of(tmp_path / "opus")
    tensors = dict(load(folder).tensors)
    table, pad = (
        tensors["model.shared.weight"].clone(),
        json.loads((folder / "config.json").read_text())["pad_token_id"],
    )
    table[pad] = 0
    huggingface_folders.write_weights(
        folder, {name: each.clone() for name, each in tensors.items()} | {"model.shared.weight": table}
    )
    code, line = refused("convert", folder, tmp_path / "m", "--to", "marian", "--source", english)
    assert code == 3 and line.count("(--marian-positions takes these)") == 2
    found = nmtprune("convert", folder, tmp_path / "m", "--to", "marian", "--source", english, "--marian-positions")
    assert found.code == 0, found.stderr
    again = load(tmp_path / "m" / "model.npz")
    assert again.network().decoder.positions == Positions(learned=False, first=0)
    assert torch.equal(again.parameters["Wemb"], table[:pad])
    assert yaml.safe_load((tmp_path / "m" / "model.npz.decoder.yml").read_text())["allow-unk"] is True
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
        "model.npz", "model.npz.decoder.yml", "source.spm", "source.vocab.yml", "target.spm", "target.vocab.yml"
    ]  # fmt: skip


def test_lines_that_are_left_out_keep_the_others_in_their_places(
    build: Build, pieces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both models read the same lines, and differences have the numbers that these have in the text."""
    path, text = build(**FAIRSEQ["pre-norm"]), tmp_path / "text"
    text.write_text("\n".join(["a man " * 1000, *ENGLISH[:2], "a man " * 1000, *ENGLISH[2:4]]) + "\n")
    compared = runs_convert._differences
    monkeypatch.setattr(runs_convert, "EQUAL", 0)
    monkeypatch.setattr(
        runs_convert, "_differences",
        lambda corpus, again, before, after: compared(corpus, again, before, [[] for _ in after]),
    )  # fmt: skip
    data = ("--source", text, "--skip-invalid-size-inputs-valid-test", *of_fairseq(path, pieces))
    found = nmtprune("convert", path, tmp_path / "hf", "--to", "huggingface", *data, "--threads", 1, "--format", "json")
    assert found.code == 0, found.stderr
    said = json.loads(found.stdout)
    assert (said["compared"], said["left_out"], said["split_otherwise"]) == (4, 0, 0)
    assert [each["sentence"] for each in said["differences"]] == [1, 2, 4, 5]


def test_settings_of_a_search_that_cannot_be_written_are_named(marian: Path, english: Path, tmp_path: Path) -> None:
    for name in ("model.npz", "vocab.spm"):
        (tmp_path / name).write_bytes((marian.parent / name).read_bytes())
    settings = {**yaml.safe_load((marian.parent / "model.npz.decoder.yml").read_text()), "word-penalty": 0.5}
    (tmp_path / "model.npz.decoder.yml").write_text(yaml.safe_dump(settings))
    start = "settings of the search that are not written, so that translations may differ: "
    to = ("huggingface", "--source", english, "--sentences", 6)
    assert f"{start}word_penalty 0.5" in converted(tmp_path / "model.npz", tmp_path / "hf", *to)["notes"]
    assert not any(note.startswith(start) for note in converted(marian, tmp_path / "plain", *to)["notes"])
    file = tmp_path / "hf" / "generation_config.json"
    bars = {**json.loads(file.read_text()), "bad_words_ids": [[90], [1], [7]], "min_length": 3}
    file.write_text(json.dumps(bars))
    notes = converted(tmp_path / "hf", tmp_path / "back", "marian", *to[1:])["notes"]
    assert f"{start}max_length 512, min_length 3, never 7" in notes
