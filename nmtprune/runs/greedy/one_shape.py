"""Checkpoints of one training run have the same shape, or their curves could not be compared."""

from collections.abc import Sequence
from pathlib import Path

from nmtprune.architecture import KINDS, NEURON_KINDS
from nmtprune.errors import UsageError
from nmtprune.plan import Base


def check_one_shape(checkpoints: Sequence[Path], bases: Sequence[Base], *, neurons: bool) -> None:
    """Check that all models have the same heads, and the same neurons and layers where these are removed.

    Args:
        checkpoints: their files.
        bases: the models.
        neurons: more than heads is removed.

    Raises:
        UsageError: they differ; every difference.
    """
    faults = [
        f"{path}: {fault}"
        for path, base in zip(checkpoints, bases, strict=True)
        for fault in _shape_faults(bases[0], base, neurons=neurons)
    ]
    if faults:
        raise UsageError.of_faults(f"checkpoints of one training run have the same heads as {checkpoints[0]}", faults)


def _shape_faults(first: Base, other: Base, *, neurons: bool) -> list[str]:
    faults = []
    counts = [(kind, "heads", other.heads[kind], first.heads[kind]) for kind in KINDS]
    if neurons:
        counts += [(kind, "neurons", other.neurons.get(kind, ()), first.neurons.get(kind, ())) for kind in NEURON_KINDS]
    for kind, what, there, here in counts:
        if there != here:
            faults.append(f"{kind} {what} {', '.join(map(str, there))}, not {', '.join(map(str, here))}")
        elif other.layers.get(kind) != first.layers.get(kind):
            faults.append(f"{kind} layers are tied in another way")
    return faults
