"""Where a run computes: what `--device` and `--threads` mean on this machine."""

import re
from typing import TYPE_CHECKING

from nmtprune.errors import UsageError
from nmtprune.runs.processes import local_rank

if TYPE_CHECKING:
    import torch


def choose_device(name: str) -> "torch.device":
    """The device of ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Of several processes on a machine each takes the GPU of its own number where none is named.

    Raises:
        UsageError: another name, or a GPU that is not there.
    """
    import torch

    match = re.fullmatch(r"auto|cpu|cuda(?::([0-9]+))?", name)
    if match is None:
        raise UsageError(f"--device '{name}': choose auto, cpu, cuda or cuda:N")
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not there):
        return torch.device("cpu")
    if not there:
        raise UsageError(f"--device {name}: torch sees no GPU here (--device cpu computes without)")
    number = int(match[1]) if match[1] else local_rank() % there
    if number >= there:
        raise UsageError(f"--device {name}: there is no such GPU (there are {there}, numbered from 0)")
    return torch.device("cuda", number)
