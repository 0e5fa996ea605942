"""The tokenizer that BLEU finds words with: sacrebleu's own choice for a target language, and when to doubt it.

sacrebleu knows a language by its two-letter code; data and models spell languages in many ways.
"""

import re
from collections.abc import Iterable

_ALIASES = {
    "zh": ("zho", "chi", "cmn", "cn", "zhs", "zht", "chinese", "mandarin"),
    "ja": ("jpn", "jp", "japanese"),
    "ko": ("kor", "korean"),
}
"""Other spellings of the languages for which sacrebleu has a tokenizer of its own."""

_CODES = {alias: code for code, aliases in _ALIASES.items() for alias in aliases}

_WORDS_BETWEEN_BLANKS = ("13a", "intl", "none")
"""Tokenizers that find words between blanks and punctuation."""

_SCRIPTS = {
    "Japanese": ("\u3041-\u30ff\uff66-\uff9f", "ja-mecab"),
    "Chinese": ("\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff", "zh"),
    "Korean": ("\u1100-\u11ff\uac00-\ud7af", "ko-mecab"),
    "Thai": ("\u0e00-\u0e7f", "flores200 or char"),
    "Lao": ("\u0e80-\u0eff", "flores200 or char"),
    "Tibetan": ("\u0f00-\u0fff", "flores200 or char"),
    "Burmese": ("\u1000-\u109f\uaa60-\uaa7f", "flores200 or char"),
    "Khmer": ("\u1780-\u17ff", "flores200 or char"),
}
"""Scripts without blanks between words, and Korean, whose words sacrebleu splits: characters, fitting tokenizers."""

_WITH_BLANKS = ("Korean",)
_KANA_SHARE = 0.1
"""Share of kana from which on text with Chinese characters is Japanese."""


def language_code(name: str) -> str:
    """The code by which sacrebleu knows a language: ``zh`` for zh_CN, zh-Hans, zho_Hans, cmn, ...; else lower case.

    A country or a script behind the language is left out, and so are the signs of a language token (``>>zho<<``).
    """
    first = re.split(r"[-_.@]", name.strip().strip("<>[]_").removeprefix("2").lower())[0]
    return _CODES.get(first, first)


def sacrebleu_tokenizer(language: str | None) -> str:
    """The tokenizer that ``sacrebleu -l SOURCE-LANGUAGE`` takes; its default where the language is not known."""
    from sacrebleu.metrics import BLEU

    chosen: str = BLEU._TOKENIZER_MAP.get(language_code(language or ""), BLEU.TOKENIZER_DEFAULT)
    return chosen


def doubts(tokenizer: str, references: Iterable[str], *, explicit: bool) -> list[str]:
    """A remark where a tokenizer that needs blanks between words is to count a script that has none.

    Args:
        tokenizer: the one that is taken.
        references: one stream of them.
        explicit: the user named it.
    """
    if tokenizer not in _WORDS_BETWEEN_BLANKS:
        return []
    script = _script(references)
    if script is None or (explicit and script in _WITH_BLANKS):
        return []
    fitting = _SCRIPTS[script][1]
    codes = {"Japanese": "ja", "Chinese": "zh", "Korean": "ko"}
    named = f" or name the target language (`target_lang` {codes[script]})" if script in codes and not explicit else ""
    return [
        f"the references are mostly {script}, whose words BLEU's tokenizer {tokenizer} does not separate: give "
        f"`bleu_tokenize` {fitting}{named}"
    ]


def _script(lines: Iterable[str]) -> str | None:
    """The script of _SCRIPTS that a third of the letters or more are of, each of which stands for several of others."""
    text = "".join(lines)
    counts = {name: len(re.findall(f"[{characters}]", text)) for name, (characters, _) in _SCRIPTS.items()}
    letters = sum(map(str.isalpha, text))
    kana, han = counts["Japanese"], counts["Chinese"]
    if kana > _KANA_SHARE * (kana + han):
        counts |= {"Japanese": kana + han, "Chinese": 0}
    largest = max(counts, key=lambda name: counts[name])
    return largest if 3 * counts[largest] > max(letters, 1) else None
