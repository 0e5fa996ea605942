"""fairseq-train as a step of a run: it continues a checkpoint as the checkpoint was trained, unless told otherwise."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtprune.errors import CheckpointError, TrainingError, UsageError
from nmtprune.runs.steps import Step, program, shown
from nmtprune.runs.watch import TrainingWatcher
from nmtprune.user_dir import USER_DIR

if TYPE_CHECKING:
    from nmtprune.formats.fairseq import FairseqCheckpoint

_ENDS = ("--max-epoch", "--max-update", "--stop-time-hours", "--stop-min-lr", "--patience")
_OWN = ("--save-dir", "--user-dir", "--restore-file", "--finetune-from-model", "--arch", "-a", "--log-format")
_MAX_TOKENS = 4096
"""Size of batches where the checkpoint does not say any."""

_WARMUP = 100
"""Updates until a new optimizer, whose moments are empty, takes steps of full size."""

_SHORT = {"-s": "--source-lang", "-t": "--target-lang"}

Options = tuple[tuple[str, ...], ...]
"""Options of fairseq-train: each a name with its values."""


@dataclass(frozen=True)
class Training:
    """One call of fairseq-train that starts from a checkpoint, or goes on in the folder where it was stopped.

    Attributes:
        name: of the step, and of its log.
        title: what it trains, for people.
        data_bin: binarized data.
        start: the checkpoint from which the first call starts, with a new optimizer and schedule.
        folder: fairseq's ``--save-dir``: where `folder` has a last checkpoint, the call goes on from there.
        options: what is trained and how.
        given: further options of the user, as typed; they come last.
        on_cpu: train without a GPU.
    """

    name: str
    title: str
    data_bin: Path
    start: Path
    folder: Path
    options: Options
    given: tuple[str, ...]
    on_cpu: bool

    @property
    def last(self) -> Path:
        """The checkpoint with which training ends."""
        return self.folder / "checkpoint_last.pt"

    def drop_damaged(self) -> bool:
        """Delete a last checkpoint that was being written when training was killed; whether there was one.

        Training then starts again: fairseq would refuse the file each time.
        """
        from nmtprune.formats import load

        try:
            if self.last.exists():
                load(self.last)
        except CheckpointError:
            self.last.unlink()
            return True
        return False

    @property
    def words(self) -> tuple[str, ...]:
        """What is trained and how, wherever its files lie."""
        cpu = ("--cpu",) if self.on_cpu and "--cpu" not in self.given else ()
        return (*cpu, *(word for option in self.options for word in option), *self.given)

    def step(self, watched: Sequence[str] = ()) -> Step:
        """The command; `watched` names figures of fairseq's log to show beside the loss.

        Raises:
            EngineError: fairseq is not installed.
        """
        argv = (
            *(program("fairseq-train"), shown(self.data_bin), "--user-dir", shown(USER_DIR)),
            *("--arch", "nmtprune", "--finetune-from-model", shown(self.start), "--save-dir", shown(self.folder)),
            *("--log-format", "simple", *self.words),
        )
        updates, epochs = _end(argv)
        watch = TrainingWatcher(updates, epochs, tuple(watched))
        return Step(self.name, self.title, argv, watch=watch, error=TrainingError)


def check_given(given: Sequence[str], reserved: Sequence[str]) -> None:
    """Check options that a user typed for fairseq-train.

    Args:
        given: the words.
        reserved: options beside fairseq's own ones of place and start that the command sets itself.

    Raises:
        UsageError: options that the command sets itself, all of them.
    """
    names = _names(given)
    faults = [f"{name}: set by the command itself" for name in (*_OWN, *reserved) if name in names]
    if faults:
        raise UsageError.of_faults("options of fairseq-train", faults)


def with_defaults(defaults: Options, given: Sequence[str]) -> Options:
    """The defaults that the user's own options leave in force.

    Ends of training exclude each other: any of the user's replaces all of the defaults', and so do the two sizes of
    batches.
    """
    names = _names(given)
    groups = (_ENDS, ("--max-tokens", "--batch-size", "--max-sentences"))
    dropped = {name for group in groups if names & set(group) for name in group} | names
    return tuple(option for option in defaults if option[0] not in dropped)


def _names(words: Sequence[str]) -> set[str]:
    found = {word.split("=", 1)[0] for word in words if word.startswith("-")}
    return {_SHORT.get(name, name) for name in found}


def as_trained(checkpoint: "FairseqCheckpoint") -> Options:
    """How a checkpoint was trained, as options: languages, optimizer, size of batches, and its last learning rate.

    The learning rate rises quickly to what it was in the end and stays there: a schedule that begins anew would first
    undo what was learned.
    """
    found = [*_task(checkpoint.section("task")), *_optimizer(checkpoint.section("optimizer"))]
    dataset, optimization = checkpoint.section("dataset"), checkpoint.section("optimization")
    found += [("--clip-norm", repr(value)) for value in _numbers(optimization.get("clip_norm"))]
    found += [("--update-freq", str(int(value))) for value in _numbers(optimization.get("update_freq"))[:1]]
    sentences = dataset.get("batch_size", dataset.get("max_sentences"))  # the name that older versions knew
    sizes = {"--max-tokens": dataset.get("max_tokens"), "--batch-size": sentences}
    batches = [(name, str(int(value))) for name, size in sizes.items() for value in _numbers(size)]
    found += batches or [("--max-tokens", str(_MAX_TOKENS))]
    rate = _last_rate(checkpoint.state) or next(iter(_numbers(optimization.get("lr"))), None)
    schedule = (("--lr-scheduler", "fixed"), ("--warmup-updates", str(_WARMUP)))
    return (*found, *([("--lr", repr(rate))] if rate else []), *schedule)


def _task(task: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name in ("source_lang", "target_lang"):
        if isinstance(task.get(name), str):
            yield f"--{name.replace('_', '-')}", task[name]


def _optimizer(optimizer: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    yield "--optimizer", "adam"
    if optimizer.get("_name") != "adam":
        return
    betas = optimizer.get("adam_betas")
    try:
        # fairseq evaluates this text: what a file says goes on as numbers only.
        first, second = _numbers(ast.literal_eval(betas) if isinstance(betas, str) else betas)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        first, second = 0.9, 0.999
    yield "--adam-betas", f"({first!r}, {second!r})"
    for value in _numbers(optimizer.get("adam_eps")):
        yield "--adam-eps", repr(value)


def _last_rate(state: Mapping[str, Any]) -> float | None:
    """Learning rate of the last update; None where the file has no optimizer state."""
    saved = state.get("last_optimizer_state")
    groups = saved.get("param_groups") if isinstance(saved, Mapping) else None
    first = groups[0] if isinstance(groups, Sequence) and groups else None
    rates = _numbers(first.get("lr")) if isinstance(first, Mapping) else []
    return rates[0] if rates and rates[0] > 0 else None


def _numbers(value: Any) -> list[float]:
    """The numbers that a setting holds: itself, or those of a list."""
    values = value if isinstance(value, list | tuple) else [value]
    return [each for each in values if isinstance(each, int | float) and not isinstance(each, bool)]


def _end(argv: Sequence[str]) -> tuple[int | None, int | None]:
    """Updates or epochs with which training ends, for the bar."""
    found: dict[str, int | None] = {"--max-update": None, "--max-epoch": None}
    for name in found:
        for place, word in enumerate(argv):
            text = argv[place + 1] if word == name and place + 1 < len(argv) else word.removeprefix(f"{name}=")
            if word.split("=", 1)[0] == name and text.isdecimal():
                found[name] = int(text)
    updates, epochs = found.values()
    return (updates, None) if updates else (None, epochs)
