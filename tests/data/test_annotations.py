"""CoNLL-U and Pharaoh files are read as written; damaged lines are named by number."""

from pathlib import Path

import pytest

from nmtprune.data.annotations import read_alignments, read_parses
from nmtprune.errors import DataError

ROOT = "1\tDogs\tdog\tNOUN\t_\t_\t0\troot\t_\t_"


def line(*changes: tuple[int, str], of: str = ROOT) -> str:
    columns = of.split("\t")
    for place, value in changes:
        columns[place] = value
    return "\t".join(columns)


def test_a_sentence_with_all_kinds_of_lines(tmp_path: Path) -> None:
    second = line((0, "2"), (1, "don't"), (6, "1"), (7, "nsubj:outer"))
    lines = [
        *("# sent_id = 1", ROOT, line((0, "2-3"), (1, "don't")), line((0, "2"), (1, "do"), (6, "1"), (7, "aux"))),
        *(line((0, "3"), (1, "n't"), (6, "2"), (7, "advmod")), line((0, "3.1"), (1, "bark")), "", ROOT, second),
    ]
    path = tmp_path / "a.conllu"
    path.write_text("\n".join(lines))
    first, other = read_parses(path).sentences
    assert (first.line, first.forms, first.first) == (1, ("Dogs", "don't"), (0, 1))
    assert (first.heads, first.relations) == ((-1, 0, 1), ("root", "aux", "advmod"))
    assert (other.line, other.heads, other.relations) == (8, (-1, 0), ("root", "nsubj:outer"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([ROOT, "2 Dogs bark"], "line 2: 1 columns between tabs, not 10"),
        ([line((0, "2"))], "line 1: word '2' where word 1 should stand"),
        ([line((6, "x"))], "line 1: head 'x' is no number of another word"),
        ([line((6, "1"))], "line 1: head '1' is no number of another word"),
        (["", line((6, "7"))], "line 2: head 7 of a sentence of 1 words"),
        ([line((0, "3-2"))], "line 1: the token 3-2 is not followed by its words"),
    ],
)
def test_damaged_parses(tmp_path: Path, lines: list[str], message: str) -> None:
    path = tmp_path / "a.conllu"
    path.write_text("\n".join(lines))
    with pytest.raises(DataError) as caught:
        read_parses(path)
    assert str(caught.value) == f"{path}: no CoNLL-U: {message}"


def test_alignments(tmp_path: Path) -> None:
    path = tmp_path / "a.align"
    path.write_text("0-0 1-2\n\n3-1\n")
    assert read_alignments(path).sentences == (((0, 0), (1, 2)), (), ((3, 1),))
    path.write_text("0-0\n0-0 1:2 x\n")
    with pytest.raises(DataError) as caught:
        read_alignments(path)
    expected = f"{path}: no alignments in Pharaoh's format: line 2: '1:2' is not SOURCE-TARGET, such as 0-2"
    assert str(caught.value) == expected
