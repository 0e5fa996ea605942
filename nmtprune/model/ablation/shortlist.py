"""Next words of a hypothesis under changed masks without the whole output layer, with exact error bounds.

The recorded search knows the logits z = W h of every word. Masks change the features h by a small delta. For the
K best words C the changed logits are computed; of all others R only their sum is needed, to normalize:

    sum over R of exp(z + W delta) = sum over R of exp(z) * E[exp(x)],   x = w . delta, words drawn as exp(z)

and with m = E[x], by Jensen's inequality from below and by Bennett's argument from above,

    exp(m) <= E[exp(x)] <= exp(m) * (1 + phi(b) / 2 * Var[x]),   phi(b) = 2 (exp(b) - 1 - b) / b^2,   x - m <= b.

The variance is at most ``max q * delta' G delta`` with q the largest share of a word of R and G the scatter matrix of
the rows of W; b follows from the length of delta. No word of R has a logit above ``max over R of z + max |w| |delta|``.
"""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from nmtprune.model.output import LinearOutput
from nmtprune.model.search.next_words import EndRules, NextWordPredictor, NextWords, only_forced, top_k

WORDS = 64
"""K for beams; greedy search, which needs no normalizer, takes fewer."""

GREEDY_WORDS = 8
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Shortlists:
    """What is known of N recorded hypotheses.

    Attributes:
        features: [N, E], h.
        tokens: [N, K], the best words that can be chosen, without the end-of-sentence symbol.
        rest: [N], logarithm of the sum of exp(z) over all words but these and the end-of-sentence symbol.
        mean: [N, E], mean row of W over those words, each weighted by exp(z).
        top: [N], largest z of those words.
    """

    features: Tensor
    tokens: Tensor
    rest: Tensor
    mean: Tensor
    top: Tensor

    def select(self, rows: Tensor | slice) -> "Shortlists":
        """Those of some hypotheses."""
        return Shortlists(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def joined(cls, parts: "list[Shortlists]") -> "Shortlists":
        """Those of several lists of hypotheses, one after the other."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    @property
    def size_bytes(self) -> int:
        """Memory that they take."""
        return sum(getattr(self, field.name).nbytes for field in fields(self))


class Screen:
    """Makes shortlists, and next words from them."""

    def __init__(self, predictor: NextWordPredictor, output: LinearOutput, widest: float = 0.05) -> None:
        """Prepare for an output layer.

        Args:
            predictor: computes the same next words exactly.
            output: the output layer.
            widest: largest error bound of a normalizer that is of use.
        """
        self._predictor, self._widest = predictor, widest
        self._weight, self._bias = output.weight, output.bias
        self._words = min(
            max(WORDS if predictor.normalize else GREEDY_WORDS, predictor.width), output.words - len(predictor.barred)
        )
        self._longest = output.weight.norm(dim=1).max()
        self._center = output.weight.mean(0)
        centered = output.weight - self._center
        self._reach = centered.norm(dim=1).max()
        self._scatter = centered.T @ centered

    @staticmethod
    def of(predictor: NextWordPredictor) -> "Screen | None":
        """A screen for the scorer's output layer; None where the layer is not linear or hardly larger than a list."""
        output = predictor.output
        if not isinstance(output, LinearOutput) or output.words < 4 * max(WORDS, predictor.width):
            return None
        return Screen(predictor, output)

    def shortlists(self, features: Tensor, logits: Tensor, normalizer: Tensor) -> Shortlists:
        """Shortlists of hypotheses whose logits [N, V] are known."""
        symbols = self._predictor.symbols
        logits, barred = logits.clone(), self._predictor.barred
        apart = logits[:, barred]
        logits[:, barred] = -torch.inf
        _, tokens = top_k(logits, self._words)
        logits[:, barred] = apart  # what cannot be chosen has its share of the probability
        logits[:, symbols.eos] = -torch.inf
        logits.scatter_(1, tokens, -torch.inf)
        top = logits.amax(1)
        if not self._predictor.normalize:
            return Shortlists(features, tokens.int(), top, features.new_empty(len(tokens), 0), top)
        shares = (logits - normalizer.unsqueeze(1)).exp_()
        total = shares.sum(1)
        mean = shares @ self._weight / total.unsqueeze(1)
        return Shortlists(features, tokens.int(), total.log() + normalizer, mean, top)

    def next_words(self, features: Tensor, known: Shortlists, rules: EndRules) -> tuple[NextWords, Tensor]:
        """Next words for changed features [N, E], and which hypotheses' are certain to be right, Boolean [N]."""
        symbols, options = self._predictor.symbols, self._predictor.options
        delta = features - known.features
        length = delta.norm(dim=1)
        logits = self._logits(features, known.tokens)
        ending = features @ self._weight[symbols.eos]
        if self._bias is not None:
            ending = ending + self._bias[symbols.eos]
        normalizer, spread = self._normalizer(logits, ending, delta, length, known)
        if symbols.unk is not None and options.unkpen:
            logits = torch.where(known.tokens == symbols.unk, logits - options.unkpen, logits)
        forced = None if rules.forced is None else self._logits(features, rules.forced.clamp(min=0).unsqueeze(1))[:, 0]
        chosen = self._predictor.choose(logits, ending, rules, known.tokens.long())
        tokens, best = only_forced(*chosen, rules, forced)
        above = known.top + self._longest * length + max(0.0, -options.unkpen)
        # Greedy search takes one candidate, be it the end; a beam needs the k-th best word.
        certain = best.amax(1) > above if self._predictor.beam == 1 else best[:, self._predictor.width - 1] > above
        if rules.last is not None:
            certain |= rules.last
        if rules.forced is not None:
            certain |= rules.forced >= 0
        return NextWords(tokens, best, normalizer, spread), certain & (spread <= self._widest)

    def _logits(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Logits [N, K] of some words of each hypothesis."""
        rows, words = tokens.shape
        block = max(1, _BLOCK_BYTES // (words * features.shape[1] * features.element_size()))
        if features.device.type != "cpu":
            block = 64 * block
        found = [
            (F.embedding(tokens[begin : begin + block], self._weight) * features[begin : begin + block, None]).sum(-1)
            for begin in range(0, rows, block)
        ]
        logits = torch.cat(found) if found else features.new_empty(0, words)
        return logits if self._bias is None else logits + self._bias[tokens]

    def _normalizer(
        self, logits: Tensor, ending: Tensor, delta: Tensor, length: Tensor, known: Shortlists
    ) -> tuple[Tensor, Tensor]:
        """Middle and half width of the interval [N] in which the normalizer lies."""
        if not self._predictor.normalize:
            return torch.zeros_like(ending), torch.zeros_like(ending)
        shift = (known.mean * delta).sum(1)
        reach = (self._reach * length + (delta @ self._center - shift).abs()).clamp(min=1e-3)
        convexity = 2 * (reach.expm1() - reach) / reach.square()
        variance = (known.top - known.rest).exp() * ((delta @ self._scatter) * delta).sum(1)
        listed = torch.logaddexp(logits.logsumexp(1), ending)
        low = torch.logaddexp(listed, known.rest + shift)
        high = torch.logaddexp(listed, known.rest + shift + torch.log1p(0.5 * convexity * variance))
        return (low + high) / 2, (high - low) / 2
