"""The families of classifiers that are read, as data: their settings, their defaults, and names of their tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ClassifierFamily:
    """Encoders with a head that gives labels, of one class of transformers.

    Attributes:
        model_type: as ``config.json`` says.
        model_class: the class in ``architectures``.
        defaults: of the settings that a file need not hold; a test compares them with transformers'.
        names: this package's words for sizes (``width``, ``layers``, ``heads``, ``inner``, ``activation``) -> settings.
        prefix: of the names of the encoder's tensors.
        stack: between that prefix and the number of a layer.
        attention: names of W_q, W_k, W_v, W_o and the norm behind them, inside a layer.
        feed_forward: names of the first matrix, the second one and the norm behind them.
        head: names of the head's two linear layers.
        pooler_activation: between the two, as the native model names it.
        segments: tokens have a segment (``token_type_ids``).
        positions_behind_padding: the first token has the position behind the id of padding, and padding has none.
        same: other names that transformers has for settings -> their own.
        unused: tensors that old versions of transformers stored, and that new ones leave out.
        epsilon: of all norms, where no setting says it.
    """

    model_type: str
    model_class: str
    defaults: Mapping[str, Any]
    names: Mapping[str, str]
    prefix: str
    stack: str
    attention: tuple[str, str, str, str, str]
    feed_forward: tuple[str, str, str]
    head: tuple[str, str]
    pooler_activation: str = "tanh"
    segments: bool = True
    positions_behind_padding: bool = False
    same: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    epsilon: float | None = None


_BERT_SETTINGS: Mapping[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "is_decoder": False,
    "add_cross_attention": False,
}
_BERT_NAMES = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "inner": "intermediate_size",
    "activation": "hidden_act",
}
_BERT_ATTENTION = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
)
_BERT_FEED_FORWARD = ("intermediate.dense", "output.dense", "output.LayerNorm")

BERT = ClassifierFamily(
    model_type="bert",
    model_class="BertForSequenceClassification",
    defaults=_BERT_SETTINGS,
    names=_BERT_NAMES,
    prefix="bert",
    stack="encoder.layer",
    attention=_BERT_ATTENTION,
    feed_forward=_BERT_FEED_FORWARD,
    head=("bert.pooler.dense", "classifier"),
)

ROBERTA = ClassifierFamily(
    model_type="roberta",
    model_class="RobertaForSequenceClassification",
    defaults={**_BERT_SETTINGS, "vocab_size": 50265, "pad_token_id": 1},
    names=_BERT_NAMES,
    prefix="roberta",
    stack="encoder.layer",
    attention=_BERT_ATTENTION,
    feed_forward=_BERT_FEED_FORWARD,
    head=("classifier.dense", "classifier.out_proj"),
    positions_behind_padding=True,
    unused=("roberta.pooler.dense",),
)

DISTILBERT = ClassifierFamily(
    model_type="distilbert",
    model_class="DistilBertForSequenceClassification",
    defaults={
        "vocab_size": 30522,
        "dim": 768,
        "n_layers": 6,
        "n_heads": 12,
        "hidden_dim": 3072,
        "activation": "gelu",
        "max_position_embeddings": 512,
        "pad_token_id": 0,
    },
    names={"width": "dim", "layers": "n_layers", "heads": "n_heads", "inner": "hidden_dim", "activation": "activation"},
    prefix="distilbert",
    stack="transformer.layer",
    attention=("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "sa_layer_norm"),
    feed_forward=("ffn.lin1", "ffn.lin2", "output_layer_norm"),
    head=("pre_classifier", "classifier"),
    pooler_activation="relu",
    segments=False,
    same={"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"},
    epsilon=1e-12,
)

CLASSIFIERS: Mapping[str, ClassifierFamily] = {family.model_type: family for family in (BERT, ROBERTA, DISTILBERT)}
"""By ``model_type``."""

READ = frozenset(
    (*(name for family in CLASSIFIERS.values() for name in (*family.defaults, *family.same)),
     "model_type", "architectures", "id2label", "num_labels", "position_embedding_type", "nmtprune")
)  # fmt: skip
"""Settings that are used."""

_OTHER = """
    _name_or_path _num_labels attention_dropout attention_probs_dropout_prob bos_token_id classifier_dropout
    chunk_size_feed_forward directionality dropout dtype eos_token_id finetuning_task gradient_checkpointing
    hidden_dropout_prob initializer_range label2id output_past pooler_fc_size pooler_num_attention_heads
    pooler_num_fc_layers pooler_size_per_head pooler_type problem_type qa_dropout return_dict seq_classif_dropout
    sep_token_id cls_token_id mask_token_id unk_token_id sinusoidal_pos_embds tie_weights_ tie_word_embeddings
    tokenizer_class torch_dtype transformers_version use_cache output_attentions output_hidden_states
    _attn_implementation_autoset task_specific_params
"""

WITHOUT_EFFECT = frozenset(_OTHER.split())
"""Settings of training, of storage, and others that change nothing that a trained model computes."""
