"""Made-up models: their shapes are those of fairseq, and cut models are those of their plans."""

from pathlib import Path

import pytest

from nmtprune.errors import BudgetError, NmtpruneError, UsageError
from nmtprune.formats import load
from nmtprune.runs.bench.synthetic import Shape, Synthetic

TINY = "d=32 ffn=48 heads=4 encoder_layers=2 decoder_layers=1 vocab=50"


@pytest.mark.parametrize(("wide", "head_dim"), [("", 8), (" head_dim=4", 4)])
def test_full_and_cut(tmp_path: Path, wide: str, head_dim: int) -> None:
    made = Synthetic(Shape.parse(f"transformer_base {TINY}{wide}"), "encoder=13 decoder=2 cross=0", None, 5, 7, 3, 1)
    full, cut, data = made.write(tmp_path)
    base, slim = load(full), load(cut)
    assert [module.heads for module in base.architecture] == [4, 4, 4, 4]
    assert {str(module.id): module.heads for module in slim.architecture} == {
        "encoder.0": 1, "encoder.1": 3, "decoder.0": 2, "cross.0": 0
    }  # fmt: skip
    assert {module.head_dim for module in base.architecture} == {head_dim}
    lost = sum(4 - module.heads for module in slim.architecture)
    parameters = [sum(tensor.numel() for tensor in own.parameters.values()) for own in (base, slim)]
    assert parameters[0] - parameters[1] == lost * (4 * head_dim * 32 + 3 * head_dim)
    assert data.data_bin is not None and (data.data_bin / "dict.source.txt").exists()


def test_neurons_and_layers(tmp_path: Path) -> None:
    """Neurons and heads are chosen in the layers that stay, which are numbered anew."""
    shape = Shape.parse("transformer_base d=32 ffn=48 heads=4 encoder_layers=2 decoder_layers=3 vocab=50")
    made = Synthetic(shape, "decoder=2,3", None, 5, 7, 3, 1, "decoder=16,24", None, "decoder=2")
    cut = load(made.write(tmp_path)[1]).architecture
    assert {str(group.id): group.units for group in cut.groups if group.id.stack == "decoder"} == {
        "decoder.0": 2, "decoder.1": 3, "cross.0": 4, "cross.1": 4, "decoder-ffn.0": 16, "decoder-ffn.1": 24
    }  # fmt: skip
    assert {group.units for group in cut.feed_forwards if group.id.stack == "encoder"} == {48}


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"keep_layers": "decoder=0"}, BudgetError, "no layer of the decoder would be left"),
        ({"keep_layers": "decoder=9"}, UsageError, "the model has 1 layers, fewer than 9"),
        ({"keep_neurons": "encoder=99"}, BudgetError, "fewer neurons in encoder-ffn.0"),
        ({"remove_neurons": "many"}, UsageError, "'many' is no amount of neurons"),
    ],
)
def test_cuts_that_cannot_be_made(
    tmp_path: Path, changes: dict[str, str], error: type[NmtpruneError], reason: str
) -> None:
    made = Synthetic(Shape.parse(f"transformer_base {TINY}"), None, None, 5, 7, 3, 1, **changes)
    with pytest.raises(error) as refusal:
        made.write(tmp_path)
    assert reason in str(refusal.value)


def test_published_shapes() -> None:
    """Vaswani et al. 2017, table 3 (parameters without embeddings), and a big model whose heads are 64 wide."""
    base, big = Shape.parse("transformer_base"), Shape.parse("transformer_big heads=8 head_dim=64")
    assert (base.d, base.ffn, base.heads, base.head_dim, base.vocab) == (512, 2048, 8, 64, 32000)
    assert (big.d, big.ffn, big.heads, big.head_dim) == (1024, 4096, 8, 64)
    assert Shape.parse("student").decoder_layers == 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "begin with transformer_base, transformer_big, student"),
        ("lstm", "begin with transformer_base"),
        ("student heads=3", "3 heads do not divide d=256: give head_dim=N"),
        ("student heads=x layers=2", "'layers=2' is none of d=N, decoder_layers=N, encoder_layers=N"),
        ("student vocab=5", "vocab=5 leaves no words"),
    ],
)
def test_shapes_that_make_no_transformer(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as refusal:
        Shape.parse(text)
    assert reason in str(refusal.value)
