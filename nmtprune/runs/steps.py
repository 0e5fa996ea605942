"""A step of a pipeline: an ordinary command, shown for copying, run with a log, stopped with its parent."""

import ctypes
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

from nmtprune.errors import EngineError, NmtpruneError

GRACE_S = 5.0
"""Seconds that a child has to end after an interrupt before it is killed."""

_PR_SET_PDEATHSIG = 1
_WIDTH = 110
_TAIL_LINES = 200


@dataclass(frozen=True)
class Update:
    """How far a running command is.

    Attributes:
        fraction: between 0 and 1; None where that is not known.
        text: what to show beside it.
    """

    fraction: float | None
    text: str


Watcher = Callable[[str], Update | None]
"""Reads a line of a command's output and returns how far it is; None for a line that does not say."""


class Display(Protocol):
    """Where the steps are shown."""

    def begin(self, number: int, total: int, step: "Step", text: str) -> None:
        """A step begins; `text` is its command as a reader may type it."""

    def update(self, update: Update) -> None:
        """The command is so far."""

    def end(self, seconds: float) -> None:
        """The step has ended well."""

    def halt(self) -> None:
        """The step has failed or was interrupted."""


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: short and without blanks, for the log file.
        title: what it does, for people.
        argv: program and arguments.
        stdout: file for its standard output; None where that belongs into the log.
        watch: reads progress from the lines of the log.
        error: class of the failure; None for programs whose exit code says it.
    """

    name: str
    title: str
    argv: tuple[str, ...]
    stdout: Path | None = None
    watch: Watcher | None = None
    error: type[NmtpruneError] | None = None

    @property
    def text(self) -> str:
        """The command for a shell, long ones on several lines: splitting it gives `argv` and the redirection."""
        words = [shlex.quote(word) for word in self.argv]
        if self.stdout is not None:
            words += [">", shlex.quote(str(self.stdout))]
        return _wrapped(words)


class StepFailed(Exception):
    """A command that failed: why in one line, and what a reader needs to look into it."""

    def __init__(self, reason: NmtpruneError, step: Step, log: Path) -> None:
        super().__init__(str(reason))
        self.reason, self.step, self.log = reason, step, log


def program(name: str) -> str:
    """Path of an installed program: beside this Python, else on PATH; relative where it lies below the folder.

    Raises:
        EngineError: it is not installed.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which(name)
    if found is None:
        package = "nmtprune[fairseq]" if name.startswith("fairseq") else "nmtprune"
        raise EngineError(f"{name} is not installed: pip install '{package}'")
    return shown(Path(found))


def python(module: str) -> tuple[str, ...]:
    """This Python and a module to run."""
    return (shown(Path(sys.executable)), "-m", module)


def shown(path: Path) -> str:
    """A path relative to the current folder where it lies below it, links not followed."""
    absolute = Path(os.path.abspath(path))
    here = Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)


def run_step(
    step: Step, log: Path, display: Display | None = None, environment: Mapping[str, str] | None = None
) -> None:
    """Run a command to its end, its output in `log`.

    Raises:
        StepFailed: it could not be started or ended with another status than 0.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP; the command and its children have ended then.
    """
    with log.open("w", encoding="utf-8") as record, _output(step) as stdout:
        record.write(f"$ {step.text}\n")
        record.flush()
        for line in _lines(step, stdout, environment, log):
            record.write(line)
            record.flush()
            update = step.watch(line) if step.watch else None
            if update is not None and display is not None:
                display.update(update)


def _lines(step: Step, stdout: int | None, environment: Mapping[str, str] | None, log: Path) -> Iterator[str]:
    """Lines of the running command; StepFailed at the end if its status is not 0."""
    try:
        child = subprocess.Popen(
            step.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=subprocess.STDOUT if stdout is None else subprocess.PIPE,
            env=environment,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
    except OSError as error:
        reason = EngineError(f"{step.argv[0]} cannot be started: {error.strerror}")
        raise StepFailed(reason, step, log) from None
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    with _stopped_at_the_end(child):
        for line in child.stdout or child.stderr or ():
            tail.append(line)
            yield line
        status = child.wait()
    if status:
        raise StepFailed(_reason(step, status, tail), step, log)


def _end_with_parent() -> None:
    """In the child: be ended when the parent is killed, which cannot end it; a resumed run would write beside it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def _output(step: Step) -> Iterator[int | None]:
    if step.stdout is None:
        yield None
        return
    with step.stdout.open("xb") as file:
        yield file.fileno()


@contextmanager
def _stopped_at_the_end(child: "subprocess.Popen[str]") -> Iterator[None]:
    """Stop the child and its children when the block is left early, and take SIGTERM and SIGHUP for Ctrl-C meanwhile.

    The child has a session of its own: it would not get the terminal's Ctrl-C, and what it starts can be stopped too.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    caught = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except BaseException:
        _stop(child)
        raise
    finally:
        for number, old in caught.items():
            signal.signal(number, old)


def _stop(child: "subprocess.Popen[str]") -> None:
    """End a process group, ever harder; who presses Ctrl-C again waits no longer."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)
        with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            child.wait(GRACE_S)
            break
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def _reason(step: Step, status: int, lines: Iterable[str]) -> NmtpruneError:
    """One line that says why the command failed, of the class whose exit code is documented for it."""
    ended = f"exit status {status}"
    if status < 0:
        ended = f"killed by {signal.Signals(-status).name}" + ("; out of memory?" if status == -signal.SIGKILL else "")
    said = _last_error(lines)
    message = f"{step.name} failed ({ended})" + (f": {said}" if said else "")
    if step.error is not None:
        return step.error(message)
    classes = {kind.exit_code: kind for kind in _subclasses(NmtpruneError)}
    return classes.get(status, NmtpruneError)(message)


def _subclasses(kind: type[NmtpruneError]) -> Iterator[type[NmtpruneError]]:
    for child in kind.__subclasses__():
        yield from _subclasses(child)
        yield child


def _last_error(lines: Iterable[str]) -> str:
    """The line that explains a failure: the last that looks like an error, else the last that says anything."""
    stripped = [line.strip() for line in lines if line.strip()]
    pattern = re.compile(r"(Error: |[\w.]*(Error|Exception|Interrupt)\b(:|$)|[\w-]+: error: )")
    errors = [line for line in stripped if pattern.match(line)]
    return (errors or stripped or [""])[-1].removeprefix("Error: ")


def _wrapped(words: Sequence[str]) -> str:
    """Words joined by blanks, broken before an option with a backslash where a line would grow too long."""
    lines = [words[0]]
    groups: list[list[str]] = []
    for word in words[1:]:
        if groups and not word.startswith(("-", ">")) and not (groups[-1][0] == ">" and len(groups[-1]) > 1):
            groups[-1].append(word)
        else:
            groups.append([word])
    for group in groups:
        text = " ".join(group)
        if len(lines[-1]) + len(text) > _WIDTH:
            lines[-1] += " \\"
            lines.append("    " + text)
        else:
            lines[-1] += " " + text
    return "\n".join(lines)
