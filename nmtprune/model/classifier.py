"""The native models of an encoder alone, full or with any numbers of heads, neurons and layers, and their heads."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from nmtprune.architecture import Architecture
from nmtprune.model.decoder_state import Pass
from nmtprune.model.embedding import Embedding
from nmtprune.model.encoder import Encoder, check_masks, without_groups
from nmtprune.model.kernels import linear
from nmtprune.model.layers import EncoderBlueprint, LayerStack, with_attributes
from nmtprune.model.scope import Masks
from nmtprune.model.sublayers import ACTIVATIONS, LayerNorm
from nmtprune.model.weights import Weights
from nmtprune.network import ClassifierNetwork, MaskedWordsNetwork

N = TypeVar("N", ClassifierNetwork, MaskedWordsNetwork)


class EncoderModel(nn.Module, ABC, Generic[N]):
    """An encoder alone, with frozen weights, and a head on its states.

    Attributes:
        network: what the model was built from.
        architecture: its groups of units; `with_layers` leaves groups their numbers.
    """

    @torch.inference_mode(mode=False)
    def __init__(
        self,
        network: N,
        architecture: Architecture,
        tensors: Mapping[str, Tensor],
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        """Build the model around `tensors`; arguments and errors are those of `Transformer`."""
        super().__init__()
        weights = Weights(tensors, torch.device(device), dtype)
        self.network: N = network
        self.architecture, self.dtype = architecture, weights.dtype
        embedding = Embedding(network, network.encoder, weights, "encoder.embedding")
        width = embedding.width
        self.encoder = Encoder(EncoderBlueprint(network, architecture, weights, width), embedding)
        self.add_head(weights, width)
        weights.finish()
        self._maskable = frozenset(group.id for group in architecture.groups)
        self.eval()

    @abstractmethod
    def add_head(self, weights: Weights, width: int) -> None:
        """Take the weights of the head, which reads states of this width."""

    @property
    def stacks(self) -> dict[str, LayerStack]:
        """The encoder alone."""
        return {"encoder": self.encoder}

    def with_layers(self, kept: Mapping[str, Sequence[int]]) -> Self:
        """The model in which other layers are the identity; weights are shared, and groups keep their numbers.

        Args:
            kept: under ``encoder`` the numbers of the layers that stay.

        Raises:
            ValueError: stacks or layers that the model does not have, or no layer at all.
        """
        if set(kept) - {"encoder"}:
            raise ValueError(f"an encoder has no stack {', '.join(sorted(set(kept) - {'encoder'}))}")
        if not kept:
            return self
        encoder = self.encoder.with_layers(kept["encoder"])
        found = with_attributes(self, encoder=encoder)
        found.architecture = without_groups(self.architecture, {"encoder": set(encoder.numbers)})
        found.network = replace(self.network, encoder=replace(self.network.encoder, layers=len(encoder.layers)))
        found._maskable = frozenset(group.id for group in found.architecture.groups)
        return found.eval()

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.parameters()).device

    @property
    def words(self) -> int:
        """Size of the vocabulary."""
        return self.encoder.embedding.tokens.words

    def states(self, tokens: Tensor, segments: Tensor | None, run: Pass) -> Tensor:
        """States [B, S, D] of texts; the other arguments are those of `Classifier.features`."""
        check_masks(run.masks, self._maskable)
        found: Tensor = self.encoder(tokens, run.probe, segments).states
        return found


class Classifier(EncoderModel[ClassifierNetwork]):
    """A model with frozen weights that computes what the checkpoint's own toolkit computes with dropout off.

    Attributes:
        normalized: `output` gives logits, no log-probabilities.
    """

    normalized = False

    def add_head(self, weights: Weights, width: int) -> None:
        """Two linear layers."""
        inner = weights.rows("head.dense.weight") or width
        self.dense_weight, self.dense_bias = weights.linear("head.dense", inner, width)
        self.output_weight, self.output_bias = weights.linear("head.output", self.network.labels, inner)
        self.activation = ACTIVATIONS[self.network.pooler_activation]

    @property
    def outputs(self) -> int:
        """C, number of scores that `output` gives."""
        return self.network.labels

    def forward(self, tokens: Tensor, segments: Tensor | None = None, masks: Masks | None = None) -> Tensor:
        """Logits [B, C] of the labels of texts.

        Args:
            tokens: ids [B, S], padded on the right.
            segments: [B, S], the segment of each token; None: all are in segment 0. Nothing without a table of them.
            masks: of groups of the encoder.
        """
        return self.output(self.features(tokens, segments, masks))

    def features(
        self, tokens: Tensor, segments: Tensor | None = None, masks: Masks | None = None, run: Pass | None = None
    ) -> Tensor:
        """The states [B, D] of first tokens, which `output` takes; `run` in the place of masks: with an observer."""
        run = Pass(masks or {}) if run is None else run
        return self.states(tokens, segments, run)[:, 0]

    def output(self, features: Tensor) -> Tensor:
        """Logits [..., C] for states [..., D] of first tokens: the head."""
        pooled = self.activation(linear(features, self.dense_weight, self.dense_bias))
        return linear(pooled, self.output_weight, self.output_bias)


class MaskedWords(EncoderModel[MaskedWordsNetwork]):
    """An encoder that predicts masked words, as fairseq's RoBERTa is pre-trained."""

    def add_head(self, weights: Weights, width: int) -> None:
        """A linear layer, a norm and the output layer."""
        self.dense_weight, self.dense_bias = weights.linear("head.dense", width, width)
        self.norm = LayerNorm(weights, "head.norm", width, self.network.layer_norm_epsilon)
        self.output_weight, self.output_bias = weights.linear("head.output", self.words, width)
        self.activation = ACTIVATIONS[self.network.activation]

    def forward(self, tokens: Tensor, segments: Tensor | None = None, masks: Masks | None = None) -> Tensor:
        """Logits [B, S, V] of the word at every place; arguments are those of `Classifier.forward`."""
        states = self.states(tokens, segments, Pass(masks or {}))
        inner = self.norm(self.activation(linear(states, self.dense_weight, self.dense_bias)))
        return linear(inner, self.output_weight, self.output_bias)


def label_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy [B] of labels [B] under logits [B, C], in nats: the loss of a set of texts is its mean."""
    scores = logits if logits.dtype == torch.float64 else logits.float()
    return nn.functional.cross_entropy(scores, labels, reduction="none")
