"""The hypotheses of many beam searches that advance together: the tree of all, those in the beams, those that ended."""

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from nmtprune.model.search.next_words import NextWordPredictor
from nmtprune.model.search.options import Hypothesis, Search

_FIRST_NODES = 1024


class HypothesisTree:
    """All hypotheses of a search, as columns of equal length with one entry per node.

    A node is a hypothesis whose next words were computed. Nodes are numbered in the order in which they came to be, all
    sentences together; a hypothesis is the path from its root.

    Attributes:
        count: number of nodes.
        token: last token of the hypothesis; the root's is the one that starts every sentence.
        parent: node before the last token; a root's is itself.
        logits: sum of the tokens' logits, in double precision.
        normalizer: what the logits of the next token are to be reduced by, in double precision.
        spread: error bound of `normalizer`.
    """

    def __init__(self, device: torch.device) -> None:
        self.count = 0
        self.token = torch.zeros(_FIRST_NODES, dtype=torch.long, device=device)
        self.parent = torch.zeros_like(self.token)
        self.logits = torch.zeros(_FIRST_NODES, dtype=torch.float64, device=device)
        self.normalizer = torch.zeros_like(self.logits)
        self.spread = torch.zeros_like(self.logits)

    def add(self, token: Tensor, parent: Tensor | None, logits: Tensor) -> Tensor:
        """Numbers [N] of new nodes; without parents they are roots."""
        first, self.count = self.count, self.count + token.shape[0]
        self._grow()
        new = torch.arange(first, self.count, device=token.device)
        self.token[new] = token
        self.parent[new] = new if parent is None else parent
        self.logits[new] = logits
        return new

    def _grow(self) -> None:
        for name in ("token", "parent", "logits", "normalizer", "spread"):
            column = getattr(self, name)
            if self.count > column.shape[0]:
                size = max(self.count, 2 * column.shape[0])
                setattr(self, name, F.pad(column, (0, size - column.shape[0])))

    def paths(self, last: Tensor, length: int) -> Tensor:
        """Nodes [N, length] on the way to the nodes `last` [N], those nearest the root first, roots repeated."""
        steps = [last]
        for _ in range(length - 1):
            steps.append(self.parent[steps[-1]])
        return torch.stack(steps[::-1], dim=1)


@dataclass(frozen=True)
class Beams:
    """The hypotheses that P searches follow; all have the same length t.

    Attributes:
        search: [P], number of the search.
        source: [P], which sentence of the source caches it translates; rising.
        system: [P], which masks it runs under.
        max_len: [P], tokens that a translation may have before the end-of-sentence symbol.
        found: [P], hypotheses that have ended.
        token: [P, beam], last tokens.
        logits: [P, beam], sum of the tokens' logits; -inf where a place is empty.
        normalizer: [P, beam], sum of what is to be subtracted from them.
        path: [P, beam, t], nodes of the earlier tokens.
        ignored: [P, beam], see `Selection`.
    """

    search: Tensor
    source: Tensor
    system: Tensor
    max_len: Tensor
    found: Tensor
    token: Tensor
    logits: Tensor
    normalizer: Tensor
    path: Tensor
    ignored: Tensor

    @classmethod
    def begin(cls, source: Tensor, system: Tensor, max_len: Tensor, predictor: NextWordPredictor) -> "Beams":
        """One hypothesis without tokens per search [P], of up to `max_len` [P] tokens; the other places are empty."""
        beam, first = predictor.beam, predictor.symbols.first
        count, device = source.shape[0], source.device
        logits = torch.full((count, beam), -torch.inf, dtype=torch.float64, device=device)
        logits[:, 0] = 0.0
        none = torch.zeros(count, beam, dtype=torch.long, device=device)
        return cls(
            search=torch.arange(count, device=device),
            source=source,
            system=system,
            max_len=max_len,
            found=none[:, 0].clone(),
            token=torch.full_like(none, first),
            logits=logits,
            normalizer=torch.zeros_like(logits),
            path=none.new_empty(count, beam, 0),
            ignored=none.bool(),
        )

    @property
    def scores(self) -> Tensor:
        """Sum of log-probabilities, [P, beam]."""
        return self.logits - self.normalizer

    def select(self, rows: Tensor) -> "Beams":
        """Some of the searches."""
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})


