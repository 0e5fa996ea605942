import itertools
import shutil
import subprocess
from types import SimpleNamespace

import pytest

from nmtprune.data.moses import MosesTokenizer, lowercase

SENTENCES = [
    "the cat sat on the mat .", "it isn't raining; we're well-known", "ich heiße Jürgen & gehe <heim>", "",
    "  unknown words: žluťoučký \t kůň\u00a0 ", "Don't \"quote\" 100 % of 3.14", "a state-of-the-art [x] | y",
]  # fmt: skip


@pytest.mark.parametrize("language", ["en", "de", "fr", "zh", "cs", "src", "de_DE"])
@pytest.mark.parametrize(("dash_splits", "escape"), itertools.product((True, False), repeat=2))
def test_moses_equals_fairseq(language: str, dash_splits: bool, escape: bool) -> None:
    from fairseq.data.encoders.moses_tokenizer import MosesTokenizer as Theirs

    options = {"moses_no_dash_splits": not dash_splits, "moses_no_escape": not escape}
    theirs = Theirs(SimpleNamespace(source_lang=language, target_lang=language, **options))
    ours = MosesTokenizer(language, dash_splits=dash_splits, escape=escape)
    for text in SENTENCES:
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(theirs.encode(text)) == theirs.decode(theirs.encode(text))


def test_lowercase_equals_that_of_moses() -> None:
    """`lowercase.perl` is Perl's `lc`."""
    perl = shutil.which("perl")
    if perl is None:
        pytest.skip("there is no perl")
    letters = [chr(code) for code in range(0x20, 0x590) if chr(code).isprintable()]
    text = "\n".join([*(f"A{letter}b {letter}" for letter in letters), "ΟΔΟΣ ΣΑΣ", "İstanbul"])
    program = "binmode(STDIN, ':utf8'); binmode(STDOUT, ':utf8'); while (<STDIN>) { print lc($_); }"
    theirs = subprocess.run([perl, "-e", program], input=text.encode(), check=True, capture_output=True).stdout.decode()
    assert [lowercase(line) for line in text.split("\n")] == theirs.split("\n")
    assert lowercase("ΟΔΟΣ İ") == "οδοσ i̇"
