"""Processes of fairseq and Marian without the seconds that a start takes: forks of one that has imported both.

The server is one process per process of pytest. For every command it forks a keeper, which forks the command itself
(in a session of its own) and reports how it ended; when the report is closed, as by the death of pytest, the command is
killed. Commands get their own arguments, files, folder and environment, as if they had been started by a shell.
"""

import atexit
import contextlib
import ctypes
import importlib
import io
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from nmtprune import process

_MODULES = ("fairseq_cli", "pymarian")
_IMPORTED = ("fairseq.trainer", "torch._dynamo", "torch.distributed.fsdp", "pymarian.__main__")
_LONGEST_REQUEST = 1 << 20
_PR_SET_PDEATHSIG = 1
really_start = process._start


class Child:
    """A running command, with what `nmtprune.process` uses of `subprocess.Popen`."""

    def __init__(self, report: socket.socket, stdout: TextIO | None, stderr: TextIO | None) -> None:
        self.stdout, self.stderr = stdout, stderr
        self.pid = int(report.recv(32))
        self.returncode: int | None = None
        self._report = report

    def wait(self, timeout: float | None = None) -> int:
        """Exit status once it has ended; negative for a signal."""
        if self.returncode is None:
            self._report.settimeout(timeout)
            try:
                status = int(self._report.recv(32))
            except TimeoutError:
                raise subprocess.TimeoutExpired("", timeout or 0) from None
            self.returncode = os.waitstatus_to_exitcode(status)
            self._report.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that it prints on both pipes; nobody limits the time of a command of a toolkit."""
        if timeout is not None:
            raise NotImplementedError("a limit of time for a command of fairseq or Marian")
        printed, said = (io.TextIOWrapper(io.BytesIO(each), "utf-8", "replace").read() for each in self.output())
        self.wait()
        return printed, said

    def output(self) -> tuple[bytes, bytes]:
        """All that it prints on both pipes, as it is."""
        with ThreadPoolExecutor(2) as pool:
            printed, said = pool.map(lambda pipe: pipe.buffer.read() if pipe else b"", (self.stdout, self.stderr))
        return printed, said


def start(argv: Sequence[str], stdout: int | None, stderr: int, environment: Mapping[str, str] | None) -> Any:
    """What starts the commands of `nmtprune.process` in tests: from the server if it is one of fairseq or Marian."""
    if _callee(argv) is None:
        return really_start(argv, stdout, stderr, environment)
    opened: list[int] = []

    def pipe(wanted: int | None) -> tuple[TextIO | None, int]:
        if wanted != subprocess.PIPE:
            return None, wanted if wanted is not None else 1
        read, write = os.pipe()
        opened.append(write)
        return os.fdopen(read, encoding="utf-8", errors="replace"), write

    out, out_file = pipe(stdout)
    err, err_file = (None, out_file) if stderr == subprocess.STDOUT else pipe(stderr)
    report, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # each answer is read alone
    request = {"argv": list(argv), "cwd": os.getcwd(), "environment": dict(environment or os.environ)}
    socket.send_fds(_server()[0], [json.dumps(request).encode()], [out_file, err_file, theirs.fileno()])
    theirs.close()
    for file in opened:
        os.close(file)
    return Child(report, out, err)


def run(*argv: object) -> "subprocess.CompletedProcess[bytes]":
    """Run a command of fairseq or Marian to its end; what it prints is captured."""
    words = list(map(str, argv))
    child: Child = start(words, subprocess.PIPE, subprocess.PIPE, None)
    printed, said = child.output()
    return subprocess.CompletedProcess(words, child.wait(), printed, said)


def _callee(argv: Sequence[str]) -> tuple[str, Sequence[str]] | None:
    """Module of a command of fairseq or Marian, and its arguments; None for any other command."""
    beside = Path(argv[0]).absolute().parent == Path(sys.executable).parent
    name = Path(argv[0]).name
    if beside and name.startswith("fairseq-"):
        return f"fairseq_cli.{name.removeprefix('fairseq-').replace('-', '_')}", argv[1:]
    if beside and name == "pymarian":
        return "pymarian", argv[1:]
    if argv[0] == sys.executable and list(argv[1:3]) == ["-P", "-m"] and argv[3].split(".")[0] in _MODULES:
        return argv[3], argv[4:]
    return None


def wait_for_commands() -> None:
    """Return once no command runs: those of a process that was killed are killed a moment later."""
    if _server.cache_info().currsize:
        process = _server()[1].pid
        while Path(f"/proc/{process}/task/{process}/children").read_text():
            time.sleep(0.005)


@cache
def _server() -> tuple[socket.socket, "subprocess.Popen[bytes]"]:
    """The connection to the server, and its process, which ends with the connection."""
    own, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-P", __file__, str(theirs.fileno())]
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, pass_fds=[theirs.fileno()], env={**os.environ, "PYTHONPATH": path}, **quiet)
    theirs.close()
    atexit.register(lambda: (own.close(), server.wait()))
    return own, server


def _serve(requests: socket.socket) -> None:
    from tests.support.fairseq_files import fairseq_config

    for name in _IMPORTED:
        importlib.import_module(name)
    fairseq_config(Path("data"), arch="transformer")  # most settings of any command are parsed by that
    logging.getLogger().handlers.clear()  # fairseq_cli sets up logging, each command in its own way, if nothing has

    signal.signal(signal.SIGCHLD, _wait_for_keepers)  # so that their CPU time counts as that of the tests
    while True:
        request, files, _, _ = socket.recv_fds(requests, _LONGEST_REQUEST, 3)
        if not request:
            return
        if not os.fork():
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _keep(json.loads(request), *files)
        for file in files:
            os.close(file)


def _wait_for_keepers(*_: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _keep(request: dict[str, Any], stdout: int, stderr: int, report: int) -> None:
    """Fork the command and report its process and how it ended; kill it if nobody waits for that."""
    child = os.fork()
    if not child:
        os.close(report)
        _become(request, stdout, stderr)
    os.close(stdout)
    os.close(stderr)
    os.setsid()  # not to be ended by a signal to the group of pytest before the command
    with socket.socket(fileno=report) as answers:
        answers.send(str(child).encode())
        ended = os.pidfd_open(child)
        if ended not in select.select([answers, ended], [], [])[0]:
            os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(BrokenPipeError):
            answers.send(str(status).encode())
    os._exit(0)


def _become(request: dict[str, Any], stdout: int, stderr: int) -> None:
    """Run the command in this process, and end as Python would."""
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    status = 1
    try:
        _call(request["argv"])
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except KeyboardInterrupt:
        traceback.print_exc()
        sys.stdout.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _call(argv: list[str]) -> None:
    import torch

    from tests.support.fairseq_settings import composed_quickly

    callee = _callee(argv)
    assert callee is not None
    name, arguments = callee
    module = importlib.import_module("pymarian.__main__" if name == "pymarian" else name)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    sys.argv = [argv[0] if len(arguments) == len(argv) - 1 else str(module.__file__), *arguments]
    main: Callable[[], object] = module.main if name == "pymarian" else module.cli_main
    with composed_quickly():
        sys.exit(main())


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
