"""Which checkpoint fairseq-train is going to continue from or fine-tune."""

import os
from argparse import Namespace
from pathlib import Path

from nmtprune.errors import UsageError

_LAST = "checkpoint_last.pt"


def starting_point(args: Namespace) -> Path | None:
    """The checkpoint that fairseq-train loads before the first update; None where it trains from scratch.

    As in fairseq: ``--restore-file``, else the last checkpoint in ``--save-dir``, else ``--continue-once``, else
    ``--finetune-from-model``.

    Raises:
        UsageError: the option names a file that is not there. (fairseq would train from scratch without a word.)
    """
    suffix = args.checkpoint_suffix or ""
    if args.restore_file != _LAST:
        return _existing("--restore-file", args.restore_file.replace(".pt", f"{suffix}.pt"))
    last = os.path.join(args.save_dir, f"checkpoint_last{suffix}.pt")
    if os.path.exists(last):
        return Path(last)
    if args.continue_once is not None:
        return _existing("--continue-once", args.continue_once)
    if args.finetune_from_model is not None:
        return _existing("--finetune-from-model", args.finetune_from_model)
    return None


def _existing(option: str, name: str) -> Path:
    if not os.path.isfile(name):
        raise UsageError(f"{option} {name}: no such file; to train from scratch leave the option out")
    return Path(name)
