"""Heads, neurons and layers cut out of Marian models: what is computed, what the options say, what is refused."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nmtprune import slim
from nmtprune.architecture import LAYER_KINDS, NEURON_KINDS, Architecture, GroupId, Kept
from nmtprune.engines import native
from nmtprune.errors import CheckpointError
from nmtprune.evaluate.verify import batch
from nmtprune.formats.marian import MarianCheckpoint
from nmtprune.formats.marian.note import NOTE
from nmtprune.plan import Plan
from tests.support.cli import refused
from tests.support.marian_files import SSRU, VARIANTS, Arrays, marian_arrays, marian_model, write
from tests.support.marian_program import Best, marian, marian_translations, random_texts, vocabulary_file
from tests.support.thinned import thinned

DEEP = {"enc_depth": 3, "dec_depth": 4, "transformer_dim_ffn": 6, "words": 12}
PRE_NORM = VARIANTS["pre-norm with norms at both ends"]
SHAPES: dict[str, dict[str, Any]] = {
    "post-norm": DEEP,
    "pre-norm, decoder of another width": {**DEEP, **PRE_NORM, "transformer_decoder_dim_ffn": 5},
    "ties that leave a gap": {**DEEP, "transformer_tied_layers": [1, 1, 3, 4]},
    "ties in any order": {**DEEP, **PRE_NORM, "transformer_tied_layers": [3, 1, 3, 1]},
    "SSRU": {**DEEP, **SSRU, "transformer_tied_layers": []},
    "pre-norm SSRU with ties": {
        **DEEP, **VARIANTS["pre-norm SSRU decoder"], "transformer_tied_layers": [2, 4, 4, 2],
    },
}  # fmt: skip
PATH = Path("model.npz")

BASES = {name: MarianCheckpoint.of_arrays(PATH, marian_arrays(**options)) for name, options in SHAPES.items()}


def _layers(stack: str) -> GroupId:
    return GroupId.layers_of(stack)


def _options(checkpoint: MarianCheckpoint) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(checkpoint.arrays["special:model.yml"].tobytes().rstrip(b"\0"))
    return found


def _note(checkpoint: MarianCheckpoint) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(checkpoint.arrays[NOTE].tobytes().rstrip(b"\0"))
    return found


def _slim(plan: Plan, base: MarianCheckpoint, mode: str = "cut") -> MarianCheckpoint:
    found = slim.apply(plan, base, mode)
    assert isinstance(found, MarianCheckpoint)
    return found


def _by_bits(numbers: tuple[int, ...]) -> st.SearchStrategy[tuple[int, ...]]:
    """Any of a group's units: none, some or all."""
    return st.integers(0, 2 ** len(numbers) - 1).map(
        lambda bits: tuple(number for place, number in enumerate(numbers) if bits >> place & 1)
    )


def _any_plan(architecture: Architecture) -> st.SearchStrategy[Kept]:
    """What stays of every group; at least one layer of each stack."""
    return st.fixed_dictionaries(
        {
            id: _by_bits(own).filter(bool) if id.kind in LAYER_KINDS else _by_bits(own)
            for id, own in architecture.units.items()
        }
    )


@st.composite
def _even_plan(draw: st.DrawFn, architecture: Architecture) -> Kept:
    """The same of `_any_plan` with one number of neurons per stack."""
    kept = dict(draw(_any_plan(architecture)))
    for kind in NEURON_KINDS:
        groups = [group for group in architecture.feed_forwards if group.id.kind == kind]
        count = draw(st.integers(0, groups[0].units))
        for group in groups:
            order = draw(st.permutations(range(group.units)))
            kept[group.id] = tuple(sorted(order[:count]))
    return kept


def _zeroed(base: MarianCheckpoint, kept: Kept) -> Arrays:
    """The entries of the base with zero rows of W_o and W2 for heads and neurons that go, of layers that stay."""
    arrays = {name: array.copy() for name, array in base.arrays.items()}
    for id, numbers in kept.items():
        if id.kind in LAYER_KINDS or id.layer not in kept[_layers(id.stack)]:
            continue
        own = f"{id.stack}_l{id.layer + 1}"
        if id.kind in NEURON_KINDS:
            output = arrays[f"{own}_ffn_W2"]
        else:
            output = arrays[f"{own}_{'context' if id.kind == 'cross' else 'self'}_Wo"].reshape(4, 4, -1)
        output[[number for number in range(len(output)) if number not in numbers]] = 0
    return arrays


