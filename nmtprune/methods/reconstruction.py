"""Reconstruction order of heads: what a removed head costs after the rest of its module was refitted.

An attention module's output is W x + b, where x are the contexts of its heads. Without the contexts of some heads the
other columns of W can be refitted by least squares (`methods.refit`), and what cannot be repaired is an error e of the
output. With g the derivative of the loss by the output, it costs about 1/2 E[(g^T e)^2] = 1/2 tr(G E[e e^T]) per
position, G = E[g g^T]. With S the covariance of the contexts, B the least-squares optimum and A = S^-1, removing the
columns R (those of one head) costs

    n / 2 tr(G B_R A_RR^-1 B_R^T),

n positions per sentence; afterwards B is B - B_R A_RR^-1 A_R: and A is A - A_:R A_RR^-1 A_R: (block elimination, as in
the optimal brain surgeon: Hassibi and Stork 1993; Kurtic et al. 2023, ZipLM, weigh all outputs alike, G = 1). The
cheapest head over all modules goes next.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nmtprune.architecture import GroupId, UnitId
from nmtprune.errors import CheckpointError, DataError
from nmtprune.methods.importance import GradientOptions, GradientScorer
from nmtprune.methods.scorer import JointScorer, Subject

if TYPE_CHECKING:
    from torch import Tensor

    from nmtprune.architecture import Kept
    from nmtprune.data.batching import Batch
    from nmtprune.methods.measuring import Texts
    from nmtprune.model import Masks, Transformer
    from nmtprune.model.attention import Attention
    from nmtprune.model.sublayers import Body

RIDGE = 0.01
"""Added to the diagonal of S, as a share of its mean."""

_SMALLEST_RIDGE = 1e-12
"""Added where contexts never vary, so that S has an inverse."""


@dataclass(frozen=True, eq=False)
class ModuleReconstruction:
    """What the removal of heads costs in one module, where the output projection is refitted after each of them.

    Of B and G only ``B^T G B`` matters: block elimination keeps it up to date together with A.

    Attributes:
        heads: h numbers of heads that are left, ascending.
        inverse: A [h * K, h * K] in double precision.
        sensitivity: n / 2 B^T G B [h * K, h * K] in double precision.
    """

    heads: tuple[int, ...]
    inverse: "Tensor"
    sensitivity: "Tensor"

    @property
    def costs(self) -> "Tensor":
        """Nats per sentence [h] that the removal of each head costs."""
        import torch

        count = len(self.heads)
        width = len(self.inverse) // count
        blocks = self.inverse.view(count, width, count, width), self.sensitivity.view(count, width, count, width)
        inverse, sensitivity = (block.diagonal(dim1=0, dim2=2).permute(2, 0, 1) for block in blocks)
        # tr(A_RR^-1 P) with A_RR = L L^T is tr(L^-1 P L^-T).
        lower = torch.linalg.cholesky(inverse)
        half = torch.linalg.solve_triangular(lower, sensitivity, upper=False)
        found: Tensor = torch.linalg.solve_triangular(lower, half.transpose(1, 2), upper=False)
        return found.diagonal(dim1=1, dim2=2).sum(1)

    def without(self, head: int) -> "ModuleReconstruction":
        """The same after the removal of a head."""
        import torch

        place, width = self.heads.index(head), len(self.inverse) // len(self.heads)
        begin, end = place * width, (place + 1) * width
        others = torch.cat([torch.arange(begin), torch.arange(end, len(self.inverse))])
        rows, own = self.inverse[begin:end][:, others], self.inverse[begin:end, begin:end]
        update = torch.linalg.solve(own, rows)
        inverse = self.inverse[others][:, others] - rows.T @ update
        across, corner = self.sensitivity[begin:end][:, others], self.sensitivity[begin:end, begin:end]
        correction = update.T @ across
        sensitivity = self.sensitivity[others][:, others] - correction - correction.T + update.T @ corner @ update
        heads = (*self.heads[:place], *self.heads[place + 1 :])
        return ModuleReconstruction(heads, _symmetric(inverse), _symmetric(sensitivity))


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What the removal of heads costs in every module.

    Attributes:
        modules: those with heads.
        known: costs of the heads of each module, as computed from `modules`.
    """

    modules: Mapping[GroupId, ModuleReconstruction]
    known: Mapping[GroupId, Mapping[UnitId, float]]

    @classmethod
    def of(cls, modules: Mapping[GroupId, ModuleReconstruction]) -> "Reconstruction":
        """The modules with the costs of their heads."""
        return cls(modules, {id: _named(id, module) for id, module in modules.items()})

    def costs(self) -> dict[UnitId, float]:
        """Nats per sentence that the removal of each head costs."""
        return {head: cost for known in self.known.values() for head, cost in known.items()}

    def without(self, head: UnitId) -> "Reconstruction":
        """The same after the removal of a head."""
        id = head.group
        module = self.modules[id].without(head.number)
        return replace(
            self, modules={**self.modules, id: module}, known={**self.known, id: _named(id, module)}
        )  # fmt: skip


