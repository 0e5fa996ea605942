"""fairseq's RoBERTa: the native model against the real one and transformers', cuts, and which files are refused."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nmtprune import slim
from nmtprune.architecture import UnitId
from nmtprune.engines import native
from nmtprune.errors import CheckpointError
from nmtprune.evaluate.verify import texts, verify
from nmtprune.formats import load
from nmtprune.formats.fairseq import tasks
from nmtprune.plan import Plan
from tests.support import fairseq_encoders, fairseq_files, huggingface_folders
from tests.support.classifier_folders import classifier_folder
from tests.support.cli import nmtprune, refused
from tests.support.fairseq_encoders import BuildEncoder, load_encoder, stock_model
from tests.support.thinned import thinned

State = dict[str, Any]
EVERY = ("encoder", "encoder-ffn", "encoder-layers")
RAGGED = [
    "encoder.0.1",
    *(f"encoder.2.{head}" for head in range(4)),
    "encoder-layers.1",
    *(f"encoder-ffn.0.{neuron}" for neuron in range(14)),
    *(f"encoder-ffn.2.{neuron}" for neuron in range(6, 23)),
]


def removing(checkpoint: Any, units: list[str]) -> Plan:
    return Plan.removing(checkpoint.base, [UnitId.parse(unit, EVERY) for unit in units])


def changed(path: Path, target: Path, *changes: Callable[[State], Any]) -> Path:
    state = fairseq_files.load(path)
    for change in changes:
        change(state)
    torch.save(state, target)
    return target


def with_model(**settings: Any) -> Callable[[State], None]:
    return lambda state: vars(state["cfg"]["model"]).update(settings)


def without(*parts: str) -> Callable[[State], None]:
    def change(state: State) -> None:
        state["model"] = OrderedDict((n, t) for n, t in state["model"].items() if not any(part in n for part in parts))

    return change


def with_tensors(**tensors: Tensor) -> Callable[[State], None]:
    return lambda state: state["model"].update(
        {f"encoder.sentence_encoder.{name.replace('__', '.')}": tensor for name, tensor in tensors.items()}
    )


def as_first_versions(state: State) -> None:
    """Names that the first releases of RoBERTa have."""
    state["model"] = OrderedDict(
        (
            name.replace("encoder.sentence_encoder", "decoder.sentence_encoder")
            .replace("encoder.lm_head", "decoder.lm_head")
            .replace("layernorm_embedding", "emb_layer_norm"),
            tensor,
        )
        for name, tensor in state["model"].items()
        if not name.endswith(".version")
    )


def ours(path: Path) -> tuple[Tensor, Tensor]:
    model = native.load_encoder(load(path))
    tokens, _ = texts(model, 3)
    with torch.inference_mode():
        return model(tokens), tokens


def theirs(path: Path, tokens: Tensor, **overrides: Any) -> Tensor:
    checkpoint = load_encoder(path)
    head = {"classification_head_name": checkpoint.label_head} if checkpoint.classifies else {}
    with torch.inference_mode():
        found: Tensor = stock_model(path, **overrides)(tokens, **head)[0]
    return found


def assert_equal(path: Path) -> None:
    found, tokens = ours(path)
    expected = theirs(path, tokens)
    assert (tokens == 1).any() and (found[0] - found[1]).abs().max() > 1e-2, "the text must matter"
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))


NO_TABLE = with_tensors(embed_positions___float_tensor=torch.zeros(1))
VARIANTS: dict[str, tuple[dict[str, Any], tuple[Callable[[State], Any], ...]]] = {
    "labels": ({}, ()),
    "masked words": ({"task": "masked_lm"}, ()),
    "pre-norm": ({"arch": "roberta_prenorm", "pooler_activation_fn": "relu"}, ()),
    "masked words, untied": ({"task": "masked_lm", "untie_weights_roberta": True, "activation_fn": "gelu_fast"}, ()),
    "other sizes": ({"heads": 2, "width": 12, "ffn": 7, "layers": 1, "num_classes": 2, "pairs": False}, ()),
    "no positions": ({}, (with_model(no_token_positional_embeddings=True), without("embed_positions"))),
    "sinusoids": ({}, (with_model(encoder_learned_pos=False), without("embed_positions"), NO_TABLE)),
    "scaled": ({}, (with_model(no_scale_embedding=False),)),
    "no norm of embeddings": ({}, (with_model(layernorm_embedding=False), without("layernorm_embedding"))),
    "pre-norm of version 1": (
        {"arch": "roberta_prenorm"}, (with_tensors(version=torch.ones(1)), without("encoder.layer_norm")),
    ),
    "first versions": ({"stored": {"packed": True}}, (as_first_versions,)),
    "legacy settings": ({"stored": {"cfg": "args"}}, ()),
    "settings of OmegaConf": ({"stored": {"cfg": "omegaconf"}}, ()),
    "fields without effect": (
        {"dropout": 0.3, "attention_dropout": 0.2, "activation_dropout": 0.2, "pooler_dropout": 0.2,
         "encoder_layerdrop": 0.2, "mha_reg_scale_factor": 0.1, "ffn_reg_scale_factor": 0.1}, (),
    ),
    "layers to keep": ({}, (with_model(encoder_layers_to_keep="0,2"),)),
}  # fmt: skip


@pytest.mark.parametrize("name", thinned(VARIANTS, 2))
def test_the_native_model_computes_what_fairseq_computes(
    build_encoder: BuildEncoder, tmp_path: Path, name: str
) -> None:
    options, changes = VARIANTS[name]
    assert_equal(changed(build_encoder(**options), tmp_path / "model.pt", *changes))


def test_the_same_weights_compute_the_same_in_transformers(build_encoder: BuildEncoder, tmp_path: Path) -> None:
    folder = classifier_folder(tmp_path / "model", "roberta")
    weights = {name: tensor.clone() for name, tensor in load(folder).tensors.items()}
    stem, names = (
        "encoder.sentence_encoder",
        {
            "self_attn": "attention.self",
            "self_attn_layer_norm": "attention.output.LayerNorm",
            "fc1": "intermediate.dense",
            "fc2": "output.dense",
            "final_layer_norm": "output.LayerNorm",
        },
    )

    def of(name: str) -> Tensor:
        """The tensor of transformers that stands for one of fairseq's."""
        own = name.removeprefix(f"{stem}.")
        if own == "embed_tokens.weight":
            return (
                weights["roberta.embeddings.word_embeddings.weight"]
                + weights["roberta.embeddings.token_type_embeddings.weight"]
            )
        if own.startswith("layers."):
            _, layer, module, *rest = own.split(".")
            if rest[0] == "out_proj":
                return weights[f"roberta.encoder.layer.{layer}.attention.output.dense.{rest[1]}"]
            kinds = {"q_proj": "query.", "k_proj": "key.", "v_proj": "value."}
            inside = "".join(kinds.get(part, part) for part in rest)
            return weights[f"roberta.encoder.layer.{layer}.{names[module]}.{inside}"]
        for old, new in {"embed_positions": "position_embeddings", "layernorm_embedding": "LayerNorm"}.items():
            if own.startswith(old):
                return weights[own.replace(old, f"roberta.embeddings.{new}")]
        return weights[name.replace("classification_heads.sentence_classification_head", "classifier")]

    def replace(state: State) -> None:
        own = [name for name in state["model"] if "lm_head" not in name and not name.endswith("version")]
        state["model"].update({name: of(name) for name in own})
        state["model"].update({
            "encoder.lm_head.weight": state["model"][f"{stem}.embed_tokens.weight"],
            "encoder.lm_head.bias": torch.zeros(60),
        })  # fmt: skip

    path = changed(build_encoder(), tmp_path / "model.pt", replace, with_model(max_positions=38))
    found, tokens = ours(path)
    stock = huggingface_folders.transformers().RobertaForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        expected = stock(input_ids=tokens, attention_mask=(tokens != 1).long()).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", slim.MODES)
