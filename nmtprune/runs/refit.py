"""`refit`: fit the output projections of a slim checkpoint so that it follows its base on a calibration text.

`refitted` is the step that other runs use, from checkpoint to checkpoint in memory; `refit` is the command around it.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtprune import strictjson
from nmtprune.data.directions import Sets
from nmtprune.data.examples import Examples
from nmtprune.data.mixture import parts_of
from nmtprune.data.text import STDIN
from nmtprune.errors import QualityGateError, UsageError
from nmtprune.methods.measuring import no_larger
from nmtprune.methods.texts import Texts
from nmtprune.runs.ancestry import Ancestry, ancestry, expanded, is_output_projection, is_refitted
from nmtprune.runs.device import choose_device
from nmtprune.runs.refit_sentences import (
    REFERENCES,
    TEXT,
    TRANSLATIONS,
    calibration_record,
    calibration_texts,
    counted,
    drawn_apart,
    has_targets,
    on_target_side,
    only_text,
    sentences_of,
    with_labels,
)  # fmt: skip
from nmtprune.runs.run import Computing, Run, Session, started

if TYPE_CHECKING:
    from nmtprune.data.batching import BatchLimits
    from nmtprune.data.corpus import Corpus
    from nmtprune.evaluate.verify import Verification
    from nmtprune.formats.base import Checkpoint
    from nmtprune.methods.refit import Fit, RefitSettings
    from nmtprune.model import Model
    from nmtprune.progress import Progress

_ROUNDING = 1e-6
"""Nats per token by which a loss may rise from rounding."""


@dataclass(frozen=True, kw_only=True)
class RefitRun(Run, Computing):
    """What `refit` is asked for.

    Attributes:
        base: the unpruned checkpoint.
        slim: what was cut from it.
        output: checkpoint to write.
        calibration_sentences: sentences of DATA to fit on, drawn with the seed.
        calibration_data: raw text to fit on in the place of DATA; None: DATA, from which sentences are held out anyway.
        calibration_on: REFERENCES or TRANSLATIONS, the base's own; None: references where the data have them.
        holdout_sentences: other sentences of DATA on which losses are compared.
        ridge: see `RefitSettings`.
        only: see `RefitSettings`.
        other_base: accept a base that `slim` was not cut from.
        verify: compare the result with the base under masks.
        force_worse: write the result even if the loss rises.
        limits: size of batches.
        seed: of the draw.
    """

    base: Path
    slim: Path
    output: Path
    calibration_sentences: int
    calibration_data: Sets | None = None
    calibration_on: str | None
    holdout_sentences: int
    ridge: float
    only: str | None
    other_base: bool
    verify: bool
    force_worse: bool
    limits: "BatchLimits"
    seed: int

    @property
    def inputs(self) -> list[Path]:
        """Both checkpoints, and what sentences are read from."""
        return [self.base, self.slim, *self.data.files, *(self.calibration_data.files if self.calibration_data else ())]

    def target_side(self, data: Sets) -> str:
        """The target side of sentences: REFERENCES or TRANSLATIONS."""
        return self.calibration_on or (REFERENCES if has_targets(data) else TRANSLATIONS)

    @property
    def translates(self) -> bool:
        """Whether some target side is the base's own translations."""
        return any(self.target_side(data) == TRANSLATIONS for data in (self.data, self.calibration_data or self.data))

    def check(self) -> None:
        """Refuse a device that is not there, and settings that no fit can have."""
        choose_device(self.device)
        _ = self.settings
        if self.inputs.count(STDIN) > 1:
            raise UsageError("only one of the texts can be standard input")

    def check_output(self) -> None:
        """Check that the checkpoint can be written."""
        from nmtprune.formats import class_of

        if str(self.output) == "-":
            raise UsageError("-o -: a checkpoint is a file: name one")
        class_of(self.slim).check_output(self.output, force=self.force, inputs=self.inputs)

    @property
    def settings(self) -> "RefitSettings":
        """How projections are fitted."""
        from nmtprune.methods.refit import RefitSettings

        return RefitSettings(self.ridge, self.only)


@dataclass(frozen=True)
class Refitted:
    """A refitted checkpoint.

    Attributes:
        checkpoint: in memory, without optimizer state, averages and gates.
        model: its native model.
        fit: what was fitted.
    """

    checkpoint: "Checkpoint"
    model: "Model"
    fit: "Fit"


@dataclass(frozen=True)
class RefitReport:
    """What `refit` found.

    Attributes:
        output: the file that was written.
        calibration: the text that projections were fitted on; see `calibration_record`.
        holdout: sentences and target tokens, of a classifier texts alone, on which losses were measured.
        loss: nats per held-out target token, or text, of ``base``, ``slim`` and ``refitted``; of several directions the
            mean.
        directions: the same of each of several directions by its name; empty for one.
        fit: what was fitted.
        against: what the result was compared with: ``base`` or ``slim``.
        verification: how the comparison ended; None where there was none.
        seconds: that the run took.
    """

    output: Path
    calibration: Mapping[str, Any]
    holdout: Mapping[str, int]
    loss: Mapping[str, float]
    directions: Mapping[str, Mapping[str, float]]
    fit: "Fit"
    against: str
    verification: "Verification | None"
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {
            "output": str(self.output),
            "calibration": dict(self.calibration),
            "holdout": dict(self.holdout),
            "loss": dict(self.loss),
            **({"directions": {name: dict(own) for name, own in self.directions.items()}} if self.directions else {}),
            "projections": [asdict(each) for each in self.fit.projections],
            "without_projection": list(self.fit.left),
            "norms_taken": list(self.fit.norms),
            "verification": {"against": self.against, **asdict(self.verification)} if self.verification else None,
            "seconds": self.seconds,
        }


