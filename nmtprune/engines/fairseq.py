"""Stock fairseq-generate as an engine: the reference that the native one is compared with.

Every system is a checkpoint of its own, without the layers that go and with zeros for the output of masked units, and a
process of its own. What fairseq does not print is not there: the symbol ``<s>`` inside a translation, which no trained
model makes.
"""

import importlib.util
import math
import re
import shutil
import sys
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from nmtprune.architecture import Kept
from nmtprune.data.databin import Languages, NumberedData, read_numbers
from nmtprune.data.ragged import Ids
from nmtprune.data.vocabulary import FairseqVocabulary
from nmtprune.engines import toolkit
from nmtprune.engines.base import Ablation, Engine, EngineSettings, Tokens, batches_note, masked
from nmtprune.errors import EngineError
from nmtprune.model.search.options import Hypothesis, SearchOptions, max_lens
from nmtprune.user_dir import USER_DIR

if TYPE_CHECKING:
    from nmtprune.data.corpus import Corpus
    from nmtprune.formats.base import Checkpoint

_LANGUAGES = Languages("source", "target")
_FRAMED_TASK = "translation_framed"
"""The task of the plug-in whose translations begin and end with given words."""

_SUBSET = "test"
"""fairseq shuffles every other subset before it sorts by length."""

_LINE = re.compile(r"([SH])-([0-9]+)\t(?:([^\t]+)\t)?(.*)")


@dataclass(frozen=True, eq=False)
class Generation:
    """Sentences that lie ready for fairseq-generate, and how it batches them.

    Attributes:
        corpus: where the sentences are from.
        order: their positions there, in the order in which they are written.
        folder: the data folder.
        settings: search, device and threads.
        batching: options of fairseq-generate.
    """

    corpus: "Corpus"
    order: Ids
    folder: Path
    settings: EngineSettings
    batching: tuple[str, ...]

    def write(self) -> "Generation":
        """Write the data folder.

        Raises:
            OutputError: it cannot be written.
        """
        corpus, order = self.corpus, self.order
        words = len(corpus.source_vocabulary), len(corpus.target_vocabulary)
        target = None if corpus.target is None else corpus.target.select(order)
        NumberedData(self.folder, _LANGUAGES, words).write(_SUBSET, corpus.source.select(order), target)
        return self

    def translations(self, checkpoint: Path, n_best: int) -> dict[int, list[Hypothesis]]:
        """Run fairseq-generate.

        Args:
            checkpoint: the model's file.
            n_best: translations per sentence, at most.

        Returns:
            By position in the corpus; fairseq may leave sentences out.

        Raises:
            EngineError: fairseq failed.
        """
        command = [sys.executable, "-P", "-m", "fairseq_cli.generate", *self._options(checkpoint, n_best)]
        return self._parsed(toolkit.run("fairseq-generate", command, self.settings))

    def _options(self, checkpoint: Path, n_best: int) -> Iterator[str]:
        profile, search = self.corpus.model, cast(SearchOptions, self.settings.search)
        longest = str(max(int(side.sizes.max()) for side in (self.corpus.source, self.corpus.target) if side))
        yield from (str(self.folder), "--user-dir", str(USER_DIR), "--path", str(checkpoint))
        yield from ("--gen-subset", _SUBSET)
        yield from _task(self.corpus)
        yield from ("--source-lang", _LANGUAGES.source, "--target-lang", _LANGUAGES.target)
        # Flags that turn the default around: padding before source sentences, behind target sentences.
        yield from () if profile.left_pad_source else ("--left-pad-source",)
        yield from ("--left-pad-target",) if profile.left_pad_target else ()
        # The model's own limits hold too: these are the task's, which must not be smaller.
        yield from ("--max-source-positions", longest, "--max-target-positions", longest)
        yield from ("--beam", str(search.beam), "--nbest", str(n_best), "--lenpen", repr(search.lenpen))
        yield from ("--max-len-a", repr(search.max_len_a), "--max-len-b", str(search.max_len_b))
        yield from ("--min-len", str(search.min_len), "--unkpen", repr(search.unkpen))
        yield from ("--unnormalized",) if search.unnormalized else ()
        yield from ("--cpu",) if self.settings.device.type == "cpu" else ()
        # Without it fairseq leaves sentences to as many processes as there are GPUs.
        yield from ("--distributed-world-size", "1", "--num-workers", "0", "--seed", "1", "--no-progress-bar")
        yield from self.batching

    def _parsed(self, output: str) -> dict[int, list[Hypothesis]]:
        """The sentences (S-) and their translations (H-) in what fairseq-generate printed."""
        found: dict[int, list[Hypothesis]] = {}
        eos = self.corpus.target_vocabulary.eos
        for match in filter(None, map(_LINE.fullmatch, output.split("\n"))):
            kind, number, score, text = match.groups()
            own = found.setdefault(int(self.order[int(number)]), [])
            if kind == "H":
                # fairseq prints scores to the base 2.
                own.append(Hypothesis((*read_numbers(text), eos), float(score) * math.log(2)))
        return found


def _task(corpus: "Corpus") -> Iterator[str]:
    """The task of fairseq: the plug-in's where translations begin or end otherwise than with ``</s>``."""
    vocabulary, front = corpus.target_vocabulary, corpus.frame.target_front
    if not front and vocabulary.eos == vocabulary.start == FairseqVocabulary.eos:
        yield from ("--task", "translation")
        return
    yield from ("--task", _FRAMED_TASK, "--end-word", str(vocabulary.eos), "--start-word", str(vocabulary.start))
    yield from ("--first-words", ",".join(map(str, front))) if front else ()


