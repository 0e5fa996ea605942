"""Clean the sets of a corpus: train loses empty, overlong and lopsided pairs; test sets must be whole.

Reads NAME.LANGUAGE[.gz] and writes NAME.LANGUAGE, test sets as test.NAME.LANGUAGE, and says what was left out.
"""

import argparse
import gzip
import random
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import IO

BAD_DATA = 5
"""Exit code, as nmtprune's own."""

KEPT = "kept"


def main() -> None:
    """Clean all sets, or end with one line and exit code 5."""
    options = _options()
    languages = tuple(options.languages.split("-"))
    options.output.mkdir(parents=True)
    for name in options.sets:
        sides = [_find(options.folder, f"{name}.{language}") for language in languages]
        output = name if name in ("train", "val") else f"test.{name}"
        outputs = [options.output / f"{output}.{language}" for language in languages]
        counts = clean(sides, outputs, options) if name == "train" else copy_whole(sides, outputs)
        if not counts[KEPT]:
            _fail(f"{sides[0]}: no sentence pair is left of {sum(counts.values())}: {_listed(counts)}")
        print(f"{name}: {_listed(counts)}")


def clean(sides: list[Path], outputs: list[Path], options: argparse.Namespace) -> Counter[str]:
    """Write the pairs that are fit for training; of more than the limit as many, drawn at random, in their order."""
    counts = Counter(fault_of(pair, options.max_words, options.max_ratio) for pair in pairs_of(sides))
    chosen = None
    if 0 < options.limit < counts[KEPT]:
        chosen = set(random.Random(options.seed).sample(range(counts[KEPT]), options.limit))
        counts["beyond the limit"] = counts[KEPT] - options.limit
        counts[KEPT] = options.limit
    fit = (pair for pair in pairs_of(sides) if fault_of(pair, options.max_words, options.max_ratio) == KEPT)
    _write(outputs, (pair for number, pair in enumerate(fit) if chosen is None or number in chosen))
    return counts


def copy_whole(sides: list[Path], outputs: list[Path]) -> Counter[str]:
    """Write a set as it is: what is measured on must not be chosen. Lines without text on one side are a fault."""
    pairs = list(pairs_of(sides))
    halves = [number for number, pair in enumerate(pairs, 1) if bool(pair[0]) != bool(pair[1])]
    if halves:
        _fail(f"{sides[0]} and {sides[1]}: only one side has text in line {', '.join(map(str, halves[:5]))}")
    filled = [pair for pair in pairs if all(pair)]
    _write(outputs, iter(filled))
    return Counter({KEPT: len(filled), "empty": len(pairs) - len(filled)})


def fault_of(pair: tuple[str, str], max_words: int, max_ratio: float) -> str:
    """Why a training pair is left out; KEPT if it is not."""
    lengths = [len(side.split()) for side in pair]
    if not all(lengths):
        return "empty"
    if max(lengths) > max_words:
        return f"longer than {max_words} words"
    return KEPT if max(lengths) <= max_ratio * min(lengths) else f"lopsided beyond {max_ratio:g}"


def pairs_of(sides: list[Path]) -> Iterator[tuple[str, str]]:
    """Both sides of a set, blanks around lines taken off; ends the program where the number of lines differs."""
    read = 0
    with _open(sides[0]) as source, _open(sides[1]) as target:
        try:
            for pair in zip_longest(source, target):
                if None in pair:
                    _fail(f"{' and '.join(map(str, sides))}: other numbers of lines ({_line_counts(sides)})")
                read += 1
                yield pair[0].strip(), pair[1].strip()
        except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
            _fail(f"{' or '.join(map(str, sides))}: cannot be read after line {read}: {error}")


def _line_counts(sides: list[Path]) -> str:
    counts = []
    for side in sides:
        with _open(side) as lines:
            counts.append(f"{sum(1 for _ in lines):,}")
    return " and ".join(counts)


def _write(outputs: list[Path], pairs: Iterator[tuple[str, str]]) -> None:
    with outputs[0].open("w", encoding="utf-8") as source, outputs[1].open("w", encoding="utf-8") as target:
        for first, second in pairs:
            source.write(f"{first}\n")
            target.write(f"{second}\n")


def _find(folder: Path, name: str) -> Path:
    found = next((path for path in (folder / name, folder / f"{name}.gz") if path.exists()), None)
    return found or _fail(f"{folder / name}: neither this file nor {name}.gz is there")


def _open(path: Path) -> IO[str]:
    # Only line feeds end lines: other separators occur inside of sentences.
    opener = gzip.open if path.suffix == ".gz" else open
    return opener(path, "rt", encoding="utf-8", newline="\n")


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.items())


def _fail(message: str) -> Path:
    print(f"Error: {message}", file=sys.stderr)
    sys.exit(BAD_DATA)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("sets", nargs="+")
    parser.add_argument("--languages", required=True, metavar="SOURCE-TARGET")
    parser.add_argument("--max-words", type=int, required=True)
    parser.add_argument("--max-ratio", type=float, required=True)
    parser.add_argument("--limit", type=int, default=0, help="training pairs; 0 takes all")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
