"""Quality metrics (BLEU and chrF by sacrebleu, loss): per-sentence sufficient statistics, and scores of their sums.

A corpus score is a function of sums of per-sentence counts (n-gram matches, lengths, losses). The counts are taken once
per hypothesis; scoring a corpus, or a resample of it, then only adds them up.
"""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmtprune.errors import DataError, EngineError, NmtpruneError, UsageError
from nmtprune.evaluate.tokenizers import sacrebleu_tokenizer

Statistics = NDArray[np.int64] | NDArray[np.float64]
Floats = NDArray[np.floating[Any]]

_log = logging.getLogger(__name__)

TOKENIZED_LINES = 100
"""Hypotheses that end in a separate full stop from which on a warning says that the text looks tokenized."""


class Metric(ABC):
    """What turns summed statistics into a score; higher is always better.

    Attributes:
        name: as `--metric` names it.
        sign: 1, or -1 for a loss: ``sign * score`` is the metric's own value.
        sacrebleu_error: largest difference between `scores` and sacrebleu's own arithmetic on the same sums, in points;
            0 where they agree in every bit, None where sacrebleu does not know this metric.
        discordant: a sentence is right or wrong, by its first statistic: McNemar's exact test takes the place of the
            bootstrap's p-value.
    """

    name: str
    sign: int = 1
    sacrebleu_error: float | None = None
    discordant: bool = False

    @property
    @abstractmethod
    def signature(self) -> str:
        """How the number was computed; sacrebleu's own signature, verbatim, where sacrebleu computes it."""

    @abstractmethod
    def corpus_score(self, statistics: Statistics) -> float:
        """Score of the whole corpus from statistics [sentences, stats]."""

    @abstractmethod
    def scores(self, sums: Floats) -> Floats:
        """Scores [...] of many corpora at once from summed statistics [stats, ...].

        float32 sums are scored in the precision in which sacrebleu's bootstrap works, float64 sums in float64.
        """

    def sacrebleu_scores(self, sums: Floats) -> Floats:
        """What sacrebleu gives in every bit; slower than `scores` where `sacrebleu_error` is not 0."""
        return self.scores(sums)


@dataclass(frozen=True, eq=False)
class Scored:
    """The output of one system as a metric sees it.

    Attributes:
        metric: what the statistics are of.
        statistics: [sentences, stats], read-only; integers for BLEU and chrF, float64 for losses.
    """

    metric: Metric
    statistics: Statistics

    def __post_init__(self) -> None:
        """Freeze the array too."""
        self.statistics.setflags(write=False)

    @cached_property
    def score(self) -> float:
        """The corpus score; higher is better."""
        return self.metric.corpus_score(self.statistics)


class TokenLoss(Metric):
    """Mean loss per target token (nats), negated: statistics of a sentence are its summed loss and its tokens."""

    name = "loss"
    sign = -1

    @property
    def signature(self) -> str:
        """Unit and mean."""
        return "unit:nats|mean:tokens"

    def scored(self, losses: Sequence[float], tokens: Sequence[int]) -> Scored:
        """Statistics of one system.

        Args:
            losses: summed loss of each sentence's target tokens, nats.
            tokens: target tokens of each sentence, the end of sentence included.

        Raises:
            DataError: no sentences, different lengths, a loss that is no number, a sentence without tokens.
        """
        if len(losses) != len(tokens) or len(losses) == 0:
            raise DataError(f"{len(losses)} losses for {len(tokens)} token counts: one each per sentence")
        statistics = np.column_stack([np.asarray(losses, np.float64), np.asarray(tokens, np.float64)])
        bad = np.flatnonzero(~np.isfinite(statistics[:, 0]) | ~(statistics[:, 1] >= 1))
        if bad.size:
            loss, count = statistics[bad[0]]
            raise DataError(f"sentence {bad[0] + 1}: a loss of {loss:g} over {count:g} tokens cannot be averaged")
        return Scored(self, statistics)

    def corpus_score(self, statistics: Statistics) -> float:
        """Negated mean loss per token."""
        return -math.fsum(statistics[:, 0]) / math.fsum(statistics[:, 1])

    def scores(self, sums: Floats) -> Floats:
        """Negated mean losses [...] of sums [2, ...]."""
        means: Floats = sums[0] / sums[1]
        return -means


