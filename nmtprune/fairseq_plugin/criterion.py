"""Criteria with the penalty on open gates: `label_smoothed_cross_entropy_l0` and `cross_entropy_l0`.

L = L_xent + lambda * sum over heads of P(open) (Voita et al. 2019, section 6). L_xent is the mean loss of a token.
Where neurons have gates too, every unit counts with what it costs in multiply-accumulates, the average head with 1.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.criterions import CRITERION_REGISTRY, register_criterion
from fairseq.criterions.cross_entropy import CrossEntropyCriterion, CrossEntropyCriterionConfig
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)
from fairseq.logging import metrics
from torch import Tensor

from nmtprune.architecture import KINDS, SORTS
from nmtprune.errors import UsageError
from nmtprune.fairseq_plugin.unit_gates import GateSet, gates_of
from nmtprune.gates import penalty

logger = logging.getLogger(__name__)

_BATCHES, _PENALTY, _LAMBDA = "l0_batches", "l0_penalty", "l0_lambda"
_EXPECTED, _OPEN = "expected", "open"


def _weight() -> Any:
    return field(default=0.0, metadata={"help": "lambda, of the expected number of open heads"})


def _warmup() -> Any:
    return field(default=0, metadata={"help": "lambda rises linearly from 0 over so many updates"})


@dataclass
class LabelSmoothedL0Config(LabelSmoothedCrossEntropyCriterionConfig):  # type: ignore[misc]  # fairseq has no types
    """Options of `label_smoothed_cross_entropy_l0`."""

    l0_weight: float = _weight()
    l0_warmup_updates: int = _warmup()


@dataclass
class CrossEntropyL0Config(CrossEntropyCriterionConfig):  # type: ignore[misc]
    """Options of `cross_entropy_l0`."""

    l0_weight: float = _weight()
    l0_warmup_updates: int = _warmup()


class Penalty:
    """Lambda times the expected number of open heads, or the cost of open heads and neurons.

    Attributes:
        adapted: lambda in the last batch, where it adapts to a number of heads; None where it does not.

    Args:
        weight: lambda.
        warmup: updates over which it rises linearly from 0 (Shim et al. 2021, section 3.3).

    Raises:
        UsageError: one of them is negative, or lambda is no number.
    """

    def __init__(self, weight: float, warmup: int) -> None:
        faults = [] if 0 <= weight < math.inf else [f"--l0-weight {weight:g}: give a number from 0 on"]
        faults += [] if warmup >= 0 else [f"--l0-warmup-updates {warmup}: give a number from 0 on"]
        if faults:
            raise UsageError.of_faults("criterion", faults)
        self._weight, self._warmup = weight, warmup
        self.adapted: float | None = None

    def __call__(self, gates: GateSet, expected: Mapping[str, Tensor]) -> Tensor:
        """The term that is added to the mean loss.

        Args:
            gates: of the model.
            expected: number of open units by kind.
        """
        weight, factor = self.weight(gates.updates), 1.0
        if gates.settings.adapts and gates.heads:
            heads = torch.stack([own.detach() for kind, own in expected.items() if kind in KINDS]).sum()
            factor = gates.adapt(float(heads))
            self.adapted = weight * factor
        return penalty(gates.settings, expected, weight, factor)

    def weight(self, updates: int) -> float:
        """Lambda as it was given, after some updates."""
        return self._weight * (min(1.0, updates / self._warmup) if self._warmup else 1.0)


class _WithPenalty:
    """What both criteria add to fairseq's."""

    penalty: Penalty
    training: bool

    def forward(self, model: Any, sample: Any, reduce: bool = True) -> tuple[Tensor, Any, dict[str, Any]]:
        """The loss of a batch, its size, and figures for the log.

        fairseq sums losses and divides gradients by the size of all batches of an update: the penalty, multiplied by
        the size of this one, counts once per update whatever ``--update-freq``, the number of GPUs or of tokens.
        Validation is without it.
        """
        loss, size, logged = super().forward(model, sample, reduce)  # type: ignore[misc]
        gates = gates_of(model)
        if gates is None and self.training:
            raise UsageError("criteria with a penalty on open heads need a model with gates: --task translation_l0")
        if gates is None:
            return loss, size, logged
        expected = gates.expected_open()
        logged[_BATCHES] = 1
        if self.training and not gates.frozen:
            added = self.penalty(gates, expected)
            loss = loss + added * size
            logged[_PENALTY] = added.detach()
            logged |= {} if self.penalty.adapted is None else {_LAMBDA: self.penalty.adapted}
        logged |= {f"{_EXPECTED}_{kind}": own.detach() for kind, own in expected.items()}
        return loss, size, logged | {f"{_OPEN}_{kind}": own for kind, own in gates.open_by_kind().items()}


