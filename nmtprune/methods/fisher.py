"""Joint Fisher order of heads and neurons: the loss that a set of removed units costs, not the sum of single costs.

xi are the factors of the outputs of all units, at 1, and g_x = dL(x)/dxi the derivatives of the loss of sentence x,
summed over its tokens. With F = E_x[g_x g_x^T], which for a trained model stands for the Hessian of the loss, removing
the set R raises the loss by about 1/2 E_x[(sum of g_x over R)^2] = 1/2 sum of F over R x R (Kwon et al. 2022, section
4, keep the diagonal of F, and later the blocks of single layers; here all units of the model are in one matrix). The
unit that raises it least goes next: argmin_h 1/2 F_hh + sum of F_hj over the units j that are gone.

F of many units does not fit into memory: they keep their derivatives G [sentences, units] instead (`SentenceFisher`).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from nmtprune.architecture import UnitId
from nmtprune.errors import DataError
from nmtprune.methods.importance import GradientOptions, GradientScorer
from nmtprune.methods.joint_order import FEW_UNITS
from nmtprune.methods.scorer import JointScorer, Subject, sorts_of

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from nmtprune.architecture import Kept
    from nmtprune.budget import Limits
    from nmtprune.data.batching import Batch
    from nmtprune.data.examples import LabelledBatch
    from nmtprune.methods.fisher_costs import Fisher, SentenceFisher
    from nmtprune.model import Masks, Model


def fisher(
    model: "Model",
    batches: "Iterable[Batch | LabelledBatch]",
    *,
    label_smoothing: float = 0.0,
    autocast: "torch.dtype | None" = None,
    masks: "Masks | None" = None,
    sorts: Sequence[str] = ("heads",),
) -> "Fisher | SentenceFisher":
    """F of the units that the masks leave, up to FEW_UNITS; which sentences share a batch makes no difference.

    More units keep their derivatives, in single precision, 4 bytes for each unit and sentence.

    Padding is left out, the end-of-sentence symbol counts, dropout is off; sums are taken in double precision. A module
    that stands at several places (tied layers) is one module: its derivatives are summed over the places. About 5
    sentences per head are needed; many neurons are ordered well by fewer than they are.

    Args:
        model: an encoder-decoder model or a classifier in single or double precision.
        batches: sentences with their references, or texts with their labels; memory is needed for one batch at a time.
        label_smoothing: of the training loss, see `Checkpoint.label_smoothing`.
        autocast: compute products in bfloat16 or float16 on a GPU; None: in the type of the model.
        masks: [H] or [F] of zeros and ones for groups that lost units; F is that of the model without them.
        sorts: heads, neurons or both.

    Raises:
        DataError: no sentences.
        CheckpointError: derivatives that are no finite numbers.
        ValueError: a model in half precision, batches without references or labels, masks of other shapes or values.
    """
    import torch

    from nmtprune.methods.gradients import MaskGradients
    from nmtprune.methods.measuring import units_left
    from nmtprune.methods.texts import Texts

    if model.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"fisher in {model.dtype}: build the model in single precision and use autocast")
    with torch.inference_mode(False), torch.enable_grad():
        left = units_left(model, masks, sorts)
        kept = {id: mask.nonzero()[:, 0] for id, mask in left.items()}
        units = tuple(UnitId(id, unit) for id, places in kept.items() for unit in places.tolist())
        moments = _Products(len(units), model.device) if len(units) <= FEW_UNITS else _Rows()
        gradients = MaskGradients(model, left, False, label_smoothing, autocast, masks or {})
        for batch in batches:
            texts = Texts.of(batch, model)
            by_group = gradients.of(texts)
            slopes = [by_group[id][:, places].double() for id, places in kept.items()]
            moments.add(torch.cat(slopes, dim=1) if slopes else torch.zeros(len(texts), 0))
    if not moments.sentences:
        raise DataError("fisher: there are no sentences to measure it on")
    return moments.costs(units)


class _Products:
    """Sum of g g^T over sentences."""

    def __init__(self, units: int, device: "torch.device") -> None:
        import torch

        self.sentences, self._sum = 0, torch.zeros(units, units, dtype=torch.float64, device=device)

    def add(self, slopes: "Tensor") -> None:
        """Add derivatives [B, N]."""
        self.sentences += len(slopes)
        if slopes.shape[1]:
            self._sum += slopes.T @ slopes

    def costs(self, units: tuple[UnitId, ...]) -> "Fisher":
        """F and what it costs to remove units."""
        import numpy as np

        from nmtprune.methods.fisher_costs import Fisher

        return Fisher(units, (self._sum / self.sentences).cpu().numpy(), np.zeros(len(units), dtype=np.bool_))


class _Rows:
    """The derivatives of all sentences."""

    def __init__(self) -> None:
        self.sentences = 0
        self._rows: list[NDArray[np.float32]] = []

    def add(self, slopes: "Tensor") -> None:
        """Add derivatives [B, N]."""
        self.sentences += len(slopes)
        self._rows.append(slopes.float().cpu().numpy())

    def costs(self, units: tuple[UnitId, ...]) -> "SentenceFisher":
        """What it costs to remove units."""
        import numpy as np

        from nmtprune.methods.fisher_costs import SentenceFisher

        slopes, begin = np.empty((self.sentences, len(units)), np.float32), 0
        while self._rows:  # what is copied is freed: all of it stands in memory once
            rows = self._rows.pop(0)
            slopes[begin : begin + len(rows)] = rows / np.float32(self.sentences**0.5)
            begin += len(rows)
        return SentenceFisher.of(units, slopes)


class JointFisher(GradientScorer[GradientOptions], JointScorer[GradientOptions]):
    """The joint Fisher order."""

    name = "fisher"
    summary = "place in the joint Fisher order, which takes into account the heads removed before (0 goes first)."
    settings = GradientOptions
    brief = "smallest rise of the loss together with the heads removed before"

    def removal_costs(
        self, subject: Subject, kept: "Kept | None" = None, sorts: Sequence[str] = ("heads",)
    ) -> "Fisher | SentenceFisher":
        """F of the units that are left."""

        def measured() -> "Fisher | SentenceFisher":
            batches, settings = subject.batches(self.sentences(subject)), self.measured_by(subject)
            model, masks = subject.under(kept)
            return fisher(
                model,
                batches,
                label_smoothing=settings.label_smoothing,
                autocast=settings.autocast,
                masks=masks,
                sorts=sorts,
            )

        return measured() if kept else subject.once(f"{self.name} {' '.join(sorts)}", measured)

    def details(self, subject: Subject, limits: "Limits | None" = None) -> Mapping[str, Mapping[UnitId, float]]:
        """``diagonal``: 1/2 F_hh, nats per sentence that removing the unit alone is expected to cost."""
        return {"diagonal": self.removal_costs(subject, None, sorts_of(limits)).diagonal}
