"""Units of work of one run, computed by any of its processes, come together in the state that the leader keeps."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from nmtprune.runs.processes import Processes
from nmtprune.runs.state import State
from nmtprune.runs.units import Unit

if TYPE_CHECKING:
    from nmtprune.runs.progress import Progress


class Collector:
    """Results of this process and, for the leader, of all others."""

    def __init__(
        self, own: Processes, state: State | None, stage: str, units: Sequence[Unit], progress: "Progress"
    ) -> None:
        """Begin the stage that these units are.

        Args:
            own: this process among the others.
            state: where the leader keeps results; None for the others.
            stage: what the progress calls it.
            units: what is to be computed.
            progress: of the leader.
        """
        self._own, self._state, self._progress = own, state, progress
        self._missing = {unit.key: unit for unit in units}
        if state is not None:
            progress.begin(stage, sum(len(unit.heads) for unit in units))

    def add(self, unit: Unit, packed: bytes) -> None:
        """Take the result of a unit of this process."""
        if self._state is None:
            self._own.hand_in(unit.key, packed)
        else:
            self._keep(unit.key, packed)
            self._collect()

    def wait(self) -> None:
        """Collect until the leader misses nothing.

        Raises:
            Ended: another process has failed.
        """
        while self._state is not None and self._missing:
            self._collect()
            if self._missing:
                self._own.pause()

    def _collect(self) -> None:
        for key, packed in self._own.handed_in(list(self._missing)).items():
            self._keep(key, packed)

    def _keep(self, key: str, packed: bytes) -> None:
        if self._state is not None:
            self._state.add(key, packed)
            unit = self._missing.pop(key)
            self._progress.advance(unit.name, len(unit.heads))


@contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """SIGTERM, which schedulers and torchrun send before they kill, ends a run as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