class LabelSmoothedCrossEntropyL0(_WithPenalty, LabelSmoothedCrossEntropyCriterion):  # type: ignore[misc]
    """Label-smoothed cross-entropy with the penalty."""

    def __init__(self, task: Any, l0_weight: float, l0_warmup_updates: int, **options: Any) -> None:
        super().__init__(task, **options)
        self.penalty = Penalty(l0_weight, l0_warmup_updates)
        _note(options["sentence_avg"])

    @classmethod
    def build_criterion(cls, cfg: Any, task: Any) -> "LabelSmoothedCrossEntropyL0":
        """Make it of fairseq's options."""
        names = ("sentence_avg", "label_smoothing", "ignore_prefix_size", "report_accuracy")
        return cls(task, cfg.l0_weight, cfg.l0_warmup_updates, **{name: cfg[name] for name in names})

    @classmethod
    def reduce_metrics(cls, logging_outputs: Sequence[dict[str, Any]]) -> None:
        """Hand the figures of an update to fairseq's log."""
        super().reduce_metrics(logging_outputs)
        log_gates(logging_outputs)


class CrossEntropyL0(_WithPenalty, CrossEntropyCriterion):  # type: ignore[misc]
    """Cross-entropy with the penalty."""

    def __init__(self, task: Any, sentence_avg: bool, l0_weight: float, l0_warmup_updates: int) -> None:
        super().__init__(task, sentence_avg)
        self.penalty = Penalty(l0_weight, l0_warmup_updates)
        _note(sentence_avg)

    @classmethod
    def build_criterion(cls, cfg: Any, task: Any) -> "CrossEntropyL0":
        """Make it of fairseq's options."""
        return cls(task, cfg.sentence_avg, cfg.l0_weight, cfg.l0_warmup_updates)

    @staticmethod
    def reduce_metrics(logging_outputs: Sequence[dict[str, Any]]) -> None:
        """Hand the figures of an update to fairseq's log."""
        CrossEntropyCriterion.reduce_metrics(logging_outputs)
        log_gates(logging_outputs)


def log_gates(logging_outputs: Sequence[dict[str, Any]]) -> None:
    """Log means over the batches of an update: the penalty while gates learn, and expected and open units by kind."""
    batches = sum(output.get(_BATCHES, 0) for output in logging_outputs)
    if not batches:
        return
    for name, digits in ((_PENALTY, 4), (_LAMBDA, 6)):
        if any(name in output for output in logging_outputs):
            metrics.log_scalar(name, _sum(logging_outputs, name) / batches, batches, round=digits)
        else:
            _leave_out(name)
    for what, digits in ((_EXPECTED, 2), (_OPEN, 1)):
        for sort, every in SORTS.items():
            kinds = [kind for kind in every if any(f"{what}_{kind}" in output for output in logging_outputs)]
            if not kinds:
                continue
            means = {kind: _sum(logging_outputs, f"{what}_{kind}") / batches for kind in kinds}
            metrics.log_scalar(f"{what}_{sort}", sum(means.values()), batches, round=digits)
            for kind, mean in means.items():
                metrics.log_scalar(f"{what}_{kind.replace('-', '_')}", mean, batches, round=digits)


def _leave_out(name: str) -> None:
    """Take a figure that has no value any longer out of the log, which would show None."""
    for meters in metrics.get_active_aggregators():
        if name in meters and not meters[name].count:
            del meters[name]
            meters.priorities[:] = [own for own in meters.priorities if own[-1] != name]


def _sum(logging_outputs: Sequence[dict[str, Any]], name: str) -> Any:
    return sum(output.get(name, 0) for output in logging_outputs)


def _note(sentence_avg: bool) -> None:
    if sentence_avg:
        logger.info("--sentence-avg: --l0-weight is relative to the mean loss of a sentence, not of a token")


def register_criteria() -> None:
    """Make the criteria known to fairseq; once, however often it is called."""
    found = {
        "label_smoothed_cross_entropy_l0": (LabelSmoothedL0Config, LabelSmoothedCrossEntropyL0),
        "cross_entropy_l0": (CrossEntropyL0Config, CrossEntropyL0),
    }
    for name, (config, criterion) in found.items():
        if name not in CRITERION_REGISTRY:
            register_criterion(name, dataclass=config)(criterion)
