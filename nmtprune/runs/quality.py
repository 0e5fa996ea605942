"""How quality is computed, and on how weak grounds models are compared: settings that every measuring command has."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nmtprune.errors import UsageError
from nmtprune.evaluate.metrics import Bleu, Chrf, Metric, TextMetric, TokenLoss

if TYPE_CHECKING:
    from nmtprune.data.corpus import Corpus
    from nmtprune.engines.base import Tokens

LOSS = "loss"


@dataclass(frozen=True, kw_only=True)
class QualitySettings:
    """What is measured, and what is put up with.

    Attributes:
        metric: ``bleu``, ``chrf`` or ``loss``.
        bleu_tokenize: a tokenizer of sacrebleu; None: the one that sacrebleu takes for the target language.
        lowercase: ignore case.
        allow_bad_baseline: compare with a baseline that means nothing.
        allow_few_sentences: test significance on fewer sentences than can carry it.
    """

    metric: str
    bleu_tokenize: str | None = None
    lowercase: bool = False
    allow_bad_baseline: bool = False
    allow_few_sentences: bool = False

    def faults(self) -> list[str]:
        """Options that mean nothing for the metric."""
        found = []
        if self.metric != "bleu" and self.bleu_tokenize is not None:
            found.append("--bleu-tokenize goes with --metric bleu")
        if self.metric not in ("bleu", "chrf") and self.lowercase:
            found.append("--lowercase goes with --metric bleu or chrf")
        return found

    def check(self) -> None:
        """Refuse options that mean nothing for the metric.

        Raises:
            UsageError: all of them.
        """
        found = self.faults()
        if found:
            raise UsageError("; ".join(found), found)


def metric_of(corpus: "Corpus", settings: QualitySettings) -> Metric:
    """The metric on the references of a corpus; a loss needs none.

    Raises:
        UsageError: no such tokenizer.
        EngineError: the packages or the model of the tokenizer are not there.
    """
    return TokenLoss() if settings.metric == LOSS else text_metric(corpus, settings)


def text_metric(corpus: "Corpus", settings: QualitySettings) -> TextMetric:
    """BLEU or chrF on the references of a corpus, likewise."""
    references = corpus.references or ()
    if settings.metric == "chrf":
        return Chrf(references, lowercase=settings.lowercase)
    language = corpus.languages.target
    return Bleu(references, tokenize=settings.bleu_tokenize, language=language, lowercase=settings.lowercase)


def texts_of(corpus: "Corpus", translations: "Sequence[Tokens]") -> list[str]:
    """Translations as text, as they are scored; an empty line for none."""
    return [corpus.decode(tokens) if tokens else "" for tokens in translations]
