"""Beam search on the native model, equal to fairseq's or Marian's, for any masks."""

from nmtprune.model.search.beam_search import translate_batch
from nmtprune.model.search.options import Hypothesis, MarianSearchOptions, Search, SearchOptions, Symbols

__all__ = ["Hypothesis", "MarianSearchOptions", "Search", "SearchOptions", "Symbols", "translate_batch"]
