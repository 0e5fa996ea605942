"""The native transformer: encoder-decoder or language model, full, or with any numbers of heads, neurons and layers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from nmtprune.architecture import Architecture
from nmtprune.model.decoder_state import DecoderState, Pass, StateScope, scope_of
from nmtprune.model.embedding import Embedding
from nmtprune.model.encoder import Encoder, check_masks, without_groups
from nmtprune.model.kernels import linear
from nmtprune.model.layers import (
    Blueprint,
    DecoderLayer,
    LayerStack,
    decoder_layer,
    with_attributes,
)
from nmtprune.model.output import AdaptiveOutput, LinearOutput
from nmtprune.model.scope import Masks, Scope, Visible
from nmtprune.model.source_cache import EncoderOutput, SourceCache
from nmtprune.model.sublayers import LayerNorm
from nmtprune.model.weights import Weights
from nmtprune.network import Network


class Decoder(LayerStack):
    """Embedding, layers, final norm and projection of the target side, or of a language model."""

    layers: Sequence[DecoderLayer]

    def __init__(self, blueprint: Blueprint, embedding: Embedding) -> None:
        super().__init__()
        network, weights, width = blueprint.network, blueprint.weights, blueprint.decoder_width
        self.embedding = embedding
        self.dtype = weights.dtype
        kind = decoder_layer(network)
        numbers = network.decoder.tied or tuple(range(network.decoder.layers))
        built = {number: kind(blueprint, number) for number in dict.fromkeys(numbers)}
        layers = nn.ModuleList(built[number].at(position) for position, number in enumerate(numbers))
        self.layers = cast(Sequence[DecoderLayer], layers)
        self.final_norm = (
            LayerNorm(weights, "decoder.final_norm", width, network.layer_norm_epsilon)
            if network.decoder.final_norm
            else None
        )
        self.projection = (
            weights.take("decoder.output_projection.weight", None, width) if network.output_projection else None
        )
        self.output_width = width if self.projection is None else self.projection.shape[0]

    def cache_source(self, encoded: EncoderOutput, *, by_head: bool = True) -> SourceCache:
        """Keys and values that the layers take from the encoder's output; `by_head` as for `CrossAttention`."""
        found = (layer.cache_source(encoded.states, by_head=by_head) for layer in self.layers)
        cross, joint = zip(*found, strict=True)
        return SourceCache(cross, joint, encoded.padding, Visible.all_but(encoded.padding, self.dtype))

    def scope(self, tokens: Tensor, source_cache: SourceCache | None, run: Pass) -> Scope:
        """The scope of tokens [R, n] after those in ``run.state``.

        A single token after others is never taken for padding: incremental search feeds none, and need not look.
        """
        single = run.state is not None and tokens.shape[1] == 1
        padding = None if single else self.embedding.padding_of(tokens)
        return scope_of(tokens, padding, source_cache, run, self.dtype)

    def begin(self, tokens: Tensor, source_cache: SourceCache | None, run: Pass) -> tuple[Tensor, Scope]:
        """Input [R, n, D] of the first layer for tokens [R, n] after those in ``run.state``, and their scope."""
        scope = self.scope(tokens, source_cache, run)
        before = run.state.start if run.state is not None else 0
        return self.embedding(tokens, scope.padding, before), scope

    def forward(self, tokens: Tensor, source_cache: SourceCache | None, run: Pass) -> Tensor:
        """Features [R, n, E] that the output layer takes, for tokens [R, n]."""
        x, scope = self.begin(tokens, source_cache, run)
        x = self.run(x, scope)
        if isinstance(scope, StateScope):
            scope.finish()
        return self.finish(x)

    def finish(self, x: Tensor) -> Tensor:
        """Features [..., E] that the output layer takes, from the states [..., D] after the last layer."""
        x = super().finish(x)
        return x if self.projection is None else linear(x, self.projection)


