"""`nmtprune score` as a user meets it: what it prints, and one line for everything that is wrong."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmtprune.engines import toolkit
from nmtprune.scores import Scores
from tests.support import fairseq_commands
from tests.support.cli import documented, nmtprune, refused
from tests.support.data import write_dictionary

FAST = ("--beam", 1, "--max-len-b", 6, "--threads", 1, "--device", "cpu", "--kinds", "cross", "--resamples", 2000)
FAST_ON_FEW = (*(option for option in FAST if option not in ("--device", "cpu")), "--allow-few-sentences")


@pytest.fixture(scope="session")
def scored(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A score file, and what the command printed."""
    output = tmp_path_factory.mktemp("scored") / "scores.json"
    result = nmtprune("score", tiny, "--data-bin", tiny.parent / "data-bin", "-o", output, *FAST)
    assert result.code == 0, result.stderr
    return output, result.stdout, result.stderr


def test_table(scored: tuple[Path, str, str]) -> None:
    output, stdout, _ = scored
    scores = Scores.read(output)
    lines = stdout.splitlines()
    value = scores.baseline["value"]
    assert lines[0] == f"valid.xx-yy: bleu {value:.2f} over 16 sentences"
    assert lines[1] == scores.baseline["signature"]
    assert lines[2:6] == [
        "delta bleu without the head, by layer and head:",
        "",
        "cross-attention",
        "layer     0      1      2      3",
    ]
    for layer in range(2):
        deltas = [entry.delta or 0.0 for entry in scores.heads if entry.id.group.layer == layer]
        stars = [entry.p_corrected is not None and entry.p_corrected < 0.01 for entry in scores.heads][layer * 4 :][:4]
        cells = [f"{delta:+.2f}{'*' if star else ' '}" for delta, star in zip(deltas, stars, strict=True)]
        assert lines[6 + layer] == f"    {layer} {' '.join(cells)}".rstrip()
    assert lines[8] == "significant at p < 0.01, 2,000 resamples, of 8 tests:"
    assert re.fullmatch(r"  without correction  \d+ \(\d+ worse, \d+ better\)", lines[9])
    assert re.fullmatch(r"  with holm           \d+ \(\d+ worse, \d+ better\)  \(marked \*\)", lines[10])
    assert re.fullmatch(r"time \d+ s|time \d+:\d\d min", lines[11])
    assert len(lines) == 12


def test_progress_without_a_terminal_is_a_line_per_module(scored: tuple[Path, str, str]) -> None:
    output, _, stderr = scored
    assert re.search(r"^heads: cross\.0 done, 4 of 8, \d+ s, \d+ s left$", stderr, re.M)
    assert re.search(r"^heads: cross\.1 done, 8 of 8, \d+ s, 0 s left$", stderr, re.M)
    assert stderr.endswith(f"wrote {output}, {output.with_suffix('.tsv')}, {output.with_suffix('.png')}\n")


