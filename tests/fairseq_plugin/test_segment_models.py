"""`all_attention_lm` and `transformer_xl_lm`: what their settings build, and the memory that they carry."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.data import Dictionary
from omegaconf import OmegaConf
from torch import Tensor

from nmtprune.errors import CheckpointError, UsageError
from nmtprune.fairseq_plugin.segment_data import Segment
from nmtprune.fairseq_plugin.segment_models import (
    AllAttentionConfig,
    AllAttentionLanguageModel,
    SegmentLanguageModel,
    TransformerXLConfig,
)

SMALL = {"decoder_embed_dim": 16, "decoder_layers": 2, "decoder_attention_heads": 4, "memory_length": 3}
BANDS = {
    "adaptive_input": True,
    "adaptive_input_cutoff": "6,10",
    "adaptive_input_factor": 2,
    "adaptive_softmax_cutoff": "6,10",
    "adaptive_softmax_factor": 2,
}
TOKENS = torch.tensor([[4, 5, 6, 7, 8, 9], [10, 11, 4, 7, 13, 5]])


def task_of(words: int = 10, *, name: str = "w", carries_memory: bool = True) -> Any:
    dictionary = Dictionary()
    for word in range(words):
        dictionary.add_symbol(f"{name}{word}")
    return SimpleNamespace(source_dictionary=dictionary, carries_memory=carries_memory)


def model_of(config: Any = None, task: Any = None, **settings: Any) -> SegmentLanguageModel:
    """A model in double precision without dropout."""
    torch.manual_seed(1)
    own = {"decoder_ffn_embed_dim": 7} if config is TransformerXLConfig else {"persistent_vectors": 5}
    merged = OmegaConf.merge(OmegaConf.structured(config or AllAttentionConfig), {**SMALL, **own, **settings})
    return AllAttentionLanguageModel.build_model(merged, task or task_of()).double().eval()


def scores(model: SegmentLanguageModel, segment: Segment | None, tokens: Tensor) -> Tensor:
    """What the model says of the next words: scores, or states that an adaptive softmax reads."""
    with torch.no_grad():
        found: Tensor = model(tokens, segment=segment)[0]
    return found


def probabilities(model: SegmentLanguageModel, tokens: Tensor) -> Tensor:
    """Probabilities of the next words, in single precision: fairseq computes no others."""
    with torch.no_grad():
        found: Tensor = model.get_normalized_probs(model(tokens), log_probs=False)
    return found.float()


@pytest.mark.parametrize("config", [AllAttentionConfig, TransformerXLConfig])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"share_decoder_input_output_embed": True},
        BANDS,
        BANDS | {"tie_adaptive_weights": True},
        BANDS | {"tie_adaptive_weights": True, "tie_adaptive_proj": True},
        {"decoder_head_dim": 3},
    ],
    ids=["plain", "shared", "adaptive", "tied", "tied projections", "narrow heads"],
)
def test_models_give_probabilities_that_see_no_later_word(config: Any, settings: dict[str, Any]) -> None:
    model = model_of(config, **settings)
    found = probabilities(model, TOKENS)
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(2, 6))
    changed = TOKENS.clone()
    changed[:, 3:] = 12
    torch.testing.assert_close(probabilities(model, changed)[:, :3], found[:, :3])
    assert not torch.allclose(probabilities(model, changed)[:, 3], found[:, 3])


def test_no_word_but_padding_begins_with_zeros() -> None:
    """fairseq draws zeros for the second word of every band, whose gradients a norm would make very large."""
    first, *others = (table for table, _ in model_of(**BANDS).decoder.embed_tokens.embeddings)
    assert not first.weight[1].any() and first.weight[0].any()
    assert all(table.weight.any(dim=1).all() for table in others)


def test_tied_tables_are_one_parameter() -> None:
    plain, tied = (
        sum(parameter.numel() for parameter in model_of(**settings).parameters())
        for settings in (BANDS, BANDS | {"tie_adaptive_weights": True, "tie_adaptive_proj": True})
    )
    # bands of 6, 4 and 4 words, 16, 8 and 4 wide, and the projections to the last two
    assert plain - tied == 6 * 16 + 4 * 8 + 4 * 4 + 16 * 8 + 16 * 4


def test_the_memory_is_carried_from_segment_to_segment_and_apart_from_training() -> None:
    model = model_of(memory_length=100)
    whole = scores(model, None, TOKENS)
    first = scores(model, Segment(0, 3, 2), TOKENS[:, :2])
    model.train()
    model(TOKENS.flip(1), segment=Segment(0, 9, 2))
    model.eval()
    rest = [
        scores(model, Segment(1, 3, 2), TOKENS[:, 2:4]),
        scores(model, Segment(2, 3, 2), TOKENS[:, 4:]),
    ]
    torch.testing.assert_close(torch.cat([first, *rest], dim=1), whole, rtol=0, atol=1e-10)
    assert model.carried(training=False) is None and model.carried(training=True) is not None
    torch.testing.assert_close(scores(model, Segment(0, 3, 2), TOKENS[:, :2]), first, rtol=0, atol=0)


def test_half_precision_carries_states_of_half_precision() -> None:
    """bfloat16 has 8 bits: scores of about 1 differ by hundredths."""
    exact, half = model_of(memory_length=4), model_of(memory_length=4).bfloat16()
    for number, part in enumerate(TOKENS.split(2, dim=1)):
        found, expected = (scores(model, Segment(number, 4, 2), part) for model in (half, exact))
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=0.1)


def test_segments_out_of_order_are_refused() -> None:
    model = model_of()
    advice = ": keep --batch-size, --tokens-per-sample and the data, or begin an epoch anew with --reset-dataloader"
    batch = r"the batch follows segment {} of 3 \({} tokens, {} lanes\), and the model remembers "
    with pytest.raises(UsageError, match=batch.format(0, 2, 2) + "nothing" + advice):
        scores(model, Segment(1, 3, 2), TOKENS)
    scores(model, Segment(0, 3, 2), TOKENS)
    found = r"segment 0 of 3 \(2 tokens, 2 lanes\)"
    for segment, tokens, expected in (
        (Segment(2, 3, 2), TOKENS, (1, 2, 2)),
        (Segment(1, 3, 4), TOKENS, (0, 4, 2)),
        (Segment(1, 3, 2), TOKENS[:1], (0, 2, 1)),
    ):
        with pytest.raises(UsageError, match=batch.format(*expected) + found + advice):
            scores(model, segment, tokens)


def test_batches_of_an_update_can_be_run_again() -> None:
    """Two batches an update: fairseq runs both again where a gradient is not finite, and goes on."""
    model = model_of().train()
    for module in model.modules():
        module.dropout = 0.0
    parts = TOKENS.split(1, dim=1)

    def run(update: int, *numbers: int) -> list[Tensor]:
        found = []
        for number in numbers:
            model.set_num_updates(update)
            found.append(scores(model, Segment(number, 6, 1), parts[number]))
        return found

    first = run(0, 0, 1)
    for own, again in zip(first, run(0, 0, 1), strict=True):
        assert torch.equal(own, again)
    expected = run(1, 2, 3)
    for own, again in zip(expected, run(1, 2, 3), strict=True):
        assert torch.equal(own, again)
    last = run(2, 4, 5)
    assert torch.equal(run(2, 4, 5)[1], last[1])
    assert model.carried(training=True) is None
    with pytest.raises(UsageError, match="follows segment 2 of 6"):
        run(2, 3)


def test_layers_of_a_pruned_model_have_their_own_heads() -> None:
    stored = '{"encoder": [], "decoder": [3, 0], "cross": []}'
    model = model_of(nmtprune_heads=stored, decoder_head_dim=4)
    shapes = [layer.self_attn.persistent_keys.shape for layer in model.decoder.layers]
    assert shapes == [(3, 5, 4), (0, 5, 4)]
    assert scores(model, None, TOKENS).isfinite().all()


def test_no_persistent_vectors_leave_attention_alone() -> None:
    model = model_of(persistent_vectors=0)
    assert not any("persistent" in name for name, _ in model.named_parameters())
    assert scores(model, None, TOKENS).isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decoder_embed_dim": 15}, "--decoder-embed-dim 15: sinusoids of positions need an even width; --decoder-att"),
        ({"decoder_attention_heads": 0}, "--decoder-attention-heads 0: give at least 1"),
        ({"decoder_attention_heads": 3}, "--decoder-attention-heads 3 does not divide 16: give --decoder-head-dim"),
        ({"persistent_vectors": -1}, "--persistent-vectors -1: give at least 0"),
        ({"memory_length": -1}, "--memory-length -1: give at least 0"),
        ({"decoder_head_dim": 0}, "--decoder-head-dim 0: give at least 1"),
        (
            {"tie_adaptive_weights": True},
            "--tie-adaptive-weights and --tie-adaptive-proj need --adaptive-softmax-cutoff",
        ),
        (BANDS | {"adaptive_input_cutoff": "6,99"}, "--adaptive-input-cutoff 6,99: give rising numbers N,N,... betwee"),
        (BANDS | {"adaptive_softmax_cutoff": "a"}, "--adaptive-softmax-cutoff a: give rising numbers"),
        (
            BANDS | {"tie_adaptive_weights": True, "adaptive_softmax_cutoff": "5"},
            "--tie-adaptive-weights needs --adaptive-input with the cutoffs",
        ),
        (BANDS | {"tie_adaptive_proj": True}, "--tie-adaptive-proj needs --tie-adaptive-weights"),
        (BANDS | {"share_decoder_input_output_embed": True}, "adaptive tables are tied by --tie-adaptive-weights"),
        (
            {"share_decoder_input_output_embed": True, "adaptive_input": True, "adaptive_input_cutoff": "6"},
            "--share-decoder-input-output-embed: not with --adaptive-input",
        ),
        (
            {"nmtprune_heads": '{"encoder": [], "decoder": [3], "cross": []}', "decoder_head_dim": 4},
            "lists 1 decoder mo",
        ),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message.replace("(", r"\(")):
        model_of(**settings)


def test_a_model_with_a_memory_needs_the_task_that_fills_it() -> None:
    with pytest.raises(UsageError, match="--memory-length 3 needs `--task segment_language_modeling`"):
        model_of(task=task_of(carries_memory=False))
    assert model_of(task=task_of(carries_memory=False), memory_length=0)


def test_weights_of_other_shapes_or_words_are_refused() -> None:
    weights = model_of().state_dict()
    model_of().load_state_dict(weights)
    with pytest.raises(CheckpointError, match="persistent_keys is 4 x 5 x 4, the settings make it 4 x 6 x 4"):
        model_of(persistent_vectors=6).load_state_dict(weights)
    with pytest.raises(CheckpointError, match="dict.txt has other words"):
        model_of(task=task_of(name="x")).load_state_dict(weights)
    with pytest.raises(CheckpointError, match="embed_tokens.weight is 14 x 16, the settings make it 15 x 16"):
        model_of(task=task_of(11)).load_state_dict(weights)
