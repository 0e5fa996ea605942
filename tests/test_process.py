"""Commands that are shown, run, logged, watched, explained when they fail, and stopped with their parent."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nmtprune.errors import CheckpointError, EngineError, NmtpruneError, PlanError, TrainingError
from nmtprune.process import (
    Command,
    CommandFailed,
    ProgressUpdate,
    child_environment,
    output_of,
    program,
    python,
    run_command,
    shown,
)


def _python(code: str, **settings: object) -> Command:
    return Command("step", "A step", (sys.executable, "-c", code), **settings)  # type: ignore[arg-type]


LONG = (
    "program",
    *(word for number in range(20) for word in (f"--option-{number}", "a 'quoted' value", "(0.9, 0.98)")),
)


def test_the_text_is_the_command_for_a_shell() -> None:
    step = Command("step", "A step", LONG)
    lines = step.text.split("\n")
    assert len(lines) > 5
    assert all(line.endswith(" \\") for line in lines[:-1])
    assert max(map(len, lines)) < 120
    assert tuple(shlex.split(step.text.replace("\\\n", ""))) == LONG


def test_the_text_runs_in_a_shell_as_the_step_does(tmp_path: Path) -> None:
    code = "import sys; print(sys.argv[1:])"
    step = Command("step", "", (sys.executable, "-c", code, *LONG), stdout=tmp_path / "with blank")
    subprocess.run(["/bin/sh", "-c", step.text], check=True)
    assert (tmp_path / "with blank").read_text() == f"{list(LONG)}\n"


def test_output_and_command_go_into_the_log(tmp_path: Path) -> None:
    step = _python("import sys; print('out'); print('err', file=sys.stderr)")
    run_command(step, tmp_path / "log")
    first, *rest = (tmp_path / "log").read_text().splitlines()
    assert first.startswith(f"$ {sys.executable} -c")
    assert sorted(rest) == ["err", "out"]


def test_standard_output_can_go_into_a_file_and_overwrites_none(tmp_path: Path) -> None:
    step = _python("import sys; print('out'); print('err', file=sys.stderr)", stdout=tmp_path / "out")
    run_command(step, tmp_path / "log")
    assert (tmp_path / "out").read_text() == "out\n"
    assert (tmp_path / "log").read_text().endswith("\nerr\n")
    with pytest.raises(FileExistsError):
        run_command(step, tmp_path / "log2")


def test_progress_is_read_from_the_log(tmp_path: Path) -> None:
    step = _python(
        "print('1\\n2\\nx')",
        watch=lambda line: ProgressUpdate(int(line) / 2, line.strip()) if line[0] in "12" else None,
    )
    seen: list[ProgressUpdate] = []
    run_command(step, tmp_path / "log", seen.append)
    assert seen == [ProgressUpdate(0.5, "1"), ProgressUpdate(1.0, "2")]


def test_the_environment_is_passed_on(tmp_path: Path) -> None:
    step = _python("import os; print(os.environ['OMP_NUM_THREADS'])", stdout=tmp_path / "out")
    run_command(step, tmp_path / "log", environment=os.environ | {"OMP_NUM_THREADS": "7"})
    assert (tmp_path / "out").read_text() == "7\n"


@pytest.mark.parametrize(
    ("code", "error", "kind", "message"),
    [
        ("print('Error: m.pt: damaged'); exit(3)", None, CheckpointError, "step failed (exit status 3): m.pt: damaged"),
        ("exit(4)", None, PlanError, "step failed (exit status 4)"),
        ("print('words'); exit(77)", None, NmtpruneError, "step failed (exit status 77): words"),
        (
            "print('before'); raise RuntimeError('no space')",
            TrainingError,
            TrainingError,
            "step failed (exit status 1): RuntimeError: no space",
        ),
        (
            "import argparse; argparse.ArgumentParser('fairseq-train').parse_args(['--x'])",
            TrainingError,
            TrainingError,
            "step failed (exit status 2): fairseq-train: error: unrecognized arguments: --x",
        ),
        (
            "import os; os.kill(os.getpid(), 9)",
            TrainingError,
            TrainingError,
            "step failed (killed by SIGKILL; out of memory?)",
        ),
    ],
)
def test_a_failure_is_one_line_of_the_documented_class(
    tmp_path: Path, code: str, error: type[NmtpruneError] | None, kind: type[NmtpruneError], message: str
) -> None:
    step = _python(code, error=error)
    with pytest.raises(CommandFailed) as caught:
        run_command(step, tmp_path / "log")
    assert type(caught.value.reason) is kind
    assert str(caught.value) == message
    assert caught.value.log == tmp_path / "log"


def test_a_program_that_cannot_start(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed) as caught:
        run_command(Command("step", "", (str(tmp_path / "nothing"),)), tmp_path / "log")
    assert str(caught.value) == f"{tmp_path}/nothing cannot be started: No such file or directory"
    assert isinstance(caught.value.reason, EngineError)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print('warning'); print('error: no', file=sys.stderr); exit(2)", "error: no"),
        (
            "print('[2026-01-01 00:00:00] Error: no x\\n[2026-01-01 00:00:00] Error: Aborted', file=sys.stderr)"
            "; sys.stderr.flush(); os.abort()",
            "no x",
        ),
        ("raise RuntimeError('no space')", "RuntimeError: no space"),
        ("exit(3)", "exit status 3"),
        ("os.kill(os.getpid(), 9)", "killed by SIGKILL; out of memory?"),
        ("print('some text', file=sys.stderr, flush=True); os.kill(os.getpid(), 15)", "killed by SIGTERM"),
    ],
)
def test_why_a_program_printed_nothing(code: str, message: str) -> None:
    with pytest.raises(EngineError) as caught:
        output_of("a-program", (sys.executable, "-c", f"import os, sys; {code}"))
    assert str(caught.value) == f"a-program failed: {message}"


def test_what_a_program_prints(tmp_path: Path) -> None:
    code = "import os, sys; print(os.environ['OMP_NUM_THREADS'], 'ä'); print('note', file=sys.stderr)"
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "7"}
    assert output_of("a-program", (sys.executable, "-c", code), environment) == "7 ä\n"
    with pytest.raises(EngineError, match=f"^{tmp_path}/nothing cannot be started: No such file or directory$"):
        output_of("a-program", (str(tmp_path / "nothing"),))


def test_the_environment_of_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert child_environment(gpu=None, threads=None)["OMP_NUM_THREADS"] == "7"
    assert child_environment(gpu=None, threads=3)["OMP_NUM_THREADS"] == "3"
    assert "CUDA_VISIBLE_DEVICES" not in child_environment(gpu=None, threads=3)
    assert child_environment(gpu=1, threads=None)["CUDA_VISIBLE_DEVICES"] == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-5")
    assert child_environment(gpu=1, threads=None)["CUDA_VISIBLE_DEVICES"] == "GPU-5"


PARENT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background of a shell ignores it
from pathlib import Path
import nmtprune.process as process
process.GRACE_S = 0.3
code = '''{child}'''
argv = (sys.executable, "-c", code)
{call}
"""
LOGGED = "process.run_command(process.Command('step', '', argv), Path({log!r}))"
PRINTING = "process.output_of('step', (*argv, {log!r}))"
GRANDCHILDREN = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
where = open(sys.argv[1], "w") if sys.argv[1:] else sys.stdout
print("pids", __import__("os").getpid(), child.pid, file=where, flush=True)
time.sleep(60)
"""
STUBBORN = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + GRANDCHILDREN


@pytest.mark.parametrize(
    ("number", "child", "call"),
    [
        *((number, child, LOGGED) for number in (signal.SIGINT, signal.SIGTERM) for child in (GRANDCHILDREN, STUBBORN)),
        (signal.SIGHUP, STUBBORN, LOGGED),
        (signal.SIGTERM, STUBBORN, PRINTING),
    ],
)
def test_an_interrupt_stops_the_command_and_its_children(
    tmp_path: Path, number: signal.Signals, child: str, call: str
) -> None:
    log = tmp_path / "log"
    code = PARENT.format(child=child, call=call.format(log=str(log)))
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    pids = _pids(log)
    parent.send_signal(number)
    assert parent.wait(20) != 0
    deadline = time.monotonic() + 5
    while any(_runs(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if _runs(pid)]


def _pids(log: Path) -> list[int]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        match = re.search(r"^pids (\d+) (\d+)$", log.read_text(), re.M) if log.exists() else None
        if match:
            return [int(match[1]), int(match[2])]
        time.sleep(0.05)
    pytest.fail("the command did not start")


def _runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_programs_are_those_beside_this_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert Path(program("nmtprune")).resolve() == (Path(sys.executable).parent / "nmtprune").resolve()
    monkeypatch.chdir(Path(sys.executable).parent)
    assert python("nmtprune.demo") == (Path(sys.executable).name, "-m", "nmtprune.demo") or "/" in python("x")[0]
    monkeypatch.chdir(Path(sys.executable).parent.parent)
    assert program("nmtprune") == "bin/nmtprune"
    with pytest.raises(EngineError) as caught:
        program("fairseq-nothing")
    assert str(caught.value) == "fairseq-nothing is not installed: pip install 'nmtprune[fairseq]'"


def test_paths_below_the_folder_are_shown_relative(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown(tmp_path / "a" / "b") == "a/b"
    assert shown(Path("a")) == "a"
    assert shown(Path("/elsewhere/a")) == "/elsewhere/a"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with a killed parent")
def test_a_killed_run_leaves_no_command_behind(tmp_path: Path) -> None:
    """It would go on writing into the folder in which a resumed run trains."""
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    code = (
        "import sys; from pathlib import Path; from nmtprune.process import Command, run_command; "
        f"run_command(Command('s', 'S', (sys.executable, '-c', {child!r})), Path({str(tmp_path / 'log')!r}))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline and parent.poll() is None
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    pid = int((tmp_path / "pid").read_text())
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


_INTERRUPTED_IN_A_CALLBACK = """
import os, signal, sys, time
from nmtprune.process import termination_as_interrupt

class Ended:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.001)

with termination_as_interrupt():
    try:
        ended = Ended()
        del ended
        time.sleep(30)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def test_a_termination_during_a_callback_is_not_lost() -> None:
    """Python only prints what is raised in a finalizer or around a fork; the run must end all the same."""
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED_IN_A_CALLBACK], capture_output=True, text=True, timeout=25
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "")


DURING_THE_FORK = """
import os, signal, sys
from nmtprune.process import output_of, termination_as_interrupt
number = signal.Signals(int(sys.argv[1]))
signal.signal(signal.SIGINT, signal.default_int_handler)
os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), number))
try:
    with termination_as_interrupt(signal.SIGHUP):
        output_of("sleeper", (sys.executable, "-c", "import time; time.sleep(60)"))
except KeyboardInterrupt:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        print("interrupted, and no child is left")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_start_is_not_lost(number: signal.Signals) -> None:
    command = [sys.executable, "-c", DURING_THE_FORK, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted, and no child is left\n", "")