def test_files(scored: tuple[Path, str, str]) -> None:
    output, _, _ = scored
    content = json.loads(output.read_text())
    assert content["baseline"] == {
        "value": content["baseline"]["value"],
        "signature": content["baseline"]["signature"],
        "data": "valid.xx-yy",
        "languages": "xx-yy",
        "sentences": 16,
        "left_out": 0,
        "post_process": "none",
        "tokenizer": "none",
        "engine": "native",
        "search": {
            "beam": 1, "lenpen": 1.0, "max_len_a": 0.0, "max_len_b": 6, "min_len": 1, "unkpen": 0.0,
            "unnormalized": False, "fairseq_batch_length_limit": False,
        },
        "batches": {"max_tokens": 12000, "batch_size": None},
        "significance": {"method": "bootstrap", "resamples": 2000, "seed": 1, "alpha": 0.01, "correction": "holm"},
    }  # fmt: skip
    assert list(content["heads"][0]) == ["head", "score", "delta", "ci", "p", "p_corrected", "p_sacrebleu"]
    assert content["base"]["format"] == "fairseq"
    assert {"command", "time", "seed", "checkpoint", "data", "seconds", "versions"} <= set(content["provenance"])
    header, *rows = output.with_suffix(".tsv").read_text().splitlines()
    assert header == (
        "data\thead\tkind\tlayer\tindex\tscore\tdelta\tci_low\tci_high\tp\tp_corrected\tp_sacrebleu\tsignificant"
    )
    assert [float(row.split("\t")[6]) for row in rows] == [head["delta"] for head in content["heads"]]
    assert rows[5].split("\t")[:5] == ["valid.xx-yy", "cross.1.1", "cross", "1", "1"]
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_other_formats_are_the_files(tiny: Path, tmp_path: Path, scored: tuple[Path, str, str]) -> None:
    data = ("--data-bin", tiny.parent / "data-bin")
    for form, suffix in (("json", "json"), ("tsv", "tsv")):
        output = tmp_path / "scores"
        result = nmtprune("score", tiny, *data, "-o", output, *FAST, "--format", form, "-q", "--force")
        assert (result.code, result.stderr) == (0, "")
        assert result.stdout == (output if suffix == "json" else tmp_path / "scores.tsv").read_text()
    again = json.loads((tmp_path / "scores").read_text())
    first = json.loads(scored[0].read_text())
    del again["provenance"], first["provenance"]
    assert again == first


def test_all_but_one_with_test_data(tiny: Path, tmp_path: Path) -> None:
    output = tmp_path / "one.json"
    data = ("--data-bin", tiny.parent / "data-bin", "--all-but-one", "--test-subset", "test")
    result = nmtprune("score", tiny, *data, "-o", output, *FAST)
    assert result.code == 0, result.stderr
    scores = Scores.read(output)
    assert scores.test is not None
    lines = result.stdout.splitlines()
    assert lines[2] == "best delta bleu with only one head (its number) left in the module, by layer:"
    assert lines[3].split() == ["layer", "cross"]
    for layer, row in enumerate(lines[4:6]):
        own = [entry for entry in scores.heads if entry.id.group.layer == layer]
        best = max(own, key=lambda entry: entry.score)
        assert re.fullmatch(rf"    {layer} +{re.escape(f'{best.delta:+.2f}')}[* ] \({best.id.number}\)", row)
    place = lines.index("delta bleu on the test data with only that head left in the module, by layer:")
    assert lines[place - 2].startswith("test.xx-yy: bleu ")
    for layer, (entry, row) in enumerate(zip(scores.test.heads, lines[place + 2 :], strict=False)):
        assert re.fullmatch(rf"    {layer} +{re.escape(f'{entry.delta:+.2f}')}[* ] \({entry.id.number}\)", row)
    rows = output.with_suffix(".tsv").read_text().splitlines()
    assert [row.split("\t")[0] for row in rows[1:]] == ["valid.xx-yy"] * 8 + ["test.xx-yy"] * 2


def test_engines_agree(tiny: Path, tmp_path: Path, scored: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolkit, "run", fairseq_commands.in_this_process)
    output = tmp_path / "scores.json"
    data = ("--data-bin", tiny.parent / "data-bin")
    result = nmtprune("score", tiny, *data, "-o", output, *FAST, "--engine", "fairseq")
    assert result.code == 0, result.stderr
    own, theirs = Scores.read(scored[0]), Scores.read(output)
    assert theirs.heads == own.heads
    assert dict(theirs.baseline) == {**own.baseline, "engine": "fairseq"}


def test_losses_run_on_the_native_engine(tiny: Path, tmp_path: Path) -> None:
    data = ("--data-bin", tiny.parent / "data-bin", "-o", tmp_path / "scores.json")
    assert refused("score", tiny, *data, "--metric", "loss", "--engine", "fairseq") == (
        6,
        "the engine fairseq computes no losses: --metric loss runs on --engine native",
    )
    assert list(tmp_path.iterdir()) == []


PASS = ("--threads", 1, "--device", "cpu", "--kinds", "encoder,cross")


