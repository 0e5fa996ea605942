"""`nmtprune plan`: every form, exact errors and exit codes, and nothing written where something is wrong."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from nmtprune.architecture import KINDS, LAYER_KINDS, NEURON_KINDS, GroupId
from nmtprune.cli.main import main
from nmtprune.formats import load
from nmtprune.plan import Plan, ranges
from nmtprune.scores import GroupScores, HeadScore, Scores
from tests.support.fairseq_files import Build
from tests.support.marian_files import VARIANTS, marian_arrays, marian_model, write
from tests.support.networks import NORMFORMER, as_normformer

FORMS = "--keep, --remove, --random, --lowest, --empty-layers"
LISTED = FORMS.replace(",", " and")


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


def test_layers_by_pattern(tiny: Path, output: Path) -> None:
    assert made(output, tiny, "--remove-layers", "encoder=top:1 decoder=even").kept_layers() == {
        "encoder": (0,),
        "decoder": (1,),
    }
    seeds = [made(output, tiny, "--remove-layers", "encoder=random:1", "--seed", seed) for seed in range(8)]
    assert {plan.kept_layers()["encoder"] for plan in seeds} == {(0,), (1,)}
    assert [plan.provenance["seed"] for plan in seeds] == [*range(8)]


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
    neurons = {"neurons": {"encoder-ffn": [1, 2], "decoder-ffn": [3, 4]}}
    other.write_text(json.dumps({**data, "base": {**data["base"], "sha256": "0" * 64, **neurons}}))
    result = run(tiny, "--scores", other, "--lowest", "50%", "-o", output, "--force")
    assert result.stderr == f"{other}: these are scores of a model of another shape\nwrote {output}\n"


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


# Neurons and layers


def widths(plan: Plan) -> dict[str, list[int]]:
    return {
        kind: [len(plan.kept(id)) for id in plan.base.units if id.kind == kind]
        for kind in (*NEURON_KINDS, *LAYER_KINDS)
    }


@pytest.fixture
def unit_scores(tiny: Path, tmp_path: Path) -> Path:
    """Scores of the neurons and layers of the tiny model: higher numbers score higher."""
    path = tmp_path / "units.json"
    checkpoint = load(tiny)
    units = {
        str(id): GroupScores(units=ranges.as_ranges(numbers), score=tuple(map(float, numbers)))
        for id, numbers in checkpoint.architecture.units.items()
        if id.kind not in KINDS
    }
    Scores(version=2, metric="variance", mode="ablate", baseline={}, units=units, base=checkpoint.base).write(path)
    return path


def test_random_neurons(tiny: Path, output: Path) -> None:
    result = run(tiny, "--remove-neurons", "25%", "-o", output)
    plan = Plan.read(output)
    counts = widths(plan)
    assert (result.exit_code, result.stderr) == (0, f"wrote {output}\n")
    assert result.stdout == (
        f"encoder-ffn {sum(counts['encoder-ffn'])} of 48 neurons kept, by layer: "
        f"{' '.join(map(str, counts['encoder-ffn']))}\n"
        f"decoder-ffn {sum(counts['decoder-ffn'])} of 48 neurons kept, by layer: "
        f"{' '.join(map(str, counts['decoder-ffn']))}\n"
        "24 of 96 neurons removed (25.0%)\n"
    )
    assert len(plan.removed(NEURON_KINDS)) == 24 and not plan.removed()
    assert made(output, tiny, "--remove-neurons", "24").keep == plan.keep
    assert made(output, tiny, "--remove-neurons", "25%", "--seed", "2").keep != plan.keep
    assert plan.provenance["seed"] == 1


def test_a_width_for_every_layer_of_a_stack(tiny: Path, output: Path) -> None:
    quoted = made(output, tiny, "--keep-neurons", "encoder=16 decoder=8")
    assert widths(quoted)["encoder-ffn"] == [16, 16] and widths(quoted)["decoder-ffn"] == [8, 8]
    assert made(output, tiny, "--keep-neurons", "encoder=16", "decoder=8").keep == quoted.keep
    assert widths(made(output, tiny, "--keep-neurons", "decoder=8,4"))["decoder-ffn"] == [8, 4]


def test_amounts_of_neurons_by_stack_and_layer(tiny: Path, output: Path) -> None:
    by_stack = made(output, tiny, "--remove-neurons", "encoder=25%", "decoder=30")
    assert [len(by_stack.removed([kind])) for kind in NEURON_KINDS] == [12, 30]
    assert widths(made(output, tiny, "--remove-neurons", "25%", "--per", "module"))["encoder-ffn"] == [18, 18]
    assert set(widths(made(output, tiny, "--remove-neurons", "30%", "--multiple-of", 8))["decoder-ffn"]) <= {8, 16, 24}
    result = run(tiny, "--remove-neurons", "26%", "--uniform", "-o", output, "--force")
    assert result.stderr == f"26% is 24.96 neurons; the nearest uniform number is 24\nwrote {output}\n"
    uniform = widths(Plan.read(output))
    assert len(set(uniform["encoder-ffn"])) == len(set(uniform["decoder-ffn"])) == 1


def test_neurons_of_the_lowest_scores(tiny: Path, output: Path, scores: Path, unit_scores: Path) -> None:
    plan = made(output, tiny, "--remove-neurons", "50%", "--scores", unit_scores)
    assert {plan.kept(id) for id in plan.base.units if id.kind in NEURON_KINDS} == {tuple(range(12, 24))}
    assert "seed" not in plan.provenance
    both = made(
        output, tiny, "--lowest", "4", "--scores", scores, "--scores", unit_scores, "--keep-neurons", "encoder=1"
    )
    assert (kept(both), widths(both)["encoder-ffn"]) == ("04 44 44", [1, 1])
    assert both.kept(GroupId("encoder-ffn", 0)) == (23,)
    assert both.provenance["options"]["scores"] == (str(scores), str(unit_scores))


def test_layers(tiny: Path, output: Path) -> None:
    result = run(tiny, "--remove-layers", "decoder=1", "-o", output)
    assert (result.exit_code, result.stdout) == (
        0,
        "encoder     8 of    8 heads kept, by layer: 4 4\n"
        "decoder     4 of    8 heads kept, by layer: 4 -\n"
        "cross       4 of    8 heads kept, by layer: 4 -\n"
        "encoder-ffn 48 of 48 neurons kept, by layer: 24 24\n"
        "decoder-ffn 24 of 48 neurons kept, by layer: 24 -\n"
        "encoder     2 of    2 layers kept: 0 1\n"
        "decoder     1 of    2 layers kept: 0\n"
        "8 of 24 heads removed (33.3%)\n"
        "24 of 96 neurons removed (25.0%)\n"
        "1 of 4 layers removed (25.0%)\n",
    )
    assert made(output, tiny, "--keep-layers", "decoder=1").keep == Plan.read(output).keep


def test_layers_of_the_highest_scores(tiny: Path, output: Path, unit_scores: Path) -> None:
    assert made(output, tiny, "--keep-layers", "decoder=1", "--scores", unit_scores).kept_layers() == {"decoder": (1,)}


def test_heads_and_neurons_are_chosen_among_the_layers_that_stay(tiny: Path, output: Path) -> None:
    plan = made(output, tiny, "--remove-layers", "encoder=0", "--random", "50%", "--remove-neurons", "50%")
    assert (plan.count_kept(), plan.count_kept(NEURON_KINDS)) == (10, 36)
    assert plan.kept(GroupId("encoder", 0)) == plan.kept(GroupId("encoder-ffn", 0)) == ()
    listed = made(output, tiny, "--remove-layers", "encoder=0", "--keep", "encoder=3")
    assert kept(listed) == "03 44 44"
    named = made(output, tiny, "--remove-layers", "encoder=0", "--remove", "encoder.0.1 encoder.1.2")
    assert named.kept(GroupId("encoder", 1)) == (0, 1, 3)


def test_json_and_tsv_of_all_sorts(tiny: Path, output: Path) -> None:
    options = ("--keep-neurons", "encoder=6", "--remove-layers", "decoder=0")
    figures = json.loads(run(tiny, *options, "--format", "json", "-o", output).stdout)
    assert figures["kept_per_layer"] == {"encoder": [4, 4], "decoder": [0, 4], "cross": [0, 4]}
    assert figures["neurons"] == {
        "neurons": 96,
        "kept": 36,
        "removed": 60,
        "removed_percent": 62.5,
        "kept_per_layer": {"encoder-ffn": [6, 6], "decoder-ffn": [0, 24]},
    }
    assert figures["layers"] == {
        "layers": 4,
        "kept": 3,
        "removed": 1,
        "removed_percent": 25.0,
        "kept_layers": {"encoder": [0, 1], "decoder": [1]},
    }
    lines = run(tiny, *options, "--format", "tsv", "-o", output, "--force").stdout.splitlines()
    assert lines[0] == "group\tunits\tkept\tkept_units"
    assert {"decoder.0\t4\t0\t", "decoder-ffn.1\t24\t24\t0-23", "decoder-layers\t2\t1\t1"} <= set(lines)


def test_plans_of_heads_alone_stay_version_1(tiny: Path, output: Path) -> None:
    for options in (("--random", "25%"), ("--remove-neurons", "0"), ("--keep-layers", "encoder=2")):
        assert made(output, tiny, *options).version == 1
        assert json.loads(output.read_text())["version"] == 1
    assert made(output, tiny, "--remove-neurons", "1").version == 2


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ("--remove-layers encoder=0-1", 4,
         "--remove-layers: no layer of the encoder would be left: at least one stays"),
        ("--keep-layers decoder=0", 4, "--keep-layers: no layer of the decoder would be left: at least one stays"),
        ("--remove-layers encoder=1,5,7 decoder=x", 2, "--remove-layers: encoder: the model has no encoder layer 5, 7 "
         "(it has 0 to 1); --remove-layers: decoder: 'x' is not the number of a layer, a range such as 1-3 or one of "
         "top:N, bottom:N, middle:N, even, odd, random:N"),
        ("--keep-layers decoder=3", 2, "--keep-layers: decoder: the model has 2 layers, fewer than 3"),
        ("--keep-layers decoder=1 --remove-layers decoder=1", 2,
         "--remove-layers and --keep-layers both speak of the decoder"),
        ("--remove-layers 1", 2,
         "--remove-layers: '1' is not STACK=LAYERS, such as decoder=1,3,5 (stacks: encoder, decoder)"),
        ("--keep-neurons encoder=48 encoder=2", 2, "--keep-neurons: encoder-ffn: the model has fewer neurons in "
         "encoder-ffn.0 (24 of 48), encoder-ffn.1 (24 of 48); --keep-neurons: encoder stands twice"),
        ("--keep-neurons encoder=12 --multiple-of 8", 4,
         "--keep-neurons: encoder-ffn: 12 neurons are no multiple of 8"),
        ("--remove-neurons 50% --multiple-of 32", 4, "--remove-neurons: multiples of 32 leave nothing of encoder-ffn.0 "
         "(24 neurons), encoder-ffn.1 (24 neurons), decoder-ffn.0 (24 neurons), decoder-ffn.1 (24 neurons)"),
        ("--remove-neurons 7 --multiple-of 8", 4, "--remove-neurons: 7 neurons cannot be removed with widths that are "
         "multiples of 8: 0 or 8 can"),
        ("--remove-neurons x", 2, "--remove-neurons: 'x' is no amount of neurons: write a percentage such as 30% or a "
         "count such as 43"),
        ("--remove-neurons 97 --random 25 --keep-layers encoder=9", 2, "--keep-layers: encoder: the model has 2 "
         "layers, fewer than 9; 25 heads cannot be removed: 0 to 24 of the 24 heads (encoder, decoder, cross) can; "
         "--remove-neurons: 97 neurons cannot be removed: 0 to 96 of the 96 neurons (encoder-ffn, decoder-ffn) can"),
        ("--random 1 --multiple-of 8", 2,
         "--multiple-of goes with --remove-neurons and --keep-neurons, not with --random"),
        ("--remove-neurons 1 --keep-neurons encoder=1", 2,
         "give one of --remove-neurons and --keep-neurons, not both"),
        ("--remove-layers encoder=1 --uniform", 2, f"--uniform goes with {LISTED} and --remove-neurons and "
         "--keep-neurons, not with --remove-layers"),
        ("--remove-neurons 1 --min-heads-per-module 1", 2,
         f"--min-heads-per-module goes with {LISTED}, not with --remove-neurons"),
        ("--remove-layers encoder=1 --seed 3", 2,
         "--seed goes with --keep and --random and --remove-neurons and --keep-neurons, not with --remove-layers"),
    ],
)  # fmt: skip
def test_faults_of_neurons_and_layers(tiny: Path, output: Path, options: str, code: int, message: str) -> None:
    result = run(tiny, *options.split(), "-o", output)
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", f"Error: {message}\n")
    assert not output.exists()


def test_rounding_to_multiples_is_said_for_every_stack(tiny: Path, output: Path) -> None:
    result = run(tiny, "--remove-neurons", "encoder=40%", "--multiple-of", "8", "-o", output)
    assert result.exit_code == 0 and result.stderr.startswith(
        "40% is 19.2 neurons; the nearest number in multiples of 8 is 16\n"
    )


def test_scores_of_what_is_needed(tiny: Path, output: Path, scores: Path, unit_scores: Path) -> None:
    for options, message in (
        (["--keep-layers", "encoder=1", "--scores", scores], f"--keep-layers: no scores of layers in {scores}"),
        (["--remove-neurons", "1", "--scores", scores], f"--remove-neurons: no scores of neurons in {scores}"),
        (
            ["--remove-neurons", "1", "--scores", unit_scores, "--scores", unit_scores],
            f"{unit_scores} and {unit_scores} both have scores of neurons; "
            f"{unit_scores} and {unit_scores} both have scores of layers",
        ),
    ):
        result = run(tiny, *options, "-o", output)
        assert (result.exit_code, result.stderr) == (2, f"Error: {message}\n")
    assert not output.exists()


def test_models_whose_neurons_cannot_be_cut(build: Build, output: Path) -> None:
    """NormFormer has a norm of the decoder's neurons, so that each of them depends on all others."""
    checkpoint = as_normformer(build(**NORMFORMER))
    for options, what in (
        (["--remove-neurons", "50%"], "--remove-neurons: the model has no feed-forward layers"),
        (["--keep-neurons", "decoder=8"], "--keep-neurons: the model has no feed-forward layers"),
        (["--keep-layers", "encoder=1"], "--keep-layers: the model has no encoder"),
    ):
        result = run(checkpoint, *options, "-o", output)
        ending = " whose neurons can be cut" if "neurons" in what else ""
        assert (result.exit_code, result.stderr) == (2, f"Error: {what}{ending}\n")
    assert made(output, checkpoint, "--keep-layers", "decoder=1").kept_layers() == {"decoder": (0,)}


