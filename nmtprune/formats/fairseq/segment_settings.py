"""Names of the language models that read a text in segments and have a memory, and of their task."""

ALL_ATTENTION = "all_attention_lm"
TRANSFORMER_XL = "transformer_xl_lm"
TASK = "segment_language_modeling"

SEGMENT_MODELS = frozenset((ALL_ATTENTION, TRANSFORMER_XL))
"""Architectures of the plug-in with a memory."""
