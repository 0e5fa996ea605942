"""Greedy search from where hypotheses leave a recorded one, for many sentences and masks in one batch.

Texts that have begun to repeat themselves, which a model under masks makes more often, mostly continue to do so: their
next words are guessed, decoded in one pass, and kept as far as the search would have chosen them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nmtprune.architecture import GroupId
from nmtprune.model.decoder_state import DecoderState, Pass
from nmtprune.model.length_groups import length_groups
from nmtprune.model.search.next_words import EndRules, NextWordPredictor, NextWords
from nmtprune.model.search.options import Tokens
from nmtprune.model.search.sources import SourceCaches
from nmtprune.model.source_cache import SourceCache
from nmtprune.model.transformer import Transformer

WAITING_BYTES = 1 << 30
"""Hypotheses that have been begun wait for others while what they keep in memory is less."""

_BLOCK_TOKENS = 4096
_ROWS = 512
"""Most hypotheses that are continued together: more do not fit into the processor's cache."""

_SHORT, _SPREAD = 24, 2
"""Tokens up to which lengths do not matter, and above them how much longer the longest may be than the shortest."""

_REPEATED = 3
"""A text whose last words stood there before has begun to repeat itself."""

_GUESSING_ROWS, _MOST_GUESSED = 128, 16
_SHRINK = 0.7
"""Rows of finished hypotheses are taken out when fewer than this share of the rows are left."""


@dataclass
class Branch:
    """A hypothesis to continue.

    Attributes:
        source: sentence of the source caches.
        system: which masks apply.
        words: what stands fixed, at least one word; grows to the whole translation, the end-of-sentence symbol
            included, or becomes empty where numbers overflow.
        max_len: tokens that a translation may have before its last one.
        likely: words that probably follow, to be decoded in the same pass.
        live: it has not ended.
        scores: log-probability of each word, where the search computes them.
    """

    source: int
    system: int
    words: list[int]
    max_len: int
    likely: Tokens = ()
    live: bool = True
    scores: list[float] = field(default_factory=list)

    def repetition(self, most: int) -> Tokens:
        """The words that follow if a text that has begun to repeat itself continues to; none for another text."""
        last = self.words[-_REPEATED:]
        for end in range(len(self.words) - 1, _REPEATED - 1, -1):
            if self.words[end - _REPEATED : end] == last:
                period = self.words[end:]
                return tuple(period[step % len(period)] for step in range(most))
        return ()

    def extend(self, words: Sequence[int], scores: Sequence[float], eos: int) -> None:
        """Take the words that the search chose: the first, and each one behind a likely word that was right."""
        if not self.live:
            return
        for right, (word, score) in enumerate(zip(words, scores, strict=True)):
            self.scores.append(score)
            if word in (eos, -1):
                self.words = [*self.words, eos] if word == eos else []
                self.live = False
                return
            self.words.append(word)
            if len(self.words) > self.max_len:
                self.live = False
                return
            if right == len(self.likely) or self.likely[right] != word:
                return


@dataclass
class _Begun:
    """Hypotheses that are continued, the decoder's state of them, and their sentences and masks [R, H]."""

    rows: list[Branch]
    state: DecoderState
    source_cache: SourceCache
    masks: dict[GroupId, Tensor]
    device: torch.device

    @property
    def width(self) -> int:
        """Tokens for which a row takes up room."""
        return max(self.state.columns, self.source_cache.length)

    def is_crowded(self, live: int, positions: int) -> bool:
        """Whether rows have ended and one of them might run beyond the positions that the model has."""
        return live < len(self.rows) and self.state.columns >= positions - 1

    def ends(self) -> tuple[Tensor, Tensor, Tensor]:
        """Last word, limit and number of words of each row, all [R]; anything for rows that have ended."""
        values = [(row.words[-1] if row.words else 0, row.max_len, len(row.words)) for row in self.rows]
        words, limits, depth = torch.tensor(values, device=self.device).unbind(1)
        return words, limits, depth

    def keep(self, live: list[int]) -> None:
        """Only some of the rows."""
        rows = torch.tensor(live, device=self.device)
        self.rows = [self.rows[number] for number in live]
        self.state.reorder(rows)
        self.source_cache = self.source_cache.select(rows)
        self.masks = {group: mask[rows] for group, mask in self.masks.items()}

    @classmethod
    def joined(cls, parts: "Sequence[_Begun]") -> "_Begun":
        """The rows of all parts."""
        rows, device = [row for part in parts for row in part.rows], parts[0].device
        lengths = torch.tensor([len(row.words) for row in rows], device=device)
        return cls(
            rows,
            DecoderState.joined([part.state for part in parts], lengths),
            SourceCache.joined([part.source_cache for part in parts]),
            {group: torch.cat([part.masks[group] for part in parts]) for group in parts[0].masks},
            device,
        )


