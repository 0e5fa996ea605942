"""Tiny folders of Hugging Face's transformers with random weights and a tokenizer, made in code without it."""

import io
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from sacremoses import MosesTokenizer
from subword_nmt.learn_bpe import learn_bpe
from torch import Tensor

from nmtprune.formats.huggingface import config as configs
from nmtprune.formats.huggingface import language_codes, layout
from nmtprune.formats.huggingface.folder_config import FILE
from nmtprune.formats.huggingface.safetensors_file import TensorFile, write_safetensors
from tests.support.subwords import ENGLISH, GERMAN, sentencepiece_model

OPUS: dict[str, Any] = {
    "_name_or_path": "opus-mt-en-de", "_num_labels": 3, "activation_dropout": 0.0, "activation_function": "swish",
    "add_bias_logits": False, "add_final_layer_norm": False, "architectures": ["MarianMTModel"],
    "attention_dropout": 0.0, "bad_words_ids": [[0]], "bos_token_id": 0, "classif_dropout": 0.0,
    "classifier_dropout": 0.0, "d_model": 16, "decoder_attention_heads": 4, "decoder_ffn_dim": 20,
    "decoder_layerdrop": 0.0, "decoder_layers": 3, "decoder_start_token_id": 0, "decoder_vocab_size": 0,
    "dropout": 0.1, "encoder_attention_heads": 4, "encoder_ffn_dim": 24, "encoder_layerdrop": 0.0,
    "encoder_layers": 2, "eos_token_id": 0, "extra_pos_embeddings": 0, "forced_eos_token_id": 0,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, "init_std": 0.02, "is_encoder_decoder": True,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}, "max_length": 24, "max_position_embeddings": 40,
    "model_type": "marian", "normalize_before": False, "normalize_embedding": False, "num_beams": 4,
    "num_hidden_layers": 2, "pad_token_id": 0, "scale_embedding": True, "share_encoder_decoder_embeddings": True,
    "static_position_embeddings": True, "transformers_version": "4.22.0.dev0", "use_cache": True, "vocab_size": 0,
}  # fmt: skip
"""The settings of opus-mt-en-de, with other sizes; those of the vocabulary are filled in."""

NLLB: dict[str, Any] = {
    "_name_or_path": "facebook/nllb-200-distilled-600M", "activation_dropout": 0.0, "activation_function": "relu",
    "architectures": ["M2M100ForConditionalGeneration"], "attention_dropout": 0.1, "bos_token_id": 0, "d_model": 16,
    "decoder_attention_heads": 4, "decoder_ffn_dim": 20, "decoder_layerdrop": 0, "decoder_layers": 3,
    "decoder_start_token_id": 2, "dropout": 0.1, "encoder_attention_heads": 4, "encoder_ffn_dim": 24,
    "encoder_layerdrop": 0, "encoder_layers": 2, "eos_token_id": 2, "init_std": 0.02, "is_encoder_decoder": True,
    "max_length": 24, "max_position_embeddings": 40, "model_type": "m2m_100", "num_hidden_layers": 2,
    "pad_token_id": 1, "scale_embedding": True, "tokenizer_class": "NllbTokenizer", "torch_dtype": "float32",
    "transformers_version": "4.21.0.dev0", "use_cache": True, "vocab_size": 0,
}  # fmt: skip
"""The settings of nllb-200-distilled-600M, likewise."""

M2M100: dict[str, Any] = {
    **{name: value for name, value in NLLB.items() if name not in ("tokenizer_class", "torch_dtype")},
    "_name_or_path": "hf_models/m2m100_418M", "early_stopping": True, "gradient_checkpointing": False, "num_beams": 5,
    "encoder_layerdrop": 0.05, "decoder_layerdrop": 0.05,
}  # fmt: skip
"""The settings of m2m100_418M, likewise."""

