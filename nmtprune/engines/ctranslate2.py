"""CTranslate2 as an engine: what a slim model gains where it is served."""

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtprune import ctranslate2_model
from nmtprune.architecture import Kept
from nmtprune.engines.base import Ablation, Engine, EngineSettings, Tokens, masked, removed
from nmtprune.errors import EngineError
from nmtprune.model.search.options import GenerateOptions, Hypothesis, MarianSearchOptions, Search, max_lens

if TYPE_CHECKING:
    from ctranslate2 import TranslationResult, Translator

    from nmtprune.data.corpus import Corpus
    from nmtprune.formats.base import Checkpoint


class CTranslate2Engine(Engine):
    """Exports a checkpoint into a temporary folder, and translates with it.

    Beams are searched as CTranslate2 searches them, which is not quite as fairseq or Marian do.
    """

    def __init__(self, checkpoint: "Checkpoint", settings: EngineSettings) -> None:
        """Check that CTranslate2 is there, and can run the model and the search; nothing is written."""
        super().__init__(checkpoint, settings)
        ctranslate2_model.check_exportable(checkpoint)
        faults = list(_search_faults(settings.search))
        if faults:
            raise EngineError.of_faults(f"{checkpoint.path}: the engine ctranslate2 cannot search so", faults)
        self._translators: dict[str, Translator] = {}

    def remarks(self, corpus: "Corpus") -> tuple[str, ...]:
        """That CTranslate2 does not ask the model about empty sentences, where other engines do."""
        if self.settings.search.skips_empty or not (corpus.source.sizes == 1).any():
            return ()
        return ("CTranslate2 gives an empty line an empty translation; fairseq and the native engine ask the model",)

    def translate(self, corpus: "Corpus", kept: Kept) -> list[list[Hypothesis]]:
        """Up to `beam` translations of every sentence, batch by batch."""
        return translations(self._translator(corpus, kept), corpus, self.settings) if len(corpus) else []

    def ablation(self, corpus: "Corpus") -> "CTranslate2Ablation":
        """Prepare to run the sentences with many choices of the units that stay."""
        return CTranslate2Ablation(self, corpus)

    def _translator(self, corpus: "Corpus", kept: Kept) -> "Translator":
        vocabularies = corpus.source_vocabulary, corpus.target_vocabulary
        if removed(self.checkpoint.architecture, kept):
            return _opened_temporarily(masked(self.checkpoint, kept), vocabularies, self.settings)
        ends = vocabularies[0].eos, vocabularies[1].eos, vocabularies[1].start
        key = f"{vocabularies[0].sha256} {vocabularies[1].sha256} {ends}"
        if key not in self._translators:
            found = _opened_temporarily(self.checkpoint, vocabularies, self.settings)
            self._translators[key] = found
        return self._translators[key]


class CTranslate2Ablation(Ablation):
    """An export and a run for every system."""

    def __init__(self, engine: CTranslate2Engine, corpus: "Corpus") -> None:
        self._engine, self._corpus = engine, corpus

    def best(self, systems: Sequence[Kept]) -> list[list[Tokens]]:
        """The best translations under each of several systems."""
        found = (self._engine.translate(self._corpus, kept) for kept in systems)
        return [[own[0].tokens if own else () for own in hypotheses] for hypotheses in found]

    def losses(self, systems: Sequence[Kept]) -> list[list[float]]:
        """Refuse: other engines compute the same losses."""
        raise EngineError("the engine ctranslate2 computes no losses: `metric` loss runs on `engine` native")


def _opened_temporarily(checkpoint: "Checkpoint", vocabularies: Any, settings: EngineSettings) -> "Translator":
    """A translator of a checkpoint, whose files are deleted with it."""
    folder = Path(tempfile.mkdtemp(prefix="nmtprune-"))
    try:
        ctranslate2_model.write_ctranslate2(checkpoint, vocabularies, folder, settings.compute_type)
        found = opened(folder, settings, settings.compute_type)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(found, shutil.rmtree, folder, ignore_errors=True)
    return found


def opened(folder: Path, settings: EngineSettings, compute_type: str = "default") -> "Translator":
    """The translator of an exported model.

    Args:
        folder: the model.
        settings: device and threads.
        compute_type: to compute in; ``default``: that of the weights, or what comes nearest to it on this machine.

    Raises:
        EngineError: CTranslate2 cannot load it here, or not compute in this type.
    """
    import ctranslate2

    device = settings.device
    try:
        return ctranslate2.Translator(
            str(folder),
            device=device.type,
            device_index=device.index or 0,
            compute_type=compute_type,
            inter_threads=1,
            intra_threads=settings.threads or 0,
        )
    except (RuntimeError, ValueError) as error:
        raise EngineError(f"{folder}: CTranslate2 cannot load it: {str(error).splitlines()[0]}") from error


