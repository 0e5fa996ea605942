"""What a scorer is: one way to give every unit (head, neuron, layer) a number, where a higher number means keep.

A scorer is one class, listed in `runs.scorers.SCORERS`. Its settings are a dataclass whose fields are options of the
command line, settings of the state, and rows of the manual. This module and the top level of every scorer's module
import no torch: the help pages are made of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from nmtprune.architecture import SORTS, UnitId
from nmtprune.errors import UsageError

if TYPE_CHECKING:
    import torch

    from nmtprune.architecture import Kept
    from nmtprune.budget import Limits
    from nmtprune.data.batching import Batch
    from nmtprune.data.corpus import Corpus
    from nmtprune.data.examples import Examples, LabelledBatch
    from nmtprune.formats.base import Checkpoint
    from nmtprune.methods.joint_order import RemovalCosts, UnitPrices
    from nmtprune.model import Masks, Model

TRANSLATES, CLASSIFIES = "translates", "classifies"
MODELS = (TRANSLATES, CLASSIFIES)
"""Kinds of models, by what they do."""

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
    """One checkpoint and one set of sentences that its units are scored on."""

    @property
    def checkpoint(self) -> "Checkpoint":
        """The model's file."""

    @property
    def corpus(self) -> "Corpus | Examples":
        """The sentences, with what `Scorer.needs` asks for: of a classifier texts, with their labels."""

    @property
    def seed(self) -> int:
        """Of everything that is drawn."""

    @property
    def model(self) -> "Model":
        """The native model, at least in single precision, where the run computes."""

    @property
    def autocast(self) -> "torch.dtype | None":
        """The type in which a GPU computes products; None for that of the model."""

    def batches(self, corpus: "Corpus | Examples | None" = None) -> "Iterator[Batch | LabelledBatch]":
        """Sentences as padded tensors: those of `corpus`, or all; small enough for gradients."""

    def under(self, kept: "Kept | None") -> "tuple[Model, Masks]":
        """The native model without the layers that go, and zeros and ones for the units of groups that lose some.

        Groups have the numbers of the full model; those that have no mask keep all units.
        """

    def translated(self) -> "Corpus":
        """The sentences with the model's own translations in the place of references.

        Raises:
            UsageError: the model is a classifier.
        """

    def qualities(self, systems: "Sequence[Kept]") -> list[float]:
        """The metric of the run for the model with only these units, for each of several choices; higher is better."""

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
        in_greedy: another default for `greedy` and `lottery`, which measure many models.
    """  # fmt: skip
    option = {"help": help_text, "metavar": metavar, "minimum": minimum, "shown": shown, "in_greedy": in_greedy}
    return field(default=default, metadata={"click": option})


class Scorer(ABC, Generic[S]):
    """Scores the units of a model. Derive from it, and list the class in `runs.scorers.SCORERS`.

    Attributes:
        name: ``--metric NAME`` of `score`, ``--order NAME`` of `greedy` and `lottery`.
        summary: what the scores are, for help pages: one sentence.
        settings: frozen dataclass of its options, made with `setting`.
        panel: heading of these options in help pages.
        of_metric: `score` offers it.
        of_order: `greedy` offers it.
        sorts: what it scores, of SORTS. Scores of several sorts have one unit and compare.
        unscored: by each other sort why it is not scored, for messages: a clause, and what to do instead.
        brief: explains the order in a few words, for help pages; empty if the name says enough.
        reestimates: `greedy` also offers NAME-reestimated: scored again after every step, on the pruned model.
        masks: scores come from the quality of models without single units (`Subject.qualities`). Such a scorer is an
            order of `greedy`; `score` itself removes units, for bleu, chrf and loss only, and tests each difference.
        mixes: sentences of several directions are measured together, in equal parts: scores of each alone have no mean.
        measures: the kinds of models that it scores, of MODELS.
        draws: `--seed` has an effect, perhaps only with some settings (`uses_seed`).
        searches: None: needs no search; empty: always; else the option with which it does.
        on_training_text: `greedy` and `lottery` measure on the training set (`--importance-subset`) instead of DATA.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    settings: ClassVar[type[Any]] = NoSettings
    panel: ClassVar[str] = "Scoring"
    of_metric: ClassVar[bool] = True
    of_order: ClassVar[bool] = True
    sorts: ClassVar[tuple[str, ...]] = ("heads",)
    unscored: ClassVar[Mapping[str, str]] = {}
    brief: ClassVar[str] = ""
    reestimates: ClassVar[bool] = False
    masks: ClassVar[bool] = False
    joint: ClassVar[bool] = False
    mixes: ClassVar[bool] = False
    measures: ClassVar[tuple[str, ...]] = MODELS
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

    def check_options(self) -> None:
        """Find what is wrong with the settings themselves.

        Raises:
            UsageError: values that cannot be.
        """

    def check(self, subject: Subject) -> None:
        """Find now what would fail later.

        Raises:
            NmtpruneError: settings, a model or sentences that do not work.
        """
        if self.needs.loss:
            subject.checkpoint.check_loss()
        _ = subject.model

    def check_kinds(self, kinds: Sequence[str]) -> None:
        """Check that it can score the units of some kinds of groups.

        Raises:
            UsageError: it cannot; every sort of unit that is to blame, with the reason.
        """
        wrong = [sort for sort, own in SORTS.items() if sort not in self.sorts and set(own).intersection(kinds)]
        if wrong:
            raise UsageError.of_faults(
                self.name, [f"{sort}: {self.unscored.get(sort, 'not scored')}" for sort in wrong]
            )

    def sentences(self, subject: Subject) -> "Corpus | Examples":
        """The sentences that are read: those of the subject, or a part of them."""
        return subject.corpus

    @abstractmethod
    def scores(
        self,
        subject: Subject,
        kept: "Kept | None" = None,
        limits: "Limits | None" = None,
        prices: "UnitPrices | None" = None,
    ) -> Mapping[UnitId, float]:
        """A number for every unit that is left of the kinds of the limits; higher means keep.

        Args:
            subject: model and sentences.
            kept: the units that are left; None for all.
            limits: kinds of groups; None: all heads. Which units may go, which matters only to orders that depend on
                the units removed before.
            prices: what removing a unit saves, for such orders.
        """

    def ranked(self, scores: Mapping[UnitId, float], first: Mapping[UnitId, float]) -> Mapping[UnitId, float]:
        """Scores as units are compared by them.

        Args:
            scores: of `scores`.
            first: those of the unpruned model, where `scores` are of a later step; else the same.
        """
        return scores

    def remarks(self, scores: Mapping[UnitId, float]) -> list[str]:
        """What looks wrong with scores, one line each."""
        return []

    def details(self, subject: Subject, limits: "Limits | None" = None) -> Mapping[str, Mapping[UnitId, float]]:
        """Further numbers of every unit for the score file, by name; `limits` as for `scores`."""
        return {}

    def facts(self, subject: Subject) -> dict[str, Any]:
        """How the scores were measured, for result files: JSON values by name."""
        return {}


