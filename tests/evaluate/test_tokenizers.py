"""The tokenizer of BLEU: sacrebleu's own choice for a target language, however it is spelled."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from sacrebleu.metrics import BLEU

from nmtprune.errors import EngineError
from nmtprune.evaluate.metrics import Bleu
from nmtprune.evaluate.tokenizers import doubts, language_code, sacrebleu_tokenizer

SPELLINGS = {
    "zh": ("zh", "zh_CN", "zh-CN", "zh-TW", "zh_Hans", "zho_Hans", "zho", "chi", "cmn", "cmn_Hans", "cn", "ZH",
           "__zh__", "<2zh>", ">>zho<<", "zh.tok"),
    "ja": ("ja", "ja_XX", "ja-JP", "jpn", "jpn_Jpan", "jp"),
    "ko": ("ko", "ko_KR", "kor", "kor_Hang"),
}  # fmt: skip

TEXTS = {
    "zh": (("猫坐在垫子上。", "今天 天气很好。"), ("猫坐在垫上。", "今天天气好。")),
    "ja": (("猫がマットの上に座っている。", "今日は天気がいい。"), ("猫はマットに座っている。", "今日は天気がよい。")),
    "ko": (("고양이가 매트 위에 앉아 있다.", "날씨가 좋다."), ("고양이가 매트에 앉아 있다.", "날씨 좋다.")),
    "th": (("แมวนั่งบนเสื่อ วันนี้ อากาศ ดี มาก", "ก ข ค ง จ"), ("แมวนั่งบนเสื่อ วันนี้ อากาศ ดี", "ก ข ค ง ฉ")),
    "de": (("Die Katze sitzt auf der Matte.", "Es ist schön."), ("Die Katze sitzt auf Matten.", "Es ist so schön.")),
}  # fmt: skip


@pytest.mark.parametrize(("code", "spelled"), [(code, name) for code, names in SPELLINGS.items() for name in names])
def test_languages_have_many_spellings(code: str, spelled: str) -> None:
    assert language_code(spelled) == code
    assert sacrebleu_tokenizer(spelled) == BLEU._TOKENIZER_MAP[code]


@pytest.mark.parametrize("spelled", ["de", "deu_Latn", "th", "th_TH", "tgt", "", "yue", "zu", "jv", "kok", "chr"])
def test_other_languages_have_the_default(spelled: str) -> None:
    assert sacrebleu_tokenizer(spelled) == BLEU.TOKENIZER_DEFAULT == "13a"
    assert sacrebleu_tokenizer(None) == "13a"


@pytest.mark.parametrize("language", TEXTS)
def test_bleu_is_that_of_the_command_line(language: str, tmp_path: Path) -> None:
    hypotheses, references = TEXTS[language]
    tokenizer = BLEU._TOKENIZER_MAP.get(language, "13a")
    packages = {"ja-mecab": "MeCab", "ko-mecab": "mecab_ko"}
    if tokenizer in packages and not find_spec(packages[tokenizer]):
        with pytest.raises(EngineError, match=rf'pip install "sacrebleu\[{language}\]"'):
            Bleu([references], language=language)
        return
    for name, lines in (("hyp", hypotheses), ("ref", references)):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", "hyp", "-b", "-w", "12", "-l", f"en-{language}"]
    theirs = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()
    ours = Bleu([references], language=language)
    assert f"{ours.scored(hypotheses).score:.12f}" == theirs
    assert f"|tok:{BLEU(trg_lang=language).tokenizer_signature}|" in ours.signature


def test_an_explicit_choice_wins() -> None:
    assert "|tok:char|" in Bleu([["猫"]], tokenize="char", language="zh").signature


@pytest.mark.parametrize(
    ("line", "script", "tokenizer"),
    [
        ("猫坐在垫子上 on 3 mats", "Chinese", "zh or name"),
        ("猫がマットの上に座っている", "Japanese", "ja-mecab"),
        ("고양이가 매트 위에 앉아 있다", "Korean", "ko-mecab"),
        ("แมวนั่งบนเสื่อ", "Thai", "flores200 or char"),
        ("ແມວນັ່ງເທິງຜ້າ", "Lao", "flores200 or char"),
        ("ឆ្មាអង្គុយលើកន្ទេល", "Khmer", "flores200 or char"),
        ("ကြောင်သည်ဖျာပေါ်တွင်ထိုင်သည်", "Burmese", "flores200 or char"),
        ("བྱི་ལ་གདན་སྟེང་ལ་བསྡད་", "Tibetan", "flores200 or char"),
    ],
)
def test_scripts_without_blanks_are_noticed(line: str, script: str, tokenizer: str) -> None:
    (remark,) = doubts("13a", [line, line], explicit=False)
    assert f"mostly {script}" in remark and f"`bleu_tokenize` {tokenizer}" in remark
    assert len(doubts("13a", [line], explicit=True)) == (script != "Korean")  # Korean has blanks
    assert doubts("char", [line], explicit=True) == []


@pytest.mark.parametrize("line", ["Die Katze heißt 猫.", "Кошка сидит на коврике.", "बिल्ली चटाई पर बैठी है", "", "3 - 4"])
def test_scripts_with_blanks_raise_no_doubt(line: str) -> None:
    assert doubts("13a", [line], explicit=False) == []
