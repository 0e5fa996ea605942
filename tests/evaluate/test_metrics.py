"""Scores from cached statistics are sacrebleu's, bit for bit; every tokenizer and every kind of bad input."""

import logging
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF

from nmtprune.errors import DataError, EngineError, UsageError
from nmtprune.evaluate.metrics import Bleu, Chrf, TokenLoss

words = st.lists(st.sampled_from(["a", "b", "C", "Das", "ist", "gut", ".", "1,5", "東京", "é"]), max_size=9)
lines = words.map(" ".join)
corpora = st.integers(1, 6).flatmap(
    lambda sentences: st.tuples(
        st.lists(lines, min_size=sentences, max_size=sentences),
        st.lists(st.lists(lines, min_size=sentences, max_size=sentences), min_size=1, max_size=3),
    )
)


@given(corpora, st.sampled_from(["13a", "zh", "intl", "char", "none"]), st.booleans())
@settings(deadline=None, max_examples=150)
def test_corpus_bleu_and_its_signature_are_those_of_sacrebleu(
    corpus: tuple[list[str], list[list[str]]], tokenize: str, lowercase: bool
) -> None:
    hypotheses, references = corpus
    theirs = BLEU(tokenize=tokenize, lowercase=lowercase)
    ours = Bleu(references, tokenize=tokenize, lowercase=lowercase)
    assert ours.scored(hypotheses).score == theirs.corpus_score(hypotheses, references).score
    assert ours.signature == str(theirs.get_signature())


@given(corpora, st.booleans())
@settings(deadline=None, max_examples=100)
def test_corpus_chrf_and_its_signature_are_those_of_sacrebleu(
    corpus: tuple[list[str], list[list[str]]], lowercase: bool
) -> None:
    hypotheses, references = corpus
    theirs = CHRF(lowercase=lowercase)
    ours = Chrf(references, lowercase=lowercase)
    assert ours.scored(hypotheses).score == theirs.corpus_score(hypotheses, references).score
    assert ours.signature == str(theirs.get_signature())


def test_a_sentence_may_have_fewer_references_than_streams() -> None:
    references = [["ein Haus steht hier .", "zwei"], ["das Haus steht da .", None]]
    ours = Bleu(references)
    theirs = BLEU(references=references)
    hypotheses = ["das Haus steht hier .", "zwei"]
    assert ours.scored(hypotheses).score == theirs.corpus_score(hypotheses, None).score
    assert (
        ours.signature
        == "nrefs:var|case:mixed|eff:no|tok:13a|smooth:exp|version:" + theirs.get_signature().info["version"]
    )


@pytest.mark.parametrize("metric", [Bleu, Chrf])
def test_empty_hypotheses_and_references_score_as_in_sacrebleu(metric: Any) -> None:
    theirs = {Bleu: BLEU, Chrf: CHRF}[metric]
    for hypotheses, references in [
        (["", ""], ["a b c d", ""]),
        (["a b c d e", "x"], ["", ""]),
        (["", ""], ["", ""]),
        (["a b c d e", ""], ["a b c d e", "y"]),
    ]:
        assert metric([references]).scored(hypotheses).score == theirs().corpus_score(hypotheses, [references]).score


def _sums(stats: int, bits: bool) -> np.ndarray[Any, Any]:
    """Random summed statistics [stats, 4000], with zeros among them, that BLEU or chrF can have."""
    generator = np.random.default_rng(stats)
    if not bits:
        length = generator.integers(0, 400, 4000)
        total = np.stack([np.maximum(length - n, 0) for n in range(4)])
        correct = (
            total * np.sort(generator.random((4, 4000)), axis=0)[::-1] * generator.integers(0, 2, (4, 4000))
        ).astype(int)
        return np.concatenate([[length, np.maximum(length + generator.integers(-40, 40, 4000), 0)], correct, total])
    hypothesis, reference = generator.integers(0, 3000, (2, 6, 4000)) * generator.integers(0, 2, (2, 6, 4000))
    matches = (np.minimum(hypothesis, reference) * generator.random((6, 4000))).astype(int)
    return np.stack([hypothesis, reference, matches], axis=1).reshape(18, 4000)


@pytest.mark.parametrize("precision", [np.float32, np.float64])
@pytest.mark.parametrize("metric", [Bleu([["a"]]), Chrf([["a"]])], ids=["bleu", "chrf"])
def test_scores_of_many_sums_are_those_that_sacrebleu_gives_one_by_one(metric: Any, precision: Any) -> None:
    sums = _sums(18 if metric.name == "chrf" else 10, metric.name == "chrf").astype(precision)
    ours = metric.scores(sums)
    # float64 stands for exact counts: sacrebleu has integers there.
    exact = sums if precision == np.float32 else sums.astype(np.int64)
    theirs = np.array([metric._metric._compute_score_from_stats(column).score for column in exact.T])
    assert metric.sacrebleu_error is not None
    assert np.abs(ours - theirs).max() <= metric.sacrebleu_error / 10
    assert np.array_equal(metric.sacrebleu_scores(sums), theirs)
    assert (theirs == 0).any() and (theirs > 0).any()


def test_statistics_of_a_hypothesis_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = Bleu([["eins zwei", "drei", "vier fünf"]])
    computed: list[str] = []
    real = metric._metric._compute_segment_statistics
    monkeypatch.setattr(
        metric._metric, "_compute_segment_statistics", lambda text, info: (computed.append(text), real(text, info))[1]
    )
    first = metric.scored(["eins", "drei", "vier"])
    second = metric.scored(["eins", "zwei", "vier"])
    metric.scored(["vier", "drei", "eins"])
    assert computed == ["eins", "drei", "vier", "zwei", "vier", "eins"]
    assert first.statistics[0].tolist() == second.statistics[0].tolist() == [1, 2, 1, 0, 0, 0, 1, 0, 0, 0]
    with pytest.raises(ValueError, match="read-only"):
        first.statistics[0] = 0


