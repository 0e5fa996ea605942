"""Options of fairseq-train that put gates on heads and neurons, and the setting of the model that they become."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nmtprune.architecture import KINDS, SORTS
from nmtprune.errors import UsageError
from nmtprune.fairseq_plugin.heads import StoredHeads
from nmtprune.gates import (
    DISTRIBUTIONS,
    FIELDS,
    GATED_KINDS,
    GATED_SORTS,
    SETTING,
    TASK,
    TEST_GATES,
    GateSettings,
    number_faults,
)

_FIELDS = {
    **{"l0_kinds": "kinds", "l0_groups": "kinds", "gate_costs": "costs"},
    **{option.removeprefix("--").replace("-", "_"): name for option, name in FIELDS.items()},
}
"""Setting of fairseq's parser -> field of `GateSettings`."""

_LEARNED_UNDER = ("gate", "l0_kinds", "gate_init", "gate_lr_scale")
"""Options that gates which have learned cannot change: their parameters would mean something else."""


def add_args(parser: Any) -> None:
    """Add the options to fairseq's parser; the model's settings have those that are given, and no others."""
    default = GateSettings()
    parser.add_argument("--gate", choices=DISTRIBUTIONS, help=f"gates on heads (task {TASK}: {default.gate})")
    parser.add_argument("--l0-kinds", metavar="KINDS", help="kinds of heads with gates: encoder,decoder,cross (all)")
    parser.add_argument(
        "--l0-groups", metavar="SORTS", help="what has gates: heads, neurons (blocks of 16) or heads,neurons (heads)"
    )
    parser.add_argument(
        "--gate-costs",
        metavar="KIND=X,...",
        help="what a head and a neuron of each kind add to the penalty (one multiply-accumulate of their weights each, "
        "relative to the average head)",
    )
    parser.add_argument("--gate-init", type=float, metavar="X", help=f"log alpha at the start ({default.init})")
    parser.add_argument("--gate-temperature", type=float, metavar="BETA", help=f"({default.temperature})")
    stretch = " ".join(map(str, default.stretch))
    parser.add_argument("--gate-stretch", type=float, nargs=2, metavar=("GAMMA", "ZETA"), help=f"({stretch})")
    parser.add_argument(
        "--gate-lr-scale", type=float, metavar="X", help=f"gates learn X times as fast as weights ({default.lr_scale})"
    )
    parser.add_argument(
        "--gate-step",
        type=float,
        metavar="X",
        help=f"log alpha moves by X per update, whatever the learning rate (task {TASK}; default: --gate-lr-scale)",
    )
    parser.add_argument("--gate-freeze-updates", type=int, metavar="N", help="gates are constants from update N on")
    parser.add_argument(
        "--gate-only-updates", type=int, metavar="N", help=f"only gates learn before update N (task {TASK})"
    )
    parser.add_argument(
        "--min-heads-per-module", type=int, metavar="N", help="gates of N heads in every module never close"
    )
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


