"""Time of a training step with gates on all heads, beside stock fairseq-train's step on the same model and batches.

    python benchmarks/l0_step.py [--repeat 10] [--threads 2] [--device cuda] [--fp16]
    python benchmarks/l0_step.py --layers 6 --width 128 --feed-forward 256 --heads 8 --max-tokens 4096

Both are fairseq's own trainer with Adam and label-smoothed cross-entropy; what differs is ``--arch nmtprune`` with
``--task translation_l0`` and its criterion. Model and sentences are random. A repeat is one step of each on every
batch, in turns; the ratio is the median over repeats of the time beside the stock one of the same repeat, after one
that does not count. A third line has nmtprune's attention without gates. The bar is 1.10; exit status 1 if it is
missed.
"""

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nmtprune.data.databin import Languages, NumberedData
from nmtprune.data.ragged import Sentences
from nmtprune.user_dir import USER_DIR

MAX_RATIO = 1.10
STOCK, PLAIN, GATED = "stock fairseq", "nmtprune without gates", "nmtprune with gates"
LANGUAGES = Languages("xx", "yy")
EOS = 2


def main() -> None:
    """Measure and print one line per trainer; exit status 1 if the bar is missed."""
    options = _options()
    torch.set_num_threads(options.threads)
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        data = _write_data(Path(folder), options)
        trainers = {name: _trainer(data, Path(folder) / "save", name, options) for name in (STOCK, PLAIN, GATED)}
        samples = _samples(trainers[STOCK])[: options.batches]
        tokens = sum(sample["ntokens"] for sample in samples)
        print(
            f"{options.layers} + {options.layers} layers of {options.heads} heads, d {options.width}, "
            f"{len(samples)} batches, {tokens} target tokens, {_where(options)}, {options.repeat} repeats"
        )
        seconds = _measured(trainers, samples, options)
    ratio = _report(seconds)
    print(f"bar {MAX_RATIO}: {'met' if ratio <= MAX_RATIO else 'MISSED'}")
    sys.exit(0 if ratio <= MAX_RATIO else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"layers": 6, "width": 512, "feed-forward": 1024, "heads": 8, "vocabulary": 8000, "max-tokens": 2000}
    for name, size in {**sizes, "batches": 3, "sentences": 400, "repeat": 10}.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--fp16", action="store_true")
    return parser.parse_args()


def _where(options: argparse.Namespace) -> str:
    if options.device == "cuda":
        return torch.cuda.get_device_name() + (", fp16" if options.fp16 else "")
    return f"{options.threads} threads ({os.cpu_count()} processors)"


def _write_data(folder: Path, options: argparse.Namespace) -> Path:
    """Random sentences of 5 to 60 words, about as long on both sides."""
    generator = np.random.default_rng(1)
    lengths = np.clip(generator.poisson(25, options.sentences), 5, 60)
    sides = [
        Sentences.of([np.append(generator.integers(4, options.vocabulary, length), EOS) for length in own])
        for own in (lengths, np.maximum(lengths + generator.integers(-2, 3, len(lengths)), 1))
    ]
    (folder / "data").mkdir()
    NumberedData(folder / "data", LANGUAGES, (options.vocabulary, options.vocabulary)).write("train", *sides)
    return folder / "data"


def _trainer(data: Path, save: Path, name: str, options: argparse.Namespace) -> Any:
    """The trainer of fairseq, as fairseq-train makes it."""
    from fairseq import options as fairseq_options
    from fairseq import tasks, utils
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq.trainer import Trainer

    arch = {STOCK: "transformer"}.get(name, "nmtprune")
    gates = name == GATED
    shape = [f"--{stack}-{what}={value}" for stack in ("encoder", "decoder") for what, value in _shape(options)]
    words = [
        *(str(data), "--save-dir", str(save), "--arch", arch, "--user-dir", str(USER_DIR)),
        *("--task", "translation_l0" if gates else "translation", "--source-lang", "xx", "--target-lang", "yy"),
        *("--criterion", "label_smoothed_cross_entropy" + ("_l0" if gates else ""), "--label-smoothing", "0.1"),
        *(("--l0-weight", "0.01") if gates else ()),
        *("--optimizer", "adam", "--lr", "0.0001", "--max-tokens", str(options.max_tokens), "--dropout", "0.1"),
        *(() if options.device == "cuda" else ("--cpu",)),
        *(("--fp16",) if options.fp16 else ()),
        *shape,
    ]
    torch.manual_seed(1)
    parser = fairseq_options.get_training_parser()
    # --user-dir is looked for in the real command line.
    utils.import_user_module(argparse.Namespace(user_dir=str(USER_DIR)))
    cfg = convert_namespace_to_omegaconf(fairseq_options.parse_args_and_arch(parser, input_args=words))
    task = tasks.setup_task(cfg.task)
    task.load_dataset("train")
    return Trainer(cfg, task, task.build_model(cfg.model), task.build_criterion(cfg.criterion))


def _shape(options: argparse.Namespace) -> list[tuple[str, int]]:
    return [
        ("layers", options.layers),
        ("embed-dim", options.width),
        ("ffn-embed-dim", options.feed_forward),
        ("attention-heads", options.heads),
    ]


def _samples(trainer: Any) -> list[dict[str, Any]]:
    iterator = trainer.get_train_iterator(1, load_dataset=False).next_epoch_itr(shuffle=False)
    found = list(iterator)
    trainer.begin_epoch(1)
    return found


def _measured(
    trainers: dict[str, Any], samples: Sequence[dict[str, Any]], options: argparse.Namespace
) -> dict[str, list[float]]:
    """Seconds of a step on every batch, the trainers in turns; the first turn does not count."""
    from fairseq.logging import metrics

    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for _ in range(options.repeat + 1):
        for name, trainer in trainers.items():
            _wait(options.device)
            begun = time.perf_counter()
            with metrics.aggregate(new_root=True):
                for sample in samples:
                    trainer.train_step([sample])
            _wait(options.device)
            seconds[name].append(time.perf_counter() - begun)
    return {name: found[1:] for name, found in seconds.items()}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _report(seconds: dict[str, list[float]]) -> float:
    """Print medians with their range; the median ratio of the steps with gates."""
    ratio = 0.0
    for name, found in seconds.items():
        ratios = [own / stock for own, stock in zip(found, seconds[STOCK], strict=True)]
        ratio = statistics.median(ratios)
        line = f"{name:24} {statistics.median(found):7.3f} s ({min(found):.3f} - {max(found):.3f})"
        print(line + ("" if name == STOCK else f"  ratio {ratio:.2f} ({min(ratios):.2f} - {max(ratios):.2f})"))
    return ratio


if __name__ == "__main__":
    main()