def test_token_loss_is_the_negated_mean_over_tokens() -> None:
    scored = TokenLoss().scored([2.5, 0.0, 6.5], [3, 1, 5])
    assert scored.score == -1.0
    assert (scored.metric.name, scored.metric.sign, scored.metric.sacrebleu_error) == ("loss", -1, None)


@pytest.mark.parametrize(
    ("losses", "tokens", "message"),
    [
        ([1.0], [1, 2], "1 losses for 2 token counts: one each per sentence"),
        ([], [], "0 losses for 0 token counts: one each per sentence"),
        ([1.0, float("nan")], [1, 2], "sentence 2: a loss of nan over 2 tokens cannot be averaged"),
        ([float("inf")], [1], "sentence 1: a loss of inf over 1 tokens cannot be averaged"),
        ([1.0], [0], "sentence 1: a loss of 1 over 0 tokens cannot be averaged"),
    ],
)
def test_losses_that_cannot_be_averaged_are_refused(losses: list[float], tokens: list[int], message: str) -> None:
    with pytest.raises(DataError) as error:
        TokenLoss().scored(losses, tokens)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ([], "no reference: there is nothing to compare hypotheses with"),
        ([[]], "no reference: there is nothing to compare hypotheses with"),
        ([["a", "b"], ["a"]], "reference files of 2, 1 lines: each needs one line per sentence"),
        ([["a", None], ["b", None]], "reference line 2: no reference for this sentence"),
    ],
)
def test_references_that_do_not_fit_are_refused(references: Any, message: str) -> None:
    for metric in (Bleu, Chrf):
        with pytest.raises(DataError) as error:
            metric(references)
        assert str(error.value) == message


def test_one_hypothesis_per_sentence() -> None:
    with pytest.raises(DataError) as error:
        Bleu([["a", "b"]]).scored(["a"])
    assert str(error.value) == "1 hypotheses for 2 references: one line per sentence each"
    with pytest.raises(TypeError, match="sequence of streams"):
        Bleu(["one string is no stream"])  # type: ignore[list-item]


def test_an_unknown_tokenizer_is_a_usage_error_that_lists_the_known_ones() -> None:
    with pytest.raises(UsageError) as error:
        Bleu([["a"]], tokenize="13b")
    assert str(error.value) == f"no BLEU tokenizer '13b': choose one of {', '.join(BLEU.TOKENIZERS)}"


@pytest.mark.parametrize(("tokenize", "module", "extra"), [("ja-mecab", "MeCab", "ja"), ("ko-mecab", "mecab_ko", "ko")])
def test_missing_tokenizer_packages_are_named(tokenize: str, module: str, extra: str) -> None:
    try:
        __import__(module)
    except ImportError:
        with pytest.raises(EngineError) as error:
            Bleu([["a"]], tokenize=tokenize)
        remedy = f'pip install "sacrebleu[{extra}]", or choose another one (`bleu_tokenize` char)'
        assert str(error.value) == f"BLEU tokenizer {tokenize}: its packages are missing: {remedy}"
    else:
        hypotheses, references = ["東京に行く"], [["東京へ行きます"]]
        theirs = BLEU(tokenize=tokenize).corpus_score(hypotheses, references).score
        assert Bleu(references, tokenize=tokenize).scored(hypotheses).score == theirs


def test_flores_tokenizers_take_the_model_that_sacrebleu_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flores_model: Path
) -> None:
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_spm.SACREBLEU_DIR", str(tmp_path))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "flores200sacrebleuspm").write_bytes(flores_model.read_bytes())
    hypotheses, references = ["ein kleines Haus"], [["ein kleiner Hund"]]
    ours = Bleu(references, tokenize="flores200")
    assert ours.scored(hypotheses).score == BLEU(tokenize="flores200").corpus_score(hypotheses, references).score
    assert "|tok:flores200|" in ours.signature


def test_a_tokenizer_model_that_cannot_be_downloaded_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_spm.SACREBLEU_DIR", str(tmp_path))
    monkeypatch.setattr("sacrebleu.utils.SACREBLEU_DIR", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    with pytest.raises(EngineError) as error:
        Bleu([["a"]], tokenize="flores200")
    assert str(error.value) == (
        f"BLEU tokenizer flores200: sacrebleu cannot download or read its model in {tmp_path}/models "
        "(<urlopen error no route to host>): put the model there, or choose another tokenizer"
    )


def test_text_that_looks_tokenized_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    metric = Bleu([["a b ."] * 100])
    with caplog.at_level(logging.WARNING, logger="nmtprune"):
        metric.scored(["a b."] * 100)
        assert caplog.messages == []
        metric.scored(["a b ."] * 100)
        metric.scored(["a c ."] * 100)
    assert caplog.messages == ["100 or more hypotheses end in a separate full stop: bleu is meant for detokenized text"]


@pytest.fixture(scope="session")
def flores_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SentencePiece model in place of the 200-language one."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("spm")
    text = folder / "text"
    text.write_text("ein kleines Haus\nein kleiner Hund\ndas Haus des Hundes\n" * 5, encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "model"), vocab_size=30, hard_vocab_limit=False, minloglevel=2
    )
    return folder / "model.model"
