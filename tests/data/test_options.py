from pathlib import Path
from typing import Any

import pytest

from nmtprune.data.options import DataOptions
from nmtprune.errors import UsageError

BIN, TEXT, MODEL = Path("bin"), Path("text"), Path("spm.model")


@pytest.mark.parametrize(
    ("options", "faults"),
    [
        ({}, "none given: name --data-bin DIR or --source FILE"),
        (
            {"source": TEXT, "sentencepiece": MODEL},
            "--source needs --data-bin DIR, whose dictionaries dict.LANG.txt turn text into token ids",
        ),
        (
            {"data_bin": BIN, "source": TEXT, "sentencepiece": MODEL, "subset": "valid"},
            "--subset names binarized data and --source raw text: give one of the two",
        ),
        (
            {"data_bin": BIN, "source": TEXT},
            "--source needs --sentencepiece MODEL or --bpe-codes FILE "
            "(or --post-process none, for text whose words are the dictionary's symbols)",
        ),
        (
            {"data_bin": BIN, "sentencepiece": MODEL, "bpe_codes": MODEL},
            "--sentencepiece and --bpe-codes exclude each other",
        ),
        (
            {"data_bin": BIN, "source": Path("-"), "reference": (Path("-"),), "sentencepiece": MODEL},
            "only one of --source and --reference can be standard input",
        ),
        ({"data_bin": BIN, "subset": "valid,"}, "--subset 'valid,' holds an empty name"),
        (
            {"data_bin": BIN, "post_process": "x", "tokenizer": "y"},
            "unknown --post-process 'x' (choose among sentencepiece, subword_nmt, @@ , @@, wordpiece, letter, silence, "
            "_EOW, none); unknown --tokenizer 'y' (choose among moses)",
        ),
        (
            {"source": TEXT, "subset": "valid", "sentencepiece": MODEL},
            "--source needs --data-bin DIR, whose dictionaries dict.LANG.txt turn text into token ids; "
            "--subset names binarized data and --source raw text: give one of the two",
        ),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], faults: str) -> None:
    with pytest.raises(UsageError) as caught:
        DataOptions(**options)
    assert str(caught.value) == f"data: {faults}"


def test_subsets() -> None:
    assert DataOptions(data_bin=BIN).subsets == ("valid",)
    assert DataOptions(data_bin=BIN, subset="test, test1").subsets == ("test", "test1")
    assert DataOptions(data_bin=BIN, source=TEXT, post_process="none").subsets == ()
