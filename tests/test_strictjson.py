"""Strict JSON: what is refused, and values that cannot be changed."""

import copy
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmtprune.errors import DataError
from nmtprune.strictjson import FrozenDict, freeze, loads, show, show_key, value_faults

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(VALUES)
def test_plain_values_are_read_as_json_reads_them(value: object) -> None:
    text = json.dumps(value)
    assert loads(text, "x", DataError) == json.loads(text)
    assert value_faults(value, "x") == []


@given(VALUES)
def test_frozen_values_say_the_same(value: object) -> None:
    frozen = freeze(value)
    assert json.dumps(frozen) == json.dumps(value)
    assert freeze(frozen) == frozen
    assert isinstance(hash(frozen), int)
    assert pickle.loads(pickle.dumps(frozen)) == frozen


def test_frozen_dict() -> None:
    frozen = FrozenDict({"a": 1})
    assert frozen == {"a": 1}
    assert copy.deepcopy(frozen) == frozen
    for method, arguments in {
        "__setitem__": ("a", 2),
        "__delitem__": ("a",),
        "__ior__": ({"b": 2},),
        "update": ({"b": 2},),
        "setdefault": ("b", 2),
        "pop": ("a",),
        "popitem": (),
        "clear": (),
    }.items():
        with pytest.raises(TypeError, match="^this mapping is frozen$"):
            getattr(frozen, method)(*arguments)


def test_depth_at_the_limit() -> None:
    assert loads("[" * 100 + "]" * 100, "x", DataError)
    for depth in (101, 5_000, 200_000):
        with pytest.raises(DataError, match="^x: nested deeper than 100 levels$"):
            loads("[" * depth + "]" * depth, "x", DataError)
    endless: list[object] = []
    endless.append(endless)
    assert value_faults(endless, "x") == ["x is nested deeper than 95 levels"]


def test_shown_values_are_one_short_line() -> None:
    assert show({"a": [1, None]}) == '{"a": [1, null]}'
    assert show("x" * 100) == '"' + "x" * 56 + "..."
    assert show({1, 2}) == "a value of type set"
    assert show_key("a\nb") == "a\\nb"
    assert show_key(3) == "3"
