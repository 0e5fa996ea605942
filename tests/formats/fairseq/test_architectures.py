"""The table of architectures against fairseq's own functions."""

from argparse import Namespace
from typing import Any

import pytest

from nmtprune.formats.fairseq.architectures import ENCODERS, LANGUAGE_MODELS, OF_OTHER_MODELS, TRANSLATION, complete
from nmtprune.formats.fairseq.segment_settings import SEGMENT_MODELS
from nmtprune.formats.fairseq.slim_settings import SLIM

SIZES = {"encoder_embed_dim": 96, "encoder_ffn_embed_dim": 40, "decoder_layers": 3, "dropout": 0.25}
LM_SIZES = {"decoder_embed_dim": 96, "decoder_layers": 3, "decoder_normalize_before": False}
OLD_LM = {"no_tie_adaptive_proj": False, "adaptive_input": True}


def fairseq_defaults(arch: str, given: dict[str, Any]) -> dict[str, Any]:
    """What fairseq makes of these settings when it loads a checkpoint of that architecture."""
    from fairseq.models import ARCH_CONFIG_REGISTRY
    from fairseq.models.transformer import TransformerConfig
    from fairseq.models.transformer_align import transformer_align

    args = Namespace(**given)
    ARCH_CONFIG_REGISTRY[arch](args)
    if arch.endswith("_align"):
        transformer_align(args)
    config = TransformerConfig.from_namespace(args)
    names = set(vars(args)) | {name for name in complete(arch, given) if hasattr(config, name)}
    return {name: getattr(args, name) if hasattr(args, name) else getattr(config, name) for name in names}


def test_the_table_lists_the_architectures_of_fairseqs_transformers() -> None:
    from fairseq.models import ARCH_MODEL_NAME_REGISTRY as MODELS

    translation = {arch for arch, model in MODELS.items() if model in ("transformer", "transformer_align")}
    assert set(TRANSLATION) == translation
    assert set(LANGUAGE_MODELS) == {arch for arch, model in MODELS.items() if model == "transformer_lm"}
    assert set(ENCODERS) == {arch for arch, model in MODELS.items() if model == "roberta"}
    others = set(MODELS) - {*TRANSLATION, *LANGUAGE_MODELS, *ENCODERS, *SLIM, *SEGMENT_MODELS}
    assert len(others) > 100 and others <= OF_OTHER_MODELS


@pytest.mark.parametrize("given", [{}, SIZES], ids=["nothing given", "sizes given"])
@pytest.mark.parametrize("arch", TRANSLATION)
def test_translation_defaults_equal_fairseqs(arch: str, given: dict[str, Any]) -> None:
    settings = complete(arch, given)
    expected = fairseq_defaults(arch, given)
    assert {name: settings[name] for name in expected} == expected and "encoder_embed_dim" in expected


@pytest.mark.parametrize("given", [{}, LM_SIZES, OLD_LM, {"decoder_final_norm": True}], ids=str)
@pytest.mark.parametrize("arch", [arch for arch in LANGUAGE_MODELS if arch != "transformer_lm"])
def test_language_model_defaults_equal_fairseqs(arch: str, given: dict[str, Any]) -> None:
    settings = complete(arch, given)
    expected = fairseq_defaults(arch, given)
    del expected["max_target_positions"]  # taken from tokens_per_sample when the model is built
    assert {name: settings[name] for name in expected if name in settings} == {
        name: value for name, value in expected.items() if name in settings
    }
    assert {"decoder_embed_dim", "decoder_layers", "dropout"} <= set(expected) & set(settings)
    of_translation = ("encoder_", "max_source", "char_", "no_cross", "cross_", "share_all", "merge_")
    assert all(name.startswith(of_translation) for name in expected if name not in settings)


@pytest.mark.parametrize("given", [{}, {"encoder_layers": 3, "max_positions": 96}, {"encoder_normalize_before": False}])
@pytest.mark.parametrize("arch", ENCODERS)
def test_encoder_defaults_equal_fairseqs(arch: str, given: dict[str, Any]) -> None:
    settings, expected = complete(arch, given), fairseq_defaults(arch, given)
    of_stacks = {name: value for name, value in expected.items() if name in settings}
    assert {name: settings[name] for name in of_stacks} == of_stacks and "pooler_activation_fn" in of_stacks
    assert not [name for name in expected if name not in settings and not name.startswith("decoder_")]


def test_defaults_of_the_plain_language_model_equal_fairseqs_dataclass() -> None:
    from fairseq.models.transformer_lm import TransformerLanguageModelConfig

    settings, theirs = complete("transformer_lm", {}), vars(TransformerLanguageModelConfig())
    expected = {name: value for name, value in theirs.items() if name in settings and not str(value).startswith("${")}
    assert {name: settings[name] for name in expected} == expected
    assert len(expected) > 20


def test_what_fairseq_enforces_when_it_builds_a_model() -> None:
    shared = complete("transformer", {"share_all_embeddings": True, "share_decoder_input_output_embed": False})
    assert shared["share_decoder_input_output_embed"] is True
    assert complete("transformer", {"max_source_positions": None})["max_source_positions"] == 1024
    assert complete("transformer_lm", {"max_target_positions": None, "tokens_per_sample": 77})[
        "max_target_positions"] == 77  # fmt: skip
    assert complete("transformer_lm_gpt3_small", {"decoder_embed_dim": 32, "decoder_input_dim": 8})[
        "decoder_input_dim"] == 32  # fmt: skip
