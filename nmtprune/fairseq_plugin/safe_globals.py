"""Let torch load fairseq's own checkpoints again: `torch.load` refuses classes that nobody has declared safe."""

import importlib
from typing import Any

import numpy as np
import torch

from nmtprune.formats.fairseq import inert

_MOVED = {"numpy.core.": "numpy._core.", "fairseq.meters.": "fairseq.logging.meters."}
"""Modules under which older versions pickled what now lives elsewhere."""


def register_safe_globals() -> None:
    """Declare what fairseq checkpoints hold beside tensors safe, for every later `torch.load` of this process.

    Only classes that carry data: settings (Namespace, OmegaConf's containers), numpy arrays and scalars of
    ``--eval-bleu``, fairseq's meters. Object arrays of numpy stay refused.
    """
    declared = [(value, path) for _, path in inert.allowed() if (value := _find(path)) is not None]
    torch.serialization.add_safe_globals([*declared, *_dtypes()])


def _find(path: str) -> Any:
    """The class or function of that name, None where the installed versions have none."""
    for old, new in _MOVED.items():
        path = path.replace(old, new) if path.startswith(old) else path
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def _dtypes() -> list[type]:
    """Classes of numpy's data types: a pickled type restores its byte order through them."""
    kinds = [getattr(np.dtypes, name) for name in np.dtypes.__all__]
    return [kind for kind in kinds if kind is not np.dtypes.ObjectDType]
