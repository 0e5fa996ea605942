"""Writing: whole or not at all, whatever goes wrong and whoever kills the writer."""

import errno
import fcntl
import hashlib
import io
import os
import resource
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from nmtprune.errors import DataError, OutputError
from nmtprune.files import atomic_output, check_output, sha256_file, temporary, write_text
from nmtprune.files.temporary import SUFFIX


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file that is there already."""
    path = tmp_path / "out.txt"
    path.write_text("old")
    return path


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def message_of(action: Callable[..., object], *arguments: object, **options: object) -> str:
    with pytest.raises(OutputError) as caught:
        action(*arguments, **options)
    return str(caught.value)


def write(path: Path, data: bytes = b"new", **options: Any) -> None:
    with atomic_output(path, **options) as file:
        file.write(data)


# What is written


def test_new_file(tmp_path: Path) -> None:
    write(tmp_path / "a", b"\x00\xff" * 3_000_000)
    assert (tmp_path / "a").read_bytes() == b"\x00\xff" * 3_000_000
    write_text(tmp_path / "b", "ü\n")
    assert (tmp_path / "b").read_bytes() == "ü\n".encode()
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_output("a")
    write_text("a", "new")
    assert content(tmp_path) == {"a": "new"}


def test_the_file_can_be_sought_and_torch_can_load_it(tmp_path: Path) -> None:
    tensors = {"x": torch.arange(100_000)}
    for legacy in (False, True):
        with atomic_output(tmp_path / "model.pt", force=True) as file:
            torch.save(tensors, file, _use_new_zipfile_serialization=not legacy)
        assert torch.load(tmp_path / "model.pt")["x"].equal(tensors["x"])
    with atomic_output(tmp_path / "a.zip") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x", b"1")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.read("x") == b"1"


def test_nothing_has_the_final_name_before_the_end(old: Path) -> None:
    with atomic_output(old, force=True) as file:
        file.write(b"new")
        file.flush()
        [temporary] = [name for name in os.listdir(old.parent) if name != "out.txt"]
        assert temporary.startswith(f".out.txt.{os.getpid()}-") and temporary.endswith(SUFFIX)
        assert old.read_text() == "old"
    assert content(old.parent) == {"out.txt": "new"}


def test_data_are_on_disk_before_the_name(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def noting(name: str, call: Callable[..., None]) -> Callable[..., None]:
        def noted(*arguments: object) -> None:
            calls.append(name)
            call(*arguments)

        return noted

    monkeypatch.setattr(os, "fsync", noting("fsync", os.fsync))
    monkeypatch.setattr(os, "replace", noting("replace", os.replace))
    write(old, force=True)
    assert calls == ["fsync", "replace", "fsync"]


def test_longest_name(tmp_path: Path) -> None:
    for name in ("n" * 255, "ü" * 127):
        write(tmp_path / name)
        assert (tmp_path / name).read_text() == "new"
    assert "File name too long" in message_of(write, tmp_path / ("n" * 256))
    assert len(os.listdir(tmp_path)) == 2


def test_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "a")
        assert (tmp_path / "a").stat().st_mode & 0o7777 == 0o640
        (tmp_path / "a").chmod(0o604)
        write(tmp_path / "a", force=True)
        assert (tmp_path / "a").stat().st_mode & 0o7777 == 0o604
    finally:
        os.umask(before)


# What is refused


def test_existing_output(old: Path) -> None:
    expected = f"{old}: exists (`force` replaces it)"
    assert message_of(check_output, old) == expected
    assert message_of(write, old) == expected
    assert content(old.parent) == {"out.txt": "old"}
    check_output(old, force=True)
    assert content(old.parent) == {"out.txt": "old"}
    write(old, force=True)
    assert content(old.parent) == {"out.txt": "new"}


def test_output_that_appears_in_the_meantime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.txt"

    def race() -> None:
        with atomic_output(path) as file:
            file.write(b"new")
            path.write_text("other")

    def no_links(*_paths: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    expected = f"{path}: exists by now (`force` replaces it)"
    assert message_of(race) == expected
    assert content(tmp_path) == {"out.txt": "other"}
    monkeypatch.setattr(os, "link", no_links)
    path.unlink()
    assert message_of(race) == expected
    assert content(tmp_path) == {"out.txt": "other"}
    write(tmp_path / "b")
    assert content(tmp_path) == {"out.txt": "other", "b": "new"}


def test_the_input_is_never_the_output(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = old.parent
    (folder / "symbolic").symlink_to(old)
    (folder / "chain").symlink_to("symbolic")
    (folder / "hard").hardlink_to(old)
    (folder / "sub").mkdir()
    (folder / "linked").symlink_to(folder, target_is_directory=True)
    monkeypatch.chdir(folder)
    for output in ("symbolic", "chain", "hard", "sub/../out.txt", "linked/out.txt", "./out.txt", str(old)):
        for source in ("out.txt", "symbolic", "hard"):
            for action in (check_output, write):
                message = message_of(action, Path(output), force=True, inputs=["none", source])
                assert message.startswith(f"{Path(output)}: is the input file")
                assert message.endswith("; nothing is changed in place, choose another output")
    assert message_of(write, old, force=True, inputs=["hard"]).startswith(f"{old}: is the input file hard;")
    assert old.read_text() == "old"


def test_places_that_cannot_be_written(old: Path, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path / "folder", "is a directory; name a file in it"),
        (tmp_path / "none" / "a", f"{tmp_path}/none does not exist"),
        (old / "a", f"{old} is not a folder"),
        (Path("/dev/null"), "is a device or a pipe, not a file ('-' writes to stdout where that is possible)"),
        (tmp_path / "pipe", "is a device or a pipe, not a file ('-' writes to stdout where that is possible)"),
        (tmp_path / "loop", "cannot be written: Too many levels of symbolic links; the old file is unchanged"),
        (tmp_path / "a\0b", "cannot be written: embedded null byte; nothing was written"),
    ):
        for action in (check_output, write):
            for force in (False, True):
                assert message_of(action, path, force=force) == f"{path}: {message}"
    assert old.read_text() == "old"


@contextmanager
def unprivileged() -> Iterator[None]:
    """Run as somebody whom permissions bind; root may write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_folder_that_is_not_writable(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    (folder / "old").write_text("old")
    for parent in (*tmp_path.parents[:3], tmp_path):
        if parent.owner() == tmp_path.owner() and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o055)
    folder.chmod(0o555)
    try:
        with unprivileged():
            for action in (check_output, write):
                assert message_of(action, folder / "new") == (
                    f"{folder}/new: cannot be written: the folder {folder} is not writable; nothing was written"
                )
                assert message_of(action, folder / "old", force=True) == (
                    f"{folder}/old: cannot be written: the folder {folder} is not writable; the old file is unchanged"
                )
    finally:
        folder.chmod(0o755)
    assert content(folder) == {"old": "old"}


