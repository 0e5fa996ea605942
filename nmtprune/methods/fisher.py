"""Joint Fisher order of heads: the loss that a set of removed heads costs, not the sum of what each head costs.

xi are the factors of all heads' outputs, at 1, and g_x = dL(x)/dxi the derivatives of the loss of sentence x, summed
over its tokens. With F = E_x[g_x g_x^T], which for a trained model stands for the Hessian of the loss, removing the
set R raises the loss by about 1/2 E_x[(sum of g_x over R)^2] = 1/2 sum of F over R x R (Kwon et al. 2022, section 4,
keep the diagonal of F, and later the blocks of single layers; here all heads of the model are in one matrix). The head
that raises it least goes next: argmin_h 1/2 F_hh + sum of F_hj over the heads j that are gone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nmtprune.architecture import UnitId
from nmtprune.errors import DataError
from nmtprune.methods.importance import GradientOptions, GradientScorer
from nmtprune.methods.scorer import JointScorer, Subject

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from nmtprune.architecture import Kept
    from nmtprune.data.batching import Batch
    from nmtprune.model import Masks, Transformer


@dataclass(frozen=True, eq=False)
class Fisher:
    """Second moments of the derivatives of the loss by the factors of heads; costs of removing heads.

    Attributes:
        heads: N heads in order.
        moments: F [N, N] in double precision, in squared nats per sentence.
        removed: which of them are gone, [N].
    """

    heads: tuple[UnitId, ...]
    moments: "NDArray[np.float64]"
    removed: "NDArray[np.bool_]"

    @property
    def diagonal(self) -> dict[UnitId, float]:
        """1/2 F_hh of every head: the cost of removing it alone."""
        return dict(zip(self.heads, (self.moments.diagonal() / 2).tolist(), strict=True))

    def costs(self) -> Mapping[UnitId, float]:
        """By how much removing each head raises 1/2 E_x[(sum of g_x over removed heads)^2]."""
        increases = self.moments.diagonal() / 2 + self.moments[:, self.removed].sum(1)
        return {
            head: cost
            for head, cost, gone in zip(self.heads, increases.tolist(), self.removed.tolist(), strict=True)
            if not gone
        }

    def without(self, head: UnitId) -> "Fisher":
        """The same with that head removed too."""
        removed = self.removed.copy()
        removed[self.heads.index(head)] = True
        return replace(self, removed=removed)

    def cost_of(self, heads: Iterable[UnitId]) -> float:
        """1/2 sum of F over R x R for a set R of heads."""
        places = [self.heads.index(head) for head in heads]
        return float(self.moments[places][:, places].sum()) / 2


def fisher(
    model: "Transformer",
    batches: "Iterable[Batch]",
    *,
    label_smoothing: float = 0.0,
    autocast: "torch.dtype | None" = None,
    masks: "Masks | None" = None,
) -> Fisher:
    """F of the heads that the masks leave; which sentences share a batch makes no difference.

    Padding is left out, the end-of-sentence symbol counts, dropout is off; sums are taken in double precision. A module
    that stands at several places (tied layers) is one module: its derivatives are summed over the places. About 5
    sentences per head are needed.

    Args:
        model: an encoder-decoder model in single or double precision.
        batches: sentences with their references; memory is needed for one batch at a time.
        label_smoothing: of the training loss, see `Checkpoint.label_smoothing`.
        autocast: compute products in bfloat16 or float16 on a GPU; None: in the type of the model.
        masks: [H] of zeros and ones for modules that lost heads; F is that of the model without them.

    Raises:
        DataError: no sentences.
        CheckpointError: derivatives that are no finite numbers.
        ValueError: a model in half precision, batches without references, masks of another shape or other values.
    """
    import numpy as np
    import torch

    from nmtprune.methods.gradients import HeadGradients
    from nmtprune.methods.measuring import Texts, heads_left

    if model.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"fisher in {model.dtype}: build the model in single precision and use autocast")
    sentences = 0
    with torch.inference_mode(False), torch.enable_grad():
        left = heads_left(model, masks)
        kept = {id: mask.nonzero()[:, 0] for id, mask in left.items()}
        heads = tuple(UnitId(id, head) for id, places in kept.items() for head in places.tolist())
        moments = torch.zeros(len(heads), len(heads), dtype=torch.float64, device=model.device)
        gradients = HeadGradients(model, left, False, label_smoothing, autocast)
        for batch in batches:
            texts = Texts.of(batch, model)
            sentences += len(texts.source)
            by_module = gradients.of(texts)
            if heads:
                by_sentence = torch.cat([by_module[id][:, places].double() for id, places in kept.items()], dim=1)
                moments += by_sentence.T @ by_sentence
    if not sentences:
        raise DataError("fisher: there are no sentences to measure it on")
    return Fisher(heads, (moments / sentences).cpu().numpy(), np.zeros(len(heads), dtype=np.bool_))


class JointFisher(GradientScorer[GradientOptions], JointScorer[GradientOptions]):
    """The joint Fisher order."""

    name = "fisher"
    summary = "place in the joint Fisher order, which takes into account the heads removed before (0 goes first)."
    settings = GradientOptions
    brief = "smallest rise of the loss together with the heads removed before"

    def removal_costs(self, subject: Subject, kept: "Kept | None" = None) -> Fisher:
        """F of the heads that are left."""

        def measured() -> Fisher:
            batches, settings = subject.batches(self.sentences(subject)), self.measured_by(subject)
            return fisher(
                subject.model,
                batches,
                label_smoothing=settings.label_smoothing,
                autocast=settings.autocast,
                masks=subject.masks(kept),
            )

        return measured() if kept else subject.once(self.name, measured)

    def details(self, subject: Subject) -> Mapping[str, Mapping[UnitId, float]]:
        """``diagonal``: 1/2 F_hh, nats per sentence that removing the head alone is expected to cost."""
        return {"diagonal": self.removal_costs(subject).diagonal}
