"""fairseq-generate as an engine: batches, options, masks and failures."""

import gc
import importlib.util
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from nmtprune import slim
from nmtprune.architecture import GroupId, Kept, parse_heads
from nmtprune.data.batching import BatchLimits
from nmtprune.data.corpus import Corpus, load_corpus, stream_corpus
from nmtprune.data.options import DataOptions
from nmtprune.engines import EngineSettings, fairseq, open_engine, toolkit
from nmtprune.errors import EngineError, UsageError
from nmtprune.formats import load
from nmtprune.formats.base import Checkpoint
from nmtprune.model.search import SearchOptions
from nmtprune.plan import Plan
from tests.support import fairseq_commands, networks
from tests.support.fairseq_files import Build
from tests.support.marian_files import marian_model
from tests.support.thinned import thinned

SEARCH = SearchOptions(beam=3, max_len_b=12)
CPU = torch.device("cpu")


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolkit, "run", fairseq_commands.in_this_process)


def _settings(search: SearchOptions = SEARCH, limits: BatchLimits = BatchLimits.of(400)) -> EngineSettings:  # noqa: B008
    return EngineSettings(search, limits, CPU, 1)


def _corpus(checkpoint: Checkpoint, folder: Path, subset: str = "valid", **options: Any) -> Corpus:
    targets = options.pop("targets", True)
    data = DataOptions(data_bin=folder / "data-bin", subset=subset, **options)
    if targets:
        return load_corpus(data, checkpoint.profile(), references=False, targets=True)
    return next(stream_corpus(data, checkpoint.profile(), 1000))


def _same_translations(checkpoint: Checkpoint, corpus: Corpus, settings: EngineSettings, kept: Kept) -> None:
    own = open_engine("native", checkpoint, settings).translate(corpus, kept)
    theirs = open_engine("fairseq", checkpoint, settings).translate(corpus, kept)
    # fairseq prints no <s>.
    printed = [[tuple(word for word in each.tokens if word) for each in found] for found in own]
    assert [[each.tokens for each in found] for found in theirs] == printed
    assert [[each.score for each in found] for found in theirs] == [
        pytest.approx([each.score for each in found], abs=1e-5) for found in own
    ]


@pytest.mark.parametrize(("subset", "targets"), [("valid", True), ("test", False)])
@pytest.mark.parametrize(
    "limits",
    thinned([BatchLimits.of(400), BatchLimits.of(60), BatchLimits.of(50, 7), BatchLimits.of(None, 5),
             BatchLimits(60, None, 1), BatchLimits(), BatchLimits(100, None, 3)]),
    ids=lambda limits: ",".join(map(str, asdict(limits).values())),
)  # fmt: skip
def test_batches_are_those_of_the_corpus(
    tiny: Path, in_this_process: None, limits: BatchLimits, subset: str, targets: bool
) -> None:
    from fairseq.tasks.translation import TranslationTask

    checkpoint = load(tiny)
    corpus = _corpus(checkpoint, tiny.parent, subset, targets=targets)
    seen: list[Tensor] = []
    inference = TranslationTask.inference_step

    def observed(self: Any, generator: Any, models: Any, sample: Any, **options: Any) -> Any:
        seen.append(sample["net_input"]["src_tokens"])
        return inference(self, generator, models, sample, **options)

    with mock.patch.object(TranslationTask, "inference_step", observed):
        engine = open_engine("fairseq", checkpoint, _settings(SearchOptions(beam=1, max_len_b=2), limits))
        found = engine.translate(corpus, {})
    assert len(found) == 16 and all(len(hypotheses) == 1 for hypotheses in found)
    batches = [corpus.batch(positions).source for positions in corpus.batches(limits)]
    assert len(seen) == len(batches)
    assert all(torch.equal(theirs, own) for theirs, own in zip(seen, batches, strict=True))


