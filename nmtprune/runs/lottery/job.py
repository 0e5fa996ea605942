"""What `lottery` is asked for, and everything that can be wrong with it, found before long work begins."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtprune.architecture import Architecture, parse_kinds
from nmtprune.budget import Limits
from nmtprune.data.options import DataOptions
from nmtprune.errors import CheckpointError, UsageError
from nmtprune.evaluate.significance import SignificanceTest
from nmtprune.process import program
from nmtprune.profile import ModelProfile
from nmtprune.runs import run_folder
from nmtprune.runs.baseline import with_remarks
from nmtprune.runs.device import choose_device
from nmtprune.runs.lottery import folder
from nmtprune.runs.lottery.schedule import Schedule, removals, tickets
from nmtprune.runs.meters import MeterSettings
from nmtprune.runs.quality import DropRule, contents
from nmtprune.runs.run import MeasureSettings
from nmtprune.training.options import as_it_goes_on, check_given, names, parsed, without

if TYPE_CHECKING:
    from argparse import Namespace

    from nmtprune.data.corpus import Corpus
    from nmtprune.formats.trainable import TrainableCheckpoint


@dataclass(frozen=True)
class LotteryRun:
    """What `lottery` is asked for.

    Attributes:
        data: binarized data to train on, and the sentences on which confidence and `max_drop` are measured.
        test_data: sentences on which converged models are measured; None: those of `data`.
        output: the run folder.
        late_reset: the late-resetting checkpoint; None trains it.
        pretrain_updates: updates with which it is trained, where it is not given.
        prune_updates: updates of an iteration.
        heads_per_iteration: None: half as many as there are modules.
        until: heads to remove in all, as the user wrote it; None: until `max_drop` ends it.
        max_drop: points of the metric, or ``significant``, that an iteration may be below the first; None: any.
        kinds: comma-separated; None for all that the model has.
        min_heads_per_module: that stay.
        uniform: all modules of a stack keep the same number of heads.
        converge: train the last iteration's model to convergence.
        converge_iterations: and those of these iterations.
        converge_updates: with which convergence ends at the latest, pretraining included; None: patience alone ends it.
        patience: validations without a better one that end a convergence.
        reset_optimizer: rewound models begin with empty moments.
        controls: ``random``, ``reinit``, each converged beside every pruned model.
        meters: how confidence is measured.
        measure: metric, engine and search.
        significance: how differences are tested.
        given: options for fairseq-train as the user typed them.
        resume: go on where an interrupted run stopped.
        force: start over in a folder that is not empty.
    """

    data: DataOptions
    test_data: DataOptions | None
    output: Path
    late_reset: Path | None
    pretrain_updates: int | None
    prune_updates: int
    heads_per_iteration: int | None
    until: str | None
    max_drop: str | None
    kinds: str | None
    min_heads_per_module: int
    uniform: bool
    converge: bool
    converge_iterations: tuple[int, ...]
    converge_updates: int | None
    patience: int
    reset_optimizer: bool
    controls: tuple[str, ...]
    meters: MeterSettings
    measure: MeasureSettings
    significance: SignificanceTest
    given: tuple[str, ...]
    resume: bool
    force: bool

    @property
    def data_bin(self) -> Path:
        """The data that is trained on; UsageError where there is none."""
        if self.data.data_bin is None:
            raise UsageError("lottery trains on binarized data: name --data-bin DIR")
        return self.data.data_bin

    @property
    def evaluated(self) -> DataOptions:
        """Sentences on which converged models are measured."""
        return self.test_data or self.data

    @property
    def inputs(self) -> list[Path]:
        """Files that must not be written over."""
        sets = [self.data, *([self.test_data] if self.test_data else [])]
        texts = [path for data in sets for path in data.texts]
        return [*([self.late_reset] if self.late_reset else []), *texts]

    @property
    def on_cpu(self) -> bool:
        """Whether trainings have no GPU."""
        return choose_device(self.measure.device).type == "cpu"


_RESERVED = (
    *("--seed", "--max-update", "--max-epoch", "--patience", "--stop-time-hours", "--stop-min-lr"),
    *("--no-save", "--no-last-checkpoints", "--no-epoch-checkpoints", "--no-save-optimizer-state"),
    *("--keep-interval-updates", "--keep-last-epochs", "--keep-best-checkpoints", "--save-interval"),
    *("--reset-optimizer", "--reset-lr-scheduler", "--reset-meters", "--reset-dataloader"),
    *("--disable-validation", "--validate-interval", "--checkpoint-suffix", "--continue-once"),
)
"""Options that say where trainings begin and end, and what they leave."""


@dataclass(frozen=True)
class LotteryJob:
    """A checked run: everything that can be refused without training has been accepted.

    Attributes:
        run: what was asked for.
        schedule: what will be trained.
        limits: which heads may go.
        rule: when the loop ends early.
        given: options for fairseq-train from the late-resetting checkpoint on: defaults, then the user's, no
            architecture.
        validates_every: updates between validations; None: validations are at the end of epochs.
        maximizes: a higher value of fairseq's validation is better.
        corpora: DATA and TEST DATA by their names.
        settings: what the state belongs to.
    """

    run: LotteryRun
    schedule: Schedule
    limits: Limits
    rule: DropRule | None
    given: tuple[str, ...]
    validates_every: int | None
    maximizes: bool
    corpora: Mapping[str, "Corpus"]
    settings: Mapping[str, Any]


def prepare(run: LotteryRun) -> LotteryJob:
    """Check everything that can be wrong, the cheapest first.

    Raises:
        NmtpruneError: anything that is wrong with options, outputs, checkpoint or data.
    """
    _check_options(run)
    rule = None if run.max_drop is None else DropRule.parse(run.max_drop)
    run.measure.check_settings()
    run.significance.resamples_for(1)
    written = [path.name for path in folder.outputs(run.output)]
    run_folder.check(run.output, written, resume=run.resume, force=run.force, inputs=run.inputs)
    program("fairseq-train")
    checkpoint = _late_reset(run)
    given = run.given
    if checkpoint is not None:
        # After the defaults, what the user typed wins.
        given = (*(word for option in as_it_goes_on(checkpoint, run.given) for word in option), *run.given)
    args = _parsed(run, given)
    architecture = _architecture(args, checkpoint)
    kinds = architecture.kinds if run.kinds is None else parse_kinds(run.kinds, architecture)
    limits = Limits(kinds, run.min_heads_per_module, run.uniform)
    schedule = _schedule(run, architecture, checkpoint, limits)
    every = _validates_every(args)
    _check_subsets(run, args)
    corpora = _corpora(run, args)
    folder.check_space(run.output, folder.bytes_needed(args, checkpoint, schedule))
    return LotteryJob(
        run=run,
        schedule=schedule,
        limits=limits,
        rule=rule,
        given=without(given, "--arch"),
        validates_every=every,
        maximizes=bool(args.maximize_best_checkpoint_metric),
        corpora=corpora,
        settings=_settings(run, schedule, given, checkpoint, corpora, args.train_subset),
    )


def _check_options(run: LotteryRun) -> None:
    if str(run.output) == "-":
        raise UsageError("-o -: a run has many files: name a folder (--format json prints the table too)")
    run.data_bin  # noqa: B018  # raises
    faults = []
    if (run.late_reset is None) == (run.pretrain_updates is None):
        faults.append("give one of --late-reset CHECKPOINT and --pretrain-updates N")
    if run.until is None and run.max_drop is None:
        faults.append("nothing ends the loop: give --until AMOUNT, --max-drop X, or both")
    if run.late_reset is None and "--arch" not in names(run.given):
        faults.append("--pretrain-updates trains from scratch: name --arch with its settings after --")
    if run.late_reset is not None and "--arch" in names(run.given):
        faults.append("--arch: that of --late-reset stays")
    if run.converge_updates is not None and not (run.converge or run.converge_iterations):
        faults.append("--converge-updates goes with --converge or --converge-iterations")
    if faults:
        raise UsageError("; ".join(faults), faults)
    check_given(run.given, _RESERVED)


def _late_reset(run: LotteryRun) -> "TrainableCheckpoint | None":
    from nmtprune.formats import load

    if run.late_reset is None:
        return None
    checkpoint = load(run.late_reset).trainable()
    if checkpoint.open_heads is not None:
        raise CheckpointError(f"{run.late_reset}: has gates: slim it first (nmtprune slim)")
    check_can_go_on(checkpoint, reset=run.reset_optimizer)
    return checkpoint


def check_can_go_on(checkpoint: "TrainableCheckpoint", *, reset: bool) -> None:
    """Check that a pruned model can be trained from a checkpoint at its update.

    Raises:
        CheckpointError: no optimizer state, or one that cannot be cut.
    """
    if not checkpoint.has_optimizer:
        raise CheckpointError(
            f"{checkpoint.path}: has no optimizer state, so its training cannot go on at its update: save it without "
            "--no-save-optimizer-state"
        )
    if checkpoint.copies_not_finite and not reset:
        raise CheckpointError(
            f"{checkpoint.path}: {checkpoint.copies_not_finite}, so its training cannot go on: --reset-optimizer "
            "empties the optimizer state"
        )
    if checkpoint.optimizer_problem and not reset:
        raise CheckpointError(
            f"{checkpoint.path}: the optimizer state {checkpoint.optimizer_problem}, so it cannot be cut with the "
            "weights: --reset-optimizer empties it"
        )


def _parsed(run: LotteryRun, given: tuple[str, ...]) -> "Namespace":
    """The user's options as fairseq-train reads them."""
    start = () if run.late_reset is None else ("--arch", "nmtprune", "--restore-file", str(run.late_reset))
    return parsed((str(run.data_bin), *start, *given))


