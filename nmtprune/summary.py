"""What a checkpoint consists of: heads, lineage, parameters by part, what a head costs; and what slimming saved."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nmtprune.architecture import AttentionModule
from nmtprune.formats.base import Checkpoint, UnitAxis

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ModuleSummary:
    """One attention module.

    Attributes:
        module: its id, heads and head_dim.
        root_heads: ids in the root checkpoint of the heads that it has.
        root_count: heads of the module in the root checkpoint.
        masked_heads: heads whose columns of W_O are all zero (files of mode `masked`).
        open_heads: heads whose gates are open at test time; None where heads have no gates.
        head_parameters: parameters that removing one head removes.
        head_bytes: bytes of those parameters.
    """

    module: AttentionModule
    root_heads: tuple[int, ...]
    root_count: int
    masked_heads: tuple[int, ...]
    open_heads: tuple[int, ...] | None
    head_parameters: int
    head_bytes: int


@dataclass(frozen=True)
class Summary:
    """What `nmtprune inspect` shows.

    Attributes:
        format: name of the file format.
        architecture: the format's name of the architecture.
        sha256: fingerprint of the model's tensors.
        root_sha256: fingerprint of the checkpoint that it was cut from, None where it was never cut.
        modules: one entry per attention module.
        parameters: trainable parameters by part of the model, shared tables counted once.
        model_bytes: bytes of these parameters.
        file_bytes: size of the file.
        other_bytes: bytes of tensors that move with the weights: optimizer moments, moving averages.
        not_finite: which weights are NaN or infinite; None for a model that can be run.
        notes: what else a user should know of the file, one line each.
    """

    format: str
    architecture: str
    sha256: str
    root_sha256: str | None
    modules: tuple[ModuleSummary, ...]
    parameters: dict[str, int]
    model_bytes: int
    file_bytes: int
    other_bytes: int
    not_finite: str | None
    notes: tuple[str, ...]

    @property
    def heads(self) -> int:
        """Heads that the model has."""
        return sum(entry.module.heads for entry in self.modules)

    @property
    def root_heads(self) -> int:
        """Heads that the root checkpoint had."""
        return sum(entry.root_count for entry in self.modules)

    @property
    def masked_heads(self) -> int:
        """Heads that are there but whose output is zero."""
        return sum(len(entry.masked_heads) for entry in self.modules)

    @property
    def closed_heads(self) -> int | None:
        """Heads whose gates are closed at test time; None for a model without gates."""
        gated = [(entry.module.heads, entry.open_heads) for entry in self.modules if entry.open_heads is not None]
        return sum(heads - len(opened) for heads, opened in gated) if gated else None

    @property
    def total_parameters(self) -> int:
        """Trainable parameters of the model."""
        return sum(self.parameters.values())

    def as_json(self) -> dict[str, Any]:
        """All figures as plain values."""
        return {
            "format": self.format,
            "architecture": self.architecture,
            "sha256": self.sha256,
            "root_sha256": self.root_sha256,
            "heads": self.heads,
            "root_heads": self.root_heads,
            "masked_heads": self.masked_heads,
            "closed_heads": self.closed_heads,
            "modules": [_module_json(entry) for entry in self.modules],
            "parameters": {**self.parameters, "total": self.total_parameters},
            "bytes": {"model": self.model_bytes, "file": self.file_bytes, "optimizer_and_averages": self.other_bytes},
            "not_finite": self.not_finite,
            "notes": list(self.notes),
        }


def summarize(checkpoint: Checkpoint) -> Summary:
    """Count what a checkpoint consists of."""
    parameters: Counter[str] = Counter()
    for name, tensor in checkpoint.parameters.items():
        parameters[checkpoint.part_of(name)] += tensor.numel()
    return Summary(
        format=checkpoint.format,
        architecture=checkpoint.architecture_name,
        sha256=checkpoint.sha256,
        root_sha256=checkpoint.lineage.root.sha256 if checkpoint.lineage else None,
        modules=tuple(_module_summary(module, checkpoint) for module in checkpoint.architecture),
        parameters=dict(sorted(parameters.items())),
        model_bytes=model_bytes(checkpoint),
        file_bytes=checkpoint.path.stat().st_size,
        other_bytes=other_bytes(checkpoint),
        not_finite=checkpoint.not_finite,
        notes=(*checkpoint.notes, *state_notes(checkpoint)),
    )


def state_notes(checkpoint: Checkpoint) -> tuple[str, ...]:
    """A remark on optimizer state and averages that no training can go on with."""
    found = checkpoint.copies_not_finite
    return (f"{found}: no training can go on from here, though the model itself is whole",) if found else ()


def model_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of the model's parameters, shared tables counted once."""
    return sum(tensor.nbytes for tensor in checkpoint.parameters.values())


