"""`convert`: a model as the files of another toolkit, compared before it is put in place."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nmtprune import provenance
from nmtprune.data.options import DataOptions
from nmtprune.errors import CheckpointError, DataError
from nmtprune.files.folders import check_folder, folder_beside, put_in_place, writing
from nmtprune.profile import ModelProfile
from nmtprune.runs.export import EQUAL
from nmtprune.runs.run import Run, started
from nmtprune.runs.state import NO_SETTING

if TYPE_CHECKING:
    from nmtprune.convert import Portable
    from nmtprune.convert.target import ConversionTarget
    from nmtprune.data.corpus import Corpus
    from nmtprune.engines import EngineSettings
    from nmtprune.formats.base import Checkpoint
    from nmtprune.formats.settings_beside import DecoderSettings
    from nmtprune.model.search import Hypothesis, Search
    from nmtprune.progress import Progress


@dataclass(frozen=True, kw_only=True)
class ConvertRun(Run):
    """What `convert` is given.

    Attributes:
        data: the text on which both models are compared.
        checkpoint: the model.
        output: the folder to write.
        to: the toolkit, one of `convert.TARGETS`.
        sentences: how many are compared at most.
        max_positions: positions that are written for a model without a limit of its own.
        marian_positions: take Marian's own sinusoids for those that transformers computes in their place; translations
            may then differ, and are shown.
        threads: CPU threads; None leaves the number to the engine.
    """

    data: DataOptions = field(metadata=NO_SETTING)
    checkpoint: Path
    output: Path
    to: str
    sentences: int
    max_positions: int
    marian_positions: bool = False
    threads: int | None = None

    @property
    def inputs(self) -> list[Path]:
        """The model and what is read with it."""
        return [*self.data.files, self.checkpoint]

    def check_output(self) -> None:
        """Check that the folder is new or empty, or holds a model that may be replaced, and none of the inputs."""
        from nmtprune.convert.target import target_of

        check_folder(self.output, target_of(self.to).marker, "such model", force=self.force, inputs=self.inputs)


@dataclass(frozen=True)
class OtherTranslation:
    """A sentence that the converted model translates otherwise: its number from 0, and both texts."""

    sentence: int
    before: str
    after: str


@dataclass(frozen=True)
class Converted:
    """What was written.

    Attributes:
        model: the checkpoint in the folder.
        architecture: as the toolkit calls it.
        notes: what a user must know of it.
        compared: sentences that both models have translated.
        split_otherwise: sentences that become other tokens.
        differences: sentences with other translations.
        largest_difference: of the scores of equal translations, in natural logarithms.
        left_out: sentences that are longer than the converted model takes, or whose translations may be.
    """

    model: Path
    architecture: str
    notes: tuple[str, ...]
    compared: int
    split_otherwise: int
    differences: tuple[OtherTranslation, ...]
    largest_difference: float
    left_out: int


def convert(run: ConvertRun, progress: "Progress") -> Converted:
    """Write the folder; nothing is written where the toolkit cannot say the model, or it translates otherwise.

    Raises:
        OutputError: the folder exists, or cannot be written.
        CheckpointError: the toolkit cannot say the model, all reasons; or translations differ.
        NmtpruneError: bad checkpoint or data.
    """
    from nmtprune.convert.portable import with_marian_positions
    from nmtprune.convert.target import target_of
    from nmtprune.formats import load

    with started(run, progress) as session:
        checkpoint, target = load(run.checkpoint), target_of(run.to)
        if checkpoint.format == target.format:
            raise CheckpointError(f"{run.checkpoint}: is {checkpoint.a_model} already")
        corpus = replace(session.corpora.first(run.data, checkpoint.profile(), run.sentences), target=None)
        session.note(corpus)
        model = _portable(run, checkpoint, corpus)
        model = with_marian_positions(model) if run.marian_positions else model
        faults = list(target.faults(model))
        if faults:
            raise CheckpointError.of_faults(f"{run.checkpoint}: cannot be converted to {run.to}", faults)
        with folder_beside(run.output) as folder:
            with writing(run.output):
                made = provenance.collect(
                    inputs=(run.checkpoint,), converted={"format": checkpoint.format, "sha256": checkpoint.sha256}
                )
                notes = target.write(model, folder, made)
            found = _compared(run, model, target, folder)
            put_in_place(folder, run.output)
    return replace(found, model=target.model(run.output), notes=notes)


def _portable(run: ConvertRun, checkpoint: "Checkpoint", corpus: "Corpus") -> "Portable":
    from nmtprune.convert import Portable
    from nmtprune.convert.vocabularies import subword_models

    settings: DecoderSettings | None = type(checkpoint).decoder_settings(run.checkpoint)
    search = checkpoint.search_options()(**(settings.search if settings else {}))
    named = [run.data.subword_model(side) for side in ("source", "target")]
    pieces = [each[1] if each is not None and each[0] == "sentencepiece" else None for each in named]
    vocabularies = corpus.source_vocabulary, corpus.target_vocabulary
    return Portable(
        checkpoint=checkpoint,
        network=checkpoint.network(),
        architecture=checkpoint.architecture,
        tensors=checkpoint.native_tensors(),
        corpus=corpus,
        subwords=subword_models(vocabularies, (pieces[0], pieces[1])),
        search=search,
        max_positions=run.max_positions,
    )


def _compared(run: ConvertRun, model: "Portable", target: "ConversionTarget", folder: Path) -> Converted:
    """Token ids and greedy translations of both models, by the rules of the search of the first one.

    Every toolkit keeps the ids of symbols.

    Raises:
        CheckpointError: too many differ.
    """
    import numpy as np

    from nmtprune.engines import open_engine
    from nmtprune.formats import load

    converted = load(target.model(folder))
    corpus, sizes = model.corpus, model.corpus.source.sizes
    kept = np.array([place for place, size in enumerate(sizes.tolist()) if _fits(model, converted.profile(), size)])
    if not len(kept):
        raise DataError(
            f"{corpus.name}: all sentences, or translations of their length, are longer than {run.to} takes"
        )
    corpus = corpus.select(kept)
    again = _read_again(run, corpus, converted, target, folder)
    split = sum(corpus.source[place].tolist() != again.source[place].tolist() for place in range(len(corpus)))
    before = open_engine("native", model.checkpoint, _greedy(run, model.search, len(model.target)))
    after = open_engine("native", converted, _greedy(run, model.search, len(again.target_vocabulary)))
    texts = before.translate(corpus, {}), after.translate(again, {})
    differences, largest = _differences(corpus, again, *texts)
    allowed = (1 - EQUAL) * len(corpus)
    shown = "".join(f" ('{each.before}' as '{each.after}')" for each in differences[:1])
    faults = [f"{split} of {len(corpus)} sentences are split into other tokens"] if split > allowed else []
    if len(differences) > allowed and not run.marian_positions:
        faults.append(f"{len(differences)} of {len(corpus)} sentences are translated otherwise{shown}")
    if faults:
        where = f"{run.checkpoint}: nothing was written: converted to {run.to}"
        raise CheckpointError.of_faults(where, faults)
    return Converted(
        model=folder, architecture=converted.architecture_name, notes=(), compared=len(corpus), split_otherwise=split,
        differences=tuple(differences), largest_difference=largest, left_out=len(sizes) - len(kept),
    )  # fmt: skip


def _fits(model: "Portable", converted: ModelProfile, size: int) -> bool:
    """Whether the converted model takes a source of that many tokens, and the longest translation of it."""
    source, target = converted.max_source_positions, converted.max_target_positions
    longest = model.search.max_len(size, model.network.decoder.max_positions)
    return (source is None or size <= source) and (target is None or longest < target)


def _read_again(
    run: ConvertRun, corpus: "Corpus", converted: "Checkpoint", target: "ConversionTarget", folder: Path
) -> "Corpus":
    """The same sentences as the converted model reads them: from their text, or from their symbols where text is none.

    Args:
        run: what was given.
        corpus: the sentences as the model before reads them.
        converted: the model.
        target: its toolkit.
        folder: its files.
    """
    from nmtprune.data.corpus import given_corpus
    from nmtprune.data.text import read_text

    languages = corpus.languages
    given = replace(run.data, source_lang=languages.source, target_lang=languages.target)
    data = target.data(folder, given)
    if run.data.source is not None:
        lines = read_text(run.data.source).lines
        found = given_corpus(data, converted.profile(), [lines[number] for number in corpus.numbers])
        return replace(found, numbers=corpus.numbers, total=corpus.total)
    # Tokens of a subset or random ones: nothing splits them.
    found = given_corpus(data, converted.profile(), [""])
    return replace(found, source=corpus.source, numbers=corpus.numbers, total=corpus.total)


def _greedy(run: ConvertRun, search: "Search", words: int) -> "EngineSettings":
    """The search with one hypothesis, without barred words that a vocabulary does not have."""
    import torch

    from nmtprune.data.batching import BatchLimits
    from nmtprune.engines import EngineSettings
    from nmtprune.model.search import GenerateOptions

    if isinstance(search, GenerateOptions):
        search = replace(search, never=tuple(id for id in search.never if id < words))
    return EngineSettings(replace(search, beam=1), BatchLimits.of(None, 32), torch.device("cpu"), run.threads)


def _differences(
    corpus: "Corpus",
    again: "Corpus",
    before: "Sequence[Sequence[Hypothesis]]",
    after: "Sequence[Sequence[Hypothesis]]",
) -> tuple[list[OtherTranslation], float]:
    """Sentences whose translations are other tokens, and the largest difference of the scores of the others."""
    found, largest = [], 0.0
    for number, own, theirs in zip(corpus.numbers.tolist(), before, after, strict=True):
        tokens = [hypotheses[0].tokens if hypotheses else () for hypotheses in (own, theirs)]
        if tokens[0] != tokens[1]:
            found.append(OtherTranslation(number, corpus.decode(tokens[0]), again.decode(tokens[1])))
        elif own and theirs:
            largest = max(largest, abs(own[0].score - theirs[0].score))
    return found, largest
