"""`nmtprune report` as a user meets it: pages of real files, and one line for everything that cannot be shown."""

import json
import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from nmtprune.page import pdf
from tests.support.cli import documented, nmtprune, refused
from tests.support.fairseq_files import fairseq_checkpoint
from tests.support.pages import Page, well_made

SEARCH = ("--beam", 1, "--max-len-b", 6, "--threads", 1, "--device", "cpu")
MARKUP = "<script>alert('&amp;')</script><b>\"x\"</b>{{ 7*7 }}"


class Files(NamedTuple):
    """What commands wrote about the tiny model."""

    model: Path
    scores: Path
    run: Path
    bench: Path
    check: Path
    drift: Path
    compare: Path

    @property
    def every(self) -> tuple[Path, ...]:
        return (self.scores, self.run, self.bench, self.check, self.drift, self.compare)


@pytest.fixture(scope="module")
def files(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A score file, a run that refits, speed, a verdict, drift and a correlation."""
    folder = tmp_path_factory.mktemp("report")
    data = ("--data-bin", tiny.parent / "data-bin")
    scores, run, bench = folder / "scores.json", folder / "run", folder / "bench.json"
    score = ("score", tiny, *data, "--metric", "importance", "--threads", 1, "--device", "cpu")
    removal = ("--step", "25%", "--until", "50%", "--resamples", 500, "--refit", "--calibration-sentences", 10)
    _done("greedy", tiny, *data, *SEARCH, *removal, "-o", run)
    _done(*score, "-o", scores)
    compared = (*data, *SEARCH, "--repeat", 2, "--resamples", 500, "--batch-size", 8)
    _done("bench", tiny, run / "slim.pt", *compared, "-o", bench)
    conditions = ("--max-drop", 100, "--min-speedup", 0, "--max-size", 99)
    check = _printed(folder / "check.json", "check", run / "slim.pt", "--baseline", tiny, *compared, *conditions)
    drift = _printed(folder / "drift.json", "drift", tiny, run / "slim.pt")
    compare = _printed(folder / "compare.json", "compare", scores, scores)
    return Files(tiny, scores, run, bench, check, drift, compare)


def _done(*arguments: Any) -> str:
    result = nmtprune(*arguments)
    assert result.code == 0, result.stderr
    return result.stdout


def _printed(path: Path, *arguments: Any) -> Path:
    path.write_text(_done(*arguments, "--format", "json"))
    return path


@pytest.fixture
def page(tmp_path: Path) -> Callable[..., Page]:
    """Writes a page and reads it."""

    def write(*inputs: Any) -> Page:
        _done("report", *inputs, "-o", tmp_path / "page.html", "--force")
        return well_made((tmp_path / "page.html").read_text(encoding="utf-8"))

    return write


def test_all_files_of_a_model_are_one_story(files: Files, page: Callable[..., Page]) -> None:
    found = page(*files.every, files.model)
    bench, curve = (documented((path).read_text()) for path in (files.bench, files.run / "curve.json"))
    slim, first = bench["models"][1], bench["models"][0]
    assert "The pruned model has 50 % fewer heads" in found.text
    assert "12 of 24 heads" in found.text
    assert f"{100 * slim['model_bytes'] / first['model_bytes']:.1f} %" in found.text
    ratio = slim["timings"][0]["ratio"]
    assert f"interval {ratio['low']:.2f} to {ratio['high']:.2f}" in found.text
    # The slim model of the run, of bench and of check is one model: no table sets several side by side.
    assert "Pruned models side by side" not in found.text
    measured = found.table("95 % interval")
    assert [row[-1] for row in measured] == [str(files.bench), str(files.run / "curve.json")]
    steps = curve["curves"][0]["steps"]
    assert [row[1] for row in found.table("plan")] == [str(step["removed"]) for step in steps]
    assert found.text.count("Passed: ") == 3
    heads = found.table("unit")
    assert len(heads) == 24 and sum(row[-1] == "removed" for row in heads) == 12
    assert {row[0] for row in found.table("query")} >= {"encoder.0.0"} or found.table("query")
    assert found.table("Pearson r")[0] == ["heads", "24", "1.000", "< 0.001", "1.000", "< 0.001"]
    # A command stands once for all of its files; in a test every command is that of pytest.
    assert [name for name, _ in found.elements].count("pre") == 1
    assert "Warnings" in found.text and "16 sentences are few" in found.text


def test_a_page_depends_on_its_inputs_alone(files: Files, tmp_path: Path) -> None:
    for name in ("one.html", "two.html"):
        _done("report", *files.every, files.model, "-o", tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_a_model_that_was_replaced_is_another_one(files: Files, tmp_path: Path, page: Callable[..., Page]) -> None:
    """Figures of a file that was written anew since do not mix with those of the new one."""
    other = json.loads(files.bench.read_text())
    for each in other["provenance"]["inputs"]:
        each["sha256"] = "0" * 64 if each["path"].endswith("slim.pt") else each["sha256"]
    (tmp_path / "bench.json").write_text(json.dumps(other))
    found = page(files.run, tmp_path / "bench.json")
    assert "speak of different models under this path" in found.text
    assert len(found.table("predicted")) == 2 and "Pruned models side by side" in found.text


def test_a_model_that_an_earlier_run_left_is_not_that_of_the_plan(
    files: Files, tmp_path: Path, page: Callable[..., Page]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(files.run, run)
    shutil.copyfile(next(run.glob("plans/*/006.json")), run / "plan.json")
    found = page(run)
    assert len(found.table("predicted")) == 2 and "6 of 24 heads" in found.text and "12 of 24" not in found.text


def test_a_comparison_with_a_pruned_model_is_said_to_be_one(
    files: Files, tmp_path: Path, page: Callable[..., Page]
) -> None:
    bench = json.loads(files.bench.read_text())
    bench["models"].reverse()
    (tmp_path / "bench.json").write_text(json.dumps(bench))
    assert "bench.json compares with" in page(tmp_path / "bench.json", files.run).text
    assert "which is pruned itself" not in page(files.bench, files.run).text


def test_models_are_kept_apart(files: Files, tmp_path: Path, page: Callable[..., Page]) -> None:
    other = fairseq_checkpoint(tmp_path / "other", updates=1)
    found = page(files.scores, other, files.run)
    assert "The files are of 2 different models" in found.text
    titles = [attributes["id"] for name, attributes in found.elements if name == "h2" and "id" in attributes]
    assert titles == ["title-1", "title-2"]
    assert str(files.model) in found.text and str(other) in found.text


def test_translations_show_markup_as_text(files: Files, tmp_path: Path) -> None:
    before = [f"line {number} stays as it is" for number in range(1000)]
    after = [*before]
    after[7], after[9], after[11] = MARKUP, "", "so so so so so"
    for name, lines in (("before", before), ("after", after), ("source", [MARKUP] * 1000), ("reference", before)):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    texts = ("--translations", tmp_path / "before", tmp_path / "after")
    more = ("--source", tmp_path / "source", "--reference", tmp_path / "reference")
    run = tmp_path / "</script><i>run"
    os.makedirs(run)
    shutil.copytree(files.run, run / "of", dirs_exist_ok=True)
    _done("report", run / "of", *texts, *more, "-o", tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    found = well_made(html)
    assert sum(name == "script" for name, _ in found.elements) == 1 and html.count("</script>") == 1
    assert not {"b", "i"} & {name for name, _ in found.elements}
    assert found.text.count(MARKUP) == 4 and str(run) in found.text
    assert "997 of 1,000 translations (99.7 %) are the same" in found.text
    assert (
        found.table("before")
        and ["empty", "0", "1"] in found.tables[-3][1]
        or ["empty", "0", "1"]
        in [row for headings, rows in found.tables if headings == ["what", "before", "after"] for row in rows]
    )


def test_what_cannot_be_shown_is_named(files: Files, tmp_path: Path, page: Callable[..., Page]) -> None:
    curve = json.loads((files.run / "curve.json").read_text())
    newer, broken, other = tmp_path / "newer.json", tmp_path / "broken.json", tmp_path / "functions.json"
    newer.write_text(json.dumps(curve | {"version": 99}))
    broken.write_text(json.dumps({key: value for key, value in curve.items() if key != "metric"}))
    other.write_text('{"format": "nmtprune-later", "version": 1}')
    text = tmp_path / "text.de"
    text.write_text("ein Satz\n")
    half = tmp_path / "half"
    half.mkdir()
    shutil.copyfile(files.run / "state.json", half / "state.json")
    found = page(files.scores, newer, broken, other, text, half)
    assert f"{newer}: is of version 99 of its format; this nmtprune shows 1 and 2" in found.text
    assert f"{broken}: damaged: metric: Field required" in found.text
    assert f'{other}: is a file of the format "nmtprune-later", which this nmtprune does not show' in found.text
    assert f"{text}: is a text file" in found.text
    assert f"{half / 'state.json'}: a run that is not finished" in found.text
    assert dict(row[:2] for row in found.table("setting"))["--until"] == "50%"


def test_a_folder_of_runs_is_no_run(files: Files, tmp_path: Path) -> None:
    """Its model is shown; that the runs in it are not is said."""
    shutil.copytree(files.run, tmp_path / "all" / "run")
    shutil.copyfile(files.run / "slim.pt", tmp_path / "all" / "slim.pt")
    result = nmtprune("report", tmp_path / "all", "-o", tmp_path / "page.html")
    fault = f"{tmp_path / 'all'}: is no run folder: of what is in it, only slim.pt is shown; name the others"
    assert (result.code, f"not shown: {fault}" in result.stderr) == (0, True)
    found = well_made((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert fault in found.text and str(tmp_path / "all" / "slim.pt") in found.text


def test_what_shows_nothing_is_refused(files: Files, tiny: Path, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "page.html")
    missing = tmp_path / "missing.json"
    assert refused("report", files.scores, missing, *out) == (5, f"{missing}: there is no such file")
    (tmp_path / "empty").mkdir()
    code, line = refused("report", tmp_path / "empty", *out)
    assert code == 5 and line.startswith(f"{tmp_path / 'empty'}: is no run folder of greedy, l0 or lottery")
    damaged = tmp_path / "model.pt"
    damaged.write_bytes(tiny.read_bytes()[:1000])
    assert refused("report", damaged, *out)[0] == 3
    assert refused("report", damaged, tmp_path / "empty", *out)[0] == 5
    assert refused("report", files.scores, "-o", tmp_path / "page.txt")[0] == 2
    assert refused("report", files.scores, "--source", files.scores, *out)[0] == 2
    short = tmp_path / "short"
    short.write_text("one\n")
    (tmp_path / "two").write_text("one\ntwo\n")
    code, line = refused("report", files.scores, "--translations", short, tmp_path / "two", *out)
    assert code == 5 and line.startswith(f"{tmp_path / 'two'}: has 2 lines, {short} has 1")
    assert not (tmp_path / "page.html").exists()
    _done("report", files.scores, *out)
    assert refused("report", files.scores, *out) == (8, f"{tmp_path / 'page.html'}: exists (--force replaces it)")


def test_pdf_takes_a_browser(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = ("-o", tmp_path / "page.pdf")
    monkeypatch.setattr(pdf, "BROWSERS", ("no-such-browser",))
    code, line = refused("report", files.scores, *out)
    assert code == 6 and "Chromium" in line and not (tmp_path / "page.pdf").exists()
    package = tmp_path / "package" / "weasyprint"
    package.mkdir(parents=True)
    # A stand-in too: WeasyPrint without the libraries that it needs.
    (package / "__init__.py").write_text("raise OSError('cannot load library libpango\\nmore')")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(package.parent)
        patch.delitem(sys.modules, "weasyprint", raising=False)
        code, line = refused("report", files.scores, *out)
    assert code == 6 and line.endswith("WeasyPrint is there, but cannot be loaded: cannot load library libpango")
    browser = tmp_path / "bin" / "chromium"
    browser.parent.mkdir()
    # A stand-in for what no package brings along: it prints the page that it is given as it is.
    browser.write_text(
        '#!/bin/sh\nfor word in "$@"; do case $word in --print-to-pdf=*) to=${word#*=};; file://*) page=${word#file://};;'
        ' esac; done\ncp "$page" "$to"\n'
    )
    browser.chmod(browser.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(pdf, "BROWSERS", ("chromium",))
    monkeypatch.setenv("PATH", f"{browser.parent}:{os.environ['PATH']}")
    _done("report", files.scores, *out)
    well_made((tmp_path / "page.pdf").read_text())
    browser.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(pdf, "LIMIT_S", 0.2)
    code, line = refused("report", files.scores, *out, "--force")
    assert (code, line) == (6, "browser did not end within 0.2 s, and was stopped")
    well_made((tmp_path / "page.pdf").read_text())
