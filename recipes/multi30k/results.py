"""Rebuild docs/results.md from the committed files of a run: tables from its JSON, sentences from results.md.in.

python recipes/multi30k/results.py            # writes docs/results.md and docs/images/results.png
"""

import csv
import json
import re
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results"
TESTS = ("test_2016_flickr", "test_2017_flickr")
KINDS = ("encoder", "decoder", "cross")
METHODS = ("random", "greedy", "l0", "lottery", "scratch")
UNPRUNED = "none"

_PLACE = re.compile(r"<!-- table: ([\w-]+)((?: \d+)*) -->")


def main() -> None:
    """Write the page and its picture."""
    page = ROOT / "docs" / "results.md"
    page.write_text(text(), encoding="utf-8")
    draw(ROOT / "docs" / "images" / "results.png")
    print(f"wrote {page}")


def text() -> str:
    """The page."""
    template = (HERE / "results.md.in").read_text(encoding="utf-8")
    return _PLACE.sub(lambda match: TABLES[match[1]](*map(int, match[2].split())), template)


def load(name: str) -> Any:
    """A JSON file of the run."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def samples_of(row: str) -> list[str]:
    """Names of the files of a row: several where random heads were drawn more than once."""
    if (RESULTS / f"{row}.inspect.json").exists():
        others = sorted(path.name.split(".")[0] for path in RESULTS.glob(f"{row}-[0-9].inspect.json"))
        return [row, *others]
    return []


def quality(percent: int) -> str:
    """BLEU of every method at a share of the heads, with intervals and the change from the unpruned model."""
    head = [
        "method",
        "heads left",
        "enc/dec/cross",
        *("BLEU 2016", "BLEU 2017"),
        "change 2016",
        "p",
        "change 2017",
        "the papers",
    ]
    rows = [_quality_row(UNPRUNED, "unpruned", ""), *(
        _quality_row(f"{method}-{percent}", method, _paper(f"{method}-{percent}"))
        for method in METHODS if samples_of(f"{method}-{percent}")
    )]  # fmt: skip
    return markdown(head, rows)


def _quality_row(row: str, name: str, paper: str) -> list[str]:
    samples = samples_of(row)
    heads = heads_of(samples[0])
    kinds = "/".join(str(heads[kind]) for kind in KINDS)
    name += f" (mean of {len(samples)})" if len(samples) > 1 else ""
    cells = [name, str(sum(heads.values())), kinds if len(samples) == 1 else "drawn"]
    cells += [_bleu_cell(samples, test) for test in TESTS]
    changes = [
        "" if row == UNPRUNED else f"{mean_bleu(samples, test) - mean_bleu([UNPRUNED], test):+.2f}" for test in TESTS
    ]
    cells += [changes[0], _p_value(row) if len(samples) == 1 else "", changes[1]]
    return [*cells, paper]


def _p_value(row: str) -> str:
    """Two-sided p of the change on test 2016, where the model was compared in `bench`."""
    for model in load("bench-models.json")["models"]:
        if name_of(model["name"]) == row and model["difference"]:
            p = model["difference"]["p"]
            return f"{p:.4f}" if p >= 0.001 else "< 0.001"
    return ""


def _bleu_cell(samples: Sequence[str], test: str) -> str:
    if len(samples) > 1:
        values = [bleu(sample, test)["score"] for sample in samples]
        return f"{statistics.fmean(values):.2f} (sd {statistics.stdev(values):.2f})"
    found = bleu(samples[0], test)
    low, high = (found["confidence_mean"] + sign * found["confidence_var"] for sign in (-1, 1))
    return f"{found['score']:.2f} ({low:.1f} to {high:.1f})"


def bleu(row: str, test: str) -> dict[str, Any]:
    """What sacrebleu says of a row on a test set."""
    found: dict[str, Any] = load(f"{row}.{test}.json")
    return found


def mean_bleu(samples: Sequence[str], test: str) -> float:
    """The mean over samples."""
    return statistics.fmean(bleu(sample, test)["score"] for sample in samples)


def heads_of(row: str) -> Counter[str]:
    """Heads that are left, by kind."""
    heads: Counter[str] = Counter()
    for module in load(f"{row}.inspect.json")["modules"]:
        heads[module["module"].split(".")[0]] += module["heads"]
    return heads


def _paper(row: str) -> str:
    with (HERE / "expected.tsv").open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file, delimiter="\t"):
            if (line["row"], line["column"]) == (row, f"{TESTS[0]}.change"):
                return f"{float(line['expected']):+.2f} ({line['source']}{', ' + line['note'] if line['note'] else ''})"
    return ""


def sweep() -> str:
    """BLEU of the validation set while heads go without further training."""
    curves = {
        curve["order"]: {step["removed"]: step["bleu"] for step in curve["steps"]}
        for curve in load("greedy.curve.json")["curves"]
    }
    chosen = [0, 4, 8, 12, 18, 24, 30, 36, 44, 52]
    return markdown(
        ["heads removed", *map(str, chosen)],
        [[order, *(f"{curve[n]:.1f}" for n in chosen)] for order, curve in curves.items()],
    )


def speed() -> str:
    """How fast the slim models are, in turns, and what arithmetic predicts."""
    rows = []
    for model in load("bench-models.json")["models"]:
        timing = model["timings"][0]
        ratio = timing["ratio"]
        rows.append([
            name_of(model["name"]), str(model["heads"]), f"{timing['sentences_per_second']['median']:.0f}",
            f"{ratio['median']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})", f"{timing['predicted']:.3f}",
            f"{model['model_bytes'] / 1e6:.2f}",
        ])  # fmt: skip
    return markdown(["model", "heads", "sentences/s", "times as fast", "arithmetic", "MB"], rows)


def name_of(path: str) -> str:
    """The row of a model by its path in the run's folder."""
    found = re.search(r"/(?:models/)?([a-z0-9]+-\d+)(?:-\d+)?(?:\.pt|/slim\.pt)$", path)
    return found[1] if found else "unpruned"