def refitted(
    base: "Model",
    slim: "Checkpoint",
    texts: Sequence[Texts],
    settings: "RefitSettings | None" = None,
    record: Mapping[str, Any] | None = None,
    layers: Mapping[str, Sequence[int]] | None = None,
) -> Refitted:
    """A slim checkpoint with output projections fitted so that it follows `base`.

    Args:
        base: the native model of the unpruned checkpoint.
        slim: cut, masked or uniform.
        texts: sentences with their target side, see `calibration_texts`.
        settings: how to fit.
        record: what the lineage of the result says of the fit.
        layers: numbers in `base` of the layers that `slim` has, by stack that lost some.

    Raises:
        CheckpointError: states that are no finite numbers, or a model that nmtprune cannot run.
    """
    from nmtprune.engines import native
    from nmtprune.methods.refit import RefitSettings, fit_projections

    model = native.load_model(slim, base.device, base.dtype)
    stored, in_file = slim.native_tensors(), slim.file_names
    weights = [name for name in stored if is_refitted(name) and name.endswith(".weight")]
    fixed = frozenset(name.removesuffix(".weight") for name in weights if name not in in_file)
    projections = [name for name in weights if is_output_projection(name)]
    stored_as = stored[projections[0]].dtype if projections else None
    settings = replace(settings or RefitSettings(), fixed=fixed, stored_as=stored_as)
    fit = fit_projections(base, model, texts, settings, layers)
    lineage = slim.lineage
    if lineage is not None:
        lineage = lineage.model_copy(update={"refit": strictjson.freeze(record)})
    return Refitted(slim.with_native_tensors(fit.tensors, lineage), model, fit)


def refit(run: RefitRun, progress: "Progress") -> RefitReport:
    """Fit, compare and write.

    Raises:
        NmtpruneError: anything that is wrong with options, output, checkpoints or data, before any long work.
        CheckpointError: states that are no finite numbers, or a result that is not what it must be.
        QualityGateError: the loss of the held-out sentences rises; nothing is written.
    """
    with started(run, progress) as session:
        job = _prepare(run, session)
        return _write(run, job, _fitted(run, job, progress), session)


@dataclass(frozen=True)
class _Job:
    """A checked run, with its sentences."""

    base: "Checkpoint"
    slim: "Checkpoint"
    ancestry: Ancestry
    calibration: "Corpus | Examples"
    held_out: "Corpus | Examples"
    record: Mapping[str, Any]


def _prepare(run: RefitRun, session: Session) -> _Job:
    """Check everything that can be wrong, the cheapest first, and draw the sentences."""
    from nmtprune.formats import load

    base, slim = load(run.base), load(run.slim)
    found = ancestry(base, slim, other_base=run.other_base)
    named = run.calibration_data or run.data
    sides = [TEXT if only_text(base) else run.target_side(data) for data in (named, run.data)]
    corpora = [sentences_of(run, data, base, session) for data in dict.fromkeys((named, run.data))]
    for corpus in corpora:
        session.note(corpus)
    if isinstance(corpora[-1], Examples) and corpora[-1].labels is None:
        session.remark(f"{corpora[-1].name}: no labels: losses are those of the labels that {run.base} gives")
    parts = drawn_apart(run, corpora[0], corpora[-1], session.progress)
    calibration, held_out = on_target_side(run, base, parts, sides, session.progress)
    chosen = {"on": sides[0], "seed": run.seed, "ridge": run.ridge, "only": run.only or "all"}
    record = calibration_record(calibration, {**chosen, "base": base.sha256})
    return _Job(base, slim, found, calibration, held_out, record)


@dataclass(frozen=True)
class _Outcome:
    """A refitted checkpoint, and the losses of the three models: of all sentences, and of several directions of each.

    The loss of several directions is the mean of theirs.
    """

    result: Refitted
    loss: Mapping[str, float]
    directions: Mapping[str, Mapping[str, float]]