@pytest.mark.parametrize(
    "search",
    [SEARCH, SearchOptions(beam=1, max_len_b=9), SearchOptions(beam=2, lenpen=0.3, max_len_a=0.7, max_len_b=2),
     SearchOptions(beam=2, max_len_a=0.7, max_len_b=2, fairseq_batch_length_limit=True),
     SearchOptions(beam=4, min_len=5, max_len_b=9, unkpen=-3.5),
     SearchOptions(beam=30, max_len_b=4, unnormalized=True)],
    ids=lambda search: ",".join(map(str, asdict(search).values())),
)  # fmt: skip
def test_search_options(build: Build, in_this_process: None, search: SearchOptions) -> None:
    checkpoint = load(networks.randomized(build(**networks.VARIANTS["post-norm, separate embeddings"])))
    corpus = _corpus(checkpoint, checkpoint.path.parent)
    _same_translations(checkpoint, corpus, _settings(search, BatchLimits.of(60)), {})


def test_masks_on_full_and_slim_models(build: Build, in_this_process: None) -> None:
    base = load(networks.randomized(build(**networks.VARIANTS["pre-norm, all embeddings shared"])))
    corpus = _corpus(base, base.path.parent)
    first, last = GroupId("encoder", 0), GroupId("cross", 1)
    _same_translations(base, corpus, _settings(), {first: [0, 2], last: [], GroupId("decoder", 1): [3]})
    plan = Plan.removing(base.base, parse_heads("encoder.1 decoder.0 cross.0.2", base.architecture))
    for mode in ("cut", "uniform"):
        result = slim.apply(plan, base, mode)
        systems: list[Kept] = [{}, {GroupId("cross", 0): [0, 2]}, {first: [], last: [1]}]
        own, theirs = (open_engine(name, result, _settings()).ablation(corpus) for name in ("native", "fairseq"))
        found = own.best(systems)
        assert theirs.best(systems) == found
        assert found[0] != found[1] != found[2]


def test_systems_without_neurons_and_layers(build: Build, in_this_process: None) -> None:
    base = load(networks.randomized(build(**networks.VARIANTS["pre-norm, all embeddings shared"], layers=3)))
    corpus = _corpus(base, base.path.parent)
    some: Kept = {group.id: range(group.units)[group.id.layer :: 2] for group in base.architecture.groups}
    kept: Kept = {**some, GroupId("decoder-layers"): [0, 2], GroupId("encoder-layers"): [1]}
    _same_translations(base, corpus, _settings(), kept)
    plan = Plan.of(base.base, base.architecture.full(kept))
    for mode in ("cut", "uniform"):
        result = slim.apply(plan, base, mode)
        _same_translations(result, corpus, _settings(), {})
        _same_translations(result, corpus, _settings(), {GroupId("decoder-ffn", 1): [0, 3]})
    expected = open_engine("native", base, _settings()).translate(corpus, kept)
    found = open_engine("fairseq", result, _settings()).translate(corpus, {})
    assert [own[0].tokens for own in found] == [own[0].tokens for own in expected]


def test_padding_on_the_other_sides(build: Build, in_this_process: None) -> None:
    # Both are flags that turn the default around.
    checkpoint = load(networks.randomized(build(left_pad_source=True, left_pad_target=True)))
    corpus = _corpus(checkpoint, checkpoint.path.parent)
    assert (corpus.model.left_pad_source, corpus.model.left_pad_target) == (False, True)
    _same_translations(checkpoint, corpus, _settings(), {})


def test_sentences_that_are_left_out(tiny: Path, in_this_process: None, tmp_path: Path) -> None:
    checkpoint = load(tiny)
    text = tmp_path / "text"
    text.write_text("w1 w2\n" + "w3 " * 40 + "\n\nw4 unknown w5\n" + "w6\n" * 9)
    data = DataOptions(data_bin=tiny.parent / "data-bin", source=text, post_process="none", skip_invalid=True)
    (corpus,) = stream_corpus(data, checkpoint.profile(), 100)
    assert (len(corpus), corpus.total) == (12, 13)
    _same_translations(checkpoint, corpus, _settings(), {})