class JointScorer(Scorer[S]):
    """A scorer whose costs depend on the units removed before: its scores are ranks in the order of removal.

    Attributes:
        in_rounds: `greedy` measures again after each share of the removal (``--rounds``), on the refitted model.
    """

    joint: ClassVar[bool] = True
    mixes: ClassVar[bool] = True
    in_rounds: ClassVar[bool] = False

    @abstractmethod
    def removal_costs(
        self, subject: Subject, kept: "Kept | None" = None, sorts: Sequence[str] = ("heads",)
    ) -> "RemovalCosts":
        """Measure what it costs to remove one more unit of some sorts from the model that is left."""

    def scores(
        self,
        subject: Subject,
        kept: "Kept | None" = None,
        limits: "Limits | None" = None,
        prices: "UnitPrices | None" = None,
    ) -> Mapping[UnitId, float]:
        """0 for the unit that goes first, 1 for the next, and so on, under the limits."""
        from nmtprune.budget import Limits
        from nmtprune.methods.joint_order import ranks, removal_order

        architecture = subject.checkpoint.architecture
        groups = {group.id: group.units for group in architecture.groups}
        left = architecture.full(kept or {})
        gone = [
            UnitId(id, unit) for id, units in architecture.units.items() for unit in set(units).difference(left[id])
        ]
        costs = self.removal_costs(subject, kept, sorts_of(limits))
        return ranks(removal_order(costs, groups, limits or Limits(architecture.kinds), gone, prices))


def sorts_of(limits: "Limits | None") -> tuple[str, ...]:
    """The sorts of units that the limits speak of; heads without limits."""
    return ("heads",) if limits is None else tuple(sort for sort, own in SORTS.items() if {*own} & {*limits.kinds})
