"""Groups of like length, so that batches have little padding."""

from collections.abc import Callable, Iterator, Sequence

Fits = Callable[[int, int, int], bool]
"""Whether a group may have a number of rows, a shortest and a longest length."""


def length_groups(lengths: Sequence[int], fits: Fits, rows: Sequence[int] | None = None) -> Iterator[list[int]]:
    """Numbers of items, in groups of like length: as large as `fits` allows, the shortest first.

    Args:
        lengths: of each item.
        fits: whether a group may be as it is; a group of one item always may.
        rows: how many rows each item has; None: one.
    """
    group: list[int] = []
    count = 0
    for item in sorted(range(len(lengths)), key=lengths.__getitem__):
        own = 1 if rows is None else rows[item]
        if group and not fits(count + own, lengths[group[0]], lengths[item]):
            yield group
            group, count = [], 0
        group.append(item)
        count += own
    if group:
        yield group
