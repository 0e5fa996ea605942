"""What every checkpoint format offers: named tensors, the axes along which units lie, and a way to write them back."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nmtprune import files
from nmtprune.architecture import Architecture, GroupId
from nmtprune.errors import CheckpointError
from nmtprune.formats import finite, storage
from nmtprune.plan import Base, Lineage, Plan

if TYPE_CHECKING:
    from torch import Tensor

    from nmtprune.formats.settings_beside import DecoderSettings
    from nmtprune.formats.trainable import TrainableCheckpoint
    from nmtprune.model.search.options import Search
    from nmtprune.network import ClassifierNetwork, MaskedWordsNetwork, Network
    from nmtprune.profile import ClassifierProfile, ModelProfile

NO_TRANSLATION = (
    "an encoder with a classification head, which translates nothing: nmtprune inspect, plan, slim, drift, score, "
    "greedy, refit, check and bench take it"
)
"""Why commands that translate refuse a classifier."""


@dataclass(frozen=True)
class UnitAxis:
    """An axis of a named tensor along which the units of one group lie, one after the other.

    Attributes:
        tensor: name in `Checkpoint.tensors`.
        axis: 0 for rows, 1 for columns.
        width: entries of a unit along the axis, in each block.
        blocks: how often the units repeat along the axis: 3 for a packed query-key-value matrix.
        output: the tensor is an output projection, W_O or the second matrix of a feed-forward layer (of the model or of
            its moving average): zero these entries and the unit's contribution is gone.
    """

    tensor: str
    axis: int
    width: int
    blocks: int = 1
    output: bool = False


@dataclass(frozen=True)
class Checkpoint(ABC):
    """A model file in memory: tensors by name, and for every group of units the axes along which they lie.

    Attributes:
        path: the file it was read from.
        architecture: what of it can be cut; numbers of units are positions in it.
        tensors: all tensors that belong to weights by name: the model's under the names of the file, and copies that
            must change with them (moving averages, optimizer moments) under names with a prefix of the format.
        unit_axes: per attention module and feed-forward layer, every axis of every tensor in which its units lie.
        lineage: how the units map to the root checkpoint; None for a checkpoint that was never cut.
    """

    path: Path
    architecture: Architecture
    tensors: Mapping[str, "Tensor"]
    unit_axes: Mapping[GroupId, tuple[UnitAxis, ...]]
    lineage: Lineage | None

    format: ClassVar[str]
    toolkit: ClassVar[str]
    """The toolkit whose format it is, as people write it."""
    a_model: ClassVar[str]
    """Such a model, as messages call it: a checkpoint of fairseq."""
    fewest_stored_units: ClassVar[int] = 0
    """Heads of a module and neurons of a layer that are stored at least, zero ones where the model has fewer."""
    ragged_neurons: ClassVar[bool] = True
    """Whether the feed-forward layers of a stack may be stored with different widths."""
    fresh_weights: ClassVar[str] = ""
    """Where fresh weights of a model come from that nmtprune does not draw, as a message says it."""
    searches: ClassVar[bool] = True
    """Whether such models translate, by a search; of fairseq's only the model itself tells."""
    decoder_config: ClassVar[bool] = False
    """Whether a user may name a file of settings of the toolkit's decoder."""

    @classmethod
    @abstractmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read a file of this format and check that its tensors are what its settings say.

        Raises:
            CheckpointError: the file is damaged, or not supported; all reasons.
        """

    @classmethod
    @abstractmethod
    def search_options(cls) -> "type[Search]":
        """Options of the toolkit's search, with its defaults."""

    @classmethod
    def decoder_settings(cls, path: Path, named: Path | None = None) -> "DecoderSettings | None":
        """Settings of the toolkit's decoder for a model; None for a toolkit whose models have none beside them.

        Args:
            path: the model, which need not be there.
            named: settings file that the user names; without it the one beside the model, if there is one.

        Raises:
            CheckpointError: damaged settings.
        """
        return None

    @classmethod
    def check_output(cls, path: Path, *, force: bool = False, inputs: Iterable[Path | str] = ()) -> None:
        """Check that a checkpoint of this format can be written there, before any long work.

        Raises:
            OutputError: as for `save`; an output that is one of the inputs.
        """
        files.check_output(path, force=force, inputs=inputs)

    def ragged_note(self, plan: Plan) -> str | None:
        """Why the format cannot store the neurons that a plan keeps; None where it can."""
        if self.ragged_neurons or not plan.ragged_neurons:
            return None
        return f"{self.toolkit} has one number of neurons for all layers of a stack"

    def fewest_stored(self, id: GroupId) -> int:
        """Units of a group that are stored at least."""
        return self.fewest_stored_units

    @property
    def file_bytes(self) -> int:
        """Size of the file, or of the files with its tensors."""
        return self.path.stat().st_size

    @property
    def open_units(self) -> Mapping[GroupId, tuple[int, ...]] | None:
        """By group with gates, the heads or neurons that are open at test time; None for a model without gates."""
        return None

    @property
    def right_to_left(self) -> bool:
        """The model reads and writes the words of a sentence from the last one to the first."""
        return False

    @property
    @abstractmethod
    def provenance(self) -> str | None:
        """How the file was made, as JSON; None for a file that nmtprune did not write."""

    @property
    @abstractmethod
    def model_tensors(self) -> Mapping[str, "Tensor"]:
        """The model's own tensors under the names of the file: no moving averages, no optimizer state."""

    @property
    @abstractmethod
    def parameters(self) -> Mapping[str, "Tensor"]:
        """The model's trainable tensors, each shared table once under its first name; no buffers."""

    @cached_property
    def not_finite(self) -> str | None:
        """Which of the model's parameters are NaN or infinite, as a message says it; None where all are numbers."""
        return finite.described(self.parameters)

    @cached_property
    def copies_not_finite(self) -> str | None:
        """The same of what changes with the weights: moving averages and optimizer moments."""
        model = self.model_tensors
        return finite.described({name: tensor for name, tensor in self.tensors.items() if name not in model})

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of this file, one line each: settings that mean nothing to nmtprune, and the like."""
        return ()

    @property
    @abstractmethod
    def architecture_name(self) -> str:
        """The format's own name of the architecture, of the root for a slim checkpoint: ``transformer_iwslt_de_en``."""

    @abstractmethod
    def part_of(self, name: str) -> str:
        """The part of the model that a parameter belongs to.

        One of ``embeddings`` (tables, positions and their projections), ``output`` (an output layer of its own),
        ``attention.KIND``, ``recurrence``, ``feed-forward`` and ``norms``.
        """

    def trainable(self, refusal: str = "here: fairseq's can") -> "TrainableCheckpoint":
        """The same checkpoint as one from which fairseq-train can start.

        Args:
            refusal: where it is not, the end of the message: what needs one.

        Raises:
            CheckpointError: a model of another toolkit.
        """
        raise CheckpointError(f"{self.path}: {self.format} models cannot be trained {refusal}")

    @abstractmethod
    def rewritten(
        self, tensors: Mapping[str, "Tensor"], architecture: Architecture, lineage: Lineage | None
    ) -> "Checkpoint":
        """The same checkpoint with other tensors (same names), numbers of units and lineage; nothing is written.

        What speaks of the model before the change (its best validation score) is left out where a tensor changed.

        Raises:
            CheckpointError: optimizer state of a kind that cannot be cut, where units were cut; numbers of neurons
                that the format cannot say.
        """

    def with_layers(self, kept: Mapping[str, Sequence[int]], lineage: Lineage | None) -> "Checkpoint":
        """The same checkpoint with these layers only, numbered anew from 0; nothing is written.

        Tensors of the layers that go, their moments and averages go too. Of tied layers the number is that of the
        parameters: all layers that share them stay or go together.

        Args:
            kept: numbers of the layers that stay, ascending, by stack; a stack that is not named keeps its layers.
            lineage: of the result.

        Raises:
            CheckpointError: layers of this model cannot be taken out.
        """
        raise CheckpointError(f"{self.path}: layers of {self.format} models cannot be taken out")

    @property
    @abstractmethod
    def file_names(self) -> Mapping[str, str]:
        """Native name -> name in the file, for parameters of which the file has one tensor each, in any layout."""

    @abstractmethod
    def with_native_tensors(self, changed: Mapping[str, "Tensor"], lineage: Lineage | None) -> "Checkpoint":
        """The same checkpoint with other values of some parameters; nothing is written.

        Optimizer state and moving averages, which belong to the parameters before the change, are left out, and gates
        are folded into the weights.

        Args:
            changed: by native names, which must be among `file_names`; of any type of float.
            lineage: of the result.
        """

    @abstractmethod
    def engines(self, mode: str) -> str:
        """Which engines run what slimming in a mode of `nmtprune.slim.MODES` writes, and how: a line for people."""

    @abstractmethod
    def toolkit_faults(self, format: str) -> Iterator[str]:
        """Why the stock commands of a format's toolkit cannot translate with this model; nothing where they can."""

    @property
    def toolkit_notes(self) -> tuple[str, ...]:
        """What those commands do with this model whatever they are told, one line each."""
        return ()

    @abstractmethod
    def save(self, path: Path, *, force: bool = False, provenance: Mapping[str, Any] | None = None) -> None:
        """Write the checkpoint atomically.

        Raises:
            OutputError: the path exists (without `force`), is the input file, or cannot be written.
        """

    def release(self) -> None:
        """Give back the memory of mapped files: what is needed again is read again."""
        storage.release_pages(self.path)

    def without_optimizer(self) -> "Checkpoint":
        """The same checkpoint without optimizer state; itself where the format stores none with a model."""
        return self

    def reinitialized(self, seed: int) -> "Checkpoint":
        """The same shape with fresh weights as fairseq draws them, and no trace of training.

        Raises:
            CheckpointError: a model of another toolkit, whose own trainer draws them.
        """
        raise CheckpointError(
            f"{self.path}: fresh weights (seed {seed}) are drawn for fairseq's models only: {self.fresh_weights}"
        )

    @abstractmethod
    def network(self) -> "Network":
        """What the native model must know beside tensors and head counts: norms, positions, activation, ...

        Raises:
            CheckpointError: the native model cannot run this checkpoint; all reasons.
        """

    @property
    def encoder_only(self) -> bool:
        """The model is an encoder alone, which translates nothing: it gives labels, or predicts masked words."""
        return self.classifies

    @property
    def classifies(self) -> bool:
        """The model gives labels to texts, and translates nothing."""
        return False

    def classifier_network(self) -> "ClassifierNetwork":
        """What the native model must know of a classifier beside tensors and numbers of units.

        Raises:
            CheckpointError: a model that translates.
        """
        raise CheckpointError(f"{self.path}: {self.architecture_name} has no classification head")

    def masked_words_network(self) -> "MaskedWordsNetwork":
        """What the native model must know of an encoder that predicts masked words.

        Raises:
            CheckpointError: another model.
        """
        raise CheckpointError(f"{self.path}: {self.architecture_name} has no head that predicts masked words")

    def classifier_profile(self) -> "ClassifierProfile":
        """Labels, positions and tokens of a classifier.

        Raises:
            CheckpointError: a model that translates.
        """
        raise CheckpointError(f"{self.path}: {self.architecture_name} has no classification head")

    @abstractmethod
    def profile(self) -> "ModelProfile":
        """Sizes of the vocabularies, longest sentences, languages and padding of a translation model.

        Raises:
            CheckpointError: a language model: it has no source side.
        """

    def check_loss(self) -> None:
        """Check that the model was trained with the loss of whole references, which is what nmtprune computes.

        Raises:
            CheckpointError: the loss of the first words of every reference was left out.
        """
        return

    def label_smoothing(self) -> float:
        """Label smoothing that the model was trained with; 0 for a loss without, or where the file does not tell.

        Raises:
            CheckpointError: what the file says is no number from 0 to below 1; as for `check_loss`.
        """
        return 0.0

    @abstractmethod
    def native_tensors(self) -> Mapping[str, "Tensor"]:
        """The model's tensors under the names of the native model's parameters."""

    @cached_property
    def sha256(self) -> str:
        """Fingerprint of the model's tensors as stored: sorted name, dtype, shape, bytes; independent of the file."""
        return fingerprint(self.model_tensors)

    @property
    def base(self) -> Base:
        """What a plan for this checkpoint names as its base."""
        return Base.of(self.format, self.sha256, self.architecture)


def fingerprint(tensors: Mapping[str, "Tensor"]) -> str:
    """SHA-256 over one line per tensor in the order of their names: name, dtype, shape, SHA-256 of its bytes."""
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(_bytes_sha256, (tensors[name] for name in sorted(tensors))))
    lines = (
        f"{name} {str(tensors[name].dtype).removeprefix('torch.')} {list(tensors[name].shape)} {digest}\n"
        for name, digest in zip(sorted(tensors), digests, strict=True)
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _bytes_sha256(tensor: "Tensor") -> str:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if not flat.numel():
        return hashlib.sha256().hexdigest()
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()
