"""What nmtprune writes down beside a model's parameters: lineage, and zero units that pad it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nmtprune import strictjson
from nmtprune.architecture import KINDS, NEURON_KINDS, Architecture, GroupId
from nmtprune.errors import CheckpointError, UsageError
from nmtprune.plan import Lineage
from nmtprune.strictjson import is_int, key_faults, show, show_key

_VERSIONS = (1, 2)
"""1 speaks of heads alone, 2 of neurons and layers too."""
_KEYS = ("format", "version", "padding", "lineage", "alignment_layer_removed", "provenance")
_PADDED = (*KINDS, *NEURON_KINDS)


@dataclass(frozen=True)
class Note:
    """What an earlier cut wrote down.

    Attributes:
        lineage: of the model; None for one that was never cut.
        padding: zero units behind the real ones, by group.
        alignment_layer_removed: the decoder layer that word alignments are read from is gone.
    """

    lineage: Lineage | None = None
    padding: Mapping[GroupId, int] = field(default_factory=dict)
    alignment_layer_removed: bool = False

    @classmethod
    def of(cls, architecture: Architecture, lineage: Lineage | None, *, unaligned: bool = False) -> "Note":
        """What is written down of a model.

        Args:
            architecture: of the model; its padding units are noted.
            lineage: of the model.
            unaligned: the decoder layer that word alignments are read from is gone.
        """
        padding = {group.id: group.padding for group in architecture.groups if group.padding}
        return cls(lineage, padding, unaligned)

    @classmethod
    def parse(cls, text: str, stored: Architecture, where: str, format: str) -> "Note":
        """Read a note.

        Args:
            text: JSON.
            stored: groups of the model, padding units counted as units.
            where: file and place of the note.
            format: what its key ``format`` must say.

        Raises:
            CheckpointError: damaged, or about another model; all faults at once.
        """
        found = strictjson.loads(text, f"{where} is damaged", CheckpointError)
        if not isinstance(found, dict):
            raise CheckpointError(f"{where} is damaged: it is {show(found)}, not an object")
        padding, faults = _padding(found.get("padding", {}), stored)
        faults = [*_faults(found, format), *faults]
        lineage = None
        if found.get("lineage") is not None:
            try:
                lineage = Lineage.from_json(json.dumps(found["lineage"]), "lineage")
            except CheckpointError as error:
                faults += [f"lineage: {fault.removeprefix('lineage: ')}" for fault in error.faults]
        if faults:
            raise CheckpointError.of_faults(f"{where} is damaged", faults)
        return cls(lineage, padding, found.get("alignment_layer_removed", False))

    def to_json(self, format: str) -> str:
        """The note as JSON; one that speaks of heads alone is of version 1."""
        lineage = None if self.lineage is None else json.loads(self.lineage.to_json())
        padding = {str(id): count for id, count in sorted(self.padding.items()) if count}
        more = any(id.kind in NEURON_KINDS for id, count in self.padding.items() if count)
        more |= lineage is not None and ("layers" in lineage or "neurons" in lineage["root"])
        found = {"format": format, "version": _VERSIONS[more], "padding": padding, "lineage": lineage}
        found |= {"alignment_layer_removed": True} if self.alignment_layer_removed else {}
        return json.dumps(found)

    def lineage_faults(self, architecture: Architecture) -> Iterator[str]:
        """Why the lineage is not that of a model with this architecture."""
        if self.lineage is None:
            return
        root, lineage = self.lineage.root, self.lineage
        kinds = _PADDED if root.neurons else KINDS
        kept = {
            lineage.present(id): len(lineage.keep[str(id)])
            for id in (*root.modules, *root.feed_forwards)
            if lineage.has(id)
        }
        own = {group.id: group.units for group in architecture.groups if group.id.kind in kinds}
        if kept.keys() != own.keys():
            yield "lineage: it names other modules or feed-forward layers than the model has"
            return
        for id, count in kept.items():
            if count != own[id]:
                yield f"lineage: it has {count} {id.sort} of {id}, the model {own[id]}"


def _faults(found: Mapping[str, Any], format: str) -> Iterator[str]:
    """What is wrong with the entry apart from padding and lineage."""
    yield from key_faults(found, [], _KEYS)
    if found.get("format", format) != format:
        yield f'format is {show(found["format"])}, not "{format}"'
    version = found.get("version", _VERSIONS[0])
    if not is_int(version) or version not in _VERSIONS:
        yield f"version is {show(version)}, this nmtprune reads versions {_VERSIONS[0]} and {_VERSIONS[-1]}"
    if not isinstance(found.get("alignment_layer_removed", False), bool):
        yield f"alignment_layer_removed is {show(found['alignment_layer_removed'])}, not true or false"
    if not isinstance(found.get("provenance", {}), dict):
        yield f"provenance is {show(found['provenance'])}, not an object"


def _padding(found: Any, stored: Architecture) -> tuple[dict[GroupId, int], list[str]]:
    """Padding units by group, and what is wrong with them."""
    if not isinstance(found, dict):
        return {}, [f"padding is {show(found)}, not an object"]
    there = {group.id: group.units for group in stored.groups}
    padding, faults = {}, []
    for name, count in found.items():
        try:
            id = GroupId.parse(name, _PADDED)
        except UsageError:
            faults.append(f"padding names '{show_key(name)}', which is no attention module and no feed-forward layer")
            continue
        if id not in there:
            faults.append(f"padding names {id}, which the model does not have")
        elif not is_int(count) or count < 0:
            faults.append(f"padding of {id} is {show(count)}, not a number of {id.sort}")
        elif count > there[id]:
            faults.append(f"{id} has {there[id]} {id.sort}, {count} of which shall be padding")
        else:
            padding[id] = count
    return padding, faults
