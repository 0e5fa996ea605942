import pytest

from nmtprune.data.language_tags import LanguageTags, form_of

TAGS = [
    ">>deu<<", ">>zho_Hans<<", "<2de>", "<de>", "<lang:de>", "__de__", "__opt_tgt_de", "[de]", "[de_DE]", "{de}",
    "@de@", "##de##", "de_DE", "en_XX", "zho_Hans",
]  # fmt: skip
WORDS = [
    "the", "The", "de", "DE", "▁de", "<s>", "</s>", "<unk>", "<pad>", "<mask>", "[UNK]", "<0x0A>", "...", "(de)",
    "[2]", "<3", ">>", "<<", "__", "-de-", "U.S.", "it's", "state_of_the_art", "@@", "de@@", "e-mail", "&lt;",
]  # fmt: skip


def _pieces(text: str) -> str:
    """A segmenter that has seen no tag: the letters of every word."""
    return " ".join(f"▁{' '.join(word)}" for word in text.split())


@pytest.mark.parametrize("tag", TAGS)
def test_tags_stay_whole_in_front_only(tag: str) -> None:
    tags = LanguageTags.of(["▁", "a", "▁a", tag])
    assert tags.split(f"{tag} a {tag}", _pieces) == ([tag], f"a {tag}")
    assert tags.split(f" {tag}\ta", _pieces) == ([tag], "a")
    assert tags.split(f"a {tag}", _pieces) == ([], f"a {tag}")
    assert tags.split(tag, _pieces) == ([tag], "")
    assert LanguageTags.of(["▁a"]).split(f"{tag} a", _pieces) == ([], f"{tag} a")


@pytest.mark.parametrize("word", WORDS)
def test_words_are_no_tags(word: str) -> None:
    assert form_of(word) is None
    assert LanguageTags.of([word, ">>x<<"]).split(f"{word} a", _pieces) == ([], f"{word} a")


def test_several_tags() -> None:
    tags = LanguageTags.of([">>deu<<", ">>formal<<", "<b>"])
    assert tags.split(">>deu<< >>formal<< <b> a >>deu<<", _pieces) == ([">>deu<<", ">>formal<<", "<b>"], "a >>deu<<")
    assert tags.split(">>deu<<a man", _pieces) == ([">>deu<<"], "a man")


def test_a_segmenter_that_keeps_tags_whole_has_them() -> None:
    tags = LanguageTags.of([">>deu<<"])
    assert tags.split(">>deu<< a", lambda text: f"▁ {text}") == ([], ">>deu<< a")


def test_tags_that_are_missing_or_unknown() -> None:
    tags = LanguageTags.of([">>deu<<", ">>fra<<", "▁a"])
    assert tags.remarks([">>de<< a", ">>de<< b", ">>deu<< c"], lambda text: text.replace(">>de<<", "> > de < <")) == [
        "'>>de<<' in front of 2 of 3 sentences is no symbol of the source vocabulary (which has >>deu<<, >>fra<<): "
        "it is cut like a word"
    ]
    assert tags.remarks(["a", "b"], _pieces) == [
        "no sentence starts with one of the language tokens that the source vocabulary has (>>deu<<, >>fra<<)"
    ]
    assert tags.remarks([">>deu<< a"], lambda text: text) == []
    assert LanguageTags.of(["[de]", "▁a"]).remarks(["a", "<p> b"], _pieces) == []
    assert LanguageTags().remarks(["<p> a", "[1] b"], _pieces) == []
