"""Take layers out of what a checkpoint holds: its tensors are named anew, averages and moments with them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nmtprune.formats import storage
from nmtprune.formats.fairseq import containers, training_state
from nmtprune.formats.fairseq.containers import State
from nmtprune.formats.fairseq.settings import Description
from nmtprune.formats.fairseq.training_state import Optimizer


class Depth:
    """Which layers of a file stay, and what they are called afterwards.

    Layers of the file that its settings do not use (LayerDrop) go too, so that the others need not be chosen any more.

    Args:
        description: what the settings of the file say.
        kept: places, among the used layers, of those that stay, by stack; a stack that is not named keeps all of them.
    """

    def __init__(self, description: Description, kept: Mapping[str, Sequence[int]]) -> None:
        self._description = description
        self._numbers = {
            stack: {used[place]: rank for rank, place in enumerate(sorted(kept.get(stack, range(len(used)))))}
            for stack, used in description.layers.items()
        }

    def name(self, name: str) -> str | None:
        """Name of a tensor, or of the module that holds it, in the result; None where its layer goes."""
        place = self._description.layer_of(name)
        if place is None:
            return name
        stack, old, inside = place
        number = self._numbers[stack].get(old)
        return None if number is None else f"{self._description.stems[stack]}.layers.{number}{inside}"

    def gone(self, names: Iterable[str]) -> set[str]:
        """Those of the names whose layer goes."""
        return {name for name in names if self.name(name) is None}

    def fields(self) -> dict[str, Any]:
        """The settings of the model that say how many layers there are, and by number which one gives alignments.

        Where that layer goes, the nearest one before it that stays takes its place.
        """
        found: dict[str, Any] = {f"{stack}_layers": len(numbers) for stack, numbers in self._numbers.items()}
        if self._description.chosen_layers:
            found |= {f"{stack}_layers_to_keep": None for stack in self._numbers}
        aligned = self._description.settings.get("alignment_layer")
        if isinstance(aligned, int) and 0 <= aligned < len(self._description.layers.get("decoder", ())):
            number = self._description.layers["decoder"][aligned]
            before = [rank for own, rank in self._numbers["decoder"].items() if own <= number]
            found["alignment_layer"] = max(before, default=0)
        return found

    def apply(self, state: State, optimizer: Optimizer) -> dict[str, Any]:
        """The state without the layers that go; its settings stay as they are.

        Args:
            state: of the checkpoint.
            optimizer: its moments, which can be cut.
        """
        found = {**state, "model": self._renamed(state["model"])}
        extra = state.get("extra_state")
        copies = dict(training_state.stored_averages(state))
        if copies:
            renamed = {training_state.AVERAGES[prefix]: self._renamed(own) for prefix, own in copies.items()}
            found["extra_state"] = {**(extra or {}), **renamed}
        if not training_state.has_optimizer(state):
            return found
        return training_state.without_parameters(found, optimizer, self.gone(optimizer.trained))

    def _renamed(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """The tensors that stay under their new names, in memory that holds no values of the others."""
        separate = {**tensors, **storage.separated(tensors, {}, left_by=self.gone(tensors))}
        return containers.renamed(separate, self.name, like=tensors)
