"""The families of models that are read, as data: their settings, their defaults, and how their layers are built."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_SIZES: Mapping[str, Any] = {
    "d_model": 1024,
    "encoder_layers": 12,
    "decoder_layers": 12,
    "encoder_ffn_dim": 4096,
    "decoder_ffn_dim": 4096,
    "encoder_attention_heads": 16,
    "decoder_attention_heads": 16,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "is_encoder_decoder": True,
}

SAME: Mapping[str, str] = {
    "hidden_size": "d_model",
    "num_attention_heads": "encoder_attention_heads",
    "num_hidden_layers": "encoder_layers",
}
"""Other names that transformers has for settings, and that files may hold beside them."""


@dataclass(frozen=True)
class Family:
    """Models of one class of transformers.

    Attributes:
        model_type: as ``config.json`` says.
        model_class: the class in ``architectures``.
        defaults: of the settings that a file need not hold; a test compares them with transformers'.
        search: likewise, of settings of the search in ``config.json``.
        pre_norm: layers normalize before each block, not after it.
        final_norm: a norm follows the last layer of each stack.
        embedding_norm: a norm follows the sum of embeddings and positions.
        position_table: positions are a table in the file, or are computed as one; otherwise tensor2tensor's sinusoids.
        stored_positions: a file may have such a table all the same, and is believed.
        learned_positions: that table is trained.
        first_position: row of a sentence's first token; None: the one behind the id of padding.
        separate_vocabularies: ``share_encoder_decoder_embeddings`` and ``decoder_vocab_size`` are settings.
        two_vocabularies: source and target always have vocabularies of their own, ``src_vocab_size`` and
            ``tgt_vocab_size``, and ``langs`` names their languages; all tables are one with ``tie_word_embeddings``.
        always_tied: the output layer has the table of the embeddings: transformers ties no table at all without
            ``tie_word_embeddings``.
        languages: sentences have language codes, and the search begins with that of the target.
        logits_bias: the output layer has a bias.
        head: name of the output layer's table.
        same: as `SAME`, of this family alone.
        must_be: settings that transformers ignores, which would have meant another network, and their harmless values.
    """

    model_type: str
    model_class: str
    defaults: Mapping[str, Any]
    search: Mapping[str, Any] = field(default_factory=dict)
    pre_norm: bool = False
    final_norm: bool = False
    embedding_norm: bool = False
    position_table: bool = True
    stored_positions: bool = False
    learned_positions: bool = False
    first_position: int | None = 0
    separate_vocabularies: bool = False
    two_vocabularies: bool = False
    always_tied: bool = False
    languages: bool = False
    logits_bias: bool = True
    head: str = "lm_head.weight"
    same: Mapping[str, str] = field(default_factory=dict)
    must_be: Mapping[str, Any] = field(default_factory=dict)


MARIAN = Family(
    model_type="marian",
    model_class="MarianMTModel",
    defaults={
        **_SIZES,
        "vocab_size": 58101,
        "decoder_vocab_size": None,
        "activation_function": "gelu",
        "scale_embedding": False,
        "share_encoder_decoder_embeddings": True,
        "pad_token_id": 58100,
        "eos_token_id": 0,
        "decoder_start_token_id": 58100,
    },
    separate_vocabularies=True,
    must_be={
        "normalize_before": False,
        "normalize_embedding": False,
        "add_final_layer_norm": False,
        "static_position_embeddings": True,
        "extra_pos_embeddings": 0,
    },
)

M2M100 = Family(
    model_type="m2m_100",
    model_class="M2M100ForConditionalGeneration",
    defaults={
        **_SIZES,
        "vocab_size": 128112,
        "activation_function": "relu",
        "scale_embedding": True,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
    },
    pre_norm=True,
    final_norm=True,
    position_table=False,
    first_position=None,
    always_tied=True,
    languages=True,
    logits_bias=False,
)

MBART = Family(
    model_type="mbart",
    model_class="MBartForConditionalGeneration",
    defaults={
        **_SIZES,
        "vocab_size": 50265,
        "activation_function": "gelu",
        "scale_embedding": False,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": None,
    },
    search={"forced_eos_token_id": 2},
    pre_norm=True,
    final_norm=True,
    embedding_norm=True,
    learned_positions=True,
    first_position=2,
    always_tied=True,
    languages=True,
    must_be={
        "normalize_before": True,
        "normalize_embedding": True,
        "add_final_layer_norm": True,
        "static_position_embeddings": False,
        "extra_pos_embeddings": 2,
    },
)

FSMT = Family(
    model_type="fsmt",
    model_class="FSMTForConditionalGeneration",
    defaults={
        **_SIZES,
        "src_vocab_size": 42024,
        "tgt_vocab_size": 42024,
        "langs": ("en", "de"),
        "activation_function": "relu",
        "scale_embedding": True,
        "tie_word_embeddings": False,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
    },
    search={"forced_eos_token_id": 2, "max_length": 200, "num_beams": 5},
    position_table=False,
    stored_positions=True,
    first_position=None,
    two_vocabularies=True,
    logits_bias=False,
    head="model.decoder.output_projection.weight",
    same={"vocab_size": "tgt_vocab_size"},
    must_be={
        "normalize_before": False,
        "normalize_embedding": False,
        "add_final_layer_norm": False,
        "static_position_embeddings": True,
    },
)

FAMILIES: Mapping[str, Family] = {family.model_type: family for family in (MARIAN, M2M100, MBART, FSMT)}
"""By ``model_type``."""

ACTIVATIONS: Mapping[str, str] = {
    "relu": "relu",
    "relu2": "relu_squared",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "swish",
    "swish": "swish",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "linear": "linear",
}
"""transformers' names of activations -> the native model's."""

READ = frozenset(
    (*(name for family in FAMILIES.values() for name in (*family.defaults, *family.must_be)),
     *SAME, "model_type", "architectures", "nmtprune")
)  # fmt: skip
"""Settings that are used."""

_OTHER = """
    _name_or_path _num_labels activation_dropout add_bias_logits attention_dropout bos_token_id classif_dropout
    classifier_dropout decoder decoder_layerdrop dropout dtype encoder_layerdrop gradient_checkpointing id2label
    init_std is_decoder label2id max_source_positions max_target_positions num_labels output_past problem_type
    return_dict sep_token_id tokenizer_class torch_dtype transformers_version unk_token_id use_cache
"""

WITHOUT_EFFECT = frozenset(_OTHER.split())
"""Settings of training, of storage, and others that change nothing that a trained model computes."""
