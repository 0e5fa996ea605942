import json
import math
from pathlib import Path

import pytest
from scipy import stats

from nmtprune.architecture import KINDS
from nmtprune.scores import HeadScore, Scores
from tests.support.cli import nmtprune, refused

HEADS = [f"{kind}.{layer}.{head}" for kind in KINDS for layer in range(2) for head in range(3)]


def _write(path: Path, values: list[float], mode: str = "ablate", heads: list[str] = HEADS) -> Path:
    entries = tuple(HeadScore(head=head, score=value) for head, value in zip(heads, values, strict=True))
    Scores(metric="bleu", mode=mode, baseline={}, heads=entries).write(path, force=True)  # type: ignore[arg-type]
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    first = [math.sin(number * number) for number in range(18)]
    second = [value + 0.3 * math.cos(3 * number) for number, value in enumerate(first)]
    return _write(tmp_path / "a.json", first), _write(tmp_path / "b.json", second)


def test_correlations_are_those_of_scipy(files: tuple[Path, Path]) -> None:
    values = [list(Scores.read(path).scores_by_head().values()) for path in files]
    pearson, spearman = stats.pearsonr(*values), stats.spearmanr(*values)
    found = json.loads(nmtprune("compare", *files, "--format", "json").stdout)
    assert found.pop("first") == str(files[0]) and found.pop("second") == str(files[1])
    assert found == {
        "heads": 18,
        "pearson": pytest.approx(pearson.statistic, abs=1e-12),
        "pearson_p": pytest.approx(pearson.pvalue, rel=1e-9),
        "spearman": pytest.approx(spearman.statistic, abs=1e-12),
        "spearman_p": pytest.approx(spearman.pvalue, rel=1e-9),
    }
    result = nmtprune("compare", *files)
    assert (result.code, result.stderr) == (0, "")
    assert result.stdout == (
        f"{files[0]} and {files[1]}, 18 heads\n"
        f"Pearson r     {pearson.statistic:+.4f}  p {pearson.pvalue:.3g}\n"
        f"Spearman rho  {spearman.statistic:+.4f}  p {spearman.pvalue:.3g}\n"
    )
    header, row = nmtprune("compare", *files, "--format", "tsv").stdout.splitlines()
    assert header.split("\t")[2:] == ["heads", "pearson", "pearson_p", "spearman", "spearman_p"]
    assert float(row.split("\t")[3]) == pytest.approx(pearson.statistic, abs=1e-12)


def test_plot(files: tuple[Path, Path], tmp_path: Path) -> None:
    picture = tmp_path / "heads.png"
    result = nmtprune("compare", *files, "--plot", picture)
    assert (result.code, result.stderr) == (0, f"wrote {picture}\n")
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert refused("compare", *files, "--plot", picture) == (8, f"{picture}: exists (--force replaces it)")
    assert nmtprune("compare", *files, "--plot", picture, "--force", "-q").stderr == ""
    assert refused("compare", *files, "--plot", files[0], "--force")[0] == 8


def test_what_does_not_compare(files: tuple[Path, Path], tmp_path: Path) -> None:
    other = _write(tmp_path / "other.json", [float(number) for number in range(18)], mode="all-but-one")
    assert refused("compare", files[0], other) == (
        5,
        f"scores of different modes do not compare: {files[0]} is of mode ablate, {other} is of mode all-but-one",
    )
    missing = tmp_path / "none.json"
    assert refused("compare", files[0], missing) == (5, f"{missing}: cannot be read: No such file or directory")
    fewer = _write(tmp_path / "fewer.json", [1.0, 2.0, 4.0], heads=HEADS[:3])
    code, line = refused("compare", files[0], fewer)
    assert code == 5
    assert line.startswith(f"{files[0]} and {fewer} score different heads: only {files[0]} has encoder.1.0")
    equal = _write(tmp_path / "equal.json", [1.0] * 18)
    assert refused("compare", files[0], equal) == (
        5,
        f"{equal}: all 18 heads have the same score, so a correlation is not defined",
    )


def test_neurons_and_layers_have_correlations_of_their_own(tmp_path: Path) -> None:
    names = [*HEADS, *(f"encoder-ffn.0.{neuron}" for neuron in range(9)), *(f"decoder-layers.{n}" for n in range(4))]
    paths = tmp_path / "a.json", tmp_path / "b.json"
    columns = []
    for path, factor in zip(paths, (1, 3), strict=True):
        values = [math.sin(factor * number**2) for number in range(len(names))]
        entries = [HeadScore(head=name, score=value) for name, value in zip(names, values, strict=True)]
        Scores.of(entries, metric="bleu", mode="ablate", baseline={}).write(path)
        columns.append([values[:18], values[18:27], values[27:]])
    found = json.loads(nmtprune("compare", *paths, "--format", "json").stdout)
    assert list(found) == ["first", "second", "groups"] and list(found["groups"]) == ["heads", "neurons", "layers"]
    for own, first, second in zip(found["groups"].values(), *columns, strict=True):
        assert own["units"] == len(first)
        assert own["pearson"] == pytest.approx(stats.pearsonr(first, second).statistic, abs=1e-12)
        assert own["spearman"] == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-12)
    lines = nmtprune("compare", *paths, "--plot", tmp_path / "c.png").stdout.splitlines()
    assert [line.rpartition(", ")[2] for line in lines[::3]] == ["18 heads", "9 neurons", "4 layers"]
    header, *rows = nmtprune("compare", *paths, "--format", "tsv").stdout.splitlines()
    assert header.split("\t")[2:4] == ["group", "units"]
    assert [row.split("\t")[2:4] for row in rows] == [["heads", "18"], ["neurons", "9"], ["layers", "4"]]
    heads = _write(tmp_path / "heads.json", [float(number) for number in range(18)])
    code, line = refused("compare", paths[0], heads)
    assert code == 5 and line.startswith(
        f"{paths[0]} and {heads} score different units: only {paths[0]} has encoder-ffn"
    )
