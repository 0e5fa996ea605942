"""What `lottery` is asked for."""

from dataclasses import dataclass
from pathlib import Path

from nmtprune.data.options import DataOptions
from nmtprune.errors import UsageError
from nmtprune.evaluate.significance import SignificanceTest
from nmtprune.runs.device import choose_device
from nmtprune.runs.meters import MeterSettings
from nmtprune.runs.run import MeasureSettings


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
