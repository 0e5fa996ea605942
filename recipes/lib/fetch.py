"""Download the sets of a recipe: ``NAME=ORIGIN`` becomes NAME.SOURCE and NAME.TARGET in a folder.

Origins are ``mtdata:ID[,ID...]``, ``sacrebleu:SET`` and addresses with ``{lang}`` where the language stands.
"""

import argparse
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

TIMEOUT_S = 60

BAD_DATA = 5
"""Exit code, as nmtprune's own."""


class Unreachable(Exception):
    """An origin that cannot be had, and why."""


def main() -> None:
    """Get all sets, or end with one line that says which origin failed and what --data would need, and exit code 5."""
    options = _options()
    source, target = options.languages.split("-")
    origins = dict(item.split("=", 1) for item in options.sets)
    for name, origin in origins.items():
        print(f"{name}: {origin}", flush=True)
        try:
            fetch(origin, options.folder / name, (source, target), options.mtdata)
        except Unreachable as failure:
            wanted = [f"{each}.{language}" for each in origins for language in (source, target)] + options.also.split()
            print(
                f"Error: step corpus cannot get {name} ({origin}): {failure}; without a network, --data DIR takes "
                f"files that are there: {', '.join(wanted)}",
                file=sys.stderr,
            )
            sys.exit(BAD_DATA)


def fetch(origin: str, prefix: Path, languages: tuple[str, str], mtdata: str) -> None:
    """Write one set.

    Args:
        origin: where it comes from.
        prefix: path of both files, without the language.
        languages: suffixes of the files.
        mtdata: the pair as mtdata names it, for example ``eng-rus``.

    Raises:
        Unreachable: it cannot be had.
    """
    kind, _, rest = origin.partition(":")
    if kind == "mtdata":
        _from_mtdata(rest.split(","), prefix, languages, mtdata)
    elif kind == "sacrebleu":
        _from_sacrebleu(rest, prefix, languages)
    else:
        for language in languages:
            _download(origin.replace("{lang}", language), _beside(prefix, language, origin))


def _from_mtdata(names: list[str], prefix: Path, languages: tuple[str, str], pair: str) -> None:
    folder = prefix.with_name(f"{prefix.name}.mtdata")
    command = ["mtdata", "-no-pb", "get", "-l", pair, "-tr", *names, "--merge", "--fail", "-o", str(folder)]
    _run(command)
    for language, code in zip(languages, pair.split("-"), strict=True):
        (folder / f"train.{code}").rename(_beside(prefix, language))
    shutil.rmtree(folder)


def _from_sacrebleu(name: str, prefix: Path, languages: tuple[str, str]) -> None:
    for language, side in zip(languages, ("src", "ref"), strict=True):
        text = _run(["sacrebleu", "-t", name, "-l", "-".join(languages), "--echo", side])
        _beside(prefix, language).write_text(text, encoding="utf-8")


def _run(command: list[str]) -> str:
    """Standard output of a command; its last line is the reason where it fails."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if line.strip()] or ["no reason given"]
        raise Unreachable(f"{command[0]}: {lines[-1].strip()}")
    return result.stdout


def _download(address: str, path: Path) -> None:
    part = path.with_name(f"{path.name}.part")
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer, part.open("wb") as file:
            shutil.copyfileobj(answer, file)
    except (urllib.error.URLError, OSError) as error:
        raise Unreachable(str(getattr(error, "reason", error))) from None
    part.rename(path)


def _beside(prefix: Path, language: str, origin: str = "") -> Path:
    """PREFIX.LANGUAGE, with .gz where the origin is compressed; names of sets may hold dots."""
    return prefix.with_name(f"{prefix.name}.{language}{'.gz' if origin.endswith('.gz') else ''}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("sets", nargs="+", metavar="NAME=ORIGIN")
    parser.add_argument("--languages", required=True, metavar="SOURCE-TARGET")
    parser.add_argument("--mtdata", default="", metavar="PAIR", help="the same pair as mtdata names it")
    parser.add_argument("--also", default="", metavar="FILES", help="what else --data would have to hold")
    return parser.parse_args()


if __name__ == "__main__":
    main()
