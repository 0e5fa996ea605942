"""The encoder's output for the hypotheses that are being extended, without copying it at every step."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nmtprune.model.source_cache import SourceCache

_SPARE = 16


@dataclass(frozen=True)
class SourceCaches:
    """Source caches of the same B sentences under different masks, or a single one.

    Attributes:
        parts: sentence b of the n-th cache has number ``n * size + b``.
        size: B.
    """

    parts: tuple[SourceCache, ...]
    size: int

    def select(self, sources: Tensor) -> SourceCache:
        """The cache of sentences [G], whose numbers rise."""
        if len(self.parts) == 1:
            return self.parts[0].select(sources)
        bounds = torch.arange(1, len(self.parts), device=sources.device) * self.size
        ranges = sources.tensor_split(torch.searchsorted(sources, bounds).cpu())
        chosen = [
            source_cache.select(part - number * self.size)
            for number, (source_cache, part) in enumerate(zip(self.parts, ranges, strict=True))
            if len(part)
        ]
        return SourceCache.joined(chosen)


class ActiveSources:
    """The part of source caches that searches use at present, with one entry for each search."""

    def __init__(self, source_caches: SourceCaches) -> None:
        self._source_caches = source_caches
        self._entry = torch.full((0,), -1, dtype=torch.long)
        self._buffer: SourceCache | None = None
        self._count = self._capacity = 0

    def of(self, search: Tensor, source: Tensor) -> tuple[SourceCache, "SourceGroups"]:
        """A cache in which the hypotheses of one search share an entry, and which hypothesis has which entry.

        Args:
            search: [R], search of each hypothesis; rising.
            source: [R], number of the sentence that it translates; rising.
        """
        present, counts = search.unique_consecutive(return_counts=True)
        first = counts.cumsum(0) - counts
        self._update(present, source[first])
        if self._buffer is None:
            raise ValueError("no search to extend")
        inside = torch.arange(len(search), device=search.device) - torch.repeat_interleave(first, counts)
        groups = SourceGroups.of(self._entry[search], inside, int(counts.max()), self._count)
        return self._buffer.narrow(slice(0, self._count)), groups

    def _update(self, present: Tensor, source: Tensor) -> None:
        """Have entries for the searches that are present; forget the others where they are most."""
        most = int(present[-1]) + 1
        if most > len(self._entry):
            self._entry = F.pad(self._entry.to(present.device), (0, most - len(self._entry)), value=-1)
        if self._buffer is None or self._count > len(present):
            self._entry.fill_(-1)
            # Several searches may translate one sentence: only one of each, in order, need no cache of their own.
            whole = len(self._source_caches.parts) == 1 and len(present) == self._source_caches.size
            whole = whole and source.tolist() == list(range(self._source_caches.size))
            self._buffer = self._source_caches.parts[0] if whole else self._source_caches.select(source)
            self._count = self._capacity = len(present)
            self._entry[present] = torch.arange(len(present), device=present.device)
            return
        missing = self._entry[present] < 0
        if bool(missing.any()):
            self._append(present[missing], source[missing])

    def _append(self, search: Tensor, source: Tensor) -> None:
        first, self._count = self._count, self._count + len(search)
        if self._buffer is not None and self._count > self._capacity:
            self._capacity = max(self._count, 2 * self._capacity)
            self._buffer = self._buffer.narrow(slice(0, first)).with_room(self._capacity)
        if self._buffer is not None:
            self._buffer.put(first, self._source_caches.select(source))
        self._entry[search] = torch.arange(first, self._count, device=search.device)


@dataclass(frozen=True)
class SourceGroups:
    """Hypotheses grouped by the entry of a source cache that they share.

    Attributes:
        owner: [R], entry of each hypothesis.
        place: [R], its place among G * size places; None where hypotheses are in the order of the places.
        count: G, entries.
        size: places per entry.
    """

    owner: Tensor
    place: Tensor | None
    count: int
    size: int

    @classmethod
    def of(cls, owner: Tensor, inside: Tensor, size: int, count: int) -> "SourceGroups":
        """Groups from the entry of each hypothesis and its number among those of the same entry."""
        place = owner * size + inside
        whole = len(place) == count * size and bool((place[1:] > place[:-1]).all())
        return cls(owner, None if whole else place, count, size)

    def spread(self, x: Tensor) -> Tensor:
        """[R, 1, H, K] as [G, size, H, K], zeros where a place has no hypothesis."""
        if self.place is None:
            return x.view(self.count, self.size, *x.shape[2:])
        spread = x.new_zeros(self.count * self.size, *x.shape[2:])
        spread[self.place] = x.squeeze(1)
        return spread.view(self.count, self.size, *x.shape[2:])

    def gather(self, x: Tensor) -> Tensor:
        """[G, size, H, K] as [R, 1, H, K]."""
        flat = x.flatten(0, 1)
        return (flat if self.place is None else flat[self.place]).unsqueeze(1)