def _expected(tiny: Path, name: str) -> dict[str, float]:
    """Scores by the methods themselves."""
    from nmtprune.engines import native
    from nmtprune.formats import load
    from nmtprune.methods import confidence, importance, measuring
    from tests.support.examples import corpus

    checkpoint = load(tiny)
    model, sentences = native.load(checkpoint), list(measuring.batches(corpus(tiny.parent / "data-bin", checkpoint)))
    if name == "confidence":
        found = confidence.confidence(model, sentences)
    else:
        settings = importance.ImportanceSettings("token", 0.2)
        found = importance.normalized(importance.importance(model, sentences, settings))
    return {str(head): value for head, value in found.items() if head.group.kind != "decoder"}


@pytest.mark.parametrize(
    ("name", "options", "described"),
    [
        (
            "importance",
            ("--importance-unit", "token", "--importance-normalize", "layer", "--label-smoothing", 0.2),
            "unit token, normalize layer, label smoothing 0.2",
        ),
        ("confidence", (), "on references, exclude eos False"),
    ],
)
def test_scores_without_masking(tiny: Path, tmp_path: Path, name: str, options: Any, described: str) -> None:
    output = tmp_path / "scores.json"
    data = ("--data-bin", tiny.parent / "data-bin", "-o", output)
    result = nmtprune("score", tiny, *data, *PASS, "--metric", name, *options)
    assert result.code == 0, result.stderr
    scores = Scores.read(output)
    expected = _expected(tiny, name)
    assert {entry.head: entry.score for entry in scores.heads} == pytest.approx(expected, rel=1e-5)
    content = json.loads(output.read_text())
    assert all(set(entry) == {"head", "score"} for entry in content["heads"])
    assert content["mode"] == "ablate" and content["metric"] == name and "value" not in content["baseline"]
    lines = result.stdout.splitlines()
    assert lines[:3] == [
        f"valid.xx-yy: {name} over 16 sentences", described, f"{name} of the head, by layer and head:",
    ]  # fmt: skip
    assert [line for line in lines if "attention" in line] == ["encoder self-attention", "cross-attention"]
    assert lines[6].split() == ["0", *(f"{expected[f'encoder.0.{head}']:.4f}" for head in range(4))]
    assert "significant" not in result.stdout
    header, *rows = output.with_suffix(".tsv").read_text().splitlines()
    assert len(rows) == 16 and rows[0].split("\t")[6:] == [""] * 7 and header.split("\t")[5] == "score"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.json", "scores.png", "scores.tsv"]
    assert refused("score", tiny, *data, *PASS, "--metric", name) == (8, f"{output}: exists (--force replaces it)")
    assert nmtprune("plan", tiny, "--scores", output, "--lowest", 5, "--kinds", "cross", "-o", tmp_path / "p").code == 0


@pytest.mark.parametrize("name", ["variance", "fisher"])
def test_neurons_are_shown_as_quantiles(tiny: Path, tmp_path: Path, name: str) -> None:
    output = tmp_path / "scores.json"
    data = ("--data-bin", tiny.parent / "data-bin", "-o", output, "--threads", 1, "--device", "cpu", "--metric", name)
    result = nmtprune("score", tiny, *data, "--group", "heads,neurons")
    assert result.code == 0, result.stderr
    scores = Scores.read(output)
    assert scores.version == 2 and scores.sorts == ("heads", "neurons")
    lines = result.stdout.splitlines()
    assert f"{name} of the head, by layer and head:" in lines
    begin = lines.index(f"{name} of the neurons, quantiles by layer:")
    assert lines[begin + 1 : begin + 3] == ["", "encoder feed-forward neurons"]
    assert lines[begin + 3].split() == ["layer", "lowest", "10%", "25%", "median", "75%", "90%", "highest"]
    assert scores.units is not None
    own = np.percentile(scores.units["encoder-ffn.1"].score, [0, 10, 25, 50, 75, 90, 100])
    assert lines[begin + 5].split() == ["1", *(f"{value:.4g}" for value in own)]
    header, *rows = output.with_suffix(".tsv").read_text().splitlines()
    assert len(rows) == len(scores.scores_by_unit()) and header.split("\t")[1] == "unit"
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    documented(output.read_text())
    again = nmtprune("score", tiny, *data, "--group", "neurons", "--kinds", "decoder", "--force", "--format", "json")
    assert list(json.loads(again.stdout)["units"]) == ["decoder-ffn.0", "decoder-ffn.1"]


