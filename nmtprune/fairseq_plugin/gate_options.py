"""Options of fairseq-train that put gates on heads, and the setting of the model that they become."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nmtprune.architecture import KINDS
from nmtprune.errors import UsageError
from nmtprune.fairseq_plugin.heads import StoredHeads
from nmtprune.gates import DISTRIBUTIONS, SETTING, TEST_GATES, GateSettings

TASK = "translation_l0"
"""The task whose models have gates without being asked."""

_FIELDS = {
    "gate": "gate",
    "l0_kinds": "kinds",
    "gate_init": "init",
    "gate_temperature": "temperature",
    "gate_stretch": "stretch",
    "gate_lr_scale": "lr_scale",
    "gate_freeze_updates": "freeze_updates",
    "output_scaling": "output_scaling",
    "test_gate": "test_gate",
    "target_heads": "target_heads",
}
"""Option -> field of `GateSettings`."""

_LEARNED_UNDER = ("gate", "l0_kinds", "gate_init", "gate_lr_scale")
"""Options that gates which have learned cannot change: their parameters would mean something else."""


def add_args(parser: Any) -> None:
    """Add the options to fairseq's parser; the model's settings have those that are given, and no others."""
    default = GateSettings()
    parser.add_argument("--gate", choices=DISTRIBUTIONS, help=f"gates on heads (task {TASK}: {default.gate})")
    parser.add_argument("--l0-kinds", metavar="KINDS", help="kinds of heads with gates: encoder,decoder,cross (all)")
    parser.add_argument("--gate-init", type=float, metavar="X", help=f"log alpha at the start ({default.init})")
    parser.add_argument("--gate-temperature", type=float, metavar="BETA", help=f"({default.temperature})")
    stretch = " ".join(map(str, default.stretch))
    parser.add_argument("--gate-stretch", type=float, nargs=2, metavar=("GAMMA", "ZETA"), help=f"({stretch})")
    parser.add_argument(
        "--gate-lr-scale", type=float, metavar="X", help=f"gates learn X times as fast as weights ({default.lr_scale})"
    )
    parser.add_argument("--gate-freeze-updates", type=int, metavar="N", help="gates are constants from update N on")
    parser.add_argument("--output-scaling", action="store_true", help="open heads make up for closed ones")
    parser.add_argument("--test-gate", choices=TEST_GATES, help=f"gates at test time ({default.test_gate})")
    parser.add_argument("--target-heads", type=int, metavar="N", help="leave N heads open, exactly")


def of_settings(settings: Any) -> GateSettings | None:
    """The gates that the settings of a model say; None where it has none.

    Raises:
        CheckpointError: the setting does not hold any.
    """
    text = getattr(settings, SETTING, None)
    return None if text is None else GateSettings.from_json(text, "settings of the model")


def choose_gates(args: Namespace, name: str, heads: StoredHeads, learned: GateSettings | None) -> None:
    """Turn the options of fairseq-train into the setting of the model, in place.

    Args:
        args: options; those of gates are there only if they were given.
        name: the architecture.
        heads: of the model.
        learned: gates of the checkpoint from which training starts; None where it has none.

    Raises:
        UsageError: options that no gates can have, that contradict the checkpoint, or that do not go together.
    """
    given = {option: getattr(args, option) for option in _FIELDS if hasattr(args, option)}
    for option in given:
        delattr(args, option)
    values = {_FIELDS[option]: value for option, value in given.items() if value is not None}
    if learned is None and not values and args.task != TASK:
        return
    present = tuple(kind for kind in KINDS if any(heads.counts[kind]))
    if "kinds" in values:
        values["kinds"] = _kinds(values["kinds"], present)
    if "stretch" in values:
        values["stretch"] = tuple(values["stretch"])
    settings = replace(learned, **values) if learned else GateSettings(**({"kinds": present} | values))
    faults = _faults(args, settings, heads)
    if learned is not None:
        faults += [
            f"--{option.replace('_', '-')}: the gates of the checkpoint have {getattr(learned, _FIELDS[option])}"
            for option in _LEARNED_UNDER
            if getattr(settings, _FIELDS[option]) != getattr(learned, _FIELDS[option])
        ]
    if faults:
        raise UsageError.of_faults(f"--arch {name}: gates", faults)
    setattr(args, SETTING, settings.to_json())


def _kinds(text: str, present: Sequence[str]) -> tuple[str, ...]:
    names = {part.strip() for part in text.split(",")}
    faults = [f"kind '{kind}': choose among {', '.join(KINDS)}" for kind in sorted(names - set(KINDS))]
    faults += [f"the model has no {kind} heads" for kind in KINDS if kind in names and kind not in present]
    if faults:
        raise UsageError.of_faults(f"--l0-kinds {text}", faults)
    return tuple(kind for kind in KINDS if kind in names)


def _faults(args: Namespace, settings: GateSettings, heads: StoredHeads) -> list[str]:
    faults = []
    if getattr(args, "weight_decay", 0.0):
        faults.append(
            f"--weight-decay {args.weight_decay:g} would pull gates back to where they started: give --weight-decay 0"
        )
    gated = sum(sum(heads.counts[kind]) for kind in settings.kinds)
    if settings.target_heads is not None and settings.target_heads > gated:
        faults.append(f"--target-heads {settings.target_heads}: {gated} heads have gates")
    if not gated:
        faults.append("there is no head to put a gate on")
    return faults
