"""Options of a search, named as fairseq, Marian or transformers names them, and its results."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from nmtprune.errors import UsageError

LONGEST_FACTOR = 1e6
"""Times the length of its source that a translation may have at the most: above it single precision counts no words."""


@dataclass(frozen=True)
class SearchOptions:
    """Options of fairseq's beam search, named as fairseq-generate names them.

    Attributes:
        beam: hypotheses per sentence; never more than the vocabulary has words other than padding.
        lenpen: scores are divided by length ** lenpen.
        max_len_a: a translation has at most ``max_len_a * S + max_len_b`` tokens before the end-of-sentence symbol, S
            the length of its source, and at most one fewer than the decoder has positions.
        max_len_b: see `max_len_a`.
        min_len: tokens that a translation has at least, without the end-of-sentence symbol.
        unkpen: subtracted from the log-probability of unknown words.
        unnormalized: do not divide scores by the length.
        fairseq_batch_length_limit: S is the longest source of the batch, as in fairseq-generate with larger batches
            than of one sentence.
    """

    beam: int = 5
    lenpen: float = 1.0
    max_len_a: float = 0.0
    max_len_b: int = 200
    min_len: int = 1
    unkpen: float = 0.0
    unnormalized: bool = False
    fairseq_batch_length_limit: bool = False

    shrinks: ClassVar[bool] = False
    """Whether a sentence's beam loses a place with each hypothesis that ends; otherwise it stays full to the end."""

    must_end: ClassVar[bool] = True
    """Whether a hypothesis of the longest length still gets the end-of-sentence symbol; otherwise it is cut off."""

    skips_empty: ClassVar[bool] = False
    """Whether the translation of an empty sentence is empty, whatever the model says."""

    raw_keys: ClassVar[bool] = False
    word_penalty: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UsageError: a value that cannot be; all of them.
        """
        _check(
            self,
            beam=(self.beam < 1, "not a positive number"),
            max_len_a=(not 0 <= self.max_len_a <= LONGEST_FACTOR, f"not a number from 0 to {LONGEST_FACTOR:g}"),
            max_len_b=(self.max_len_b < 0, "negative"),
            min_len=(self.min_len < 0, "negative"),
            lenpen=(not math.isfinite(self.lenpen), "not a finite number"),
            unkpen=(not math.isfinite(self.unkpen), "not a finite number"),
        )
        if self.fairseq_batch_length_limit and not self.max_len_a:
            raise UsageError(
                "search: `fairseq_batch_length_limit` goes with `max_len_a` above 0: without it the limit is the same "
                "for all sentences"
            )

    @property
    def varies(self) -> bool:
        """Whether the longest translation depends on the source."""
        return self.max_len_a > 0

    @property
    def by_batch(self) -> bool:
        """Whether the longest source of a batch limits all of its translations; otherwise each has its own limit."""
        return self.fairseq_batch_length_limit

    def scale(self, length: Tensor) -> Tensor:
        """The divisor of summed log-probabilities of hypotheses of `length` tokens."""
        return length.double() ** (0.0 if self.unnormalized else self.lenpen)

    def max_len(self, width: int, positions: int) -> int:
        """Tokens that a translation may have before the end-of-sentence symbol.

        Args:
            width: S, tokens of the source, the end-of-sentence symbol included.
            positions: longest target sentence, in tokens, that the model takes.

        Raises:
            UsageError: that is less than `min_len`.
        """
        longest = min(int(self.max_len_a * width + self.max_len_b), positions - 1)
        if longest < self.min_len:
            of = f"of {width} source tokens " if self.varies else ""
            raise UsageError(
                f"`min_len` {self.min_len} is more than the {longest} tokens that a translation {of}may have "
                f"(`max_len_a`, `max_len_b`, {positions} positions): choose a smaller one"
            )
        return longest


@dataclass(frozen=True)
class MarianSearchOptions:
    """Options of Marian's beam search, named as marian-decoder names them; its defaults.

    Attributes:
        beam: hypotheses per sentence; each one that ends leaves a smaller beam to the others.
        normalize: scores are divided by length ** normalize.
        word_penalty: times the length, it is subtracted from the sum of log-probabilities.
        max_length_factor: a translation is cut off at that many times the length of its source.
        allow_unk: the unknown word may be chosen.
        allow_special: control characters, which SentencePiece may have as bytes, may be chosen.
        unnormalized_keys: pre-norm decoders with self-attention do what Marian up to version 1.12 does in search only:
            keys and values are not normalized, except where a first word sees nothing but itself. Training and scoring
            normalize them.
        marian_batch_length_limit: a translation is cut off at `max_length_factor` times the longest source of its
            batch, as in Marian with larger batches than of one sentence.
    """

    beam: int = 12
    normalize: float = 0.0
    word_penalty: float = 0.0
    max_length_factor: float = 3.0
    allow_unk: bool = False
    allow_special: bool = False
    unnormalized_keys: bool = False
    marian_batch_length_limit: bool = False

    shrinks: ClassVar[bool] = True
    must_end: ClassVar[bool] = False
    skips_empty: ClassVar[bool] = True
    min_len: ClassVar[int] = 0
    unkpen: ClassVar[float] = 0.0
    varies: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UsageError: a value that cannot be; all of them.
        """
        _check(
            self,
            beam=(self.beam < 1, "not a positive number"),
            normalize=(not math.isfinite(self.normalize), "not a finite number"),
            word_penalty=(not math.isfinite(self.word_penalty), "not a finite number"),
            max_length_factor=(
                not 0 < self.max_length_factor <= LONGEST_FACTOR,
                f"not a number above 0, up to {LONGEST_FACTOR:g}",
            ),
        )

    @property
    def raw_keys(self) -> bool:
        """As `Scope` names it."""
        return self.unnormalized_keys

    @property
    def by_batch(self) -> bool:
        """As `SearchOptions.by_batch`."""
        return self.marian_batch_length_limit

    def scale(self, length: Tensor) -> Tensor:
        """The divisor of summed log-probabilities."""
        return length.double() ** self.normalize

    def max_len(self, width: int, positions: int) -> int:
        """Tokens that a translation may have before its last one.

        Args:
            width: S, tokens of the source, the end-of-sentence symbol included.
            positions: not looked at: Marian's positions have no end.
        """
        # Marian multiplies in single precision: 1.1 * 10 is 11 there, and a little more in double precision.
        longest = np.float32(self.max_length_factor) * np.float32(width)
        return max(1, math.ceil(longest)) - 1


