"""fairseq's transformer architectures as a literal table: what each sets where a checkpoint does not say.

Old checkpoints lack settings that later versions added; fairseq fills them in by running the architecture's function.
Here the same is a table, so that nothing is run and fairseq need not be installed; a test compares the two.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class _Like:
    """Default of a setting that follows another one."""

    name: str
    times: int = 1


_COMMON: dict[str, Any] = {
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "relu_dropout": 0.0,
    "activation_fn": "relu",
    "decoder_learned_pos": False,
    "decoder_layerdrop": 0,
    "decoder_layers_to_keep": None,
    "decoder_xformers_att_config": None,
    "adaptive_softmax_cutoff": None,
    "adaptive_softmax_dropout": 0,
    "adaptive_softmax_factor": 4,
    "adaptive_input": False,
    "tie_adaptive_weights": False,
    "tie_adaptive_proj": False,
    "share_decoder_input_output_embed": False,
    "no_token_positional_embeddings": False,
    "no_scale_embedding": False,
    "layernorm_embedding": False,
    "no_decoder_final_norm": False,
    "checkpoint_activations": False,
    "offload_activations": False,
    "quant_noise_pq": 0,
    "quant_noise_pq_block_size": 8,
    "quant_noise_scalar": 0,
    "base_layers": 0,
    "base_sublayers": 1,
    "scale_fc": False,
    "scale_attn": False,
    "scale_heads": False,
    "scale_resids": False,
}

_TRANSLATION: dict[str, Any] = {
    "encoder_embed_path": None,
    "encoder_embed_dim": 512,
    "encoder_ffn_embed_dim": 2048,
    "encoder_layers": 6,
    "encoder_attention_heads": 8,
    "encoder_normalize_before": False,
    "encoder_learned_pos": False,
    "encoder_layerdrop": 0,
    "encoder_layers_to_keep": None,
    "encoder_xformers_att_config": None,
    "decoder_embed_path": None,
    "decoder_embed_dim": _Like("encoder_embed_dim"),
    "decoder_ffn_embed_dim": _Like("encoder_ffn_embed_dim"),
    "decoder_layers": 6,
    "decoder_attention_heads": 8,
    "decoder_normalize_before": False,
    "decoder_output_dim": _Like("decoder_embed_dim"),
    "decoder_input_dim": _Like("decoder_embed_dim"),
    "share_all_embeddings": False,
    "merge_src_tgt_embed": False,
    "no_cross_attention": False,
    "cross_self_attention": False,
    "max_source_positions": 1024,
    "max_target_positions": 1024,
    "char_inputs": False,
    "base_shuffle": 1,
    **_COMMON,
}

_LANGUAGE_MODEL: dict[str, Any] = {
    "decoder_embed_dim": 512,
    "decoder_ffn_embed_dim": 2048,
    "decoder_layers": 6,
    "decoder_attention_heads": 8,
    "decoder_output_dim": _Like("decoder_embed_dim"),
    "decoder_input_dim": _Like("decoder_embed_dim"),
    "decoder_normalize_before": True,
    "adaptive_input_factor": 4,
    "adaptive_input_cutoff": None,
    "character_embeddings": False,
    "add_bos_token": False,
    "max_target_positions": _Like("tokens_per_sample"),
    "tokens_per_sample": 1024,
    "base_shuffle": False,
    **_COMMON,
}

_PLAIN_LANGUAGE_MODEL = {
    "decoder_output_dim": 512,
    "decoder_input_dim": 512,
    "decoder_normalize_before": False,
    "base_shuffle": 1,
}
"""`transformer_lm` alone is configured by a dataclass, in which the widths do not follow each other."""

_ENCODER: dict[str, Any] = {
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "encoder_normalize_before": False,
    "encoder_learned_pos": True,
    "encoder_layerdrop": 0.0,
    "encoder_layers_to_keep": None,
    "encoder_xformers_att_config": None,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.0,
    "relu_dropout": 0.0,
    "pooler_dropout": 0.0,
    "activation_fn": "gelu",
    "pooler_activation_fn": "tanh",
    "layernorm_embedding": True,
    "no_scale_embedding": True,
    "no_token_positional_embeddings": False,
    "tokens_per_sample": 512,
    "max_positions": _Like("tokens_per_sample"),
    "untie_weights_roberta": False,
    "spectral_norm_classification_head": False,
    "adaptive_input": False,
    "checkpoint_activations": False,
    "offload_activations": False,
    "quant_noise_pq": 0,
    "quant_noise_pq_block_size": 8,
    "quant_noise_scalar": 0,
}

_BIG = {
    "encoder_embed_dim": 1024,
    "encoder_ffn_embed_dim": 4096,
    "encoder_attention_heads": 16,
    "decoder_embed_dim": 1024,
    "decoder_ffn_embed_dim": 4096,
    "decoder_attention_heads": 16,
    "dropout": 0.3,
}
_WMT_BIG = {**_BIG, "attention_dropout": 0.1}
_ALIGN = {"alignment_heads": 1, "alignment_layer": 4, "full_context_alignment": False}
_LM_BIG = {
    "decoder_layers": 12,
    "decoder_embed_dim": 1024,
    "decoder_ffn_embed_dim": 4096,
    "decoder_attention_heads": 16,
}
_WIKI103 = {
    **_LM_BIG,
    "decoder_layers": 16,
    "decoder_attention_heads": 8,
    "dropout": 0.3,
    "adaptive_input": True,
    "tie_adaptive_weights": True,
    "adaptive_input_cutoff": "20000,60000",
    "adaptive_softmax_cutoff": "20000,60000",
    "adaptive_softmax_dropout": 0.2,
    "attention_dropout": 0.1,
    "activation_dropout": 0.1,
    "no_decoder_final_norm": True,
    "tie_adaptive_proj": True,
}
_GBW = {**_LM_BIG, "decoder_embed_dim": 512, "attention_dropout": 0.1, "no_decoder_final_norm": True}


def _gpt2(layers: int, width: int, feed_forward: int, heads: int) -> dict[str, Any]:
    return {
        "decoder_layers": layers,
        "decoder_embed_dim": width,
        "decoder_ffn_embed_dim": feed_forward,
        "decoder_attention_heads": heads,
        "attention_dropout": 0.1,
        "activation_fn": "gelu",
    }


def _gpt3(layers: int, width: int, heads: int) -> dict[str, Any]:
    return {
        "decoder_layers": layers,
        "decoder_embed_dim": width,
        "decoder_ffn_embed_dim": _Like("decoder_embed_dim", 4),
        "decoder_attention_heads": heads,
        "decoder_learned_pos": True,
        "dropout": 0.0,
        "activation_fn": "gelu",
    }


TRANSLATION: Mapping[str, Mapping[str, Any]] = {
    "transformer": {},
    "transformer_tiny": {
        "encoder_embed_dim": 64,
        "encoder_ffn_embed_dim": 64,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_layers": 2,
        "decoder_attention_heads": 2,
    },
    "transformer_iwslt_de_en": {
        "encoder_ffn_embed_dim": 1024,
        "encoder_attention_heads": 4,
        "decoder_embed_dim": 512,
        "decoder_ffn_embed_dim": 1024,
        "decoder_attention_heads": 4,
    },
    "transformer_wmt_en_de": {},
    "transformer_vaswani_wmt_en_de_big": _BIG,
    "transformer_vaswani_wmt_en_fr_big": {**_BIG, "dropout": 0.1},
    "transformer_wmt_en_de_big": _WMT_BIG,
    "transformer_wmt_en_de_big_t2t": {
        **_WMT_BIG,
        "encoder_normalize_before": True,
        "decoder_normalize_before": True,
        "activation_dropout": 0.1,
    },
    "transformer_align": _ALIGN,
    "transformer_wmt_en_de_big_align": {**_WMT_BIG, **_ALIGN},
}
"""Translation architecture -> what it sets apart from the defaults of all."""

LANGUAGE_MODELS: Mapping[str, Mapping[str, Any]] = {
    "transformer_lm": _PLAIN_LANGUAGE_MODEL,
    "transformer_lm_big": _LM_BIG,
    "transformer_lm_wiki103": _WIKI103,
    "transformer_lm_baevski_wiki103": _WIKI103,
    "transformer_lm_gbw": _GBW,
    "transformer_lm_baevski_gbw": _GBW,
    "transformer_lm_gpt": _gpt2(12, 768, 3072, 12),
    "transformer_lm_gpt2_small": _gpt2(24, 1024, 4096, 16),
    "transformer_lm_gpt2_tiny": _gpt2(2, 64, 64, 1),
    "transformer_lm_gpt2_medium": _gpt2(36, 1280, 5120, 20),
    "transformer_lm_gpt2_big": _gpt2(48, 1600, 6400, 25),
    "transformer_lm_gpt2_big_wide": _gpt2(24, 2048, 8192, 32),
    "transformer_lm_gpt2_bigger": _gpt2(48, 2048, 8192, 32),
    "transformer_lm_gpt3_small": _gpt3(12, 768, 12),
    "transformer_lm_gpt3_medium": _gpt3(24, 1024, 16),
    "transformer_lm_gpt3_large": _gpt3(24, 1536, 16),
    "transformer_lm_gpt3_xl": _gpt3(24, 2048, 32),
    "transformer_lm_gpt3_2_7": _gpt3(32, 2560, 32),
    "transformer_lm_gpt3_6_7": _gpt3(32, 4096, 32),
    "transformer_lm_gpt3_13": _gpt3(40, 5120, 40),
    "transformer_lm_gpt3_175": _gpt3(96, 12288, 96),
}
"""Language model architecture -> what it sets apart from the defaults of all."""


ENCODERS: Mapping[str, Mapping[str, Any]] = {
    "roberta": {},
    "roberta_base": {},
    "roberta_large": {
        "encoder_layers": 24,
        "encoder_embed_dim": 1024,
        "encoder_ffn_embed_dim": 4096,
        "encoder_attention_heads": 16,
    },
    "roberta_prenorm": {"layernorm_embedding": False, "encoder_normalize_before": True},
    "xlm": {
        "encoder_layers": 16,
        "encoder_embed_dim": 1280,
        "encoder_ffn_embed_dim": 5120,
        "encoder_attention_heads": 16,
    },
}
"""Architecture of RoBERTa's class, an encoder alone -> what it sets apart from the defaults of all."""

