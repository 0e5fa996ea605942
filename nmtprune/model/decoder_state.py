"""What a decoder remembers of the tokens decoded so far, and how a pass takes it up."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nmtprune.model.attention import Masks, Observer, Probe, Tap, Visible
from nmtprune.model.recurrence import Update
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

    def extend(self, keys_values: Tensor, slots: int | Tensor, columns: int) -> Tensor:
        """Store keys and values [2, B, n, H, K] and give back all of the first `columns` columns.

        Args:
            keys_values: of the new tokens.
            slots: column of the first new token; or, where rows have different lengths, columns [B, n].
            columns: number of columns in use afterwards.
        """
        buffer = self._with_room(keys_values, columns)
        if isinstance(slots, int):
            buffer[:, :, slots : slots + keys_values.shape[2]] = keys_values
        else:
            buffer[:, :, columns - slots.shape[1] : columns] = 0  # shorter rows leave gaps, which must hold numbers
            rows = torch.arange(slots.shape[0], device=slots.device).unsqueeze(1)
            buffer[:, rows, slots] = keys_values
        return buffer[:, :, :columns]

    def before(self, slots: int | Tensor) -> Tensor | None:
        """What [parts, B, H, K] stands before the first new tokens; zeros where nothing does, None where nowhere.

        Args:
            slots: as for `extend`.
        """
        if self._buffer is None or (isinstance(slots, int) and not slots):
            return None
        if isinstance(slots, int):
            return self._buffer[:, :, slots - 1]
        first = slots[:, 0]
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

    def copy(self) -> "LayerCache":
        """A cache of the same contents that changes independently."""
        found = LayerCache()
        found._buffer = None if self._buffer is None else self._buffer.clone()
        return found

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
        """Forget what lies behind these numbers of tokens per row, [B], so that decoding goes on from there."""
        counts = lengths.tolist()
        self.columns = max(counts, default=0)
        self.lengths = None if min(counts, default=0) == self.columns else lengths

    def copy(self) -> "DecoderState":
        """A state of the same contents that changes independently."""
        found = DecoderState(0)
        found.caches = [cache.copy() for cache in self.caches]
        found.columns, found.lengths = self.columns, self.lengths
        return found


@dataclass(frozen=True)
class Pass:
    """How a pass through the encoder or the decoder differs from a plain one.

    Attributes:
        masks: head masks by module.
        observe: gets the attention weights of every module that runs.
        tap: gets, and may change, the output of every module that runs.
        state: what the decoder remembers; it is extended by the tokens of the pass.
        hidden: gets the input [B, T, D] of every layer that runs, appended in order.
        first: the first layer that runs; the others must have run before.
        start: the input of that layer, from an earlier pass's `hidden`; None: token embeddings.
        raw_keys: see `DecoderLayer.project`.
    """

    masks: Masks = field(default_factory=dict)
    observe: Observer | None = None
    tap: Tap | None = None
    state: DecoderState | None = None
    hidden: list[Tensor] | None = None
    first: int = 0
    start: Tensor | None = None
    raw_keys: bool = False

    def __post_init__(self) -> None:
        """Refuse a pass that begins above the first layer without that layer's input."""
        if self.first > 0 and self.start is None:
            raise ValueError(f"a pass that begins at layer {self.first} needs the input of that layer")

    @property
    def probe(self) -> Probe:
        """What attention modules need to know."""
        return Probe(self.masks, self.observe, self.tap)


@dataclass(frozen=True)
class Step:
    """Where the tokens of one pass through the decoder stand.

    Attributes:
        visible: the keys that they see in self-attention.
        slots: where their keys and values go: first column, or columns [B, n] for rows of different lengths.
        columns: columns in use afterwards.
        state: what receives them; None for a pass that remembers nothing.
        raw_keys: see `DecoderLayer.project`.
    """

    visible: Visible
    slots: int | Tensor
    columns: int
    state: DecoderState | None
    raw_keys: bool = False

    def keep(self, layer: int, keys_values: Tensor) -> Tensor:
        """All keys and values of the layer, those of the new tokens [2, B, n, H, K] stored after the earlier ones."""
        if self.state is None:
            return keys_values
        return self.state.caches[layer].extend(keys_values, self.slots, self.columns)

    def recur(self, layer: int, update: Update) -> Tensor:
        """Cells [B, n, D] of a recurrent layer after each of the new tokens; they are kept."""
        before = None if self.state is None else self.state.caches[layer].before(self.slots)
        cells = update.after(None if before is None else before.flatten(0, 2).view(-1, update.kept.shape[2]))
        self.keep(layer, cells[None, :, :, None])
        return cells

    def with_first(self, context: Tensor, alone: Tensor) -> Tensor:
        """Contexts [R, n, H, K] in which tokens that begin a sentence have those of `alone`."""
        first = context.new_zeros(context.shape[:2], dtype=torch.bool)
        first[:, 0] = isinstance(self.slots, int) and self.slots == 0
        if isinstance(self.slots, Tensor):
            first = (self.slots == 0).expand(first.shape)
        return torch.where(first[:, :, None, None], alone, context)

    def behind(self, source_cache: SourceCache, tokens: Tensor, dtype: torch.dtype) -> "Step":
        """The same step of tokens [R, n] for joint attention, where the keys of the source come first."""
        length, (rows, new) = source_cache.length, tokens.shape
        own = self.visible.bias
        if own is None:
            seen = torch.ones(new, self.columns, dtype=torch.bool, device=tokens.device)
            own = Visible.where((seen.tril() if self.visible.causal else seen).unsqueeze(0), dtype).bias
        source = source_cache.visible.bias
        if source is None:
            source = torch.zeros(1, 1, 1, length, dtype=dtype, device=tokens.device)
        else:
            source = source.repeat_interleave(rows // source.shape[0], 0)
        both = [bias.expand(rows, 1, new, -1) for bias in (source, own) if bias is not None]
        return replace(self, visible=Visible(torch.cat(both, dim=-1)))

    def finish(self, padding: Tensor | None) -> None:
        """Count the new tokens; where some are padding [B, n], which must follow the others, rows now differ."""
        if self.state is None:
            return
        before, lengths = self.state.columns, self.state.lengths
        new = self.columns - before
        self.state.columns = self.columns
        if padding is not None:
            counts = (~padding).sum(1)
            self.state.truncate(counts + (before if lengths is None else lengths))
        elif lengths is not None:
            self.state.lengths = lengths + new


def place(tokens: Tensor, padding: Tensor | None, run: Pass, dtype: torch.dtype) -> Step:
    """Where tokens [B, n] stand that follow what ``run.state`` holds, and which keys they see.

    Args:
        tokens: the new tokens.
        padding: [B, n], true for padding; None where there is none.
        run: the pass.
        dtype: type of the scores.
    """
    state = run.state
    new = tokens.shape[1]
    start: int | Tensor = 0
    columns = new
    if state is not None:
        start = state.start
        columns = state.columns + new
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
    slots = start if isinstance(start, int) else start + offsets
    return Step(visible, slots, columns, state, run.raw_keys)
