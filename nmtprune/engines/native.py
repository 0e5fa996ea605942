"""The native model of a checkpoint, whatever its file format, and the engine that runs it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import Tensor

from nmtprune.architecture import LAYER_KINDS, GroupId, Kept
from nmtprune.engines.base import Ablation, Engine, EngineSettings, Tokens, removed
from nmtprune.errors import CheckpointError, EngineError
from nmtprune.model import Classifier, MaskedWords, Masks, Model, Transformer
from nmtprune.model import search as beam_search
from nmtprune.model.ablation.losses import reference_losses
from nmtprune.model.ablation.masked_search import MaskedSearch
from nmtprune.model.search import GenerateOptions, Hypothesis, MarianSearchOptions, Search, Symbols
from nmtprune.model.search.batched_greedy import BatchedGreedySearch

if TYPE_CHECKING:
    from nmtprune.data.corpus import Corpus
    from nmtprune.data.ragged import Ids
    from nmtprune.formats.base import Checkpoint
    from nmtprune.model.ablation.record import RecordedSearch

M = TypeVar("M", bound=Model | MaskedWords)

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


def load_classifier(
    checkpoint: "Checkpoint", device: "torch.device | str" = "cpu", dtype: "torch.dtype | None" = None
) -> Classifier:
    """The model of a checkpoint that gives labels; arguments and errors are those of `load`."""
    network = checkpoint.classifier_network()
    try:
        return Classifier(network, checkpoint.architecture, checkpoint.native_tensors(), device, dtype)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}", error.faults) from error


def load_model(
    checkpoint: "Checkpoint", device: "torch.device | str" = "cpu", dtype: "torch.dtype | None" = None
) -> Model:
    """The model of a checkpoint that translates or classifies; arguments and errors are those of `load`."""
    return (load_classifier if checkpoint.classifies else load)(checkpoint, device, dtype)


def load_encoder(
    checkpoint: "Checkpoint", device: "torch.device | str" = "cpu", dtype: "torch.dtype | None" = None
) -> Classifier | MaskedWords:
    """The model of a checkpoint of an encoder alone, with the head that it was trained for; as `load`."""
    if checkpoint.classifies:
        return load_classifier(checkpoint, device, dtype)
    network = checkpoint.masked_words_network()
    try:
        return MaskedWords(network, checkpoint.architecture, checkpoint.native_tensors(), device, dtype)
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
        if checkpoint.encoder_only:
            checkpoint.profile()  # refuses it as a model: no other engine translates with it either
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
        return _translated(*with_kept(self.model, kept), corpus, self.settings)

    def ablation(self, corpus: "Corpus") -> "NativeAblation":
        """Prepare to run the sentences with many choices of the units that stay."""
        return NativeAblation(self.model, corpus, self.settings)


def _translated(model: Transformer, masks: Masks, corpus: "Corpus", settings: EngineSettings) -> list[list[Hypothesis]]:
    """Up to `beam` translations of every sentence under masks."""
    search = settings.search
    symbols = symbols_of(corpus, search)
    nothing = [Hypothesis((symbols.eos,), 0.0)]
    found: list[list[Hypothesis]] = [list(nothing) for _ in range(len(corpus))]
    batches = _searched(corpus, settings.batches(corpus), search.skips_empty)
    if search.beam == 1:
        greedy = BatchedGreedySearch(model, search, symbols, masks)
        for positions in batches:
            batch = corpus.batch(positions)
            greedy.translate(batch.source, batch.source_lengths.tolist(), batch.positions.tolist())
        for place, hypotheses in greedy.finish().items():
            found[place] = hypotheses
        return found
    for positions in batches:
        batch = corpus.batch(positions)
        lengths = batch.source_lengths.tolist()
        translations = beam_search.translate_batch(model, batch.source, lengths, search, symbols, masks)
        for place, hypotheses in zip(batch.positions.tolist(), translations, strict=True):
            found[place] = hypotheses
    return found


class NativeAblation(Ablation):
    """Searches once without masks, and repeats under masks only what they change.

    Systems that take out the same layers are masked versions of one model. Of the models that lack layers only the last
    one's searches are recorded, and only if several systems are versions of it: most are asked for once.

    Attributes:
        free_bytes: memory left for recorded searches.
    """

    def __init__(self, model: Transformer, corpus: "Corpus", settings: EngineSettings) -> None:
        """Cut the corpus into batches; nothing is translated yet."""
        self._model, self._corpus, self._settings = model, corpus, settings
        self._batches = settings.batches(corpus)
        self._symbols = symbols_of(corpus, settings.search)
        self._all_layers = _Recording(model, MaskedSearch(model, settings.search, self._symbols))
        self._fewer_layers = self._all_layers
        self.free_bytes = RECORDED_BYTES

    def best(self, systems: Sequence[Kept]) -> list[list[Tokens]]:
        """The best translations under each of several systems."""
        nothing: Tokens = (self._symbols.eos,)
        found: list[list[Tokens]] = [[nothing] * len(self._corpus) for _ in systems]
        for model, numbers, masks in self._by_layers(systems):
            if model is not self._model and len(numbers) == 1:
                hypotheses = _translated(model, masks[0], self._corpus, self._settings)
                found[numbers[0]] = [own[0].tokens if own else () for own in hypotheses]
                continue
            recording = self._recording(model)
            records = _Records(partial(self._records, recording))
            for system, positions, texts in recording.search.translations(records, masks):
                for place, text in zip(positions, texts, strict=True):
                    found[numbers[system]][place] = text
        return found

    def losses(self, systems: Sequence[Kept]) -> list[list[float]]:
        """Summed losses of the references under each of several systems.

        Raises:
            ValueError: the corpus has no references as token ids.
        """
        alike = list(self._by_layers(systems))
        found = [[0.0] * len(self._corpus) for _ in systems]
        for positions in self._batches:
            batch = self._corpus.batch(positions)
            if batch.previous is None or batch.target is None:
                raise ValueError(f"{self._corpus.name} has no references as token ids")
            for model, numbers, masks in alike:
                losses = reference_losses(model, batch.source, batch.previous, batch.target, masks).tolist()
                for number, by_sentence in zip(numbers, losses, strict=True):
                    for place, loss in zip(batch.positions.tolist(), by_sentence, strict=True):
                        found[number][place] = loss
        return found

    def _by_layers(self, systems: Sequence[Kept]) -> "Iterator[tuple[Transformer, list[int], list[Masks]]]":
        """Models of the layers that stay, and of each the systems that are masked versions of it: numbers and masks."""
        alike: dict[tuple[tuple[int, ...], ...], tuple[Transformer, list[int], list[Masks]]] = {}
        for number, kept in enumerate(systems):
            model, masks = with_kept(self._model, kept)
            layers = _layers_of(model)
            if layers not in alike:
                there = self._fewer_layers.model
                alike[layers] = (there if layers == _layers_of(there) else model), [], []
            alike[layers][1].append(number)
            alike[layers][2].append(masks)
        return iter(alike.values())

    def _recording(self, model: Transformer) -> "_Recording":
        """The recorded searches of a model."""
        if model is self._model:
            return self._all_layers
        if model is not self._fewer_layers.model:
            if self._fewer_layers is not self._all_layers:
                self.free_bytes += sum(map(size_bytes, self._fewer_layers.records.values()))
            self._fewer_layers = _Recording(model, MaskedSearch(model, self._settings.search, self._symbols))
        return self._fewer_layers

    def _records(self, recording: "_Recording") -> "Iterator[RecordedSearch]":
        """The recorded searches, kept for the next time while there is room."""
        skips_empty = self._settings.search.skips_empty
        for number, positions in enumerate(_searched(self._corpus, self._batches, skips_empty)):
            records = recording.records.get(number)
            if records is None:
                batch = self._corpus.batch(positions)
                lengths, places = batch.source_lengths.tolist(), batch.positions.tolist()
                records = recording.search.record(batch.source, lengths, places)
                size = size_bytes(records)
                if size <= self.free_bytes:
                    recording.records[number] = records
                    self.free_bytes -= size
            yield from records


@dataclass(frozen=True)
class _Recording:
    """Searches of one model without masks.

    Attributes:
        model: the model.
        search: records searches, and repeats them under masks.
        records: by the number of a batch.
    """

    model: Transformer
    search: MaskedSearch
    records: "dict[int, list[RecordedSearch]]" = field(default_factory=dict)


def _layers_of(model: Transformer) -> tuple[tuple[int, ...], ...]:
    """Numbers of the layers of a model, stack by stack."""
    return tuple(stack.numbers for stack in (model.encoder, model.decoder) if stack is not None)


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


def with_kept(model: M, kept: Kept) -> tuple[M, dict[GroupId, Tensor]]:
    """A model of the units that stay: without the layers that go, and with masks for the other units that go.

    Args:
        model: with all of its layers; its weights are shared.
        kept: in the numbers of `model`.

    Returns:
        The model, and masks [H] or [F] of zeros and ones for the groups that lose units.

    Raises:
        KeyError, ValueError: as for `removed`; a stack that loses all layers.
    """
    lost = removed(model.architecture, kept)
    layers = {group.stack: kept[group] for group in lost if group.kind in LAYER_KINDS}
    masks = {}
    for group, units in lost.items():
        if group.kind not in LAYER_KINDS:
            masks[group] = torch.ones(model.architecture.group(group).units, dtype=model.dtype, device=model.device)
            masks[group][units] = 0
    return (cast(M, model.with_layers(layers)) if layers else model), masks


def masks_of(model: Transformer, kept: Kept) -> dict[GroupId, Tensor]:
    """Masks [H] or [F] of zeros and ones for the groups that lose units, where all layers stay.

    Raises:
        KeyError, ValueError: as for `with_kept`; layers that go, which no mask can say.
    """
    found, masks = with_kept(model, kept)
    if found is not model:
        raise ValueError("masks cannot say that layers go")
    return masks


def symbols_of(corpus: "Corpus", search: Search) -> Symbols:
    """Special words of the target side, for a search."""
    vocabulary = corpus.target_vocabulary
    never: tuple[int, ...] = search.never if isinstance(search, GenerateOptions) else ()
    if isinstance(search, MarianSearchOptions):
        never = (() if search.allow_special else vocabulary.control) + (() if search.allow_unk else (vocabulary.unk,))
    prefix = corpus.frame.target_front
    return Symbols(vocabulary.pad, vocabulary.eos, vocabulary.unk, vocabulary.start, never, prefix)


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
