"""Tiny runs of `score` and `lottery`, a slow oracle of their figures, and what two runs must have in common."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import sacrebleu
import torch

from nmtprune.architecture import GroupId
from nmtprune.data.batching import BatchLimits
from nmtprune.data.corpus import load_corpus
from nmtprune.data.options import DataOptions
from nmtprune.engines import native
from nmtprune.formats import load
from nmtprune.formats.fairseq import FairseqCheckpoint
from nmtprune.methods.importance import Importance, ImportanceOptions
from nmtprune.model.search import SearchOptions, Symbols
from nmtprune.model.search import translate_batch as search
from nmtprune.plan import Plan
from nmtprune.progress import Silent
from nmtprune.runs.greedy.setup import GreedyRun
from nmtprune.runs.lottery.job import LotteryRun
from nmtprune.runs.lottery.rewinding import lottery
from nmtprune.runs.score import ScoreRun
from tests.support.forked import ended, fork

SEARCH = SearchOptions(beam=2, max_len_b=8)
ON_CPU: dict[str, Any] = {
    "metric": "bleu",
    "engine": "native",
    "device": "cpu",
    "threads": 1,
    "search": SEARCH,
    "limits": BatchLimits.of(60),
    "allow_bad_baseline": True,
}
"""How the quality of untrained models is measured."""
FAST = ("--num-workers", "0", "--log-interval", "1", "--max-tokens", "60")


def lottery_run(checkpoint: Path, output: Path, **changes: Any) -> LotteryRun:
    """Two iterations from a checkpoint at update 2, three heads each, and nothing converged."""
    data_bin = checkpoint.parent / "data-bin"
    values: dict[str, Any] = {
        "data": DataOptions(data_bin=data_bin, subset="valid"),
        "test_data": DataOptions(data_bin=data_bin, subset="test"),
        "importance_data": DataOptions(data_bin=data_bin, subset="train"),
        "late_reset": checkpoint,
        "pretrain_updates": None,
        "prune_updates": 3,
        "heads_per_iteration": 3,
        "until": "6",
        "max_drop": None,
        "kinds": None,
        "min_heads_per_module": 0,
        "uniform": False,
        "converge": False,
        "converge_iterations": (),
        "converge_updates": None,
        "patience": 2,
        "reset_optimizer": False,
        "controls": (),
        **ON_CPU,
        "resamples": 500,
        "given": FAST,
        "resume": False,
        "force": False,
    }
    return LotteryRun(output=output, **(values | changes))


def killed_lottery(checkpoint: Path, folder: Path, changes: dict[str, Any], watched: Path, text: str) -> None:
    """Start a run, or continue it, and kill it as soon as a file says something."""
    process = fork(lambda: lottery(lottery_run(checkpoint, folder, resume=True, **changes), Silent()))
    try:
        deadline = time.monotonic() + 600
        while not (watched.exists() and text in watched.read_text()):
            running = os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
            assert running and time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        os.kill(process, signal.SIGKILL)
        ended(process)


def greedy_run(checkpoint: Path, output: Path, **changes: Any) -> GreedyRun:
    """Half of the heads in two steps by importance on ten sentences; any setting may differ."""
    data_bin = checkpoint.parent / "data-bin"
    values: dict[str, Any] = {
        **ON_CPU,
        "checkpoints": (checkpoint,),
        "data": DataOptions(data_bin=data_bin, subset="valid"),
        "scorers": (Importance(ImportanceOptions(importance_sentences=10)),),
        "importance_data": DataOptions(data_bin=data_bin, subset="train"),
        "orders": ("importance",),
        "samples": 1,
        "step": "25%",
        "until": "50%",
        "resamples": 500,
    }
    return GreedyRun(output=output, **(values | changes))


def content(folder: Path) -> dict[str, Any]:
    """All that a run leaves, less times and provenance: tensors by their fingerprints, moments too."""
    found: dict[str, Any] = {"json": json.loads((folder / "lottery.json").read_text())}
    for name in ("provenance", "times", "words_per_second", "file_bytes"):
        del found["json"][name]
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".pt":
            checkpoint = FairseqCheckpoint.load(path)
            moments = {key: tensor.double().sum().item() for key, tensor in checkpoint.optimizer.tensors.items()}
            found[name] = (checkpoint.sha256, checkpoint.progress, moments)
        elif path.name == "plan.json":
            found[name] = Plan.read(path).keep
        elif path.suffix == ".json" and path.parent != folder:
            found[name] = {key: value for key, value in json.loads(path.read_text()).items() if key != "provenance"}
        elif path.suffix in (".tsv", ".png") and path.name not in ("lottery.tsv",):
            found[name] = path.read_bytes()
    return found


def score_run(checkpoint: Path, output: Path, **changes: Any) -> ScoreRun:
    """Scores by BLEU on the CPU; any setting may differ."""
    data_bin = checkpoint.parent / "data-bin"
    values: dict[str, Any] = {
        **ON_CPU,
        "data": DataOptions(data_bin=data_bin, subset="valid"),
        "resamples": 3000,
        "correction": "holm",
    }
    return ScoreRun(checkpoint=checkpoint, output=output, **(values | changes))


class Oracle:
    """BLEU and losses of a model with heads masked, computed the slow way."""

    def __init__(self, checkpoint: Path, subset: str = "valid") -> None:
        loaded = load(checkpoint)
        self.model = native.load(loaded)
        options = DataOptions(data_bin=checkpoint.parent / "data-bin", subset=subset)
        self.corpus = load_corpus(options, loaded.profile())

    def masks(self, module: GroupId, kept: set[int]) -> dict[GroupId, torch.Tensor]:
        heads = self.model.architecture[module].heads
        return {module: torch.tensor([float(head in kept) for head in range(heads)])}

    def translations(self, masks: dict[GroupId, torch.Tensor] | None = None) -> list[tuple[int, ...]]:
        symbols = Symbols(1, 2, 3)
        tokens = [tuple[int, ...]()] * len(self.corpus)
        for positions in self.corpus.batches(BatchLimits.of(60)):
            batch = self.corpus.batch(positions)
            found = search(self.model, batch.source, batch.source_lengths.tolist(), SEARCH, symbols, masks or {})
            for place, hypotheses in zip(batch.positions.tolist(), found, strict=True):
                tokens[place] = hypotheses[0].tokens
        return tokens

    def bleu(self, masks: dict[GroupId, torch.Tensor]) -> float:
        texts = [self.corpus.decode(tokens) for tokens in self.translations(masks)]
        return float(sacrebleu.corpus_bleu(texts, list(map(list, self.corpus.references or ()))).score)

    @torch.no_grad()
    def loss(self, masks: dict[GroupId, torch.Tensor]) -> float:
        total, tokens = 0.0, 0
        for source, target in zip(self.corpus.source, self.corpus.target or (), strict=True):
            previous = torch.tensor([[2, *target[:-1].tolist()]])
            logits = self.model(torch.from_numpy(source)[None], previous, masks).double()
            total -= float(logits.log_softmax(-1)[0].gather(1, torch.from_numpy(target)[:, None]).sum())
            tokens += len(target)
        return total / tokens
