"""Every field of fairseq's model and task: read, without effect, or refused by name; held against fairseq itself."""

import argparse
import dataclasses
import itertools
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from nmtprune.data.batching import BatchLimits
from nmtprune.data.corpus import Corpus, load_corpus
from nmtprune.data.options import DataOptions
from nmtprune.engines import EngineSettings, open_engine
from nmtprune.errors import CheckpointError
from nmtprune.formats import load
from nmtprune.formats.fairseq import fields, tasks
from nmtprune.model.search import SearchOptions
from nmtprune.training.options import as_it_goes_on
from tests.support import fairseq_commands, fairseq_files, fairseq_variants, networks
from tests.support.fairseq_files import Build
from tests.support.thinned import thinned

State = dict[str, Any]


def changed(path: Path, target: Path, change: Callable[[State], Any]) -> Path:
    state = fairseq_files.load(path)
    change(state)
    torch.save(state, target)
    return target


def with_model(**settings: Any) -> Callable[[State], None]:
    return lambda state: vars(state["cfg"]["model"]).update(settings)


def with_task(**settings: Any) -> Callable[[State], None]:
    return lambda state: state["cfg"]["task"].update(settings)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(path)
    return str(caught.value).removeprefix(f"{path}: ")


def options_of(entry: Any, dataclass: Any) -> Iterator[str]:
    """Names of the options that a class of fairseq registers."""
    if dataclass is not None:
        yield from (field.name for field in dataclasses.fields(dataclass))
    if hasattr(entry, "add_args"):
        parser = argparse.ArgumentParser(conflict_handler="resolve", add_help=False)
        entry.add_args(parser)
        yield from (action.dest for action in parser._actions)


def of_models_and_tasks() -> set[str]:
    from fairseq import models
    from fairseq import tasks as stock

    names = ("transformer", "transformer_align", "transformer_lm", "roberta")
    found = {name for own in names for name in options_of(models.MODEL_REGISTRY[own],
             models.MODEL_DATACLASS_REGISTRY.get(own))}  # fmt: skip
    for name in ("translation", "language_modeling", "sentence_prediction", "masked_lm"):
        found |= set(options_of(stock.TASK_REGISTRY[name], stock.TASK_DATACLASS_REGISTRY[name]))
    return found - {"_name"}


def of_everything_else() -> set[str]:
    from fairseq import options, registry
    from fairseq.dataclass import configs

    found = {action.dest for action in options.get_training_parser()._actions} - {"help"}
    for group in dataclasses.fields(configs.FairseqConfig):
        found.add(group.name)
        if isinstance(group.type, type) and dataclasses.is_dataclass(group.type):
            found |= {field.name for field in dataclasses.fields(group.type)}
    for kind in registry.REGISTRIES.values():
        for name, entry in kind["registry"].items():
            found |= set(options_of(entry, kind["dataclass_registry"].get(name)))
    return {name for name in found if not name.startswith("_")}


def test_every_field_of_fairseqs_is_in_one_list() -> None:
    listed = [name for name, _, _ in fields.field_table()]
    assert len(listed) == len(set(listed))
    shared = {"seed", "batch_size", "batch_size_valid", "data_buffer_size", "use_plasma_view", "plasma_path"}
    assert of_models_and_tasks() - shared <= set(listed)
    assert not set(listed) & (fields.OTHER_OPTIONS | fields.OLD_OPTIONS)


def test_every_option_of_fairseqs_is_known() -> None:
    known = {name for name, _, _ in fields.field_table()} | fields.OTHER_OPTIONS
    assert of_everything_else() - known == set()


