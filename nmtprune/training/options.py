"""Options of fairseq-train: what a user typed, what a command sets itself, and how a checkpoint was trained."""

import ast
import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nmtprune.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from argparse import Namespace

    from nmtprune.formats.trainable import TrainableCheckpoint

OWN = ("--save-dir", "--user-dir", "--restore-file", "--finetune-from-model", "--log-format")
"""Options of place and start, which every command sets itself."""

ARCH = ("--arch", "-a")

_ENDS = ("--max-epoch", "--max-update", "--stop-time-hours", "--stop-min-lr", "--patience")
_MAX_TOKENS = 4096
"""Size of batches where the checkpoint does not say any."""

_WARMUP = 100
"""Updates until a new optimizer, whose moments are empty, takes steps of full size."""

_SHORT = {"-s": "--source-lang", "-t": "--target-lang", "-a": "--arch"}
_CRITERIA = ("cross_entropy", "label_smoothed_cross_entropy")
_SCHEDULES = {
    "inverse_sqrt": ("warmup_updates", "warmup_init_lr"),
    "fixed": ("warmup_updates", "lr_shrink", "force_anneal"),
    "polynomial_decay": ("warmup_updates", "total_num_update", "end_learning_rate", "power", "force_anneal"),
    "cosine": ("warmup_updates", "warmup_init_lr", "min_lr", "t_mult", "lr_period_updates", "lr_shrink"),
}
"""Schedules of learning rates that can be named by what a checkpoint says, with the settings of each."""

_SETTINGS_OF = {
    "--optimizer": {"--adam-betas", "--adam-eps", "--weight-decay"},
    "--criterion": {"--label-smoothing", "--ignore-prefix-size"},
    "--lr-scheduler": {f"--{name.replace('_', '-')}" for names in _SCHEDULES.values() for name in names},
}
"""Options that only mean something beside another one."""

Options = tuple[tuple[str, ...], ...]
"""Options of fairseq-train: each a name with its values."""


def check_given(given: Sequence[str], reserved: Sequence[str]) -> None:
    """Check options that a user typed for fairseq-train.

    Args:
        given: the words.
        reserved: options beside OWN that the command sets itself.

    Raises:
        UsageError: options that the command sets itself, all of them.
    """
    typed = {word.split("=", 1)[0] for word in given if word.startswith("-")}
    faults = [f"{name}: set by the command itself" for name in (*OWN, *reserved) if name in typed]
    if faults:
        raise UsageError.of_faults("options of fairseq-train", faults)


def with_defaults(defaults: Options, given: Sequence[str]) -> Options:
    """The defaults that the user's own options leave in force.

    Ends of training exclude each other: any of the user's replaces all of the defaults', and so do the two sizes of
    batches. With another optimizer, criterion or schedule its settings go too.
    """
    typed = names(given)
    groups = (_ENDS, ("--max-tokens", "--batch-size", "--max-sentences"))
    dropped = {name for group in groups if typed & set(group) for name in group} | typed
    chosen = {option[0]: option[1:] for option in defaults}
    for name, settings in _SETTINGS_OF.items():
        if name in typed and (value_of(given, name),) != chosen.get(name):
            dropped |= settings  # of another optimizer, criterion or schedule, which may not know them
    return tuple(option for option in defaults if option[0] not in dropped)


def names(words: Sequence[str]) -> set[str]:
    """The options among the words, by their long names."""
    found = {word.split("=", 1)[0] for word in words if word.startswith("-")}
    return {_SHORT.get(name, name) for name in found}


def value_of(words: Sequence[str], name: str) -> str | None:
    """What an option was given, the last time; None where it is not there or has no value."""
    found = None
    for place, word in enumerate(words):
        own, separator, value = word.partition("=")
        if _SHORT.get(own, own) == name:
            found = value if separator else next(iter(words[place + 1 : place + 2]), None)
    return found


def without(words: Sequence[str], name: str) -> tuple[str, ...]:
    """The words less an option that takes one value."""
    found: list[str] = []
    skip = False
    for word in words:
        own, separator, _ = word.partition("=")
        if skip:
            skip = False
        elif _SHORT.get(own, own) == name:
            skip = not separator
        else:
            found.append(word)
    return tuple(found)


def as_trained(checkpoint: "TrainableCheckpoint") -> Options:
    """How a checkpoint was trained, as options: languages, optimizer, size of batches, and its last learning rate.

    The learning rate rises quickly to what it was in the end and stays there: a schedule that begins anew would first
    undo what was learned.
    """
    rate = checkpoint.last_rate or next(iter(_rates(checkpoint)), None)
    schedule = (("--lr-scheduler", "fixed"), ("--warmup-updates", str(_WARMUP)))
    return (*_everything_else(checkpoint), *([("--lr", repr(rate))] if rate else []), *schedule)


