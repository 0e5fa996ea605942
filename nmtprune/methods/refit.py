"""Refit: least squares for the output projections of a pruned model, so that its states follow the unpruned model's.

Every output projection (W_O of attention, the second matrix of a feed-forward layer, the matrix behind a recurrence) is
fitted in the order in which the network computes, on what it reads in the pruned and so far refitted model. The target
is the state that the unpruned model has after the sub-layer minus the one that the pruned model has before it, so that
each sub-layer also repairs what those below it broke. Where layers were removed, the last projection before the gap
aims at the state that the unpruned model has after the gap; a gap in front of the first sub-layer is repaired by the
target of that sub-layer, as it is. With x what the projection reads, t the target, W0 and b0 the
projection as it is and e = t - W0 x - b0 what it misses:

    W = W0 + cov(e, x) (cov(x) + l I)^-1        b = b0 + mean(e) - (W - W0) mean(x)        l = ridge * mean diag cov(x)

which is ridge regression of t on x that draws W towards W0. In post-norm models the states are those that go into the
norm; a norm maps a state and any multiple of it to the same value, but targets scaled to fit make the model worse. In
front of a gap they are those that the norm maps to the state after it (`walk.ProjectionStop.aim`), and the norm first
takes gain and bias of the one at the end of the gap, without which no state could be that.

The problem of one layer is that of ZipLM (Kurtic et al. 2023), K-prune (Park et al. 2024) and OSSCAR (Meng et al.
2024); the mask tuning of Kwon et al. 2022 is the case of one factor for each head, FLAP (An et al. 2024) that of the
bias alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nmtprune.errors import CheckpointError, DataError, UsageError
from nmtprune.methods.gradients import label_smoothed_loss
from nmtprune.methods.texts import Texts
from nmtprune.methods.walk import FFN, HEADS, Match, Place, ProjectionStop, entered, matched
from nmtprune.model import Model
from nmtprune.model.kernels import linear

PARTS = (HEADS, FFN)
"""What may be fitted alone: the projections of attention, or those of feed-forward layers."""

_LOGITS_BYTES = 64 << 20


@dataclass(frozen=True)
class RefitSettings:
    """How projections are fitted.

    Attributes:
        ridge: how strongly a projection is drawn towards what it was, in units of the mean variance of its inputs.
        only: one of PARTS; None for every output projection.
        fixed: native names, without ``.weight``, of projections and norms that are left as they are.
        stored_as: type that fitted projections are rounded to, where a file has fewer bits than the model computes in.
        kept_bytes: inputs of the projection at hand that are kept between the pass that fits it and the pass that
            applies it; the inputs beyond are computed twice.
    """

    ridge: float = 0.01
    only: str | None = None
    fixed: frozenset[str] = frozenset()
    stored_as: torch.dtype | None = None
    kept_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UsageError: naming every value that is not allowed.
        """
        faults = []
        if not 0 <= self.ridge < float("inf"):
            faults.append(f"ridge {self.ridge} is not a number from 0 up")
        if self.only not in (None, *PARTS):
            faults.append(f"unknown part '{self.only}' (choose among {', '.join(PARTS)})")
        if faults:
            raise UsageError.of_faults("refit", faults)


@dataclass(frozen=True)
class FittedProjection:
    """What the fit of one output projection did.

    Attributes:
        name: of the sub-layer, as in `walk.ProjectionStop.name`.
        tokens: positions that it was fitted on.
        inputs: columns that were fitted; those of removed units are not among them.
        silent: of these, columns whose input is the same at every position.
        error_before: mean square of what the projection missed, per output value.
        error_after: the same after the fit.
        bias: the projection has a bias, which was fitted too.
    """

    name: str
    tokens: int
    inputs: int
    silent: int
    error_before: float
    error_after: float
    bias: bool


@dataclass(frozen=True)
class Fit:
    """Fitted projections.

    Attributes:
        tensors: weights [D, E] and biases [D] of projections, and gains and biases [D] of the norms of `norms`, by the
            native model's name of the parameter.
        projections: what was fitted, in the order of the network.
        left: names of sub-layers that have no output projection to fit.
        norms: names of sub-layers in front of a gap whose norm was replaced by the one at the end of the gap.
    """

    tensors: Mapping[str, Tensor]
    projections: tuple[FittedProjection, ...]
    left: tuple[str, ...]
    norms: tuple[str, ...] = ()


