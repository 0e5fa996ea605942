"""The encoder of a translation model or a classifier."""

from collections.abc import Collection, Mapping, Sequence
from typing import cast

from torch import Tensor, nn

from nmtprune.architecture import Architecture, GroupId
from nmtprune.model.embedding import Embedding
from nmtprune.model.layers import EncoderBlueprint, EncoderLayer, LayerStack
from nmtprune.model.scope import Masks, Probe, Scope, Visible
from nmtprune.model.source_cache import EncoderOutput
from nmtprune.model.sublayers import LayerNorm


class Encoder(LayerStack):
    """Embedding, layers and final norm of the source side."""

    layers: Sequence[EncoderLayer]

    def __init__(self, blueprint: EncoderBlueprint, embedding: Embedding) -> None:
        super().__init__()
        stack = blueprint.network.encoder
        if stack is None:
            raise ValueError("an encoder for a network without one")
        self.embedding = embedding
        layers = nn.ModuleList(EncoderLayer(blueprint, stack, layer) for layer in range(stack.layers))
        self.layers = cast(Sequence[EncoderLayer], layers)
        width, epsilon = blueprint.encoder_width, blueprint.network.layer_norm_epsilon
        self.final_norm = (
            LayerNorm(blueprint.weights, "encoder.final_norm", width, epsilon) if stack.final_norm else None
        )

    def begin(self, source: Tensor, probe: Probe, segments: Tensor | None = None) -> tuple[Tensor, Scope]:
        """Input [B, S, D] of the first layer for tokens [B, S], zeros for padding, and the scope of the tokens.

        `segments` [B, S] are those of the tokens of a classifier; without them all are in segment 0.
        """
        padding = self.embedding.padding_of(source)
        x = self.embedding(source, padding, segments=segments)
        scope = Scope(probe=probe, visible=Visible.all_but(padding, x.dtype), padding=padding)
        return (x if padding is None else x.masked_fill(padding.unsqueeze(-1), 0.0)), scope

    def forward(self, source: Tensor, probe: Probe, segments: Tensor | None = None) -> EncoderOutput:
        """States [B, S, D] for tokens [B, S]."""
        x, scope = self.begin(source, probe, segments)
        return EncoderOutput(self.finish(self.run(x, scope)), scope.padding)


def without_groups(architecture: Architecture, left: Mapping[str, Collection[int]]) -> Architecture:
    """The groups of the layers that are left, by stack, under the same numbers."""
    return Architecture(
        tuple(group for group in architecture.modules if group.id.layer in left[group.id.stack]),
        tuple(group for group in architecture.feed_forwards if group.id.layer in left[group.id.stack]),
    )


def check_masks(masks: Masks, groups: Collection[GroupId]) -> None:
    """Raise ValueError for masks of other groups than those of a model."""
    unknown = sorted(str(group) for group in masks if group not in groups)
    if unknown:
        raise ValueError(f"masks for modules that the model does not have: {', '.join(unknown)}")
