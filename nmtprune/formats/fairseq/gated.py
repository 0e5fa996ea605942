"""Checkpoints whose heads or neurons have gates, as the model without gates that they make at test time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nmtprune.architecture import KINDS, GroupId
from nmtprune.errors import CheckpointError, NotFiniteError
from nmtprune.formats.fairseq import containers, training_state
from nmtprune.formats.fairseq.containers import State
from nmtprune.formats.fairseq.layout import attention_prefix, layer_prefix
from nmtprune.formats.fairseq.settings import Description
from nmtprune.formats.finite import described
from nmtprune.gates import (
    LAMBDA_STATE,
    PARAMETER,
    SETTING,
    GateSettings,
    factors_at_test,
    gate_count,
    never_closing,
    number_faults,
    open_units,
    over_units,
)


@dataclass(frozen=True)
class Gates:
    """The gates of a checkpoint, which its tensors hold no longer.

    Attributes:
        settings: how they work.
        open: by group with gates, the units that are open at test time.
        stored: the model's tensors as the file has them.
        expected: by group, the number of units that are open in training on average.
    """

    settings: GateSettings
    open: Mapping[GroupId, tuple[int, ...]]
    stored: Mapping[str, Tensor]
    expected: Mapping[GroupId, float]


def without_gates(state: State, description: Description, where: str) -> tuple[State, Gates | None]:
    """The state of the model that the gates make at test time, and what they were; None where there are none.

    Columns of W_O are multiplied by the gate of their head, output scaling included, columns of the second matrix of a
    feed-forward layer by that of their neuron; moving averages likewise, by their own gates. The optimizer state goes:
    it is that of another list of parameters.

    Raises:
        CheckpointError: gates without settings or settings without gates; every fault.
    """
    text = description.settings.get(SETTING)
    if text is None:
        return state, None
    settings = GateSettings.from_json(text, where)
    model: dict[str, Any] = state["model"]
    log_alphas = _log_alphas(settings, description, model, where)
    found = {**training_state.without_optimizer(state), "model": _folded(settings, description, model, where)}
    extra = state.get("extra_state")
    if isinstance(extra, dict):
        copies = {name: extra[name] for name in ("ema", "ema_fp32_params") if isinstance(extra.get(name), dict)}
        folded = {name: _folded(settings, description, copy, f"{where}: {name}") for name, copy in copies.items()}
        found["extra_state"] = {**extra, **folded}
    found = containers.with_model_fields(found, {SETTING: None})
    opened = open_units(settings, log_alphas, {group.id: group.stored for group in description.architecture.groups})
    return found, Gates(settings, opened, model, _expected(settings, log_alphas, description))


def _expected(
    settings: GateSettings, log_alphas: Mapping[GroupId, Tensor], description: Description
) -> dict[GroupId, float]:
    """Number of units that are open on average, by group."""
    always, found = never_closing(settings, log_alphas), {}
    for id, own in log_alphas.items():
        opened = settings.open_probability(own, always[id])
        found[id] = float(over_units(id, opened, description.architecture.group(id).stored).sum())
    return found


def _log_alphas(
    settings: GateSettings, description: Description, tensors: Mapping[str, Tensor], where: str
) -> dict[GroupId, Tensor]:
    """Log alpha [G] of the gates of every group that has some."""
    faults, found = [], {}
    names = dict(_names(settings, description))
    for group, name in names.items():
        theta = tensors.get(name)
        count = gate_count(group, description.architecture.group(group).stored)
        if theta is None or not isinstance(theta, Tensor):
            faults.append(f"{name} is missing")
        elif tuple(theta.shape) != (count,):
            faults.append(f"{name} is no list of {count} finite numbers")
        else:
            found[group] = settings.log_alpha(theta)
    wanted = set(names.values())
    named = [name for name in tensors if name.endswith(f".{PARAMETER}")]
    faults += [f"{name} belongs to no module with gates" for name in named if name not in wanted]
    heads = [description.architecture.group(id).stored for id in names if id.kind in KINDS]
    faults += number_faults(settings.target_heads, settings.min_heads, heads)
    if faults:
        raise CheckpointError.of_faults(f"{where}: gates", faults)
    broken = described({name: tensors[name] for name in wanted})
    if broken:
        raise NotFiniteError(f"{where}: gates: {broken}")
    return found


def _names(settings: GateSettings, description: Description) -> Iterator[tuple[GroupId, str]]:
    for group in description.architecture.groups:
        if group.id.kind in settings.kinds:
            yield group.id, f"{_prefix(group.id, description)}.{PARAMETER}"


def _prefix(group: GroupId, description: Description) -> str:
    """Beginning of the names of an attention module's tensors; for neurons, of those of their layer."""
    return attention_prefix(group, description) if group.kind in KINDS else layer_prefix(group, description)


def _is_gate(name: str) -> bool:
    return name.endswith((f".{PARAMETER}", f".{LAMBDA_STATE}"))


def _folded(settings: GateSettings, description: Description, tensors: dict[str, Any], where: str) -> dict[str, Any]:
    """The tensors without gates, W_O [D, H * K] and the second matrices [D, F] multiplied by them."""
    factors = factors_at_test(settings, _log_alphas(settings, description, tensors, where))
    changed = {}
    for id, factor in factors.items():
        if factor.numel() and not bool((factor == 1).all()):
            group = description.architecture.group(id)
            name = f"{_prefix(id, description)}.{'out_proj' if id.kind in KINDS else 'fc2'}.weight"
            columns = over_units(id, factor, group.stored).repeat_interleave(group.width)
            changed[name] = (tensors[name].to(columns.dtype) * columns).to(tensors[name].dtype)
    found = containers.with_entries(tensors, changed)
    for name in filter(_is_gate, tensors):
        del found[name]
    return found
