"""Time of one importance pass, beside a plain forward and backward pass of the same model over the same batches.

    python benchmarks/importance.py [--sentences 128] [--threads 2] [--repeat 5] [--device cuda]
    python benchmarks/importance.py --model checkpoint.pt --data-bin DIR [--subset train]

The plain pass is what a step of training computes before the optimizer: label-smoothed loss, gradients of all
parameters. Without --model the model is a random transformer-base (6 + 6 layers, 8 heads a module, d 512, feed-forward
2048, 32 000 words, shared table of the decoder) and sentences are random too. All passes take turns; ratios are medians
over repeats of the time beside the plain pass of the same repeat. The bar is 1.3; exit status 1 if it is missed.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nmtprune.architecture import Architecture, AttentionModule, GroupId
from nmtprune.data.batching import Batch, BatchLimits, collate, shift_right
from nmtprune.methods.gradients import label_smoothed_loss
from nmtprune.methods.importance import UNITS, ImportanceSettings, importance
from nmtprune.methods.measuring import MAX_TOKENS, batches, drawn
from nmtprune.model import Transformer
from nmtprune.network import Network, Positions, Stack

MAX_RATIO = 1.3
PLAIN = "forward and backward, all parameters"
PAD, EOS = 1, 2


def main() -> None:
    """Measure and print one line per kind of pass; exit status 1 if the bar is missed."""
    options = _options()
    torch.set_num_threads(options.threads)
    model, texts, smoothing = _real(options) if options.model else _random(options)
    tokens = sum(
        int((side != PAD).sum()) for batch in texts for side in (batch.source, batch.target) if side is not None
    )
    print(
        f"{options.model or 'random transformer-base'}: {sum(len(batch.source) for batch in texts)} sentences, "
        f"{tokens} tokens, {len(texts)} batches of at most {options.max_tokens} tokens, label smoothing {smoothing}, "
        f"{_where(options)}, {options.autocast or model.dtype}, {options.repeat} repeats"
    )
    autocast = getattr(torch, options.autocast) if options.autocast else None
    passes: dict[str, Callable[[], object]] = {PLAIN: partial(_plain, model, texts, smoothing, autocast)}
    for unit in UNITS:
        settings = ImportanceSettings(unit, smoothing, autocast)
        passes[f"importance, {unit}"] = partial(importance, model, texts, settings)
    worst = _report(_measured(passes, options))
    print(f"bar {MAX_RATIO}: {'met' if worst <= MAX_RATIO else 'MISSED'}")
    sys.exit(0 if worst <= MAX_RATIO else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a checkpoint; needs --data-bin")
    parser.add_argument("--data-bin", type=Path)
    parser.add_argument("--subset", default="train")
    parser.add_argument("--sentences", type=int, default=128)
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--autocast", choices=("bfloat16", "float16"), help="of both sides")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    if (options.model is None) != (options.data_bin is None):
        parser.error("--model and --data-bin go together")
    return options


def _where(options: argparse.Namespace) -> str:
    if options.device.startswith("cuda"):
        return torch.cuda.get_device_name(options.device)
    return f"{options.threads} threads ({os.cpu_count()} processors)"


def _real(options: argparse.Namespace) -> tuple[Transformer, list[Batch], float]:
    """A checkpoint, and sentences that are drawn from its data."""
    from nmtprune.data.corpus import load_corpus
    from nmtprune.data.options import DataOptions
    from nmtprune.engines.native import load as build
    from nmtprune.formats import load

    checkpoint = load(options.model)
    data = DataOptions(data_bin=options.data_bin, subset=options.subset)
    corpus = drawn(load_corpus(data, checkpoint.profile(), references=False, targets=True), options.sentences, seed=1)
    texts = list(batches(corpus, BatchLimits(options.max_tokens)))
    return build(checkpoint, options.device, torch.float32), texts, checkpoint.label_smoothing()


def _random(options: argparse.Namespace) -> tuple[Transformer, list[Batch], float]:
    """A model of random weights, and sentences of 5 to 60 words, about as long on both sides."""
    width, inner, words, layers, heads = 512, 2048, 32_000, 6, 8
    positions = Positions(learned=False, first=PAD + 1)
    stack = Stack(layers, "", "an", False, width**0.5, 1024, positions=positions)
    ids = [GroupId(kind, layer) for kind in ("encoder", "decoder", "cross") for layer in range(layers)]
    architecture = Architecture(tuple(AttentionModule(id, heads, width // heads) for id in ids))
    tensors = _tensors(layers, width, inner, words)
    model = Transformer(Network(stack, stack, "relu", PAD, EOS), architecture, tensors, options.device)
    generator = np.random.default_rng(1)
    lengths = np.sort(np.clip(generator.poisson(25, options.sentences), 5, 60))
    texts = []
    for begin in range(0, len(lengths), max(1, options.max_tokens // 40)):
        own = lengths[begin : begin + max(1, options.max_tokens // 40)][::-1]
        source, target = (
            [np.append(generator.integers(4, words, max(1, length + change)), EOS) for length in own]
            for change in (0, int(generator.integers(-2, 3)))
        )
        texts.append(
            Batch(
                positions=np.arange(begin, begin + len(own)),
                source=collate(source, PAD, left_pad=True),
                source_lengths=torch.tensor([len(sentence) for sentence in source]),
                target=collate(target, PAD, left_pad=False),
                previous=collate(shift_right(target, EOS), PAD, left_pad=False),
            )
        )
    return model, texts, 0.1


def _tensors(layers: int, width: int, inner: int, words: int) -> dict[str, Tensor]:
    """Random weights under the names of the native model, of about the sizes that training begins with."""
    generator = torch.Generator().manual_seed(1)
    tensors: dict[str, Tensor] = {}

    def linear(name: str, outputs: int, inputs: int) -> None:
        tensors[f"{name}.weight"] = torch.randn(outputs, inputs, generator=generator) * (2 / (outputs + inputs)) ** 0.5
        tensors[f"{name}.bias"] = torch.zeros(outputs)

    def norm(name: str) -> None:
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = torch.ones(width), torch.zeros(width)

    for side, attentions in (("encoder", ("self",)), ("decoder", ("self", "cross"))):
        tensors[f"{side}.embedding.tokens.weight"] = torch.randn(words, width, generator=generator) * width**-0.5
        for layer in range(layers):
            prefix = f"{side}.layers.{layer}"
            for attention in attentions:
                for part in ("query", "key", "value", "output"):
                    linear(f"{prefix}.{attention}_attention.{part}", width, width)
                norm(f"{prefix}.{attention}_attention_post_norm")
            linear(f"{prefix}.feed_forward.input", inner, width)
            linear(f"{prefix}.feed_forward.output", width, inner)
            norm(f"{prefix}.feed_forward_post_norm")
    tensors["output.weight"] = tensors["decoder.embedding.tokens.weight"]
    return tensors


def _plain(model: Transformer, texts: Sequence[Batch], smoothing: float, autocast: torch.dtype | None) -> None:
    """Gradients of all parameters, batch by batch, as training takes them before it updates anything."""
    model.requires_grad_(True)
    for batch in texts:
        if batch.target is None or batch.previous is None:
            raise ValueError("no references")
        source, previous, target = (side.to(model.device) for side in (batch.source, batch.previous, batch.target))
        with torch.autocast(model.device.type, autocast, enabled=autocast is not None):
            scores = model(source, previous)
        real = target != PAD
        losses = label_smoothed_loss(scores[real], target[real], smoothing, model.normalized)
        torch.autograd.backward(losses.sum())
        model.zero_grad(set_to_none=True)
    model.requires_grad_(False)


def _measured(passes: dict[str, Callable[[], object]], options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of every pass, in turns, after one turn that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(options.repeat + 1):
        for name, run in passes.items():
            _wait(options.device)
            begun = time.perf_counter()
            run()
            _wait(options.device)
            seconds[name].append(time.perf_counter() - begun)
    return {name: found[1:] for name, found in seconds.items()}


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _report(seconds: dict[str, list[float]]) -> float:
    """Print medians with their range; the largest median ratio."""
    worst = 0.0
    for name, found in seconds.items():
        ratios = [own / plain for own, plain in zip(found, seconds[PLAIN], strict=True)]
        line = f"{name:38} {statistics.median(found):7.3f} s ({min(found):.3f} - {max(found):.3f})"
        if name != PLAIN:
            ratio = statistics.median(ratios)
            worst = max(worst, ratio)
            line += f"  ratio {ratio:.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
        print(line)
    return worst


if __name__ == "__main__":
    main()