def _fitted(run: RefitRun, job: _Job, progress: "Progress") -> _Outcome:
    """The refitted checkpoint, and the losses of the three models on the held-out sentences."""
    import torch

    from nmtprune.engines import native
    from nmtprune.methods.refit import mean_loss

    if run.threads is not None:
        torch.set_num_threads(run.threads)
    tensors = [*job.base.model_tensors.values(), *job.slim.model_tensors.values()]
    double = any(tensor.dtype == torch.float64 for tensor in tensors)
    device, dtype = choose_device(run.device), torch.float64 if double else torch.float32
    base = native.load_model(job.base, device, dtype)
    limits = no_larger(run.limits)
    parts: Mapping[str, Corpus | Examples] = parts_of(job.held_out) or {"": job.held_out}
    held_out = {name: with_labels(calibration_texts(own, base, limits), base) for name, own in parts.items()}
    losses: dict[str, dict[str, float]] = {name: {} for name in held_out}

    def measure(name: str, model: "Model") -> None:
        for direction, texts in held_out.items():
            losses[direction][name] = mean_loss(model, texts)

    progress.begin("refitting", 3)
    measure("base", base)
    measure("slim", native.load_model(job.slim, device, dtype))
    progress.advance("losses before")
    texts = calibration_texts(job.calibration, base, limits)
    result = refitted(base, job.slim, texts, run.settings, job.record, job.ancestry.plan.kept_layers())
    progress.advance(f"{len(result.fit.projections)} projections")
    measure("refitted", result.model)
    progress.advance("loss after")
    for note in fit_notes(result.fit):
        progress.note(f"{run.slim}: {note}")
    every = [*losses.values()]
    loss = {name: math.fsum(own[name] for own in every) / len(every) for name in every[0]}
    return _Outcome(result, loss, losses if parts_of(job.held_out) else {})


def fit_notes(fit: "Fit") -> Iterator[str]:
    """What a user should know of a fit."""
    few = [each for each in fit.projections if each.tokens <= each.inputs]
    if few:
        least = min(few, key=lambda each: each.tokens / each.inputs)
        yield (
            f"too little text: {len(few)} projections have no more tokens than inputs ({least.name}: {least.tokens} "
            f"tokens, {least.inputs} inputs); the ridge makes the fit possible, more sentences make it good"
        )
    silent = [each for each in fit.projections if each.silent]
    if silent:
        most = max(silent, key=lambda each: each.silent)
        yield (
            f"inputs of {len(silent)} projections that never change on this text keep their weights (most of them: "
            f"{most.silent} of {most.inputs} of {most.name})"
        )
    if fit.norms:
        yield (
            "in front of layers that are gone, the norm takes gain and bias of the one behind them: "
            f"{', '.join(fit.norms)}"
        )
    if fit.left:
        yield f"without an output projection to fit, so as they were: {', '.join(fit.left)}"
    unbiased = [each.name for each in fit.projections if not each.bias]
    if unbiased:
        yield f"the format has no bias for {', '.join(unbiased)}: none was added"


def _write(run: RefitRun, job: _Job, outcome: _Outcome, session: Session) -> RefitReport:
    """Check the result and write it."""
    rises = "; ".join(_rises(outcome, len(job.held_out)))
    if rises:
        if not run.force_worse:
            raise QualityGateError(f"{run.slim}: {rises}: nothing was written (--force-worse writes it all the same)")
        session.progress.note(f"{run.slim}: {rises}")
    against = "base" if job.ancestry.same_weights else "slim"
    verification = _verified(job, outcome.result) if run.verify else None
    made = session.provenance(
        seed=run.seed,
        base=str(run.base),
        slim=str(run.slim),
        refit=dict(job.record),
        data={**job.held_out.inputs, **job.calibration.inputs},
        loss=dict(outcome.loss),
        **({"directions": {name: dict(own) for name, own in outcome.directions.items()}} if outcome.directions else {}),
        plan=job.ancestry.plan.as_json(),
        before=None if job.slim.provenance is None else json.loads(job.slim.provenance),
    )
    outcome.result.checkpoint.save(run.output, force=run.force, provenance=made)
    return RefitReport(
        output=run.output,
        calibration=job.record,
        holdout={"sentences": len(job.held_out), **counted(job.held_out)},
        loss=outcome.loss,
        directions=outcome.directions,
        fit=outcome.result.fit,
        against=against,
        verification=verification,
        seconds=session.seconds,
    )


def _rises(outcome: _Outcome, sentences: int) -> Iterator[str]:
    """Losses that are higher than before; of several directions each must not be."""
    for name, loss in (outcome.directions or {"": outcome.loss}).items():
        before, after = loss["slim"], loss["refitted"]
        if not after <= before + _ROUNDING:
            of = f"of {name} on its part of {sentences}" if name else f"on {sentences}"
            yield f"the loss {of} held-out sentences rises from {before:.4f} to {after:.4f}"


def _verified(job: _Job, result: Refitted) -> "Verification":
    """Compare the result with the base under masks and the fitted projections in their place.

    Where the slim checkpoint has other weights than the base (it was trained after it was cut), the result is compared
    with the model that was fitted.

    Raises:
        CheckpointError: they differ.
    """
    from nmtprune.engines import native
    from nmtprune.evaluate.verify import compare, verify

    if job.ancestry.same_weights:
        found = verify(expanded(job.base, result.checkpoint, job.ancestry.plan), result.checkpoint, job.ancestry.plan)
    else:
        found = compare(result.model, native.load_model(result.checkpoint, result.model.device, result.model.dtype))
    found.raise_if_different()
    return found
