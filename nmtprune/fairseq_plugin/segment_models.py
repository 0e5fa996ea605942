"""The language models `all_attention_lm` and `transformer_xl_lm`, which read a text in segments and have a memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from fairseq.dataclass import FairseqDataclass
from fairseq.models import MODEL_REGISTRY, FairseqLanguageModel, register_model
from torch import Tensor

from nmtprune.errors import UsageError
from nmtprune.fairseq_plugin.segment_data import Segment
from nmtprune.fairseq_plugin.segment_decoder import SegmentDecoder, refuse_other_models
from nmtprune.formats.fairseq.segment_settings import ALL_ATTENTION, TASK, TRANSFORMER_XL

# fairseq turns fields into options, and knows no other way than Optional to write that one may be missing.


@dataclass
class SegmentModelConfig(FairseqDataclass):  # type: ignore[misc]  # fairseq has no types
    """Options of both models; the sizes are the paper's for text8."""

    decoder_embed_dim: int = field(default=512, metadata={"help": "width of states and embeddings"})
    decoder_layers: int = field(default=12, metadata={"help": "number of layers"})
    decoder_attention_heads: int = field(default=8, metadata={"help": "attention heads per layer"})
    decoder_head_dim: Optional[int] = field(  # noqa: UP045
        default=None, metadata={"help": "width of a head (default: embedding dimension / heads)"}
    )
    memory_length: int = field(
        default=512, metadata={"help": "states of the text before a segment that each layer remembers; 0 for none"}
    )
    dropout: float = field(
        default=0.1, metadata={"help": "dropout of embeddings, positions, outputs of layers and inner values"}
    )
    attention_dropout: float = field(default=0.2, metadata={"help": "dropout of attention weights"})
    share_decoder_input_output_embed: bool = field(
        default=False, metadata={"help": "one table for embeddings and output layer"}
    )
    adaptive_input: bool = field(default=False, metadata={"help": "narrower embeddings for rarer words"})
    adaptive_input_cutoff: Optional[str] = field(  # noqa: UP045
        default=None, metadata={"help": "where the bands of adaptive embeddings end: N,N,..."}
    )
    adaptive_input_factor: float = field(default=4, metadata={"help": "each band is narrower by this factor"})
    adaptive_softmax_cutoff: Optional[str] = field(  # noqa: UP045
        default=None, metadata={"help": "where the bands of the adaptive softmax end: N,N,..."}
    )
    adaptive_softmax_factor: float = field(default=4, metadata={"help": "each band is narrower by this factor"})
    adaptive_softmax_dropout: float = field(default=0, metadata={"help": "dropout in bands of rarer words"})
    tie_adaptive_weights: bool = field(
        default=False, metadata={"help": "adaptive embeddings and adaptive softmax share their tables"}
    )
    tie_adaptive_proj: bool = field(default=False, metadata={"help": "and the projections to the narrower bands"})
    nmtprune_heads: Optional[str] = field(  # noqa: UP045
        default=None,
        metadata={"help": 'heads of each layer of a pruned model: {"encoder": [], "decoder": [N, ...], "cross": []}'},
    )


@dataclass
class AllAttentionConfig(SegmentModelConfig):
    """Options of `all_attention_lm`."""

    persistent_vectors: int = field(
        default=2048, metadata={"help": "persistent keys and values per head; 0 for attention to the text alone"}
    )


@dataclass
class TransformerXLConfig(SegmentModelConfig):
    """Options of `transformer_xl_lm`."""

    decoder_ffn_embed_dim: int = field(default=2048, metadata={"help": "neurons of each feed-forward layer"})


@dataclass(frozen=True)
class Carried:
    """What a model remembers between two batches.

    Attributes:
        segment: the last one that was read.
        states: per layer [B, M, D].
    """

    segment: Segment
    states: Sequence[Tensor]

    @property
    def lanes(self) -> int:
        """B."""
        return self.states[0].size(0)

    def describe(self) -> str:
        """Which part of a text it is of."""
        segment = self.segment
        return f"segment {segment.number} of {segment.total} ({segment.length} tokens, {self.lanes} lanes)"


