"""The frame of a command: the settings that several commands share, and how a run begins and ends.

A run is a frozen dataclass: a base class for its output (`ReportRun`, `FolderRun` or `Run` itself; `BareRun` where it
reads no DATA), the groups of settings that it has (`Computing`, `QualitySettings`, `Testing`; `MeasuringRun` has all of
them), and its own fields.
Fields that results depend on become settings of the state by their names, see `state.settings_of`.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from nmtprune import files, provenance
from nmtprune.data.directions import Sets
from nmtprune.data.mixture import parts_of
from nmtprune.errors import OutputError, UsageError
from nmtprune.process import termination_as_interrupt
from nmtprune.progress import Progress
from nmtprune.runs.corpora import Corpora
from nmtprune.runs.device import choose_device
from nmtprune.runs.report import ReportFiles
from nmtprune.runs.state import NO_SETTING, Interrupted, Settings, State, check_state, settings_of, state_path
from nmtprune.runs.workers import Alone, Processes, processes

if TYPE_CHECKING:
    import torch

    from nmtprune.data.batching import BatchLimits
    from nmtprune.data.corpus import Corpus
    from nmtprune.data.examples import Examples
    from nmtprune.engines.base import EngineSettings
    from nmtprune.evaluate.significance import Correction, SignificanceTest
    from nmtprune.model.search.options import Search

LOSS = "loss"
LABELS = ("accuracy", "f1", "matthews")
"""Metrics of classifiers."""
WITHOUT_SEARCH = (LOSS, *LABELS)
"""Metrics of models that translate nothing for them."""
STATE = "state.json"
"""Name of the state in a run folder."""


@dataclass(frozen=True, kw_only=True)
class Computing:
    """Which program runs models, where, and by which search.

    Attributes:
        engine: the program, one of `engines.base.ENGINES`.
        device: as `--device` names it.
        threads: CPU threads; None leaves the number to the engine.
        search: how translations are searched.
    """

    engine: str
    device: str = field(metadata=NO_SETTING)
    threads: int | None = field(metadata=NO_SETTING)
    search: "Search"

    def in_batches(self, limits: "BatchLimits") -> "EngineSettings":
        """What the engine must know, for batches of this size.

        Raises:
            UsageError: a device that is not there.
        """
        from nmtprune.engines import EngineSettings

        return EngineSettings(self.search, limits, choose_device(self.device), self.threads)


@dataclass(frozen=True, kw_only=True)
class QualitySettings:
    """How quality is computed, and which comparisons are allowed.

    Attributes:
        metric: ``bleu``, ``chrf`` or ``loss``, of classifiers one of LABELS or ``loss``; for `score` the name of any
            scorer.
        bleu_tokenize: a tokenizer of sacrebleu; None: the one that sacrebleu chooses for the target language.
        lowercase: ignore case.
        allow_bad_baseline: compare even if the baseline is meaningless.
        allow_few_sentences: test significance even on fewer sentences than a test needs.
    """

    metric: str
    bleu_tokenize: str | None = None
    lowercase: bool = False
    allow_bad_baseline: bool = field(default=False, metadata=NO_SETTING)
    allow_few_sentences: bool = field(default=False, metadata=NO_SETTING)

    def faults(self) -> list[str]:
        """Options that mean nothing for the metric."""
        found = []
        if self.metric != "bleu" and self.bleu_tokenize is not None:
            found.append("--bleu-tokenize goes with --metric bleu")
        if self.metric not in ("bleu", "chrf") and self.lowercase:
            found.append("--lowercase goes with --metric bleu or chrf")
        return found


@dataclass(frozen=True, kw_only=True)
class Testing:
    """How differences between models are tested.

    Attributes:
        alpha: significance level.
        resamples: of the bootstrap, or ``auto``.
        correction: for many tests: ``holm``, ``bh`` or ``none``.
        seed: of everything that is drawn at random.
        threads: CPU threads; None takes what there is.
    """

    alpha: float = 0.01
    resamples: int | Literal["auto"] = "auto"
    correction: "Correction" = "none"
    seed: int = 1
    threads: int | None = field(default=None, metadata=NO_SETTING)

    @cached_property
    def significance(self) -> "SignificanceTest":
        """The test.

        Raises:
            UsageError: values that no test can have.
        """
        from nmtprune.evaluate.significance import SignificanceTest

        return SignificanceTest(self.alpha, self.correction, self.resamples, self.seed, threads=self.threads)


@dataclass(frozen=True, kw_only=True)
class BareRun:
    """What every command is given.

    Attributes:
        force: replace outputs, or start over.
        resume: continue an interrupted run.
    """

    force: bool = field(default=False, metadata=NO_SETTING)
    resume: bool = field(default=False, metadata=NO_SETTING)

    @property
    def inputs(self) -> list[Path]:
        """Files that must not be written over."""
        return []

    @property
    def state_path(self) -> Path | None:
        """Where the state is kept for `--resume`; None for a command that cannot be resumed."""
        return None

    @property
    def kept_in(self) -> Path | None:
        """Where a user finds the finished work of an interrupted run."""
        return self.state_path

    def check(self) -> None:
        """Refuse what can be refused without reading a file.

        Raises:
            UsageError: options that contradict each other or mean nothing.
        """

    def check_output(self) -> None:
        """Check that outputs can be written; nothing is changed.

        Raises:
            UsageError: an output that must be a file is standard output.
            OutputError: a file cannot be written, or exists and may not be replaced.
        """


@dataclass(frozen=True, kw_only=True)
class Run(BareRun):
    """What every command is given that reads DATA.

    Attributes:
        data: the sentences; only `score`, `greedy`, `check` and `refit` take several directions.
    """

    data: Sets = field(metadata=NO_SETTING)

    @property
    def inputs(self) -> list[Path]:
        """Files that must not be written over."""
        return [*self.data.files]


def check_report(output: Path, outputs: ReportFiles, run: Run) -> None:
    """Check that a result can be written, with its table and its picture.

    Raises:
        UsageError, OutputError: as for `Run.check_output`.
    """
    if str(output) == "-":
        raise UsageError(
            "-o -: a table and a picture are written next to the result: name a file (--format json prints it too)"
        )
    for path in outputs:
        files.check_output(path, force=run.force, inputs=run.inputs)


@dataclass(frozen=True, kw_only=True)
class ReportRun(Run):
    """A run that writes one JSON file, with a table and a picture next to it.

    Attributes:
        output: the JSON file.
    """

    output: Path = field(metadata=NO_SETTING)

    @property
    def outputs(self) -> ReportFiles:
        """The files that are written."""
        return ReportFiles.beside(self.output)

    @property
    def state_path(self) -> Path:
        """Beside the output."""
        return state_path(self.output)

    def check_output(self) -> None:
        """Check all outputs, and that no interrupted run is forgotten."""
        check_report(self.output, self.outputs, self)
        check_state(self.output, resume=self.resume, force=self.force)


@dataclass(frozen=True, kw_only=True)
class FolderRun(Run, ABC):
    """A run that writes a folder.

    Attributes:
        output: the run folder.
    """

    prints: ClassVar[str] = "result"
    """What ``--format json`` prints."""

    output: Path = field(metadata=NO_SETTING)

    @property
    @abstractmethod
    def written(self) -> list[str]:
        """Names of the files that the run writes into its folder, except its state."""

    @property
    def state_path(self) -> Path:
        """In the folder."""
        return self.output / STATE

    @property
    def kept_in(self) -> Path:
        """The folder: fairseq's checkpoints are there too."""
        return self.output

    def check_output(self) -> None:
        """Check that the folder is new, empty, or may be written into."""
        if str(self.output) == "-":
            raise UsageError(
                f"-o -: a run writes many files: name a folder (--format json prints the {self.prints} too)"
            )
        if not self.output.exists():
            files.check_output(self.output)  # what can take a file there can take a folder
            return
        if not self.output.is_dir():
            raise OutputError(f"{self.output}: is a file, not a run folder")
        for name in (STATE, *self.written):
            files.check_output(self.output / name, force=True, inputs=self.inputs)
        if self.resume or self.force:
            return
        if self.state_path.exists():
            raise OutputError(f"{self.output}: holds a run already: --resume continues it, --force starts over")
        if any(self.output.iterdir()):
            raise OutputError(f"{self.output}: is not empty (--force writes into it)")


