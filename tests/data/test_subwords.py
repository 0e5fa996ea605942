import gzip
import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmtprune.data.codec import TextCodec
from nmtprune.data.moses import MosesTokenizer
from nmtprune.data.subwords import (
    POST_PROCESSES,
    BpeSegmenter,
    SentencePieceSegmenter,
    guess_post_process,
    post_process,
)
from nmtprune.data.vocabulary import FairseqVocabulary
from nmtprune.errors import DataError, UsageError

TEXT = [
    "the cat sat on the mat .", "a dog runs in the park , quickly", "die Katze schläft im Garten",
    "it isn't raining; we're well-known", "newer lower lowest wider widest", "ich heiße Jürgen & gehe <heim>",
] * 5  # fmt: skip
SENTENCES = [
    *TEXT[:6], "", "   ", "  unknown words: žluťoučký \t kůň\u00a0 ", "lowest newest a", "x",
    "Don't \"quote\" 100 % of 3.14",
]  # fmt: skip


@pytest.fixture(scope="module")
def sentencepiece_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import sentencepiece

    path = tmp_path_factory.mktemp("spm") / "spm.model"
    with path.open("wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXT), model_writer=stream, vocab_size=55, minloglevel=2
        )
    return path


@pytest.fixture(scope="module")
def bpe_codes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from subword_nmt.learn_bpe import learn_bpe

    path = tmp_path_factory.mktemp("bpe") / "codes"
    with path.open("w", encoding="utf-8") as stream:
        learn_bpe(io.StringIO("\n".join(TEXT)), stream, num_symbols=40, min_frequency=2)
    return path


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(["▁", "a", "b@@", "@@", "@@ ", " ", "  ", "_", "|", "_EOW", "<SIL>", "\u2028", "\t"])),
    st.sampled_from(POST_PROCESSES),
)
def test_post_process_equals_fairseq(pieces: list[str], method: str) -> None:
    from fairseq.data import data_utils

    text = "".join(pieces)
    assert post_process(text, method) == data_utils.post_process(text, method)


def test_unknown_post_process() -> None:
    with pytest.raises(UsageError) as caught:
        post_process("a", "bert")
    assert str(caught.value) == (
        "`post_process` 'bert' is unknown: choose among sentencepiece, subword_nmt, @@ , @@, wordpiece, letter, "
        "silence, _EOW, none"
    )


@pytest.mark.parametrize("text", SENTENCES)
def test_sentencepiece_equals_fairseq(sentencepiece_model: Path, text: str) -> None:
    from fairseq.data.encoders.sentencepiece_bpe import SentencepieceBPE

    settings = SimpleNamespace(
        sentencepiece_model=str(sentencepiece_model), sentencepiece_enable_sampling=False, sentencepiece_alpha=None
    )
    theirs, ours = SentencepieceBPE(settings), SentencePieceSegmenter(sentencepiece_model)
    assert ours.encode(text) == theirs.encode(text)
    assert post_process(ours.encode(text), "sentencepiece") == theirs.decode(theirs.encode(text))


@pytest.mark.parametrize("text", SENTENCES)
def test_bpe_equals_fairseq(bpe_codes: Path, text: str) -> None:
    from fairseq.data.encoders.subword_nmt_bpe import SubwordNMTBPE

    theirs = SubwordNMTBPE(SimpleNamespace(bpe_codes=str(bpe_codes), bpe_separator="@@"))
    ours = BpeSegmenter(bpe_codes)
    assert ours.encode(text) == theirs.encode(text)
    assert post_process(ours.encode(text), "subword_nmt") == theirs.decode(theirs.encode(text))


def test_fastbpe_codes_are_those_of_subword_nmt_with_frequencies(tmp_path: Path, bpe_codes: Path) -> None:
    lines = bpe_codes.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#version: 0.2"
    fast = tmp_path / "bpecodes.gz"
    fast.write_bytes(gzip.compress("".join(f"{line} {100 - n}\n" for n, line in enumerate(lines[1:])).encode()))
    for text in SENTENCES:
        assert BpeSegmenter(fast).encode(text) == BpeSegmenter(bpe_codes).encode(text)


def test_codes_without_a_version_are_those_of_subword_nmt_0_1(tmp_path: Path) -> None:
    from subword_nmt.apply_bpe import BPE

    path = tmp_path / "codes"
    path.write_text("l o\nlo w\ne r\nlow er</w>\n")
    with path.open() as stream:
        theirs = BPE(stream)
    assert BpeSegmenter(path).encode("lower low") == theirs.process_line("lower low")


