"""Work that the processes of one run share: heads or layers, dealt to whoever is free, collected by the leader.

Several processes are those of torchrun, or of whatever sets RANK, WORLD_SIZE and MASTER_ADDR. They talk through torch's
key-value store only, which every one of them polls: so Ctrl-C and the failure of another process are noticed while
waiting, which a collective operation would not allow.
"""

import itertools
import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nmtprune.architecture import Architecture, GroupId, UnitId
from nmtprune.errors import NmtpruneError, UsageError
from nmtprune.progress import Progress
from nmtprune.runs.state import State

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

UNIT_OPERATIONS = 1e13
"""Multiplications and additions from which on heads are kept one by one: a minute or so of a processor's core."""

_POLL_S = 0.05
_PREFIX = "nmtprune"


@dataclass(frozen=True)
class Unit:
    """Heads of one module, or a layer of a stack, on one set of sentences.

    Attributes:
        data: which set.
        group: the module or stack.
        numbers: some of its heads, or a layer.
        every: all numbers of the group.
    """

    data: str
    group: GroupId
    numbers: tuple[int, ...]
    every: tuple[int, ...]

    @property
    def name(self) -> str:
        """Which heads, for people: ``encoder.0``, ``encoder.0.3`` or ``encoder.0.0-3``."""
        first, last = self.numbers[0], self.numbers[-1]
        if len(self.numbers) == len(self.every):
            return str(self.group)
        return str(UnitId(self.group, first)) if first == last else f"{self.group}.{first}-{last}"

    @property
    def key(self) -> str:
        """Name among all units."""
        return f"{self.data} {self.name}"


def heads_together(architecture: Architecture, parameters: int, tokens: int) -> int:
    """How many heads of a module make a unit: as many as a large one has where heads are cheap, one where they are not.

    It depends on the model and on the data only, so that what shares a batch is the same for any number of processes.

    Args:
        architecture: the model's modules.
        parameters: of the model.
        tokens: that a search decodes, and source tokens.
    """
    largest = max((module.heads for module in architecture), default=1)
    return max(1, min(largest, int(UNIT_OPERATIONS / max(1, 2 * parameters * tokens))))


def units(data: str, groups: Mapping[GroupId, Sequence[int]], together: int) -> Iterator[Unit]:
    """All heads of some modules, cut into units, and all layers of some stacks, one by one: these share nothing."""
    for group, every in groups.items():
        size = 1 if group.sort == "layers" else together
        for first in range(0, len(every), size):
            yield Unit(data, group, tuple(every[first : first + size]), tuple(every))


def of_best_heads(data: str, groups: Mapping[GroupId, Sequence[int]], best: Mapping[str, int]) -> tuple[Unit, ...]:
    """One head of every module."""
    return tuple(Unit(data, group, (best[str(group)],), tuple(every)) for group, every in groups.items())


class ProcessFailed(NmtpruneError):
    """Another process failed and says why; this one ends with the same exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Processes(ABC):
    """The processes of a run as one of them sees them.

    Attributes:
        rank: number of this process; 0 leads: it keeps the state, writes the output and talks to the user.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @abstractmethod
    def share(self, name: str, value: Any = None) -> Any:
        """Give everyone the leader's JSON value; nobody goes on before all are here."""

    @abstractmethod
    def deal(self, name: str, count: int) -> Iterator[int]:
        """Numbers below `count` that are this process's to work on; each is dealt to one process, when it is free."""

    @abstractmethod
    def hand_in(self, name: str, content: bytes) -> None:
        """Give the leader the result of a unit."""

    @abstractmethod
    def handed_in(self, names: Sequence[str]) -> dict[str, bytes]:
        """For the leader: which of these results of others are there by now."""

    @abstractmethod
    def check(self) -> None:
        """Raise ProcessFailed where another process has failed."""

    @abstractmethod
    def ending_together(self) -> AbstractContextManager[None]:
        """A failure in the block ends all processes with its exit code; the first to fail explains it to the user."""

    @abstractmethod
    def finish(self) -> None:
        """Wait until the leader is done too: a process that leaves early would hide its failure."""

    def pause(self) -> None:
        """Wait a moment for the others.

        Raises:
            ProcessFailed: one of them has failed.
        """
        self.check()
        time.sleep(_POLL_S)


