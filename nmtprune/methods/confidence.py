"""Confidence of attention heads: their mean maximum attention weight (Behnke and Heafield 2020, section 4.2).

confidence(head) = mean over query positions of max over keys of the attention weight, after the softmax. Tokens count
alike: the mean is over those of all sentences together, not over means of sentences.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from nmtprune.architecture import GroupId, UnitId
from nmtprune.data.examples import Examples
from nmtprune.errors import CheckpointError, DataError, UsageError
from nmtprune.methods.scorer import Needs, Scorer, Subject, setting

if TYPE_CHECKING:
    from torch import Tensor

    from nmtprune.architecture import Kept
    from nmtprune.budget import Limits
    from nmtprune.data.batching import Batch
    from nmtprune.data.examples import LabelledBatch
    from nmtprune.methods.joint_order import UnitPrices
    from nmtprune.model import Masks, Model


def confidence(
    model: "Model",
    batches: "Iterable[Batch | LabelledBatch]",
    *,
    left_out: tuple[int, int] | None = None,
    masks: "Masks | None" = None,
) -> dict[UnitId, float]:
    """Confidence of every head on sentences and their translations, teacher forced.

    Queries are the tokens of the source in the encoder, and the tokens of the target in decoder and cross-attention,
    where a position is that of the token which is predicted there: a head appears once per word of the output, as the
    paper counts. In decoder self-attention the first position sees itself alone and counts as 1 for every head (unless
    attention is joint). Padding is neither query nor key. Sums are taken in double precision.

    Args:
        model: an encoder-decoder model or a classifier.
        batches: sentences with references, or with translations in their place (`measuring.on_translations`); or texts,
            whose labels do not matter.
        left_out: leave out the queries of these symbols, of the source and of the target; those that end sentences
            for Voita et al. 2019: in the encoder the position of the symbol, in decoder and cross-attention the one
            that predicts it. It stays a key like others.
        masks: [H] of zeros and ones for modules that lost heads; the confidence is that in the model without them.

    Returns:
        From 0 to 1, for every head that the masks leave, in order; nothing for the others.

    Raises:
        DataError: no query positions.
        CheckpointError: attention weights that are no numbers.
        ValueError: batches without target side, masks of another shape or other values.
    """
    import torch

    from nmtprune.methods.measuring import by_unit, units_left
    from nmtprune.methods.texts import Texts
    from nmtprune.model import Pass

    left = units_left(model, masks)
    sums = {id: torch.zeros_like(mask, dtype=torch.float64) for id, mask in left.items()}
    counts = dict.fromkeys(left, 0)
    with torch.inference_mode():
        for batch in batches:
            texts = Texts.of(batch, model)

            def observe(module: GroupId, weights: "Tensor", texts: Texts = texts) -> None:
                if module in left:  # heads that only pad a uniform model are none
                    queries = texts.queries(module, left_out)
                    sums[module] += weights.amax(-1).double().masked_fill(~queries.unsqueeze(1), 0).sum((0, 2))
                    counts[module] += int(queries.sum())

            texts.features(model, Pass(masks or {}, observe))
    if not all(counts.values()):
        raise DataError("confidence: there are no tokens to measure it on")
    found = by_unit(left, {id: own / counts[id] for id, own in sums.items()})
    wrong = [str(head) for head, value in found.items() if not math.isfinite(value)]
    if wrong:
        raise CheckpointError(f"attention weights of {', '.join(wrong)} are no numbers: check the model's weights")
    return found


@dataclass(frozen=True, kw_only=True)
class ConfidenceOptions:
    """Options of confidence.

    Attributes:
        confidence_on: what the decoder reads.
        exclude_eos: leave out the queries of end-of-sentence symbols.
    """

    confidence_on: Literal["references", "translations"] = setting(
        "references",
        "Measure confidence with the references or with the model's own translations as decoder input.",
    )
    exclude_eos: bool = setting(False, "Leave out end-of-sentence positions when measuring confidence.")

    @property
    def translates(self) -> bool:
        """Whether confidence takes a search."""
        return self.confidence_on == "translations"


class Confidence(Scorer[ConfidenceOptions]):
    """Mean maximum attention weight of every head."""

    name = "confidence"
    summary = "mean maximum attention weight of the head (Behnke and Heafield 2020)."
    settings = ConfidenceOptions
    panel = "Confidence"
    unscored = dict.fromkeys(("neurons", "layers"), "confidence is that of attention weights, which only heads have")
    searches = "--confidence-on translations"

    @property
    def needs(self) -> Needs:
        """References as token ids, unless translations take their place."""
        return Needs(targets=not self.options.translates, search=self.options.translates)

    def scores(
        self,
        subject: Subject,
        kept: "Kept | None" = None,
        limits: "Limits | None" = None,
        prices: "UnitPrices | None" = None,
    ) -> Mapping[UnitId, float]:
        """From 0 to 1."""
        model, masks = subject.under(kept)
        corpus = subject.translated() if self.options.translates else subject.corpus
        left_out = None
        if self.options.exclude_eos and not isinstance(corpus, Examples):
            left_out = corpus.source_vocabulary.eos, corpus.target_vocabulary.eos
        return confidence(model, subject.batches(corpus), left_out=left_out, masks=masks)

    def check(self, subject: Subject) -> None:
        """Check that the texts have ends to leave out.

        Raises:
            UsageError: those of a classifier have none.
        """
        super().check(subject)
        if self.options.exclude_eos and subject.checkpoint.classifies:
            raise UsageError("`exclude_eos`: the texts of a classifier have no end-of-sentence symbol")

    def facts(self, subject: Subject) -> dict[str, Any]:
        """What the decoder read, and the search that found it."""
        facts = {"on": self.options.confidence_on, "exclude_eos": self.options.exclude_eos}
        return facts | (subject.search_facts() if self.options.translates else {})
