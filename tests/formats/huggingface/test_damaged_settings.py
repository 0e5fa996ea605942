"""Any value of another type or size in a folder's JSON files: read as it is meant, or refused in one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from nmtprune.data.huggingface_vocabulary import HuggingFaceVocabulary
from nmtprune.errors import NmtpruneError
from nmtprune.formats.huggingface import HuggingFaceCheckpoint, generation, network
from nmtprune.formats.huggingface.folder_config import FILE
from nmtprune.formats.huggingface.language_codes import CONFIG as TOKENIZER
from nmtprune.profile import SpecialTokens
from tests.support import huggingface_folders

VALUES = ("null", "[]", "{}", '"x"', "-1", "1e400", "true", str(1 << 70), "[[]]", "[{}]")
GENERATION: dict[str, Any] = {
    "num_beams": 2, "length_penalty": 1.0, "max_length": 9, "max_new_tokens": 8, "min_length": 1,
    "early_stopping": True, "forced_eos_token_id": 0, "bad_words_ids": [[5]], "suppress_tokens": [6],
    "renormalize_logits": True, "eos_token_id": 0, "decoder_start_token_id": None, "do_sample": False,
}  # fmt: skip
OTHERS: dict[str, Any] = {"pruned_heads": {}, "quantization_config": None, "auto_map": None, "dtype": "float32",
                          "nmtprune": None, "tie_word_embeddings": True}  # fmt: skip


@pytest.fixture(scope="module", params=["opus", "fsmt"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    make = {"opus": huggingface_folders.folder_of, "fsmt": huggingface_folders.fsmt_folder}[request.param]
    found = make(tmp_path_factory.mktemp("folder") / "model")
    others = OTHERS | {"tie_word_embeddings": request.param == "opus"}
    huggingface_folders.changed(found, encoder_layers=1, decoder_layers=1, num_hidden_layers=1, **others)
    values = json.loads((found / FILE).read_text())
    huggingface_folders.write_weights(found, huggingface_folders.random_weights(values))
    eos = {name: values["eos_token_id"] for name in ("eos_token_id", "forced_eos_token_id")}
    (found / generation.FILE).write_text(json.dumps(GENERATION | eos | {"forced_bos_token_id": 3}))
    about = {"separate_vocabs": False, "source_lang": "en", "eos_token": "</s>", "langs": ["en", "de"]}
    (found / TOKENIZER).write_text(json.dumps(about | {"do_lower_case": False}))
    return found


def read(folder: Path, name: str) -> None:
    """All that is read of a file before the first sentence."""
    if name.startswith("vocab"):
        HuggingFaceVocabulary.read(folder / name, None, SpecialTokens(1, 0, 1), "source")
        return
    settings = HuggingFaceCheckpoint.decoder_settings(folder)
    HuggingFaceCheckpoint.search_options()(**settings.search).max_len(9, 40)
    if name == FILE:
        checkpoint = HuggingFaceCheckpoint.load(folder)
        network.describe_network(checkpoint.config, checkpoint.tensors)
        checkpoint.profile()


@pytest.mark.parametrize("name", [FILE, generation.FILE, TOKENIZER, "vocab.json"])
def test_no_value_is_an_internal_error(folder: Path, tmp_path: Path, name: str) -> None:
    name = name if (folder / name).exists() else "vocab-src.json"
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    values = (OTHERS if name == FILE else {}) | json.loads((folder / name).read_text())
    values = dict(list(values.items())[:3]) if name.startswith("vocab") else values
    refused = 0
    for key in values:
        for value in VALUES:
            text = json.dumps({**values, key: "HERE"}).replace('"HERE"', value)
            (damaged / name).write_text(text)
            try:
                read(damaged, name)
            except NmtpruneError as error:
                refused += 1
                assert "\n" not in str(error) and "Traceback" not in str(error), (key, value)
            except Exception as error:
                raise AssertionError(f"{key}: {value}") from error
    assert refused > 0
