"""What the tokens of one pass see apart from their own states: masks of units, other tokens, the source.

Sublayers reach all of it through a `Scope`. A pass over whole sequences, decoding step by step, a search over
hypotheses and a pass over a tree of hypotheses differ in their scopes alone, not in their layers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from nmtprune.architecture import GroupId

if TYPE_CHECKING:
    from nmtprune.model.attention import Attention
    from nmtprune.model.recurrence import CellUpdate
    from nmtprune.model.source_cache import SourceCache
    from nmtprune.model.sublayers import Body

Masks = Mapping[GroupId, Tensor]
"""By group, the factor of what each unit gives to the output projection: of a head's context before W_O, [H], [B, H] or
[B, H, T] with T the queries; of a neuron, [F], [B, F] or [B, F, T] with T the tokens; gradients flow."""

Observer = Callable[[GroupId, Tensor], None]
"""Gets the attention weights of a module after the softmax, [B, H, T, S]; modules without heads are not reported."""

Tap = Callable[["Body", Tensor, Tensor], Tensor]
"""Gets an attention module or a feed-forward layer, what its output projection reads (masked contexts [B, T, H, K] or
masked neurons [B, T, F], padding included), and its output [B, T, D]; returns the output [B, T, D] that the model uses.
Bodies without heads or neurons are not reported."""


@dataclass(frozen=True)
class Probe:
    """What a pass through the model does to heads and neurons, and who looks at them."""

    masks: Masks = field(default_factory=dict)
    observe: Observer | None = None
    tap: Tap | None = None


@dataclass(frozen=True)
class Visible:
    """Which keys the queries see.

    Attributes:
        bias: added to the scores, [B or 1, 1, T or 1, S], 0 or hugely negative; None: everything is seen.
        causal: query t sees the keys up to t; only without `bias`.
    """

    bias: Tensor | None = None
    causal: bool = False

    @classmethod
    def all_but(cls, padding: Tensor | None, dtype: torch.dtype) -> "Visible":
        """Every key except padding [B, S]; None where there is no padding."""
        return cls() if padding is None else cls.where(~padding.unsqueeze(1), dtype)

    @classmethod
    def where(cls, seen: Tensor, dtype: torch.dtype) -> "Visible":
        """The keys that a Boolean tensor [B or 1, T or 1, S] marks.

        The bias is finite, so that a query that sees nothing (padding) gives numbers instead of NaN.
        """
        low = torch.finfo(dtype).min / 2
        return cls(torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, low).unsqueeze(1))

    def behind(self, front: "Visible", keys: int, tokens: Tensor, columns: int, dtype: torch.dtype) -> "Visible":
        """The same keys with others in front of them.

        Args:
            front: which of the keys in front are seen, the same for all queries of a row; its rows are B sentences.
            keys: number of keys in front.
            tokens: [R, T], those that send the queries, R a multiple of B.
            columns: number of keys of this visibility.
            dtype: type of the scores.
        """
        rows, new = tokens.shape
        own = self.bias
        if own is None:
            seen = torch.ones(1, new, columns, dtype=torch.bool, device=tokens.device)
            own = Visible.where(seen.tril() if self.causal else seen, dtype).bias
        before = front.bias
        if before is None:
            before = torch.zeros(1, 1, 1, keys, dtype=dtype, device=tokens.device)
        else:
            before = before.repeat_interleave(rows // before.shape[0], 0)
        both = [bias.expand(rows, 1, new, -1) for bias in (before, own) if bias is not None]
        return Visible(torch.cat(both, dim=-1))


@dataclass(frozen=True, kw_only=True)
class Scope:
    """The scope of whole sequences, of which nothing is kept; scopes of other passes change its methods.

    R rows of n tokens are a multiple of the B sentences of the source: rows n*b to n*b+n-1 belong to sentence b.

    Attributes:
        probe: masks, by rows, and who sees attention weights.
        visible: the keys that tokens see in self-attention, those of the source in front where attention is joint.
        source: keys and values of the source; None in an encoder and in a language model.
        padding: [R, n], which of the tokens are padding; None where none is.
        raw_keys: keys and values of self-attention are those of the states before normalization, except that the first
            token of a sentence sees its normalized value. Marian's search does so up to version 1.12.
    """

    probe: Probe
    visible: Visible
    source: "SourceCache | None" = None
    padding: Tensor | None = None
    raw_keys: bool = False

    def under(self, probe: Probe) -> Self:
        """The same tokens under other masks."""
        return replace(self, probe=probe)

    def attend(self, attention: "Attention", queries: Tensor, keys_values: Tensor, position: int) -> Tensor:
        """Contexts [R, n, H, K] of self-attention over the tokens that are seen; new keys and values are kept.

        Args:
            attention: of the layer.
            queries: [R, n, H, K].
            keys_values: [2, R, n, H, K], of the same tokens.
            position: place of the layer in its stack.
        """
        self.keep(keys_values, position)
        seen = self.seen(keys_values, position)
        joint = None if self.source is None else self.source.joint[position]
        if joint is not None:
            seen = torch.cat([joint.repeat_interleave(seen.shape[1] // joint.shape[1], 1), seen], dim=2)
        return attention.context(queries, seen, self.visible, self.probe)

    def with_first(self, context: Tensor, alone: Tensor) -> Tensor:
        """Contexts [R, n, H, K] in which tokens that begin a sentence have those of `alone`."""
        first = context.new_zeros(context.shape[:2], dtype=torch.bool)
        first[:, 0] = True
        return torch.where(first[:, :, None, None], alone, context)

    def attend_to_source(self, attention: "Attention", queries: Tensor, position: int) -> Tensor:
        """Contexts [R, n, H, K] of cross-attention for queries [R, n, H, K] of the layer at that position."""
        keys_values = None if self.source is None else self.source.cross[position]
        if self.source is None or keys_values is None:
            raise ValueError(f"{attention.id} has no source to attend to")
        return attention.context(queries, keys_values, self.source.visible, self.probe)

    def recur(self, update: "CellUpdate", position: int) -> Tensor:
        """Cells [R, n, D] of a recurrent layer after each of the tokens; they are kept."""
        cells = update.after(self.cell_before(position))
        self.keep(cells[None, :, :, None], position)
        return cells

    def keep(self, kept: Tensor, position: int) -> None:
        """Keep what a layer has of each token, [parts, R, n, H, K], for later tokens."""

    def seen(self, keys_values: Tensor, position: int) -> Tensor:
        """Keys and values [2, R, T, H, K] of all tokens that `visible` speaks of, from those of the new tokens."""
        return keys_values

    def cell_before(self, position: int) -> Tensor | None:
        """The cell [R, D] of a recurrent layer before the first token; None for zeros."""
        return None
