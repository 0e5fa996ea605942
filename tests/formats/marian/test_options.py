"""Options of models: what nmtprune computes is what Marian computes, under every value that it takes."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nmtprune.data.batching import BatchLimits
from nmtprune.data.corpus import Corpus, load_corpus
from nmtprune.data.options import DataOptions
from nmtprune.engines import EngineSettings, open_engine
from nmtprune.errors import CheckpointError
from nmtprune.formats.marian import MarianCheckpoint, archive
from nmtprune.formats.marian.option_lists import HEAD_DIM, HEAD_LISTS, OF_COMMANDS, REFUSED, SUPPORTED, WITHOUT_EFFECT
from nmtprune.formats.marian.options import ENTRY, parse
from tests.support.cli import refused
from tests.support.marian_files import marian_arrays, write
from tests.support.marian_program import marian
from tests.support.marian_trained import (
    BASE,
    MODELS,
    QUICK,
    SEARCH,
    Texts,
    Verdict,
    judge,
    judging,
    options_of,
    train,
    with_options,
    with_text,
)

TIE = 1e-4
"""Scores that are no farther apart leave it to rounding which text comes first."""

LISTS = (SUPPORTED, WITHOUT_EFFECT, REFUSED, OF_COMMANDS)

INERT: dict[str, Any] = {
    "version": "v1.7.6", "original-type": "multi-transformer", "special-vocab": ["a"], "dim-rnn": 3, "skip": True,
    "enc-cell": "lstm", "enc-type": "alternating", "enc-cell-depth": 4, "dec-cell-base-depth": 5,
    "dec-cell-high-depth": 3, "transformer-dim-aan": 5, "transformer-aan-depth": 3,
    "transformer-aan-activation": "relu", "transformer-aan-nogate": True, "transformer-guided-alignment-layer": "1",
    "transformer-train-position-embeddings": True, "transformer-depth-scaling": True, "transformer-no-bias": True,
    "transformer-no-affine": True, "transformer-dim-model": 32, "transformer-alibi-shift": True,
    "transformer-alibi-trainable": True, "separator-symbol": "x", "ulr-dim-emb": 8,
    "ulr-trainable-transformation": True, "factors-combine": "concat", "factors-dim-emb": 4,
    "transformer-dropout": 0.5, "transformer-dropout-attention": 0.5, "transformer-dropout-ffn": 0.5,
    "dropout-rnn": 0.5, "dropout-src": 0.5, "dropout-trg": 0.5, "bert-train-type-embeddings": False,
    "bert-type-vocab-size": 5, "bert-mask-symbol": "x", "bert-sep-symbol": "x", "bert-class-symbol": "x",
    "bert-masking-fraction": 0.5, "char-stride": 3, "char-highway": 2, "char-conv-filters-num": [1],
    "char-conv-filters-widths": [1], "comet-final-sigmoid": True, "comet-stop-grad": True, "comet-mix": True,
    "comet-mix-norm": True, "comet-pool": "max", "comet-mix-transformation": "sparsemax", "comet-dropout": 0.5,
    "comet-mixup": 0.5, "comet-mixup-reg": True, "comet-augment-bad": 0.5, "comet-pooler-ffn": [3],
    "comet-use-separator": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Texts:
    return Texts.write(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, texts: Texts) -> dict[str, Path]:
    return train(tmp_path_factory.mktemp("models"), texts, {name: MODELS[name] for name in QUICK})


@pytest.fixture(scope="module")
def verdicts(models: dict[str, Path], texts: Texts) -> dict[str, Verdict]:
    return judge(models, texts)


def corpus_of(checkpoint: MarianCheckpoint, texts: Texts) -> Corpus:
    vocabs = (texts.vocabulary, texts.vocabulary)
    options = DataOptions(source=texts.source, reference=(texts.target,), vocabs=vocabs, post_process="none")
    return load_corpus(options, checkpoint.profile(), targets=True)


def assert_equal(path: Path, texts: Texts, expected: Verdict) -> None:
    """Losses of references and n-best lists of the native model are Marian's."""
    checkpoint = MarianCheckpoint.load(path)
    search = replace(SEARCH, unnormalized_keys=True)  # what Marian does with a pre-norm decoder
    settings = EngineSettings(search, BatchLimits.of(None, 1), torch.device("cpu"), 1)
    engine, corpus = open_engine("native", checkpoint, settings), corpus_of(checkpoint, texts)
    assert engine.ablation(corpus).losses([{}])[0] == pytest.approx(
        [-score for score in expected.scores], rel=1e-5, abs=1e-3
    )
    for ours, theirs in zip(engine.translate(corpus, {}), expected.translations, strict=True):
        for own, best in zip(ours, theirs, strict=True):
            tied = [other for other in theirs if other is not best and abs(other.score - best.score) < TIE]
            assert corpus.decode(own.tokens) == best.text or tied
        assert [own.score for own in ours] == pytest.approx([best.score for best in theirs], rel=1e-5, abs=1e-3)


