"""The decoder of `all_attention_lm` and `transformer_xl_lm`: embeddings, layers with a memory, output layer."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from fairseq.models import FairseqDecoder
from fairseq.models.transformer import Embedding
from fairseq.modules import AdaptiveInput, AdaptiveSoftmax
from torch import Tensor, nn

from nmtprune.errors import CheckpointError
from nmtprune.fairseq_plugin.heads import StoredHeads
from nmtprune.formats.fairseq.slim_settings import HEADS
from nmtprune.model.relative_attention import RelativeShape
from nmtprune.model.segment_layers import SegmentLayer, run_layers

DICTIONARY = "dictionary_sha256"
"""Buffer of a decoder: which words its embeddings are of."""

_SIZES = {
    "decoder_embed_dim": 2,
    "decoder_layers": 1,
    "decoder_attention_heads": 1,
    "decoder_ffn_embed_dim": 0,
    "persistent_vectors": 0,
    "memory_length": 0,
}
"""Sizes in the settings of a model -> their least values."""


@dataclass(frozen=True)
class DecoderSizes:
    """Sizes of a model.

    Attributes:
        width: D.
        heads: of each layer.
        head_dim: K.
        persistent: N.
        neurons: F of the feed-forward layers; 0 for none.
        memory: S, states that are remembered per layer.
    """

    width: int
    heads: tuple[int, ...]
    head_dim: int
    persistent: int
    neurons: int
    memory: int

    @classmethod
    def of_settings(cls, settings: Any) -> "DecoderSizes":
        """Read them from the settings of a model.

        Raises:
            CheckpointError: sizes that no model has; every fault is named.
        """
        faults = list(_size_faults(settings))
        if faults:
            raise CheckpointError.of_faults("settings of the model", faults)
        heads = (settings.decoder_attention_heads,) * settings.decoder_layers
        if settings.nmtprune_heads is not None:
            heads = StoredHeads.of_settings(settings).counts["decoder"]
            if len(heads) != settings.decoder_layers:
                raise CheckpointError(
                    f"settings of the model: {HEADS} lists {len(heads)} decoder modules, the model has "
                    f"{settings.decoder_layers} layers"
                )
        return cls(
            settings.decoder_embed_dim,
            heads,
            settings.decoder_head_dim or settings.decoder_embed_dim // settings.decoder_attention_heads,
            getattr(settings, "persistent_vectors", 0),
            getattr(settings, "decoder_ffn_embed_dim", 0),
            settings.memory_length,
        )

    def layer_shape(self, layer: int) -> RelativeShape:
        """Sizes of the attention of a layer."""
        return RelativeShape(self.width, self.heads[layer], self.head_dim, self.persistent)


def _size_faults(settings: Any) -> Iterator[str]:
    for name, least in _SIZES.items():
        value = getattr(settings, name, least)
        if value < least:
            yield f"--{name.replace('_', '-')} {value}: give at least {least}"
    width, heads, head_dim = settings.decoder_embed_dim, settings.decoder_attention_heads, settings.decoder_head_dim
    if width % 2:
        yield f"--decoder-embed-dim {width}: sinusoids of positions need an even width"
    if head_dim is not None and head_dim < 1:
        yield f"--decoder-head-dim {head_dim}: give at least 1"
    if head_dim is None and heads > 0 and width % heads:
        yield f"--decoder-attention-heads {heads} does not divide {width}: give --decoder-head-dim"


class SegmentDecoder(FairseqDecoder):  # type: ignore[misc]  # fairseq has no types
    """Reads a segment, given what was remembered of the text before it.

    Nothing here has a state: the caller holds the memory (`SegmentLanguageModel` does, from batch to batch).

    Args:
        settings: of the model.
        dictionary: of the words.

    Source: Shim et al. 2021, sections 3.1 and 4.1; Dai et al. 2019, sections 3.2 and 3.3.
    """

    def __init__(self, settings: Any, dictionary: Any) -> None:
        super().__init__(dictionary)
        self.sizes = DecoderSizes.of_settings(settings)
        self.dropout = settings.dropout
        self.embed_scale = self.sizes.width**0.5
        self.embed_tokens = _embedding(settings, dictionary)
        self.layers = nn.ModuleList(
            SegmentLayer(
                self.sizes.layer_shape(layer), self.sizes.neurons, settings.dropout, settings.attention_dropout
            )
            for layer in range(len(self.sizes.heads))
        )
        self.layer_norm = nn.LayerNorm(self.sizes.width)
        self.adaptive_softmax = _adaptive_softmax(settings, dictionary, self.embed_tokens)
        self.output_projection = None if self.adaptive_softmax else _projection(settings, dictionary, self.embed_tokens)
        self.register_buffer(DICTIONARY, dictionary_digest(dictionary))

    def forward(
        self, src_tokens: Tensor, memory: Sequence[Tensor] | None = None, **_: Any
    ) -> tuple[Tensor, dict[str, list[Tensor]]]:
        """Scores of the next word behind every token of a segment.

        Args:
            src_tokens: [B, T]; padding, if any, on the right.
            memory: per layer [B, M, D], from the segment before; None at the beginning of a text.

        Returns:
            Scores [B, T, V] (with an adaptive softmax the states [B, T, D] that it reads), and the memory for the
            segment that follows, under "memory".
        """
        dropout = self.dropout if self.training else 0.0
        x = F.dropout(self.embed_scale * self.embed_tokens(src_tokens), dropout, self.training)
        x, remembered = run_layers(self.layers, x, memory, self.sizes.memory, dropout)
        x = F.dropout(self.layer_norm(x), dropout, self.training)
        return self.output_layer(x), {"memory": remembered}

    def output_layer(self, features: Tensor, **_: Any) -> Tensor:
        """Scores [B, T, V] of states [B, T, D]; with an adaptive softmax the states themselves, which it reads."""
        return features if self.output_projection is None else self.output_projection(features)


def dictionary_digest(dictionary: Any) -> Tensor:
    """SHA-256 of the words of a dictionary in their order, as 32 bytes."""
    digest = hashlib.sha256("\n".join(dictionary.symbols).encode("utf-8")).digest()
    return torch.tensor(list(digest), dtype=torch.uint8)


def refuse_other_models(model: nn.Module, state_dict: Mapping[str, Tensor], prefix: str = "", *_: Any) -> None:
    """Before weights are loaded: check that they have the shapes that the settings say, and the same dictionary.

    Raises:
        CheckpointError: naming every tensor of another shape, and another dictionary.
    """
    faults = []
    for name, own in model.state_dict(prefix=prefix).items():
        given = state_dict.get(name)
        if given is not None and given.shape != own.shape:
            faults.append(f"{name} is {_shape(given)}, the settings make it {_shape(own)}")
        elif given is not None and name.endswith(DICTIONARY) and not torch.equal(given.to(own), own):
            faults.append("the data's dict.txt has other words, or an other order of them, than the model's")
    if faults:
        raise CheckpointError.of_faults("weights do not fit the settings and the data", faults)


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))


def _embedding(settings: Any, dictionary: Any) -> Any:
    words, width = len(dictionary), settings.decoder_embed_dim
    if not settings.adaptive_input:
        return Embedding(words, width, dictionary.pad())
    cutoffs = _cutoffs(settings, "adaptive_input_cutoff", words)
    adaptive = AdaptiveInput(words, dictionary.pad(), width, settings.adaptive_input_factor, width, cutoffs)
    # fairseq zeroes the row of padding in every band, and in all but the first one it is a word: without positions
    # added to it, its gradient would be hundreds of times that of the others behind a norm.
    for table, _ in list(adaptive.embeddings)[1:]:
        if len(table.weight) > dictionary.pad():
            nn.init.normal_(table.weight[dictionary.pad()], std=table.embedding_dim**-0.5)
    return adaptive


def _adaptive_softmax(settings: Any, dictionary: Any, embedding: nn.Module) -> Any:
    tied = settings.tie_adaptive_weights
    if settings.adaptive_softmax_cutoff is None:
        if tied or settings.tie_adaptive_proj:
            raise CheckpointError("--tie-adaptive-weights and --tie-adaptive-proj need --adaptive-softmax-cutoff")
        return None
    cutoffs = _cutoffs(settings, "adaptive_softmax_cutoff", len(dictionary))
    same = settings.adaptive_softmax_factor == settings.adaptive_input_factor
    if tied and not (
        settings.adaptive_input and same and cutoffs == _cutoffs(settings, "adaptive_input_cutoff", len(dictionary))
    ):
        raise CheckpointError(
            "--tie-adaptive-weights needs --adaptive-input with the cutoffs and the factor of the adaptive softmax"
        )
    if settings.tie_adaptive_proj and not tied:
        raise CheckpointError("--tie-adaptive-proj needs --tie-adaptive-weights")
    if settings.share_decoder_input_output_embed:
        raise CheckpointError("--share-decoder-input-output-embed: adaptive tables are tied by --tie-adaptive-weights")
    return AdaptiveSoftmax(
        len(dictionary),
        settings.decoder_embed_dim,
        cutoffs,
        dropout=settings.adaptive_softmax_dropout,
        adaptive_inputs=embedding if tied else None,
        factor=settings.adaptive_softmax_factor,
        tie_proj=settings.tie_adaptive_proj,
    )


def _cutoffs(settings: Any, name: str, words: int) -> list[int]:
    """Where the bands of an adaptive table end.

    Raises:
        CheckpointError: they do not rise, or end behind the last word.
    """
    text = getattr(settings, name)
    try:
        found = [int(end) for end in text.split(",")]
    except (AttributeError, ValueError):
        found = []
    if not found or sorted({0, *found, words}) != [0, *found, words]:
        option = f"--{name.replace('_', '-')}"
        raise CheckpointError(f"{option} {text}: give rising numbers N,N,... between 0 and the {words} words")
    return found


def _projection(settings: Any, dictionary: Any, embedding: nn.Module) -> nn.Linear:
    projection = nn.Linear(settings.decoder_embed_dim, len(dictionary), bias=False)
    if not settings.share_decoder_input_output_embed:
        nn.init.normal_(projection.weight, mean=0, std=settings.decoder_embed_dim**-0.5)
    elif isinstance(embedding, nn.Embedding):
        projection.weight = embedding.weight
    else:
        raise CheckpointError("--share-decoder-input-output-embed: not with --adaptive-input")
    return projection
