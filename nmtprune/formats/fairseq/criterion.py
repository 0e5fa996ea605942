"""What the settings of a fairseq model say of the loss that it was trained with."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nmtprune.errors import CheckpointError

_UNSMOOTHED = ("cross_entropy", "adaptive_loss")


def label_smoothing(criterion: Mapping[str, Any], path: Path) -> float:
    """Label smoothing of a criterion; 0 for a loss without, or where its settings do not tell.

    Raises:
        CheckpointError: what they say is no number from 0 to below 1.
    """
    # A legacy file has one set of settings for all parts: what the criterion did not ask for may be there all the same.
    found = None if criterion.get("_name") in _UNSMOOTHED else criterion.get("label_smoothing")
    try:
        value = 0.0 if found is None else float(found)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value < 1:
        raise CheckpointError(
            f"{path}: label_smoothing is {found!r}, not a number from 0 to below 1: give --label-smoothing"
        )
    return value


def check(criterion: Mapping[str, Any], path: Path) -> None:
    """Check that a criterion is the loss of whole references, which is what nmtprune computes.

    Raises:
        CheckpointError: it leaves out the first words of every reference.
    """
    left_out = criterion.get("ignore_prefix_size")
    if left_out:
        raise CheckpointError(
            f"{path}: ignore_prefix_size {left_out!r}: its loss leaves out the first words of every "
            "reference, which nmtprune counts: use BLEU or chrF"
        )