def reconstruction(
    model: "Transformer",
    batches: "Iterable[Batch]",
    *,
    label_smoothing: float = 0.0,
    ridge: float = RIDGE,
    masks: "Masks | None" = None,
) -> Reconstruction:
    """Costs of removing heads from a model whose output projections are the least-squares optima.

    Those of an unpruned model are, since they reproduce it without error; those of a refitted model are by
    construction. Padding is left out; the weights of a module that stands at several places (tied layers) are
    reconstructed at all of them together. Sums are taken in double precision.

    Args:
        model: an encoder-decoder model in single or double precision.
        batches: sentences with their references; memory is needed for one batch at a time.
        label_smoothing: of the training loss, see `Checkpoint.label_smoothing`.
        ridge: see RIDGE.
        masks: [H] of zeros and ones for modules that lost heads.

    Raises:
        DataError: no sentences.
        CheckpointError: contexts or derivatives that are no finite numbers; the modules are named.
        ValueError: a model in half precision, batches without references, masks of another shape or other values.
    """
    import torch

    from nmtprune.methods.measuring import Texts, heads_left

    if model.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"reconstruction in {model.dtype}: build the model in single precision")
    sentences = 0
    with torch.inference_mode(False), torch.enable_grad():
        moments = {id: _Moments(id, mask) for id, mask in heads_left(model, masks).items() if bool(mask.any())}
        for batch in batches:
            texts = Texts.of(batch, model)
            sentences += len(texts.source)
            _add(model, texts, moments, masks or {}, label_smoothing)
    if not sentences:
        raise DataError("reconstruction: there are no sentences to measure it on")
    return Reconstruction.of({id: own.reconstruction(sentences, ridge) for id, own in moments.items()})


class ReconstructionOrder(GradientScorer[GradientOptions], JointScorer[GradientOptions]):
    """The order for models that are refitted."""

    name = "reconstruction"
    summary = "place in the order of what refitting cannot repair (0 goes first)."
    settings = GradientOptions
    brief = "smallest rise of the loss that refitting cannot repair"
    in_rounds = True

    def removal_costs(self, subject: Subject, kept: "Kept | None" = None) -> Reconstruction:
        """Costs of the heads that are left."""
        return reconstruction(
            subject.model,
            subject.batches(self.sentences(subject)),
            label_smoothing=self.measured_by(subject).label_smoothing,
            masks=subject.masks(kept),
        )