def other_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of tensors that move with the weights: optimizer moments, moving averages."""
    own = checkpoint.model_tensors
    return sum(tensor.nbytes for name, tensor in checkpoint.tensors.items() if name not in own)


def parameter_count(checkpoint: Checkpoint) -> int:
    """Trainable parameters of the model, shared tables counted once."""
    return sum(tensor.numel() for tensor in checkpoint.parameters.values())


def _module_summary(module: AttentionModule, checkpoint: Checkpoint) -> ModuleSummary:
    sliced = [
        (checkpoint.parameters[axis.tensor], axis)
        for axis in checkpoint.unit_axes[module.id]
        if axis.tensor in checkpoint.parameters
    ]
    per_head = [(_entries_of_a_head(tensor, axis), tensor.element_size()) for tensor, axis in sliced]
    root_heads, root_count = _root_heads(module, checkpoint)
    opened = None if checkpoint.open_heads is None else checkpoint.open_heads.get(module.id)
    return ModuleSummary(
        module=module,
        root_heads=root_heads,
        root_count=root_count,
        masked_heads=_masked_heads(module, [(tensor, axis) for tensor, axis in sliced if axis.output]),
        open_heads=opened,
        head_parameters=sum(count for count, _ in per_head),
        head_bytes=sum(count * size for count, size in per_head),
    )


def _entries_of_a_head(tensor: "Tensor", axis: UnitAxis) -> int:
    """Entries that one head has in a tensor; also known where no head is left."""
    others = [size for position, size in enumerate(tensor.shape) if position != axis.axis]
    return axis.blocks * axis.width * math.prod(others)


def _root_heads(module: AttentionModule, checkpoint: Checkpoint) -> tuple[tuple[int, ...], int]:
    if checkpoint.lineage is None:
        return tuple(range(module.heads)), module.heads
    layers = [own.id.layer for own in checkpoint.architecture.of_kind(module.id.kind)]
    counts = checkpoint.lineage.root.heads[module.id.kind]
    return tuple(checkpoint.lineage.units(module.id)), counts[layers.index(module.id.layer)]


def _masked_heads(module: AttentionModule, outputs: list[tuple["Tensor", UnitAxis]]) -> tuple[int, ...]:
    masked: set[int] = set(range(module.heads)) if outputs else set()
    for tensor, axis in outputs:
        by_head = tensor.movedim(axis.axis, 0).unflatten(0, (module.stored_heads, axis.width)).flatten(1)
        masked &= {head for head in range(module.heads) if not by_head[head].any()}
    return tuple(sorted(masked))


def _module_json(entry: ModuleSummary) -> dict[str, Any]:
    return {
        "module": str(entry.module.id),
        "heads": entry.module.heads,
        "root_heads": entry.root_count,
        "padding_heads": entry.module.padding_heads,
        "head_dim": entry.module.head_dim,
        "root_head_ids": list(entry.root_heads),
        "masked_heads": list(entry.masked_heads),
        "open_heads": None if entry.open_heads is None else list(entry.open_heads),
        "parameters_per_head": entry.head_parameters,
        "bytes_per_head": entry.head_bytes,
    }
