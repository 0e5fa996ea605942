"""Beam search on the native model, equal to fairseq's, Marian's or transformers', for any masks."""

from nmtprune.model.search.beam_search import translate_batch
from nmtprune.model.search.options import (
    GenerateOptions,
    Hypothesis,
    MarianSearchOptions,
    Search,
    SearchOptions,
    Symbols,
)

__all__ = [
    "GenerateOptions",
    "Hypothesis",
    "MarianSearchOptions",
    "Search",
    "SearchOptions",
    "Symbols",
    "translate_batch",
]