class Transformer(nn.Module):
    """A model with frozen weights that computes what the checkpoint's own toolkit computes with dropout off.

    Attributes:
        network: what the model was built from.
        architecture: its groups of units; `with_layers` leaves groups their numbers.
        normalized: the scores of `decode` are log-probabilities (adaptive softmax), not logits.
    """

    @torch.inference_mode(mode=False)
    def __init__(
        self,
        network: Network,
        architecture: Architecture,
        tensors: Mapping[str, Tensor],
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        """Build the model around `tensors`, which are not copied unless `device` or `dtype` requires it.

        Args:
            network: description of the model.
            architecture: its groups of units; padding is computed like real units.
            tensors: named as the layers take them from `Weights`.
            device: where to compute.
            dtype: type to compute in; None: that of the weights, but single precision for half precision on a CPU.

        Raises:
            CheckpointError: tensors that are missing, left over or of a shape that does not fit; all of them.
        """
        super().__init__()
        weights = Weights(tensors, torch.device(device), dtype)
        self.network, self.architecture, self.dtype = network, architecture, weights.dtype
        source = Embedding(network, network.encoder, weights, "encoder.embedding") if network.encoder else None
        target = Embedding(network, network.decoder, weights, "decoder.embedding", network.start)
        blueprint = Blueprint(network, architecture, weights, source.width if source else 0, target.width)
        self.encoder = Encoder(blueprint, source) if source else None
        self.decoder = Decoder(blueprint, target)
        self.output = (
            AdaptiveOutput(weights, self.decoder.output_width, network.output_bands)
            if network.output_bands
            else LinearOutput(weights, self.decoder.output_width, network.output_bias)
        )
        self.normalized = self.output.normalized
        weights.finish()
        self._maskable = frozenset(group.id for group in architecture.groups)
        self.eval()

    def with_layers(self, kept: Mapping[str, Sequence[int]]) -> "Transformer":
        """The model in which other layers are the identity; weights are shared, nothing is copied.

        Groups keep their numbers, so that masks keep their names.

        Args:
            kept: by stack (``encoder``, ``decoder``) the numbers of the layers that stay, one for all layers that share
                parameters; a stack that is not named keeps its layers.

        Raises:
            ValueError: stacks or layers that the model does not have, or a stack that keeps none.
        """
        stacks = self.stacks
        unknown = sorted(set(kept).difference(stacks))
        if unknown:
            raise ValueError(f"the model has no stack {', '.join(unknown)}")
        own = {name: stack.with_layers(kept[name]) for name, stack in stacks.items() if name in kept}
        left = {name: set(own.get(name, stack).numbers) for name, stack in stacks.items()}
        found = with_attributes(self, **own)
        found.architecture = without_groups(self.architecture, left)
        found.network = _shortened(self.network, {name: stack.numbers for name, stack in own.items()})
        found._maskable = frozenset(group.id for group in found.architecture.groups)
        return found.eval()

    @property
    def stacks(self) -> dict[str, LayerStack]:
        """The encoder, where there is one, and the decoder."""
        return ({"encoder": self.encoder} if self.encoder else {}) | {"decoder": self.decoder}

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.parameters()).device

    @property
    def words(self) -> tuple[int, int]:
        """Sizes of the source and target vocabularies; (0, V) for a language model."""
        return (self.encoder.embedding.tokens.words if self.encoder else 0), self.output.words

    @property
    def outputs(self) -> int:
        """V, number of scores that `output` gives for each word."""
        return self.output.words

    @property
    def max_positions(self) -> tuple[int, int]:
        """Longest source and target sentence in tokens; (0, T) for a language model."""
        return (self.network.encoder.max_positions if self.network.encoder else 0), self.network.decoder.max_positions

    def encode(self, source: Tensor, masks: Masks | None = None, run: Pass | None = None) -> EncoderOutput:
        """Encode tokens [B, S], padded on either side.

        Args:
            source: token ids.
            masks: of groups of the encoder.
            run: instead of `masks`: masks and observer.
        """
        if self.encoder is None:
            raise ValueError("a language model has no encoder")
        return self.encoder(source, self._pass(masks, run).probe)  # type: ignore[no-any-return]

    def cache_source(self, encoded: EncoderOutput, *, by_head: bool = True) -> SourceCache:
        """What the decoder takes from the encoder's output, computed once for any number of calls of `decode`.

        `by_head` is as for `CrossAttention.keys_values`.
        """
        return self.decoder.cache_source(encoded, by_head=by_head)

    def decode(
        self,
        tokens: Tensor,
        encoded: EncoderOutput | SourceCache | None = None,
        masks: Masks | None = None,
        run: Pass | None = None,
    ) -> Tensor:
        """Scores [R, T, V] of the next word after each of the tokens [R, T], padded on the right.

        Args:
            tokens: previous target tokens, beginning with the one that starts a sentence; with ``run.state`` those that
                follow what was decoded before, usually one per row. R is the number of sentences B in `encoded`
                or a multiple n * B of it: rows n*b to n*b+n-1 then belong to sentence b.
            encoded: the source; None for a language model.
            masks: of groups of the decoder, by rows of `tokens`.
            run: instead of `masks`: masks, observer and state.

        Returns:
            Logits, or log-probabilities where `normalized`.
        """
        return self.output(self.features(tokens, encoded, masks, run))  # type: ignore[no-any-return]

    def features(
        self,
        tokens: Tensor,
        encoded: EncoderOutput | SourceCache | None = None,
        masks: Masks | None = None,
        run: Pass | None = None,
    ) -> Tensor:
        """What `decode` gives to the output layer, [R, T, E]."""
        source_cache = self.cache_source(encoded) if isinstance(encoded, EncoderOutput) else encoded
        if self.encoder is not None and source_cache is None:
            raise ValueError("a translation model decodes with an encoded source")
        if self.encoder is None and source_cache is not None:
            raise ValueError("a language model decodes without a source")
        return self.decoder(tokens, source_cache, self._pass(masks, run))  # type: ignore[no-any-return]

    def new_state(self) -> DecoderState:
        """A state of no tokens, for ``Pass(state=...)``."""
        return DecoderState(len(self.decoder.layers))

    def forward(self, source: Tensor | None, tokens: Tensor, masks: Masks | None = None) -> Tensor:
        """Teacher-forced scores [B, T, V] of tokens [B, T] for source tokens [B, S] (None: a language model)."""
        encoded = None if source is None else self.encode(source, masks)
        return self.decode(tokens, encoded, masks)

    def _pass(self, masks: Masks | None, run: Pass | None) -> Pass:
        if run is None:
            run = Pass() if masks is None else Pass(masks)
        elif masks is not None:
            raise ValueError("give masks either alone or in the pass")
        check_masks(run.masks, self._maskable)
        return run


def _shortened(network: Network, numbers: Mapping[str, tuple[int, ...]]) -> Network:
    """The description of a network of which only the layers with these numbers are left, by stack."""
    encoder, decoder = network.encoder, network.decoder
    if encoder is not None and "encoder" in numbers:
        encoder = replace(encoder, layers=len(numbers["encoder"]))
    if "decoder" in numbers:
        decoder = replace(decoder, layers=len(numbers["decoder"]), tied=numbers["decoder"])
    return replace(network, encoder=encoder, decoder=decoder)
