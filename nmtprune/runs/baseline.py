"""What is checked before models are compared: enough sentences, the model's own direction, a baseline with a meaning.

What a comparison cannot be based on is refused, unless the user asks for it; what looks suspicious is a remark.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from nmtprune.data.examples import Examples
from nmtprune.errors import DataError, UsageError
from nmtprune.evaluate import sanity, tokenizers
from nmtprune.evaluate.metrics import Scored
from nmtprune.evaluate.sanity import Findings, Translations
from nmtprune.runs.run import QualitySettings

if TYPE_CHECKING:
    from nmtprune.data.corpus import Corpus
    from nmtprune.engines.base import Tokens
    from nmtprune.evaluate.metrics import TextMetric
    from nmtprune.model.search.options import Search

FEWEST, FEW = 10, 100
"""Sentences below which significance is refused, and below which it says little."""

ALLOW_BASELINE, ALLOW_FEW = "--allow-bad-baseline", "--allow-few-sentences"

_NO_POSITIONS = 1 << 30


C = TypeVar("C", bound="Corpus | Examples")


def with_remarks(corpus: C, settings: QualitySettings, *, tests: bool = True) -> C:
    """The corpus, or texts with labels, with remarks on what is to be measured on it.

    Args:
        corpus: of the comparison.
        settings: what is measured, and what the user puts up with.
        tests: a verdict depends on the significance of differences.

    Raises:
        DataError: too few sentences, or the reverse of the model's direction.
    """
    found = [*check_direction(corpus, allowed=settings.allow_bad_baseline)]
    found += check_sentences(corpus.name, len(corpus), allowed=settings.allow_few_sentences, verdict=tests)
    if not isinstance(corpus, Examples) and settings.metric == "bleu" and corpus.references:
        explicit = settings.bleu_tokenize is not None
        taken = settings.bleu_tokenize or tokenizers.sacrebleu_tokenizer(corpus.languages.target)
        found += tokenizers.doubts(taken, corpus.references[0], explicit=explicit)
    return replace(corpus, notes=(*corpus.notes, *found))


def check_sentences(name: str, sentences: int, *, allowed: bool, verdict: bool = True) -> list[str]:
    """A remark where significance is tested on few sentences.

    Args:
        name: of the data.
        sentences: number of them.
        allowed: the user asked to test on any number.
        verdict: something is decided by a test; otherwise tests are left out where they mean nothing.

    Raises:
        DataError: a verdict on so few sentences that it means nothing, and nobody asked for it.
    """
    if sentences >= FEW:
        return []
    if sentences >= FEWEST or allowed:
        return [f"{sentences} sentences: p-values and intervals from fewer than {FEW} say little"]
    if not verdict:
        return [f"{sentences} sentences: too few for p-values and intervals, which need {FEWEST} ({ALLOW_FEW})"]
    raise DataError(
        f"{name}: {sentences} sentences: no difference can be called significant on fewer than {FEWEST}: take more "
        f"sentences ({ALLOW_FEW} tests all the same)"
    )


def check_direction(corpus: "Corpus | Examples", *, allowed: bool = True) -> list[str]:
    """A remark where the data are for other languages than the model was trained for; none of texts with labels.

    Raises:
        DataError: they are for the reverse direction, and nobody asked for it.
    """
    if isinstance(corpus, Examples):
        return []
    trained = corpus.model.source_lang, corpus.model.target_lang
    if not all(trained):
        return []
    own = [tokenizers.language_code(language or "") for language in trained]
    data = [tokenizers.language_code(side) for side in (corpus.languages.source, corpus.languages.target)]
    if own[0] == own[1] or data == own or not set(data) & set(own):
        return []  # languages of other names say nothing
    said = f"the model translates from {trained[0]} to {trained[1]}, the data are {corpus.languages}"
    if data == own[::-1] and not allowed:
        raise DataError(f"{corpus.name}: {said}: turn -s and -t round ({ALLOW_BASELINE} measures all the same)")
    return [f"{said}: the wrong direction?"]


def carries_tests(sentences: int, settings: QualitySettings) -> bool:
    """Whether p-values and intervals are given at all, where no verdict depends on them."""
    return sentences >= FEWEST or settings.allow_few_sentences


def check_loss(corpus: "Corpus", scored: Scored, settings: QualitySettings, model: str) -> list[str]:
    """Remarks on the loss of the baseline of a comparison; arguments and errors as for `check_translations`."""
    found = sanity.of_loss(scored, len(corpus.target_vocabulary))
    return _settled(corpus, found, model, allowed=settings.allow_bad_baseline)


def check_labels(examples: Examples, scored: Scored, settings: QualitySettings, model: str) -> list[str]:
    """Remarks on the labels of the baseline of a comparison; arguments and errors as for `check_translations`."""
    found = sanity.of_labels(scored, examples.targets, examples.label_names)
    return _settled(examples, found, model, allowed=settings.allow_bad_baseline)


def check_translations(
    corpus: "Corpus",
    metric: "TextMetric | None",
    translations: "Sequence[Tokens]",
    search: "Search",
    settings: QualitySettings,
    model: str,
) -> list[str]:
    """Remarks on the translations of the baseline of a comparison.

    Args:
        corpus: sentences, with references as the metric needs them.
        metric: by which models are compared; None where only their speed is: then there are remarks alone.
        translations: the baseline's translation of each sentence.
        search: that found them.
        settings: what the user puts up with.
        model: what a message calls the baseline.

    Raises:
        DataError: the baseline means nothing, and nobody asked to go on.
    """
    output = _output(corpus, translations, search)
    found = sanity.of_translations(output)
    if metric is not None:
        found = sanity.of_kind(output) + sanity.of_score(metric.scored(output.texts), output) + found
    return _settled(corpus, found, model, allowed=metric is None or settings.allow_bad_baseline)


def _settled(corpus: "Corpus | Examples", found: Findings, model: str, *, allowed: bool) -> list[str]:
    where = f"{corpus.name}: {model}"
    if found.faults and not allowed:
        faults = f"{where} means nothing: {'; '.join(found.faults)}"
        raise DataError(f"{faults} ({ALLOW_BASELINE} goes on all the same)", found.faults)
    return [f"{where}: {said}" for said in (*found.faults, *found.remarks)]


def _output(corpus: "Corpus", translations: "Sequence[Tokens]", search: "Search") -> Translations:
    """Translations of a corpus as text, next to sources and references."""
    return Translations(
        texts=corpus.texts(translations),
        sources=[corpus.source_text(place) for place in range(len(corpus))],
        references=corpus.references or (),
        cut=[_reached_limit(corpus, search, place, tokens) for place, tokens in enumerate(translations)],
    )


def _reached_limit(corpus: "Corpus", search: "Search", place: int, tokens: "Tokens") -> bool:
    """Whether a translation is as long as one may be.

    Where the longest source of a batch sets the limit, that of all sentences is taken: which share a batch is not known
    here, and no text that ended by itself may count as cut off.
    """
    ended = bool(tokens) and tokens[-1] == corpus.target_vocabulary.eos
    words = len(tokens) - ended
    if not words:
        return False
    width = int(corpus.source.sizes.max() if search.by_batch else corpus.source.sizes[place])
    try:
        longest = search.max_len(width, corpus.model.max_target_positions or _NO_POSITIONS)
    except UsageError:  # only the batch made room for the smallest length
        return False
    # Marian's search cuts off where the end of the sentence would have to come; fairseq's has room for it.
    return not ended or words >= longest + (not search.must_end)