@dataclass(frozen=True, kw_only=True)
class MeasuringRun(Run, Computing, QualitySettings, Testing):
    """A run that measures the quality of models and tests differences.

    Attributes:
        limits: size of batches.
    """

    limits: "BatchLimits"

    def for_engine(self) -> "EngineSettings":
        """What the engine must know."""
        return self.in_batches(self.limits)

    def described(self) -> dict[str, Any]:
        """How quality is measured, for result files."""
        batches = {"max_tokens": self.limits.max_tokens, "batch_size": self.limits.max_sentences}
        search = {} if self.metric in WITHOUT_SEARCH else {"search": asdict(self.search)}
        return {"engine": self.engine, **search, "batches": batches}

    def check(self) -> None:
        """Refuse a device that is not there, values that no test can have, options that mean nothing for the metric."""
        super().check()
        faults = self.faults()
        if faults:
            raise UsageError("; ".join(faults), faults)
        choose_device(self.device)
        _ = self.significance


class Session:
    """A run that has begun.

    Attributes:
        run: the run.
        progress: watches.
        processes: this process among those of the run.
        corpora: what was read of DATA, each set of sentences once.
        state: results that a resumed run continues from; None before `open_state`, and in processes that do not lead.
    """

    def __init__(self, run: BareRun, progress: Progress, own: Processes) -> None:
        self.run, self.progress, self.processes = run, progress, own
        self.state: State | None = None
        self.corpora = Corpora()
        self._began = time.monotonic()
        self._noted: set[str] = set()

    @property
    def leads(self) -> bool:
        """Whether this process keeps the state, writes the output and talks to the user."""
        return self.processes.leads

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return round(time.monotonic() - self._began, 3)

    def note(self, corpus: "Corpus | Examples") -> None:
        """Tell the user the remarks on a corpus, or on its directions, each once."""
        for note in corpus.notes:
            self.remark(f"{corpus.name}: {note}")
        for part in parts_of(corpus).values():
            self.note(part)

    def remark(self, line: str) -> None:
        """Tell the user a line, once."""
        if line not in self._noted:
            self._noted.add(line)
            self.progress.note(line)

    def open_state(self, facts: Settings) -> State:
        """The state of the interrupted run that is resumed, or a new one; of the process that leads.

        Args:
            facts: what results depend on besides the settings of the run, and settings by what they mean for a model.

        Raises:
            OutputError: the state is damaged, of another version, or of a run with other settings.
        """
        if self.run.state_path is None:
            raise ValueError("this command keeps no state")
        computed = {"--device": self._device.type} if self._device else {}
        settings = {**settings_of(self.run), **computed, **facts}
        self.state = State.open(self.run.state_path, settings, resume=self.run.resume)
        return self.state

    def provenance(self, **facts: Any) -> dict[str, Any]:
        """How a file was made: facts, the seconds so far, and the device if the run has one."""
        facts["seconds"] = self.seconds
        if self._device:
            facts["device"] = str(self._device)
        return provenance.collect(**facts)

    @property
    def _device(self) -> "torch.device | None":
        return choose_device(self.run.device) if isinstance(self.run, Computing) else None

    def interrupted(self) -> Interrupted | None:
        """What to tell the user after Ctrl-C or SIGTERM; None if there is nothing to continue from."""
        path, own = self.run.state_path, self.state
        # The first process to end speaks for all of them, whoever keeps the state.
        has_work = not self.leads or (own is not None and bool(own.units))
        if path is None or not has_work or not path.exists():
            return None
        return Interrupted(
            f"interrupted: finished work is kept in {self.run.kept_in}; run the same command with --resume to continue"
        )


@contextmanager
def started(run: BareRun, progress: Progress, *, shared: bool = False) -> Iterator[Session]:
    """Begin a run: check its options and outputs, then let the block do the work.

    SIGTERM ends the run as Ctrl-C does; what the state has is kept, and the message says how to continue.

    Args:
        run: what the command was given.
        progress: watches.
        shared: under torchrun all processes run the block together, and end together; `Session.leads` says which of
            them writes. Otherwise each process is a run of its own.

    Raises:
        UsageError, OutputError: options or outputs that `Run.check` and `Run.check_output` refuse.
        Interrupted: Ctrl-C or SIGTERM.
    """
    session = Session(run, progress, processes() if shared else Alone())
    with session.processes.ending_together(), termination_as_interrupt():
        run.check()
        if session.leads:
            run.check_output()
        try:
            yield session
            session.processes.finish()
        except KeyboardInterrupt:
            message = session.interrupted()
            if message is None:
                raise
            raise message from None
