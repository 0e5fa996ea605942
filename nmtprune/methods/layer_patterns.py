"""Layers of a stack by a pattern: top, bottom and middle ones, every other one, or random ones (Budhraja et al.)."""

import re
from collections.abc import Mapping, Sequence

from nmtprune.architecture import GroupId, UnitId
from nmtprune.errors import UsageError
from nmtprune.methods.chance import random_scores

FORMS = "top:N, bottom:N, middle:N, even, odd, random:N"
"""The patterns, as messages list them."""

_COUNTED = re.compile(r"(top|bottom|middle|random):([0-9]{1,6})")


def is_pattern(text: str) -> bool:
    """Whether a text is one of FORMS."""
    return text in ("even", "odd") or _COUNTED.fullmatch(text) is not None


def draws(text: str | None) -> bool:
    """Whether chance decides which layers a text with patterns selects."""
    return text is not None and re.search(r"\brandom:", text) is not None


def layer_scores(layers: Mapping[str, Sequence[int]], seed: int) -> dict[UnitId, float]:
    """A random number for every layer, by stack; those of the lowest are what ``random:N`` selects."""
    return random_scores({GroupId.layers_of(stack): tuple(numbers) for stack, numbers in layers.items()}, seed)


def layers_of_pattern(
    layers: Sequence[int], pattern: str, stack: str, what: str, scores: Mapping[UnitId, float]
) -> list[int]:
    """Numbers of the layers that a pattern selects, ascending.

    Args:
        layers: numbers of the layers to choose from, ascending.
        pattern: ``top:N`` (the N layers nearest the output), ``bottom:N``, ``middle:N`` (the lower of two middles),
            ``even`` and ``odd`` (by number, counted from 0), or ``random:N``.
        stack: that they belong to.
        what: what they are, for messages: ``cross layers``.
        scores: of `layer_scores`.

    Raises:
        UsageError: no pattern, or more layers than there are.
    """
    if pattern in ("even", "odd"):
        return [layer for layer in layers if layer % 2 == (pattern == "odd")]
    match = _COUNTED.fullmatch(pattern)
    if match is None:
        raise UsageError(f"'{pattern}' is none of {FORMS}")
    number = int(match[2])
    if not 1 <= number <= len(layers):
        raise UsageError(f"'{pattern}': {what}: the model has {len(layers)}")
    if match[1] == "random":
        group = GroupId.layers_of(stack)
        return sorted(sorted(layers, key=lambda layer: (scores[UnitId(group, layer)], layer))[:number])
    start = {"top": len(layers) - number, "bottom": 0, "middle": (len(layers) - number) // 2}[match[1]]
    return list(layers[start : start + number])
