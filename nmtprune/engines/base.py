"""What an engine offers: translations and losses of one checkpoint, without any of its heads, neurons and layers."""

import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nmtprune.architecture import LAYER_KINDS, Architecture, GroupId, Kept, UnitId
from nmtprune.errors import UsageError

if TYPE_CHECKING:
    import torch

    from nmtprune.data.batching import BatchLimits
    from nmtprune.data.corpus import Corpus
    from nmtprune.data.ragged import Ids
    from nmtprune.formats.base import Checkpoint
    from nmtprune.model.search.options import Hypothesis, Search

Tokens = tuple[int, ...]
"""Ids of a translation, the end-of-sentence symbol included; empty for none."""

ENGINES: Mapping[str, str] = {
    "native": "nmtprune.engines.native:NativeEngine",
    "fairseq": "nmtprune.engines.fairseq:FairseqEngine",
    "marian": "nmtprune.engines.marian:MarianEngine",
    "ctranslate2": "nmtprune.engines.ctranslate2:CTranslate2Engine",
}
"""Name of an engine -> module and class."""

LIMITED_BY_BATCH = ("fairseq", "marian")
"""Engines whose toolkit limits the length of translations by the longest source of their batch."""


@dataclass(frozen=True)
class EngineSettings:
    """How an engine runs.

    Attributes:
        search: how translations are searched.
        limits: size of batches.
        device: where to compute.
        threads: CPU threads; None leaves the number to the engine.
        compute_type: precision of CTranslate2, one of `ctranslate2_model.QUANTIZATIONS`; others compute in their own.
    """

    search: "Search"
    limits: "BatchLimits"
    device: "torch.device"
    threads: int | None = None
    compute_type: str = "float32"

    @property
    def one_by_one(self) -> bool:
        """Whether an engine of `LIMITED_BY_BATCH` must get sentences one by one, so that each has its own limit."""
        return self.search.varies and not self.search.by_batch

    def batches(self, corpus: "Corpus") -> "list[Ids]":
        """Positions of sentences, batch by batch.

        Where batches decide how long translations may be, they have the sizes that the toolkit's own have.

        Raises:
            UsageError: a sentence is larger than a batch, or a translation may be no longer than what it begins with.
        """
        self._check_room(corpus)
        # Only fairseq rounds the size of batches.
        exact = corpus.model.vocabulary_files and self.search.by_batch
        return corpus.batches(replace(self.limits, multiple=1) if exact else self.limits)

    def _check_room(self, corpus: "Corpus") -> None:
        """Refuse limits of length that leave no room for the tokens that every translation begins with."""
        front, sizes = len(corpus.frame.target_front), corpus.source.sizes
        if not front or not len(sizes):
            return
        longest = self.search.max_len(int(sizes.min()), corpus.model.max_target_positions or sys.maxsize)
        if longest < front:
            raise UsageError(f"translations begin with {front} given tokens, and may have {longest}: allow longer ones")


class Ablation(ABC):
    """One set of sentences for many choices of the units that stay."""

    @abstractmethod
    def best(self, systems: Sequence[Kept]) -> list[list[Tokens]]:
        """The best translation of every sentence, in the order of the corpus, with only these units left.

        What several systems have in common is computed once: those of one group go well into one call.

        Raises:
            UsageError: a minimum length above the maximum.
            EngineError: the engine failed.
        """

    @abstractmethod
    def losses(self, systems: Sequence[Kept]) -> list[list[float]]:
        """Negative log-likelihood (nats) of every reference, summed over its tokens, with only these units left.

        Raises:
            EngineError: the engine computes no losses.
        """


class Engine(ABC):
    """Runs one checkpoint, full or slim.

    Attributes:
        checkpoint: the model.
        settings: how it runs.
    """

    def __init__(self, checkpoint: "Checkpoint", settings: EngineSettings) -> None:
        """Prepare to run a checkpoint.

        Raises:
            EngineError: the engine cannot run this model, all reasons; or its packages are not installed.
            CheckpointError: the checkpoint is damaged.
        """
        self.checkpoint, self.settings = checkpoint, settings

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how the model is run, one line each."""
        return ()

    def remarks(self, corpus: "Corpus") -> tuple[str, ...]:
        """`notes`, and what a user should know of how these sentences are translated."""
        return self.notes

    @abstractmethod
    def translate(self, corpus: "Corpus", kept: Kept) -> "list[list[Hypothesis]]":
        """Up to `beam` translations of every sentence, best first, in the order of the corpus; `kept` as in `Kept`.

        Raises:
            UsageError: a minimum length above the maximum, or a sentence larger than a batch.
            EngineError: the engine failed.
        """

    @abstractmethod
    def ablation(self, corpus: "Corpus") -> Ablation:
        """Prepare to run the sentences with many choices of the units that stay.

        Raises:
            UsageError: a sentence is larger than a batch.
            EngineError: the engine cannot take these data.
        """


def open_engine(name: str, checkpoint: "Checkpoint", settings: EngineSettings) -> Engine:
    """The engine of that name for a checkpoint.

    Raises:
        UsageError: an unknown name.
        EngineError, CheckpointError: as for `Engine`.
    """
    if name not in ENGINES:
        raise UsageError(f"`engine` '{name}': choose {' or '.join(ENGINES)}")
    module, _, attribute = ENGINES[name].partition(":")
    engine: type[Engine] = getattr(importlib.import_module(module), attribute)
    return engine(checkpoint, settings)


def batches_note(engine: str, settings: EngineSettings) -> tuple[str, ...]:
    """A note where an engine of `LIMITED_BY_BATCH` cannot use the batches that were asked for."""
    limits = settings.limits
    if not settings.one_by_one or limits.max_sentences == 1 or limits == type(limits).of():
        return ()
    return (
        f"`engine` {engine} translates sentences one by one, since it limits the length of translations by the longest "
        f"source of a batch (`{engine}_batch_length_limit`: in batches, with that limit)",
    )


def masked(checkpoint: "Checkpoint", kept: Kept) -> "Checkpoint":
    """The checkpoint without the layers that do not stay, in which heads and neurons that do not stay put out zeros."""
    from nmtprune import slim
    from nmtprune.plan import Plan

    lost = removed(checkpoint.architecture, kept)
    units = [UnitId(group, number) for group, own in lost.items() for number in own]
    return slim.apply(Plan.removing(checkpoint.base, units), checkpoint, "masked") if units else checkpoint


def removed(architecture: Architecture, kept: Kept) -> dict[GroupId, list[int]]:
    """Units that do not stay, by group, for the groups that lose any; what goes with a layer is not listed.

    Raises:
        KeyError: a group that the model does not have.
        ValueError: units that it does not have.
    """
    found, every = {}, architecture.units
    for group, units in kept.items():
        if group not in every:
            raise KeyError(str(group))
        there, left = every[group], set(units)
        if not left <= set(there):
            raise ValueError(f"{group} has no {group.sort} {sorted(left - set(there))}")
        if len(left) < len(there):
            found[group] = [unit for unit in there if unit not in left]
    return {
        group: units
        for group, units in found.items()
        if group.kind in LAYER_KINDS or group.layer not in found.get(GroupId.layers_of(group.stack), ())
    }
