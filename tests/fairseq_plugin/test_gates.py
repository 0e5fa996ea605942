"""Training with gates in real fairseq: what learns, what the penalty is, and that evaluation is what `slim` writes."""

import logging
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from nmtprune import slim
from nmtprune.architecture import GroupId
from nmtprune.errors import CheckpointError, UsageError
from nmtprune.fairseq_plugin import criterion
from nmtprune.fairseq_plugin.criterion import Penalty
from nmtprune.fairseq_plugin.gate_options import Gateable
from nmtprune.fairseq_plugin.heads import StoredHeads
from nmtprune.fairseq_plugin.unit_gates import GateSet, UnitGates, gates_of, start_open
from nmtprune.formats.fairseq import FairseqCheckpoint, loading
from nmtprune.gates import PARAMETER, GateSettings
from nmtprune.runs.l0.gated_checkpoints import load_gated
from tests.support import fairseq_files
from tests.support.fairseq_commands import eval_lm, generate, hypotheses, run, scores, train, validate
from tests.support.fairseq_files import Files

L0 = ("--arch", "nmtprune", "--task", "translation_l0", "--criterion", "label_smoothed_cross_entropy_l0")
SMOOTHED = ("--label-smoothing", 0.1)
UPDATES = 4


def l0_train(files: Files, folder: Path, *options: Any, start: Path | None = None, updates: int = UPDATES) -> Path:
    """Train from a checkpoint with gates; the last checkpoint."""
    common = (*L0, *SMOOTHED, "--finetune-from-model", start or files.full, "--max-update", updates)
    train(files.data, folder, *common, *options)
    return folder / "checkpoint_last.pt"


def stored(path: Path) -> dict[str, torch.Tensor]:
    """The model's tensors as the file has them."""
    model: dict[str, torch.Tensor] = loading.read_state(path)["model"]
    return model


def thetas(path: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in stored(path).items() if name.endswith(PARAMETER)}


CASES = {
    "hard": ("--gate-init", 0.02, "--gate-lr-scale", 1),
    "soft": ("--test-gate", "soft", "--gate-init", -2.3, "--gate-lr-scale", 20),
    "scaled": ("--output-scaling", "--l0-kinds", "encoder,cross", "--gate-init", 0.02, "--gate-lr-scale", 1),
    "binary": ("--gate", "binconcrete", "--gate-init", 0.02, "--gate-lr-scale", 1, "--output-scaling"),
    "number": ("--target-heads", 9),
    "neurons": ("--l0-groups", "neurons", "--gate-init", 0.02, "--gate-lr-scale", 1),
    "soft neurons": (
        *("--l0-groups", "heads,neurons", "--test-gate", "soft", "--target-heads", 9),
        *("--gate-init", -1.9, "--gate-lr-scale", 5),
    ),
}
QUICK = ("scaled", "number", "soft neurons")


@pytest.mark.parametrize(
    "options",
    [pytest.param(own, marks=[pytest.mark.slow] * (name not in QUICK), id=name) for name, own in CASES.items()],
)
def test_fairseq_evaluates_what_slim_writes(files: Files, tmp_path: Path, options: tuple[Any, ...]) -> None:
    """Stock fairseq-generate and -validate give the same for the gated file and for the slim one."""
    last = l0_train(files, tmp_path, *options, "--l0-weight", 0.05)
    gated, plan = load_gated(last)
    assert 0 < len(plan.removed(gated.gates.settings.kinds)) < plan.count_base(gated.gates.settings.kinds)
    cut = tmp_path / "slim.pt"
    slim.apply(plan, gated).save(cut)
    outputs = [generate(path, files.data, "--beam", 2) for path in (last, cut)]
    assert hypotheses(outputs[0]) == hypotheses(outputs[1])
    assert scores(outputs[0]) == pytest.approx(scores(outputs[1]), abs=2e-4)
    assert validate(last, files.data) == pytest.approx(validate(cut, files.data), rel=1e-5)
    if "--target-heads" in options:
        assert plan.count_kept() == 9


