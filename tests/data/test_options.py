from pathlib import Path
from typing import Any

import pytest

from nmtprune.data.options import DataOptions
from nmtprune.errors import UsageError

BIN, TEXT, MODEL = Path("bin"), Path("text"), Path("spm.model")


@pytest.mark.parametrize(
    ("options", "faults"),
    [
        ({}, "none given: name `data_bin` DIR, `source` FILE or `examples` FILE"),
        (
            {"source": TEXT, "sentencepiece": MODEL},
            "`source` needs `data_bin` DIR, whose dictionaries dict.LANG.txt turn text into token ids",
        ),
        (
            {"source": Path("-"), "sentencepiece": MODEL},
            "text needs `data_bin` DIR, whose dictionaries dict.LANG.txt turn text into token ids",
        ),
        (
            {"data_bin": BIN, "source": TEXT, "sentencepiece": MODEL, "subset": "valid"},
            "`subset` names binarized data and `source` raw text: give one of the two",
        ),
        (
            {"data_bin": BIN, "source": TEXT},
            "`source` needs `sentencepiece` MODEL or `bpe_codes` FILE, for one side or both "
            "(`source_sentencepiece`, ...); text that is segmented already needs `post_process` METHOD, and "
            "`post_process` none where its words are the dictionary's symbols",
        ),
        (
            {"data_bin": BIN, "sentencepiece": MODEL, "bpe_codes": MODEL},
            "`sentencepiece` and `bpe_codes` exclude each other",
        ),
        (
            {"data_bin": BIN, "sentencepiece": MODEL, "target_bpe_codes": MODEL, "source_sentencepiece": MODEL},
            "`sentencepiece` is for both sides and excludes `source_sentencepiece`, `target_bpe_codes`",
        ),
        (
            {"data_bin": BIN, "source_sentencepiece": MODEL, "source_bpe_codes": MODEL},
            "`source_sentencepiece` and `source_bpe_codes` exclude each other",
        ),
        (
            {"vocabs": (Path("a.spm"), Path("b.yml")), "source": TEXT, "source_bpe_codes": MODEL},
            "a.spm splits the source side itself: spm.model goes with a .yml vocabulary",
        ),
        (
            {"vocabs": (Path("a.spm"), Path("b.spm")), "source": TEXT, "sentencepiece": MODEL},
            "a.spm and b.spm: vocabularies that split text themselves: spm.model goes with a .yml vocabulary",
        ),
        (
            {"vocabs": (Path("a.spm"), Path("b.spm")), "source": TEXT, "sentencepiece": Path("a.spm")},
            "a.spm and b.spm: vocabularies that split text themselves: a.spm goes with a .yml vocabulary",
        ),
        (
            {"vocabs": (Path("a.spm"), Path("a.spm")), "source": TEXT, "bpe_codes": MODEL},
            "a.spm: vocabularies that split text themselves: spm.model goes with a .yml vocabulary",
        ),
        (
            {"data_bin": BIN, "tokenizer": None, "moses_no_escape": True},
            "`moses_no_escape` needs `tokenizer` moses",
        ),
        (
            {"data_bin": BIN, "source": TEXT, "post_process": "@@ ", "lowercase_source": True},
            "`lowercase_source`: with `post_process` @@  and no subword model text is segmented already",
        ),
        (
            {"data_bin": BIN, "source": Path("-"), "reference": (Path("-"),), "sentencepiece": MODEL},
            "only one of `source` and `reference` can be standard input",
        ),
        ({"data_bin": BIN, "subset": "valid,"}, "`subset` 'valid,' holds an empty name"),
        (
            {"data_bin": BIN, "post_process": "x", "tokenizer": "y"},
            "unknown `post_process` 'x' (choose among sentencepiece, subword_nmt, @@ , @@, wordpiece, letter, silence, "
            "_EOW, none); unknown `tokenizer` 'y' (choose among moses)",
        ),
        (
            {"source": TEXT, "subset": "valid", "sentencepiece": MODEL},
            "`source` needs `data_bin` DIR, whose dictionaries dict.LANG.txt turn text into token ids; "
            "`subset` names binarized data and `source` raw text: give one of the two",
        ),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], faults: str) -> None:
    with pytest.raises(UsageError) as caught:
        DataOptions(**options)
    assert str(caught.value) == f"data: {faults}"


def test_the_vocabularies_themselves_may_be_named_as_subword_models() -> None:
    both = (Path("a.spm"), Path("a.spm"))
    assert DataOptions(vocabs=both, source=TEXT, sentencepiece=both[0]).splits_itself("target")


def test_subsets() -> None:
    assert DataOptions(data_bin=BIN).subsets == ("valid",)
    assert DataOptions(data_bin=BIN, subset="test, test1").subsets == ("test", "test1")
    assert DataOptions(data_bin=BIN, source=TEXT, post_process="none").subsets == ()


def test_the_subword_model_of_a_side() -> None:
    one = DataOptions(data_bin=BIN, sentencepiece=MODEL)
    assert one.subword_model("source") == one.subword_model("target") == ("sentencepiece", MODEL)
    mixed = DataOptions(data_bin=BIN, source=TEXT, source_sentencepiece=MODEL, target_bpe_codes=TEXT)
    assert (mixed.subword_model("source"), mixed.subword_model("target")) == (
        ("sentencepiece", MODEL), ("subword_nmt", TEXT),
    )  # fmt: skip
    alone = DataOptions(data_bin=BIN, source=TEXT, target_sentencepiece=MODEL)
    assert alone.subword_model("source") is None


def test_text_that_is_segmented_already() -> None:
    joined = DataOptions(data_bin=BIN, source=TEXT, post_process="sentencepiece")
    assert joined.segmented("source") and joined.segmented("target")
    words = DataOptions(data_bin=BIN, source=TEXT, post_process="none")
    assert not words.segmented("source")
    split = DataOptions(source=TEXT, vocabs=(Path("a.spm"), Path("b.yml")), post_process="sentencepiece")
    assert (split.segmented("source"), split.segmented("target")) == (False, True)
