"""Time and memory of a refit, next to a plain forward and backward pass of the same model over the same sentences.

    python benchmarks/refit.py [--shape transformer_base] [--removed neurons] [--sentences 500] [--threads 2]
    python benchmarks/refit.py --model checkpoint.pt --data-bin DIR [--plan plan.json]

The plain pass is what a training computes for these sentences before it updates anything: label-smoothed loss, and
gradients of all parameters, in batches of the same size. Without --model weights and sentences are random; without
--plan half of the heads are removed at random, or of the neurons, or of the decoder's layers (--removed). The costs of
the order reconstruction (one pass over heads, or with --removed neurons over neurons) are timed too. Passes take turns;
ratios are medians over repeats of the time compared with the plain pass of the same repeat. Memory is the peak of a
process that loads the checkpoint, cuts it and refits, compared with the bytes of the weights. Bars: a refit at most
1.0 x the time of the plain pass, reconstruction in one pass at most 2.0 x; memory at most 3 x the weights + 2 GiB. Exit
status 1 if a bar is missed.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from nmtprune import slim
from nmtprune.architecture import SORTS
from nmtprune.data.batching import Batch, collate, shift_right
from nmtprune.data.corpus import load_corpus
from nmtprune.data.options import DataOptions
from nmtprune.engines import native
from nmtprune.formats import load
from nmtprune.formats.base import Checkpoint
from nmtprune.methods.gradients import label_smoothed_loss
from nmtprune.methods.measuring import MAX_TOKENS, batches, drawn
from nmtprune.methods.reconstruction import reconstruction
from nmtprune.methods.refit import RefitSettings, fit_projections
from nmtprune.methods.texts import SentencePairs
from nmtprune.model import Transformer
from nmtprune.plan import Plan
from nmtprune.runs.bench.synthetic import Shape, Synthetic
from nmtprune.runs.refit import refitted

BARS = {"refit": 1.0, "reconstruction": 2.0}
MAX_WEIGHTS, MAX_MORE = 3, 2 << 30
PAD, EOS, FIRST = 1, 2, 4


def main() -> None:
    """Measure and print a line per figure; exit status 1 if a bar is missed."""
    options = _options()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        full = options.model or _written(options, Path(folder))
        if options.child:
            _refit_once(options, full)
            return
        base = load(full)
        plan = _plan(options, base)
        pruned = slim.apply(plan, base.without_optimizer())
        model = native.load(base, dtype=torch.float32)
        batched = _batches(options, base, model)
        texts = [SentencePairs.of(batch, model) for batch in batched]
        tokens = sum(int(text.real_source.sum() + text.real_target.sum()) for text in texts)
        print(
            f"{options.model or options.shape}: {options.sentences} sentences, {tokens} tokens, {len(texts)} batches, "
            f"{_counts(base)} -> {_counts(pruned)}, {options.threads} threads"
        )
        ratios = _timed(options, model, (pruned, plan), batched)
        weights = sum(tensor.nbytes for tensor in base.parameters.values())
        peak = _peak(options, full)
    bar = MAX_WEIGHTS * weights + MAX_MORE
    print(f"peak memory {peak / 2**20:.0f} MiB, weights {weights / 2**20:.0f} MiB, bar {bar / 2**20:.0f} MiB")
    met = peak <= bar and all(ratios[name] <= most for name, most in BARS.items())
    shown = ", ".join(f"{name} {most} x" for name, most in BARS.items())
    print(f"bars {shown}, {MAX_WEIGHTS} x weights + {MAX_MORE >> 30} GiB: {'met' if met else 'MISSED'}")
    sys.exit(0 if met else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="transformer_base", help="as for nmtprune bench --synthetic")
    parser.add_argument("--model", type=Path, help="a checkpoint; needs --data-bin")
    parser.add_argument("--data-bin", type=Path)
    parser.add_argument("--plan", type=Path)
    parser.add_argument("--removed", choices=("heads", "neurons", "layers"), default="heads")
    parser.add_argument("--sentences", type=int, default=500)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if (options.model is None) != (options.data_bin is None):
        parser.error("--model and --data-bin go together")
    return options


def _written(options: argparse.Namespace, folder: Path) -> Path:
    """A checkpoint of random weights."""
    shape = Shape.parse(options.shape)
    return Synthetic(shape, None, "50%", 5, 5, 1, seed=1).write(folder)[0]


def _counts(checkpoint: Checkpoint) -> str:
    """Heads, neurons and layers of a model."""
    units = checkpoint.base.units
    return ", ".join(f"{sum(len(own) for id, own in units.items() if id.sort == sort)} {sort}" for sort in SORTS)


def _plan(options: argparse.Namespace, base: Checkpoint) -> Plan:
    """The plan that was named, or half of something at random."""
    if options.plan is not None:
        return Plan.read(options.plan)
    generator, units = np.random.default_rng(1), base.base.units
    keep = {
        id: sorted(generator.permutation(own)[: len(own) // 2].tolist())
        if id.sort == options.removed and str(id) != "encoder-layers"
        else list(own)
        for id, own in units.items()
    }
    return Plan.of(base.base, keep)


def _batches(options: argparse.Namespace, base: Checkpoint, model: Transformer) -> list[Batch]:
    """Sentences of a training set, or random ones of 5 to 60 words, about as long on both sides."""
    if options.model is not None:
        data = DataOptions(data_bin=options.data_bin, subset="train", skip_invalid=True)
        corpus = load_corpus(data, base.profile(), references=False, targets=True)
        return list(batches(drawn(corpus, options.sentences, 1)))
    generator = np.random.default_rng(1)
    lengths = np.sort(np.clip(generator.poisson(25, options.sentences), 5, 60))
    found, begin = [], 0
    for own in np.array_split(lengths, max(1, int(lengths.sum()) // MAX_TOKENS)):
        sides = [[np.append(generator.integers(FIRST, model.words[1], n), EOS) for n in own] for _ in range(2)]
        found.append(
            Batch(
                positions=np.arange(begin, begin + len(own)),
                source=collate(sides[0], PAD, left_pad=True),
                source_lengths=torch.tensor([len(sentence) for sentence in sides[0]]),
                target=collate(sides[1], PAD, left_pad=False),
                previous=collate(shift_right(sides[1], EOS), PAD, left_pad=False),
            )
        )
        begin += len(own)
    return found


def _timed(
    options: argparse.Namespace, model: Transformer, cut: tuple[Checkpoint, Plan], batched: list[Batch]
) -> dict[str, float]:
    """Print the seconds of each; the median ratios."""
    texts = [SentencePairs.of(batch, model) for batch in batched]
    sorts = ("neurons",) if options.removed == "neurons" else ("heads",)
    pruned, plan = cut
    passes: dict[str, Callable[[], object]] = {
        "forward and backward": lambda: _plain(model, texts),
        "refit": lambda: fit_projections(
            model, native.load(pruned, dtype=torch.float32), texts, RefitSettings(), plan.kept_layers()
        ),
        "reconstruction": lambda: reconstruction(model, batched, label_smoothing=0.1, sorts=sorts),
    }
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(options.repeat + 1):
        for name, run in passes.items():
            seconds[name].append(_seconds(run))
    plain, ratios = seconds["forward and backward"], {}
    for name, found in seconds.items():
        own = [one / other for one, other in zip(found[1:], plain[1:], strict=True)]
        ratios[name] = statistics.median(own)
        print(
            f"{name:22} {statistics.median(found[1:]):8.2f} s ({min(found[1:]):.2f} - {max(found[1:]):.2f})  "
            f"{ratios[name]:.2f} x ({min(own):.2f} - {max(own):.2f})"
        )
    return ratios


def _seconds(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def _plain(model: Transformer, texts: list[SentencePairs]) -> None:
    """Gradients of all parameters, batch by batch."""
    model.requires_grad_(True)
    for text in texts:
        scores = model(text.source, text.previous)[text.real_target]
        losses = label_smoothed_loss(scores, text.target[text.real_target], 0.1, model.normalized)
        torch.autograd.backward(losses.sum())
        model.zero_grad(set_to_none=True)
    model.requires_grad_(False)


def _peak(options: argparse.Namespace, full: Path) -> int:
    """Peak memory in bytes of a process that does nothing but refit."""
    data = ["--data-bin", str(options.data_bin or full.parent)]
    plan = ["--plan", str(options.plan)] if options.plan else []
    sizes = ["--sentences", str(options.sentences), "--threads", str(options.threads), "--removed", options.removed]
    command = [sys.executable, __file__, "--child", "--model", str(full), *data, *plan, *sizes]
    environment = {**os.environ, "NMTPRUNE_RANDOM_TEXTS": "" if options.model else "1"}
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def _refit_once(options: argparse.Namespace, full: Path) -> None:
    """Load, refit, and print the peak memory of this process."""
    base = load(full)
    if os.environ.get("NMTPRUNE_RANDOM_TEXTS"):
        options.model = None
    plan = _plan(options, base)
    pruned = slim.apply(plan, base.without_optimizer())
    model = native.load(base, dtype=torch.float32)
    texts = [SentencePairs.of(batch, model) for batch in _batches(options, base, model)]
    refitted(model, pruned, texts, layers=plan.kept_layers())
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


if __name__ == "__main__":
    main()
