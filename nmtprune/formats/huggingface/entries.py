"""What is known of the tensors of a folder, and which of those that are there do not fit that."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from nmtprune.formats.huggingface.folder_config import FolderConfig

_SHOWN = 5


@dataclass(frozen=True)
class Entry:
    """What is known of a tensor.

    Attributes:
        shape: its sizes.
        part: of the model, as `Checkpoint.part_of` names them.
        trained: it is a parameter; tables of positions that are computed, and the output bias, are none.
        optional: transformers makes it where the file has none.
    """

    shape: tuple[int, ...]
    part: str
    trained: bool = True
    optional: bool = False


def linear_entries(own: str, inputs: int, outputs: int, part: str) -> dict[str, Entry]:
    """Weight and bias of a linear layer."""
    return {f"{own}.weight": Entry((outputs, inputs), part), f"{own}.bias": Entry((outputs,), part)}


def norm_entries(own: str, width: int) -> dict[str, Entry]:
    """Weight and bias of a norm."""
    return {f"{own}.{kind}": Entry((width,), "norms") for kind in ("weight", "bias")}


def misfits(config: "FolderConfig", tensors: "Mapping[str, Tensor]") -> Iterator[str]:
    """What of the tensors does not fit the settings."""
    from nmtprune.formats.storage import same_bits

    known, same = config.entries(tensors), config.table_aliases(tensors)
    integers = [
        name for name, tensor in tensors.items() if not tensor.is_floating_point() and not config.is_buffer(name)
    ]
    if integers:
        yield f"{integers[0]} holds {str(tensors[integers[0]].dtype).removeprefix('torch.')}: quantized weights"
        return
    for name, entry in known.items():
        if name not in tensors:
            if not entry.optional:
                yield f"{name} is missing"
        elif tuple(tensors[name].shape) != entry.shape:
            yield f"{name} is {_shown(tensors[name].shape)}, the settings make it {_shown(entry.shape)}"
        elif tensors[name].element_size() < 2:
            yield f"{name} holds {str(tensors[name].dtype).removeprefix('torch.')}, no numbers of 16 bits or more"
    yield from config.table_faults(tensors)
    for name, first in same.items():
        if not same_bits(tensors[name], tensors[first]):
            yield f"{name} and {first} differ, though the settings share them"
    unknown = sorted(name for name in tensors if name not in known and name not in same and not config.is_buffer(name))
    if unknown:
        more = f" and {len(unknown) - _SHOWN} more" if unknown[_SHOWN:] else ""
        yield f"nmtprune knows no {', '.join(unknown[:_SHOWN])}{more}"


def _shown(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "a single number"
