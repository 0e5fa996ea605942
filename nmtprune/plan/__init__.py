"""Plans: which heads of every attention module stay; the model they were made for; how heads map to a root model."""

from nmtprune.plan.base import Base, Lineage
from nmtprune.plan.plan import Plan, PlanDiff, compose, diff

__all__ = ["Base", "Lineage", "Plan", "PlanDiff", "compose", "diff"]
