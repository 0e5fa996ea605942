"""Translation of one batch with any head masks: beam search as fairseq's SequenceGenerator or Marian does it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nmtprune.architecture import ModuleId
from nmtprune.model.attention import Masks
from nmtprune.model.search.candidates import Scorer
from nmtprune.model.search.extension import Extension, caches
from nmtprune.model.search.lockstep import Lockstep
from nmtprune.model.search.nodes import Nodes
from nmtprune.model.search.options import Hypothesis, Search, Symbols, max_lens
from nmtprune.model.search.slots import Slots
from nmtprune.model.search.sources import Memories
from nmtprune.model.transformer import Transformer


@torch.no_grad()
def translate(
    model: Transformer,
    source: Tensor,
    lengths: Sequence[int],
    options: Search,
    symbols: Symbols,
    masks: Masks | None = None,
) -> list[list[Hypothesis]]:
    """Translate a padded batch.

    Args:
        model: an encoder-decoder model.
        source: [B, S] token ids.
        lengths: [B], tokens of each sentence without padding.
        options: of the search.
        symbols: special words of the target vocabulary.
        masks: [H] by module, for all sentences.

    Returns:
        For each sentence up to `beam` hypotheses, best first; none for a sentence whose numbers overflow.

    Raises:
        UsageError: a minimum length above the maximum.
    """
    source = source.to(model.device)
    masks = masks or {}
    scorer = Scorer(model, options, symbols, scores=True)
    memory = model.remember(model.encode(source, masks))
    nodes = Nodes(source.device)
    stores = [caches(model, range(len(model.decoder.layers)))]
    extension = Extension(
        model, Memories((memory,), source.shape[0]), decoder_masks(masks), stores, raw_keys=options.raw_keys
    )
    max_len = torch.tensor(max_lens(options, lengths, model.max_positions[1]), device=source.device)
    sentences = torch.arange(source.shape[0], device=source.device)
    slots = Slots.begin(sentences, torch.zeros_like(sentences), max_len, scorer)
    ended = Lockstep(scorer, extension, nodes).run(slots)
    return ended.ranked(nodes, options).hypotheses(nodes, ended, scorer.beam)


def decoder_masks(masks: Mapping[ModuleId, Tensor]) -> dict[ModuleId, Tensor]:
    """Masks of decoder modules as those of a single system, [1, H]."""
    return {module: mask.unsqueeze(0) for module, mask in masks.items() if module.kind != "encoder"}
