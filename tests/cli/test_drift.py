"""`nmtprune drift`: tables, JSON and TSV, and models that cannot be compared."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nmtprune import slim
from nmtprune.architecture import UnitId
from nmtprune.cli.main import main
from nmtprune.formats import load
from nmtprune.plan import Plan


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["drift", *map(str, arguments)])


@pytest.fixture
def moved(tiny: Path, tmp_path: Path) -> Path:
    """A slim descendant without encoder.0.1, in which the queries of encoder.1 have moved by 0.25."""
    base = load(tiny)
    small = slim.apply(Plan.removing(base.base, [UnitId.parse("encoder.0.1")]), base)
    name = "encoder.layers.1.self_attn.q_proj.weight"
    tensors = {**small.tensors, name: small.tensors[name] + 0.25}
    small.rewritten(tensors, small.architecture, small.lineage).save(tmp_path / "moved.pt")
    return tmp_path / "moved.pt"


def test_table(tiny: Path, moved: Path) -> None:
    result = run(tiny, moved)
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split() for line in result.stdout.splitlines() if line.lstrip().startswith(("layer", "encoder"))] == [
        ["encoder:", "mean", "|change|", "per", "head"],
        ["layer", "0", "1", "2", "3", "mean"],
        ["encoder.0", "0", "0", "0", "0"],
        ["encoder.1", "0.08333", "0.08333", "0.08333", "0.08333", "0.08333"],
        ["layer", "0", "1", "2", "3", "mean"],
        ["layer", "0", "1", "2", "3", "mean"],
        ["layer", "neurons", "min", "median", "max", "mean"],
        ["encoder-ffn.0", "24", "0", "0", "0", "0"],
        ["encoder-ffn.1", "24", "0", "0", "0", "0"],
    ]


def test_json_and_tsv(tiny: Path, moved: Path) -> None:
    report = json.loads(run(tiny, moved, "--format", "json").stdout)
    assert (report["before"], report["after"], len(report["heads"])) == (str(tiny), str(moved), 23)
    by_name = {entry.pop("head"): entry for entry in report["heads"]}
    assert by_name["encoder.0.2"] == {"query": 0, "key": 0, "value": 0, "mean": 0}
    assert by_name["encoder.1.3"] == pytest.approx({"query": 0.25, "key": 0, "value": 0, "mean": 0.25 / 3}, rel=1e-6)
    layers = {layer["group"]: layer for layer in report["neurons"]}
    assert list(layers) == ["encoder-ffn.0", "encoder-ffn.1", "decoder-ffn.0", "decoder-ffn.1"]
    assert layers["decoder-ffn.1"]["neurons"] == list(range(24)) and layers["decoder-ffn.1"]["changes"] == [0.0] * 24
    lines = run(tiny, moved, "--format", "tsv").stdout.splitlines()
    assert lines[:2] == ["head\tquery\tkey\tvalue\tmean", "encoder.0.0\t0.0\t0.0\t0.0\t0.0"]
    cells = lines[7].split("\t")
    assert float(cells[4]) == by_name[cells[0]]["mean"]
    assert len(lines) == 24


def test_models_that_cannot_be_compared(tiny: Path, tiny_lm: Path, tmp_path: Path) -> None:
    result = run(tiny, tiny_lm)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == (
        f"Error: {tiny} and {tiny_lm} cannot be compared: encoder heads are 4 4 and none (before any cut); "
        "cross heads are 4 4 and none (before any cut)\n"
    )
    result = run(tiny, tmp_path / "none.pt")
    assert (result.exit_code, result.stderr) == (3, f"Error: {tmp_path}/none.pt: there is no such file\n")


def test_unrelated_models_are_told_apart(tiny: Path, moved: Path, tmp_path: Path) -> None:
    other = load(tiny)
    name = "encoder.layers.1.self_attn.q_proj.weight"
    other.rewritten({**other.tensors, name: other.tensors[name] * 2}, other.architecture, None).save(
        tmp_path / "other.pt"
    )
    result = run(tmp_path / "other.pt", moved)
    assert result.exit_code == 0
    assert result.stderr == ("the two checkpoints do not descend from the same weights: only their shapes agree\n")
