"""Head ids and their spellings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmtprune.architecture import Architecture, AttentionModule, GroupId, UnitId, parse_heads, parse_kinds
from nmtprune.errors import UsageError


def _architecture(encoder: list[int], decoder: list[int], cross: list[int]) -> Architecture:
    return Architecture(
        tuple(
            AttentionModule(GroupId(kind, layer), heads, 8)
            for kind, counts in (("cross", cross), ("encoder", encoder), ("decoder", decoder))
            for layer, heads in enumerate(counts)
        )
    )


SMALL = _architecture([4, 4], [2, 4, 1], [4, 0, 4])


def _names(heads: tuple[UnitId, ...]) -> list[str]:
    return [str(head) for head in heads]


def test_modules_are_ordered_encoder_decoder_cross_then_layer() -> None:
    assert [str(module.id) for module in SMALL] == [
        "encoder.0", "encoder.1", "decoder.0", "decoder.1", "decoder.2", "cross.0", "cross.1", "cross.2",
    ]  # fmt: skip
    assert SMALL.heads_by_kind() == {"encoder": [4, 4], "decoder": [2, 4, 1], "cross": [4, 0, 4]}
    assert SMALL.count() == 23
    assert SMALL.count(["cross"]) == 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("encoder.0.3", ["encoder.0.3"]),
        ("encoder.0.1-3", ["encoder.0.1", "encoder.0.2", "encoder.0.3"]),
        ("encoder.0-1.2,0", ["encoder.0.0", "encoder.0.2", "encoder.1.0", "encoder.1.2"]),
        ("decoder.0", ["decoder.0.0", "decoder.0.1"]),
        ("cross.1", []),
        ("E:1:3,4", ["encoder.0.2", "encoder.0.3"]),
        ("A:3:2 D:1:1", ["decoder.0.0", "cross.2.1"]),
        ("D:1", ["decoder.0.0", "decoder.0.1"]),
        ("encoder.0.3 E:1:4", ["encoder.0.3"]),
    ],
)
def test_every_spelling_is_read(text: str, expected: list[str]) -> None:
    assert _names(parse_heads(text, SMALL)) == expected


@pytest.mark.parametrize("name", ["encoder." + "9" * 5000, "E:1:" + "9" * 5000, "encoder.0.0-999999999"])
def test_numbers_that_no_model_has_are_no_names(name: str) -> None:
    with pytest.raises(UsageError, match="is neither a number nor a range"):
        parse_heads(name, SMALL)
    with pytest.raises(UsageError, match="names no"):
        UnitId.parse(name.replace(":", "."))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("encoder.0.4", "heads 'encoder.0.4': 'encoder.0.4': encoder.0 has no head 4 (it has 0 to 3)"),
        ("E:1:0", "heads 'E:1:0': 'E:1:0': '0' is no range counted from 1"),
        ("E:3:1", "heads 'E:3:1': 'E:3:1': the model has no encoder layer 3 (it has 1 to 2)"),
        ("cross.1.0", "heads 'cross.1.0': 'cross.1.0': cross.1 has no head 0 (it has none)"),
        ("encoder.0.-1", "heads 'encoder.0.-1': 'encoder.0.-1': '-1' is neither a number nor a range such as 1-3"),
        (
            "X:1:1 encoder.9",
            "heads 'X:1:1 encoder.9': 'X:1:1' names no head: write encoder.0.3, encoder.4 for a whole layer, or E:1:4; "
            "'encoder.9': the model has no encoder layer 9 (it has 0 to 1)",
        ),
    ],
)
def test_every_wrong_name_is_reported_at_once(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_heads(text, SMALL)
    assert str(error.value) == message


@given(st.sampled_from(SMALL.head_ids()))
def test_a_head_id_reads_back_in_both_numberings(head: UnitId) -> None:
    letter = {"encoder": "E", "cross": "A", "decoder": "D"}[head.group.kind]
    assert UnitId.parse(str(head)) == head
    assert parse_heads(str(head), SMALL) == (head,)
    assert parse_heads(f"{letter}:{head.group.layer + 1}:{head.number + 1}", SMALL) == (head,)


@pytest.mark.parametrize(
    "text", ["encoder.0", "encoder.00.1", "Encoder.0.1", "encoder.0.1 ", "self.0.1", "encoder.0.٣"]
)
def test_ids_are_read_strictly(text: str) -> None:
    with pytest.raises(UsageError):
        UnitId.parse(text)


def test_kinds() -> None:
    assert parse_kinds("cross, encoder") == ("encoder", "cross")
    with pytest.raises(UsageError) as error:
        parse_kinds("self,cross", _architecture([4], [4], []))
    assert str(error.value) == (
        "kinds 'self,cross' (choose among encoder, decoder, cross): "
        "unknown kind 'self'; the model has no cross attention"
    )