def _expected(base: MarianCheckpoint, kept: Kept) -> torch.Tensor:
    """Logits of the base with the output of heads and neurons that go set to zero, without the layers that go."""
    model = native.load(MarianCheckpoint.of_arrays(PATH, _zeroed(base, kept)))
    for stack, part in (("encoder", model.encoder), ("decoder", model.decoder)):
        assert part is not None
        left = [copy.copy(layer) for layer in part.layers if layer.number in kept[_layers(stack)]]
        for position, layer in enumerate(left):
            layer.position = position
        part.layers = nn.ModuleList(left)  # type: ignore[assignment]
    return _logits(model)


def _logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(*batch(model, 1))
    return found


def _distance(checkpoint: MarianCheckpoint, expected: torch.Tensor) -> float:
    return (_logits(native.load(checkpoint)) - expected).abs().max().item() / max(1.0, expected.abs().max().item())


@given(st.data(), st.sampled_from(list(BASES)))
@settings(max_examples=16, deadline=None)
def test_every_mode_computes_what_the_masked_model_does(data: st.DataObject, shape: str) -> None:
    base = BASES[shape]
    even = data.draw(st.booleans())
    kept = base.architecture.full(data.draw((_even_plan if even else _any_plan)(base.architecture)))
    plan = Plan.of(base.base, kept)
    expected = _expected(base, kept)
    for mode in slim.MODES:
        ragged = any(
            len({max(1, len(kept[id])) for id in kept if id.kind == kind and kept[_layers(id.stack)].count(id.layer)})
            > 1
            for kind in NEURON_KINDS
        )
        if mode == "cut" and ragged:
            with pytest.raises(CheckpointError, match="Marian has one width .* use `mode` uniform or masked$"):
                _slim(plan, base)
            continue
        found = _slim(plan, base, mode)
        assert _distance(found, expected) <= 1e-5
        assert found.architecture.layers("decoder") == tuple(range(len(kept[_layers("decoder")]))) or (
            kept[_layers("decoder")] == base.architecture.layers("decoder")
        )
        if mode != "masked":
            assert found.architecture.count() == plan.count_kept()
            neurons = sum(group.units for group in found.architecture.feed_forwards)
            assert neurons == plan.count_kept(NEURON_KINDS)
        assert not list(found.note.lineage_faults(found.architecture))


@given(st.data(), st.sampled_from(list(BASES)))
@settings(max_examples=10, deadline=None)
def test_cutting_twice_is_cutting_once_by_what_both_plans_keep(data: st.DataObject, shape: str) -> None:
    base = BASES[shape]
    first = Plan.of(base.base, base.architecture.full(data.draw(_any_plan(base.architecture))))
    between = _slim(first, base, "uniform")
    second = Plan.of(between.base, between.architecture.full(data.draw(_any_plan(between.architecture))))
    assert between.lineage is not None
    composed: dict[GroupId, tuple[int, ...]] = {id: () for id in base.architecture.units}
    for id, places in second.kept_units.items():
        numbers = between.architecture.units[id]
        composed[between.lineage.in_root(id)] = tuple(
            between.lineage.units(id)[numbers.index(place)] for place in places
        )
    once, twice = _slim(Plan.of(base.base, composed), base, "uniform"), _slim(second, between, "uniform")
    assert twice.sha256 == once.sha256 and twice.lineage == once.lineage
    assert twice.architecture == once.architecture
    assert {name: value for name, value in _options(twice).items() if "heads" not in name} == {
        name: value for name, value in _options(once).items() if "heads" not in name
    }


@pytest.mark.parametrize("shape", thinned(SHAPES))
def test_marian_translates_alike_with_a_uniform_cut_and_with_the_masked_model(tmp_path: Path, shape: str) -> None:
    options = {**SHAPES[shape], "words": 40}
    base = MarianCheckpoint.load(marian_model(tmp_path / "model.npz", **options))
    rng, decoder = np.random.default_rng(5), base.architecture.layers("decoder")
    keep = dict(base.architecture.units)
    for place, group in enumerate(base.architecture.feed_forwards):
        keep[group.id] = tuple(sorted(rng.permutation(group.units)[: place % 4 + 1].tolist()))
    keep |= {_layers("encoder"): (0, 2), _layers("decoder"): decoder[1:]}
    plan = Plan.of(base.base, base.architecture.full(keep))
    vocabulary, (source, _) = vocabulary_file(tmp_path), random_texts(tmp_path)
    files = {}
    for mode in ("masked", "uniform"):
        found = _slim(plan, base, mode)
        assert not list(found.toolkit_faults("marian"))
        assert "transformer-encoder-heads" not in _options(found)
        files[mode] = tmp_path / f"{mode}.npz"
        found.save(files[mode])
    if "transformer_preprocess" in options:
        files["by hand"] = write(tmp_path / "by-hand.npz", _without_effect(base, base.architecture.full(keep)))
    for beam in (1, 6):
        search = ("--beam-size", beam, "--normalize", 1, "--max-length-factor", 2)
        found = {name: marian_translations(path, vocabulary, source, *search) for name, path in files.items()}
        for other in found.values():
            assert _texts(other) == _texts(found["uniform"])
            assert _scores(other) == pytest.approx(_scores(found["uniform"]), abs=1e-4)
        assert len({text for own in _texts(found["uniform"]) for text in own}) > 6


