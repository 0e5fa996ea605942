"""Sentences of a corpus translated by stock fairseq-generate, in a process of its own."""

import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from nmtprune.data.databin import Languages
from nmtprune.data.sentences import Ids
from nmtprune.data.writing import NumberedData, read_numbers
from nmtprune.engines import toolkit
from nmtprune.engines.base import EngineSettings
from nmtprune.model.search.options import Hypothesis, SearchOptions
from nmtprune.user_dir import USER_DIR

if TYPE_CHECKING:
    from nmtprune.data.corpus import Corpus

_LANGUAGES = Languages("source", "target")
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
        yield from ("--task", "translation", "--gen-subset", _SUBSET)
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