@torch.no_grad()
def fit_projections(
    base: Model,
    slim: Model,
    texts: Sequence[Texts],
    settings: RefitSettings | None = None,
    layers: Mapping[str, Sequence[int]] | None = None,
) -> Fit:
    """Fit the output projections of `slim` so that its states follow those of `base` on some sentences.

    Memory holds the states of both models for all sentences, and the moments of one projection. Tied sub-layers are
    fitted once, when the network first computes them, on all their places. Units whose columns are all zero (heads and
    neurons removed from a masked file, padding of a uniform one) stay zero.

    Args:
        base: the unpruned model; it is not changed.
        slim: the same layers, or some of them, with other numbers of heads and neurons; afterwards it computes with the
            fitted projections. The tensors that it was built from are not changed.
        texts: sentences with their references or translations, or texts of a classifier, on the device of both models.
        settings: how to fit.
        layers: numbers in `base` of the layers that `slim` has, by stack that lost some (`Plan.kept_layers`).

    Raises:
        DataError: no sentences.
        CheckpointError: states that are no finite numbers; the sub-layer is named.
        ValueError: models of other layers, or of two types.
    """
    settings = settings or RefitSettings()
    if not texts:
        raise DataError("refit: there are no sentences to fit on")
    if base.dtype != slim.dtype or [*base.stacks] != [*slim.stacks]:
        raise ValueError("refit: the two models have other stacks, or compute in two types")
    fitting = _Fitting(settings)
    ends: list[tuple[Tensor | None, Tensor | None]] = [(None, None)] * len(texts)
    for stack in base.stacks:
        front, matches = matched(base, slim, stack, (layers or {}).get(stack))
        lanes = []
        for text, (of_base, of_slim) in zip(texts, ends, strict=True):
            start = _behind(front, entered(base, text, stack, of_base))
            lanes.append(_Lane(start, entered(slim, text, stack, of_slim), text.real(stack)))
        ends.clear()  # the encoder's output is in the lanes
        fitting.fit(matches, lanes)
        ends = [(lane.base.states, lane.slim.states) for lane in lanes]
    return Fit(fitting.tensors, tuple(fitting.projections), tuple(fitting.left), tuple(fitting.norms))


@dataclass
class _Lane:
    """One batch, as far as both models have computed it.

    Attributes:
        base: where it stands in the unpruned model.
        slim: where it stands in the pruned one.
        real: [B, T], false for padding.
        inputs: what the sub-layer at hand reads in the pruned model, if that is kept.
    """

    base: Place
    slim: Place
    real: Tensor
    inputs: Tensor | None = None


