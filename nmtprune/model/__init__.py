"""The native transformer: full and ragged models of any file format, head masks, decoding step by step."""

from nmtprune.model.attention import Masks, Observer
from nmtprune.model.memory import EncoderOutput, Memory
from nmtprune.model.state import DecoderState, Pass
from nmtprune.model.transformer import Transformer

__all__ = ["DecoderState", "EncoderOutput", "Masks", "Memory", "Observer", "Pass", "Transformer"]
