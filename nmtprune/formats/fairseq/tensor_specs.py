"""What is known of a tensor before its values: shape, part of the model, and how fairseq draws it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Shape = tuple[int | None, ...]
"""Sizes of a tensor; None for one that the settings do not say (words of a vocabulary, positions)."""

PADDING = 1
"""Row of the padding token in every table."""


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
class TensorSpec:
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


BUFFER = TensorSpec(None, "", None, optional=True)


def ones_spec(width: int) -> TensorSpec:
    """A factor per column that begins as one."""
    return TensorSpec((width,), "norms", Draw("constant", 1.0))


def norm_specs(prefix: str, width: int) -> dict[str, TensorSpec]:
    """Gain and bias of a layer norm."""
    return {
        f"{prefix}.weight": ones_spec(width),
        f"{prefix}.bias": TensorSpec((width,), "norms", Draw("constant", 0.0)),
    }


def linear_specs(prefix: str, outputs: int, inputs: int, part: str, padding: int = 0) -> dict[str, TensorSpec]:
    """Weight and bias of a linear map as torch draws them by default.

    Args:
        prefix: beginning of the names.
        outputs: rows.
        inputs: columns.
        part: of the model.
        padding: inputs that are always zero, for which drawing does not count.
    """
    draw = Draw("uniform", 1 / math.sqrt(inputs - padding) if inputs > padding else 0.0)
    return {
        f"{prefix}.weight": TensorSpec((outputs, inputs), part, draw),
        f"{prefix}.bias": TensorSpec((outputs,), part, draw),
    }


def glorot_spec(shape: Shape, fan_out: int, fan_in: int, part: str, gain: float = 1.0) -> TensorSpec:
    """A matrix drawn by Glorot and Bengio's uniform rule (2010) for the given numbers of outputs and inputs."""
    return TensorSpec(shape, part, Draw("uniform", gain * math.sqrt(6 / (fan_out + fan_in))))


def table_spec(rows: int | None, width: int, part: str, *, padding_row: bool = False) -> TensorSpec:
    """Rows drawn from a normal distribution of variance 1 / width."""
    return TensorSpec((rows, width), part, Draw("normal", width**-0.5, padding_row))


def draw_weights(
    tensors: Mapping[str, Tensor], specs: Mapping[str, TensorSpec], aliases: Mapping[str, str], seed: int
) -> dict[str, Tensor]:
    """Draw every parameter of a model; buffers stay, shared tables are one tensor.

    Drawn in fp32 in the order of the file and then rounded to the stored type, from one generator: the same seed and
    shape give the same weights. A cut module is drawn as one of its own size: Glorot's fans are those of the heads
    that are there.

    Args:
        tensors: the model's tensors by name.
        specs: what is known of each.
        aliases: name -> the first name of the same parameter.
        seed: of the generator; 0 is a seed.
    """
    generator = torch.Generator().manual_seed(seed)
    fresh: dict[str, Tensor] = {}
    drawn: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        first = aliases.get(name, name)
        spec = specs.get(first)
        if first not in drawn:
            drawn[first] = tensor if spec is None else _drawn(tensor, spec, generator)
        fresh[name] = drawn[first]
    return fresh


def _drawn(tensor: Tensor, spec: TensorSpec, generator: torch.Generator) -> Tensor:
    draw = spec.draw
    if draw is None:
        return tensor
    values = torch.empty(tensor.shape, dtype=torch.float32)
    if draw.kind == "uniform":
        values.uniform_(-draw.scale, draw.scale, generator=generator)
    elif draw.kind == "normal":
        values.normal_(0.0, draw.scale, generator=generator)
    else:
        values.fill_(draw.scale)
    if draw.padding_row and len(values) > PADDING:
        values[PADDING] = 0
    return values.to(tensor.dtype)