def test_every_field_that_is_read_is_compared_with_fairseq() -> None:
    """Models of each are compared with fairseq's in tests/model, or with what fairseq loads in this folder."""
    short = {"heads": "attention_heads", "width": "embed_dim", "ffn": "ffn_embed_dim", "layers": "layers"}
    variants = [*networks.VARIANTS.values(), *fairseq_variants.VARIANTS.values()]
    built = {name for options in variants for name in options}
    built |= {f"{stack}_{short[name]}" for name in built & set(short) for stack in ("encoder", "decoder")}
    elsewhere = {
        "max_source_positions", "max_target_positions", "tokens_per_sample",  # builders
        "encoder_layers_to_keep", "decoder_layers_to_keep",  # test_network, test_layout
        "max_positions", "untie_weights_roberta", "pooler_activation_fn",  # test_encoders
        "decoder_final_norm", "no_tie_adaptive_proj",  # test_architectures
    }  # fmt: skip
    own = {name for name in fields.READ if name.startswith("nmtprune_") or name.endswith("_head_dim")}
    assert {*fields.READ, *fields.READ_FLAGS} - built - elsewhere - own == set()


TRAINING = {"dropout": 0.3, "attention_dropout": 0.2, "activation_dropout": 0.2, "checkpoint_activations": True,
            "min_params_to_wrap": 5, "quant_noise_pq_block_size": 4, "base_sublayers": 2, "base_shuffle": 0,
            }  # fmt: skip
