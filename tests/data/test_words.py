"""Tokens join to words by the marks of their segmenter, and fit words that are split in any other way."""

import pytest

from nmtprune.data.words import NO_WORD, UNKNOWN, Spelling

SENTENCEPIECE = ("▁A", "▁dog", "gy", "▁isn", "'t", "▁here", ".", None)
BPE = ("A", "dog@@", "gy", "isn@@", "'t", "here@@", ".", None)
WORDS = [0, 1, 1, 2, 2, 3, 3, NO_WORD]


@pytest.mark.parametrize(
    ("symbols", "method", "words"),
    [
        (SENTENCEPIECE, "sentencepiece", WORDS),
        (BPE, "subword_nmt", WORDS),
        (("A", "dog", None), "none", [0, 1, NO_WORD]),
        ((None, "▁", "A", "▁", "dog", None), "sentencepiece", [NO_WORD, 0, 0, 1, 1, NO_WORD]),
        (("A▁", "dog", "gy▁", None), "sentencepiece", [0, 1, 1, NO_WORD]),
        (("a_EOW", "d", "og_EOW"), "_EOW", [0, 1, 1]),
    ],
)
def test_words_between_blanks(symbols: tuple[str | None, ...], method: str, words: list[int]) -> None:
    found = Spelling(symbols, method).by_marks()
    assert (found.of_token.tolist(), found.count) == (words, max(words) + 1)


def test_a_model_that_reads_backwards() -> None:
    found = Spelling((*reversed(SENTENCEPIECE[:-1]), None), "sentencepiece", backwards=True)
    assert found.by_marks().of_token.tolist() == [*reversed(WORDS[:-1]), NO_WORD]
    assert found.text == "A doggy isn't here."


@pytest.mark.parametrize("symbols", [(SENTENCEPIECE, "sentencepiece"), (BPE, "subword_nmt")])
def test_words_that_are_split_otherwise(symbols: tuple[tuple[str | None, ...], str]) -> None:
    spelling = Spelling(*symbols)
    found = spelling.by_characters(["a", "Doggy", "is", "n't", "here", "."])
    assert found is not None and found.of_token.tolist() == [0, 1, 1, 2, 3, 4, 5, NO_WORD]
    found = spelling.by_characters(["A", "doggy", "isn't", "here."])
    assert found is not None and found.of_token.tolist() == WORDS
    for other in (["A", "dog", "isn't", "here."], ["A", "doggy", "isn't", "here", ".", "!"], [], ["A doggy isn't her"]):
        assert spelling.by_characters(other) is None


def test_tokens_of_unknown_characters() -> None:
    spelling = Spelling(("▁Ein", "▁", UNKNOWN, UNKNOWN, "▁hier", UNKNOWN, None), "sentencepiece")
    found = spelling.by_characters(["Ein", "ďž", "hier", "?"])
    assert found is not None and found.of_token.tolist() == [0, 1, 1, 1, 2, 3, NO_WORD]
    assert spelling.by_characters(["Ein", "ďž", "dort", "?"]) is None
