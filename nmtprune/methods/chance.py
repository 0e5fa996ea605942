"""Heads, neurons and layers that are drawn (Budhraja et al. 2020).

What is drawn is a number per unit, from a generator that is seeded with the seed, the kind and the layer: the same seed
ranks the units of a group alike in every plan, whatever other groups there are, and the units that a plan of 50 %
keeps are among those that a plan of 25 % keeps.
"""

from collections.abc import Collection, Mapping

import numpy as np

from nmtprune.architecture import EVERY_KIND, GroupId, UnitId
from nmtprune.budget import Units
from nmtprune.plan import Plan


def random_scores(units: Units, seed: int) -> dict[UnitId, float]:
    """A random number from 0 to 1 for every unit; the lowest of them are a random choice of units."""
    drawn: dict[UnitId, float] = {}
    for group in sorted(units):
        own = units[group]
        numbers = range(own) if isinstance(own, int) else own
        generator = np.random.default_rng([seed, EVERY_KIND.index(group.kind), group.layer])
        drawn.update(
            (UnitId(group, number), float(value))
            for number, value in zip(numbers, generator.random(len(numbers)), strict=True)
        )
    return drawn


def same_counts(plan: Plan, seed: int) -> Plan:
    """A plan that keeps as many heads in each module as another one; which ones is drawn."""
    modules = plan.base.modules
    scores = random_scores(modules, seed)
    removed = [
        head for id, heads in modules.items() for head in lowest_in(scores, id, heads - len(plan.kept(id)))
    ]  # fmt: skip
    return Plan.removing(plan.base, removed)


def lowest_in(
    scores: Mapping[UnitId, float], module: GroupId, number: int, protected: Collection[UnitId] = ()
) -> list[UnitId]:
    """The heads of a module with the lowest scores, the first of equals; protected ones come last."""
    own = (head for head in scores if head.group == module)
    return sorted(own, key=lambda head: (head in protected, scores[head], head))[:number]
