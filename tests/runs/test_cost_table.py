"""Cost tables of tiny models: measured for real, resumed, read back, and refused where they do not fit."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nmtprune.architecture import GroupId
from nmtprune.data.corpus import load_corpus
from nmtprune.errors import DataError, EngineError, OutputError
from nmtprune.evaluate.cost import Spread
from nmtprune.formats import load
from nmtprune.model.search.options import SearchOptions
from nmtprune.profile import PLACES, LanguageTokens, ModelProfile
from nmtprune.progress import Silent
from nmtprune.runs.bench.parts_in_turns import CostTableRun, cost_table
from nmtprune.runs.bench.random_sentences import fitting_profile, write_fitting
from nmtprune.runs.cost_table import CostTable
from nmtprune.runs.state import Interrupted
from tests.support.fairseq_files import Build
from tests.support.marian_files import VARIANTS, marian_model


def run(checkpoint: Path, output: Path, **changes: Any) -> CostTableRun:
    settings: dict[str, Any] = {
        "engine": "native", "device": "cpu", "threads": 1, "search": SearchOptions(beam=2), "batch_size": 2,
        "sentences": 2, "source_length": 4, "target_length": 3, "repeat": 1,
    }  # fmt: skip
    return CostTableRun(checkpoint=checkpoint, output=output, **{**settings, **changes})


def kinds(table: CostTable) -> dict[tuple[str, ...], list[float]]:
    return {axis.kinds: [point.left for point in axis.points] for axis in table.axes}


def timed(table: CostTable, time: Callable[[float], float] = lambda left: 0.9 + 0.1 * left) -> CostTable:
    """A table with other times by share of units: those of so small a model are mostly noise."""
    axes = [
        replace(axis, points=tuple(replace(point, time=Spread.of([time(point.left)])) for point in axis.points))
        for axis in table.axes
    ]
    return table.model_copy(update={"axes": tuple(axes)})


def test_of_the_native_engine(tiny: Path, tmp_path: Path) -> None:
    found = cost_table(run(tiny, tmp_path / "table.json"), Silent())
    assert kinds(found) == {
        ("encoder",): [0, 0.25, 0.5, 0.75],
        ("decoder",): [0, 0.25, 0.5, 0.75],
        ("cross",): [0, 0.25, 0.5, 0.75],
        ("encoder-ffn",): [0.125, 0.25, 0.5, 0.75],
        ("decoder-ffn",): [0.125, 0.25, 0.5, 0.75],
        ("encoder-layers",): [0.5],
        ("decoder-layers",): [0.5],
    }
    assert not any(axis.padded for axis in found.axes) and found.compute_type is None
    assert [point.words for point in found.vocabulary] == [14]
    assert [point.left for point in found.combined][0] == dict.fromkeys(
        ("encoder", "decoder", "cross", "encoder-ffn", "decoder-ffn"), 0.5
    )
    assert not (tmp_path / "table.json.state").exists()
    read = CostTable.read(tmp_path / "table.json")
    assert read == found and read.provenance["seed"] == 1
    prices = timed(read).prices(load(tiny), "table.json")
    assert prices.total({}) == found.milliseconds.median > 0
    for point in found.combined:
        assert point.time.low <= point.time.median <= point.time.high and point.predicted >= 0


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_of_ctranslate2(tiny: Path, tmp_path: Path, precision: str) -> None:
    """Heads of a stack go together, since CTranslate2 pads them, and at least one stays."""
    found = cost_table(run(tiny, tmp_path / "table.json", engine="ctranslate2", compute_type=precision), Silent())
    assert found.compute_type == precision
    assert {axis.kinds: axis.padded for axis in found.axes if axis.padded} == {
        ("encoder",): True, ("decoder", "cross"): True
    }  # fmt: skip
    assert kinds(found)["decoder", "cross"] == [0.25, 0.5, 0.75]
    assert timed(found).prices(load(tiny), "table").together == (("encoder",), ("decoder", "cross"))


@pytest.mark.parametrize("variant", ["SSRU decoder of tied layers", "uneven depths and widths"])
def test_of_marian_models(tmp_path: Path, variant: str) -> None:
    model = marian_model(tmp_path / "model.npz", **VARIANTS[variant])
    found = cost_table(run(model, tmp_path / "table.json"), Silent())
    there = {id.kind for id in load(model).architecture.units}
    assert {kind for own in kinds(found) for kind in own} <= there
    assert ("decoder",) in kinds(found) if "SSRU" not in variant else ("decoder",) not in kinds(found)


class Stopping(Silent):
    """Ctrl-C when a stage begins."""

    def __init__(self, stage: str) -> None:
        self.stages: list[str] = []
        self._stage = stage

    def begin(self, what: str, steps: int) -> None:
        self.stages.append(what)
        if what == self._stage:
            raise KeyboardInterrupt


@pytest.mark.parametrize("place", PLACES)
def test_sentences_have_language_tokens(tmp_path: Path, place: str) -> None:
    """Whatever languages the model has, and wherever their tokens stand."""
    tokens = LanguageTokens(
        languages=None, languages_file="langs.txt", forms=("__{}__", "__{}_mined__"), others=("<mask>",), models="x",
        source="__{}__", source_side="target", target="__{}__", place=place, directions=(("en", "de"),),
    )  # fmt: skip
    profile = fitting_profile(ModelProfile(source_symbols=40, target_symbols=40, language_tokens=tokens))
    corpus = load_corpus(write_fitting(tmp_path / "data", profile, 3, 5, seed=1), profile, references=False)
    assert len(corpus.source_vocabulary) == len(corpus.target_vocabulary) == 40
    token = corpus.source_vocabulary.symbols.index("__target__")
    assert all(token in ids.tolist() and sum(ids < 36) == len(ids) - 1 for ids in corpus.source)
    assert corpus.source.sizes.tolist() == [5 + (1 if place == "ends" else 2)] * 3


def test_an_interrupted_run_goes_on(tiny: Path, tmp_path: Path) -> None:
    output = tmp_path / "table.json"
    with pytest.raises(Interrupted, match="--resume"):
        cost_table(run(tiny, output), Stopping("decoder-ffn"))
    assert not output.exists() and (tmp_path / "table.json.state").exists()
    with pytest.raises(OutputError, match="--resume continues it"):
        cost_table(run(tiny, output), Silent())
    with pytest.raises(OutputError, match="--batch-size was 2, is 1"):
        cost_table(run(tiny, output, batch_size=1, resume=True), Silent())
    with pytest.raises(OutputError, match="--threads was 1, is 2"):
        cost_table(run(tiny, output, threads=2, resume=True), Silent())
    later = Stopping("")
    cost_table(run(tiny, output, resume=True), later)
    assert later.stages[0] == "decoder-ffn" and output.exists() and not (tmp_path / "table.json.state").exists()


def test_a_model_that_an_engine_cannot_run(tmp_path: Path) -> None:
    model = marian_model(tmp_path / "model.npz", **VARIANTS["SSRU decoder of tied layers"])
    with pytest.raises(EngineError, match="SSRU"):
        cost_table(run(model, tmp_path / "table.json", engine="ctranslate2"), Silent())
    assert not (tmp_path / "table.json").exists()


def test_tables_that_are_none(tiny: Path, build: Build, tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    found = cost_table(run(tiny, table), Silent())
    with pytest.raises(DataError, match=r"measured on a model of another size .*layers, decoder: 2, not 3"):
        found.prices(load(build(layers=3)), "table.json")
    content = json.loads(table.read_text())
    broken = tmp_path / "broken.json"
    for change, reason in (
        ({"version": 2}, "version"),
        ({"engine": "fairseq"}, "engine"),
        ({"milliseconds": None}, "milliseconds"),
        ({"more": 1}, "more"),
    ):
        broken.write_text(json.dumps({**content, **change}))
        with pytest.raises(DataError, match=rf"^{broken}: no cost table: .*{reason}"):
            CostTable.read(broken)
    for other in ({**content, "format": "nmtprune-plan"}, [1]):
        broken.write_text(json.dumps(other))
        with pytest.raises(DataError, match=rf"^{broken}: no cost table: nmtprune bench --cost-table writes one$"):
            CostTable.read(broken)
    broken.write_text("{")
    with pytest.raises(DataError, match="broken JSON"):
        CostTable.read(broken)
    with pytest.raises(DataError, match="cannot be read"):
        CostTable.read(tmp_path / "nothing.json")


def test_prices_of_groups_are_of_the_model(tiny: Path, tmp_path: Path) -> None:
    """Whatever was measured: fewer units never cost more."""
    found = timed(cost_table(run(tiny, tmp_path / "table.json"), Silent()), lambda left: 1 - 0.05 * (left == 0.5))
    prices = found.prices(load(tiny), "table")
    for id, numbers in load(tiny).architecture.units.items():
        totals = [prices.total({id: numbers[:count]}) for count in range(1, len(numbers) + 1)]
        assert totals == sorted(totals)
    assert prices.of_group(GroupId("encoder", 0), {}) >= 0


def test_parts_that_take_more_than_the_whole_are_no_prices(tiny: Path, tmp_path: Path) -> None:
    found = cost_table(run(tiny, tmp_path / "table.json"), Silent())
    with pytest.raises(DataError, match="^table: the parts take more time than the whole model: .* too briefly"):
        timed(found, lambda left: left).prices(load(tiny), "table")


def test_what_times_are_of_is_said(tiny: Path, tmp_path: Path) -> None:
    found = cost_table(run(tiny, tmp_path / "table.json"), Silent())
    same = found.model_copy(update={"combined": ()})
    measured = f"times of native, batches of {found.batch_size}, beam {found.beam}"
    assert same.remarks("native", found.beam) == [measured]
    assert same.remarks("ctranslate2", 9) == [
        f"{measured}; translations are measured with --engine ctranslate2 and --beam 9"
    ]
    point = found.combined[0]
    off = point.model_copy(update={"predicted": 1.5, "time": Spread.of([1.0])})
    (_, remark) = found.model_copy(update={"combined": (off,)}).remarks("native", found.beam)
    assert remark.startswith("the sum of the parts is off by up to 50%")
