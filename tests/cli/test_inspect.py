"""`nmtprune inspect`: modules, lineage, parameters by part."""

import json
from pathlib import Path

from click.testing import CliRunner, Result

from nmtprune import slim
from nmtprune.architecture import GroupId, UnitId
from nmtprune.cli.main import main
from nmtprune.formats import load
from nmtprune.plan import Plan


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
