"""`l0 --search-only`: gates alone on the weights as they are, natively; a plan, and nothing else."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtprune import files, provenance
from nmtprune.architecture import NEURON_KINDS, UnitId
from nmtprune.errors import UsageError
from nmtprune.evaluate.cost import Lengths
from nmtprune.evaluate.prices import MultiplyAccumulates
from nmtprune.gates import GateSettings, open_masks, over_units
from nmtprune.methods.gate_search import FoundGates, GateSearch, search_gates, shuffled_batches
from nmtprune.plan import Plan
from nmtprune.runs.l0.gate_schedule import STEP
from nmtprune.runs.l0.l0_setup import PLAN, L0Run, gated_kinds, relative_costs
from nmtprune.runs.run import Session, started
from nmtprune.runs.subject import NativeModel

if TYPE_CHECKING:
    from nmtprune.data.batching import Batch
    from nmtprune.data.corpus import Corpus
    from nmtprune.formats.base import Checkpoint
    from nmtprune.model import Transformer
    from nmtprune.progress import Progress

_SETTINGS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "--gate": ("gate", str),
    "--gate-init": ("init", float),
    "--gate-temperature": ("temperature", float),
    "--gate-step": ("step", float),
    "--target-heads": ("target_heads", int),
    "--min-heads-per-module": ("min_heads", int),
}
"""Options of gates that a search knows: field of `GateSettings`, and type."""


@dataclass(frozen=True)
class FoundPlan:
    """What a search with one lambda has found.

    Attributes:
        weight: lambda.
        plan: of the checkpoint.
        expected: heads with gates that were open on average at the end.
        path: where the plan was written.
    """

    weight: float
    plan: Plan
    expected: float
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
        model = NativeModel(base, run).model
        if not run.heads_alone:
            settings = replace(settings, costs=relative_costs(base, kinds, _prices(base, corpus, model)))
        _check_number(settings, base)
        files.make_folder(run.output)
        return tuple(_search(run, weight, settings, base, corpus, model, session) for weight in run.weights)


def _refuse_options_of_trainings(run: L0Run) -> None:
    named = [option[0] for option in run.gates if option[0] not in (*_SETTINGS, "--gate-stretch", "--output-scaling")]
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
        if name in _SETTINGS:
            field, kind = _SETTINGS[name]
            values[field] = kind(words[0])
        elif name == "--gate-stretch":
            values["stretch"] = tuple(map(float, words))
        else:
            values["output_scaling"] = True
    return GateSettings(kinds=kinds, **values)


def _check_number(settings: GateSettings, base: "Checkpoint") -> None:
    """Refuse a number of heads that cannot be, and a search in which no gate can close."""
    modules = [module.heads for module in base.architecture if module.id.kind in settings.kinds]
    least, most, target = sum(min(settings.min_heads, own) for own in modules), sum(modules), settings.target_heads
    faults = []
    if target is not None and target > most:
        faults.append(f"--target-heads {target}: {most} heads have gates")
    if target is not None and target < least:
        faults.append(f"--target-heads {target}: --min-heads-per-module {settings.min_heads} keeps {least}")
    updates = settings.freeze_updates or 0
    if (settings.step or 0.0) * updates < settings.init:
        faults.append(
            f"gates move by {settings.step:g} per update: in {updates} updates they travel "
            f"{(settings.step or 0.0) * updates:.3g}, and close only after {settings.init:g}: "
            "give a larger --gate-step or more --search-updates"
        )
    if faults:
        raise UsageError.of_faults("gates", faults)


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
    plan = _plan(settings, found, base)
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


def _plan(settings: GateSettings, found: FoundGates, base: "Checkpoint") -> Plan:
    """The plan that removes the units whose gates are closed."""
    units = {group.id: group.units for group in base.architecture.groups}
    closed = [
        UnitId(id, number)
        for id, opened in open_masks(settings, found.log_alphas).items()
        for number, is_open in enumerate(over_units(id, opened, units[id]).tolist())
        if not is_open
    ]
    return Plan.removing(base.base, closed)