class FairseqEngine(Engine):
    """Runs a fairseq checkpoint by fairseq's own command, with nmtprune's plug-in for slim ones."""

    def __init__(self, checkpoint: "Checkpoint", settings: EngineSettings) -> None:
        """Check that fairseq is there and can run the model; nothing is started."""
        super().__init__(checkpoint, settings)
        if importlib.util.find_spec("fairseq") is None:
            raise EngineError("fairseq is not installed: pip install 'nmtprune[fairseq]'")
        faults = list(checkpoint.toolkit_faults("fairseq"))
        if faults:
            raise EngineError.of_faults(f"{checkpoint.path}: the engine fairseq cannot run this model", faults)
        self.plain = checkpoint.without_optimizer()

    @property
    def notes(self) -> tuple[str, ...]:
        """Whether fairseq gets no batches."""
        return batches_note("fairseq", self.settings)

    def translate(self, corpus: "Corpus", kept: Kept) -> list[list[Hypothesis]]:
        """Up to `beam` translations of every sentence."""
        if not len(corpus):
            return []
        return FairseqAblation(corpus, self.settings, self).translations(kept, self.settings.search.beam)

    def ablation(self, corpus: "Corpus") -> "FairseqAblation":
        """Write the sentences for fairseq; the files are deleted with the result."""
        return FairseqAblation(corpus, self.settings, self)


class FairseqAblation(Ablation):
    """Sentences in a temporary folder, and a run of fairseq-generate on them for every system."""

    def __init__(self, corpus: "Corpus", settings: EngineSettings, engine: FairseqEngine) -> None:
        """Write the sentences for fairseq."""
        faults = list(_corpus_faults(corpus))
        if faults:
            raise EngineError.of_faults(f"{corpus.name}: the engine fairseq cannot take these data", faults)
        if settings.one_by_one:
            settings = replace(settings, limits=replace(settings.limits, max_sentences=1, multiple=1))
        self._corpus, self._settings, self._engine = corpus, settings, engine
        batches = settings.batches(corpus)
        self._check_lengths(batches)
        self._folder = Path(tempfile.mkdtemp(prefix="nmtprune-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._generations = [generation.write() for generation in self._plan(batches)]

    def best(self, systems: Sequence[Kept]) -> list[list[Tokens]]:
        """The best translations under each of several systems."""
        translations = (self.translations(kept, 1) for kept in systems)
        return [[own[0].tokens if own else () for own in hypotheses] for hypotheses in translations]

    def losses(self, systems: Sequence[Kept]) -> list[list[float]]:
        """Refuse: no command of fairseq tells the loss of every sentence."""
        raise EngineError("the engine fairseq computes no losses: `metric` loss runs on `engine` native")

    def translations(self, kept: Kept, n_best: int) -> list[list[Hypothesis]]:
        """Translations of every sentence under one system, in the order of the corpus.

        Raises:
            EngineError: fairseq failed, or left sentences out.
        """
        where = self._engine.checkpoint.path
        found: dict[int, list[Hypothesis]] = {}
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            path = Path(folder) / "checkpoint.pt"
            masked(self._engine.plain, kept).save(path)
            for generation in self._generations:
                if not found.keys() >= set(generation.order.tolist()):
                    try:
                        found |= generation.translations(path, n_best)
                    except EngineError as error:
                        raise EngineError(f"{where}: {error}") from error
        missing = len(self._corpus) - len(found)
        if missing:
            raise EngineError(f"{where}: fairseq-generate left out {missing} of {len(self._corpus)} sentences")
        return [found[place] for place in range(len(self._corpus))]

    def _check_lengths(self, batches: Sequence[Ids]) -> None:
        """Refuse a minimum length above the maximum, which fairseq does with a traceback."""
        positions = self._corpus.model.max_target_positions
        if positions is not None:
            for batch in batches:
                max_lens(self._settings.search, self._corpus.source.sizes[batch].tolist(), positions)

    def _plan(self, batches: Sequence[Ids]) -> Iterator[Generation]:
        """Runs that translate exactly these batches.

        The sentences are written in the order of the batches, which sorting them again leaves as it is. fairseq 0.12.3
        drops the last batch where its size is no multiple of the one asked for: it gets a run of its own.
        """
        limits, last = self._settings.limits, batches[-1]
        is_dropped = len(last) % limits.multiple > 0
        if len(batches) > 1 or not is_dropped:
            batching = ["--required-batch-size-multiple", str(limits.multiple)]
            batching += ["--max-tokens", str(limits.max_tokens)] if limits.max_tokens is not None else []
            if limits.max_sentences is not None or limits.max_tokens is None:
                batching += ["--batch-size", str(limits.max_sentences or len(self._corpus))]
            yield self._generation("all", np.concatenate(batches), batching)
        if is_dropped:
            batching = ["--required-batch-size-multiple", "1", "--batch-size", str(len(last))]
            yield self._generation("last", last, batching)

    def _generation(self, name: str, order: Ids, batching: Sequence[str]) -> Generation:
        folder = self._folder / name
        folder.mkdir()
        return Generation(self._corpus, order, folder, self._settings, tuple(batching))


def _corpus_faults(corpus: "Corpus") -> Iterator[str]:
    """Why sentences cannot be written for fairseq."""
    for vocabulary in (corpus.source_vocabulary, corpus.target_vocabulary):
        if not isinstance(vocabulary, FairseqVocabulary):
            yield f"{vocabulary.path} is no dictionary of fairseq"