def test_layers_are_shown_by_stack(tiny: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores.json"
    data = ("--data-bin", tiny.parent / "data-bin", "-o", output, "--threads", 1, "--device", "cpu", "--metric", "loss")
    result = nmtprune("score", tiny, *data, "--group", "layers", "--resamples", 2000)
    assert result.code == 0, result.stderr
    entries = Scores.read(output).entries
    lines = result.stdout.splitlines()
    assert lines[2:4] == ["delta loss without the layer:", "layer encoder  decoder"]
    for layer in range(2):
        cells = [f"{entry.delta:+.4f}" for entry in entries if entry.id.number == layer]
        assert [cell.rstrip("*") for cell in lines[4 + layer].split()] == [str(layer), *cells]
    assert lines[6] == "significant at p < 0.01, 2,000 resamples, of 4 tests:"
    assert "layers: encoder-layers.0 done, 1 of 4," in result.stderr
    documented(output.read_text())


def test_units_that_a_metric_does_not_score(tiny: Path, tmp_path: Path) -> None:
    data = ("score", tiny, "--data-bin", tiny.parent / "data-bin", "-o", tmp_path / "x.json", "--device", "cpu")
    thousands = (
        "bleu: neurons: a model has thousands of neurons, and each takes a run of its own: score neurons by "
        "importance, fisher, reconstruction, variance or activation"
    )
    only_heads = "confidence is that of attention weights, which only heads have"
    for options, message in (
        (("--group", "neurons"), thousands),
        (("--group", "neurons,layers", "--metric", "confidence"),
         f"confidence: neurons: {only_heads}; layers: {only_heads}"),
        (("--group", "layers", "--metric", "fisher"),
         "fisher: layers: a layer has no mask to differentiate by: score layers by bleu, chrf or loss"),
        (("--group", "layers", "--metric", "variance"),
         "variance: layers: contributions of whole layers do not compare: score layers by bleu, chrf or loss"),
        (("--group", "layers", "--all-but-one"),
         "--all-but-one goes with --group heads: it leaves one head in a module, and no model works with one layer in "
         "a stack or one neuron in a layer"),
        (("--group", "heads,words"),
         "--group 'heads,words' (choose among heads, neurons, layers): unknown group 'words'"),
        (("--group", "neurons", "--kinds", "cross", "--metric", "variance"),
         "--group neurons: the model has no neurons of kind cross"),
    ):  # fmt: skip
        assert refused(*data, *options) == (2, message)
    assert list(tmp_path.iterdir()) == []


def test_importance_of_drawn_sentences(tiny: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores.json"
    data = ("--data-bin", tiny.parent / "data-bin", "-o", output, *PASS, "--metric", "importance", "--force")
    drawn = ("--importance-sentences", 5, "--seed")
    found = []
    for options in ((*drawn, 0), (*drawn, 1), (*drawn, 1), ("--importance-normalize", "layer")):
        result = nmtprune("score", tiny, *data, *options, "--format", "tsv", "-q")
        assert result.code == 0 and result.stdout == output.with_suffix(".tsv").read_text()
        found.append(result.stdout)
        assert ("seed" in Scores.read(output).provenance) == (options[0] == "--importance-sentences")
    assert found[1] == found[2] and len(set(found)) == 3
    assert Scores.read(output).baseline["sentences"] == 16


def test_confidence_on_translations(tiny: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores.json"
    options = ("--metric", "confidence", "--confidence-on", "translations", "--beam", 1, "--max-len-b", 6, "--force")
    data = ("--data-bin", tiny.parent / "data-bin", "-o", output, *PASS)
    result = nmtprune("score", tiny, *data, *options, "--exclude-eos")
    assert result.code == 0, result.stderr
    scores = Scores.read(output)
    assert scores.baseline["search"]["max_len_b"] == 6
    assert (scores.baseline["on"], scores.baseline["exclude_eos"]) == ("translations", True)
    expected = _expected(tiny, "confidence")
    assert all(0 < entry.score <= 1 and entry.score != expected[entry.head] for entry in scores.heads)


def test_options_that_mean_nothing_for_a_metric(base: tuple[Any, ...], tiny: Path, tmp_path: Path) -> None:
    data = (*base, "--data-bin", tiny.parent / "data-bin", "--metric")
    masking, gradients = (
        "goes with --metric bleu, chrf, loss, accuracy, f1 or matthews",
        "importance, fisher or reconstruction",
    )
    drawn = "importance, fisher, reconstruction, variance or activation"
    search = "--beam goes with --metric bleu, chrf or confidence with --confidence-on translations"
    assert refused(*data, "importance", "--resamples", 9, "--all-but-one", "--beam", 1, "--exclude-eos") == (
        2,
        f"--all-but-one {masking}; --resamples {masking}; {search}; --exclude-eos goes with --metric confidence",
    )
    assert refused(*data, "confidence", "--resume", "--beam", 1, "--importance-unit", "token", "--seed", 1) == (
        2,
        f"--resume {masking}; {search}; --seed goes with --metric bleu, chrf, loss, accuracy, f1, matthews, {drawn}; "
        "--importance-unit goes with --metric importance",
    )
    assert refused(*data, "bleu", "--label-smoothing", 0.1) == (2, f"--label-smoothing goes with --metric {gradients}")
    assert refused(*data, "importance", "--lowercase") == (2, "--lowercase goes with --metric bleu or chrf")
    assert refused(*data, "importance", "--label-smoothing", 1) == (
        2,
        "importance: label smoothing 1.0 is not a number from 0 to below 1",
    )
    assert refused(*data, "importance", "--engine", "fairseq") == (
        6,
        "the engine fairseq measures no importance: --metric importance runs on --engine native",
    )
    assert list(tmp_path.iterdir()) == []


def test_references_are_needed_as_token_ids(base: tuple[Any, ...], raw: Any) -> None:
    source, _, options = raw
    assert refused(*base, *options[:4], "--post-process", "none", "--metric", "confidence") == (
        2,
        "data: --source needs --reference FILE here",
    )
    assert nmtprune(*base, *options, "--metric", "importance").code == 0


def test_colour_only_on_a_terminal(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nmtprune.cli import score_tables
    from nmtprune.scores import HeadScore

    baseline = {
        "data": "valid.xx-yy", "value": 30.0, "signature": "nrefs:1", "sentences": 16, "left_out": 2,
        "significance": {"alpha": 0.01, "resamples": 2000, "correction": "holm"},
    }  # fmt: skip
    heads = (
        HeadScore(head="encoder.0.0", score=1.0, delta=-1.0, p=0.001, p_corrected=0.002),
        HeadScore(head="encoder.0.1", score=-1.0, delta=1.0, p=0.001, p_corrected=0.002),
        HeadScore(head="encoder.0.2", score=0.5, delta=-0.5, p=0.1, p_corrected=0.3),
    )
    printed: list[str] = []
    monkeypatch.setattr(score_tables.click, "echo", lambda line="": printed.append(line))
    monkeypatch.delenv("NO_COLOR", raising=False)
    scores = Scores(metric="bleu", mode="ablate", baseline=baseline, heads=heads)
    score_tables.emit_scores(scores)
    assert printed[0] == "valid.xx-yy: bleu 30.00 over 16 sentences (2 left out)"
    assert printed[5] == "    0 \x1b[31m\x1b[1m-1.00*\x1b[0m \x1b[32m\x1b[1m+1.00*\x1b[0m -0.50"
    assert printed[-1] == "  with holm           2 (1 worse, 1 better)  (marked *)"
    monkeypatch.setenv("NO_COLOR", "1")
    printed.clear()
    score_tables.emit_scores(scores)
    assert printed[5] == "    0 -1.00* +1.00* -0.50"


def test_ctrl_c_keeps_the_state(tiny: Path, tmp_path: Path) -> None:
    output, state = tmp_path / "scores.json", tmp_path / "scores.json.state"
    options = [
        "--data-bin",
        tiny.parent / "data-bin",
        "-o",
        output,
        "--device",
        "cpu",
        "--beam",
        4,
        "--allow-bad-baseline",
    ]
    command = [sys.executable, "-m", "nmtprune.cli.main", "score", str(tiny), *map(str, options)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stdout == ""
    message = f"interrupted: finished work is kept in {state}; run the same command with --resume to continue"
    assert stderr.splitlines()[-1] == f"Error: {message}"
    assert list(tmp_path.iterdir()) == [state]
    resumed = nmtprune("score", tiny, *options, "--resume")
    assert resumed.code == 0, resumed.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.json", "scores.png", "scores.tsv"]


@pytest.fixture
def base(tiny: Path, tmp_path: Path) -> tuple[Any, ...]:
    return ("score", tiny, "-o", tmp_path / "scores.json", "--device", "cpu")


@pytest.fixture
def raw(tiny: Path, tmp_path: Path) -> tuple[Path, Path, tuple[Any, ...]]:
    """Four raw sentences with references, and the options that name them."""
    source, reference = tmp_path / "text.xx", tmp_path / "text.yy"
    source.write_text("w1 w2\nw3\nw4 w5 w6\nw7\n")
    reference.write_text("w1\nw3 w2\nw4\nw7\n")
    options = ("--data-bin", tiny.parent / "data-bin", "--source", source, "--reference", reference)
    return source, reference, (*options, "--post-process", "none")


def test_subset_missing(base: tuple[Any, ...], tiny: Path) -> None:
    folder = tiny.parent / "data-bin"
    assert refused(*base, "--data-bin", folder, "--subset", "valid2") == (
        5,
        f"{folder}: no subset 'valid2'; there are test, train, valid",
    )


def test_dictionary_of_another_model(base: tuple[Any, ...], tmp_path: Path, raw: Any) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    for language in ("xx", "yy"):
        write_dictionary(folder / f"dict.{language}.txt", [f"w{number}" for number in range(30)])
    options = ("--data-bin", folder, *raw[2][2:])
    assert refused(*base, *options) == (
        5,
        f"{folder / 'dict.xx.txt'}: the dictionary of another model: 34 symbols (special ones included), but the "
        "model's source embeddings have 28",
    )


def test_empty_source(base: tuple[Any, ...], raw: Any) -> None:
    source, reference, options = raw
    source.write_text("")
    reference.write_text("")
    assert refused(*base, *options) == (5, f"{source}: empty: it holds no sentences")


def test_lengths_that_differ(base: tuple[Any, ...], raw: Any) -> None:
    source, reference, options = raw
    reference.write_text("w1\n")
    assert refused(*base, *options) == (
        5,
        f"{reference}: 1 lines, but {source} has 4 sentences: the reference must have one line per sentence",
    )


def test_empty_lines_are_counted(base: tuple[Any, ...], raw: Any) -> None:
    source, reference, options = raw
    source.write_text("w1 w2\n\nw4 w5 w6\nw7\n")
    reference.write_text("w1\n\n\nw7\n")
    result = nmtprune(*base, *options, *FAST_ON_FEW)
    assert result.code == 0, result.stderr
    assert f"{source}: empty source sentences: 1 of 4\n" in result.stderr
    assert f"{source}: empty references: 2 of 4\n" in result.stderr


def test_sentences_beyond_the_positions(base: tuple[Any, ...], raw: Any, tmp_path: Path) -> None:
    source, _, options = raw
    source.write_text("w1 w2\nw3\n" + "w4 " * 40 + "\nw7\n")
    where = f"{source}: 1 of 4 sentences are longer than the model's positions (40 source, 40 target tokens)"
    assert refused(*base, *options) == (
        5,
        f"{where}, first line 3 with 41 source tokens: --skip-invalid-size-inputs-valid-test leaves such sentences out",
    )
    result = nmtprune(*base, *options, *FAST_ON_FEW, "--skip-invalid-size-inputs-valid-test")
    assert result.code == 0, result.stderr
    positions = "the model's positions (40 source, 40 target tokens)"
    assert f"{source}: left out, longer than {positions}: 1 of 4 sentences\n" in result.stderr
    assert " over 3 sentences (1 left out)\n" in result.stdout
    assert Scores.read(tmp_path / "scores.json").baseline["left_out"] == 1


def test_usage(base: tuple[Any, ...], tiny: Path, tmp_path: Path) -> None:
    data = ("--data-bin", tiny.parent / "data-bin")
    assert refused(*base, *data, "--kinds", "encoder,middle") == (
        2,
        "kinds 'encoder,middle' (choose among encoder, decoder, cross): unknown kind 'middle'",
    )
    assert refused(*base, *data, "--resamples", 2399) == (
        2,
        "--resamples 2399 is too few: the smallest p-value of n resamples is 1/(n+1), and 24 tests at alpha 0.01 with "
        "correction holm cannot find anything below n = 2400; give --resamples 2400 or more, or auto",
    )
    assert refused(*base, *data, "--test-subset", "test") == (
        2,
        "test data goes with --all-but-one: the best head of a module is chosen on DATA and tested there",
    )
    assert refused(*base, *data, "--metric", "loss", "--beam", 5, "--unkpen", 1.0) == (
        2,
        "--beam goes with --metric bleu, chrf or confidence with --confidence-on translations; "
        "--unkpen goes with --metric bleu, chrf or confidence with --confidence-on translations",
    )
    assert refused(*base, *data, "--metric", "chrf", "--bleu-tokenize", "zh") == (
        2,
        "--bleu-tokenize goes with --metric bleu",
    )
    code, line = refused(*base, *data, "--bleu-tokenize", "klingon")
    assert code == 2 and line.startswith("no BLEU tokenizer 'klingon': choose one of ")
    assert refused("score", tiny, *data, "-o", "-") == (
        2,
        "-o -: a table and a picture are written next to the result: name a file (--format json prints it too)",
    )
    assert refused(*base[:-1], "gpu", *data) == (2, "--device 'gpu': choose auto, cpu, cuda or cuda:N")
    assert refused(*base, *data, "--alpha", 1.5) == (2, "significance test: alpha 1.5 is not between 0 and 1")
    assert refused(*base)[0] == 2
    assert list(tmp_path.iterdir()) == []


def test_outputs(base: tuple[Any, ...], tiny: Path, tmp_path: Path) -> None:
    data = ("--data-bin", tiny.parent / "data-bin")
    (tmp_path / "scores.png").write_text("mine")
    assert refused(*base, *data) == (8, f"{tmp_path / 'scores.png'}: exists (--force replaces it)")
    assert (tmp_path / "scores.png").read_text() == "mine"
    nowhere = tmp_path / "none" / "scores.json"
    assert refused("score", tiny, "-o", nowhere, *data) == (8, f"{nowhere}: {nowhere.parent} does not exist")
    assert refused("score", tiny, "-o", tiny, *data, "--force") == (
        8,
        f"{tiny}: is the input file; nothing is changed in place, choose another output",
    )


def test_checkpoints(base: tuple[Any, ...], tiny: Path, tiny_lm: Path, tmp_path: Path) -> None:
    data = ("--data-bin", tiny.parent / "data-bin")
    missing = tmp_path / "none.pt"
    assert refused("score", missing, *base[2:], *data) == (3, f"{missing}: there is no such file")
    assert refused("score", tiny_lm, *base[2:], *data) == (
        3,
        f"{tiny_lm}: a language model: it has no source sentence to translate",
    )
