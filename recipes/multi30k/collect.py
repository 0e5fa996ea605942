"""Gather what a run of this recipe found, and where it comes from, as small files in its folder kept/.

Paths of the run and of the data are written as WORK, REPOSITORY and DATA.
"""

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

HERE = Path(__file__).parent
PACKAGES = ("nmtprune", "torch", "fairseq-fixed", "sentencepiece", "sacrebleu", "numpy")

KEPT = (
    *("results/*.json", "measured/*.tsv", "logs/clean.log"),
    *("greedy/curve.json", "l0-*/l0.json", "lottery/lottery.json", "lottery/iterations.tsv"),
)
"""Results that are kept, those of commands under a name made of their path."""

SUMMED = ("corpus/*", "spm.model", "models/*.pt", "l0-*/slim.pt", "lottery/converged/*/model.pt")
"""Files whose checksums are kept."""

_COMMAND = re.compile(r"^\$ (.*)$", re.MULTILINE)


def main() -> None:
    """WORK [DATA]: replace the folder kept/."""
    work, *data = (Path(argument).resolve() for argument in sys.argv[1:])
    names = {str(work): "WORK", str(HERE.parents[1]): "REPOSITORY"} | {str(path): "DATA" for path in data}
    kept = work / "kept"
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    for pattern in KEPT:
        for path in sorted(work.glob(pattern)):
            name = path.relative_to(work).as_posix()
            for prefix in ("results/", "logs/", "measured/"):
                name = name.removeprefix(prefix)
            (kept / name.replace("/", ".")).write_text(
                renamed(path.read_text(encoding="utf-8"), names), encoding="utf-8"
            )
    (kept / "run.json").write_text(json.dumps(facts(work, names), indent=1) + "\n", encoding="utf-8")


def facts(work: Path, names: dict[str, str]) -> dict[str, object]:
    """Versions, machine, settings, commands, checksums, seconds."""
    logs = sorted((work / "logs").glob("*.log"))
    done = sorted(path for path in (work / "done").iterdir() if path.suffix != ".lock")
    return {
        "format": "nmtprune-recipe-run",
        "version": 1,
        "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "machine": machine(),
        "settings": (HERE / "settings.sh").read_text(encoding="utf-8").splitlines(),
        "seconds": {path.name: int(path.read_text()) for path in done},
        "commands": {path.stem: commands(path, names) for path in logs},
        "sha256": {
            path.relative_to(work).as_posix(): sha256(path) for pattern in SUMMED for path in sorted(work.glob(pattern))
        },
    }


def machine() -> dict[str, object]:
    """What the run ran on, without names of hosts."""
    models = re.findall(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    listed = ""
    if shutil.which("nvidia-smi"):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "gpus": re.findall(r"GPU \d+: (.*?) \(", listed),
        "system": platform.system(),
    }


def commands(log: Path, names: dict[str, str]) -> list[str]:
    """The commands of a step."""
    return [renamed(text, names) for text in _COMMAND.findall(log.read_text(encoding="utf-8", errors="replace"))]


def renamed(text: str, names: dict[str, str]) -> str:
    """Text with the longest folders first written by their names."""
    for folder in sorted(names, key=len, reverse=True):
        text = text.replace(folder, names[folder])
    return text


def sha256(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