@pytest.mark.parametrize("task", ["sentence_prediction", "masked_lm"])
def test_what_is_cut_is_what_was_masked(build_encoder: BuildEncoder, tmp_path: Path, task: str, mode: str) -> None:
    """Moments and averages go the same way as the weights; the tests of the plug-in run the files in fairseq."""
    base = load_encoder(build_encoder(task=task, updates=2, stored={"ema": 0.5}))
    plan = removing(base, RAGGED)
    result = slim.apply(plan, base, mode)
    assert verify(base, result, plan).ok
    result.save(tmp_path / "slim.pt")
    found = load_encoder(tmp_path / "slim.pt")
    assert found.base == result.base and found.notes == () and found.architecture_name == "roberta"
    own = {name: tensor for name, tensor in found.model_tensors.items() if name in found.parameters}
    moved = [name for name in own if f"optimizer/exp_avg/{name}" in found.tensors]
    assert len(moved) > 30
    for name in moved:
        assert (
            found.tensors[f"optimizer/exp_avg_sq/{name}"].shape == own[name].shape == found.tensors[f"ema/{name}"].shape
        )
    assert found.lineage is not None and found.lineage.layers("encoder") == (0, 2)


@pytest.mark.parametrize("how", thinned(["fp16", "memory_efficient_fp16", "fp16_no_flatten_grads"], 3))
def test_moments_of_half_precision_are_cut(build_encoder: BuildEncoder, how: str) -> None:
    options = {"fp16": True, how: True, "updates": 2}
    base = load_encoder(build_encoder(**options))
    assert base.optimizer.problem == ""
    plan = removing(base, RAGGED)
    result = slim.apply(plan, base)
    assert verify(base, result, plan).ok
    moments = {name.rpartition("/")[2]: own for name, own in result.tensors.items() if "/exp_avg/" in name}
    assert moments and all(own.shape == result.model_tensors[name].shape for name, own in moments.items())
    cut, name = (
        "encoder.sentence_encoder.layers.0.fc1.weight",
        "optimizer/exp_avg/encoder.sentence_encoder.layers.0.fc1.weight",
    )
    assert torch.equal(moments[cut], base.tensors[name][14:])