# Links as output


def test_a_linked_output_keeps_its_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "file"
    link = tmp_path / "link"
    link.symlink_to("real/file")
    write(link, b"first")
    assert link.is_symlink() and target.read_text() == "first"
    assert "exists" in message_of(write, link)
    write(link, b"second", force=True)
    assert link.is_symlink() and target.read_text() == "second" and os.listdir(tmp_path / "real") == ["file"]


# Failures on the way


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _save_torch(file: Any) -> None:
    torch.save({"x": torch.zeros(1_000_000)}, file)


def _save_old_torch(file: Any) -> None:
    torch.save({"x": torch.zeros(1_000_000)}, file, _use_new_zipfile_serialization=False)


def _save_zip(file: Any) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x", b"1" * 3_000_000)


def _save_bytes(file: Any) -> None:
    file.write(b"1" * 3_000_000)


def _save_little(file: Any) -> None:
    for _ in range(200_000):
        file.write(b"1")


@pytest.mark.parametrize("save", [_save_torch, _save_old_torch, _save_zip, _save_bytes, _save_little])
def test_file_that_grows_too_large(old: Path, save: Callable[[Any], None]) -> None:
    def fill() -> None:
        with file_size_limit(100_000), atomic_output(old, force=True) as file:
            save(file)

    assert message_of(fill) == (
        f"{old}: cannot be written: the limit on the size of a file is exceeded; the old file is unchanged"
    )
    assert content(old.parent) == {"out.txt": "old"}


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "no space left on the disk"),
        (errno.EDQUOT, "the disk quota is exceeded"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_full_disk(old: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str) -> None:
    """The disk takes bytes a few at a time and then none, or fails when it is told to synchronize."""
    expected = f"{old}: cannot be written: {reason}; the old file is unchanged"
    with monkeypatch.context() as patch:
        patch.setattr(temporary, "RecordingFile", type("_", (temporary.RecordingFile, _small_disk(1000, number)), {}))
        for save in (_save_bytes, _save_torch, _save_zip):
            assert message_of(_write_with, old, save) == expected
        assert content(old.parent) == {"out.txt": "old"}
        write(old, b"1" * 900, force=True)
        assert content(old.parent) == {"out.txt": "1" * 900}

    def fail(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    assert message_of(write, old, force=True) == expected
    assert content(old.parent) == {"out.txt": "1" * 900}


def _small_disk(size: int, number: int) -> type[io.FileIO]:
    class SmallDisk(io.FileIO):
        left = size

        def write(self, data: Any) -> int:
            part = bytes(data)[: min(self.left, 300)]
            if not part:
                raise OSError(number, os.strerror(number))
            self.left -= len(part)
            return super().write(part)

    return SmallDisk


def _write_with(path: Path, save: Callable[[Any], None]) -> None:
    with atomic_output(path, force=True) as file:
        save(file)


@pytest.mark.parametrize(
    "error", [RuntimeError("own"), OSError(errno.ENOENT, "an input"), KeyboardInterrupt(), SystemExit(3)]
)
def test_failures_of_the_caller_pass_through(old: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, atomic_output(old, force=True) as file:
        file.write(b"new")
        raise error
    assert caught.value is error
    assert content(old.parent) == {"out.txt": "old"}


def test_an_interruption_that_was_handled_before_is_not_raised_again(old: Path) -> None:
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        with pytest.raises(ValueError, match="^own$"), atomic_output(old, force=True):
            raise ValueError("own")  # noqa: B904


def test_interruption_that_a_writer_turns_into_an_error(old: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_output(old, force=True):
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("unexpected position")
    assert content(old.parent) == {"out.txt": "old"}


# Killed writers

WRITER = """
import sys, time
from nmtprune.files import atomic_output
with atomic_output(sys.argv[1], force=True) as file:
    file.write(b"new" * 1_000_000)
    file.flush()
    print("writing", flush=True)
    time.sleep(60)
"""

TORCH_WRITER = """
import sys, torch
from nmtprune.files import atomic_output
tensors = [torch.zeros(100_000) for _ in range(20)]
class Telling:
    def __init__(self, file):
        self.file, self.written = file, 0
    def write(self, data):
        self.written += 1
        if self.written == 10:
            print("writing", flush=True)
        return self.file.write(data)
    def flush(self):
        self.file.flush()
with atomic_output(sys.argv[1], force=True) as file:
    for _ in range(200):
        torch.save(tensors, Telling(file))
"""


@contextmanager
def writer(path: Path, code: str = WRITER) -> Iterator["subprocess.Popen[str]"]:
    """A process in the middle of writing `path`."""
    # Tests may run where signals are ignored, as under nohup, which children inherit.
    handled = {signal.SIGHUP: "SIG_DFL", signal.SIGTERM: "SIG_DFL", signal.SIGINT: "default_int_handler"}
    lines = (f"signal.signal({number.value}, signal.{handler})\n" for number, handler in handled.items())
    code = "import signal\n" + "".join(lines) + code
    process = subprocess.Popen(
        [sys.executable, "-c", code, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("code", [WRITER, TORCH_WRITER], ids=["bytes", "torch"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_leave_nothing_behind(old: Path, number: signal.Signals, code: str) -> None:
    with writer(old, code) as process:
        assert len(os.listdir(old.parent)) == 2
        process.send_signal(number)
        process.wait()
        assert process.returncode == -number
    assert content(old.parent) == {"out.txt": "old"}


def test_kill_leaves_a_temporary_file_that_the_next_write_removes(old: Path) -> None:
    with writer(old) as process:
        process.kill()
        process.wait()
    assert old.read_text() == "old"
    [leftover] = [name for name in os.listdir(old.parent) if name.endswith(SUFFIX)]
    assert leftover.startswith(f".out.txt.{process.pid}-")
    write(old.parent / "out", b"of another name")
    assert leftover in os.listdir(old.parent)
    write(old, force=True)
    assert content(old.parent) == {"out.txt": "new", "out": "of another name"}


def test_a_living_writer_is_left_alone(old: Path) -> None:
    with writer(old) as process:
        write(old, force=True)
        assert len(os.listdir(old.parent)) == 2
        process.terminate()
        process.wait()
    assert content(old.parent) == {"out.txt": "new"}


def test_leftover_of_a_process_id_that_lives_again(old: Path) -> None:
    """Containers number their processes alike: the lock decides, not the number."""
    for owner in (os.getpid(), 1):
        (old.parent / f".out.txt.{owner}-0123abcd{SUFFIX}").touch()
    (old.parent / f".out.txt.notes{SUFFIX}").touch()
    write(old, force=True)
    assert content(old.parent) == {"out.txt": "new", f".out.txt.notes{SUFFIX}": ""}


def test_file_system_without_locks(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for owner in (os.getpid(), dead.pid):
        (old.parent / f".out.txt.{owner}-0123abcd{SUFFIX}").touch()
    write(old, force=True)
    assert content(old.parent) == {"out.txt": "new", f".out.txt.{os.getpid()}-0123abcd{SUFFIX}": ""}


def test_signal_handlers_are_as_before(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    write(tmp_path / "a")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before


def test_threads_may_write_too(tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=write, args=(tmp_path / f"{number % 2}",), kwargs={"force": True})
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert content(tmp_path) == {"0": "new", "1": "new"}


def test_several_writers_of_one_file_leave_one_whole_file(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom nmtprune.files import write_text\n"
        "for _ in range(20): write_text(sys.argv[1], sys.argv[2] * 100_000, force=True)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a"), str(number)]) for number in range(3)]
    assert [process.wait() for process in writers] == [0, 0, 0]
    assert os.listdir(tmp_path) == ["a"]
    assert len(set((tmp_path / "a").read_text())) == 1


# Hashes


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 10_000_000)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"x" * 10_000_000).hexdigest()
    with pytest.raises(DataError) as caught:
        sha256_file(tmp_path / "b")
    assert str(caught.value) == f"{tmp_path / 'b'}: cannot be read: No such file or directory"


def test_sha256_of_a_folder_is_of_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "model" / "more").mkdir(parents=True)
    (tmp_path / "model" / "a").write_bytes(b"1")
    (tmp_path / "model" / "more" / "b").write_bytes(b"2")
    lines = (f"{hashlib.sha256(own).hexdigest()} {name}\n" for name, own in (("a", b"1"), ("more/b", b"2")))
    found = sha256_file(tmp_path / "model")
    assert found == hashlib.sha256("".join(lines).encode()).hexdigest()
    (tmp_path / "model" / "a").rename(tmp_path / "model" / "c")
    assert sha256_file(tmp_path / "model") != found