def _without_effect(base: MarianCheckpoint, kept: Kept) -> Arrays:
    """The entries of a pre-norm base in which layers that go add zero to their input."""
    arrays = _zeroed(base, kept)
    for stack in ("encoder", "decoder"):
        for layer in set(base.architecture.layers(stack)).difference(kept[_layers(stack)]):
            for output in ("self_Wo", "self_bo", "context_Wo", "context_bo", "ffn_W2", "ffn_b2", "rnn_W"):
                if (name := f"{stack}_l{layer + 1}_{output}") in arrays:
                    arrays[name][:] = 0
    return arrays


def _texts(found: list[list[Best]]) -> list[list[str]]:
    return [[each.text for each in own] for own in found]


def _scores(found: list[list[Best]]) -> list[float]:
    return [each.score for own in found for each in own]


def test_marian_runs_zero_heads_that_fill_modules_up(tmp_path: Path) -> None:
    """Head lists, which the official Marian does not know, do not keep it from a model whose heads are all stored."""
    base = MarianCheckpoint.load(marian_model(tmp_path / "model.npz"))
    plan = Plan.of(base.base, {**base.base.units, GroupId("encoder", 0): (1, 2), GroupId("cross", 1): ()})
    found = _slim(plan, base, "uniform")
    assert _options(found)["transformer-encoder-heads"] == [4, 4]
    assert found.engines("uniform") == "runs in every Marian (pymarian, marian-decoder), as fast as before"
    found.save(tmp_path / "uniform.npz")
    _slim(plan, base, "masked").save(tmp_path / "masked.npz")
    vocabulary, (source, _) = vocabulary_file(tmp_path), random_texts(tmp_path)
    both = (
        marian_translations(tmp_path / f"{mode}.npz", vocabulary, source, "-b", 2) for mode in ("uniform", "masked")
    )
    uniform, masked = both
    assert _texts(uniform) == _texts(masked)


def _widths(base: MarianCheckpoint, encoder: int | None = None, decoder: int | None = None) -> Plan:
    """The plan that keeps the first neurons of every layer."""
    counts = {"encoder-ffn": encoder, "decoder-ffn": decoder}
    keep = {id: own[: counts.get(id.kind)] for id, own in base.base.units.items()}
    return Plan.of(base.base, keep)


@pytest.mark.parametrize(
    ("before", "kept", "after"),
    [
        ({"transformer_decoder_dim_ffn": 0}, (3, 3), (3, 0)),
        ({"transformer_decoder_dim_ffn": 0}, (None, 3), (6, 3)),
        ({"transformer_decoder_dim_ffn": 0}, (3, None), (3, 6)),
        ({"transformer_decoder_dim_ffn": None}, (3, 3), (3, None)),
        ({"transformer_decoder_dim_ffn": None}, (4, 2), (4, 2)),
        ({"transformer_decoder_dim_ffn": 4}, (None, 3), (6, 3)),
        ({"transformer_decoder_dim_ffn": 4}, (4, None), (4, 0)),
        ({"transformer_decoder_dim_ffn": 4}, (None, None), (6, 4)),
        ({"transformer_decoder_dim_ffn": 4}, (0, 0), (1, 0)),
    ],
)
def test_widths_in_the_options(before: dict[str, Any], kept: tuple[Any, Any], after: tuple[Any, Any]) -> None:
    arrays = marian_arrays(**{**DEEP, "transformer_decoder_dim_ffn": 0, **{k: v or 0 for k, v in before.items()}})
    if before["transformer_decoder_dim_ffn"] is None:
        options = yaml.safe_load(arrays["special:model.yml"].tobytes().rstrip(b"\0"))
        del options["transformer-decoder-dim-ffn"]
        arrays["special:model.yml"] = np.frombuffer(yaml.safe_dump(options).encode() + b"\0", dtype=np.int8)
    base = MarianCheckpoint.of_arrays(PATH, arrays)
    found = _slim(_widths(base, *kept), base)
    told = _options(found)
    assert (told["transformer-dim-ffn"], told.get("transformer-decoder-dim-ffn")) == after
    assert all(told.get(name) == value for name, value in _options(base).items() if "dim-ffn" not in name)
    assert told.keys() - _options(base).keys() <= {"transformer-decoder-dim-ffn"}
    if kept == (0, 0):
        assert (
            _note(found)["padding"] == {str(group.id): 1 for group in base.architecture.feed_forwards}
            and _note(found)["version"] == 2
        )


