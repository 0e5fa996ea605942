"""How it was made: every file with its checksum, every command, the versions."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nmtprune.page.blocks import Block, Code, Row, Section, Table, TableCell
from nmtprune.page.inputs import Source, recorded


def how_it_was_made(sources: Sequence[Source]) -> Section:
    """Files, the commands that made them, and what these commands read."""
    return Section.of("How it was made", _blocks(sources))


def _blocks(sources: Sequence[Source]) -> Iterator[Block]:
    rows: list[Row] = [[source.path, source.what, TableCell(source.sha256 or "", mark="code")] for source in sources]
    yield Table("Files of this page", ("file", "what it is", "SHA-256"), rows)
    made: dict[tuple[str, ...], list[Source]] = {}
    for source in sources:
        words = source.provenance.get("command")
        if isinstance(words, (list, tuple)) and words:
            made.setdefault(tuple(map(str, words)), []).append(source)
    for command, own in made.items():
        written = ", ".join(source.path for source in own)
        yield Code(
            f"Wrote {written}", [*map(shlex.quote, command)], tuple(_facts([source.provenance for source in own]))
        )
    read = {(str(path), str(digest)) for source in sources for path, digest in _inputs(source.provenance)}
    if read:
        inputs: list[Row] = [[path, TableCell(digest, mark="code")] for path, digest in sorted(read)]
        yield Table("What these commands read", ("file", "SHA-256, as the command saw it"), inputs, fold=True)


def _facts(records: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """What is recorded of a command; the times of all its files, the rest of the first."""
    times = sorted({str(own["time"]) for own in records if own.get("time") is not None})
    if times:
        yield "time", " to ".join(dict.fromkeys((times[0], times[-1])))
    made = records[0]
    for name in ("seed", "device", "platform"):
        if made.get(name) is not None:
            yield name, str(made[name])
    if isinstance(made.get("seconds"), (int, float)):
        yield "took", f"{made['seconds']:.0f} s"
    if isinstance(made.get("versions"), Mapping):
        yield "versions", ", ".join(f"{name} {version}" for name, version in made["versions"].items())


def _inputs(made: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Paths and checksums in a provenance, wherever commands put them."""
    for each in (each for key in ("inputs", "checkpoints", "checkpoint") for each in recorded(made, key)):
        if {"path", "sha256"} <= each.keys():
            yield each["path"], each["sha256"]
    if isinstance(made.get("data"), Mapping):
        yield from ((path, digest) for path, digest in made["data"].items() if isinstance(digest, str))
