"""From the settings of RoBERTa's class to the network that the native model runs, and to its names of tensors."""

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from nmtprune.formats.fairseq import encoder_layout, layout
from nmtprune.formats.fairseq.network import ACTIVATIONS, PADDING, native_name, weights_of
from nmtprune.network import ClassifierNetwork, MaskedWordsNetwork, Positions, Stack

if TYPE_CHECKING:
    from torch import Tensor

    from nmtprune.formats.fairseq.settings import Description

_EPSILON = 1e-5
"""What fairseq's norms add to the variance."""

_FINAL_NORM_FROM = 2
"""Version of the encoder from which a norm follows the last layer of a pre-norm model."""

_LABELS = {"dense": "head.dense", "out_proj": "head.output"}
_WORD_HEAD = "lm_head"
_WORDS = {"": "head.output", "dense": "head.dense", "layer_norm": "head.norm"}


def describe_classifier(description: "Description", tensors: "Mapping[str, Tensor]", head: str) -> ClassifierNetwork:
    """The network of an encoder with a head that gives labels.

    Args:
        description: of its settings.
        tensors: the model's tensors, under the names that they have where it is built.
        head: name of the head.
    """
    return ClassifierNetwork(
        encoder=_stack(description, tensors),
        labels=tensors[f"{encoder_layout.LABEL_HEADS}.{head}.out_proj.weight"].shape[0],
        pooler_activation=ACTIVATIONS[description.settings["pooler_activation_fn"]],
        activation=ACTIVATIONS[description.settings["activation_fn"]],
        padding=PADDING,
        layer_norm_epsilon=_EPSILON,
    )


def describe_masked_words(description: "Description", tensors: "Mapping[str, Tensor]") -> MaskedWordsNetwork:
    """The network of an encoder with the head that predicts masked words; arguments as above."""
    return MaskedWordsNetwork(
        encoder=_stack(description, tensors),
        activation=ACTIVATIONS[description.settings["activation_fn"]],
        padding=PADDING,
        layer_norm_epsilon=_EPSILON,
    )


def activation_faults(description: "Description") -> Iterator[str]:
    """Functions that the native model does not compute."""
    for name in ("activation_fn", "pooler_activation_fn"):
        if description.settings[name] not in ACTIVATIONS:
            yield f"{name} '{description.settings[name]}' (known: {', '.join(ACTIVATIONS)})"


def _stack(description: "Description", tensors: "Mapping[str, Tensor]") -> Stack:
    settings, stem = description.settings, description.stems["encoder"]
    width, norm_first = settings["encoder_embed_dim"], bool(settings["encoder_normalize_before"])
    version = tensors.get(f"{stem}.version")
    positions = Positions(learned=bool(settings["encoder_learned_pos"]), first=PADDING + 1)
    return Stack(
        layers=settings["encoder_layers"],
        preprocess="n" if norm_first else "",
        postprocess="a" if norm_first else "an",
        final_norm=norm_first and version is not None and float(version.reshape(-1)[0]) >= _FINAL_NORM_FROM,
        embedding_scale=1.0 if settings["no_scale_embedding"] else math.sqrt(width),
        embedding_norm=bool(settings["layernorm_embedding"]),
        positions=None if settings["no_token_positional_embeddings"] else positions,
        max_positions=settings["max_positions"],
    )


def native_of(name: str, description: "Description", head: str | None) -> str | None:
    """Native name of a tensor; None for a buffer and for other heads.

    Args:
        name: in the model that fairseq builds.
        description: of its settings.
        head: that gives the labels; None: that of masked words.
    """
    return _native_of(_plain(name, description), description, head)


def native_tensors(
    description: "Description", tensors: "Mapping[str, Tensor]", head: str | None
) -> "dict[str, Tensor]":
    """The tensors under the names of the native model's parameters, without copying any; arguments as above.

    Query, key and value that old versions packed into one matrix are views of it; the other heads are left out.
    """
    plain = weights_of({_plain(name, description): tensor for name, tensor in tensors.items()})
    natives = {name: _native_of(name, description, head) for name in plain}
    return {native: plain[name] for name, native in natives.items() if native is not None}


def _plain(name: str, description: "Description") -> str:
    """Name of a tensor as a translation model calls those of its encoder; the head of masked words is ``lm_head``."""
    stem, words = description.stems["encoder"], encoder_layout.word_head(description)
    if name.startswith(f"{words}."):
        return f"{_WORD_HEAD}{name.removeprefix(words)}"
    if not name.startswith(f"{stem}."):
        return name
    return f"encoder{name.removeprefix(stem)}".replace(f".{layout.OLD_EMBEDDING_NORM}.", ".layernorm_embedding.")


def _native_of(plain: str, description: "Description", head: str | None) -> str | None:
    if plain.startswith("encoder."):
        return native_name(plain, description.settings)
    own = _WORD_HEAD if head is None else f"{encoder_layout.LABEL_HEADS}.{head}"
    if not plain.startswith(f"{own}."):
        return None
    part, _, kind = plain.removeprefix(f"{own}.").rpartition(".")
    native = (_WORDS if head is None else _LABELS).get(part)
    return None if native is None else f"{native}.{kind}"
