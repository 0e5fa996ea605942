"""Translations and losses under many masks, from one search or one pass without masks."""

from nmtprune.model.ablation.losses import reference_losses
from nmtprune.model.ablation.masked_search import MaskedSearch

__all__ = ["MaskedSearch", "reference_losses"]