_OF_OTHER_MODELS = """
    bart_base bart_large bert_base bert_large cmlm_transformer cmlm_transformer_wmt_en_de convtransformer
    convtransformer_espnet dummy_model fastspeech2 fconv fconv_iwslt_de_en fconv_lm fconv_lm_dauphin_gbw
    fconv_lm_dauphin_wikitext103 fconv_self_att fconv_self_att_wp fconv_wmt_en_de fconv_wmt_en_fr fconv_wmt_en_ro
    hf_gpt2 hf_gpt2_large hf_gpt2_medium hf_gpt2_xl hubert hubert_ctc hubert_seq2seq insertion_transformer
    iterative_nonautoregressive_transformer iterative_nonautoregressive_transformer_wmt_en_de
    levenshtein_transformer levenshtein_transformer_vaswani_wmt_en_de_big levenshtein_transformer_wmt_en_de
    levenshtein_transformer_wmt_en_de_big lightconv lightconv_iwslt_de_en lightconv_lm lightconv_lm_gbw
    lightconv_wmt_en_de lightconv_wmt_en_de_big lightconv_wmt_en_fr_big lightconv_wmt_zh_en_big lstm lstm_lm
    lstm_luong_wmt_en_de lstm_wiseman_iwslt_de_en masked_lm mbart_base mbart_base_wmt20 mbart_large
    model_parallel_roberta model_parallel_roberta_base model_parallel_roberta_large model_parallel_roberta_postnorm
    model_parallel_roberta_v1 multilingual_transformer multilingual_transformer_iwslt_de_en nacrf_transformer
    nonautoregressive_transformer nonautoregressive_transformer_wmt_en_de roberta_enc_dec s2spect2_conformer
    s2spect_conformer s2spect_conformer_fisher s2spect_conformer_translatotron2 s2spect_transformer
    s2spect_transformer_fisher s2t_berard s2t_berard_256_3_3 s2t_berard_512_3_2 s2t_berard_512_5_3 s2t_conformer
    s2t_transformer s2t_transformer_l s2t_transformer_lp s2t_transformer_m s2t_transformer_mp s2t_transformer_s
    s2t_transformer_sp s2t_transformer_xs s2ut_conformer s2ut_conformer_translatotron2 s2ut_transformer
    s2ut_transformer_fisher speech_dlm speech_dlm_big tacotron_2 transformer_from_pretrained_xlm
    transformer_iwslt_de_en_pipeline_parallel transformer_lm_megatron transformer_lm_megatron_11b transformer_ulm
    transformer_ulm_big transformer_ulm_tiny transformer_wmt_en_de_big_pipeline_parallel tts_transformer
    unity_conformer unity_xm_transformer wav2vec wav2vec2 wav2vec2_laser wav2vec_classification wav2vec_ctc
    wav2vec_seq2seq xlm_base xm_transformer xm_transformer_t2 xmod_base xmod_base_13 xmod_base_30 xmod_base_60
    xmod_base_75 xmod_large_prenorm
"""