MBART50: dict[str, Any] = {
    "_name_or_path": "/home/suraj/projects/mbart-50/hf_models/mbart-50-large", "_num_labels": 3,
    "activation_dropout": 0.0, "activation_function": "relu", "add_bias_logits": False, "add_final_layer_norm": True,
    "architectures": ["MBartForConditionalGeneration"], "attention_dropout": 0.0, "bos_token_id": 0,
    "classif_dropout": 0.0, "classifier_dropout": 0.0, "d_model": 16, "decoder_attention_heads": 4,
    "decoder_ffn_dim": 20, "decoder_layerdrop": 0.0, "decoder_layers": 3, "decoder_start_token_id": 2, "dropout": 0.1,
    "early_stopping": True, "encoder_attention_heads": 4, "encoder_ffn_dim": 24, "encoder_layerdrop": 0.0,
    "encoder_layers": 2, "eos_token_id": 2, "forced_eos_token_id": 2, "gradient_checkpointing": False,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, "init_std": 0.02, "is_encoder_decoder": True,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}, "max_length": 24, "max_position_embeddings": 40,
    "model_type": "mbart", "normalize_before": True, "normalize_embedding": True, "num_beams": 5,
    "num_hidden_layers": 2, "output_past": True, "pad_token_id": 1, "scale_embedding": True,
    "static_position_embeddings": False, "tokenizer_class": "MBart50Tokenizer", "transformers_version": "4.4.0.dev0",
    "use_cache": True, "vocab_size": 0,
}  # fmt: skip
"""The settings of mbart-large-50-many-to-many-mmt, likewise."""

FSMT: dict[str, Any] = {
    "activation_dropout": 0.0, "activation_function": "relu", "architectures": ["FSMTForConditionalGeneration"],
    "attention_dropout": 0.1, "bos_token_id": 0, "d_model": 16,
    "decoder": {"bos_token_id": 2, "model_type": "fsmt_decoder", "vocab_size": 0}, "decoder_attention_heads": 4,
    "decoder_ffn_dim": 20, "decoder_layerdrop": 0, "decoder_layers": 3, "dropout": 0.2, "early_stopping": False,
    "encoder_attention_heads": 4, "encoder_ffn_dim": 24, "encoder_layerdrop": 0, "encoder_layers": 2,
    "eos_token_id": 2, "forced_eos_token_id": 2, "init_std": 0.02, "is_encoder_decoder": True, "langs": ["en", "de"],
    "length_penalty": 1.15, "max_length": 24, "max_position_embeddings": 40, "model_type": "fsmt", "num_beams": 5,
    "num_hidden_layers": 2, "pad_token_id": 1, "scale_embedding": True, "src_vocab_size": 0, "tgt_vocab_size": 0,
    "tie_word_embeddings": False,
}  # fmt: skip
"""The settings of facebook/wmt19-en-de, likewise."""

FSMT_SEARCH: dict[str, Any] = {
    "_from_model_config": True, "bos_token_id": 0, "decoder_start_token_id": 2, "early_stopping": False,
    "eos_token_id": 2, "forced_eos_token_id": 2, "length_penalty": 1.15, "max_length": 24, "num_beams": 5,
    "pad_token_id": 1, "transformers_version": "4.27.0.dev0",
}  # fmt: skip
"""Its generation config; transformers 5 would begin with ``<s>`` without it."""

_MADE_UP = 3
"""Rows of embeddings that stand for no symbol."""


def nllb_folder(folder: Path, *, seed: int = 1, legacy: bool = False, **settings: Any) -> Path:
    """Write a folder as NLLB's: the languages are in the order of transformers, and no file lists them."""
    folder.mkdir(parents=True)
    pieces = _pieces_of_both(folder, model_type="bpe")
    about = {"tokenizer_class": "NllbTokenizer", "src_lang": None, "tgt_lang": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(about | ({"legacy_behaviour": True} if legacy else {})))
    rows = pieces + 1 + len(language_codes.NLLB.codes["m2m100"]) + 1 + _MADE_UP
    return _written(folder, NLLB | {"vocab_size": rows} | settings, seed)


def m2m100_folder(folder: Path, *, seed: int = 1, **settings: Any) -> Path:
    """Write a folder as M2M-100's: ``vocab.json``, and languages behind its symbols."""
    folder.mkdir(parents=True)
    count = _pieces_of_both(folder, model_type="bpe")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.bpe.model"))
    symbols = ["<s>", "<pad>", "</s>", "<unk>", *(processor.id_to_piece(id) for id in reversed(range(3, count)))]
    (folder / "vocab.json").write_text(json.dumps({symbol: id for id, symbol in enumerate(symbols)}))
    codes = language_codes.M2M100.codes["m2m100"]
    about = {"tokenizer_class": "M2M100Tokenizer", "additional_special_tokens": [f"__{code}__" for code in codes]}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    rows = len(symbols) + len(codes) + _MADE_UP
    return _written(folder, M2M100 | {"vocab_size": rows} | settings, seed)


