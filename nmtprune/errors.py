"""Exceptions of nmtprune: one tree, each class with the exit code that the command line returns for it."""

from collections.abc import Iterable, Sequence


class NmtpruneError(Exception):
    """Any failure that nmtprune explains: the message is one line that says what, where and what to do.

    Attributes:
        exit_code: what the command line returns for this class of error.
        faults: the separate faults that the message joins; one element where there is one fault.
    """

    exit_code = 1

    def __init__(self, message: str, faults: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.faults: tuple[str, ...] = tuple(faults) or (message,)

    @classmethod
    def of_faults(cls, where: str, faults: Iterable[str]) -> "NmtpruneError":
        """One error of this class that names every fault at once: ``where: fault; fault; ...``."""
        listed = tuple(faults)
        return cls(f"{where}: {'; '.join(listed)}", listed)


class UsageError(NmtpruneError):
    """Options that do not fit together, or a value that an option cannot take."""

    exit_code = 2


class CheckpointError(NmtpruneError):
    """A checkpoint that is damaged, of a format or architecture that nmtprune does not support, or unsafe to load."""

    exit_code = 3


class NotFiniteError(CheckpointError):
    """A model with weights that are NaN or infinite."""


class PlanError(NmtpruneError):
    """A plan that is malformed or made for another model."""

    exit_code = 4


class BudgetError(PlanError):
    """A number of heads that cannot be met exactly."""


class DataError(NmtpruneError):
    """Sentences, vocabularies or score files that are missing, damaged or do not fit the model."""

    exit_code = 5


class EngineError(NmtpruneError):
    """An engine or export target that cannot run this model, or whose optional packages are not installed."""

    exit_code = 6


class QualityGateError(NmtpruneError):
    """A quality gate that was not met."""

    exit_code = 7


class OutputError(NmtpruneError):
    """An output that exists, cannot be written or would overwrite an input."""

    exit_code = 8


class TrainingError(NmtpruneError):
    """A training run that failed."""

    exit_code = 9
