"""How much faster models are without half of their heads and neurons, or without half of the decoder's layers.

    python benchmarks/cut_speed.py [--shape transformer_base ...] [--cut NAME ...] [--engine ctranslate2:int8 ...]
        [--beam 1 5] [--batch-size 1 8 32] [--sentences 32] [--repeat 5] [--output cut_speed.json]

Models have random weights and translate random sentences into 20 words. The full and the cut one take turns, on one
thread, start-up not counted (but the process of fairseq-generate and of Marian, which is why these want small models
and many sentences). Printed is by how much the cut model is faster, the 95 % interval of that, what
multiply-accumulates predict, and the share of the prediction that arrives. Cuts are uniform: every stock engine runs
them, and CTranslate2 pads nothing.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nmtprune.runs.bench.synthetic import Shape

_COMMAND = "from nmtprune.cli.main import main; main()"


def _heads(shape: Shape, share: float, decoder_layers: int = 0) -> list[str]:
    heads = max(1, round(shape.heads * share))
    layers = {"encoder": shape.encoder_layers, "decoder": decoder_layers or shape.decoder_layers}
    layers["cross"] = layers["decoder"]
    return ["--keep", " ".join(f"{kind}={','.join([str(heads)] * count)}" for kind, count in layers.items())]


def _neurons(shape: Shape, share: float) -> list[str]:
    neurons = round(shape.ffn * share)
    return ["--keep-neurons", f"encoder={neurons} decoder={neurons}"]


def _layers(shape: Shape, share: float) -> list[str]:
    return ["--keep-layers", f"decoder={max(1, round(shape.decoder_layers * share))}"]


CUTS: dict[str, Callable[[Shape], list[str]]] = {
    "heads/2": lambda shape: _heads(shape, 0.5),
    "neurons/2": lambda shape: _neurons(shape, 0.5),
    "heads/2+neurons/2": lambda shape: [*_heads(shape, 0.5), *_neurons(shape, 0.5)],
    "decoder/2": lambda shape: _layers(shape, 0.5),
    "everything/2": lambda shape: [
        *_heads(shape, 0.5, max(1, round(shape.decoder_layers * 0.5))),
        *_neurons(shape, 0.5),
        *_layers(shape, 0.5),
    ],
}


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
                    yield from _rows(options, name, cut, CUTS[cut](shape), engine, beam)


def _rows(
    options: argparse.Namespace, shape: str, cut: str, chosen: list[str], engine: str, beam: int
) -> Iterator[dict[str, Any]]:
    program, _, precision = engine.partition(":")
    command = [
        sys.executable, "-c", _COMMAND, "bench", "--synthetic", shape, *chosen, "--engine", program, "--beam",
        str(beam), "--batch-size", ",".join(map(str, options.batch_size)), "--sentences", str(options.sentences),
        "--repeat", str(options.repeat), "--threads", "1", "--format", "json", "--quiet",
    ]  # fmt: skip
    command += ["--compute-type", precision] if precision else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[3:])}: {done.stderr.strip()}")
    for timing in json.loads(done.stdout)["models"][1]["timings"]:
        ratio = timing["ratio"]
        yield {
            "shape": shape, "cut": cut, "engine": engine, "beam": beam, "batch_size": timing["batch_size"],
            "ratio": ratio["median"], "interval": (ratio["low"], ratio["high"]), "predicted": timing["predicted"],
            "repeat": options.repeat, "sentences": options.sentences,
        }  # fmt: skip


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
    parser.add_argument("--output", type=Path, help="write all figures as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
