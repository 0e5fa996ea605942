"""Intervals of medians, turns, and multiply-accumulates."""

import itertools
import mmap
from pathlib import Path

import pytest
import torch
from scipy.stats import binom

from nmtprune import slim
from nmtprune.architecture import UnitId
from nmtprune.engines import native
from nmtprune.evaluate.cost import Lengths, Spread, by_part, in_turns, multiply_accumulates, peak_memory, ratio
from nmtprune.evaluate.prices import MultiplyAccumulates
from nmtprune.formats import load
from nmtprune.formats.marian import MarianCheckpoint
from nmtprune.plan import Plan
from tests.support.classifier_folders import SETTINGS as CLASSIFIERS
from tests.support.classifier_folders import classifier_folder
from tests.support.fairseq_files import Build
from tests.support.marian_files import VARIANTS, marian_model
from tests.support.networks import VARIANTS as VARIANTS_OF_FAIRSEQ
from tests.support.thinned import thinned

JOINT = "joint attention alone"
REMOVED = ("encoder.0.1", "encoder.0.2", "encoder.2.3", "encoder-layers.1")


@pytest.mark.parametrize("count", [1, 2, 5, 6, 9, 20, 101])
def test_intervals_cover_the_median(count: int) -> None:
    """The ends are order statistics that the true median lies between with 95 %, and no narrower ones are."""
    found = Spread.of(list(range(count)))
    outside = int(found.low)
    assert found.high == count - 1 - outside and found.low <= found.median <= found.high
    if count >= 6:
        assert 1 - 2 * binom.cdf(outside - 1, count, 0.5) >= 0.95
        assert 1 - 2 * binom.cdf(outside, count, 0.5) < 0.95
    else:
        assert outside == 0


def test_ratios_are_of_the_same_round() -> None:
    found = ratio([2.0, 4.0, 6.0], [1.0, 2.0, 2.0])
    assert (found.median, found.low, found.high) == (2.0, 2.0, 3.0) and found.certain
    assert not ratio([1.0, 2.0], [2.0, 1.0]).certain


def test_jobs_run_in_turns() -> None:
    log: list[str] = []
    numbers = itertools.count()

    def job(name: str) -> int:
        log.append(name)
        return next(numbers)

    told: list[int] = []
    seconds, results = in_turns([lambda: job("a"), lambda: job("b")], 2, lambda which, _: told.append(which))
    assert log == ["a", "b"] * 3 and told == [0, 1] * 3 and results == [0, 1]
    assert [len(own) for own in seconds] == [2, 2] and all(took >= 0 for own in seconds for took in own)


def test_multiply_accumulates_by_hand(tiny: Path) -> None:
    """A sentence of 5 tokens into one of 3, two hypotheses: 2 + 2 layers of 4 heads of 4, d 16."""
    model = native.load(load(tiny))
    found = multiply_accumulates(model, [5], [3], 2)
    d, inner = 16, 16
    words, hidden = model.words[1], model.decoder.layers[0].feed_forward.input_weight.shape[0]
    assert found["encoder attention"] == 2 * (4 * d * inner * 5 + 2 * inner * 25)
    assert found["decoder attention"] == 2 * 2 * (4 * d * inner * 3 + 2 * inner * (1 + 2 + 3))
    assert found["cross attention"] == 2 * (2 * d * inner * 5 + 2 * (2 * d * inner * 3 + 2 * inner * 15))
    assert found["feed-forward"] == 2 * 2 * d * hidden * (5 + 2 * 3)
    assert found["output"] == 2 * 3 * words * d and found["recurrence"] == 0


def test_joint_attention_counts(build: Build) -> None:
    """The decoder's self-attention projects and attends to the source's 5 tokens, too."""
    alone, joint = (native.load(load(build(**VARIANTS_OF_FAIRSEQ[name]))) for name in ("no cross-attention", JOINT))
    d = inner = 16
    added = 2 * (2 * d * inner * 5 + 2 * 2 * inner * 15)
    found = [multiply_accumulates(model, [5], [3], 2)["decoder attention"] for model in (alone, joint)]
    assert found[1] - found[0] == added


def test_recurrences_count(tmp_path: Path) -> None:
    shape = VARIANTS["SSRU decoder of tied layers"]
    base = MarianCheckpoint.load(marian_model(tmp_path / "model.npz", **shape))
    found = multiply_accumulates(native.load(base), [4], [3], 1)
    assert found["recurrence"] == shape.get("dec_depth", 2) * 2 * 16 * 16 * 3 and found["decoder attention"] == 0


@pytest.mark.parametrize("kind", thinned(CLASSIFIERS))
def test_multiply_accumulates_of_a_classifier_are_those_that_torch_counts(tmp_path: Path, kind: str) -> None:
    """Of the native model, full, ragged and without a layer; texts of 7 tokens without padding."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    folder = classifier_folder(tmp_path / "model", kind)
    base = load(folder)
    plan = Plan.removing(base.base, [UnitId.parse(unit, ("encoder", "encoder-layers")) for unit in REMOVED])
    lengths = Lengths.of_texts([7] * 3)
    prices = MultiplyAccumulates.of(base, lengths)
    for checkpoint, kept in ((base, {}), (slim.apply(plan, base), plan.kept_units)):
        model = native.load_classifier(checkpoint)
        # Attention by matrix products: torch counts none of its fused kernel for a CPU.
        with FlopCounterMode(display=False) as counted, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            model(torch.full((3, 7), 8))
        predicted = sum(by_part(model, lengths).values())
        assert counted.get_total_flops() == 2 * predicted == 2 * prices.total(kept)
    assert by_part(native.load_classifier(base), lengths)["output"] == 3 * (16 * 16 + 16 * model.outputs)


def test_peak_memory_sees_what_is_gone_afterwards() -> None:
    with peak_memory(torch.device("cpu")) as peak, mmap.mmap(-1, 64 << 20) as block:
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
    assert peak.bytes is None or peak.bytes >= 60 << 20


def test_peak_memory_sees_what_was_free_before() -> None:
    """What a first job has left behind, as batches of another size do: malloc keeps what lies below a block in use."""

    def blocks(count: int) -> list[bytearray]:
        return [bytearray(b"x" * (60 << 10)) for _ in range(count)]

    first, above = blocks(1000), blocks(9)
    del first
    with peak_memory(torch.device("cpu")) as peak:
        assert len(blocks(1000)) == 1000
    del above
    assert peak.bytes is None or peak.bytes >= 50 << 20