class TextMetric(Metric):
    """A metric of sacrebleu with fixed references; statistics of a (sentence, hypothesis) pair are computed once."""

    def __init__(self, metric: Any, references: Sequence[Sequence[str | None]]) -> None:
        _check_references(references)
        self._metric = metric
        self._references = metric._cache_references(references)
        self._known: list[dict[str, tuple[int, ...]]] = [{} for _ in self._references]
        self._warned = False

    @property
    def signature(self) -> str:
        """That of sacrebleu."""
        return str(self._metric.get_signature())

    @property
    def sentences(self) -> int:
        """Sentences that the references have."""
        return len(self._known)

    def scored(self, hypotheses: Sequence[str]) -> Scored:
        """Statistics of one system's detokenized hypotheses, one per sentence; empty ones are allowed.

        Raises:
            DataError: another number of hypotheses than of references.
        """
        if len(hypotheses) != self.sentences:
            raise DataError(f"{len(hypotheses)} hypotheses for {self.sentences} references: one line per sentence each")
        self._warn_if_tokenized(hypotheses)
        rows = [self._statistics_of(sentence, hypothesis) for sentence, hypothesis in enumerate(hypotheses)]
        return Scored(self, np.array(rows, dtype=np.int64))

    def corpus_score(self, statistics: Statistics) -> float:
        """Score of the whole corpus, by sacrebleu."""
        return float(self._metric._compute_score_from_stats(statistics.sum(axis=0).tolist()).score)

    def _statistics_of(self, sentence: int, hypothesis: str) -> tuple[int, ...]:
        known = self._known[sentence]
        if hypothesis not in known:
            text = self._metric._preprocess_segment(hypothesis)
            known[hypothesis] = tuple(self._metric._compute_segment_statistics(text, self._references[sentence]))
        return known[hypothesis]

    def _warn_if_tokenized(self, hypotheses: Sequence[str]) -> None:
        if self._warned or sum(line.endswith(" .") for line in hypotheses) < TOKENIZED_LINES:
            return
        self._warned = True
        message = "%d or more hypotheses end in a separate full stop: %s is meant for detokenized text"
        _log.warning(message, TOKENIZED_LINES, self.name)


class Bleu(TextMetric):
    """Corpus BLEU (Papineni et al. 2002) with sacrebleu's defaults: up to 4-grams, exponential smoothing.

    Statistics of a sentence: hypothesis length, closest reference length, 4 matches, 4 totals.
    """

    name = "bleu"
    # Logarithms against roots: a few units in the last place of at most 100 points.
    sacrebleu_error = 2e-12

    def __init__(
        self,
        references: Sequence[Sequence[str | None]],
        *,
        tokenize: str | None = None,
        language: str | None = None,
        lowercase: bool = False,
    ) -> None:
        """Prepare references.

        Args:
            references: one or several reference streams of one line per sentence; None where a stream has no reference.
            tokenize: a tokenizer of sacrebleu, `--bleu-tokenize`; None: the one that it takes for the language.
            language: of the references, in any spelling.
            lowercase: ignore case.

        Raises:
            UsageError: no such tokenizer.
            EngineError: the packages or the model of that tokenizer are not there.
            DataError: no sentences, streams of different lengths, a sentence without reference.
        """
        super().__init__(_sacrebleu_bleu(tokenize or sacrebleu_tokenizer(language), lowercase), references)

    def scores(self, sums: Floats) -> Floats:
        """Scores [...], float64, of sums [10, ...]; the precisions have the precision of the sums."""
        first, second, third, fourth = _precisions(sums).astype(np.float64, copy=False)
        ratio = sums[1].astype(np.float64) / np.maximum(sums[0].astype(np.float64), 1)
        # Without any token the precisions are 0 already, whatever the brevity penalty.
        brevity = np.exp(np.minimum(0.0, 1.0 - ratio))
        mean: NDArray[np.float64] = brevity * np.sqrt(np.sqrt(first * second * third * fourth))
        return mean

    def sacrebleu_scores(self, sums: Floats) -> Floats:
        """Scores [...], float64, with the logarithm, the exponential and the sum of Python, as sacrebleu has them."""
        precisions = zip(*(row.ravel().tolist() for row in _precisions(sums)), strict=True)
        lengths = zip(sums[0].ravel().tolist(), sums[1].ravel().tolist(), strict=True)
        scores = [
            (math.exp(1 - reference / length) if length < reference else 1.0)
            * math.exp(sum([math.log(precision) for precision in row]) / 4)
            if min(row) > 0
            else 0.0
            for row, (length, reference) in zip(precisions, lengths, strict=True)
        ]
        return np.array(scores).reshape(sums.shape[1:])