@pytest.mark.parametrize("name", QUICK)
def test_supported(name: str, models: dict[str, Path], verdicts: dict[str, Verdict], texts: Texts) -> None:
    assert_equal(models[name], texts, verdicts[name])


@pytest.mark.slow
def test_supported_by_all_models(texts: Texts, tmp_path: Path) -> None:
    models = train(tmp_path, texts, {name: own for name, own in MODELS.items() if name not in QUICK})
    for name, verdict in judge(models, texts).items():
        assert_equal(models[name], texts, verdict)


def test_every_supported_value_is_tried() -> None:
    slim_only, natively_refused = {HEAD_DIM, *HEAD_LISTS.values()}, {"transformer-postprocess-top": {"a"}}
    for name, option in SUPPORTED.items():
        values = [{**BASE, **own}.get(name, option.default) for own in MODELS.values()]
        if option.kind == "types":
            assert [option.choices[0]] * 2 in values
        elif option.kind in ("choice", "operations"):
            used = {letter for value in values for letter in value} if option.kind == "operations" else {*values}
            assert {*option.choices} - natively_refused.get(name, set()) <= used, name
        elif name not in {*slim_only, "dim-vocabs", "transformer-ffn-depth"}:
            assert len({str(value) for value in values}) > 1, name


def test_every_option_is_in_one_list(models: dict[str, Path]) -> None:
    """Those that Marian writes into models, and those that its commands know."""
    known = {name for path in models.values() for name in options_of(archive.read_archive(path))}
    for command in ("train", "decode", "score"):
        shown = marian(command, "--help").stdout.decode()
        known |= {*re.findall(r"^  (?:-\w,)?--([a-z0-9-]+)", shown, re.MULTILINE)}
    assert len(known) > 250
    assert {name: sum(name in own for own in LISTS) for name in known} == dict.fromkeys(known, 1)
    assert sum(map(len, LISTS)) == len(set().union(*LISTS))


@pytest.mark.parametrize("name", ["plain", "SSRU", "right-left"])
def test_without_effect(
    name: str, models: dict[str, Path], verdicts: dict[str, Verdict], texts: Texts, tmp_path: Path
) -> None:
    assert INERT.keys() == WITHOUT_EFFECT.keys()
    path = write(tmp_path / "model.npz", with_options(archive.read_archive(models[name]), INERT))
    assert judge({name: path}, texts)[name] == verdicts[name]
    assert_equal(path, texts, verdicts[name])


def test_missing_options_are_those_of_marian(
    models: dict[str, Path], verdicts: dict[str, Verdict], texts: Texts, tmp_path: Path
) -> None:
    """All but the sizes, as in models of versions that did not have them."""
    arrays = archive.read_archive(models["plain"])
    few = {name: value for name, value in options_of(arrays).items() if name in BASE or name == "dim-vocabs"}
    lines = "".join(f"{name}: {value}\n" for name, value in few.items())
    path = write(tmp_path / "model.npz", with_text(arrays, lines))
    assert judge({"few": path}, texts)["few"] == verdicts["plain"]
    assert_equal(path, texts, verdicts["plain"])


@pytest.mark.parametrize(("model", "twin", "option", "value"), [
    ("right-left", "plain", "right-left", "false"),
    ("plain", "right-left", "right-left", "yes"),
    ("plain", "right-left", "right-left", 1),
    ("plain", "plain", "transformer-heads", "4"),
    ("plain", "plain", "transformer-tied-layers", ["1", 2.0]),
    ("plain", "plain", "dim-vocabs", [40, "40", 7]),
])  # fmt: skip
def test_spellings(
    model: str, twin: str, option: str, value: Any, models: dict[str, Path], texts: Texts, tmp_path: Path
) -> None:
    """Other spellings of a value are what Marian takes them for: what the usual one gives with the same weights."""
    arrays = archive.read_archive(models[model])
    usual = options_of(archive.read_archive(models[twin]))[option]
    paths = {
        "spelled": write(tmp_path / "spelled.npz", with_options(arrays, {option: value})),
        "usual": write(tmp_path / "usual.npz", with_options(arrays, {option: usual})),
    }
    said = judge(paths, texts)
    assert said["spelled"] == said["usual"]
    assert_equal(paths["spelled"], texts, said["usual"])


