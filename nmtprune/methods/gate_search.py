"""Which units can go, by gates that learn alone on the weights as they are: a choice, found in some tens of updates.

The gates, the penalty and lambda are those of `nmtprune.gates`; no weight changes, dropout is off, and derivatives of
weights are never computed. Sources: Louizos et al. 2018, section 4; Voita et al. 2019, section 6; Li et al. 2021,
"Differentiable subset pruning of transformer heads", for gates with a step of their own.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from nmtprune.architecture import KINDS, GroupId, UnitId
from nmtprune.data.examples import Examples
from nmtprune.errors import DataError, TrainingError, UsageError
from nmtprune.methods.importance import GradientOptions, GradientScorer
from nmtprune.methods.scorer import TRANSLATES, Subject, setting

if TYPE_CHECKING:
    from torch import Tensor

    from nmtprune.architecture import Kept
    from nmtprune.budget import Limits
    from nmtprune.data.batching import Batch
    from nmtprune.data.corpus import Corpus
    from nmtprune.gates import GateSettings, Travel
    from nmtprune.methods.joint_order import UnitPrices
    from nmtprune.model import Masks, Transformer

TOKENS = 2048
"""Tokens of a batch, at most."""

UPDATES = 60
"""Updates of a search."""

ORDER_UPDATES = 120
"""Updates of a search in which all gates close."""

_NO_GATES = "a classifier has no gates: l0 trains those of translation models; choose another order"
_ADVICE = "give the gates more updates"
_TOLERATED = 0.25
"""Share of the heads that may be open on average at the end of a search in which all close: a real model has 15 %."""

_BETAS = (0.9, 0.98)
_WEIGHT = 0.02


@dataclass(frozen=True)
class GateSearch:
    """How gates are searched for.

    Attributes:
        settings: how they work: step, kinds, number of heads, costs of units, ...
        updates: of the gates.
        weight: lambda, or where it begins if it adapts.
        label_smoothing: of the loss.
        seed: of the draws of gates.
    """

    settings: "GateSettings"
    updates: int = UPDATES
    weight: float = _WEIGHT
    label_smoothing: float = 0.0
    seed: int = 1


@dataclass(frozen=True)
class FoundGates:
    """The result of a search.

    Attributes:
        log_alphas: [G] of the gates of every group.
        expected: heads that are open on average at the end; None where no head has a gate.
    """

    log_alphas: "Mapping[GroupId, Tensor]"
    expected: float | None


def shuffled_batches(corpus: "Corpus", seed: int, tokens: int = TOKENS) -> "Iterator[Batch]":
    """Batches of sentences of like length, in random order and again in another one, without an end.

    Raises:
        DataError: no sentences.
    """
    import numpy as np

    from nmtprune.data.batching import BatchLimits

    every, generator = corpus.batches(BatchLimits(tokens)), np.random.default_rng(seed)
    if not every:
        raise DataError("gates: there are no sentences to learn from")
    while True:
        for number in generator.permutation(len(every)).tolist():
            yield corpus.batch(every[number])


def search_gates(
    model: "Transformer", batches: "Iterator[Batch]", search: GateSearch, left: "Masks | None" = None
) -> FoundGates:
    """Train the gates of a model whose weights stay as they are.

    Args:
        model: in single or double precision.
        batches: at least as many as there are updates.
        search: how.
        left: [H] or [F] of zeros and ones for groups that lost units before. Heads that are gone have no gates.

    Raises:
        TrainingError: derivatives that are no finite numbers.
    """
    import torch

    from nmtprune.gates import LambdaState, adapted, penalty

    own, settings = _Searched(model, search, left or {}), search.settings
    state, factor = LambdaState(), 1.0
    with torch.inference_mode(False), torch.enable_grad():
        log_alpha = torch.full((len(own.there),), settings.init, requires_grad=True)
        optimizer = torch.optim.Adam([log_alpha], lr=settings.step or 0.0, betas=_BETAS)
        for update in range(search.updates):
            opened = own.open_probability(log_alpha)
            if settings.adapts:
                state, factor = adapted(settings, state, update, own.heads(opened.detach()), own.count)
            added = penalty(settings, own.by_kind(opened), search.weight, factor)
            features, slopes = own.loss(next(batches), log_alpha)
            optimizer.zero_grad()
            torch.autograd.backward([features, added], [slopes, None])
            if log_alpha.grad is None or not bool(log_alpha.grad.isfinite().all()):
                raise TrainingError("gates: derivatives are no finite numbers: check the model's weights")
            optimizer.step()
        found = log_alpha.detach()
        expected = own.heads(own.open_probability(found)) if own.count else None
        return FoundGates(own.by_group(found.masked_fill(~own.there, -math.inf)), expected)


class _Searched:
    """A model with gates, whose weights stay as they are.

    Attributes:
        there: [G] of all gates, group by group: false for heads that are gone.
        count: heads with gates.
    """

    def __init__(self, model: "Transformer", search: GateSearch, left: "Masks") -> None:
        import torch

        from nmtprune.gates import gate_sizes

        self._model, self._search, self._left, self._settings = model, search, left, search.settings
        self._generator = torch.Generator().manual_seed(search.seed)
        every = model.architecture.groups
        self._units = {own.id: own.units for own in every if own.units and own.id.kind in search.settings.kinds}
        self._sizes = {id: gate_sizes(id, units) for id, units in self._units.items()}
        ones = {id: torch.ones(len(sizes)) for id, sizes in self._sizes.items()}
        self.there = torch.cat([left[id].cpu() if id in left and id.kind in KINDS else ones[id] for id in ones]).bool()
        self._heads = torch.cat([own * (id.kind in KINDS) for id, own in ones.items()]).bool() & self.there
        self.count = int(self._heads.sum())

    def by_group(self, values: "Tensor") -> "dict[GroupId, Tensor]":
        """Values of all gates, group by group."""
        return dict(zip(self._sizes, values.split([len(sizes) for sizes in self._sizes.values()]), strict=True))

    def by_kind(self, values: "Tensor") -> "dict[str, Tensor]":
        """Sums of values of gates over the units of each kind."""
        from nmtprune.gates import by_kind

        return by_kind(self.by_group(values), self._sizes)

    def heads(self, values: "Tensor") -> float:
        """The sum of values over the gates of heads."""
        return float(values[self._heads].sum())

    def open_probability(self, log_alpha: "Tensor") -> "Tensor":
        """P(open) of every gate [G]; 1 for those that never close, 0 for heads that are gone."""
        return self._settings.open_probability(log_alpha, self._always(log_alpha)) * self.there

    def loss(self, batch: "Batch", log_alpha: "Tensor") -> "tuple[Tensor, Tensor]":
        """Features of the words of a batch under gates drawn for it, and the derivatives of the mean loss by them."""
        from nmtprune.gates import over_units
        from nmtprune.methods.gradients import loss_slopes
        from nmtprune.methods.texts import Texts
        from nmtprune.model import Pass

        model, settings = self._model, self._settings
        gates = settings.draw(log_alpha, self._always(log_alpha), self._generator) * self.there
        masks = dict(self._left)
        for id, own in self.by_group(gates).items():
            factors = over_units(id, settings.scaled(id, own), self._units[id]).to(model.device, model.dtype)
            masks[id] = factors * self._left[id] if id in self._left else factors
        texts = Texts.of(batch, model)
        features, expected = texts.features(model, Pass(masks)), texts.expected
        return features, loss_slopes(model, features, expected, self._search.label_smoothing) / len(expected)

    def _always(self, log_alpha: "Tensor") -> "Tensor":
        """Gates [G] that never close."""
        import torch

        from nmtprune.gates import never_closing

        own = self.by_group(log_alpha.detach().masked_fill(~self.there, -math.inf))
        return torch.cat(list(never_closing(self._settings, own).values())) & self.there


@dataclass(frozen=True, kw_only=True)
class GateOrderOptions(GradientOptions):
    """Options of the order of gates.

    Attributes:
        gate_updates: in which all gates close.
    """

    gate_updates: int = setting(
        ORDER_UPDATES,
        "Close all gates within N updates of the gates; weights do not change.",
        metavar="N",
        minimum=1,
    )


class GateOrder(GradientScorer[GateOrderOptions]):
    """Heads by log alpha after a search in which fewer and fewer are wanted, until none is."""

    name = "gates"
    summary = "log alpha of the head's gate after all were closed, on weights that do not change (Voita et al. 2019)."
    settings = GateOrderOptions
    panel = "Importance"
    of_metric = False
    sorts: ClassVar[tuple[str, ...]] = ("heads",)
    unscored = {
        "neurons": "only l0 puts gates on neurons",
        "layers": "a layer has no gate: score layers by bleu, chrf or loss",
    }
    brief = "how far gates close when all must"
    measures = (TRANSLATES,)
    mixes = True

    @property
    def uses_seed(self) -> bool:
        """Gates are drawn."""
        return True

    def scores(
        self,
        subject: Subject,
        kept: "Kept | None" = None,
        limits: "Limits | None" = None,
        prices: "UnitPrices | None" = None,
    ) -> Mapping[UnitId, float]:
        """Log alpha at the end of a search in which all gates close."""
        from nmtprune.model import Classifier

        model, masks = subject.under(kept)
        corpus = self.sentences(subject)
        if isinstance(model, Classifier) or isinstance(corpus, Examples):
            raise UsageError(_NO_GATES)
        settings = self._settings(KINDS if limits is None else tuple(kind for kind in KINDS if kind in limits.kinds))
        search = GateSearch(
            settings,
            self.options.gate_updates,
            label_smoothing=self.measured_by(subject).label_smoothing,
            seed=subject.seed,
        )
        batches = shuffled_batches(corpus, subject.seed)
        found = search_gates(model, batches, search, masks)
        return {
            UnitId(id, number): value
            for id, own in found.log_alphas.items()
            for number, value in enumerate(own.tolist())
            if value > -math.inf
        }

    def check(self, subject: Subject) -> None:
        """Check that gates can close within their updates.

        Raises:
            UsageError: they cannot, or the model is a classifier.
        """
        super().check(subject)
        if subject.checkpoint.classifies:
            raise UsageError(_NO_GATES)
        fault = self._travel().fault
        if fault:
            raise UsageError(fault)

    def remarks(self, scores: Mapping[UnitId, float]) -> list[str]:
        """Say if gates could not travel, or had not closed in the end."""
        import torch

        expected = float(self._settings(KINDS).open_probability(torch.tensor([*scores.values()])).sum())
        found = [line for line in [self._travel().remark] if line]
        if expected > max(1.0, _TOLERATED * len(scores)):
            found.append(
                f"{expected:.1f} of {len(scores)} heads were still open on average when all were to be closed: the "
                f"order of those that go last is not decided; {_ADVICE}"
            )
        return found

    def _settings(self, kinds: tuple[str, ...]) -> "GateSettings":
        """Gates that all close: what is wanted falls to 0 within half of `freeze_updates`, that is, in all updates."""
        from nmtprune.gates import STEP, GateSettings

        return GateSettings(
            kinds=kinds, step=STEP, lr_scale=1.0, target_heads=0, freeze_updates=2 * self.options.gate_updates
        )

    def _travel(self) -> "Travel":
        from nmtprune.gates import STEP, GateSettings, Travel

        updates = self.options.gate_updates
        return Travel(STEP, updates, GateSettings().init, f" for {updates} updates", _ADVICE)

    def facts(self, subject: Subject) -> dict[str, Any]:
        """Updates of the gates, and the label smoothing of the loss."""
        return {"updates": self.options.gate_updates, **super().facts(subject)}