class SegmentLanguageModel(FairseqLanguageModel):  # type: ignore[misc]
    """A language model with a memory that it carries from batch to batch.

    A batch of the task `segment_language_modeling` says which segment of the text it is. The first one begins with an
    empty memory, every other one with what the segment before it has left. Training and evaluation have a memory each,
    so that a validation in the middle of an epoch changes nothing. Without a segment the model has no memory.

    In training the memories of all segments of an update are kept until the next one: where gradients overflow or are
    not finite, fairseq runs the batches of an update again.
    """

    def __init__(self, decoder: SegmentDecoder) -> None:
        super().__init__(decoder)
        self._history: dict[bool, list[Carried]] = {True: [], False: []}
        self._updates = 0
        self.register_load_state_dict_pre_hook(refuse_other_models)

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> "SegmentLanguageModel":
        """Build a model for a task.

        Raises:
            CheckpointError: settings that do not fit together.
            UsageError: the model has a memory and the task cannot fill it.
        """
        decoder = SegmentDecoder(cfg, task.source_dictionary)
        if decoder.sizes.memory and not getattr(task, "carries_memory", False):
            raise UsageError(
                f"a model with --memory-length {decoder.sizes.memory} needs `--task {TASK}`: other tasks do not hand "
                "out segments in their order"
            )
        return cls(decoder)

    def forward(
        self, src_tokens: Tensor, src_lengths: Tensor | None = None, segment: Segment | None = None, **_: Any
    ) -> tuple[Tensor, dict[str, list[Tensor]]]:
        """Scores of the next word behind every token.

        Args:
            src_tokens: [B, T], one row a lane.
            src_lengths: not used: padding is on the right, where no token sees it.
            segment: which one it is, if the memory is to be carried.

        Returns:
            As `SegmentDecoder`.

        Raises:
            UsageError: the segment does not follow the last one.
        """
        memory = None if segment is None else self._memory_before(segment, src_tokens)
        scores, extra = self.decoder(src_tokens, memory=memory)
        if segment is not None:
            self._keep(Carried(segment, extra["memory"]))
        return scores, extra

    def set_num_updates(self, num_updates: int) -> None:
        """Before the batches of an update: forget what is needed no more to run those of the last one again."""
        super().set_num_updates(num_updates)
        if num_updates != self._updates:
            self._updates, self._history[True] = num_updates, self._history[True][-1:]

    def carried(self, *, training: bool) -> Carried | None:
        """What is remembered of the last segment in training, or in evaluation; None between two texts."""
        history = self._history[training]
        return history[-1] if history and not history[-1].segment.last else None

    def remember(self, carried: Carried | None, *, training: bool) -> None:
        """Set what is remembered in training, or in evaluation."""
        self._history[training] = [] if carried is None else [carried]

    def _keep(self, carried: Carried) -> None:
        if self.training:
            earlier = (each for each in self._history[True] if each.segment.number < carried.segment.number)
            self._history[True] = [*earlier, carried]
        else:
            self.remember(None if carried.segment.last else carried, training=False)

    def _memory_before(self, segment: Segment, tokens: Tensor) -> Sequence[Tensor] | None:
        if not segment.number:
            return None
        before = replace(segment, number=segment.number - 1)
        rows = tokens.size(0)
        for carried in self._history[self.training]:
            if carried.segment == before and carried.lanes == rows:
                weight = self.decoder.layer_norm.weight
                return [states.to(weight) for states in carried.states]
        found = ", ".join(each.describe() for each in self._history[self.training])
        raise UsageError(
            f"the batch follows {Carried(before, [tokens]).describe()}, and the model remembers {found or 'nothing'}: "
            "keep --batch-size, --tokens-per-sample and the data, or begin an epoch anew with --reset-dataloader"
        )


class AllAttentionLanguageModel(SegmentLanguageModel):
    """Attention with persistent vectors in place of feed-forward layers (Sukhbaatar et al. 2019; Shim et al. 2021)."""


class TransformerXLLanguageModel(SegmentLanguageModel):
    """Transformer-XL with norms before its sublayers (Dai et al. 2019), the baseline of Shim et al. 2021."""


def register_segment_models() -> None:
    """Make the models known to fairseq; once, however often it is called."""
    found: dict[str, tuple[Any, Any]] = {
        ALL_ATTENTION: (AllAttentionConfig, AllAttentionLanguageModel),
        TRANSFORMER_XL: (TransformerXLConfig, TransformerXLLanguageModel),
    }
    for name, (config, model) in found.items():
        if name not in MODEL_REGISTRY:
            register_model(name, dataclass=config)(model)
