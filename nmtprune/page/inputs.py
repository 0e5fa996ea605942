"""What the user named: every path is read as what it is, and a folder as the files of its run."""

import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from nmtprune import strictjson
from nmtprune.errors import DataError, NmtpruneError, OutputError
from nmtprune.files import sha256_file
from nmtprune.files.kinds import HEAD, describe
from nmtprune.files.places import describe_folder, describe_missing, is_of_transformers
from nmtprune.page.printed import recognised
from nmtprune.plan import Base, Lineage, Plan
from nmtprune.plan.faults import VERSIONS
from nmtprune.runs.json_model import faults_of
from nmtprune.runs.report import FILES, CurveFile, CurveOf, L0File, LotteryFile, MeanOf, QualityOf
from nmtprune.runs.state import FORMAT, saved_state
from nmtprune.scores import Scores

if TYPE_CHECKING:
    from nmtprune.summary import Summary

STATE, PLAN = "state.json", "plan.json"
RESULTS = ("curve.json", "l0.json", "lottery.json", "nmtprune.json")
MODELS = ("slim.pt", "slim.npz", "ticket.pt")
"""Files of a run folder: its results, and the models that it leaves."""

_PREFIX = "nmtprune-"
_NAMES = {
    "plan": "plan",
    "scores": "score file",
    "curve": "curves of greedy",
    "l0": "gates of l0",
    "lottery": "lottery",
    "bench": "speed by bench",
    "cost-table": "cost table of bench",
    "functions": "functions of heads",
    "check": "verdict of check",
    "export": "note of export",
}


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint as far as the page shows it.

    Attributes:
        summary: what `inspect` shows.
        base: the model that it was cut from, or itself.
        lineage: how it was cut; None if it was not.
        provenance: how nmtprune made it; empty if it did not.
    """

    summary: "Summary"
    base: Base
    lineage: Lineage | None
    provenance: Mapping[str, Any]

    @property
    def plan(self) -> Plan:
        """What is left of the model that was cut first."""
        return Plan.keep_all(self.base) if self.lineage is None else Plan.of(self.base, self.lineage.keep)


@dataclass(frozen=True)
class Unfinished:
    """A run that has not ended.

    Attributes:
        settings: what was asked for, by option.
        units: pieces of work that are done.
    """

    settings: Mapping[str, Any]
    units: Sequence[str]


@dataclass(frozen=True)
class Source:
    """A file of the page.

    Attributes:
        path: as the user named it or its folder.
        what: its kind.
        sha256: of its bytes; None where it cannot be read.
        content: what it says: a model of `runs.report`, a `CheckpointFile`, an `Unfinished`, ...; None if nothing can
            be shown.
        fault: why nothing can be shown.
        run: the run folder that it belongs to.
    """

    path: str
    what: str
    sha256: str | None = None
    content: Any = None
    fault: NmtpruneError | None = None
    run: Path | None = None

    @property
    def provenance(self) -> Mapping[str, Any]:
        """How it was made; empty where it does not say."""
        found = getattr(self.content, "provenance", None)
        return found if isinstance(found, Mapping) else {}


def recorded(made: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """The objects under a key of a provenance, one or several; a provenance is any JSON."""
    found = made.get(key)
    listed = found if isinstance(found, (list, tuple)) else [found]
    return [each for each in listed if isinstance(each, Mapping)]


@dataclass
class _Reader:
    """Reads every file once."""

    seen: set[Path] = field(default_factory=set)

    def read(self, path: Path) -> Iterator[Source]:
        """What a path stands for.

        Raises:
            DataError: there is nothing at this path.
        """
        if not path.exists():
            raise DataError(f"{path}: {describe_missing(path)}")
        if path.is_dir() and not is_of_transformers(path):
            yield from self._folder(path)
        else:
            yield from self._file(path, None)

    def _folder(self, folder: Path) -> Iterator[Source]:
        there = [folder / name for name in RESULTS if (folder / name).is_file()]
        if not there and (folder / STATE).is_file():
            yield from self._file(folder / STATE, folder)
        names = [*there, folder / PLAN, *sorted(folder.glob(f"l0-weight-*/{PLAN}"))]
        models = [folder / name for name in MODELS] + [
            path for path in sorted(folder.glob("l0-weight-*/*")) if path.name in MODELS
        ]
        found = [path for path in (*names, *models) if path.is_file()]
        for path in found:
            yield from self._file(path, folder)
        if not there and not (folder / STATE).is_file():
            fault = f"is no run folder: of what is in it, only {_listed(found)} is shown; name the others"
            yield Source(str(folder), "folder", fault=DataError(f"{folder}: {fault if found else _no_run(folder)}"))

    def _file(self, path: Path, run: Path | None) -> Iterator[Source]:
        real = path.resolve()
        if real in self.seen:
            return
        self.seen.add(real)
        try:
            what, content = _content(path)
            yield Source(str(path), what, sha256_file(path), content, run=run)
        except NmtpruneError as error:
            yield Source(str(path), "file that cannot be shown", _checksum(path), fault=error, run=run)


def read_sources(paths: Iterable[Path]) -> list[Source]:
    """Read every file, and those of every run folder, once.

    Raises:
        DataError: there is nothing at a path, or no file of several can be shown.
        NmtpruneError: of its own class, where there is one file alone and it cannot be shown.
    """
    reader = _Reader()
    found = [source for path in paths for source in reader.read(path)]
    faults = [source.fault for source in found if source.fault is not None]
    if faults and len(faults) == len(found):
        if len(faults) == 1:
            raise faults[0]
        raise DataError.of_faults("report: nothing can be shown", map(str, faults))
    return found


def plans_of_run(source: Source) -> dict[str, dict[str, Plan | None]]:
    """The plans that a run of `greedy`, `l0` or `lottery` made, by curve and by their paths in the run folder.

    `l0` and `lottery` have one series without a name. None stands for a plan that is not there any more.
    """
    folder, content = Path(source.path).parent, source.content
    match content:
        case CurveFile():
            named = {curve.name: [step.plan for step in curve.steps] for curve in content.curves}
        case L0File():
            # Run folders can be moved: what the file says of the place of a plan need not be so any more.
            alone = len(content.runs) == 1
            named = {"": [PLAN if alone else f"{Path(run.folder).name}/{PLAN}" for run in content.runs]}
        case LotteryFile():
            named = {"": [f"iterations/{Path(each.folder).name}/{PLAN}" for each in content.iterations]}
        case _:
            named = {}
    return {name: {path: _plan(folder / path) for path in paths} for name, paths in named.items()}


def _plan(path: Path) -> Plan | None:
    with suppress(NmtpruneError, OSError):
        return Plan.read(path) if path.is_file() else None
    return None


def _listed(paths: Sequence[Path]) -> str:
    return " and ".join(path.name for path in paths)


def _no_run(folder: Path) -> str:
    described = describe_folder(folder)
    if "no checkpoint" in described or "without a checkpoint" in described:
        return "is no run folder of greedy, l0 or lottery, and no model: name the files in it"
    return described


def _checksum(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        return sha256_file(path)
    except NmtpruneError:
        return None


def _content(path: Path) -> tuple[str, Any]:
    """The kind of a file, and what it says."""
    if not path.is_dir() and not path.is_file():
        raise DataError(f"{path}: is no regular file")
    head = _head(path)
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{":
        return _json(path)
    if path.name.endswith(".state") and zipfile.is_zipfile(path):
        return _unfinished(path)
    if path.is_file() and path.suffix in (".tsv", ".png", ".log"):
        raise DataError(f"{path}: is a table, a picture or a log: name the JSON file that it belongs to")
    return _checkpoint(path)


def _head(path: Path) -> bytes:
    if path.is_dir():
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(HEAD)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def _checkpoint(path: Path) -> tuple[str, CheckpointFile]:
    from nmtprune.formats import load
    from nmtprune.summary import summarize

    if path.is_file() and describe(path) is None and _is_text(path):
        raise DataError(f"{path}: is a text file, neither a checkpoint nor a JSON file of nmtprune's")
    checkpoint = load(path, finite=False)
    lineage = checkpoint.lineage
    made = checkpoint.provenance
    return "checkpoint", CheckpointFile(
        summary=summarize(checkpoint),
        base=checkpoint.base if lineage is None else lineage.root,
        lineage=lineage,
        provenance=_object(made),
    )


def _is_text(path: Path) -> bool:
    try:
        text = _head(path).decode("utf-8", "ignore")
    except DataError:
        return False
    return bool(text) and all(character.isprintable() or character in "\t\n\r\f" for character in text)


def _object(text: str | None) -> Mapping[str, Any]:
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _json(path: Path) -> tuple[str, Any]:
    text = strictjson.read(path, DataError)
    data = strictjson.loads(text, str(path), DataError)
    printed = recognised(data)
    if printed is not None:
        return ("drift of weights" if hasattr(printed, "before") else "correlation of score files"), printed
    named = data.get("format")
    if named == f"{_PREFIX}state":
        return _unfinished(path)
    if not isinstance(named, str) or not named.startswith(_PREFIX):
        raise DataError(
            f"{path}: is a JSON file that says nothing of a pruned model (plans, score files, results of greedy, l0, "
            "lottery, bench and check, and the JSON output of drift and compare are shown)"
        )
    name = named.removeprefix(_PREFIX)
    if name not in FILES:
        raise DataError(f"{path}: is a file of the format {strictjson.show(named)}, which this nmtprune does not show")
    _check_version(path, FILES[name], data.get("version"))
    return _NAMES[name], _validated(path, name, text, data)


def _check_version(path: Path, model: type[BaseModel], version: Any) -> None:
    field_of_model = model.model_fields.get("version")
    known = VERSIONS if field_of_model is None else get_args(field_of_model.annotation)
    if not strictjson.is_int(version) or version not in known:
        raise DataError(
            f"{path}: is of version {strictjson.show(version)} of its format; this nmtprune shows "
            f"{' and '.join(map(str, known))}"
        )


def _validated(path: Path, name: str, text: str, data: Any) -> Any:
    if name == "plan":
        return Plan.from_json(text, str(path))
    if name == "scores":
        return Scores.from_json(text, str(path))
    try:
        found = FILES[name].model_validate(data)
    except ValidationError as error:
        raise DataError.of_faults(f"{path}: damaged", faults_of(error)) from None
    faults = list(_lacking(found))
    if faults:
        raise DataError.of_faults(f"{path}: damaged", faults[:1])
    return found


def _lacking(found: BaseModel) -> Iterator[str]:
    """What a result of a run lacks although the names and types in it are right: steps, and the metric of models."""
    match found:
        case CurveFile():
            curves: list[CurveOf | MeanOf] = [*found.curves, *found.means]
            yield from (f"a curve of the order {curve.order} has no steps" for curve in curves if not curve.steps)
            measured: list[QualityOf] = [step for curve in curves for step in curve.steps]
        case L0File():
            measured = [found.unpruned, *(model for run in found.runs for model in (run.gated, run.slim))]
        case LotteryFile():
            measured = [*found.converged]
        case _:
            return
    if any(getattr(each, found.metric) is None for each in measured):
        yield f"there are models whose {found.metric} is missing"


def _unfinished(path: Path) -> tuple[str, Unfinished]:
    try:
        settings, units = saved_state(path)
    except OutputError as error:
        raise DataError(f"{path}: is the state of a run, and damaged") from error
    if any(settings.get(name) != value for name, value in FORMAT.items()):
        raise DataError(f"{path}: is the state of a run of another version of nmtprune")
    asked = {name: value for name, value in settings.items() if name not in FORMAT}
    return "run that is not finished", Unfinished(asked, tuple(units))
