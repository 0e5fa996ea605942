"""Translations under many head masks, from one recorded search: what masks leave untouched is verified, not searched.

Most translations survive the loss of a head. The search without masks is recorded as a trellis, the tree of all
hypotheses that mattered. For each masked model one parallel pass computes all its nodes, from the first masked module
on; the search is then replayed on them, and only hypotheses that the trellis does not have are decoded step by step,
those of all systems of a chunk in the same batches. The results are those of a search from scratch.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from nmtprune.architecture import ModuleId
from nmtprune.model.memory import EncoderOutput
from nmtprune.model.search.candidates import Scorer
from nmtprune.model.search.chain import Chains
from nmtprune.model.search.chunk import Chunk, Positions, Tokens
from nmtprune.model.search.extension import Extension, caches, decoder_layers
from nmtprune.model.search.lockstep import Lockstep
from nmtprune.model.search.nodes import Nodes
from nmtprune.model.search.options import Search, Symbols, max_lens
from nmtprune.model.search.passes import HeadMasks
from nmtprune.model.search.replay import Replay, best_tokens
from nmtprune.model.search.shortlist import Screen
from nmtprune.model.search.slots import Slots
from nmtprune.model.search.sources import Memories
from nmtprune.model.search.trellis import Recording, lay_out
from nmtprune.model.transformer import Transformer

CHUNK_BYTES = 1 << 30
"""Memory for keys, values and features of the systems that are searched together."""


class Ablation:
    """Records searches of a model, and repeats them under head masks.

    Attributes:
        model: the model.
    """

    def __init__(self, model: Transformer, options: Search, symbols: Symbols) -> None:
        """Prepare for a model.

        Args:
            model: an encoder-decoder model.
            options: of the search.
            symbols: special words of the target vocabulary.
        """
        self.model, self._options, self._symbols = model, options, symbols
        self._scorer = Scorer(model, options, symbols, scores=False)
        self._screen = Screen.of(self._scorer)
        self._systems = max([1, *(module.heads for module in model.architecture)])
        greedy = self._scorer.beam == 1
        self._search = (
            Chains(model, self._scorer, self._screen) if greedy else Replay(model, options, self._scorer, self._screen)
        )

    @torch.no_grad()
    def record(self, source: Tensor, lengths: Sequence[int], positions: Sequence[int]) -> list[Chunk]:
        """Translate a padded batch [B, S] of the sentences at these places of the corpus, and remember how.

        `lengths` are the tokens of each sentence without padding.

        Raises:
            UsageError: a minimum length above the maximum.
        """
        model, options = self.model, self._options
        source = source.to(model.device)
        encoded = model.encode(source)
        memories = Memories((model.remember(encoded),), len(positions))
        nodes, recording = Nodes(source.device), Recording(self._scorer, self._screen)
        stores = [caches(model, range(len(model.decoder.layers)))]
        extension = Extension(model, memories, {}, stores, raw_keys=options.raw_keys)
        max_len = torch.tensor(max_lens(options, lengths, model.max_positions[1]), device=source.device)
        searches = torch.arange(len(positions), device=source.device)
        slots = Slots.begin(searches, torch.zeros_like(searches), max_len, self._scorer)
        ended = Lockstep(self._scorer, extension, nodes).run(slots, recording)
        texts = best_tokens(ended.ranked(nodes, options), nodes)
        chunks = []
        for some in self._ranges(recording, len(positions)):
            trellis = lay_out(recording, nodes, some, options.min_len)
            order = trellis.order.tolist()
            padding = None if encoded.padding is None else encoded.padding[trellis.order]
            own = EncoderOutput(encoded.states[trellis.order], padding)
            places, found = tuple(positions[i] for i in order), tuple(texts[i] for i in order)
            chunks.append(Chunk(places, source[trellis.order], own, max_len[trellis.order], trellis, found))
        return chunks

    @torch.no_grad()
    def translations(
        self, chunks: Iterable[Chunk], systems: Sequence[HeadMasks]
    ) -> Iterator[tuple[int, Positions, list[Tokens]]]:
        """Translations of the sentences of chunks under each of several systems of masks.

        Args:
            chunks: of `record`, in something that can be gone through several times.
            systems: masks [H] of zeros and ones by module; best those of one module, which share most.

        Yields:
            For each system and chunk, in any order: the number of the system, the places of the chunk's sentences in
            the corpus, and their translations; empty where a sentence has none.
        """
        masks = [_effective(each) for each in systems]
        changing = [number for number, each in enumerate(masks) if each]
        same = [number for number, each in enumerate(masks) if not each]
        if not changing:
            yield from ((number, chunk.positions, list(chunk.baseline)) for chunk in chunks for number in same)
        unmasked: dict[Positions, list[Tokens]] = {}
        for begin in range(0, len(changing), self._systems):
            numbers = changing[begin : begin + self._systems]
            seen = _noting(chunks, unmasked) if not begin else chunks
            for positions, found in self._search(seen, [masks[number] for number in numbers]):
                yield from ((number, positions, texts) for number, texts in zip(numbers, found, strict=True))
        yield from ((number, positions, list(texts)) for positions, texts in unmasked.items() for number in same)

    def _ranges(self, recording: Recording, searches: int) -> list[range]:
        """Consecutive searches whose nodes, under as many systems as a module has heads, fit into a chunk."""
        kept = filter(None, (layer.kept_shape() for layer in decoder_layers(self.model.decoder)))
        floats = sum(map(math.prod, kept)) + self.model.decoder.output_width
        most = max(1, CHUNK_BYTES // (self._systems * 4 * (floats + 4 * self._scorer.width)))
        ranges, begin, total = [], 0, 0
        for search, count in enumerate(torch.bincount(recording.kept()[1], minlength=searches).tolist()):
            if total and total + count > most:
                ranges.append(range(begin, search))
                begin, total = search, 0
            total += count
        return [*ranges, range(begin, searches)]


def _noting(chunks: Iterable[Chunk], unmasked: dict[Positions, list[Tokens]]) -> Iterator[Chunk]:
    """The chunks; their translations without masks are noted on the way."""
    for chunk in chunks:
        unmasked[chunk.positions] = list(chunk.baseline)
        yield chunk


def _effective(masks: HeadMasks) -> dict[ModuleId, Tensor]:
    """The masks that change anything."""
    return {module: mask for module, mask in masks.items() if bool((mask != 1).any())}
