"""Tiny folders of classifiers of Hugging Face's transformers with random weights, made in code without it."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nmtprune.formats.huggingface import classifier_config
from nmtprune.formats.huggingface.folder_config import FILE
from tests.support.huggingface_folders import write_weights

_BERT: dict[str, Any] = {
    "attention_probs_dropout_prob": 0.1, "classifier_dropout": None, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "hidden_size": 16, "initializer_range": 0.02, "intermediate_size": 24, "layer_norm_eps": 1e-12,
    "num_attention_heads": 4, "num_hidden_layers": 3, "position_embedding_type": "absolute",
    "transformers_version": "4.30.0", "use_cache": True, "max_position_embeddings": 40,
}  # fmt: skip

SETTINGS: dict[str, dict[str, Any]] = {
    "bert": {
        **_BERT, "_name_or_path": "bert-base-uncased", "architectures": ["BertForSequenceClassification"],
        "gradient_checkpointing": False, "model_type": "bert", "pad_token_id": 0, "type_vocab_size": 2,
        "vocab_size": 60,
    },
    "roberta": {
        **_BERT, "_num_labels": 3, "architectures": ["RobertaForSequenceClassification"], "bos_token_id": 0,
        "eos_token_id": 2, "id2label": {"0": "CONTRADICTION", "1": "NEUTRAL", "2": "ENTAILMENT"},
        "label2id": {"CONTRADICTION": 0, "NEUTRAL": 1, "ENTAILMENT": 2}, "layer_norm_eps": 1e-5,
        "model_type": "roberta", "pad_token_id": 1, "type_vocab_size": 1, "vocab_size": 60,
    },
    "distilbert": {
        "activation": "gelu", "architectures": ["DistilBertForSequenceClassification"], "attention_dropout": 0.1,
        "dim": 16, "dropout": 0.1, "finetuning_task": "sst-2", "hidden_dim": 24,
        "id2label": {"0": "NEGATIVE", "1": "POSITIVE"}, "initializer_range": 0.02,
        "label2id": {"NEGATIVE": 0, "POSITIVE": 1}, "max_position_embeddings": 40, "model_type": "distilbert",
        "n_heads": 4, "n_layers": 3, "output_past": True, "pad_token_id": 0, "qa_dropout": 0.1,
        "seq_classif_dropout": 0.2, "sinusoidal_pos_embds": False, "tie_weights_": True,
        "transformers_version": "4.10.0.dev0", "vocab_size": 60,
    },
}  # fmt: skip
"""The settings of bert-base-uncased, roberta-large-mnli and distilbert-base-uncased-finetuned-sst-2, other sizes."""


def classifier_folder(folder: Path, kind: str, *, seed: int = 1, **settings: Any) -> Path:
    """Write a folder of one of SETTINGS, with other values of some settings."""
    folder.mkdir(parents=True)
    values = SETTINGS[kind] | settings
    (folder / FILE).write_text(json.dumps(values, indent=2))
    write_weights(folder, random_weights(values, seed))
    return folder


def random_weights(values: dict[str, Any], seed: int = 1) -> dict[str, Tensor]:
    """Weights that fit the settings, so large that every layer and every token count."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, entry in classifier_config.parse_config(values, "settings").entries(()).items():
        drawn = torch.randn(entry.shape, generator=generator)
        norm = name.lower().endswith(("norm.weight", "layer_norm.weight"))
        if not entry.optional:
            found[name] = 1 + 0.1 * drawn if norm else (0.1 if name.endswith(".bias") else 0.5) * drawn
    return found