def as_it_goes_on(checkpoint: "TrainableCheckpoint", given: Sequence[str]) -> Options:
    """How a checkpoint was trained, as options with which its training goes on: the same criterion and schedule too.

    Args:
        checkpoint: with its settings.
        given: what the user typed; it wins.

    Raises:
        CheckpointError: a criterion, optimizer or schedule that only the user can name, all of them.
    """
    found, faults = list(_everything_else(checkpoint)), []
    criterion, optimizer, schedule = (
        checkpoint.section(name).get("_name") for name in ("criterion", "optimizer", "lr_scheduler")
    )
    for option, name, known in (
        ("--criterion", criterion, _CRITERIA),
        ("--optimizer", optimizer, ("adam",)),
        ("--lr-scheduler", schedule, tuple(_SCHEDULES)),
    ):
        if name not in known and option not in names(given):
            faults.append(f"{option} is {name!r}: name it with its settings after --")
    if faults:
        raise CheckpointError.of_faults(f"{checkpoint.path}: its training", faults)
    if criterion in _CRITERIA:
        found.append(("--criterion", str(criterion)))
    if criterion == _CRITERIA[1]:
        found += [("--label-smoothing", repr(value)) for value in _of(checkpoint, "criterion", "label_smoothing")]
        left_out = [int(value) for value in _of(checkpoint, "criterion", "ignore_prefix_size")]
        found += [("--ignore-prefix-size", str(count)) for count in left_out if count]
    if schedule in _SCHEDULES:
        found.append(("--lr-scheduler", str(schedule)))
        found += [
            (f"--{name.replace('_', '-')}", repr(value))
            for name in _SCHEDULES[str(schedule)]
            for value in _of(checkpoint, "lr_scheduler", name)
        ]
    found += [("--lr", repr(rate)) for rate in _rates(checkpoint)[:1]]
    found += [("--weight-decay", repr(value)) for value in _of(checkpoint, "optimizer", "weight_decay")]
    flags = (("optimization", "sentence_avg"), ("common", "fp16"), ("common", "bf16"))
    found += [(f"--{n.replace('_', '-')}",) for part, n in flags if checkpoint.section(part).get(n) is True]
    return with_defaults(tuple(found), given)


def _everything_else(checkpoint: "TrainableCheckpoint") -> Options:
    """Languages, optimizer and batches of a checkpoint's training."""
    found = [*_task(checkpoint.section("task")), *_optimizer(checkpoint.section("optimizer"))]
    dataset = checkpoint.section("dataset")
    found += [("--clip-norm", repr(value)) for value in _of(checkpoint, "optimization", "clip_norm")]
    found += [("--update-freq", str(int(value))) for value in _of(checkpoint, "optimization", "update_freq")[:1]]
    sentences = dataset.get("batch_size", dataset.get("max_sentences"))  # the name that older versions knew
    sizes = {"--max-tokens": dataset.get("max_tokens"), "--batch-size": sentences}
    batches = [(name, str(int(value))) for name, size in sizes.items() for value in _numbers(size)]
    return (*found, *(batches or [("--max-tokens", str(_MAX_TOKENS))]))


def _of(checkpoint: "TrainableCheckpoint", part: str, name: str) -> list[float]:
    return _numbers(checkpoint.section(part).get(name))


def _rates(checkpoint: "TrainableCheckpoint") -> list[float]:
    return _of(checkpoint, "optimization", "lr")


def _task(task: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    from nmtprune.formats.fairseq.containers import truth

    for name in ("source_lang", "target_lang"):
        if isinstance(task.get(name), str):
            yield f"--{name.replace('_', '-')}", task[name]
    if truth(task.get("truncate_source"), False):
        yield ("--truncate-source",)


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


def _numbers(value: Any) -> list[float]:
    """The numbers that a setting holds: itself, or those of a list."""
    values = value if isinstance(value, list | tuple) else [value]
    return [each for each in values if isinstance(each, int | float) and not isinstance(each, bool)]


def parsed(argv: Sequence[str], start: "TrainableCheckpoint | None" = None) -> "Namespace":
    """The options of fairseq-train as it reads them, with the settings of the architecture filled in.

    Args:
        argv: data and options, without the program and ``--user-dir``.
        start: the checkpoint from which the options start, if this process has read it.

    Raises:
        UsageError: what fairseq-train would refuse, in its words.
        CheckpointError: as ``--arch nmtprune`` raises it.
        EngineError: fairseq is not installed.
    """
    said = io.StringIO()
    with quietly():
        import nmtprune.fairseq_plugin  # noqa: F401, I001  # first: it says what to do where fairseq is missing
        from fairseq import options

        from nmtprune.fairseq_plugin.train_settings import in_memory

        try:
            with contextlib.redirect_stderr(said), in_memory(start):
                found: Namespace = options.parse_args_and_arch(options.get_training_parser(), list(argv))
        except SystemExit:
            *_, line = said.getvalue().strip().splitlines() or ["refused without a word"]
            raise UsageError(f"options of fairseq-train: {line.rpartition('error: ')[2]}") from None
    return found


def count_parameters(args: "Namespace") -> int:
    """Weights of the model that fairseq-train would build, shared ones once; no memory is taken for them.

    Args:
        args: as `parsed` gives them; the dictionaries of the data are read.
    """
    with quietly():
        import torch
        from fairseq import tasks
        from fairseq.dataclass.utils import convert_namespace_to_omegaconf

        config = convert_namespace_to_omegaconf(args)
        with torch.device("meta"):
            model = tasks.setup_task(config.task).build_model(config.model)
        return sum(parameter.numel() for parameter in model.parameters())


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """While fairseq is imported and asked: its remarks are for those who train with it, and logging stays as it was."""
    root = logging.getLogger()
    before, level, handlers = root.manager.disable, root.level, root.handlers[:]
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        root.setLevel(level)
        root.handlers[:] = handlers
