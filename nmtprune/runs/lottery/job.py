"""What `lottery` is given, and everything that can be wrong with it, found before long work begins."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nmtprune.architecture import Architecture, parse_kinds
from nmtprune.budget import Limits
from nmtprune.data.corpus import Corpus
from nmtprune.data.options import DataOptions
from nmtprune.data.text import STDIN
from nmtprune.errors import CheckpointError, DataError, UsageError
from nmtprune.methods.confidence import Confidence, ConfidenceOptions
from nmtprune.methods.scorer import Scorer
from nmtprune.process import program
from nmtprune.profile import ModelProfile
from nmtprune.runs.baseline import with_remarks
from nmtprune.runs.corpora import Corpora
from nmtprune.runs.device import choose_device
from nmtprune.runs.lottery import folder
from nmtprune.runs.lottery.schedule import Schedule, removals, tickets
from nmtprune.runs.quality import DropRule, contents
from nmtprune.runs.refit_sentences import has_targets
from nmtprune.runs.refitted_plans import DEFAULT_CALIBRATION
from nmtprune.runs.run import FolderRun, MeasuringRun
from nmtprune.runs.scorers import SCORERS
from nmtprune.runs.state import NO_SETTING
from nmtprune.runs.subject import NativeModel, open_subject
from nmtprune.training.options import as_it_goes_on, check_given, names, parsed, without

if TYPE_CHECKING:
    from argparse import Namespace

    from nmtprune.formats.trainable import TrainableCheckpoint


_RESERVED = (
    *("--seed", "--max-update", "--max-epoch", "--patience", "--stop-time-hours", "--stop-min-lr"),
    *("--no-save", "--no-last-checkpoints", "--no-epoch-checkpoints", "--no-save-optimizer-state"),
    *("--keep-interval-updates", "--keep-last-epochs", "--keep-best-checkpoints", "--save-interval"),
    *("--reset-optimizer", "--reset-lr-scheduler", "--reset-meters", "--reset-dataloader"),
    *("--disable-validation", "--validate-interval", "--checkpoint-suffix", "--continue-once"),
)
"""Options that say where trainings begin and end, and what they leave."""


@dataclass(frozen=True, kw_only=True)
class LotteryRun(FolderRun, MeasuringRun):
    """What `lottery` is given: binarized data to train on, and sentences on which heads and models are measured.

    Attributes:
        test_data: sentences on which converged models are measured; None: those of `data`.
        late_reset: the late-resetting checkpoint; None trains it.
        pretrain_updates: updates with which it is trained, where it is not given.
        prune_updates: updates of an iteration.
        heads_per_iteration: None: half as many as there are modules.
        until: heads to remove in all, as the user wrote it; None: until `max_drop` ends it.
        max_drop: points of the metric, or ``significant``, that an iteration may be below the first; None: any.
        kinds: comma-separated; None for all that the model has.
        order: name of the scorer whose lowest heads go.
        importance_data: sentences for scorers that are measured on training text.
        min_heads_per_module: heads to keep in every module.
        uniform: all modules of a stack keep the same number of heads.
        converge: train the last iteration's model to convergence.
        converge_iterations: further iterations whose models are trained to convergence.
        converge_updates: with which convergence ends at the latest, pretraining included; None: patience alone ends it.
        patience: validations without a better one that end a convergence.
        reset_optimizer: rewound models begin with empty moments.
        controls: ``random``, ``reinit``, each converged next to every pruned model.
        refit: rewound models are fitted to follow the late-resetting checkpoint before they are trained.
        calibration_sentences: sentences to refit on, drawn from `importance_data`.
        calibration_data: raw text to refit on instead; without references on the checkpoint's own translations.
        scoring: options of the scorer.
        given: options for fairseq-train as the user typed them.
    """

    prints: ClassVar[str] = "table"

    data: DataOptions = field(metadata=NO_SETTING)
    test_data: DataOptions | None = field(default=None, metadata=NO_SETTING)
    late_reset: Path | None = field(default=None, metadata=NO_SETTING)
    pretrain_updates: int | None = None
    prune_updates: int
    heads_per_iteration: int | None = field(default=None, metadata=NO_SETTING)
    until: str | None = field(default=None, metadata=NO_SETTING)
    max_drop: str | None = None
    kinds: str | None = None
    order: str = field(default=Confidence.name, metadata=NO_SETTING)
    importance_data: DataOptions = field(metadata=NO_SETTING)
    min_heads_per_module: int = 1
    uniform: bool = False
    converge: bool = False
    converge_iterations: tuple[int, ...] = ()
    converge_updates: int | None = None
    patience: int
    reset_optimizer: bool = False
    controls: tuple[str, ...] = field(default=(), metadata={"option": "--control"})
    refit: bool = field(default=False, metadata=NO_SETTING)
    calibration_sentences: int = field(default=DEFAULT_CALIBRATION, metadata=NO_SETTING)
    calibration_data: DataOptions | None = field(default=None, metadata=NO_SETTING)
    scoring: Any = ConfidenceOptions()
    given: tuple[str, ...] = field(default=(), metadata=NO_SETTING)

    @property
    def written(self) -> list[str]:
        """Names of files in the run folder."""
        return [path.name for path in folder.outputs(self.output)]

    @property
    def data_bin(self) -> Path:
        """The data that is trained on; UsageError where there is none."""
        if self.data.data_bin is None:
            raise UsageError("lottery trains on binarized data: name --data-bin DIR")
        return self.data.data_bin

    @property
    def scorer(self) -> Scorer[Any]:
        """What gives heads their scores."""
        return SCORERS[self.order](self.scoring)

    @property
    def scored_on(self) -> DataOptions:
        """Sentences on which heads are scored."""
        return self.importance_data if self.scorer.on_training_text else self.data

    @property
    def calibration(self) -> DataOptions:
        """Sentences to refit on."""
        return self.calibration_data or self.importance_data

    @property
    def evaluated(self) -> DataOptions:
        """Sentences on which converged models are measured."""
        return self.test_data or self.data

    @property
    def inputs(self) -> list[Path]:
        """Files that must not be written over."""
        sets = [self.data, self.test_data, self.importance_data, self.calibration_data]
        read = [path for data in sets if data is not None for path in data.files]
        return [*([self.late_reset] if self.late_reset else []), *read]

    @property
    def on_cpu(self) -> bool:
        """Whether trainings have no GPU."""
        return choose_device(self.device).type == "cpu"

    @property
    def rule(self) -> DropRule | None:
        """When the loop ends early.

        Raises:
            UsageError: `max_drop` is no rule.
        """
        return None if self.max_drop is None else DropRule.parse(self.max_drop)

    def check(self) -> None:
        """Refuse options that contradict each other, and what any measuring run refuses."""
        self.data_bin  # noqa: B018  # raises
        self.data.check_trains()
        faults = []
        if (self.late_reset is None) == (self.pretrain_updates is None):
            faults.append("give one of --late-reset CHECKPOINT and --pretrain-updates N")
        if self.until is None and self.max_drop is None:
            faults.append("nothing ends the loop: give --until AMOUNT, --max-drop X, or both")
        if self.late_reset is None and "--arch" not in names(self.given):
            faults.append("--pretrain-updates trains from scratch: name --arch with its settings after --")
        if self.late_reset is not None and "--arch" in names(self.given):
            faults.append("--arch: that of --late-reset stays")
        if self.converge_updates is not None and not (self.converge or self.converge_iterations):
            faults.append("--converge-updates goes with --converge or --converge-iterations")
        if faults:
            raise UsageError("; ".join(faults), faults)
        if self.inputs.count(STDIN) > 1:
            raise UsageError("only one of the texts can be standard input")
        check_given(self.given, _RESERVED)
        _ = self.rule
        self.scorer.check_options()
        super().check()
        self.significance.resamples_for(1)


@dataclass(frozen=True)
class LotteryJob:
    """A checked run: everything that can be refused without training has been accepted.

    Attributes:
        run: what the command was given.
        late_reset: the late-resetting checkpoint; None where the run trains it.
        schedule: what will be trained.
        limits: which heads may go.
        given: options for fairseq-train from the late-resetting checkpoint on: defaults, then the user's, no
            architecture.
        validates_every: updates between validations; None: validations are at the end of epochs.
        maximizes: a higher value of fairseq's validation is better.
        sets: DATA, TEST DATA and texts to score or refit on, by their names.
        facts: what the state belongs to besides options.
    """

    run: LotteryRun
    late_reset: "TrainableCheckpoint | None"
    schedule: Schedule
    limits: Limits
    given: tuple[str, ...]
    validates_every: int | None
    maximizes: bool
    sets: Mapping[str, Corpus]
    facts: Mapping[str, Any]


def prepare(run: LotteryRun, corpora: Corpora) -> LotteryJob:
    """Check everything that can be wrong with programs, checkpoint and data, the cheapest first.

    Raises:
        NmtpruneError: anything that is wrong.
    """
    program("fairseq-train")
    checkpoint = _late_reset(run)
    given = run.given
    if checkpoint is not None:
        # After the defaults, what the user typed wins.
        given = (*(word for option in as_it_goes_on(checkpoint, run.given) for word in option), *run.given)
    args = _parsed(run, given, checkpoint)
    architecture = _architecture(args, checkpoint)
    kinds = architecture.kinds if run.kinds is None else parse_kinds(run.kinds, architecture)
    limits = Limits(kinds, run.min_heads_per_module, run.uniform)
    schedule = _schedule(run, architecture, checkpoint, limits)
    every = _validates_every(args)
    _check_subsets(run, args)
    _check_loss(run, args)
    sets = _sets(run, args, corpora)
    _check_models(run, checkpoint, corpora)
    folder.check_space(run.output, folder.bytes_needed(args, checkpoint, schedule))
    return LotteryJob(
        run=run,
        late_reset=checkpoint,
        schedule=schedule,
        limits=limits,
        given=without(given, "--arch"),
        validates_every=every,
        maximizes=bool(args.maximize_best_checkpoint_metric),
        sets=sets,
        facts=_facts(run, schedule, given, checkpoint, sets, args.train_subset),
    )


def _late_reset(run: LotteryRun) -> "TrainableCheckpoint | None":
    from nmtprune.formats import load

    if run.late_reset is None:
        return None
    checkpoint = load(run.late_reset).trainable()
    if checkpoint.open_units is not None:
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


def _parsed(run: LotteryRun, given: tuple[str, ...], checkpoint: "TrainableCheckpoint | None") -> "Namespace":
    """The user's options as fairseq-train reads them."""
    start = () if run.late_reset is None else ("--arch", "nmtprune", "--restore-file", str(run.late_reset))
    return parsed((str(run.data_bin), *start, *given), checkpoint)


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


