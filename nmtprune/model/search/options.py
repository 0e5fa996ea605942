"""What a search is told, and what it finds."""

import math
from dataclasses import dataclass

from nmtprune.errors import UsageError


@dataclass(frozen=True)
class SearchOptions:
    """Options of beam search, named as fairseq-generate names them.

    Attributes:
        beam: hypotheses per sentence; never more than the vocabulary has words beside padding.
        lenpen: scores are divided by length ** lenpen.
        max_len_a: a translation has at most ``max_len_a * S + max_len_b`` tokens before the end-of-sentence symbol, S
            the padded source length of the batch, and at most one fewer than the decoder has positions.
        max_len_b: see `max_len_a`.
        min_len: tokens that a translation has at least, without the end-of-sentence symbol.
        unkpen: subtracted from the log-probability of unknown words.
        unnormalized: do not divide scores by the length.
    """

    beam: int = 5
    lenpen: float = 1.0
    max_len_a: float = 0.0
    max_len_b: int = 200
    min_len: int = 1
    unkpen: float = 0.0
    unnormalized: bool = False

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UsageError: a value that cannot be; all of them.
        """
        faults = [
            f"--{name.replace('_', '-')} {getattr(self, name)} is {what}"
            for name, wrong, what in (
                ("beam", self.beam < 1, "not a positive number"),
                ("max_len_a", not 0 <= self.max_len_a < math.inf, "not a number from 0"),
                ("max_len_b", self.max_len_b < 0, "negative"),
                ("min_len", self.min_len < 0, "negative"),
                ("lenpen", not math.isfinite(self.lenpen), "not a finite number"),
                ("unkpen", not math.isfinite(self.unkpen), "not a finite number"),
            )
            if wrong
        ]
        if faults:
            raise UsageError.of_faults("search", faults)

    def max_len(self, width: int, positions: int) -> int:
        """Tokens that translations of a batch may have before the end-of-sentence symbol.

        Args:
            width: S, padded source length of the batch.
            positions: longest target sentence, in tokens, that the model takes.

        Raises:
            UsageError: that is less than `min_len`.
        """
        longest = min(int(self.max_len_a * width + self.max_len_b), positions - 1)
        if longest < self.min_len:
            raise UsageError(
                f"--min-len {self.min_len} is more than the {longest} tokens that a translation may have "
                f"(--max-len-a, --max-len-b, {positions} positions): choose a smaller one"
            )
        return longest


@dataclass(frozen=True)
class Symbols:
    """Ids of the target vocabulary that search treats in a special way; `unk` is None where there is no such word."""

    pad: int
    eos: int
    unk: int | None


@dataclass(frozen=True)
class Hypothesis:
    """One translation.

    Attributes:
        tokens: ids, the end-of-sentence symbol included.
        score: sum of the tokens' log-probabilities (natural logarithm), divided by length ** lenpen where normalized.
        token_scores: log-probability of each token; empty where they were not asked for.
    """

    tokens: tuple[int, ...]
    score: float
    token_scores: tuple[float, ...] = ()
