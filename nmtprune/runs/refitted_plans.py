"""The refitted models of plans: cut out of one checkpoint, and fitted to follow it on a calibration text."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nmtprune import slim
from nmtprune.data.directions import Sets
from nmtprune.plan import Plan
from nmtprune.runs.corpora import Corpora
from nmtprune.runs.run import MeasuringRun
from nmtprune.runs.subject import NativeModel

if TYPE_CHECKING:
    from nmtprune.data.corpus import Corpus
    from nmtprune.data.examples import Examples
    from nmtprune.formats.base import Checkpoint
    from nmtprune.methods.texts import Texts
    from nmtprune.model import Model
    from nmtprune.runs.refit import Refitted

DEFAULT_CALIBRATION = 2000
"""Sentences to refit on."""


class RefittedPlans:
    """Cuts plans out of one checkpoint and refits what is left; the last few results are kept for the next use.

    Attributes:
        record: what lineages say of the calibration text.
    """

    def __init__(
        self,
        checkpoint: "Checkpoint",
        model: "Callable[[], Model]",
        corpus: "Corpus | Examples",
        seed: int,
        kept: int = 1,
        on: str = "references",
    ) -> None:
        """Prepare; nothing is cut yet.

        Args:
            checkpoint: the unpruned checkpoint.
            model: gives its native model.
            corpus: the calibration text, with its target side as token ids; texts of a classifier.
            seed: with which the text was drawn.
            kept: number of results that are kept.
            on: what the target side is, as `runs.refit` names it.
        """
        from nmtprune.methods.refit import RefitSettings
        from nmtprune.runs.refit_sentences import calibration_record

        self._checkpoint, self._model, self._corpus, self._most = checkpoint, model, corpus, kept
        self._kept: dict[Plan, Refitted] = {}
        how = {"on": on, "seed": seed, "ridge": RefitSettings().ridge, "only": "all"}
        self.record: Mapping[str, Any] = calibration_record(corpus, {**how, "base": checkpoint.sha256})

    def of(self, plan: Plan) -> "Refitted":
        """The refitted model of a plan.

        Raises:
            CheckpointError: states that are no finite numbers.
        """
        key = Plan.of(plan.base, plan.kept_units)
        if key not in self._kept:
            while len(self._kept) >= self._most:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = self.fitted(slim.apply(plan, self._checkpoint.without_optimizer()), plan)
        return self._kept[key]

    def fitted(self, cut: "Checkpoint", plan: Plan) -> "Refitted":
        """A model that was cut by a plan and may have been trained, fitted to follow the unpruned one.

        Raises:
            CheckpointError: as for `of`.
        """
        from nmtprune.runs.refit import refitted

        return refitted(self._model(), cut, self._texts, record=self.record, layers=plan.kept_layers())

    @property
    def inputs(self) -> Mapping[str, str]:
        """SHA-256 of the files of the calibration text, by path."""
        return self._corpus.inputs

    def shared_with(self, corpus: "Corpus | Examples") -> int:
        """How many sentences of a corpus, or texts, are also in the calibration text, by what the encoder reads."""
        from nmtprune.runs.refit_sentences import contents_of

        known = {*contents_of(self._corpus)}
        return sum(content in known for content in contents_of(corpus))

    @cached_property
    def _texts(self) -> "tuple[Texts, ...]":
        from nmtprune.runs.refit_sentences import calibration_texts

        return calibration_texts(self._corpus, self._model())


def open_refitted_plans(
    native: NativeModel,
    data: Sets,
    sentences: int,
    corpora: Corpora,
    run: MeasuringRun,
    kept: int = 1,
) -> RefittedPlans:
    """Draw the calibration text, translate it where it has no references, and prepare to refit on it.

    Args:
        native: the unpruned checkpoint, whose translations take the place of references.
        data: the text to draw from.
        sentences: to draw.
        corpora: what the run has read.
        run: seed of the draw; engine, search and batches of translations.
        kept: number of results that are kept.

    Raises:
        NmtpruneError: bad data, or an engine that cannot run the checkpoint.
    """
    from nmtprune.methods.measuring import drawn
    from nmtprune.runs.refit_sentences import REFERENCES, TEXT, TRANSLATIONS, has_targets, with_translations

    checkpoint = native.checkpoint
    if checkpoint.classifies:
        examples = corpora.labelled(data, checkpoint.classifier_profile(), labels=False)
        texts = drawn(examples, sentences, run.seed)
        return RefittedPlans(checkpoint, lambda: native.model, texts, run.seed, kept, TEXT)
    targets = has_targets(data)
    corpus = corpora.read(data, checkpoint.profile(), references=False, targets=targets)
    corpus = drawn(corpus, sentences, run.seed)
    if not targets:
        corpus = with_translations(corpus, checkpoint, run, run.limits)
    on = REFERENCES if targets else TRANSLATIONS
    return RefittedPlans(checkpoint, lambda: native.translator, corpus, run.seed, kept, on)
