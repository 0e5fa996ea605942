"""Losses of references under many masks: what comes before the first masked sublayer is computed once."""

from collections.abc import Collection, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nmtprune.architecture import GroupId
from nmtprune.model.ablation.shared_prefix import EncoderPass, UnitMasks, changed, in_encoder
from nmtprune.model.decoder_state import Pass
from nmtprune.model.layers import Stop
from nmtprune.model.length_groups import length_groups
from nmtprune.model.transformer import Transformer

_PART_TOKENS = {"cpu": 4096}
_MANY_TOKENS = 16384
"""Tokens of a part of a batch: on a CPU its states stay in the cache."""

_BLOCK_BYTES = {"cpu": 4 << 20}
_LARGE_BLOCK_BYTES = 256 << 20
"""Logits that are there at one time; on a CPU they stay in the cache."""


@torch.no_grad()
def reference_losses(
    model: Transformer, source: Tensor, previous: Tensor, target: Tensor, systems: Sequence[UnitMasks]
) -> Tensor:
    """Negative log-likelihood of references, summed over their tokens, under each of several systems of masks.

    Args:
        model: an encoder-decoder model.
        source: [B, S] token ids.
        previous: [B, T] decoder input: the reference shifted right.
        target: [B, T] token ids of the reference; padding in the place of what no loss counts.
        systems: masks [H] or [F] of zeros and ones by group; best those of one group, which share most.

    Returns:
        [systems, B] in nats, float64.
    """
    source, previous, target = (tokens.to(model.device) for tokens in (source, previous, target))
    real = target != model.network.padding
    read = real | (previous != model.network.padding)
    losses = torch.zeros(len(systems), len(target), dtype=torch.float64, device=model.device)
    for rows in _parts(real.sum(1), _PART_TOKENS.get(model.device.type, _MANY_TOKENS)):
        columns = _used(read[rows])
        part = _References(model, target[rows, columns], real[rows, columns])
        own = source[rows][:, _used(source[rows] != model.network.padding)]
        for groups, numbers in _by_first_group(systems, model):
            references = ReferencePass(model, own, previous[rows, columns], groups)
            for number in numbers:
                losses[number, rows] = part.losses(references.features(systems[number]))
    return losses


class ReferencePass:
    """Runs references through a model under different masks; what comes before the first masked sublayer is shared."""

    def __init__(self, model: Transformer, source: Tensor, previous: Tensor, groups: Collection[GroupId]) -> None:
        """Compute what masks leave as it is.

        Args:
            model: an encoder-decoder model.
            source: [B, S] token ids.
            previous: [B, T] decoder input.
            groups: those that masks change.
        """
        self._model, self._previous = model, previous
        self._encoder = EncoderPass(model, source, groups) if in_encoder(groups) else None
        self._source_cache = model.cache_source(model.encode(source)) if self._encoder is None else None
        self._stop = model.decoder.first_change(groups, of_source=self._encoder is not None)
        x, scope = model.decoder.begin(previous, self._source_cache, Pass())
        self._stopped = model.decoder.until(self._stop, x, scope)

    def features(self, masks: UnitMasks) -> Tensor:
        """Features [B, T, E] that the output layer takes."""
        decoder, source_cache = self._model.decoder, self._source_cache
        if self._encoder is not None:
            source_cache = self._model.cache_source(self._encoder.masked(masks))
        scope = decoder.scope(self._previous, source_cache, Pass(masks))
        return decoder.finish(decoder.after(self._stop, self._stopped, scope))


class _References:
    """The words that some sentences are scored on."""

    def __init__(self, model: Transformer, target: Tensor, real: Tensor) -> None:
        """Take targets [B, T] and which of them are no padding."""
        self._model, self._real, self._words = model, real, target[real]
        logits_bytes = model.words[1] * max(4, model.dtype.itemsize)
        self._block = max(1, _BLOCK_BYTES.get(model.device.type, _LARGE_BLOCK_BYTES) // logits_bytes)

    def losses(self, features: Tensor) -> Tensor:
        """Loss of each sentence, [B], from features [B, T, E]."""
        found = features[self._real]
        by_word = [
            self._losses(found[begin : begin + self._block], self._words[begin : begin + self._block])
            for begin in range(0, len(found), self._block)
        ]
        by_token = torch.zeros(self._real.shape, dtype=torch.float64, device=features.device)
        by_token[self._real] = torch.cat(by_word).double()
        return by_token.sum(1)

    def _losses(self, features: Tensor, words: Tensor) -> Tensor:
        """Loss of each word [N] from features [N, E]."""
        scores = self._model.output(features)
        scores = scores if scores.dtype == torch.float64 else scores.float()
        if self._model.normalized:
            return F.nll_loss(scores, words, reduction="none")
        return F.cross_entropy(scores, words, reduction="none")


def _by_first_group(systems: Sequence[UnitMasks], model: Transformer) -> Iterator[tuple[set[GroupId], list[int]]]:
    """Systems that change the same group first: all groups that they change, and their numbers."""
    groups = [changed(masks) for masks in systems]
    alike: dict[tuple[bool, Stop], list[int]] = {}
    for number, own in enumerate(groups):
        alike.setdefault(_first_change(model, own), []).append(number)
    for numbers in alike.values():
        yield set[GroupId]().union(*(groups[number] for number in numbers)), numbers


def _first_change(model: Transformer, groups: Collection[GroupId]) -> tuple[bool, Stop]:
    """Sorts systems by the group that they change first: whether it is in the decoder, and where."""
    if model.encoder is not None and in_encoder(groups):
        return False, model.encoder.first_change(groups)
    return True, model.decoder.first_change(groups)


def _parts(lengths: Tensor, tokens: int) -> Iterator[Tensor]:
    """Rows of a batch of lengths [B] in groups of about one length, padded to no more tokens than that."""

    def fits(rows: int, shortest: int, longest: int) -> bool:
        return rows * longest <= tokens and longest <= 1.1 * shortest + 1

    return (torch.tensor(rows, device=lengths.device) for rows in length_groups(lengths.tolist(), fits))


def _used(real: Tensor) -> slice:
    """The columns of a padded batch [B, T] that hold something."""
    places = real.any(0).nonzero()
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, real.shape[1])
