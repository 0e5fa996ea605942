"""Commands of other toolkits, run in processes of their own: what they break does not break this one."""

import os
import re
import signal
import subprocess
from collections.abc import Sequence

from nmtprune.engines.base import EngineSettings
from nmtprune.errors import EngineError

_STAMP = re.compile(r"^\[[^\]]*\] *")
_MARIANS_ERROR = "Error: "


def run(name: str, command: Sequence[str], settings: EngineSettings) -> str:
    """What a command prints on stdout.

    Args:
        name: of the command, for messages.
        command: program and arguments.
        settings: device and threads.

    Raises:
        EngineError: it failed; the message is the line of stderr that says why.
    """
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=child_environment(settings.device.index or 0 if settings.device.type == "cuda" else None, settings.threads),
        check=False,
    )
    if done.returncode:
        raise EngineError(f"{name} failed: {_reason(done.returncode, done.stderr)}")
    return done.stdout


def child_environment(gpu: int | None, threads: int | None) -> dict[str, str]:
    """Environment of a process of another toolkit.

    Args:
        gpu: the only GPU that it sees, as torch numbers them in this process; None leaves it those of this process.
        threads: CPU threads; None leaves the number to the toolkit.
    """
    found = dict(os.environ)
    if threads is not None:
        found["OMP_NUM_THREADS"] = str(threads)
    if gpu is not None:
        visible = [name for name in found.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        found["CUDA_VISIBLE_DEVICES"] = visible[gpu] if gpu < len(visible) else str(gpu)
    return found


def _reason(status: int, stderr: str) -> str:
    """Why a process failed, in one line: what Marian calls an error, before a stack, or else the last line."""
    said = [_STAMP.sub("", line.strip()) for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix(_MARIANS_ERROR) for line in said if line.startswith(_MARIANS_ERROR)]
    if errors:
        return errors[0]
    if status < 0:
        killed = f"killed by {signal.Signals(-status).name}"
        return f"{killed}; out of memory?" if -status == signal.SIGKILL else killed
    return said[-1] if said else f"exit status {status}"
