"""Writing folders: whole or not at all, wherever a signal or a harder kill meets the writer."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nmtprune.errors import OutputError
from nmtprune.files.folders import check_folder, folder_beside, put_in_place
from nmtprune.files.temporary import SUFFIX

MARKER = "config.json"
WHOLE = {"old": {MARKER: "old", "more": "old"}, "new": {MARKER: "new", "deep/er": "new"}}

WRITER = """
import os, shutil, signal, sys
from pathlib import Path
from nmtprune.files.folders import folder_beside, put_in_place

signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
output, number, phase = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
reached = 0

def end(frame, event, function):
    global reached
    if event == "c_call" and function in (os.mkdir, os.rename, os.replace, os.unlink, os.rmdir):
        reached += 1
        if reached == phase:
            sys.setprofile(None)
            os.kill(os.getpid(), number)

sys.setprofile(end)
with folder_beside(output) as folder:
    (folder / "config.json").write_text("new")
    (folder / "deep").mkdir()
    (folder / "deep" / "er").write_text("new")
    put_in_place(folder, output)
print("written", flush=True)
"""
"""Ends itself by the signal `number` before the `phase`-th change of names."""


def write(output: Path, name: str = "new") -> None:
    with folder_beside(output) as folder:
        for path, text in WHOLE[name].items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(text)
        put_in_place(folder, output)


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def written(output: Path, number: signal.Signals, phase: int) -> bool:
    """Whether a writer came to its end before the phase."""
    done = subprocess.run(
        [sys.executable, "-c", WRITER, output, str(int(number)), str(phase)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, -number), done.stderr
    return "written" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_any_phase_loses_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """The next check gives a lost name back, the next write leaves nothing but the folder; signals leave nothing."""
    out, phase, seen = tmp_path / "out", 1, set()
    while True:
        write(out, "old")
        if written(out, number, phase):
            break
        if number != signal.SIGKILL:
            assert os.listdir(tmp_path) == ["out"]
        with pytest.raises(OutputError, match="exists"):
            check_folder(out, MARKER, "model")
        assert content(out) in WHOLE.values()
        assert os.listdir(tmp_path) == ["out"]
        seen.add(content(out)[MARKER])
        phase += 1
    assert seen == {"old", "new"} and phase > 6


def test_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with folder_beside(out) as folder:
        write(out, "old")
        assert folder.is_dir() and content(out) == WHOLE["old"]
        (folder / MARKER).write_text("new")
        put_in_place(folder, out)
    assert content(out) == {MARKER: "new"} and os.listdir(tmp_path) == ["out"]


def test_what_only_looks_like_a_leftover_stays(tmp_path: Path) -> None:
    names = [f".out.notes{SUFFIX}", f".other.1-0123abcd{SUFFIX}"]
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / f".out.1-0123abcd{SUFFIX}").mkdir()
    write(tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == sorted([*names, "out"])


def test_a_linked_output_keeps_its_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "here").mkdir()
    link = tmp_path / "here" / "link"
    link.symlink_to("../disk/model")
    for name in ("old", "new"):
        write(link, name)
        assert link.is_symlink() and content(tmp_path / "disk" / "model") == WHOLE[name]
        assert os.listdir(tmp_path / "here") == ["link"] and os.listdir(tmp_path / "disk") == ["model"]
    with pytest.raises(OutputError, match="holds the input"):
        check_folder(link, MARKER, "model", force=True, inputs=[tmp_path / "disk" / "model"])


def test_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "out")
        assert (tmp_path / "out").stat().st_mode & 0o7777 == 0o750
        (tmp_path / "out").chmod(0o705)
        write(tmp_path / "out")
        assert (tmp_path / "out").stat().st_mode & 0o7777 == 0o705
    finally:
        os.umask(before)