def mbart50_folder(folder: Path, *, seed: int = 1, **settings: Any) -> Path:
    """Write a folder as mBART-50's: no file lists the languages."""
    folder.mkdir(parents=True)
    pieces = _pieces_of_both(folder, model_type="unigram")
    about = {"tokenizer_class": "MBart50Tokenizer", "src_lang": None, "tgt_lang": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    rows = pieces + 1 + len(language_codes.MBART50.codes["m2m100"]) + 1
    return _written(folder, MBART50 | {"vocab_size": rows} | settings, seed)


def fsmt_folder(folder: Path, *, seed: int = 1, **settings: Any) -> Path:
    """Write a folder as facebook/wmt19-en-de: two vocabularies of other sizes, and merges of both languages."""
    folder.mkdir(parents=True)
    sides = [MosesTokenizer(language).tokenize(line, return_str=True, aggressive_dash_splits=True) for language, lines
             in (("en", ENGLISH), ("de", GERMAN)) for line in lines]  # fmt: skip
    codes = io.StringIO()
    with redirect_stderr(io.StringIO()):  # its progress
        learn_bpe(io.StringIO("\n".join(sides)), codes, 80, min_frequency=1)
    merges = codes.getvalue().splitlines()[1:]
    (folder / "merges.txt").write_text("\n".join(merges) + "\n")
    rows = {}
    for side, lines in (("src", sides[: len(ENGLISH)]), ("tgt", sides[len(ENGLISH) :])):
        letters = sorted({letter for line in lines for letter in line.replace(" ", "")})
        pieces = [f"{letter}{end}" for letter in letters for end in ("", "</w>")]
        pieces += [merge.replace(" ", "") for merge in merges]
        symbols = ["<s>", "<pad>", "</s>", "<unk>", *dict.fromkeys(pieces if side == "src" else reversed(pieces))]
        (folder / f"vocab-{side}.json").write_text(json.dumps({symbol: id for id, symbol in enumerate(symbols)}))
        rows[f"{side}_vocab_size"] = len(symbols)
    (folder / "tokenizer_config.json").write_text(json.dumps({"langs": ["en", "de"], "model_max_length": 1024}))
    (folder / "generation_config.json").write_text(json.dumps(FSMT_SEARCH))
    values = FSMT | rows | settings
    _written(folder, values, seed)
    # Softer attention: where it decides between two tokens by a hair, single precision is not precise enough.
    soft = {name: each * 0.3 if "q_proj" in name else each for name, each in random_weights(values, seed).items()}
    write_weights(folder, soft)
    return folder


def mbart50_tokenizer(theirs: Any, folder: Path, **options: Any) -> Any:
    """The tokenizer of a SentencePiece model, likewise."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.bpe.model"))
    pieces = [(processor.id_to_piece(id), processor.get_score(id)) for id in range(processor.get_piece_size())]
    return theirs.MBart50Tokenizer(vocab=pieces, **options)


def nllb_tokenizer(theirs: Any, folder: Path, **options: Any) -> Any:
    """The tokenizer of a SentencePiece model, which transformers itself reads only with protobuf."""
    from transformers.convert_slow_tokenizer import generate_merges

    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.bpe.model"))
    pieces = {processor.id_to_piece(id): id for id in range(processor.get_piece_size())}
    words = {piece: id + 1 for piece, id in pieces.items() if id > 2}
    merges = generate_merges(pieces, {piece: processor.get_score(id) for piece, id in pieces.items()})
    return theirs.NllbTokenizer(vocab={"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, **words}, merges=merges, **options)


def _pieces_of_both(folder: Path, **options: Any) -> int:
    """Write a SentencePiece model of both languages, and say how many pieces it has."""
    path = sentencepiece_model(folder / "sentencepiece.bpe.model", [*ENGLISH, *GERMAN], 160, **options)
    return int(sentencepiece.SentencePieceProcessor(model_file=str(path)).get_piece_size())


def _written(folder: Path, values: dict[str, Any], seed: int) -> Path:
    (folder / FILE).write_text(json.dumps(values, indent=2))
    write_weights(folder, random_weights(values, seed))
    return folder


def folder_of(folder: Path, *, seed: int = 1, separate_vocabs: bool = False, **settings: Any) -> Path:
    """Write a folder as OPUS-MT's are: settings, weights, vocabularies and two SentencePiece models.

    Args:
        folder: to be made.
        seed: of the weights.
        separate_vocabs: each side has a vocabulary of its own, of another size.
        settings: of ``config.json``, over those of `OPUS`.
    """
    folder.mkdir(parents=True)
    source, target = (_pieces(folder / name, lines, size) for name, lines, size in
                      (("source.spm", ENGLISH, 120), ("target.spm", GERMAN, 110)))  # fmt: skip
    special = ["</s>", "<unk>", "<pad>"]
    if separate_vocabs:
        sides = {"vocab.json": [*special, ">>de<<", *source], "target_vocab.json": [*special, *target]}
    else:
        sides = {"vocab.json": [*special[:2], *dict.fromkeys([*source, *target]), special[2]]}
    for name, symbols in sides.items():
        (folder / name).write_text(json.dumps({symbol: id for id, symbol in enumerate(symbols)}))
    languages = {"source_lang": "en", "target_lang": "de", "separate_vocabs": separate_vocabs}
    (folder / "tokenizer_config.json").write_text(json.dumps(languages))
    rows, pad = [len(symbols) for symbols in sides.values()], sides["vocab.json"].index("<pad>")
    ids = {"vocab_size": rows[0], "decoder_vocab_size": rows[-1], "pad_token_id": pad, "decoder_start_token_id": pad}
    values = OPUS | ids | {"bad_words_ids": [[pad]]} | settings
    return _written(folder, values, seed)


def _pieces(path: Path, lines: Sequence[str], size: int) -> list[str]:
    """The pieces of a SentencePiece model, which is written to a path; special ones are left out."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_model(path, lines, size)))
    pieces = [processor.id_to_piece(id) for id in range(processor.get_piece_size())]
    return [piece for piece in pieces if piece not in ("</s>", "<unk>", "<pad>")]


def random_weights(values: dict[str, Any], seed: int = 1) -> dict[str, Tensor]:
    """WeightFiles that fit the settings, large enough for translations to differ."""
    generator = torch.Generator().manual_seed(seed)
    config = configs.parse_config(values, "settings")
    known = layout.entries(config, ())
    drawn = {name: torch.randn(entry.shape, generator=generator) for name, entry in known.items() if not entry.optional}
    found = {name: _scaled(name, each) for name, each in drawn.items()}
    bias = {layout.LOGITS_BIAS: 0.3 * torch.randn(1, config.words[1], generator=generator)}
    return found | (bias if layout.LOGITS_BIAS in known else {})


def _scaled(name: str, drawn: Tensor) -> Tensor:
    """Draws so large that what the source says reaches the last layer."""
    if name.endswith("norm.weight"):
        return 1 + 0.1 * drawn
    if name.endswith(".bias"):
        return 0.05 * drawn
    return drawn if "encoder_attn" in name or "embed" in name else 0.6 * drawn


def write_weights(folder: Path, tensors: dict[str, Tensor], name: str = "model.safetensors") -> None:
    """Write a file of weights."""
    with open(folder / name, "wb") as file:
        write_safetensors(file, TensorFile(tensors, {"format": "pt"}))


def changed(folder: Path, **settings: Any) -> Path:
    """Write some settings of a folder anew; None takes one out."""
    path = folder / FILE
    values = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))
    return folder


def transformers() -> Any:
    """The package, without torchaudio, which it imports and which need not go with the installed torch."""
    there = sys.modules.get("torchaudio")
    sys.modules["torchaudio"] = None  # type: ignore[assignment]
    try:
        import transformers as found
        from transformers import (  # noqa: F401  # imported when they are asked for
            BertForSequenceClassification,
            DistilBertForSequenceClassification,
            FSMTForConditionalGeneration,
            FSMTTokenizer,
            M2M100ForConditionalGeneration,
            M2M100Tokenizer,
            MarianMTModel,
            MarianTokenizer,
            MBart50Tokenizer,
            MBartForConditionalGeneration,
            NllbTokenizer,
            RobertaForSequenceClassification,
        )
    finally:
        del sys.modules["torchaudio"]
        if there is not None:
            sys.modules["torchaudio"] = there
    found.logging.set_verbosity_error()
    found.logging.disable_progress_bar()
    return found
