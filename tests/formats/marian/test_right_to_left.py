"""Models that read and write from right to left: every command does what Marian does."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nmtprune.architecture import Kept
from nmtprune.data.batching import BatchLimits
from nmtprune.data.corpus import load_corpus
from nmtprune.data.options import DataOptions
from nmtprune.data.ragged import Sentences
from nmtprune.engines import EngineSettings, open_engine
from nmtprune.formats.marian import MarianCheckpoint, archive
from nmtprune.plan import Plan
from nmtprune.scores import Scores
from tests.support.cli import nmtprune, refused
from tests.support.marian_files import write
from tests.support.marian_trained import SEARCH, Texts, Verdict, judge, train, with_options

OPTIONS = ("--beam", SEARCH.beam, "--normalize", SEARCH.normalize, "--max-length-factor", SEARCH.max_length_factor)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Texts:
    return Texts.write(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, texts: Texts) -> Path:
    return train(tmp_path_factory.mktemp("models"), texts, {"own": {"right-left": True}})["own"]


@pytest.fixture(scope="module")
def verdict(model: Path, texts: Texts) -> Verdict:
    return judge({"own": model}, texts)["own"]


def _data(texts: Texts) -> tuple[object, ...]:
    vocabs = ("--vocabs", texts.vocabulary, texts.vocabulary, "--post-process", "none")
    return (*vocabs, "--source", texts.source, "--batch-size", 1)


def _backwards(path: Path) -> Path:
    lines = (" ".join(reversed(line.split())) for line in path.read_text().splitlines())
    found = path.with_name(f"{path.name}-backwards")
    found.write_text("".join(f"{line}\n" for line in lines))
    return found


def test_sentences_backwards() -> None:
    import numpy as np

    sentences = Sentences.of([np.array([5, 6, 7, 0]), np.array([0]), np.array([8, 0])])
    assert [sentence.tolist() for sentence in sentences.backwards()] == [[7, 6, 5, 0], [0], [8, 0]]


@pytest.mark.parametrize("engine", ["native", "marian"])
def test_translations_are_those_of_marian(engine: str, model: Path, verdict: Verdict, texts: Texts) -> None:
    result = nmtprune("translate", model, *_data(texts), *OPTIONS, "--engine", engine, "-q")
    assert result.code == 0, result.stderr
    assert result.stdout.splitlines() == [best[0].text for best in verdict.translations]


def test_engines_agree_under_masks(model: Path, texts: Texts) -> None:
    checkpoint = MarianCheckpoint.load(model)
    vocabs = (texts.vocabulary, texts.vocabulary)
    options = DataOptions(source=texts.source, reference=(texts.target,), vocabs=vocabs, post_process="none")
    corpus = load_corpus(options, checkpoint.profile(), targets=True)
    settings = EngineSettings(SEARCH, BatchLimits.of(None, 1), torch.device("cpu"), 1)
    plan = Plan.removing(checkpoint.base, checkpoint.architecture.head_ids()[::3])
    systems: list[Kept] = [{}, {module.id: plan.kept(module.id) for module in checkpoint.architecture}]
    native, marian = (open_engine(name, checkpoint, settings).ablation(corpus) for name in ("native", "marian"))
    ours, theirs = ([[corpus.decode(text) for text in own] for own in one.best(systems)] for one in (native, marian))
    assert ours == theirs
    for own, expected in zip(native.losses(systems), marian.losses(systems), strict=True):
        assert own == pytest.approx(expected, abs=1e-3)
    assert [corpus.decode(sentence) for sentence in corpus.target or ()] == texts.target.read_text().splitlines()


def test_loss_of_heads(model: Path, verdict: Verdict, texts: Texts, tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    options = (
        "--metric",
        "loss",
        "--kinds",
        "cross",
        "--resamples",
        200,
        "--correction",
        "none",
        "-q",
        "--allow-few-sentences",
    )
    result = nmtprune("score", model, *_data(texts), "--reference", texts.target, *options, "-o", path)
    assert result.code == 0, result.stderr
    words = sum(len(line.split()) + 1 for line in texts.target.read_text().splitlines())
    assert Scores.read(path).baseline["value"] == pytest.approx(-sum(verdict.scores) / words, abs=1e-4)


@pytest.mark.parametrize("metric", ["importance", pytest.param("confidence", marks=pytest.mark.slow)])
def test_scores_are_those_of_the_twin_on_texts_backwards(
    metric: str, model: Path, texts: Texts, tmp_path: Path
) -> None:
    """The same weights that read from left to right, on sentences turned round."""
    twin = write(tmp_path / "twin.npz", with_options(archive.read_archive(model), {"right-left": False}))
    turned = replace(texts, source=_backwards(texts.source), target=_backwards(texts.target))
    found = []
    for path, own in ((model, texts), (twin, turned)):
        out = tmp_path / f"{path.stem}.json"
        data = (*_data(own), "--reference", own.target)
        result = nmtprune("score", path, *data, "--metric", metric, "-o", out, "-q")
        assert result.code == 0, result.stderr
        found.append({entry["head"]: entry["score"] for entry in json.loads(out.read_text())["heads"]})
    assert found[0] == pytest.approx(found[1], abs=1e-6) and len({*found[0].values()}) > 1


def test_inspect_says_so(model: Path) -> None:
    assert nmtprune("inspect", model).stdout.startswith("marian transformer, right to left: 24 heads\n")


def test_slim_models_stay_right_to_left(model: Path, texts: Texts, tmp_path: Path) -> None:
    plan, masked, cut = tmp_path / "plan.json", tmp_path / "masked.npz", tmp_path / "cut.npz"
    assert nmtprune("plan", model, "--random", "50%", "-o", plan).code == 0
    for mode, path in (("masked", masked), ("cut", cut)):
        assert nmtprune("slim", model, "--plan", plan, "--mode", mode, "-o", path, "-q").code == 0
    translated = nmtprune("translate", cut, *_data(texts), *OPTIONS, "-q")
    assert translated.code == 0, translated.stderr
    expected = judge({"masked": masked}, texts)["masked"]
    assert translated.stdout.splitlines() == [best[0].text for best in expected.translations]


def test_refusals(model: Path, texts: Texts, tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2")
    twin = write(tmp_path / "twin.npz", with_options(archive.read_archive(model), {"right-left": False}))
    vocabs = ("--vocabs", texts.vocabulary, texts.vocabulary, "--post-process", "none")
    assert refused("export", model, *vocabs, "--to", "ctranslate2", "-o", tmp_path / "ct2") == (
        6, f"{model}: CTranslate2 cannot run this model: sentences from right to left (right-left)"
    )  # fmt: skip
    assert not (tmp_path / "ct2").exists()
    code, line = refused("bench", model, twin, *vocabs, "--source", texts.source, "--batch-size", 1)
    assert code == 5 and f"{twin} has another direction of reading (right-left) than {model}" in line
