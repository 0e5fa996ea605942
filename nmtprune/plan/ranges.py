"""Sets of numbers as plans write them: ``0-99,130,140-255``."""

import re
from collections.abc import Iterable

MAX_NUMBER = 2**24
"""Numbers from here on are taken as damage; no feed-forward layer comes near it."""


def as_ranges(numbers: Iterable[int]) -> str:
    """Ascending numbers as ranges: ``0-2,5`` for 0, 1, 2 and 5; empty text for none."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def numbers_in(text: str) -> tuple[tuple[int, ...], list[str]]:
    """Read ranges.

    Returns:
        The numbers in ascending order, and every fault: parts that are no range, that run backwards, overlap an
        earlier part or stand before it. With faults the numbers are those of the parts without fault.
    """
    numbers: list[int] = []
    faults: list[str] = []
    for part in text.split(",") if text else []:
        match = re.fullmatch(r"(0|[1-9][0-9]{0,8})(?:-(0|[1-9][0-9]{0,8}))?", part)
        if match is None:
            faults.append(f"'{part[:30]}' is no number and no range such as 0-99")
            continue
        first, last = int(match[1]), int(match[2] or match[1])
        if max(first, last) >= MAX_NUMBER:
            faults.append(f"'{part}' is beyond every feed-forward layer")
        elif last < first:
            faults.append(f"'{part}' runs backwards")
        elif numbers and first <= numbers[-1]:
            overlap = any(first <= number <= last for number in numbers)
            faults.append(f"'{part}' overlaps a part before it" if overlap else f"'{part}' is out of order")
        else:
            numbers += range(first, last + 1)
    return tuple(numbers), faults