WITHOUT_EFFECT: dict[str, dict[str, Any]] = {
    "training": {**TRAINING, "relu_dropout": 0.1, "encoder_layerdrop": 0.2, "decoder_layerdrop": 0.2, "export": True},
    "alignment": {
        "arch": "transformer_align", "alignment_heads": 2, "alignment_layer": 0, "full_context_alignment": True,
    },
    "language model": {
        **TRAINING, "arch": "transformer_lm", "relu_dropout": 0.1, "decoder_layerdrop": 0.2, "add_bos_token": True,
        "adaptive_softmax_dropout": 0.2, "character_embedding_dim": 5, "char_embedder_highway_layers": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_fields_without_effect(build: Build, name: str) -> None:
    path = networks.randomized(build(**WITHOUT_EFFECT[name]))
    assert load(path).notes == ()
    model, reference = networks.native_model(path), networks.fairseq_model(path)
    source, target = networks.batch(model)
    with torch.inference_mode():
        expected = networks.fairseq_scores(reference, source, target)[1]
        assert float((model(source, target) - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("name", fields.MUST_BE_OFF)
def test_what_is_not_computed_is_refused_with_its_value(tiny: Path, tmp_path: Path, name: str) -> None:
    value = {"quant_noise_pq": 0.25, "quant_noise_scalar": 0.5, "base_layers": 3}.get(name, "{'a': 1}")
    path = changed(tiny, tmp_path / "on.pt", with_model(**{name: value}))
    assert refusal(path).startswith(f"unsupported: {name} {ascii(value)} (")
    for off in (None, False, 0):
        assert load(changed(tiny, tmp_path / "off.pt", with_model(**{name: off}))).sha256 == load(tiny).sha256


@pytest.mark.parametrize("name", fields.TASK_MUST_BE_OFF)
def test_sentences_of_another_form_are_refused_with_their_field(tiny: Path, tmp_path: Path, name: str) -> None:
    task = with_task(_name="my_translation", **{name: "en,de"})
    assert refusal(changed(tiny, tmp_path / "on.pt", task)).startswith(f"unsupported: {name} 'en,de' (")


def test_names_that_fairseq_takes_for_both_stacks(tiny: Path, tmp_path: Path) -> None:
    from fairseq.models.transformer import TransformerConfig

    built = TransformerConfig.from_namespace(Namespace(encoder_learned_pos=False, learned_pos=True, layers=3))
    assert built.encoder.learned_pos and built.decoder.learned_pos and built.encoder.layers == 3
    text = refusal(changed(tiny, tmp_path / "x.pt", with_model(learned_pos=True, layers=3)))
    assert text == (
        "unsupported: layers 3 (without encoder_ or decoder_ in front: fairseq takes it for both); "
        "learned_pos True (without encoder_ or decoder_ in front: fairseq takes it for both)"
    )
    assert load(changed(tiny, tmp_path / "y.pt", with_model(layers=2))).sha256 == load(tiny).sha256


@pytest.mark.parametrize("value", ["False", "True", "no", 2])
def test_a_flag_of_the_model_that_is_text(tiny: Path, tmp_path: Path, value: Any) -> None:
    """fairseq takes any text for true, also "False"."""
    text = refusal(changed(tiny, tmp_path / "x.pt", with_model(layernorm_embedding=value)))
    assert text == f"unsupported: layernorm_embedding is {value!r}, neither True nor False"


@pytest.mark.parametrize(
    ("kind", "value"), thinned(itertools.product(["cfg", "args"], ["False", "True", "0", "1", True, False, 0, 1]), 3)
)
def test_truth_values_of_a_task_are_read_as_fairseq_reads_them(
    tiny: Path, tmp_path: Path, value: Any, kind: str
) -> None:
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    path = changed(tiny, tmp_path / "x.pt", with_task(left_pad_source=value, left_pad_target=value))
    if kind == "args":
        path = fairseq_files.store_as(path, path, cfg="args")
        state = fairseq_files.load(path)
        vars(state["args"]).update(left_pad_source=value, left_pad_target=value)
        torch.save(state, path)
        expected = bool(convert_namespace_to_omegaconf(fairseq_files.load(path)["args"]).task.left_pad_source)
    else:
        expected = value in ("True", "1", 1)
    found = load(path).profile()
    assert (found.left_pad_source, found.left_pad_target) == (expected, expected)


def test_a_truth_value_that_is_none(tiny: Path, tmp_path: Path) -> None:
    text = refusal(changed(tiny, tmp_path / "x.pt", with_task(left_pad_source="[]", truncate_source=3)))
    assert text == (
        "unsupported: left_pad_source is '[]', neither True nor False; truncate_source is 3, neither True nor False"
    )


@pytest.mark.parametrize("name", [*tasks.REFUSED, "multilingual_masked_lm", "translation_multi_simple_epoch_x"])
def test_tasks_whose_sentences_are_others(tiny: Path, tmp_path: Path, name: str) -> None:
    text = refusal(changed(tiny, tmp_path / "x.pt", with_task(_name=name)))
    assert text.startswith(f"unsupported: task '{name}' (")
    assert text.endswith(
        ": models of these tasks are supported: translation, translation_l0, translation_multi_simple_epoch, "
        "translation_from_pretrained_bart"
    )


def test_every_task_of_fairseqs_is_known() -> None:
    import fairseq.benchmark  # noqa: F401  # registers tasks of its own
    from fairseq.tasks import TASK_REGISTRY

    stock = {name for name, entry in TASK_REGISTRY.items() if entry.__module__.startswith("fairseq.tasks")}
    assert {name for name in stock if not any(map(name.startswith, (*tasks.SUPPORTED, *tasks.REFUSED)))} == set()


def test_what_stock_fairseq_does_not_know_is_named(tiny: Path, tmp_path: Path) -> None:
    assert load(tiny).notes == ()

    def change(state: State) -> None:
        with_model(relative_positions=True, off=False, unset=None)(state)
        with_task(_name="my_translation", glossary="terms.txt")(state)

    path = changed(tiny, tmp_path / "x.pt", change)
    task, settings = load(path).notes
    assert task == (
        "task 'my_translation' is not one of fairseq's: its sentences are taken for those of the task 'translation'"
    )
    assert settings.startswith(
        "settings that stock fairseq does not have and ignores: relative_positions = True, glossary = 'terms.txt'; code"
    )
    corpus = load_corpus(DataOptions(data_bin=tiny.parent / "data-bin"), load(path).profile())
    assert corpus.notes[:2] == (f"{path}: {task}", f"{path}: {settings}")


def test_references_to_other_fields_are_followed(build: Build, tmp_path: Path) -> None:
    """OmegaConf resolves them; files of fairseq 0.10 hold them as they are."""
    path = build(arch="transformer_lm", stored={"cfg": "omegaconf"})
    state = fairseq_files.load(path)
    state["cfg"].model.max_target_positions = "${task.tokens_per_sample}"
    state["cfg"].task.tokens_per_sample = 24
    torch.save(state, tmp_path / "x.pt")
    checkpoint: Any = load(tmp_path / "x.pt")
    assert checkpoint.settings["max_target_positions"] == 24 == state["cfg"].model.max_target_positions


@pytest.mark.parametrize("value", ["1024x", 0, -3, True, 2.5])
def test_positions_that_are_no_number(tiny: Path, tmp_path: Path, value: Any) -> None:
    text = refusal(changed(tiny, tmp_path / "x.pt", with_model(max_source_positions=value)))
    assert text == f"settings: max_source_positions is {value!r}, no whole number from 1"


def losses(path: Path, corpus: Corpus) -> float:
    settings = EngineSettings(SearchOptions(), BatchLimits.of(400), torch.device("cpu"), 1)
    return sum(open_engine("native", load(path), settings).ablation(corpus).losses([{}])[0])


def test_truncated_sources_have_the_losses_of_fairseq_validate(build: Build) -> None:
    path = build(truncate_source=True, max_source_positions=6)
    data = path.parent / "data-bin"
    corpus = load_corpus(DataOptions(data_bin=data, subset="valid"), load(path).profile(), targets=True)
    assert corpus.source.sizes.max() == 6
    assert corpus.notes[0].startswith("truncate_source: ")
    with mock.patch.dict("os.environ", TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1"):
        expected = sum(fairseq_commands.validate(path, data, "--required-batch-size-multiple", 1))
    assert losses(path, corpus) == pytest.approx(expected, rel=1e-6)


def test_truncated_sources_are_translated_as_by_fairseq_generate(build: Build) -> None:
    path = build(truncate_source=True, max_source_positions=6)
    data = path.parent / "data-bin"
    corpus = load_corpus(DataOptions(data_bin=data, subset="test"), load(path).profile(), references=False)
    search = SearchOptions(beam=3, max_len_b=20)
    engine = open_engine("native", load(path), EngineSettings(search, BatchLimits.of(400), torch.device("cpu"), 1))
    found = [corpus.target_vocabulary.string(best[0].tokens) for best in engine.translate(corpus, {})]
    options = ("--truncate-source", "--max-source-positions", 6, "--required-batch-size-multiple", 1, "--beam", 3)
    assert fairseq_commands.hypotheses(fairseq_commands.generate(path, data, *options)) == found
    # An untruncated source is longer than the model has positions for.
    with pytest.raises(Exception, match=r"max_positions=\(6, 40\)"):
        fairseq_commands.generate(path, data, "--required-batch-size-multiple", 1)


def test_the_limit_of_the_task_is_where_sources_are_cut(build: Build, tmp_path: Path) -> None:
    path = changed(build(), tmp_path / "x.pt", with_task(truncate_source=True, max_source_positions=4))
    data = build().parent / "data-bin"
    corpus = load_corpus(DataOptions(data_bin=data, subset="valid"), load(path).profile(), targets=True)
    plain = load_corpus(DataOptions(data_bin=data, subset="valid"), load(build()).profile(), targets=True)
    for cut, whole in zip(corpus.source, plain.source, strict=True):
        assert cut.tolist() == (whole.tolist() if len(whole) <= 4 else [*whole[:3].tolist(), 2])
    assert ("--truncate-source",) in as_it_goes_on(load(path), ["--criterion", "cross_entropy"])  # type: ignore[arg-type]


def test_losses_that_leave_out_prefixes_are_not_ours(build: Build, tmp_path: Path) -> None:
    path = build(criterion="label_smoothed_cross_entropy", ignore_prefix_size=1, label_smoothing=0.1)
    with pytest.raises(CheckpointError, match="ignore_prefix_size 1: its loss leaves out the first words"):
        load(path).label_smoothing()
    assert ("--ignore-prefix-size", "1") in as_it_goes_on(load(path), [])  # type: ignore[arg-type]
