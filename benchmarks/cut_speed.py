"""How much faster models are without half of their heads and neurons, or without half of the decoder's layers.

    python benchmarks/cut_speed.py [--shape transformer_base ...] [--cut NAME ...] [--engine ctranslate2:int8 ...]
        [--beam 1 5] [--batch-size 1 8 32] [--sentences 32] [--repeat 5] [--clock wall|cpu] [--output cut_speed.json]

Models have random weights and translate random sentences into 20 words. The full and the cut one take turns, on one
thread, start-up not counted (but the process of fairseq-generate and of Marian, which is why these want small models
and many sentences). Printed is by how much the cut model is faster, the 95 % interval of that, what
multiply-accumulates predict, and the share of the prediction that arrives. Cuts are uniform: every stock engine runs
them, and CTranslate2 pads nothing.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from nmtprune.data.corpus import load_corpus
from nmtprune.engines import EngineSettings, native, open_engine
from nmtprune.evaluate.cost import CLOCKS, in_turns, multiply_accumulates, ratio
from nmtprune.formats import load
from nmtprune.formats.base import Checkpoint
from nmtprune.model.search.options import SearchOptions
from nmtprune.runs.bench.contenders import batches_of
from nmtprune.runs.bench.synthetic import Shape, Synthetic

CUTS = ("heads/2", "neurons/2", "heads/2+neurons/2", "decoder/2", "everything/2")


def made(shape: Shape, cut: str, sentences: int) -> Synthetic:
    """A model, and the same without half of something."""
    parts = ("heads", "neurons", "decoder") if cut == "everything/2" else cut.replace("/2", "").split("+")
    decoder = max(1, shape.decoder_layers // 2) if "decoder" in parts else shape.decoder_layers
    layers = {"encoder": shape.encoder_layers, "decoder": decoder, "cross": decoder}
    heads, neurons = max(1, shape.heads // 2), shape.ffn // 2
    return Synthetic(
        shape,
        keep=" ".join(f"{kind}={','.join([str(heads)] * count)}" for kind, count in layers.items())
        if "heads" in parts
        else None,
        random=None,
        keep_neurons=f"encoder={neurons} decoder={neurons}" if "neurons" in parts else None,
        keep_layers=f"decoder={decoder}" if "decoder" in parts else None,
        source_length=20,
        target_length=20,
        sentences=sentences,
        seed=1,
    )


def main() -> None:
    """Print a line per model, cut, engine, beam and batch size."""
    options = _options()
    found = []
    for row in _measured(options):
        found.append(row)
        low, high = row["interval"]
        print(
            f"{row['shape']:18} {row['cut']:18} {row['engine']:20} beam {row['beam']} batch {row['batch_size']:3}  "
            f"{row['ratio']:.3f} x ({low:.3f} to {high:.3f})  predicted {row['predicted']:.3f}  "
            f"arrives {row['ratio'] / row['predicted']:.0%}",
            flush=True,
        )
        if options.output is not None:
            options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _measured(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for name in options.shape:
        shape = Shape.parse(name)
        for cut in options.cut:
            for engine in options.engine:
                for beam in options.beam:
                    yield from _rows(options, name, cut, made(shape, cut, options.sentences), engine, beam)


def _rows(
    options: argparse.Namespace, name: str, cut: str, made: Synthetic, engine: str, beam: int
) -> Iterator[dict[str, Any]]:
    program, _, precision = engine.partition(":")
    length = made.target_length
    search = SearchOptions(beam=beam, min_len=length, max_len_b=length)
    with tempfile.TemporaryDirectory() as folder:
        *paths, data = made.write(Path(folder))
        models = [load(path) for path in paths]
        corpus = load_corpus(data, models[0].profile(), references=False)
        work = [_work(model, made, beam) for model in models]
        for size in options.batch_size:
            settings = EngineSettings(search, batches_of(size), torch.device("cpu"), 1, precision or "float32")
            engines = [open_engine(program, model, settings) for model in models]
            jobs = [lambda own=own: own.translate(corpus, {}) for own in engines]
            seconds, _ = in_turns(jobs, options.repeat, clock=CLOCKS[options.clock])
            faster = ratio(*seconds)
            yield {
                "shape": name, "cut": cut, "engine": engine, "beam": beam, "batch_size": size, "clock": options.clock,
                "ratio": faster.median, "interval": (faster.low, faster.high), "predicted": work[0] / work[1],
                "seconds": seconds, "sentences": options.sentences,
            }  # fmt: skip


def _work(checkpoint: Checkpoint, made: Synthetic, beam: int) -> float:
    lengths = [made.source_length + 1] * made.sentences, [made.target_length + 1] * made.sentences
    return sum(multiply_accumulates(native.load(checkpoint), *lengths, beam).values())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", default=["transformer_base", "transformer_big"], help="as bench names it")
    parser.add_argument("--cut", nargs="+", choices=CUTS, default=["heads/2+neurons/2", "decoder/2"])
    parser.add_argument(
        "--engine",
        nargs="+",
        default=["ctranslate2:float32", "ctranslate2:int8", "native"],
        help="with a precision behind a colon",
    )
    parser.add_argument("--beam", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--sentences", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: for in-process engines on a busy machine")
    parser.add_argument("--output", type=Path, help="write all figures as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
