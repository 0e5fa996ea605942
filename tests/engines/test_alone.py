"""A translation depends on its sentence alone, whatever is translated with it, by every engine and for both formats.

All models here make texts that only the limit of length ends, most of them beside others that end earlier: limits of
whole batches would change them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nmtprune.architecture import GroupId, Kept
from nmtprune.data.batching import BatchLimits
from nmtprune.data.corpus import Corpus, load_corpus, random_corpus
from nmtprune.data.options import DataOptions
from nmtprune.data.ragged import Sentences
from nmtprune.engines import Engine, EngineSettings, open_engine, toolkit
from nmtprune.formats import load
from nmtprune.formats.base import Checkpoint
from nmtprune.model.search import Hypothesis, MarianSearchOptions, Search, SearchOptions
from tests.support import fairseq_commands, networks
from tests.support.fairseq_files import Build
from tests.support.marian_files import VARIANTS, marian_arrays, write
from tests.support.marian_program import marian_translations, vocabulary_file

LENGTHS = (1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10, 12, 12, 14, 16)
"""Tokens of the sentences, the end-of-sentence symbol included."""

MARIAN = {"post-norm, all tied": (3, 1.3), "SSRU decoder of tied layers": (5, 1.5)}
"""Variant -> seed, and what makes the end of a sentence likelier."""

FAIRSEQ = ("post-norm, separate embeddings", "learned positions, embedding norm")

FAIRSEQ_SEARCHES = {
    "greedy": SearchOptions(beam=1, max_len_a=1.2, max_len_b=1),
    "beam": SearchOptions(beam=3, max_len_a=1.5, max_len_b=0, min_len=0),
    "unnormalized": SearchOptions(beam=3, max_len_a=1.2, max_len_b=2, unnormalized=True),
}
MARIAN_SEARCHES = {
    "greedy": MarianSearchOptions(beam=1, max_length_factor=1.5),
    "beam": MarianSearchOptions(beam=3, max_length_factor=1.1, normalize=1.0),
    "unnormalized": MarianSearchOptions(beam=3, max_length_factor=1.5),
}


@dataclass(frozen=True)
class Subject:
    """A model, and sentences for it."""

    checkpoint: Checkpoint
    corpus: Corpus

    def some(self, places: list[int]) -> Corpus:
        """These sentences, in this order."""
        source, everyone = self.corpus.source.select(np.array(places)), np.arange(len(places))
        return replace(self.corpus, source=source, numbers=everyone, total=len(places))

    def engine(self, name: str, search: Search, size: int) -> Engine:
        """An engine with batches of up to `size` sentences."""
        return open_engine(name, self.checkpoint, _settings(search, size))

    def text(self, hypothesis: Hypothesis) -> str:
        """What a translation says: whether it was cut off does not matter."""
        return self.corpus.decode(hypothesis.tokens)


def _settings(search: Search, size: int) -> EngineSettings:
    return EngineSettings(search, BatchLimits(None, size, 1), torch.device("cpu"), 1)


def _subject(checkpoint: Checkpoint, data: DataOptions) -> Subject:
    corpus = random_corpus(data, checkpoint.profile(), 1)
    rng, words = np.random.default_rng(1), len(corpus.source_vocabulary)
    eos = corpus.source_vocabulary.eos
    sentences = Sentences.of([np.append(rng.integers(4, words, length - 1), eos) for length in LENGTHS])
    everyone = np.arange(len(LENGTHS))
    return Subject(checkpoint, replace(corpus, source=sentences, numbers=everyone, total=len(LENGTHS)))


@pytest.fixture(scope="module")
def subject(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Subject]:
    """A subject by the name of its variant, made once."""
    made: dict[str, Subject] = {}

    def make(variant: str) -> Subject:
        if variant in FAIRSEQ:
            path = networks.randomized(build(**networks.VARIANTS[variant]))
            data = DataOptions(data_bin=path.parent / "data-bin", post_process="none")
        else:
            folder, (seed, likely) = tmp_path_factory.mktemp("marian"), MARIAN[variant]
            arrays = marian_arrays(seed=seed, **VARIANTS[variant])
            arrays["decoder_ff_logit_out_b"][0, 0] += likely
            path, vocabulary = write(folder / "model.npz", arrays), vocabulary_file(folder)
            data = DataOptions(source=folder / "source", vocabs=(vocabulary, vocabulary), post_process="none")
        return _subject(load(path), data)

    def remembered(variant: str) -> Subject:
        if variant not in made:
            made[variant] = make(variant)
        return made[variant]

    return remembered


def _search(variant: str, name: str) -> Search:
    return FAIRSEQ_SEARCHES[name] if variant in FAIRSEQ else MARIAN_SEARCHES[name]


def _by_batch(search: Search) -> Search:
    if isinstance(search, MarianSearchOptions):
        return replace(search, marian_batch_length_limit=True)
    return replace(search, fairseq_batch_length_limit=True)


def _check_same(found: list[list[Hypothesis]], expected: list[list[Hypothesis]]) -> None:
    assert [[each.tokens for each in own] for own in found] == [[each.tokens for each in own] for own in expected]
    for own, theirs in zip(found, expected, strict=True):
        assert [each.score for each in own] == pytest.approx([each.score for each in theirs], abs=1e-4)


def _check_limits_matter(found: list[list[Hypothesis]], search: Search) -> None:
    """Several of the best translations have been stopped."""
    longest = [search.max_len(length, 1024) + 1 for length in LENGTHS]
    assert sum(len(own[0].tokens) >= most for own, most in zip(found, longest, strict=True)) >= 3


def _some_places(most: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a check on random batches: which sentences, in which order, and how many together; some several times."""
    places = st.lists(st.integers(0, len(LENGTHS) - 1), min_size=1, max_size=10)

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        several = given(places=places, size=st.integers(1, 10))(check)
        several = example(places=list(range(len(LENGTHS))), size=len(LENGTHS))(several)
        return settings(max_examples=most, derandomize=True, deadline=None, database=None)(several)

    return decorate


