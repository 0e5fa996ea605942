"""Plans: which heads, neurons and layers stay; the model they were made for; how units map to a root model."""

from nmtprune.plan.base_model import Base
from nmtprune.plan.lineage import Lineage
from nmtprune.plan.plan import Plan

__all__ = ["Base", "Lineage", "Plan"]
