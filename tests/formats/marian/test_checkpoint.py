"""Marian models: what is read, what a cut changes and leaves alone, and equality with real Marian."""

import itertools
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nmtprune import slim
from nmtprune.architecture import GroupId, UnitId
from nmtprune.errors import CheckpointError
from nmtprune.evaluate.verify import verify
from nmtprune.formats import load
from nmtprune.formats.marian import MarianCheckpoint, archive
from nmtprune.plan import Plan
from tests.support.cli import nmtprune, refused
from tests.support.marian_files import SSRU, VARIANTS, marian_arrays, marian_model, random_plan, write
from tests.support.thinned import thinned


@pytest.mark.parametrize(("mode", "variant"), thinned(itertools.product(slim.MODES, VARIANTS)))
def test_slim_models_compute_what_the_masked_one_does(tmp_path: Path, variant: str, mode: str) -> None:
    base = MarianCheckpoint.load(marian_model(tmp_path / "model.npz", **VARIANTS[variant]))
    for seed, share in ((1, 0.5), (2, 0.9), (3, 0.1)):
        plan = random_plan(base, seed, share)
        result = slim.apply(plan, base, mode)
        result.save(tmp_path / "slim.npz", force=True, provenance={"plan": plan.as_json()})
        there = load(tmp_path / "slim.npz")
        assert isinstance(there, MarianCheckpoint) and there.sha256 == result.sha256
        verify(base, there, plan).raise_if_different()
        kept = {module.id: module.heads for module in there.architecture}
        assert mode == "masked" or kept == {module: len(plan.kept(module)) for module in base.base.modules}
        if mode == "cut":
            stored = {module.id: module.stored_heads for module in there.architecture}
            assert stored == {module: max(1, heads) for module, heads in kept.items()}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(removed=st.sets(st.integers(0, 23)), again=st.sets(st.integers(0, 23)))
def test_slim_twice_is_slim_composed(tmp_path: Path, removed: set[int], again: set[int]) -> None:
    base = MarianCheckpoint.of_arrays(tmp_path / "m.npz", marian_arrays())
    heads = base.architecture.head_ids()
    once = slim.apply(Plan.removing(base.base, [heads[place] for place in removed]), base)
    left = once.architecture.head_ids()
    second = Plan.removing(once.base, [left[place] for place in again if place < len(left)])
    twice = slim.apply(second, once)
    gone = {*(heads[place] for place in removed)}
    kept = [head for head in heads if head not in gone]
    gone |= {head for head, own in zip(kept, left, strict=True) if own in second.removed()}
    direct = slim.apply(Plan.removing(base.base, gone), base)
    assert twice.sha256 == direct.sha256 and twice.lineage == direct.lineage


def test_what_a_plan_leaves_alone_stays_byte_for_byte(tmp_path: Path) -> None:
    path = marian_model(tmp_path / "model.npz")
    base = load(path)
    plan = Plan.removing(base.base, [UnitId(GroupId("encoder", 1), 2)])
    slim.apply(plan, base).save(tmp_path / "slim.npz")
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(tmp_path / "slim.npz") as after:
        names = before.namelist()
        assert after.namelist() == [*names, "special:nmtprune.json.npy"]
        changed = {name for name in names if before.read(name) != after.read(name)}
        assert all(entry.compress_type == zipfile.ZIP_STORED and not entry.extra for entry in after.infolist())
        # Marian 1.9 reads sizes from the local headers: no zip64 fields there, no data descriptors.
        assert all(not entry.flag_bits & 8 for entry in after.infolist())
    own = {f"encoder_l2_self_{name}.npy" for name in ("Wq", "Wk", "Wv", "Wo", "bq", "bk", "bv")}
    assert changed == {*own, "special:model.yml.npy"}
    options = yaml.safe_load(archive.read_archive(tmp_path / "slim.npz")["special:model.yml"].tobytes().rstrip(b"\0"))
    assert options["transformer-encoder-heads"] == [4, 3] and options["transformer-head-dim"] == 4
    assert options["transformer-decoder-heads"] == options["transformer-context-heads"] == [4, 4]
    assert options["transformer-head-file"] is False


def test_head_counts_of_tied_and_recurrent_decoders(tmp_path: Path) -> None:
    base = MarianCheckpoint.load(marian_model(tmp_path / "model.npz", **SSRU))
    assert [str(module.id) for module in base.architecture] == ["encoder.0", "encoder.1", "cross.0"]
    plan = Plan.of(base.base, {"encoder.0": [1], "encoder.1": [], "cross.0": [0, 3]})
    cut = slim.apply(plan, base)
    cut.save(tmp_path / "slim.npz")
    there = load(tmp_path / "slim.npz")
    options = yaml.safe_load(there.arrays["special:model.yml"].tobytes().rstrip(b"\0"))  # type: ignore[attr-defined]
    assert options["transformer-encoder-heads"] == [1, 1] and options["transformer-context-heads"] == [2, 2]
    assert options["transformer-decoder-heads"] == [4, 4]
    assert there.architecture.count() == 3 and there.architecture[GroupId("encoder", 1)].padding_heads == 1
    assert not there.tensors["encoder_l2_self_Wv"].any() and there.tensors["encoder_l2_self_Wv"].shape == (16, 4)
    shown = nmtprune("inspect", tmp_path / "slim.npz")
    assert "marian transformer with SSRU decoder: 3 heads of 12 (75.0% removed)" in shown.stdout
    assert "+1 padding" in shown.stdout
    verify(base, cut, plan).raise_if_different()


