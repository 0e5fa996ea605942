"""Logits of labels under many masks: what comes before the first masked sublayer is computed once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nmtprune.architecture import GroupId
from nmtprune.model.ablation.shared_prefix import EncoderPass, UnitMasks, changed
from nmtprune.model.classifier import Classifier


@torch.no_grad()
def label_logits(model: Classifier, tokens: Tensor, segments: Tensor | None, systems: Sequence[UnitMasks]) -> Tensor:
    """Logits of texts under each of several systems of masks.

    Args:
        model: a classifier.
        tokens: [B, S] token ids, padded on the right.
        segments: [B, S]; None: all tokens are in segment 0.
        systems: masks [H] or [F] of zeros and ones by group; best those of one group, which share most.

    Returns:
        [systems, B, C].
    """
    tokens = tokens.to(model.device)
    segments = None if segments is None else segments.to(model.device)
    groups = set[GroupId]().union(*map(changed, systems))
    encoded = EncoderPass(model, tokens, groups, segments)
    return torch.stack([model.output(encoded.masked(masks).states[:, 0]) for masks in systems])
