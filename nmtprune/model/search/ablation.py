"""Translations under many head masks, from one recorded search: what masks leave untouched is verified, not searched.

Most translations survive the loss of a head. The search without masks is recorded as a trellis, the tree of all
hypotheses that mattered. For each masked model one parallel pass computes all its nodes, from the first masked module
on; the search is then replayed on them, and only hypotheses that the trellis does not have are decoded step by step,
those of all systems of a chunk in the same batches. The results are those of a search from scratch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nmtprune.architecture import ModuleId
from nmtprune.model.search.candidates import Scorer
from nmtprune.model.search.draft import TrellisDraft
from nmtprune.model.search.extension import Extension, caches, decoder_layers
from nmtprune.model.search.lockstep import Lockstep
from nmtprune.model.search.nodes import KeyValues, Nodes
from nmtprune.model.search.options import SearchOptions, Symbols
from nmtprune.model.search.passes import EncoderPass, HeadMasks, TreePass
from nmtprune.model.search.shortlist import Screen
from nmtprune.model.search.slots import Ended, Ranking, Slots
from nmtprune.model.search.sources import Memories
from nmtprune.model.search.trellis import Recording, Trellis, lay_out
from nmtprune.model.state import EncoderOutput, Memory
from nmtprune.model.transformer import Transformer

CHUNK_BYTES = 1 << 30
"""Memory for keys, values and features of the systems that are searched together."""

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Chunk:
    """Some sentences of a batch and their recorded search.

    Attributes:
        positions: places of the sentences in the corpus.
        source: [B, S] token ids.
        encoded: the encoder's output without masks.
        max_len: tokens that a translation may have.
        trellis: the recorded search.
        baseline: translations without masks, the end-of-sentence symbol included; empty for none.
    """

    positions: tuple[int, ...]
    source: Tensor
    encoded: EncoderOutput
    max_len: int
    trellis: Trellis
    baseline: tuple[Tokens, ...]


class Ablation:
    """Records searches of a model, and repeats them under head masks.

    Attributes:
        model: the model.
    """

    def __init__(self, model: Transformer, options: SearchOptions, symbols: Symbols) -> None:
        """Prepare for a model.

        Args:
            model: an encoder-decoder model.
            options: of the search.
            symbols: special words of the target vocabulary.
        """
        self.model, self._options, self._symbols = model, options, symbols
        self._scorer = Scorer(model, options, symbols, scores=False)
        self._screen = Screen.of(self._scorer)
        self._systems = max((module.heads for module in model.architecture), default=1)

    @torch.no_grad()
    def record(self, source: Tensor, positions: Sequence[int]) -> list[Chunk]:
        """Translate a padded batch [B, S] of the sentences at these places of the corpus, and remember how.

        Raises:
            UsageError: a minimum length above the maximum.
        """
        model, options = self.model, self._options
        source = source.to(model.device)
        encoded = model.encode(source)
        memories = Memories((model.remember(encoded),), len(positions))
        nodes, recording = Nodes(source.device), Recording(self._scorer, self._screen)
        extension = Extension(model, memories, {}, [caches(model, range(len(model.decoder.layers)))])
        max_len = options.max_len(source.shape[1], model.max_positions[1])
        searches = torch.arange(len(positions), device=source.device)
        slots = self._slots(searches, torch.zeros_like(searches), max_len)
        ended = Lockstep(self._scorer, extension, nodes).run(slots, recording)
        texts = best_tokens(ended.ranked(nodes, options), nodes, self._symbols.eos)
        chunks = []
        for searches in self._ranges(recording, len(positions)):
            trellis = lay_out(recording, nodes, searches, options.min_len)
            order = trellis.order.tolist()
            padding = None if encoded.padding is None else encoded.padding[trellis.order]
            own = EncoderOutput(encoded.states[trellis.order], padding)
            places, found = tuple(positions[i] for i in order), tuple(texts[i] for i in order)
            chunks.append(Chunk(places, source[trellis.order], own, max_len, trellis, found))
        return chunks

    @torch.no_grad()
    def masked(self, chunk: Chunk, systems: Sequence[HeadMasks]) -> list[list[Tokens]]:
        """Translations of a chunk's sentences under each of several systems of masks.

        Args:
            chunk: of `record`.
            systems: masks [H] of zeros and ones by module; best those of one module, which share most.

        Returns:
            For each system the translations in the order of the chunk's sentences.
        """
        systems = [effective(masks) for masks in systems]
        found: list[list[Tokens]] = [list(chunk.baseline) for _ in systems]
        changing = [number for number, masks in enumerate(systems) if masks]
        for begin in range(0, len(changing), self._systems):
            numbers = changing[begin : begin + self._systems]
            for number, texts in zip(numbers, self._search(chunk, [systems[n] for n in numbers]), strict=True):
                found[number] = texts
        return found

    def _search(self, chunk: Chunk, systems: list[dict[ModuleId, Tensor]]) -> list[list[Tokens]]:
        """Translations under masks that all change something."""
        trellis, size = chunk.trellis, len(chunk.positions)
        tree = TreePass(self.model, trellis, {module for masks in systems for module in masks})
        draft = TrellisDraft(trellis, len(systems), self._scorer, self._screen)
        below, above = _stores(self.model, tree.shared, trellis.size, len(systems))
        memories = self._fill(chunk, systems, tree, draft, (below, above))
        extension = Extension(self.model, Memories(memories, size), _stacked(systems), [below, above])
        sentence = torch.arange(size, device=chunk.source.device)
        number = torch.arange(len(systems), device=chunk.source.device)
        if len(memories) == 1:
            source, system = sentence.repeat_interleave(len(systems)), number.repeat(size)
        else:
            source, system = torch.arange(size * len(systems), device=sentence.device), number.repeat_interleave(size)
        ended = Lockstep(self._scorer, extension, draft.nodes, draft).run(self._slots(source, system, chunk.max_len))
        texts = best_tokens(self._ranked(ended, draft), draft.nodes, self._symbols.eos)
        by_system: list[list[Tokens]] = [[] for _ in systems]
        for place, text in zip(system.tolist(), texts, strict=True):
            by_system[place].append(text)
        return by_system

    def _fill(
        self,
        chunk: Chunk,
        systems: list[dict[ModuleId, Tensor]],
        tree: TreePass,
        draft: TrellisDraft,
        stores: tuple[KeyValues, KeyValues],
    ) -> tuple[Memory, ...]:
        """Run all systems over the trellis; the memory of all of them, or one of each."""
        model = self.model
        plain = model.remember(chunk.encoded)
        tree.enter(plain, stores[0])
        encoders = [module for masks in systems for module in masks if module.kind == "encoder"]
        encoder = EncoderPass(model, chunk.source, min(encoders)) if encoders else None
        memories = []
        for number, masks in enumerate(systems):
            memory = plain if encoder is None else model.remember(encoder.masked(masks))
            draft.fill(tree.masked(memory, masks, stores[1], number * chunk.trellis.size))
            memories.append(memory)
        return tuple(memories) if encoders else (plain,)

    def _ranked(self, ended: Ended, draft: TrellisDraft) -> Ranking:
        """Ended hypotheses, best first; where error bounds leave that open, scores are made exact."""
        ranking = ended.ranked(draft.nodes, self._options)
        unsure = ranking.doubtful()
        if bool(unsure.any()):
            nodes = ranking.path[unsure].unique()
            draft.settle(nodes[draft.nodes.spread[nodes] > 0])
            ranking = ended.ranked(draft.nodes, self._options)
        return ranking

    def _slots(self, source: Tensor, system: Tensor, max_len: int) -> Slots:
        longest = torch.full_like(source, max_len)
        return Slots.start(source, system, longest, self._scorer.beam, self._symbols.eos)

    def _ranges(self, recording: Recording, searches: int) -> list[range]:
        """Consecutive searches whose nodes, under as many systems as a module has heads, fit into a chunk."""
        attentions = [layer.self_attention for layer in decoder_layers(self.model.decoder)]
        floats = sum(2 * attention.inner for attention in attentions) + self.model.decoder.output_width
        most = max(1, CHUNK_BYTES // (self._systems * 4 * (floats + 4 * self._scorer.width)))
        ranges, begin, total = [], 0, 0
        for search, count in enumerate(torch.bincount(recording.kept()[1], minlength=searches).tolist()):
            if total and total + count > most:
                ranges.append(range(begin, search))
                begin, total = search, 0
            total += count
        return [*ranges, range(begin, searches)]


def effective(masks: HeadMasks) -> dict[ModuleId, Tensor]:
    """The masks that change anything."""
    return {module: mask for module, mask in masks.items() if bool((mask != 1).any())}


def best_tokens(ranking: Ranking, nodes: Nodes, eos: int) -> list[Tokens]:
    """The best hypothesis of each search; empty where there is none."""
    return [texts[0] if texts else () for texts in ranking.tokens(nodes, eos, 1)]


def _stacked(systems: Sequence[HeadMasks]) -> dict[ModuleId, Tensor]:
    """Masks of the decoder's modules, [systems, H]."""
    found: dict[ModuleId, Tensor] = {}
    for masks in systems:
        for module, mask in masks.items():
            if module.kind != "encoder" and module not in found:
                found[module] = torch.stack([other.get(module, torch.ones_like(mask)) for other in systems])
    return found


def _stores(model: Transformer, shared: range, size: int, systems: int) -> tuple[KeyValues, KeyValues]:
    """Caches for layers that masks leave as they are, and for the others, with rows for the nodes of a draft."""
    below = caches(model, shared)
    above = caches(model, range(shared.stop, len(model.decoder.layers)))
    nodes = torch.arange(size * systems, device=model.device)
    below.reserve(size)
    below.assign(nodes, nodes % size)
    above.reserve(size * systems)
    above.assign(nodes, nodes)
    below.pin()
    above.pin()
    return below, above
