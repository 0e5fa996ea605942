"""Numbers as people read them."""

from collections.abc import Callable, Sequence

from nmtprune.page.blocks import TableCell

_LEAST_P = 0.001


def count(value: float) -> str:
    """``1,234``."""
    return f"{value:,.0f}"


def percent(share: float, digits: int = 1) -> str:
    """``12.5 %``."""
    return f"{100 * share:.{digits}f} %"


def rough(share: float) -> str:
    """``12 %``; never ``0 %`` or ``100 %`` of what is neither nothing nor all."""
    close = share not in (0, 1) and round(100 * share) in (0, 100)
    return percent(share, 1 if close else 0)


def signed(value: float, digits: int = 2) -> str:
    """``+0.12``, ``-0.12``; never ``-0.00``."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def interval(low: float, high: float, digits: int = 2) -> str:
    """``-0.40 to +0.12``."""
    return f"{signed(low, digits)} to {signed(high, digits)}"


def probability(p: float) -> str:
    """``p = 0.012``, ``p < 0.001``."""
    return f"p < {_LEAST_P}" if p < _LEAST_P else f"p = {p:.3f}"


def megabytes(count_of_bytes: float) -> str:
    """``33.29 MB``."""
    return f"{count_of_bytes / 1e6:,.2f} MB"


def times(ratio: float) -> str:
    """``1.08``, with as many digits as matter."""
    return f"{ratio:.2f}"


def named(counts: Sequence[tuple[int, str]]) -> str:
    """``3 heads, 1 layer``."""
    return ", ".join(f"{count(number)} {word if number != 1 else word.removesuffix('s')}" for number, word in counts)


def p_value(p: float) -> str:
    """``0.012``, ``< 0.001``, as a table has it."""
    return probability(p).removeprefix("p ").removeprefix("= ")


def in_full(value: float) -> str:
    """Whole numbers in full, others with four digits."""
    return count(value) if float(value).is_integer() else f"{value:.4g}"


def cell(value: float | None, shown: Callable[[float], str] = in_full, mark: str = "") -> TableCell:
    """A cell of a number, empty for none."""
    return TableCell("") if value is None else TableCell(shown(value), float(value), mark)