def test_averages_and_moments_lose_the_same_rows(build_encoder: BuildEncoder) -> None:
    base = load_encoder(build_encoder(updates=2, stored={"ema": 0.5}))
    name = "encoder.sentence_encoder.layers.0.fc1.weight"
    plan = removing(base, [f"encoder-ffn.0.{neuron}" for neuron in (0, 5)])
    result, kept = slim.apply(plan, base), [neuron for neuron in range(24) if neuron not in (0, 5)]
    for each in (name, f"ema/{name}", f"optimizer/exp_avg/{name}"):
        assert torch.equal(result.tensors[each], base.tensors[each][kept])


def test_a_plan_that_keeps_all_changes_nothing(build_encoder: BuildEncoder, tmp_path: Path) -> None:
    base = load_encoder(build_encoder(updates=2))
    slim.apply(removing(base, []), base).save(tmp_path / "slim.pt")
    before, after = fairseq_files.load(base.path), fairseq_files.load(tmp_path / "slim.pt")
    assert list(before["model"]) == list(after["model"]) and after["extra_state"] == before["extra_state"]
    assert all(torch.equal(tensor, after["model"][name]) for name, tensor in before["model"].items())
    assert vars(after["cfg"]["model"]) == vars(before["cfg"]["model"])


def test_verification_sees_a_changed_head(build_encoder: BuildEncoder) -> None:
    for task, part in (("sentence_prediction", "classification_heads"), ("masked_lm", "lm_head.layer_norm")):
        base = load_encoder(build_encoder(task=task))
        plan = removing(base, ["encoder.0.1"])
        cut = slim.apply(plan, base)
        other = {name: 1.01 * tensor for name, tensor in cut.tensors.items() if part in name}
        assert (
            other and not verify(base, cut.rewritten({**cut.tensors, **other}, cut.architecture, cut.lineage), plan).ok
        )


