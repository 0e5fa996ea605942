"""Metrics of classifiers: accuracy, F1, Matthews' correlation and loss, from counts of every text.

Values are in points, 100 for labels that are all right, as GLUE reports them; the loss is in nats.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nmtprune.errors import DataError
from nmtprune.evaluate.metrics import Floats, Metric, Scored, Statistics, TokenLoss

_BINARY = 2
_POINTS = 100.0

Labels = NDArray[np.int64]


class LabelMetric(Metric):
    """A metric of predicted labels [N] against those of the data."""

    def __init__(self, labels: Labels, classes: int) -> None:
        """Prepare the labels [N] of the data, from 0 to below `classes`.

        Raises:
            DataError: there are none.
        """
        if not len(labels):
            raise DataError("no labels: there is nothing to compare predictions with")
        self._labels, self._classes = labels, classes

    def scored(self, predicted: Labels) -> Scored:
        """Statistics of one system's labels [N].

        Raises:
            DataError: another number of them.
        """
        if len(predicted) != len(self._labels):
            raise DataError(f"{len(predicted)} predicted labels for {len(self._labels)} texts: one for each")
        return Scored(self, self._counts(predicted))

    def corpus_score(self, statistics: Statistics) -> float:
        """Score of all texts."""
        return float(self.scores(statistics.sum(axis=0).astype(np.float64)))

    @abstractmethod
    def _counts(self, predicted: Labels) -> NDArray[np.int64]:
        """Statistics [N, stats]."""

    def _one_hot(self, labels: Labels) -> NDArray[np.int64]:
        """[N, C]."""
        return np.eye(self._classes, dtype=np.int64)[labels]


class Accuracy(LabelMetric):
    """Share of the texts whose label is right, in percent; statistics: right or not, and 1."""

    name = "accuracy"
    discordant = True

    @property
    def signature(self) -> str:
        """Unit and number of labels."""
        return f"unit:percent|labels:{self._classes}"

    def scores(self, sums: Floats) -> Floats:
        """Percent [...] of sums [2, ...]."""
        found: Floats = _POINTS * sums[0] / sums[1]
        return found

    def _counts(self, predicted: Labels) -> NDArray[np.int64]:
        right = (predicted == self._labels).astype(np.int64)
        return np.column_stack([right, np.ones_like(right)])


class F1(LabelMetric):
    """F1 in points: of label 1 where there are two labels, as GLUE has it; else the mean over labels (macro).

    A label counts in the mean if a text has it or it is predicted for one, as in scikit-learn. Statistics: true
    positives, false positives and false negatives of each label that counts.
    """

    name = "f1"

    @property
    def signature(self) -> str:
        """Of which labels."""
        return f"unit:points|labels:{self._classes}|" + ("of:1" if self._classes == _BINARY else "average:macro")

    def scores(self, sums: Floats) -> Floats:
        """Points [...] of sums [3 x labels that count, ...]."""
        right, wrong, missed = sums[0::3], sums[1::3], sums[2::3]
        total = 2 * right + wrong + missed
        each = np.where(total > 0, 2 * right / np.maximum(total, 1), 0)
        found: Floats = _POINTS * each.sum(axis=0) / np.maximum((total > 0).sum(axis=0), 1)
        return found

    def _counts(self, predicted: Labels) -> NDArray[np.int64]:
        said, true = self._one_hot(predicted), self._one_hot(self._labels)
        counts = np.stack([said * true, said * (1 - true), (1 - said) * true], axis=2)
        counted = counts[:, 1:] if self._classes == _BINARY else counts
        return counted.reshape(len(predicted), -1)


class Matthews(LabelMetric):
    """Matthews' correlation coefficient in points, for any number of labels (Gorodkin 2004); 0 where it is undefined.

    Statistics: right or not, 1, the label of the text and the predicted one, one-hot.
    """

    name = "matthews"

    @property
    def signature(self) -> str:
        """Number of labels."""
        return f"unit:points|labels:{self._classes}"

    def scores(self, sums: Floats) -> Floats:
        """Points [...] of sums [2 + 2 x labels, ...]."""
        right, total = sums[0], sums[1]
        true, said = sums[2 : 2 + self._classes], sums[2 + self._classes :]
        covariance = right * total - (true * said).sum(axis=0)
        spread = (total**2 - (true**2).sum(axis=0)) * (total**2 - (said**2).sum(axis=0))
        found: Floats = np.where(spread > 0, _POINTS * covariance / np.sqrt(np.where(spread > 0, spread, 1)), 0)
        return found

    def _counts(self, predicted: Labels) -> NDArray[np.int64]:
        right = (predicted == self._labels).astype(np.int64)
        return np.column_stack(
            [right, np.ones_like(right), self._one_hot(self._labels), self._one_hot(predicted)]
        )  # fmt: skip


class ExampleLoss(TokenLoss):
    """Mean cross entropy of the labels of texts, negated, nats."""

    @property
    def signature(self) -> str:
        """Unit and mean."""
        return "unit:nats|mean:texts"

    def of_texts(self, losses: Sequence[float]) -> Scored:
        """Statistics of one system from the loss of each text; errors as for `scored`."""
        return self.scored(losses, [1] * len(losses))


LABEL_METRICS: dict[str, type[LabelMetric]] = {each.name: each for each in (Accuracy, F1, Matthews)}
"""Metrics of labels by name."""


def without_reading(labels: Labels, classes: int, metric: str) -> tuple[float, int]:
    """The best value of a metric without a look at the texts, and the label that is always said for it.

    Args:
        labels: [N] of the data.
        classes: number of labels.
        metric: name of the metric; of the loss it is its own value, of a model that knows the shares of labels.
    """
    counts = np.bincount(labels, minlength=classes)
    if metric == ExampleLoss.name:
        shares = counts[counts > 0] / len(labels)
        return -math.fsum(shares * np.log(shares)), int(counts.argmax())
    own = LABEL_METRICS[metric](labels, classes)
    values = [own.scored(np.full(len(labels), label)).score for label in range(classes)]
    best = max(range(classes), key=lambda label: (values[label], counts[label]))
    return values[best], best
