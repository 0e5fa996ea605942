"""A Marian model: what its ``.npz`` file holds, changed only where units go."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from nmtprune import files
from nmtprune.architecture import LAYER_KINDS, STACKS, Architecture, GroupId
from nmtprune.errors import CheckpointError
from nmtprune.formats.base import Checkpoint, fingerprint
from nmtprune.formats.cut_note import Note
from nmtprune.formats.marian import archive, depth, layout
from nmtprune.formats.marian.archive import Arrays
from nmtprune.formats.marian.note import FORMAT, NOTE, as_text, read_note
from nmtprune.formats.marian.option_lists import ALIGNMENT_LAYER, DECODER_DIM_FFN
from nmtprune.formats.marian.options import ENTRY, Options, encoded, parse, with_heads, with_widths
from nmtprune.plan import Lineage
from nmtprune.profile import ModelProfile

if TYPE_CHECKING:
    from torch import Tensor

    from nmtprune.formats.settings_beside import DecoderSettings
    from nmtprune.model.search.options import Search
    from nmtprune.network import Network

_QUANTIZED = ("int8", "int16", "uint8")


@dataclass(frozen=True, eq=False, repr=False)
class MarianCheckpoint(Checkpoint):
    """A transformer of Marian's, full or slim.

    Attributes:
        arrays: every entry of the file by name, in its order.
        options: of the model.
        known: what is known of every parameter.
        note: what earlier cuts wrote down.
    """

    arrays: Arrays
    options: Options
    known: Mapping[str, layout.Parameter]
    note: Note

    format: ClassVar[str] = "marian"
    toolkit: ClassVar[str] = "Marian"
    a_model: ClassVar[str] = "a Marian model"
    fresh_weights: ClassVar[str] = "a Marian that knows head counts trains this shape from scratch"
    fewest_stored_units: ClassVar[int] = 1
    decoder_config: ClassVar[bool] = True
    ragged_neurons: ClassVar[bool] = False
    """The branch of Marian that runs slim models computes modules without heads wrongly, and no Marian takes a width of
    0: they get a zero head or neuron."""

    @classmethod
    def load(cls, path: Path) -> "MarianCheckpoint":
        """Read a file and check that its parameters are what its options say.

        Raises:
            CheckpointError: the file is damaged, no transformer of Marian's, or not supported; all reasons.
        """
        found = cls.of_arrays(path, archive.read_archive(path))
        faults = list(found.note.lineage_faults(found.architecture))
        if faults:
            raise CheckpointError.of_faults(f"{path}: {NOTE} is damaged", faults)
        return found

    @classmethod
    def of_arrays(cls, path: Path, arrays: Arrays) -> "MarianCheckpoint":
        """A model from the entries that its file holds or will hold.

        Raises:
            CheckpointError: not supported, or parameters that do not fit the options; all reasons.
        """
        if ENTRY not in arrays and any(name.startswith("adam_") for name in arrays):
            raise CheckpointError(f"{path}: is the state of Marian's optimizer: name the model that it lies beside")
        if ENTRY not in arrays:
            raise CheckpointError(
                f"{path}: has no {ENTRY}: no Marian model, or one without its options (write it with a Marian that "
                "stores them: version 1.4 or later)"
            )
        options = parse(arrays[ENTRY].tobytes(), str(path))
        stored, faults = layout.architecture(options)
        note = read_note(arrays[NOTE].tobytes(), stored, path) if NOTE in arrays else Note()
        architecture = _without_padding(stored, note.padding)
        own = {name for name in arrays if not name.startswith(layout.SPECIAL)}
        known = layout.parameters(options, architecture, own)
        faults += _faults(arrays, own, known)
        if faults:
            raise CheckpointError.of_faults(f"{path}: the parameters do not fit the options", faults)
        tensors = {name: torch.from_numpy(arrays[name]) for name in arrays if name in own}
        axes = layout.unit_axes(options, architecture)
        return cls(path, architecture, tensors, axes, note.lineage, arrays, options, known, note)

    @classmethod
    def search_options(cls) -> "type[Search]":
        """As marian-decoder names them."""
        from nmtprune.model.search.options import MarianSearchOptions

        return MarianSearchOptions

    @classmethod
    def decoder_settings(cls, path: Path, named: Path | None = None) -> "DecoderSettings":
        """What marian-decoder reads with ``--config``."""
        from nmtprune.formats.marian.decoder import MarianDecoderSettings

        return MarianDecoderSettings.beside(path) if named is None else MarianDecoderSettings.read(named, path)

    @property
    def provenance(self) -> str | None:
        """How the file was made, as JSON; None for a file that nmtprune did not write."""
        found = json.loads(self.arrays[NOTE].tobytes().rstrip(b"\0")) if NOTE in self.arrays else {}
        return json.dumps(found["provenance"]) if "provenance" in found else None

    @property
    def model_tensors(self) -> "Mapping[str, Tensor]":
        """The parameters under the names of the file."""
        return self.tensors

    @property
    def parameters(self) -> "Mapping[str, Tensor]":
        """The same: Marian stores shared tables and tied layers once."""
        return self.tensors

    @cached_property
    def sha256(self) -> str:
        """Fingerprint of the parameters."""
        return fingerprint(self.tensors)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a cut did to word alignments, which no translation needs."""
        if not self.note.alignment_layer_removed:
            return ()
        return (
            f"the decoder layer that gave word alignments ({ALIGNMENT_LAYER}) was removed: with --alignment Marian now "
            "gives those of the last layer, which may mean nothing",
        )

    @property
    def architecture_name(self) -> str:
        """``transformer``, with what is unlike the usual: an SSRU in the decoder, sentences from right to left."""
        decoder = "" if self.options.autoregression == "self-attention" else " with SSRU decoder"
        return f"transformer{decoder}{', right to left' if self.right_to_left else ''}"

    @property
    def right_to_left(self) -> bool:
        """As ``right-left`` says."""
        return self.options.flag("right-left")

    def part_of(self, name: str) -> str:
        """The part of the model that a parameter belongs to."""
        return self.known[name].part

    def rewritten(
        self, tensors: "Mapping[str, Tensor]", architecture: Architecture, lineage: Lineage | None
    ) -> "MarianCheckpoint":
        """The same model with other parameters, numbers of units and lineage; what did not change is the same object.

        Raises:
            CheckpointError: heads were cut from a model that does not project what they give; feed-forward layers of a
                stack that differ in width; both.
        """
        changed = {name: tensor for name, tensor in tensors.items() if tensor is not self.tensors[name]}
        if not changed and architecture == self.architecture and lineage == self.lineage:
            return self
        arrays = {**self.arrays, **{name: tensor.numpy() for name, tensor in changed.items()}}
        if architecture != self.architecture:
            faults = list(self._shape_faults(architecture))
            if faults:
                raise CheckpointError.of_faults(f"{self.path}", faults)
            arrays[ENTRY] = as_text(encoded(self._values(architecture)))
        if architecture != self.architecture or lineage != self.lineage:
            arrays[NOTE] = self._noted(architecture, lineage)
        return MarianCheckpoint.of_arrays(self.path, arrays)

    def with_layers(self, kept: Mapping[str, Sequence[int]], lineage: Lineage | None) -> "MarianCheckpoint":
        """The same model with these layers only: parameters renamed, depths, ties and head counts in the options."""
        names = depth.renamed(self.arrays, kept)
        arrays = {name: self.arrays[old] for old, name in names.items()}
        arrays[ENTRY] = as_text(encoded(depth.with_layers(self.options, kept)))
        unaligned = depth.alignment_layer_goes(self.options, kept)
        arrays[NOTE] = self._noted(self.architecture.with_layers(kept), lineage, unaligned=unaligned)
        return MarianCheckpoint.of_arrays(self.path, arrays)

    def _shape_faults(self, architecture: Architecture) -> Iterator[str]:
        """Why the options of a model cannot say these numbers of units."""
        if architecture.modules != self.architecture.modules and not self.options.projection:
            yield (
                "without projections (transformer-no-projection) the heads of a module are the model's width: they can "
                "be masked, not cut"
            )
        for stack in STACKS:
            widths = {group.stored for group in architecture.feed_forwards if group.id.stack == stack}
            if len(widths) > 1:
                yield (
                    f"Marian has one width for the feed-forward layers of the {stack}, not {min(widths)} to "
                    f"{max(widths)}: use `mode` uniform or masked"
                )

    def _values(self, architecture: Architecture) -> dict[str, Any]:
        """The options of a model with these numbers of units; what speaks of those that did not change stays."""
        found = dict(self.options.values)
        if architecture.modules != self.architecture.modules:
            found = with_heads(self.options, _stored(architecture))
        widths = {group.id.stack: group.stored for group in architecture.feed_forwards}
        before = {stack: self.options.feed_forward(stack)[0] for stack in STACKS}
        return with_widths(found, **(before | widths)) if before != before | widths else found

    def _noted(self, architecture: Architecture, lineage: Lineage | None, *, unaligned: bool = False) -> Any:
        """The entry of what is known of a model with this architecture and lineage."""
        note = Note.of(architecture, lineage, unaligned=unaligned or self.note.alignment_layer_removed)
        return as_text(note.to_json(FORMAT).encode())

    @property
    def file_names(self) -> Mapping[str, str]:
        """Native name -> name in the file, for all but tables that serve as several parameters."""
        from nmtprune.formats.marian import network

        return network.file_names(self.options, self.tensors)

    def with_native_tensors(self, changed: "Mapping[str, Tensor]", lineage: Lineage | None) -> "MarianCheckpoint":
        """The same model with other values of some parameters: matrices transposed, vectors with a second axis."""
        names = self.file_names
        laid_out = {names[native]: each.T if each.dim() == 2 else each[None] for native, each in changed.items()}
        own = {name: each.to(self.tensors[name]).contiguous() for name, each in laid_out.items()}
        return self.rewritten({**self.tensors, **own}, self.architecture, lineage)

    def engines(self, mode: str) -> str:
        """The official Marian demands square matrices in attention; depths and widths are options of every Marian."""
        decoder_width = self.options.settings[DECODER_DIM_FFN]
        if not any(self.toolkit_faults(self.format)):
            if not self._smaller:
                return "runs in every Marian (pymarian, marian-decoder), as fast as before"
            since = " from 1.11 on" if decoder_width else ""
            padded = any(group.padding for group in self.architecture.groups)
            but = "; masked heads and neurons are computed too" if mode == "masked" else ""
            but = "; zero heads and neurons are computed too" if padded else but
            return f"runs in every Marian{since} (pymarian, marian-decoder) at full speed{but}"
        but = f"; that branch does not know {DECODER_DIM_FFN}" if decoder_width else ""
        return (
            "runs in marian-decoder of the branch pruned_final of Behnke's Marian, with --mini-batch 1 (larger batches "
            f"may take stale keys from its cache){but}; the official Marian runs `mode` masked only"
        )

    @property
    def _smaller(self) -> bool:
        """Whether the model has fewer layers, or narrower feed-forward layers, than its root."""
        if self.lineage is None:
            return False
        root, before = self.lineage.root, self.lineage.root.feed_forwards
        stacks = (id.stack for id in root.units if id.kind in LAYER_KINDS)
        return any(self.lineage.layers(stack) != root.units[GroupId.layers_of(stack)] for stack in stacks) or any(
            group.stored < before.get(self.lineage.in_root(group.id), 0) for group in self.architecture.feed_forwards
        )

    def toolkit_faults(self, format: str) -> Iterator[str]:
        """The official Marian gives every module the same number of heads."""
        if format != self.format:
            yield f"a checkpoint of format {self.format}"
            return
        whole = self.options.heads
        cut = [str(module.id) for module in self.architecture if module.stored_heads != whole]
        if cut:
            shown = ", ".join(cut[:3]) + (f" and {len(cut) - 3} more" if len(cut) > 3 else "")
            yield f"{shown} with fewer heads than {whole}: the official Marian runs slim models of `mode` masked only"

    @property
    def toolkit_notes(self) -> tuple[str, ...]:
        """Where Marian searches otherwise than it trains."""
        options = self.options
        if options.autoregression != "self-attention" or "n" not in options.sequence("transformer-preprocess"):
            return ()
        return (
            "pre-norm decoder: Marian up to 1.12 does not normalize keys and values in search, as `unnormalized_keys` "
            "says of the native engine",
        )

    def save(self, path: Path, *, force: bool = False, provenance: Mapping[str, Any] | None = None) -> None:
        """Write the model atomically, in the layout that every Marian reads; unchanged entries byte for byte."""
        arrays = dict(self.arrays)
        if provenance is not None:
            there = json.loads(arrays[NOTE].tobytes().rstrip(b"\0")) if NOTE in arrays else {}
            arrays[NOTE] = as_text(json.dumps({**there, "provenance": provenance}).encode())
        read = archive.read_archive(self.path)
        unchanged = {name for name, array in arrays.items() if _same(array, read.get(name))}
        with files.atomic_output(path, force=force, inputs=[self.path]) as file:
            archive.write_archive(file, arrays, self.path, unchanged)

    def profile(self) -> ModelProfile:
        """From the tables alone: a Marian model knows neither its vocabularies nor a longest sentence."""
        tables = (self.tensors.get(f"{side}_Wemb", self.tensors.get("Wemb")) for side in ("encoder", "decoder"))
        source, target = (None if table is None else int(table.shape[0]) for table in tables)
        return ModelProfile(
            source_symbols=source,
            target_symbols=target,
            left_pad_source=False,
            vocabulary_files=True,
            right_to_left=self.right_to_left,
        )

    def network(self) -> "Network":
        """What the native model must know beside parameters and head counts."""
        from nmtprune.formats.marian import network

        return network.describe_network(self.options)

    def native_tensors(self) -> "Mapping[str, Tensor]":
        """The parameters under the names of the native model's parameters."""
        from nmtprune.formats.marian import network

        return network.native_tensors(self.options, self.architecture, self.tensors)


