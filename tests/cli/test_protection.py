"""`greedy --protect`: heads that stay because of what they do, in every order, and what is refused."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from nmtprune.formats import load
from nmtprune.plan import Plan
from nmtprune.runs.functions_file import FunctionsFile, HeadOf
from tests.support.cli import documented, nmtprune, refused

FAST = ("--beam", 1, "--max-len-b", 6, "--threads", 1, "--device", "cpu", "--resamples", 500)
PROTECTED = ("encoder.0.0", "encoder.0.3", "decoder.1.1", "cross.1.2")


def functions_file(checkpoint: Path, path: Path, positional: Iterable[str] = PROTECTED) -> Path:
    """What `functions` writes, with some heads that are positional."""
    base, named = load(checkpoint).base, {*positional}
    heads = [
        HeadOf(head=f"{id}.{number}", functions=("positional",) if f"{id}.{number}" in named else (), positional=None,
               rare=None, rare_p_corrected=None, outside=0.0)
        for id, count in base.modules.items()
        for number in range(count)
    ]  # fmt: skip
    found = FunctionsFile(
        format="nmtprune-functions", version=1, data={"data": "valid", "sentences": 16, "left_out": 0},
        frequencies="dictionaries", measured=("positional", "rare"), criteria={}, base=base, heads=tuple(heads),
        provenance={"checkpoint": str(checkpoint)},
    )  # fmt: skip
    path.write_text(found.to_json())
    return path


@pytest.fixture
def functions(tiny: Path, tmp_path: Path) -> Path:
    return functions_file(tiny, tmp_path / "functions.json")


def greedy(tiny: Path, *more: Any) -> tuple[Any, ...]:
    return "greedy", tiny, "--data-bin", tiny.parent / "data-bin", *FAST, *more


def plans(run: Path) -> list[Plan]:
    return [Plan.read(path) for path in sorted(run.glob("plans/*/*.json"))]


def test_no_order_removes_them(tiny: Path, functions: Path, tmp_path: Path) -> None:
    """Not even where heads have other numbers, since they are measured anew on cut models."""
    run = tmp_path / "run"
    orders = [word for name in ("importance", "fisher", "reconstruction", "random") for word in ("--order", name)]
    rest = ("--samples", 1, "--rounds", 3, "--calibration-sentences", 10, "--step", 5, "--until", 20, "-o", run)
    result = nmtprune(*greedy(tiny, *orders, *rest, "--protect", f"{functions}:positional"))
    assert result.code == 0, result.stderr
    assert f"{functions}: 4 heads are protected (positional)" in result.stderr
    found = plans(run)
    assert len(found) == 4 * 5 and max(len(plan.removed()) for plan in found) == 20
    assert all(not {*PROTECTED} & {*map(str, plan.removed())} for plan in found)
    content = documented((run / "curve.json").read_text())
    assert content["protected"] == list(PROTECTED)
    assert str(functions) in content["provenance"]["data"]


@pytest.mark.parametrize(
    "more",
    [
        ("--budget", "params=80%"),
        ("--group", "heads,layers", "--step", "30%", "--until", "60%"),
        ("--group", "layers", "--order", "loss"),
    ],
)
def test_costs_and_layers(tiny: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    functions = functions_file(tiny, tmp_path / "functions.json", PROTECTED[:3])
    result = nmtprune(*greedy(tiny, *more, "-o", tmp_path / "run", "--protect", f"{functions}:positional"))
    assert result.code == 0, result.stderr
    found = plans(tmp_path / "run")
    assert any(plan.removed(("encoder", "encoder-ffn", "encoder-layers", "decoder-layers")) for plan in found)
    assert all(not {*PROTECTED[:3]} & {*map(str, plan.removed())} for plan in found)


def test_a_run_continues_with_the_same_heads_alone(tiny: Path, functions: Path, tmp_path: Path) -> None:
    run = ("--order", "random", "--samples", 1, "--step", 10, "--until", 10, "-o", tmp_path / "run")
    assert nmtprune(*greedy(tiny, *run, "--protect", f"{functions}:positional")).code == 0
    again = functions_file(tiny, tmp_path / "again.json")
    result = nmtprune(*greedy(tiny, *run, "--resume", "--protect", f"{again}:positional"))
    assert result.code == 0, result.stderr
    other = functions_file(tiny, tmp_path / "other.json", PROTECTED[:2])
    code, said = refused(*greedy(tiny, *run, "--resume", "--protect", f"{other}:positional"))
    assert code == 8 and "--protect" in said
    code, said = refused(*greedy(tiny, *run, "--resume"))
    assert code == 8 and "--protect" in said


def test_what_is_refused(tiny: Path, functions: Path, tmp_path: Path, build: Any) -> None:
    """Before anything is written."""
    asked, out = ("--protect", f"{functions}:positional"), ("-o", tmp_path / "run")
    code, said = refused(*greedy(tiny, "--order", "random", *out, *asked))
    assert code == 4 and said.startswith("22 heads cannot be removed: 0 to 20 of the 24 heads")
    assert said.endswith("since 4 heads are protected")
    code, said = refused(*greedy(tiny, "--budget", "params=1%", *out, *asked))
    assert code == 4 and "with these limits the smallest possible is" in said
    code, said = refused(*greedy(tiny, "--group", "layers", "--order", "loss", "--step", 1, "--until", 3, *out, *asked))
    assert code == 4 and "3 layers cannot be removed" in said and "layers have protected heads" in said
    assert refused(*greedy(tiny, "--group", "neurons", "--uniform", *out, *asked)) == (
        2, "--protect goes with --group heads or layers",
    )  # fmt: skip
    assert refused(*greedy(tiny, tiny.parent / "other.pt", *out, *asked))[0] == 2
    assert refused(*greedy(tiny, *out, "--protect", f"{functions}:syntactic")) == (
        2, f"{functions}: syntactic was not measured: nmtprune functions measures it with --parses FILE",
    )  # fmt: skip
    assert refused(*greedy(tiny, *out, "--protect", "functions.json"))[0] == 2
    other = build(seed=5, encoder_normalize_before=True, decoder_normalize_before=True, share_all_embeddings=True)
    code, said = refused("greedy", other, "--data-bin", tiny.parent / "data-bin", *FAST, *out, *asked)
    assert code == 4 and "these are functions of a model with the same shape but other weights" in said
    content = json.loads(functions.read_text())
    functions.write_text(json.dumps(content | {"version": 2}))
    assert refused(*greedy(tiny, *out, *asked))[0] == 4
    assert not (tmp_path / "run").exists()
