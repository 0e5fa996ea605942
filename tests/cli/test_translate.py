"""`nmtprune translate` as a user meets it, against stock fairseq-generate."""

import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nmtprune import slim
from nmtprune.architecture import UnitId
from nmtprune.engines import toolkit
from nmtprune.formats import load
from nmtprune.plan import Plan
from tests.support import fairseq_commands
from tests.support.cli import nmtprune, refused

SEARCH = ("--beam", 3, "--max-len-b", 20, "--max-tokens", 400, "--device", "cpu", "--threads", 1)
REMOVED = ("encoder.0.1", "encoder.1.0", "encoder.1.1", "encoder.1.2", "encoder.1.3", "decoder.0.2", "cross.1.3")


@pytest.fixture(scope="module")
def generated(tiny: Path) -> str:
    """What fairseq-generate prints for the test set."""
    return fairseq_commands.generate(tiny, tiny.parent / "data-bin", "--beam", 3, "--nbest", 3)


@pytest.fixture(scope="module")
def plan(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    Plan.removing(load(tiny).base, map(UnitId.parse, REMOVED)).write(path)
    return path


def _test_set(tiny: Path) -> tuple[Any, ...]:
    return ("--data-bin", tiny.parent / "data-bin", "--subset", "test", *SEARCH)


def _raw(tiny: Path, *options: Any) -> tuple[Any, ...]:
    return ("--data-bin", tiny.parent / "data-bin", "--post-process", "none", *SEARCH, *options)


def _best(generated: str, n: int = 3) -> list[tuple[int, float, str]]:
    """Sentence, score in nats and text of each hypothesis."""
    lines = [line.removeprefix("H-").split("\t") for line in generated.splitlines() if line.startswith("H-")]
    found = [(int(number), float(score) * math.log(2), text) for number, score, text in lines]
    return sorted(found, key=lambda entry: entry[0])


def test_translations_are_those_of_fairseq_generate(tiny: Path, generated: str) -> None:
    found = nmtprune("translate", tiny, *_test_set(tiny))
    assert (found.code, found.stderr) == (0, "")
    best = _best(generated)[::3]
    assert found.stdout.splitlines() == [text for _, _, text in best]
    scored = nmtprune("translate", tiny, *_test_set(tiny), "--scores").stdout.splitlines()
    for line, (_, score, text) in zip(scored, best, strict=True):
        own, own_text = line.split("\t")
        assert own_text == text
        assert float(own) == pytest.approx(score, abs=2e-4)


def test_n_best(tiny: Path, generated: str) -> None:
    lines = nmtprune("translate", tiny, *_test_set(tiny), "--n-best", 3, "--scores").stdout.splitlines()
    expected = _best(generated)
    assert [(int(line.split("\t")[0]), line.split("\t")[2]) for line in lines] == [(n, text) for n, _, text in expected]
    for line, (_, score, _) in zip(lines, expected, strict=True):
        assert float(line.split("\t")[1]) == pytest.approx(score, abs=2e-4)
    two = nmtprune("translate", tiny, *_test_set(tiny), "--n-best", 2).stdout.splitlines()
    assert two == [f"{n}\t{text}" for place, (n, _, text) in enumerate(expected) if place % 3 < 2]
    assert refused("translate", tiny, *_test_set(tiny), "--n-best", 4) == (
        2,
        "--n-best 4 is more than the --beam of 3 hypotheses",
    )


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_standard_input_in_pieces(tiny: Path, generated: str, size: int) -> None:
    text = (tiny.parent / "data-bin" / "test.xx").read_bytes()
    found = nmtprune("translate", tiny, *_raw(tiny), "--buffer-size", size, stdin=text)
    assert (found.code, found.stderr) == (0, "")
    assert found.stdout.splitlines() == [text for _, _, text in _best(generated)[::3]]


def test_a_plan_masks_on_the_fly(tiny: Path, plan: Path, tmp_path: Path) -> None:
    base = load(tiny)
    masked, cut = tmp_path / "masked.pt", tmp_path / "cut.pt"
    slim.apply(Plan.read(plan), base, "masked").save(masked)
    slim.apply(Plan.read(plan), base, "cut").save(cut)
    expected = fairseq_commands.hypotheses(fairseq_commands.generate(masked, tiny.parent / "data-bin", "--beam", 3))
    for checkpoint, options in ((tiny, ("--plan", plan)), (masked, ()), (cut, ())):
        assert nmtprune("translate", checkpoint, *_test_set(tiny), *options).stdout.splitlines() == expected
    assert expected != nmtprune("translate", tiny, *_test_set(tiny)).stdout.splitlines()


def test_the_engine_fairseq(tiny: Path, plan: Path, generated: str) -> None:
    found = nmtprune("translate", tiny, *_test_set(tiny), "--engine", "fairseq")
    assert (found.code, found.stderr) == (0, "")
    assert found.stdout.splitlines() == [text for _, _, text in _best(generated)[::3]]


def test_engines_agree(tiny: Path, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolkit, "run", fairseq_commands.in_this_process)
    text = "w1 w2 w3\n" + "w3 " * 40 + "\n\nw4 unknown\nw5 w6 w7 w8 w9 w10\n"
    raw = _raw(tiny, "--buffer-size", 2, "--skip-invalid-size-inputs-valid-test", "--n-best", 2)
    for options, stdin in ((_test_set(tiny), None), ((*_test_set(tiny), "--plan", plan), None), (raw, text)):
        own = nmtprune("translate", tiny, *options, stdin=stdin)
        assert own.code == 0 and len(own.stdout) > 50
        assert nmtprune("translate", tiny, *options, "--engine", "fairseq", stdin=stdin) == own


def test_a_terminated_run_leaves_nothing(tiny: Path, tmp_path: Path) -> None:
    options = [str(option) for option in (*_test_set(tiny), "--engine", "fairseq")]
    command = [sys.executable, "-m", "nmtprune.cli.main", "translate", str(tiny), *options]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("nmtprune-*/*/checkpoint.pt")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, ""), stderr
    assert not list(tmp_path.glob("nmtprune-*"))


