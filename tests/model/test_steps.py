"""Decoding step by step, from anywhere and in any order of rows, gives what teacher forcing gives."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nmtprune.architecture import GroupId
from nmtprune.model import Pass, SourceCache, Transformer
from nmtprune.model.layers import LayerStack, Stop
from nmtprune.model.scope import Probe
from tests.support import networks
from tests.support.fairseq_files import Build

CHOSEN = [
    "pre-norm, all embeddings shared",
    "learned positions, embedding norm",
    "encoder and decoder of other sizes",
    "no cross-attention",
    "joint attention alone",
    "joint and cross-attention",
    "adaptive language model, tied",
    "language model, learned positions, shared",
]


@pytest.fixture(params=CHOSEN)
def checkpoint(request: pytest.FixtureRequest, build: Build) -> Path:
    return networks.randomized(build(**networks.VARIANTS[request.param]))


@pytest.fixture
def model(checkpoint: Path) -> Transformer:
    return networks.native_model(checkpoint)


def cache_of(model: Transformer, source: Tensor | None) -> SourceCache | None:
    return None if source is None else model.cache_source(model.encode(source))


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert float((found - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))


@torch.inference_mode()
def test_steps_give_what_teacher_forcing_gives(model: Transformer) -> None:
    source, _ = networks.batch(model)
    tokens = torch.randint(4, model.words[1], (5, 20), generator=torch.Generator().manual_seed(3))
    source_cache, state = cache_of(model, source), model.new_state()
    expected = model.decode(tokens, source_cache)
    for position in range(20):
        found = model.decode(tokens[:, position : position + 1], source_cache, run=Pass(state=state))
        assert_close(found[:, 0], expected[:, position])
    assert (state.columns, state.lengths) == (20, None)


@torch.inference_mode()
def test_several_tokens_may_follow_a_prefix(model: Transformer) -> None:
    source, _ = networks.batch(model)
    tokens = torch.randint(4, model.words[1], (5, 20), generator=torch.Generator().manual_seed(3))
    source_cache, state = cache_of(model, source), model.new_state()
    expected = model.decode(tokens, source_cache)
    parts = [model.decode(part, source_cache, run=Pass(state=state)) for part in tokens.split([6, 1, 13], dim=1)]
    assert_close(torch.cat(parts, dim=1), expected)


@torch.inference_mode()
def test_rows_of_different_lengths_go_on_from_where_they_are(model: Transformer) -> None:
    source, target = networks.batch(model)
    source_cache, state = cache_of(model, source), model.new_state()
    prefix = model.decode(target, source_cache, run=Pass(state=state))
    real = target != 1
    assert_close(prefix[real], model.decode(target, source_cache)[real])
    assert state.lengths is not None
    assert state.lengths.tolist() == real.sum(1).tolist()
    more = torch.randint(4, model.words[1], (5, 3), generator=torch.Generator().manual_seed(4))
    found = torch.cat(
        [model.decode(part, source_cache, run=Pass(state=state)) for part in more.split([2, 1], dim=1)], dim=1
    )
    for row, length in enumerate(real.sum(1).tolist()):
        whole = torch.cat([target[row, :length], more[row]]).unsqueeze(0)
        alone = None if source_cache is None else source_cache.select(torch.tensor([row]))
        assert_close(found[row], model.decode(whole, alone)[0, length:])


@torch.inference_mode()
def test_truncated_states_forget_what_came_later(model: Transformer) -> None:
    source, _ = networks.batch(model)
    tokens = torch.randint(4, model.words[1], (5, 9), generator=torch.Generator().manual_seed(5))
    source_cache, state = cache_of(model, source), model.new_state()
    model.decode(tokens, source_cache, run=Pass(state=state))
    kept = torch.tensor([4, 9, 1, 6, 4])
    state.truncate(kept)
    other = torch.randint(4, model.words[1], (5, 1), generator=torch.Generator().manual_seed(6))
    found = model.decode(other, source_cache, run=Pass(state=state))
    for row, length in enumerate(kept.tolist()):
        whole = torch.cat([tokens[row, :length], other[row]]).unsqueeze(0)
        alone = None if source_cache is None else source_cache.select(torch.tensor([row]))
        assert_close(found[row, -1], model.decode(whole, alone)[0, -1])


@torch.inference_mode()
def test_hypotheses_share_their_sentence_and_change_places(model: Transformer) -> None:
    """A beam of 3 over 5 sentences, reordered at every step inside the sentences; then two sentences are done."""
    beam, steps = 3, 22
    generator = torch.Generator().manual_seed(7)
    source, _ = networks.batch(model)
    source_cache, state = cache_of(model, source), model.new_state()
    sentences = torch.arange(5)
    history = torch.full((5 * beam, 1), 2)
    for step in range(steps):
        found = model.decode(history[:, -1:], source_cache, run=Pass(state=state))[:, -1]
        whole = None if source is None else model.encode(source[sentences.repeat_interleave(beam)])
        assert_close(found, model.decode(history, whole)[:, -1])
        if step == 11:
            left = torch.tensor([0, 3, 4])
            sentences = sentences[left]
            source_cache = None if source_cache is None else source_cache.select(left)
            rows = (left.unsqueeze(1) * beam + torch.arange(beam)).flatten()
        else:
            count = len(sentences)
            chosen = torch.randint(beam, (count * beam,), generator=generator)
            rows = torch.arange(count).repeat_interleave(beam) * beam + chosen
        state.reorder(rows)
        new = torch.randint(4, model.words[1], (len(rows), 1), generator=generator)
        history = torch.cat([history[rows], new], dim=1)


@torch.inference_mode()
def test_a_pass_may_stop_anywhere_and_continue_under_other_masks(model: Transformer) -> None:
    source, target = networks.batch(model)
    masks = {module.id: torch.tensor([0.0] + [1.0] * (module.heads - 1)) for module in model.architecture}
    cache, stops = cache_of(model, source), 0
    for stack in (model.encoder, model.decoder):
        if stack is None or source is None and stack is model.encoder:
            continue
        for stop in _stops(stack):
            own = _from(masks, stack, stop)
            x, scope = stack.begin(source, Probe()) if stack is model.encoder else stack.begin(target, cache, Pass())
            stopped = stack.until(stop, x, scope)
            found = stack.finish(stack.after(stop, stopped, scope.under(Probe(own))))
            whole = stack is model.encoder
            assert torch.equal(found, model.encode(source, own).states if whole else model.features(target, cache, own))
            stops += 1
    assert stops > 4 * len(model.decoder.layers)


def _stops(stack: LayerStack) -> list[Stop]:
    """All stops before and inside sublayers, and the last."""
    before = [stop for stop, _ in stack.stops()]
    return [*before, *(replace(stop, inside=True) for stop in before), stack.end]


def _from(masks: dict[GroupId, Tensor], stack: LayerStack, stop: Stop) -> dict[GroupId, Tensor]:
    """The masks of the modules from a stop on."""
    ids = [sublayer.body.id for own, sublayer in stack.stops() if own >= replace(stop, inside=False)]
    return {id: masks[id] for id in ids if id in masks}


@torch.inference_mode()
def test_what_the_memory_held_before_does_not_matter(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches are allocated without being filled: gaps of shorter rows must not let old contents in."""
    source, target = networks.batch(model)
    source_cache = cache_of(model, source)
    allocate = Tensor.new_empty
    monkeypatch.setattr(Tensor, "new_empty", lambda self, *size: allocate(self, *size).fill_(torch.nan))
    state = model.new_state()
    model.decode(target, source_cache, run=Pass(state=state))
    rows = torch.tensor([4, 0, 0, 2, 1, 3])
    source_cache = None if source_cache is None else source_cache.select(rows)
    state.reorder(rows)
    for step in range(12):
        assert model.decode(torch.full((6, 1), 4 + step % 3), source_cache, run=Pass(state=state)).isfinite().all()
        state.reorder(torch.arange(6))
