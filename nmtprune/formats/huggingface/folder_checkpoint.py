"""A folder of Hugging Face's transformers, whatever its model does: its weights, changed only where units go."""

import json
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from nmtprune.architecture import STACKS, Architecture, GroupId
from nmtprune.errors import CheckpointError
from nmtprune.files.folders import check_folder
from nmtprune.formats import finite, storage
from nmtprune.formats.base import Checkpoint, fingerprint
from nmtprune.formats.cut_note import Note
from nmtprune.formats.huggingface import model_folder
from nmtprune.formats.huggingface.entries import Entry, misfits
from nmtprune.formats.huggingface.folder_config import FILE, NOTE, FolderConfig
from nmtprune.formats.huggingface.model_folder import WeightFiles
from nmtprune.plan import Lineage

if TYPE_CHECKING:
    from torch import Tensor

_FORMAT = "nmtprune-huggingface"
_SHOWN = 5


@dataclass(frozen=True, eq=False, repr=False)
class FolderCheckpoint(Checkpoint):
    """A model of transformers, full or slim.

    Heads are not cut out of its files, since transformers takes their number and width from the width of the model:
    those that go are stored as zeros, and listed as padding.

    Attributes:
        config: its settings.
        weights: the files with its tensors.
        known: what is known of every tensor.
        aliases: name -> another name of the same table.
        note: what earlier cuts wrote down.
    """

    config: FolderConfig
    weights: WeightFiles
    known: Mapping[str, Entry]
    aliases: Mapping[str, str]
    note: Note

    format: ClassVar[str] = "huggingface"
    toolkit: ClassVar[str] = "Hugging Face"
    a_model: ClassVar[str] = "a model of Hugging Face's transformers"
    fresh_weights: ClassVar[str] = "transformers draws those of the class from config.json"
    fewest_stored_units: ClassVar[int] = 1
    ragged_neurons: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def parse_config(cls, values: Any, where: str) -> FolderConfig:
        """The settings in a file.

        Raises:
            CheckpointError: no settings of such a model, or of one that is not supported; all reasons.
        """

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a folder and check that its tensors are what its settings say.

        Raises:
            CheckpointError: something is missing, damaged, or not supported; all reasons.
        """
        config = cls.parse_config(model_folder.read_config(path), str(path / FILE))
        weights, tensors = model_folder.read_weights(path)
        faults = list(misfits(config, tensors))
        if faults:
            raise CheckpointError.of_faults(f"{path}: the tensors do not fit {FILE}", faults)
        return cls.of_parts(path, config.values, weights, tensors)

    @classmethod
    def of_parts(
        cls, path: Path, values: Mapping[str, Any], weights: WeightFiles, tensors: "Mapping[str, Tensor]"
    ) -> Self:
        """A model from what its files hold or will hold.

        Raises:
            CheckpointError: settings that are not supported, or a damaged note of earlier cuts.
        """
        config = cls.parse_config(values, str(path / FILE))
        stored = config.stored_architecture()
        note, where = Note(), f"{path / FILE}: {NOTE}"
        if values.get(NOTE) is not None:
            note = Note.parse(json.dumps(values[NOTE]), stored, where, _FORMAT)
        padding = {id: stored.group(id).units - count for id, count in note.padding.items()}
        architecture = stored.with_units(padding, note.padding)
        faults = list(note.lineage_faults(architecture))
        if faults:
            raise CheckpointError.of_faults(f"{where} is damaged", faults)
        return cls(
            path=path,
            architecture=architecture,
            tensors=tensors,
            unit_axes=config.unit_axes(architecture),
            lineage=note.lineage,
            config=config,
            weights=weights,
            known=config.entries(tensors),
            aliases=config.table_aliases(tensors),
            note=note,
        )

    @classmethod
    def check_output(cls, path: Path, *, force: bool = False, inputs: Iterable[Path | str] = ()) -> None:
        """Check that the folder can be written."""
        check_folder(path, FILE, "model of transformers", force=force, inputs=inputs)

    def fewest_stored(self, id: GroupId) -> int:
        """All heads of a module, at least one neuron of a layer."""
        return 1 if id.sort == "neurons" else self.config.heads(id.stack)

    @property
    def file_bytes(self) -> int:
        """Size of the files with weights."""
        return sum((self.path / name).stat().st_size for name in self.weights.files)

    @property
    def provenance(self) -> str | None:
        """How the folder was made, as JSON; None for one that nmtprune did not write."""
        found = (self.config.values.get(NOTE) or {}).get("provenance")
        return None if found is None else json.dumps(found)

    @cached_property
    def sha256(self) -> str:
        """Fingerprint of all tensors; memory that reading them took is given back."""
        found = fingerprint(self.model_tensors)
        self.release()
        return found

    def release(self) -> None:
        """As for every format, of all files with weights."""
        for name in self.weights.files:
            storage.release_pages(self.path / name)

    @property
    def model_tensors(self) -> "Mapping[str, Tensor]":
        """All tensors under the names of the files."""
        return self.tensors

    @cached_property
    def parameters(self) -> "Mapping[str, Tensor]":
        """What is trained, shared tables once; no computed positions and no bias of the output layer."""
        return {name: each for name, each in self.tensors.items() if name in self.known and self.known[name].trained}

    @cached_property
    def not_finite(self) -> str | None:
        """As for every format; tensors that are not trained count too."""
        return finite.described({name: each for name, each in self.tensors.items() if name not in self.aliases})

    @property
    def notes(self) -> tuple[str, ...]:
        """Settings that nobody knows, and weights in other formats."""
        found, unknown = [], self.config.unknown
        if unknown:
            more = f" and {len(unknown) - _SHOWN} more" if unknown[_SHOWN:] else ""
            found.append(f"settings that mean nothing to nmtprune: {', '.join(unknown[:_SHOWN])}{more}")
        left_out = [
            name for name in model_folder.others(self.path)[1] if name not in (*self.weights.files, self.weights.name)
        ]
        for what, names in (
            ("weights in other formats", [name for name in left_out if not model_folder.is_of_training(name)]),
            ("state of a training", [name for name in left_out if model_folder.is_of_training(name)]),
        ):
            if names:
                found.append(f"{what}, which a rewritten folder does not have: {', '.join(names)}")
        return tuple(found)

    @property
    def architecture_name(self) -> str:
        """The class in transformers."""
        return self.config.model_class

    def part_of(self, name: str) -> str:
        """The part of the model that a parameter belongs to."""
        return self.known[self.aliases.get(name, name)].part

    def rewritten(self, tensors: "Mapping[str, Tensor]", architecture: Architecture, lineage: Lineage | None) -> Self:
        """The same model with other tensors, numbers of units and lineage; what did not change is the same object.

        Raises:
            CheckpointError: feed-forward layers of a stack that differ in width.
        """
        changed = any(tensor is not self.tensors[name] for name, tensor in tensors.items())
        if not changed and architecture == self.architecture and lineage == self.lineage:
            return self
        faults = list(_width_faults(architecture))
        if faults:
            raise CheckpointError.of_faults(f"{self.path}", faults)
        values = self.config.values
        if architecture != self.architecture or lineage != self.lineage:
            sizes = {self.config.width_setting(own.id.stack): own.stored for own in architecture.feed_forwards}
            values = self.config.with_sizes(sizes, noted(architecture, lineage))
        return self.of_parts(self.path, values, self.weights, dict(tensors))

    def with_layers(self, kept: Mapping[str, Sequence[int]], lineage: Lineage | None) -> Self:
        """The same model with these layers only: tensors renamed, depths in the settings."""
        names = self.config.without_layers(self.tensors, kept)
        tensors = {new: self.tensors[old] for old, new in names.items()}
        sizes = {self.config.depth_setting(stack): len(own) for stack, own in kept.items()}
        values = self.config.with_sizes(sizes, noted(self.architecture.with_layers(kept), lineage))
        return self.of_parts(self.path, values, self.weights.renamed(names), tensors)

    @property
    def file_names(self) -> Mapping[str, str]:
        """Native name -> name in the file, for all but tables that the native model changes."""
        natives = {name: self.config.native_of(name) for name in self.parameters}
        return {native: name for name, native in natives.items() if native is not None}

    def with_native_tensors(self, changed: "Mapping[str, Tensor]", lineage: Lineage | None) -> Self:
        """The same model with other values of some parameters."""
        names = self.file_names
        own = {names[native]: each.to(self.tensors[names[native]]) for native, each in changed.items()}
        return self.rewritten({**self.tensors, **own}, self.architecture, lineage)

    def engines(self, mode: str) -> str:
        """Every engine of transformers; only export leaves out the heads that are stored as zeros."""
        zeros = sum(group.padding for group in self.architecture.modules)
        what = "loads in transformers (from_pretrained), without code of its own"
        if mode == "masked":
            return f"{what}; masked heads and neurons are computed too"
        if zeros:
            return (
                f"{what}; the {zeros} heads that are gone are stored and computed as zeros there, since transformers "
                "has no other number of heads: nmtprune export leaves them out for CTranslate2"
            )
        return what

    def toolkit_faults(self, format: str) -> Iterator[str]:
        """Neither fairseq nor Marian reads such a folder."""
        if format != self.format:
            yield self.a_model

    def save(self, path: Path, *, force: bool = False, provenance: Mapping[str, Any] | None = None) -> None:
        """Write the folder whole or not at all; tokenizer, search settings and other files are copied."""
        self.check_output(path, force=force, inputs=[self.path])
        self.release()
        values = dict(self.config.values)
        if provenance is not None:
            values[NOTE] = {**(values.get(NOTE) or noted(self.architecture, None)), "provenance": dict(provenance)}
        model_folder.write_folder(self.path, path, values, self.weights, self.tensors)


def noted(architecture: Architecture, lineage: Lineage | None) -> dict[str, Any]:
    """What is written down of a model with this architecture and lineage."""
    found: dict[str, Any] = json.loads(Note.of(architecture, lineage).to_json(_FORMAT))
    return found


def _width_faults(architecture: Architecture) -> Iterator[str]:
    """Why settings cannot say these numbers of neurons."""
    for stack in STACKS:
        widths = {group.stored for group in architecture.feed_forwards if group.id.stack == stack}
        if len(widths) > 1:
            yield (
                f"transformers has one width for the feed-forward layers of the {stack}, not {min(widths)} to "
                f"{max(widths)}: use `mode` uniform or masked"
            )
