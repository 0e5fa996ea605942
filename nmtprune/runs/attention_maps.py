"""`attention`: the attention weights of heads on a few sentences, of the full model and under a plan."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nmtprune import files
from nmtprune.architecture import GroupId, UnitId, parse_heads
from nmtprune.data.batching import BatchLimits
from nmtprune.data.corpus import given_corpus
from nmtprune.data.options import DataOptions
from nmtprune.errors import CheckpointError, UsageError
from nmtprune.methods.measuring import on_translations
from nmtprune.methods.texts import Texts
from nmtprune.plan import Plan
from nmtprune.runs.attention_page import Floats, HeadMaps, Labels, SentenceMaps, page
from nmtprune.runs.baseline import check_direction
from nmtprune.runs.run import Computing, Run, started
from nmtprune.runs.state import NO_SETTING

if TYPE_CHECKING:
    from nmtprune.architecture import Kept
    from nmtprune.data.corpus import Corpus
    from nmtprune.data.vocabulary import Vocabulary
    from nmtprune.engines.native import NativeEngine
    from nmtprune.formats.base import Checkpoint
    from nmtprune.model import Masks, Transformer
    from nmtprune.progress import Progress

_START = "<s>"
_END = "</s>"

Weights = Mapping[GroupId, Floats]
"""Attention weights [H, T, S] by module."""


@dataclass(frozen=True, kw_only=True)
class AttentionRun(Run, Computing):
    """Settings of an `attention` run.

    Attributes:
        checkpoint: the model.
        sentences: source text, a sentence each.
        heads: heads to draw, in any spelling of `parse_heads`; None for all.
        plan: the pruned model is without the units that this plan removes; None draws the full model alone.
        other_weights: the plan may be made for other weights of the same shape.
        output: the page.
    """

    data: DataOptions = field(metadata=NO_SETTING)
    checkpoint: Path
    sentences: tuple[str, ...]
    heads: str | None = None
    plan: Path | None = None
    other_weights: bool = False
    output: Path

    @property
    def inputs(self) -> list[Path]:
        """Files that must not be written over."""
        return [self.checkpoint, *self.data.files, *([self.plan] if self.plan else [])]

    def check(self) -> None:
        """Refuse sentences that are empty or more than one line."""
        for number, sentence in enumerate(self.sentences, 1):
            if not sentence.strip() or len(sentence.split("\n")) > 1:
                raise UsageError(f"sentence {number} is {'more than one line' if sentence.strip() else 'empty'}")

    def check_output(self) -> None:
        """Check that the page can be written."""
        if str(self.output) == "-":
            raise UsageError("-o -: a page is a file: name one")
        if self.output.suffix.lower() not in (".html", ".htm"):
            raise UsageError(f"{self.output}: name a file that ends in .html")
        files.check_output(self.output, force=self.force, inputs=self.inputs)


def attention(run: AttentionRun, progress: "Progress") -> None:
    """Write the page.

    Raises:
        NmtpruneError: bad options, checkpoint, plan or sentences.
    """
    from nmtprune.engines.native import NativeEngine
    from nmtprune.formats import load

    with started(run, progress) as session:
        checkpoint = load(run.checkpoint)
        if checkpoint.network().encoder is None:
            raise CheckpointError(f"{run.checkpoint}: a language model: there are no sentences to translate")
        heads = _heads(run, checkpoint)
        kept = _kept(run, checkpoint)
        corpus = given_corpus(run.data, checkpoint.profile(), run.sentences)
        session.note(corpus)
        for remark in check_direction(corpus):
            session.remark(remark)
        engine = NativeEngine(checkpoint, run.in_batches(BatchLimits(max_sentences=1)))
        drawn = list(_sentences(run, engine, corpus, kept, heads))
        facts = {"model": str(run.checkpoint)} | ({"plan": str(run.plan)} if run.plan else {})
        made = session.provenance()
        facts |= {"written by": f"nmtprune {made['versions']['nmtprune']}, {made['time']}"}
        files.write_text(run.output, page(drawn, facts), force=run.force, inputs=run.inputs)


def _heads(run: AttentionRun, checkpoint: "Checkpoint") -> tuple[UnitId, ...]:
    architecture = checkpoint.architecture
    found = architecture.head_ids() if run.heads is None else parse_heads(run.heads, architecture)
    if not found:
        raise UsageError("--heads: no heads named: write encoder.0.3, or encoder.4 for a whole layer")
    return found


def _kept(run: AttentionRun, checkpoint: "Checkpoint") -> "Kept | None":
    """The units that the plan keeps; None without one."""
    if run.plan is None:
        return None
    plan = Plan.read(run.plan)
    plan.check(checkpoint.base, other_weights=run.other_weights, where=str(run.plan))
    return plan.kept_units


def _sentences(
    run: AttentionRun, engine: "NativeEngine", corpus: "Corpus", kept: "Kept | None", heads: Sequence[UnitId]
) -> Iterator[SentenceMaps]:
    """Each sentence with the maps of the heads."""
    from nmtprune.engines.native import with_kept

    translations = [hypotheses[0].tokens for hypotheses in engine.translate(corpus, {})]
    pruned = None if kept is None else [hypotheses[0].tokens for hypotheses in engine.translate(corpus, kept)]
    translated = on_translations(corpus, translations)
    under = None if kept is None else with_kept(engine.model, kept)
    stays = None if kept is None else engine.checkpoint.architecture.full(kept)
    for place, sentence in enumerate(run.sentences):
        full = _weights(engine.model, {}, translated, place)
        masked = None if under is None else _weights(*under, translated, place)
        labels = _Labels.of(translated, place)
        yield SentenceMaps(
            source=sentence,
            translation=corpus.decode(translations[place]),
            pruned_translation=None if pruned is None else corpus.decode(pruned[place]),
            heads=[
                HeadMaps(
                    head=str(head),
                    labels=labels.of_kind(head.group.kind, full[head.group].shape[2]),
                    full=full[head.group][head.number],
                    pruned=None if masked is None or stays is None or head.number not in stays[head.group]
                    else masked[head.group][head.number],
                )
                for head in heads
            ],
        )  # fmt: skip


def _weights(model: "Transformer", masks: "Masks", corpus: "Corpus", place: int) -> Weights:
    """Attention weights of every module on one sentence and its translation."""
    import torch

    from nmtprune.model import Pass

    found: dict[GroupId, Floats] = {}
    texts = Texts.of(corpus.batch(np.array([place])), model)
    with torch.inference_mode():
        run = Pass(masks, lambda module, weights: found.update({module: weights[0].double().cpu().numpy()}))
        texts.features(model, run)
    return found


@dataclass(frozen=True)
class _Labels:
    """The tokens of a sentence as the axes of maps show them."""

    source: tuple[str, ...]
    read: tuple[str, ...]
    predicted: tuple[str, ...]

    @classmethod
    def of(cls, corpus: "Corpus", place: int) -> "_Labels":
        """Labels of a sentence whose target is its translation."""
        if corpus.target is None:
            raise ValueError("a corpus without target side")
        source = _symbols(corpus.source_vocabulary, corpus.source[place].tolist())
        target = _symbols(corpus.target_vocabulary, corpus.target[place].tolist())
        return cls(source, (_START, *target[:-1]), target)

    def of_kind(self, kind: str, keys: int) -> Labels:
        """Labels of queries and of keys; where attention is joint, the source stands before the decoder's own."""
        if kind == "encoder":
            return self.source, self.source
        if kind == "cross":
            return self.predicted, self.source
        joint = self.source if keys > len(self.read) else ()
        return self.read, (*joint, *self.read)


def _symbols(vocabulary: "Vocabulary", tokens: list[int]) -> tuple[str, ...]:
    return tuple(_END if token == vocabulary.eos else vocabulary.string([token]) or str(token) for token in tokens)
