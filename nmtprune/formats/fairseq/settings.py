"""From the settings in a checkpoint to what they say: architecture, kept layers, heads, neurons, lineage."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from nmtprune.architecture import Architecture
from nmtprune.errors import CheckpointError
from nmtprune.formats.fairseq import adaptive
from nmtprune.formats.fairseq.architectures import complete, stacks_of
from nmtprune.formats.fairseq.containers import State, quoted, section
from nmtprune.formats.fairseq.slim_settings import (
    HEAD_DIMS,
    LINEAGE,
    SLIM,
    architecture_from,
    lineage_faults_of,
    read_stored,
)
from nmtprune.formats.fairseq.unsupported import architecture_of, unsupported
from nmtprune.plan import Lineage

_NORM_FORMER = {"scale_attn": "attn_ln.weight", "scale_fc": "ffn_layernorm.weight", "scale_resids": "w_resid"}
_SIZES = ("embed_dim", "ffn_embed_dim", "attention_heads", "layers")
_MAY_BE_ZERO = ("_ffn_embed_dim", "_layers")
_LAYER = re.compile(r"(.+?)\.layers\.(\d+)((?:\..*)?)")


@dataclass(frozen=True)
class Description:
    """What the settings of a checkpoint say.

    Attributes:
        arch: name of the architecture, which may be a user's own; of the root for a slim checkpoint.
        settings: flat and complete, as fairseq builds the model: the architecture's defaults are filled in, and
            `encoder_layers`, `decoder_layers` count the layers that are used.
        layers: stack -> numbers in the file of the layers that are used.
        stems: stack -> beginning of the names of its tensors in the file.
        chosen_layers: some of the file's layers are to be kept, the others may be there all the same (LayerDrop).
        architecture: what of the model can be cut.
        lineage: of a slim checkpoint.
        needs_plugin: the plug-in builds the model, not stock fairseq.
    """

    arch: str
    settings: Mapping[str, Any]
    layers: Mapping[str, tuple[int, ...]]
    stems: Mapping[str, str]
    chosen_layers: bool
    architecture: Architecture
    lineage: Lineage | None
    needs_plugin: bool

    @property
    def language_model(self) -> bool:
        """Whether the model has a decoder only."""
        return "encoder" not in self.layers

    @property
    def encoder_only(self) -> bool:
        """Whether the model has an encoder only: RoBERTa's class."""
        return "decoder" not in self.layers

    def layer_of(self, name: str) -> tuple[str, int, str] | None:
        """Where a tensor or module belongs to: stack, number of the layer in the file, and what follows in its name.

        None outside of layers.
        """
        match = _LAYER.fullmatch(name)
        if match is None:
            return None
        stack = next((stack for stack, stem in self.stems.items() if stem == match[1]), None)
        return None if stack is None else (stack, int(match[2]), match[3])


def read_settings(state: State, where: str) -> Description:
    """Read the settings of a checkpoint.

    Raises:
        CheckpointError: every reason why the checkpoint is not supported, or what is wrong with its settings.
    """
    faults = unsupported(state)
    if faults:
        raise CheckpointError.of_faults(f"{where}: unsupported", faults)
    given = section(state, "model")
    name, arch = architecture_of(given)
    settings = complete(arch, _with_task(given, state))
    settings |= _as_built(settings, state["model"])
    stacks = stacks_of(arch)
    faults = _size_faults(settings, stacks)
    layers = {stack: _used_layers(settings, stack, faults) for stack in stacks}
    if not faults and name not in SLIM:
        faults = _division_faults(settings, stacks)
    faults += adaptive.cutoff_faults(settings) if "decoder" in stacks else []
    if faults:
        raise CheckpointError.of_faults(f"{where}: settings", faults)
    chosen = any(settings[f"{stack}_layers_to_keep"] for stack in stacks)
    for stack, used in layers.items():
        settings |= {f"{stack}_layers": len(used), f"{stack}_layers_to_keep": None}
    slim = name in SLIM
    stored, faults = read_stored(settings, {stack: len(used) for stack, used in layers.items()}, slim)
    lineage = Lineage.from_json(str(text), f"{where}: {LINEAGE}") if (text := settings.get(LINEAGE)) else None
    faults += [] if faults or lineage is None else lineage_faults_of(lineage, stored)
    if faults:
        raise CheckpointError.of_faults(f"{where}: settings", faults)
    architecture = architecture_from(stored, lineage, {stack: _head_dim(settings, stack, slim) for stack in stacks})
    stems = _stems(stacks, state["model"])
    return Description(arch, MappingProxyType(settings), layers, stems, chosen, architecture, lineage, slim)


