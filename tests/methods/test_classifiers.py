"""Methods on classifiers: what they measure is what stock transformers and plain loops say of the same weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nmtprune import formats
from nmtprune.architecture import GroupId, UnitId
from nmtprune.budget import Limits
from nmtprune.data.examples import LabelledBatch
from nmtprune.engines import native
from nmtprune.errors import DataError
from nmtprune.methods.confidence import confidence
from nmtprune.methods.contribution import contributions
from nmtprune.methods.fisher import fisher
from nmtprune.methods.importance import UNITS, ImportanceSettings, importance
from nmtprune.methods.joint_order import removal_order
from nmtprune.methods.reconstruction import reconstruction
from nmtprune.methods.refit import RefitSettings, fit_projections, mean_loss
from nmtprune.methods.texts import LabelledTexts, SentencePairs, Texts
from nmtprune.model import Classifier
from tests.support.calibration import labelled_texts
from tests.support.classifier_folders import SETTINGS, classifier_folder
from tests.support.stock_classifiers import Stock
from tests.support.thinned import thinned

SORTS = ("heads", "neurons")


@dataclass(frozen=True)
class Tiny:
    """A folder of a classifier, its model in both toolkits, and texts."""

    folder: Path
    model: Classifier
    stock: Stock
    texts: list[LabelledTexts]

    @classmethod
    def of(cls, folder: Path, kind: str) -> "Tiny":
        classifier_folder(folder, kind)
        model = native.load_classifier(formats.load(folder), dtype=torch.float64)
        generator = torch.Generator().manual_seed(3)
        return cls(folder, model, Stock(folder), [labelled_texts(model, texts, generator) for texts in (5, 1, 6)])

    @property
    def units(self) -> dict[GroupId, int]:
        return {group.id: group.units for group in self.model.architecture.groups}

    @property
    def batches(self) -> list[LabelledBatch]:
        return [LabelledBatch(np.arange(len(each)), each.tokens, each.segments, each.labels) for each in self.texts]

    @property
    def alone(self) -> Iterator[LabelledBatch]:
        """The same texts, each in a batch of its own."""
        for each in self.texts:
            for row, real in enumerate(each.real_tokens):
                segments = None if each.segments is None else each.segments[row, real][None]
                yield LabelledBatch(np.array([row]), each.tokens[row, real][None], segments, each.expected[row][None])

    def slopes(self) -> dict[GroupId, Tensor]:
        """Derivatives [N, U] of every text's loss, by autograd through stock transformers."""
        found = [self.stock.slopes(each, self.units) for each in self.texts]
        return {id: torch.cat([own[id].sum(2) for own in found]) for id in self.units}

    def read(self) -> dict[GroupId, Tensor]:
        """What output projections read in stock transformers at the real positions, [N, I]."""
        found: dict[GroupId, list[Tensor]] = {id: [] for id in self.units}
        for texts in self.texts:

            def read(id: GroupId, _: nn.Linear, x: Tensor, texts: LabelledTexts = texts) -> Tensor:
                found[id].append(x.detach()[texts.real_tokens])
                return x

            with torch.no_grad(), self.stock.reading(read):
                self.stock.logits(texts)
        return {id: torch.cat(own) for id, own in found.items()}


@pytest.fixture(scope="module", params=thinned(SETTINGS))
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny.of(tmp_path_factory.mktemp("tiny") / request.param, request.param)


def by_unit(values: dict[GroupId, Tensor]) -> dict[UnitId, float]:
    return {UnitId(id, unit): value for id, own in values.items() for unit, value in enumerate(own.tolist())}


@pytest.mark.parametrize("unit", UNITS)
def test_importance_is_autograd_through_transformers(tiny: Tiny, unit: str) -> None:
    found = importance(tiny.model, tiny.batches, ImportanceSettings(unit), sorts=SORTS)
    if unit == "sentence":
        expected = {id: slopes.abs().mean(0) for id, slopes in tiny.slopes().items()}
    else:
        tokens = sum(int(each.real_tokens.sum()) for each in tiny.texts)
        sums = [tiny.stock.slopes(each, tiny.units) for each in tiny.texts]
        expected = {id: sum(own[id].abs().sum((0, 2)) for own in sums) / tokens for id in tiny.units}
    assert found == pytest.approx(by_unit(expected), abs=1e-9)
    assert max(found.values()) > 1e-3


def test_importance_is_that_of_finite_differences(tiny: Tiny) -> None:
    step, masked = 1e-4, {}
    for unit in [UnitId(id, 1) for id in tiny.units]:
        total = 0.0
        for batch in tiny.alone:
            losses = []
            for sign in (1, -1):
                mask = torch.ones(tiny.units[unit.group], dtype=torch.float64)
                mask[1] += sign * step
                logits = tiny.model(batch.tokens, batch.segments, {unit.group: mask})
                losses.append(float(nn.functional.cross_entropy(logits, batch.labels)))  # type: ignore[arg-type]
            total += abs(losses[0] - losses[1]) / (2 * step)
        masked[unit] = total / sum(map(len, tiny.texts))
    found = importance(tiny.model, tiny.batches, ImportanceSettings(), sorts=SORTS)
    assert {unit: found[unit] for unit in masked} == pytest.approx(masked, abs=1e-6)


def test_batches_make_no_difference(tiny: Tiny) -> None:
    for measured in (
        lambda batches: importance(tiny.model, batches, ImportanceSettings("token"), sorts=SORTS),
        lambda batches: fisher(tiny.model, batches, sorts=SORTS).diagonal,
        lambda batches: reconstruction(tiny.model, batches, sorts=SORTS).costs(),
        lambda batches: contributions(tiny.model, batches, sorts=SORTS).variance,
        lambda batches: contributions(tiny.model, batches, sorts=SORTS).activation,
        lambda batches: confidence(tiny.model, batches),
    ):
        assert measured(tiny.batches) == pytest.approx(measured(tiny.alone), rel=1e-8, abs=1e-12)


