"""Settings of a model that fairseq-train is going to train: those of the checkpoint that it starts from."""

import logging
import os
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from fairseq.models import (
    ARCH_CONFIG_REGISTRY,
    ARCH_MODEL_NAME_REGISTRY,
    ARCH_MODEL_REGISTRY,
    MODEL_DATACLASS_REGISTRY,
)

from nmtprune.architecture import STACKS
from nmtprune.errors import UsageError
from nmtprune.fairseq_plugin.gate_options import Gateable, choose_gates
from nmtprune.fairseq_plugin.heads import StoredHeads
from nmtprune.fairseq_plugin.neurons import StoredNeurons
from nmtprune.formats.fairseq.architectures import stock
from nmtprune.formats.fairseq.checkpoint import FairseqCheckpoint
from nmtprune.formats.fairseq.settings import Description
from nmtprune.formats.fairseq.slim_settings import BASE_ARCH, HEAD_DIMS, HEADS, LINEAGE, NEURONS, SLIM
from nmtprune.formats.fairseq.unsupported import unsupported
from nmtprune.gates import SETTING, GateSettings

logger = logging.getLogger(__name__)

_LAST = "checkpoint_last.pt"
_TASK_POSITIONS = 512
"""What fairseq's task ``sentence_prediction`` says where the option is not given."""
_SIZES = ("attention_heads", "layers", "ffn_embed_dim")
_IN_MEMORY: ContextVar[FairseqCheckpoint | None] = ContextVar("_IN_MEMORY", default=None)


def choose_settings(args: Namespace, name: str) -> None:
    """Complete the options of ``fairseq-train --arch nmtprune`` (nmtprune_lm, nmtprune_roberta) to a model's settings.

    They are copied from the checkpoint from which training starts; options that were given win. Without a checkpoint
    they are those of the base architecture.

    Args:
        args: fairseq's parsed options, changed in place; options of the model are there only if they were given.
        name: the architecture, a key of `SLIM`.

    Raises:
        UsageError: options that do not fit the checkpoint, each other, or nmtprune.
        CheckpointError: the checkpoint cannot be read or is not supported.
    """
    for stack in _stacks(name):
        keep = getattr(args, f"{stack}_layers_to_keep", None)
        if isinstance(keep, list):  # fairseq's parser makes a list of what its models read as text
            setattr(args, f"{stack}_layers_to_keep", ",".join(map(str, keep)))
    path = starting_point(args)
    if path is None:
        _from_scratch(args, name)
    else:
        _from_checkpoint(args, name, path)
    faults = unsupported({"args": args, "model": {}})
    if args.ddp_backend == "fully_sharded":
        faults.append("--ddp-backend fully_sharded (FSDP)")
    if faults:
        raise UsageError.of_faults(f"--arch {name}: unsupported", faults)


def complete_settings(base: str, settings: Any) -> None:
    """Fill in what the settings do not say as fairseq does for the base architecture, one of its own, in place."""
    ARCH_CONFIG_REGISTRY[base](settings)
    defaults = MODEL_DATACLASS_REGISTRY.get(ARCH_MODEL_NAME_REGISTRY[base])
    for name, value in vars(defaults()).items() if defaults else ():
        if not hasattr(settings, name) and not str(value).startswith("${"):
            setattr(settings, name, value)


def _from_scratch(args: Namespace, name: str) -> None:
    base = getattr(args, BASE_ARCH, next(iter(SLIM[name])))
    logger.info(f"no checkpoint to start from: training from scratch with the settings of {base}")
    setattr(args, BASE_ARCH, base)
    complete_settings(base, args)
    counts: dict[str, tuple[int, ...]] = {kind: () for kinds in STACKS.values() for kind in kinds}
    head_dims, faults = {}, []
    for stack in _stacks(name):
        heads, width = getattr(args, f"{stack}_attention_heads"), getattr(args, f"{stack}_embed_dim")
        head_dim = getattr(args, HEAD_DIMS[stack], None)
        if heads < 1:
            faults.append(f"--{stack}-attention-heads {heads}: at least one")
        elif head_dim is None and width % heads:
            faults.append(f"--{stack}-attention-heads {heads} does not divide {width}: give --{stack}-head-dim")
        elif head_dim is not None and head_dim < 1:
            faults.append(f"--{stack}-head-dim {head_dim}: at least 1")
        else:
            head_dims[stack] = head_dim or width // heads
        keep = getattr(args, f"{stack}_layers_to_keep", None)
        layers = len(keep.split(",")) if keep else getattr(args, f"{stack}_layers")
        for kind in STACKS[stack]:
            present = kind != "cross" or not (name.endswith("_lm") or args.no_cross_attention)
            counts[kind] = (heads,) * layers if present else ()
    if faults:
        raise UsageError.of_faults(f"--arch {name}", faults)
    heads = StoredHeads(counts, head_dims)
    choose_gates(args, name, Gateable(heads, _widths_from_scratch(args, name), _model_widths(args, name)), None)
    _set_heads(args, heads, None)


