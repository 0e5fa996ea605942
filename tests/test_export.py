"""What CTranslate2 makes of exported models: the native engine's translations, whatever units are left."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from nmtprune import ctranslate2_model, slim
from nmtprune.architecture import EVERY_KIND, GroupId, UnitId
from nmtprune.data.batching import BatchLimits
from nmtprune.data.corpus import Corpus, load_corpus, random_corpus
from nmtprune.data.marian_vocabulary import MarianVocabulary
from nmtprune.data.options import DataOptions
from nmtprune.engines import EngineSettings, open_engine
from nmtprune.engines.ctranslate2 import opened, translations
from nmtprune.errors import EngineError
from nmtprune.formats import load
from nmtprune.formats.base import Checkpoint
from nmtprune.formats.marian import MarianCheckpoint
from nmtprune.model.search import MarianSearchOptions, Search, SearchOptions
from nmtprune.plan import Plan
from tests.support.fairseq_files import Build
from tests.support.marian_files import VARIANTS, marian_arrays, marian_model, write
from tests.support.marian_program import random_texts, vocabulary_file
from tests.support.thinned import thinned

FAIRSEQ: dict[str, dict[str, Any]] = {
    "post-norm, sinusoids": {},
    "pre-norm, shared tables": {"encoder_normalize_before": True, "decoder_normalize_before": True,
                                "share_all_embeddings": True},
    "learned positions": {"encoder_learned_pos": True, "decoder_learned_pos": True},
    "norms of embeddings": {"layernorm_embedding": True, "activation_fn": "gelu"},
    "only the encoder is pre-norm": {"encoder_normalize_before": True},
    "no scale, no positions": {"no_scale_embedding": True, "no_token_positional_embeddings": True},
}  # fmt: skip
EXPORTED = [name for name in VARIANTS if "SSRU" not in name]


def _settings(search: Search) -> EngineSettings:
    return EngineSettings(search, BatchLimits.of(None, 8), torch.device("cpu"), 1)


def _check_equal(checkpoint: Checkpoint, corpus: Corpus, folder: Path, search: Search) -> None:
    """All translations equal; and the checkpoint is as it was."""
    before = {name: tensor.clone() for name, tensor in checkpoint.model_tensors.items()}
    folder.mkdir()
    ctranslate2_model.check_exportable(checkpoint)
    ctranslate2_model.write_ctranslate2(
        checkpoint, (corpus.source_vocabulary, corpus.target_vocabulary), folder, "float32"
    )
    settings = _settings(search)
    theirs = translations(opened(folder, settings), corpus, settings)
    for own, found in zip(open_engine("native", checkpoint, settings).translate(corpus, {}), theirs, strict=True):
        assert corpus.decode(found[0].tokens) == corpus.decode(own[0].tokens)
    assert all(torch.equal(tensor, before[name]) for name, tensor in checkpoint.model_tensors.items())


def _cut(checkpoint: Checkpoint, share: float) -> Checkpoint:
    rng = np.random.default_rng(4)
    heads = [head for head in checkpoint.architecture.head_ids() if rng.random() < share]
    return slim.apply(Plan.removing(checkpoint.base, heads), checkpoint)


@pytest.mark.parametrize("variant", thinned(EXPORTED))
def test_marian_models_full_and_slim(tmp_path: Path, variant: str) -> None:
    base = MarianCheckpoint.load(marian_model(tmp_path / "model.npz", **VARIANTS[variant]))
    source, _ = random_texts(tmp_path)
    vocabulary = vocabulary_file(tmp_path)
    options = DataOptions(source=source, vocabs=(vocabulary, vocabulary), post_process="none")
    corpus = load_corpus(options, base.profile(), references=False)
    for number, share in enumerate((0.0, 0.5, 1.0)):
        own = _cut(base, share)
        _check_equal(own, corpus, tmp_path / f"served{number}", MarianSearchOptions(beam=1))


@pytest.mark.parametrize("variant", FAIRSEQ)
def test_fairseq_models_full_and_slim(build: Build, tmp_path: Path, variant: str) -> None:
    path = build(**FAIRSEQ[variant])
    base = load(path)
    data = DataOptions(data_bin=path.parent / "data-bin")
    corpus = random_corpus(data, base.profile(), 12)
    for number, share in enumerate((0.0, 0.5, 1.0)):
        own = _cut(base, share)
        _check_equal(own, corpus, tmp_path / f"served{number}", SearchOptions(beam=1, max_len_b=15))
    heads = ctranslate2_model.uniform_heads(own)
    assert heads == (1, 1) and ctranslate2_model.padding_heads(own) == len(own.architecture.modules)


def _without(checkpoint: Checkpoint, seed: int) -> Plan:
    """A plan that removes some heads, and in most feed-forward layers some neurons, in one all, and layers."""
    rng = np.random.default_rng(seed)
    architecture = checkpoint.architecture
    units = [head for head in architecture.head_ids() if rng.random() < 0.4]
    for place, group in enumerate(architecture.feed_forwards):
        share = (0.5, 1.0, 0.0, 0.7)[place % 4]
        units += [UnitId(group.id, number) for number in range(group.units) if rng.random() < share]
    return Plan.removing(checkpoint.base, [*units, *_last_layers(checkpoint)])


def _widths(checkpoint: Checkpoint) -> list[int]:
    return [ctranslate2_model.stored_neurons(checkpoint, group) for group in checkpoint.architecture.feed_forwards]


def _last_layers(checkpoint: Checkpoint) -> list[UnitId]:
    """The last layer of each stack that has several."""
    stacks = {stack: checkpoint.architecture.layers(stack) for stack in ("encoder", "decoder")}
    return [UnitId(GroupId.layers_of(stack), own[-1]) for stack, own in stacks.items() if len(own) > 1]


@pytest.mark.parametrize("mode", slim.MODES)
@pytest.mark.parametrize("variant", ["post-norm, sinusoids", "pre-norm, shared tables"])
def test_fairseq_models_without_neurons_and_layers(build: Build, tmp_path: Path, variant: str, mode: str) -> None:
    path = build(layers=(3, 4), ffn=(40, 24), **FAIRSEQ[variant])
    base = load(path)
    corpus = random_corpus(DataOptions(data_bin=path.parent / "data-bin"), base.profile(), 12)
    plan = _without(base, 1)
    result = slim.apply(plan, base, mode)
    search = SearchOptions(beam=1, max_len_b=15)
    _check_equal(result, corpus, tmp_path / "served", search)
    native, exported = (open_engine(name, base, _settings(search)) for name in ("native", "ctranslate2"))
    texts = [[own[0].tokens for own in found] for found in (
        native.translate(corpus, plan.kept_units), exported.translate(corpus, plan.kept_units),
        open_engine("ctranslate2", result, _settings(search)).translate(corpus, {}),
    )]  # fmt: skip
    assert texts[0] == texts[1] == texts[2] != [own[0].tokens for own in native.translate(corpus, {})]
    left = [base.base.units[layer.group] for layer in _last_layers(base)]
    kept = [len(plan.kept(group.id)) for group in base.architecture.feed_forwards
            if group.id.layer != left[group.id.stack == "decoder"][-1]]  # fmt: skip
    assert mode == "masked" or _widths(result) == [(number + 7) // 8 * 8 or 8 for number in kept]


@pytest.mark.parametrize("mode", ["masked", "uniform"])
@pytest.mark.parametrize("variant", EXPORTED)
def test_marian_models_without_neurons_and_layers(tmp_path: Path, variant: str, mode: str) -> None:
    base = MarianCheckpoint.load(marian_model(tmp_path / "model.npz", **VARIANTS[variant]))
    source, _ = random_texts(tmp_path)
    vocabulary = vocabulary_file(tmp_path)
    options = DataOptions(source=source, vocabs=(vocabulary, vocabulary), post_process="none")
    corpus = load_corpus(options, base.profile(), references=False)
    result = slim.apply(_without(base, 2), base, mode)
    assert result.architecture.layers("decoder") < base.architecture.layers("decoder") or variant.startswith("uneven")
    _check_equal(result, corpus, tmp_path / "served", MarianSearchOptions(beam=1))


def test_whole_layers_of_any_width_stay_as_they_are(build: Build) -> None:
    """Zero neurons are added only where neurons were cut; those that a uniform model has go."""
    base = load(build(ffn=(30, 13)))
    head = slim.apply(Plan.removing(base.base, base.architecture.head_ids()[:1]), base)
    assert _widths(base) == _widths(head) == [30, 30, 13, 13]
    some = [UnitId.parse(f"encoder-ffn.0.{number}", EVERY_KIND) for number in range(12)]
    uniform = slim.apply(Plan.removing(base.base, some), base, "uniform")
    assert [group.stored for group in uniform.architecture.feed_forwards] == [30, 30, 13, 13]
    assert _widths(uniform) == [24, 30, 13, 13]


def test_an_empty_line_has_an_empty_translation_and_a_note(build: Build, tmp_path: Path) -> None:
    """CTranslate2 answers sentences without tokens by itself; fairseq's search asks the model, Marian's does not."""
    base = load(build())
    folder = base.path.parent / "data-bin"
    source = tmp_path / "source"
    source.write_text("\nw1 w2\n", encoding="utf-8")
    options = DataOptions(data_bin=folder, source=source, post_process="none")
    corpus = load_corpus(options, base.profile(), references=False)
    engines = [
        open_engine(name, base, _settings(SearchOptions(beam=1, max_len_b=15))) for name in ("native", "ctranslate2")
    ]
    native, ours = ([own[0].tokens for own in engine.translate(corpus, {})] for engine in engines)
    assert len(native[0]) > 1 and ours == [(corpus.target_vocabulary.eos,), native[1]]
    (remark,) = engines[1].remarks(corpus)
    assert "empty line" in remark and engines[0].remarks(corpus) == ()
    marian = load(marian_model(tmp_path / "model.npz"))
    assert open_engine("ctranslate2", marian, _settings(MarianSearchOptions(beam=1))).remarks(corpus) == ()
    source.write_text("w1\nw1 w2\n", encoding="utf-8")
    assert engines[1].remarks(load_corpus(options, base.profile(), references=False)) == ()


def test_what_ctranslate2_cannot_run(tmp_path: Path) -> None:
    ssru = load(marian_model(tmp_path / "ssru.npz", **VARIANTS["SSRU decoder of tied layers"]))
    with pytest.raises(EngineError, match=r"ssru\.npz: CTranslate2 cannot run this model: an SSRU decoder$"):
        ctranslate2_model.check_exportable(ssru)
    both = {**VARIANTS["pre-norm SSRU decoder"], "transformer_postprocess": "dan"}
    odd = load(marian_model(tmp_path / "odd.npz", **both))
    with pytest.raises(EngineError) as refusal:
        ctranslate2_model.check_exportable(odd)
    assert refusal.value.faults == (
        "an SSRU decoder",
        "encoder sublayers with 'n' before and 'an' after them",
        "decoder sublayers with 'n' before and 'an' after them",
    )
    plain = load(marian_model(tmp_path / "plain.npz"))
    with pytest.raises(EngineError, match="the engine ctranslate2 cannot search so: `word_penalty` 0.5"):
        open_engine("ctranslate2", plain, _settings(MarianSearchOptions(word_penalty=0.5)))


def test_control_characters_are_never_chosen(tmp_path: Path) -> None:
    """As in Marian, unless they are allowed: here a word that wins everywhere is taken for one."""
    arrays = marian_arrays()
    arrays["decoder_ff_logit_out_b"][0, 5] += 20
    base = MarianCheckpoint.load(write(tmp_path / "model.npz", arrays))
    source, _ = random_texts(tmp_path)
    vocabulary = vocabulary_file(tmp_path)
    options = DataOptions(source=source, vocabs=(vocabulary, vocabulary), post_process="none")
    corpus = load_corpus(options, base.profile(), references=False)
    corpus = replace(corpus, target_vocabulary=replace(cast(MarianVocabulary, corpus.target_vocabulary), control=(5,)))
    for allowed in (False, True):
        settings = _settings(MarianSearchOptions(beam=1, allow_special=allowed))
        found = [open_engine(name, base, settings).translate(corpus, {}) for name in ("native", "ctranslate2")]
        texts = [[corpus.decode(own[0].tokens) for own in each] for each in found]
        assert texts[0] == texts[1] and all(("w5" in text.split()) == allowed for text in texts[0])


def test_words_without_a_symbol_are_not_unknown_words(tmp_path: Path) -> None:
    """Ids that a vocabulary leaves out come back as they are, not as the unknown word."""
    model = MarianCheckpoint.load(marian_model(tmp_path / "model.npz"))
    vocabulary = vocabulary_file(tmp_path)
    lines = vocabulary.read_text().splitlines(keepends=True)
    gaps = tmp_path / "gaps.yml"
    gaps.write_text("".join(line for number, line in enumerate(lines) if number < 2 or number % 2))
    source, _ = random_texts(tmp_path)
    options = DataOptions(source=source, vocabs=(vocabulary, gaps), post_process="none")
    corpus = load_corpus(options, model.profile(), references=False)
    settings = _settings(MarianSearchOptions(beam=1))
    native = open_engine("native", model, settings).translate(corpus, {})
    chosen = {token for found in native for token in found[0].tokens}
    assert any(token not in corpus.target_vocabulary.index.values() for token in chosen)  # type: ignore[attr-defined]
    for own, found in zip(native, open_engine("ctranslate2", model, settings).translate(corpus, {}), strict=True):
        assert found[0].tokens[:-1] == tuple(token for token in own[0].tokens if token != 0)