def translations(translator: "Translator", corpus: "Corpus", settings: EngineSettings) -> list[list[Hypothesis]]:
    """Up to `beam` translations of every sentence, in the order of the corpus.

    Raises:
        UsageError: a minimum length above the maximum, or a sentence larger than a batch.
        EngineError: CTranslate2 failed.
    """
    source, target, search = corpus.source_vocabulary, corpus.target_vocabulary, settings.search
    found = [[Hypothesis((target.eos,), 0.0)] for _ in range(len(corpus))]
    # Not `encode`: an id that no symbol of the file has is a word of the model all the same.
    ids = {symbol: id for id, symbol in enumerate(target.symbols)}
    options = _options(search, corpus)
    added = None if ctranslate2_model.ends_otherwise(source) else -1
    for positions in settings.batches(corpus):
        limits = _limits(search, corpus, positions.tolist())
        sentences = {
            place: [source.symbols[token] for token in corpus.source[place].tolist()[:added]]
            for place, limit in limits.items()
            if limit and (corpus.source.sizes[place] > 1 or not search.skips_empty)
        }
        try:
            results = _within_limits(translator, sentences, limits, options)
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"{corpus.name}: CTranslate2 failed: {str(error).splitlines()[0]}") from error
        for place, result in results.items():
            texts = ((*(ids[word] for word in words), target.eos) for words in result.hypotheses)
            found[place] = [Hypothesis(text, score) for text, score in zip(texts, result.scores, strict=True)]
    return found


def _limits(search: Search, corpus: "Corpus", places: list[int]) -> dict[int, int]:
    """Words that CTranslate2 may give each of the sentences of a batch: it ends no text, it cuts texts off."""
    positions = corpus.model.max_target_positions or 2048
    longest = max_lens(search, corpus.source.sizes[places].tolist(), positions)
    return {place: own + (not search.must_end) for place, own in zip(places, longest, strict=True)}


def _within_limits(
    translator: "Translator", sentences: Mapping[int, list[str]], limits: Mapping[int, int], options: Mapping[str, Any]
) -> "dict[int, TranslationResult]":
    """Results for sentences that have a limit each, where CTranslate2 takes one limit for a batch.

    All are searched under the largest one; those whose own limit could have made a difference are searched again.
    """

    def searched(places: list[int], limit: int) -> "dict[int, TranslationResult]":
        texts = [sentences[place] for place in places]
        given = {**options, "target_prefix": [options["target_prefix"]] * len(texts)}
        results = translator.translate_batch(texts, **given, max_decoding_length=limit, return_scores=True)
        return dict(zip(places, results, strict=True))

    by_limit: dict[int, list[int]] = {}
    for place in sentences:
        by_limit.setdefault(limits[place], []).append(place)
    if len(by_limit) > 1 and _shows_when_it_ended(options):
        found = searched(list(sentences), max(by_limit))
        del by_limit[max(by_limit)]
    else:
        found = {}
    for limit, places in by_limit.items():
        again = [place for place in places if place not in found or not _ended_before(limit, found[place], options)]
        found |= searched(again, limit) if again else {}
    return found


def _shows_when_it_ended(options: Mapping[str, Any]) -> bool:
    """Whether results tell how long a search has taken: beams without a length penalty may outlast all that is kept."""
    return bool(options["beam_size"] == 1 or options["length_penalty"])


def _ended_before(limit: int, result: "TranslationResult", options: Mapping[str, Any]) -> bool:
    """Whether as many hypotheses as a search needs had ended before its last step under a limit."""
    longest = max(map(len, result.hypotheses), default=0)
    return len(result.hypotheses) == options["num_hypotheses"] and longest + 1 < limit


def _options(search: Search, corpus: "Corpus") -> Mapping[str, Any]:
    """The search as CTranslate2 takes it, but for its limit of length."""
    front = [corpus.target_vocabulary.symbols[token] for token in corpus.frame.target_front]
    common = {
        "beam_size": search.beam, "num_hypotheses": search.beam, "max_input_length": 0, "target_prefix": front or None,
    }  # fmt: skip
    if isinstance(search, MarianSearchOptions):
        vocabulary = corpus.target_vocabulary
        control = [] if search.allow_special else [[vocabulary.symbols[word]] for word in vocabulary.control]
        return {
            **common, "length_penalty": search.normalize, "min_decoding_length": 0,
            "disable_unk": not search.allow_unk, "suppress_sequences": control or None,
        }  # fmt: skip
    if isinstance(search, GenerateOptions):
        never = [[corpus.target_vocabulary.symbols[word]] for word in search.never]
        return {
            **common, "length_penalty": search.length_penalty, "min_decoding_length": search.min_len,
            "suppress_sequences": never or None,
        }  # fmt: skip
    lenpen = 0.0 if search.unnormalized else search.lenpen
    return {**common, "length_penalty": lenpen, "min_decoding_length": search.min_len}


def _search_faults(search: Search) -> Iterator[str]:
    """What of a search CTranslate2 does not do."""
    if search.word_penalty:
        yield f"`word_penalty` {search.word_penalty}"
    if search.unkpen:
        yield f"`unkpen` {search.unkpen}"
    if search.raw_keys:
        yield "`unnormalized_keys`"
