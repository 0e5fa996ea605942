"""Multi-head attention with plain loops: one head, one sentence, one query at a time."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def attend(
    parameters: Mapping[str, Tensor],
    queries: Tensor,
    keys: Tensor,
    head_dim: int,
    seen: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Output [B, T, D] and attention weights [B, H, T, S] of one module.

    Args:
        parameters: ``query.weight`` [H * K, D], ``query.bias`` and the same for ``key``, ``value``, ``output``.
        queries: states [B, T, D].
        keys: states [B, S, D'].
        head_dim: K.
        seen: [B, T, S], the keys that each query sees; None: all.
        mask: factor of each head's output, [B, H, T]; None: ones.
    """
    (rows, length, width), heads = queries.shape, parameters["query.weight"].shape[0] // head_dim
    output = torch.zeros(rows, length, width, dtype=queries.dtype)
    weights = torch.zeros(rows, heads, length, keys.shape[1], dtype=queries.dtype)
    for row in range(rows):
        for query in range(length):
            output[row, query] = parameters["output.bias"]
            for head in range(heads):
                own = slice(head * head_dim, (head + 1) * head_dim)
                q = parameters["query.weight"][own] @ queries[row, query] + parameters["query.bias"][own]
                k = keys[row] @ parameters["key.weight"][own].T + parameters["key.bias"][own]
                v = keys[row] @ parameters["value.weight"][own].T + parameters["value.bias"][own]
                scores = k @ q / math.sqrt(head_dim)
                if seen is not None:
                    scores[~seen[row, query]] = -math.inf
                attention = torch.softmax(scores, 0)
                weights[row, head, query] = attention
                found = attention @ v
                if mask is not None:
                    found = found * mask[row, head, query]
                output[row, query] += parameters["output.weight"][:, own] @ found
    return output, weights
