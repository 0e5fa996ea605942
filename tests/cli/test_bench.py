"""`nmtprune bench` and `nmtprune check` as a user meets them."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest

from nmtprune.architecture import GroupId
from nmtprune.cli.bench import bench
from nmtprune.data.corpus import load_corpus
from nmtprune.data.options import DataOptions
from nmtprune.formats import load
from nmtprune.plan import Plan
from nmtprune.runs.bench.synthetic import SHAPES, Shape
from nmtprune.summary import model_bytes
from tests.support.cli import documented, nmtprune, refused
from tests.support.marian_files import marian_model
from tests.support.marian_program import random_texts, vocabulary_file
from tests.support.reads import counted_reads


@pytest.fixture(scope="module")
def slim(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with half of its heads."""
    folder = tmp_path_factory.mktemp("slim")
    base = load(tiny)
    Plan.removing(base.base, base.architecture.head_ids()[::2]).write(folder / "plan.json")
    output = folder / "slim.pt"
    assert nmtprune("slim", tiny, "--plan", folder / "plan.json", "--drop-optimizer", "-o", output).code == 0
    return output


def _data(tiny: Path, *options: Any) -> tuple[Any, ...]:
    return (*_searched(tiny), "--repeat", 2, *options)


def _searched(tiny: Path, *options: Any) -> tuple[Any, ...]:
    data = ("--data-bin", tiny.parent / "data-bin", "--subset", "test", "--device", "cpu", "--threads", 1)
    return (*data, "--beam", 2, "--max-len-b", 8, *options)


@pytest.mark.parametrize("command", ["bench", "check"])
def test_every_file_is_read_once(tiny: Path, slim: Path, command: str) -> None:
    """References are those of the binarized data."""
    data = DataOptions(data_bin=tiny.parent / "data-bin", subset="test")
    with counted_reads() as alone:
        load_corpus(data, load(tiny).profile())
    models = (tiny, slim) if command == "bench" else (slim, "--baseline", tiny, "--max-drop", 100, "--min-speedup", 0)
    with counted_reads() as reads:
        result = nmtprune(command, *models, *_data(tiny), "--batch-size", 8, "--resamples", 200)
    assert result.code == 0 and "bleu" in (result.stdout + result.stderr).lower(), result.stderr
    there = alone.below(tiny.parent / "data-bin")
    assert len(there) == 6 and reads.below(tiny.parent / "data-bin") == there
    assert sorted(path for path, _ in reads.checkpoints.elements()) == sorted(map(Path.resolve, (tiny, slim)))


@pytest.mark.parametrize("engine", ["native", "ctranslate2"])
def test_models_side_by_side(tiny: Path, slim: Path, tmp_path: Path, engine: str) -> None:
    output = tmp_path / "bench.json"
    options = ("--batch-size", "1,8", "--resamples", 200, "--engine", engine, "-o", output, "--format", "json")
    result = nmtprune("bench", tiny, slim, *_data(tiny, *options))
    assert result.code == 0, result.stderr
    found = documented(result.stdout)
    first, second = found["models"]
    assert (first["name"], second["name"]) == (str(tiny), str(slim)) and second["heads"] * 2 == first["heads"]
    assert first["difference"] is None and second["difference"]["p"] <= 1
    assert second["bleu"] == pytest.approx(first["bleu"] + second["difference"]["delta"])
    for model in found["models"]:
        assert [timing["batch_size"] for timing in model["timings"]] == [1, 8]
        for timing in model["timings"]:
            assert len(timing["seconds"]) == 2
            low, median, high = (timing["sentences_per_second"][name] for name in ("low", "median", "high"))
            assert 0 < low <= median <= high
    assert all(timing["ratio"]["median"] == 1 and timing["predicted"] == 1 for timing in first["timings"])
    assert all(timing["predicted"] > 1 for timing in second["timings"])
    assert documented(output.read_text())["models"] == found["models"]
    header, *rows = (tmp_path / "bench.tsv").read_text().splitlines()
    assert len(rows) == 4 and all(len(row.split("\t")) == len(header.split("\t")) for row in rows)
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_text_says_what_noise_leaves_open(tiny: Path) -> None:
    result = nmtprune("bench", tiny, tiny, *_data(tiny, "--batch-size", 8, "--resamples", 200))
    assert result.code == 0, result.stderr
    assert "sentences/s" in result.stdout and "BLEU" in result.stdout


