"""Checkpoints with gates: read as the model that their gates make, cut and saved without gates."""

from pathlib import Path
from typing import Any

import pytest
import torch

from nmtprune import slim
from nmtprune.architecture import GroupId, UnitId, parse_heads
from nmtprune.errors import CheckpointError
from nmtprune.evaluate.verify import verify
from nmtprune.formats.fairseq import FairseqCheckpoint, containers
from nmtprune.formats.fairseq.slim_settings import slim_fields
from nmtprune.gates import PARAMETER, SETTING, GateSettings, factors_at_test, gate_count
from nmtprune.plan import Lineage, Plan

_PREFIX = {"encoder": "encoder.layers.{}.self_attn", "decoder": "decoder.layers.{}.self_attn"}
_PREFIX["cross"] = "decoder.layers.{}.encoder_attn"


def _prefix(group: GroupId) -> str:
    return _PREFIX.get(group.kind, f"{group.stack}.layers.{{}}").format(group.layer)


def _name(group: GroupId) -> str:
    return f"{_prefix(group)}.{PARAMETER}"


def _thetas(checkpoint: FairseqCheckpoint, settings: GateSettings) -> dict[GroupId, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        group.id: torch.randn(gate_count(group.id, group.units), generator=generator) * 0.3
        for group in checkpoint.architecture.groups
        if group.id.kind in settings.kinds
    }


def _with_gates(checkpoint: FairseqCheckpoint, settings: GateSettings, **changes: Any) -> dict[str, Any]:
    """The state of the same model with gates."""
    fields = slim_fields(
        checkpoint.architecture_name, checkpoint.architecture, checkpoint.lineage or Lineage.start(checkpoint.base)
    )
    fields |= {SETTING: settings.to_json(), "nmtprune_lineage": None, **changes}
    state = containers.with_model_fields(checkpoint.state, fields)
    gates = {_name(module): theta for module, theta in _thetas(checkpoint, settings).items()}
    return {**state, "model": containers.with_entries(state["model"], gates)}


CASES = {
    "hard": GateSettings(init=0.1, lr_scale=3.0),
    "soft": GateSettings(init=-1.9, lr_scale=3.0, test_gate="soft"),
    "scaled": GateSettings(init=0.1, lr_scale=3.0, output_scaling=True, kinds=("encoder", "cross")),
    "binary": GateSettings(gate="binconcrete", init=-0.2, output_scaling=True),
    "number": GateSettings(target_heads=7),
    "neurons": GateSettings(init=0.1, lr_scale=3.0, kinds=("cross", "encoder-ffn", "decoder-ffn")),
    "soft neurons": GateSettings(
        init=-1.9, lr_scale=3.0, test_gate="soft", kinds=("encoder-ffn",), output_scaling=True
    ),
    "soft number": GateSettings(init=0.0, target_heads=5, test_gate="soft", kinds=("cross",)),
}


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_gates_are_folded_into_the_output(tiny: Path, settings: GateSettings) -> None:
    base = FairseqCheckpoint.load(tiny)
    gated = FairseqCheckpoint.of_state(tiny, _with_gates(base, settings))
    assert gated.gates is not None and gated.gates.settings == settings
    log_alphas = {module: settings.log_alpha(theta) for module, theta in _thetas(base, settings).items()}
    factors = factors_at_test(settings, log_alphas)
    for group in base.architecture.groups:
        name = f"{_prefix(group.id)}.{'out_proj' if group.id.kind in _PREFIX else 'fc2'}.weight"
        factor = torch.ones(group.units)
        if group.id in factors:
            own = factors[group.id]
            factor = own if group.id.kind in _PREFIX else torch.cat([own[:1].expand(16), own[1:].expand(8)])
            assert gated.gates.open[group.id] == tuple(factor.nonzero().flatten().tolist())
        expected = base.model_tensors[name].unflatten(1, (group.units, -1)) * factor[:, None]
        torch.testing.assert_close(gated.model_tensors[name], expected.flatten(1), rtol=0, atol=0)
    assert not any(name.endswith(PARAMETER) for name in gated.model_tensors)
    others = {name for name in base.model_tensors if not name.endswith(("out_proj.weight", "fc2.weight"))}
    assert all(gated.model_tensors[name] is base.model_tensors[name] for name in others)


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_the_open_units_are_the_model(tiny: Path, tmp_path: Path, settings: GateSettings) -> None:
    """Cutting the closed units changes nothing, and what is written has no gates."""
    gated = FairseqCheckpoint.of_state(tiny, _with_gates(FairseqCheckpoint.load(tiny), settings))
    assert gated.gates is not None
    closed = [
        UnitId(group.id, number)
        for group in gated.architecture.groups
        for number in range(group.units)
        if number not in gated.gates.open.get(group.id, range(group.units))
    ]
    assert closed
    plan = Plan.removing(gated.base, closed)
    cut = slim.apply(plan, gated.without_optimizer())
    assert verify(gated, cut, plan).ok
    cut.save(tmp_path / "slim.pt")
    again = FairseqCheckpoint.load(tmp_path / "slim.pt")
    assert again.gates is None and again.lineage is not None
    assert again.lineage.root.sha256 == gated.sha256
    every = settings.kinds
    assert Plan.keep_all(again.base).count_kept(every) == Plan.keep_all(gated.base).count_kept(every) - len(closed)


