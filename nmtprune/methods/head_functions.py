"""What heads do: attend to a neighbour, to rare words, along dependencies, along word alignments.

Voita et al. 2019, section 5, for all three kinds of attention. What counts is where the largest attention weight of a
query lies, as in the paper among the tokens of words: the end-of-sentence symbol is no key and sends no query, and
neither does the symbol that starts a translation.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nmtprune.architecture import KINDS, GroupId, UnitId
from nmtprune.data.ragged import Ids
from nmtprune.data.words import NO_WORD, Words
from nmtprune.errors import CheckpointError, DataError
from nmtprune.methods.texts import SentencePairs

if TYPE_CHECKING:
    from torch import Tensor

    from nmtprune.data.batching import Batch
    from nmtprune.model import Transformer

FUNCTIONS = ("positional", "rare", "syntactic", "alignment")

POSITIONAL = 0.9
"""Share of the largest weights that lies at one offset."""

OFFSETS = {"encoder": (-1, 1), "decoder": (-1,), "cross": (-1, 0, 1)}
"""Relative positions of positional heads, by kind: key minus query. In cross-attention a query is at the position of
the word that is predicted."""

RARE_TIMES_CHANCE = 3.0
"""How often rare words are attended to, against chance, to count as far above it."""

ALPHA = 0.01
"""Significance level of the test against chance."""

MARGIN = 0.1
"""By how much links must be found more often than by the best fixed offset."""

_ROUNDING = 1e-9
"""Of sums of shares, which must not decide."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Finding:
    """How often the largest weight of a head lies where a function has it.

    Attributes:
        accuracy: share of the cases, 0 to 1.
        chance: the same for a head that attends to any visible token or word at random.
        cases: queries that could be right.
        p: one-sided p-value of a higher accuracy than that of chance (of `baseline` where there is one), over
            sentences.
        offset: relative position: for ``positional`` that of the accuracy, else that of the baseline.
        baseline: accuracy of always attending to the most frequent relative position; None where chance is what the
            accuracy is compared with.
    """

    accuracy: float
    chance: float
    cases: int
    p: float
    offset: int | None = None
    baseline: float | None = None


@dataclass(frozen=True)
class HeadFindings:
    """All that was measured of a head.

    Attributes:
        positional: at the offset that fits best; None without cases.
        rare: the least frequent token of those that are seen.
        links: by relation.
        outside: share of the queries whose largest weight of all lies outside of words, on the end of the sentence.
    """

    positional: Finding | None
    rare: Finding | None
    links: Mapping[str, Finding]
    outside: float


@dataclass(frozen=True, eq=False)
class Links:
    """The words that words of a sentence should attend to.

    Attributes:
        queries: the words that send queries.
        keys: the words that they may attend to.
        relations: by relation and number of the sending word the words that are right.
    """

    queries: Words
    keys: Words
    relations: Mapping[str, Mapping[int, frozenset[int]]]

    @classmethod
    def of(cls, queries: Words, keys: Words, pairs: Iterable[tuple[str, int, int]]) -> "Links":
        """Links of triples (relation, sending word, right word), less those of words without tokens."""
        sending, seen = (set(words.of_token.tolist()) - {NO_WORD} for words in (queries, keys))
        found: dict[str, dict[int, set[int]]] = {}
        for relation, query, key in pairs:
            if query in sending and key in seen:
                found.setdefault(relation, {}).setdefault(query, set()).add(key)
        return cls(
            queries, keys, {name: {word: frozenset(own) for word, own in own.items()} for name, own in found.items()}
        )


@dataclass(frozen=True, eq=False)
class Annotated:
    """What is known of the sentences besides their tokens, by position in the corpus.

    Attributes:
        source: which tokens of the source belong to words, [S].
        target: which tokens of the target do, [T].
        rarity: by side and id of a token, how often the token occurs.
        links: by kind of attention, for the sentences that have any.
    """

    source: Sequence[NDArray[np.bool_]]
    target: Sequence[NDArray[np.bool_]]
    rarity: tuple[Ids, Ids]
    links: Mapping[str, Mapping[int, Links]] = field(default_factory=dict)


def head_functions(
    model: "Transformer", batches: "Iterable[Batch]", annotated: Annotated, kinds: Collection[str] = KINDS
) -> dict[UnitId, HeadFindings]:
    """Measure the heads of some kinds on sentences, and on their references, teacher forced.

    Args:
        model: a model with an encoder.
        batches: sentences; with references, unless `kinds` is the encoder alone.
        annotated: what is known of these sentences.
        kinds: of attention.

    Raises:
        DataError: sentences without words.
        CheckpointError: attention weights that are no numbers.
        ValueError: batches without target side, a model without encoder.
    """
    import torch

    from nmtprune.model import Pass

    measures = {
        module.id: _Measure(module.id.kind, module.heads, _baselines(annotated.links.get(module.id.kind, {})))
        for module in model.architecture
        if module.heads and module.id.kind in kinds
    }
    decodes = any(module.stack != "encoder" for module in measures)
    with torch.inference_mode():
        for batch in batches:
            rows = _rows(batch, model.network.padding, annotated)

            def observe(module: GroupId, weights: "Tensor", rows: "Sequence[_Row]" = rows) -> None:
                if module in measures:
                    for row, own in zip(rows, weights.double().cpu().numpy(), strict=True):
                        measures[module].add(row.view(module.kind, own))

            run = Pass({}, observe)
            encoded = model.encode(batch.source.to(model.device), run=run)
            if decodes:
                memory = model.cache_source(encoded, by_head=False)
                model.features(SentencePairs.of(batch, model).previous, memory, run=run)
    wrong = [str(id) for id, measure in measures.items() if not measure.finite]
    if wrong:
        raise CheckpointError(f"attention weights of {', '.join(wrong)} are no numbers: check the model's weights")
    if not all(measure.queries for measure in measures.values()):
        raise DataError("functions of heads: there are no words to measure them on")
    return {
        UnitId(id, head): measure.of_head(head) for id, measure in measures.items() for head in range(measure.heads)
    }


