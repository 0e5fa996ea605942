"""Marian as an engine: the same translations and losses as the native engine, masks, programs and failures."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch

from nmtprune import slim
from nmtprune.data.batching import BatchLimits
from nmtprune.data.corpus import Corpus, load_corpus
from nmtprune.data.marian_vocabulary import MarianVocabulary
from nmtprune.data.options import DataOptions
from nmtprune.engines import EngineSettings, Kept, open_engine
from nmtprune.engines.marian import MarianEngine, Program
from nmtprune.engines.profile import profile
from nmtprune.errors import EngineError
from nmtprune.formats import load
from nmtprune.formats.marian import MarianCheckpoint
from nmtprune.model.search import MarianSearchOptions
from tests.formats.marian.test_checkpoint import VARIANTS, random_plan
from tests.marian_builders import marian_model
from tests.marian_program import random_texts, vocabulary_file

SEARCH = MarianSearchOptions(beam=3, normalize=1.0, word_penalty=0.1, max_length_factor=2.0)
SSRU = VARIANTS["SSRU decoder of tied layers"]


def _settings(search: MarianSearchOptions = SEARCH) -> EngineSettings:
    return EngineSettings(search, BatchLimits.of(None, 4), torch.device("cpu"), 1)


ALONE = EngineSettings(SEARCH, BatchLimits.of(None, 1), torch.device("cpu"), 1)


def _corpus(checkpoint: MarianCheckpoint, folder: Path, empty: bool = True) -> Corpus:
    source, target = random_texts(folder)
    if empty:
        source.write_text("\n" + source.read_text())
        target.write_text("w3\n" + target.read_text())
    vocabulary = vocabulary_file(folder)
    options = DataOptions(source=source, reference=target, vocabs=(vocabulary, vocabulary), post_process="none")
    return load_corpus(options, profile(checkpoint), references=False, targets=True)


def _some_kept(checkpoint: MarianCheckpoint) -> Kept:
    plan = random_plan(checkpoint, 2, 0.5)
    return {module.id: plan.kept(module.id) for module in checkpoint.architecture}


@pytest.fixture
def ssru(tmp_path: Path) -> MarianCheckpoint:
    return MarianCheckpoint.load(marian_model(tmp_path / "model.npz", **SSRU))


@pytest.mark.parametrize("by_batch", [False, True], ids=["one by one", "in batches"])
def test_both_engines_translate_and_score_alike(ssru: MarianCheckpoint, tmp_path: Path, by_batch: bool) -> None:
    corpus = _corpus(ssru, tmp_path)
    settings = _settings(replace(SEARCH, marian_batch_length_limit=by_batch))
    native, marian = (open_engine(name, ssru, settings) for name in ("native", "marian"))
    systems: list[Kept] = [{}, _some_kept(ssru)]
    for kept in systems:
        own, theirs = native.translate(corpus, kept), marian.translate(corpus, kept)
        assert [[corpus.decode(each.tokens) for each in found] for found in own[1:]] == [
            [corpus.decode(each.tokens) for each in found] for found in theirs[1:]
        ]
        assert [corpus.decode(found[0].tokens) for found in (own[0], theirs[0])] == ["", ""]
        scores = [each.score for found in theirs[1:] for each in found]
        assert [each.score for found in own[1:] for each in found] == pytest.approx(scores, abs=2e-4)
    ablations = native.ablation(corpus), marian.ablation(corpus)
    best = [[[corpus.decode(text) for text in texts] for texts in ablation.best(systems)] for ablation in ablations]
    assert best[0] == best[1]
    losses = [ablation.losses(systems) for ablation in ablations]
    for mine, marians in zip(*losses, strict=True):
        assert mine == pytest.approx(marians, abs=1e-3)


def test_a_program_on_the_path_runs_too(
    ssru: MarianCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, programs = _corpus(ssru, tmp_path), tmp_path / "bin"
    expected = open_engine("marian", ssru, _settings()).translate(corpus, {})
    programs.mkdir()
    for name, command in (("marian-decoder", "decode"), ("marian-scorer", "score")):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m pymarian {command} "$@"\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert Program.find() == Program((str(programs / "marian-decoder"),), (str(programs / "marian-scorer"),))
    engine = open_engine("marian", ssru, _settings())
    assert engine.translate(corpus, {}) == expected
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match="^Marian is not installed: pip install 'nmtprune\\[marian\\]', or have"):
        open_engine("marian", ssru, _settings())


def test_what_marian_cannot_run(ssru: MarianCheckpoint, tmp_path: Path, tiny: Path) -> None:
    cut = slim.apply(random_plan(ssru, 1, 0.5), ssru)
    with pytest.raises(EngineError) as refusal:
        open_engine("marian", cut, _settings())
    assert "with fewer heads than 4: the official Marian runs slim models of --mode masked only" in str(refusal.value)
    with pytest.raises(EngineError, match="the engine marian cannot run this model: a checkpoint of fairseq"):
        open_engine("marian", load(tiny), _settings())


def test_what_marian_says_of_its_failures(ssru: MarianCheckpoint, tmp_path: Path) -> None:
    engine = MarianEngine(ssru, _settings(MarianSearchOptions(beam=3)))
    corpus = _corpus(ssru, tmp_path, empty=False)
    engine.program = Program((*engine.program.decoder, "--no-such-option"), engine.program.scorer)
    with pytest.raises(EngineError) as failure:
        engine.translate(corpus, {})
    line = str(failure.value)
    assert line.startswith(f"{ssru.path}: marian-decoder failed: ") and "no-such-option" in line and "\n" not in line


def test_what_only_sentencepiece_models_tell_marian(ssru: MarianCheckpoint, tmp_path: Path) -> None:
    """Control characters cannot be barred by a list of symbols: they are allowed, or the engine refuses."""
    corpus = _corpus(ssru, tmp_path, empty=False)
    vocabulary = replace(cast(MarianVocabulary, corpus.target_vocabulary), control=(5,))
    with_control = replace(corpus, target_vocabulary=vocabulary)
    with pytest.raises(EngineError, match="control characters, which may be chosen here: give --allow-special"):
        open_engine("marian", ssru, _settings()).translate(with_control, {})
    allowed = _settings(replace(SEARCH, allow_special=True))
    found = [open_engine(name, ssru, allowed).translate(with_control, {}) for name in ("native", "marian")]
    texts = [[corpus.decode(own[0].tokens) for own in each] for each in found]
    assert texts[0] == texts[1]


def test_pre_norm_decoders_are_named(tmp_path: Path) -> None:
    pre_norm = load(marian_model(tmp_path / "pre.npz", **VARIANTS["pre-norm with norms at both ends"]))
    (note,) = open_engine("marian", pre_norm, ALONE).notes
    assert note.startswith("pre-norm decoder: Marian up to 1.12 does not normalize")
    assert open_engine("marian", load(marian_model(tmp_path / "post.npz")), ALONE).notes == ()


def test_batches_that_marian_does_not_get_are_named(ssru: MarianCheckpoint) -> None:
    (note,) = open_engine("marian", ssru, _settings()).notes
    assert note == (
        "--engine marian translates sentences one by one, since it limits the length of translations by the longest "
        "source of a batch (--marian-batch-length-limit: in batches, with that limit)"
    )
    by_batch = _settings(replace(SEARCH, marian_batch_length_limit=True))
    not_asked_for = EngineSettings(SEARCH, BatchLimits.of(), torch.device("cpu"), 1)
    for settings in (by_batch, not_asked_for, ALONE):
        assert open_engine("marian", ssru, settings).notes == ()
