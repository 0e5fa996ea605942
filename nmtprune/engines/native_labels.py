"""Labels of texts by the native model, without any of its heads, neurons and layers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch

from nmtprune.architecture import Kept
from nmtprune.engines.native import load_classifier, with_kept
from nmtprune.errors import CheckpointError, EngineError, UsageError
from nmtprune.model.ablation.label_logits import label_logits
from nmtprune.model.classifier import label_losses

if TYPE_CHECKING:
    from torch import Tensor

    from nmtprune.data.batching import BatchLimits
    from nmtprune.data.examples import Examples
    from nmtprune.engines.base import EngineSettings
    from nmtprune.formats.base import Checkpoint
    from nmtprune.model import Classifier, Masks


@dataclass(frozen=True)
class LabelAblation:
    """One set of texts for many choices of the units that stay.

    Attributes:
        model: the classifier.
        examples: the texts.
        limits: size of batches.
    """

    model: "Classifier"
    examples: "Examples"
    limits: "BatchLimits"

    def logits(self, systems: Sequence[Kept]) -> "Tensor":
        """Logits [systems, N, C], on the CPU, of every text in the order of the examples, with only these units left.

        Raises:
            UsageError: a text has more tokens than a batch may have.
            CheckpointError: logits that are no finite numbers, of which none is the largest.
        """
        alike = list(self._by_layers(systems))
        found = torch.zeros(len(systems), len(self.examples), self.model.outputs, dtype=torch.float64)
        for positions in self.examples.batches(self.limits):
            batch = self.examples.batch(positions)
            for model, numbers, masks in alike:
                logits = label_logits(model, batch.tokens, batch.segments, masks).double().cpu()
                for number, own in zip(numbers, logits, strict=True):
                    found[number, positions] = own
        wrong = int((~found.isfinite()).any(2).any(0).sum())
        if wrong:
            raise CheckpointError(
                f"logits of {wrong} of {len(self.examples)} texts are no finite numbers: check the model's weights, or "
                "store them in single precision"
            )
        return found

    def _by_layers(self, systems: Sequence[Kept]) -> "Iterator[tuple[Classifier, list[int], list[Masks]]]":
        """Models of the layers that stay, and of each the systems that are masked versions of it: numbers and masks."""
        alike: dict[tuple[int, ...], tuple[Classifier, list[int], list[Masks]]] = {}
        for number, kept in enumerate(systems):
            model, masks = with_kept(self.model, kept)
            _, numbers, all_masks = alike.setdefault(tuple(model.encoder.numbers), (model, [], []))
            numbers.append(number)
            all_masks.append(masks)
        return iter(alike.values())


def losses_of(logits: "Tensor", examples: "Examples") -> "Tensor":
    """Cross entropy [N], nats, of the labels of texts under logits [N, C]."""
    return label_losses(logits, torch.from_numpy(examples.targets))


def open_labels(checkpoint: "Checkpoint", engine: str, settings: "EngineSettings") -> "Classifier":
    """The model that gives labels.

    Raises:
        UsageError: options of a search.
        EngineError: another engine than the native one.
        CheckpointError: the checkpoint has no classification head, or is damaged.
    """
    if engine != "native":
        raise EngineError(f"{checkpoint.path}: a classifier runs on `engine` native, not on {engine}")
    search = settings.search
    changed = [f"`{own.name}`" for own in fields(search) if getattr(search, own.name) != own.default]
    if changed:
        raise UsageError(f"search: {', '.join(changed)}: {checkpoint.path} is a classifier, which searches nothing")
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    return load_classifier(checkpoint, settings.device)