def functions_of(kind: str, found: HeadFindings, p_rare: float) -> tuple[str, ...]:
    """The functions that a head has, of FUNCTIONS.

    Args:
        kind: of its attention.
        found: what was measured.
        p_rare: the p-value of ``rare``, corrected for the number of heads.
    """
    positional, rare = found.positional, found.rare
    links = any(link.accuracy >= (link.baseline or 0.0) + MARGIN - _ROUNDING for link in found.links.values())
    has = {
        "positional": positional is not None and positional.accuracy >= POSITIONAL,
        "rare": rare is not None and rare.accuracy >= RARE_TIMES_CHANCE * rare.chance - _ROUNDING and p_rare < ALPHA,
        "syntactic": links and kind != "cross",
        "alignment": links and kind == "cross",
    }
    return tuple(name for name in FUNCTIONS if has[name])


@dataclass(frozen=True, eq=False)
class _View:
    """The attention of all heads of a module among the tokens of words of one sentence.

    Attributes:
        weights: [H, Q, K].
        inside: [H, Q], whether the largest weight of all is one of these.
        causal: query q sees the keys up to q.
        counts: [K], how often each key occurs.
        links: of the sentence.
    """

    weights: Floats
    inside: NDArray[np.bool_]
    causal: bool
    counts: Ids
    links: Links | None


@dataclass(frozen=True, eq=False)
class _Row:
    """Where the words of one sentence lie in the padded tensors of a batch.

    Attributes:
        source: columns of the tokens of words in the source.
        read: columns of the decoder's input where they are read.
        predicted: columns where they are predicted.
        length: columns of the decoder's input.
        counts: of the tokens of words, by side.
        links: by kind.
    """

    source: Ids
    read: Ids
    predicted: Ids
    length: int
    counts: tuple[Ids, Ids]
    links: Mapping[str, Links]

    def view(self, kind: str, weights: Floats) -> _View:
        """The part of the weights [H, T, S] of a module of that kind."""
        queries = {"encoder": self.source, "decoder": self.read, "cross": self.predicted}[kind]
        # Where attention is joint, the keys of the source stand in front of the decoder's own.
        keys = self.read + weights.shape[2] - self.length if kind == "decoder" else self.source
        sent = weights[:, queries]
        counts = self.counts[kind == "decoder"]
        inside = np.isin(sent.argmax(2), keys) if len(queries) else np.zeros(sent.shape[:2], dtype=bool)
        return _View(sent[:, :, keys], inside, kind == "decoder", counts, self.links.get(kind))


def _rows(batch: "Batch", padding: int, annotated: Annotated) -> list[_Row]:
    found = []
    sources = batch.source.numpy()
    targets = sources[:, :0] if batch.target is None else batch.target.numpy()
    for position, source, target in zip(batch.positions.tolist(), sources, targets, strict=True):
        own = np.flatnonzero(source != padding)[annotated.source[position]]
        written = np.flatnonzero(target != padding)
        places = np.flatnonzero(annotated.target[position]) if len(target) else written
        places = places[places + 1 < len(written)]  # the last token is read nowhere
        counts = annotated.rarity[0][source[own]], annotated.rarity[1][target[written[places]]]
        links = {kind: known[position] for kind, known in annotated.links.items() if position in known}
        found.append(_Row(own, written[places + 1], written[places], len(target), counts, links))
    return found


class _Tally:
    """Cases of one function, over sentences, for all heads of a module.

    Attributes:
        hits: [H], cases that a head has right.
        cases: all of them.
        chance: cases that a random head has right, on average.
        reference: cases that chance, or the baseline, has right.
    """

    def __init__(self, heads: int) -> None:
        self.hits, self._squares = np.zeros(heads), np.zeros(heads)
        self.cases, self.chance, self.reference = 0, 0.0, 0.0

    def add(self, right: NDArray[np.bool_], chance: float, reference: float | None = None) -> None:
        """Add a sentence: cases [H, C] that are right, and the numbers expected of chance and of the reference."""
        expected = chance if reference is None else reference
        own = right.sum(1)
        self.hits += own
        self._squares += (own - expected) ** 2
        self.cases += right.shape[1]
        self.chance += chance
        self.reference += expected

    def finding(self, head: int, offset: int | None = None, *, with_baseline: bool = False) -> Finding:
        """What was found of a head.

        The test takes the difference from the reference in each sentence as one observation with mean 0.
        """
        difference, squares = float(self.hits[head]) - self.reference, float(self._squares[head])
        p = 0.5 * math.erfc(difference / math.sqrt(2 * squares)) if squares else float(difference <= 0)
        return Finding(
            accuracy=float(self.hits[head]) / self.cases,
            chance=self.chance / self.cases,
            cases=self.cases,
            p=p,
            offset=offset,
            baseline=self.reference / self.cases if with_baseline else None,
        )


