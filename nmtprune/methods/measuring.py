"""What scorers share: the sentences that they are measured on, and the units that are there."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np

from nmtprune.architecture import GroupId, UnitId
from nmtprune.data.batching import Batch, BatchLimits
from nmtprune.data.examples import Examples, LabelledBatch
from nmtprune.data.mixture import Mixture, shares
from nmtprune.data.ragged import Ids, Sentences
from nmtprune.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from nmtprune.data.corpus import Corpus
    from nmtprune.model import Masks, Model

MAX_TOKENS = 4096
"""Tokens per batch where nothing else is asked for: importance keeps the states of all layers for the way back."""


C = TypeVar("C", bound="Corpus | Examples")


def drawn(corpus: C, sentences: int, seed: int) -> C:
    """That many sentences of a corpus, or labelled texts, drawn without repetition; all where there are no more.

    They keep their order. Of several directions equal parts are drawn, as `data.mixture.shares` has it.

    Raises:
        UsageError: fewer than one sentence, or than directions.
    """
    if sentences < 1:
        raise UsageError(f"{sentences} sentences cannot be drawn: take 1 or more")
    if isinstance(corpus, Mixture):
        places = {name: corpus.places(name) for name in corpus.parts}
        counts = shares(sentences, {name: len(own) for name, own in places.items()})
        return corpus.select(np.concatenate([own[_draw(len(own), counts[name], seed)] for name, own in places.items()]))
    return corpus if sentences >= len(corpus) else cast(C, corpus.select(_draw(len(corpus), sentences, seed)))


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


def batches(corpus: "Corpus | Examples", limits: BatchLimits | None = None) -> Iterator[Batch | LabelledBatch]:
    """Sentences of a corpus, or labelled texts, as padded tensors, batched by the rules of their data.

    Without limits a batch has at most MAX_TOKENS tokens.

    Raises:
        UsageError: a sentence has more tokens than a batch may have.
    """
    for positions in corpus.batches(limits or BatchLimits(MAX_TOKENS)):
        yield corpus.batch(positions)


def units_left(model: "Model", masks: "Masks | None", sorts: Sequence[str] = ("heads",)) -> "dict[GroupId, Tensor]":
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
