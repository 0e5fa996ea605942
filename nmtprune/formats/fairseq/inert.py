"""Stand-ins for values of classes that nmtprune neither imports nor runs: kept as pickled, written back the same.

A fairseq checkpoint may hold OmegaConf containers, numpy scalars and fairseq meters. Loading makes a stand-in of each,
so that no code of those packages runs on what a file says, none of them need be installed, and module names of other
versions (``numpy.core`` of numpy 1, ``fairseq.meters`` of fairseq 0.8) stay as they are. Any other class is refused.
"""

import argparse
import collections
import copyreg
import pickle
from types import SimpleNamespace
from typing import IO, Any

import torch

_REAL = {
    "argparse.Namespace": argparse.Namespace,
    "collections.defaultdict": collections.defaultdict,
    **{f"builtins.{kind.__name__}": kind for kind in (dict, list, tuple, int, float, str, bool)},
}

_METERS = ("AverageMeter", "TimeMeter", "StopwatchMeter", "SumMeter", "ConcatTensorMeter")
_NODES = ("Any", "String", "Integer", "Float", "Boolean", "Bytes", "Path", "Enum", "InterpolationResult")

INERT = (
    "typing.Any",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    *(f"omegaconf.nodes.{name}Node" for name in _NODES),
    "numpy.ndarray",
    "numpy.dtype",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"fairseq.{module}.{name}" for module in ("logging.meters", "meters") for name in _METERS),
)
"""Classes and functions for which there are stand-ins."""

_NO_STATE = object()


class _StandIn(type):
    """Type of the stand-ins for classes: what a pickle calls ``module`` and ``name``."""

    module: str
    name: str


class Inert(metaclass=_StandIn):
    """A value of a class that was not imported.

    Attributes:
        arguments: what the class or function is called with.
        called: whether it is called, or only its ``__new__``.
        state: what the value's attributes are set from, if anything.
    """

    module = ""
    name = ""
    arguments: tuple[Any, ...]
    called: bool
    state: Any

    def __new__(cls, *arguments: Any) -> "Inert":
        """Keep the arguments; pickles of plain objects stop here."""
        self = super().__new__(cls)
        self.arguments, self.called, self.state = arguments, False, _NO_STATE
        return self

    def __init__(self, *_: Any) -> None:
        self.called = True

    def __setstate__(self, state: Any) -> None:
        """Keep the state."""
        self.state = state

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Be pickled, and copied, the way that the value itself was pickled."""
        how = (type(self), self.arguments) if self.called else (copyreg.__newobj__, (type(self), *self.arguments))  # type: ignore[attr-defined]
        return how if self.state is _NO_STATE else (*how, self.state)


def _stand_in(path: str) -> _StandIn:
    module, _, name = path.rpartition(".")
    return _StandIn(name, (Inert,), {"module": module, "name": name})


_STAND_INS = {path: _stand_in(path) for path in INERT}


def allowed() -> list[Any]:
    """The allow-list for `torch.serialization.safe_globals`: what a pickle names -> the class that it gets."""
    return [(kind, path) for path, kind in {**_REAL, **_STAND_INS}.items()]


def class_name(value: Any) -> str:
    """Name, without its module, of the class that a value is or stands for."""
    return type(value).name if isinstance(value, Inert) else type(value).__name__


def plain(value: Any) -> Any:
    """The value with OmegaConf's containers as dicts and lists, its nodes as what they hold, anything else as is."""
    if not isinstance(value, Inert):
        return value
    state = value.state if isinstance(value.state, dict) else {}
    content = state.get("_content", state.get("_val"))
    if isinstance(content, dict):
        return {name: plain(node) for name, node in content.items()}
    if isinstance(content, list):
        return [plain(node) for node in content]
    return content


class _Pickler(pickle._Pickler):
    """The pickler in Python, which can be told to write the name of a class that cannot be imported."""

    def save_global(self, obj: Any, name: str | None = None) -> None:
        """Write a class or function by name; a stand-in by the name of what it stands for."""
        if isinstance(obj, _StandIn):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())  # type: ignore[attr-defined]
            self.memoize(obj)  # type: ignore[attr-defined]
        else:
            super().save_global(obj, name)  # type: ignore[misc]


def save(state: Any, file: IO[bytes]) -> None:
    """`torch.save` that writes stand-ins as the values they stand for."""
    pickler = SimpleNamespace(__name__=__name__, Pickler=_Pickler) if _any_inert(state) else pickle
    torch.save(state, file, pickle_module=pickler)


def _any_inert(state: Any) -> bool:
    waiting, seen = [state], set()
    for value in waiting:
        if isinstance(value, Inert):
            return True
        if isinstance(value, dict | list | tuple | argparse.Namespace) and id(value) not in seen:
            seen.add(id(value))
            inner = vars(value) if isinstance(value, argparse.Namespace) else value
            waiting += inner.values() if isinstance(inner, dict) else inner
    return False
