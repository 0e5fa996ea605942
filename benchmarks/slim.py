"""Time and memory of `nmtprune slim` on a large checkpoint, beside torch.load + torch.save of the same file.

    python benchmarks/slim.py [--repeats 5] [--remove 50%] [--optimizer] [--threads 2] [--output slim.json]

The checkpoint is a random transformer-big as fairseq would write it (arch transformer_wmt_en_de_big: 6 + 6 layers,
16 heads a module, d 1024, feed-forward 4096, separate source and target embeddings, fp32), built without fairseq: by
default weights only, no optimizer state, about 980 MB; --optimizer adds Adam's moments (three times the size).

Every measurement is a process of its own, start-up of Python and torch included for both sides ("inner" is the time
without it), and the variants take turns. Before each the disk is synchronized, so that no process pays for what another
wrote. The baseline loads with weights_only=True and saves; "+ fsync" also waits for the disk, as nmtprune does before
the file gets its name. Peak memory is ru_maxrss of the process, pages of mapped files included. Bars: `slim
--no-verify` at most 1.5 times the baseline's time, and at most 1.5 times the file in memory.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MAX_TIME_RATIO = 1.5
MAX_MEMORY_RATIO = 1.5
BASELINE = "torch.load + torch.save"
SLIM = "nmtprune slim --no-verify"

COPY = """
import argparse, os, sys, time, torch
torch.serialization.add_safe_globals([argparse.Namespace])
source, output, synchronize = sys.argv[1:]
begun = time.perf_counter()
state = torch.load(source, map_location="cpu", weights_only=True)
with open(output, "wb") as file:
    torch.save(state, file)
    if synchronize == "yes":
        file.flush()
        os.fsync(file.fileno())
print(time.perf_counter() - begun)
"""

COMMAND = """
import sys, time, torch
from nmtprune.cli.main import main
begun = time.perf_counter()
try:
    main.main(sys.argv[1:])
except SystemExit as ended:
    print(time.perf_counter() - begun)
    sys.exit(ended.code)
"""


@dataclass(frozen=True)
class Measured:
    """One process: wall-clock and processor seconds, peak memory, bytes written, seconds after importing torch."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    output_bytes: int
    inner_s: float


