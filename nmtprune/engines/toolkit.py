"""Commands of other toolkits, run in processes of their own: what they break does not break this one."""

from collections.abc import Sequence

from nmtprune import process
from nmtprune.engines.base import EngineSettings


def run(name: str, command: Sequence[str], settings: EngineSettings) -> str:
    """What a command prints on stdout.

    Args:
        name: of the command, for messages.
        command: program and arguments.
        settings: device and threads.

    Raises:
        EngineError: it failed; the message is the line of stderr that says why.
    """
    gpu = settings.device.index or 0 if settings.device.type == "cuda" else None
    return process.output_of(name, command, process.child_environment(gpu, settings.threads))