OF_OTHER_MODELS = frozenset(_OF_OTHER_MODELS.split())
"""Architectures of fairseq 0.12 that are no settings of its transformer but models of their own."""

_SIZES = ("embed_dim", "ffn_embed_dim", "layers", "attention_heads")


def stock(arch: str) -> str:
    """The architecture of fairseq's own that a model is built as: itself, or for another name fairseq's transformer.

    Names that begin with ``transformer_lm`` are those of language models, with ``roberta`` those of encoders.
    """
    if arch in TRANSLATION or arch in LANGUAGE_MODELS or arch in ENCODERS:
        return arch
    if arch.startswith("roberta") and arch not in OF_OTHER_MODELS:
        return next(iter(ENCODERS))
    return next(iter(LANGUAGE_MODELS if arch.startswith("transformer_lm") else TRANSLATION))


def stacks_of(arch: str) -> tuple[str, ...]:
    """The stacks of a model: one for a language model and for an encoder alone."""
    own = stock(arch)
    if own in ENCODERS:
        return ("encoder",)
    return ("decoder",) if own in LANGUAGE_MODELS else ("encoder", "decoder")


def needed_sizes(arch: str) -> tuple[str, ...]:
    """The settings that must be given for an architecture that has no defaults here, since its name is unknown."""
    return tuple(f"{stack}_{size}" for stack in stacks_of(arch) for size in _SIZES)


