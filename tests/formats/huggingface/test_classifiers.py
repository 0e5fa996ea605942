"""Classifiers of transformers: the native model against theirs, cuts against masks, and cuts in stock transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nmtprune import formats
from nmtprune.architecture import UnitId
from nmtprune.engines import native
from nmtprune.errors import CheckpointError
from nmtprune.evaluate.verify import texts, verify
from nmtprune.formats.huggingface import HuggingFaceClassifier
from nmtprune.formats.huggingface.classifier_families import CLASSIFIERS
from nmtprune.formats.huggingface.folder_config import FILE
from nmtprune.formats.huggingface.safetensors_file import read_safetensors
from nmtprune.plan import Plan
from nmtprune.slim import apply
from tests.support import huggingface_folders
from tests.support.classifier_folders import SETTINGS, classifier_folder, random_weights

KINDS = tuple(SETTINGS)
EVERY = ("encoder", "encoder-ffn", "encoder-layers")


def _removing(checkpoint: Any, *units: str) -> Plan:
    return Plan.removing(checkpoint.base, [UnitId.parse(unit, EVERY) for unit in units])


def _theirs(folder: Path, tokens: Tensor, segments: Tensor | None) -> Tensor:
    """Logits of stock transformers, which must take every tensor of the folder and make up none."""
    kind = json.loads((folder / FILE).read_text())["architectures"][0]
    model, info = getattr(huggingface_folders.transformers(), kind).from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    assert all("pooler" in name or "position_ids" in name for name in info["unexpected_keys"])
    given = {"input_ids": tokens, "attention_mask": (tokens != model.config.pad_token_id).long()}
    with torch.inference_mode():
        return model.eval()(**given, **({} if segments is None else {"token_type_ids": segments})).logits  # type: ignore[no-any-return]


def _ours(folder: Path, *, left_out: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
    model = native.load_classifier(formats.load(folder))
    tokens, segments = texts(model, 3)
    segments = None if left_out else segments
    with torch.inference_mode():
        return model(tokens, segments), tokens, segments


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("bert", {"layer_norm_eps": 1e-3, "hidden_act": "gelu_new", "id2label": dict.fromkeys("0123", "A")}),
        ("bert", {"type_vocab_size": 1, "hidden_act": "relu", "pad_token_id": 5, "num_labels": 1}),
        ("roberta", {}),
        ("roberta", {"type_vocab_size": 2, "pad_token_id": 4}),
        ("distilbert", {"activation": "relu"}),
        ("distilbert", {}),
    ],
)  # fmt: skip
def test_the_native_model_computes_what_transformers_computes(
    tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    folder = classifier_folder(tmp_path / "model", kind, **settings)
    ours, tokens, segments = _ours(folder)
    assert ours.shape[0] == 4 and (tokens[:-1] == formats.load(folder).classifier_network().padding).any()
    torch.testing.assert_close(ours, _theirs(folder, tokens, segments), rtol=0, atol=1e-5)
    assert (ours[0] - ours[1]).abs().max() > 1e-2, "the text must matter"


@pytest.mark.parametrize("kind", KINDS)
def test_texts_without_segments_are_in_the_first_one(tmp_path: Path, kind: str) -> None:
    folder = classifier_folder(tmp_path / "model", kind)
    ours, tokens, _ = _ours(folder, left_out=True)
    torch.testing.assert_close(ours, _theirs(folder, tokens, None), rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", ["cut", "masked", "uniform"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_cut_is_what_was_masked_and_stock_transformers_loads_it(tmp_path: Path, kind: str, mode: str) -> None:
    base = formats.load(classifier_folder(tmp_path / "model", kind))
    neurons = [f"encoder-ffn.{layer}.{neuron}" for layer in (0, 2) for neuron in range(3 * layer, 3 * layer + 14)]
    units = ["encoder.0.1", *(f"encoder.2.{head}" for head in range(4)), "encoder-layers.1", *neurons]
    plan = _removing(base, *units)
    slim = apply(plan, base, mode)
    assert verify(base, slim, plan).ok
    slim.save(tmp_path / "slim")
    found = formats.load(tmp_path / "slim")
    assert isinstance(found, HuggingFaceClassifier) and found.base == slim.base
    model, masks = native.with_kept(native.load_classifier(base), plan.kept_units)
    ours, tokens, segments = _ours(tmp_path / "slim")
    torch.testing.assert_close(ours, model(tokens, segments, masks), rtol=0, atol=1e-5)
    torch.testing.assert_close(ours, _theirs(tmp_path / "slim", tokens, segments), rtol=0, atol=1e-5)
    names, values = CLASSIFIERS[kind].names, found.config.values
    assert (values[names["layers"]], values[names["inner"]]) == (2, 24 if mode == "masked" else 10)
    assert values[names["heads"]] == 4
    if mode != "masked":
        assert found.base.heads["encoder"] == (3, 0) and found.base.neurons["encoder-ffn"] == (10, 10)
        assert found.lineage is not None and found.lineage.layers("encoder") == (0, 2)


def test_uniform_fills_up_layers_of_several_widths_and_cut_refuses_them(tmp_path: Path) -> None:
    base = formats.load(classifier_folder(tmp_path / "model", "bert"))
    plan = _removing(base, *(f"encoder-ffn.0.{neuron}" for neuron in range(20)), "encoder-ffn.1.3", "encoder-ffn.2.3")
    with pytest.raises(CheckpointError, match="one width for the feed-forward layers of the encoder, not 4 to 23"):
        apply(plan, base)
    slim = apply(plan, base, "uniform")
    assert verify(base, slim, plan).ok
    assert [group.stored for group in slim.architecture.feed_forwards] == [23, 23, 23]


def test_a_cut_of_a_cut_is_the_cut_of_both(tmp_path: Path) -> None:
    base = formats.load(classifier_folder(tmp_path / "model", "distilbert"))
    first = apply(_removing(base, "encoder.0.1", "encoder-layers.1"), base)
    twice = apply(_removing(first, "encoder.0.1", "encoder.1.3"), first)
    once = apply(_removing(base, "encoder.0.1", "encoder.0.2", "encoder.2.3", "encoder-layers.1"), base)
    assert twice.sha256 == once.sha256 and twice.lineage == once.lineage


@pytest.mark.parametrize("kind", KINDS)
def test_verification_sees_a_changed_weight(tmp_path: Path, kind: str) -> None:
    base = formats.load(classifier_folder(tmp_path / "model", kind))
    plan = _removing(base, "encoder.0.1")
    slim = apply(plan, base)
    head = {name: 1.01 * tensor for name, tensor in slim.tensors.items() if name.startswith("classifier")}
    changed = slim.rewritten({**slim.tensors, **head}, slim.architecture, slim.lineage)
    assert not verify(base, changed, plan).ok


def test_a_plan_that_keeps_all_changes_nothing(tmp_path: Path) -> None:
    folder = classifier_folder(tmp_path / "model", "roberta")
    base = formats.load(folder)
    apply(_removing(base), base).save(tmp_path / "slim")
    assert (tmp_path / "slim/config.json").read_text().split() == (folder / "config.json").read_text().split()
    before, after = (read_safetensors(path / "model.safetensors").tensors for path in (folder, tmp_path / "slim"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_what_old_versions_of_transformers_stored_is_kept_and_not_used(tmp_path: Path) -> None:
    folder = classifier_folder(tmp_path / "model", "roberta")
    old = {
        "roberta.embeddings.position_ids": torch.arange(40).unsqueeze(0),
        "roberta.pooler.dense.weight": torch.randn(16, 16),
        "roberta.pooler.dense.bias": torch.randn(16),
    }
    expected = _ours(folder)[0]
    huggingface_folders.write_weights(folder, {**random_weights(SETTINGS["roberta"]), **old})
    ours, tokens, segments = _ours(folder)
    assert torch.equal(ours, expected)
    torch.testing.assert_close(ours, _theirs(folder, tokens, segments), rtol=0, atol=1e-5)
    base = formats.load(folder)
    assert not any(name in base.parameters for name in old)
    assert apply(_removing(base, "encoder.1.2"), base).tensors["roberta.pooler.dense.weight"].shape == (16, 16)


def test_pickled_weights_and_the_first_names_of_norms(tmp_path: Path) -> None:
    folder = classifier_folder(tmp_path / "model", "bert")
    expected = _ours(folder)[0]
    tensors = random_weights(SETTINGS["bert"])
    for name in [name for name in tensors if "LayerNorm" in name]:
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        tensors[old] = tensors.pop(name)
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    ours, tokens, segments = _ours(folder)
    assert torch.equal(ours, expected)
    torch.testing.assert_close(ours, _theirs(folder, tokens, segments), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_are_those_of_transformers(kind: str) -> None:
    theirs = huggingface_folders.transformers().AutoConfig.for_model(kind)
    for name, value in CLASSIFIERS[kind].defaults.items():
        assert getattr(theirs, name) == value, name
    assert theirs.num_labels == 2


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("bert", {"architectures": ["BertForMaskedLM"]}, 'architectures ["BertForMaskedLM"], not '
         "BertForSequenceClassification: nmtprune reads encoders with a classification head, so fine-tune this one on "
         "a task first"),
        ("bert", {"position_embedding_type": "relative_key"}, 'position_embedding_type "relative_key" (transformers 5 '
         "ignores it, and computes another network than it says)"),
        ("bert", {"pruned_heads": {"0": [1]}}, 'pruned_heads {"0": [1]} (heads that transformers took out)'),
        ("roberta", {"is_decoder": True}, "is_decoder true (a decoder)"),
        ("roberta", {"num_attention_heads": 3}, "num_attention_heads 3 does not divide hidden_size 16"),
        ("roberta", {"layer_norm_eps": "1e-5", "id2label": {}}, 'layer_norm_eps is "1e-5", no number between 0 and 1; '
         "num_labels is 0, no whole number from 1"),
        ("distilbert", {"activation": "softplus", "hidden_size": 20}, 'activation "softplus"; hidden_size 20 and '
         "dim 16 differ"),
        ("distilbert", {"pad_token_id": 60}, "pad_token_id 60: the embeddings have 60 rows"),
    ],
)  # fmt: skip
def test_settings_of_other_networks_are_refused(
    tmp_path: Path, kind: str, settings: dict[str, Any], message: str
) -> None:
    folder = classifier_folder(tmp_path / "model", kind)
    huggingface_folders.changed(folder, **settings)
    with pytest.raises(CheckpointError) as caught:
        formats.load(folder)
    assert str(caught.value) == f"{folder / FILE}: unsupported: {message}"


def test_tensors_that_do_not_fit_the_settings_are_named(tmp_path: Path) -> None:
    folder = classifier_folder(tmp_path / "model", "distilbert")
    tensors = random_weights(SETTINGS["distilbert"])
    tensors["classifier.weight"] = torch.randn(3, 16)
    del tensors["pre_classifier.bias"]
    huggingface_folders.write_weights(folder, tensors | {"vocab_projector.bias": torch.randn(60)})
    with pytest.raises(CheckpointError) as caught:
        formats.load(folder)
    assert caught.value.faults == (
        "pre_classifier.bias is missing",
        "classifier.weight is 3 x 16, the settings make it 2 x 16",
        "nmtprune knows no vocab_projector.bias",
    )