def test_plans_are_checked(tiny: Path, plan: Path, build: Any) -> None:
    other = build(updates=3, encoder_normalize_before=True, decoder_normalize_before=True, share_all_embeddings=True)
    code, line = refused("translate", other, *_test_set(tiny), "--plan", plan)
    assert code == 4
    assert line.startswith(f"{plan}: made for another model: weights differ (sha256 ")
    assert line.endswith("; --other-weights applies it to other weights of the same shape all the same")
    result = nmtprune("translate", other, *_test_set(tiny), "--plan", plan, "--other-weights")
    assert result.code == 0 and len(result.stdout.splitlines()) == 16


def test_sentences_left_out_are_empty_lines(tiny: Path) -> None:
    text = "w1 w2\n" + "w3 " * 40 + "\n\nw4\n"
    options = _raw(tiny, "--buffer-size", 2)
    assert refused_after_output("translate", tiny, *options, stdin=text) == (
        5,
        "standard input: 1 of 2 sentences are longer than the model's positions (40 source, 40 target tokens), first "
        "line 2 with 41 source tokens: --skip-invalid-size-inputs-valid-test leaves such sentences out",
    )
    found = nmtprune("translate", tiny, *options, "--skip-invalid-size-inputs-valid-test", stdin=text)
    assert found.code == 0
    lines = found.stdout.split("\n")
    assert len(lines) == 5 and lines[0] and not lines[1] and lines[3]
    assert found.stderr.splitlines()[-1] == "1 of 4 sentences were left out: an empty line stands for each"
    numbered = nmtprune("translate", tiny, *options, "--skip-invalid-size-inputs-valid-test", "--n-best", 1, stdin=text)
    assert numbered.stdout.split("\n")[1] == "1\t"