def _architecture(args: "Namespace", checkpoint: "TrainableCheckpoint | None") -> Architecture:
    from nmtprune.formats.fairseq.settings import read_settings

    if checkpoint is not None:
        architecture = checkpoint.architecture
    else:
        try:
            architecture = read_settings({"args": args, "model": {}}, "options of fairseq-train").architecture
        except CheckpointError as error:
            raise UsageError(str(error), error.faults) from None
    if "encoder" not in architecture.kinds:
        raise UsageError("lottery needs an encoder-decoder model: confidence is that of translating")
    return architecture


def _schedule(
    run: LotteryRun, architecture: Architecture, checkpoint: "TrainableCheckpoint | None", limits: Limits
) -> Schedule:
    modules = {module.id: module.heads for module in architecture}
    removed = removals(modules, run.heads_per_iteration, run.until, limits)
    late_reset = (run.pretrain_updates if checkpoint is None else checkpoint.progress.updates) or 0
    if run.converge_updates is not None and run.converge_updates <= late_reset:
        raise UsageError(
            f"--converge-updates {run.converge_updates} counts from the first update of the pretraining, "
            f"which has {late_reset}: give more"
        )
    return Schedule(
        late_reset=late_reset,
        pretrains=checkpoint is None,
        prune_updates=run.prune_updates,
        removed=removed,
        of_kinds=limits.count(modules),
        of_all=architecture.count(),
        tickets=tickets(len(removed) - 1, last=run.converge, chosen=run.converge_iterations, controls=run.controls),
        converge_updates=run.converge_updates,
        tries_last=run.max_drop is not None,
    )


