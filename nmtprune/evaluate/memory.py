"""The most memory that this process took while something ran."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Peak:
    """Bytes above what was taken before; None where the system does not tell, or while it is being measured."""

    bytes: int | None = None


@contextmanager
def peak_memory(device: "torch.device") -> Iterator[Peak]:
    """Measure a block: memory of the GPU, or of the process on a CPU (Linux only)."""
    found = Peak()
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield found
        found.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    try:
        _RESET.write_text("5")  # the peak is now what is taken now
        start = _status("VmRSS")
    except (OSError, StopIteration):
        yield found
        return
    yield found
    found.bytes = max(0, _status("VmHWM") - start)


def _status(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) << 10