def _check_loss(run: LotteryRun, args: "Namespace") -> None:
    """Check that trained models have the loss of whole references, where heads are scored by it.

    Raises:
        UsageError: trainings leave out the first words.
    """
    left_out = getattr(args, "ignore_prefix_size", 0)
    if run.scorer.needs.loss and left_out:
        raise UsageError(
            f"options of fairseq-train: --ignore-prefix-size {left_out} leaves out the first words of every reference, "
            f"which --order {run.order} counts: take --order {Confidence.name}"
        )


def _check_models(run: LotteryRun, checkpoint: "TrainableCheckpoint | None", corpora: Corpora) -> None:
    """Check that heads of the late-resetting checkpoint can be scored and refitted, where it is there already."""
    if checkpoint is None:
        return
    native = NativeModel(checkpoint, run)
    if run.scorer.on_training_text:
        open_subject(run.scorer, native, run.scored_on, run.seed, corpora)
    elif run.refit:
        _ = native.model


def _sets(run: LotteryRun, args: "Namespace", corpora: Corpora) -> dict[str, Corpus]:
    """DATA and TEST DATA, read before there is a model: the data alone say what is wrong with them."""
    from nmtprune.formats.fairseq.containers import truth

    languages = {"source_lang": args.source_lang, "target_lang": args.target_lang}
    asked = ModelProfile(**languages, left_pad_source=truth(getattr(args, "left_pad_source", None), True))
    needs_text = run.max_drop is not None or (run.test_data is None and bool(run.converge or run.converge_iterations))
    on_data = run.scored_on is run.data and run.scorer.needs.targets
    found = {folder.DATA: corpora.read(run.data, asked, references=needs_text, targets=on_data)}
    if needs_text:
        found[folder.DATA] = with_remarks(found[folder.DATA], run)
    if run.test_data is not None:
        found[folder.TEST] = with_remarks(corpora.read(run.test_data, asked, targets=False), run)
    for name, data, targets in _texts(run):
        try:
            found[name] = corpora.read(data, asked, references=False, targets=targets)
        except DataError as error:
            instead = "" if data.source else ": --importance-subset and --importance-source name other sentences"
            raise DataError(f"{name}: {error}{instead}") from None
    return found