def test_without_projections_heads_can_be_masked_only(tmp_path: Path) -> None:
    base = MarianCheckpoint.load(marian_model(tmp_path / "model.npz", transformer_no_projection=True))
    plan = Plan.removing(base.base, [UnitId(GroupId("cross", 0), 1)])
    masked = slim.apply(plan, base, "masked")
    assert (
        not masked.tensors["decoder_l1_context_Wv"][:, 4:8].any()
        and not masked.tensors["decoder_l1_context_bv"][:, 4:8].any()
    )
    assert torch.equal(masked.tensors["decoder_l1_context_Wq"], base.tensors["decoder_l1_context_Wq"])
    with pytest.raises(CheckpointError, match="they can be masked, not cut"):
        slim.apply(plan, base)


def test_parameters_that_do_not_fit(tmp_path: Path) -> None:
    arrays = marian_arrays()
    del arrays["encoder_l1_self_bq"]
    arrays["decoder_l1_ffn_W1"] = arrays["decoder_l1_ffn_W1"][:, :5]
    arrays["extra"] = np.zeros((1, 1), dtype=np.float32)
    path = write(tmp_path / "model.npz", arrays)
    with pytest.raises(CheckpointError) as raised:
        load(path)
    assert str(raised.value) == (
        f"{path}: the parameters do not fit the options: decoder_l1_ffn_W1 is 16 x 5, not 16 x 24; encoder_l1_self_bq "
        "is missing; nmtprune knows no extra"
    )


def _damaged(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    good = marian_model(tmp_path / "good.npz").read_bytes()
    truncated = tmp_path / "truncated.npz"
    truncated.write_bytes(good[:-2000])
    pickled, arrays = tmp_path / "pickled.npz", marian_arrays()
    np.savez(pickled, Wemb=np.array([{"a": 1}], dtype=object))
    bomb = write(tmp_path / "bomb.npz", {"Wemb": np.zeros((4000, 4000), dtype=np.float32)}, zipfile.ZIP_DEFLATED)
    lying = tmp_path / "lying.npz"
    header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 16)}
    with zipfile.ZipFile(lying, "w") as archive_file, archive_file.open("Wemb.npy", "w") as entry:
        np.lib.format.write_array_header_1_0(entry, header)
        entry.write(b"\0" * 64)
    bare = write(tmp_path / "bare.npz", {name: array for name, array in arrays.items() if name != "special:model.yml"})
    broken = write(tmp_path / "broken.npz", {**arrays, "special:model.yml": np.frombuffer(b"a: [1", dtype=np.int8)})
    int8 = write(tmp_path / "int8.npz", {**arrays, "encoder_l1_self_Wq": np.zeros((16, 16), dtype=np.int8)})
    note = write(tmp_path / "note.npz", {**arrays, "special:nmtprune.json": np.frombuffer(b"{]", dtype=np.int8)})
    return {
        "truncated": (truncated, "damaged or truncated: File is not a zip file"),
        "pickled": (pickled, "damaged: Wemb: holds Python objects (a pickle), which could run code when it is read"),
        "bomb": (bomb, f"{bomb}: refused: {bomb.stat().st_size} bytes that claim to unpack to 64000128"),
        "lying": (lying, "damaged: Wemb: 64 bytes for shape [1099511627776, 16] of float32"),
        "bare": (bare, "has no special:model.yml: no Marian model, or one without its options"),
        "broken": (broken, "special:model.yml is no YAML: while parsing a flow sequence"),
        "int8": (int8, "quantized weights (encoder_l1_self_Wq and others): slim the model that they were made from"),
        "note": (note, "special:nmtprune.json is damaged"),
    }


@pytest.mark.parametrize("which", ["truncated", "pickled", "bomb", "lying", "bare", "broken", "int8", "note"])
def test_damaged_files(tmp_path: Path, which: str) -> None:
    path, message = _damaged(tmp_path)[which]
    code, line = refused("inspect", path)
    assert code == 3 and line.startswith(f"{path}: ") and message in line
    assert line.count(str(path)) == 1


def test_by_command(tmp_path: Path) -> None:
    path, plan = marian_model(tmp_path / "model.npz"), tmp_path / "plan.json"
    assert nmtprune("plan", path, "--random", "50%", "-o", plan).code == 0
    result = nmtprune("slim", path, "--plan", plan, "-o", tmp_path / "slim.npz", "--format", "json")
    assert result.code == 0, result.stderr
    figures = json.loads(result.stdout)
    assert figures["heads"] == {"before": 24, "after": 12} and figures["verification"]["ok"]
    assert "branch pruned_final of Behnke's Marian" in result.stderr and "--mode masked only" in result.stderr
    note = json.loads(archive.read_archive(tmp_path / "slim.npz")["special:nmtprune.json"].tobytes().rstrip(b"\0"))
    assert note["lineage"]["root"]["format"] == "marian" and note["provenance"]["mode"] == "cut"


def test_the_real_model(test_models: Path, tmp_path: Path) -> None:
    base = load(test_models / "m30k-ende-marian" / "model.npz")
    assert base.architecture.count() == 96
    for seed in range(3):
        plan = random_plan(base, seed, 0.2 + 0.25 * seed)  # type: ignore[arg-type]
        for mode in slim.MODES:
            verify(base, slim.apply(plan, base, mode), plan).raise_if_different()
