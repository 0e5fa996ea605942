"""Time per ablated head of `nmtprune score`, beside stock fairseq-generate on the masked checkpoint of the same head.

    python benchmarks/score.py MODEL.pt --data-bin DIR [--subset valid] [--beam 5] [--threads 1] [--device cpu]
        [--modules encoder.0,cross.5,...] [--heads-per-module 2] [--repeat 1]

Module by module, in turn: all heads of the module as `score` ablates them (masking, search, statistics of the
metric), then fairseq-generate for some of its heads. fairseq's time is the one that it reports for translating:
start-up, reading and scoring are not in it. What `score` does once (search without masks, resampling) is measured too,
for all heads of the model, and each head is charged its share. The translations of both are compared line by line.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from nmtprune import slim
from nmtprune.architecture import AttentionModule, GroupId, Kept, UnitId
from nmtprune.data.batching import BatchLimits
from nmtprune.data.corpus import load_corpus
from nmtprune.data.options import DataOptions
from nmtprune.engines import EngineSettings, open_engine
from nmtprune.evaluate.metrics import Bleu, Scored
from nmtprune.evaluate.significance import SignificanceTest
from nmtprune.formats import load
from nmtprune.formats.base import Checkpoint
from nmtprune.model.search.options import SearchOptions
from nmtprune.plan import Plan
from nmtprune.user_dir import USER_DIR


@dataclass(frozen=True)
class Row:
    """Seconds per head of one module."""

    module: GroupId
    ours: float
    fairseq: float


def main() -> None:
    """Print a line per module, and the ratio over all of them."""
    options = _options()
    checkpoint = load(options.checkpoint)
    heads = sum(module.heads for module in checkpoint.architecture)
    start = time.perf_counter()
    own = Ours(checkpoint, options)
    once = time.perf_counter() - start
    print(
        f"{heads} heads, {len(own.corpus)} sentences, beam {options.beam}, {options.threads} threads, "
        f"{options.device}; BLEU of the full model {own.baseline.score:.2f}"
    )
    rows: list[Row] = []
    scored: list[Scored] = []
    lines = Lines()
    for module in _modules(checkpoint, options.modules):
        row, found = _compare(own, checkpoint, module, options, lines)
        rows.append(row)
        scored += found
        print(
            f"{row.module!s:10} score {row.ours:7.3f} s/head   fairseq-generate {row.fairseq:7.3f} s/head   "
            f"{row.fairseq / row.ours:5.2f} x",
            flush=True,
        )
    everything = [scored[number % len(scored)] for number in range(heads)]
    start = time.perf_counter()
    SignificanceTest(threads=options.threads).compare(own.baseline, everything)
    resampling = time.perf_counter() - start
    share = (once + resampling) / heads
    ours, fairseq = sum(row.ours + share for row in rows), sum(row.fairseq for row in rows)
    print(f"once: {once:.2f} s reading, searching and recording, {resampling:.2f} s resampling: {share:.3f} s per head")
    print(f"lines that differ from fairseq's: {lines.different} of {lines.total}")
    print(f"all {len(rows)} modules: {fairseq / ours:.2f} x")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data-bin", type=Path, required=True)
    parser.add_argument("--subset", default="valid")
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--max-tokens", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--modules", help="comma-separated; default: first, middle and last layer of each kind")
    parser.add_argument("--heads-per-module", type=int, default=2, help="heads that fairseq-generate decodes")
    parser.add_argument("--repeat", type=int, default=1, help="times each; medians count")
    return parser.parse_args()


class Ours:
    """The native engine on one set of sentences, as `score` uses it."""

    def __init__(self, checkpoint: Checkpoint, options: argparse.Namespace) -> None:
        """Do what `score` does before the first head."""
        search, limits = SearchOptions(beam=options.beam), BatchLimits.of(options.max_tokens)
        settings = EngineSettings(search, limits, torch.device(options.device), options.threads)
        data = DataOptions(data_bin=options.data_bin, subset=options.subset)
        self.corpus = load_corpus(data, checkpoint.profile())
        self._ablation = open_engine("native", checkpoint, settings).ablation(self.corpus)
        self._metric = Bleu(self.corpus.references or ())
        self.baseline = self._metric.scored(self.texts([{}])[0])

    def texts(self, systems: Sequence[Kept]) -> list[list[str]]:
        """Translations under each of several systems of masks."""
        best = self._ablation.best(systems)
        return [[self.corpus.decode(tokens) if tokens else "" for tokens in found] for found in best]

    def scored(self, texts: Sequence[Sequence[str]]) -> list[Scored]:
        """Statistics of translations."""
        return [self._metric.scored(found) for found in texts]


def _modules(checkpoint: Checkpoint, names: str | None) -> Iterator[AttentionModule]:
    architecture = checkpoint.architecture
    if names is not None:
        yield from (architecture[GroupId.parse(name)] for name in names.split(","))
        return
    for kind in architecture.kinds:
        layers = [module for module in architecture.of_kind(kind) if module.heads]
        yield from (layers[place] for place in sorted({0, len(layers) // 2, len(layers) - 1}))


def _compare(
    own: Ours, checkpoint: Checkpoint, module: AttentionModule, options: argparse.Namespace, lines: "Lines"
) -> tuple[Row, list[Scored]]:
    """Time both on the heads of a module, and count the lines that differ."""
    systems = [{module.id: [other for other in range(module.heads) if other != head]} for head in range(module.heads)]
    step = max(1, module.heads // options.heads_per_module)
    chosen = range(0, module.heads, step)[: options.heads_per_module]
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = {head: _write(checkpoint, UnitId(module.id, head), Path(folder)) for head in chosen}
        for _ in range(options.repeat):
            start = time.perf_counter()
            texts = own.texts(systems)
            scored = own.scored(texts)
            ours.append((time.perf_counter() - start) / module.heads)
            for head, path in paths.items():
                found, seconds = _fairseq(path, options)
                theirs.append(seconds)
                lines.compare(UnitId(module.id, head), own.corpus.numbers.tolist(), texts[head], found)
    return Row(module.id, median(ours), median(theirs)), scored


def _write(checkpoint: Checkpoint, head: UnitId, folder: Path) -> Path:
    plain = checkpoint.without_optimizer()
    path = folder / f"{head}.pt"
    slim.apply(Plan.removing(plain.base, [head]), plain, "masked").save(path)
    return path


def _fairseq(path: Path, options: argparse.Namespace) -> tuple[dict[int, str], float]:
    """Translations by sentence, and the seconds that fairseq-generate spent on them by its own count."""
    command = [sys.executable, "-m", "fairseq_cli.generate", str(options.data_bin), "--path", str(path)]
    command += ["--user-dir", str(USER_DIR), "--gen-subset", options.subset, "--beam", str(options.beam)]
    command += ["--required-batch-size-multiple", "1", "--remove-bpe", "sentencepiece"]
    command += [] if options.device.startswith("cuda") else ["--cpu"]
    command += ["--max-tokens", str(options.max_tokens)] if options.max_tokens else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    spent = re.search(r"Translated [\d,]+ sentences \([\d,]+ tokens\) in ([\d.]+)s", done.stderr + done.stdout)
    if spent is None:
        sys.exit(f"fairseq-generate does not say how long it took:\n{done.stderr[-2000:]}")
    found = re.findall(r"^D-(\d+)\t[^\t\n]*\t(.*)$", done.stdout, re.MULTILINE)
    return {int(number): text for number, text in found}, float(spent[1])


class Lines:
    """Counts the lines that both translate alike or not."""

    def __init__(self) -> None:
        self.different = self.total = 0

    def compare(self, head: UnitId, numbers: Sequence[int], ours: Sequence[str], theirs: Mapping[int, str]) -> None:
        """Count the lines of one head, and show those that differ."""
        for number, text in zip(numbers, ours, strict=True):
            self.total += 1
            if text != theirs[number]:
                self.different += 1
                print(f"  {head} sentence {number}\n    ours    {text}\n    fairseq {theirs[number]}")


if __name__ == "__main__":
    main()
