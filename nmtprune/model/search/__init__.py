"""Beam search on the native model, equal to fairseq's or Marian's, for any head masks."""

from nmtprune.model.search.options import Hypothesis, MarianSearchOptions, Search, SearchOptions, Symbols
from nmtprune.model.search.translation import translate

__all__ = ["Hypothesis", "MarianSearchOptions", "Search", "SearchOptions", "Symbols", "translate"]
