"""Scores of heads: against slow oracles, interrupted, resumed, and shared by several processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nmtprune import slim
from nmtprune.architecture import GroupId, UnitId
from nmtprune.data.options import DataOptions
from nmtprune.engines import native
from nmtprune.errors import OutputError, UsageError
from nmtprune.formats import load
from nmtprune.model.search import SearchOptions
from nmtprune.plan import Plan
from nmtprune.progress import Silent
from nmtprune.runs.score import ScoreRun, score
from nmtprune.runs.state import Interrupted, state_path
from nmtprune.scores import HeadScore, Scores
from tests.support.notes import Notes
from tests.support.reads import counted_reads
from tests.support.runs import Oracle, score_run


def _scored(run: ScoreRun) -> Scores:
    scores = score(run, Silent())
    assert scores is not None
    assert Scores.read(run.output) == scores
    return scores


def test_every_delta_is_that_of_a_search_of_its_own(tiny: Path, tmp_path: Path) -> None:
    scores = _scored(score_run(tiny, tmp_path / "scores.json"))
    oracle = Oracle(tiny)
    full = oracle.bleu({})
    assert scores.baseline["value"] == pytest.approx(full, abs=1e-9)
    assert scores.baseline["signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert [entry.id for entry in scores.heads] == list(load(tiny).architecture.head_ids())
    for entry in scores.heads:
        kept = set(range(4)) - {entry.id.number}
        delta = oracle.bleu(oracle.masks(entry.id.group, kept)) - full
        assert entry.delta == pytest.approx(delta, abs=1e-9)
        assert entry.score == -entry.delta
        assert entry.ci is not None and entry.ci[0] <= entry.ci[1]
        assert entry.p is not None and entry.p_corrected is not None and entry.p <= entry.p_corrected
        assert entry.p_sacrebleu is not None
    assert len({entry.delta for entry in scores.heads}) > 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.json", "scores.png", "scores.tsv"]


def test_one_head_left_and_tested_elsewhere(tiny: Path, tmp_path: Path) -> None:
    test_data = DataOptions(data_bin=tiny.parent / "data-bin", subset="test")
    run = score_run(tiny, tmp_path / "scores.json", all_but_one=True, test_data=test_data, kinds="cross,encoder")
    scores = _scored(run)
    assert scores.mode == "all-but-one"
    assert {entry.id.group.kind for entry in scores.heads} == {"encoder", "cross"}
    oracle, elsewhere = Oracle(tiny), Oracle(tiny, "test")
    full, full_elsewhere = oracle.bleu({}), elsewhere.bleu({})
    best: dict[GroupId, HeadScore] = {}
    for entry in scores.heads:
        delta = oracle.bleu(oracle.masks(entry.id.group, {entry.id.number})) - full
        assert entry.delta == pytest.approx(delta, abs=1e-9)
        assert entry.score == entry.delta
        if entry.id.group not in best or entry.score > best[entry.id.group].score:
            best[entry.id.group] = entry
    assert scores.test is not None
    assert [entry.head for entry in scores.test.heads] == [entry.head for _, entry in sorted(best.items())]
    assert scores.test.baseline["data"] == "test.xx-yy"
    for entry in scores.test.heads:
        delta = elsewhere.bleu(elsewhere.masks(entry.id.group, {entry.id.number})) - full_elsewhere
        assert entry.delta == pytest.approx(delta, abs=1e-9)


def test_losses(tiny: Path, tmp_path: Path) -> None:
    scores = _scored(score_run(tiny, tmp_path / "scores.json", metric="loss"))
    oracle = Oracle(tiny)
    full = oracle.loss({})
    assert scores.baseline["value"] == pytest.approx(full, abs=1e-6)
    assert "search" not in scores.baseline
    for entry in scores.heads:
        delta = oracle.loss(oracle.masks(entry.id.group, set(range(4)) - {entry.id.number})) - full
        assert entry.delta == pytest.approx(delta, abs=1e-6)
        assert entry.score == entry.delta
        assert entry.p is not None and entry.p_sacrebleu is None


@pytest.mark.parametrize(("metric", "group"), [("bleu", "layers"), ("loss", "heads,layers")])
def test_layers_are_those_of_models_without_them(tiny: Path, tmp_path: Path, metric: str, group: str) -> None:
    scores = _scored(score_run(tiny, tmp_path / "scores.json", metric=metric, group=group))
    base, oracle = load(tiny), Oracle(tiny)
    full = getattr(oracle, metric)({})
    layers = [entry for entry in scores.entries if entry.id.group.sort == "layers"]
    assert [entry.head for entry in layers] == [
        f"{stack}-layers.{n}" for stack in ("encoder", "decoder") for n in (0, 1)
    ]
    assert scores.sorts == tuple(group.split(","))
    for entry in layers:
        kept = {entry.id.group: (1 - entry.id.number,)}
        oracle.model = native.load(slim.apply(Plan.of(base.base, base.architecture.full(kept)), base))
        delta = getattr(oracle, metric)({}) - full
        assert entry.delta == pytest.approx(delta, abs=1e-6)
        assert entry.score == (entry.delta if metric == "loss" else -entry.delta)
        assert entry.p is not None and entry.p_corrected is not None and entry.p <= entry.p_corrected
    assert len({entry.delta for entry in layers}) > 1
    if group == "heads,layers":
        alone = _scored(score_run(tiny, tmp_path / "heads.json", metric=metric))
        heads = {entry.id: entry.delta for entry in scores.entries if entry.id.group.sort == "heads"}
        assert heads == {entry.id: entry.delta for entry in alone.heads}
    header, row, *_ = (tmp_path / "scores.tsv").read_text().splitlines()
    assert header.split("\t")[1:5] == ["unit", "kind", "layer", "index"]
    assert row.split("\t")[1] == scores.entries[0].head


def test_runs_over_layers_resume(tiny: Path, tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.json", tmp_path / "part.json"
    _scored(score_run(tiny, whole, metric="loss", group="layers"))
    with pytest.raises(Interrupted):
        score(score_run(tiny, part, metric="loss", group="layers"), _Interrupting(2))
    code = score_run(tiny, part, metric="loss", group="heads,layers", resume=True)
    with pytest.raises(OutputError, match="--kinds was .*decoder-layers"):
        score(code, Silent())
    _scored(score_run(tiny, part, metric="loss", group="layers", resume=True))
    assert _without_provenance(part) == _without_provenance(whole)


@pytest.mark.parametrize("metric", ["importance", "fisher", "reconstruction", "variance", "activation"])
def test_heads_and_neurons_in_one_file(tiny: Path, tmp_path: Path, metric: str) -> None:
    scores = _scored(score_run(tiny, tmp_path / "scores.json", metric=metric, group="neurons,heads"))
    architecture = load(tiny).architecture
    units = [UnitId(group.id, number) for group in architecture.groups for number in range(group.units)]
    assert [*scores.scores_by_unit()] == units and scores.version == 2
    values = [*scores.scores_by_unit().values()]
    if metric in ("fisher", "reconstruction"):
        assert sorted(values) == list(range(len(units)))
    else:
        assert min(values) >= 0 and len(set(values)) > len(units) / 2
    assert scores.base is not None and scores.base.neurons
    if metric in ("variance", "activation"):
        for own in (scores.units or {}).values():
            raw = (own.details or {})["raw"]
            assert sum(own.score) == pytest.approx(1) and own.score == pytest.approx([one / sum(raw) for one in raw])
    alone = _scored(score_run(tiny, tmp_path / "neurons.json", metric=metric, group="neurons", kinds="decoder"))
    assert list(alone.units or {}) == ["decoder-ffn.0", "decoder-ffn.1"]
    if metric in ("importance", "variance"):
        expected = {unit: own for unit, own in scores.scores_by_unit().items() if unit.group.kind == "decoder-ffn"}
        assert alone.scores_by_unit() == pytest.approx(expected, rel=1e-5, abs=1e-12)


def test_a_stack_of_one_layer_keeps_it(build: Any, tmp_path: Path) -> None:
    notes = Notes()
    checkpoint = build(layers=(2, 1), joined=False)
    scores = score(score_run(checkpoint, tmp_path / "scores.json", metric="loss", group="layers"), notes)
    assert scores is not None and list(scores.units or {}) == ["encoder-layers"]
    message = f"{checkpoint}: the decoder has one layer, which cannot be removed: it is not scored"
    assert message in notes.lines
    with pytest.raises(UsageError, match=r"there is no layer to score \(decoder-layers\)"):
        score(score_run(checkpoint, tmp_path / "x.json", metric="loss", group="layers", kinds="decoder"), Silent())


def test_slim_models_are_scored(build: Any, tmp_path: Path) -> None:
    base = load(build(updates=1))
    removed = [UnitId.parse(name) for name in ("encoder.0.0", "encoder.0.1", "encoder.0.2", "encoder.0.3", "cross.1.2")]
    cut = slim.apply(Plan.removing(base.base, removed), base)
    path = tmp_path / "slim" / "checkpoint.pt"
    path.parent.mkdir()
    cut.save(path)
    (path.parent / "data-bin").symlink_to(base.path.parent / "data-bin")
    scores = _scored(score_run(path, tmp_path / "scores.json"))
    assert [str(entry.id.group) for entry in scores.heads].count("cross.1") == 3
    assert not any(str(entry.id.group) == "encoder.0" for entry in scores.heads)
    oracle = Oracle(path)
    for entry in scores.heads:
        if str(entry.id.group) == "cross.1":
            delta = oracle.bleu(oracle.masks(entry.id.group, set(range(3)) - {entry.id.number})) - oracle.bleu({})
            assert entry.delta == pytest.approx(delta, abs=1e-9)


def test_checkpoint_and_sentences_are_read_once(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test_data = DataOptions(data_bin=tiny.parent / "data-bin", subset="test")
    run = score_run(tiny, tmp_path / "scores.json", all_but_one=True, test_data=test_data, kinds="cross")
    with counted_reads() as reads:
        _scored(run)
    assert [path for path, _ in reads.checkpoints.elements()] == [tiny.resolve()]
    assert sorted(reads.subsets) == ["test", "valid"]


class _Interrupting(Silent):
    """Ctrl-C after some units."""

    def __init__(self, units: int) -> None:
        self.units = units

    def advance(self, what: str, steps: int = 1) -> None:
        self.units -= 1
        if not self.units:
            raise KeyboardInterrupt


def _without_provenance(path: Path) -> str:
    content = json.loads(path.read_text())
    del content["provenance"]
    return json.dumps(content)


@pytest.mark.parametrize("metric", ["chrf", "loss"])
def test_interrupted_and_resumed(tiny: Path, tmp_path: Path, metric: str) -> None:
    whole = score_run(tiny, tmp_path / "whole.json", metric=metric)
    score(whole, Silent())
    output = tmp_path / "scores.json"
    for units in (1, 3):
        with pytest.raises(Interrupted) as raised:
            score(score_run(tiny, output, metric=metric, resume=True), _Interrupting(units))
    state = state_path(output)
    assert str(raised.value) == (
        f"interrupted: finished work is kept in {state}; run the same command with --resume to continue"
    )
    assert raised.value.exit_code == 130
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("scores")] == ["scores.json.state"]
    score(score_run(tiny, output, metric=metric, resume=True), Silent())
    assert _without_provenance(output) == _without_provenance(whole.output)
    assert not state.exists()


class _Units(Silent):
    """Names of the units, as they are done."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def advance(self, what: str, steps: int = 1) -> None:
        self.names.append(what)


