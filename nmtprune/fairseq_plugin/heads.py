"""Head counts and head widths as the settings of a model hold them."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from nmtprune.architecture import KINDS, STACKS, Architecture, GroupId
from nmtprune.errors import CheckpointError
from nmtprune.formats.fairseq.slim_settings import HEAD_DIMS, HEADS, STACK_OF


@dataclass(frozen=True)
class StoredHeads:
    """Heads of every attention module for which a checkpoint has rows and columns, zero heads for padding included.

    Attributes:
        counts: per kind the heads of each layer; none for a kind that the model does not have.
        head_dims: K per stack, for the stacks that have modules.
    """

    counts: Mapping[str, tuple[int, ...]]
    head_dims: Mapping[str, int]

    @classmethod
    def of_settings(cls, settings: Any) -> "StoredHeads":
        """Read them from the settings of a model (a Namespace, or a configuration with attributes).

        Raises:
            CheckpointError: the settings do not hold them; every fault is named.
        """
        counts, faults = _counts(getattr(settings, HEADS, None))
        dims = {}
        for stack, kinds in STACKS.items():
            if not any(counts.get(kind) for kind in kinds):
                continue
            width = getattr(settings, HEAD_DIMS[stack], None)
            if isinstance(width, int) and not isinstance(width, bool) and width > 0:
                dims[stack] = width
            else:
                faults.append(f"{HEAD_DIMS[stack]} is {width!r}, not a width of heads")
        if faults:
            raise CheckpointError.of_faults("settings of the model", faults)
        return cls(counts, dims)

    @classmethod
    def of_architecture(cls, architecture: Architecture) -> "StoredHeads":
        """Those of a checkpoint."""
        counts = {kind: tuple(module.stored_heads for module in architecture.of_kind(kind)) for kind in KINDS}
        dims = {STACK_OF[module.id.kind]: module.head_dim for module in architecture}
        return cls(counts, dims)

    def of_module(self, module: GroupId) -> tuple[int, int]:
        """Heads and head width of a module."""
        return self.counts[module.kind][module.layer], self.head_dims[STACK_OF[module.kind]]

    def layers_kept(self, stack: str, layers: Iterable[int]) -> "StoredHeads":
        """What is left when a stack keeps only these layers.

        Raises:
            CheckpointError: a layer that the stack does not have.
        """
        kept = sorted(layers)
        counts = dict(self.counts)
        for kind in STACKS[stack]:
            if counts[kind]:
                absent = [layer for layer in kept if not 0 <= layer < len(counts[kind])]
                if absent:
                    shown = ", ".join(map(str, absent))
                    have = f"the checkpoint has {len(counts[kind])} {stack} layers"
                    raise CheckpointError(f"{stack}_layers_to_keep names layer {shown}; {have}")
                counts[kind] = tuple(counts[kind][layer] for layer in kept)
        return replace(self, counts=counts)

    def to_json(self) -> str:
        """The value of the setting `nmtprune_heads`."""
        return json.dumps({kind: list(self.counts[kind]) for kind in KINDS})


def _counts(text: Any) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """Head counts by kind from the JSON text of the setting, and what is wrong with it."""
    try:
        data = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        return {}, [f"{HEADS} is no JSON text ({error})"]
    if not isinstance(data, dict) or set(data) != set(KINDS):
        return {}, [f"{HEADS} must be an object with the keys {', '.join(KINDS)}"]
    faults = [
        f"{HEADS}: {kind} must be a list of head counts, one a layer"
        for kind, heads in data.items()
        if not isinstance(heads, list) or not all(type(count) is int and count >= 0 for count in heads)
    ]
    return ({} if faults else {kind: tuple(heads) for kind, heads in data.items()}), faults