def refused_after_output(*arguments: Any, stdin: str) -> tuple[int, str]:
    result = nmtprune(*arguments, stdin=stdin)
    return result.code, result.stderr.splitlines()[-1].removeprefix("Error: ")


def test_no_sentences(tiny: Path) -> None:
    found = nmtprune("translate", tiny, *_raw(tiny), stdin="")
    assert (found.code, found.stdout, found.stderr) == (0, "", "")


def test_bad_input(tiny: Path, tmp_path: Path) -> None:
    missing = tmp_path / "none.xx"
    assert refused("translate", tiny, *_raw(tiny), "--source", missing) == (
        5,
        f"{missing}: cannot be read: No such file or directory",
    )
    assert refused("translate", tiny, *_raw(tiny), stdin=b"\xff\n") == (
        5,
        "standard input: line 1 is not UTF-8 (byte 0xff): convert the file to UTF-8",
    )
    assert refused("translate", tiny, *_raw(tiny), "--min-len", 30, stdin="w1\n") == (
        2,
        "--min-len 30 is more than the 20 tokens that a translation may have (--max-len-a, --max-len-b, 40 positions): "
        "choose a smaller one",
    )
    assert refused("translate", tiny, *_raw(tiny)[2:], stdin="w1\n")[0] == 2


def test_a_reader_that_goes_away(tiny: Path) -> None:
    options = [str(option) for option in _raw(tiny, "--buffer-size", 1)]
    command = [sys.executable, "-m", "nmtprune.cli.main", "translate", str(tiny), *options]
    read, write = os.pipe()
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    os.close(read)
    _, stderr = process.communicate("w1 w2\n" * 3, timeout=120)
    assert (process.returncode, stderr) == (0, "")


def test_answers_line_by_line(tiny: Path) -> None:
    options = [str(option) for option in _raw(tiny, "--buffer-size", 1)]
    command = [sys.executable, "-m", "nmtprune.cli.main", "translate", str(tiny), *options]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    answers = []
    for line in ("w1 w2\n", "w3\n"):
        process.stdin.write(line)
        process.stdin.flush()
        answers.append(process.stdout.readline())
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    assert all(answer.endswith("\n") and len(answer) > 1 for answer in answers)


def test_a_source_prefix_is_a_word_in_front(tiny: Path, tmp_path: Path) -> None:
    """Of raw text behind the splitting, and its symbols are those of the dictionary; a target prefix is not printed."""
    words = [line.split()[0] for line in (tiny.parent / "data-bin" / "dict.xx.txt").read_text().splitlines()]
    text, tagged = tmp_path / "text", tmp_path / "tagged"
    lines = [" ".join(words[start : start + 4]) for start in (3, 7, 9)]
    text.write_text("".join(f"{line}\n" for line in lines))
    tagged.write_text("".join(f"{words[5]} {line}\n" for line in lines))
    expected = nmtprune("translate", tiny, *_raw(tiny, "--source", tagged))
    found = nmtprune("translate", tiny, *_raw(tiny, "--source", text, "--source-prefix", words[5]))
    assert (found.code, found.stderr, found.stdout) == (0, "", expected.stdout)
    short = ("--data-bin", tiny.parent / "data-bin", "--post-process", "none", "--max-len-b", 1, "--device", "cpu")
    forced = nmtprune("translate", tiny, *short, "--source", text, "--target-prefix", words[6])
    assert (forced.code, forced.stdout) == (0, "\n" * len(lines))
    for option, side in (("--source-prefix", "xx"), ("--target-prefix", "yy")):
        code, message = refused("translate", tiny, *_raw(tiny, "--source", text, option, "<2de>"))
        assert code == 5 and message.startswith(f"{option}: '<2de>' is no word of dict.{side}.txt")
    assert refused("translate", tiny, *_raw(tiny, "--source", text, "--source-prefix", " ")) == (
        2,
        "--source-prefix is empty",
    )
