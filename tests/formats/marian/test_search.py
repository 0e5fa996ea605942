"""Marian's beam search on the native model, against Marian itself."""

import itertools
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nmtprune import slim
from nmtprune.architecture import Kept
from nmtprune.data.batching import BatchLimits
from nmtprune.data.corpus import Corpus, load_corpus
from nmtprune.data.options import DataOptions
from nmtprune.engines.base import EngineSettings
from nmtprune.engines.native import NativeEngine
from nmtprune.formats.marian import MarianCheckpoint
from nmtprune.model.search import MarianSearchOptions
from tests.support.marian_files import VARIANTS, marian_arrays, marian_model, random_plan, write
from tests.support.marian_program import marian_translations, random_texts, vocabulary_file

PRE_NORM, LATE = "pre-norm with norms at both ends", "late tied layer"
TIED_LATE = {"dec_depth": 3, "transformer_tied_layers": [1, 1, 2]}
SEARCHES = {
    "greedy": MarianSearchOptions(beam=1),
    "beam": MarianSearchOptions(beam=4, normalize=1.0),
    "penalties": MarianSearchOptions(beam=3, normalize=0.6, word_penalty=0.3, max_length_factor=1.5),
    "unknown words": MarianSearchOptions(beam=5, allow_unk=True, max_length_factor=0.4),
}


QUICK = {
    ("post-norm, all tied", "penalties"),
    ("post-norm, all tied", "unknown words"),
    ("SSRU decoder of tied layers", "greedy"),
    ("SSRU decoder of tied layers", "beam"),
    ("pre-norm SSRU decoder", "beam"),
    (PRE_NORM, "beam"),
    (PRE_NORM, "greedy"),
    (LATE, "beam"),
}


def _quick_and_slow(variants: Iterable[str]) -> list[object]:
    """Every variant under every search; few of them in the quick tests."""
    pairs = itertools.product(variants, SEARCHES)
    return [pytest.param(*pair, marks=() if pair in QUICK else (pytest.mark.slow,)) for pair in pairs]


def _options(search: MarianSearchOptions) -> tuple[object, ...]:
    given = ("--beam-size", search.beam, "--normalize", search.normalize, "--word-penalty", search.word_penalty)
    unknown = ("--allow-unk",) if search.allow_unk else ()
    return (*given, "--max-length-factor", search.max_length_factor, *unknown)


def _engine(checkpoint: MarianCheckpoint, search: MarianSearchOptions) -> NativeEngine:
    """With batches, where Marian gets sentences one by one."""
    return NativeEngine(checkpoint, EngineSettings(search, BatchLimits.of(None, 5), torch.device("cpu"), 1))


def _corpus(checkpoint: MarianCheckpoint, vocabulary: Path, source: Path) -> Corpus:
    options = DataOptions(source=source, vocabs=(vocabulary, vocabulary), post_process="none")
    return load_corpus(options, checkpoint.profile(), references=False)


def _check(engine: NativeEngine, vocabulary: Path, source: Path, model: Path) -> None:
    """All hypotheses of the native engine are those of Marian: texts, order and scores."""
    search = engine.settings.search
    assert isinstance(search, MarianSearchOptions)
    corpus = _corpus(MarianCheckpoint.load(model), vocabulary, source)
    theirs = marian_translations(model, vocabulary, source, *_options(search))
    for ours, expected in zip(engine.translate(corpus, {}), theirs, strict=True):
        assert [corpus.decode(found.tokens) for found in ours] == [best.text for best in expected]
        assert [found.score for found in ours] == pytest.approx([best.score for best in expected], abs=2e-4)


@pytest.mark.parametrize(("variant", "search"), _quick_and_slow(name for name in VARIANTS if name != PRE_NORM))
def test_hypotheses_are_those_of_marian(tmp_path: Path, variant: str, search: str) -> None:
    path = marian_model(tmp_path / "model.npz", **VARIANTS[variant])
    source, _ = random_texts(tmp_path)
    _check(_engine(MarianCheckpoint.load(path), SEARCHES[search]), vocabulary_file(tmp_path), source, path)


@pytest.mark.parametrize("search", ["greedy", "beam"])
def test_pre_norm_decoders_as_marian_searches(tmp_path: Path, search: str) -> None:
    """With keys as that Marian takes them, hypotheses are its own; without, they are others."""
    path = marian_model(tmp_path / "model.npz", **VARIANTS[PRE_NORM])
    source, _ = random_texts(tmp_path)
    vocabulary, base = vocabulary_file(tmp_path), MarianCheckpoint.load(path)
    as_marian = replace(SEARCHES[search], unnormalized_keys=True)
    _check(_engine(base, as_marian), vocabulary, source, path)
    corpus = _corpus(base, vocabulary, source)
    as_trained = _engine(base, SEARCHES[search]).translate(corpus, {})
    assert [found[0].tokens for found in as_trained] != [
        found[0].tokens for found in _engine(base, as_marian).translate(corpus, {})
    ]