def test_a_marian_model_without_references(tmp_path: Path) -> None:
    model, vocabulary = marian_model(tmp_path / "model.npz"), vocabulary_file(tmp_path)
    source, _ = random_texts(tmp_path)
    data = ("--source", source, "--vocabs", vocabulary, vocabulary, "--post-process", "none", "--threads", 1)
    for engine, own in (("native", ()), ("marian", ("--marian-batch-length-limit",))):
        result = nmtprune(
            "bench", model, model, *data, "--engine", engine, "--beam", 2, "--batch-size", 4, "--repeat", 1, *own
        )
        assert result.code == 0, result.stderr
        assert "BLEU" not in result.stdout and f"engine {engine}, 1 threads" in result.stdout


def test_remarks_of_engines_are_told(tmp_path: Path) -> None:
    changes = {"transformer_preprocess": "n", "transformer_postprocess": "da", "transformer_postprocess_top": "n"}
    model, vocabulary = marian_model(tmp_path / "model.npz", **changes), vocabulary_file(tmp_path)
    source, _ = random_texts(tmp_path)
    data = ("--source", source, "--vocabs", vocabulary, vocabulary, "--post-process", "none", "--threads", 1)
    for command in (("bench", model, model), ("check", model, "--baseline", model, "--min-speedup", 0)):
        result = nmtprune(*command, *data, "--beam", 1, "--batch-size", 4, "--repeat", 1)
        assert result.code == 0, result.stderr
        (line,) = [line for line in result.stderr.splitlines() if "pre-norm decoder" in line]
        assert line.startswith(f"{model}: pre-norm decoder: searched as it was trained; ")