def test_no_sentences(tiny: Path) -> None:
    checkpoint = load(tiny)
    corpus = _corpus(checkpoint, tiny.parent)
    empty = mock.create_autospec(Corpus, instance=True)
    empty.__len__.return_value = 0
    assert open_engine("fairseq", checkpoint, _settings()).translate(empty, {}) == []
    assert len(corpus) == 16


def test_temporary_files_go(tiny: Path, in_this_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairseq.tempfile, "tempdir", str(tmp_path))
    checkpoint = load(tiny)
    engine = open_engine("fairseq", checkpoint, _settings())
    ablation = engine.ablation(_corpus(checkpoint, tiny.parent))
    ablation.best([{}])
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("nmtprune-")
    assert [path.name for path in folder.iterdir()] == ["all"]
    del ablation
    gc.collect()  # fairseq in this process leaves cycles that hold it
    assert not list(tmp_path.iterdir())


def test_sentences_that_do_not_come_back(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolkit, "run", lambda *_: "S-3\tw1\nH-3\t-0.5\t5\n")
    checkpoint = load(tiny)
    with pytest.raises(EngineError) as raised:
        open_engine("fairseq", checkpoint, _settings()).translate(_corpus(checkpoint, tiny.parent), {})
    assert str(raised.value) == f"{tiny}: fairseq-generate left out 15 of 16 sentences"


def test_a_failure_of_the_real_process_is_one_line(
    tiny: Path, cold_toolkits: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fairseq, "USER_DIR", tmp_path / "none")
    checkpoint = load(tiny)
    with pytest.raises(EngineError) as raised:
        open_engine("fairseq", checkpoint, _settings()).translate(_corpus(checkpoint, tiny.parent), {})
    assert str(raised.value) == f"{tiny}: fairseq-generate failed: FileNotFoundError: {tmp_path / 'none'}"
    assert raised.value.exit_code == 6


def test_models_that_it_cannot_run(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = load(tiny)
    monkeypatch.setattr(type(checkpoint), "section", lambda self, name: {"_name": "translation_lev"})
    with pytest.raises(EngineError) as raised:
        open_engine("fairseq", checkpoint, _settings())
    assert str(raised.value) == (
        f"{tiny}: the engine fairseq cannot run this model: trained for the task 'translation_lev', only translation, "
        "translation_multi_simple_epoch, translation_from_pretrained_bart are supported"
    )
    other = load(marian_model(tmp_path / "model.npz"))
    with pytest.raises(EngineError, match=r"model\.npz: the engine .* this model: a checkpoint of format marian$"):
        open_engine("fairseq", other, _settings())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineError) as raised:
        open_engine("fairseq", checkpoint, _settings())
    assert str(raised.value) == "fairseq is not installed: pip install 'nmtprune[fairseq]'"


def test_data_that_it_cannot_take(tiny: Path) -> None:
    checkpoint = load(tiny)
    engine = open_engine("fairseq", checkpoint, _settings())
    corpus = _corpus(checkpoint, tiny.parent)
    other = mock.Mock(path="vocab.spm")
    with mock.patch.dict(vars(corpus), target_vocabulary=other), pytest.raises(EngineError) as raised:
        engine.ablation(corpus)
    assert str(raised.value) == (
        "valid.xx-yy: the engine fairseq cannot take these data: vocab.spm is no dictionary of fairseq"
    )
    with pytest.raises(EngineError) as raised:
        engine.ablation(corpus).losses([{}])
    assert str(raised.value) == "the engine fairseq computes no losses: `metric` loss runs on `engine` native"
    short = open_engine("fairseq", checkpoint, _settings(SearchOptions(min_len=30, max_len_b=20)))
    with pytest.raises(UsageError, match="`min_len` 30 is more than the 20 tokens that a translation may have"):
        short.ablation(corpus)
    small = open_engine("fairseq", checkpoint, _settings(limits=BatchLimits.of(4)))
    with pytest.raises(UsageError, match="`max_tokens` 4 is too small"):
        small.ablation(corpus)
