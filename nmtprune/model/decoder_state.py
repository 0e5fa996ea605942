"""What a decoder keeps of the tokens decoded so far, and the scope of the tokens that follow them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nmtprune.model.scope import Masks, Observer, Probe, Scope, Tap, Visible
from nmtprune.model.source_cache import SourceCache

_FIRST_CAPACITY = 16


class LayerCache:
    """What one layer keeps of the tokens so far, with room for more: keys and values, or the cell of a recurrence.

    Sentences are rows of one contiguous buffer [2, B, capacity, H, K] (a cell: [1, B, capacity, 1, D]), so that
    reordering copies whole pieces into a second buffer that is kept for the next time.
    """

    def __init__(self) -> None:
        self._buffer: Tensor | None = None
        self._spare: Tensor | None = None

    def extend(self, keys_values: Tensor, places: int | Tensor, columns: int) -> None:
        """Store keys and values [2, B, n, H, K].

        Args:
            keys_values: of the new tokens.
            places: column of the first new token; or, where rows have different lengths, columns [B, n].
            columns: number of columns in use afterwards.
        """
        buffer = self._with_room(keys_values, columns)
        if isinstance(places, int):
            buffer[:, :, places : places + keys_values.shape[2]] = keys_values
        else:
            buffer[:, :, columns - places.shape[1] : columns] = 0  # shorter rows leave gaps, which must hold numbers
            rows = torch.arange(places.shape[0], device=places.device).unsqueeze(1)
            buffer[:, rows, places] = keys_values

    def first(self, columns: int) -> Tensor:
        """What is stored in the first columns, [parts, B, columns, H, K]."""
        if self._buffer is None:
            raise ValueError("nothing is stored yet")
        return self._buffer[:, :, :columns]

    def before(self, places: int | Tensor) -> Tensor | None:
        """What [parts, B, H, K] stands before the first new tokens; zeros where nothing does, None where nowhere.

        Args:
            places: as for `extend`.
        """
        if self._buffer is None or (isinstance(places, int) and not places):
            return None
        if isinstance(places, int):
            return self._buffer[:, :, places - 1]
        first = places[:, 0]
        rows = torch.arange(first.shape[0], device=first.device)
        return self._buffer[:, rows, (first - 1).clamp(min=0)] * (first > 0).view(1, -1, 1, 1)

    def reorder(self, rows: Tensor, columns: int) -> None:
        """Put row ``rows[i]`` into place i, for the first `columns` columns; there may be fewer rows than before."""
        if self._buffer is None:
            return
        parts, before, *shape = self._buffer.shape
        after, used = rows.shape[0], columns * shape[1] * shape[2]
        if self._spare is None or self._spare.shape[1] < after or list(self._spare.shape[2:]) != shape:
            self._spare = self._buffer.new_empty(parts, max(after, before), *shape)
        target = self._spare.flatten(0, 1)[: parts * after].view(parts, after, *shape)
        into = target.view(parts * after, -1)[:, :used]
        all_parts = torch.cat([rows + part * before for part in range(parts)])
        torch.index_select(self._buffer.view(parts * before, -1)[:, :used], 0, all_parts, out=into)
        self._buffer, self._spare = target, self._buffer

    @property
    def size_bytes(self) -> int:
        """Memory of the buffer."""
        return 0 if self._buffer is None else self._buffer.nbytes

    @classmethod
    def joined(cls, caches: Sequence["LayerCache"], used: Sequence[int]) -> "LayerCache":
        """The rows of several caches one after the other, of each its first `used` columns."""
        found = cls()
        buffers = [cache._buffer for cache in caches if cache._buffer is not None]
        if buffers:
            rows, like = sum(buffer.shape[1] for buffer in buffers), buffers[0]
            found._buffer = like.new_zeros(like.shape[0], rows, max(used) + _FIRST_CAPACITY, *like.shape[3:])
            first = 0
            for buffer, columns in zip(buffers, used, strict=True):
                found._buffer[:, first : first + buffer.shape[1], :columns] = buffer[:, :, :columns]
                first += buffer.shape[1]
        return found

    def _with_room(self, like: Tensor, columns: int) -> Tensor:
        buffer = self._buffer
        if buffer is not None and columns <= buffer.shape[2]:
            return buffer
        capacity = max(_FIRST_CAPACITY, columns if buffer is None else max(columns, 2 * buffer.shape[2]))
        grown = like.new_empty(like.shape[0], like.shape[1], capacity, *like.shape[3:])
        if buffer is not None:
            grown[:, :, : buffer.shape[2]] = buffer
        self._buffer, self._spare = grown, None
        return grown


class DecoderState:
    """What the decoder's layers keep of the tokens so far, one row per hypothesis.

    Rows may have different lengths: what lies behind a row's length is never seen and is overwritten.

    Attributes:
        caches: one per layer. A search that resumes above some layer may take those below it from another state.
        columns: number of columns in use, the length of the longest row.
        lengths: tokens per row, [B]; None where all rows have `columns` tokens.
    """

    def __init__(self, layers: int) -> None:
        """A state of no tokens for a decoder of that many layers."""
        self.caches: list[LayerCache] = [LayerCache() for _ in range(layers)]
        self.columns = 0
        self.lengths: Tensor | None = None

    @property
    def size_bytes(self) -> int:
        """Memory that keys and values take."""
        return sum(cache.size_bytes for cache in self.caches)

    @property
    def start(self) -> int | Tensor:
        """Number of tokens so far: the same for all rows, or [B, 1]."""
        return self.columns if self.lengths is None else self.lengths.unsqueeze(1)

    @classmethod
    def joined(cls, states: Sequence["DecoderState"], lengths: Tensor) -> "DecoderState":
        """The rows of several states one after the other; `lengths` [B] are the tokens of all rows."""
        found = cls(0)
        layers = zip(*(state.caches for state in states), strict=True)
        found.caches = [LayerCache.joined(layer, [state.columns for state in states]) for layer in layers]
        found.truncate(lengths)
        return found

    def reorder(self, rows: Tensor) -> None:
        """Make row ``rows[i]`` row i, in every layer: beam search's choice, or fewer rows when sentences are done."""
        for cache in self.caches:
            cache.reorder(rows, self.columns)
        if self.lengths is not None:
            self.truncate(self.lengths.index_select(0, rows))

    def truncate(self, lengths: Tensor) -> None:
        """Forget all tokens behind these numbers of tokens per row, [B], so that decoding continues from there."""
        counts = lengths.tolist()
        self.columns = max(counts, default=0)
        self.lengths = None if min(counts, default=0) == self.columns else lengths


