"""`nmtprune plan`: every form, exact errors and exit codes, and nothing written where something is wrong."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from nmtprune.architecture import KINDS
from nmtprune.cli.main import main
from nmtprune.formats import load
from nmtprune.plan import Plan
from nmtprune.scores import HeadScore, Scores

FORMS = "--keep, --remove, --random, --lowest, --empty-layers"


def run(*arguments: object, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, ["plan", *map(str, arguments)], env=env)


def made(output: Path, *arguments: object, env: dict[str, str] | None = None) -> Plan:
    """The plan that a successful call writes."""
    result = run(*arguments, "-o", output, "--force", env=env)
    assert result.exit_code == 0, result.stderr
    return Plan.read(output)


def kept(plan: Plan) -> str:
    return " ".join("".join(map(str, plan.heads_by_kind()[kind])) for kind in KINDS)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "plan.json"


@pytest.fixture
def scores(tiny: Path, tmp_path: Path) -> Path:
    """Scores of the tiny model: 0, 1, 2, ... in the order of the heads, written for its weights."""
    path = tmp_path / "scores.json"
    checkpoint = load(tiny)
    heads = tuple(HeadScore(head=str(head), score=n) for n, head in enumerate(checkpoint.architecture.head_ids()))
    Scores(metric="bleu", mode="ablate", baseline={}, heads=heads, base=checkpoint.base).write(path)
    return path


# Forms


def test_keep_a_pattern(tiny: Path, output: Path) -> None:
    result = run(tiny, "--keep", "encoder=40 cross=2,3", "--seed", 0, "-o", output)
    assert (result.exit_code, result.stderr) == (0, f"wrote {output}\n")
    assert result.stdout == (
        "encoder     4 of    8 heads kept, by layer: 4 0\n"
        "decoder     8 of    8 heads kept, by layer: 4 4\n"
        "cross       5 of    8 heads kept, by layer: 2 3\n"
        "7 of 24 heads removed (29.2%)\n"
    )
    plan = Plan.read(output)
    plan.check(load(tiny).base)
    assert kept(plan) == "40 44 23"


def test_keep_totals(tiny: Path, output: Path) -> None:
    plan = made(output, tiny, "--keep", "3/8/1")
    assert [plan.count_kept([kind]) for kind in KINDS] == [3, 8, 1]


def test_remove(tiny: Path, output: Path) -> None:
    plan = made(output, tiny, "--remove", "E:1:3,4 decoder.0.2 cross.1")
    removed = "encoder.0.2 encoder.0.3 decoder.0.2 cross.1.0 cross.1.1 cross.1.2 cross.1.3"
    assert " ".join(map(str, plan.removed())) == removed


def test_random_removes_what_it_says(tiny: Path, output: Path) -> None:
    plan = made(output, tiny, "--random", "25%")
    assert len(plan.removed()) == 6
    assert made(output, tiny, "--random", "25%", "--seed", "1").keep == plan.keep
    assert made(output, tiny, "--random", "6").keep == plan.keep
    assert made(output, tiny, "--random", "25%", "--seed", "2").keep != plan.keep
    assert kept(made(output, tiny, "--random", "25%", "--per", "module")) == "33 33 33"
    by_kind = made(output, tiny, "--random", "2", "--per", "kind", "--kinds", "encoder,cross")
    assert [by_kind.count_kept([kind]) for kind in KINDS] == [6, 8, 6]
    at_least_one = made(output, tiny, "--random", "18", "--min-heads-per-module", 1)
    assert kept(at_least_one) == "11 11 11"


def test_lowest_scores(tiny: Path, output: Path, scores: Path) -> None:
    result = run(tiny, "--scores", scores, "--lowest", "5", "-o", output)
    assert (result.exit_code, result.stderr) == (0, f"wrote {output}\n")
    assert kept(Plan.read(output)) == "03 44 44"
    assert kept(made(output, tiny, "--scores", scores, "--lowest", "50%", "--kinds", "cross")) == "44 44 04"
    assert kept(made(output, tiny, "--scores", scores, "--lowest", "1", "--per", "kind")) == "34 34 34"


def test_empty_layers(tiny: Path, output: Path) -> None:
    assert kept(made(output, tiny, "--empty-layers", "top:1")) == "40 40 40"
    assert kept(made(output, tiny, "--empty-layers", "even", "--kinds", "encoder,cross")) == "04 44 04"


def test_uniform(tiny: Path, output: Path) -> None:
    result = run(tiny, "--random", "30%", "--uniform", "-o", output)
    assert result.exit_code == 0
    assert result.stderr == f"30% is 7.2 heads; the nearest uniform number is 8\nwrote {output}\n"
    encoder, decoder, cross = kept(Plan.read(output)).split()
    assert (len(set(encoder)), len(set(decoder + cross))) == (1, 1)


def test_both_figures_where_kinds_are_selected(tiny: Path, output: Path) -> None:
    result = run(tiny, "--random", "50%", "--kinds", "cross,encoder", "-o", output)
    assert result.stdout.endswith("8 of 24 heads removed (33.3%)\n8 of 16 heads of encoder, cross removed (50.0%)\n")


def test_language_model(tiny_lm: Path, output: Path) -> None:
    assert kept(made(output, tiny_lm, "--keep", "decoder=21")) == " 21 "
    assert made(output, tiny_lm, "--keep", "0/3/0").count_kept() == 3
    assert kept(made(output, tiny_lm, "--random", "50%", "--uniform")) == " 22 "
    result = run(tiny_lm, "--random", "50%", "--kinds", "encoder", "-o", output, "--force")
    assert result.exit_code == 2
    assert result.stderr == (
        "Error: kinds 'encoder' (choose among encoder, decoder, cross): the model has no encoder attention\n"
    )


# Output


def test_plan_on_stdout(tiny: Path, output: Path) -> None:
    made(output, tiny, "--remove", "encoder.0.0")
    result = run(tiny, "--remove", "encoder.0.0", "-o", "-")
    assert result.exit_code == 0
    assert Plan.from_json(result.stdout).keep == Plan.read(output).keep
    assert result.stderr.endswith("1 of 24 heads removed (4.2%)\n")
    assert run(tiny, "--remove", "encoder.0.0", "-o", "-", "-q").stderr == ""
    refused = run(tiny, "--remove", "encoder.0.0", "-o", "-", "--format", "tsv")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr == "Error: with -o - the plan itself is written to stdout: leave out --format tsv\n"


def test_json_and_tsv(tiny: Path, output: Path) -> None:
    result = run(tiny, "--keep", "encoder=40", "--format", "json", "-o", output)
    counts = {"heads": 24, "kept": 20, "removed": 4, "removed_percent": 100 * 4 / 24}
    assert json.loads(result.stdout) == {
        "output": str(output),
        "all": counts,
        "selected": {"kinds": ["encoder", "decoder", "cross"], **counts},
        "kept_per_layer": {"encoder": [4, 0], "decoder": [4, 4], "cross": [4, 4]},
    }
    result = run(tiny, "--keep", "encoder=40", "--format", "tsv", "-o", output, "--force")
    assert result.stdout.splitlines()[:3] == [
        "module\theads\tkept\tkept_heads",
        "encoder.0\t4\t4\t0,1,2,3",
        "encoder.1\t4\t0\t",
    ]


def test_provenance(tiny: Path, output: Path, scores: Path) -> None:
    record = made(output, tiny, "--random", "25%", "--seed", "0", "--kinds", "cross").provenance
    assert record["seed"] == 0
    assert record["checkpoint"] == str(tiny)
    assert record["options"] == {"random": "25%", "kinds": "cross", "uniform": False, "min_heads_per_module": 0}
    record = made(output, tiny, "--lowest", "25%", "--scores", scores).provenance
    assert "seed" not in record
    assert record["inputs"][0]["path"] == record["options"]["scores"] == str(scores)


def test_options_from_the_environment(tiny: Path, output: Path) -> None:
    env = {"NMTPRUNE_PLAN_RANDOM": "25%", "NMTPRUNE_PLAN_SEED": "5"}
    assert made(output, tiny, env=env).keep == made(output, tiny, "--random", "25%", "--seed", "5").keep
    unused = run(tiny, "--remove", "encoder.0", "-o", output, "--force", env={"NMTPRUNE_PLAN_SEED": "5"})
    assert (unused.exit_code, unused.stderr) == (2, "Error: --seed goes with --keep and --random, not with --remove\n")


def test_a_plan_for_a_slim_checkpoint(tiny: Path, tmp_path: Path, output: Path) -> None:
    from nmtprune import slim

    base = load(tiny)
    small = slim.apply(made(output, tiny, "--keep", "encoder=31 cross=04"), base)
    small.save(tmp_path / "small.pt")
    plan = made(output, tmp_path / "small.pt", "--random", "50%", "--per", "module")
    assert plan.base == small.base.without_neurons()
    assert kept(plan) == "10 22 02"


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", f"give exactly one of {FORMS}; given: none of them"),
        ("--keep 1/1/1 --random 3", f"give exactly one of {FORMS}; given: --keep and --random"),
        ("--lowest 3", "--scores and --lowest go together"),
        ("--random 3 --scores s.json", "--scores and --lowest go together"),
        ("--remove encoder.0 --per kind", "--per goes with --random and --lowest, not with --remove"),
        (
            "--keep 1/1/1 --kinds encoder",
            "--kinds goes with --random and --lowest and --empty-layers, not with --keep",
        ),
        ("--empty-layers even --seed 1", "--seed goes with --keep and --random, not with --empty-layers"),
        ("--random 0.5", "'0.5' is no amount of heads: write a percentage such as 30% or a count such as 43"),
        ("--random 101%", "'101%' is more than 100%"),
        ("--empty-layers top:3", "layers 'top:3': 'top:3': encoder layers: the model has 2; "
         "'top:3': decoder layers: the model has 2; "
         "'top:3': cross layers: the model has 2"),
        ("--keep encoder=444", "pattern 'encoder=444': encoder layers: the model has 2, the pattern 3"),
        ("--remove encoder.0.4", "heads 'encoder.0.4': 'encoder.0.4': encoder.0 has no head 4 (it has 0 to 3)"),
        ("--random 3 --kinds both", "kinds 'both' (choose among encoder, decoder, cross): unknown kind 'both'"),
        ("--random 6 --uniform --kinds cross", "a uniform plan treats decoder and cross as one stack: select both or "
         "none of them"),
        ("--random 50% --uniform --per kind",
         "--uniform divides AMOUNT among the stacks: it goes with --per model only"),
    ],
)  # fmt: skip
def test_usage(tiny: Path, output: Path, options: str, message: str) -> None:
    result = run(tiny, *options.split(), "-o", output)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"Error: {message}\n"
    assert not output.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--random 25", "25 heads cannot be removed: 0 to 24 of the 24 heads (encoder, decoder, cross) can"),
        ("--random 5 --uniform", "5 heads cannot be removed with the same number left in every layer of a stack: "
         "4 or 6 can"),
        ("--random 20 --min-heads-per-module 1", "20 heads cannot be removed: 0 to 18 of the 24 heads (encoder, "
         "decoder, cross) can, since every module keeps at least 1"),
        ("--keep encoder=43 --uniform", "the plan does not keep to the limits: layers of the encoder stack keep 3, 4 "
         "heads, not the same number"),
    ],
)  # fmt: skip
def test_budgets(tiny: Path, output: Path, options: str, message: str) -> None:
    result = run(tiny, *options.split(), "-o", output)
    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr == f"Error: {message}\n"
    assert not output.exists()


def test_score_files_that_do_not_fit(tiny: Path, tiny_lm: Path, output: Path, scores: Path) -> None:
    data: dict[str, Any] = json.loads(scores.read_text())
    other = scores.with_name("other.json")
    for content, code, message in (
        ("{", 5, "broken JSON at line 1 column 2: Expecting property name enclosed in double quotes"),
        (
            json.dumps({**data, "heads": data["heads"][1:]}),
            5,
            "made for another model or other kinds: no score for encoder.0.0 (select the kinds that were scored)",
        ),
    ):
        other.write_text(content)
        result = run(tiny, "--scores", other, "--lowest", "50%", "-o", output)
        assert (result.exit_code, result.stderr) == (code, f"Error: {other}: {message}\n")
    result = run(tiny, "--scores", "none.json", "--lowest", "50%", "-o", output)
    assert (result.exit_code, result.stderr) == (5, "Error: none.json: cannot be read: No such file or directory\n")
    result = run(tiny_lm, "--scores", scores, "--lowest", "50%", "-o", output)
    assert result.exit_code == 5
    assert result.stderr.startswith(
        f"Error: {scores}: made for another model or other kinds: the model has no head encoder"
    )
    assert not output.exists()
    other.write_text(json.dumps({**data, "base": {**data["base"], "sha256": "0" * 64}}))
    result = run(tiny, "--scores", other, "--lowest", "50%", "-o", output)
    assert (result.exit_code, result.stderr) == (
        0,
        f"{other}: these are scores of a model with the same shape but other weights\nwrote {output}\n",
    )


def test_outputs_that_cannot_be_written(tiny: Path, tmp_path: Path, scores: Path) -> None:
    (tmp_path / "link.pt").symlink_to(tiny)
    before = tiny.read_bytes()
    for output, message in (
        (tiny, f"{tiny}: is the input file; nothing is changed in place, choose another output"),
        (
            tmp_path / "link.pt",
            f"{tmp_path}/link.pt: is the input file {tiny}; nothing is changed in place, choose another output",
        ),
        (tmp_path / "none" / "p.json", f"{tmp_path}/none/p.json: {tmp_path}/none does not exist"),
        (tmp_path, f"{tmp_path}: is a directory; name a file in it"),
    ):
        result = run(tiny, "--random", "25%", "-o", output, "--force")
        assert (result.exit_code, result.stdout, result.stderr) == (8, "", f"Error: {message}\n")
    result = run(tiny, "--random", "25%", "-o", scores)
    assert (result.exit_code, result.stderr) == (8, f"Error: {scores}: exists (--force replaces it)\n")
    assert tiny.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["link.pt", "scores.json"]


def test_what_is_no_checkpoint(tmp_path: Path, output: Path) -> None:
    (tmp_path / "empty.pt").touch()
    result = run(tmp_path / "empty.pt", "--random", "25%", "-o", output)
    assert result.exit_code == 3
    assert result.stderr.startswith(f"Error: {tmp_path}/empty.pt: ") and result.stderr.count("\n") == 1
    assert not output.exists()


# A real model


def test_real_model(shared_model: Path, output: Path) -> None:
    plan = made(output, shared_model, "--keep", "encoder=412556 cross=012223 decoder=610000")
    assert plan.count_kept() == 40
    assert kept(plan) == "412556 610000 012223"
    assert len(made(output, shared_model, "--random", "25%").removed()) == 36
    assert [made(output, shared_model, "--keep", "14/31/30").count_kept([kind]) for kind in KINDS] == [14, 31, 30]
