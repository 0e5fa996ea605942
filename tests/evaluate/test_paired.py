"""p-values against sacrebleu run for real, and against every possible resample."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from nmtprune.evaluate.metrics import Bleu, Scored
from nmtprune.evaluate.paired import Bootstrap, ResamplingSettings
from nmtprune.evaluate.significance import SignificanceTest
from tests.support.oracles import significance as slow
from tests.support.systems import METRICS, by_sacrebleu, corpus, losses, score_one, scored_corpus


@pytest.mark.parametrize("sentences", [1, 2, 5, 40, 400])
@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_p_sacrebleu_is_that_of_sacrebleu_to_the_last_digit(
    monkeypatch: pytest.MonkeyPatch, name: str, sentences: int
) -> None:
    ours, theirs = METRICS[name]
    for seed, words in [(12345, 3), (7, 12), (1, 25)]:
        lines = corpus(sentences, 4, seed, words, changed=0.3 if sentences < 400 else 0.005)
        scores, p_values = by_sacrebleu(monkeypatch, theirs(), lines, 200, seed)
        metric = ours([lines[0]])
        scored = [metric.scored(output) for output in lines[1:]]
        settings = SignificanceTest(resamples=200, correction="none", seed=seed, threads=2)
        results = settings.compare(scored[0], scored[1:])
        assert [each.score for each in scored] == scores
        assert [result.p_sacrebleu for result in results] == p_values
        assert results[-2].p == 1.0
        assert results[-2].p_sacrebleu == 1 / 201


def test_p_sacrebleu_is_that_of_the_command_line(tmp_path: Path) -> None:
    lines = corpus(60, 3, seed=3)
    for name, output in zip(["ref", "base", "a", "b", "c"], lines, strict=False):
        (tmp_path / name).write_text("".join(line + "\n" for line in output), encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-m", "sacrebleu", "ref", "-i", "base", "a", "b", "c", "-m", "bleu", "-f", "json"]
        + ["--paired-bs", "--paired-bs-n", "300"],
        cwd=tmp_path,
        env={**os.environ, "SACREBLEU_SEED": "11"},
        capture_output=True,
        check=True,
    )
    theirs = json.loads(run.stdout)
    metric = Bleu([lines[0]])
    scored = [metric.scored(output) for output in lines[1:5]]
    results = SignificanceTest(resamples=300, correction="none", seed=11).compare(scored[0], scored[1:])
    assert [each["BLEU"]["score"] for each in theirs] == [each.score for each in scored]
    assert [each["BLEU"]["p_value"] for each in theirs[1:]] == [result.p_sacrebleu for result in results]


@pytest.mark.parametrize(
    ("test_set", "systems"),
    [("newstest2016-ende", "base tiny b c"), ("newstest2016-enru", "base tiny")],
)
@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_p_sacrebleu_on_the_outputs_of_real_systems(
    monkeypatch: pytest.MonkeyPatch, test_data: Path, test_set: str, systems: str, name: str
) -> None:
    target = test_set[-2:]
    files = [f"ref.{target}"] + [f"system-{system}.{target}" for system in systems.split()]
    lines = [
        gzip.decompress((test_data / "wmt" / f"{test_set}.{file}.gz").read_bytes()).decode().splitlines()
        for file in files
    ]
    # One word of one sentence, half of the words of a few: what masking a head does.
    lines.append([lines[1][0] + " x", *lines[1][1:]])
    lines.append([line.lower() if number % 50 == 0 else line for number, line in enumerate(lines[1])])
    ours, theirs = METRICS[name]
    scores, p_values = by_sacrebleu(monkeypatch, theirs(), lines, "bs", 300, 12345)
    metric = ours([lines[0]])
    scored = [metric.scored(output) for output in lines[1:]]
    results = SignificanceTest(resamples=300, correction="none", seed=12345).compare(scored[0], scored[1:])
    assert [each.score for each in scored] == scores
    assert [result.p_sacrebleu for result in results] == p_values


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data that NMTPRUNE_TEST_DATA names; skips where it is not set."""
    folder = os.environ.get("NMTPRUNE_TEST_DATA")
    if not folder:
        pytest.skip("NMTPRUNE_TEST_DATA is not set")
    return Path(folder)


@pytest.mark.parametrize(("name", "sentences"), [("bleu", 4), ("bleu", 5), ("chrf", 4), ("loss", 5)])
def test_the_bootstrap_p_value_agrees_with_all_resamples(name: str, sentences: int) -> None:
    n = 40_000
    for seed in range(2):
        baseline, *systems = scored_corpus(name, sentences, 3, seed)
        results = SignificanceTest(resamples=n, correction="none", seed=seed).compare(baseline, systems)
        for system, result in zip(systems, results, strict=True):
            score = score_one(baseline)
            deltas = slow.all_bootstrap_deltas(score, baseline.statistics, system.statistics)
            observed = system.score - baseline.score
            # The centre is an estimate too: its error moves the threshold.
            slack = 5 * deltas.std() / n**0.5
            low, high = slow.p_two_sided(deltas, observed, deltas.mean(), slack + 1e-9)
            error = 5 * (max(high * (1 - low), 1 / n) / n) ** 0.5
            assert low - error <= result.p <= high + error + 1 / n
            assert result.better == pytest.approx(np.mean(deltas > 1e-9), abs=0.02)
            assert result.worse == pytest.approx(np.mean(deltas < -1e-9), abs=0.02)


