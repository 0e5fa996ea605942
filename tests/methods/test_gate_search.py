"""Gates that learn alone, on a model in which it is known which heads matter."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nmtprune import slim
from nmtprune.architecture import KINDS, GroupId, UnitId
from nmtprune.data.corpus import Corpus, load_corpus
from nmtprune.data.options import DataOptions
from nmtprune.engines import native
from nmtprune.formats.fairseq import FairseqCheckpoint
from nmtprune.gates import GateSettings, open_masks
from nmtprune.methods.gate_search import (
    GateOrder,
    GateOrderOptions,
    GateSearch,
    search_gates,
    shuffled_batches,
)
from nmtprune.plan import Plan

SETTINGS = GateSettings(step=0.5, lr_scale=1.0, target_heads=9, freeze_updates=40)


@pytest.fixture(scope="module")
def checkpoint(tiny: Path) -> FairseqCheckpoint:
    return FairseqCheckpoint.load(tiny)


@pytest.fixture(scope="module")
def corpus(tiny: Path, checkpoint: FairseqCheckpoint) -> Corpus:
    data = DataOptions(data_bin=tiny.parent / "data-bin", subset="valid")
    return load_corpus(data, checkpoint.profile(), references=False, targets=True)


def test_only_the_penalty_moves_gates_without_effect(checkpoint: FairseqCheckpoint, corpus: Corpus) -> None:
    """Heads whose output is zero close at full speed, a step per update; the others answer to the loss."""
    dead = {module.id: (1, 2) for module in checkpoint.architecture}
    plan = Plan.of(checkpoint.base, {module.id: (0, 3) for module in checkpoint.architecture})
    model = native.load(slim.apply(plan, checkpoint, "masked"))
    before = {name: own.clone() for name, own in model.state_dict().items()}
    settings = replace(SETTINGS, target_heads=None)
    found = search_gates(model, shuffled_batches(corpus, 1), GateSearch(settings, 8, weight=1e-4))
    moved = []
    for id, own in found.log_alphas.items():
        still = own[list(dead[id])]
        assert torch.allclose(still, torch.full_like(still, 2 - 8 * 0.5), atol=0.2)
        moved.append(own[[0, 3]])
    assert float(torch.cat(moved).max()) > 0
    assert all(torch.equal(before[name], own) for name, own in model.state_dict().items())


def test_the_number_of_heads_is_met_before_any_rounding(checkpoint: FairseqCheckpoint, corpus: Corpus) -> None:
    found = search_gates(native.load(checkpoint), shuffled_batches(corpus, 1), GateSearch(SETTINGS, 40))
    assert found.expected == pytest.approx(9, abs=1)


def test_searches_repeat_and_leave_out_what_is_gone(checkpoint: FairseqCheckpoint, corpus: Corpus) -> None:
    model = native.load(checkpoint)
    module = model.architecture.modules[0]
    left = {module.id: torch.tensor([0.0] + [1.0] * (module.heads - 1))}
    search = GateSearch(replace(SETTINGS, target_heads=8, min_heads=1), 8)
    first, second = (search_gates(model, shuffled_batches(corpus, 1), search, left) for _ in range(2))
    assert all(torch.equal(own, second.log_alphas[id]) for id, own in first.log_alphas.items())
    assert first.log_alphas[module.id][0] == -math.inf
    opened = open_masks(search.settings, first.log_alphas)
    assert not opened[module.id][0] and all(bool(own.any()) for own in opened.values())


def test_neurons_are_gated_too(checkpoint: FairseqCheckpoint, corpus: Corpus) -> None:
    kinds = (*KINDS, "encoder-ffn")
    settings = replace(SETTINGS, kinds=kinds, target_heads=None, costs=dict.fromkeys(kinds, 1.0))
    found = search_gates(native.load(checkpoint), shuffled_batches(corpus, 1), GateSearch(settings, 10, weight=10.0))
    neurons = [own for id, own in found.log_alphas.items() if id.kind == "encoder-ffn"]
    assert neurons and all(len(own) == 2 and bool((own < -1.9).all()) for own in neurons)
    alone = replace(settings, kinds=("encoder-ffn",), costs={"encoder-ffn": 1.0})
    assert search_gates(native.load(checkpoint), shuffled_batches(corpus, 1), GateSearch(alone, 1)).expected is None


def test_an_order_of_gates_that_have_not_closed_is_remarked() -> None:
    scores = {UnitId(GroupId("encoder", 0), head): log_alpha for head, log_alpha in enumerate((-4.0, 1.0, 2.0, -5.0))}
    short, found = GateOrder(GateOrderOptions(gate_updates=30)).remarks(scores)
    assert short == (
        "gates move by 0.15 per update for 30 updates: they can travel 4.5, less than 6: many will not decide; give "
        "the gates more updates"
    )
    assert found.startswith("1.9 of 4 heads were still open on average when all were to be closed: ")
    assert GateOrder().remarks({unit: -6.0 for unit in scores}) == []


def test_batches_come_in_other_orders_and_have_no_end(corpus: Corpus) -> None:
    once = len(corpus)
    taken = itertools.takewhile(lambda seen: len(seen) <= 2 * once, _growing(corpus))
    *_, numbers = taken
    assert sorted(numbers[:once]) == sorted(numbers[once:]) == list(range(once))
    assert numbers[:once] != numbers[once:]


def _growing(corpus: Corpus) -> "itertools.accumulate[list[int]]":
    """Positions of the sentences of all batches so far, batch after batch."""
    batches = (batch.positions.tolist() for batch in shuffled_batches(corpus, 3, 40))
    return itertools.accumulate(batches)