def _texts(run: LotteryRun) -> Iterator[tuple[str, DataOptions, bool]]:
    """Sentences besides those that models are measured on, by the names of their sets, and whether with references."""
    if run.scorer.on_training_text:
        yield folder.SCORED, run.importance_data, run.scorer.needs.targets
    if run.refit:
        yield folder.CALIBRATION, run.calibration, has_targets(run.calibration)


def _facts(
    run: LotteryRun,
    schedule: Schedule,
    given: tuple[str, ...],
    checkpoint: "TrainableCheckpoint | None",
    sets: Mapping[str, Corpus],
    subset: str,
) -> dict[str, Any]:
    """What the state belongs to besides options; of the data that is trained on, the sizes of its files."""
    start: dict[str, Any] = {}
    if checkpoint is not None:
        start = {"late-resetting checkpoint": checkpoint.base.sha256, "updates": schedule.late_reset}
    return {
        **start,
        **({} if run.order == Confidence.name else {"--order": run.order}),
        **({"--refit": True, "--calibration-sentences": run.calibration_sentences} if run.refit else {}),
        "heads removed": list(schedule.removed),
        "--threads": run.threads if run.on_cpu else None,
        **{name: {**corpus.describe(), "files": contents(corpus)} for name, corpus in sets.items()},
        "training data": {path.name: path.stat().st_size for path in sorted(run.data_bin.glob(f"{subset}*.*"))},
        "fairseq-train": " ".join(given),
    }
