"""Marian itself as an engine: pymarian, or the programs of a Marian that is installed, on models with all heads."""

import importlib.util
import shutil
import sys
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from nmtprune.architecture import Kept
from nmtprune.data.marian_vocabulary import SENTENCEPIECE, MarianVocabulary
from nmtprune.data.ragged import Sentences
from nmtprune.engines import toolkit
from nmtprune.engines.base import Ablation, Engine, EngineSettings, Tokens, batches_note, masked
from nmtprune.errors import EngineError
from nmtprune.model.search.options import Hypothesis, MarianSearchOptions

if TYPE_CHECKING:
    from nmtprune.data.corpus import Corpus
    from nmtprune.formats.base import Checkpoint

_WORKSPACE_MB = 512
_SENTENCES = 64
_FIELDS = " ||| "

PIECES = ("--no-spm-encode", "--no-spm-decode")
"""Options of marian-decoder with which a SentencePiece vocabulary takes and gives pieces."""


@dataclass(frozen=True)
class Names:
    """A vocabulary file that is written for Marian.

    Attributes:
        file: the vocabulary.
        names: by id, without blanks.
        ids: by name.
        eos: id of the end-of-sentence symbol.
        pieces: the file is a SentencePiece model, whose pieces are the names.
    """

    file: Path
    names: tuple[str, ...]
    ids: Mapping[str, int]
    eos: int
    pieces: bool = False

    @classmethod
    def listed(cls, vocabulary: MarianVocabulary, folder: Path, side: str) -> "Names":
        """Write a list of made-up names: whatever symbols a vocabulary has, and whichever ids have none."""
        names = [f"i{id}" for id in range(len(vocabulary))]
        names[vocabulary.eos], names[vocabulary.unk] = "</s>", "<unk>"
        file = folder / f"{side}.yml"
        file.write_text("".join(f'"{name}": {id}\n' for id, name in enumerate(names)), encoding="utf-8")
        return cls(file, tuple(names), {name: id for id, name in enumerate(names)}, vocabulary.eos)

    @classmethod
    def of_pieces(cls, vocabulary: MarianVocabulary, folder: Path, side: str) -> "Names":
        """Hand over a SentencePiece model itself, from which alone Marian knows the control characters to avoid."""
        file = folder / f"{side}{SENTENCEPIECE}"
        shutil.copyfile(vocabulary.path, file)
        return cls(file, vocabulary.symbols, vocabulary.index, vocabulary.eos, pieces=True)

    def write(self, sentences: Sentences, path: Path) -> Path:
        """Write sentences, a line each, without the end-of-sentence symbol that Marian adds."""
        with path.open("w", encoding="utf-8") as file:
            for place in range(len(sentences)):
                own = (self.names[token] for token in sentences[place].tolist()[:-1])
                file.write(" ".join(own) + "\n")
        return path

    def read(self, text: str) -> tuple[int, ...]:
        """Ids of a translation that Marian printed, with the end-of-sentence symbol that it leaves out."""
        return (*(self.ids[name] for name in text.split(" ") if name), self.eos)


@dataclass(frozen=True)
class Program:
    """How Marian is started.

    Attributes:
        decoder: command that translates.
        scorer: command that scores references.
    """

    decoder: tuple[str, ...]
    scorer: tuple[str, ...]

    @staticmethod
    def find() -> "Program | None":
        """Pymarian of this environment, else the programs on the PATH; None where there is neither."""
        if importlib.util.find_spec("pymarian") is not None:
            pymarian = (sys.executable, "-P", "-m", "pymarian")
            return Program((*pymarian, "decode"), (*pymarian, "score"))
        decoder = shutil.which("marian-decoder")
        return Program((decoder,), (shutil.which("marian-scorer") or "marian-scorer",)) if decoder else None


