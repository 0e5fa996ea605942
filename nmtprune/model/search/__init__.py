"""Beam search on the native model, equal to fairseq's, for any head masks."""

from nmtprune.model.search.options import Hypothesis, SearchOptions, Symbols
from nmtprune.model.search.translation import translate

__all__ = ["Hypothesis", "SearchOptions", "Symbols", "translate"]
