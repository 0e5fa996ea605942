"""Many of Marian's commands from one process, a fork for each: a tenth of the time of starting a process for each."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

_ALONE = ("--cpu-threads", "1", "--workspace", "100", "--quiet")


class Job(NamedTuple):
    """A command: ``train``, ``score`` or ``decode``, and its options."""

    command: str
    options: Sequence[object]


def run(jobs: Sequence[Job]) -> list[int]:
    """Run commands one after the other; how each ended, 0 for success."""
    listed = [[job.command, *map(str, job.options), *_ALONE] for job in jobs]
    command = (sys.executable, "-P", __file__)
    answer = subprocess.run(command, input=json.dumps(listed), capture_output=True, text=True, check=True)
    found: list[int] = json.loads(answer.stdout.splitlines()[-1])
    return found


def run_all(jobs: Sequence[Job]) -> None:
    """Run commands, all of which must succeed."""
    failed = [" ".join(map(str, job)) for job, status in zip(jobs, run(jobs), strict=True) if status]
    assert not failed, failed


def _main() -> None:
    import _pymarian

    ended = []
    for arguments in json.load(sys.stdin):
        child = os.fork()
        if not child:
            status = 1
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                status = _pymarian.main(arguments)
            finally:
                os._exit(status)
        ended.append(os.waitpid(child, 0)[1])
    sys.stdout.write(json.dumps(ended))


if __name__ == "__main__":
    _main()