BAD: list[tuple[str, Any, str]] = [
    ("right-left", None, "right-left: null (not true or false)"),
    ("right-left", "x", "right-left: 'x' (not true or false)"),
    ("right-left", [True], "right-left: [True] (not true or false)"),
    ("tied-embeddings-all", "", "tied-embeddings-all: '' (not true or false)"),
    ("transformer-heads", None, "transformer-heads: null (not a whole number from 1 on)"),
    ("transformer-heads", 3, "transformer-heads: 3 does not divide dim-emb: 16"),
    ("transformer-heads", -4, "transformer-heads: -4 (not a whole number from 1 on)"),
    ("enc-depth", "six", "enc-depth: 'six' (not a whole number from 1 on)"),
    ("transformer-decoder-dim-ffn", -1, "transformer-decoder-dim-ffn: -1 (not a whole number from 0 on)"),
    ("transformer-ffn-activation", "Swish", "transformer-ffn-activation: 'Swish' (supported: swish, relu, gelu"),
    ("transformer-ffn-activation", "tanh", "transformer-ffn-activation: 'tanh' (supported: swish, relu, gelu"),
    ("transformer-preprocess", None, "transformer-preprocess: null (supported: d, n)"),
    ("transformer-preprocess", "a", "transformer-preprocess: 'a' (supported: d, n)"),
    ("transformer-postprocess", "DAN", "transformer-postprocess: 'DAN' (supported: d, a, n)"),
    ("transformer-postprocess", "d a n", "transformer-postprocess: 'd a n' (supported: d, a, n)"),
    ("transformer-postprocess-emb", "a", "transformer-postprocess-emb: 'a' (supported: d, n)"),
    ("transformer-tied-layers", [1], "transformer-tied-layers: [1] for 2 layers"),
    ("transformer-tied-layers", [0, 1], "transformer-tied-layers: [0, 1] for 2 layers"),
    ("transformer-tied-layers", "1", "transformer-tied-layers: '1' (not a list)"),
    ("transformer-decoder-autoreg", "Rnn", "transformer-decoder-autoreg: 'Rnn' (supported: self-attention, rnn)"),
    ("transformer-attention-mask", "alibi", "transformer-attention-mask: 'alibi' (attention masks)"),
    ("transformer-train-positions", True, "transformer-train-positions: true (trained positions)"),
    ("comet-prepend-zero", True, "comet-prepend-zero: true (a symbol before every sentence)"),
    ("ulr", True, "ulr: true (universal language representations)"),
    ("lemma-dim-emb", 4, "lemma-dim-emb: 4 (factored embeddings)"),
]


def test_what_marian_refuses_is_refused(models: dict[str, Path], texts: Texts, tmp_path: Path) -> None:
    arrays = archive.read_archive(models["plain"])
    paths = [
        write(tmp_path / f"{number}.npz", with_options(arrays, {option: value}))
        for number, (option, value, _) in enumerate(BAD)
    ]
    for path, (option, value, message) in zip(paths, BAD, strict=True):
        scoring, _ = judging(path, texts)
        assert marian(*scoring).returncode, f"Marian takes {option}: {value!r}"
        with pytest.raises(CheckpointError) as raised:
            MarianCheckpoint.load(path)
        assert str(raised.value).startswith(f"{path}: unsupported: {message}")