def test_feed_forward_layers_of_other_depths_lose_no_neurons_but_layers(tmp_path: Path) -> None:
    """Where one stack has three matrices per layer, its width stays when the other one's changes."""
    arrays = marian_arrays(**{**DEEP, "transformer_decoder_ffn_depth": 3})
    for number in range(1, 5):
        own = f"decoder_l{number}_ffn"
        arrays[f"{own}_W3"], arrays[f"{own}_b3"] = arrays[f"{own}_W2"], arrays[f"{own}_b2"]
        arrays[f"{own}_W2"], arrays[f"{own}_b2"] = np.ones((6, 6), np.float32), np.ones((1, 6), np.float32)
    base = MarianCheckpoint.of_arrays(PATH, arrays)
    assert base.base.neurons == {"encoder-ffn": (6, 6, 6)}
    plan = Plan.of(
        base.base,
        {**base.base.units, **{GroupId("encoder-ffn", n): (n, 5) for n in range(3)}, _layers("decoder"): (1, 3)},
    )
    found = _slim(plan, base)
    told = _options(found)
    assert (told["transformer-dim-ffn"], told["transformer-decoder-dim-ffn"], told["dec-depth"]) == (2, 6, 2)
    for new, old in ((1, 2), (2, 4)):
        for name in ("ffn_W3", "self_Wo", "context_bq", "ffn_ffn_ln_scale"):
            assert np.array_equal(found.arrays[f"decoder_l{new}_{name}"], arrays[f"decoder_l{old}_{name}"])
    assert not any(name.startswith("decoder_l3") for name in found.arrays)
    assert _note(found)["version"] == 2 and _note(found)["lineage"]["layers"] == {"decoder": [1, 3]}


def test_head_counts_and_padding_follow_their_layers() -> None:
    base = BASES["ties that leave a gap"]
    heads = {"encoder.0": (1,), "encoder.1": (), "encoder.2": (0, 3), "decoder.0": (0, 1, 2), "decoder.2": (),
             "decoder.3": (3,), "cross.0": (1, 2), "cross.2": (0,), "cross.3": ()}  # fmt: skip
    first = _slim(Plan.of(base.base, heads), base)
    assert _note(first)["padding"] == {"encoder.1": 1, "decoder.2": 1, "cross.3": 1}
    assert _options(first)["transformer-decoder-heads"] == [3, 3, 1, 1]
    keep = {**first.base.units, _layers("encoder"): (1, 2), _layers("decoder"): (2, 3)}
    for mode in ("cut", "masked"):
        found = _slim(Plan.of(first.base, keep), first, mode)
        told = _options(found)
        assert told["transformer-encoder-heads"] == [1, 2]
        assert told["transformer-decoder-heads"] == [1, 1] and told["transformer-context-heads"] == [1, 1]
        assert told["transformer-tied-layers"] == [] and (told["enc-depth"], told["dec-depth"]) == (2, 2)
        assert _note(found)["padding"] == {"encoder.0": 1, "decoder.0": 1, "cross.1": 1}
        assert found.lineage is not None and found.lineage.keep["decoder.3"] == (3,)
    tied = _slim(Plan.of(first.base, {**first.base.units, _layers("decoder"): (0, 3)}), first)
    assert _options(tied)["transformer-tied-layers"] == [1, 1, 2]
    assert _options(tied)["transformer-decoder-heads"] == [3, 3, 1]


