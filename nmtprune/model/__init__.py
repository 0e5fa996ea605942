"""The native transformer: full and ragged models of any file format, masks of units, decoding step by step."""

from nmtprune.model.classifier import Classifier, EncoderModel, MaskedWords
from nmtprune.model.decoder_state import DecoderState, Pass
from nmtprune.model.scope import Masks, Observer
from nmtprune.model.source_cache import EncoderOutput, SourceCache
from nmtprune.model.transformer import Transformer

Model = Transformer | Classifier
"""What methods measure; both have `stacks`, `features`, `output` and masks."""

__all__ = [
    "Classifier",
    "DecoderState",
    "EncoderModel",
    "EncoderOutput",
    "MaskedWords",
    "Masks",
    "Model",
    "Observer",
    "Pass",
    "SourceCache",
    "Transformer",
]
