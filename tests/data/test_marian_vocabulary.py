"""Vocabularies of Marian: ids and symbols equal to Marian's own, refusals with symbol and line."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nmtprune.data.marian_vocabulary import MarianVocabulary
from nmtprune.errors import DataError
from tests.support.marian_program import MarianRefusal, marian_ids, marian_names

HEAD = "</s>: 0\n<unk>: 1\n"

# As `marian` itself writes the vocabulary of a text with such words, byte for byte.
WRITTEN = (
    HEAD + '"?": 2\n"\\x00nul": 3\n"\\x01k": 4\n"\\tq\\t": 5\n"\\x0cy": 6\n"!": 7\n"\\"h\\"": 8\n"#c": 9\n'
    '"\'i\'": 10\n"-": 11\n--: 12\n---: 13\n-a: 14\n...: 15\n0x10: 16\n1e3: 17\n":": 18\n:b: 19\n</s>: 20\n<<: 21\n'
    '<unk>: 22\n=: 23\n"@f": 24\n"[k": 25\n\\j: 26\n"`g": 27\n"a\\tb": 28\n"a:": 29\nc#d: 30\n"null": 31\n'
    'true: 32\nx\ry: 33\n"x\udcc1\udcbfy": 34\nx\x85y: 35\nx\u2028y: 36\nz\u2029z: 37\n"{l": 38\n"~": 39\n'
    '"\\x80": 40\n\xa0n\xa0: 41\n"\\ufeffz": 42\n\U0001f600: 43\n'
)
WORDS = (
    "? \0nul \x01k \tq\t \x0cy ! \"h\" #c 'i' - -- --- -a ... 0x10 1e3 : :b </s> << <unk> = @f [k \\j `g a\tb a: c#d "
    "null true x\ry x\x7fy x\x85y x\u2028y z\u2029z {l ~ \x80 \xa0n\xa0 \ufeffz \U0001f600 \xa0 n unseen  </s>"
)

TAKEN = {
    "gap.yml": HEAD + "a: 2\nb: 5\n",
    "order.yml": "b: 3\na: 2\n<unk>: 0\n</s>: 1\n",
    "twice.yml": HEAD + "a: 2\na: 3\nb: 4\n",
    "same-id.yml": HEAD + "b: 2\na: 2\nc: 3\n",
    "numbers.yml": HEAD + "a: 0x2\nb: 03\nc: +4\nd: 010\ne: '5'\n",
    "empty-symbol.yml": HEAD + '"": 2\na: 3\n',
    "nematus.json": '{\n  "eos": 0,\n  "UNK": 1,\n  "a": 2,\n  "\\u00e4": 3,\n  "\\/": 4\n}\n',
    "nematus.yml": "eos: 0\nUNK: 1\n</s>: 2\n<unk>: 3\na: 4\n",
    "special-gap.yml": "a: 2\nb: 3\n",
    "special-empty.yml": '"": 0\n</s>: 3\n<unk>: 2\n',
    "flow.yml": "{</s>: 0, '<unk>': 1, a: 2, \"b\" : 3}\n",
    "tight.json": '{"</s>":0,"<unk>":1,"a":2}',
    "tabs.json": '{\n\t"</s>": 0,\n\t"<unk>": 1,\n\t"a": 2}\n',
    "mark.yml": "\ufeff" + HEAD + "a: 2\n",
    "crlf.yml": (HEAD + "a: 2\n").replace("\n", "\r\n"),
    "comments.yml": "# c\n" + HEAD + "a: 2 # x\n\n# d\nb: 3\n",
    "document.yml": "---\n" + HEAD + "a: 2\n...\n",
    "documents.yml": HEAD + "a: 2\n---\nb: 3\n",
    "anchors.yml": HEAD + "a: &x 2\n&y b: 3\nc: *x\n",
    "tags.yml": HEAD + "!!str a: 2\n!x b: 3\n",
    "explicit.yml": HEAD + '? a\n: 2\n? "b"\n: 3\n',
    "spaces.yml": "  </s>: 0\n  <unk>: 1\n  a : \t2\n",
    "escapes-and-a-comment.yml": HEAD + '# c\n"\\N": 2\n"\\_": 3\n"\\/\\t": 4\n',
    "escapes.yml": HEAD + '"\\x41": 2\n"\\u0042": 3\n"\\U00000043\\\'": 4\n"\\e": 5\n"\\N": 6\n"\\_": 7\n"\\L": 8\n',
    "raw-control.yml": HEAD + 'a\x01b: 2\n"\x7f": 3\nx\x1fy: 4\n# \x02\n',
    "bytes.yml": HEAD + "a\udcffb: 2\n\udce4: 3\n",
    "far.yml": HEAD + "a: 2\nb: 90\n",
    "a.txt": "</s>\n<unk>\na\nb\n",
    "a.vocab": "a\nb\n<unk>\n</s>\nc",
    "A.YML": "</s>\n<unk>\na: 7\nb\n",
    "crlf": "</s>\r\n<unk>\r\na\r\n",
    "spaces.txt": "</s>\n<unk>\na b\n c\nd\t3\n",
    "bytes.txt": "</s>\n<unk>\na\udcffb\n\udce4\n",
}  # fmt: skip

REFUSED = {
    "float.yml": (HEAD + "a: 2.0\n", "line 3: the id of 'a' is '2.0', not a whole number below 2^32"),
    "word.yml": (HEAD + "a: 2\nb: c\n", "line 4: the id of 'b' is 'c', not a whole number below 2^32"),
    "large.yml": (HEAD + "a: 4294967296\n", "line 3: the id of 'a' is '4294967296', not a whole number below 2^32"),
    "null.yml": (HEAD + "null: 2\n~: 3\n", "line 3: a symbol that is no text: put it into quotes; line 4: a"),
    "no-id.yml": (HEAD + "a:\nb: 2\n", "line 3: the id of 'a' is '', not a whole number below 2^32"),
    "list.yml": ("- </s>\n- <unk>\n", "it does not map symbols to ids ('SYMBOL: ID' in every line)"),
    "empty.yml": ("", "it holds no symbols"),
    "pair.json": ('{"</s>":0,\n"<unk>":1,\n"\\ud83d\\ude00":2}', "line 3: half of a surrogate pair"),
    "merge.yml": (HEAD + "<<: {a: 2}\n", "line 3: the id of '<<' is no number, not a whole number below 2^32"),
    "at.yml": (HEAD + "@a: 2\n", "no YAML: line 3: found character '@' that cannot start any token"),
    "escape.yml": (HEAD + '"\\q": 2\n', "no YAML: line 3: found unknown escape character 'q'"),
    "no-blank.yml": (HEAD + "a:2\n", "no YAML: line 4: could not find expected ':'"),
    "returns.yml": ((HEAD + "a: 2\n").replace("\n", "\r"), "no YAML: line 1: mapping values are not allowed here"),
    "without.yml": ("a: 0\nb: 1\n", "it has no </s> and no <unk>"),
    "nematus-elsewhere.yml": ("a: 0\neos: 1\nUNK: 2\n", "it has no </s> and no <unk>"),
    "twice.txt": ("</s>\n<unk>\na\nb\na\n", "line 5: 'a' stands in line 3 too"),
    "blank.txt": ("</s>\n<unk>\n\nb\n", "line 3 is empty"),
    "blank-at-the-end.txt": ("</s>\n<unk>\na\n\n", "line 4 is empty"),
    "mark.txt": ("\ufeff</s>\n<unk>\na\n", "it has no </s>"),
    "nematus.txt": ("eos\nUNK\na\n", "it has no </s> and no <unk>"),
    "counts.txt": ("</s> 10\n<unk> 7\na 4\n", "it has no </s> and no <unk> (it looks like a dictionary of fairseq's)"),
    "pieces.vocab": ("<unk>\t0\n</s>\t0\na\t-2.5\n", "it is the list of pieces that SentencePiece writes beside"),
    "yaml.txt": (HEAD + "a: 2\n", "it looks like YAML, which Marian knows by the endings .yml, .yaml and .json"),
}  # fmt: skip


def _write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return path


def _ids(vocabulary: MarianVocabulary, lines: list[str]) -> list[list[int]]:
    return [vocabulary.encode(line).tolist() for line in lines]


def _names(vocabulary: MarianVocabulary) -> dict[int, str]:
    return {id: vocabulary.string([id]) for id in range(len(vocabulary))}


def test_a_vocabulary_that_marian_wrote(tmp_path: Path) -> None:
    path = _write(tmp_path, "vocab.yml", WRITTEN)
    vocabulary = MarianVocabulary.read(path, 44)
    assert _ids(vocabulary, [WORDS]) == marian_ids(path, [WORDS], 44)
    assert _names(vocabulary) == marian_names(path, 44)
    assert vocabulary.remarks == ()


def test_more_symbols_than_rows_and_fewer(tmp_path: Path) -> None:
    path = _write(tmp_path, "vocab.yml", HEAD + "".join(f"w{id}: {id}\n" for id in range(2, 12)))
    line = " ".join(f"w{id}" for id in range(14))
    cut, padded = MarianVocabulary.read(path, 8, "target"), MarianVocabulary.read(path, 16, "target")
    for vocabulary in (cut, padded):
        rows = len(vocabulary)
        assert _ids(vocabulary, [line]) == marian_ids(path, [line], rows)
        assert vocabulary.start == rows and len(set(vocabulary.symbols)) == rows
    assert cut.remarks == (
        f"{path}: cut off at id 8, the number of target embeddings, as Marian does: 4 symbols are left out",
    )
    assert padded.remarks == (
        f"{path}: symbols with ids up to 11, but 16 rows of target embeddings: the others have none",
    )
    assert _names(cut) == marian_names(path, 8)
    with pytest.raises(MarianRefusal):
        marian_names(path, 16)
    with pytest.raises(DataError, match="the model chose id 12, but the symbols of this vocabulary end at 11"):
        padded.string([3, 12])
    with pytest.raises(DataError, match="<unk> has id 1, but the model has 1 rows: the vocabulary of another model"):
        MarianVocabulary.read(path, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", TAKEN)
def test_ids_and_symbols_of_every_form(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path, name, TAKEN[name])
    rows = MarianVocabulary.read(path, 50).size
    vocabulary = MarianVocabulary.read(path, rows)
    listed = [symbol for symbol in vocabulary.index if symbol and symbol.isprintable()]
    lines = [
        " ".join(listed),
        "a b c d e </s> <unk> eos UNK \xe4 / A B C' \x1b \x85 \xa0 \u2028 \x7f a\x01b x\x1fy \xff",
    ]
    assert _ids(vocabulary, lines) == marian_ids(path, lines, rows)
    assert _names(vocabulary) == marian_names(path, rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_marian_refuses_what_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(MarianRefusal):
        marian_ids(_write(tmp_path, name, REFUSED[name][0]), ["a"], 4)


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_place(tmp_path: Path, name: str) -> None:
    text, reason = REFUSED[name]
    path = _write(tmp_path, name, text)
    with pytest.raises(DataError) as refusal:
        MarianVocabulary.read(path, 4)
    line = str(refusal.value)
    assert line.startswith(f"{path}: ") and reason in line and "\n" not in line


@pytest.mark.parametrize("name", TAKEN)
def test_forms_are_read(tmp_path: Path, name: str) -> None:
    """Whatever the form, the symbols of the file stand at their ids."""
    vocabulary = MarianVocabulary.read(_write(tmp_path, name, TAKEN[name]), 50)
    ids = list(vocabulary.index.values())
    alone = [(symbol, id) for symbol, id in vocabulary.index.items() if symbol.isprintable() and ids.count(id) == 1]
    assert all(vocabulary.symbols[id] == symbol for symbol, id in alone if symbol)
    assert len(vocabulary) == 50 and vocabulary.encode("a").tolist()[-1] == vocabulary.eos


def test_other_files(tmp_path: Path) -> None:
    factored = _write(tmp_path, "vocab.fsv", "_lemma\n")
    with pytest.raises(DataError, match="a factored vocabulary: nmtprune has no factors"):
        MarianVocabulary.read(factored)
    with pytest.raises(DataError, match="cannot be read: No such file or directory"):
        MarianVocabulary.read(tmp_path / "none.yml")
    packed = tmp_path / "vocab.txt.gz"
    packed.write_bytes(gzip.compress(b"</s>\n<unk>\na\n"))
    assert MarianVocabulary.read(packed).encode("a").tolist() == [2, 0]
    packed.write_bytes(b"</s>\n")
    with pytest.raises(DataError, match="damaged gzip file"):
        MarianVocabulary.read(packed)
    for id in ("4000000000", "-1"):
        far = _write(tmp_path, "far.yml", HEAD + f"a: {id}\n")
        with pytest.raises(DataError, match="ids up to 4[0-9]{9} for 3 symbols"):
            MarianVocabulary.read(far)
    wide = tmp_path / "wide.yml"
    wide.write_text(HEAD + "\xe4: 2\n", encoding="utf-16")
    assert MarianVocabulary.read(wide).encode("\xe4").tolist() == [2, 0]


# What is the same to all YAML parsers as JSON strings: any text but halves of pairs.
_SYMBOL = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
_SYMBOLS = st.lists(_SYMBOL.filter(lambda text: text not in ("eos", "UNK")), min_size=1, max_size=8, unique=True)


@given(symbols=_SYMBOLS, escaped=st.booleans(), comment=st.booleans())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_symbols(tmp_path: Path, symbols: list[str], escaped: bool, comment: bool) -> None:
    """The line by line reader, the one for JSON and the YAML parser agree on all that has quotes."""
    quoted = {symbol: id for id, symbol in enumerate(["</s>", "<unk>", *(s for s in symbols if s not in HEAD.split())])}
    keys = [json.dumps(symbol, ensure_ascii=escaped and symbol.isascii()) for symbol in quoted]
    lines = "".join(f"{key}: {id}\n" for id, key in enumerate(keys)) + ("# a comment\n" if comment else "")
    for name, text in (("a.yml", lines), ("b.json", json.dumps(quoted, ensure_ascii=False))):
        assert dict(MarianVocabulary.read(_write(tmp_path, name, text)).index) == quoted
