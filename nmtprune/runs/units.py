"""What `score` computes, hands over and keeps together: some heads of one module, on one set of sentences."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nmtprune.architecture import Architecture, AttentionModule, HeadId

UNIT_OPERATIONS = 1e13
"""Multiplications and additions from which on heads are kept one by one: a minute or so of a processor's core."""


@dataclass(frozen=True)
class Unit:
    """Heads of one module on one set of sentences.

    Attributes:
        data: which set.
        module: the module.
        heads: some of its heads.
    """

    data: str
    module: AttentionModule
    heads: tuple[int, ...]

    @property
    def name(self) -> str:
        """Which heads, for people: ``encoder.0``, ``encoder.0.3`` or ``encoder.0.0-3``."""
        first, last = self.heads[0], self.heads[-1]
        if len(self.heads) == self.module.heads:
            return str(self.module.id)
        return str(HeadId(self.module.id, first)) if first == last else f"{self.module.id}.{first}-{last}"

    @property
    def key(self) -> str:
        """Name among all units."""
        return f"{self.data} {self.name}"


def heads_together(architecture: Architecture, parameters: int, tokens: int) -> int:
    """How many heads of a module make a unit: as many as a large one has where heads are cheap, one where they are not.

    It depends on the model and on the data only, so that what shares a batch is the same for any number of processes.

    Args:
        architecture: the model's modules.
        parameters: of the model.
        tokens: that a search decodes, and source tokens.
    """
    largest = max((module.heads for module in architecture), default=1)
    return max(1, min(largest, int(UNIT_OPERATIONS / max(1, 2 * parameters * tokens))))


def units(data: str, modules: tuple[AttentionModule, ...], together: int) -> Iterator[Unit]:
    """All heads of some modules, cut into units."""
    for module in modules:
        for first in range(0, module.heads, together):
            yield Unit(data, module, tuple(range(first, min(first + together, module.heads))))


def of_best_heads(data: str, modules: tuple[AttentionModule, ...], best: Mapping[str, int]) -> tuple[Unit, ...]:
    """One head of every module."""
    return tuple(Unit(data, module, (best[str(module.id)],)) for module in modules)