def complete(arch: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a checkpoint with the defaults of its architecture, and with what the architecture enforces.

    Args:
        arch: its name; `stock` says which defaults count.
        given: the settings that the checkpoint stores.
    """
    arch = stock(arch)
    settings = dict(given)
    if arch in LANGUAGE_MODELS and arch != "transformer_lm":
        settings |= _of_old_language_model(given)
    tables = ((_TRANSLATION, TRANSLATION), (_LANGUAGE_MODEL, LANGUAGE_MODELS), (_ENCODER, ENCODERS))
    defaults = next({**common, **table[arch]} for common, table in tables if arch in table)
    for name in defaults:
        settings.setdefault(name, _default(name, settings, defaults))
    return settings | _enforced(arch, settings)


def _default(name: str, settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> Any:
    value = defaults[name]
    if not isinstance(value, _Like):
        return value
    followed = settings[value.name] if value.name in settings else _default(value.name, settings, defaults)
    return followed if value.times == 1 else value.times * followed


def _of_old_language_model(given: Mapping[str, Any]) -> dict[str, Any]:
    """What options of earlier versions mean: those models had no norm after the last layer unless they say so."""
    found: dict[str, Any] = {}
    if "no_tie_adaptive_proj" in given:
        found["no_decoder_final_norm"] = True
        if given["no_tie_adaptive_proj"] is False:
            found["tie_adaptive_proj"] = True
    if "decoder_final_norm" in given:
        found["no_decoder_final_norm"] = not given["decoder_final_norm"]
    return found


def _enforced(arch: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What fairseq sets whatever the checkpoint says."""
    found: dict[str, Any] = {}
    if settings["offload_activations"]:
        found["checkpoint_activations"] = True
    if arch in ENCODERS:
        return found | {"max_source_positions": settings["max_positions"]}
    if arch in TRANSLATION:
        if settings["share_all_embeddings"] or settings["merge_src_tgt_embed"]:
            found["share_decoder_input_output_embed"] = True
        found |= {name: 1024 for name in ("max_source_positions", "max_target_positions") if settings[name] is None}
        return found
    if settings["max_target_positions"] is None:
        found["max_target_positions"] = settings["tokens_per_sample"]
    if arch != "transformer_lm":
        found["decoder_normalize_before"] = True
    if arch.startswith("transformer_lm_gpt3"):
        width = settings["decoder_embed_dim"]
        found |= {"decoder_input_dim": width, "decoder_output_dim": width, "share_decoder_input_output_embed": True}
    return found
