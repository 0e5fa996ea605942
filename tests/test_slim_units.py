"""Slimming by random plans over heads, neurons and layers: every mode computes the same, and cuts compose."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nmtprune import slim
from nmtprune.architecture import LAYER_KINDS, Architecture, GroupId
from nmtprune.engines import native
from nmtprune.errors import CheckpointError
from nmtprune.evaluate.verify import compare, texts
from nmtprune.formats import load
from nmtprune.formats.base import Checkpoint
from nmtprune.model import Classifier, MaskedWords, Transformer
from nmtprune.plan import Lineage, Plan
from tests.support import networks
from tests.support.fairseq_encoders import BuildEncoder
from tests.support.fairseq_files import Build
from tests.support.marian_files import SSRU, marian_model
from tests.support.thinned import thinned

PRE_NORM_MARIAN = {
    "transformer_preprocess": "n",
    "transformer_postprocess": "da",
    "transformer_postprocess_emb": "nd",
    "transformer_postprocess_top": "n",
}
FAIRSEQ = {
    "fairseq, post-norm": {"joined": False, "layers": (2, 3), "heads": (2, 4), "width": (12, 16), "ffn": (9, 6)},
    "fairseq, pre-norm": {**networks.PRE_NORM, **networks.SHARED, "layers": 3, "heads": 3, "width": 12, "ffn": 8},
    "fairseq, language model": {"arch": "transformer_lm_gpt", "layers": 3, "heads": 2, "width": 8, "ffn": 7},
}
ENCODERS = {
    "fairseq, RoBERTa": {"heads": 3, "width": 12, "ffn": 7},
    "fairseq, pre-norm RoBERTa of masked words": {"arch": "roberta_prenorm", "task": "masked_lm", "ffn": 6},
}
MARIAN = {
    "Marian, post-norm": {"enc_depth": 3, "dec_depth": 3, "transformer_dim_ffn": 7, "transformer_decoder_dim_ffn": 5},
    "Marian, pre-norm, tied layers": {
        **PRE_NORM_MARIAN, "dec_depth": 4, "transformer_tied_layers": [1, 1, 3, 4], "transformer_dim_ffn": 6,
    },
    "Marian, SSRU": {**SSRU, "dec_depth": 3, "transformer_tied_layers": [1, 2, 1], "transformer_dim_ffn": 6},
}  # fmt: skip
COUNTS = [6, pytest.param(26, marks=pytest.mark.slow)]
"""Examples of each property and base: 72 in quick tests, 480 more in slow ones."""


@pytest.fixture(scope="module", params=[*thinned([*FAIRSEQ, *MARIAN], 2), *thinned(ENCODERS, 2)])
def base(
    request: pytest.FixtureRequest, build: Build, build_encoder: BuildEncoder, tmp_path_factory: pytest.TempPathFactory
) -> Checkpoint:
    if request.param in ENCODERS:
        return load(build_encoder(**ENCODERS[request.param]))
    if request.param in FAIRSEQ:
        return load(networks.randomized(build(**FAIRSEQ[request.param])))
    return load(marian_model(tmp_path_factory.mktemp("marian") / "model.npz", **MARIAN[request.param]))


@st.composite
def plans_for(draw: st.DrawFn, checkpoint: Checkpoint) -> Plan:
    """Any layers of each stack, at least one; of every group nothing, all, or any units."""

    def some(numbers: Sequence[int], least: int) -> st.SearchStrategy[tuple[int, ...]]:
        chosen = st.sets(st.sampled_from(numbers), min_size=least).map(lambda own: tuple(sorted(own)))
        whole = st.just(tuple(numbers))
        return st.one_of(whole, chosen) if least else st.one_of(st.just(()), whole, chosen)

    units = checkpoint.architecture.units
    kept = {id: draw(some(numbers, id.kind in LAYER_KINDS)) if numbers else () for id, numbers in units.items()}
    return Plan.of(checkpoint.base, checkpoint.architecture.full(kept))


def for_examples(count: int, check: Callable[[st.DataObject], None]) -> None:
    """Try a property on random data."""
    settings(max_examples=count, deadline=None)(given(st.data())(check))()


def model_of(checkpoint: Checkpoint) -> Transformer | Classifier | MaskedWords:
    """The native model in double precision."""
    make = native.load_encoder if checkpoint.encoder_only else native.load
    return make(checkpoint, dtype=torch.float64)


def logits(model: Transformer | Classifier | MaskedWords, masks: Mapping[GroupId, Tensor] | None = None) -> Tensor:
    if not isinstance(model, Transformer):
        with torch.inference_mode():
            return model(texts(model, 2)[0], None, masks)  # type: ignore[no-any-return]
    source, target = networks.batch(model)
    with torch.inference_mode():
        found: Tensor = model(source, target, masks or {})
    return found


def is_ragged(architecture: Architecture) -> bool:
    """Whether layers of a stack have different numbers of neurons, of which a layer stores one at least."""
    counts = architecture.neurons_by_kind().values()
    return any(len({max(1, count) for count in own}) > 1 for own in counts)


def applied(plan: Plan, checkpoint: Checkpoint, mode: str) -> Checkpoint | None:
    """What slimming makes of a checkpoint; None where Marian cannot say it, which is checked."""
    layers = plan.kept_layers()
    kept = {group.id: len(plan.kept(group.id)) for group in checkpoint.architecture.groups}
    left = checkpoint.architecture.with_units(kept).with_layers(layers)
    if mode != "cut" or checkpoint.format != "marian" or not is_ragged(left):
        return slim.apply(plan, checkpoint, mode)
    with pytest.raises(CheckpointError):
        slim.apply(plan, checkpoint, mode)
    return None


@pytest.mark.parametrize("count", COUNTS)
def test_masked_cut_and_uniform_compute_the_same(base: Checkpoint, count: int, tmp_path: Path) -> None:
    """Also as the files say it, and as an ablation computes it without any file."""
    full = model_of(base)

    def check(data: st.DataObject) -> None:
        plan = data.draw(plans_for(base))
        model, masks = native.with_kept(full, plan.kept_units)
        expected = logits(model, masks)
        bound = 1e-9 * max(1.0, expected.abs().max().item())
        for mode in slim.MODES:
            result = applied(plan, base, mode)
            if result is None:
                continue
            path = tmp_path / base.path.with_stem(mode).name
            result.save(path, force=True)
            there = load(path)
            assert (there.architecture, there.lineage) == (result.architecture, result.lineage)
            found = model_of(there)
            assert (logits(found) - expected).abs().max().item() <= bound
            assert compare(model, found, masks).ok  # neurons that are silent on both batches, too

    for_examples(count, check)


def composed(first: Plan, between: Checkpoint, second: Plan) -> Plan:
    """The plan for the base of the first plan that keeps what both keep."""
    keep: dict[GroupId, tuple[int, ...]] = dict.fromkeys(first.base.units, ())
    for id, places in second.kept_units.items():
        numbers = dict(zip(between.architecture.layers(id.stack), first.kept(GroupId.layers_of(id.stack)), strict=True))
        if id.kind in LAYER_KINDS:
            keep[id] = tuple(numbers[place] for place in places)
        else:
            own = GroupId(id.kind, numbers[id.layer])
            keep[own] = tuple(first.kept(own)[place] for place in places)
    return Plan.of(first.base, keep)


@pytest.mark.parametrize("count", COUNTS)
def test_cutting_twice_is_cutting_once_by_what_both_plans_keep(base: Checkpoint, count: int) -> None:
    modes = st.sampled_from(["uniform"] if base.format == "marian" else ["cut", "uniform"])

    def check(data: st.DataObject) -> None:
        first = data.draw(plans_for(base))
        between = slim.apply(first, base, data.draw(modes))
        second, mode = data.draw(plans_for(between)), data.draw(modes)
        twice, once = slim.apply(second, between, mode), slim.apply(composed(first, between, second), base, mode)
        assert list(twice.tensors) == list(once.tensors)
        assert all(torch.equal(twice.tensors[name], tensor) for name, tensor in once.tensors.items())
        assert twice.architecture == once.architecture
        assert (twice.lineage or Lineage.start(base.base)) == (once.lineage or Lineage.start(base.base))

    for_examples(count, check)
