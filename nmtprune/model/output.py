"""Output layers: from the decoder's features to scores of the vocabulary's words."""

from torch import Tensor, nn

from nmtprune.model.kernels import linear
from nmtprune.model.weights import Weights


class LinearOutput(nn.Module):
    """A linear layer; its scores are logits."""

    normalized = False

    def __init__(self, weights: Weights, width: int, bias: bool) -> None:
        super().__init__()
        self.weight = weights.take("output.weight", None, width)
        self.bias = weights.take("output.bias", weights.rows("output.weight")) if bias else None

    @property
    def words(self) -> int:
        """Size of the vocabulary."""
        return self.weight.shape[0]

    def forward(self, features: Tensor) -> Tensor:
        """Logits [..., V] of features [..., D]."""
        return linear(features, self.weight, self.bias)


class AdaptiveOutput(nn.Module):
    """Adaptive softmax (Grave et al. 2017); its scores are log-probabilities.

    The head scores the frequent words and, as classes, the bands of rarer words; each band scores its words in a space
    of its own width.
    """

    normalized = True

    def __init__(self, weights: Weights, width: int, bands: int) -> None:
        super().__init__()
        self.words_weight = weights.take("output.words.weight", None, width)
        self.classes_weight = weights.take("output.classes.weight", bands - 1, width)
        tails = [weights.need(f"output.tails.{band}.words.weight") for band in range(bands - 1)]
        self.tails = nn.ParameterList(tails)
        self.tail_projections = nn.ParameterList(
            weights.take(f"output.tails.{band}.projection.weight", tail.shape[1], width)
            for band, tail in enumerate(tails)
        )

    @property
    def words(self) -> int:
        """Size of the vocabulary."""
        return sum(int(table.shape[0]) for table in (self.words_weight, *self.tails))

    def forward(self, features: Tensor) -> Tensor:
        """Log-probabilities [..., V] of features [..., D]."""
        frequent = self.words_weight.shape[0]
        scores = features.new_empty(*features.shape[:-1], self.words)
        head = features.new_empty(*features.shape[:-1], frequent + self.classes_weight.shape[0])
        head[..., :frequent] = linear(features, self.words_weight)
        head[..., frequent:] = linear(features, self.classes_weight)
        head = head.log_softmax(-1)
        scores[..., :frequent] = head[..., :frequent]
        start = frequent
        for band, (tail, projection) in enumerate(zip(self.tails, self.tail_projections, strict=True)):
            inside = linear(linear(features, projection), tail).log_softmax(-1)
            scores[..., start : start + tail.shape[0]] = inside + head[..., frequent + band].unsqueeze(-1)
            start += tail.shape[0]
        return scores
