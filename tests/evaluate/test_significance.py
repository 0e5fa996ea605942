"""Corrections against textbooks, numbers of resamples, verdicts, and what is refused."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from nmtprune.errors import DataError, UsageError
from nmtprune.evaluate import paired, significance
from nmtprune.evaluate.metrics import Bleu, Chrf, Scored
from nmtprune.evaluate.significance import SignificanceTest, correct
from tests.support.oracles import significance as slow
from tests.support.systems import losses, scored_corpus


def test_results_depend_on_no_other_system_and_not_on_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    baseline, *systems = scored_corpus("bleu", 50, 5, 1)
    test = SignificanceTest(resamples=1000, correction="none", seed=5)
    together = test.compare(baseline, systems)
    assert [test.compare(baseline, [system])[0] for system in systems] == list(together)
    monkeypatch.setattr(significance, "_MEMORY_BYTES", 16 * 1000 * 2)
    assert test.compare(baseline, systems) == together
    assert test.compare(baseline, [systems[0], systems[1], systems[0]])[2] == together[0]


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0001, 0.001, 0.004, 0.01, 0.02, 0.2, 0.5, 1.0]), min_size=1, max_size=12))
def test_holm_and_benjamini_hochberg(p_values: list[float]) -> None:
    assert correct(p_values, "holm") == pytest.approx(slow.holm(p_values), abs=0)
    assert correct(p_values, "bh") == pytest.approx(false_discovery_control(p_values, method="bh"), rel=1e-14)
    assert correct(p_values, "none") == p_values
    assert correct([], "holm") == []


def test_corrections_by_hand() -> None:
    # Holm: 4 x 0.01, 3 x 0.02, then 0.06 again for 2 x 0.022, 0.9.
    assert correct([0.9, 0.01, 0.022, 0.02], "holm") == pytest.approx([0.9, 0.04, 0.06, 0.06])
    assert correct([0.9, 0.01, 0.022, 0.02], "bh") == pytest.approx([0.9, 0.0293333333, 0.0293333333, 0.0293333333])


@pytest.mark.parametrize(
    ("tests", "alpha", "correction", "resamples"),
    [
        (144, 0.01, "holm", 144_000),
        (144, 0.01, "bh", 144_000),
        (144, 0.01, "none", 10_000),
        (1, 0.01, "none", 10_000),
        (3, 0.07, "holm", 429),
        (288, 0.05, "holm", 57_600),
        (5, 0.00005, "none", 200_000),
    ],
)
def test_automatic_resamples(tests: int, alpha: float, correction: Any, resamples: int) -> None:
    assert SignificanceTest(alpha=alpha, correction=correction).resamples_for(tests) == resamples


@pytest.mark.parametrize("alpha", ["0.01", "0.05", "0.07", "0.3", "0.9"])
@pytest.mark.parametrize("tests", [1, 2, 3, 7, 11])
def test_the_smallest_number_of_resamples_that_works(alpha: str, tests: int) -> None:
    corrections: list[Any] = ["holm", "bh", "none"]
    for correction in corrections:
        smallest = next(slow.smallest_resamples(alpha, tests if correction != "none" else 1))

        def settings(resamples: int, correction: Any = correction) -> SignificanceTest:
            return SignificanceTest(alpha=float(alpha), correction=correction, resamples=resamples)

        assert settings(smallest).resamples_for(tests) == smallest
        if smallest > 1:
            with pytest.raises(UsageError, match=f"give `resamples` {smallest} or more, or auto"):
                settings(smallest - 1).resamples_for(tests)


def test_too_few_resamples_are_refused_with_the_smallest_number_that_works() -> None:
    with pytest.raises(UsageError) as error:
        SignificanceTest(resamples=14_399).resamples_for(144)
    assert error.value.exit_code == 2
    assert str(error.value) == (
        "`resamples` 14399 is too few: the smallest p-value of n resamples is 1/(n+1), and 144 tests at alpha 0.01 "
        "with correction holm cannot find anything below n = 14400; give `resamples` 14400 or more, or auto"
    )
    # What the smallest number can find: one system that differs in all resamples.
    assert correct([1 / 14_401] + [1.0] * 143, "holm")[0] < 0.01
    assert not correct([1 / 14_400] + [1.0] * 143, "holm")[0] < 0.01


def test_settings_that_no_test_can_have_are_named_together() -> None:
    with pytest.raises(UsageError) as error:
        SignificanceTest(alpha=1.0, correction="sidak", resamples=0, seed=-1, threads=0)  # type: ignore[arg-type]
    assert str(error.value) == (
        "significance test: alpha 1 is not between 0 and 1; no correction 'sidak': choose one of holm, bh, none; "
        "0 resamples: give a number from 1 on, or auto; seed -1 is negative; 0 threads: give a number from 1 on"
    )


def test_systems_of_other_sentences_or_metrics_are_refused() -> None:
    bleu, chrf = Bleu([["a", "b"]]), Chrf([["a", "b"]])
    baseline = bleu.scored(["a", "b"])
    short = Bleu([["a"]]).scored(["a"])
    with pytest.raises(DataError) as error:
        SignificanceTest().compare(baseline, [baseline, chrf.scored(["a", "b"]), short])
    assert str(error.value) == (
        f"baseline of 2 sentences scored by {bleu.signature}: system 2 is scored by {chrf.signature}; "
        "system 3 has 1 sentences"
    )
    assert SignificanceTest().compare(baseline, []) == ()


def test_more_resamples_than_memory_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise MemoryError

    baseline, system = scored_corpus("bleu", 5, 1, 4)
    monkeypatch.setattr(paired.np, "empty", full)
    with pytest.raises(UsageError) as error:
        SignificanceTest(resamples=2**30, correction="none").compare(baseline, [system])
    assert str(error.value) == "`resamples` 1073741824: 16.0 GiB are not free in memory; ask for fewer"


def test_seed_zero_is_a_seed_and_seeds_differ() -> None:
    baseline, *systems = scored_corpus("bleu", 60, 3, 8)

    def run(seed: int) -> Any:
        return SignificanceTest(resamples=2000, correction="none", seed=seed).compare(baseline, systems)

    assert run(0) == run(0)
    assert run(0) != run(1)


@pytest.mark.parametrize("name", ["bleu", "chrf", "loss"])
def test_identical_outputs_have_p_one_and_only_ties(name: str) -> None:
    baseline, other = scored_corpus(name, 25, 1, 4)
    same = Scored(baseline.metric, baseline.statistics.copy())
    results = SignificanceTest(resamples=500, alpha=0.05, correction="holm").compare(baseline, [same, other])
    assert (results[0].p, results[0].p_corrected, results[0].significant) == (1.0, 1.0, False)
    assert (results[0].delta, results[0].ci, results[0].better, results[0].worse) == (0.0, (0.0, 0.0), 0.0, 0.0)
    assert results[1].better + results[1].worse <= 1.0


def test_a_loss_keeps_its_own_direction() -> None:
    baseline, worse = losses(200, 1, 6)
    (result,) = SignificanceTest(resamples=999, alpha=0.05, correction="none").compare(baseline, [worse])
    assert result.delta == worse.score * -1 - baseline.score * -1 > 0
    assert 0 < result.ci[0] < result.delta < result.ci[1]
    assert (result.worse, result.better, result.p_sacrebleu, result.significant) == (1.0, 0.0, None, True)