@pytest.mark.parametrize("options", [("--max-tokens", 400), ("--max-tokens", 100, "--update-freq", 4)], ids=["1", "4"])
@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_the_penalty_counts_once_per_update(
    files: Files, tmp_path: Path, options: tuple[Any, ...], weight: float
) -> None:
    """Its gradient is lambda dP/da, however many batches and tokens an update has: two runs differ by it alone."""
    sgd = ("--optimizer", "sgd", "--lr", 1.0, "--gate-lr-scale", 1, "--gate-init", 0.5, *options)
    found = []
    for number, value in enumerate((0.0, weight)):
        last = l0_train(files, tmp_path / str(number), *sgd, "--l0-weight", value, updates=1)
        found.append(torch.cat([*thetas(last).values()]))
    log_alpha = torch.tensor(0.5, requires_grad=True)
    (slope,) = torch.autograd.grad(GateSettings().open_probability(log_alpha), log_alpha)
    expected = torch.full_like(found[0], -weight * float(slope))
    torch.testing.assert_close(found[1] - found[0], expected, rtol=2e-4, atol=2e-6)
    assert bool((found[0] != 0).any())


def test_lambda_warms_up(files: Files, tmp_path: Path) -> None:
    """At update 0 it is 0, so the first step is that of lambda 0."""
    options = ("--l0-warmup-updates", 10, "--optimizer", "sgd", "--lr", 1.0)
    paths = [
        l0_train(files, tmp_path / str(weight), *options, "--l0-weight", weight, updates=1) for weight in (0.0, 9.0)
    ]
    first, second = map(stored, paths)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("stack", ["decoder", "encoder"])
def test_what_is_frozen_stays_bit_for_bit(files: Files, tmp_path: Path, stack: str) -> None:
    last = l0_train(files, tmp_path, "--freeze", stack, "--l0-weight", 0.1)
    before, after = stored(files.full), stored(last)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not any(name.startswith(stack) for name in changed)
    assert all(bool((theta != 0).all()) for theta in thetas(last).values())


def test_gates_alone_can_learn(files: Files, tmp_path: Path) -> None:
    last = l0_train(files, tmp_path, "--freeze", "encoder,decoder", "--l0-weight", 0.1, updates=2)
    before, after = stored(files.full), stored(last)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(bool((theta != 0).all()) for theta in thetas(last).values())


