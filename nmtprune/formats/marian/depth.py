"""Taking layers out of a Marian model: which entries stay, under which names, and what its options say then."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nmtprune.formats.marian.option_lists import ALIGNMENT_LAYER, HEAD_LISTS
from nmtprune.formats.marian.options import Options

_OF_A_LAYER = re.compile(r"(encoder|decoder)_l([1-9][0-9]*)_")

Kept = Mapping[str, Sequence[int]]
"""Numbers of the layers that stay, from 0 and ascending, by stack; a stack that is not named keeps all."""


def renamed(names: Iterable[str], kept: Kept) -> dict[str, str]:
    """Name of each entry that stays -> its name in the model without the other layers."""
    found = {}
    for name in names:
        match = _OF_A_LAYER.match(name)
        if match is None or match[1] not in kept:
            found[name] = name
        elif (layer := int(match[2]) - 1) in kept[match[1]]:
            found[name] = f"{match[1]}_l{_number(layer, kept[match[1]])}_{name[match.end() :]}"
    return found


def with_layers(options: Options, kept: Kept) -> dict[str, Any]:
    """The options of a model with these layers only."""
    found = dict(options.values)
    for stack, name in (("encoder", "enc-depth"), ("decoder", "dec-depth")):
        if stack in kept:
            positions = _positions(options, stack, kept)
            found[name] = len(positions)
            for kind, lists in HEAD_LISTS.items():
                if (kind == "encoder") == (stack == "encoder") and found.get(lists) is not None:
                    found[lists] = [found[lists][position] for position in positions]
    if "decoder" in kept:
        if options.settings["transformer-tied-layers"]:
            found["transformer-tied-layers"] = _tied(options, kept)
        found |= _alignment(options, kept)
    return found


def alignment_layer_goes(options: Options, kept: Kept) -> bool:
    """Whether the decoder layer that word alignments are read from is not among those that stay."""
    position = _alignment_position(options)
    return "decoder" in kept and position is not None and position not in _positions(options, "decoder", kept)


def _positions(options: Options, stack: str, kept: Kept) -> list[int]:
    """Places in the stack, from 0, of the layers that stay: each layer of tied ones stands at several."""
    numbers = range(1, options.depths[0] + 1) if stack == "encoder" else options.tied
    return [position for position, number in enumerate(numbers) if number - 1 in kept[stack]]


def _number(layer: int, kept: Sequence[int]) -> int:
    """The number, from 1, of a layer among those that stay."""
    return sorted(kept).index(layer) + 1


def _tied(options: Options, kept: Kept) -> list[int]:
    """What ``transformer-tied-layers`` says of the layers that stay; nothing where each has parameters of its own."""
    positions = _positions(options, "decoder", kept)
    numbers = [_number(options.tied[position] - 1, kept["decoder"]) for position in positions]
    return [] if numbers == list(range(1, len(numbers) + 1)) else numbers


def _alignment_position(options: Options) -> int | None:
    """Place, from 0, of the decoder layer that word alignments are read from; None where the option names none."""
    named, depth = str(options.values.get(ALIGNMENT_LAYER, "last")), options.depths[1]
    if named == "last":
        return depth - 1
    return int(named) - 1 if named.isascii() and named.isdigit() and 1 <= int(named) <= depth else None


def _alignment(options: Options, kept: Kept) -> dict[str, Any]:
    """``transformer-guided-alignment-layer``, where it says a number: of the same layer, or the last one if that went.

    Marian counts places there, not parameters.
    """
    named, position = options.values.get(ALIGNMENT_LAYER, "last"), _alignment_position(options)
    if str(named) == "last" or position is None:
        return {}
    positions = _positions(options, "decoder", kept)
    if position not in positions:
        return {ALIGNMENT_LAYER: "last"}
    return {ALIGNMENT_LAYER: type(named)(positions.index(position) + 1)}
