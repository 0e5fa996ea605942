"""Checkpoints from which fairseq-train can start: what they keep of their own training."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from nmtprune.formats.base import Checkpoint
from nmtprune.gates import GateSettings


@dataclass(frozen=True)
class TrainingProgress:
    """How far the training of a checkpoint is.

    Attributes:
        updates: made so far.
        epochs: complete.
        within_epoch: some batches of another epoch are done.
        validation: what fairseq chose the best checkpoint by, at this one; None where it was not measured.
    """

    updates: int
    epochs: int
    within_epoch: bool
    validation: float | None


class TrainableCheckpoint(Checkpoint):
    """A checkpoint from which fairseq-train can start; see `Checkpoint.trainable`."""

    @abstractmethod
    def section(self, name: str) -> dict[str, Any]:
        """Settings of a part of fairseq-train: ``task``, ``criterion``, ``optimizer``, ...; empty without."""

    @property
    @abstractmethod
    def progress(self) -> TrainingProgress:
        """How far its training is."""

    @property
    @abstractmethod
    def expected_heads(self) -> float | None:
        """Heads that are open in training on average, of those with gates; None where no heads have gates."""

    @property
    @abstractmethod
    def gate_settings(self) -> GateSettings | None:
        """How its gates work; None for a model without gates."""

    @property
    @abstractmethod
    def last_rate(self) -> float | None:
        """Learning rate of the last update; None where the file has no optimizer state."""

    @property
    @abstractmethod
    def has_optimizer(self) -> bool:
        """Whether training can continue from this file at its update."""

    @property
    @abstractmethod
    def optimizer_problem(self) -> str:
        """Why the optimizer state cannot be cut with the weights; empty where it can, or where there is none."""

    @abstractmethod
    def with_new_moments(self) -> "TrainableCheckpoint":
        """The same checkpoint at the same update, with an optimizer that has made no step."""

    @abstractmethod
    def with_optimizer_of(self, other: "TrainableCheckpoint") -> "TrainableCheckpoint":
        """The same checkpoint with the optimizer state of another one, whose parameters have the same shapes."""
