"""Sentences per second of the native engine, beside stock fairseq-generate and CTranslate2, and lines that differ.

    python benchmarks/translate.py MODEL.pt --data-bin DIR [--subset test] [--beam 1 5] [--batch-size 64] [--threads 1]
        [--sentences N] [--repeat 3]

In turns, as often as `--repeat` says, after a round that is not counted. fairseq's time is the one that it reports for
translating: start-up and reading are not in it. CTranslate2 gets the exported model in float32; its beams are searched
by its own rules.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from nmtprune.data.batching import BatchLimits
from nmtprune.data.corpus import Corpus, load_corpus
from nmtprune.data.databin import Languages, NumberedData, read_numbers
from nmtprune.data.options import DataOptions
from nmtprune.engines import EngineSettings, open_engine
from nmtprune.evaluate.cost import Spread, ratio
from nmtprune.formats import load
from nmtprune.methods.measuring import drawn
from nmtprune.model.search.options import SearchOptions
from nmtprune.user_dir import USER_DIR

Texts = list[tuple[int, ...]]
Run = Callable[[], tuple[float, Texts]]


def main() -> None:
    """Print a line per beam and engine."""
    options = _options()
    torch.set_num_threads(options.threads)
    checkpoint = load(options.checkpoint)
    data = DataOptions(data_bin=options.data_bin, subset=options.subset)
    corpus = load_corpus(data, checkpoint.profile(), references=False)
    if options.sentences:
        corpus = drawn(corpus, options.sentences, 1)
    print(f"{len(corpus)} sentences, batches of {options.batch_size}, {options.threads} threads")
    for beam in options.beam:
        search = SearchOptions(
            beam=beam,
            max_len_a=options.max_len_a,
            max_len_b=options.max_len_b,
            fairseq_batch_length_limit=options.max_len_a > 0,
        )
        limits = BatchLimits.of(None, options.batch_size)
        settings = EngineSettings(search, limits, torch.device("cpu"), options.threads)
        with tempfile.TemporaryDirectory() as folder:
            runs: dict[str, Run] = {
                name: _ours(open_engine(name, checkpoint, settings), corpus) for name in ("native", "ctranslate2")
            }
            runs["fairseq-generate"] = Fairseq(Path(folder), options, corpus, search)
            _compare(runs, beam, len(corpus), options.repeat)


def _compare(runs: dict[str, Run], beam: int, sentences: int, repeat: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    texts: dict[str, Texts] = {}
    for number in range(repeat + 1):
        for name, run in runs.items():
            took, texts[name] = run()
            if number:
                seconds[name].append(took)
    for name, own in seconds.items():
        rate, faster = Spread.of([sentences / took for took in own]), ratio(own, seconds["native"])
        differ = sum(mine != theirs for mine, theirs in zip(texts["native"], texts[name], strict=True))
        print(
            f"beam {beam} {name:16} {rate.median:8.1f} sentences/s ({rate.low:.1f} to {rate.high:.1f})   native is "
            f"{faster.median:.2f} x as fast ({faster.low:.2f} to {faster.high:.2f})   {differ} lines differ",
            flush=True,
        )


def _ours(engine: object, corpus: Corpus) -> Run:
    def run() -> tuple[float, Texts]:
        start = time.perf_counter()
        found = engine.translate(corpus, {})  # type: ignore[attr-defined]
        return time.perf_counter() - start, [own[0].tokens if own else () for own in found]

    return run


class Fairseq:
    """fairseq-generate on the same sentences, whose dictionaries spell words as their numbers."""

    _TIME = re.compile(r"Translated [\d,]+ sentences \([\d,]+ tokens\) in ([\d.]+)s")
    _LINE = re.compile(r"H-(\d+)\t[^\t]+\t(.*)")

    def __init__(self, folder: Path, options: argparse.Namespace, corpus: Corpus, search: SearchOptions) -> None:
        words = len(corpus.source_vocabulary), len(corpus.target_vocabulary)
        self._corpus = corpus
        NumberedData(folder, Languages("source", "target"), words).write("test", corpus.source, None)
        self._command = [
            sys.executable, "-m", "fairseq_cli.generate", str(folder), "--user-dir", str(USER_DIR), "--path",
            str(options.checkpoint), "--task", "translation", "-s", "source", "-t", "target", "--beam",
            str(search.beam), "--max-len-a", str(search.max_len_a), "--max-len-b", str(search.max_len_b),
            "--batch-size", str(options.batch_size), "--required-batch-size-multiple", "1", "--cpu", "--num-workers",
            "0", "--no-progress-bar",
        ]  # fmt: skip
        self._threads = options.threads

    def __call__(self) -> tuple[float, Texts]:
        """Seconds, as fairseq reports them, and texts."""
        environment = {"OMP_NUM_THREADS": str(self._threads), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(self._command, capture_output=True, text=True, env=environment, check=True)
        eos = self._corpus.target_vocabulary.eos
        texts: Texts = [()] * len(self._corpus)
        for number, text in self._LINE.findall(done.stdout):
            texts[int(number)] = (*read_numbers(text), eos)
        match = self._TIME.search(done.stdout + done.stderr)
        if match is None:
            raise SystemExit("fairseq-generate does not say how fast it was")
        return float(match[1]), texts


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data-bin", type=Path, required=True)
    parser.add_argument("--subset", default="test")
    parser.add_argument("--beam", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--max-len-a", type=float, default=0.0)
    parser.add_argument("--max-len-b", type=int, default=200)
    parser.add_argument("--sentences", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