class MarianEngine(Engine):
    """Runs a Marian model by Marian's own commands, with zero output of removed heads and neurons and fewer layers."""

    def __init__(self, checkpoint: "Checkpoint", settings: EngineSettings) -> None:
        """Check that Marian is there and can run the model; nothing is started."""
        super().__init__(checkpoint, settings)
        program = Program.find()
        if program is None:
            raise EngineError(
                "Marian is not installed: pip install 'nmtprune[marian]', or have a marian-decoder on the PATH"
            )
        faults = list(checkpoint.toolkit_faults("marian"))
        if faults:
            raise EngineError.of_faults(f"{checkpoint.path}: the engine marian cannot run this model", faults)
        self.program = program

    @property
    def notes(self) -> tuple[str, ...]:
        """What Marian does whatever it is told, and whether it gets no batches."""
        return (*self.checkpoint.toolkit_notes, *batches_note("marian", self.settings))

    def translate(self, corpus: "Corpus", kept: Kept) -> list[list[Hypothesis]]:
        """Up to `beam` translations of every sentence."""
        return MarianAblation(corpus, self.settings, self).translations(kept) if len(corpus) else []

    def ablation(self, corpus: "Corpus") -> "MarianAblation":
        """Write the sentences for Marian; the files are deleted with the result."""
        return MarianAblation(corpus, self.settings, self)


