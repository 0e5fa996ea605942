"""Marian as an engine: the same translations and losses as the native engine, masks, programs and failures."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nmtprune import slim
from nmtprune.architecture import GroupId, Kept
from nmtprune.data.batching import BatchLimits
from nmtprune.data.corpus import Corpus, load_corpus
from nmtprune.data.marian_vocabulary import MarianVocabulary
from nmtprune.data.options import DataOptions
from nmtprune.engines import EngineSettings, open_engine
from nmtprune.engines.marian import MarianEngine, Program
from nmtprune.errors import EngineError
from nmtprune.formats import load
from nmtprune.formats.marian import MarianCheckpoint
from nmtprune.model.search import MarianSearchOptions
from nmtprune.plan import Plan
from tests.support.marian_files import VARIANTS, marian_arrays, marian_model, random_plan, write
from tests.support.marian_program import random_texts, vocabulary_file
from tests.support.subwords import KINDS, TEXT, sentencepiece_vocabulary

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
    options = DataOptions(source=source, reference=(target,), vocabs=(vocabulary, vocabulary), post_process="none")
    return load_corpus(options, checkpoint.profile(), references=False, targets=True)


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


CUTTABLE = {"transformer_dim_ffn": 8, "enc_depth": 2, "dec_depth": 3}


@pytest.mark.parametrize(
    "options", [{"transformer_tied_layers": [1, 3, 1]}, {**SSRU, "transformer_tied_layers": []}], ids=["tied", "SSRU"]
)
def test_both_engines_run_systems_without_neurons_and_layers(tmp_path: Path, options: dict[str, object]) -> None:
    """Masked systems of the full model, and the uniform cut itself, under both engines."""
    base = MarianCheckpoint.load(marian_model(tmp_path / "model.npz", **{**CUTTABLE, **options}))
    corpus, settings = _corpus(base, tmp_path, empty=False), _settings()
    numbers = base.architecture.layers("decoder")
    neurons = {group.id: range(place % 2, 6) for place, group in enumerate(base.architecture.feed_forwards)}
    systems: list[Kept] = [
        neurons,
        {GroupId.layers_of("decoder"): numbers[:1]},
        {**neurons, GroupId.layers_of("decoder"): numbers[1:], GroupId.layers_of("encoder"): (1,)},
    ]
    native, marian = (open_engine(name, base, settings) for name in ("native", "marian"))
    losses = [engine.ablation(corpus).losses(systems) for engine in (native, marian)]
    for mine, marians in zip(*losses, strict=True):
        assert mine == pytest.approx(marians, abs=1e-3)
    assert len({round(own[0], 2) for own in losses[0]}) == 3
    for kept in systems:
        cut = slim.apply(Plan.of(base.base, base.architecture.full(kept)), base, "uniform")
        found = [engine.translate(corpus, kept) for engine in (native, marian)]
        found += [open_engine(name, cut, settings).translate(corpus, {}) for name in ("native", "marian")]
        texts = [[[corpus.decode(each.tokens) for each in own] for own in one] for one in found]
        assert texts[0] == texts[1] == texts[2] == texts[3]
        scores = [[each.score for own in one for each in own] for one in found]
        assert all(own == pytest.approx(scores[0], abs=2e-4) for own in scores)


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
    assert "with fewer heads than 4: the official Marian runs slim models of `mode` masked only" in str(refusal.value)
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


def _text_corpus(checkpoint: MarianCheckpoint, vocabulary: Path, lines: list[str]) -> Corpus:
    source, target = vocabulary.with_name("in"), vocabulary.with_name("ref")
    source.write_text("".join(f"{line}\n" for line in lines))
    target.write_text("".join(f"{line}\n" for line in reversed(lines)))
    options = DataOptions(source=source, reference=(target,), vocabs=(vocabulary, vocabulary), post_process="none")
    if vocabulary.suffix == ".spm":
        options = replace(options, post_process=None)
    return load_corpus(options, checkpoint.profile(), references=False, targets=True)


def _compare(checkpoint: MarianCheckpoint, corpus: Corpus, search: MarianSearchOptions) -> list[list[int]]:
    """Both engines find the same ids, scores and losses; the ids of the best translations."""
    native, marian = (open_engine(name, checkpoint, _settings(search)) for name in ("native", "marian"))
    own, theirs = native.translate(corpus, {}), marian.translate(corpus, {})
    eos = corpus.target_vocabulary.eos
    for mine, marians in zip(own, theirs, strict=True):
        assert [[id for id in each.tokens if id != eos] for each in mine] == [
            list(each.tokens[:-1]) for each in marians
        ]
        assert [each.score for each in mine] == pytest.approx([each.score for each in marians], abs=2e-4)
    losses = [engine.ablation(corpus).losses([{}])[0] for engine in (native, marian)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
    return [list(found[0].tokens) for found in theirs]


def test_control_characters_of_a_sentencepiece_model(tmp_path: Path) -> None:
    """Pieces go in and come out, since Marian knows control characters from the SentencePiece model alone."""
    vocabulary = sentencepiece_vocabulary(tmp_path, **KINDS["byte fallback"])
    rows = len(MarianVocabulary.read(vocabulary)) + 2
    arrays = marian_arrays(words=rows, seed=4)
    control = MarianVocabulary.read(vocabulary).control
    arrays["decoder_ff_logit_out_b"][0, list(control)] += 2
    arrays["decoder_ff_logit_out_b"][0, rows - 2 :] -= 9  # the engine gets pieces, and rows behind have none
    checkpoint = MarianCheckpoint.load(write(tmp_path / "model.npz", arrays))
    corpus = _text_corpus(checkpoint, vocabulary, [*TEXT, "x\u2028y \xdc\u0085"])
    barred = _compare(checkpoint, corpus, SEARCH)
    allowed = _compare(checkpoint, corpus, replace(SEARCH, allow_special=True, allow_unk=True))
    assert not any(id in control for ids in barred for id in ids)
    assert all(any(id in control for id in ids) for ids in allowed)


def test_symbols_that_no_text_can_hold_and_ids_without_any(tmp_path: Path) -> None:
    vocabulary = tmp_path / "vocab.yml"
    odd = ["</s>", "<unk>", "a b", "", "x\u2028y", "c\x85", "\xa0", "d|||", "|||", "e"]
    vocabulary.write_text("".join(f"{json.dumps(symbol)}: {id}\n" for id, symbol in enumerate(odd)) + "far: 20\n")
    checkpoint = MarianCheckpoint.load(marian_model(tmp_path / "model.npz", words=24, seed=3))
    corpus = _text_corpus(
        checkpoint, vocabulary, ["x\u2028y </s> e <unk> ||| d|||", "\xa0 c\x85 far", "e </s>", "\xa0"]
    )
    assert [ids.tolist() for ids in corpus.source] == [[4, 0, 9, 1, 8, 7, 0], [6, 5, 20, 0], [9, 0, 0], [6, 0]]
    _compare(checkpoint, corpus, replace(SEARCH, beam=6))


def test_pre_norm_decoders_are_named(tmp_path: Path) -> None:
    pre_norm = load(marian_model(tmp_path / "pre.npz", **VARIANTS["pre-norm with norms at both ends"]))
    (note,) = open_engine("marian", pre_norm, ALONE).notes
    assert note.startswith("pre-norm decoder: Marian up to 1.12 does not normalize")
    assert open_engine("marian", load(marian_model(tmp_path / "post.npz")), ALONE).notes == ()


def test_batches_that_marian_does_not_get_are_named(ssru: MarianCheckpoint) -> None:
    (note,) = open_engine("marian", ssru, _settings()).notes
    assert note == (
        "`engine` marian translates sentences one by one, since it limits the length of translations by the longest "
        "source of a batch (`marian_batch_length_limit`: in batches, with that limit)"
    )
    by_batch = _settings(replace(SEARCH, marian_batch_length_limit=True))
    not_asked_for = EngineSettings(SEARCH, BatchLimits.of(), torch.device("cpu"), 1)
    for settings in (by_batch, not_asked_for, ALONE):
        assert open_engine("marian", ssru, settings).notes == ()


def test_prefixes(ssru: MarianCheckpoint, tmp_path: Path) -> None:
    """A source prefix is text in front; behind a target prefix the beam is whole, and Marian itself takes none."""
    plain = _corpus(ssru, tmp_path, empty=False)
    (tmp_path / "tagged").write_text("".join(f"w5 {line}\n" for line in (tmp_path / "source").read_text().splitlines()))
    vocabulary = vocabulary_file(tmp_path)
    raw = DataOptions(source=tmp_path / "tagged", vocabs=(vocabulary, vocabulary), post_process="none")
    tagged = load_corpus(raw, ssru.profile(), references=False)
    named = replace(raw, source=tmp_path / "source", source_prefix="w5", target_prefix="w3 w9")
    corpus = load_corpus(named, ssru.profile(), references=False)
    assert [own.tolist() for own in corpus.source] == [own.tolist() for own in tagged.source]
    assert corpus.source.sizes.tolist() == (plain.source.sizes + 1).tolist()
    front = corpus.frame.target_front
    assert [corpus.target_vocabulary.symbols[word] for word in front] == ["w3", "w9"]
    engine = open_engine("native", ssru, _settings(replace(SEARCH, normalize=0.0, word_penalty=0.0)))
    found = engine.translate(corpus, {})
    assert all(own.tokens[:2] == front for each in found for own in each)
    assert {len(each) for each in found} == {SEARCH.beam}
    with pytest.raises(EngineError, match="--target-prefix|`target_prefix`: Marian begins no translation"):
        open_engine("marian", ssru, _settings()).translate(corpus, {})
