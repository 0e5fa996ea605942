"""Neurons of feed-forward layers as the settings of a model hold them, where the layers of a stack differ."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nmtprune.architecture import NEURON_KINDS, Architecture, GroupId
from nmtprune.errors import CheckpointError
from nmtprune.formats.fairseq.slim_settings import NEURONS, json_setting, ragged_neurons


@dataclass(frozen=True)
class StoredNeurons:
    """Neurons of every feed-forward layer for which a checkpoint has rows and columns, padding included.

    Attributes:
        counts: neurons of each layer by kind; only kinds whose layers have several widths. Those of the others are said
            by `encoder_ffn_embed_dim` and `decoder_ffn_embed_dim`.
    """

    counts: Mapping[str, tuple[int, ...]]

    @classmethod
    def of_settings(cls, settings: Any) -> "StoredNeurons":
        """Read them from the settings of a model (a Namespace, or a configuration with attributes).

        Raises:
            CheckpointError: the setting does not hold any; every fault is named.
        """
        text = getattr(settings, NEURONS, None)
        if text is None:
            return cls({})
        data = json_setting(text)
        if not isinstance(data, dict) or not set(data) <= set(NEURON_KINDS):
            raise CheckpointError(
                f"settings of the model: {NEURONS} must be an object with keys among {', '.join(NEURON_KINDS)}"
            )
        faults = [
            f"{NEURONS}: {kind} must be a list of neuron counts, one a layer"
            for kind, counts in data.items()
            if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts)
        ]
        if faults:
            raise CheckpointError.of_faults("settings of the model", faults)
        return cls({kind: tuple(counts) for kind, counts in data.items()})

    @classmethod
    def of_architecture(cls, architecture: Architecture) -> "StoredNeurons":
        """Those of a checkpoint."""
        return cls({kind: tuple(counts) for kind, counts in ragged_neurons(architecture).items()})

    def of_layer(self, group: GroupId) -> int | None:
        """Neurons of a layer; None where those of its stack have one width."""
        counts = self.counts.get(group.kind)
        return None if counts is None else counts[group.layer]

    def layers_kept(self, stack: str, layers: Iterable[int]) -> "StoredNeurons":
        """What is left when a stack keeps only these of the layers that are listed.

        Raises:
            CheckpointError: a layer that the stack does not have.
        """
        kind, kept = f"{stack}-ffn", sorted(layers)
        counts = self.counts.get(kind)
        if counts is None:
            return self
        absent = ", ".join(str(layer) for layer in kept if not 0 <= layer < len(counts))
        if absent:
            raise CheckpointError(
                f"{stack}_layers_to_keep names layer {absent}; {NEURONS} lists {len(counts)} {stack} layers"
            )
        return StoredNeurons({**self.counts, kind: tuple(counts[layer] for layer in kept)})

    def to_json(self) -> str | None:
        """The value of the setting `nmtprune_neurons`; None where no stack needs it."""
        return json.dumps({kind: list(counts) for kind, counts in self.counts.items()}) if self.counts else None
