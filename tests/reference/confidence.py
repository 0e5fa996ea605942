"""Confidence of heads with plain loops: one sentence at a time, one query after the other."""

from collections.abc import Iterable

import torch

from nmtprune.architecture import Architecture, HeadId
from nmtprune.network import Network
from tests.support.oracles.measures import Pair
from tests.support.oracles.transformer import Heads, Tensors, scores


def confidence(
    network: Network, architecture: Architecture, tensors: Tensors, pairs: Iterable[Pair], exclude_eos: bool
) -> dict[HeadId, float]:
    """What `nmtprune.methods.confidence` measures on pairs of a source and a target sentence; no padding heads."""
    highest: dict[HeadId, list[float]] = {id: [] for id in architecture.head_ids()}
    for source, target in pairs:
        heads = Heads()
        scores(network, architecture, tensors, torch.tensor(source), torch.tensor([network.eos, *target[:-1]]), heads)
        for id in architecture.head_ids():
            tokens = source if id.module.kind == "encoder" else target
            for query, token in enumerate(tokens):
                if not (exclude_eos and token == network.eos):
                    highest[id].append(max(heads.observed[id.module][0, id.head, query].tolist()))
    return {id: sum(found) / len(found) for id, found in highest.items()}
