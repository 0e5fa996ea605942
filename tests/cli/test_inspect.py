"""`nmtprune inspect`: modules, lineage, parameters by part."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nmtprune import slim
from nmtprune.architecture import GroupId, UnitId
from nmtprune.cli.main import main
from nmtprune.formats import load
from nmtprune.plan import Plan
from tests.support.fairseq_files import Build


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["inspect", *map(str, arguments)])


def cut(checkpoint: Path, output: Path, mode: str = "cut") -> Path:
    base = load(checkpoint)
    removed = [UnitId(GroupId("encoder", 1), head) for head in (0, 2)]
    slim.apply(Plan.removing(base.base, removed), base, mode).save(output)
    return output


def test_parameters_by_part_are_as_computed_by_hand(tiny: Path) -> None:
    figures = json.loads(run(tiny, "--format", "json").stdout)
    width, inner, words, of_attention = 16, 24, 28, 4 * (16 * 16 + 16)
    assert figures["parameters"] == {
        "attention.cross": 2 * of_attention,
        "attention.decoder": 2 * of_attention,
        "attention.encoder": 2 * of_attention,
        "embeddings": words * width,
        "feed-forward": 4 * (2 * width * inner + width + inner),
        "norms": 2 * width * (2 * 2 + 2 * 3 + 2),
        "total": figures["parameters"]["total"],
    }
    assert figures["parameters"]["total"] == sum(figures["parameters"].values()) - figures["parameters"]["total"]
    assert figures["bytes"]["model"] == 4 * figures["parameters"]["total"]
    assert figures["modules"][0]["parameters_per_head"] == 4 * 4 * 16 + 3 * 4
    assert figures["root_sha256"] is None


def test_a_slim_checkpoint_shows_root_ids(tiny: Path, tmp_path: Path) -> None:
    figures = json.loads(run(cut(tiny, tmp_path / "slim.pt"), "--format", "json").stdout)
    assert (figures["heads"], figures["root_heads"]) == (22, 24)
    assert figures["root_sha256"] == load(tiny).sha256
    module = figures["modules"][1]
    assert (module["module"], module["root_head_ids"], module["padding_heads"]) == ("encoder.1", [1, 3], 0)
    text = run(tmp_path / "slim.pt").stdout
    assert text.startswith("fairseq transformer: 22 heads of 24 (8.3% removed)\n")


def test_padding_heads_count_as_none(tiny: Path, tmp_path: Path) -> None:
    figures = json.loads(run(cut(tiny, tmp_path / "uniform.pt", "uniform"), "--format", "json").stdout)
    assert figures["heads"] == 22
    assert figures["modules"][1]["padding_heads"] == 2


def test_masked_heads_are_seen_in_the_weights(tiny: Path, tmp_path: Path) -> None:
    figures = json.loads(run(cut(tiny, tmp_path / "masked.pt", "masked"), "--format", "json").stdout)
    assert (figures["heads"], figures["masked_heads"]) == (24, 2)
    assert figures["modules"][1]["masked_heads"] == [0, 2]
    assert "2 of them masked: do not train this file further" in run(tmp_path / "masked.pt").stdout


def test_a_language_model_has_decoder_modules_only(tiny_lm: Path) -> None:
    lines = run(tiny_lm, "--format", "tsv").stdout.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["module", "decoder.0", "decoder.1"]


def test_a_module_without_heads_is_shown(tiny: Path, tmp_path: Path) -> None:
    base = load(tiny)
    removed = [UnitId(GroupId("cross", 0), head) for head in range(4)]
    slim.apply(Plan.removing(base.base, removed), base).save(tmp_path / "slim.pt")
    figures = json.loads(run(tmp_path / "slim.pt", "--format", "json").stdout)
    module = next(entry for entry in figures["modules"] if entry["module"] == "cross.0")
    assert (module["heads"], module["root_head_ids"], module["masked_heads"]) == (0, [], [])


# Neurons and layers


def smaller(checkpoint: Path, output: Path, mode: str = "cut") -> Path:
    """Without the first decoder layer, two neurons of the last decoder layer and a head of it."""
    base = load(checkpoint)
    removed = [
        UnitId(GroupId("decoder-layers"), 0),
        UnitId(GroupId("decoder-ffn", 1), 3),
        UnitId(GroupId("decoder-ffn", 1), 7),
        UnitId(GroupId("cross", 1), 1),
    ]
    slim.apply(Plan.removing(base.base, removed), base, mode).save(output)
    return output


def test_what_neurons_and_layers_cost_is_as_computed_by_hand(tiny: Path) -> None:
    figures = json.loads(run(tiny, "--format", "json").stdout)
    width, inner = 16, 24
    attention, norm, feed_forward = 4 * (width * width + width), 2 * width, 2 * width * inner + width + inner
    assert (figures["neurons"], figures["root_neurons"], figures["masked_neurons"]) == (96, 96, 0)
    assert figures["feed_forwards"][3] == {
        "feed_forward": "decoder-ffn.1",
        "neurons": 24,
        "root_neurons": 24,
        "padding_neurons": 0,
        "root_feed_forward": "decoder-ffn.1",
        "root_neuron_ids": "0-23",
        "masked_neurons": "",
        "parameters_per_neuron": 2 * width + 1,
        "bytes_per_neuron": 4 * (2 * width + 1),
    }
    encoder, decoder = attention + feed_forward + 2 * norm, 2 * attention + feed_forward + 3 * norm
    assert figures["stacks"] == [
        {
            "stack": stack,
            "layers": 2,
            "root_layers": 2,
            "root_layer_ids": [0, 1],
            "parameters_of_layers": [cost, cost],
            "bytes_of_layers": [4 * cost, 4 * cost],
        }
        for stack, cost in (("encoder", encoder), ("decoder", decoder))
    ]


def test_units_of_a_model_without_some_layers_are_named_as_in_the_root(tiny: Path, tmp_path: Path) -> None:
    figures = json.loads(run(smaller(tiny, tmp_path / "slim.pt"), "--format", "json").stdout)
    assert [figures[name] for name in ("heads", "root_heads", "neurons", "root_neurons", "layers", "root_layers")] == [
        15, 24, 70, 96, 3, 4,
    ]  # fmt: skip
    cross = next(entry for entry in figures["modules"] if entry["module"] == "cross.0")
    assert (cross["root_module"], cross["root_heads"], cross["root_head_ids"]) == ("cross.1", 4, [0, 2, 3])
    layer = figures["feed_forwards"][-1]
    assert (layer["feed_forward"], layer["root_feed_forward"]) == ("decoder-ffn.0", "decoder-ffn.1")
    assert (layer["neurons"], layer["root_neurons"], layer["root_neuron_ids"]) == (22, 24, "0-2,4-6,8-23")
    decoder = figures["stacks"][1]
    assert (decoder["layers"], decoder["root_layers"], decoder["root_layer_ids"]) == (1, 2, [1])
    assert decoder["parameters_of_layers"] is None
    lines = run(tmp_path / "slim.pt").stdout.splitlines()
    assert lines[0] == (
        "fairseq transformer: 15 heads of 24 (37.5% removed); 70 neurons of 96 (27.1% removed); "
        "3 layers of 4 (25.0% removed)"
    )
    assert ["decoder-ffn.0", "22", "24", "33", "132", "0-2,4-6,8-23"] in [line.split() for line in lines]
    assert ["decoder", "1", "2", "-", "-", "1"] in [line.split() for line in lines]


def test_masked_and_padding_neurons_are_shown(tiny: Path, tmp_path: Path) -> None:
    figures = json.loads(run(smaller(tiny, tmp_path / "masked.pt", "masked"), "--format", "json").stdout)
    assert (figures["neurons"], figures["masked_neurons"], figures["masked_heads"]) == (72, 2, 1)
    assert figures["feed_forwards"][-1]["masked_neurons"] == "3,7"
    text = run(tmp_path / "masked.pt").stdout
    assert "72 neurons of 96 (25.0% removed), 2 of them masked: do not train this file further, these neurons" in text
    base = load(tiny)
    plan = Plan.removing(base.base, [UnitId(GroupId("encoder-ffn", 0), number) for number in range(5)])
    slim.apply(plan, base, "uniform").save(tmp_path / "uniform.pt")
    figures = json.loads(run(tmp_path / "uniform.pt", "--format", "json").stdout)
    assert [(entry["neurons"], entry["padding_neurons"]) for entry in figures["feed_forwards"]] == [
        (19, 5), (24, 0), (24, 0), (24, 0),
    ]  # fmt: skip
    assert figures["neurons"] == 91


def test_many_ranges_do_not_fill_the_line(build: Build, tmp_path: Path) -> None:
    base = load(build(ffn=200))
    removed = [UnitId(GroupId("encoder-ffn", 0), number) for number in range(0, 200, 2)]
    slim.apply(Plan.removing(base.base, removed), base).save(tmp_path / "slim.pt")
    line = next(line for line in run(tmp_path / "slim.pt").stdout.splitlines() if line.startswith(" encoder-ffn.0"))
    assert line.split() == ["encoder-ffn.0", "100", "200", "33", "132", "1,3,5,7,9,11,13,15,17,19,21,23,25,27,..."]
    figures = json.loads(run(tmp_path / "slim.pt", "--format", "json").stdout)
    assert figures["feed_forwards"][0]["root_neuron_ids"] == ",".join(map(str, range(1, 200, 2)))


@pytest.mark.usefixtures("every_picture")
def test_a_picture_of_what_is_left(tiny: Path, tmp_path: Path) -> None:
    picture, masked = tmp_path / "cut.png", tmp_path / "masked.png"
    result = run(smaller(tiny, tmp_path / "cut.pt"), "--plot", picture)
    assert (result.exit_code, result.stderr) == (0, f"wrote {picture}\n")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert run(smaller(tiny, tmp_path / "masked.pt", "masked"), "--plot", masked).exit_code == 0
    # What is masked computes nothing: it is drawn as if it were gone.
    assert masked.read_bytes() == picture.read_bytes()
    again = run(tmp_path / "cut.pt", "--plot", picture)
    assert (again.exit_code, again.stdout, again.stderr) == (
        8, "", f"Error: {picture}: exists (--force replaces it)\n",
    )  # fmt: skip
    assert run(tmp_path / "cut.pt", "--plot", tmp_path / "cut.pt", "--force").exit_code == 8
