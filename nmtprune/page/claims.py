"""What the files say of pruned models: what is gone, what that cost, and what it gained."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nmtprune.architecture import KINDS, NEURON_KINDS, SORTS
from nmtprune.page.identity import Reference, in_inputs, same_model
from nmtprune.page.inputs import PLAN, CheckpointFile, Source
from nmtprune.plan import Plan
from nmtprune.runs.report import BenchFile, CheckAnswer, Condition, CurveFile, CurveStep, L0File, LotteryFile, QualityOf

_SLIM = "slim.pt"


@dataclass(frozen=True)
class QualityChange:
    """A metric before and after.

    Attributes:
        metric: its name.
        value: of the pruned model; None where the file has the change alone.
        before: of the model that it is compared with.
        change: between the two.
        ci: 95 % interval of the change; None if it was not tested.
        p: two-sided p-value of the change.
        data: on which sentences.
        sentences: their number.
        source: the file that says so.
        on_choice: these are the sentences on which one of several plans was chosen.
    """

    metric: str
    value: float | None
    before: float | None
    change: float
    ci: tuple[float, float] | None
    p: float | None
    data: str
    sentences: int
    source: str
    on_choice: bool = False


@dataclass(frozen=True)
class Speed:
    """How much faster a model is.

    Attributes:
        ratio: median.
        ci: interval of the ratio.
        predicted: what multiply-accumulates say; None where the file does not.
        conditions: batch size and engine.
        source: the file that says so.
    """

    ratio: float
    ci: tuple[float, float]
    predicted: float | None
    conditions: str
    source: str


@dataclass(frozen=True)
class Size:
    """How large a model is.

    Attributes:
        share: of the model that it is compared with.
        after: parameters or bytes, of what is compared.
        before: likewise.
        unit: ``parameters`` or ``bytes``.
        source: the file that says so.
    """

    share: float
    after: float | None
    before: float | None
    unit: str
    source: str


@dataclass(frozen=True)
class Claim:
    """What one file says of one pruned model.

    Attributes:
        model: which one.
        name: for people.
        rank: files that measure come first where one has to be named.
        plan: what is left; None where the file has no names of units.
        removed: units that are gone and that there were, by sort.
        quality: measured by this file.
        speeds: likewise, the largest batches first.
        size: likewise.
        conditions: of `check`.
        absolute: parameters and bytes of this model alone.
    """

    model: tuple[Reference, ...]
    name: str
    rank: int
    plan: Plan | None = None
    removed: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    quality: QualityChange | None = None
    speeds: tuple[Speed, ...] = ()
    size: Size | None = None
    conditions: tuple[Condition, ...] = ()
    absolute: tuple[int, int] | None = None


@dataclass(frozen=True)
class PrunedModel:
    """All claims on one pruned model, those of the files that measure most first."""

    claims: tuple[Claim, ...]

    @property
    def name(self) -> str:
        """The path of its file, or of its plan."""
        return self.claims[0].name

    @property
    def plan(self) -> Plan | None:
        """What is left, where a file has it unit by unit."""
        return next((claim.plan for claim in self.claims if claim.plan is not None), None)

    @property
    def removed(self) -> Mapping[str, tuple[int, int]]:
        """Units that are gone and that there were, by sort."""
        found: dict[str, tuple[int, int]] = {}
        for claim in self.claims:
            found = {**claim.removed, **found}
        return {sort: found[sort] for sort in SORTS if sort in found}

    @property
    def qualities(self) -> list[QualityChange]:
        """Every measurement of quality."""
        return [claim.quality for claim in self.claims if claim.quality is not None]

    @property
    def speeds(self) -> list[Speed]:
        """Every measurement of speed."""
        return [speed for claim in self.claims for speed in claim.speeds]

    @property
    def sizes(self) -> list[Size]:
        """Every comparison of sizes."""
        return [claim.size for claim in self.claims if claim.size is not None]

    @property
    def conditions(self) -> list[Condition]:
        """Every condition that was checked."""
        return [condition for claim in self.claims for condition in claim.conditions]

    @property
    def known(self) -> int:
        """How many of the four questions its files answer."""
        return sum(map(bool, (self.removed, self.qualities, self.speeds, self.sizes)))


def pruned_models(sources: Sequence[Source]) -> list[PrunedModel]:
    """The pruned models that files speak of, those that most is known of first."""
    found = sorted(claims(sources), key=lambda claim: -claim.rank)
    numbers = same_model([claim.model for claim in found])
    models = [
        PrunedModel(tuple(claim for claim, own in zip(found, numbers, strict=True) if own == number))
        for number in range(max(numbers, default=-1) + 1)
    ]
    return sorted(models, key=lambda model: -model.known)


def claims(sources: Sequence[Source]) -> Iterator[Claim]:
    """Every claim of every file."""
    whole = {
        source.content.summary.sha256: source.content
        for source in sources
        if isinstance(source.content, CheckpointFile) and source.content.lineage is None
    }
    for source in sources:
        match source.content:
            case Plan():
                yield from _of_plan(source, sources)
            case CheckpointFile():
                yield from _of_checkpoint(source, whole)
            case CurveFile():
                yield from _of_curve(source, sources)
            case L0File():
                yield from _of_l0(source)
            case LotteryFile():
                yield from _of_lottery(source)
            case BenchFile():
                yield from _of_bench(source)
            case CheckAnswer():
                yield from _of_check(source)


def removed_by(plan: Plan) -> dict[str, tuple[int, int]]:
    """Units that a plan removes, of how many, by sort; heads always, others where any go."""
    found = {}
    for sort, kinds in SORTS.items():
        gone, total = len(plan.removed(kinds)), plan.count_base(kinds)
        if total and (gone or sort == "heads"):
            found[sort] = (gone, total)
    return found


def cut_by(plan: Plan) -> str:
    """The checksum of what a plan leaves of which model."""
    left = {str(group): units for group, units in plan.kept_units.items() if group.kind in (*KINDS, *NEURON_KINDS)}
    layers = {stack: list(numbers) for stack, numbers in plan.kept_layers().items()}
    text = json.dumps([plan.base.sha256, left, layers], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _of_plan(source: Source, sources: Sequence[Source]) -> Iterator[Claim]:
    plan: Plan = source.content
    if all(gone == 0 for gone, _ in removed_by(plan).values()):
        return
    path = Path(source.path)
    slim = next((own for own in sources if own.run is not None and _lies_beside(own, path, plan)), None)
    if slim is not None:
        # What a run refitted is another model than its plan cuts.
        yield Claim((Reference(slim.path, slim.sha256),), slim.path, 0, plan, removed_by(plan))
        return
    yield Claim((Reference(source.path, cut=cut_by(plan)),), source.path, 0, plan, removed_by(plan))


def _lies_beside(source: Source, path: Path, plan: Plan) -> bool:
    """Whether a checkpoint of a run is the model of the plan next to it, not one that an earlier run left there."""
    if path.name != PLAN or not isinstance(source.content, CheckpointFile) or Path(source.path).parent != path.parent:
        return False
    return _leave_the_same(source.content.plan, plan)


def _leave_the_same(one: Plan, other: Plan) -> bool:
    """Whether two plans keep the same units of the same model, as far as both of them record which there are."""
    groups = one.base.units.keys() & other.base.units.keys()
    return one.base.sha256 == other.base.sha256 and all(one.kept(group) == other.kept(group) for group in groups)


def _of_checkpoint(source: Source, whole: Mapping[str, CheckpointFile]) -> Iterator[Claim]:
    content: CheckpointFile = source.content
    if content.lineage is None:
        return
    plan, made = content.plan, content.provenance
    references = [Reference(source.path, source.sha256, content.summary.sha256)]
    # Weights that nothing has changed since `slim` cut them: those of the masked model that greedy measures.
    if "mode" in made and not {"refit", "seed", "l0_weight"} & made.keys():
        references.append(Reference(cut=cut_by(plan)))
    sizes = content.summary.total_parameters, content.summary.model_bytes
    before = whole.get(content.base.sha256)
    size = None
    if before is not None:
        after, total = sizes[1], before.summary.model_bytes
        size = Size(after / total, after, total, "bytes", source.path)
    yield Claim(tuple(references), source.path, 1, plan, removed_by(plan), size=size, absolute=sizes)


def score_under(step: QualityOf, metric: str) -> float:
    """The metric of a step, a model, ... under its name."""
    return float(getattr(step, metric))


def chosen_step(curves: CurveFile, plan: Plan | None) -> CurveStep:
    """The step that ``plan.json`` is the plan of; the last one within the allowed drop where that is not known."""
    steps = [step for curve in curves.curves for step in curve.steps]
    named = None if plan is None else plan.provenance.get("plan")
    for step in steps:
        if step.plan == named:
            return step
    allowed = []
    for step in curves.curves[0].steps:
        if not step.within_max_drop:
            break
        allowed.append(step)
    return (allowed or list(curves.curves[0].steps))[-1]


def plan_beside(source: Source, sources: Sequence[Source]) -> tuple[Plan | None, Source | None]:
    """The plan of a run folder, and the model that it wrote."""
    own = [other for other in sources if source.run is not None and other.run == source.run]
    plan = next((each.content for each in own if isinstance(each.content, Plan)), None)
    models = (each for each in own if isinstance(each.content, CheckpointFile))
    return plan, next((each for each in models if plan is None or _leave_the_same(each.content.plan, plan)), None)


def _of_curve(source: Source, sources: Sequence[Source]) -> Iterator[Claim]:
    curves: CurveFile = source.content
    if not curves.curves or not curves.curves[0].steps:
        return
    plan, slim = plan_beside(source, sources)
    step, first = chosen_step(curves, plan), curves.curves[0].steps[0]
    if step.removed == 0:
        return
    before, value = score_under(first, curves.metric), score_under(step, curves.metric)
    quality = QualityChange(
        curves.metric, value, before, value - before, (step.ci[0] - before, step.ci[1] - before), step.p,
        measured_on(curves), curves.sentences, source.path, True,
    )  # fmt: skip
    if slim is not None:
        references: tuple[Reference, ...] = (Reference(slim.path, slim.sha256),)
    elif curves.refit is None and plan is not None:
        references = (Reference(cut=cut_by(plan)),)
    else:
        references = (Reference(str(Path(source.path).with_name(PLAN))),)
    kinds = {kind for curve in curves.curves for kind in curve.kinds}
    counted = plan is None and kinds <= {*KINDS}
    removed = {"heads": (step.removed, curves.heads)} if counted else {}
    yield Claim(references, f"{source.path}, {step.plan}", -1, removed=removed, quality=quality)


def _of_l0(source: Source) -> Iterator[Claim]:
    found: L0File = source.content
    before = score_under(found.unpruned, found.metric)
    for run in found.runs:
        removed = {"heads": (found.unpruned.heads - run.kept, found.unpruned.heads)}
        if run.kept_neurons is not None and found.unpruned.neurons:
            removed["neurons"] = (found.unpruned.neurons - run.kept_neurons, found.unpruned.neurons)
        quality = QualityChange(
            found.metric, score_under(run.slim, found.metric), before, run.delta, run.ci, run.p,
            found.data, found.sentences, source.path,
        )  # fmt: skip
        parameters = run.slim.parameters, found.unpruned.parameters
        size = Size(parameters[0] / parameters[1], *parameters, "parameters", source.path)
        slim = _of_lambda(source, run.folder, alone=len(found.runs) == 1)
        yield Claim(
            (Reference(slim), Reference(os.path.join(run.folder, _SLIM))), f"{slim} (lambda {run.l0_weight:g})", 1,
            removed=removed, quality=quality, size=size,
        )  # fmt: skip


def _of_lambda(source: Source, folder: str, *, alone: bool) -> str:
    """Where the slim model of a lambda is now: run folders can be moved."""
    run = Path(source.path).parent
    return str((run if alone else run / os.path.basename(folder)) / _SLIM)


def _of_lottery(source: Source) -> Iterator[Claim]:
    found: LotteryFile = source.content
    first = next((model for model in found.converged if model.iteration == 0), None)
    for model in found.converged:
        if first is None or model.iteration == 0:
            continue
        value, before = score_under(model, found.metric), score_under(first, found.metric)
        quality = QualityChange(
            found.metric, value, before, value - before if model.delta is None else model.delta, model.ci, model.p,
            found.data, found.sentences, source.path,
        )  # fmt: skip
        size = Size(model.parameters / first.parameters, model.parameters, first.parameters, "parameters", source.path)
        path = str(Path(source.path).parent / model.model)
        yield Claim(
            (Reference(path),), f"{path} ({model.variant})", 1,
            removed={"heads": (model.removed, found.heads)}, quality=quality, size=size,
        )  # fmt: skip


def _of_bench(source: Source) -> Iterator[Claim]:
    found: BenchFile = source.content
    first = found.models[0]
    for model in found.models[1:]:
        quality = None
        value, before = (getattr(own, found.metric) for own in (model, first))
        if value is not None and before is not None:
            test = model.difference
            ci, p = (None, None) if test is None else (test.ci, test.p)
            change = value - before
            quality = QualityChange(
                found.metric, value, before, change, ci, p, found.data, found.sentences, source.path
            )
        speeds = tuple(
            Speed(
                timing.ratio.median, (timing.ratio.low, timing.ratio.high), timing.predicted,
                f"batches of {timing.batch_size}, {engine_of(found)}", source.path,
            )
            for timing in sorted(model.timings, key=lambda timing: -timing.batch_size)
        )  # fmt: skip
        size = Size(model.model_bytes / first.model_bytes, model.model_bytes, first.model_bytes, "bytes", source.path)
        removed = {"heads": (first.heads - model.heads, first.heads)} if model.heads < first.heads else {}
        yield Claim(
            (in_inputs(model.name, source),), model.name, 3,
            removed=removed, quality=quality, speeds=speeds, size=size,
        )  # fmt: skip


def measured_on(found: CurveFile) -> str:
    """The data of a sweep; of several directions also which figure of theirs it is."""
    return found.data if found.across is None else f"{found.across} of {found.data}"


def engine_of(found: BenchFile) -> str:
    """Engine, precision and threads of a `bench` run."""
    threads = f", {found.threads} thread{'s' if found.threads > 1 else ''}" if found.threads else ""
    return found.engine + (f" {found.compute_type}" if found.compute_type else "") + threads


def _of_check(source: Source) -> Iterator[Claim]:
    found: CheckAnswer = source.content
    by_option = {condition.option: condition for condition in found.conditions}
    size = by_option.get("--max-size")
    speeds = tuple(
        Speed(
            each.value, each.interval, None,
            ", ".join(filter(None, (found.engine, each.direction))), source.path,
        )
        for each in found.conditions
        if each.option == "--min-speedup" and each.interval is not None
    )  # fmt: skip
    yield Claim(
        (in_inputs(found.checkpoint, source),), found.checkpoint, 2, speeds=speeds,
        size=None if size is None else Size(size.value / 100, None, None, "bytes", source.path),
        conditions=found.conditions,
    )  # fmt: skip