def test_shared_tables_are_frozen_with_the_decoder(
    tmp_path: Path, tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = (*L0, *SMOOTHED, "--l0-weight", 0.1, "--freeze", "decoder", "--finetune-from-model", tiny)
    with caplog.at_level(logging.INFO):
        train(tiny.parent / "data-bin", tmp_path, *options, "--max-update", 2)
    assert "encoder.embed_tokens.weight is frozen too: it is decoder.embed_tokens.weight" in caplog.messages
    before, after = stored(tiny), stored(tmp_path / "checkpoint_last.pt")
    name = "encoder.embed_tokens.weight"
    assert torch.equal(before[name], after[name])


@pytest.mark.parametrize("own", [(), ("--gate-step", 0.3, "--gate-only-updates", 1)], ids=["with weights", "own step"])
def test_frozen_gates_do_not_move(files: Files, tmp_path: Path, own: tuple[Any, ...]) -> None:
    """Not by the momentum of the optimizer either, while the weights train on."""
    options = ("--gate-freeze-updates", 2, "--l0-weight", 0.5, *own)
    early, late = (l0_train(files, tmp_path / str(n), *options, updates=n) for n in (2, 5))
    first, second = thetas(early), thetas(late)
    assert all(torch.equal(first[name], second[name]) and bool((theta != 0).all()) for name, theta in second.items())
    name = "encoder.layers.0.fc1.weight"
    assert not torch.equal(stored(early)[name], stored(late)[name])
    free = l0_train(files, tmp_path / "free", "--l0-weight", 0.5, updates=5)
    assert not any(torch.equal(first[name], theta) for name, theta in thetas(free).items())


ADAPTED = ("--gate-step", 0.3, "--target-heads", 9, "--l0-weight", 0.1)
"""Gates with a step of their own, and a lambda that adapts."""


@pytest.mark.parametrize(
    "phase",
    [
        ("--gate-freeze-updates", 5),
        (*ADAPTED, "--gate-only-updates", 5, "--gate-freeze-updates", 6),
        (*ADAPTED, "--gate-only-updates", 2, "--gate-freeze-updates", 5),
        (*ADAPTED, "--gate-only-updates", 1, "--gate-freeze-updates", 3),
    ],
    ids=["with weights", "gates alone", "both", "frozen"],
)
def test_an_interrupted_training_goes_on(files: Files, tmp_path: Path, phase: tuple[Any, ...]) -> None:
    """In the middle of an epoch, as fairseq does without gates: weights, gates and moments; and lambda."""
    options = ("--l0-weight", 0.2, "--max-tokens", 60, "--save-interval-updates", 2, *phase)
    whole = l0_train(files, tmp_path / "whole", *options, updates=6)
    half = l0_train(files, tmp_path / "parts", *options, updates=4)
    assert loading.read_state(half)["extra_state"]["train_iterator"]["iterations_in_epoch"] > 0
    parts = l0_train(files, tmp_path / "parts", *options, updates=6)
    first, second = (loading.read_state(path) for path in (whole, parts))
    assert first["extra_state"]["train_iterator"] == second["extra_state"]["train_iterator"]
    for name, tensor in first["model"].items():
        assert torch.equal(tensor, second["model"][name]), name
    assert ("encoder.layers.0.self_attn.gates.lambda_state" in first["model"]) == ("--target-heads" in phase)
    moments = [state["last_optimizer_state"]["state"] for state in (first, second)]
    assert len(moments[0]) == len(moments[1])
    for index, entry in moments[0].items():
        assert torch.equal(entry["exp_avg"], moments[1][index]["exp_avg"])


def test_gates_move_by_their_own_step_alone(files: Files, tmp_path: Path) -> None:
    """Whatever the learning rate, its schedule and the optimizer do; no weight changes by a bit, and gates close."""
    options = ("--gate-only-updates", 12, "--gate-step", 0.5, "--l0-weight", 5, "--dropout", 0)
    schedules = [("--lr", 0.5), ("--lr", 1e-6, "--lr-scheduler", "inverse_sqrt", "--warmup-updates", 1000)]
    adam = ("--optimizer", "adam", "--adam-betas", "(0.9, 0.98)")
    found = []
    for number, schedule in enumerate(schedules):
        last = l0_train(files, tmp_path / str(number), *options, *adam, *schedule, updates=10)
        after, before = stored(last), stored(files.full)
        assert all(torch.equal(before[name], after[name]) for name in before)
        found.append(2.0 + torch.cat([*thetas(last).values()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)
    assert float(found[0].max()) < -2.5  # ten steps of about a half, from 2
    assert float(found[0].min()) > -3.01
    first = l0_train(files, tmp_path / "first", *options, *adam, "--lr", 0.01, updates=1)
    moved = torch.cat([*thetas(first).values()]).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.5), rtol=1e-3, atol=0)


HALF = {
    "copies": ("--fp16", "--fp16-init-scale", 4, "--fp16-no-flatten-grads"),
    "one copy": ("--fp16", "--fp16-init-scale", 4),
    "without copies": ("--memory-efficient-fp16", "--fp16-init-scale", 4),
}


@pytest.mark.parametrize("precision", HALF.values(), ids=HALF)
def test_gates_move_by_their_own_step_in_half_precision(
    files: Files, tmp_path: Path, precision: tuple[Any, ...]
) -> None:
    """Wherever they stand, by a learning rate far below what a number there can hold."""
    options = ("--gate-only-updates", 9, "--gate-step", 0.5, "--l0-weight", 5, "--dropout", 0, "--lr", 1e-9)
    first = l0_train(files, tmp_path / "first", *options, updates=2)
    with mock.patch("torch.cuda.current_device", return_value=None):  # what tensors on a CPU are found by
        last = l0_train(files, tmp_path / "last", *options, *precision, start=first, updates=2)
    start, end = (torch.cat([*thetas(path).values()]) for path in (first, last))
    torch.testing.assert_close(start, torch.full_like(start, -1.0), rtol=0.02, atol=0)
    torch.testing.assert_close(end, torch.full_like(end, -2.0), rtol=0.02, atol=0)


def test_a_training_from_gates_that_have_learned_starts_anew(files: Files, tmp_path: Path) -> None:
    """Lambda is not that of the other training, and the wanted number goes from the open heads to the target."""
    freeze = ("--gate-freeze-updates", 6)
    first = l0_train(files, tmp_path / "first", *ADAPTED, *freeze, updates=5)
    base = FairseqCheckpoint.load(first)
    second = l0_train(files, tmp_path / "second", *ADAPTED, *freeze, "--target-heads", 12, start=first, updates=1)
    factor, difference, updates, start = stored(second)["encoder.layers.0.self_attn.gates.lambda_state"].tolist()
    assert base.expected_heads is not None and base.expected_heads < 22
    assert (updates, start) == (1, pytest.approx(base.expected_heads, abs=1e-4))
    assert difference == pytest.approx((start - 12) / 3 / 24, abs=1e-5)  # of the way in three updates, of 24 heads
    assert factor == pytest.approx(0.5 * difference)


def test_frozen_gates_have_no_penalty_in_the_log(files: Files, tmp_path: Path) -> None:
    seen: list[set[str]] = []
    finished = criterion.log_gates

    def logged(outputs: Any) -> None:
        seen.extend({name for name in output if name.startswith("l0_")} for output in outputs)
        finished(outputs)

    with mock.patch.object(criterion, "log_gates", logged):
        l0_train(files, tmp_path, *ADAPTED, "--gate-freeze-updates", 2, updates=4)
    learning = {"l0_batches", "l0_penalty", "l0_lambda"}
    assert seen == [learning, learning, {"l0_batches"}, {"l0_batches"}]


def test_after_the_gates_weights_learn(files: Files, tmp_path: Path) -> None:
    options = ("--gate-only-updates", 2, "--gate-freeze-updates", 3, "--gate-step", 0.2, "--l0-weight", 0.1)
    last = l0_train(files, tmp_path, *options, updates=4)
    before, after = stored(files.full), stored(last)
    assert all(not torch.equal(before[name], after[name]) for name in before if name.endswith("fc1.weight"))


def test_slim_models_are_gated_too(files: Files, tmp_path: Path) -> None:
    last = l0_train(files, tmp_path, "--l0-weight", 0.1, "--target-heads", 3, start=files.cut)
    gated, plan = load_gated(last)
    before = FairseqCheckpoint.load(files.cut)
    assert gated.lineage == before.lineage and gated.architecture == before.architecture
    assert plan.count_kept() == 3
    cut = slim.apply(plan, gated)
    assert cut.lineage is not None and before.lineage is not None
    assert cut.lineage.root == before.lineage.root


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["--fp16", "--bf16"])
def test_half_precision_keeps_gates_whole(files: Files, tmp_path: Path, precision: str) -> None:
    run(
        *("train", files.data, "--save-dir", tmp_path, *L0, *SMOOTHED, "--finetune-from-model", files.full, precision),
        *("--max-update", 3, "--l0-weight", 0.1, "--optimizer", "adam", "--lr", 0.01, "--max-tokens", 400),
        *("--num-workers", 0, "--disable-validation", "--no-epoch-checkpoints", "--fp16-init-scale", 4),
    )
    last = tmp_path / "checkpoint_last.pt"
    assert {tensor.dtype for name, tensor in stored(last).items() if name.endswith(PARAMETER)} == {torch.float32}
    theta = torch.cat([*thetas(last).values()])
    assert bool((theta != 0).all()) and not torch.equal(theta, theta.half().float())