@dataclass(frozen=True)
class Pass:
    """How a pass through the encoder or the decoder differs from a plain one.

    Attributes:
        masks: by group.
        observe: gets the attention weights of every module that runs.
        tap: gets, and may change, the output of every module that runs.
        state: what the decoder keeps of earlier tokens; it is extended by the tokens of the pass.
        raw_keys: as for `Scope`.
    """

    masks: Masks = field(default_factory=dict)
    observe: Observer | None = None
    tap: Tap | None = None
    state: DecoderState | None = None
    raw_keys: bool = False

    @property
    def probe(self) -> Probe:
        """Masks, observer and tap."""
        return Probe(self.masks, self.observe, self.tap)


@dataclass(frozen=True, kw_only=True)
class StateScope(Scope):
    """The scope of tokens that follow those of a `DecoderState`, and are kept in it.

    Attributes:
        state: what is kept of earlier tokens.
        places: where the new tokens go: first column, or columns [R, n] for rows of different lengths.
        columns: columns in use afterwards.
    """

    state: DecoderState
    places: int | Tensor
    columns: int

    def keep(self, kept: Tensor, position: int) -> None:
        """Store what a layer keeps behind that of earlier tokens."""
        self.state.caches[position].extend(kept, self.places, self.columns)

    def seen(self, keys_values: Tensor, position: int) -> Tensor:
        """Keys and values [2, R, T, H, K] of all tokens so far."""
        return self.state.caches[position].first(self.columns)

    def cell_before(self, position: int) -> Tensor | None:
        """The cell [R, D] of a recurrent layer before the first new token; None for zeros."""
        before = self.state.caches[position].before(self.places)
        return None if before is None else before.flatten(2)[0]

    def with_first(self, context: Tensor, alone: Tensor) -> Tensor:
        """Contexts [R, n, H, K] in which tokens that begin a sentence have those of `alone`."""
        if isinstance(self.places, int):
            return context if self.places else super().with_first(context, alone)
        return torch.where((self.places == 0)[:, :, None, None], alone, context)

    def finish(self) -> None:
        """Count the new tokens; where some are padding, which must follow the others, rows now differ in length."""
        before, lengths = self.state.columns, self.state.lengths
        self.state.columns = self.columns
        if self.padding is not None:
            counts = (~self.padding).sum(1)
            self.state.truncate(counts + (before if lengths is None else lengths))
        elif lengths is not None:
            self.state.lengths = lengths + self.columns - before


def scope_of(
    tokens: Tensor, padding: Tensor | None, source: SourceCache | None, run: Pass, dtype: torch.dtype
) -> Scope:
    """The scope of decoder tokens [R, n] that follow those in ``run.state``, if there is one.

    Args:
        tokens: the new tokens.
        padding: [R, n], true for padding; None where there is none.
        source: keys and values of the source; None in a language model.
        run: the pass.
        dtype: type of the scores.
    """
    state, new = run.state, tokens.shape[1]
    start = 0 if state is None else state.start
    columns = new if state is None else state.columns + new
    offsets = torch.arange(new, device=tokens.device)
    if columns == new and padding is None:
        visible = Visible(causal=new > 1)
    elif isinstance(start, int) and new == 1 and padding is None:
        visible = Visible()
    else:
        last = (offsets + start if isinstance(start, Tensor) else (offsets + start).unsqueeze(0)).unsqueeze(-1)
        seen = torch.arange(columns, device=tokens.device) <= last
        if padding is not None and columns == new:
            seen = seen & ~padding.unsqueeze(1)
        visible = Visible.where(seen, dtype)
    if source is not None and source.is_joint:
        visible = visible.behind(source.visible, source.length, tokens, columns, dtype)
    if state is None:
        return Scope(probe=run.probe, visible=visible, source=source, padding=padding, raw_keys=run.raw_keys)
    return StateScope(
        probe=run.probe,
        visible=visible,
        source=source,
        padding=padding,
        raw_keys=run.raw_keys,
        state=state,
        places=start if isinstance(start, int) else start + offsets,
        columns=columns,
    )
