"""Gather what a run of this recipe found, and where it comes from, as small files in its folder results/."""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("nmtprune", "torch", "fairseq-fixed", "sentencepiece", "sacrebleu", "numpy")

KEPT = (
    "comparison.tsv",
    "greedy/curve.json",
    "l0-*/l0.json",
    "lottery/lottery.json",
    "lottery/iterations.tsv",
    "bench.json",
)
"""Results of commands that go into the folder, under a name made of their path."""

_COMMAND = re.compile(r"^\$ (.*)$", re.MULTILINE)


def main() -> None:
    """WORK: copy results and write results/run.json."""
    work = Path(sys.argv[1])
    results = work / "results"
    for pattern in KEPT:
        for path in sorted(work.glob(pattern)):
            shutil.copyfile(path, results / path.relative_to(work).as_posix().replace("/", "."))
    shutil.copytree(work / "measured", results / "measured", dirs_exist_ok=True)
    facts = {
        "format": "nmtprune-recipe-run",
        "version": 1,
        "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "machine": machine(),
        "settings": (Path(__file__).parent / "settings.sh").read_text(encoding="utf-8").splitlines(),
        "seconds": {
            path.name: int(path.read_text()) for path in sorted((work / "done").iterdir()) if path.suffix != ".lock"
        },
        "commands": {path.stem: commands(path, work) for path in sorted((work / "logs").glob("*.log"))},
        "sha256": {
            path.relative_to(work).as_posix(): sha256(path)
            for pattern in ("corpus/*", "spm.model", "models/*.pt", "l0-*/slim.pt", "lottery/converged/*/model.pt")
            for path in sorted(work.glob(pattern))
        },
    }
    (results / "run.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def machine() -> dict[str, object]:
    """What the run ran on, without names of hosts."""
    models = re.findall(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    gpus = (
        subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
        if shutil.which("nvidia-smi")
        else ""
    )
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "gpus": re.findall(r"GPU \d+: (.*?) \(", gpus),
        "system": platform.system(),
    }


def commands(log: Path, work: Path) -> list[str]:
    """The commands of a step, its folder written as WORK."""
    return [
        text.replace(str(work), "WORK") for text in _COMMAND.findall(log.read_text(encoding="utf-8", errors="replace"))
    ]


def sha256(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