def _stems(stacks: tuple[str, ...], names: Iterable[str]) -> dict[str, str]:
    """Beginnings of names by stack; the first versions of RoBERTa's class called its encoder a decoder."""
    if stacks != ("encoder",):
        return {stack: stack for stack in stacks}
    old = any(name.startswith("decoder.") for name in names)
    return {"encoder": f"{'decoder' if old else 'encoder'}.sentence_encoder"}


def _with_task(given: Mapping[str, Any], state: State) -> dict[str, Any]:
    """The model's settings, with those that fairseq takes from the task where the model does not say."""
    names = ("max_source_positions", "max_target_positions", "tokens_per_sample", "max_positions")
    task = section(state, "task")
    return {name: task[name] for name in names if name in task} | dict(given)


def _as_built(settings: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Settings whose value in the file is not what fairseq builds.

    Widths that the command line leaves as text become numbers; NormFormer's norms (Shleifer et al. 2021), which fairseq
    loses on the way from some containers of settings, are there if their tensors are.
    """
    widths = {name: settings.get(name) for name in ("decoder_input_dim", "decoder_output_dim")}
    found: dict[str, Any] = {
        name: int(text) for name, text in widths.items() if isinstance(text, str) and text.isascii() and text.isdigit()
    }
    endings = {name.rpartition("decoder.layers.")[2].partition(".")[2] for name in names}
    for name, ending in _NORM_FORMER.items():
        found[name] = bool(settings.get(name)) and ending in endings
    return found


def _size_faults(settings: Mapping[str, Any], stacks: tuple[str, ...]) -> list[str]:
    names = [f"{stack}_{size}" for stack in stacks for size in _SIZES]
    if "decoder" in stacks:
        names += ["decoder_output_dim", "max_target_positions"]
        names += ["max_source_positions"] if "encoder" in stacks else ["decoder_input_dim"]
    else:
        names += ["max_positions"]
    least = {name: 0 if name.endswith(_MAY_BE_ZERO) else 1 for name in names}
    return [
        f"{name} is {quoted(settings[name])}, no whole number from {least[name]}"
        for name in names
        if not _is_count(settings[name], least[name])
    ]


def _is_count(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def _division_faults(settings: Mapping[str, Any], stacks: tuple[str, ...]) -> list[str]:
    faults = []
    for stack in stacks:
        heads, width = settings[f"{stack}_attention_heads"], settings[f"{stack}_embed_dim"]
        if width % heads:
            faults.append(f"{stack}_attention_heads {heads} does not divide {stack}_embed_dim {width}")
    return faults


def _used_layers(settings: Mapping[str, Any], stack: str, faults: list[str]) -> tuple[int, ...]:
    """Numbers of the layers that fairseq takes from the file, lowest first; adds to `faults`."""
    keep = settings[f"{stack}_layers_to_keep"]
    if not keep:
        layers = settings[f"{stack}_layers"]
        return tuple(range(layers)) if isinstance(layers, int) else ()
    parts = keep.split(",") if isinstance(keep, str) else []
    numbers = sorted({int(part) for part in parts if part.strip().isascii() and part.strip().isdigit()})
    if not parts or len(numbers) != len(parts):
        faults.append(f"{stack}_layers_to_keep is {quoted(keep)}, no list of different layer numbers")
    return tuple(numbers)


def _head_dim(settings: Mapping[str, Any], stack: str, slim: bool) -> int:
    if slim:
        return int(settings.get(HEAD_DIMS[stack]) or 1)
    return int(settings[f"{stack}_embed_dim"] // settings[f"{stack}_attention_heads"])