def _without_padding(stored: Architecture, padding: Mapping[GroupId, int]) -> Architecture:
    """The groups of a model with the padding units apart."""
    return stored.with_units({id: stored.group(id).units - count for id, count in padding.items()}, padding)


def _stored(architecture: Architecture) -> dict[str, dict[int, int]]:
    found: dict[str, dict[int, int]] = {}
    for module in architecture:
        found.setdefault(module.id.kind, {})[module.id.layer + 1] = module.stored_heads
    return found


def _same(array: Any, there: Any) -> bool:
    return (
        there is not None
        and array.dtype == there.dtype
        and array.shape == there.shape
        and array.tobytes() == there.tobytes()
    )


def _faults(arrays: Arrays, own: set[str], known: Mapping[str, layout.Parameter]) -> Iterator[str]:
    quantized = sorted(name for name in own if str(arrays[name].dtype) in _QUANTIZED or "QuantMult" in name)
    if quantized:
        yield f"quantized weights ({quantized[0]} and others): slim the model that they were made from"
        return
    for name, parameter in known.items():
        if name not in arrays:
            yield f"{name} is missing"
            continue
        shape, dtype = arrays[name].shape, arrays[name].dtype
        fits = len(shape) == len(parameter.shape) and all(
            want in (None, size) for want, size in zip(parameter.shape, shape, strict=True)
        )
        if not fits:
            wanted = " x ".join("any" if size is None else str(size) for size in parameter.shape)
            yield f"{name} is {' x '.join(map(str, shape))}, not {wanted}"
        elif dtype not in (np.float32, np.float16, np.float64):
            yield f"{name} holds {dtype}, no floating-point numbers"
    unknown = sorted(own - set(known))
    if unknown:
        yield f"nmtprune knows no {', '.join(unknown[:5])}" + (f" and {len(unknown) - 5} more" if unknown[5:] else "")
