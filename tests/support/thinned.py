"""Cases of which some are quick tests and the others slow ones."""

from collections.abc import Iterable
from typing import Any

import pytest


def thinned(cases: Iterable[Any], every: int = 3) -> list[Any]:
    """Parameters of a test: the first case and each `every`-th after it run in quick tests, the others in slow ones."""
    return [
        pytest.param(*case, marks=[pytest.mark.slow] if place % every else [])
        for place, case in enumerate(case if isinstance(case, tuple) else (case,) for case in cases)
    ]
