import json
from pathlib import Path
from typing import Any

import pytest

from nmtprune.data.huggingface_tokenizer import HuggingFaceTokenizer
from nmtprune.errors import DataError
from tests.support.classifier_folders import SETTINGS
from tests.support.huggingface_folders import transformers
from tests.support.labelled import byte_level_folder, real_texts, wordpiece_folder

TEXTS = real_texts()
PAIRS = (TEXTS, TEXTS[7:] + TEXTS[:7])


def _folder(folder: Path, kind: str, *, saved: bool = False, **settings: Any) -> Path:
    """A tokenizer's folder, with config.json as AutoTokenizer wants it; `saved` by transformers as one file."""
    make = byte_level_folder if kind == "roberta" else wordpiece_folder
    make(folder, TEXTS, **settings)
    (folder / "config.json").write_text(json.dumps(SETTINGS[kind]))
    if saved:
        _theirs(folder).save_pretrained(folder)
        for name in ("vocab.txt", "vocab.json", "merges.txt"):
            (folder / name).unlink(missing_ok=True)
    return folder


def _theirs(folder: Path) -> Any:
    return transformers().AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("most", [None, 24])
@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("bert", {}),
        ("bert", {"saved": True}),
        ("bert", {"do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False}),
        ("distilbert", {"tokenizer_class": "DistilBertTokenizer", "saved": True}),
        ("roberta", {}),
        ("roberta", {"saved": True, "add_prefix_space": True}),
        ("roberta", {"mask_token": {"__type": "AddedToken", "content": "<mask>", "lstrip": True}}),
    ],
    ids=str,
)
def test_tokens_and_segments_are_those_of_autotokenizer(
    kind: str, settings: dict[str, Any], columns: int, most: int | None, tmp_path: Path
) -> None:
    folder = _folder(tmp_path, kind, **settings)
    ours = HuggingFaceTokenizer(folder)
    found = ours.encode(PAIRS[:columns], most)
    cut = {"truncation": "longest_first", "max_length": most} if most else {}
    theirs = _theirs(folder)(*PAIRS[:columns], return_token_type_ids=True, **cut)
    assert [ids.tolist() for ids in found.tokens] == theirs["input_ids"]
    assert [ids.tolist() for ids in found.segments] == theirs["token_type_ids"]
    assert most is None or found.tokens.sizes.max() == most
    assert not ours.notes


def test_settings_that_differ_from_the_file_are_followed_as_transformers_does(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "bert", saved=True)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_lower_case": False}))
    ours = HuggingFaceTokenizer(folder)
    theirs = _theirs(folder)(TEXTS)["input_ids"]
    assert [ids.tolist() for ids in ours.encode([TEXTS]).tokens] == theirs
    (note,) = ours.notes
    assert "differ in what they do with lower case, accents and Chinese characters" in note


def test_a_tokenizer_of_no_class_is_taken_as_its_file_says(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "bert", saved=True)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    theirs = _theirs(folder)(TEXTS)["input_ids"]
    assert [ids.tolist() for ids in HuggingFaceTokenizer(folder).encode([TEXTS]).tokens] == theirs


def _break(folder: Path, fault: str) -> None:
    if fault == "none":
        (folder / "vocab.txt").unlink()
    elif fault == "class":
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertJapaneseTokenizer"}')
    elif fault == "no [CLS]":
        (folder / "vocab.txt").write_text((folder / "vocab.txt").read_text().replace("[CLS]\n", "[CLX]\n"))
    elif fault == "damaged":
        (folder / "tokenizer.json").write_text('{"model": {"type": "WordPiece"')
    else:
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "RobertaTokenizerFast"}')


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("none", "has no tokenizer (tokenizer.json, vocab.txt, or vocab.json and merges.txt): copy"),
        ("class", "tokenizer_class BertJapaneseTokenizer is not supported"),
        ("no [CLS]", "the vocabulary has no '[CLS]'"),
        ("damaged", "files of a tokenizer that are damaged: "),
        ("other", "a WordPiece tokenizer, but tokenizer_config.json has tokenizer_class RobertaTokenizer"),
    ],
)
def test_folders_without_a_usable_tokenizer(fault: str, message: str, tmp_path: Path) -> None:
    folder = wordpiece_folder(tmp_path, TEXTS)
    _break(folder, fault)
    with pytest.raises(DataError) as raised:
        HuggingFaceTokenizer(folder)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_positions_without_room_for_texts(tmp_path: Path) -> None:
    tokenizer = HuggingFaceTokenizer(wordpiece_folder(tmp_path, TEXTS))
    with pytest.raises(DataError, match="4 positions leave no room"):
        tokenizer.encode(PAIRS, 4)