@pytest.mark.parametrize("name", ["bleu", "chrf", "loss"])
def test_resampled_differences_are_those_of_one_resample_after_the_other(name: str) -> None:
    baseline, *systems = scored_corpus(name, 30, 3, 2)
    test = Bootstrap(baseline, systems, ResamplingSettings(200, seed=4, threads=2, chunk=17))
    results = test.run()
    for number, system in enumerate(systems):
        deltas = slow.bootstrap_deltas(score_one(baseline), baseline.statistics, system.statistics, 200, 4)
        assert np.abs(test._deltas[number] - deltas).max() < 1e-11
        observed = abs(system.score - baseline.score)
        expected = (np.sum(np.abs(deltas - deltas.mean()) >= observed - 1e-10) + 1) / 201
        assert results[number].p == expected
        assert results[number].interval == pytest.approx(np.percentile(deltas, [2.5, 97.5]), abs=1e-11)
        assert results[number].better + results[number].worse + np.sum(np.abs(deltas) <= 1e-10) == 200


@pytest.mark.parametrize("name", ["bleu", "chrf", "loss"])
def test_results_depend_neither_on_chunks_nor_on_threads(name: str) -> None:
    baseline, *systems = scored_corpus(name, 37, 5, 9)
    whole = Bootstrap(baseline, systems, ResamplingSettings(500, seed=3, chunk=512)).run()
    for chunk, threads in [(1, 1), (50, 3), (96, 2), (None, 2)]:
        settings = ResamplingSettings(500, seed=3, threads=threads, chunk=chunk)
        assert Bootstrap(baseline, systems, settings).run() == whole


def test_loss_results_are_exact_too_for_any_chunk_of_many_sentences() -> None:
    baseline, *systems = losses(5000, 2, 0)
    whole = Bootstrap(baseline, systems, ResamplingSettings(300, seed=3, chunk=300)).run()
    assert Bootstrap(baseline, systems, ResamplingSettings(300, seed=3, chunk=7, threads=2)).run() == whole


def test_one_changed_sentence_is_a_tie_wherever_it_is_not_drawn() -> None:
    lines = corpus(50, 0, seed=2)
    metric = Bleu([lines[0]])
    baseline = metric.scored(lines[1])
    system = metric.scored([lines[1][0] + " w1 w2", *lines[1][1:]])
    (result,) = SignificanceTest(resamples=20_000, correction="none").compare(baseline, [system])
    assert 1 - result.better - result.worse == pytest.approx((1 - 1 / 50) ** 50, abs=0.02)


def test_systems_that_always_score_zero_are_settled_by_sacrebleu_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [["a b c d"] * 5, ["x y z"] * 5, ["x y"] * 5]
    metric = Bleu([lines[0]])
    baseline, system = (metric.scored(output) for output in lines[1:])
    (result,) = SignificanceTest(resamples=200, correction="none", seed=3).compare(baseline, [system])
    assert result.p_sacrebleu == by_sacrebleu(monkeypatch, BLEU(), lines, 200, 3)[1][0]
    assert result.p == 1.0


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_sums_beyond_float32_are_rounded_as_sacrebleu_rounds_them(name: str) -> None:
    generator = np.random.default_rng(3)
    metric: Any = METRICS[name][0]([["a"] * 90])

    def scored() -> Scored:
        if name == "bleu":
            length = generator.integers(200_000, 900_001, 90)
            matches = (length * generator.random((4, 90)) * 0.9).astype(int)
            return Scored(metric, np.stack([length, length + 7, *np.sort(matches, axis=0)[::-1], *[length - 3] * 4]).T)
        counts = generator.integers(400_000, 900_001, (6, 90))
        return Scored(metric, np.stack([counts, counts + 9, counts // 3], axis=1).reshape(18, 90).T)

    baseline, system = scored(), scored()
    test = Bootstrap(baseline, [system], ResamplingSettings(300, seed=2, chunk=50))
    (result,) = test.run()
    single = [each.statistics.astype(np.float32) for each in (baseline, system)]
    score = lambda sums: metric._metric._compute_score_from_stats(sums).score  # noqa: E731
    exact = slow.bootstrap_deltas(score, baseline.statistics, system.statistics, 300, 2)
    deltas = np.abs(slow.bootstrap_deltas(score, *single, 300, 2)).astype(np.float64 if name == "bleu" else np.float32)
    assert (np.abs(exact) != deltas).any()
    assert np.abs(test._sacrebleu_differences(0) - deltas).max() <= 1e-10
    observed = abs(system.score - baseline.score)
    assert result.p_sacrebleu == (np.sum(deltas - deltas.mean() > observed) + 1) / 301