def main() -> None:
    """Build the checkpoint, measure, print a table; exit status 1 if a bar is missed."""
    options = _options()
    if options.build is not None:
        build(options.build, options)
        return
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="nmtprune-benchmark-") as folder:
        results = measure(Path(folder), options)
    print_table(results)
    if options.output is not None:
        options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if results["time_ratio"] <= MAX_TIME_RATIO and results["memory_ratio"] <= MAX_MEMORY_RATIO else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="processes per variant; medians are reported")
    parser.add_argument("--remove", default="50%", help="heads to remove, drawn at random")
    parser.add_argument("--optimizer", action="store_true", help="with Adam's moments")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--feed-forward", type=int, default=4096)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--vocabulary", type=int, default=33_000)
    parser.add_argument("--folder", type=Path, help="where the files are made (about three times the size is needed)")
    parser.add_argument("--output", type=Path, help="write all figures as JSON")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All figures; the files live in `folder`."""
    checkpoint, plan, output = folder / "big.pt", folder / "plan.json", folder / "output.pt"
    # This process never imports torch: until it executes its program, a child counts its parent's memory as its own.
    subprocess.run([sys.executable, __file__, *sys.argv[1:], "--build", str(checkpoint)], check=True)
    nmtprune = [sys.executable, "-c", COMMAND]
    chosen = ["--random", options.remove, "--seed", "1", "-o", str(plan)]
    subprocess.run([*nmtprune, "plan", str(checkpoint), *chosen], check=True, capture_output=True)
    slim = [*nmtprune, "slim", str(checkpoint), "--plan", str(plan), "-o", str(output), "--format", "json"]
    copy = [sys.executable, "-c", COPY, str(checkpoint), str(output)]
    variants = {
        BASELINE: [*copy, "no"],
        f"{BASELINE} + fsync": [*copy, "yes"],
        SLIM: [*slim, "--no-verify"],
        "nmtprune slim --verify": [*slim, "--verify"],
    }
    runs: dict[str, list[Measured]] = {name: [] for name in variants}
    for number in range(1, options.repeats + 1):
        for name, command in variants.items():
            print(f"{number}/{options.repeats} {name}", file=sys.stderr)
            runs[name].append(_measured(command, output, options.threads))
    return _summary(runs, checkpoint.stat().st_size, options)


def _measured(command: list[str], output: Path, threads: int) -> Measured:
    os.sync()
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    begun = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        said = process.stdout.read() if process.stdout else b""
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"failed with exit status {process.returncode}: {' '.join(command)}")
    written = output.stat().st_size
    output.unlink()
    inner = float(said.split()[-1])
    return Measured(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, written, inner)


def _summary(runs: dict[str, list[Measured]], file_bytes: int, options: argparse.Namespace) -> dict[str, Any]:
    rows = {}
    for name, measured in runs.items():
        walls = [run.wall_s for run in measured]
        rows[name] = {
            "wall_s": statistics.median(walls),
            "wall_s_range": [min(walls), max(walls)],
            "inner_s": statistics.median(run.inner_s for run in measured),
            "cpu_s": statistics.median(run.cpu_s for run in measured),
            "peak_bytes": statistics.median(run.peak_bytes for run in measured),
            "output_bytes": measured[0].output_bytes,
            "runs": [asdict(run) for run in measured],
        }
    return {
        "file_bytes": file_bytes,
        "optimizer_state": options.optimizer,
        "remove": options.remove,
        "threads": options.threads,
        "repeats": options.repeats,
        "python": platform.python_version(),
        "processors": len(os.sched_getaffinity(0)),
        "variants": rows,
        "time_ratio": rows[SLIM]["wall_s"] / rows[BASELINE]["wall_s"],
        "time_ratio_fsync": rows[SLIM]["wall_s"] / rows[f"{BASELINE} + fsync"]["wall_s"],
        "time_ratio_without_start_up": rows[SLIM]["inner_s"] / rows[BASELINE]["inner_s"],
        "memory_ratio": rows[SLIM]["peak_bytes"] / file_bytes,
    }


def print_table(results: dict[str, Any]) -> None:
    """One line per variant, then the ratios beside their bars."""
    size = results["file_bytes"]
    print(
        f"file {size / 1e6:,.0f} MB ({'with' if results['optimizer_state'] else 'without'} optimizer state), "
        f"{results['remove']} of the heads removed, {results['threads']} threads, medians of {results['repeats']}"
    )
    print(f"{'':34}{'wall s':>8}{'range':>16}{'inner s':>8}{'cpu s':>8}{'peak MB':>9}{'x file':>8}{'out MB':>8}")
    for name, row in results["variants"].items():
        spread = "{:.2f} - {:.2f}".format(*row["wall_s_range"])
        print(
            f"{name:34}{row['wall_s']:8.2f}{spread:>16}{row['inner_s']:8.2f}{row['cpu_s']:8.2f}"
            f"{row['peak_bytes'] / 1e6:9,.0f}{row['peak_bytes'] / size:8.2f}{row['output_bytes'] / 1e6:8,.0f}"
        )
    for text, ratio, bar in (
        (f"time, {SLIM} / {BASELINE}", results["time_ratio"], MAX_TIME_RATIO),
        ("  the same, both waiting for the disk", results["time_ratio_fsync"], None),
        ("  the same, start-up of Python and torch not counted", results["time_ratio_without_start_up"], None),
        (f"peak memory, {SLIM} / file", results["memory_ratio"], MAX_MEMORY_RATIO),
    ):
        verdict = "" if bar is None else f"  (bar {bar}: {'met' if ratio <= bar else 'MISSED'})"
        print(f"{text}: {ratio:.2f}{verdict}")


def build(path: Path, options: argparse.Namespace) -> None:
    """Write a random checkpoint of the sizes in `options`, as fairseq's versions with ``args`` do."""
    import torch

    shapes = _shapes(options)
    generator = torch.Generator().manual_seed(1)
    model = {name: torch.randn(shape, generator=generator) * 0.02 for name, shape in shapes.items()}
    model |= {f"{side}.version": torch.tensor([3.0]) for side in ("encoder", "decoder")}
    for side in ("encoder", "decoder"):
        model[f"{side}.embed_positions._float_tensor"] = torch.zeros(1)
    model["decoder.output_projection.weight"] = model["decoder.embed_tokens.weight"]
    state = {
        "args": _settings(options),
        "model": model,
        "optimizer_history": [{"criterion_name": "LabelSmoothedCrossEntropyCriterion", "num_updates": 1}],
        "extra_state": {"epoch": 1},
        "last_optimizer_state": _moments(shapes) if options.optimizer else None,
    }
    torch.save(state, path)


def _shapes(options: argparse.Namespace) -> dict[str, tuple[int, ...]]:
    """Parameters in fairseq's order."""
    width, inner = options.width, options.feed_forward
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (rows, columns), (rows,)

    def norm(name: str) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (width,), (width,)

    for side, attentions in (("encoder", ("self_attn",)), ("decoder", ("self_attn", "encoder_attn"))):
        shapes[f"{side}.embed_tokens.weight"] = (options.vocabulary, width)
        for layer in range(options.layers):
            prefix = f"{side}.layers.{layer}"
            for attention in attentions:
                for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
                    linear(f"{prefix}.{attention}.{projection}", width, width)
                norm(f"{prefix}.{attention}_layer_norm")
            linear(f"{prefix}.fc1", inner, width)
            linear(f"{prefix}.fc2", width, inner)
            norm(f"{prefix}.final_layer_norm")
    return shapes


def _settings(options: argparse.Namespace) -> argparse.Namespace:
    sides = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (
            ("layers", options.layers),
            ("embed_dim", options.width),
            ("ffn_embed_dim", options.feed_forward),
            ("attention_heads", options.heads),
        )
    }
    return argparse.Namespace(
        arch="transformer_wmt_en_de_big",
        task="translation",
        share_all_embeddings=False,
        share_decoder_input_output_embed=True,
        **sides,
    )


def _moments(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Adam's state: two moments per parameter, by position."""
    import torch

    entries = {
        number: {"step": 1, "exp_avg": torch.randn(shape) * 1e-3, "exp_avg_sq": torch.rand(shape) * 1e-6}
        for number, shape in enumerate(shapes.values())
    }
    group = {"lr": 5e-4, "betas": (0.9, 0.98), "eps": 1e-8, "weight_decay": 0.0, "params": list(entries)}
    return {"state": entries, "param_groups": [group]}


if __name__ == "__main__":
    main()
