"""What makes a baseline mean nothing."""

import math
from collections.abc import Sequence

import pytest

from nmtprune.evaluate.metrics import Bleu, Chrf, TokenLoss
from nmtprune.evaluate.sanity import FLOORS, Translations, of_loss, of_score, of_translations

SOURCE, REFERENCE = "the cat sat on the mat", "die Katze saß auf der Matte"


def _output(
    texts: Sequence[str],
    *,
    sources: Sequence[str] | None = None,
    references: Sequence[Sequence[str]] | None = None,
    cut: Sequence[bool] | None = None,
) -> Translations:
    count = len(texts)
    return Translations(
        texts, sources or [SOURCE] * count, [[REFERENCE] * count] if references is None else references,
        cut or [False] * count,
    )  # fmt: skip


def _mixed(bad: str, count: int) -> list[str]:
    return [bad] * count + [REFERENCE] * (10 - count)


@pytest.mark.parametrize(("bad", "words"), [("", "are empty"), ("  ", "are empty"), (SOURCE, "repeat the source"),
                                            ("The Cat sat on  the mat", "repeat the source")])  # fmt: skip
def test_shares(bad: str, words: str) -> None:
    for count in (0, 1):
        assert of_translations(_output(_mixed(bad, count))) == of_translations(_output(_mixed(bad, 0)))
    for count in (2, 5):
        found = of_translations(_output(_mixed(bad, count)))
        assert found.faults == () and found.remarks == (f"of 10 translations {count} {words}",)
    found = of_translations(_output(_mixed(bad, 6)))
    assert found.faults == (f"of 10 translations 6 {words}",) and found.remarks == ()


def test_kinds_count_together() -> None:
    texts = ["", "", SOURCE, SOURCE, "x y", "x y", *[REFERENCE] * 4]
    cut = [False] * 4 + [True] * 2 + [False] * 4
    (fault,) = of_translations(_output(texts, cut=cut)).faults
    assert fault == "of 10 translations 2 are empty, 2 repeat the source, 2 end at the limit of length"


def test_copies_and_empty_lines_that_are_meant() -> None:
    """To correct text, most of which is right, or to translate an empty line."""
    nothing = of_translations(_output([REFERENCE] * 10))
    assert of_translations(_output([SOURCE] * 10, references=[[SOURCE] * 10])) == nothing
    assert of_translations(_output([SOURCE] * 10, references=[[REFERENCE] * 10, [SOURCE.upper()] * 10])) == nothing
    assert of_translations(_output([SOURCE] * 10, references=[])) == nothing
    assert of_translations(_output([""] * 10, sources=[" "] * 10)) == nothing
    assert of_translations(_output([""] * 10, references=[[""] * 10])) == nothing


def test_floors() -> None:
    # Texts that share no word, or no character, with their references.
    wrong = ["x y z w v"] * 10
    for metric in (Bleu([[REFERENCE] * 10]), Chrf([[REFERENCE] * 10])):
        scored = metric.scored(wrong)
        assert scored.score < FLOORS[metric.name]
        (fault,) = of_score(scored, _output(wrong)).faults
        assert fault.startswith(f"{metric.name} {scored.score:.2f} is below {FLOORS[metric.name]:g}: the direction")
        assert of_score(metric.scored([REFERENCE] * 10), _output([REFERENCE] * 10)).faults == ()


def test_the_source_in_the_place_of_the_references() -> None:
    references = [[SOURCE] * 10]
    scored = Bleu(references).scored([REFERENCE] * 10)
    (fault,) = of_score(scored, _output([REFERENCE] * 10, references=references)).faults
    assert fault == f"bleu {scored.score:.2f} is below 1: the references are the source sentences"


def test_words_cut_in_other_places_are_told_from_wrong_words() -> None:
    joined = [REFERENCE.replace(" ", "")] * 10
    scored = Bleu([[REFERENCE] * 10]).scored(joined)
    (fault,) = of_score(scored, _output(joined)).faults
    assert fault.startswith(f"bleu {scored.score:.2f} is below 1: the characters are right")
    assert "`bleu_tokenize`" in fault and "`post_process`" in fault


def test_a_loss_is_below_chance() -> None:
    words = 100
    for value, faults in ((2.0, 0), (math.log(words) - 1e-6, 0), (math.log(words), 1), (9.0, 1)):
        scored = TokenLoss().scored([value * 5] * 10, [5] * 10)
        assert len(of_loss(scored, words).faults) == faults