def test_dear_heads_are_kept_one_by_one(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together, alone = (
        score_run(tiny, tmp_path / "together.json", kinds="cross"),
        score_run(tiny, tmp_path / "alone.json", kinds="cross"),
    )
    score(together, Silent())
    monkeypatch.setattr("nmtprune.runs.workers.UNIT_OPERATIONS", 1)
    watcher = _Units()
    score(alone, watcher)
    assert watcher.names == [f"cross.{layer}.{head}" for layer in range(2) for head in range(4)]
    assert _without_provenance(alone.output) == _without_provenance(together.output)


def test_resuming_with_other_settings(tiny: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores.json"
    with pytest.raises(Interrupted):
        score(score_run(tiny, output), _Interrupting(1))
    state = state_path(output)
    with pytest.raises(OutputError) as raised:
        score(score_run(tiny, output), Silent())
    assert str(raised.value) == (
        f"{state}: an interrupted run left its state: --resume continues it, --force starts over"
    )
    other = score_run(tiny, output, resume=True, search=SearchOptions(beam=1, max_len_b=8), kinds="encoder")
    with pytest.raises(OutputError) as raised:
        score(other, Silent())
    assert str(raised.value) == (
        f"{state}: of a run with other settings (repeat them, or start over with --force and without --resume): "
        '--beam was 2, is 1; --kinds was ["cross", "decoder", "encoder"], is ["encoder"]'
    )
    test = DataOptions(data_bin=tiny.parent / "data-bin", subset="test")
    with pytest.raises(OutputError, match=r'\): dev data was "valid.xx-yy", is "test.xx-yy"; dev files was "'):
        score(score_run(tiny, output, resume=True, data=test), Silent())
    assert state.exists()
    score(score_run(tiny, output, force=True, kinds="cross"), Silent())
    assert not state.exists()
    assert {entry.id.group.kind for entry in Scores.read(output).heads} == {"cross"}


def test_another_model_is_not_resumed(tiny: Path, build: Any, tmp_path: Path) -> None:
    output = tmp_path / "scores.json"
    with pytest.raises(Interrupted):
        score(score_run(tiny, output), _Interrupting(1))
    other = build(updates=3, encoder_normalize_before=True, decoder_normalize_before=True, share_all_embeddings=True)
    with pytest.raises(OutputError, match=r'\): model was "[0-9a-f]{56}\.\.\., is "[0-9a-f]+'):
        score(score_run(other, output, resume=True), Silent())


def _torchrun(processes: int, *arguments: Any) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"]
    command += ["-m", "nmtprune.cli.main", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)


def test_several_processes_give_the_same_file(tiny: Path, tmp_path: Path) -> None:
    run = score_run(tiny, tmp_path / "alone.json", kinds="encoder,cross")
    score(run, Silent())
    options = ["--data-bin", tiny.parent / "data-bin", "--beam", 2, "--max-len-b", 8, "--max-tokens", 60]
    options += ["--kinds", "encoder,cross", "--resamples", 3000, "--device", "cpu", "--allow-bad-baseline"]
    together = _torchrun(2, "score", tiny, *options, "-o", tmp_path / "together.json", "--format", "tsv")
    assert together.returncode == 0, together.stderr
    assert _without_provenance(tmp_path / "together.json") == _without_provenance(run.output)
    assert together.stdout == (tmp_path / "together.tsv").read_text()


@pytest.mark.slow
def test_several_processes_are_refused_with_one_line(tiny: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores.json"
    output.touch()
    refused = _torchrun(
        2, "score", tiny, "--data-bin", tiny.parent / "data-bin", "--device", "cpu", "--allow-bad-baseline",
        "--resamples", 3000, "-o", output,
    )  # fmt: skip
    assert refused.stdout == "" and output.read_text() == ""
    lines = [line for line in refused.stderr.splitlines() if line.startswith("Error")]
    assert lines == [f"Error: {output}: exists (--force replaces it)"]
    assert "exitcode  : 8" in refused.stderr
