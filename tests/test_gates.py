"""Gate formulas against finite differences, counting, and the definitions; settings that no gate can have."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from nmtprune.architecture import GroupId
from nmtprune.errors import CheckpointError, UsageError
from nmtprune.gates import GateSettings, LambdaState, adapted, factors_at_test, open_masks, penalty, wanted_heads

HARD = GateSettings()
SKEWED = GateSettings(stretch=(-0.2, 1.05), temperature=0.5)
BINARY = GateSettings(gate="binconcrete")
DRAWS = 400_000


def _values(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _draws(settings: GateSettings, log_alpha: float) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return settings.sample(torch.full((DRAWS,), log_alpha, dtype=torch.float64), generator)


@pytest.mark.parametrize("settings", [HARD, SKEWED, BINARY], ids=["hard", "skewed", "binary"])
@pytest.mark.parametrize("log_alpha", [-2.0, -0.3, 0.0, 1.0, 2.0])
def test_the_closed_form_is_the_share_of_open_draws(settings: GateSettings, log_alpha: float) -> None:
    found = _draws(settings, log_alpha)
    expected = float(settings.open_probability(_values(log_alpha)))
    error = 5 * math.sqrt(expected * (1 - expected) / DRAWS)
    assert float((found > 0).double().mean()) == pytest.approx(expected, abs=error)
    assert float(found.min()) >= 0 and float(found.max()) <= 1


def test_the_paper_s_start() -> None:
    """Log alpha 2 opens 94 % of the gates and 77 % fully."""
    assert float(HARD.open_probability(_values(2.0))) == pytest.approx(0.942, abs=5e-4)
    assert float((_draws(HARD, 2.0) == 1).double().mean()) == pytest.approx(0.770, abs=3e-3)


@pytest.mark.parametrize("settings", [HARD, SKEWED], ids=["hard", "skewed"])
def test_hard_gates_open_where_one_is_likelier_than_zero(settings: GateSettings) -> None:
    gamma, zeta = settings.stretch
    grid = torch.linspace(-3, 3, 1201, dtype=torch.float64)
    one = torch.sigmoid(grid - settings.temperature * math.log((1 - gamma) / (zeta - 1)))
    zero = 1 - torch.sigmoid(grid - settings.temperature * math.log(-gamma / zeta))
    clear = (one - zero).abs() > 1e-9
    assert torch.equal(settings.test_gates(grid)[clear], (one > zero).double()[clear])
    draws = _draws(settings, 0.4)
    share_one, share_zero = (float((draws == value).double().mean()) for value in (1, 0))
    assert bool(settings.test_gates(_values(0.4))) == (share_one > share_zero)


def test_a_symmetric_stretch_opens_above_zero() -> None:
    assert HARD.test_gates(_values(-1e-6, 0.0, 1e-6)).tolist() == [0, 0, 1]
    assert BINARY.test_gates(_values(-1e-6, 0.0, 1e-6)).tolist() == [0, 1, 1]


def test_soft_gates() -> None:
    soft = GateSettings(test_gate="soft")
    found = soft.test_gates(_values(-9.0, 0.0, 1.0, 9.0))
    middle = 1 / (1 + math.exp(-1.0)) * 1.2 - 0.1
    torch.testing.assert_close(found, _values(0.0, 0.5, middle, 1.0))


def _derivative(function: Callable[[Tensor], Tensor], at: Tensor) -> tuple[Tensor, Tensor]:
    """By autograd, and by central differences."""
    at = at.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(function(at).sum(), at)
    step = 1e-6
    with torch.no_grad():
        return found, (function(at + step) - function(at - step)) / (2 * step)


@pytest.mark.parametrize("settings", [HARD, SKEWED, BINARY], ids=["hard", "skewed", "binary"])
def test_derivatives(settings: GateSettings) -> None:
    at = torch.linspace(-4, 4, 33, dtype=torch.float64)
    torch.testing.assert_close(*_derivative(settings.open_probability, at), rtol=1e-6, atol=1e-9)

    def drawn(log_alpha: Tensor) -> Tensor:
        return settings.sample(log_alpha, torch.Generator().manual_seed(5))

    found, differences = _derivative(drawn, at)
    if settings.gate == "hardconcrete":
        torch.testing.assert_close(found, differences, rtol=1e-5, atol=1e-8)
        assert bool((found == 0).any()) and bool((found > 0).any())


def test_binary_gates_pass_the_soft_derivative_straight_through() -> None:
    at = torch.linspace(-3, 3, 25, dtype=torch.float64).requires_grad_(True)
    gates = BINARY.sample(at, torch.Generator().manual_seed(7))
    assert set(gates.tolist()) == {0.0, 1.0}
    (found,) = torch.autograd.grad(gates.sum(), at)
    noise = torch.empty(25, dtype=torch.float64).uniform_(1e-6, 1 - 1e-6, generator=torch.Generator().manual_seed(7))
    soft = torch.sigmoid((noise.log() - (1 - noise).log() + at) / 0.33)
    torch.testing.assert_close(found, soft * (1 - soft) / 0.33)
    assert torch.equal(gates, (soft >= 0.5).double())


@pytest.mark.parametrize("settings", [HARD, BINARY], ids=["hard", "binary"])
def test_extreme_gates_have_finite_derivatives(settings: GateSettings) -> None:
    at = torch.tensor([-1e4, -80.0, 80.0, 1e4], requires_grad=True)
    values = settings.sample(at).sum() + settings.open_probability(at).sum()
    (found,) = torch.autograd.grad(values, at)
    assert bool(torch.isfinite(values)) and bool(torch.isfinite(found).all())


def test_theta_learns_faster() -> None:
    theta = torch.tensor([0.1, -0.2], requires_grad=True)
    (found,) = torch.autograd.grad(GateSettings(lr_scale=7.0).log_alpha(theta).sum(), theta)
    assert found.tolist() == [7.0, 7.0]
    assert GateSettings().log_alpha(torch.zeros(2, dtype=torch.float16)).dtype == torch.float32


MODULES = {GroupId("encoder", 0): _values(1.0, -1.0, 2.0), GroupId("cross", 0): _values(2.0, 0.5)}


def test_output_scaling() -> None:
    settings = GateSettings(output_scaling=True)
    gates = torch.tensor([1.0, 0.0, 0.0, 0.5], requires_grad=True)
    scaled = gates * settings.scale(gates)
    assert scaled.tolist() == pytest.approx([8 / 3, 0, 0, 4 / 3])
    (found,) = torch.autograd.grad(scaled.sum(), gates)
    assert found.tolist() == pytest.approx([8 / 3] * 4)  # the scale itself has no derivative
    assert float(settings.scale(torch.zeros(4))) == 4
    assert float(settings.scale(torch.tensor([0.01, 0.0]))) == 2
    assert factors_at_test(settings, MODULES)[GroupId("encoder", 0)].tolist() == [1.5, 0, 1.5]
    assert GateSettings().scale(gates) == 1


@pytest.mark.parametrize("number", range(6))
def test_a_number_of_heads_is_met_exactly(number: int) -> None:
    settings = GateSettings(target_heads=number)
    masks = open_masks(settings, MODULES)
    assert sum(int(mask.sum()) for mask in masks.values()) == number
    # The two of 2.0 are a tie: the encoder's closes first.
    order = [("cross", 0), ("encoder", 2), ("encoder", 0), ("cross", 1), ("encoder", 1)]
    opened = {(module.kind, head) for module, mask in masks.items() for head in mask.nonzero().flatten().tolist()}
    assert opened == set(order[:number])


def test_more_heads_than_there_are() -> None:
    with pytest.raises(ValueError, match="--target-heads 6: 5 heads have gates"):
        open_masks(GateSettings(target_heads=6), MODULES)


def test_files_of_gates_on_heads_alone_stay_as_they_were() -> None:
    """Versions that knew no gates on neurons read them."""
    text = (
        '{"gate": "hardconcrete", "kinds": ["encoder", "decoder", "cross"], "init": 2.0, "temperature": 0.33, '
        '"stretch": [-0.1, 1.1], "lr_scale": 10.0, "freeze_updates": null, "output_scaling": false, '
        '"test_gate": "hard", "target_heads": null}'
    )
    assert GateSettings().to_json() == text and GateSettings.from_json(text, "here") == GateSettings()
    costs = GateSettings(kinds=("cross", "decoder-ffn"), costs={"cross": 1.0, "decoder-ffn": 0.1})
    assert GateSettings.from_json(costs.to_json(), "here") == costs


@pytest.mark.parametrize("number", [None, 4, 5])
def test_some_heads_of_every_module_never_close(number: int | None) -> None:
    settings = GateSettings(min_heads=2, target_heads=number, test_gate="soft")
    closed = {GroupId("encoder", 0): _values(-9.0, -5.0, -5.0, -7.0), GroupId("cross", 0): _values(3.0, 2.0, 1.0)}
    found = {module.kind: mask.tolist() for module, mask in open_masks(settings, closed).items()}
    assert found["encoder"] == [False, True, True, False]
    assert found["cross"] == [True, True, number != 4]
    factors = factors_at_test(settings, closed)
    assert factors[GroupId("encoder", 0)].tolist() == [0, 1, 1, 0]  # also of soft gates: as they were in training
    with pytest.raises(ValueError, match="--target-heads 3: --min-heads-per-module 2 keeps 4"):
        open_masks(replace(settings, target_heads=3), closed)


@pytest.mark.parametrize("scale", [1e-3, 1e-2, 1e-1])
def test_lambda_adapts_until_the_number_of_heads_is_met(scale: float) -> None:
    """Within one head of 36 before any rounding, for losses of any scale; the important heads are those that stay."""
    settings = GateSettings(step=0.15, target_heads=14, freeze_updates=120, lr_scale=1.0)
    generator = torch.Generator().manual_seed(1)
    worth = torch.linspace(-3, 3, 36).exp() * scale
    theta = torch.zeros(36, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=0.15, betas=(0.9, 0.98))
    state = LambdaState()
    for update in range(120):
        log_alpha = settings.log_alpha(theta)
        expected = settings.open_probability(log_alpha).sum()
        state, factor = adapted(settings, state, update, float(expected.detach()), 36)
        noisy = worth * (1 + torch.randn(36, generator=generator))
        loss = (
            penalty(settings, {"cross": expected}, 0.02, factor) - (noisy * settings.sample(log_alpha, generator)).sum()
        )
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    log_alpha = settings.log_alpha(theta.detach())
    assert float(settings.open_probability(log_alpha).sum()) == pytest.approx(14, abs=1)
    assert set(log_alpha.sort().indices[-14:].tolist()) >= set(range(25, 36))


def test_wanted_heads_fall_within_half_of_the_time() -> None:
    settings = GateSettings(target_heads=10, freeze_updates=20, step=0.5)
    assert [wanted_heads(settings, update, 30) for update in (0, 4, 9, 15)] == [28, 20, 10, 10]
    assert [wanted_heads(settings, update, 5) for update in (0, 9)] == [5.5, 10]
    assert wanted_heads(replace(settings, freeze_updates=None), 0, 30) == 10


def test_neurons_go_by_lambda_as_it_was_given() -> None:
    """Whatever lambda adapts to: it is of the number of heads, and heads count 1 each there."""
    costs = {"encoder": 1.25, "cross": 0.75, "decoder-ffn": 0.1}
    expected = {"encoder": _values(3.0)[0], "cross": _values(5.0)[0], "decoder-ffn": _values(40.0)[0]}
    settings = GateSettings(kinds=tuple(costs), costs=costs, step=0.1, target_heads=4)
    assert float(penalty(settings, expected, 0.5, -3.0)) == pytest.approx(0.5 * -3 * 8 + 0.5 * 0.1 * 40)
    with_weights = replace(settings, step=None)
    assert float(penalty(with_weights, expected, 0.5)) == pytest.approx(0.5 * (8 - 4) + 0.5 * 0.1 * 40)
    free = replace(settings, target_heads=None)
    assert float(penalty(free, expected, 0.5)) == pytest.approx(0.5 * (1.25 * 3 + 0.75 * 5 + 0.1 * 40))


def test_settings_survive() -> None:
    settings = GateSettings("binconcrete", ("cross",), 1.5, 0.4, (-0.3, 1.2), 3.0, 7, True, "hard", 4)
    assert GateSettings.from_json(settings.to_json(), "here") == settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate": "soft"}, "gates: gate 'soft': choose one of hardconcrete, binconcrete"),
        ({"test_gate": "warm"}, "gates: test gate 'warm': choose one of hard, soft"),
        ({"kinds": ()}, "gates: kinds none: choose among encoder, decoder, cross, encoder-ffn, decoder-ffn"),
        ({"temperature": 0.0}, "gates: temperature 0 is not above 0"),
        ({"stretch": (0.0, 1.1)}, "gates: stretch 0 1.1: gamma is below 0 and zeta above 1"),
        ({"stretch": (-0.1, 1.0)}, "gates: stretch -0.1 1: gamma is below 0 and zeta above 1"),
        (
            {"lr_scale": math.inf, "init": math.nan},
            "gates: init nan is no number; learning rate scale inf is not above 0",
        ),
        ({"target_heads": -1}, "gates: target heads -1 is negative"),
        (
            {"gate": "binconcrete", "test_gate": "soft"},
            "gates: test gate soft: binary gates are open or closed in training too",
        ),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        GateSettings(**changes)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"costs": [1]}, "costs [1]: must be an object of numbers"),
        ({"costs": {"cross": "1"}}, 'costs {"cross": "1"}: must be an object of numbers'),
        ({"min_heads": 1.5}, "min_heads 1.5: must be a whole number"),
        ({"only_updates": True}, "only_updates true: must be a whole number"),
        (
            {"target_heads": "9", "step": []},
            'target_heads "9": must be a whole number or null; step []: must be a number or',
        ),
        ({"stretch": [1]}, "stretch [1]: must be a list of two numbers"),
        ({"kinds": "encoder"}, 'kinds "encoder": must be a list of words'),
        ({"output_scaling": 1}, "output_scaling 1: must be true or false"),
        ({"costs": {"encoder": 1.0}}, "gates: costs: no cost of decoder; costs: no cost of cross"),
    ],
)
def test_damaged_values(changes: dict[str, Any], message: str) -> None:
    text = json.dumps(json.loads(GateSettings().to_json()) | changes)
    with pytest.raises(CheckpointError) as raised:
        GateSettings.from_json(text, "here")
    assert str(raised.value).startswith(f"here: nmtprune_gates: {message}")


@pytest.mark.parametrize("text", ["{", "[]", "{}", 3, None, '{"gate": "hardconcrete"}'])
def test_damaged_settings(text: Any) -> None:
    with pytest.raises(CheckpointError, match=r"^here: nmtprune_gates: "):
        GateSettings.from_json(text, "here")
