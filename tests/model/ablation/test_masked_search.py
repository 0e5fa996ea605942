"""Recorded searches repeated under masks of heads and neurons find what searches from scratch find."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor

from nmtprune.model import Transformer
from nmtprune.model.ablation import masked_search as masked_search_module
from nmtprune.model.ablation.masked_search import MaskedSearch
from nmtprune.model.ablation.shared_prefix import UnitMasks
from nmtprune.model.ablation.shortlist import Screen
from nmtprune.model.search import SearchOptions
from nmtprune.model.search import branches as branches_module
from tests.support import searches
from tests.support.fairseq_files import Build
from tests.support.thinned import thinned

CHOSEN = [
    "post-norm, separate embeddings",
    "pre-norm, all embeddings shared",
    "learned positions, embedding norm",
    "encoder and decoder of other sizes",
    "no cross-attention",
    "joint and cross-attention",
    "adaptive softmax",
]
OPTIONS = {
    "greedy": SearchOptions(beam=1, max_len_b=12),
    "greedy, long": SearchOptions(beam=1, max_len_a=1.5, max_len_b=20, min_len=3),
    "greedy, unknown words": SearchOptions(beam=1, max_len_b=10, unkpen=-2.0),
    "beam 2": SearchOptions(beam=2, max_len_b=10, lenpen=0.6),
    "beam 4": SearchOptions(beam=4, max_len_b=9, unkpen=1.5, min_len=2),
    "beam 3, unnormalized": SearchOptions(beam=3, max_len_b=8, unnormalized=True),
}


def _systems(model: Transformer) -> list[UnitMasks]:
    """Some heads alone, all heads but one, whole modules, parts of the neurons, several groups, and nothing."""
    systems: list[UnitMasks] = [{}]
    for module in model.architecture:
        for head in range(module.heads):
            systems.append(searches.mask(model, str(module.id), head))
            systems.append(searches.mask(model, str(module.id), *(set(range(module.heads)) - {head})))
        systems.append(searches.mask(model, str(module.id), *range(module.heads)))
        systems.append(searches.mask(model, str(module.id)))
    for group in model.architecture.feed_forwards:
        for neurons in ([3], range(0, group.units, 2), range(group.units)):
            systems.append(searches.mask(model, str(group.id), *neurons))
    return [*systems[::3], *(searches.random_masks(model, seed) for seed in (1, 2))]


def _found(search: MaskedSearch, source: Tensor, systems: Sequence[UnitMasks]) -> list[searches.Texts]:
    """Translations of a batch under each system, from its record."""
    records = search.record(source, searches.lengths(source), range(len(source)))
    found: list[searches.Texts] = [[(-7,)] * len(source) for _ in systems]
    for system, positions, texts in search.translations(records, systems):
        for place, text in zip(positions, texts, strict=True):
            found[system][place] = text
    return found


def _pairs() -> Iterator[object]:
    """Every model with every kind of search; one for each model is a quick test, and every search is among them."""
    for row, variant in enumerate(CHOSEN):
        for column, name in enumerate(OPTIONS):
            quick = (column - row) % len(OPTIONS) == 0
            yield pytest.param(
                variant, OPTIONS[name], id=f"{variant}-{name}", marks=[] if quick else [pytest.mark.slow]
            )


@pytest.mark.parametrize(("variant", "options"), _pairs())
def test_masked_searches_are_searches_from_scratch(build: Build, variant: str, options: SearchOptions) -> None:
    model = searches.model_of(searches.checkpoint(build, variant, trained=False))
    source, systems = searches.batch(model.words[0]), _systems(model)
    found = _found(MaskedSearch(model, options, searches.SYMBOLS), source, systems)
    expected = [searches.best(model, source, options, masks) for masks in systems]
    assert found == expected
    assert len({tuple(texts) for texts in expected}) > 3


@pytest.mark.parametrize("beam", thinned([3, 1]))
def test_pieces_do_not_matter(build: Build, beam: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small chunks, and branches that cannot wait for each other, give the same."""
    model = searches.model_of(searches.checkpoint(build, "pre-norm, all embeddings shared", trained=False))
    source, systems = searches.batch(model.words[0]), _systems(model)
    options = SearchOptions(beam=beam, max_len_b=12)
    expected = _found(MaskedSearch(model, options, searches.SYMBOLS), source, systems)
    monkeypatch.setattr(masked_search_module, "RECORD_BYTES", 1)
    monkeypatch.setattr(branches_module, "WAITING_BYTES", 1)
    search = MaskedSearch(model, options, searches.SYMBOLS)
    assert len(search.record(source, searches.lengths(source), range(len(source)))) == len(source)
    assert _found(search, source, systems) == expected


@pytest.fixture
def wide(build: Build) -> Iterator[tuple[Transformer, Path]]:
    """A model with enough words for shortlists: those of a tiny one with 600 rows of random embeddings."""
    path = searches.checkpoint(build, "pre-norm, all embeddings shared", trained=False)
    state = searches.stored(path)
    table = next(name for name in state["model"] if name.endswith("embed_tokens.weight"))
    width = state["model"][table].shape[1]
    rows = torch.randn(600, width, generator=torch.Generator().manual_seed(5)) * 0.4
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "decoder.output_projection.weight"):
        if name in state["model"]:
            state["model"][name] = rows
    copy = path.with_name("wide.pt")
    yield searches.model_of(searches.saved(state, copy)), copy


@pytest.mark.parametrize("options", thinned(OPTIONS[name] for name in ("greedy, unknown words", "greedy", "beam 4")))
def test_shortlists_change_nothing(wide: tuple[Transformer, Path], options: SearchOptions) -> None:
    model, _ = wide
    source = searches.batch(model.words[0], (7, 3, 9, 5, 4, 8, 2, 6))
    search = MaskedSearch(model, options, searches.SYMBOLS)
    systems = [
        searches.mask(model, str(module.id), head) for module in model.architecture for head in range(module.heads)
    ]
    with mock.patch.object(Screen, "next_words", autospec=True, side_effect=Screen.next_words) as used:
        found = _found(search, source, systems)
    assert used.call_count
    assert found == [searches.best(model, source, options, masks) for masks in systems]


def test_a_text_that_repeats_itself_is_guessed() -> None:
    branch = branches_module.Branch(0, 0, [9, 5, 6, 7, 5, 6, 7], 50)
    assert branch.repetition(5) == (5, 6, 7, 5, 6)
    assert branches_module.Branch(0, 0, [1, 2, 3, 4], 50).repetition(5) == ()


@pytest.mark.parametrize("rows", thinned([1000, 0]), ids=["with guesses", "word by word"])
def test_guesses_change_nothing(build: Build, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(branches_module, "_GUESSING_ROWS", rows)
    model = searches.model_of(searches.checkpoint(build, "post-norm, separate embeddings", trained=False))
    options = SearchOptions(beam=1, max_len_b=40)
    source, systems = searches.batch(model.words[0]), _systems(model)
    found = _found(MaskedSearch(model, options, searches.SYMBOLS), source, systems)
    assert found == [searches.best(model, source, options, masks) for masks in systems]
    assert any(len(text) > 30 for texts in found for text in texts)
