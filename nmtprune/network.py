"""What the native model must know about a network beside its tensors and head counts: plain values, any file format."""

from dataclasses import dataclass
from typing import Protocol

ACTIVATIONS = ("relu", "relu_squared", "gelu", "gelu_tanh", "tanh", "sigmoid", "linear", "swish")
"""Feed-forward activations: gelu is the exact one, gelu_tanh its approximation, swish is x * sigmoid(x)."""


@dataclass(frozen=True)
class Positions:
    """Position embeddings that are added to token embeddings.

    Attributes:
        learned: they are a table of the model; otherwise sinusoids (sines in the first half of the columns, cosines in
            the second, wavelengths in a geometric progression from 2 pi to 20000 pi, a row of zeros for padding).
        first: row of a sentence's first token. Padding is not counted and takes the row before `first` (the first row
            where there is none before).
    """

    learned: bool
    first: int


@dataclass(frozen=True)
class Stack:
    """An encoder or a decoder.

    Attributes:
        layers: number of layers.
        preprocess: what is done to a sublayer's input, in order: ``n`` layer norm. Empty in a post-norm model.
        postprocess: what is done to its output, in order: ``a`` add the input, ``n`` layer norm.
        final_norm: a layer norm follows the last layer.
        embedding_scale: factor of token embeddings.
        embedding_bands: number of adaptive embedding tables, by falling frequency of their words; 0: one plain table.
        embedding_projection: scaled embeddings go through a linear layer before positions are added.
        embedding_norm: a layer norm follows the sum of embeddings and positions.
        positions: position embeddings, None without.
        attention_norm: the output of self-attention is normalized before postprocessing (NormFormer, Shleifer et al.
            2021; only in decoders, like the next two).
        feed_forward_norm: the feed-forward layer normalizes what its activation gives (NormFormer).
        residual_scale: the feed-forward sublayer's input is scaled by a vector where it is added (NormFormer).
        segments: rows of a table of segments, which is added to the embeddings; 0: none. Only in classifiers.
        max_positions: longest sequence, in tokens, that the model takes.
        recurrent: a recurrence (SSRU) takes the place of self-attention; only in decoders, like the next three.
        recurrence_norm: the recurrence normalizes what its matrices give.
        recurrence_projection: a linear layer follows the recurrence.
        tied: for every layer the number, from 0, of the layer whose parameters it has; empty where each has its own.
    """

    layers: int
    preprocess: str
    postprocess: str
    final_norm: bool
    embedding_scale: float
    max_positions: int
    embedding_bands: int = 0
    embedding_projection: bool = False
    embedding_norm: bool = False
    positions: Positions | None = None
    segments: int = 0
    attention_norm: bool = False
    feed_forward_norm: bool = False
    residual_scale: bool = False
    recurrent: bool = False
    recurrence_norm: bool = False
    recurrence_projection: bool = False
    tied: tuple[int, ...] = ()


@dataclass(frozen=True)
class Network:
    """A transformer as the native model runs it.

    Attributes:
        encoder: None for a language model.
        decoder: the decoder, or the language model itself.
        activation: one of ACTIVATIONS.
        padding: id of the padding token in source and target; -1 where the vocabulary has none.
        eos: id of the token that ends a sentence.
        layer_norm_epsilon: added to the variance in every layer norm.
        joint_attention: decoder self-attention also sees the encoder's output, as keys before its own
            (Peitz et al. 2019).
        output_projection: a linear layer precedes the output layer.
        output_bands: bands of an adaptive softmax (Grave et al. 2017), the frequent words' band included; 0: a plain
            output layer.
        output_bias: the plain output layer has a bias.
        start: row of the decoder's plain table that the id behind its rows stands for; None: no row.
    """

    encoder: Stack | None
    decoder: Stack
    activation: str
    padding: int
    eos: int
    layer_norm_epsilon: float = 1e-5
    joint_attention: bool = False
    output_projection: bool = False
    output_bands: int = 0
    output_bias: bool = False
    start: int | None = None


@dataclass(frozen=True)
class ClassifierNetwork:
    """An encoder with a head that gives labels: two linear layers on the state of the first token.

    Attributes:
        encoder: the encoder.
        labels: C, number of labels.
        pooler_activation: one of ACTIVATIONS, between the head's layers.
        activation: one of ACTIVATIONS, of the feed-forward layers.
        padding: id of the padding token.
        layer_norm_epsilon: added to the variance in every layer norm.
    """

    encoder: Stack
    labels: int
    pooler_activation: str
    activation: str
    padding: int
    layer_norm_epsilon: float


@dataclass(frozen=True)
class MaskedWordsNetwork:
    """An encoder with a head that predicts masked words from the state of every token.

    The head has a linear layer, an activation, a norm, and the output layer with a bias.

    Attributes:
        encoder: the encoder.
        activation: one of ACTIVATIONS, of the feed-forward layers and of the head.
        padding: id of the padding token.
        layer_norm_epsilon: added to the variance in every layer norm.
    """

    encoder: Stack
    activation: str
    padding: int
    layer_norm_epsilon: float


class EncoderNetwork(Protocol):
    """What an encoder must know of the network that it is a part of."""

    @property
    def encoder(self) -> Stack | None:
        """The encoder; None for a language model."""

    @property
    def activation(self) -> str:
        """One of ACTIVATIONS."""

    @property
    def padding(self) -> int:
        """Id of the padding token; -1 where there is none."""

    @property
    def layer_norm_epsilon(self) -> float:
        """Added to the variance in every layer norm."""