class MarianAblation(Ablation):
    """Sentences and vocabularies in a temporary folder, and a run of Marian on them for every system.

    Marian gets names of token ids and vocabularies that list them, so that it reads the very ids that other engines
    read, whatever splits text into symbols, and gives back ids.
    """

    def __init__(self, corpus: "Corpus", settings: EngineSettings, engine: MarianEngine) -> None:
        """Write the sentences for Marian."""
        faults = list(_corpus_faults(corpus, cast(MarianSearchOptions, settings.search)))
        if faults:
            raise EngineError.of_faults(f"{corpus.name}: the engine marian cannot take these data", faults)
        self._corpus, self._settings, self._engine = corpus, settings, engine
        batches = settings.batches(corpus)
        self._order = np.concatenate(batches) if batches else np.zeros(0, dtype=np.int64)
        self._folder = Path(tempfile.mkdtemp(prefix="nmtprune-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        special = cast(MarianSearchOptions, settings.search).allow_special
        sides = (("source", corpus.source_vocabulary), ("target", corpus.target_vocabulary))
        source, self._target = (
            _names_of(cast("MarianVocabulary", vocabulary), self._folder, side, allow_special=special)
            for side, vocabulary in sides
        )
        self._source_names = source
        self._source = source.write(self._as_text(corpus.source.select(self._order)), self._folder / "source")

    def best(self, systems: Sequence[Kept]) -> list[list[Tokens]]:
        """The best translations under each of several systems."""
        return [[own[0].tokens for own in self.translations(kept)] for kept in systems]

    def translations(self, kept: Kept) -> list[list[Hypothesis]]:
        """Translations of every sentence under one system, in the order of the corpus.

        Whether a text was cut off is not printed: all end with the end-of-sentence symbol.

        Raises:
            EngineError: Marian failed, or left sentences out.
        """
        vocabulary = self._corpus.target_vocabulary
        found = [[Hypothesis((vocabulary.eos,), 0.0)] for _ in range(len(self._corpus))]
        search = _search(cast(MarianSearchOptions, self._settings.search))
        files = ("--input", str(self._source), "--n-best", *search, *self._batches(alone=self._settings.one_by_one))
        if self._target.pieces:
            files = (*files, *PIECES)
        by_line: dict[int, list[Hypothesis]] = {}
        names = (self._source_names, self._target)
        # Pieces may hold characters at which str.splitlines ends lines.
        for line in self._run("marian-decoder", self._engine.program.decoder, kept, names, files).split("\n")[:-1]:
            number, _, rest = line.partition(_FIELDS)
            text, _, score = rest.rsplit(_FIELDS, 2)
            *words, eos = self._target.read(text)
            tokens = (*(reversed(words) if self._corpus.model.right_to_left else words), eos)
            by_line.setdefault(int(number), []).append(Hypothesis(tokens, float(score)))
        self._check_complete("marian-decoder", len(by_line))
        for line_number, place in enumerate(self._order.tolist()):
            if self._corpus.source.sizes[place] > 1:  # older versions translate empty lines into something
                found[place] = by_line[line_number]
        return found

    def losses(self, systems: Sequence[Kept]) -> list[list[float]]:
        """Summed losses of the references under each of several systems.

        Raises:
            EngineError: Marian failed.
            ValueError: the corpus has no references as token ids.
        """
        target = self._corpus.target
        if target is None:
            raise ValueError(f"{self._corpus.name} has no references as token ids")
        references = Names.listed(cast("MarianVocabulary", self._corpus.target_vocabulary), self._folder, "references")
        texts = (
            self._source_names.write(self._as_text(self._corpus.source), self._folder / "all-source"),
            references.write(self._as_text(target), self._folder / "all-target"),
        )
        names = (self._source_names, references)
        files = ("--train-sets", *map(str, texts), *self._batches(alone=False))
        found = []
        for kept in systems:
            scores = self._run("marian-scorer", self._engine.program.scorer, kept, names, files).split()
            self._check_complete("marian-scorer", len(scores), len(self._corpus))
            found.append([-float(score) for score in scores])
        return found

    def _as_text(self, sentences: Sentences) -> Sentences:
        """Sentences as they are written: Marian itself turns those of a model that reads from right to left."""
        return sentences.backwards() if self._corpus.model.right_to_left else sentences

    def _run(
        self, name: str, program: Sequence[str], kept: Kept, names: tuple[Names, Names], files: Sequence[str]
    ) -> str:
        """What a command prints for the model with only these units left."""
        engine = self._engine
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            path = Path(folder) / "model.npz"
            masked(engine.checkpoint, kept).save(path)
            model = ("--models" if program == engine.program.decoder else "--model", str(path))
            vocabularies = ("--vocabs", *(str(side.file) for side in names))
            try:
                return toolkit.run(name, (*program, *model, *vocabularies, *files, *self._machine()), self._settings)
            except EngineError as error:
                raise EngineError(f"{engine.checkpoint.path}: {error}") from error

    def _machine(self) -> Iterator[str]:
        """Options that both commands take."""
        settings = self._settings
        yield from ("--workspace", str(_WORKSPACE_MB), "--quiet", "--max-length", str(self._longest()))
        if settings.device.type == "cpu":
            yield from ("--cpu-threads", str(settings.threads or 1))
        else:
            yield from ("--devices", "0")

    def _longest(self) -> int:
        """Tokens that a sentence may have: Marian leaves out those of more than 1000 unless it is told otherwise."""
        sides = (self._corpus.source, self._corpus.target)
        return max(1000, *(int(side.sizes.max()) for side in sides if side is not None and len(side)))

    def _batches(self, *, alone: bool) -> Iterator[str]:
        """Size of batches; Marian takes lines as they come."""
        limits = self._settings.limits
        yield from ("--mini-batch", "1" if alone else str(limits.max_sentences or _SENTENCES), "--maxi-batch", "1")
        if limits.max_tokens is not None and not alone:
            yield from ("--mini-batch-words", str(limits.max_tokens))

    def _check_complete(self, name: str, lines: int, wanted: int | None = None) -> None:
        wanted = len(self._order) if wanted is None else wanted
        if lines != wanted:
            where = self._engine.checkpoint.path
            raise EngineError(f"{where}: {name} answered {lines} of {wanted} sentences")


def _search(search: MarianSearchOptions) -> Iterator[str]:
    """The search, as marian-decoder takes it."""
    yield from ("--beam-size", str(search.beam), "--normalize", repr(float(search.normalize)))
    yield from ("--word-penalty", repr(float(search.word_penalty)), "--quiet-translation")
    yield from ("--max-length-factor", repr(float(search.max_length_factor)))
    yield from ("--allow-unk",) if search.allow_unk else ()


def _corpus_faults(corpus: "Corpus", search: MarianSearchOptions) -> Iterator[str]:
    """Why sentences cannot be written for Marian."""
    if corpus.frame.target_front:
        yield "`target_prefix`: Marian begins no translation with given words"
    target = corpus.target_vocabulary
    if not isinstance(target, MarianVocabulary):
        yield f"{corpus.source_vocabulary.path} is no vocabulary of Marian's"
        return
    model = target.sentencepiece
    if model is not None and target.control and not search.allow_special and model.relabelled:
        # Marian knows control characters from the SentencePiece model alone, and prints its pieces as they are.
        yield f"{target.path}: pieces with blanks, and control characters that may be chosen: give --allow-special"


def _names_of(vocabulary: MarianVocabulary, folder: Path, side: str, *, allow_special: bool) -> Names:
    """The vocabulary file with which Marian translates into a side, or from it.

    Args:
        vocabulary: of the side.
        folder: where the file is written.
        side: ``source`` or ``target``.
        allow_special: control characters may be chosen.
    """
    barred = side == "target" and bool(vocabulary.control) and not allow_special
    return (Names.of_pieces if barred else Names.listed)(vocabulary, folder, side)