class EndedHypotheses:
    """Hypotheses that have ended, up to `beam` for each of P searches.

    Attributes:
        node: [P, beam], node before the last word, which is the end-of-sentence symbol unless the text was cut off.
        word: [P, beam], that word.
        logits: [P, beam], sum of logits, the last word's included.
        length: [P, beam], tokens, the last word included; 0 where there is no hypothesis.
        score: [P, beam], scores of searches that compare ended hypotheses; -inf where there is none.
    """

    def __init__(self, searches: int, beam: int, device: torch.device) -> None:
        self.node = torch.zeros(searches, beam, dtype=torch.long, device=device)
        self.word, self.length = torch.zeros_like(self.node), torch.zeros_like(self.node)
        self.logits = torch.zeros(searches, beam, dtype=torch.float64, device=device)
        self.score = torch.full_like(self.logits, -torch.inf)

    def add(self, places: tuple[Tensor, Tensor], last: tuple[Tensor, Tensor], logits: Tensor, length: int) -> None:
        """Put hypotheses of one length, given by their `last` node and word, into places (search, number)."""
        self.node[places], self.word[places] = last
        self.logits[places], self.length[places] = logits, length

    def ranked(self, tree: HypothesisTree, options: Search) -> "Ranking":
        """All hypotheses, best first."""
        longest = max(1, int(self.length.max()) if self.length.numel() else 1)
        path = tree.paths(self.node.flatten(), longest).unflatten(0, self.node.shape)
        inside = torch.arange(longest, 0, -1, device=path.device) <= self.length.unsqueeze(-1)
        sums = self.logits - (tree.normalizer[path] * inside).sum(-1)
        bounds = (tree.spread[path] * inside).sum(-1)
        if options.word_penalty:
            sums = sums - options.word_penalty * self.length
        scale = options.scale(self.length.clamp(min=1))
        sums, bounds = sums / scale, bounds / scale
        sums = sums.masked_fill(self.length == 0, -torch.inf)
        scores, order = sums.sort(dim=1, descending=True, stable=True)
        bounds, length, word = (part.gather(1, order) for part in (bounds, self.length, self.word))
        return Ranking(path, inside, order, scores, bounds, length, word)


@dataclass(frozen=True)
class Ranking:
    """Ended hypotheses of P searches, best first.

    Attributes:
        path: [P, beam, T], nodes of each hypothesis, in the order in which they ended, at the end of the row.
        inside: [P, beam, T], which entries of `path` count.
        order: [P, beam], from the rank to the place in `path`.
        scores: [P, beam] by rank; -inf where there is no hypothesis.
        bounds: [P, beam], by how much a score may be wrong.
        length: [P, beam] by rank.
        word: [P, beam] by rank, last words.
    """

    path: Tensor
    inside: Tensor
    order: Tensor
    scores: Tensor
    bounds: Tensor
    length: Tensor
    word: Tensor

    def tokens(self, tree: HypothesisTree, best: int) -> list[list[tuple[int, ...]]]:
        """Tokens of the best hypotheses of each search."""
        order = self.order[:, :best]
        path = self.path.gather(1, order.unsqueeze(-1).expand(-1, -1, self.path.shape[2]))
        tokens = tree.token[path].tolist()
        found = zip(tokens, self.length[:, :best].tolist(), self.word[:, :best].tolist(), strict=True)
        return [
            [(*row[len(row) - n + 1 :], word) for row, n, word in zip(rows, counts, words, strict=True) if n]
            for rows, counts, words in found
        ]

    def hypotheses(self, tree: HypothesisTree, best: int) -> list[list[Hypothesis]]:
        """The best hypotheses of each search."""
        found = zip(self.tokens(tree, best), self.scores.tolist(), strict=True)
        return [[Hypothesis(*each) for each in zip(texts, scores, strict=False)] for texts, scores in found]
