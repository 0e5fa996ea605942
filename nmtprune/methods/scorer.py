"""What a scorer is: one way to give every attention head a number, where a higher number means keep.

A scorer is one class, listed in `runs.scorers.SCORERS`. Its settings are a dataclass whose fields are options of the
command line, settings of the state, and rows of the manual. This module and the top level of every scorer's module
import no torch: the help pages are made of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from nmtprune.architecture import UnitId

if TYPE_CHECKING:
    import torch

    from nmtprune.architecture import Kept
    from nmtprune.budget import Limits
    from nmtprune.data.batching import Batch
    from nmtprune.data.corpus import Corpus
    from nmtprune.formats.base import Checkpoint
    from nmtprune.methods.joint_order import RemovalCosts
    from nmtprune.model import Masks, Transformer

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Needs:
    """What a scorer needs of the sentences and of the run.

    Attributes:
        targets: references as token ids.
        loss: the training loss, which not every model has.
        search: it translates.
    """

    targets: bool = False
    loss: bool = False
    search: bool = False


class Subject(Protocol):
    """One checkpoint and one set of sentences that its heads are scored on."""

    @property
    def checkpoint(self) -> "Checkpoint":
        """The model's file."""

    @property
    def corpus(self) -> "Corpus":
        """The sentences, with what `Scorer.needs` asks for."""

    @property
    def seed(self) -> int:
        """Of everything that is drawn."""

    @property
    def model(self) -> "Transformer":
        """The native model, at least in single precision, where the run computes."""

    @property
    def autocast(self) -> "torch.dtype | None":
        """The type in which a GPU computes products; None for that of the model."""

    def batches(self, corpus: "Corpus | None" = None) -> "Iterator[Batch]":
        """Sentences as padded tensors: those of `corpus`, or all; small enough for gradients."""

    def masks(self, kept: "Kept | None") -> "Masks":
        """[H] of zeros and ones per module; a module that `kept` does not name keeps all heads."""

    def translated(self) -> "Corpus":
        """The sentences with the model's own translations in the place of references."""

    def qualities(self, systems: "Sequence[Kept]") -> list[float]:
        """The metric of the run for the model with only these heads, for each of several choices; higher is better."""

    def search_facts(self) -> dict[str, Any]:
        """How translations are searched, for result files."""

    def once(self, name: str, compute: Callable[[], T]) -> T:
        """The value of `compute`, which is called once for a name."""


@dataclass(frozen=True)
class NoSettings:
    """A scorer without options."""


def setting(
    default: Any,
    help_text: str,
    *,
    metavar: str | None = None,
    minimum: int | None = None,
    shown: str | None = None,
    in_greedy: Any = None,
) -> Any:
    """A field of a scorer's settings that is an option of the command line; its type gives the values.

    Args:
        default: value without the option.
        help_text: description in help pages: whole sentences.
        metavar: what the help page calls the value.
        minimum: the smallest whole number.
        shown: the default in words.
        in_greedy: another default for `greedy`.
    """  # fmt: skip
    option = {"help": help_text, "metavar": metavar, "minimum": minimum, "shown": shown, "in_greedy": in_greedy}
    return field(default=default, metadata={"click": option})


class Scorer(ABC, Generic[S]):
    """Scores the heads of a model. Derive from it, and list the class in `runs.scorers.SCORERS`.

    Attributes:
        name: ``--metric NAME`` of `score`, ``--order NAME`` of `greedy`.
        summary: what the scores are, for help pages: one sentence.
        settings: frozen dataclass of its options, made with `setting`.
        panel: heading of these options in help pages.
        of_metric: `score` offers it.
        of_order: `greedy` offers it.
        brief: explains the order in a few words, for help pages; empty if the name says enough.
        reestimates: `greedy` also offers NAME-reestimated: scored again after every step, on the pruned model.
        masks: scores come from the quality of models with heads masked (`Subject.qualities`). Such a scorer is an order
            of `greedy`; `score` itself masks heads, for bleu, chrf and loss only, and tests each difference.
        draws: `--seed` has an effect, perhaps only with some settings (`uses_seed`).
        searches: None: needs no search; empty: always; else the option with which it does.
        on_training_text: `greedy` measures on the training set (`--importance-subset`) instead of DATA.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    settings: ClassVar[type[Any]] = NoSettings
    panel: ClassVar[str] = "Scoring"
    of_metric: ClassVar[bool] = True
    of_order: ClassVar[bool] = True
    brief: ClassVar[str] = ""
    reestimates: ClassVar[bool] = False
    masks: ClassVar[bool] = False
    joint: ClassVar[bool] = False
    draws: ClassVar[bool] = False
    searches: ClassVar[str | None] = None
    on_training_text: ClassVar[bool] = False

    def __init__(self, options: S | None = None) -> None:
        """A scorer with its settings; None for their defaults."""
        self.options: S = self.settings() if options is None else options

    @property
    def needs(self) -> Needs:
        """What it needs with these settings."""
        return Needs()

    @property
    def uses_seed(self) -> bool:
        """Whether the seed makes a difference with these settings."""
        return self.draws

    def check(self, subject: Subject) -> None:
        """Find now what would fail later.

        Raises:
            NmtpruneError: settings, a model or sentences that do not work.
        """
        if self.needs.loss:
            subject.checkpoint.check_loss()
        _ = subject.model

    def sentences(self, subject: Subject) -> "Corpus":
        """The sentences that are read: those of the subject, or a part of them."""
        return subject.corpus

    @abstractmethod
    def scores(
        self, subject: Subject, kept: "Kept | None" = None, limits: "Limits | None" = None
    ) -> Mapping[UnitId, float]:
        """A number for every head that is left; higher means keep.

        Args:
            subject: model and sentences.
            kept: the heads that are left; None for all.
            limits: which heads may go; only orders look at them that depend on the heads removed before.
        """

    def ranked(self, scores: Mapping[UnitId, float], first: Mapping[UnitId, float]) -> Mapping[UnitId, float]:
        """Scores as heads are compared by them.

        Args:
            scores: of `scores`.
            first: those of the unpruned model, where `scores` are of a later step; else the same.
        """
        return scores

    def details(self, subject: Subject) -> Mapping[str, Mapping[UnitId, float]]:
        """Further numbers of every head for the score file, by name."""
        return {}

    def facts(self, subject: Subject) -> dict[str, Any]:
        """How the scores were measured, for result files: JSON values by name."""
        return {}


class JointScorer(Scorer[S]):
    """A scorer whose costs depend on the heads removed before: its scores are ranks in the order of removal.

    Attributes:
        in_rounds: `greedy` measures again after each share of the removal (``--rounds``), on the refitted model.
    """

    joint: ClassVar[bool] = True
    in_rounds: ClassVar[bool] = False

    @abstractmethod
    def removal_costs(self, subject: Subject, kept: "Kept | None" = None) -> "RemovalCosts":
        """Measure what it costs to remove one more head of the model that is left."""

    def scores(
        self, subject: Subject, kept: "Kept | None" = None, limits: "Limits | None" = None
    ) -> Mapping[UnitId, float]:
        """0 for the head that goes first, 1 for the next, and so on, under the limits."""
        from nmtprune.budget import Limits
        from nmtprune.methods.joint_order import ranks, removal_order

        base = subject.checkpoint.base
        gone = [
            UnitId(module, head)
            for module, heads in (kept or {}).items()
            for head in range(base.modules[module])
            if head not in heads
        ]
        costs = self.removal_costs(subject, kept)
        return ranks(removal_order(costs, base.modules, limits or Limits(subject.checkpoint.architecture.kinds), gone))