def test_the_joint_fisher_order_is_that_of_a_look_at_every_unit(tiny: Tiny) -> None:
    """At every step the unit goes whose sum of derivatives with those gone before has the smallest mean square."""
    slopes = torch.cat(list(tiny.slopes().values()), dim=1)
    units = [UnitId(id, unit) for id, count in tiny.units.items() for unit in range(count)]
    costs = fisher(tiny.model, tiny.batches, sorts=SORTS)
    order = removal_order(costs, tiny.units, Limits(tuple(dict.fromkeys(id.kind for id in tiny.units))))
    assert sorted(order) == sorted(units)
    gone: list[int] = []
    for unit in order[:40]:
        left = [place for place in range(len(units)) if place not in gone]
        totals = (slopes[:, left] + slopes[:, gone].sum(1, keepdim=True)).square().mean(0) / 2
        place = units.index(unit)
        assert float(totals[left.index(place)]) <= float(totals.min()) + 1e-9
        gone.append(place)
    expected = slopes[:, gone].sum(1).square().mean() / 2
    assert costs.cost_of(order[:40]) == pytest.approx(float(expected), rel=1e-9)


def test_reconstruction_costs_what_least_squares_cannot_repair(tiny: Tiny) -> None:
    read, found = tiny.read(), reconstruction(tiny.model, tiny.batches, ridge=0.0)
    for id in (GroupId("encoder", 0), GroupId("encoder", 2)):
        x, weight, count = read[id], tiny.stock.projections[id].weight.detach(), tiny.units[id]
        slopes = []
        for texts in tiny.texts:
            outputs: list[Tensor] = []
            handle = tiny.stock.projections[id].register_forward_hook(lambda _m, _x, y, kept=outputs: kept.append(y))
            with torch.enable_grad():
                loss = tiny.stock.losses(texts).sum()
            handle.remove()
            slopes.append(torch.autograd.grad(loss, outputs[0])[0][texts.real_tokens])
        outer = torch.cat(slopes).T @ torch.cat(slopes) / sum(map(len, tiny.texts)) / 2
        width = x.shape[1] // count
        for head in range(count):
            own = torch.arange(head * width, (head + 1) * width)
            others = torch.tensor([column for column in range(x.shape[1]) if column not in own])
            centred = x - x.mean(0)
            rest = centred[:, others] @ torch.linalg.lstsq(centred[:, others], centred[:, own]).solution
            error = (centred[:, own] - rest) @ weight[:, own].T
            expected = float((outer * (error.T @ error / len(x))).sum())
            assert found.costs()[UnitId(id, head)] == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_contributions_are_those_of_plain_loops(tiny: Tiny) -> None:
    found, variance, activation = contributions(tiny.model, tiny.batches, sorts=SORTS), {}, {}
    for id, x in tiny.read().items():
        parts = x.unflatten(1, (tiny.units[id], -1))
        weight = tiny.stock.projections[id].weight.detach().unflatten(1, parts.shape[1:])
        given = torch.einsum("nuk,duk->nud", parts, weight)
        variance[id], activation[id] = given.var(0, correction=0).sum(1), given.norm(dim=2).mean(0)
    assert found.variance == pytest.approx(by_unit(variance), rel=1e-8)
    assert found.activation == pytest.approx(by_unit(activation), rel=1e-8)


def test_only_scores_by_the_loss_need_labels(tiny: Tiny) -> None:
    unlabelled = [LabelledBatch(each.positions, each.tokens, each.segments) for each in tiny.batches]
    assert contributions(tiny.model, unlabelled) == contributions(tiny.model, tiny.batches)
    assert confidence(tiny.model, unlabelled) == confidence(tiny.model, tiny.batches)
    with pytest.raises(ValueError, match="texts without labels"):
        importance(tiny.model, unlabelled, ImportanceSettings())
    with pytest.raises(DataError, match="there are no sentences"):
        fisher(tiny.model, [])
    with pytest.raises(ValueError, match="without references"):
        SentencePairs.of(tiny.batches[0], tiny.model)


def test_refit_of_the_unpruned_model_changes_nothing_and_fewer_layers_are_fitted(tiny: Tiny) -> None:
    checkpoint = formats.load(tiny.folder)
    texts = [Texts.of(batch, tiny.model) for batch in tiny.batches]
    same = native.load_classifier(checkpoint, dtype=torch.float64)
    fit = fit_projections(tiny.model, same, texts)
    natives = checkpoint.native_tensors()
    assert len(fit.projections) == 6 and not fit.left
    for name, tensor in fit.tensors.items():
        torch.testing.assert_close(tensor, natives[name].double(), rtol=0, atol=1e-9)
    streamed = fit_projections(tiny.model, native.load_classifier(checkpoint, dtype=torch.float64), texts,
                               RefitSettings(kept_bytes=0))  # fmt: skip
    assert all(bool((streamed.tensors[name] - tensor).abs().max() <= 1e-12) for name, tensor in fit.tensors.items())
    short = same.with_layers({"encoder": (0, 2)})
    fit = fit_projections(tiny.model, short, texts, RefitSettings(ridge=1e-6), {"encoder": (0, 2)})
    assert [each.name for each in fit.projections] == ["encoder.0", "encoder-ffn.0", "encoder.2", "encoder-ffn.2"]
    assert mean_loss(short, texts) == pytest.approx(
        float(torch.cat([nn.functional.cross_entropy(short(each.tokens, each.segments), each.expected,
                                                     reduction="none") for each in tiny.texts]).mean())
    )  # fmt: skip
