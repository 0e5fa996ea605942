"""The output of `nmtprune --version`: versions and devices, for bug reports."""

import os
import platform

from nmtprune import provenance


def version_report() -> str:
    """Lines: nmtprune, the packages that it uses, the devices."""
    found = provenance.versions()
    packages = [f"{name} {version}" for name, version in found.items() if name not in ("nmtprune", "python")]
    lines = [f"nmtprune {found['nmtprune']}", f"python {platform.python_version()}, " + ", ".join(packages)]
    if not any(name.startswith("fairseq") for name in found):
        lines.append("fairseq: not installed (pip install 'nmtprune[fairseq]')")
    return "\n".join([*lines, f"devices: {', '.join(_devices())}"])


def _devices() -> list[str]:
    import torch

    gpus = [
        f"cuda:{number} {torch.cuda.get_device_name(number)}, {_gigabytes(number):.0f} GB"
        for number in range(torch.cuda.device_count())
    ]
    return [f"cpu, {torch.get_num_threads()} of {os.cpu_count()} cores used", *gpus]


def _gigabytes(number: int) -> float:
    import torch

    return float(torch.cuda.get_device_properties(number).total_memory) / 1e9
