"""The native model of checkpoints as they are read from files, stock, old, slim and real ones; and its engine."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from nmtprune.architecture import GroupId, Kept
from nmtprune.data.batching import BatchLimits
from nmtprune.data.corpus import Corpus, load_corpus
from nmtprune.data.options import DataOptions
from nmtprune.engines import EngineSettings, native, open_engine
from nmtprune.errors import CheckpointError, EngineError, UsageError
from nmtprune.formats import load
from nmtprune.formats.base import Checkpoint
from nmtprune.methods.measuring import drawn
from nmtprune.model import Transformer
from nmtprune.model.ablation.masked_search import MaskedSearch
from nmtprune.model.search import SearchOptions, Symbols, translate_batch
from nmtprune.plan import Plan
from nmtprune.slim import apply
from tests.support import networks
from tests.support.fairseq_files import Build
from tests.support.oracles.transformer import reference_loss
from tests.support.thinned import thinned

SETTINGS = EngineSettings(SearchOptions(beam=3, max_len_b=9), BatchLimits.of(50), torch.device("cpu"), 1)


def close(found: Tensor, expected: Tensor) -> bool:
    return float((found - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("variant", thinned(networks.VARIANTS))
@torch.inference_mode()
def test_scores_of_a_loaded_file_are_those_of_fairseq(build: Build, variant: str) -> None:
    path = networks.randomized(build(**networks.VARIANTS[variant]))
    model = native.load(load(path))
    source, target = networks.batch(model)
    assert close(model(source, target), networks.fairseq_scores(networks.fairseq_model(path), source, target)[1])


@pytest.mark.parametrize(
    "stored",
    [{"cfg": "omegaconf"}, {"cfg": "args", "packed": True}, {"cloned": True}, {"old_zip": True},
     {"cfg": "args", "without_settings": ("activation_fn", "no_cross_attention", "decoder_output_dim")}],
    ids=str,
)  # fmt: skip
@torch.inference_mode()
def test_the_way_of_storing_makes_no_difference(build: Build, stored: dict[str, Any]) -> None:
    options = {**networks.PRE_NORM, **networks.SHARED}
    plain, other = native.load(load(build(**options))), native.load(load(build(**options, stored=stored)))
    batch = networks.batch(plain)
    assert torch.equal(plain(*batch), other(*batch))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.inference_mode()
def test_half_precision_weights_are_computed_in_single_precision(build: Build, dtype: torch.dtype) -> None:
    path = build(**networks.SHARED, stored={"dtype": dtype})
    model = native.load(load(path))
    assert model.dtype == torch.float32
    source, target = networks.batch(model)
    expected = networks.fairseq_scores(networks.fairseq_model(path), source, target)[1]
    assert close(model(source, target), expected)
    rough = native.load(load(path), dtype=dtype)
    assert rough.dtype == dtype
    assert float((rough(source, target) - expected).abs().max()) < 0.1 * float(expected.abs().max())


@torch.inference_mode()
def test_slim_files_of_every_mode(build: Build, tmp_path: Path) -> None:
    base = load(networks.randomized(build(**networks.PRE_NORM)))
    plan = removing(base, "encoder.0.1", "encoder.1.0-3", "decoder.0.0,2", "cross.1.3")
    masks = {module.id: torch.tensor([float(head in plan.kept(module.id)) for head in range(module.heads)])
             for module in base.architecture}  # fmt: skip
    batch = networks.batch(native.load(base))
    expected = native.load(base)(*batch, masks)
    for mode in ("cut", "masked", "uniform"):
        path = tmp_path / f"{mode}.pt"
        apply(plan, base, mode).save(path)
        assert close(native.load(load(path))(*batch), expected)


def removing(base: Checkpoint, *names: str) -> Plan:
    from nmtprune.architecture import parse_heads

    return Plan.removing(base.base, parse_heads(" ".join(names), base.architecture))


def test_what_cannot_be_run_is_named_with_the_file(build: Build, tmp_path: Path) -> None:
    checkpoint = load(build())

    class Damaged:
        path, architecture, network = checkpoint.path, checkpoint.architecture, checkpoint.network

        def native_tensors(self) -> dict[str, Tensor]:
            tensors = dict(checkpoint.native_tensors())
            del tensors["encoder.layers.0.feed_forward.input.bias"]
            return tensors

    with pytest.raises(CheckpointError) as caught:
        native.load(Damaged())  # type: ignore[arg-type]
    assert str(caught.value) == (
        f"{checkpoint.path}: the tensors do not fit the network: encoder.layers.0.feed_forward.input.bias is missing"
    )


@torch.inference_mode()
def test_real_model(shared_model: Path) -> None:
    checkpoint = load(shared_model)
    for dtype in (torch.float32, torch.float64):
        model = native.load(checkpoint, dtype=dtype)
        generator = torch.Generator().manual_seed(1)
        source = torch.randint(4, 6000, (16, 30), generator=generator)
        target = torch.randint(4, 6000, (16, 28), generator=generator)
        for row in range(16):
            source[row, : row % 7], target[row, 28 - row % 5 :] = 1, 1
        states, expected = networks.fairseq_scores(networks.fairseq_model(shared_model), source, target)
        assert close(model(source, target), expected)
        assert close(model.encode(source).states, states)


def _opened(path: Path, settings: EngineSettings = SETTINGS) -> tuple[native.NativeEngine, Corpus]:
    checkpoint = load(path)
    engine = open_engine("native", checkpoint, settings)
    assert isinstance(engine, native.NativeEngine)
    data = DataOptions(data_bin=path.parent / "data-bin")
    return engine, load_corpus(data, checkpoint.profile(), references=False, targets=True)


def _masks(engine: native.NativeEngine, kept: Kept) -> dict[GroupId, Tensor]:
    heads = {module: range(engine.model.architecture[module].heads) for module in kept}
    return {module: torch.tensor([float(head in own) for head in heads[module]]) for module, own in kept.items()}


def _systems(engine: native.NativeEngine) -> list[Kept]:
    """Nothing masked, each head of some modules, one head left, and a plan for all modules."""
    names = ("encoder.0", "decoder.1", "cross.1")
    alone = [{GroupId.parse(name): [h for h in range(4) if h != head]} for name in names for head in range(4)]
    whole = {module.id: list(range(module.heads))[module.id.layer :: 2] for module in engine.model.architecture}
    return [{}, *alone, {GroupId("cross", 0): [2]}, whole, {GroupId("encoder", 1): [0, 1, 2, 3]}]


def test_the_last_of_several_greedy_batches_go_on_together(shared_model: Path) -> None:
    """What waits for other batches is translated, and scored, as it is alone."""
    checkpoint = load(shared_model)
    data = DataOptions(data_bin=shared_model.parent / "data-bin", subset="test")
    corpus = drawn(load_corpus(data, checkpoint.profile(), references=False), 24, 1)
    found = []
    for size in (8, 1):  # a batch of one never waits
        settings = EngineSettings(SearchOptions(beam=1, unkpen=0.3), BatchLimits.of(None, size), torch.device("cpu"), 1)
        found.append(open_engine("native", checkpoint, settings).translate(corpus, {}))
    lengths = [len(own[0].tokens) for own in found[0]]
    assert max(lengths) > 2 * min(lengths)
    for mine, expected in zip(*found, strict=True):
        assert mine[0].tokens == expected[0].tokens
        assert mine[0].score == pytest.approx(expected[0].score, abs=1e-4)


@pytest.fixture(scope="module")
def path(build: Build) -> Path:
    return networks.randomized(build(**networks.VARIANTS["pre-norm, all embeddings shared"]))


def test_translations_come_in_the_order_of_the_corpus(path: Path) -> None:
    engine, corpus = _opened(path)
    assert len(corpus.batches(SETTINGS.limits)) > 2
    for kept in _systems(engine)[::5]:
        found = engine.translate(corpus, kept)
        for source, hypotheses in zip(corpus.source, found, strict=True):
            one, lengths = torch.from_numpy(source)[None], [len(source)]
            (alone,) = translate_batch(
                engine.model, one, lengths, SETTINGS.search, Symbols(1, 2, 3), _masks(engine, kept)
            )
            assert [each.tokens for each in hypotheses] == [each.tokens for each in alone]
            assert [each.score for each in hypotheses] == pytest.approx([each.score for each in alone], abs=1e-5)


def test_best_translations_of_many_systems(path: Path) -> None:
    engine, corpus = _opened(path)
    systems = _systems(engine)
    ablation = engine.ablation(corpus)
    found = ablation.best(systems)
    for kept, own in zip(systems, found, strict=True):
        assert own == [hypotheses[0].tokens for hypotheses in engine.translate(corpus, kept)]
    assert ablation.best(systems[3:5]) == found[3:5]
    assert ablation.best([]) == []


def _fewer(model: Transformer) -> list[Kept]:
    """Systems that lose neurons, layers, or units of all groups; some share their layers, some stand alone."""
    some: Kept = {group.id: range(group.units)[group.id.layer :: 2] for group in model.architecture.groups}
    lower, upper = {GroupId("decoder-layers"): [0]}, {GroupId("decoder-layers"): [1], GroupId("encoder-layers"): [0]}
    return [
        {GroupId("encoder-ffn", 1): range(5)}, lower, {**some, **lower}, upper, {GroupId("decoder-ffn", 0): []}, {},
        {**some, **upper}, {**lower, GroupId("cross", 0): [3], GroupId("cross", 1): [], GroupId("decoder-ffn", 1): []},
        {GroupId("encoder-layers"): [1]}, some,
    ]  # fmt: skip


@pytest.mark.parametrize("beam", [1, 3])
def test_systems_without_neurons_and_layers(path: Path, tmp_path: Path, beam: int) -> None:
    """What an ablation finds are translations and losses of the files that plans make."""
    engine, corpus = _opened(path, replace(SETTINGS, search=SearchOptions(beam=beam, max_len_b=9)))
    systems, ablation = _fewer(engine.model), engine.ablation(corpus)
    with mock.patch.object(MaskedSearch, "record", autospec=True, side_effect=MaskedSearch.record) as recorder:
        found = ablation.best(systems)
        assert ablation.best(systems[6:8]) == found[6:8] and ablation.best(systems[1:3]) == found[1:3]
    assert {len(call.args[0].model.decoder.layers) for call in recorder.call_args_list} == {1, 2}
    losses = ablation.losses(systems)
    for kept, own, loss in zip(systems, found, losses, strict=True):
        assert own == [hypotheses[0].tokens for hypotheses in engine.translate(corpus, kept)]
        if beam == 1:
            continue
        base = engine.checkpoint
        cut = apply(Plan.of(base.base, base.architecture.full(kept)), base)
        cut.save(tmp_path / "cut.pt", force=True)
        alone = open_engine("native", load(tmp_path / "cut.pt"), engine.settings)
        assert own == [hypotheses[0].tokens for hypotheses in alone.translate(corpus, {})]
        assert loss == pytest.approx(alone.ablation(corpus).losses([{}])[0], rel=1e-5)
    assert len({tuple(own) for own in found}) > 4


def test_layers_that_no_mask_can_take_out(path: Path) -> None:
    engine, corpus = _opened(path)
    for kept, message in (
        ({GroupId("decoder-layers"): []}, "a stack without layers"),
        ({GroupId("decoder-layers"): [0, 2]}, "decoder-layers has no layers [2]"),
        ({GroupId("encoder-ffn", 0): [24]}, "encoder-ffn.0 has no neurons [24]"),
    ):
        with pytest.raises(ValueError) as caught:
            engine.translate(corpus, kept)
        assert str(caught.value) == message
    with pytest.raises(ValueError, match=r"^masks cannot say that layers go$"):
        native.masks_of(engine.model, {GroupId("decoder-layers"): [0]})
    every = engine.checkpoint.architecture.units
    assert native.masks_of(engine.model, every) == {}


def test_recordings_beyond_the_limit_are_made_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, corpus = _opened(path)
    systems, batches = _systems(engine)[:6], corpus.batches(SETTINGS.limits)
    record = MaskedSearch.record

    def best(limit: int) -> tuple[int, list[int], Any]:
        """Memory used, searches recorded by each of two calls, and translations."""
        monkeypatch.setattr(native, "RECORDED_BYTES", limit)
        ablation, counts, found = engine.ablation(corpus), [], []
        for begin in (0, 3):
            with mock.patch.object(MaskedSearch, "record", autospec=True, side_effect=record) as recorder:
                found += ablation.best(systems[begin : begin + 3])
            counts.append(recorder.call_count)
        return limit - ablation.free_bytes, counts, found

    used, counts, expected = best(native.RECORDED_BYTES)
    assert used > 0 and counts == [len(batches), 0]
    assert best(0) == (0, [len(batches), len(batches)], expected)
    half, counts, found = best(used // 2)
    assert 0 < half <= used // 2 and counts[0] == len(batches) and 0 < counts[1] < len(batches)
    assert found == expected


def test_losses_come_in_the_order_of_the_corpus(path: Path) -> None:
    engine, corpus = _opened(path)
    systems = _systems(engine)
    for kept, losses in zip(systems, engine.ablation(corpus).losses(systems), strict=True):
        pairs = zip(corpus.source, corpus.target or (), strict=True)
        expected = [reference_loss(engine.model, *map(list, pair), _masks(engine, kept)) for pair in pairs]
        assert losses == pytest.approx(expected, rel=1e-5)


def test_losses_need_references(path: Path) -> None:
    engine, corpus = _opened(path)
    with (
        mock.patch.dict(vars(corpus), target=None),
        pytest.raises(ValueError, match=r"^valid\.xx-yy has no references"),
    ):
        engine.ablation(corpus).losses([{}])


def test_what_searches_refuse_comes_through(path: Path) -> None:
    engine, corpus = _opened(path, replace(SETTINGS, limits=BatchLimits.of(4)))
    with pytest.raises(UsageError, match="`max_tokens` 4 is too small"):
        engine.ablation(corpus)
    engine, corpus = _opened(path, replace(SETTINGS, search=SearchOptions(min_len=9, max_len_b=8)))
    with pytest.raises(UsageError, match="`min_len` 9 is more than the 8 tokens"):
        engine.ablation(corpus).best([{}])
    with pytest.raises(UsageError, match="`min_len` 9 is more than the 8 tokens"):
        engine.translate(corpus, {})


def test_models_that_it_cannot_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = load(path)

    def refuse(_self: Checkpoint) -> None:
        raise CheckpointError.of_faults("the native model cannot run this checkpoint", ["one reason", "another"])

    monkeypatch.setattr(type(checkpoint), "network", refuse)
    with pytest.raises(EngineError) as raised:
        open_engine("native", checkpoint, SETTINGS)
    assert str(raised.value) == f"{path}: the native model cannot run this checkpoint: one reason; another"
    assert raised.value.faults == ("one reason", "another") and raised.value.exit_code == 6


def test_threads(path: Path) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (2, None):
            open_engine("native", load(path), replace(SETTINGS, threads=threads))
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_memory_is_counted_once() -> None:
    @dataclass(frozen=True)
    class Part:
        name: str
        values: Tensor | None

    values = torch.zeros(10, dtype=torch.float64)
    shared = [Part("whole", values), Part("view", values[3:]), Part("none", None)]
    assert native.size_bytes((shared, {"other": (torch.zeros(3, dtype=torch.int32), 5)}, Part)) == 80 + 12


def test_a_model_without_any_head_is_searched(tiny: Path) -> None:
    checkpoint = load(tiny)
    cut = apply(Plan.removing(checkpoint.base, checkpoint.architecture.head_ids()), checkpoint)
    data = DataOptions(data_bin=tiny.parent / "data-bin", subset="valid")
    corpus = load_corpus(data, cut.profile(), references=False)
    engine = open_engine("native", cut, SETTINGS)
    (found,) = engine.ablation(corpus).best([{}])
    masked = open_engine("native", checkpoint, SETTINGS).ablation(corpus)
    masked.best([{}])
    (expected,) = masked.best([{module.id: () for module in checkpoint.architecture}])
    assert found == expected and any(found)
