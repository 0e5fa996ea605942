"""What arrives of a budget of speed: a cost table is measured, a plan chosen by it, and the cut model timed.

    python benchmarks/speed_budget.py [--shape transformer_base] [--budget speed=1.5x] [--engine ctranslate2:int8 ...]
        [--kinds heads,neurons] [--beam 5] [--batch-size 8] [--sentences 16] [--repeat 3] [--clock wall|cpu]

The model has random weights and its units random scores. Printed are the errors of the table where several kinds are
cut at once, what the plan keeps, and by how much the cut model is faster than the whole one, in turns with it.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from nmtprune import slim
from nmtprune.architecture import SORTS
from nmtprune.budget import Limits
from nmtprune.data.corpus import load_corpus
from nmtprune.engines import EngineSettings, open_engine
from nmtprune.evaluate.cost import CLOCKS, in_turns, ratio
from nmtprune.evaluate.milliseconds import Milliseconds
from nmtprune.formats import load
from nmtprune.methods.chance import random_scores
from nmtprune.methods.priced import Budget, choose
from nmtprune.model.search.options import SearchOptions
from nmtprune.plan import Plan
from nmtprune.progress import Silent
from nmtprune.runs.bench.contenders import batches_of
from nmtprune.runs.bench.parts_in_turns import CostTableRun, cost_table
from nmtprune.runs.bench.random_sentences import write_fitting
from nmtprune.runs.bench.synthetic import Shape, write_checkpoint
from nmtprune.runs.cost_table import CostTable


def main() -> None:
    """Print what arrives, engine by engine."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "full.pt"
        write_checkpoint(Shape.parse(options.shape), path, seed=1)
        for number, engine in enumerate(options.engine):
            begun = time.monotonic()
            table = _table(options, engine, path, Path(folder) / f"table-{number}.json")
            minutes = (time.monotonic() - begun) / 60
            errors = " ".join(f"{mixed.predicted / mixed.time.median - 1:+.1%}" for mixed in table.combined)
            print(f"{engine}: {table.milliseconds.median:.1f} ms a sentence; {minutes:.1f} minutes; off by {errors}")
            _arrives(options, engine, path, table, Path(folder) / f"data-{number}")


def _table(options: argparse.Namespace, engine: str, path: Path, output: Path) -> CostTable:
    program, _, precision = engine.partition(":")
    run = CostTableRun(
        checkpoint=path, output=output, engine=program, compute_type=precision or "float32", device="cpu", threads=1,
        search=SearchOptions(beam=options.beam), batch_size=options.batch_size, sentences=options.sentences,
        source_length=20, target_length=20, repeat=options.repeat, clock=options.clock,
    )  # fmt: skip
    return cost_table(run, Silent())


def _arrives(options: argparse.Namespace, engine: str, path: Path, table: CostTable, folder: Path) -> None:
    program, _, precision = engine.partition(":")
    base = load(path)
    prices: Milliseconds = table.prices(base, "the table")
    budget = Budget.parse(options.budget)
    kinds = tuple(kind for sort in options.kinds.split(",") for kind in SORTS[sort])
    units = base.base.units
    scores = random_scores(units, 1)
    removed = choose(scores, prices, budget.target(prices.total({})), units, Limits(kinds, multiple_of=8))
    plan = Plan.removing(base.base, removed)
    data = write_fitting(folder, base.profile(), options.sentences, 20, seed=2)
    corpus = load_corpus(data, base.profile(), references=False)
    search = SearchOptions(beam=options.beam, min_len=20, max_len_b=20)
    settings = EngineSettings(search, batches_of(options.batch_size), torch.device("cpu"), 1, precision or "float32")
    engines = [open_engine(program, model, settings) for model in (base, slim.apply(plan, base))]
    jobs = [lambda own=own: own.translate(corpus, {}) for own in engines]
    faster = ratio(*in_turns(jobs, options.repeat, clock=CLOCKS[options.clock])[0])
    left = {sort: f"{plan.count_kept(own)} of {plan.count_base(own)}" for sort, own in SORTS.items()}
    print(f"{engine}: {budget}: {left}: {faster.median:.3f} x ({faster.low:.3f} to {faster.high:.3f})", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="transformer_base", help="as bench names it")
    parser.add_argument("--budget", default="speed=1.5x")
    parser.add_argument("--kinds", default="heads,neurons", help="what may go, of heads, neurons, layers")
    parser.add_argument("--engine", nargs="+", default=["ctranslate2:float32", "ctranslate2:int8"])
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--sentences", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a busy machine")
    return parser.parse_args()


if __name__ == "__main__":
    main()