class _Fitting:
    """Goes through the sub-layers of two models, with all batches at each of them."""

    def __init__(self, settings: RefitSettings) -> None:
        self._settings = settings
        self.tensors: dict[str, Tensor] = {}
        self.projections: list[FittedProjection] = []
        self.left: list[str] = []
        self.norms: list[str] = []
        self._done: set[str] = set()

    def fit(self, matches: Sequence[Match], lanes: Sequence[_Lane]) -> None:
        """Fit the sub-layers of one stack; the batches stand at its end afterwards."""
        for number, match in enumerate(matches):
            pruned = match.pruned
            if self._is_wanted(pruned):
                last = max(place for place, other in enumerate(matches) if other.pruned.name == pruned.name)
                self._take_norm([other for other in matches[number:] if other.pruned.name == pruned.name])
                self._fit_one(matches[number : last + 1], lanes)
            else:
                for lane in lanes:
                    lane.base = _behind((match.own, *match.gap), lane.base)
            for lane in lanes:
                inputs = pruned.inputs(lane.slim) if lane.inputs is None else lane.inputs
                lane.slim = lane.slim.at(pruned.after(lane.slim.states, pruned.output(inputs)))
                lane.inputs = None

    def _is_wanted(self, pruned: ProjectionStop) -> bool:
        """Whether the projection is to be fitted here: tied ones are, when they are met first."""
        if pruned.name in self._done or self._settings.only not in (None, pruned.kind):
            return False
        self._done.add(pruned.name)
        fixed = pruned.weight is None or pruned.parameter in self._settings.fixed
        if fixed:
            self.left.append(pruned.name)
        return not fixed

    def _take_norm(self, places: Sequence[Match]) -> None:
        """Give a sub-layer the norm at the end of the gap behind it, where there is such a gap at all of its places.

        States after a norm lie where its gain and bias put them: no input of another norm gives them.
        """
        pruned, ends = places[0].pruned, [match.gap[-1] if match.gap else None for match in places]
        own, end = pruned.last_norm, ends[0] and ends[0].last_norm
        name = f"{pruned.sublayer.name}_post_norm"
        if own is None or end is None or name in self._settings.fixed:
            return
        if any(other is None or other.sublayer is not places[0].gap[-1].sublayer for other in ends):
            return
        self.norms.append(pruned.name)
        for part in ("weight", "bias"):
            parameter, value = getattr(own, part), getattr(end, part)
            parameter.data = value.to(self._settings.stored_as or value.dtype).to(parameter)
            self.tensors[f"{name}.{part}"] = parameter.data

    def _fit_one(self, matches: Sequence[Match], lanes: Sequence[_Lane]) -> None:
        """Fit the first of these sub-layers, on it and on what is tied to it; the unpruned model moves on by one."""
        pruned = matches[0].pruned
        weight, bias = pruned.weight, pruned.bias
        if weight is None:
            raise ValueError(f"{pruned.name} has no output projection")
        columns = _columns(pruned, weight)
        moments = _Moments(len(columns), weight.shape[0], weight.device, centred=bias is not None)
        free = self._settings.kept_bytes
        for lane in lanes:
            for place, inputs, missed in _walk(matches, lane):
                if place == 0 and inputs.nbytes <= free:
                    lane.inputs = inputs
                    free -= inputs.nbytes
                read = inputs[lane.real]
                moments.add(read if len(columns) == read.shape[1] else read[:, columns], missed)
        if not moments.finite:
            raise CheckpointError(f"{pruned.name}: its states are no finite numbers: check the weights of both models")
        change, shift = moments.solution(self._settings.ridge)
        fitted = weight.double()
        fitted[:, columns] += change
        self._set(pruned, fitted, shift)
        self.projections.append(moments.described(pruned.name, change))

    def _set(self, pruned: ProjectionStop, fitted: Tensor, shift: Tensor) -> None:
        """Let the pruned model compute with the fitted projection; the tensors it was built from stay as they are."""
        if pruned.weight is None:
            return
        stored = self._settings.stored_as or pruned.weight.dtype
        pruned.weight.data = fitted.to(stored).to(pruned.weight)
        self.tensors[f"{pruned.parameter}.weight"] = pruned.weight.data
        if pruned.bias is not None:
            pruned.bias.data = (pruned.bias.double() + shift).to(stored).to(pruned.bias)
            self.tensors[f"{pruned.parameter}.bias"] = pruned.bias.data


def _behind(sublayers: Sequence[ProjectionStop], place: Place) -> Place:
    """A batch behind some sub-layers, one after the other."""
    for stop in sublayers:
        place = stop.moved(place)
    return place


def _walk(matches: Sequence[Match], lane: _Lane) -> Iterator[tuple[int, Tensor, Tensor]]:
    """What the first sub-layer reads and misses in one batch, there and wherever else it stands among `matches`.

    Behind the first place, the pruned model goes on with its projections as they are.

    Yields:
        Place among `matches`, inputs [B, T, E], and what the output misses at the N real positions, [N, D].
    """
    base, slim, name = lane.base, lane.slim, matches[0].pruned.name
    for place, match in enumerate(matches):
        own, pruned = match.own, match.pruned
        output = own.output(own.inputs(base))
        behind = _behind(match.gap, base.at(own.after(base.states, output)))
        inputs = pruned.inputs(slim)
        reached = pruned.output(inputs)
        if pruned.name == name:
            aim = pruned.aim(base.states, output, behind.states) if match.gap else own.summed(base.states, output)
            missed = aim[lane.real] - pruned.summed(slim.states, reached)[lane.real]
            yield place, inputs, missed
        base = behind
        if place == 0:
            lane.base = base
        if place + 1 < len(matches):
            slim = slim.at(pruned.after(slim.states, reached))


def _columns(pruned: ProjectionStop, weight: Tensor) -> Tensor:
    """Columns of a projection that belong to units which are there: those of a removed unit are all zero."""
    if not weight.shape[1]:
        return torch.zeros(0, dtype=torch.long, device=weight.device)
    width = weight.shape[1] // pruned.units
    there = (weight != 0).any(0).view(pruned.units, width).any(1)
    return there.repeat_interleave(width).nonzero().squeeze(1)


