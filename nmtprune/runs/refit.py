"""`refit`: fit the output projections of a slim checkpoint so that it follows its base on a calibration text.

`refitted` is the step that other runs use, from checkpoint to checkpoint in memory; `refit` is the command around it.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmtprune import strictjson
from nmtprune.data.text import STDIN
from nmtprune.errors import DataError, QualityGateError, UsageError
from nmtprune.methods.measuring import Texts, batches, no_larger, on_translations, selected
from nmtprune.runs.ancestry import Ancestry, ancestry, expanded, is_output_projection, is_refitted
from nmtprune.runs.baseline import check_direction
from nmtprune.runs.device import choose_device
from nmtprune.runs.run import Computing, Run, Session, started

if TYPE_CHECKING:
    from nmtprune.data.batching import BatchLimits
    from nmtprune.data.corpus import Corpus
    from nmtprune.data.options import DataOptions
    from nmtprune.evaluate.verify import Verification
    from nmtprune.formats.base import Checkpoint
    from nmtprune.methods.refit import Fit, RefitSettings
    from nmtprune.model import Transformer
    from nmtprune.progress import Progress

REFERENCES, TRANSLATIONS, TEXT = "references", "translations", "text"
"""Target sides of the calibration text; that of a language model is the text itself."""

_TABLES = r"decoder\.embedding\.(bands\.\d+\.)?tokens\.weight"
"""Native names of the tables that hold a row for each symbol of a language model."""

_LEAST_SHARE = 4
"""Where sentences are too few for both, one of this many is held out."""

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
    calibration_data: "DataOptions | None" = None
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
        """Both checkpoints and texts."""
        return [self.base, self.slim, *self.data.texts, *(self.calibration_data.texts if self.calibration_data else ())]

    def target_side(self, data: "DataOptions") -> str:
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
    model: "Transformer"
    fit: "Fit"


@dataclass(frozen=True)
class RefitReport:
    """What `refit` found.

    Attributes:
        output: the file that was written.
        calibration: the text that projections were fitted on; see `calibration_record`.
        holdout: sentences and target tokens on which losses were measured.
        loss: nats per held-out target token of ``base``, ``slim`` and ``refitted``.
        fit: what was fitted.
        against: what the result was compared with: ``base`` or ``slim``.
        verification: how the comparison ended; None where there was none.
        seconds: that the run took.
    """

    output: Path
    calibration: Mapping[str, Any]
    holdout: Mapping[str, int]
    loss: Mapping[str, float]
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
            "projections": [asdict(each) for each in self.fit.projections],
            "without_projection": list(self.fit.left),
            "norms_taken": list(self.fit.norms),
            "verification": {"against": self.against, **asdict(self.verification)} if self.verification else None,
            "seconds": self.seconds,
        }


def refitted(
    base: "Transformer",
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

    model = native.load(slim, base.device, base.dtype)
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


def calibration_texts(corpus: "Corpus", model: "Transformer", limits: "BatchLimits | None" = None) -> tuple[Texts, ...]:
    """The sentences of a corpus with their target side, batch by batch, where the model is.

    Raises:
        UsageError: a sentence has more tokens than a batch may have.
    """
    return tuple(Texts.of(batch, model) for batch in batches(corpus, limits))


def calibration_record(corpus: "Corpus", run_facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a lineage says of a calibration text: the SHA-256 of its token ids, sentences, and how it was chosen."""
    if corpus.target is None:
        raise ValueError("a calibration text without target side")
    digest = hashlib.sha256()
    for side in (corpus.source, corpus.target):
        for sentence in side:
            digest.update(np.asarray(sentence, dtype="<i8").tobytes() + b"|")
    return {"sha256": digest.hexdigest(), "sentences": len(corpus), **run_facts}


def has_targets(data: "DataOptions") -> bool:
    """Whether sentences come with a target side: subsets do, raw text with references."""
    return data.source is None or bool(data.reference)


def with_translations(corpus: "Corpus", base: "Checkpoint", run: Computing, limits: "BatchLimits") -> "Corpus":
    """A corpus with a checkpoint's own translations, by a run's engine and search, as its target side.

    Raises:
        EngineError: the engine cannot run the checkpoint.
    """
    from nmtprune.engines import open_engine

    engine = open_engine(run.engine, base, run.in_batches(limits))
    return on_translations(corpus, [hypotheses[0].tokens for hypotheses in engine.translate(corpus, {})])


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
    calibration: "Corpus"
    held_out: "Corpus"
    record: Mapping[str, Any]


def _prepare(run: RefitRun, session: Session) -> _Job:
    """Check everything that can be wrong, the cheapest first, and draw the sentences."""
    from nmtprune.formats import load

    base, slim = load(run.base), load(run.slim)
    found = ancestry(base, slim, other_base=run.other_base)
    named = run.calibration_data or run.data
    sides = [run.target_side(data) if base.network().encoder is not None else TEXT for data in (named, run.data)]
    corpora = [_sentences(run, data, base, session) for data in dict.fromkeys((named, run.data))]
    for corpus in corpora:
        session.note(corpus)
    parts = _drawn(run, corpora[0], corpora[-1], session.progress)
    calibration, held_out = _translated(run, base, parts, sides, session.progress)
    chosen = {"on": sides[0], "seed": run.seed, "ridge": run.ridge, "only": run.only or "all"}
    record = calibration_record(calibration, {**chosen, "base": base.sha256})
    return _Job(base, slim, found, calibration, held_out, record)


def _sentences(run: RefitRun, data: "DataOptions", base: "Checkpoint", session: Session) -> "Corpus":
    """Sentences of a translation model or lines of a language model."""
    return _lines(run, data, base) if base.network().encoder is None else _bitext(run, data, base, session)