MODULE = GroupId("encoder", 0)


def test_gates_weigh_what_their_units_cost() -> None:
    """24 neurons have a gate of 16 and one of 8; the penalty is the expected cost, in average heads."""
    costs = {"encoder": 1.25, "cross": 0.75, "decoder-ffn": 0.03}
    gates = GateSet(GateSettings(kinds=tuple(costs), costs=costs))
    gates.add(MODULE, 4), gates.add(GroupId("cross", 1), 4)
    last = gates.add(GroupId("decoder-ffn", 1), 24)
    last.theta.data.copy_(torch.tensor([0.1, -0.2]))
    opened = [float(gates.settings.open_probability(torch.tensor(value))) for value in (2.0, 3.0, 0.0)]
    assert float(Penalty(0.5, 0)(gates, gates.expected_open())) == pytest.approx(
        0.5 * (4 * 1.25 * opened[0] + 4 * 0.75 * opened[0] + 0.03 * (16 * opened[1] + 8 * opened[2]))
    )
    last.theta.data.copy_(torch.tensor([-1.0, 1.0]))
    last.eval()
    assert last().tolist() == [0.0] * 16 + [1.0] * 8
    assert {kind: int(count) for kind, count in gates.open_by_kind().items()} == {
        "encoder": 4,
        "cross": 4,
        "decoder-ffn": 8,
    }


def test_costs_are_weights_relative_to_the_average_head() -> None:
    heads = StoredHeads({"encoder": (4, 4), "decoder": (2,), "cross": (2,)}, {"encoder": 8, "decoder": 16})
    units = Gateable(heads, {"encoder-ffn": (24, 24), "decoder-ffn": (30,)}, {"encoder": 32, "decoder": 48})
    kinds = units.chosen("neurons,heads", "encoder,cross")
    assert kinds == ("encoder", "cross", "encoder-ffn")
    weights = {"encoder": 4 * 32 * 8, "cross": 2 * (48 + 32) * 16, "encoder-ffn": 2 * 32}
    average = (8 * weights["encoder"] + 2 * weights["cross"]) / 10
    assert units.costs(kinds) == pytest.approx({kind: own / average for kind, own in weights.items()})


