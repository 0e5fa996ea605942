"""What fairseq-train will make of its options, found without training: its own parser, asked in this process."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from nmtprune.errors import UsageError

if TYPE_CHECKING:
    from argparse import Namespace


def parsed(argv: Sequence[str]) -> "Namespace":
    """The options of fairseq-train as it reads them, with the settings of the architecture filled in.

    Args:
        argv: data and options, without the program and ``--user-dir``.

    Raises:
        UsageError: what fairseq-train would refuse, in its words.
        CheckpointError: as ``--arch nmtprune`` raises it.
        EngineError: fairseq is not installed.
    """
    said = io.StringIO()
    with _quiet():
        import nmtprune.fairseq_plugin  # noqa: F401, I001  # first: it says what to do where fairseq is missing
        from fairseq import options

        try:
            with contextlib.redirect_stderr(said):
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
    with _quiet():
        import torch
        from fairseq import tasks
        from fairseq.dataclass.utils import convert_namespace_to_omegaconf

        config = convert_namespace_to_omegaconf(args)
        with torch.device("meta"):
            model = tasks.setup_task(config.task).build_model(config.model)
        return sum(parameter.numel() for parameter in model.parameters())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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