def _validates_every(args: "Namespace") -> int | None:
    every, saves = args.validate_interval_updates or None, args.save_interval_updates or None
    if every and saves not in (None, every):
        raise UsageError(
            f"options of fairseq-train: --save-interval-updates {saves} is not --validate-interval-updates {every}: "
            "what is validated is saved, give the second one alone"
        )
    return every


def _check_subsets(run: LotteryRun, args: "Namespace") -> None:
    """Check now for what fairseq would miss only after it has built everything."""
    from nmtprune.data.databin import DataBin

    DataBin(run.data_bin).check_subsets((args.train_subset, *args.valid_subset.split(",")))


def _corpora(run: LotteryRun, args: "Namespace") -> dict[str, "Corpus"]:
    """DATA and TEST DATA, read before there is a model: the data alone say what is wrong with them."""
    from nmtprune.data.corpus import load_corpus
    from nmtprune.formats.fairseq.containers import truth

    languages = {"source_lang": args.source_lang, "target_lang": args.target_lang}
    asked = ModelProfile(**languages, left_pad_source=truth(getattr(args, "left_pad_source", None), True))
    needs_text = run.max_drop is not None or (run.test_data is None and bool(run.converge or run.converge_iterations))
    targets = not run.meters.translates
    found = {folder.DATA: load_corpus(run.data, asked, references=needs_text, targets=targets)}
    if needs_text:
        found[folder.DATA] = with_remarks(found[folder.DATA], run.measure)
    if run.test_data is not None:
        found[folder.TEST] = with_remarks(load_corpus(run.test_data, asked, targets=False), run.measure)
    return found


def _settings(
    run: LotteryRun,
    schedule: Schedule,
    given: tuple[str, ...],
    checkpoint: "TrainableCheckpoint | None",
    corpora: Mapping[str, "Corpus"],
    subset: str,
) -> dict[str, Any]:
    """What the state belongs to; of the data that is trained on, the sizes of its files."""
    start: dict[str, Any] = {"--pretrain-updates": run.pretrain_updates}
    if checkpoint is not None:
        start = {"late-resetting checkpoint": checkpoint.base.sha256, "updates": schedule.late_reset}
    trained = {path.name: path.stat().st_size for path in sorted(run.data_bin.glob(f"{subset}*.*"))}
    sets = {name: {**corpus.describe(), "files": contents(corpus)} for name, corpus in corpora.items()}
    return {
        **start,
        "--prune-updates": run.prune_updates,
        "heads removed": list(schedule.removed),
        "--kinds": run.kinds,
        "--max-drop": run.max_drop,
        "--min-heads-per-module": run.min_heads_per_module,
        **({"--uniform": True} if run.uniform else {}),
        "--converge": run.converge,
        "--converge-iterations": list(run.converge_iterations),
        "--converge-updates": run.converge_updates,
        "--patience": run.patience,
        "--reset-optimizer": run.reset_optimizer,
        "--control": list(run.controls),
        **run.meters.of("confidence"),
        **run.measure.settings(),
        "--threads": run.measure.threads if run.on_cpu else None,
        **sets,
        "training data": trained,
        "fairseq-train": " ".join(given),
        **{"--resamples": run.significance.resamples, "--alpha": run.significance.alpha},
        "--seed": run.significance.seed,
    }
