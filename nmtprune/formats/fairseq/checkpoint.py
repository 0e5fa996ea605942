"""A fairseq checkpoint: what its file holds, changed only where heads, neurons and layers are."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nmtprune import files
from nmtprune.architecture import KINDS, Architecture, GroupId
from nmtprune.errors import CheckpointError
from nmtprune.formats import storage
from nmtprune.formats.base import UnitAxis, fingerprint
from nmtprune.formats.fairseq import (
    containers,
    fields,
    gated,
    inert,
    language_tokens,
    layout,
    loading,
    settings,
    slim_settings,
    tasks,
    tensor_specs,
    training_state,
    unsupported,
)
from nmtprune.formats.fairseq.containers import State
from nmtprune.formats.fairseq.depth import Depth
from nmtprune.formats.fairseq.gated import Gates
from nmtprune.formats.fairseq.settings import Description
from nmtprune.formats.fairseq.tensor_specs import TensorSpec
from nmtprune.formats.fairseq.training_state import Optimizer
from nmtprune.formats.trainable import TrainableCheckpoint, TrainingProgress
from nmtprune.gates import GateSettings
from nmtprune.plan import Lineage

if TYPE_CHECKING:
    from torch import Tensor

    from nmtprune.model.search.options import Search
    from nmtprune.network import Network
    from nmtprune.profile import ModelProfile

_SHOWN = 5
"""Unknown settings that a remark names."""


@dataclass(frozen=True, eq=False, repr=False)
class FairseqCheckpoint(TrainableCheckpoint):
    """A checkpoint of fairseq's transformer or transformer language model, stock or slim; `FairseqEncoder` of RoBERTa.

    Tensors of a mapped file are read from disk when they are used, and never copied unless they change.

    Attributes:
        state: the top-level dict of the file.
        description: what its settings say.
        specs: what is known of every tensor of the model.
        aliases: name -> another name of the same parameter, which shared tables are known by.
        optimizer: moments by parameter.
        gates: of a model that was trained with gates: `state` and `tensors` are those of the model that
            the gates make at test time; None where there are none.
    """

    state: State
    description: Description
    specs: Mapping[str, TensorSpec]
    aliases: Mapping[str, str]
    optimizer: Optimizer
    gates: Gates | None = None

    format: ClassVar[str] = "fairseq"
    toolkit: ClassVar[str] = "fairseq"
    a_model: ClassVar[str] = "a checkpoint of fairseq"

    @classmethod
    def load(cls, path: Path) -> "FairseqCheckpoint":
        """Read a file and check that its tensors are what its settings say.

        Raises:
            CheckpointError: the file is damaged, no fairseq checkpoint, or not supported; all reasons.
        """
        try:
            checkpoint = cls.of_state(path, loading.read_state(path))
            faults = list(checkpoint._value_faults())
        except RecursionError:
            raise CheckpointError(f"{path}: not a fairseq checkpoint (its settings are nested too deeply)") from None
        if faults:
            raise CheckpointError.of_faults(f"{path}: the tensors do not fit the settings", faults)
        return checkpoint

    @classmethod
    def of_state(cls, path: Path, state: State) -> "FairseqCheckpoint":
        """A checkpoint from the top-level dict that its file holds or will hold.

        Raises:
            CheckpointError: not supported, or tensors that do not fit the settings; all reasons.
        """
        description = settings.read_settings(state, str(path))
        state, gates = gated.without_gates(state, description, str(path))
        description = settings.read_settings(state, str(path)) if gates else description
        model: Mapping[str, Tensor] = state["model"]
        specs = layout.expected_tensors(description, model)
        if description.encoder_only:
            from nmtprune.formats.fairseq.encoder_checkpoint import FairseqEncoder

            cls = FairseqEncoder
        faults = layout.tensor_faults(specs, description, model) + list(training_state.average_faults(state))
        if faults:
            raise CheckpointError.of_faults(f"{path}: the tensors do not fit the settings", faults)
        aliases = {name: first for name, first in layout.aliases(description).items() if name in model}
        parameters = {
            name: tuple(tensor.shape)
            for name, tensor in model.items()
            if name not in aliases and (name not in specs or specs[name].draw is not None)
        }
        found = training_state.read_moments(state, parameters, _criterion_shapes(state))
        copies = {
            f"{prefix}/{name}": tensor
            for prefix, own in training_state.stored_averages(state)
            for name, tensor in own.items()
        }
        return cls(
            path=path,
            architecture=description.architecture,
            tensors={**model, **copies, **found.tensors},
            unit_axes=_unit_axes(layout.unit_axes(description, model), [*copies, *found.tensors]),
            lineage=description.lineage,
            state=state,
            description=description,
            specs=specs,
            aliases=aliases,
            optimizer=found,
            gates=gates,
        )

    @classmethod
    def search_options(cls) -> "type[Search]":
        """As fairseq-generate names them."""
        from nmtprune.model.search.options import SearchOptions

        return SearchOptions

    @property
    def settings(self) -> Mapping[str, Any]:
        """The model's settings, flat and complete, as fairseq builds the model."""
        return self.description.settings

    @property
    def architecture_name(self) -> str:
        """Name of the architecture in fairseq; that of the root for a slim checkpoint."""
        return self.description.arch

    @property
    def provenance(self) -> str | None:
        """How the file was made, as JSON; None for a file that nmtprune did not write."""
        text = self.state.get("nmtprune")
        return text if isinstance(text, str) else None

    @property
    def open_units(self) -> Mapping[GroupId, tuple[int, ...]] | None:
        """By group with gates, the heads or neurons that are open at test time; None for a model without gates."""
        return self.gates.open if self.gates else None

    @property
    def expected_heads(self) -> float | None:
        """Heads that are open in training on average, of those with gates; None where no heads have gates."""
        found = [own for id, own in self.gates.expected.items() if id.kind in KINDS] if self.gates else []
        return sum(found) if found else None

    @property
    def gate_settings(self) -> GateSettings | None:
        """How its gates work; None for a model without gates."""
        return self.gates.settings if self.gates else None

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on an architecture, a task and settings that stock fairseq does not know.

        It ignores such settings, and so does nmtprune.
        """
        model, task = self.section("model"), self.section("task")
        found = [unsupported.architecture_note(model), tasks.task_note(task, encoder=self.description.encoder_only)]
        unknown = fields.unknown(model, task)
        if unknown:
            more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
            found.append(
                f"settings that stock fairseq does not have and ignores: {', '.join(unknown[:_SHOWN])}{more}; code "
                "that reads them would compute something else"
            )
        return tuple(note for note in found if note)

    def trainable(self, refusal: str = "") -> "FairseqCheckpoint":
        """The checkpoint itself; one whose sentences have language tokens is refused (CheckpointError)."""
        name = self.section("task").get("_name")
        if name in language_tokens.TASKS:
            raise CheckpointError(
                f"{self.path}: of the task '{name}': l0 and lottery train for one language pair (the task "
                f"'{tasks.TRANSLATION}'); other commands take this model"
            )
        return self

    def section(self, name: str) -> dict[str, Any]:
        """Settings of another part of fairseq: ``task``, ``criterion``, ``optimizer``, ..."""
        return containers.section(self.state, name)

    @property
    def model_tensors(self) -> "Mapping[str, Tensor]":
        """The model's own tensors under the names of the file."""
        model: Mapping[str, Tensor] = self.state["model"]
        return model

    @cached_property
    def parameters(self) -> "Mapping[str, Tensor]":
        """The tensors that are trained, in the file's order, shared tables once; none of layers that are not kept."""
        return {
            name: tensor
            for name, tensor in self.model_tensors.items()
            if name not in self.aliases and name in self.specs and self.specs[name].draw is not None
        }

    @cached_property
    def sha256(self) -> str:
        """Fingerprint of the model's tensors as the file has them; memory that reading them took is given back."""
        found = fingerprint(self.gates.stored if self.gates else self.model_tensors)
        self.release()
        return found

    def part_of(self, name: str) -> str:
        """The part of the model that a parameter belongs to."""
        return self.specs[self.aliases.get(name, name)].part

    def rewritten(
        self, tensors: "Mapping[str, Tensor]", architecture: Architecture, lineage: Lineage | None
    ) -> "FairseqCheckpoint":
        """The same checkpoint with other tensors, widths and lineage; what did not change is the same object."""
        changed = {name: tensor for name, tensor in tensors.items() if tensor is not self.tensors[name]}
        reshaped = architecture != self.architecture
        if reshaped:
            self._check_optimizer()
        state = self.state
        if lineage is not None and (reshaped or lineage != self.lineage):
            state = self._with_shape(state, architecture, lineage)
        if changed:
            state = self._with_tensors(state, storage.separated(self.tensors, changed))
        if changed or reshaped:
            state = training_state.without_best(state)
        return self if state is self.state else FairseqCheckpoint.of_state(self.path, state)

    def with_layers(self, kept: Mapping[str, Sequence[int]], lineage: Lineage | None) -> "FairseqCheckpoint":
        """The same checkpoint with these layers only, numbered anew from 0; nothing is written."""
        self._check_optimizer()
        depth = Depth(self.description, kept)
        try:
            left = depth.apply(self.state, self.optimizer)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from None
        state = self._with_shape(left, self.architecture.with_layers(kept), lineage)
        state = containers.with_model_fields(state, depth.fields(), slim_settings.LAYERS_OF_BOTH_STACKS)
        return FairseqCheckpoint.of_state(self.path, training_state.without_best(state))

    def _check_optimizer(self) -> None:
        if self.optimizer.problem:
            raise CheckpointError(
                f"{self.path}: the optimizer state {self.optimizer.problem}, so it cannot be cut with the weights: "
                "leave it out with `drop_optimizer`"
            )

    def _with_shape(self, state: State, architecture: Architecture, lineage: Lineage | None) -> dict[str, Any]:
        """The state with the settings of a model of other sizes."""
        return containers.with_model_fields(state, *slim_settings.shape_fields(self.description, architecture, lineage))

    @property
    def file_names(self) -> Mapping[str, str]:
        """Native name -> name in the file; packed projections, which the native model has apart, are left out."""
        from nmtprune.formats.fairseq.network import native_name

        built = {name: layout.as_built(name, self.description) for name in self.parameters}
        natives = {name: native_name(own, self.settings) for name, own in built.items() if own is not None}
        return {native: name for name, native in natives.items() if native is not None}

    def with_native_tensors(self, changed: "Mapping[str, Tensor]", lineage: Lineage | None) -> "FairseqCheckpoint":
        """The same checkpoint with other values of some parameters, without optimizer state, averages and gates."""
        names, model = self.file_names, self.model_tensors
        own = {names[native]: tensor.to(model[names[native]]) for native, tensor in changed.items()}
        plain = FairseqCheckpoint.of_state(self.path, training_state.without_copies(self.state))
        return plain.rewritten({**plain.tensors, **own}, plain.architecture, lineage)

    def engines(self, mode: str) -> str:
        """Stock fairseq needs the plug-in for layers of several shapes, and for heads that do not fill the width."""
        if self.description.needs_plugin:
            return "runs in nmtprune, and in stock fairseq with --user-dir $(nmtprune user-dir)"
        if mode != "masked":
            return "runs in every stock engine, in fairseq without --user-dir"
        speed = "as fast as a model of its depth" if self.lineage is not None else "as fast as before"
        return f"runs in every stock engine, {speed}"

    def toolkit_faults(self, format: str) -> Iterator[str]:
        """fairseq-generate runs models of its tasks for plain translation and with language tokens."""
        if format != self.format:
            yield self.a_model
            return
        known = (tasks.TRANSLATION, *language_tokens.TASKS)
        task = self.section("task").get("_name") or tasks.TRANSLATION
        if task not in known:
            yield f"trained for the task '{task}', only {', '.join(known)} are supported"

    def save(self, path: Path, *, force: bool = False, provenance: Mapping[str, Any] | None = None) -> None:
        """Write the checkpoint atomically; `provenance` goes to the key ``nmtprune``, which fairseq does not read."""
        note = {} if provenance is None else {"nmtprune": json.dumps(provenance)}
        self.release()
        with files.atomic_output(path, force=force, inputs=[self.path]) as file:
            inert.save({**self.state, **note}, file)

    def without_optimizer(self) -> "FairseqCheckpoint":
        """The same checkpoint without optimizer state, as fairseq writes it with ``--no-save-optimizer-state``."""
        found = FairseqCheckpoint.of_state(self.path, training_state.without_optimizer(self.state))
        return replace(found, gates=self.gates)

    @property
    def has_optimizer(self) -> bool:
        """Whether training can go on from this file at its update."""
        return training_state.has_optimizer(self.state)

    def with_new_moments(self) -> "FairseqCheckpoint":
        """The same checkpoint at the same update, with an optimizer that has made no step."""
        return FairseqCheckpoint.of_state(self.path, training_state.with_new_moments(self.state))

    def with_optimizer_of(self, other: TrainableCheckpoint) -> "FairseqCheckpoint":
        """The same checkpoint with the optimizer state of another one, whose parameters have the same shapes."""
        if not isinstance(other, FairseqCheckpoint):
            raise ValueError(f"{other.path}: no optimizer state of fairseq")
        return FairseqCheckpoint.of_state(self.path, training_state.with_optimizer_of(self.state, other.state))

    @property
    def progress(self) -> TrainingProgress:
        """How far its training is."""
        return training_state.training_progress(self.state)

    @property
    def last_rate(self) -> float | None:
        """Learning rate of the last update; None where the file has no optimizer state."""
        return training_state.last_rate(self.state)

    @property
    def optimizer_problem(self) -> str:
        """Why the optimizer state cannot be cut with the weights; empty where it can, or where there is none."""
        return self.optimizer.problem

    def reinitialized(self, seed: int) -> "FairseqCheckpoint":
        """The same shape with weights as fairseq draws them for a new model, at update 0; the criterion stays."""
        weights = tensor_specs.draw_weights(self.model_tensors, self.specs, self.aliases, seed)
        for group in self.architecture.groups:
            for axis in self.unit_axes[group.id] if group.padding else ():
                if axis.tensor in weights:
                    blocks = weights[axis.tensor].unflatten(axis.axis, (axis.blocks, group.stored, axis.width))
                    blocks.narrow(axis.axis + 1, group.units, group.padding).zero_()
        model = containers.with_entries(self.state["model"], weights)
        return FairseqCheckpoint.of_state(self.path, training_state.at_start({**self.state, "model": model}))

    def profile(self) -> "ModelProfile":
        """From the tensors, and the settings of the task that the model was trained for."""
        return tasks.profile_of(self, self.section("task"))

    def check_loss(self) -> None:
        """As the settings of the criterion say."""
        tasks.check_criterion(self.section("criterion"), self.path)

    def label_smoothing(self) -> float:
        """As the settings of the criterion say."""
        self.check_loss()
        return tasks.label_smoothing(self.section("criterion"), self.path)

    def network(self) -> "Network":
        """What the native model must know beside tensors and head counts."""
        from nmtprune.formats.fairseq import network

        return network.describe_network(self.settings, self._built_tensors)

    def native_tensors(self) -> "Mapping[str, Tensor]":
        """The model's tensors under the names of the native model's parameters."""
        from nmtprune.formats.fairseq import network

        return network.native_tensors(self.settings, self._built_tensors)

    @property
    def _built_tensors(self) -> "dict[str, Tensor]":
        """The model's tensors under the names that they have in the model that fairseq builds."""
        named = ((layout.as_built(name, self.description), tensor) for name, tensor in self.model_tensors.items())
        return {name: tensor for name, tensor in named if name is not None}

    def _with_tensors(self, state: State, changed: "Mapping[str, Tensor]") -> dict[str, Any]:
        """The state with other tensors at the places that their names stand for."""
        model = self.model_tensors
        own = {name: tensor for name, tensor in changed.items() if name in model}
        extra = training_state.with_averages(state.get("extra_state", {}), changed)
        found = {**state, "model": containers.with_entries(state["model"], own)}
        if "extra_state" in state:
            found["extra_state"] = extra
        moments = {name: changed.get(name, tensor) for name, tensor in self.optimizer.tensors.items()}
        return training_state.with_moments(found, moments) if changed.keys() & moments.keys() else found

    def _value_faults(self) -> Iterator[str]:
        model = self.model_tensors
        for name, tensor in self.parameters.items():
            if not tensor.is_floating_point() or tensor.element_size() < 2:
                held = str(tensor.dtype).removeprefix("torch.")
                yield f"{name} holds {held}, no floating-point numbers of 16, 32 or 64 bits"
        for name, first in self.aliases.items():
            if first in model and not storage.same_bits(model[name], model[first]):
                yield f"{name} and {first} differ, though the settings share them"


def _criterion_shapes(state: State) -> dict[str, tuple[int, ...]]:
    """Shapes of a criterion's own parameters, which are trained with the model's."""
    from torch import Tensor

    own = state.get("criterion")
    found = own if isinstance(own, dict) else {}
    return {str(name): tuple(tensor.shape) for name, tensor in found.items() if isinstance(tensor, Tensor)}


def _unit_axes(own: Mapping[GroupId, tuple[UnitAxis, ...]], copies: list[str]) -> dict[GroupId, tuple[UnitAxis, ...]]:
    """The axes of the model's tensors and the same axes of their copies: averages and moments."""
    by_name: dict[str, list[str]] = {}
    for copy in copies:
        by_name.setdefault(copy.rpartition("/")[2], []).append(copy)

    def of_copy(copy: str, axis: UnitAxis) -> UnitAxis:
        is_average = copy.split("/")[0] in training_state.AVERAGES
        return replace(axis, tensor=copy, output=axis.output and is_average)

    return {
        module: (*axes, *(of_copy(copy, axis) for axis in axes for copy in by_name.get(axis.tensor, ())))
        for module, axes in own.items()
    }
