"""The state file of a run: the results of finished units and the settings that they belong to.

It is a zip archive beside the output of a command, or a JSON file in a run folder.
"""

import base64
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmtprune import files
from nmtprune.errors import NmtpruneError, OutputError
from nmtprune.strictjson import show

Arrays = Mapping[str, NDArray[Any]]
"""The result of a unit: arrays by name."""

Settings = Mapping[str, Any]
"""What results depend on, JSON values by the name that a message uses; two runs agree where these are equal."""

SUFFIX = ".state"
_SETTINGS = "settings.json"
_JSON = ".json"
_START_OVER = "start over with --force and without --resume"
FORMAT = {"format": "nmtprune-state", "version": 2}

NO_SETTING: Mapping[str, Any] = {"option": None}
"""Metadata of dataclass fields that results do not depend on, or that a state names in another way."""


class Interrupted(NmtpruneError):
    """The user or the system ended a run that can go on."""

    exit_code = 130


def settings_of(values: Any) -> dict[str, Any]:
    """What results depend on: every field of a dataclass by the name of its option, nested dataclasses included.

    ``max_drop`` is ``--max-drop``, unless the metadata of the field have another ``option``. Fields are settings unless
    they are marked with `NO_SETTING`; that is right for outputs and threads, and for files, which must be named by
    their content.
    """
    found: dict[str, Any] = {}
    for field in fields(values):
        value = getattr(values, field.name)
        option = field.metadata.get("option", "--" + field.name.replace("_", "-"))
        if option is not None and is_dataclass(value):
            found |= settings_of(value)
        elif option is not None:
            found[option] = _as_json(value)
    return found


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_as_json(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def pack(arrays: Arrays) -> bytes:
    """A result as bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def unpack(content: bytes) -> dict[str, NDArray[Any]]:
    """A result from its bytes.

    Raises:
        ValueError, OSError, zipfile.BadZipFile: damaged bytes.
    """
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


class State:
    """Results of finished units, on disk after every `add`."""

    def __init__(self, path: Path, settings: Settings, units: dict[str, bytes] | None = None) -> None:
        self.path = path
        self._settings = {**FORMAT, **settings}
        self._units = units or {}

    @classmethod
    def open(cls, path: Path, settings: Settings, *, resume: bool) -> "State":
        """The state that an interrupted run of the same settings left, where `resume` asks for it; else a new one.

        Raises:
            OutputError: the state is damaged, of another version of nmtprune, or of a run with other settings: all
                differences are named.
        """
        new = cls(path, settings)
        if not (resume and path.exists()):
            return new
        there, units = saved_state(path)
        if any(there.get(name) != value for name, value in FORMAT.items()):
            raise OutputError(f"{path}: written by another version of nmtprune, which cannot be resumed; {_START_OVER}")
        differences = _differences(there, new._settings)
        if differences:
            where = f"{path}: of a run with other settings (repeat them, or {_START_OVER})"
            raise OutputError.of_faults(where, differences)
        return cls(path, settings, units)

    @property
    def units(self) -> tuple[str, ...]:
        """Names of the finished units."""
        return tuple(self._units)

    def __contains__(self, unit: str) -> bool:
        """Whether a unit is finished."""
        return unit in self._units

    def __getitem__(self, unit: str) -> dict[str, NDArray[Any]]:
        """Result of a finished unit."""
        return unpack(self._units[unit])

    def add(self, unit: str, packed: bytes) -> None:
        """Keep the result of a unit, on disk too.

        Raises:
            OutputError: the file cannot be written; the old one is unchanged.
        """
        self._units[unit] = packed
        if self.path.suffix == _JSON:
            units = {name: base64.b64encode(content).decode() for name, content in self._units.items()}
            files.write_text(self.path, json.dumps({**self._settings, "units": units}, indent=1) + "\n", force=True)
            return
        with (
            files.atomic_output(self.path, force=True) as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
        ):
            archive.writestr(_SETTINGS, json.dumps(self._settings))
            for name, content in self._units.items():
                archive.writestr(name, content)

    def keep_same(self, unit: str, arrays: Arrays) -> None:
        """Keep what the full model gives, or check that it gives what it gave before: results would not fit together.

        Raises:
            OutputError: it gives something else, or the file cannot be written.
        """
        if unit not in self:
            self.add(unit, pack(arrays))
            return
        there = self[unit]
        if any(not np.array_equal(there[name], arrays[name]) for name in arrays):
            raise OutputError(
                f"{self.path}: the full model gives other results now than when the run was interrupted: go on with "
                "the same machine and versions, or start over with --force and without --resume"
            )

    def remove(self) -> None:
        """Delete the file: the run is over."""
        self.path.unlink(missing_ok=True)


def state_path(output: Path) -> Path:
    """Where the run that writes `output` keeps its state: beside it."""
    return output.with_name(output.name + SUFFIX)


def check_state(output: Path, *, resume: bool, force: bool) -> None:
    """Check that no interrupted run is forgotten.

    Raises:
        OutputError: there is a state, and neither option says what to do with it.
    """
    path = state_path(output)
    if path.exists() and not (resume or force):
        raise OutputError(f"{path}: an interrupted run left its state: --resume continues it, --force starts over")


def saved_state(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Settings of a state file, with its format and version, and its packed units.

    Raises:
        OutputError: it cannot be read, or is damaged.
    """
    try:
        settings, content = _read_json(path) if path.suffix == _JSON else _read_archive(path)
        for packed in content.values():
            unpack(packed)
    # zipfile and numpy raise many kinds of errors for damaged bytes, zlib.error and struct.error among them.
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "damaged, or no state file"
        raise OutputError(f"{path}: cannot be read: {reason}; {_START_OVER}") from error
    return settings, content


def _read_archive(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    return json.loads(content.pop(_SETTINGS)), content


def _read_json(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    settings = json.loads(path.read_text(encoding="utf-8"))
    units = settings.pop("units")
    return settings, {name: base64.b64decode(content, validate=True) for name, content in units.items()}


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    names = [*here, *(name for name in there if name not in here)]
    return [
        f"{name} was {_shown(there, name)}, is {_shown(here, name)}"
        for name in names
        if there.get(name) != here.get(name)
    ]


def _shown(settings: Mapping[str, Any], name: str) -> str:
    return show(settings[name]) if settings.get(name) is not None else "not given"
