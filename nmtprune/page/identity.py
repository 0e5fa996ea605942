"""Which files speak of the same model: by the checksum of its tensors, else of its file, else by its path."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nmtprune.page.inputs import CheckpointFile, Source, recorded
from nmtprune.page.printed import CompareFile, DriftFile
from nmtprune.plan import Plan
from nmtprune.runs.cost_table import CostTable
from nmtprune.runs.functions_file import FunctionsFile
from nmtprune.runs.report import BenchFile, CheckAnswer, CurveFile, ExportNote, L0File, LotteryFile
from nmtprune.scores import Scores

_KEYS = ("file", "tensors", "cut")


@dataclass(frozen=True)
class Reference:
    """What a file says of a model that it speaks of.

    Attributes:
        path: of the model's file.
        file: SHA-256 of the file.
        tensors: SHA-256 of the model's tensors.
        cut: what was left of which model, for one that was cut and not changed in any other way.
    """

    path: str | None = None
    file: str | None = None
    tensors: str | None = None
    cut: str | None = None


def same_model(references: Sequence[Iterable[Reference]]) -> list[int]:
    """The number of its model for each list of references, counted from 0 in their order.

    Equal checksums join lists. Equal paths do, unless files with different checksums are known to have had that path.
    """
    listed = [tuple(own) for own in references]
    owners: dict[tuple[str, str], list[int]] = defaultdict(list)
    contents: dict[tuple[str, str], set[str]] = defaultdict(set)
    for number, own in enumerate(listed):
        for reference in own:
            for key in _KEYS:
                value = getattr(reference, key)
                if value is not None:
                    owners[key, value].append(number)
                    if reference.path is not None:
                        contents[key, _normal(reference.path)].add(value)
            if reference.path is not None:
                owners["path", _normal(reference.path)].append(number)
    parents = list(range(len(listed)))
    for (key, value), numbers in owners.items():
        if key == "path" and any(len(contents[other, value]) > 1 for other in _KEYS):
            continue
        for number in numbers[1:]:
            _join(parents, numbers[0], number)
    roots = [_root(parents, number) for number in range(len(listed))]
    order = {root: place for place, root in enumerate(dict.fromkeys(roots))}
    return [order[root] for root in roots]


def changed_paths(references: Iterable[Reference]) -> list[str]:
    """Paths under which files speak of different models: one was written anew in between."""
    contents: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    shown: dict[str, str] = {}
    for reference in references:
        if reference.path is not None:
            shown.setdefault(_normal(reference.path), reference.path)
            for key in _KEYS:
                value = getattr(reference, key)
                if value is not None:
                    contents[_normal(reference.path)][key].add(value)
    return [shown[path] for path, found in contents.items() if any(len(values) > 1 for values in found.values())]


def of_base(source: Source) -> tuple[Reference, ...]:
    """The model that was pruned, as a file names it; nothing if it does not."""
    content, made = source.content, source.provenance
    match content:
        case CheckpointFile():
            own = Reference(source.path, source.sha256, content.summary.sha256)
            return own, Reference(tensors=content.base.sha256)
        case Plan() | ExportNote():
            lineage = getattr(content, "lineage", None)
            return (Reference(tensors=content.base.sha256 if lineage is None else lineage.root.sha256),)
        case Scores():
            tensors = None if content.base is None else content.base.sha256
            # `compare` names score files.
            return Reference(_text(made.get("checkpoint")), tensors=tensors), Reference(source.path)
        case FunctionsFile():
            return (Reference(_text(made.get("checkpoint")), tensors=content.base.sha256),)
        case CurveFile() | L0File() | LotteryFile():
            records = [each for key in ("checkpoints", "checkpoint", "late_reset") for each in recorded(made, key)]
            return tuple(Reference(_text(each.get("path")), tensors=_text(each.get("sha256"))) for each in records[:1])
    first = _compared_with(source)
    return () if first is None else (in_inputs(first, source),)


def _compared_with(source: Source) -> str | None:
    """The path of the model, or score file, that a file compares others with."""
    match source.content:
        case BenchFile():
            return source.content.models[0].name
        case CheckAnswer():
            return source.content.baseline
        case DriftFile():
            return source.content.before
        case CompareFile():
            return source.content.first
        case CostTable():
            return next((_text(each.get("path")) for each in recorded(source.provenance, "inputs")), None)
    return None


def in_inputs(path: str, source: Source) -> Reference:
    """A checkpoint that a file names, with the checksum that its provenance has of it."""
    for each in recorded(source.provenance, "inputs"):
        if each.get("path") == path:
            return Reference(path, file=_text(each.get("sha256")))
    return Reference(path)


def _text(value: object) -> str | None:
    """A string of a provenance, which may hold anything."""
    return value if isinstance(value, str) else None


def _normal(path: str) -> str:
    return os.path.normpath(os.path.abspath(path))


def _root(parents: list[int], number: int) -> int:
    while parents[number] != number:
        number = parents[number]
    return number


def _join(parents: list[int], first: int, second: int) -> None:
    roots = _root(parents, first), _root(parents, second)
    parents[max(roots)] = min(roots)