def test_codec_goes_both_ways(bpe_codes: Path) -> None:
    tokenizers = {"source": MosesTokenizer("en"), "target": MosesTokenizer("de")}
    codec = TextCodec("subword_nmt", {"source": BpeSegmenter(bpe_codes)}, tokenizers, tokenizers["target"])
    symbols = codec.encode(' The "lowest" well-known cat, <&>. \n', "source")
    assert "@@" in symbols
    assert codec.decode(symbols) == 'The "lowest" well-known cat, < & >.'
    assert TextCodec("none").decode(TextCodec("none").encode(" a b ", "source")) == "a b"


def _vocabulary(path: Path, words: list[str]) -> FairseqVocabulary:
    path.write_text("".join(f"{word} 1\n" for word in words), encoding="utf-8")
    return FairseqVocabulary.read(path)


def test_post_process_is_guessed_from_the_symbols(tmp_path: Path) -> None:
    path = tmp_path / "dict.de.txt"
    words = [f"w{number}" for number in range(3000)]
    assert guess_post_process(_vocabulary(path, words)) == "none"
    assert guess_post_process(_vocabulary(path, [*words, "▁▁▁", "x@@"])) == "none"
    assert guess_post_process(_vocabulary(path, [*words, "x@@", "y@@", "z@@", "a@@", "▁b"])) == "subword_nmt"
    assert guess_post_process(_vocabulary(path, [*words, *(f"▁{word}" for word in words[:50])])) == "sentencepiece"
    assert guess_post_process(_vocabulary(path, [])) == "none"


def _error(make: type[BpeSegmenter] | type[SentencePieceSegmenter], path: Path) -> str:
    with pytest.raises(DataError) as caught:
        make(path)
    return str(caught.value)


def test_damaged_codes(tmp_path: Path) -> None:
    path = tmp_path / "codes"
    path.write_text("#version: 0.2\na b\na b c\nx\n\nd e\n")
    assert _error(BpeSegmenter, path) == (
        f"{path}: no BPE codes: line 3: 'a b c' does not hold two symbols; line 4: 'x' does not hold two symbols; "
        "line 5: '' does not hold two symbols"
    )
    path.write_text("")
    assert _error(BpeSegmenter, path) == f"{path}: no BPE codes: the file holds no merge operations"
    path.write_text("#version: new\na b\n")
    assert _error(BpeSegmenter, path) == f"{path}: line 1: '#version: new' is no version of BPE codes"
    path.unlink()
    assert _error(BpeSegmenter, path) == f"{path}: cannot be read: No such file or directory"


def test_damaged_sentencepiece_models(tmp_path: Path, sentencepiece_model: Path) -> None:
    path = tmp_path / "spm.model"
    assert _error(SentencePieceSegmenter, path) == f"{path}: cannot be read: No such file or directory"
    path.write_bytes(b"")
    assert _error(SentencePieceSegmenter, path) == f"{path}: no SentencePiece model: the file is empty"
    path.write_bytes(sentencepiece_model.read_bytes()[:-50])
    assert _error(SentencePieceSegmenter, path) == f"{path}: a SentencePiece model that is damaged or truncated"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"the 5\nof 3\n", "it is a list of words with their counts, such as fairseq's dictionaries"),
        (b"#version: 0.2\na b\n", "it holds BPE codes: name it with `bpe_codes`"),
        (b"a b 7\nab c 5\n", "it holds BPE codes: name it with `bpe_codes`"),
        ("<unk>\t0\n▁the\t-3.2\n".encode(), "it is a list of SentencePiece's pieces: name the model, spm.model"),
        (b'{"a": 0}', "it is JSON"),
        (b'"a": 0\n"b": 1\n', "it is a vocabulary"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n",
         "it is a Git LFS pointer, not the file of 12345 bytes itself: run git lfs pull, or download the file"),
    ],
)  # fmt: skip
def test_files_that_are_no_sentencepiece_model(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "spm.vocab"
    path.write_bytes(content)
    assert _error(SentencePieceSegmenter, path) == f"{path}: no SentencePiece model: {reason}"


def test_files_that_are_no_codes(tmp_path: Path, sentencepiece_model: Path) -> None:
    assert _error(BpeSegmenter, sentencepiece_model) == (
        f"{sentencepiece_model}: no BPE codes: it is a SentencePiece model: name it with `sentencepiece`"
    )
    path = tmp_path / "codes"
    path.write_text("the 12\nof 7\n")
    words = "it is a list of words with their counts, such as fairseq's dictionaries"
    assert _error(BpeSegmenter, path) == f"{path}: no BPE codes: {words}"
    path.write_text("<unk>\t0\n▁the\t-3.2\n")
    assert _error(BpeSegmenter, path) == (
        f"{path}: no BPE codes: it is a list of SentencePiece's pieces: name the model, codes.model"
    )
    path.write_text("#version: 0.2\nĠ t\nĠ a\nh e\n")
    assert _error(BpeSegmenter, path) == (
        f"{path}: no BPE codes of subword-nmt or fastBPE: they are of byte-level BPE (GPT-2's)"
    )