class Alone(Processes):
    """The only process."""

    def share(self, name: str, value: Any = None) -> Any:
        """The value itself."""
        return value

    def deal(self, name: str, count: int) -> Iterator[int]:
        """All numbers."""
        yield from range(count)

    def hand_in(self, name: str, content: bytes) -> None:
        """Nobody but this process takes results."""

    def handed_in(self, names: Sequence[str]) -> dict[str, bytes]:
        """Nobody else has results."""
        return {}

    def check(self) -> None:
        """Nobody else can fail."""

    def ending_together(self) -> AbstractContextManager[None]:
        """Nobody else has to end."""
        return nullcontext()

    def finish(self) -> None:
        """Nobody to wait for."""


class Joined(Processes):
    """One of several processes with a common store."""

    def __init__(self, store: "Store", rank: int, size: int) -> None:
        from torch.distributed.distributed_c10d import PrefixStore

        self._store, self.rank, self.size = PrefixStore(_PREFIX, store), rank, size

    def share(self, name: str, value: Any = None) -> Any:
        """Give everyone the leader's value, through the store."""
        if self.leads:
            self._store.set(f"value/{name}", json.dumps(value))
        self._store.set(f"here/{name}/{self.rank}", "")
        self._await([f"value/{name}", *(f"here/{name}/{rank}" for rank in range(self.size))])
        return json.loads(self._store.get(f"value/{name}"))

    def deal(self, name: str, count: int) -> Iterator[int]:
        """Numbers from a common counter."""
        for _ in itertools.repeat(None):
            self.check()
            number = self._store.add(f"dealt/{name}", 1) - 1
            if number >= count:
                return
            yield number

    def hand_in(self, name: str, content: bytes) -> None:
        """Put a result into the store."""
        self._store.set(f"result/{name}", content)  # type: ignore[arg-type]

    def handed_in(self, names: Sequence[str]) -> dict[str, bytes]:
        """Take results out of the store."""
        there = [name for name in names if self._store.check([f"result/{name}"])]
        found = {name: self._store.get(f"result/{name}") for name in there}
        for name in there:
            self._store.delete_key(f"result/{name}")
        return found

    def check(self) -> None:
        """Look for the failure of another process."""
        if self._store.check(["failed"]):
            failure = json.loads(self._store.get("failed"))
            raise ProcessFailed(f"process {failure['rank']} failed: {failure['message']}", failure["exit_code"])

    @contextmanager
    def ending_together(self) -> Iterator[None]:
        """Post the first failure; whoever fails after it ends silently, with the exit code of that failure."""
        from torch.distributed import DistError

        try:
            yield
        except ProcessFailed:
            raise
        except DistError as error:
            raise ProcessFailed(f"the connection between the processes broke: {error}", 1) from error
        except BaseException as error:
            # compare_set answers with what is there afterwards.
            own = json.dumps({"rank": self.rank, "exit_code": _exit_code(error), "message": str(error)})
            if self._store.compare_set("failed", "", own).decode() != own:
                self.check()
            raise

    def finish(self) -> None:
        """The leader leaves last: it may be the one that holds the store."""
        if self.leads:
            self._store.set("finished", "")
            self._await([f"left/{rank}" for rank in range(1, self.size)])
        else:
            self._await(["finished"])
            self._store.set(f"left/{self.rank}", "")

    def _await(self, keys: list[str]) -> None:
        while not self._store.check(keys):
            self.pause()


def processes() -> Processes:
    """The processes that the environment describes; this one alone where it describes none.

    Raises:
        UsageError: the environment is contradictory.
    """
    if os.environ.get("WORLD_SIZE", "1") in ("", "1"):
        return Alone()
    from torch.distributed import DistError
    from torch.distributed.rendezvous import rendezvous

    try:
        store, rank, size = next(rendezvous("env://"))
    except (ValueError, DistError) as error:
        raise UsageError(f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but: {error} (start with torchrun)") from error
    return Joined(store, rank, size)


def local_rank() -> int:
    """Number of this process among those of its machine, from 0: which GPU is its own."""
    text = os.environ.get("LOCAL_RANK", "0")
    return int(text) if text.isdigit() else 0


def _exit_code(error: BaseException) -> int:
    if isinstance(error, NmtpruneError):
        return error.exit_code
    return 130 if isinstance(error, KeyboardInterrupt) else 1


class Collector:
    """Results of this process and, for the leader, of all others."""

    def __init__(
        self, own: Processes, state: State | None, stage: str, units: Sequence[Unit], progress: Progress
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
            progress.begin(stage, sum(len(unit.numbers) for unit in units))

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
            self._progress.advance(unit.name, len(unit.numbers))