def test_the_fingerprint_is_of_what_the_file_has(tiny: Path) -> None:
    base = FairseqCheckpoint.load(tiny)
    first, second = (
        FairseqCheckpoint.of_state(tiny, _with_gates(base, GateSettings(init=init))) for init in (3.0, 4.0)
    )
    assert first.sha256 == second.sha256 != base.sha256
    assert first.without_optimizer().sha256 == first.sha256


def test_slim_models_have_gates_on_what_is_left(tiny: Path) -> None:
    base = FairseqCheckpoint.load(tiny)
    plan = Plan.removing(base.base, parse_heads("encoder.0.1 cross.1", base.architecture))
    cut = slim.apply(plan, base)
    settings = GateSettings(init=0.1, lr_scale=3.0)
    assert isinstance(cut, FairseqCheckpoint) and cut.lineage is not None
    gated = FairseqCheckpoint.of_state(tiny, _with_gates(cut, settings, nmtprune_lineage=cut.lineage.to_json()))
    assert gated.gates is not None and gated.lineage == cut.lineage
    assert gated.gates.open[GroupId("cross", 1)] == ()
    assert max(gated.gates.open[GroupId("encoder", 0)], default=0) < 3


def test_averages_have_gates_of_their_own(tiny: Path) -> None:
    settings = GateSettings(init=0.0, lr_scale=1.0)
    state = _with_gates(FairseqCheckpoint.load(tiny), settings)
    average = {name: -tensor if name.endswith(PARAMETER) else tensor for name, tensor in state["model"].items()}
    gated = FairseqCheckpoint.of_state(tiny, {**state, "extra_state": {**state["extra_state"], "ema": average}})
    name = "encoder.layers.0.self_attn.out_proj.weight"
    own, copy = gated.model_tensors[name], gated.tensors[f"ema/{name}"]
    whole = state["model"][name]
    torch.testing.assert_close(own + copy, whole, rtol=0, atol=0)  # what is open in one is closed in the other
    assert not torch.equal(own, whole) and not torch.equal(copy, whole)


def test_damaged_gates(tiny: Path) -> None:
    base = FairseqCheckpoint.load(tiny)

    def refused(settings: GateSettings, change: dict[str, Any], without: str = "") -> str:
        state = _with_gates(base, settings)
        model = {name: tensor for name, tensor in state["model"].items() if name != without}
        with pytest.raises(CheckpointError) as raised:
            FairseqCheckpoint.of_state(tiny, {**state, "model": {**model, **change}})
        return str(raised.value)

    first = _name(GroupId("encoder", 0))
    assert refused(GateSettings(), {}, first) == f"{tiny}: gates: {first} is missing"
    expected = f"{tiny}: gates: {first} is no list of 4 finite numbers"
    assert refused(GateSettings(), {first: torch.zeros(3)}) == expected
    nan = refused(GateSettings(), {first: torch.full((4,), torch.nan)})
    assert nan == f"{tiny}: gates: {first} holds NaN (4 of 4 numbers)"
    cross = GateSettings(kinds=("cross",))
    assert refused(cross, {first: torch.zeros(4)}) == f"{tiny}: gates: {first} belongs to no module with gates"
    many = GateSettings(target_heads=25)
    assert refused(many, {}) == f"{tiny}: gates: --target-heads 25: 24 heads have gates"
    state = _with_gates(base, GateSettings())
    with pytest.raises(CheckpointError, match="nmtprune_gates: must be an object with the keys"):
        FairseqCheckpoint.of_state(tiny, containers.with_model_fields(state, {SETTING: "{}"}))
    with pytest.raises(CheckpointError, match=f"{first} is no part of such a model"):
        FairseqCheckpoint.of_state(tiny, containers.with_model_fields(state, {SETTING: None}))