@dataclass(frozen=True)
class Gateable:
    """What of a model can have gates.

    Attributes:
        heads: of its attention modules.
        neurons: by kind of feed-forward layer whose neurons can have gates, those of each layer.
        widths: D of every stack.
    """

    heads: StoredHeads
    neurons: Mapping[str, Sequence[int]]
    widths: Mapping[str, int]

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of groups that have units."""
        return tuple(kind for kind in GATED_KINDS if any(self.counts(kind)))

    def counts(self, kind: str) -> Sequence[int]:
        """Units of every group of a kind."""
        return self.heads.counts[kind] if kind in KINDS else self.neurons.get(kind, ())

    def chosen(self, sorts: str | None, kinds: str | None) -> tuple[str, ...]:
        """The kinds of groups that get gates.

        Args:
            sorts: heads, neurons or both, separated by commas; None: heads.
            kinds: of attention, separated by commas; ``encoder`` and ``decoder`` also stand for the neurons of these
                stacks. None: all that the model has.

        Raises:
            UsageError: an unknown word, or the model has no such units.
        """
        wanted = ("heads",) if sorts is None else _words("--l0-groups", sorts, GATED_SORTS, "group")
        there = [kind for sort in wanted for kind in SORTS[sort] if kind in self.kinds]
        if kinds is None:
            return tuple(there)
        names = _words("--l0-kinds", kinds, KINDS, "kind")
        found = [kind for kind in there if kind.partition("-")[0] in names]
        absent = [kind for kind in names if kind not in {each.partition("-")[0] for each in found}]
        if absent:
            units = " or ".join(wanted)
            raise UsageError.of_faults(f"--l0-kinds {kinds}", [f"the model has no {kind} {units}" for kind in absent])
        return tuple(found)

    def costs(self, kinds: Sequence[str]) -> dict[str, float]:
        """Weights of a head or neuron by kind, relative to the average head of these kinds, or of the model.

        Each weight is one multiply-accumulate per token.
        """
        weights = {kind: self._weights(kind) for kind in self.kinds}
        chosen = [kind for kind in kinds if kind in KINDS] or [kind for kind in self.kinds if kind in KINDS]
        heads = sum(sum(self.counts(kind)) for kind in chosen)
        average = sum(weights[kind] * sum(self.counts(kind)) for kind in chosen) / heads if heads else 1.0
        return {kind: weights[kind] / average for kind in kinds}

    def _weights(self, kind: str) -> int:
        stack = kind.partition("-")[0] if kind != "cross" else "decoder"
        if kind not in KINDS:
            return 2 * self.widths[stack]
        keys = self.widths["encoder"] if kind == "cross" else self.widths[stack]
        return 2 * (self.widths[stack] + keys) * self.heads.head_dims[stack]


def choose_gates(args: Namespace, name: str, units: Gateable, learned: GateSettings | None) -> None:
    """Turn the options of fairseq-train into the setting of the model, in place.

    Args:
        args: options; those of gates are there only if they were given.
        name: the architecture.
        units: of the model.
        learned: gates of the checkpoint from which training starts; None where it has none.

    Raises:
        UsageError: options that no gates can have, that contradict the checkpoint, or that do not go together.
    """
    given = {option: getattr(args, option) for option in _FIELDS if hasattr(args, option)}
    for option in given:
        delattr(args, option)
    options = {option: value for option, value in given.items() if value is not None}
    if learned is None and not options and args.task != TASK:
        return
    settings = _settings(options, units, learned)
    faults = _faults(args, settings, units)
    if "gate_step" in options and "gate_lr_scale" in options:
        faults.append("--gate-step and --gate-lr-scale: give one of them")
    if learned is not None:
        faults += [
            f"--{option.replace('_', '-')}: the gates of the checkpoint have {getattr(learned, _FIELDS[option])}"
            for option in _LEARNED_UNDER
            if getattr(settings, _FIELDS[option]) != getattr(learned, _FIELDS[option])
        ]
    if faults:
        raise UsageError.of_faults(f"--arch {name}: gates", faults)
    setattr(args, SETTING, settings.to_json())


def _settings(options: Mapping[str, Any], units: Gateable, learned: GateSettings | None) -> GateSettings:
    """The gates that options say, which the gates of the checkpoint complete."""
    values = {_FIELDS[option]: value for option, value in options.items()}
    groups, kinds, costs = (options.get(name) for name in ("l0_groups", "l0_kinds", "gate_costs"))
    if learned is None or groups is not None or kinds is not None:
        values["kinds"] = units.chosen(groups, kinds)
    if "stretch" in values:
        values["stretch"] = tuple(values["stretch"])
    own = values.get("kinds", learned.kinds if learned else ())
    if costs is not None:
        values["costs"] = _costs(costs, own)
    elif learned is None and any(kind not in KINDS for kind in own):
        values["costs"] = units.costs(own)
    if learned is None and "step" in values:
        values.setdefault("lr_scale", 1.0)
    return replace(learned, **values) if learned else GateSettings(**values)


def _words(option: str, text: str, known: Sequence[str], what: str) -> tuple[str, ...]:
    names = {part.strip() for part in text.split(",")}
    faults = [f"{what} '{name}': choose among {', '.join(known)}" for name in sorted(names - set(known))]
    if faults:
        raise UsageError.of_faults(f"{option} {text}", faults)
    return tuple(name for name in known if name in names)


def _costs(text: str, kinds: Sequence[str]) -> dict[str, float]:
    """Costs of units as ``encoder=1.02,encoder-ffn=0.016`` gives them, one for each kind with gates."""
    found, faults = {}, []
    for part in text.split(","):
        kind, _, value = part.partition("=")
        try:
            found[kind.strip()] = float(value)
        except ValueError:
            faults.append(f"'{part}' is no KIND=NUMBER")
    faults += [f"no cost of {kind}" for kind in kinds if kind not in found and not faults]
    if faults:
        raise UsageError.of_faults(f"--gate-costs {text}", faults)
    return found


def _faults(args: Namespace, settings: GateSettings, units: Gateable) -> list[str]:
    faults = []
    if getattr(args, "weight_decay", 0.0):
        faults.append(
            f"--weight-decay {args.weight_decay:g} would pull gates back to where they started: give --weight-decay 0"
        )
    heads = [own for kind in settings.kinds if kind in KINDS for own in units.counts(kind)]
    faults += number_faults(settings.target_heads, settings.min_heads, heads)
    if args.task != TASK:
        given = {"--gate-step": settings.step, "--gate-only-updates": settings.only_updates}
        faults += [f"{option}: needs --task {TASK}" for option, value in given.items() if value]
    if not any(sum(units.counts(kind)) for kind in settings.kinds):
        faults.append("there is no head to put a gate on")
    return faults
