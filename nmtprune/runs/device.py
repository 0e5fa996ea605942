"""Where a run computes: what `--device` and `--threads` mean on this machine."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from nmtprune.errors import UsageError
from nmtprune.process import child_environment
from nmtprune.runs.workers import local_rank

if TYPE_CHECKING:
    import torch

_NAME = re.compile(r"auto|cpu|cuda(?::([0-9]+))?")


def choose_device(name: str) -> "torch.device":
    """The device of ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Of several processes on a machine each takes the GPU of its own number where none is named.

    Raises:
        UsageError: another name, or a GPU that is not there.
    """
    import torch

    match = _NAME.fullmatch(name)
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


def training_processes(name: str) -> int:
    """Processes that fairseq-train starts under `--device`: one per GPU that it sees, one without any.

    Raises:
        UsageError: as for `choose_device`.
    """
    import torch

    device = choose_device(name)
    return 1 if device.type == "cpu" or ":" in name else torch.cuda.device_count()


def training_environment(name: str, threads: int | None) -> Mapping[str, str]:
    """Environment of fairseq-train under `--device` and `--threads`.

    A GPU that is named by its number is the only one that fairseq-train sees; otherwise it trains on all there are.
    Threads are for the training that has no GPU.

    Raises:
        UsageError: as for `choose_device`.
    """
    device = choose_device(name)
    return child_environment(device.index if ":" in name else None, threads if device.type == "cpu" else None)
