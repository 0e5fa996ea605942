"""Our beam search is fairseq's: the same texts with the same scores, for full, masked and slim models."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from nmtprune import slim
from nmtprune.architecture import UnitId
from nmtprune.errors import UsageError
from nmtprune.formats import load
from nmtprune.model.search import SearchOptions, translate_batch
from nmtprune.plan import Plan
from tests.support import searches
from tests.support.fairseq_files import Build
from tests.support.thinned import thinned

CHOSEN = [
    "post-norm, separate embeddings",
    "pre-norm, all embeddings shared",
    "pre-norm encoder, post-norm decoder",
    "learned positions, embedding norm",
    "encoder and decoder of other sizes",
    "no cross-attention",
    "joint attention alone",
    "joint and cross-attention",
    "adaptive softmax",
]
OPTIONS = {
    "beam 1": SearchOptions(beam=1, max_len_b=12),
    "beam 2": SearchOptions(beam=2, max_len_b=12),
    "beam 5": SearchOptions(beam=5, max_len_b=12),
    "beam of half the words": SearchOptions(beam=20, max_len_b=4),
    "length penalties": SearchOptions(beam=4, max_len_b=9, min_len=4, lenpen=0.6),
    "long texts": SearchOptions(beam=3, max_len_b=12, lenpen=1.5, unkpen=-2.0),
    "unnormalized": SearchOptions(beam=4, max_len_b=10, unnormalized=True, unkpen=2.0),
}


@pytest.mark.parametrize(("variant", "name"), thinned(itertools.product(CHOSEN, OPTIONS), 4))
def test_search_is_fairseqs(build: Build, variant: str, name: str) -> None:
    options = OPTIONS[name]
    path = searches.checkpoint(build, variant, trained=False)
    model = searches.model_of(path)
    source = searches.batch(model.words[0])
    searches.assert_same(
        translate_batch(model, source, searches.lengths(source), options, searches.SYMBOLS),
        searches.fairseq_search(path, source, options),
    )


@pytest.mark.parametrize("beam", [1, 3])
def test_limits_of_length_are_fairseqs(build: Build, beam: int) -> None:
    """Those of sentences that fairseq gets one by one; with the flag those of its batch."""
    path = searches.checkpoint(build, "post-norm, separate embeddings", trained=False)
    model, options = searches.model_of(path), SearchOptions(beam=beam, max_len_a=1.2, max_len_b=1)
    source = searches.batch(model.words[0])
    found = translate_batch(model, source, searches.lengths(source), options, searches.SYMBOLS)
    one_by_one = [searches.fairseq_search(path, sentence, options)[0] for sentence in searches.alone(source)]
    searches.assert_same(found, one_by_one)
    assert {len(own[0].tokens) for own in found} > {3, 12}  # sentences of 1 and of 9 tokens
    by_batch = replace(options, fairseq_batch_length_limit=True)
    together = translate_batch(model, source, searches.lengths(source), by_batch, searches.SYMBOLS)
    searches.assert_same(together, searches.fairseq_search(path, source, options))
    assert [own[0].tokens for own in together] != [own[0].tokens for own in found]


def test_trained_models_translate_alike(build: Build) -> None:
    path = searches.checkpoint(build, "pre-norm, all embeddings shared")
    model, options = searches.model_of(path), SearchOptions(beam=5, max_len_b=20)
    source = searches.batch(model.words[0], (9, 8, 7, 6, 5, 4, 3, 2, 1))
    found = translate_batch(model, source, searches.lengths(source), options, searches.SYMBOLS)
    searches.assert_same(found, searches.fairseq_search(path, source, options))
    assert len({own[0].tokens for own in found}) > 3


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("variant", ["post-norm, separate embeddings", "pre-norm, all embeddings shared"])
def test_masks_are_those_of_the_masked_checkpoint(build: Build, variant: str, beam: int, tmp_path: Path) -> None:
    path = searches.checkpoint(build, variant, trained=False)
    base, options = load(path), SearchOptions(beam=beam, max_len_b=12)
    removed = [UnitId.parse(name) for name in ("encoder.0.1", "encoder.1.3", "decoder.0.0", "cross.1.0", "cross.1.2")]
    masked = tmp_path / "masked.pt"
    slim.apply(Plan.removing(base.base, removed), base, "masked").save(masked)
    model = searches.model_of(path)
    masks = {
        module: searches.mask(model, str(module), *(head.number for head in removed if head.group == module))[module]
        for module in {head.group for head in removed}
    }
    source = searches.batch(model.words[0])
    expected = searches.fairseq_search(masked, source, options, path.parent / "data-bin")
    searches.assert_same(
        translate_batch(model, source, searches.lengths(source), options, searches.SYMBOLS, masks), expected
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"beam": 0}, "search: `beam` 0 is not a positive number"),
        (
            {"lenpen": float("nan"), "max_len_b": -1},
            "search: `max_len_b` -1 is negative; `lenpen` nan is not a finite number",
        ),
        ({"max_len_a": float("inf")}, "search: `max_len_a` inf is not a number from 0 to 1e+06"),
        (
            {"fairseq_batch_length_limit": True},
            "search: `fairseq_batch_length_limit` goes with `max_len_a` above 0: without it the limit is the same for "
            "all sentences",
        ),
    ],
)
def test_impossible_options(values: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        SearchOptions(**values)  # type: ignore[arg-type]
    assert str(raised.value) == message


def test_a_minimum_above_the_maximum(build: Build) -> None:
    model = searches.model_of(searches.checkpoint(build, "pre-norm, all embeddings shared", trained=False))
    source = searches.batch(model.words[0])
    with pytest.raises(UsageError, match=r"`min_len` 9 is more than the 5 tokens that a translation may have"):
        translate_batch(
            model, source, searches.lengths(source), SearchOptions(max_len_b=5, min_len=9), searches.SYMBOLS
        )


def test_a_minimum_above_the_maximum_of_a_short_sentence(build: Build) -> None:
    """Refused as fairseq refuses the sentence alone, whatever shares its batch."""
    path = searches.checkpoint(build, "pre-norm, all embeddings shared", trained=False)
    model, options = searches.model_of(path), SearchOptions(max_len_a=1, max_len_b=0, min_len=4)
    source = searches.batch(model.words[0])
    refusal = r"`min_len` 4 is more than the 3 tokens that a translation of 3 source tokens may have"
    with pytest.raises(UsageError, match=refusal):
        translate_batch(model, source, searches.lengths(source), options, searches.SYMBOLS)
    with pytest.raises(AssertionError, match="min_len cannot be larger than max_len"):
        searches.fairseq_search(path, searches.alone(source)[1], options)
    by_batch = replace(options, fairseq_batch_length_limit=True)
    assert translate_batch(model, source, searches.lengths(source), by_batch, searches.SYMBOLS)
