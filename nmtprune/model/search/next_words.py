"""From a decoder's features to the few next words that a beam can choose from."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nmtprune.model.search.options import GenerateOptions, Search, Symbols
from nmtprune.model.transformer import Transformer

_BLOCK = {"cpu": 1 << 20, "cuda": 1 << 27}
_GROUP = 64
_SMALL = 8 * _GROUP

LogitsObserver = Callable[[slice, Tensor, Tensor], None]
"""Sees the logits [n, V] of some of the rows, which they are, and the logarithm of their normalizers [n]."""


@dataclass(frozen=True)
class NextWords:
    """The best continuations of hypotheses.

    Attributes:
        tokens: [N, k + 1], the k best words but the end-of-sentence symbol, and in the last column that symbol.
        logits: [N, k + 1], their scores before normalization; -inf for what may not be chosen.
        normalizer: [N], what is subtracted from logits to make log-probabilities; zeros where those are not needed.
        spread: [N], the true normalizer may be this much higher or lower; None: it is exact.
    """

    tokens: Tensor
    logits: Tensor
    normalizer: Tensor
    spread: Tensor | None = None


@dataclass(frozen=True)
class EndRules:
    """How hypotheses continue: which may not end or must end, Boolean [N], None where that is so for none.

    Attributes:
        early: may not end, they are shorter than ``--min-len``.
        last: must end, they have as many tokens as a translation may have.
        forced: [N], the words that must follow; -1 where any may.
    """

    early: Tensor | None = None
    last: Tensor | None = None
    forced: Tensor | None = None

    def select(self, rows: Tensor | slice) -> "EndRules":
        """The rules of some of the hypotheses."""
        return EndRules(
            None if self.early is None else self.early[rows],
            None if self.last is None else self.last[rows],
            None if self.forced is None else self.forced[rows],
        )


class NextWordPredictor:
    """The output layer, normalization and choice of the best words.

    The global best `beam` candidates lie among the best `beam` of each hypothesis, and a finished hypothesis counts
    only if fewer than `beam` candidates are better: so the best `beam` words and the end-of-sentence symbol suffice.

    Attributes:
        width: k, words per hypothesis.
        barred: words that cannot be chosen like others.
        beam: hypotheses per sentence.
    """

    def __init__(self, model: Transformer, options: Search, symbols: Symbols, *, scores: bool) -> None:
        """Prepare for a model.

        Args:
            model: whose output layer is used.
            options: beam, minimum length and penalty of unknown words.
            symbols: special words.
            scores: compute log-probabilities; greedy search itself needs none.
        """
        words = model.words[1]
        self.output, self.normalized = model.output, model.normalized
        self.options, self.symbols, self.barred = options, symbols, symbols.barred
        self.beam = min(options.beam, words - 1)
        self.width = self.beam if words - 1 > 2 * self.beam else words - 1
        self.normalize = scores or self.beam > 1
        self._of_allowed = isinstance(options, GenerateOptions) and options.renormalize
        self.block = max(1, _BLOCK.get(model.device.type, 1 << 27) // words)

    def __call__(self, features: Tensor, rules: EndRules, see: LogitsObserver | None = None) -> NextWords:
        """Next words for features [N, E]."""
        blocks = range(0, features.shape[0], self.block)
        found = [self._of_block(features, rules, slice(begin, begin + self.block), see) for begin in blocks]
        if len(found) == 1:
            return found[0]
        if not found:
            return self.none(features)
        return NextWords(
            torch.cat([part.tokens for part in found]),
            torch.cat([part.logits for part in found]),
            torch.cat([part.normalizer for part in found]),
        )

    def none(self, like: Tensor, rows: int = 0) -> NextWords:
        """Next words of hypotheses that cannot be continued."""
        tokens = torch.full((rows, self.width + 1), self.symbols.eos, dtype=torch.long, device=like.device)
        logits = torch.full((rows, self.width + 1), -torch.inf, dtype=like.dtype, device=like.device)
        return NextWords(tokens, logits, torch.zeros(rows, dtype=like.dtype, device=like.device))

    def forced(self, depth: Tensor) -> Tensor | None:
        """Words [N] of the prefix that follow hypotheses of `depth` words [N], -1 behind it; None for no prefix."""
        prefix = self.symbols.prefix
        if not prefix:
            return None
        words = torch.tensor((*prefix, -1), device=depth.device)
        return words[depth.clamp(max=len(prefix))]

    def choose(
        self, values: Tensor, ending: Tensor, rules: EndRules, tokens: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Tokens and logits [n, k + 1] of the best of values [n, W].

        Args:
            values: logits of words; those of `barred` words must be -inf.
            ending: [n], logit of the end-of-sentence symbol.
            rules: of these hypotheses.
            tokens: [n, W], the words; None for the whole vocabulary in order.
        """
        best, found = top_k(values, self.width)
        if tokens is not None:
            found = tokens.gather(1, found)
        if rules.last is not None:
            best = best.masked_fill(rules.last.unsqueeze(1), -torch.inf)
        if rules.early is not None:
            ending = ending.masked_fill(rules.early, -torch.inf)
        eos = torch.full_like(found[:, :1], self.symbols.eos)
        return torch.cat([found, eos], dim=1), torch.cat([best, ending.unsqueeze(1)], dim=1)

    def _of_block(self, features: Tensor, rules: EndRules, rows: slice, see: LogitsObserver | None) -> NextWords:
        logits = self.output(features[rows])
        own = rules.select(rows)
        normalizer = self._normalizer(logits, own)
        if see is not None:
            see(rows, logits, normalizer)
        ending = logits[:, self.symbols.eos].clone()
        if own.last is not None and isinstance(self.options, GenerateOptions):
            ending = torch.where(own.last, normalizer, ending)  # a log-probability of 0
        forced = None
        if own.forced is not None:
            # A word that transformers forces has a log-probability of 0, one that fairseq forces its own.
            words = own.forced.clamp(min=0).unsqueeze(1)
            is_given = isinstance(self.options, GenerateOptions)
            forced = normalizer if is_given else logits.gather(1, words).squeeze(1)
        logits[:, self.barred] = -torch.inf
        if self.symbols.unk is not None and self.options.unkpen:
            logits[:, self.symbols.unk] -= self.options.unkpen
        tokens, best = only_forced(*self.choose(logits, ending, own), own, forced)
        # A hypothesis whose numbers overflowed ends without a result: fairseq, too, takes NaN for -inf.
        lost = ~torch.isfinite(normalizer) | best.isnan().any(1)
        best = best.masked_fill(lost.unsqueeze(1), -torch.inf)
        return NextWords(tokens, best, normalizer.masked_fill(lost, 0.0))

    def _normalizer(self, logits: Tensor, rules: EndRules) -> Tensor:
        if not self.normalize or (self.normalized and not self._of_allowed):
            return logits.new_zeros(logits.shape[0])
        if self._of_allowed:
            allowed = logits.clone()
            allowed[:, list(self.symbols.never)] = -torch.inf
            if rules.early is not None:
                allowed[rules.early, self.symbols.eos] = -torch.inf
            return allowed.logsumexp(-1)
        # Faster than logsumexp on a CPU: one vectorized pass, and any column tells the difference.
        return logits[:, 0] - logits.log_softmax(-1)[:, 0]


