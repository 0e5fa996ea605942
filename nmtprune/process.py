"""Child processes: commands, shown for copying, run with a log or for what they print, stopped with their parent."""

import ctypes
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from nmtprune.errors import EngineError, NmtpruneError

GRACE_S = 5.0
"""Seconds that a child has to end after an interrupt before it is killed."""

_PR_SET_PDEATHSIG = 1
_WIDTH = 110
_TAIL_LINES = 200
_CALLBACK_S = 0.01
_ERROR = "Error: "
_RAISED = re.compile(r"[\w.]*(Error|Exception|Interrupt)\b(:|$)|[\w-]+: error: ")
_STAMP = re.compile(r"^\[\d{4}-\d\d-\d\d [^\]]*\] *")


@dataclass(frozen=True)
class ProgressUpdate:
    """How far a running command is.

    Attributes:
        fraction: between 0 and 1; None where that is not known.
        text: what to show next to it.
    """

    fraction: float | None
    text: str


Watcher = Callable[[str], ProgressUpdate | None]
"""Reads a line of a command's output and returns how far it is; None for a line that does not say."""


@dataclass(frozen=True)
class Command:
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


class CommandFailed(Exception):
    """A command that failed: why in one line, and what a reader needs to look into it."""

    def __init__(self, reason: NmtpruneError, command: Command, log: Path) -> None:
        super().__init__(str(reason))
        self.reason, self.command, self.log = reason, command, log


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


def run_command(
    command: Command,
    log: Path,
    watched: Callable[[ProgressUpdate], None] | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a command to its end, its output in `log`.

    Args:
        command: with a watcher, if its progress is shown.
        log: file that is written.
        watched: gets the updates of the watcher.
        environment: of the command; None: that of this process.

    Raises:
        CommandFailed: it could not be started or ended with another status than 0.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP; the command and its children have ended then.
    """
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    with log.open("w", encoding="utf-8") as record, _output(command) as stdout:
        record.write(f"$ {command.text}\n")
        record.flush()
        to_log, to_file = (subprocess.PIPE, subprocess.STDOUT), (stdout, subprocess.PIPE)
        try:
            child = _start(command.argv, *(to_log if stdout is None else to_file), environment)
        except EngineError as error:
            raise CommandFailed(error, command, log) from None
        with _stopped_at_the_end(child):
            for line in child.stdout or child.stderr or ():
                tail.append(line)
                record.write(line)
                record.flush()
                update = command.watch(line) if command.watch else None
                if update is not None and watched is not None:
                    watched(update)
            status = child.wait()
    if status:
        raise CommandFailed(_reason(command, status, tail), command, log)


def output_of(
    name: str, argv: Sequence[str], environment: Mapping[str, str] | None = None, limit_s: float | None = None
) -> str:
    """What a command prints on standard output.

    Args:
        name: of the command, for messages.
        argv: program and arguments.
        environment: of the command; None: that of this process.
        limit_s: seconds after which it is stopped; None: it may take any time.

    Raises:
        EngineError: it could not be started, took too long, or failed; then the message has the line of standard error
            that says why.
        KeyboardInterrupt: as for `run_command`.
    """
    child = _start(argv, subprocess.PIPE, subprocess.PIPE, environment)
    with _stopped_at_the_end(child):
        try:
            printed, said = child.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise EngineError(f"{name} did not end within {limit_s:g} s, and was stopped") from None
    if child.returncode:
        error = _last_error(said.splitlines(), known=child.returncode < 0)
        raise EngineError(f"{name} failed: {error or _ended(child.returncode)}")
    return printed


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


@contextmanager
def termination_as_interrupt(*more: signal.Signals) -> Iterator[None]:
    """Let SIGTERM, which schedulers and torchrun send before they kill, and more signals end the block as Ctrl-C does.

    Only the main thread of a process can do so; in another one they keep their meaning.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def again(lost: "sys.UnraisableHookArgs") -> None:
        # An exception in a callback of a fork or of the garbage collection ends nothing: raise it behind the callback.
        if lost.exc_type is KeyboardInterrupt:
            threading.Timer(_CALLBACK_S, os.kill, (os.getpid(), signal.SIGTERM)).start()
        else:
            hook(lost)

    main = threading.current_thread() is threading.main_thread()
    own = (signal.SIGTERM, *more) if main else ()
    before = {number: signal.signal(number, interrupt) for number in own}
    hook = sys.unraisablehook
    if main:
        sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(
    argv: Sequence[str], stdout: int | None, stderr: int, environment: Mapping[str, str] | None
) -> "subprocess.Popen[str]":
    """A running command; EngineError if it cannot be started."""
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=environment,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
    except OSError as error:
        raise EngineError(f"{argv[0]} cannot be started: {error.strerror}") from None


def _end_with_parent() -> None:
    """In the child: be ended when the parent is killed, which cannot end it; a resumed run would write beside it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def _output(command: Command) -> Iterator[int | None]:
    if command.stdout is None:
        yield None
        return
    with command.stdout.open("xb") as file:
        yield file.fileno()


@contextmanager
def _stopped_at_the_end(child: "subprocess.Popen[str]") -> Iterator[None]:
    """Stop the child and its children when the block is left early, and take SIGTERM and SIGHUP for Ctrl-C meanwhile.

    The child has a session of its own: it would not get the terminal's Ctrl-C, and what it starts can be stopped too.
    """
    with termination_as_interrupt(signal.SIGHUP):
        try:
            yield
        except BaseException:
            _stop(child)
            raise


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


def _reason(command: Command, status: int, lines: Iterable[str]) -> NmtpruneError:
    """One line that says why the command failed, of the class whose exit code is documented for it."""
    said = _last_error(lines)
    message = f"{command.name} failed ({_ended(status)})" + (f": {said}" if said else "")
    if command.error is not None:
        return command.error(message)
    classes = {kind.exit_code: kind for kind in _subclasses(NmtpruneError)}
    return classes.get(status, NmtpruneError)(message)


def _ended(status: int) -> str:
    """How a process ended, by its exit status or the signal that killed it."""
    if status >= 0:
        return f"exit status {status}"
    return f"killed by {signal.Signals(-status).name}" + ("; out of memory?" if -status == signal.SIGKILL else "")


def _subclasses(kind: type[NmtpruneError]) -> Iterator[type[NmtpruneError]]:
    for child in kind.__subclasses__():
        yield from _subclasses(child)
        yield child


def _last_error(lines: Iterable[str], *, known: bool = False) -> str:
    """The line that explains a failure: what a program calls an error, else the last line that says anything.

    Marian stamps its lines and says its error before a stack; of tracebacks the last line is the one.

    Args:
        lines: what the program said.
        known: a signal explains the failure unless the program calls something an error.
    """
    said = [_STAMP.sub("", line.strip()) for line in lines if line.strip()]
    plain = [line.removeprefix(_ERROR) for line in said if line.startswith(_ERROR)]
    raised = [line for line in said if _RAISED.match(line)]
    return (plain[:1] or raised[-1:] or ([] if known else said[-1:]) or [""])[0]


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