class _Moments:
    """Sums over positions, from which the fit of one projection follows."""

    def __init__(self, inputs: int, outputs: int, device: torch.device, *, centred: bool) -> None:
        """Begin with no positions; without `centred` there is no bias to fit, and moments are about zero."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self._centred, self._tokens, self._outputs = centred, 0, outputs
        self._inputs, self._missed, self._square = zeros(inputs), zeros(outputs), zeros()
        self._of_inputs, self._of_both = zeros(inputs, inputs), zeros(inputs, outputs)
        self._origin: Tensor | None = None
        self._type = torch.float64

    def add(self, inputs: Tensor, missed: Tensor) -> None:
        """Take in inputs [N, E] and what the output misses [N, D]."""
        if not len(inputs):
            return
        if self._origin is None:
            # An origin near the mean: the differences of large sums below would lose digits.
            self._origin = inputs.mean(0) if self._centred else torch.zeros_like(inputs[0])
        inputs, self._type = inputs - self._origin, inputs.dtype
        by_input = inputs.T.contiguous()
        self._of_inputs += linear(by_input, by_input)
        self._of_both += linear(by_input, missed.T.contiguous())
        self._inputs += inputs.sum(0, dtype=torch.float64)
        self._missed += missed.sum(0, dtype=torch.float64)
        self._square += missed.square().sum(dtype=torch.float64)
        self._tokens += len(inputs)

    @property
    def finite(self) -> bool:
        """Whether all sums are numbers."""
        sums = (self._square, self._inputs, self._missed, self._of_inputs, self._of_both)
        return all(bool(each.isfinite().all()) for each in sums)

    def solution(self, ridge: float) -> tuple[Tensor, Tensor]:
        """What to add to the weight, [D, E], and to the bias, [D], in double precision."""
        variance, covariance = self._central
        penalty = ridge * float(variance.diagonal().mean()) if len(variance) else 0.0
        noise = len(variance) * torch.finfo(self._type).eps
        regular = ridge > noise and penalty > 0
        if regular:
            variance.diagonal().add_(penalty)
            factor, failed = torch.linalg.cholesky_ex(variance)
            regular, penalty = not int(failed), 0.0
        change = torch.cholesky_solve(covariance, factor) if regular else _least(variance, covariance, penalty, noise)
        shift = self._missed / self._tokens
        if self._origin is not None:
            shift = shift - change.T @ (self._inputs / self._tokens + self._origin)
        return change.T, shift

    def described(self, name: str, change: Tensor) -> FittedProjection:
        """What the fit did, with the `change` [D, E] of the weight."""
        variance, covariance = self._central
        count = self._outputs * self._tokens
        before = self._square / count
        mean = (self._missed / self._tokens).square().sum() / self._outputs if self._centred else 0.0
        gained = ((2 * covariance.T - change @ variance) * change).sum() / self._outputs
        silent = int((variance.diagonal() <= 0).sum())
        after = max(0.0, float(before - mean - gained))
        return FittedProjection(name, self._tokens, len(variance), silent, float(before), after, self._centred)

    @property
    def _central(self) -> tuple[Tensor, Tensor]:
        """Covariances [E, E] of the inputs and [E, D] of inputs and what is missed; moments where there is no bias."""
        variance, covariance = self._of_inputs / self._tokens, self._of_both / self._tokens
        if self._centred:
            mean, missed = self._inputs / self._tokens, self._missed / self._tokens
            variance -= torch.outer(mean, mean)
            covariance -= torch.outer(mean, missed)
        return variance, covariance


def _least(variance: Tensor, covariance: Tensor, penalty: float, noise: float) -> Tensor:
    """The smallest of the solutions [E, D] of a system that may be singular.

    Directions count as unseen whose variance is at most `noise` of the largest one: that is how far products in the
    type of the inputs are from exact ones, and dividing by it would make weights of rounding.
    """
    if not len(variance):
        return covariance
    values, vectors = torch.linalg.eigh(variance)
    inverse = torch.where(values > float(values[-1]) * noise, 1 / (values + penalty), 0.0)
    solution: Tensor = vectors @ (inverse.unsqueeze(1) * (vectors.T @ covariance))
    return solution


@torch.no_grad()
def mean_loss(model: Model, texts: Sequence[Texts]) -> float:
    """Negative log-likelihood of the target side, in nats per token; of a classifier's labels, in nats per text.

    Raises:
        DataError: no sentences.
    """
    total, tokens = torch.zeros((), dtype=torch.float64, device=model.device), 0
    for text in texts:
        features, words = text.features(model), text.expected
        block = max(1, _LOGITS_BYTES // (model.outputs * model.dtype.itemsize))
        for begin in range(0, len(words), block):
            scores = model.output(features[begin : begin + block])
            own = label_smoothed_loss(scores, words[begin : begin + block], 0.0, model.normalized)
            total += own.sum(dtype=torch.float64)
        tokens += len(words)
    if not tokens:
        raise DataError("refit: there are no sentences to measure a loss on")
    return float(total) / tokens