class Branches:
    """Continues hypotheses greedily; the rows of a batch advance together, whatever their lengths."""

    def __init__(self, model: Transformer, predictor: NextWordPredictor, masks: Mapping[GroupId, Tensor]) -> None:
        """Prepare for masks.

        Args:
            model: the model.
            predictor: chooses words, for a beam of 1.
            masks: of the decoder, [systems, H] or [systems, F]; groups without an entry lose nothing in any system.
        """
        self._model, self._predictor, self._masks = model, predictor, masks
        self._begun: list[_Begun] = []

    def begin(self, branches: Sequence[Branch], source_caches: SourceCaches) -> None:
        """Read what stands; the branches are complete after `finish`."""
        for rows in _by_length(branches):
            device = self._model.device
            system = torch.tensor([row.system for row in rows], device=device)
            source_cache = source_caches.select(torch.tensor([row.source for row in rows], device=device))
            masks = {group: mask[system] for group, mask in self._masks.items()}
            begun = _Begun(rows, self._model.new_state(), source_cache, masks, device)
            self._read(begun, begins=True)
            live = [number for number, row in enumerate(rows) if row.live]
            if live:
                begun.keep(live)
                self._begun.append(begun)
        if sum(begun.state.size_bytes + begun.source_cache.size_bytes for begun in self._begun) > WAITING_BYTES:
            self.finish()

    def finish(self) -> None:
        """Continue until all hypotheses have ended."""
        waiting, self._begun = self._begun, []
        for together in _of_like_width(waiting):
            self._finish(_Begun.joined(together))

    def _read(self, begun: _Begun, begins: bool) -> None:
        """One pass over words that stand, all of them or the last, and the likely ones behind them."""
        symbols, rows, device = self._predictor.symbols, begun.rows, begun.device
        stands = [len(row.words) + 1 if begins else 1 for row in rows]
        fed = [
            [*([symbols.first] if begins else []), *row.words[-count:], *row.likely]
            for row, count in zip(rows, stands, strict=True)
        ]
        width = max(map(len, fed))
        padded = [[*tokens, *[symbols.pad] * (width - len(tokens))] for tokens in fed]
        places = [
            (number, count - 1 + step, len(row.words) + step)
            for number, (row, count) in enumerate(zip(rows, stands, strict=True))
            for step in range(len(row.likely) + 1)
        ]
        row, place, depth = torch.tensor(places, device=device).unbind(1)
        run = Pass(begun.masks, state=begun.state, raw_keys=self._predictor.options.raw_keys)
        features = self._model.features(torch.tensor(padded, device=device), begun.source_cache, run=run)
        limits = torch.tensor([branch.max_len for branch in rows], device=device)
        chosen, scores = self._words(features[row, place], depth, limits[row])
        words = iter(zip(chosen.tolist(), scores.tolist(), strict=True))
        for branch in rows:
            own = [next(words) for _ in range(len(branch.likely) + 1)]
            branch.extend([word for word, _ in own], [score for _, score in own], symbols.eos)
            branch.likely = ()
        # The last word has not been read yet; of a row that has ended, nothing matters.
        begun.state.truncate(torch.tensor([len(row.words) if row.live else 1 for row in rows], device=device))

    def _finish(self, begun: _Begun) -> None:
        """One word after the other, or several where texts repeat themselves."""
        live = list(range(len(begun.rows)))
        words = limits = depth = torch.empty(0)
        while live:
            if len(live) < _SHRINK * len(begun.rows) or begun.is_crowded(len(live), self._model.max_positions[1]):
                begun.keep(live)
                words = limits = depth = torch.empty(0)
            if self._guess(begun):
                self._read(begun, begins=False)
                words = limits = depth = torch.empty(0)
            else:
                if not len(words):
                    words, limits, depth = begun.ends()
                run = Pass(begun.masks, state=begun.state, raw_keys=self._predictor.options.raw_keys)
                features = self._model.features(words.clamp(min=0).unsqueeze(1), begun.source_cache, run=run)
                words, scores = self._words(features.squeeze(1), depth, limits)
                depth = depth + 1
                for row, word, score in zip(begun.rows, words.tolist(), scores.tolist(), strict=True):
                    row.extend([word], [score], self._predictor.symbols.eos)
            live = [number for number, row in enumerate(begun.rows) if row.live]

    def _guess(self, begun: _Begun) -> bool:
        """Guess the words that follow, if rows are few; whether most of them repeat themselves."""
        if len(begun.rows) > _GUESSING_ROWS:
            return False
        for row in begun.rows:
            row.likely = row.repetition(min(_MOST_GUESSED, row.max_len - len(row.words))) if row.live else ()
        guessing = 2 * sum(bool(row.likely) for row in begun.rows) > len(begun.rows)
        if not guessing:
            for row in begun.rows:
                row.likely = ()
        return guessing

    def _words(self, features: Tensor, depth: Tensor, limits: Tensor) -> tuple[Tensor, Tensor]:
        """Words [N] that follow hypotheses of `depth` words, which may have up to `limits`, and their scores [N]."""
        options = self._predictor.options
        last = (depth >= limits) if options.must_end else None
        rules = EndRules(depth < options.min_len, last, self._predictor.forced(depth))
        found = self._predictor(features, rules)
        return best_words(found, self._predictor.symbols.eos), found.logits.amax(1) - found.normalizer


def best_words(next_words: NextWords, eos: int) -> Tensor:
    """The best word of each hypothesis, [N], be it the end-of-sentence symbol; -1 where numbers overflowed."""
    best, ending = next_words.logits[:, 0], next_words.logits[:, -1]
    words = next_words.tokens[:, 0].masked_fill(ending > best, eos)
    return words.masked_fill((best == -torch.inf) & (ending == -torch.inf), -1)


def _by_length(branches: Sequence[Branch]) -> Iterator[list[Branch]]:
    """Branches of about one length; in each group sources rise."""

    def fits(count: int, shortest: int, longest: int) -> bool:
        return count * longest <= _BLOCK_TOKENS and longest <= 1.2 * shortest + 1

    for group in length_groups([len(branch.words) for branch in branches], fits):
        yield sorted((branches[number] for number in group), key=lambda branch: (branch.source, branch.system))


def _of_like_width(begun: Sequence[_Begun]) -> Iterator[list[_Begun]]:
    """Batches in groups that may share memory: each row takes the room of the widest."""

    def fits(rows: int, shortest: int, longest: int) -> bool:
        return rows <= _ROWS and longest <= max(_SHORT, _SPREAD * shortest)

    for group in length_groups([each.width for each in begun], fits, [len(each.rows) for each in begun]):
        yield [begun[number] for number in group]
