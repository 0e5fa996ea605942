"""From the files of one toolkit to those of another: the same model, or every reason why the other cannot say it."""

from nmtprune.convert.portable import Portable
from nmtprune.convert.target import TARGETS, ConversionTarget

__all__ = ["TARGETS", "Portable", "ConversionTarget"]
