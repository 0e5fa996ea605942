"""The texts of a batch where a model is, as methods see them: what the model reads, and what its loss is that of.

A translation model reads a sentence and its reference, and its loss is that of every word of the reference. A
classifier reads one text, and its loss is that of its label. Methods need not know which: they take what `features`
gives to the output layer, with what is `expected` of it, and ask which positions are real.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from nmtprune.data.batching import Batch
from nmtprune.data.examples import LabelledBatch

if TYPE_CHECKING:
    from torch import Tensor

    from nmtprune.architecture import GroupId
    from nmtprune.model import Classifier, Model, Pass, Transformer
    from nmtprune.model.scope import Scope

ENCODER = "encoder"


class Texts(ABC):
    """B texts on the device of a model."""

    @staticmethod
    def of(batch: Batch | LabelledBatch, model: "Model") -> "Texts":
        """Take a batch to the model; ValueError for sentences without their target side."""
        if isinstance(batch, LabelledBatch):
            return LabelledTexts.of(batch, model)
        return SentencePairs.of(batch, model)

    @abstractmethod
    def __len__(self) -> int:
        """B."""

    @abstractmethod
    def real(self, stack: str) -> "Tensor":
        """The positions [B, T] of a stack that are no padding."""

    @property
    @abstractmethod
    def expected(self) -> "Tensor":
        """What the loss expects: the ids [N] of words or labels, one for each row of `features`; ValueError without."""

    @abstractmethod
    def enter(self, model: "Model") -> "tuple[Tensor, Scope]":
        """Input [B, S, D] of the encoder's first layer, and the scope of its tokens."""

    @abstractmethod
    def features(self, model: "Model", run: "Pass | None" = None) -> "Tensor":
        """What the output layer is given wherever something is expected, [N, E]."""

    def queries(self, group: "GroupId", left_out: tuple[int, int] | None = None) -> "Tensor":
        """Which positions [B, T] send queries in a group: tokens of the source in the encoder, else of the target.

        Those of the token `left_out` (of the source, of the target) do not count. In the decoder a position is that of
        the token predicted there.
        """
        real = self.real(group.stack)
        if left_out is None:
            return real
        return real & (self._read_in(group.stack) != left_out[group.stack != ENCODER])

    @abstractmethod
    def _read_in(self, stack: str) -> "Tensor":
        """The tokens [B, T] of the positions of a stack."""


@dataclass(frozen=True)
class SentencePairs(Texts):
    """Sentences with their references, of a translation model; of a language model the source is empty.

    Attributes:
        source: [B, S] token ids.
        previous: [B, T] decoder input.
        target: [B, T] token ids of the references.
        real_source: [B, S], false for padding.
        real_target: [B, T] likewise.
    """

    source: "Tensor"
    previous: "Tensor"
    target: "Tensor"
    real_source: "Tensor"
    real_target: "Tensor"

    @staticmethod
    def of(batch: Batch | LabelledBatch, model: "Model") -> "SentencePairs":
        """Take a batch to the model; ValueError where it has no target side."""
        if isinstance(batch, LabelledBatch) or batch.target is None or batch.previous is None:
            raise ValueError("a batch without references as token ids")
        padding, device = model.network.padding, model.device
        source, previous, target = (side.to(device) for side in (batch.source, batch.previous, batch.target))
        return SentencePairs(source, previous, target, source != padding, target != padding)

    def __len__(self) -> int:
        """Number of sentences."""
        return len(self.target)

    def real(self, stack: str) -> "Tensor":
        """Of the source in the encoder, of the target in the decoder."""
        return self.real_source if stack == ENCODER else self.real_target

    @property
    def expected(self) -> "Tensor":
        """Every word of the references."""
        return self.target[self.real_target]

    def enter(self, model: "Model") -> "tuple[Tensor, Scope]":
        """Source sentences."""
        from nmtprune.model.scope import Probe

        if model.encoder is None:
            raise ValueError("a language model has no encoder")
        return model.encoder.begin(self.source, Probe())

    def features(self, model: "Model", run: "Pass | None" = None) -> "Tensor":
        """Of every word of the references, teacher forced."""
        from nmtprune.model import Pass

        translator, run = cast("Transformer", model), run or Pass()
        if translator.encoder is None:
            return translator.features(self.previous, None, run=run)[self.real_target]
        memory = translator.cache_source(translator.encode(self.source, run=run), by_head=False)
        return translator.features(self.previous, memory, run=run)[self.real_target]

    def _read_in(self, stack: str) -> "Tensor":
        return self.source if stack == ENCODER else self.target


@dataclass(frozen=True)
class LabelledTexts(Texts):
    """Texts of a classifier.

    Attributes:
        tokens: [B, S] token ids, padded on the right.
        segments: [B, S]; None: all tokens are in segment 0.
        labels: [B]; None where they are not known.
        real_tokens: [B, S], false for padding.
    """

    tokens: "Tensor"
    segments: "Tensor | None"
    labels: "Tensor | None"
    real_tokens: "Tensor"

    @staticmethod
    def of(batch: Batch | LabelledBatch, model: "Model") -> "LabelledTexts":
        """Take a batch to the model."""
        if isinstance(batch, Batch):
            raise ValueError("a batch of sentences to translate")
        batch = batch.to(model.device)
        return LabelledTexts(batch.tokens, batch.segments, batch.labels, batch.tokens != model.network.padding)

    def __len__(self) -> int:
        """Number of texts."""
        return len(self.tokens)

    def real(self, stack: str) -> "Tensor":
        """All tokens of the texts, those that begin, part and end them included."""
        # The head reads the first token alone, but a refit of the last layer on first tokens alone was no better.
        return self.real_tokens

    @property
    def expected(self) -> "Tensor":
        """The labels."""
        if self.labels is None:
            raise ValueError("texts without labels")
        return self.labels

    def labelled_by(self, model: "Model") -> "LabelledTexts":
        """The texts with the labels that a model finds most likely; themselves where their labels are known."""
        import torch

        if self.labels is not None:
            return self
        with torch.inference_mode():
            labels = model.output(self.features(model)).argmax(-1)
        return replace(self, labels=labels)

    def enter(self, model: "Model") -> "tuple[Tensor, Scope]":
        """The texts with their segments."""
        from nmtprune.model.scope import Probe

        return cast("Classifier", model).encoder.begin(self.tokens, Probe(), self.segments)

    def features(self, model: "Model", run: "Pass | None" = None) -> "Tensor":
        """The states [B, D] of first tokens, which the head reads."""
        return cast("Classifier", model).features(self.tokens, self.segments, run=run)

    def _read_in(self, stack: str) -> "Tensor":
        return self.tokens
