"""Take figures out of what nmtprune's commands write, as lines for the table of a recipe.

Each line is row, column, value, low, high (tab-separated; the ends of an interval may be empty). With one name, that of
the row, the columns depend on the kind of file; `bench` takes a row for every model but the first.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

Figure = tuple[str, str, float] | tuple[str, str, float, float | None, float | None]


def inspected(content: dict[str, Any], rows: list[str]) -> Iterator[Figure]:
    """Heads, in all and by kind, and parameters, of `inspect --format json`."""
    yield rows[0], "heads", content["heads"]
    by_kind: Counter[str] = Counter()
    for module in content["modules"]:
        by_kind[module["module"].split(".")[0]] += module["heads"]
    for kind, heads in by_kind.items():
        yield rows[0], f"{kind}-heads", heads
    yield rows[0], "parameters", content["parameters"]["total"]


def bench(content: dict[str, Any], rows: list[str]) -> Iterator[Figure]:
    """How many times as fast as the first model the others are, and what arithmetic predicts."""
    for row, model in zip(rows, content["models"][1:], strict=True):
        for timing in model["timings"]:
            suffix = "" if len(model["timings"]) == 1 else f"-{timing['batch_size']}"
            ratio = timing["ratio"]
            yield row, f"speedup{suffix}", ratio["median"], ratio["low"], ratio["high"]
            yield row, f"predicted-speedup{suffix}", timing["predicted"], None, None


def ablation(content: dict[str, Any], rows: list[str]) -> Iterator[Figure]:
    """Encoder heads that change the metric significantly, without a correction (as in Michel et al.) and with it."""
    alpha = content["baseline"]["significance"]["alpha"]
    encoder = [head for head in content["heads"] if head["head"].startswith("encoder.")]
    significant = [head for head in encoder if head["p"] < alpha]
    yield rows[0], "unpruned", content["baseline"]["value"]
    yield rows[0], "significant", len(significant)
    yield rows[0], "significant-up", sum(head["delta"] > 0 for head in significant)
    yield rows[0], "significant-corrected", sum(head.get("p_corrected", 1.0) < alpha for head in encoder)


def only_head(content: dict[str, Any], rows: list[str]) -> Iterator[Figure]:
    """The change with the best single head of each module, by `score --all-but-one`; on the test data too."""
    best: dict[str, float] = {}
    for head in content["heads"]:
        module = head["head"].rpartition(".")[0]
        best[module] = max(best.get(module, head["delta"]), head["delta"])
    for module, delta in best.items():
        yield rows[0], module, delta
    for head in content.get("test", {}).get("heads", ()):
        yield f"{rows[0]}-test", head["head"].rpartition(".")[0], head["delta"], *head["ci"]


def correlation(content: dict[str, Any], rows: list[str]) -> Iterator[Figure]:
    """Pearson's r of `compare --format json`."""
    yield rows[0], "pearson-r", content["pearson"]


def curves(content: dict[str, Any], rows: list[str]) -> Iterator[Figure]:
    """The metric at every tenth of every curve of `greedy`, absolute and in percent of the unpruned model."""
    for curve in content["curves"]:
        for step in curve["steps"]:
            percent = 10 * round(10 * step["removed"] / (step["removed"] + step["kept"]))
            row = f"{rows[0]}-{curve['name']}"
            yield row, f"at-{percent}", step[content["metric"]]
            if step["relative"] is not None:
                yield row, f"relative-at-{percent}", 100 * step["relative"]


def drift(content: dict[str, Any], rows: list[str]) -> Iterator[Figure]:
    """Highest less lowest mean change of a layer in `drift`, in percent of the mean of all layers."""
    changes: dict[str, list[float]] = {}
    for head in content["heads"]:
        changes.setdefault(head["head"].rpartition(".")[0], []).append(head["mean"])
    layers = [fmean(layer) for layer in changes.values()]
    yield rows[0], "spread", 100 * (max(layers) - min(layers)) / fmean(layers)


KINDS: dict[str, Callable[[dict[str, Any], list[str]], Iterator[Figure]]] = {
    each.__name__: each for each in (inspected, bench, ablation, only_head, correlation, curves, drift)
}


def main() -> None:
    """KIND FILE ROW..."""
    kind, path, *rows = sys.argv[1:]
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    for row, column, value, *ends in KINDS[kind](content, rows):
        low, high = ends or ("", "")
        print(row, column, value, "" if low is None else low, "" if high is None else high, sep="\t")


if __name__ == "__main__":
    main()