def lottery() -> str:
    """Heads by layer after each iteration of the lottery."""
    rows = []
    for each in load("lottery.lottery.json")["iterations"]:
        kept = [" ".join(map(str, each["kept_per_layer"][kind])) for kind in KINDS]
        rows.append([str(each["iteration"]), str(each["removed"]), *kept, f"{each['validation']:.3f}"])
    return markdown(["iteration", "removed", *KINDS, "validation loss"], rows)


def updates() -> str:
    """Updates that went into each model."""
    # The first value of a name is that of the run, later ones are the smoke's.
    found = re.findall(r"([A-Z][A-Z0-9_]+)=([0-9]+)", "\n".join(load("run.json")["settings"]))
    settings = dict(reversed(found))
    base, tune = int(settings["BASE_UPDATES"]), int(settings["FINE_TUNE_UPDATES"])
    pretrain, prune = int(settings["LOTTERY_PRETRAIN"]), int(settings["LOTTERY_PRUNE"])
    iterations = len(load("lottery.lottery.json")["iterations"])
    rows = [
        ["unpruned, random, greedy, l0", f"{base:,} (common base) + {tune:,}", f"{base + tune:,}"],
        ["scratch", f"{base:,} + {tune:,}, from fresh weights", f"{base + tune:,}, and those of l0 for the shape"],
        [
            "lottery", f"{base:,} (of which {pretrain:,} are the late-resetting checkpoint's) + {tune:,}",
            f"{base + tune:,}, and {iterations} iterations of {prune} updates for all three tickets",
        ],
    ]  # fmt: skip
    return markdown(["models", "updates that made the weights", "in all"], rows)


def provenance() -> str:
    """Versions, machine, settings, checksums."""
    run = load("run.json")
    lines = [
        "Versions: " + ", ".join(f"{name} {version}" for name, version in run["versions"].items()) + ".",
        "Machine: {processor}, {cores} cores, {threads} thread(s) per process; GPUs: {gpus}.".format(
            **run["machine"] | {"gpus": ", ".join(run["machine"]["gpus"]) or "none"}
        ),
        f"Signature: `{signature()}`, seed 1, except for random heads (seeds 1 to 3).",
        f"Seconds of all steps together: {sum(run['seconds'].values()):,}, two processes side by side.",
    ]
    shown = ["corpus/train.en", "corpus/train.de", "spm.model", "models/base.pt", "models/none.pt"]
    sums = markdown(["file", "SHA-256"], [[name, f"`{run['sha256'][name]}`"] for name in shown])
    return "\n".join(f"- {line}" for line in lines) + "\n\n" + sums


def signature() -> str:
    """Of sacrebleu."""
    return str(bleu(UNPRUNED, TESTS[0])["signature"])


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw(path: Path) -> None:
    """BLEU on test 2016 against the share of heads that is gone, a line per method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    unpruned = bleu(UNPRUNED, TESTS[0])
    middle, half = unpruned["confidence_mean"], unpruned["confidence_var"]
    axes.axhspan(middle - half, middle + half, color="0.9", label="unpruned, 95 % interval")
    for method, marker in zip(METHODS, "osD^x", strict=True):
        shares = [percent for percent in (25, 50, 72) if samples_of(f"{method}-{percent}")]
        values = [mean_bleu(samples_of(f"{method}-{percent}"), TESTS[0]) for percent in shares]
        axes.plot(
            [0, *shares] if len(shares) > 1 else shares,
            [unpruned["score"], *values] if len(shares) > 1 else values,
            marker=marker,
            label=method,
        )
    axes.set(xlabel="heads removed, percent", ylabel="BLEU, Multi30k EN-DE, test 2016")
    axes.legend()
    axes.grid(alpha=0.3)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


TABLES: dict[str, Callable[..., str]] = {
    each.__name__: each for each in (quality, sweep, speed, lottery, updates, provenance)
}

if __name__ == "__main__":
    sys.exit(main())
