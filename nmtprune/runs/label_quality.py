"""The quality of a classifier without some units: accuracy, F1, Matthews' correlation or loss on one set of texts."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, cast

from nmtprune.data.directions import Sets
from nmtprune.data.examples import Examples
from nmtprune.evaluate.cost import Lengths
from nmtprune.evaluate.label_metrics import LABEL_METRICS, ExampleLoss, LabelMetric
from nmtprune.evaluate.metrics import Scored
from nmtprune.runs.baseline import check_labels, with_remarks
from nmtprune.runs.corpora import Corpora
from nmtprune.runs.quality import Quality
from nmtprune.runs.run import LOSS, MeasuringRun

if TYPE_CHECKING:
    from torch import Tensor

    from nmtprune.architecture import Kept
    from nmtprune.engines.native_labels import LabelAblation
    from nmtprune.formats.base import Checkpoint


def label_metric(examples: Examples, name: str) -> LabelMetric | ExampleLoss:
    """A metric, or the loss, on the labels of texts.

    Raises:
        DataError: there are none.
    """
    if name == LOSS:
        return ExampleLoss()
    return LABEL_METRICS[name](examples.targets, len(examples.label_names))


def scored_logits(metric: LabelMetric | ExampleLoss, logits: "Tensor", examples: Examples) -> Scored:
    """The result of one system for its logits [N, C]; of equal ones the first label is taken."""
    from nmtprune.engines.native_labels import losses_of

    if isinstance(metric, LabelMetric):
        return metric.scored(logits.argmax(1).numpy())
    return metric.of_texts(losses_of(logits, examples).tolist())


def measure_labels(
    checkpoint: "Checkpoint", sets: Mapping[str, Sets], settings: MeasuringRun, corpora: Corpora
) -> "dict[str, Quality]":
    """What `runs.quality.measure` gives for a classifier; arguments are the same.

    Raises:
        NmtpruneError: bad data, texts without labels, an engine that runs no classifier.
    """
    from nmtprune.engines.native_labels import LabelAblation, open_labels

    model = open_labels(checkpoint, settings.engine, settings.for_engine())
    found: dict[str, Quality] = {}
    for name, data in sets.items():
        examples = with_remarks(corpora.labelled(data, checkpoint.classifier_profile()), settings)
        found[name] = LabelQuality(examples, LabelAblation(model, examples, settings.limits), settings)
    return found


class LabelQuality(Quality):
    """A metric of labels, or their loss."""

    def __init__(self, examples: Examples, ablation: "LabelAblation", settings: MeasuringRun) -> None:
        """Prepare the metric; errors as for `label_metric`."""
        super().__init__(examples, label_metric(examples, settings.metric), settings)
        self._examples, self._ablation = examples, ablation

    def baseline(self) -> Scored:
        """The full model."""
        return self._full

    def check_baseline(self, model: str) -> list[str]:
        """As for `Quality`: the full model must know more than which label is most frequent."""
        return check_labels(self._examples, self._full, self._settings, model)

    def systems(self, kept: "Sequence[Kept]") -> list[Scored]:
        """The classifier with only these units left."""
        return [self.score(logits) for logits in self._ablation.logits(kept)]

    def lengths(self) -> Lengths:
        """Of the texts."""
        return Lengths.of_texts(self._examples.tokens.sizes.tolist())

    def tokens(self) -> int:
        """Tokens of all texts."""
        return int(self._examples.tokens.sizes.sum())

    def score(self, logits: "Tensor") -> Scored:
        """The result for logits [N, C]; of equal ones the first label is taken."""
        return scored_logits(cast("LabelMetric | ExampleLoss", self._metric), logits, self._examples)

    @cached_property
    def _full(self) -> Scored:
        return self.systems([{}])[0]
