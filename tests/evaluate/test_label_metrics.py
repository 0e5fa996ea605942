"""Metrics of labels against scikit-learn, McNemar's test against scipy, and the bootstrap against enumeration."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from nmtprune.errors import DataError
from nmtprune.evaluate.label_metrics import F1, LABEL_METRICS, Accuracy, ExampleLoss, Matthews, without_reading
from nmtprune.evaluate.mcnemar import two_sided
from nmtprune.evaluate.metrics import Scored
from nmtprune.evaluate.paired import Bootstrap, ResamplingSettings
from nmtprune.evaluate.significance import SignificanceTest

PAIRS = st.integers(2, 4).flatmap(
    lambda classes: st.tuples(
        st.just(classes),
        st.lists(st.tuples(*[st.integers(0, classes - 1)] * 2), min_size=1, max_size=40),
    )
)


@settings(max_examples=200, deadline=None)
@given(PAIRS)
@pytest.mark.filterwarnings("ignore")
def test_metrics_are_those_of_scikit_learn(drawn: tuple[int, list[tuple[int, int]]]) -> None:
    classes, pairs = drawn
    true, said = (np.array(side, dtype=np.int64) for side in zip(*pairs, strict=True))
    found = {name: metric(true, classes).scored(said).score for name, metric in LABEL_METRICS.items()}
    f1 = {"labels": [1], "average": "macro"} if classes == 2 else {"average": "macro"}
    assert found == pytest.approx(
        {
            "accuracy": 100 * accuracy_score(true, said),
            "f1": 100 * f1_score(true, said, zero_division=0, **f1),
            "matthews": 100 * matthews_corrcoef(true, said),
        },
        abs=1e-9,
    )


def test_the_sums_of_resamples_score_as_the_resampled_texts_do() -> None:
    rng = np.random.default_rng(3)
    true, said = rng.integers(0, 3, (2, 30))
    draws = rng.integers(0, 30, (20, 30))
    for kind in LABEL_METRICS.values():
        statistics = kind(true, 3).scored(said).statistics
        sums = statistics[draws].sum(axis=1).T.astype(np.float64)
        again = [kind(true[own], 3).scored(said[own]).score for own in draws]
        assert kind(true, 3).scores(sums) == pytest.approx(again, abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemars_p_is_that_of_scipys_binomial_test(gained: int, lost: int) -> None:
    total = gained + lost
    expected = binomtest(gained, total, 0.5).pvalue if total else 1.0
    assert two_sided(min(gained, lost), total) == pytest.approx(expected, rel=1e-9)


def test_mcnemars_p_of_a_textbook() -> None:
    """Edwards' 1948 table has 121 and 59 discordant pairs; exact p of statsmodels' mcnemar."""
    assert two_sided(59, 180) == pytest.approx(4.434e-06, rel=1e-3)
    assert two_sided(3000, 6200) == pytest.approx(binomtest(3000, 6200, 0.5).pvalue, rel=1e-9)


def test_accuracy_is_tested_by_mcnemar_and_corrected() -> None:
    rng = np.random.default_rng(5)
    true = rng.integers(0, 2, 200)
    metric = Accuracy(true, 2)
    base = metric.scored(np.where(rng.random(200) < 0.9, true, 1 - true))
    systems = [metric.scored(np.where(rng.random(200) < share, true, 1 - true)) for share in (0.9, 0.7, 0.5)]
    found = SignificanceTest(alpha=0.01, correction="holm").compare(base, systems)
    for system, difference in zip(systems, found, strict=True):
        right, other = (own.statistics[:, 0] > 0 for own in (base, system))
        gained, lost = int((other & ~right).sum()), int((right & ~other).sum())
        assert difference.p == pytest.approx(binomtest(gained, gained + lost, 0.5).pvalue, rel=1e-9)
        assert difference.delta == pytest.approx(100 * (gained - lost) / 200)
        assert difference.ci[0] <= difference.delta <= difference.ci[1]
        assert difference.p_sacrebleu is None
    ordered = sorted(each.p for each in found)
    assert sorted(each.p_corrected for each in found) == pytest.approx(
        np.minimum(np.maximum.accumulate(np.array(ordered) * [3, 2, 1]), 1).tolist()
    )
    assert SignificanceTest.method_of(metric) == "mcnemar-exact"
    assert SignificanceTest.method_of(F1(true, 2)) == "bootstrap"


def test_the_same_labels_differ_in_nothing() -> None:
    metric = Accuracy(np.array([0, 1, 1]), 2)
    same = np.array([0, 1, 0])
    (found,) = SignificanceTest().compare(metric.scored(same), [metric.scored(same.copy())])
    assert (found.p, found.delta, found.ci) == (1.0, 0.0, (0.0, 0.0))


def _enumerated(base: Scored, system: Scored) -> tuple[float, float]:
    """The p-value over all resamples, each as likely, and the mean of the resampled differences."""
    metric, texts = base.metric, len(base.statistics)
    draws = np.array(list(itertools.product(range(texts), repeat=texts)))
    first, second = (metric.scores(own.statistics[draws].sum(axis=1).T.astype(np.float64)) for own in (base, system))
    deltas = second - first
    observed = system.score - base.score
    return float(np.mean(np.abs(deltas - deltas.mean()) >= abs(observed) - 1e-10)), float(deltas.mean())


@pytest.mark.parametrize("kind", [F1, Matthews])
def test_the_bootstrap_comes_to_the_enumeration_of_all_resamples(kind: type[F1 | Matthews]) -> None:
    true, first, second = np.array([[0, 1, 1, 0, 1, 1], [0, 1, 1, 0, 0, 1], [1, 1, 0, 0, 0, 1]])
    metric = kind(true, 2)
    base, system = metric.scored(first), metric.scored(second)
    p, mean = _enumerated(base, system)
    test = Bootstrap(base, [system], ResamplingSettings(60_000, 1))
    assert float(test.deltas().mean()) == pytest.approx(mean, abs=0.4)
    assert test.run()[0].p == pytest.approx(p, abs=0.01)


def test_losses_of_texts_come_to_the_enumeration_too() -> None:
    metric = ExampleLoss()
    first, second = np.random.default_rng(2).gamma(1.0, size=(2, 6))
    base, system = metric.of_texts(first), metric.of_texts(second)
    assert base.score == pytest.approx(-first.mean())
    p, _ = _enumerated(base, system)
    (found,) = Bootstrap(base, [system], ResamplingSettings(60_000, 1)).run()
    assert found.p == pytest.approx(p, abs=0.01)


def test_what_a_model_that_reads_nothing_gives() -> None:
    labels = np.array([1, 1, 0, 0, 0, 0])
    found = {name: without_reading(labels, 2, name) for name in ("accuracy", "f1", "matthews", "loss")}
    assert found["accuracy"] == (pytest.approx(100 * 4 / 6), 0)
    assert found["f1"] == (pytest.approx(100 * 4 / 8), 1), "always the rare label is the best for F1 of it"
    assert found["matthews"] == (0, 0)
    assert found["loss"] == (pytest.approx(-(np.log(2 / 3) * 2 / 3 + np.log(1 / 3) / 3)), 0)


def test_predictions_that_do_not_fit() -> None:
    with pytest.raises(DataError, match="2 predicted labels for 3 texts"):
        Accuracy(np.array([0, 1, 1]), 2).scored(np.array([0, 1]))
    with pytest.raises(DataError, match="no labels"):
        Matthews(np.array([], dtype=np.int64), 2)