def _precisions(sums: Floats) -> Floats:
    """Smoothed n-gram precisions [4, ...] in percent, all 0 where nothing matches; in the precision of the sums."""
    correct, total = sums[2:6], sums[6:10]
    if correct.all() and total.all():
        full: Floats = 100 * correct / total
        return full
    missing = correct == 0
    # Every order without a match halves the credit: 1/2 of a match, then 1/4, ...
    credit = np.where(missing, np.ldexp(sums.dtype.type(1), -np.cumsum(missing, axis=0)), correct)
    return np.where((total > 0) & correct.any(axis=0), 100 * credit / np.maximum(total, 1), 0)


class Chrf(TextMetric):
    """Corpus chrF2 (Popović 2015) with sacrebleu's defaults: character 6-grams.

    Statistics of a sentence: n-grams of the hypothesis, of the reference, matches; for every order.
    """

    name = "chrf"
    sacrebleu_error = 0.0

    def __init__(self, references: Sequence[Sequence[str | None]], *, lowercase: bool = False) -> None:
        """Prepare references, given as for `Bleu`.

        Raises:
            DataError: no sentences, streams of different lengths, a sentence without reference.
        """
        from sacrebleu.metrics import CHRF

        super().__init__(CHRF(lowercase=lowercase), references)

    def scores(self, sums: Floats) -> Floats:
        """Scores [...] of sums [3 x orders, ...], in the precision of the sums."""
        # The order of operations is sacrebleu's: + - * / in one precision then give its bits.
        weight = self._metric.beta**2
        precision, recall, orders = (np.zeros(sums.shape[1:], sums.dtype) for _ in range(3))
        for hypothesis, reference, matches in zip(sums[0::3], sums[1::3], sums[2::3], strict=True):
            counts = (hypothesis > 0) & (reference > 0)
            precision += np.where(counts, matches / np.maximum(hypothesis, 1), 0)
            recall += np.where(counts, matches / np.maximum(reference, 1), 0)
            orders += counts
        precision /= np.maximum(orders, 1)
        recall /= np.maximum(orders, 1)
        nothing = precision + recall == 0
        score = (1 + weight) * precision * recall / np.where(nothing, 1, weight * precision + recall)
        return np.where(nothing, 0, 100 * score)


def _check_references(references: Sequence[Sequence[str | None]]) -> None:
    if isinstance(references, str) or any(isinstance(stream, str) for stream in references):
        raise TypeError("references are a sequence of streams, each a sequence of one line per sentence")
    lengths = [len(stream) for stream in references]
    if not lengths or lengths[0] == 0:
        raise DataError("no reference: there is nothing to compare hypotheses with")
    if len(set(lengths)) > 1:
        raise DataError(f"reference files of {', '.join(map(str, lengths))} lines: each needs one line per sentence")
    for line, alternatives in enumerate(zip(*references, strict=True), start=1):
        if all(alternative is None for alternative in alternatives):
            raise DataError(f"reference line {line}: no reference for this sentence")


def _sacrebleu_bleu(tokenize: str, lowercase: bool) -> Any:
    """The BLEU of sacrebleu with that tokenizer, or the error that says what is missing."""
    from sacrebleu.metrics import BLEU

    if tokenize not in BLEU.TOKENIZERS:
        raise UsageError(f"no BLEU tokenizer '{tokenize}': choose one of {', '.join(BLEU.TOKENIZERS)}")
    try:
        return BLEU(tokenize=tokenize, lowercase=lowercase, force=True)
    # sacrebleu leaves through RuntimeError, ImportError, AssertionError, SystemExit or urllib's errors.
    except (Exception, SystemExit) as error:
        raise _tokenizer_error(tokenize, error) from error


def _tokenizer_error(tokenize: str, error: BaseException) -> NmtpruneError:
    extra = {"ja-mecab": "ja", "ko-mecab": "ko"}.get(tokenize)
    if extra and isinstance(error, RuntimeError):
        remedy = f'pip install "sacrebleu[{extra}]", or choose another one (`bleu_tokenize` char)'
        return EngineError(f"BLEU tokenizer {tokenize}: its packages are missing: {remedy}")
    reason = " ".join(str(error).split()) or type(error).__name__
    if extra:
        return EngineError(f'BLEU tokenizer {tokenize}: {reason}: pip install --force-reinstall "sacrebleu[{extra}]"')
    from sacrebleu.utils import SACREBLEU_DIR

    return EngineError(
        f"BLEU tokenizer {tokenize}: sacrebleu cannot download or read its model in {SACREBLEU_DIR}/models ({reason}): "
        "put the model there, or choose another tokenizer"
    )
