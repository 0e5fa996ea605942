"""Time that a uniform cut of neurons and layers takes in the official Marian, compared with the uncut and masked model.

    python benchmarks/marian_cut.py MODEL.npz --vocabs A B --source FILE [--plan PLAN | --slim SLIM.npz] [--sentences N]
    python benchmarks/marian_cut.py --shape base|big|student [--sentences N]
        [--keep-neurons 0.5] [--decoder-layers N] [--beam 1 6] [--batch-size 32] [--threads 1] [--repeat 5] [--cpu-time]

Needs pymarian. Without --plan, the neurons with the largest weights stay in every layer (half of them, or the share
that --keep-neurons names), and the first N decoder layers. --slim names a model that was cut before, and perhaps
refitted or trained, which is compared with the uncut one alone. A shape has random weights and made-up words, and its
translations are twice as long as their sources.

The three models translate in turns, in one process, after a round that is not counted; reading them is not timed.
Speed is compared per token of the translations. "predicted" is the ratio of multiply-accumulates with the real
lengths, which leave out Marian's time for everything else (softmax, norms, search). A cut that ruins the translations
of a real model makes them long, and the comparison with the uncut model then means little; the masked model always
translates the same. Exits with status 1 if a line of the cut model differs from the masked model's.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nmtprune import slim
from nmtprune.architecture import GroupId
from nmtprune.data.marian_vocabulary import MarianVocabulary
from nmtprune.engines import native
from nmtprune.evaluate.cost import Spread, in_turns, multiply_accumulates, ratio
from nmtprune.formats import load
from nmtprune.formats.marian import archive, layout
from nmtprune.formats.marian.options import ENTRY, encoded, parse
from nmtprune.plan import Plan

WORDS = 32000
SHAPES: dict[str, dict[str, Any]] = {
    "base": {"dim-emb": 512, "transformer-dim-ffn": 2048, "transformer-heads": 8, "enc-depth": 6, "dec-depth": 6},
    "big": {"dim-emb": 1024, "transformer-dim-ffn": 4096, "transformer-heads": 16, "enc-depth": 6, "dec-depth": 6},
    "student": {
        "dim-emb": 256, "transformer-dim-ffn": 1536, "transformer-heads": 8, "enc-depth": 6, "dec-depth": 2,
        "transformer-decoder-autoreg": "rnn", "dec-cell": "ssru",
    },
}  # fmt: skip
_COMMON = {"type": "transformer", "dim-vocabs": [WORDS, WORDS], "tied-embeddings-all": True}
_LENGTHS = (8, 40)


def main() -> None:
    """Print a line per beam and model."""
    options = _options()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.shape:
            _write_shape(options, folder)
        base = load(options.checkpoint)
        lines = options.source.read_text(encoding="utf-8").split("\n")[: options.sentences]
        lines = [line for line in lines if line.strip()]
        print(f"{len(lines)} lines, batches of {options.batch_size}, {options.threads} threads")
        models, files = {"uncut": base}, {"uncut": options.checkpoint}
        if options.slim:
            models["slim"], files["slim"] = load(options.slim), options.slim
        else:
            plan = Plan.read(options.plan) if options.plan else _plan(base, options)
            for mode in ("masked", "uniform"):
                models[mode], files[mode] = slim.apply(plan, base, mode), folder / f"{mode}.npz"
                models[mode].save(files[mode])
        faults = [fault for model in models.values() for fault in model.toolkit_faults("marian")]
        if faults:
            raise SystemExit("; ".join(faults))
        print(_described(list(models.values())[-1], base))
        same = [_compare(models, files, lines, beam, options) for beam in options.beam]
    sys.exit(0 if all(same) else 1)


def _compare(
    models: dict[str, Any], files: dict[str, Path], lines: list[str], beam: int, options: argparse.Namespace
) -> bool:
    """Time the models at one beam; whether the cut model translates every line like the masked one."""
    jobs = [_translating(file, beam, options) for file in files.values()]
    seconds, found = in_turns(
        [partial(job, lines) for job in jobs],
        options.repeat,
        clock=time.process_time if options.cpu_time else time.perf_counter,
    )
    texts = dict(zip(files, found, strict=True))
    sources, targets = _lengths([lines], options.vocabs[0])[0], _lengths(found, options.vocabs[1])
    tokens = [sum(own) for own in targets]
    per_token = [[took / count for took in own] for own, count in zip(seconds, tokens, strict=True)]
    loaded = (native.load(model) for model in models.values())
    work = [
        sum(multiply_accumulates(model, sources, own, beam).values()) / sum(own)
        for model, own in zip(loaded, targets, strict=True)
    ]
    for place, name in enumerate(files):
        rate, faster = Spread.of([1 / took for took in per_token[place]]), ratio(per_token[0], per_token[place])
        print(
            f"beam {beam} {name:8} {rate.median:8.0f} tokens/s ({rate.low:.0f} to {rate.high:.0f})   "
            f"{faster.median:.2f} x as fast as uncut ({faster.low:.2f} to {faster.high:.2f})   "
            f"predicted {work[0] / work[place]:.2f} x",
            flush=True,
        )
    if options.slim:
        return True
    faster = ratio(seconds[1], seconds[2])
    differ = sum(a != b for a, b in zip(texts["masked"], texts["uniform"], strict=True))
    print(
        f"beam {beam} uniform  {faster.median:.2f} x as fast as masked ({faster.low:.2f} to {faster.high:.2f})   "
        f"predicted {work[1] / work[2]:.2f} x   {differ} lines differ",
        flush=True,
    )
    return differ == 0


def _lengths(texts: list[list[str]], vocabulary: Path) -> list[list[int]]:
    """Tokens of every line, the end-of-sentence symbol included, as a vocabulary splits them."""
    symbols = MarianVocabulary.read(vocabulary)
    return [[len(symbols.encode(line)) for line in own] for own in texts]


def _translating(file: Path, beam: int, options: argparse.Namespace) -> Callable[[list[str]], list[str]]:
    """Marian with a model that it has read."""
    from pymarian import Translator

    translator = Translator(
        models=[str(file)],
        vocabs=[str(path) for path in options.vocabs],
        beam_size=beam,
        normalize=1.0,
        max_length_factor=2.0 if options.shape else 3.0,
        mini_batch=options.batch_size,
        maxi_batch=100,
        maxi_batch_sort="src",
        cpu_threads=options.threads,
        quiet=True,
        quiet_translation=True,
    )
    found: Callable[[list[str]], list[str]] = translator.translate
    return found


def _plan(base: Any, options: argparse.Namespace) -> Plan:
    """Per layer the neurons with the largest product of the norms of their weights; the first decoder layers."""
    keep = dict(base.base.units)
    for group in base.architecture.feed_forwards:
        own = f"{group.id.stack}_l{group.id.layer + 1}_ffn"
        size = base.tensors[f"{own}_W1"].norm(dim=0) * base.tensors[f"{own}_W2"].norm(dim=1)
        count = max(1, round(options.keep_neurons * group.units))
        keep[group.id] = sorted(size[: group.units].topk(count).indices.tolist())
    if options.decoder_layers:
        stack = GroupId.layers_of("decoder")
        keep[stack] = keep[stack][: options.decoder_layers]
    return Plan.of(base.base, keep)


def _described(cut: Any, base: Any) -> str:
    counts = [
        (
            sum(group.units for group in model.architecture.feed_forwards),
            len(model.architecture.layers("encoder")),
            len(model.architecture.layers("decoder")),
        )
        for model in (cut, base)
    ]
    names = ("neurons", "encoder layers", "decoder layers")
    return ", ".join(f"{left} of {all} {name}" for name, left, all in zip(names, *counts, strict=True))


def _write_shape(options: argparse.Namespace, folder: Path) -> None:
    """A model of random weights, its vocabulary and sentences of random words, as `options` then name them."""
    rng = np.random.default_rng(1)
    content = encoded({**_COMMON, **SHAPES[options.shape]})
    read = parse(content, options.shape)
    arrays = {ENTRY: np.frombuffer(content, dtype=np.int8)}
    architecture, _ = layout.architecture(read)
    for name, parameter in layout.parameters(read, architecture, set()).items():
        rows, columns = (size or WORDS for size in parameter.shape)
        bound = (6 / (rows + columns)) ** 0.5
        scale = np.ones((1, columns)) if "_ln_scale" in name else rng.uniform(-bound, bound, (rows, columns))
        arrays[name] = scale.astype(np.float32)
    options.checkpoint, vocabulary = folder / "model.npz", folder / "vocab.yml"
    _write_arrays(options.checkpoint, arrays)
    names = ["</s>", "<unk>", *(f"w{number}" for number in range(2, WORDS))]
    vocabulary.write_text("".join(f'"{name}": {number}\n' for number, name in enumerate(names)), encoding="utf-8")
    options.vocabs, options.source = [vocabulary, vocabulary], folder / "source"
    options.source.write_text("".join(f"{line}\n" for line in _random_lines(rng, options.sentences)), encoding="utf-8")


def _random_lines(rng: np.random.Generator, count: int) -> Iterator[str]:
    for _ in range(count):
        yield " ".join(f"w{word}" for word in rng.integers(2, WORDS, rng.integers(*_LENGTHS)))


def _write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    np.savez(path, **arrays)
    read = archive.read_archive(path)  # written again without the zip64 fields of numpy
    again = path.with_suffix(".again")
    with again.open("wb") as file:
        archive.write_archive(file, read, path, set())
    again.replace(path)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("--vocabs", type=Path, nargs=2)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--plan", type=Path)
    parser.add_argument("--slim", type=Path)
    parser.add_argument("--keep-neurons", type=float, default=0.5)
    parser.add_argument("--decoder-layers", type=int)
    parser.add_argument("--sentences", type=int, default=300)
    parser.add_argument("--beam", type=int, nargs="+", default=[1, 6])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true", help="seconds of the processor, for machines that are busy")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    if (options.shape is None) == (options.checkpoint is None or options.vocabs is None or options.source is None):
        parser.error("give either MODEL.npz with --vocabs and --source, or --shape")
    torch.set_num_threads(options.threads)
    return options


if __name__ == "__main__":
    main()