@pytest.mark.parametrize("task", ["sentence_prediction", "masked_lm"])
def test_fresh_weights_are_distributed_as_fairseqs(tmp_path: Path, task: str) -> None:
    sizes = {"width": 64, "ffn": 96, "layers": 1, "heads": 4}
    untied = {"untie_weights_roberta": True} if task == "masked_lm" else {}
    drawn = load_encoder(fairseq_encoders.encoder_checkpoint(tmp_path, task=task, **sizes, **untied))
    fresh = drawn.reinitialized(7)
    for name, tensor in drawn.parameters.items():
        here = fresh.parameters[name]
        if bool((tensor == tensor.flatten()[0]).all()):
            assert torch.equal(here, tensor), name
            continue
        assert abs(float(here.std() / tensor.std()) - 1) < 12 / (2 * tensor.numel()) ** 0.5, name
        assert abs(float(here.mean() / tensor.std())) < 6 / tensor.numel() ** 0.5, name
        if tensor.dim() == 2:
            assert [bool((row == 0).all()) for row in here] == [bool((row == 0).all()) for row in tensor], name


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(path)
    return str(caught.value).removeprefix(f"{path}: ")


HEAD = "classification_heads.sentence_classification_head"
REFUSED: dict[str, tuple[Callable[[State], Any], str]] = {
    "heads that do not divide": (with_model(encoder_attention_heads=3),
        "settings: encoder_attention_heads 3 does not divide encoder_embed_dim 16"),
    "positions": (with_model(max_positions="many"), "settings: max_positions is 'many', no whole number from 1"),
    "other positions": (with_model(max_positions=50),
        "the tensors do not fit the settings: encoder.sentence_encoder.embed_positions.weight has shape [42, 16], not "
        "[52, 16]"),
    "spectral norm": (with_model(spectral_norm_classification_head=True),
        "unsupported: spectral_norm_classification_head True (a spectral norm in the heads that give labels)"),
    "quantization noise": (with_model(quant_noise_pq=0.1), "unsupported: quant_noise_pq 0.1 (quantization noise)"),
    "adaptive pruning": (with_model(mha_heads_to_keep=2),
        "unsupported: mha_heads_to_keep 2 (heads that fairseq removes when training starts)"),
    "another class": (with_model(_name="xmod_base", arch="xmod_base"),
        "unsupported: architecture 'xmod_base' (fairseq's transformer, transformer_lm and roberta models are "
        "supported)"),
    "a flag that is text": (with_model(untie_weights_roberta="no"),
        "unsupported: untie_weights_roberta is 'no', neither True nor False"),
    "a task of pairs": (lambda state: state["cfg"]["task"].update(_name="sentence_ranking"),
        "unsupported: task 'sentence_ranking' (labels of sentences): models of these tasks are supported: "
        "sentence_prediction, masked_lm, multilingual_masked_lm"),
    "translation": (lambda state: state["cfg"]["task"].update(_name="translation"),
        "unsupported: task 'translation' (of models with a decoder): models of these tasks are supported: "
        "sentence_prediction, masked_lm, multilingual_masked_lm"),
    "a cut head": (lambda state: state["model"].update({f"{HEAD}.out_proj.weight": torch.zeros(3, 5)}),
        f"the tensors do not fit the settings: {HEAD}.out_proj.weight has shape [3, 5], not [3, 16]"),
    "labels": (lambda state: state["cfg"]["task"].update(num_classes=2),
        f"the tensors do not fit the settings: {HEAD}.out_proj.weight gives 3 labels, num_classes is 2"),
    "no output": (without("lm_head.bias"), "the tensors do not fit the settings: encoder.lm_head.bias is missing"),
    "a layer less": (without("layers.2.fc1.bias"),
        "the tensors do not fit the settings: encoder.sentence_encoder.layers.2.fc1.bias is missing"),
    "a tensor more": (lambda state: state["model"].update({"encoder.regression_head.weight": torch.zeros(2)}),
        "the tensors do not fit the settings: encoder.regression_head.weight is no part of such a model"),
    "untied output": (lambda state: state["model"].update({"encoder.lm_head.weight": torch.zeros(28, 16)}),
        "the tensors do not fit the settings: encoder.lm_head.weight has shape [28, 16], not [29, 16]"),
    "another output": (lambda state: state["model"].update({"encoder.lm_head.weight": torch.zeros(29, 16)}),
        "the tensors do not fit the settings: encoder.lm_head.weight and encoder.sentence_encoder.embed_tokens.weight "
        "differ, though the settings share them"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_are_refused(build_encoder: BuildEncoder, tmp_path: Path, name: str) -> None:
    change, message = REFUSED[name]
    text = refusal(changed(build_encoder(), tmp_path / "x.pt", change))
    assert text.startswith(message)


def test_an_architecture_of_ones_own_is_read_by_its_sizes(build_encoder: BuildEncoder, tmp_path: Path) -> None:
    path = changed(build_encoder(), tmp_path / "x.pt", with_model(_name="roberta_small", arch="roberta_small"))
    assert load(path).notes == (
        "architecture 'roberta_small' is not one of fairseq's: it is taken for fairseq's RoBERTa with the sizes in the "
        "file",
    )
    assert torch.equal(ours(path)[0], ours(build_encoder())[0])


def test_a_task_of_ones_own_is_taken_for_prediction(build_encoder: BuildEncoder, tmp_path: Path) -> None:
    path = changed(build_encoder(), tmp_path / "x.pt", lambda state: state["cfg"]["task"].update(_name="my_task"))
    assert f"taken for those of the task '{tasks.PREDICTION}'" in load(path).notes[0]


def second_head(state: State) -> None:
    own = [name for name in state["model"] if name.startswith(HEAD)]
    state["model"].update({name.replace(HEAD, "classification_heads.mnli"): state["model"][name] for name in own})


def test_of_several_heads_the_settings_name_one(build_encoder: BuildEncoder, tmp_path: Path) -> None:
    path = changed(build_encoder(), tmp_path / "two.pt", second_head)
    assert load_encoder(path).label_head == "sentence_classification_head"
    assert torch.equal(ours(path)[0], ours(build_encoder())[0])

    def unnamed(state: State) -> None:
        for part in ("criterion", "task"):
            state["cfg"][part]["classification_head_name"] = "other"

    path = changed(path, tmp_path / "unnamed.pt", unnamed)
    plan = removing(load(path), ["encoder.0.1"])
    plan.write(tmp_path / "plan.json")
    arguments = ("slim", path, "--plan", tmp_path / "plan.json", "-o", tmp_path / "slim.pt")
    code, line = refused(*arguments)
    assert code == 3 and not (tmp_path / "slim.pt").exists()
    assert (
        "has the classification heads sentence_classification_head, mnli, and its classification_head_name is " in line
    )
    assert nmtprune("drift", path, path).code == 0
    assert nmtprune(*arguments, "--no-verify").code == 0
    assert load_encoder(tmp_path / "slim.pt").label_heads == ("sentence_classification_head", "mnli")


def test_functions_that_the_native_model_does_not_have(build_encoder: BuildEncoder, tmp_path: Path) -> None:
    path = changed(build_encoder(), tmp_path / "x.pt", with_model(activation_fn="softplus", pooler_activation_fn="x"))
    with pytest.raises(CheckpointError) as caught:
        load(path).classifier_network()
    assert str(caught.value).startswith(
        f"{path}: the native model cannot run this checkpoint: activation_fn 'softplus' ("
    )
    assert len(caught.value.faults) == 2


def test_a_model_without_a_classification_head_says_what_to_do(build_encoder: BuildEncoder) -> None:
    checkpoint = load_encoder(build_encoder(task="masked_lm"))
    with pytest.raises(CheckpointError) as caught:
        checkpoint.classifier_profile()
    assert str(caught.value) == (
        f"{checkpoint.path}: roberta has no classification head: fine-tune it first, with fairseq-train and its "
        "task sentence_prediction"
    )


def test_what_a_classifier_asks_of_its_texts(build_encoder: BuildEncoder, tmp_path: Path) -> None:
    found = load_encoder(build_encoder()).classifier_profile()
    assert (found.labels, found.symbols, found.max_positions, found.padding) == (3, 29, 40, 1)
    assert found.frame is not None and (found.frame.init, found.frame.separator, found.frame.shorten) == (0, 2, "none")
    numbers = lambda state: state["cfg"]["criterion"].update(regression_target=True)  # noqa: E731
    path = changed(build_encoder(), tmp_path / "x.pt", numbers)
    with pytest.raises(CheckpointError, match="regression_target: its outputs are numbers, not labels"):
        load_encoder(path).classifier_profile()
