"""What Marian writes beside a model for its decoder, ``MODEL.npz.decoder.yml``: vocabularies, options of the search."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from nmtprune.errors import CheckpointError

ENDING = ".decoder.yml"

_NUMBERS = {"beam-size": "beam", "normalize": "normalize", "word-penalty": "word_penalty"}
_NUMBERS |= {"max-length-factor": "max_length_factor"}
_FLAGS = {"allow-unk": "allow_unk", "allow-special": "allow_special"}


@dataclass(frozen=True)
class DecoderSettings:
    """Settings of Marian's decoder for a model.

    Attributes:
        vocabs: source and target vocabulary; None where they are not named.
        search: options of the search that are set, by the names of the native search.
    """

    vocabs: tuple[Path, Path] | None = None
    search: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def beside(cls, model: Path) -> "DecoderSettings":
        """Read the file beside a model; nothing is set where there is none.

        Raises:
            CheckpointError: it cannot be read, or holds something else; all reasons.
        """
        path = model.with_name(model.name + ENDING)
        if not path.is_file():
            return cls()
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise CheckpointError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
        if not isinstance(values, dict):
            raise CheckpointError(f"{path}: holds no settings of a decoder")
        faults = [
            *(f"{name} is {values[name]!r}, no number" for name in _NUMBERS if not _is_number(values.get(name, 0))),
            *(f"{name} is {values[name]!r}, not true or false" for name in _FLAGS if not _is_flag(values.get(name))),
        ]
        vocabs = values.get("vocabs") or []
        if not isinstance(vocabs, list) or len(vocabs) not in (0, 2) or not all(isinstance(v, str) for v in vocabs):
            faults.append(f"vocabs are {vocabs!r}, not a source and a target vocabulary")
        if faults:
            raise CheckpointError.of_faults(str(path), faults)
        named = {**_NUMBERS, **_FLAGS}
        search = {named[name]: value for name, value in values.items() if name in named and value is not None}
        found = [_found(path.parent, name, relative=bool(values.get("relative-paths"))) for name in vocabs]
        return cls((found[0], found[1]) if found else None, search)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _is_flag(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _found(folder: Path, name: str, *, relative: bool) -> Path:
    """A file: relative to the folder or to the current one, or in the folder, if all was moved there."""
    named = folder / name if relative else Path(name)
    moved = folder / Path(name).name
    return moved if not named.exists() and moved.exists() else named