def test_what_bench_refuses(tiny: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("w1 w2\nw3\n")
    raw = ("--data-bin", tiny.parent / "data-bin", "--source", text, "--post-process", "none", "--batch-size", 1)
    assert refused("bench", tiny, *raw, "--lowercase", "--allow-bad-baseline") == (
        2,
        "bench: --lowercase goes with references (--reference FILE); --allow-bad-baseline goes with references "
        "(--reference FILE)",
    )
    code, line = refused("bench", tiny, *_data(tiny, "--batch-size", "8,5000"))
    assert code == 2 and line.startswith("--batch-size 5000: test.xx-yy has only ")
    assert refused("bench", tiny, *_searched(tiny), "--repeat", 0)[0] == 2
    assert refused("bench", tiny, *_data(tiny), "--batch-size", "1,x")[0] == 2
    marian = marian_model(tmp_path / "model.npz")
    code, line = refused("bench", tiny, marian, *_data(tiny))
    assert code == 5 and line.startswith("models that do not do the same work: ")
    assert f"{marian} has another toolkit than {tiny}" in line
    code, line = refused("bench", tiny, *_data(tiny, "--batch-size", 8, "--engine", "marian"))
    assert code == 6
    one_by_one = ("--engine", "fairseq", "--max-len-a", 1, "--batch-size", "1,8")
    refusal = (
        "--batch-size 8: --engine fairseq translates sentences one by one, since it limits the length of translations "
        "by the longest source of a batch: give --fairseq-batch-length-limit, or --batch-size 1"
    )
    assert refused("bench", tiny, *_data(tiny, *one_by_one)) == (2, refusal)
    given = ("--baseline", tiny, *_data(tiny, *one_by_one[:-1], 8), "--min-speedup", 1)
    assert refused("check", tiny, *given) == (2, refusal)


def test_each_condition_passes_and_fails(tiny: Path, slim: Path) -> None:
    share = 100 * model_bytes(load(slim)) / model_bytes(load(tiny))
    base = ("--baseline", tiny, *_searched(tiny, "--batch-size", 8))
    for given, passes in (
        (("--max-size", share + 0.1), True),
        (("--max-size", share - 0.1), False),
        (("--max-drop", 100, "--resamples", 200), True),
        (("--min-speedup", 0.0001, "--repeat", 2), True),
        (("--min-speedup", 1000, "--repeat", 2), False),
    ):
        result = nmtprune("check", slim, *base, *given)
        assert result.code == (0 if passes else 7), result.stderr
        assert result.stdout.startswith(f"{'passed' if passes else 'FAILED'} {given[0]}: ")
        assert result.stdout.count("\n") == 1
    unmet = ("--max-size", 1, "--min-speedup", 1000, "--repeat", 2, "--max-drop", 100, "--resamples", 200)
    result = nmtprune("check", slim, *base, *unmet, "--format", "json")
    assert result.code == 7 and f"Error: {slim}: not met: --min-speedup, --max-size" in result.stderr
    found = documented(result.stdout)
    assert found["passed"] is False
    assert [(each["option"], each["passed"]) for each in found["conditions"]] == [
        ("--max-drop", True), ("--min-speedup", False), ("--max-size", False)
    ]  # fmt: skip


def test_non_inferiority_is_harder_than_the_change(tiny: Path, slim: Path) -> None:
    """The lower end of the interval must be above the margin, which few sentences do not show."""
    base = ("--baseline", tiny, *_searched(tiny, "--resamples", 200), "--metric", "chrf", "--format", "json")
    result = documented(nmtprune("check", slim, *base, "--max-drop", 0).stdout)
    (plain,) = result["conditions"]
    low, high = plain["interval"]
    assert low <= plain["value"] <= high
    margin = (abs(low) + abs(plain["value"])) / 2 if low < 0 else 0.0
    (tested,) = json.loads(nmtprune("check", slim, *base, "--max-drop", margin, "--significant").stdout)["conditions"]
    assert tested["value"] == low and tested["passed"] == (low > -margin)


def test_what_check_refuses(tiny: Path, slim: Path) -> None:
    base = (slim, "--baseline", tiny, *_searched(tiny))
    assert refused("check", *base) == (
        2, "check: name at least one condition: --max-drop, --min-speedup or --max-size"
    )  # fmt: skip
    allowing = ("--allow-bad-baseline", "--allow-few-sentences")
    assert refused("check", *base, "--max-size", 100, "--lowercase", *allowing)[1] == (
        "check: --lowercase goes with --max-drop; --allow-bad-baseline goes with --max-drop; --allow-few-sentences "
        "goes with --max-drop"
    )
    everywhere = {"NMTPRUNE_CHECK_ALLOW_FEW_SENTENCES": "1"}
    assert nmtprune("check", *base, "--max-size", 100, env=everywhere).code == 0
    assert refused("check", *base, "--significant")[1].startswith("check: --significant goes with --max-drop X")
    code, line = refused("check", *base, "--max-drop", -1, "--max-size", 0)
    assert (code, line) == (
        2, "check: --max-drop -1 is not a number from 0 on; --max-size 0 is not a positive number of percent"
    )  # fmt: skip


@pytest.mark.parametrize("engine", ["native", "fairseq", "ctranslate2"])
def test_made_up_models(engine: str) -> None:
    shape = "student d=32 ffn=48 heads=4 encoder_layers=1 decoder_layers=1 vocab=60"
    options = ("--sentences", 8, "--batch-size", 4, "--beam", 2, "--repeat", 1, "--threads", 1, "--format", "json")
    options += ("--engine", engine, "--device", "cpu")
    result = nmtprune("bench", "--synthetic", shape, "--random", "50%", "--target-length", 6, *options)
    assert result.code == 0, result.stderr
    found = documented(result.stdout)
    assert [(model["name"], model["heads"]) for model in found["models"]] == [("full", 12), ("cut", 6)]
    assert found["synthetic"]["shape"]["d"] == 32 and found["search"]["min_len"] == found["search"]["max_len_b"] == 6
    for model in found["models"]:
        (timing,) = model["timings"]
        rate = timing["words_per_second"]["median"] / timing["sentences_per_second"]["median"]
        assert rate == pytest.approx(6)  # every translation has the length that was asked for


def test_made_up_models_without_neurons_and_layers() -> None:
    """Predicted from the real widths and depths: without half of both layers' widths and one layer of two."""
    shape = "student d=32 ffn=48 heads=4 encoder_layers=2 decoder_layers=2 vocab=60"
    cut = ("--keep-neurons", "encoder=24 decoder=24", "--keep-layers", "decoder=1", "--random", 4)
    options = ("--sentences", 8, "--batch-size", 4, "--beam", 1, "--repeat", 1, "--threads", 1, "--format", "json")
    result = nmtprune("bench", "--synthetic", shape, *cut, "--target-length", 6, "--source-length", 5, *options)
    assert result.code == 0, result.stderr
    found = documented(result.stdout)
    assert found["synthetic"]["keep_layers"] == "decoder=1" and found["synthetic"]["remove_neurons"] is None
    full, cut_model = found["models"]
    assert (full["heads"], cut_model["heads"]) == (24, 12)  # 8 go with the layer, 4 of the 16 left are drawn
    (timing,) = cut_model["timings"]
    assert timing["predicted"] > 1.3
    neurons, layer = 2 * 32 + 1, 8 * 32 * 33 + 3 * 64 + 2 * 32 * 48 + 48 + 32
    saved = layer + 3 * 24 * neurons + 4 * (4 * 8 * 32 + 3 * 8)
    assert full["parameters"] - cut_model["parameters"] == saved


@pytest.mark.parametrize("engine", ["native", "ctranslate2"])
def test_models_without_layers_side_by_side(tiny: Path, tmp_path: Path, engine: str) -> None:
    """`bench` and `check` take files that lost neurons and layers; a file of half the decoder is predicted faster."""
    base = load(tiny)
    kept = {
        GroupId("encoder-ffn", 0): range(8),
        GroupId("encoder-ffn", 1): range(20),
        GroupId.layers_of("decoder"): [1],
    }
    plan, slim = tmp_path / "plan.json", tmp_path / "slim.pt"
    Plan.of(base.base, base.architecture.full(kept)).write(plan)
    assert nmtprune("slim", tiny, "--plan", plan, "-o", slim).code == 0
    options = _data(tiny, "--batch-size", 8, "--engine", engine)
    result = nmtprune("bench", tiny, slim, *options, "--resamples", 200, "--format", "json")
    assert result.code == 0, result.stderr
    (timing,) = documented(result.stdout)["models"][1]["timings"]
    assert timing["predicted"] > 1
    result = nmtprune("check", slim, "--baseline", tiny, *options, "--min-speedup", 0.01, "--max-size", 99)
    assert result.code == 0, result.stderr
    assert result.stdout.count("passed") == 2


def test_a_precision_goes_with_ctranslate2(tiny: Path) -> None:
    options = (*_data(tiny), "--batch-size", 8, "--compute-type", "int8")
    message = "--compute-type int8 goes with --engine ctranslate2"
    assert refused("bench", tiny, *options) == (2, message)
    assert refused("check", tiny, "--baseline", tiny, "--min-speedup", 0, *options) == (2, message)
    result = nmtprune("bench", tiny, tiny, *options, "--engine", "ctranslate2", "--resamples", 200, "--format", "json")
    assert result.code == 0 and documented(result.stdout)["compute_type"] == "int8", result.stderr


@pytest.mark.parametrize("output_format", ["text", "json", "tsv"])
def test_a_cost_table(tiny: Path, tmp_path: Path, output_format: str) -> None:
    table = tmp_path / "table.json"
    options = ("--sentences", 2, "--batch-size", 2, "--beam", 1, "--repeat", 1, "--threads", 1, "--target-length", 3)
    options += ("--source-length", 4, "--engine", "ctranslate2", "--device", "cpu", "--format", output_format)
    result = nmtprune("bench", tiny, "--cost-table", "-o", table, *options)
    assert result.code == 0, result.stderr
    assert result.stderr.splitlines()[-1] == f"wrote {table}"
    found = documented(table.read_text())
    assert (found["beam"], found["source_length"], found["target_length"]) == (1, 4, 3)
    if output_format == "json":
        assert documented(result.stdout) == found
    elif output_format == "tsv":
        header, *rows = result.stdout.splitlines()
        assert header.split("\t") == ["part", "left", "time", "time_low", "time_high", "predicted"]
        points = sum(len(axis["points"]) for axis in found["axes"])
        assert len(rows) == points + len(found["vocabulary"]) + len(found["combined"])
    else:
        for part in ("engine ctranslate2 float32 on cpu, 1 threads, batch size 2, beam 1", "decoder, cross", "14 words",
                     "heads 50%, neurons 50%, layers 50%", "several kinds at once: "):  # fmt: skip
            assert part in result.stdout
    assert refused("bench", tiny, "--cost-table", "-o", table, *options)[0] == 8


def test_a_cost_table_of_a_shape(tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    shape = "student d=32 ffn=48 heads=4 encoder_layers=1 decoder_layers=1 vocab=60"
    options = ("--sentences", 2, "--batch-size", 1, "--beam", 1, "--repeat", 1, "--threads", 1, "--target-length", 3)
    result = nmtprune("bench", "--synthetic", shape, "--cost-table", "-o", table, *options)
    assert result.code == 0, result.stderr
    model = documented(table.read_text())["model"]
    assert model["heads"] == {"encoder": [4], "decoder": [4], "cross": [4]}
    assert model["neurons"] == {"encoder-ffn": [48], "decoder-ffn": [48]}


def test_what_a_cost_table_refuses(tiny: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    data = ("--data-bin", tiny.parent / "data-bin", "--subset", "test")
    assert refused(
        "bench", tiny, tiny, "--cost-table", *data, "--batch-size", "1,2", "--max-len-b", 5, "--random", 1
    ) == (
        2,
        "--cost-table names one CHECKPOINT, or --synthetic SHAPE; --cost-table goes with -o FILE.json; --cost-table "
        "makes sentences up: leave out the data options (--source-length N, ...); --cost-table goes with one "
        "--batch-size; --random does not go with --cost-table; --max-len-b does not go with --cost-table",
    )
    assert refused("bench", tiny, "--cost-table", "-o", table, "--engine", "fairseq", "--sentences", 3) == (
        2,
        "bench: --cost-table times --engine native or ctranslate2; --batch-size 32 is more than --sentences 3",
    )
    assert refused("bench", tiny, "--cost-table", "-o", table, "--source-length", 99, "--target-length", 40) == (
        2,
        f"{tiny}: --source-length 99: the model takes at most 39 words; --target-length 40: the model takes at most 39 "
        "words",
    )
    assert refused("bench", tiny, "--cost-table", "-o", "-")[1].startswith("-o -: a cost table takes minutes")
    assert refused("bench", tiny, *data, "--resume")[1] == "--resume goes with --cost-table"


def test_help_names_every_shape_and_field() -> None:
    (option,) = [option for option in bench.params if option.name == "synthetic"]
    assert isinstance(option, click.Option) and option.help is not None
    *first, last = SHAPES
    names = ", ".join(field.name for field in fields(Shape))
    assert f"{', '.join(first)} or {last}," in option.help and option.help.endswith(f"({names}).")


def test_made_up_models_go_with_nothing_else(tiny: Path) -> None:
    made = ("--synthetic", "student vocab=60")
    assert (
        refused("bench", tiny, *made)[1]
        == "--synthetic generates models and sentences: leave out CHECKPOINT and the data options"
    )
    assert (
        refused("bench", *made, "--batch-size", 8)[1]
        == "--synthetic goes with what the cut model loses: give one of --keep, --random, --keep-neurons, "
        "--remove-neurons, --keep-layers"
    )
    twice = ("--keep", "1/1/1", "--random", 1, "--keep-neurons", "encoder=8", "--remove-neurons", "50%")
    assert (
        refused("bench", *made, *twice)[1]
        == "--synthetic goes with exactly one of --keep and --random; --synthetic goes with one of --keep-neurons and "
        "--remove-neurons"
    )
    code, line = refused("bench", *_data(tiny), "--keep", "1/1/1", "--sentences", 3)
    assert (code, line) == (
        2,
        "--keep goes with --synthetic; --sentences goes with --synthetic; name at least one CHECKPOINT, or give "
        "--synthetic SHAPE",
    )
