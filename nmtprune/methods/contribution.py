"""How much heads and neurons give to the output of their sublayer: one pass without gradients.

With x the value of neuron j and W its column of the second matrix, W x is what the neuron gives to the output of its
layer; of a head, x are its contexts [K] and W are its columns of W_O. `variance` is the variance of W x over tokens,
Var(x) ||W||^2 for a neuron (FLAP: An et al. 2024, "Fluctuation-based adaptive structured pruning"): what a refitted
bias cannot make up for. `activation` is its mean size, E ||W x||, E|x| ||W|| for a neuron.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nmtprune.architecture import GroupId, UnitId
from nmtprune.errors import CheckpointError, DataError
from nmtprune.methods.importance import SampledScorer, SampleOptions
from nmtprune.methods.scorer import Needs, Subject, sorts_of

if TYPE_CHECKING:
    from torch import Tensor

    from nmtprune.architecture import Kept
    from nmtprune.budget import Limits
    from nmtprune.data.batching import Batch
    from nmtprune.data.examples import LabelledBatch
    from nmtprune.methods.joint_order import UnitPrices
    from nmtprune.model import Masks, Model
    from nmtprune.model.sublayers import Body


@dataclass(frozen=True)
class Contributions:
    """What units give to the output of their sublayers, over all tokens.

    Attributes:
        variance: total variance of W x.
        activation: mean of ||W x||.
    """

    variance: Mapping[UnitId, float]
    activation: Mapping[UnitId, float]


def contributions(
    model: "Model",
    batches: "Iterable[Batch | LabelledBatch]",
    masks: "Masks | None" = None,
    sorts: Sequence[str] = ("heads",),
) -> Contributions:
    """What the units that the masks leave give to the output of their sublayers, teacher forced.

    Tokens count alike, those of the source in the encoder, of the target in the decoder; padding is left out. A
    sublayer that stands at several places (tied layers) is measured at all of them together. Sums are taken in double
    precision.

    Args:
        model: an encoder-decoder model or a classifier.
        batches: sentences with their references, or texts, whose labels do not matter.
        masks: [H] or [F] of zeros and ones for groups that lost units; contributions are those in the model without
            them.
        sorts: heads, neurons or both.

    Raises:
        DataError: no sentences.
        CheckpointError: values that are no finite numbers; the groups are named.
        ValueError: batches without references, masks of another shape or other values.
    """
    import torch

    from nmtprune.methods.measuring import by_unit, units_left
    from nmtprune.methods.texts import Texts
    from nmtprune.model import Pass

    left = units_left(model, masks, sorts)
    sums = {id: _Sums(len(mask)) for id, mask in left.items()}
    sentences = 0
    with torch.inference_mode():
        for batch in batches:
            texts = Texts.of(batch, model)
            sentences += len(texts)

            def tap(body: "Body", inner: "Tensor", output: "Tensor", texts: Texts = texts) -> "Tensor":
                if body.id in sums:
                    sums[body.id].add(body, inner[texts.queries(body.id)])
                return output

            texts.features(model, Pass(masks or {}, tap=tap))
    if not sentences:
        raise DataError("contributions: there are no sentences to measure them on")
    _check_finite(sums)
    variance, activation = ({id: of(own) for id, own in sums.items()} for of in (_Sums.variance, _Sums.activation))
    return Contributions(by_unit(left, variance), by_unit(left, activation))


class _Sums:
    """Sums over the tokens of one group: of x [U, K], of its products [U, K, K] and of ||W x|| [U]."""

    def __init__(self, units: int) -> None:
        self._units, self._count = units, 0
        self._values: Tensor | float = 0.0
        self._products: Tensor | float = 0.0
        self._sizes: Tensor | float = 0.0
        self._gram: Tensor | None = None

    def add(self, body: "Body", inner: "Tensor") -> None:
        """Add tokens with contexts [N, H, K] or neurons [N, F], padding units included."""
        import torch

        x = (inner if inner.dim() == 3 else inner.unsqueeze(2))[:, : self._units].double()
        if self._gram is None:
            self._gram = _gram(body, inner.shape[1])[: self._units]
        single = x.shape[2] == 1
        squares = x.square().sum(0).unsqueeze(2) if single else torch.einsum("nuk,nul->ukl", x, x)
        weighed = x.square() * self._gram[:, 0] if single else torch.einsum("nuk,ukl,nul->nu", x, self._gram, x)
        self._count += len(x)
        self._values = self._values + x.sum(0)
        self._products = self._products + squares
        self._sizes = self._sizes + weighed.flatten(1).clamp(min=0).sqrt().sum(0)

    @property
    def finite(self) -> bool:
        """Whether all sums are numbers."""
        import torch

        return all(bool(torch.as_tensor(each).isfinite().all()) for each in (self._products, self._sizes))

    def variance(self) -> "Tensor":
        """Total variance of W x [U]: tr(W^T W cov(x))."""
        import torch

        means = torch.as_tensor(self._values) / self._count
        covariance = torch.as_tensor(self._products) / self._count - means.unsqueeze(2) * means.unsqueeze(1)
        found = (torch.as_tensor(self._gram) * covariance).sum((1, 2))
        return found.clamp(min=0)

    def activation(self) -> "Tensor":
        """Mean of ||W x|| [U]."""
        import torch

        return torch.as_tensor(self._sizes) / self._count


def _gram(body: "Body", units: int) -> "Tensor":
    """W^T W of each unit, [U, K, K]; of neurons, whose K is 1, the squared norms of columns."""
    import torch

    if body.output_weight is None:
        raise ValueError(f"{body.id} has no output projection")
    weight = body.output_weight.detach().double().unflatten(1, (units, -1))
    if weight.shape[2] == 1:
        norms: Tensor = weight.square().sum(0).unsqueeze(2)
        return norms
    return torch.bmm(weight.permute(1, 2, 0), weight.permute(1, 0, 2))


def _check_finite(sums: Mapping[GroupId, _Sums]) -> None:
    wrong = [str(id) for id, own in sums.items() if not own.finite]
    if wrong:
        raise CheckpointError(f"values of {', '.join(wrong)} are no finite numbers: check the model's weights")


def _by_group(scores: Mapping[UnitId, float]) -> dict[GroupId, list[float]]:
    found: dict[GroupId, list[float]] = {}
    for unit, score in scores.items():
        found.setdefault(unit.group, []).append(score)
    return found


class _Contribution(SampledScorer[SampleOptions]):
    """One of the two numbers."""

    settings = SampleOptions
    unscored = {"layers": "contributions of whole layers do not compare: score layers by bleu, chrf or loss"}
    chosen: Callable[[Contributions], Mapping[UnitId, float]]

    @property
    def needs(self) -> Needs:
        """References as token ids, which the decoder reads."""
        return Needs(targets=True)

    def scores(
        self,
        subject: Subject,
        kept: "Kept | None" = None,
        limits: "Limits | None" = None,
        prices: "UnitPrices | None" = None,
    ) -> Mapping[UnitId, float]:
        """In squared units, or units, of the states between sublayers."""
        sorts = sorts_of(limits)

        def measured() -> Contributions:
            model, masks = subject.under(kept)
            return contributions(model, subject.batches(self.sentences(subject)), masks, sorts)

        return type(self).chosen(measured() if kept else subject.once(f"contributions {' '.join(sorts)}", measured))

    def details(self, subject: Subject, limits: "Limits | None" = None) -> Mapping[str, Mapping[UnitId, float]]:
        """``raw``: the number itself, which does not compare across sublayers."""
        return {"raw": self.scores(subject, None, limits)}

    def ranked(self, scores: Mapping[UnitId, float], first: Mapping[UnitId, float]) -> Mapping[UnitId, float]:
        """As shares of what all units of the group give: sublayers whose outputs are small matter too."""
        totals = {group: math.fsum(own) for group, own in _by_group(first).items()}
        return {unit: score / totals[unit.group] if totals[unit.group] else 0.0 for unit, score in scores.items()}


class Variance(_Contribution):
    """Var(W x)."""

    name = "variance"
    summary = "variance of what the unit adds to the output of its sublayer, as a share (An et al. 2024)."
    brief = "smallest variance of what it adds to its sublayer's output"

    @staticmethod
    def chosen(found: Contributions) -> Mapping[UnitId, float]:
        """The variance."""
        return found.variance


class Activation(_Contribution):
    """E ||W x||."""

    name = "activation"
    summary = "mean size of what the unit adds to the output of its sublayer, as a share."
    brief = "smallest mean size of what it adds to its sublayer's output"

    @staticmethod
    def chosen(found: Contributions) -> Mapping[UnitId, float]:
        """The mean size."""
        return found.activation