@pytest.mark.parametrize(
    ("named", "kept", "after", "goes"),
    [
        ("last", (0, 1, 3), "last", False),
        ("last", (0, 1), "last", True),
        ("2", (1, 3), "1", False),
        (4, (0, 3), 2, False),
        ("2", (0, 3), "last", True),
        ("none", (0, 3), "none", False),
        ("9", (0, 3), "9", False),
        (None, (0, 3), None, False),
        (None, (0,), None, True),
    ],
)
def test_the_layer_of_word_alignments(named: Any, kept: tuple[int, ...], after: Any, goes: bool) -> None:
    extra = {} if named is None else {"transformer_guided_alignment_layer": named}
    base = MarianCheckpoint.of_arrays(PATH, marian_arrays(**DEEP, **extra))
    found = _slim(Plan.of(base.base, {**base.base.units, _layers("decoder"): kept}), base)
    assert _options(found).get("transformer-guided-alignment-layer") == after
    assert _note(found).get("alignment_layer_removed", False) == goes
    assert bool(found.notes) == goes and not base.notes
    again = _slim(Plan.of(found.base, {**found.base.units, _layers("encoder"): (0,)}), found)
    assert again.notes == found.notes


def test_marian_aligns_words_by_the_same_layer(tmp_path: Path) -> None:
    """Marian reads alignments from the layer that the option names after the cut as before it."""
    options = {**SHAPES["pre-norm, decoder of another width"], "words": 40}
    base = MarianCheckpoint.load(
        marian_model(tmp_path / "model.npz", **options, transformer_guided_alignment_layer="3")
    )
    kept = base.architecture.full({_layers("decoder"): (0, 2, 3)})
    found = _slim(Plan.of(base.base, kept), base)
    assert _options(found)["transformer-guided-alignment-layer"] == "2"
    found.save(tmp_path / "cut.npz")
    write(tmp_path / "by-hand.npz", _without_effect(base, kept))
    other = {**found.arrays, "special:model.yml": _text({**_options(found), "transformer-guided-alignment-layer": "3"})}
    write(tmp_path / "other.npz", other)
    vocabulary, (source, _) = vocabulary_file(tmp_path), random_texts(tmp_path)
    lines = {
        name: _aligned("-m", tmp_path / f"{name}.npz", "-v", vocabulary, vocabulary, "-i", source)
        for name in ("cut", "by-hand", "other")
    }
    assert [text for text, _ in lines["cut"]] == [text for text, _ in lines["by-hand"]]
    for own, theirs in zip(lines["cut"], lines["by-hand"], strict=True):
        assert own[1] == pytest.approx(theirs[1], abs=1e-4)
    assert any(
        own[1] != pytest.approx(theirs[1], abs=1e-2) for own, theirs in zip(lines["cut"], lines["other"], strict=True)
    )


def _aligned(*options: object) -> list[tuple[str, list[float]]]:
    """Translations, and the attention of each of their words on each of the source."""
    alone = ("--mini-batch", 1, "--maxi-batch", 1, "--max-length-factor", 2, "--quiet-translation")
    done = marian("decode", *options, *alone, "--beam-size", 2, "--alignment", "soft")
    assert done.returncode == 0, done.stderr.decode()
    pairs = (line.split(" ||| ") for line in done.stdout.decode().splitlines())
    return [(text, [float(each) for each in weights.replace(",", " ").split()]) for text, weights in pairs]


def test_tied_layers_are_counted_by_position_where_alignments_are_read() -> None:
    base = MarianCheckpoint.of_arrays(
        PATH, marian_arrays(**SHAPES["ties in any order"], transformer_guided_alignment_layer="3")
    )
    found = _slim(Plan.of(base.base, {**base.base.units, _layers("decoder"): (2,)}), base)
    assert _options(found)["transformer-tied-layers"] == [1, 1]
    assert _options(found)["transformer-guided-alignment-layer"] == "2"