class _Measure:
    """All functions of the heads of one module.

    Attributes:
        heads: H.
        queries: those of words.
        finite: all weights were numbers.
    """

    def __init__(self, kind: str, heads: int, baselines: Mapping[str, int]) -> None:
        self.heads, self.queries, self.finite = heads, 0, True
        self._inside = np.zeros(heads)
        self._offsets = {offset: _Tally(heads) for offset in OFFSETS[kind]}
        self._rare = _Tally(heads)
        self._links = {relation: _Tally(heads) for relation in baselines}
        self._baselines = baselines

    def add(self, view: _View) -> None:
        """Add a sentence."""
        heads, queries, keys = view.weights.shape
        if not queries or not keys:
            return
        self.finite = self.finite and bool(np.isfinite(view.weights).all())
        self.queries += queries
        self._inside += view.inside.sum(1)
        best = view.weights.argmax(2)
        seen = np.tri(queries, keys, dtype=bool) if view.causal else np.ones((queries, keys), dtype=bool)
        self._add_offsets(best, seen)
        self._add_rare(best, seen, view.counts)
        if view.links is not None:
            self._add_links(view.weights, view.links)

    def _add_offsets(self, best: Ids, seen: NDArray[np.bool_]) -> None:
        places = np.arange(len(seen))
        for offset, tally in self._offsets.items():
            wanted = places + offset
            there = (wanted >= 0) & (wanted < seen.shape[1])
            own, wanted = places[there], wanted[there]
            tally.add(best[:, own] == wanted, float((1 / seen.sum(1)[own]).sum()))

    def _add_rare(self, best: Ids, seen: NDArray[np.bool_], counts: Ids) -> None:
        visible = np.where(seen, counts, np.iinfo(np.int64).max)
        rarest = visible == visible.min(1, keepdims=True)
        share = rarest.sum(1) / seen.sum(1)
        own = np.flatnonzero(share < 1)  # where all are as rare, there is nothing to find
        self._rare.add(rarest[own, best[:, own]], float(share[own].sum()))

    def _add_links(self, weights: Floats, links: Links) -> None:
        between, words = _between_words(weights, links)
        best = between.argmax(2)
        for relation, right in links.relations.items():
            accepted = np.zeros((len(right), links.keys.count), dtype=bool)
            for row, own in enumerate(right.values()):
                accepted[row, list(own)] = True
            hits = accepted[np.arange(len(right)), best[:, list(right)]]
            reference = sum(word + self._baselines[relation] in own for word, own in right.items())
            self._links[relation].add(hits, float(accepted.sum() / words), reference)

    def of_head(self, head: int) -> HeadFindings:
        """What was found of a head."""
        offsets = [tally.finding(head, offset) for offset, tally in self._offsets.items() if tally.cases]
        return HeadFindings(
            positional=max(offsets, key=lambda found: found.accuracy, default=None),
            rare=self._rare.finding(head) if self._rare.cases else None,
            links={
                relation: tally.finding(head, self._baselines[relation], with_baseline=True)
                for relation, tally in self._links.items()
            },
            outside=1 - float(self._inside[head]) / self.queries,
        )


def _between_words(weights: Floats, links: Links) -> tuple[Floats, int]:
    """Attention between words [H, Q, K] from that between tokens, and the number of words that can be attended to.

    Clark et al. 2019, section 4.1: weights of the tokens of a word add up where it is attended to, and are averaged
    where it attends. Words without tokens have a weight of -1.
    """
    sending, seen = (
        (own.of_token[own.of_token != NO_WORD][:, None] == np.arange(own.count)).astype(np.float64)
        for own in (links.queries, links.keys)
    )
    rows = sending.T / np.maximum(sending.sum(0), 1)[:, None]
    found = rows @ weights @ seen
    found[:, :, seen.sum(0) == 0] = -1
    return found, int((seen.sum(0) > 0).sum())


def _baselines(links: Mapping[int, Links]) -> dict[str, int]:
    """By relation the relative position of words that is right most often; the nearest one of equals."""
    found: dict[str, Counter[int]] = {}
    for own in links.values():
        for relation, right in own.relations.items():
            found.setdefault(relation, Counter()).update(key - word for word, keys in right.items() for key in keys)
    return {relation: _most_frequent(counts) for relation, counts in found.items()}


def _most_frequent(offsets: Counter[int]) -> int:
    return min(offsets, key=lambda offset: (-offsets[offset], abs(offset), offset))