def _bitext(run: RefitRun, data: "DataOptions", base: "Checkpoint", session: Session) -> "Corpus":
    """Sentences of a translation model.

    Raises:
        UsageError: references are needed, and nobody named them.
    """
    targets = run.target_side(data) == REFERENCES
    if targets and not has_targets(data):
        prefix = "calibration-" if data is run.calibration_data else ""
        raise UsageError(
            f"--calibration-on {REFERENCES}: --{prefix}source needs --{prefix}reference FILE; --calibration-on "
            f"{TRANSLATIONS} takes the base's own translations"
        )
    corpus = session.corpora.read(data, base.profile(), references=False, targets=targets)
    return replace(corpus, notes=(*corpus.notes, *check_direction(corpus)))


def _lines(run: RefitRun, data: "DataOptions", base: "Checkpoint") -> "Corpus":
    """Lines of a language model.

    Raises:
        UsageError: it is to be fitted on something else than text.
    """
    from nmtprune.data.monolingual import load_lines

    if run.calibration_on is not None:
        raise UsageError(f"--calibration-on {run.calibration_on}: {run.base} is a language model: it is fitted on text")
    symbols = sum(len(table) for name, table in base.native_tensors().items() if re.fullmatch(_TABLES, name))
    return load_lines(data, symbols, base.network().decoder.max_positions)


def _drawn(run: RefitRun, text: "Corpus", data: "Corpus", progress: "Progress") -> "tuple[Corpus, Corpus]":
    """Sentences of a text to fit on, and others of DATA to hold out, in the order of each.

    What is held out is not fitted on, wherever the same sentence stands again.
    """
    total, own = len(data), text is data
    if total < 2 and own:
        raise DataError(f"{data.name}: {total} sentences: one is needed to fit on, and another one to hold out")
    held_out, sentences = min(run.holdout_sentences, total), min(run.calibration_sentences, len(text))
    if own:
        sentences = min(sentences, total - min(held_out, max(1, total // _LEAST_SHARE)))
        held_out = min(held_out, total - sentences)
    order = np.random.default_rng(run.seed).permutation(total)
    held = order[sentences : sentences + held_out] if own else order[:held_out]
    known = set(_contents(selected(data, held)))
    if not own:
        order = np.random.default_rng(run.seed).permutation(len(text))
    fresh = np.array([content not in known for content in _contents(text)])
    fitted = order[fresh[order]][:sentences]
    if not len(fitted):
        raise DataError(f"{text.name}: every sentence is held out too: other sentences are needed to fit on")
    if len(fitted) < run.calibration_sentences or held_out < run.holdout_sentences:
        shown = f"{total} sentences: {len(fitted)} to fit on, {held_out} held out"
        if own:
            progress.note(f"{data.name}: {shown}")
        else:
            progress.note(f"{len(fitted)} sentences of {text.name} to fit on, {held_out} of {data.name} held out")
    return selected(text, np.sort(fitted)), selected(data, np.sort(held))


def _contents(corpus: "Corpus") -> Iterator[bytes]:
    """What tells sentences apart: the tokens of the source, of the text in a language model's."""
    side = corpus.target if corpus.target is not None and not corpus.source.sizes.any() else corpus.source
    return (np.asarray(sentence, dtype="<i8").tobytes() for sentence in side)


def _translated(
    run: RefitRun, base: "Checkpoint", parts: "Sequence[Corpus]", sides: Sequence[str], progress: "Progress"
) -> "tuple[Corpus, Corpus]":
    """Texts with the base's translations as their target side, where that is wanted."""
    if TRANSLATIONS not in sides:
        return parts[0], parts[1]
    progress.begin("translating", sides.count(TRANSLATIONS))
    found = []
    for part, side in zip(parts, sides, strict=True):
        if side == TRANSLATIONS:
            part = with_translations(part, base, run, run.limits)
            progress.advance(f"{len(part)} sentences")
        found.append(part)
    return found[0], found[1]


@dataclass(frozen=True)
class _Outcome:
    result: Refitted
    loss: Mapping[str, float]


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
    base = native.load(job.base, device, dtype)
    limits = no_larger(run.limits)
    held_out = calibration_texts(job.held_out, base, limits)
    progress.begin("refitting", 3)
    loss = {"base": mean_loss(base, held_out), "slim": mean_loss(native.load(job.slim, device, dtype), held_out)}
    progress.advance("losses before")
    texts = calibration_texts(job.calibration, base, limits)
    result = refitted(base, job.slim, texts, run.settings, job.record, job.ancestry.plan.kept_layers())
    progress.advance(f"{len(result.fit.projections)} projections")
    loss["refitted"] = mean_loss(result.model, held_out)
    progress.advance("loss after")
    for note in fit_notes(result.fit):
        progress.note(f"{run.slim}: {note}")
    return _Outcome(result, loss)


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
    before, after = outcome.loss["slim"], outcome.loss["refitted"]
    if not after <= before + _ROUNDING:
        rises = f"the loss on {len(job.held_out)} held-out sentences rises from {before:.4f} to {after:.4f}"
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
        plan=job.ancestry.plan.as_json(),
        before=None if job.slim.provenance is None else json.loads(job.slim.provenance),
    )
    outcome.result.checkpoint.save(run.output, force=run.force, provenance=made)
    tokens = int(job.held_out.counted.sum())
    return RefitReport(
        output=run.output,
        calibration=job.record,
        holdout={"sentences": len(job.held_out), "tokens": tokens},
        loss=outcome.loss,
        fit=outcome.result.fit,
        against=against,
        verification=verification,
        seconds=session.seconds,
    )


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
        found = compare(result.model, native.load(result.checkpoint, result.model.device, result.model.dtype))
    found.raise_if_different()
    return found