def _text(value: Any) -> Any:
    return np.frombuffer((value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\0", dtype=np.int8)


DAMAGED: dict[str, tuple[Any, list[str]]] = {
    "no object": ([1], ["it is [1], not an object"]),
    "no JSON": (b"{]", ["broken JSON at line 1 column 2"]),
    "no text": (b"\xff", ["invalid start byte"]),
    "a number that no model has": (
        {"padding": {"encoder." + "9" * 5000: 1}}, ["which is no attention module and no feed-forward layer"]
    ),
    "many faults": (
        {"format": "other", "version": 3, "more": 1, "alignment_layer_removed": 1, "provenance": [],
         "padding": {"encoder.0": 5, "encoder.7": 1, "encoder-layers": 1, "x": 1, "cross.0": "1", "decoder-ffn.1": -1}},
        ["unknown key 'more'", 'format is "other", not "nmtprune-marian"',
         "version is 3, this nmtprune reads versions 1 and 2", "alignment_layer_removed is 1, not true or false",
         "provenance is [], not an object", "encoder.0 has 4 heads, 5 of which shall be padding",
         "padding names encoder.7, which the model does not have",
         "padding names 'encoder-layers', which is no attention module and no feed-forward layer",
         "padding names 'x', which is no attention module and no feed-forward layer",
         'padding of cross.0 is "1", not a number of heads', "padding of decoder-ffn.1 is -1, not a number of neurons"],
    ),
    "padding and lineage": (
        {"padding": [1], "lineage": {"root": {}, "keep": {}}},
        ["padding is [1], not an object", "lineage: key 'root.format' is missing", "key 'root.sha256' is missing"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", DAMAGED)
def test_damaged_notes(tmp_path: Path, which: str) -> None:
    content, faults = DAMAGED[which]
    path = write(tmp_path / "model.npz", {**marian_arrays(), NOTE: _text(content)})
    code, line = refused("inspect", path)
    assert code == 3 and line.startswith(f"{path}: {NOTE} is damaged: ") and "\n" not in line.strip()
    assert all(fault in line for fault in faults)


def test_a_lineage_of_another_model_is_damage(tmp_path: Path) -> None:
    base = BASES["post-norm"]
    keep = {**base.base.units, GroupId("encoder", 0): (1,), GroupId("encoder-ffn", 1): (2, 3)}
    found = _slim(Plan.of(base.base, keep), base, "uniform")
    lineage = json.loads(found.arrays[NOTE].tobytes().rstrip(b"\0"))["lineage"]
    arrays: Arrays = {**base.arrays, NOTE: _text({"lineage": lineage})}
    code, line = refused("inspect", write(tmp_path / "other.npz", arrays))
    assert code == 3 and line.endswith(
        "special:nmtprune.json is damaged: lineage: it has 1 heads of encoder.0, the model 4; lineage: it has 2 "
        "neurons of encoder-ffn.1, the model 6"
    )
    fewer = _slim(Plan.of(base.base, {**base.base.units, _layers("encoder"): (0, 1)}), base)
    arrays[NOTE] = fewer.arrays[NOTE]
    code, line = refused("inspect", write(tmp_path / "fewer.npz", arrays))
    assert code == 3 and "it names other modules or feed-forward layers than the model has" in line


def test_widths_that_marian_cannot_say(tmp_path: Path) -> None:
    path = marian_model(tmp_path / "model.npz", **DEEP)
    base = MarianCheckpoint.load(path)
    keep = {**base.base.units, GroupId("encoder-ffn", 1): (0, 4), GroupId("decoder-ffn", 2): ()}
    Plan.of(base.base, keep).write(tmp_path / "plan.json")
    code, line = refused("slim", path, "--plan", tmp_path / "plan.json", "-o", tmp_path / "slim.npz")
    assert code == 3 and not (tmp_path / "slim.npz").exists()
    assert line == (
        f"{path}: Marian has one width for the feed-forward layers of the encoder, not 2 to 6: use --mode uniform or "
        "masked; Marian has one width for the feed-forward layers of the decoder, not 1 to 6: use --mode uniform or "
        "masked"
    )


def test_what_is_said_of_engines() -> None:
    base = BASES["post-norm"]
    every = "runs in every Marian (pymarian, marian-decoder)"
    heads = Plan.of(base.base, {**base.base.units, GroupId("encoder", 0): (1,)})
    layers = Plan.of(base.base, {**base.base.units, _layers("decoder"): (0, 1), GroupId("encoder", 0): (1,)})
    assert _slim(heads, base, "masked").engines("masked") == f"{every}, as fast as before"
    assert "branch pruned_final of Behnke's Marian" in _slim(heads, base).engines("cut")
    assert "branch pruned_final of Behnke's Marian" in _slim(layers, base).engines("cut")
    assert _slim(layers, base, "masked").engines("masked") == (
        f"{every} at full speed; masked heads and neurons are computed too"
    )
    assert _slim(_widths(base, 3, 3), base).engines("cut") == f"{every} at full speed"
    assert _slim(_widths(base, 0, 0), base).engines("cut") == (
        f"{every} at full speed; zero heads and neurons are computed too"
    )
    assert _slim(_widths(base, 3, 2), base).engines("cut") == (
        "runs in every Marian from 1.11 on (pymarian, marian-decoder) at full speed"
    )