@pytest.mark.parametrize(("changes", "message"), [
    ({"transformer-pool": True}, "transformer-pool: true (pooled attention)"),
    ({"lemma-dependency": "re-embedding"}, "lemma-dependency: 're-embedding' (factored embeddings)"),
    ({"input-types": ["class", "sequence"]}, "input-types: ['class', 'sequence'] (supported: sequence, alignment"),
    ({"type": "lm-transformer"}, "type 'lm-transformer' (transformer is supported)"),
    ({"type": "amun", "dec-cell": 3}, "type 'amun' (transformer is supported)"),
    ({"input-reorder": [1, 0]}, "input-reorder: [1, 0] (inputs in another order)"),
    ({"input-join-fields": True}, "input-join-fields: true (inputs that are joined)"),
    ({"transformer-head-file": True}, "transformer-head-file: true (heads counted beside the model: write transformer"),
    ({"transformer-decoder-autoreg": "average-attention"}, "transformer-decoder-autoreg: 'average-attention' (supp"),
    ({"transformer-decoder-autoreg": "rnn"}, "dec-cell: 'gru' (supported: ssru)"),
    ({"transformer-postprocess": "dhr"}, "transformer-postprocess: 'dhr' (supported: d, a, n)"),
    ({"enc-depth": 0, "ulr": True}, "enc-depth: 0 (not a whole number from 1 on); ulr: true (universal"),
    ({"beam-size": 1}, "beam-size, which is an option of Marian's commands and not of a model: remove it"),
    ({"right_left": True}, "right_left, which is no option of a model that nmtprune knows"),
    ({"Right-Left": True, "x": None}, "Right-Left, which is no option of a model that nmtprune knows; x, which"),
])  # fmt: skip
def test_refused_by_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "model.npz", with_options(marian_arrays(), changes))
    code, line = refused("inspect", path)
    assert code == 3 and line.startswith(f"{path}: unsupported: {message}")


@pytest.mark.parametrize("name", sorted(OF_COMMANDS))
def test_options_of_commands_are_refused(name: str) -> None:
    content = "".join(f"{key}: {value}\n" for key, value in (*BASE.items(), (name, "false"))).encode()
    with pytest.raises(CheckpointError, match=f"m.npz: unsupported: {name}, which is an option of Marian's commands"):
        parse(content, "m.npz")


@pytest.mark.parametrize("option", REFUSED)
def test_neutral_values_are_taken(option: str) -> None:
    content = "".join(f"{key}: {value}\n" for key, value in BASE.items()).encode()
    neutral = repr(REFUSED[option].neutral).encode()
    assert parse(content + f"{option}: ".encode() + neutral.replace(b"False", b"false"), "m.npz").width == 16
    with pytest.raises(CheckpointError, match=f"unsupported: {option}: 77 "):
        parse(content + f"{option}: 77".encode(), "m.npz")


def test_an_option_that_stands_there_twice(tmp_path: Path) -> None:
    text = "".join(f"{name}: {value}\n" for name, value in BASE.items())
    path = write(tmp_path / "model.npz", with_text(marian_arrays(), f"{text}right-left: true\nright-left: false\n"))
    assert refused("inspect", path) == (3, f"{path}: {ENTRY} holds right-left more than once")


def test_tables_of_other_sizes_than_the_options_say(models: dict[str, Path], texts: Texts, tmp_path: Path) -> None:
    arrays = archive.read_archive(models["plain"])
    path = write(tmp_path / "model.npz", with_options(arrays, {"dim-vocabs": [39, 38]}))
    assert all(marian(*command).returncode for command in judging(path, texts))
    code, line = refused("inspect", path)
    assert code == 3 and "encoder_Wemb is 40 x 16, not 39 x 16" in line and "decoder_Wemb is 40 x 16, not 38" in line


@pytest.mark.slow
@pytest.mark.parametrize(("options", "reason"), [
    ({"transformer-ffn-depth": 3}, "3 linear layers in the encoder's feed-forward (transformer-ffn-depth)"),
    ({"transformer-decoder-ffn-depth": 1}, "1 linear layers in the decoder's feed-forward (transformer-decoder-ffn"),
    ({"transformer-postprocess-top": "an"}, "transformer-postprocess-top: an"),
    ({"transformer-preprocess": "nn"}, "transformer-preprocess: nn"),
])  # fmt: skip
def test_what_only_marian_computes(options: dict[str, Any], reason: str, texts: Texts, tmp_path: Path) -> None:
    """Such models are read, and Marian runs them; the native model refuses them."""
    path = train(tmp_path, texts, {"own": options})["own"]
    expected = judge({"own": path}, texts)["own"]
    checkpoint = MarianCheckpoint.load(path)
    settings = EngineSettings(SEARCH, BatchLimits.of(None, 1), torch.device("cpu"), 1)
    losses = open_engine("marian", checkpoint, settings).ablation(corpus_of(checkpoint, texts)).losses([{}])[0]
    assert losses == pytest.approx([-score for score in expected.scores], abs=1e-4)
    data = ("--vocabs", texts.vocabulary, texts.vocabulary, "--source", texts.source, "--post-process", "none")
    code, line = refused("translate", path, *data)
    assert code == 6 and reason in line
