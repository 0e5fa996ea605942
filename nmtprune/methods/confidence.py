"""Confidence of attention heads: their mean maximum attention weight (Behnke and Heafield 2020, section 4.2).

confidence(head) = mean over query positions of max over keys of the attention weight, after the softmax. Tokens count
alike: the mean is over those of all sentences together, not over means of sentences.
"""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from nmtprune.architecture import HeadId, ModuleId
from nmtprune.data.batching import Batch
from nmtprune.errors import CheckpointError, DataError
from nmtprune.methods.measuring import Texts, by_head, heads_left

if TYPE_CHECKING:
    from torch import Tensor

    from nmtprune.model import Masks, Transformer


def confidence(
    model: "Transformer",
    batches: Iterable[Batch],
    *,
    left_out: tuple[int, int] | None = None,
    masks: "Masks | None" = None,
) -> dict[HeadId, float]:
    """Confidence of every head on sentences and their translations, teacher forced.

    Queries are the tokens of the source in the encoder, and the tokens of the target in decoder and cross-attention,
    where a position is that of the token which is predicted there: a head appears once per word of the output, as the
    paper counts. In decoder self-attention the first position sees itself alone and counts as 1 for every head (unless
    attention is joint). Padding is neither query nor key. Sums are taken in double precision.

    Args:
        model: an encoder-decoder model.
        batches: sentences with references, or with translations in their place (`measuring.on_translations`).
        left_out: leave out the queries of these symbols, of the source and of the target; those that end sentences
            for Voita et al. 2019: in the encoder the position of the symbol, in decoder and cross-attention the one
            that predicts it. It stays a key like others.
        masks: [H] of zeros and ones for modules that lost heads; the confidence is that in the model without them.

    Returns:
        From 0 to 1, for every head that the masks leave, in order; nothing for the others.

    Raises:
        DataError: no query positions.
        CheckpointError: attention weights that are no numbers.
        ValueError: batches without target side, masks of another shape or other values.
    """
    import torch

    from nmtprune.model import Pass

    left = heads_left(model, masks)
    sums = {id: torch.zeros_like(mask, dtype=torch.float64) for id, mask in left.items()}
    counts = dict.fromkeys(left, 0)
    with torch.inference_mode():
        for batch in batches:
            texts = Texts.of(batch, model)

            def observe(module: ModuleId, weights: "Tensor", texts: Texts = texts) -> None:
                if module in left:  # heads that only pad a uniform model are none
                    queries = texts.queries(module, left_out)
                    sums[module] += weights.amax(-1).double().masked_fill(~queries.unsqueeze(1), 0).sum((0, 2))
                    counts[module] += int(queries.sum())

            run = Pass(masks or {}, observe)
            memory = model.cache_source(model.encode(texts.source, run=run), by_head=False)
            model.features(texts.previous, memory, run=run)
    if not all(counts.values()):
        raise DataError("confidence: there are no tokens to measure it on")
    found = by_head(left, {id: own / counts[id] for id, own in sums.items()})
    wrong = [str(head) for head, value in found.items() if not math.isfinite(value)]
    if wrong:
        raise CheckpointError(f"attention weights of {', '.join(wrong)} are no numbers: check the model's weights")
    return found