def only_forced(tokens: Tensor, logits: Tensor, rules: EndRules, values: Tensor | None) -> tuple[Tensor, Tensor]:
    """Next words [N, k + 1] and their logits, where a word is forced that word alone.

    Args:
        tokens: next words.
        logits: of them.
        rules: may force words; a hypothesis that must end does.
        values: [N], logits of the forced words.
    """
    if rules.forced is None or values is None:
        return tokens, logits
    forced = rules.forced >= 0
    if rules.last is not None:
        forced &= ~rules.last
    tokens, logits = tokens.clone(), logits.masked_fill(forced.unsqueeze(1), -torch.inf)
    tokens[:, 0] = torch.where(forced, rules.forced, tokens[:, 0])
    logits[:, 0] = torch.where(forced, values, logits[:, 0])
    return tokens, logits


def top_k(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row of values [n, W] in falling order, and where they are.

    On a CPU in two stages for long rows: the k groups of words with the largest maxima hold the k largest words.
    """
    rows, words = values.shape
    if values.device.type != "cpu" or words <= max(_SMALL, 2 * k * _GROUP):
        best, found = values.topk(min(k, words), dim=1)
        return best, found
    groups = words // _GROUP
    maxima = values[:, : groups * _GROUP].unflatten(1, (groups, _GROUP)).amax(-1)
    if groups * _GROUP < words:
        maxima = torch.cat([maxima, values[:, groups * _GROUP :].amax(-1, keepdim=True)], dim=1)
    start = maxima.topk(k, dim=1, sorted=False).indices * _GROUP
    where = (start.unsqueeze(-1) + torch.arange(_GROUP)).flatten(1)
    inside = values.gather(1, where.clamp(max=words - 1))
    inside = inside.masked_fill_(where >= words, -torch.inf)
    best, found = inside.topk(k, dim=1)
    return best, where.gather(1, found)