@contextmanager
def in_memory(checkpoint: Any) -> Iterator[None]:
    """Let fairseq's parser use a checkpoint that this process holds (or None), instead of reading its file."""
    token = _IN_MEMORY.set(checkpoint)
    try:
        yield
    finally:
        _IN_MEMORY.reset(token)


def _from_checkpoint(args: Namespace, name: str, path: Path) -> None:
    held = _IN_MEMORY.get()
    checkpoint = held if held is not None and held.path == path else FairseqCheckpoint.load(path)
    description = checkpoint.description
    if stock(description.arch) not in SLIM[name]:
        other = next(arch for arch, bases in SLIM.items() if stock(description.arch) in bases)
        raise UsageError(f"--arch {name}: {path} is of architecture {description.arch}; train it with --arch {other}")
    faults = list(_conflicts(args, name, description))
    if faults:
        raise UsageError.of_faults(f"--arch {name} continues from {path}", faults)
    setattr(args, BASE_ARCH, description.arch)
    # fairseq drops every layer of a stack for which it is told nothing, as soon as it is told of the other one.
    some_layers = any(layers != tuple(range(len(layers))) for layers in description.layers.values())
    for stack, layers in description.layers.items():
        _set_default(args, f"{stack}_layers_to_keep", ",".join(map(str, layers)) if some_layers else None)
        _set_default(args, f"{stack}_embed_path", None)  # the embeddings come from the checkpoint
    if description.encoder_only:
        _set_positions(args, description.settings["max_positions"])
    for option in _model_options(name):
        if option in description.settings:
            _set_default(args, option, description.settings[option])
    if "encoder" not in description.layers and description.settings["decoder_learned_pos"]:
        # An option of the task too, which says None where it is not given.
        given = getattr(args, "max_target_positions", None)
        args.max_target_positions = given or description.settings["max_target_positions"]
    heads = StoredHeads.of_architecture(description.architecture)
    neurons = description.architecture.neurons_by_kind()
    units = Gateable(heads, neurons, _model_widths(args, name))
    choose_gates(args, name, units, checkpoint.gates.settings if checkpoint.gates else None)
    _refuse_gated_padding(path, description, getattr(args, SETTING, None))
    _set_heads(args, heads, description.lineage.to_json() if description.lineage else None)
    ragged = StoredNeurons.of_architecture(description.architecture).to_json()
    if ragged is not None:
        setattr(args, NEURONS, ragged)
    logger.info(f"settings of the model from {path}: {description.architecture.count()} heads, base {description.arch}")


def _widths_from_scratch(args: Namespace, name: str) -> dict[str, tuple[int, ...]]:
    """Neurons of every feed-forward layer by kind, where they can have gates, in a model without a checkpoint."""
    found = {}
    for stack in _stacks(name):
        keep = getattr(args, f"{stack}_layers_to_keep", None)
        layers = len(keep.split(",")) if keep else getattr(args, f"{stack}_layers")
        if stack == "encoder" or not getattr(args, "scale_fc", False):
            found[f"{stack}-ffn"] = (getattr(args, f"{stack}_ffn_embed_dim"),) * layers
    return found


def _model_widths(args: Namespace, name: str) -> dict[str, int]:
    """D of every stack."""
    return {stack: getattr(args, f"{stack}_embed_dim") for stack in _stacks(name)}


