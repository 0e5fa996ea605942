import pytest

from nmtprune.data.marks import mark_of_text, subwords_against_words

WORDS = [
    "A man in an orange hat.",
    "Ein Hund & 2 Katzen: e-mail@x.de",
    "see _foo and #tag | end",
    "",
    "▁▂▃ chart",
    "@@ -1 +2",
]
SEGMENTED = {
    "sentencepiece": ["▁A ▁man ▁in ▁an ▁or ange ▁hat .", "▁Ein ▁Hund", "▁see", "", "▁我们"],
    "subword_nmt": ["A man in an or@@ ange hat .", "Ein Hund", "see", "", "two ca@@ ts"],
    "wordpiece": ["_A _man _in _an _or ange _hat .", "_Ein _Hund", "_see", "", "_two"],
    "letter": ["A | m a n |", "E i n | H u n d |", "s e e |", "", "t w o |"],
    "_EOW": ["A _EOW man _EOW", "Ein _EOW", "see _EOW", "", "two_EOW"],
}


@pytest.mark.parametrize("method", SEGMENTED)
def test_subwords_against_words(method: str) -> None:
    found = subwords_against_words(SEGMENTED[method], ["A man.", "Ein Hund", "see", "", "two"])
    assert found is not None and found.startswith("subwords measured against words: ")
    assert found.endswith(f"of the references: join subwords with `post_process` {method}")
    reverse = subwords_against_words(["A man.", "Ein Hund", "see", "", "two"], SEGMENTED[method])
    assert reverse is not None and reverse.endswith("give references that consist of words")
    assert subwords_against_words(SEGMENTED[method], SEGMENTED[method]) is None


def test_marks_that_nothing_joins_and_subwords_joined_by_the_wrong_method() -> None:
    words = ["a man", "two cats"]
    for text in (["a m ##an", "two cat ##s"], ["a Ġman", "two Ġcats"], ["a m￭ an", "two"]):
        found = subwords_against_words(text, words)
        assert found is not None and found.endswith("no `post_process` joins these")
    assert subwords_against_words(["am@@an", "twocat@@s"], words) is not None


def test_words_are_no_subwords() -> None:
    assert mark_of_text(WORDS) is None
    assert subwords_against_words(WORDS, WORDS) is None
    assert subwords_against_words([], []) is None
    assert subwords_against_words(["", ""], WORDS) is None
    assert subwords_against_words(["a"] * 19 + ["see foo@@ bar"], ["a"] * 20) is None


@pytest.mark.parametrize(
    ("method", "name"), [("sentencepiece", "'▁' of SentencePiece"), ("subword_nmt", "'@@' of BPE")]
)
def test_segmented_text_is_known(method: str, name: str) -> None:
    mark = mark_of_text(SEGMENTED[method])
    assert mark is not None and mark.name == name