def test_one_draw_serves_one_pass() -> None:
    gates = GateSet(GateSettings(init=0.0))
    first, second = gates.add(MODULE, 4), gates.add(GroupId("cross", 1), 3)
    torch.manual_seed(1)
    gates.draw()
    drawn = first(), second()
    assert [own.shape for own in drawn] == [(4,), (3,)]
    torch.manual_seed(1)
    expected = gates.settings.sample(torch.zeros(7))
    assert torch.equal(torch.cat(drawn), expected)
    assert not torch.equal(first(), drawn[0])  # each pass has its own noise


def test_gates_at_test_time_follow_their_parameters() -> None:
    gates = GateSet(GateSettings(kinds=("encoder",)))
    module = gates.add(MODULE, 2)
    module.eval()
    assert module().tolist() == [1, 1]
    module.train()
    module.theta.data.copy_(torch.tensor([-1.0, 1.0]))
    module.eval()
    assert module().tolist() == [0, 1]
    module.load_state_dict({"theta": torch.tensor([1.0, -1.0])})
    assert module().tolist() == [1, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_gates_keep_their_precision(dtype: torch.dtype) -> None:
    module = GateSet(GateSettings()).add(MODULE, 2)
    values = torch.tensor([0.1234567, -0.7654321])
    module.theta.data.copy_(values)
    module.to(dtype)
    assert module.theta.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(module.theta.float(), values)


def test_a_checkpoint_with_some_of_the_gates() -> None:
    gates = GateSet(GateSettings())
    model = torch.nn.ModuleDict({"a": gates.add(MODULE, 2), "b": gates.add(GroupId("cross", 0), 2)})
    model = torch.nn.ModuleDict({"gates": model})
    assert gates_of(model) is gates and isinstance(model["gates"]["a"], UnitGates)
    with pytest.raises(CheckpointError, match=r"^gates of the checkpoint: gates.b.theta is missing$"):
        start_open(model, {"gates.a.theta": torch.zeros(2)})


def refused(files: Files, folder: Path, *options: Any) -> str:
    with pytest.raises((UsageError, CheckpointError)) as raised:
        l0_train(files, folder, *options)
    assert not folder.exists() or not list(folder.iterdir())
    return str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--l0-weight", -1), "criterion: --l0-weight -1: give a number from 0 on"),
        (("--l0-kinds", "middle"), "--l0-kinds middle: kind 'middle': choose among encoder, decoder, cross"),
        (("--gate-step", 0), "gates: step 0 is not above 0"),
        (
            ("--gate-step", 0.1, "--gate-lr-scale", 3),
            "--arch nmtprune: gates: --gate-step and --gate-lr-scale: give one of them",
        ),
        (
            ("--gate-only-updates", 5, "--gate-freeze-updates", 3),
            "gates: gate-only updates 5: gates are constants from update 3 on, and nothing would learn",
        ),
        (
            ("--min-heads-per-module", 2, "--target-heads", 11),
            "--arch nmtprune: gates: --target-heads 11: --min-heads-per-module 2 keeps 12",
        ),
        (("--l0-groups", "layers"), "--l0-groups layers: group 'layers': choose among heads, neurons"),
        (
            ("--l0-groups", "neurons", "--l0-kinds", "cross"),
            "--l0-kinds cross: the model has no cross neurons",
        ),
        (
            ("--l0-groups", "heads,neurons", "--gate-costs", "encoder=1,decoder=0"),
            "--gate-costs encoder=1,decoder=0: no cost of cross; no cost of encoder-ffn; no cost of decoder-ffn",
        ),
        (
            ("--gate-costs", "encoder=1,decoder=0,cross=nan"),
            "gates: cost decoder=0.0: give a number above 0 for each of",
        ),
        (
            ("--l0-groups", "neurons", "--target-heads", 3, "--min-heads-per-module", 1),
            "--arch nmtprune: gates: --target-heads 3: no head has a gate; --min-heads-per-module 1: no head has a",
        ),
        (("--target-heads", 25), "--arch nmtprune: gates: --target-heads 25: 24 heads have gates"),
        (
            ("--weight-decay", 0.1),
            "--arch nmtprune: gates: --weight-decay 0.1 would pull gates back to where they started: "
            "give --weight-decay 0",
        ),
        (("--gate-stretch", 0.1, 1.1), "gates: stretch 0.1 1.1: gamma is below 0 and zeta above 1"),
        (("--freeze", "middle"), "--freeze 'middle': choose encoder, decoder or encoder,decoder"),
        (
            ("--freeze", "encoder,decoder", "--gate-freeze-updates", 0),
            "--freeze encoder,decoder and --gate-freeze-updates 0: nothing is left to train",
        ),
        (("--gate", "binconcrete", "--test-gate", "soft"), "gates: test gate soft: binary gates are open or closed"),
    ],
)
def test_bad_options(files: Files, tmp_path: Path, options: tuple[Any, ...], message: str) -> None:
    assert refused(files, tmp_path / "run", *options).startswith(message)


