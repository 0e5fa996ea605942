"""What is known of a tensor before its values: shape, part of the model, and how fairseq draws it."""

import math
from dataclasses import dataclass

Shape = tuple[int | None, ...]
"""Sizes of a tensor; None for one that the settings do not say (words of a vocabulary, positions)."""


@dataclass(frozen=True)
class Draw:
    """A distribution that fairseq initializes with.

    Attributes:
        kind: ``uniform`` in [-scale, scale], ``normal`` with standard deviation `scale`, or ``constant``.
        scale: see there; the value of a constant.
        padding_row: the row of the padding token (row 1) is zero.
    """

    kind: str
    scale: float
    padding_row: bool = False


@dataclass(frozen=True)
class Slot:
    """A tensor that a model of given settings has.

    Attributes:
        shape: its sizes; None for a buffer of any shape.
        part: as `Checkpoint.part_of`; empty for a buffer.
        draw: None for a buffer, which is no parameter.
        optional: files without it are complete.
    """

    shape: Shape | None
    part: str
    draw: Draw | None
    optional: bool = False

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of that shape can stand here."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            own in (None, given) for own, given in zip(self.shape, shape, strict=True)
        )

    @property
    def shown_shape(self) -> str:
        """The shape as a message shows it."""
        return f"[{', '.join('any' if size is None else str(size) for size in self.shape or ())}]"


BUFFER = Slot(None, "", None, optional=True)


def ones(width: int) -> Slot:
    """A factor per column that begins as one."""
    return Slot((width,), "norms", Draw("constant", 1.0))


def norm(prefix: str, width: int) -> dict[str, Slot]:
    """Gain and bias of a layer norm."""
    return {f"{prefix}.weight": ones(width), f"{prefix}.bias": Slot((width,), "norms", Draw("constant", 0.0))}


def linear(prefix: str, outputs: int, inputs: int, part: str) -> dict[str, Slot]:
    """Weight and bias of a linear map as torch draws them by default."""
    draw = Draw("uniform", 1 / math.sqrt(inputs))
    return {f"{prefix}.weight": Slot((outputs, inputs), part, draw), f"{prefix}.bias": Slot((outputs,), part, draw)}


def glorot(shape: Shape, fan_out: int, fan_in: int, part: str, gain: float = 1.0) -> Slot:
    """A matrix drawn by Glorot and Bengio's uniform rule (2010) for the given numbers of outputs and inputs."""
    return Slot(shape, part, Draw("uniform", gain * math.sqrt(6 / (fan_out + fan_in))))


def table(rows: int | None, width: int, part: str, *, padding_row: bool = False) -> Slot:
    """Rows drawn from a normal distribution of variance 1 / width."""
    return Slot((rows, width), part, Draw("normal", width**-0.5, padding_row))