CASES = [(variant, name) for variant in (*FAIRSEQ, *MARIAN) for name in ("greedy", "beam", "unnormalized")]
SERVED = [(variant, name) for variant, name in CASES if "SSRU" not in variant]
QUICK = {(FAIRSEQ[0], "beam"), ("post-norm, all tied", "greedy"), ("SSRU decoder of tied layers", "beam")}


def _quick_and_slow(cases: list[tuple[str, str]]) -> list[object]:
    return [pytest.param(*case, marks=() if case in QUICK else (pytest.mark.slow,)) for case in cases]


def _check_translations(subject: Subject, engine: Engine, search: Search) -> None:
    alone = engine.translate(subject.corpus, {})
    _check_limits_matter(alone, search)

    @_some_places(5)
    def check(places: list[int], size: int) -> None:
        engine.settings = _settings(search, size)
        _check_same(engine.translate(subject.some(places), {}), [alone[place] for place in places])

    check()
    engine.settings = _settings(_by_batch(search), len(LENGTHS))
    assert engine.translate(subject.corpus, {}) != alone


@pytest.mark.parametrize(("variant", "name"), _quick_and_slow(CASES))
def test_native(subject: Callable[[str], Subject], variant: str, name: str) -> None:
    own, search = subject(variant), _search(variant, name)
    _check_translations(own, own.engine("native", search, 1), search)


@pytest.mark.parametrize(("variant", "name"), _quick_and_slow(SERVED))
def test_ctranslate2(subject: Callable[[str], Subject], variant: str, name: str) -> None:
    own, search = subject(variant), _search(variant, name)
    _check_translations(own, own.engine("ctranslate2", search, 1), search)


@pytest.mark.parametrize(("variant", "name"), _quick_and_slow(CASES))
def test_ablation(subject: Callable[[str], Subject], variant: str, name: str) -> None:
    """Under every choice of heads, the recorded search finds what the sentence alone is translated to."""
    own, search = subject(variant), _search(variant, name)
    engine = own.engine("native", search, 1)
    cross, encoder = GroupId("cross", 0), GroupId("encoder", 0)
    systems: list[Kept] = [{}, {cross: [0, 2, 3]}, {encoder: [], cross: [3]}]
    alone = [[found[0].tokens for found in engine.translate(own.corpus, kept)] for kept in systems]

    @_some_places(3)
    def check(places: list[int], size: int) -> None:
        engine.settings = _settings(search, size)
        found = engine.ablation(own.some(places)).best(systems)
        assert found == [[texts[place] for place in places] for texts in alone]

    check()