def test_gates_that_have_learned_keep_their_meaning(files: Files, tmp_path: Path) -> None:
    last = l0_train(files, tmp_path / "first", "--l0-weight", 0.1, "--l0-kinds", "encoder", updates=1)
    with pytest.raises(UsageError) as raised:
        l0_train(files, tmp_path / "second", "--gate-init", 1.0, "--l0-kinds", "cross", start=last)
    assert str(raised.value) == (
        "--arch nmtprune: gates: --l0-kinds: the gates of the checkpoint have ('encoder',); "
        "--gate-init: the gates of the checkpoint have 2.0"
    )
    again = l0_train(files, tmp_path / "third", "--test-gate", "soft", start=last, updates=1)
    gates = FairseqCheckpoint.load(again).gates
    assert gates is not None and gates.settings == GateSettings(kinds=("encoder",), test_gate="soft")


def test_zero_heads_have_no_gates(files: Files, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gates cannot be on the zero heads of mode uniform: slim it with --mode cut"):
        l0_train(files, tmp_path, start=files.uniform)


def test_the_task_needs_gates(files: Files, tmp_path: Path) -> None:
    options = ("--arch", "transformer", "--task", "translation_l0", "--criterion", "cross_entropy_l0")
    with pytest.raises(
        UsageError, match="^--task translation_l0 needs a model with gates: train with --arch nmtprune$"
    ):
        train(files.data, tmp_path, *options, "--max-update", 1)


def test_other_shapes(tmp_path: Path) -> None:
    """Post-norm, other depths, heads and widths in encoder and decoder, separate dictionaries, dropped layers."""
    options = {
        "encoder_layers": 3, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 4,
        "encoder_embed_dim": 16, "decoder_embed_dim": 24, "encoder_layerdrop": 0.4, "joined": False,
    }  # fmt: skip
    full = fairseq_files.fairseq_checkpoint(tmp_path / "base", updates=2, **options)
    reset = ("--reset-optimizer", "--reset-dataloader", "--reset-meters", "--reset-lr-scheduler")
    train(
        *(full.parent / "data-bin", tmp_path, *L0, *SMOOTHED, "--restore-file", full, *reset, "--max-update", 3),
        *("--l0-weight", 0.1, "--target-heads", 5),
    )
    last = tmp_path / "checkpoint_last.pt"
    gated, plan = load_gated(last)
    assert plan.count_kept() == 5
    slim.apply(plan, gated).save(tmp_path / "slim.pt")
    outputs = [generate(path, full.parent / "data-bin", "--beam", 2) for path in (last, tmp_path / "slim.pt")]
    assert hypotheses(outputs[0]) == hypotheses(outputs[1])


def test_language_models_are_gated(lm_files: Files, tmp_path: Path) -> None:
    """As Shim et al. have them."""
    options = ("--gate", "binconcrete", "--gate-init", 0.02, "--gate-lr-scale", 1, "--output-scaling")
    train(
        *(lm_files.data, tmp_path, "--arch", "nmtprune_lm", "--task", "language_modeling", "--tokens-per-sample", 32),
        *("--criterion", "cross_entropy_l0", "--l0-weight", 0.05, "--finetune-from-model", lm_files.full, *options),
        *("--max-update", 4, "--sample-break-mode", "none"),
    )
    last, cut = tmp_path / "checkpoint_last.pt", tmp_path / "slim.pt"
    gated, plan = load_gated(last)
    assert 0 < plan.count_kept() < 8
    slim.apply(plan, gated).save(cut)
    assert eval_lm(last, lm_files.data) == pytest.approx(eval_lm(cut, lm_files.data), rel=1e-5)
