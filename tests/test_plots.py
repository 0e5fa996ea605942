"""Pictures of scores: they can be drawn for every shape of score file, and show every head."""

import io
from typing import Any

import numpy as np
import pytest

from nmtprune import plots
from nmtprune.architecture import GroupId, UnitId
from nmtprune.scores import HeadScore, Scores

pytestmark = pytest.mark.usefixtures("every_picture")


def _scores(heads: dict[str, int], *, layers: int = 2, deltas: bool = True, p: float | None = 0.001) -> Scores:
    random = np.random.default_rng(1)
    entries = []
    for kind, count in heads.items():
        for layer in range(layers):
            for head in range(count):
                delta = float(random.normal())
                facts: dict[str, Any] = {"delta": delta, "p": p, "p_corrected": p} if deltas else {}
                entries.append(HeadScore(head=f"{kind}.{layer}.{head}", score=-delta, **facts))
    return Scores(metric="bleu", mode="ablate", baseline={}, heads=tuple(entries))


def _pixels(picture: bytes) -> Any:
    from matplotlib.image import imread

    return imread(io.BytesIO(picture), format="png")


@pytest.mark.parametrize(
    "scores",
    [
        _scores({"encoder": 4, "decoder": 4, "cross": 4}),
        _scores({"decoder": 1}, layers=1),
        _scores({"encoder": 16, "cross": 3}, layers=12),
        _scores({"encoder": 4}, deltas=False),
        _scores({"encoder": 4}, p=None),
    ],
    ids=["three kinds", "one head", "many", "no deltas", "untested"],
)
def test_pictures_of_all_shapes(scores: Scores) -> None:
    pixels = _pixels(plots.scores_png(scores, alpha=0.01))
    assert pixels.shape[0] > 300 and pixels.shape[1] > 600
    assert pixels[..., :3].std() > 0.01


def test_significance_is_visible() -> None:
    heads = {"cross": 3}
    marked = plots.scores_png(_scores(heads, p=0.001), alpha=0.01)
    assert marked != plots.scores_png(_scores(heads, p=0.5), alpha=0.01)
    assert marked == plots.scores_png(_scores(heads, p=0.001), alpha=0.01)


def test_larger_models_get_larger_pictures() -> None:
    small, large = (_pixels(plots.scores_png(_scores({"encoder": n}, layers=n), alpha=0.01)) for n in (4, 16))
    assert large.shape[0] > small.shape[0] and large.shape[1] > small.shape[1]


def test_comparison() -> None:
    first, second = _scores({"encoder": 4, "cross": 4}), _scores({"encoder": 4, "cross": 4}, p=None)
    assert _pixels(plots.comparison_png(first, second, names=("a", "b")))[..., :3].std() > 0.01


def test_curves() -> None:
    points = [0, 7, 14], [30.0, 28.0, 11.0]
    line = plots.Line("importance", *points, [30.0, 27.0, 9.0], [30.0, 29.0, 13.0])
    random = plots.Line("random", *points, [30.0, 26.0, 5.0], [30.0, 29.0, 14.0], dashed=True)
    pictures = [plots.curves_png(lines, metric="bleu", total=24) for lines in ([line], [line, random], [random])]
    assert len(set(pictures)) == 3
    assert pictures[0] == plots.curves_png([line], metric="bleu", total=24)
    assert all(_pixels(picture)[..., :3].std() > 0.01 for picture in pictures)


def test_pruned_models_are_drawn() -> None:
    models = [
        plots.Pruned("0.1", {"encoder": 2, "cross": 3}, 20.0, (19.0, 21.0)),
        plots.Pruned("0.01", {"encoder": 8, "cross": 8}, 30.5, (30.6, 31.0)),
    ]
    first = plots.pruned_png(models, metric="bleu", unpruned=31.0)
    assert first.startswith(b"\x89PNG\r\n\x1a\n")
    assert plots.pruned_png(models[::-1], metric="bleu", unpruned=31.0) == first
    assert plots.pruned_png(models, metric="bleu", unpruned=29.0) != first


def _shapes() -> dict[GroupId, int]:
    counts = {"encoder": 8, "decoder": 8, "cross": 8, "encoder-ffn": 64, "decoder-ffn": 32}
    return {GroupId(kind, layer): count for kind, count in counts.items() for layer in range(3)}


def test_shapes_of_pruned_models_show_heads_neurons_and_layers() -> None:
    full = _shapes()
    pictures = [plots.shape_png(full, full)]
    for change in ({GroupId("cross", 1): 3}, {GroupId("encoder-ffn", 2): 20}, {GroupId("decoder-ffn", 0): 0}):
        pictures.append(plots.shape_png({**full, **change}, full))
    without = {id: count for id, count in full.items() if (id.stack, id.layer) != ("decoder", 1)}
    pictures.append(plots.shape_png(without, full))
    assert len(set(pictures)) == len(pictures)
    assert plots.shape_png(dict(reversed(full.items())), full) == pictures[0]
    assert {_pixels(picture).shape for picture in pictures} == {_pixels(pictures[0]).shape}


def test_shapes_of_models_without_neurons_or_encoder_are_smaller() -> None:
    full = _shapes()
    heads = {id: count for id, count in full.items() if id.sort == "heads"}
    decoder = {id: count for id, count in full.items() if id.kind in ("decoder", "decoder-ffn")}
    whole, flat, narrow = (_pixels(plots.shape_png(own, own)).shape for own in (full, heads, decoder))
    assert flat[0] < whole[0] and flat[1] == whole[1]
    assert narrow[0] == whole[0] and narrow[1] < whole[1]


def test_functions_of_heads_have_colours() -> None:
    heads = [
        UnitId(GroupId(kind, layer), head) for kind in ("encoder", "cross") for layer in (0, 2) for head in range(3)
    ]
    none: dict[UnitId, tuple[str, ...]] = dict.fromkeys(heads, ())
    some = {**none, heads[0]: ("positional",), heads[-1]: ("rare", "alignment")}
    pictures = [_pixels(plots.functions_png(functions)) for functions in (none, some)]
    colours = [len(np.unique((picture[..., :3] * 255).astype(int).reshape(-1, 3), axis=0)) for picture in pictures]
    assert colours[1] > colours[0] + 2
