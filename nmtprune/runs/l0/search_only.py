"""`l0 --search-only`: gates alone on the weights as they are, natively; a plan, and nothing else."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtprune import files, provenance
from nmtprune.architecture import NEURON_KINDS
from nmtprune.errors import UsageError
from nmtprune.evaluate.cost import Lengths
from nmtprune.evaluate.prices import MultiplyAccumulates
from nmtprune.gates import (
    FIELDS,
    STEP,
    GateSettings,
    Travel,
    idle_remark,
    missed_remark,
    number_faults,
    open_units,
)
from nmtprune.methods.gate_search import GateSearch, search_gates, shuffled_batches
from nmtprune.plan import Plan
from nmtprune.runs.l0.gated_checkpoints import plan_of_open
from nmtprune.runs.l0.l0_setup import L0Run, gated_heads, gated_kinds, relative_costs
from nmtprune.runs.l0.run_folder import PLAN, start_afresh
from nmtprune.runs.run import Session, started
from nmtprune.runs.subject import NativeModel

if TYPE_CHECKING:
    from nmtprune.data.batching import Batch
    from nmtprune.data.corpus import Corpus
    from nmtprune.formats.base import Checkpoint
    from nmtprune.model import Transformer
    from nmtprune.progress import Progress

_OF_TRAINING = ("--gate-lr-scale", "--gate-freeze-updates", "--gate-only-updates", "--test-gate")
_TYPES: Mapping[str, Callable[[str], Any]] = {
    **dict.fromkeys(("init", "temperature", "step"), float),
    **dict.fromkeys(("target_heads", "min_heads"), int),
}
"""Fields of `GateSettings` whose options are numbers."""

_ADVICE = "give a larger --gate-step or more --search-updates"


@dataclass(frozen=True)
class FoundPlan:
    """What a search with one lambda has found.

    Attributes:
        weight: lambda.
        plan: of the checkpoint.
        expected: heads with gates that were open on average at the end; None where no head has a gate.
        path: where the plan was written.
    """

    weight: float
    plan: Plan
    expected: float | None
    path: Path

    @property
    def neurons(self) -> int:
        """Neurons that stay."""
        return self.plan.count_kept(NEURON_KINDS)


def search_plans(run: L0Run, progress: "Progress") -> tuple[FoundPlan, ...]:
    """Search with every lambda, and write the plans.

    Raises:
        UsageError: options that only a training has, settings that no gates can have.
        NmtpruneError: bad checkpoint, data or outputs.
    """
    from nmtprune.formats import load

    _refuse_options_of_trainings(run)
    with started(run, progress) as session:
        base = load(run.checkpoint)
        base.check_loss()
        kinds = gated_kinds(run, base)
        settings = _settings(run, kinds)
        corpus = session.corpora.read(run.training_text, base.profile(), references=False, targets=True)
        session.note(corpus)
        model = NativeModel(base, run).translator
        if not run.heads_alone:
            settings = replace(settings, costs=relative_costs(base, kinds, _prices(base, corpus, model)))
        _check(settings, base)
        for remark in _remarks(settings, run):
            session.remark(remark)
        files.make_folder(run.output)
        if not run.resume:
            start_afresh(run.output)
        return tuple(_search(run, weight, settings, base, corpus, model, session) for weight in run.weights)


def _refuse_options_of_trainings(run: L0Run) -> None:
    named = [option[0] for option in run.gates if option[0] not in FIELDS or option[0] in _OF_TRAINING]
    named += [name for name, given in (("--best", run.best), ("--refit", run.refit)) if given]
    faults = [f"{name} goes with a training" for name in named]
    faults += ["options of fairseq-train go with a training"] if run.given else []
    if faults:
        raise UsageError.of_faults("--search-only", faults)


def _settings(run: L0Run, kinds: tuple[str, ...]) -> GateSettings:
    """How gates work, as the options say.

    Raises:
        UsageError: settings that no gates can have.
    """
    values: dict[str, Any] = {"step": STEP, "lr_scale": 1.0, "freeze_updates": run.search_updates}
    for name, *words in run.gates:
        field = FIELDS[name]
        found = [_TYPES.get(field, float if len(words) > 1 else str)(word) for word in words]
        values[field] = tuple(found) if len(found) > 1 else found[0] if found else True
    return GateSettings(kinds=kinds, **values)


def _check(settings: GateSettings, base: "Checkpoint") -> None:
    """Refuse a number of heads that cannot be, and a search in which no gate can close."""
    faults = number_faults(settings.target_heads, settings.min_heads, gated_heads(base, settings.kinds))
    fault = _travel(settings).fault
    if faults or fault:
        raise UsageError.of_faults("gates", [*faults, *([fault] if fault else [])])


def _remarks(settings: GateSettings, run: L0Run) -> list[str]:
    """What may go wrong, as with trainings."""
    found = (_travel(settings).remark, idle_remark(run.weights, settings.target_heads))
    return [remark for remark in found if remark]


def _travel(settings: GateSettings) -> Travel:
    updates = settings.freeze_updates or 0
    return Travel(settings.step or 0.0, updates, settings.init, f" for {updates} updates", _ADVICE)


def _prices(base: "Checkpoint", corpus: "Corpus", model: "Transformer") -> MultiplyAccumulates:
    """Multiply-accumulates of the units, with the lengths of the sentences and their references."""
    target = corpus.target
    targets = corpus.source.sizes if target is None else target.sizes
    return MultiplyAccumulates.of(base, Lengths.of(corpus.source.sizes.tolist(), targets.tolist()), model)


def _search(  # noqa: PLR0913  # what one lambda shares with the others
    run: L0Run,
    weight: float,
    settings: GateSettings,
    base: "Checkpoint",
    corpus: "Corpus",
    model: "Transformer",
    session: Session,
) -> FoundPlan:
    """The plan of one lambda, written to its folder."""
    search = GateSearch(settings, run.search_updates, weight, base.label_smoothing(), run.seed)
    session.progress.begin(f"search gates with lambda {weight:g}", run.search_updates)

    def batches() -> "Iterator[Batch]":
        for batch in shuffled_batches(corpus, run.seed):
            yield batch
            session.progress.advance("updates,", passing=True)

    found = search_gates(model, batches(), search)
    units = {group.id: group.units for group in base.architecture.groups}
    plan = plan_of_open(base, open_units(settings, found.log_alphas, units))
    heads = sum(gated_heads(base, settings.kinds))
    name = f"l0-weight-{weight:g}"
    missed = missed_remark(name, found.expected, settings.target_heads, heads, "--search-updates")
    note = base.ragged_note(plan)
    for remark in (missed, f"{name}: {note}: slim with --mode uniform or masked" if note else None):
        if remark:
            session.remark(remark)
    record = provenance.collect(
        checkpoint={"path": str(run.checkpoint), "sha256": base.sha256},
        l0_weight=weight,
        gates=json.loads(settings.to_json()),
        updates=run.search_updates,
        seed=run.seed,
        data=dict(corpus.inputs),
    )
    path = run.folder(weight) / PLAN
    files.write_text(path, plan.with_provenance(record).to_json(), force=True, inputs=run.inputs)
    return FoundPlan(weight, plan, found.expected, path)
