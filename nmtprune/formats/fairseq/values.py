"""Values of settings: truth values, which legacy checkpoints hold as text, and how a message shows a value."""

from typing import Any

_SHOWN = 60
_TRUE, _FALSE = ("true", "1"), ("false", "0", "none", "")


def truth(value: Any, default: bool) -> bool:
    """A truth value as fairseq reads it: legacy checkpoints hold ``"True"`` or ``"False"``, which fairseq evaluates.

    Args:
        value: of the file; `is_truth_value` says whether it means anything.
        default: where the file does not say.
    """
    if value is None:
        return default
    return str(value).strip().lower() not in _FALSE


def is_truth_value(value: Any, *, text: bool) -> bool:
    """Whether a value is True, False, 0, 1, not set or, with `text`, one of these as text."""
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, str):
        return text and value.strip().lower() in (*_TRUE, *_FALSE)
    return isinstance(value, int | float) and value in (0, 1)


def is_off(value: Any) -> bool:
    """Whether a field that may hold anything says nothing: not set, False, 0, or an empty text, list or group."""
    return not value or (isinstance(value, str) and value.strip().lower() in ("false", "none", "0", "[]", "{}"))


def show(value: Any) -> str:
    """A value as a message shows it: on one line, not too long."""
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