class _Moments:
    """Sums over the positions of one module: of contexts, of their products, and of products of derivatives."""

    def __init__(self, module: GroupId, mask: "Tensor") -> None:
        self.id, self.kept = module, mask.nonzero()[:, 0]
        self._count = 0
        self._contexts: Tensor | float = 0.0
        self._products: Tensor | float = 0.0
        self._slopes: Tensor | float = 0.0
        self._weight: Tensor | None = None

    def add(self, attention: "Attention", contexts: "Tensor", slopes: "Tensor") -> None:
        """Add positions with contexts [N, H, K] and derivatives by the output [N, D]."""
        x = contexts[:, self.kept].flatten(1).double()
        g = slopes.double()
        self._count += len(x)
        self._contexts = self._contexts + x.sum(0)
        self._products = self._products + x.T @ x
        self._slopes = self._slopes + g.T @ g
        if self._weight is None:
            by_head = attention.output_weight.view(-1, attention.heads, attention.head_dim)
            self._weight = by_head[:, self.kept].flatten(1).double()

    def reconstruction(self, sentences: int, ridge: float) -> ModuleReconstruction:
        """What removing heads costs, per sentence.

        Raises:
            CheckpointError: sums that are no finite numbers.
        """
        import torch

        sums = [torch.as_tensor(each).cpu() for each in (self._contexts, self._products, self._slopes)]
        if not all(bool(each.isfinite().all()) for each in sums):
            what = f"contexts of {self.id} or derivatives by its output"
            raise CheckpointError(f"{what} are no finite numbers: check the model's weights")
        if self._weight is None:
            raise ValueError(f"{self.id} was never computed")
        contexts, products, slopes = sums
        covariance = products / self._count - torch.outer(contexts, contexts) / self._count**2
        added = max(ridge * float(covariance.diagonal().mean()), _SMALLEST_RIDGE)
        regular = _symmetric(covariance) + added * torch.eye(len(covariance), dtype=torch.float64)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(regular))
        weight = self._weight.cpu()
        # n / 2 G with n positions per sentence and G a mean over positions: the sum, per sentence.
        sensitivity = weight.T @ (slopes / (2 * sentences)) @ weight
        return ModuleReconstruction(tuple(self.kept.tolist()), _symmetric(inverse), _symmetric(sensitivity))


def _add(
    model: "Transformer", texts: "Texts", moments: Mapping[GroupId, _Moments], masks: "Masks", label_smoothing: float
) -> None:
    """Add the positions of a batch to the moments of every module."""
    import torch

    from nmtprune.methods.gradients import loss_slopes
    from nmtprune.model import Pass
    from nmtprune.model.attention import Attention

    passed: list[tuple[Attention, Tensor, Tensor]] = []

    def tap(body: "Body", context: "Tensor", output: "Tensor") -> "Tensor":
        """Note what the projection reads, and add a zero whose derivative is that of the output."""
        if not isinstance(body, Attention) or body.id not in moments:
            return output
        zero = torch.zeros_like(output, requires_grad=True)
        passed.append((body, context.detach(), zero))
        return output + zero

    run = Pass(masks, tap=tap)
    memory = model.cache_source(model.encode(texts.source, run=run), by_head=False)
    features = model.features(texts.previous, memory, run=run)[texts.real_target]
    zeros = tuple(zero for *_, zero in passed)
    if features.requires_grad:
        slopes = loss_slopes(model, features.detach(), texts.target[texts.real_target], label_smoothing)
        found = torch.autograd.grad(features, zeros, slopes, allow_unused=True, materialize_grads=True)
    else:  # no head is connected to the output
        found = tuple(torch.zeros_like(zero) for zero in zeros)
    for (attention, context, _), slope in zip(passed, found, strict=True):
        real = texts.queries(attention.id)
        moments[attention.id].add(attention, context[real], slope[real])


def _named(id: GroupId, module: ModuleReconstruction) -> dict[UnitId, float]:
    if not module.heads:
        return {}
    return {UnitId(id, head): cost for head, cost in zip(module.heads, module.costs.tolist(), strict=True)}


def _symmetric(matrix: "Tensor") -> "Tensor":
    """The matrix without the rounding that makes it unsymmetric."""
    return (matrix + matrix.T) / 2
