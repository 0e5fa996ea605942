"""`export`: a checkpoint as CTranslate2 serves it, written whole or not at all, and compared with the native engine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nmtprune import provenance
from nmtprune.data.options import DataOptions
from nmtprune.errors import EngineError
from nmtprune.files.folders import check_folder, folder_beside, put_in_place
from nmtprune.runs.report import ExportNote
from nmtprune.runs.run import Run, started
from nmtprune.runs.state import NO_SETTING

if TYPE_CHECKING:
    from nmtprune.data.corpus import Corpus
    from nmtprune.engines import EngineSettings
    from nmtprune.formats.base import Checkpoint
    from nmtprune.progress import Progress

NOTE = "nmtprune.json"
EQUAL = 0.995
"""Share of sentences whose greedy translations must be equal where weights are not rounded (`convert` too)."""

_MODEL = "model.bin"
_UNROUNDED = "float32"


@dataclass(frozen=True, kw_only=True)
class ExportRun(Run):
    """What `export` is given: vocabularies, and the sentences that are compared; without any, random words are.

    Attributes:
        checkpoint: the model.
        output: the folder to write.
        quantization: how weights are stored.
        verify: compare translations.
        sentences: how many at most.
        threads: CPU threads; None leaves the number to the engines.
    """

    data: DataOptions = field(metadata=NO_SETTING)
    checkpoint: Path
    output: Path
    quantization: str
    verify: bool = True
    sentences: int
    threads: int | None = None

    @property
    def inputs(self) -> list[Path]:
        """The model and what is read with it."""
        return [*self.data.files, self.checkpoint]

    def check_output(self) -> None:
        """Check that the folder is new or empty, or holds a model that may be replaced, and none of the inputs."""
        check_folder(self.output, _MODEL, "exported model", force=self.force, inputs=self.inputs)


@dataclass(frozen=True)
class UnequalTranslation:
    """A sentence that the two engines translate differently: its number from 0, texts and scores."""

    sentence: int
    native: str
    native_score: float
    exported: str
    exported_score: float


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        heads: per module of the encoder and of the decoder, zero heads included.
        padding: zero heads in all modules together.
        model_bytes: tensors of the checkpoint, and the file that holds those of the exported model.
        compared: sentences translated by both; 0 without verification.
        differences: those that came out differently.
        tokens: what CTranslate2 must be given with every sentence, by `Frame.describe`.
    """

    heads: tuple[int, int]
    padding: int
    model_bytes: tuple[int, int]
    compared: int
    differences: tuple[UnequalTranslation, ...]
    tokens: Mapping[str, str]


def export(run: ExportRun, progress: "Progress") -> Exported:
    """Write the folder; nothing is written where the model cannot run or translates differently.

    Raises:
        OutputError: the folder exists, or cannot be written.
        EngineError: CTranslate2 cannot run the model, is not installed, or translates it differently.
        NmtpruneError: bad checkpoint or data.
    """
    from nmtprune import ctranslate2_model as ctranslate2
    from nmtprune.formats import load
    from nmtprune.summary import model_bytes

    with started(run, progress) as session:
        checkpoint = load(run.checkpoint)
        ctranslate2.check_exportable(checkpoint)
        corpus = session.corpora.first(run.data, checkpoint.profile(), run.sentences)
        session.note(corpus)
        vocabularies = corpus.source_vocabulary, corpus.target_vocabulary
        with folder_beside(run.output) as folder:
            ctranslate2.write_ctranslate2(checkpoint, vocabularies, folder, run.quantization)
            compared, differences = _compared(run, checkpoint, corpus, folder) if run.verify else (0, ())
            _write_note(run, checkpoint, corpus.frame.describe(*vocabularies), folder)
            put_in_place(folder, run.output)
    return Exported(
        heads=ctranslate2.uniform_heads(checkpoint),
        padding=ctranslate2.padding_heads(checkpoint),
        model_bytes=(model_bytes(checkpoint), (run.output / _MODEL).stat().st_size),
        compared=compared,
        differences=differences,
        tokens=corpus.frame.describe(*vocabularies),
    )


def _compared(
    run: ExportRun, checkpoint: "Checkpoint", corpus: "Corpus", folder: Path
) -> tuple[int, tuple[UnequalTranslation, ...]]:
    """Greedy translations of both engines: there, what engines do with beams makes no difference.

    Raises:
        EngineError: too many differ although weights are not rounded.
    """
    from nmtprune.engines import ctranslate2, open_engine

    settings = _greedy(run, checkpoint)
    native = open_engine("native", checkpoint, settings).translate(corpus, {})
    exported = ctranslate2.translations(ctranslate2.opened(folder, settings), corpus, settings)
    differences = []
    for number, own, theirs in zip(corpus.numbers.tolist(), native, exported, strict=True):
        texts = [corpus.decode(found[0].tokens) if found else "" for found in (own, theirs)]
        if texts[0] != texts[1]:
            scores = [found[0].score if found else 0.0 for found in (own, theirs)]
            differences.append(UnequalTranslation(number, texts[0], scores[0], texts[1], scores[1]))
    if run.quantization == _UNROUNDED and len(differences) > (1 - EQUAL) * len(corpus):
        shown = "".join(f", '{each.native}' as '{each.exported}'" for each in differences[:1])
        counts = f"{len(differences)} of {len(corpus)} sentences"
        raise EngineError(f"{run.checkpoint}: CTranslate2 translates {counts} differently{shown}: nothing was written")
    return len(corpus), tuple(differences)


def _greedy(run: ExportRun, checkpoint: "Checkpoint") -> "EngineSettings":
    import torch

    from nmtprune.data.batching import BatchLimits
    from nmtprune.engines import EngineSettings

    search = checkpoint.search_options()(beam=1)
    return EngineSettings(search, BatchLimits.of(None, 32), torch.device("cpu"), run.threads)


def _write_note(run: ExportRun, checkpoint: "Checkpoint", tokens: Mapping[str, str], folder: Path) -> None:
    """What CTranslate2 does not ask for: where the model comes from."""
    note = ExportNote(
        format="nmtprune-export",
        version=1,
        base=checkpoint.base,
        lineage=checkpoint.lineage,
        quantization=run.quantization,
        provenance=provenance.collect(inputs=(run.checkpoint,)),
        **({"tokens": dict(tokens)} if tokens else {}),
    )
    (folder / NOTE).write_text(note.to_json(), encoding="utf-8")