def _refuse_gated_padding(path: Path, description: Description, gates: str | None) -> None:
    """Refuse gates on zero units, which would learn to be something else.

    Raises:
        UsageError: the model has padding of a kind that has gates.
    """
    if gates is None:
        return
    kinds = GateSettings.from_json(gates, str(path)).kinds
    if any(module.padding_heads for module in description.architecture):
        raise UsageError(f"{path}: gates cannot be on the zero heads of mode uniform: slim it with --mode cut instead")
    if any(group.padding for group in description.architecture.feed_forwards if group.id.kind in kinds):
        raise UsageError(
            f"{path}: gates cannot be on the zero neurons of mode uniform: slim it with --mode cut instead"
        )


def _conflicts(args: Namespace, name: str, description: Description) -> Iterator[str]:
    """Options that were given and that contradict the weights of the checkpoint."""
    fixed: dict[str, Any] = {BASE_ARCH: description.arch}
    for stack in _stacks(name):
        fixed |= {name: description.settings[name] for size in _SIZES if (name := f"{stack}_{size}")}
        dims = [m.head_dim for m in description.architecture if m.id.kind in STACKS[stack]]
        fixed[HEAD_DIMS[stack]] = dims[0] if dims else None
        layers = description.layers[stack]
        given = getattr(args, f"{stack}_layers_to_keep", None)
        if given and (description.lineage is not None or layers != tuple(range(len(layers)))):
            yield f"--{stack}-layers-to-keep {given}: the checkpoint is slim or names layers itself; its layers stay"
    for setting, value in fixed.items():
        given = getattr(args, setting, value)
        if given != value:
            yield f"--{setting.replace('_', '-')} {given}: the checkpoint has {value}"


def _set_positions(args: Namespace, positions: int) -> None:
    """Let the task take texts as long as the model has positions for: its option is the model's too."""
    given = getattr(args, "max_positions", _TASK_POSITIONS)
    if given not in (positions, _TASK_POSITIONS):
        raise UsageError(f"--max-positions {given}: the checkpoint has {positions}")
    args.max_positions = positions


def _set_heads(args: Namespace, heads: StoredHeads, lineage: str | None) -> None:
    setattr(args, HEADS, heads.to_json())
    setattr(args, LINEAGE, lineage)
    for stack, head_dim in heads.head_dims.items():
        setattr(args, HEAD_DIMS[stack], head_dim)


def _set_default(args: Namespace, setting: str, value: Any) -> None:
    if not hasattr(args, setting):
        setattr(args, setting, value)


def _stacks(name: str) -> tuple[str, ...]:
    stacks: tuple[str, ...] = ARCH_MODEL_REGISTRY[name].stacks
    return stacks


def _model_options(name: str) -> list[str]:
    """Names of the settings that fairseq-train's options of a model set."""
    parser = ArgumentParser(argument_default=SUPPRESS, allow_abbrev=False, add_help=False)
    ARCH_MODEL_REGISTRY[name].add_args(parser)
    return [action.dest for action in parser._actions]


def starting_point(args: Namespace) -> Path | None:
    """The checkpoint that fairseq-train loads before the first update; None where it trains from scratch.

    As in fairseq: ``--restore-file``, else the last checkpoint in ``--save-dir``, else ``--continue-once``, else
    ``--finetune-from-model``.

    Raises:
        UsageError: the option names a file that is not there. (fairseq would train from scratch without a word.)
    """
    suffix = args.checkpoint_suffix or ""
    if args.restore_file != _LAST:
        return _existing("--restore-file", args.restore_file.replace(".pt", f"{suffix}.pt"))
    last = os.path.join(args.save_dir, f"checkpoint_last{suffix}.pt")
    if os.path.exists(last):
        return Path(last)
    if args.continue_once is not None:
        return _existing("--continue-once", args.continue_once)
    if args.finetune_from_model is not None:
        return _existing("--finetune-from-model", args.finetune_from_model)
    return None


def _existing(option: str, name: str) -> Path:
    if not os.path.isfile(name):
        raise UsageError(f"{option} {name}: no such file; to train from scratch leave the option out")
    return Path(name)
