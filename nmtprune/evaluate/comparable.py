"""Whether translations and references are texts of one kind, so that a metric of them means something."""

from collections.abc import Sequence

from nmtprune.data.marks import subwords_against_words
from nmtprune.errors import DataError


def check_words(name: str, hypotheses: Sequence[str], references: Sequence[str]) -> None:
    """Refuse to measure subwords against words.

    Args:
        name: of the data, for the message.
        hypotheses: translations of the model that others are compared with.
        references: of the same sentences.

    Raises:
        DataError: one side consists of subwords and the other of words.
    """
    reason = subwords_against_words(hypotheses, references)
    if reason is not None:
        raise DataError(f"{name}: {reason}")
