"""The native model of a checkpoint, whatever its file format, and the engine that runs it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nmtprune.architecture import GroupId, Kept
from nmtprune.engines.base import Ablation, Engine, EngineSettings, Tokens, removed
from nmtprune.errors import CheckpointError, EngineError
from nmtprune.model import Transformer
from nmtprune.model import search as beam_search
from nmtprune.model.ablation.losses import reference_losses
from nmtprune.model.ablation.masked_search import MaskedSearch
from nmtprune.model.search import Hypothesis, MarianSearchOptions, Search, Symbols
from nmtprune.model.search.batched_greedy import BatchedGreedySearch

if TYPE_CHECKING:
    from nmtprune.data.corpus import Corpus
    from nmtprune.data.ragged import Ids
    from nmtprune.formats.base import Checkpoint
    from nmtprune.model.ablation.record import RecordedSearch

RECORDED_BYTES = 2 << 30
"""Memory for recorded searches; batches beyond it are searched again whenever they are needed."""


def load(
    checkpoint: "Checkpoint", device: "torch.device | str" = "cpu", dtype: "torch.dtype | None" = None
) -> Transformer:
    """The model of a checkpoint, full or slim, ready to compute.

    Args:
        checkpoint: a checkpoint of any format; its tensors are used in place where device and type allow it.
        device: where to compute.
        dtype: type to compute in; None: that of the weights, but single precision for half precision on a CPU.

    Raises:
        CheckpointError: the native model cannot run it, or tensors are missing or misshapen; all reasons.
    """
    try:
        return Transformer(checkpoint.network(), checkpoint.architecture, checkpoint.native_tensors(), device, dtype)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}", error.faults) from error


class NativeEngine(Engine):
    """Runs nmtprune's own model.

    Attributes:
        model: the model.
    """

    def __init__(self, checkpoint: "Checkpoint", settings: EngineSettings) -> None:
        """Build the model; the number of threads is that of the whole process."""
        super().__init__(checkpoint, settings)
        try:
            checkpoint.network()
        except CheckpointError as error:
            raise EngineError(f"{checkpoint.path}: {error}", error.faults) from error
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        self.model = load(checkpoint, settings.device)

    @property
    def notes(self) -> tuple[str, ...]:
        """Where Marian searches otherwise than it trains."""
        decoder, search = self.model.network.decoder, self.settings.search
        if not isinstance(search, MarianSearchOptions) or search.raw_keys or decoder.recurrent:
            return ()
        if "n" not in decoder.preprocess:
            return ()
        return (
            "pre-norm decoder: searched as it was trained; Marian up to 1.12 does not normalize keys and values in "
            "search, and gives other translations (`unnormalized_keys` gives the same)",
        )

    def translate(self, corpus: "Corpus", kept: Kept) -> list[list[Hypothesis]]:
        """Up to `beam` translations of every sentence, batch by batch."""
        search = self.settings.search
        masks, symbols = masks_of(self.model, kept), symbols_of(corpus, search)
        nothing = [Hypothesis((symbols.eos,), 0.0)]
        found: list[list[Hypothesis]] = [list(nothing) for _ in range(len(corpus))]
        batches = _searched(corpus, self.settings.batches(corpus), search.skips_empty)
        if search.beam == 1:
            greedy = BatchedGreedySearch(self.model, search, symbols, masks)
            for positions in batches:
                batch = corpus.batch(positions)
                greedy.translate(batch.source, batch.source_lengths.tolist(), batch.positions.tolist())
            for place, hypotheses in greedy.finish().items():
                found[place] = hypotheses
            return found
        for positions in batches:
            batch = corpus.batch(positions)
            lengths = batch.source_lengths.tolist()
            translations = beam_search.translate_batch(self.model, batch.source, lengths, search, symbols, masks)
            for place, hypotheses in zip(batch.positions.tolist(), translations, strict=True):
                found[place] = hypotheses
        return found

    def ablation(self, corpus: "Corpus") -> "NativeAblation":
        """Prepare to run the sentences under many head masks."""
        return NativeAblation(self.model, corpus, self.settings)


class NativeAblation(Ablation):
    """Searches once without masks, and repeats under masks only what they change.

    Attributes:
        free_bytes: memory left for recorded searches.
    """

    def __init__(self, model: Transformer, corpus: "Corpus", settings: EngineSettings) -> None:
        """Cut the corpus into batches; nothing is translated yet."""
        self._model, self._corpus = model, corpus
        self._batches, self._skips_empty = settings.batches(corpus), settings.search.skips_empty
        symbols = symbols_of(corpus, settings.search)
        self._nothing: Tokens = (symbols.eos,)
        self._search = MaskedSearch(model, settings.search, symbols)
        self._recorded: dict[int, list[RecordedSearch]] = {}
        self.free_bytes = RECORDED_BYTES

    def best(self, systems: Sequence[Kept]) -> list[list[Tokens]]:
        """The best translations under each of several systems."""
        masks = [masks_of(self._model, kept) for kept in systems]
        found: list[list[Tokens]] = [[self._nothing] * len(self._corpus) for _ in systems]
        for system, positions, texts in self._search.translations(_Records(self._records), masks):
            for place, text in zip(positions, texts, strict=True):
                found[system][place] = text
        return found

    def losses(self, systems: Sequence[Kept]) -> list[list[float]]:
        """Summed losses of the references under each of several systems.

        Raises:
            ValueError: the corpus has no references as token ids.
        """
        masks = [masks_of(self._model, kept) for kept in systems]
        found = [[0.0] * len(self._corpus) for _ in systems]
        for positions in self._batches:
            batch = self._corpus.batch(positions)
            if batch.previous is None or batch.target is None:
                raise ValueError(f"{self._corpus.name} has no references as token ids")
            losses = reference_losses(self._model, batch.source, batch.previous, batch.target, masks)
            for own, by_sentence in zip(found, losses.tolist(), strict=True):
                for place, loss in zip(batch.positions.tolist(), by_sentence, strict=True):
                    own[place] = loss
        return found

    def _records(self) -> "Iterator[RecordedSearch]":
        """The recorded searches, kept for the next time while there is room."""
        for number, positions in enumerate(_searched(self._corpus, self._batches, self._skips_empty)):
            records = self._recorded.get(number)
            if records is None:
                batch = self._corpus.batch(positions)
                lengths, places = batch.source_lengths.tolist(), batch.positions.tolist()
                records = self._search.record(batch.source, lengths, places)
                size = size_bytes(records)
                if size <= self.free_bytes:
                    self._recorded[number] = records
                    self.free_bytes -= size
            yield from records


def _searched(corpus: "Corpus", batches: "Sequence[Ids]", skips_empty: bool) -> "Iterator[Ids]":
    """Positions of the sentences that are searched, batch by batch: Marian takes an empty line for its translation."""
    for positions in batches:
        searched = positions[corpus.source.sizes[positions] > 1] if skips_empty else positions
        if len(searched):
            yield searched


@dataclass(frozen=True)
class _Records:
    """Recorded searches that can be gone through several times."""

    again: "Callable[[], Iterator[RecordedSearch]]"

    def __iter__(self) -> "Iterator[RecordedSearch]":
        return self.again()


def masks_of(model: Transformer, kept: Kept) -> dict[GroupId, Tensor]:
    """Masks [H] of zeros and ones for the modules that lose heads."""
    masks = {}
    for module, heads in removed(model.architecture, kept).items():
        masks[module] = torch.ones(model.architecture[module].heads, dtype=model.dtype, device=model.device)
        masks[module][heads] = 0
    return masks


def symbols_of(corpus: "Corpus", search: Search) -> Symbols:
    """Special words of the target side, for a search."""
    vocabulary = corpus.target_vocabulary
    never: tuple[int, ...] = ()
    if isinstance(search, MarianSearchOptions):
        never = (() if search.allow_special else vocabulary.control) + (() if search.allow_unk else (vocabulary.unk,))
    return Symbols(vocabulary.pad, vocabulary.eos, vocabulary.unk, vocabulary.start, never)


def size_bytes(value: object) -> int:
    """Memory of all tensors in a value, what they share counted once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in _tensors(value)}
    return sum(storages.values())


def _tensors(value: object) -> Iterator[Tensor]:
    """The tensors in dataclasses, mappings and sequences."""
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
