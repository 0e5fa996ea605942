"""Reconstruction order of heads and neurons: what a removed unit costs after the rest of its group was refitted.

The output of an attention module is W x + b, where x are the contexts of its heads, and that of a feed-forward layer
likewise, where x are its neurons. Without the entries of some units the other columns of W can be refitted by least
squares (`methods.refit`), and what cannot be repaired is an error e of the output. With g the derivative of the loss by
the output, it costs about 1/2 E[(g^T e)^2] = 1/2 tr(G E[e e^T]) per position, G = E[g g^T]. With S the covariance of x,
B the least-squares optimum and A = S^-1, removing the columns R (those of one head; the one of a neuron) costs

    n / 2 tr(G B_R A_RR^-1 B_R^T),

n positions per sentence; afterwards B is B - B_R A_RR^-1 A_R: and A is A - A_:R A_RR^-1 A_R: (block elimination, as in
the optimal brain surgeon: Hassibi and Stork 1993; Kurtic et al. 2023, ZipLM, weigh all outputs alike, G = 1). The
cheapest unit over all groups goes next.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from nmtprune.architecture import GroupId
from nmtprune.errors import CheckpointError, DataError
from nmtprune.methods.importance import GradientOptions, GradientScorer
from nmtprune.methods.scorer import JointScorer, Subject

if TYPE_CHECKING:
    from torch import Tensor

    from nmtprune.architecture import Kept
    from nmtprune.data.batching import Batch
    from nmtprune.data.examples import LabelledBatch
    from nmtprune.methods.reconstruction_costs import GroupReconstruction, Reconstruction
    from nmtprune.methods.texts import Texts
    from nmtprune.model import Masks, Model
    from nmtprune.model.sublayers import Body

RIDGE = 0.01
"""Added to the diagonal of S, as a share of its mean."""

_SMALLEST_RIDGE = 1e-12
"""Added where contexts never vary, so that S has an inverse."""


def reconstruction(
    model: "Model",
    batches: "Iterable[Batch | LabelledBatch]",
    *,
    label_smoothing: float = 0.0,
    ridge: float = RIDGE,
    masks: "Masks | None" = None,
    sorts: Sequence[str] = ("heads",),
) -> "Reconstruction":
    """Costs of removing units from a model whose output projections are the least-squares optima.

    Those of an unpruned model are, since they reproduce it without error; those of a refitted model are by
    construction. Padding is left out; the weights of a module that stands at several places (tied layers) are
    reconstructed at all of them together. Sums are taken in double precision; products of neurons in the model's type,
    batch by batch.

    Args:
        model: an encoder-decoder model or a classifier in single or double precision.
        batches: sentences with their references, or texts with their labels; memory is needed for one batch at a time.
        label_smoothing: of the training loss, see `Checkpoint.label_smoothing`.
        ridge: see RIDGE.
        masks: [H] or [F] of zeros and ones for groups that lost units.
        sorts: heads, neurons or both.

    Raises:
        DataError: no sentences.
        CheckpointError: contexts or derivatives that are no finite numbers; the modules are named.
        ValueError: a model in half precision, batches without references or labels, masks of other shapes or values.
    """
    import torch

    from nmtprune.methods.measuring import units_left
    from nmtprune.methods.reconstruction_costs import Reconstruction
    from nmtprune.methods.texts import Texts

    if model.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"reconstruction in {model.dtype}: build the model in single precision")
    sentences = 0
    with torch.inference_mode(False), torch.enable_grad():
        left = units_left(model, masks, sorts)
        moments = {id: _Moments(id, mask) for id, mask in left.items() if bool(mask.any())}
        for batch in batches:
            texts = Texts.of(batch, model)
            sentences += len(texts)
            _add(model, texts, moments, masks or {}, label_smoothing)
    if not sentences:
        raise DataError("reconstruction: there are no sentences to measure it on")
    # Sums are freed one after the other: the matrices of neurons are large.
    return Reconstruction.of({id: moments.pop(id).reconstruction(sentences, ridge) for id in list(moments)})


class ReconstructionOrder(GradientScorer[GradientOptions], JointScorer[GradientOptions]):
    """The order for models that are refitted."""

    name = "reconstruction"
    summary = "place in the order of what refitting cannot repair (0 goes first)."
    settings = GradientOptions
    brief = "smallest rise of the loss that refitting cannot repair"
    in_rounds = True

    def removal_costs(
        self, subject: Subject, kept: "Kept | None" = None, sorts: Sequence[str] = ("heads",)
    ) -> "Reconstruction":
        """Costs of the units that are left."""
        model, masks = subject.under(kept)
        return reconstruction(
            model,
            subject.batches(self.sentences(subject)),
            label_smoothing=self.measured_by(subject).label_smoothing,
            masks=masks,
            sorts=sorts,
        )


class _Moments:
    """Sums over the positions of one group: of contexts, of their products, and of products of derivatives."""

    def __init__(self, group: GroupId, mask: "Tensor") -> None:
        self.id, self.kept = group, mask.nonzero()[:, 0]
        self._count = 0
        self._contexts: Tensor | float = 0.0
        self._products: Tensor | float = 0.0
        self._slopes: Tensor | float = 0.0
        self._weight: Tensor | None = None

    def add(self, body: "Body", contexts: "Tensor", slopes: "Tensor") -> None:
        """Add positions with contexts [N, H, K] or neurons [N, F], and derivatives by the output [N, D]."""
        read, g = contexts[:, self.kept].flatten(1), slopes.double()
        x = read.double() if self.id.sort == "heads" else read
        self._count += len(x)
        self._contexts = self._contexts + x.sum(0, dtype=g.dtype)
        self._products = self._products + (x.T @ x).double()
        self._slopes = self._slopes + g.T @ g
        if self._weight is None:
            weight = cast("Tensor", body.output_weight).unflatten(1, contexts.shape[1:])
            self._weight = weight[:, self.kept].flatten(1).double()

    def reconstruction(self, sentences: int, ridge: float) -> "GroupReconstruction":
        """What removing heads costs, per sentence.

        Raises:
            CheckpointError: sums that are no finite numbers.
        """
        import torch

        from nmtprune.methods.reconstruction_costs import ModuleReconstruction, NeuronReconstruction, symmetric

        sums = [torch.as_tensor(each).cpu() for each in (self._contexts, self._products, self._slopes)]
        if not all(bool(each.isfinite().all()) for each in sums):
            read = "contexts" if self.id.sort == "heads" else "neurons"
            what = f"{read} of {self.id} or derivatives by its output"
            raise CheckpointError(f"{what} are no finite numbers: check the model's weights")
        if self._weight is None:
            raise ValueError(f"{self.id} was never computed")
        contexts, products, slopes = sums
        covariance = products / self._count - torch.outer(contexts, contexts) / self._count**2
        added = max(ridge * float(covariance.diagonal().mean()), _SMALLEST_RIDGE)
        regular = symmetric(covariance) + added * torch.eye(len(covariance), dtype=torch.float64)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(regular))
        weight = self._weight.cpu()
        # n / 2 G with n positions per sentence and G a mean over positions: the sum, per sentence.
        sensitivity = weight.T @ (slopes / (2 * sentences)) @ weight
        inverse, sensitivity = symmetric(inverse), symmetric(sensitivity)
        if self.id.sort == "heads":
            return ModuleReconstruction(tuple(self.kept.tolist()), inverse, sensitivity)
        return NeuronReconstruction.of(self.kept.cpu().numpy(), inverse.numpy(), sensitivity.numpy())


def _add(
    model: "Model", texts: "Texts", moments: Mapping[GroupId, _Moments], masks: "Masks", label_smoothing: float
) -> None:
    """Add the positions of a batch to the moments of every group."""
    import torch

    from nmtprune.methods.gradients import loss_slopes
    from nmtprune.model import Pass

    passed: list[tuple[GroupId, Body, Tensor, Tensor]] = []

    def tap(body: "Body", context: "Tensor", output: "Tensor") -> "Tensor":
        """Note what the projection reads, and add a zero whose derivative is that of the output."""
        if body.id is None or body.id not in moments:
            return output
        zero = torch.zeros_like(output, requires_grad=True)
        passed.append((body.id, body, context.detach(), zero))
        return output + zero

    features = texts.features(model, Pass(masks, tap=tap))
    zeros = tuple(zero for *_, zero in passed)
    if features.requires_grad:
        slopes = loss_slopes(model, features.detach(), texts.expected, label_smoothing)
        found = torch.autograd.grad(features, zeros, slopes, allow_unused=True, materialize_grads=True)
    else:  # no unit is connected to the output
        found = tuple(torch.zeros_like(zero) for zero in zeros)
    for (id, body, context, _), slope in zip(passed, found, strict=True):
        real = texts.queries(id)
        moments[id].add(body, context[real], slope[real])