@pytest.mark.parametrize(
    "options", ["--keep-neurons encoder=3,2", "--keep-neurons encoder=2", "--remove-layers encoder=0"]
)
def test_widths_that_marian_cannot_say_are_noted(tmp_path: Path, output: Path, options: str) -> None:
    result = run(marian_model(tmp_path / "model.npz"), *options.split(), "-o", output)
    note = (
        "Marian has one number of neurons for all layers of a stack: plan with --uniform, or slim with --mode uniform "
        "or masked\n"
    )
    assert (result.exit_code, result.stderr) == (0, f"wrote {output}\n" + (note if "," in options else ""))


def test_neurons_of_deeper_feed_forward_layers_of_marian(tmp_path: Path, output: Path) -> None:
    arrays = marian_arrays(transformer_decoder_ffn_depth=3)
    width = arrays["decoder_l1_ffn_W2"].shape[0]
    for layer in (1, 2):
        own = f"decoder_l{layer}_ffn"
        arrays[f"{own}_W3"], arrays[f"{own}_b3"] = arrays[f"{own}_W2"], arrays[f"{own}_b2"]
        arrays[f"{own}_W2"], arrays[f"{own}_b2"] = np.ones((width, width), np.float32), np.ones((1, width), np.float32)
    checkpoint = write(tmp_path / "model.npz", arrays)
    result = run(checkpoint, "--keep-neurons", "decoder=1", "-o", output)
    assert (result.exit_code, result.stderr) == (
        2,
        "Error: --keep-neurons: the model has no decoder feed-forward layers whose neurons can be cut\n",
    )
    assert widths(made(output, checkpoint, "--keep-neurons", "encoder=1"))["encoder-ffn"] == [1, 1]
    assert made(output, checkpoint, "--remove-layers", "decoder=0").kept_layers() == {"decoder": (1,)}


def test_tied_layers_go_as_one(tmp_path: Path, output: Path) -> None:
    checkpoint = marian_model(tmp_path / "model.npz", **VARIANTS["tied decoder layers"])
    architecture = load(checkpoint).architecture
    assert architecture.layers("decoder") != tuple(range(len(architecture.layers("decoder"))))
    first, *others = architecture.layers("decoder")
    assert made(output, checkpoint, "--keep-layers", "decoder=1").kept_layers() == {"decoder": (first,)}
    missing = next(number for number in range(others[-1]) if number not in architecture.layers("decoder"))
    result = run(checkpoint, "--remove-layers", f"decoder={missing}", "-o", output, "--force")
    there = ", ".join(map(str, architecture.layers("decoder")))
    assert (result.exit_code, result.stderr) == (
        2,
        f"Error: --remove-layers: decoder: the model has no decoder layer {missing} (it has {there})\n",
    )