EARLY_STOPPING = ("true", "false", "never")
"""When the beam search of transformers stops, as its ``early_stopping`` says: True, False or "never"."""


@dataclass(frozen=True)
class GenerateOptions:
    """Options of the beam search of Hugging Face's transformers, named as ``generate`` names them.

    Attributes:
        beam: ``num_beams``, hypotheses per sentence; 1 is greedy search.
        length_penalty: scores are divided by length ** length_penalty.
        max_length: tokens of a translation at most, the start token in front and the end-of-sentence symbol included;
            None: as many as the decoder has positions.
        min_length: likewise, at least.
        early_stopping: when the search of a sentence stops whose beam is full of hypotheses that have ended. true: at
            once. false: when the best of the others scores no better, at its present length, than the worst of those.
            never: when it would not even at the greatest length.
        forced_eos: at the greatest length only the end-of-sentence symbol may follow, whose log-probability counts as 0
            there; otherwise the text is cut off.
        never: words that are never chosen (``bad_words_ids`` and ``suppress_tokens``).
        renormalize: log-probabilities are of the words that may be chosen (``renormalize_logits``).
    """

    beam: int = 1
    length_penalty: float = 1.0
    max_length: int | None = None
    min_length: int = 0
    early_stopping: str = "false"
    forced_eos: bool = True
    never: tuple[int, ...] = ()
    renormalize: bool = False

    shrinks: ClassVar[bool] = False
    skips_empty: ClassVar[bool] = False
    raw_keys: ClassVar[bool] = False
    varies: ClassVar[bool] = False
    by_batch: ClassVar[bool] = False
    word_penalty: ClassVar[float] = 0.0
    unkpen: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UsageError: a value that cannot be; all of them.
        """
        _check(
            self,
            beam=(self.beam < 1, "not a positive number"),
            length_penalty=(not math.isfinite(self.length_penalty), "not a finite number"),
            max_length=(self.max_length is not None and self.max_length < 2, "less than 2"),
            min_length=(self.min_length < 0, "negative"),
            early_stopping=(self.early_stopping not in EARLY_STOPPING, f"none of {', '.join(EARLY_STOPPING)}"),
        )

    @property
    def must_end(self) -> bool:
        """As `SearchOptions.must_end`."""
        return self.forced_eos

    @property
    def min_len(self) -> int:
        """Tokens that a translation has at least, without start token and end-of-sentence symbol."""
        return max(0, self.min_length - 1)

    def scale(self, length: Tensor) -> Tensor:
        """The divisor of summed log-probabilities of hypotheses of `length` tokens."""
        return length.double() ** self.length_penalty

    def max_len(self, width: int, positions: int) -> int:
        """Tokens that a translation may have before its last one; the same for all sources.

        Raises:
            UsageError: that is less than `min_length` asks for.
        """
        longest = positions - 1 if self.max_length is None else min(self.max_length - 2, positions - 1)
        if longest < self.min_len:
            raise UsageError(
                f"`min_length` {self.min_length} is more than the {longest + 2} tokens that a translation may have "
                f"(`max_length`, {positions} positions): choose a smaller one"
            )
        return longest


Search = SearchOptions | MarianSearchOptions | GenerateOptions
"""How translations are searched."""


def max_lens(options: Search, lengths: Sequence[int], positions: int) -> list[int]:
    """Tokens that the translation of each sentence of a batch may have before its last one.

    Args:
        options: of the search.
        lengths: tokens of each source sentence, the end-of-sentence symbol included, without padding.
        positions: longest target sentence, in tokens, that the model takes.

    Raises:
        UsageError: that is less than the minimum length.
    """
    widths = [max(lengths)] * len(lengths) if options.by_batch else lengths
    return [options.max_len(width, positions) for width in widths]


def _check(options: object, **rules: tuple[bool, str]) -> None:
    faults = [f"`{name}` {getattr(options, name)} is {what}" for name, (wrong, what) in rules.items() if wrong]
    if faults:
        raise UsageError.of_faults("search", faults)


@dataclass(frozen=True)
class Symbols:
    """Ids of the target vocabulary that search treats in a special way.

    Attributes:
        pad: padding; negative where no word stands for it.
        eos: ends a sentence.
        unk: the unknown word; None where there is no such word.
        start: stands before the first word; None: `eos` does.
        never: words that are never chosen.
        prefix: words that every hypothesis begins with.
    """

    pad: int
    eos: int
    unk: int | None
    start: int | None = None
    never: tuple[int, ...] = ()
    prefix: tuple[int, ...] = ()

    @property
    def first(self) -> int:
        """What stands before the first word."""
        return self.eos if self.start is None else self.start

    @property
    def barred(self) -> list[int]:
        """Words that cannot be chosen as any other word can: padding, the end, and those that never are."""
        return [word for word in (self.pad, self.eos, *self.never) if word >= 0]


Tokens = tuple[int, ...]
"""Ids of the words of a translation."""


@dataclass(frozen=True)
class Hypothesis:
    """One translation.

    Attributes:
        tokens: ids, the end-of-sentence symbol included; Marian's search cuts off what grows too long, without it.
        score: sum of the tokens' log-probabilities (natural logarithm), after penalties and normalization.
    """

    tokens: Tokens
    score: float
