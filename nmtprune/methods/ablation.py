"""Ablation: what the quality of the model loses without each head or layer alone (Michel et al. 2019, section 3.2)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from nmtprune.architecture import GroupId, UnitId
from nmtprune.methods.scorer import CLASSIFIES, TRANSLATES, Needs, NoSettings, Scorer, Subject

if TYPE_CHECKING:
    from nmtprune.architecture import Kept
    from nmtprune.budget import Limits
    from nmtprune.methods.joint_order import UnitPrices


class QualityDrop(Scorer[NoSettings]):
    """The metric of the model minus that of the model without the head or layer: higher means keep.

    `greedy` measures it with the metric of the run. `score` offers a class per metric, and tests every difference.
    """

    name = "ablation"
    summary = "drop in quality without the head."
    brief = "smallest drop when masked alone"
    sorts = ("heads", "layers")
    unscored = {
        "neurons": "a model has thousands of neurons, and each takes a run of its own: score neurons by importance, "
        "fisher, reconstruction, variance or activation"
    }
    of_metric: ClassVar[bool] = False
    masks = True
    draws = True

    def check(self, subject: Subject) -> None:
        """Nothing: the run has checked its metric."""

    def scores(
        self,
        subject: Subject,
        kept: "Kept | None" = None,
        limits: "Limits | None" = None,
        prices: "UnitPrices | None" = None,
    ) -> Mapping[UnitId, float]:
        """The drop without each unit of the selected kinds; the only layer of a stack that is left has none."""
        architecture = subject.checkpoint.architecture
        kinds = architecture.kinds if limits is None else limits.kinds
        found: dict[UnitId, float] = {}
        for group, left in architecture.full(kept or {}).items():
            if group.kind in kinds and len(left) > (group.sort == "layers"):
                found |= self.drops(subject, group, left, kept)
        return found

    def drops(
        self, subject: Subject, group: GroupId, numbers: Sequence[int], kept: "Kept | None" = None
    ) -> dict[UnitId, float]:
        """The drop without each of some units of a group."""
        left = subject.checkpoint.architecture.full(kept or {})[group]
        systems = [{**(kept or {}), group: tuple(other for other in left if other != number)} for number in numbers]
        full = subject.once(f"quality {kept}", lambda: subject.qualities([kept or {}])[0])
        values = subject.qualities(systems)
        return {UnitId(group, number): full - value + 0.0 for number, value in zip(numbers, values, strict=True)}


class BleuDrop(QualityDrop):
    """With BLEU."""

    name = "bleu"
    summary = "change of BLEU without each head in turn, tested for significance."
    of_metric = True
    of_order = False
    measures = (TRANSLATES,)
    searches = ""

    @property
    def needs(self) -> Needs:
        """A search."""
        return Needs(search=True)


class ChrfDrop(BleuDrop):
    """With chrF."""

    name = "chrf"
    summary = "change of chrF without each head in turn, tested for significance."


class LossRise(QualityDrop):
    """With the loss per token of references, which takes no search."""

    name = "loss"
    summary = "change of the loss per reference token, or of the label of a text, likewise, without a search."
    of_metric = True
    of_order = False

    @property
    def needs(self) -> Needs:
        """References as token ids."""
        return Needs(targets=True, loss=True)


class AccuracyDrop(LossRise):
    """With accuracy, of a classifier."""

    name = "accuracy"
    summary = "change of the accuracy of a classifier, likewise, by McNemar's exact test."
    measures = (CLASSIFIES,)


class F1Drop(AccuracyDrop):
    """With F1."""

    name = "f1"
    summary = "change of F1, of label 1 or, with more than two labels, the mean over labels (macro)."


class MatthewsDrop(AccuracyDrop):
    """With Matthews' correlation."""

    name = "matthews"
    summary = "change of Matthews' correlation coefficient."
