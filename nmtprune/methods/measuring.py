"""What scorers share: the sentences that they are measured on, and the units that are there."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from nmtprune.architecture import GroupId, UnitId
from nmtprune.data.batching import Batch, BatchLimits
from nmtprune.data.mixture import Mixture, shares
from nmtprune.data.ragged import Ids, Sentences
from nmtprune.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from nmtprune.data.corpus import Corpus
    from nmtprune.model import Masks, Transformer

MAX_TOKENS = 4096
"""Tokens per batch where nothing else is asked for: importance keeps the states of all layers for the way back."""


def drawn(corpus: "Corpus", sentences: int, seed: int) -> "Corpus":
    """That many sentences of a corpus, drawn without repetition, in their order; all where there are no more.

    Of several directions equal parts are drawn, as `data.mixture.shares` has it.

    Raises:
        UsageError: fewer than one sentence, or than directions.
    """
    if sentences < 1:
        raise UsageError(f"{sentences} sentences cannot be drawn: take 1 or more")
    if isinstance(corpus, Mixture):
        places = {name: corpus.places(name) for name in corpus.parts}
        counts = shares(sentences, {name: len(own) for name, own in places.items()})
        return corpus.select(np.concatenate([own[_draw(len(own), counts[name], seed)] for name, own in places.items()]))
    return corpus if sentences >= len(corpus) else corpus.select(_draw(len(corpus), sentences, seed))


def _draw(total: int, count: int, seed: int) -> Ids:
    """Places of some of so many sentences; of all in their order."""
    if count >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, count, replace=False))


def on_translations(corpus: "Corpus", translations: Sequence[Sequence[int]]) -> "Corpus":
    """The corpus with translations in the place of its references.

    Args:
        corpus: the sentences that were translated.
        translations: token ids of each, the end-of-sentence symbol included; none at all stand for an empty text.

    Raises:
        ValueError: another number of translations than of sentences.
    """
    if len(translations) != len(corpus):
        raise ValueError(f"{len(translations)} translations of {len(corpus)} sentences")
    nothing = (*corpus.frame.target_front, corpus.target_vocabulary.eos)
    target = Sentences.of(np.array(tokens or nothing, dtype=np.int64) for tokens in map(tuple, translations))
    return replace(corpus, target=target, references=None)


def no_larger(limits: BatchLimits) -> BatchLimits:
    """The limits, and at most MAX_TOKENS tokens per batch."""
    return BatchLimits(min(limits.max_tokens or MAX_TOKENS, MAX_TOKENS), limits.max_sentences)


def batches(corpus: "Corpus", limits: BatchLimits | None = None) -> Iterator[Batch]:
    """The sentences of a corpus as padded tensors, batched by its own rules; of at most MAX_TOKENS tokens by default.

    Raises:
        UsageError: a sentence has more tokens than a batch may have.
    """
    for positions in corpus.batches(limits or BatchLimits(MAX_TOKENS)):
        yield corpus.batch(positions)


@dataclass(frozen=True)
class Texts:
    """The sentences of a batch, where the model is.

    Attributes:
        source: [B, S] token ids.
        previous: [B, T] decoder input.
        target: [B, T] token ids of the references.
        real_source: [B, S], false for padding.
        real_target: [B, T] likewise.
    """

    source: "Tensor"
    previous: "Tensor"
    target: "Tensor"
    real_source: "Tensor"
    real_target: "Tensor"

    @classmethod
    def of(cls, batch: Batch, model: "Transformer") -> "Texts":
        """Take a batch to the model; ValueError where it has no target side."""
        if batch.target is None or batch.previous is None:
            raise ValueError("a batch without references as token ids")
        padding, device = model.network.padding, model.device
        source, previous, target = (side.to(device) for side in (batch.source, batch.previous, batch.target))
        return cls(source, previous, target, source != padding, target != padding)

    def queries(self, module: GroupId, left_out: tuple[int, int] | None = None) -> "Tensor":
        """Which positions [B, T] send queries in a group: tokens of the source in the encoder, else of the target.

        Those of the token `left_out` (of the source, of the target) do not count. In the decoder a position is that of
        the token predicted there.
        """
        encoder = module.stack == "encoder"
        tokens, real = (self.source, self.real_source) if encoder else (self.target, self.real_target)
        return real if left_out is None else real & (tokens != left_out[not encoder])


def units_left(
    model: "Transformer", masks: "Masks | None", sorts: Sequence[str] = ("heads",)
) -> "dict[GroupId, Tensor]":
    """A mask [H] or [F] for every group of some sorts with units, in the model's type; ones where `masks` has none.

    Raises:
        ValueError: masks that are not one zero or one for each unit, or of groups that the model does not have.
    """
    import torch

    groups = {group.id: group.units for group in model.architecture.groups}
    given = dict(masks or {})
    foreign = [str(id) for id in given if id not in groups]
    if foreign:
        raise ValueError(f"masks for modules that the model does not have: {', '.join(foreign)}")
    left = {}
    for id, units in groups.items():
        mask = given.get(id, torch.ones(units))
        if tuple(mask.shape) != (units,) or bool(((mask != 0) & (mask != 1)).any()):
            raise ValueError(f"the mask of {id} is not {units} zeros and ones")
        if units and id.sort in sorts:
            # Copies: autograd takes no tensor that was made in inference mode.
            left[id] = mask.to(model.device, model.dtype, copy=True)
    return left


def by_unit(left: "Mapping[GroupId, Tensor]", values: "Mapping[GroupId, Tensor]") -> dict[UnitId, float]:
    """Values [H] or [F] of groups as one value for every unit that is left, in the order of `left`."""
    return {
        UnitId(id, unit): value
        for id, mask in left.items()
        for unit, (kept, value) in enumerate(zip(mask.tolist(), values[id].tolist(), strict=True))
        if kept
    }
