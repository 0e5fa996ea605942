"""The loss of a reference, one sentence at a time and without padding."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nmtprune.architecture import ModuleId
from nmtprune.model import Transformer

EOS = 2


@torch.no_grad()
def reference_loss(
    model: Transformer, source: Sequence[int], target: Sequence[int], masks: Mapping[ModuleId, Tensor]
) -> float:
    """Negative log-likelihood of a target in nats, summed over its tokens."""
    previous = torch.tensor([[EOS, *target[:-1]]])
    scores = model(torch.tensor([list(source)]), previous, masks)[0].double()
    found = scores if model.normalized else scores.log_softmax(-1)
    return -float(sum(found[place, word] for place, word in enumerate(target)))