@pytest.mark.parametrize(("variant", "name"), _quick_and_slow([(variant, "beam") for variant in MARIAN]))
def test_marian_itself(subject: Callable[[str], Subject], tmp_path: Path, variant: str, name: str) -> None:
    """It gets sentences one by one, which its own command does at --mini-batch 1; with the flag it gets batches."""
    own, search = subject(variant), _search(variant, name)
    assert isinstance(search, MarianSearchOptions)
    alone = own.engine("native", search, 1).translate(own.corpus, {})
    source, vocabulary = tmp_path / "source", own.corpus.source_vocabulary
    source.write_text("".join(f"{vocabulary.string(own.corpus.source[place])}\n" for place in range(len(LENGTHS))))
    options = ("--beam-size", search.beam, "--normalize", search.normalize)
    theirs = marian_translations(
        own.checkpoint.path, vocabulary.path, source, *options, "--max-length-factor", search.max_length_factor
    )
    found = own.engine("marian", search, 7).translate(own.corpus, {})
    for one, other, expected in zip(alone[1:], found[1:], theirs[1:], strict=True):
        assert (
            [own.text(each) for each in one] == [own.text(each) for each in other] == [best.text for best in expected]
        )
        assert [each.score for each in one] == pytest.approx([best.score for best in expected], abs=2e-4)
    for size in (5, 9):
        by_batch = [own.engine(engine, _by_batch(search), size) for engine in ("native", "marian")]
        texts = [[[own.text(each) for each in one] for one in engine.translate(own.corpus, {})] for engine in by_batch]
        assert texts[0][1:] == texts[1][1:]
        assert texts[0] != [[own.text(each) for each in one] for one in alone]


@pytest.mark.parametrize("limit", [(1.2, 10), pytest.param((1.5, 0), marks=pytest.mark.slow)], ids=str)
def test_fairseq_itself(
    subject: Callable[[str], Subject], limit: tuple[float, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets sentences one by one where the limit depends on the source; with the flag it gets batches."""
    monkeypatch.setattr(toolkit, "run", fairseq_commands.in_this_process)
    own, search = subject(FAIRSEQ[0]), SearchOptions(beam=2, max_len_a=limit[0], max_len_b=limit[1])
    alone = own.engine("native", search, 1).translate(own.corpus, {})
    _check_limits_matter(alone, search)
    for options in (search, _by_batch(search)):
        native, fairseq = (own.engine(name, options, 5).translate(own.corpus, {}) for name in ("native", "fairseq"))
        _check_same(fairseq, native)
        texts = [[[each.tokens for each in one] for one in found] for found in (native, alone)]
        assert (texts[0] == texts[1]) == (options is search)


@pytest.mark.parametrize(("factor", "words"), [(1.2, 31), (2.2, 55)])
def test_the_limit_is_computed_in_marians_precision(tmp_path: Path, factor: float, words: int) -> None:
    """1.2 times 25 tokens are a little more than 30 in single precision, and 2.2 times 25 no more than 55."""
    arrays = marian_arrays()
    arrays["decoder_ff_logit_out_b"][0, 0] -= 30
    path, vocabulary, source = write(tmp_path / "model.npz", arrays), vocabulary_file(tmp_path), tmp_path / "source"
    source.write_text(" ".join(f"w{word}" for word in range(2, 26)) + "\n")
    data = DataOptions(source=source, vocabs=(vocabulary, vocabulary), post_process="none")
    checkpoint = load(path)
    corpus = load_corpus(data, checkpoint.profile(), references=False)
    search = MarianSearchOptions(beam=1, max_length_factor=factor)
    for engine in ("native", "marian"):
        (found,) = open_engine(engine, checkpoint, _settings(search, 4)).translate(corpus, {})
        assert len(corpus.decode(found[0].tokens).split()) == words
