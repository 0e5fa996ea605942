"""Runs in processes of their own that share what this one has imported: to be killed, which takes no start-up each."""

import os
import traceback
from collections.abc import Callable

from tests.support import warm


def fork(function: Callable[[], object]) -> int:
    """Call `function` in a fork; the number of the process. It ends with 0, or with 1 and a traceback."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        function()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def ended(process: int) -> int:
    """Exit status of a fork once it and its commands of fairseq and Marian have ended; negative for a signal."""
    _, status = os.waitpid(process, 0)
    warm.wait_for_commands()
    return os.waitstatus_to_exitcode(status)
