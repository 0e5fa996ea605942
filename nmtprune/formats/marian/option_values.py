"""From values in ``special:model.yml`` to what the option means, in any spelling that Marian reads."""

from typing import Any

from nmtprune.formats.marian.option_lists import Supported

_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")


def converted(option: Supported, value: Any) -> Any:
    """The value of an option: a truth value, a whole number, text, or a tuple.

    Raises:
        ValueError: it is something else; how the message goes on after the name and the value.
    """
    match option.kind:
        case "flag":
            return _flag(value)
        case "count":
            return _number(value, 1)
        case "size":
            return _number(value, 0)
        case "numbers":
            return tuple(_number(entry, 0, "not a list of whole numbers") for entry in _list(value))
        case "types":
            # Marian asks of the first one only when it translates.
            if all(entry in option.choices for entry in _list(value)) and value[:1] in ([], [option.choices[0]]):
                return tuple(value)
        case "choice" if isinstance(value, str) and value in option.choices:
            return value
        case "operations" if isinstance(value, str) and set(value) <= set(option.choices):
            return value
    choices = ", ".join(choice or "''" for choice in option.choices)
    raise ValueError(f"supported: {choices}")


def _flag(value: Any) -> bool:
    """Marian takes 0 and 1 for truth values too, and quotes for nothing."""
    text = str(value).lower()
    if isinstance(value, bool | str) and text in (*_TRUE, *_FALSE):
        return text in _TRUE
    if value in (0, 1) and not isinstance(value, str):
        return bool(value)
    raise ValueError("not true or false")


def _number(value: Any, least: int, otherwise: str = "") -> int:
    whole = isinstance(value, int) and not isinstance(value, bool)
    quoted = isinstance(value, str) and value.isascii() and value.isdigit()
    rounded = isinstance(value, float) and value.is_integer()
    if not (whole or quoted or rounded) or int(value) < least:
        raise ValueError(otherwise or f"not a whole number from {least} on")
    return int(value)


def _list(value: Any) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError("not a list")
    return value