def test_a_cut_model_translates_as_the_masked_one_does_in_marian(tmp_path: Path) -> None:
    base = MarianCheckpoint.load(marian_model(tmp_path / "model.npz", **VARIANTS["SSRU decoder of tied layers"]))
    source, _ = random_texts(tmp_path)
    vocabulary = vocabulary_file(tmp_path)
    for seed, share in ((1, 0.3), (2, 0.7)):
        plan = random_plan(base, seed, share)
        slim.apply(plan, base, "masked").save(tmp_path / "masked.npz", force=True)
        _check(_engine(slim.apply(plan, base), SEARCHES["beam"]), vocabulary, source, tmp_path / "masked.npz")


def _systems(checkpoint: MarianCheckpoint) -> list[Kept]:
    """Every fifth head masked alone, and random combinations."""
    rng, heads = np.random.default_rng(5), checkpoint.architecture.head_ids()
    whole = {module.id: range(module.heads) for module in checkpoint.architecture}
    alone = [[head] for head in heads[::5]]
    several = [[head for head in heads if rng.random() < share] for share in (0.2, 0.5, 0.9)]
    return [
        {id: [head for head in there if not any(own.group == id and own.number == head for own in gone)]
         for id, there in whole.items()}
        for gone in [*alone, *several, []]
    ]  # fmt: skip


@pytest.mark.parametrize(("variant", "search"), _quick_and_slow([*VARIANTS, LATE]))
def test_ablation_is_search_under_masks(tmp_path: Path, variant: str, search: str) -> None:
    """Replayed searches find for every mask what a search from scratch finds."""
    shape = {**VARIANTS, LATE: TIED_LATE}[variant]
    base = MarianCheckpoint.load(marian_model(tmp_path / "model.npz", **shape))
    source, _ = random_texts(tmp_path)
    source.write_text(source.read_text() + "\nw3\n\n")
    corpus = _corpus(base, vocabulary_file(tmp_path), source)
    options = replace(SEARCHES[search], unnormalized_keys=variant == PRE_NORM)
    engine = NativeEngine(base, EngineSettings(options, BatchLimits.of(None, 5), torch.device("cpu"), 1))
    systems = _systems(base)
    for kept, found in zip(systems, engine.ablation(corpus).best(systems), strict=True):
        assert found == [hypotheses[0].tokens for hypotheses in engine.translate(corpus, kept)]
        assert found[-1] == (0,)


@pytest.mark.parametrize(
    ("variant", "seed", "likely"),
    [("SSRU decoder of tied layers", 2, 2.9), ("post-norm, all tied", 3, 2.0), (PRE_NORM, 1, 1.4)],
)
def test_the_last_of_several_greedy_batches_go_on_together(
    tmp_path: Path, variant: str, seed: int, likely: float
) -> None:
    """What waits for other batches is translated, and scored, as it is alone; some texts are cut off, some are not."""
    arrays = marian_arrays(seed=seed, **VARIANTS[variant])
    arrays["decoder_ff_logit_out_b"][0, 0] += likely  # so that sentences end at many lengths
    base = MarianCheckpoint.load(write(tmp_path / "model.npz", arrays))
    rng = np.random.default_rng(7)
    source = tmp_path / "source"
    source.write_text("".join(" ".join(f"w{word}" for word in rng.integers(2, 40, 7)) + "\n" for _ in range(36)))
    corpus = _corpus(base, vocabulary_file(tmp_path), source)
    options = MarianSearchOptions(beam=1, normalize=1.0, word_penalty=0.1, unnormalized_keys=variant == PRE_NORM)
    plan = random_plan(base, 2, 0.4)
    masked: Kept = {module.id: plan.kept(module.id) for module in base.architecture}
    for kept in ({}, masked) if seed == 2 else ({},):
        found = []
        for size in (12, 1):  # a batch of one never waits
            settings = EngineSettings(options, BatchLimits.of(None, size), torch.device("cpu"), 1)
            found.append(NativeEngine(base, settings).translate(corpus, kept))
        lengths = {len(own[0].tokens) for own in found[0]}
        assert kept or (len(lengths) > 3 and max(lengths) == 24)  # three times the source
        for mine, expected in zip(*found, strict=True):
            assert mine[0].tokens == expected[0].tokens
            assert mine[0].score == pytest.approx(expected[0].score, abs=1e-4)
