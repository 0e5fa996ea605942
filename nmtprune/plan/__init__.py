"""Plans: which heads of every attention module stay; the model they were made for; how heads map to a root model."""

from nmtprune.plan.base_model import Base
from nmtprune.plan.lineage import Lineage
from nmtprune.plan.plan import Plan

__all__ = ["Base", "Lineage", "Plan"]
