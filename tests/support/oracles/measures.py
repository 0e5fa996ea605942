"""Importance and confidence of heads with plain loops: one sentence at a time, one query after the other."""

from collections.abc import Iterable

import torch
from torch import Tensor

from nmtprune.architecture import Architecture, UnitId
from nmtprune.network import Network
from tests.support.oracles.transformer import Heads, Tensors, scores

Pair = tuple[list[int], list[int]]


def importance(
    network: Network, architecture: Architecture, tensors: Tensors, pairs: Iterable[Pair], eps: float, unit: str
) -> dict[UnitId, float]:
    """What `nmtprune.methods.importance` measures on pairs of a source and a target sentence; no padding heads."""
    sums, counts = dict.fromkeys(architecture.head_ids(), 0.0), dict.fromkeys(architecture.head_ids(), 0)
    for source, target in pairs:
        masks = {}
        for module in architecture:
            length = len(source) if module.id.kind == "encoder" else len(target)
            masks[module.id] = torch.ones(1, module.heads, length, dtype=torch.float64, requires_grad=True)
        previous = torch.tensor([network.eos, *target[:-1]])
        logits = scores(network, architecture, tensors, torch.tensor(source), previous, Heads(masks))
        torch.autograd.backward(sentence_loss(logits, target, eps))
        for id in architecture.head_ids():
            gradient = masks[id.group].grad
            assert gradient is not None
            own = gradient[0, id.number].tolist()
            if unit == "sentence":  # one factor for all positions: derivatives add up
                sums[id] += abs(sum(own))
                counts[id] += 1
            else:
                sums[id] += sum(abs(slope) for slope in own)
                counts[id] += len(own)
    return {id: sums[id] / counts[id] for id in sums}


def sentence_loss(logits: Tensor, target: list[int], eps: float) -> Tensor:
    """Cross-entropy of a distribution that gives the right word 1 - eps and shares eps among the others."""
    loss, words = torch.zeros((), dtype=logits.dtype), logits.shape[1]
    for position, word in enumerate(target):
        expected = torch.full((words,), eps / (words - 1), dtype=logits.dtype)
        expected[word] = 1 - eps
        probabilities = logits[position].exp() / logits[position].exp().sum()
        loss = loss - (expected * probabilities.log()).sum()
    return loss


def confidence(
    network: Network, architecture: Architecture, tensors: Tensors, pairs: Iterable[Pair], exclude_eos: bool
) -> dict[UnitId, float]:
    """What `nmtprune.methods.confidence` measures on pairs of a source and a target sentence; no padding heads."""
    highest: dict[UnitId, list[float]] = {id: [] for id in architecture.head_ids()}
    for source, target in pairs:
        heads = Heads()
        scores(network, architecture, tensors, torch.tensor(source), torch.tensor([network.eos, *target[:-1]]), heads)
        for id in architecture.head_ids():
            tokens = source if id.group.kind == "encoder" else target
            for query, token in enumerate(tokens):
                if not (exclude_eos and token == network.eos):
                    highest[id].append(max(heads.observed[id.group][0, id.number, query].tolist()))
    return {id: sum(found) / len(found) for id, found in highest.items()}
