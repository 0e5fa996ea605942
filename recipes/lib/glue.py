"""Tables of GLUE as pieces for fairseq: TASK/SUBSET.input0, .input1 and .label for every task and subset.

Subsets are `train`, `valid`, for MNLI `test` (the mismatched sentences), and `test1`, which is drawn from `train`.
Rows of another number of fields than the names, or without a text or a label, are left out and counted.
"""

import argparse
import random
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from nmtprune.data.gpt2_bpe import Gpt2Segmenter
from nmtprune.errors import NmtpruneError

BAD_DATA = 5
"""Exit code, as nmtprune's own."""

COLUMNS = {
    "MNLI": ("sentence1", "sentence2", "gold_label"),
    "QQP": ("question1", "question2", "is_duplicate"),
    "QNLI": ("question", "sentence", "label"),
    "SST-2": ("sentence", "label"),
}
"""Names of the columns with the texts and, at the end, of the one with the label."""

SUBSETS = {"train": "train.tsv", "valid": "dev.tsv"}
SUBSETS_OF = {"MNLI": {"train": "train.tsv", "valid": "dev_matched.tsv", "test": "dev_mismatched.tsv"}}

Row = tuple[str, ...]
"""Texts and a label."""


def main() -> None:
    """Write all tasks, or end with one line and exit code 5."""
    options = _options()
    try:
        segmenter = Gpt2Segmenter(options.encoder, options.merges)
        for task in options.tasks:
            write_task(task, options, segmenter)
    except NmtpruneError as error:
        _fail(str(error))


def write_task(task: str, options: argparse.Namespace, segmenter: Gpt2Segmenter) -> None:
    """Write the subsets of a task."""
    folder = options.output / task
    folder.mkdir(parents=True)
    chance = random.Random(options.seed)
    for subset, file in SUBSETS_OF.get(task, SUBSETS).items():
        rows, left_out = read_rows(options.folder, task, file)
        if subset == "train" and 0 < options.limit < len(rows):
            rows = _drawn(rows, options.limit, chance)
        print(f"{task} {subset}: {len(rows)} rows, {left_out} left out", flush=True)
        write_rows(folder / subset, rows, segmenter)
        if subset == "train" and options.calibration:
            write_rows(folder / "test1", _drawn(rows, min(options.calibration, len(rows)), chance), segmenter)


def read_rows(folder: Path, task: str, file: str) -> tuple[list[Row], int]:
    """The rows of a table that lies in a folder TASK or an archive of it, and the number of those left out."""
    lines = _lines(folder, task, file)
    names = next(lines, "").split("\t")
    missing = [name for name in COLUMNS[task] if name not in names]
    if missing:
        _fail(f"{task}/{file}: no column {', '.join(missing)}")
    places = [names.index(name) for name in COLUMNS[task]]
    rows, left_out = [], 0
    for line in lines:
        fields = line.split("\t")
        row = tuple(fields[place].strip() for place in places) if len(fields) == len(names) else ()
        # MNLI writes '-' where its annotators do not agree.
        if row and all(row) and row[-1] != "-":
            rows.append(row)
        else:
            left_out += 1
    if not rows:
        _fail(f"{task}/{file}: has no rows")
    return rows, left_out


def write_rows(prefix: Path, rows: list[Row], segmenter: Gpt2Segmenter) -> None:
    """Write PREFIX.input0 and so on, and PREFIX.label."""
    *texts, labels = zip(*rows, strict=True)
    for number, column in enumerate(texts):
        with prefix.with_name(f"{prefix.name}.input{number}").open("w", encoding="utf-8") as file:
            file.writelines(f"{segmenter.encode(text)}\n" for text in column)
    with prefix.with_name(f"{prefix.name}.label").open("w", encoding="utf-8") as file:
        file.writelines(f"{label}\n" for label in labels)


def _lines(folder: Path, task: str, file: str) -> Iterator[str]:
    """Lines of TASK/FILE, from the folder or from the archive whose name begins with the task's."""
    plain = folder / task / file
    if plain.is_file():
        # Newlines of other kinds are part of a text.
        yield from (line.rstrip("\r") for line in plain.read_bytes().decode().split("\n") if line)
        return
    for archive in sorted(folder.glob(f"{task}*.zip")):
        with zipfile.ZipFile(archive) as content:
            for name in content.namelist():
                if name.endswith(f"/{file}") and not name.startswith("__"):
                    yield from (line.rstrip("\r") for line in content.read(name).decode().split("\n") if line)
                    return
    _fail(f"{folder}: neither {task}/{file} nor an archive {task}*.zip that holds it")


def _drawn(rows: list[Row], count: int, chance: random.Random) -> list[Row]:
    """Rows drawn at random, in their order."""
    return [rows[place] for place in sorted(chance.sample(range(len(rows)), count))]


def _fail(message: str) -> None:
    print(f"Error: {message}", file=sys.stderr)
    sys.exit(BAD_DATA)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folders or archives of the tasks")
    parser.add_argument("output", type=Path)
    parser.add_argument("tasks", nargs="+", choices=COLUMNS, metavar="TASK")
    parser.add_argument("--encoder", type=Path, required=True, help="encoder.json of GPT-2")
    parser.add_argument("--merges", type=Path, required=True, help="vocab.bpe of GPT-2")
    parser.add_argument("--limit", type=int, default=0, help="rows of train, drawn at random; 0 takes all")
    parser.add_argument("--calibration", type=int, default=0, help="rows of train that are subset test1, too")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
