"""Scores of references: the native model against Marian itself, full, masked and cut; commands that need no search."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nmtprune import slim
from nmtprune.data.batching import BatchLimits
from nmtprune.data.corpus import load_corpus
from nmtprune.data.marian_vocabulary import MarianVocabulary
from nmtprune.data.options import DataOptions
from nmtprune.engines import EngineSettings, native, open_engine
from nmtprune.formats.marian import MarianCheckpoint
from nmtprune.model.search import MarianSearchOptions
from nmtprune.plan import Plan
from nmtprune.profile import ModelProfile
from nmtprune.scores import Scores
from tests.support.cli import nmtprune, refused
from tests.support.marian_files import VARIANTS, marian_arrays, marian_model, random_plan, write
from tests.support.marian_program import marian_scores, random_texts, vocabulary_file
from tests.support.thinned import thinned


@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_are_those_of_marian(tmp_path: Path, variant: str) -> None:
    """Sentence log-probabilities: the native model, and Marian itself on the full and on the masked model."""
    base = MarianCheckpoint.load(marian_model(tmp_path / "model.npz", **VARIANTS[variant]))
    plan = random_plan(base, 4, 0.5)
    slim.apply(plan, base, "masked").save(tmp_path / "masked.npz")
    rng = np.random.default_rng(3)
    sides = [[rng.integers(2, 40, rng.integers(2, 9)).tolist() for _ in range(12)] for _ in range(2)]
    texts = [tmp_path / "source", tmp_path / "target"]
    for text, side in zip(texts, sides, strict=True):
        text.write_text("".join(" ".join(f"w{word}" for word in sentence) + "\n" for sentence in side))
    vocabulary = vocabulary_file(tmp_path)
    cut = slim.apply(plan, base)
    for name, checkpoint in (("model", base), ("masked", cut)):
        model = native.load(checkpoint)
        start = model.words[1]
        theirs = marian_scores(tmp_path / f"{name}.npz", vocabulary, *texts)
        for source, target, expected in zip(*sides, theirs, strict=True):
            words = torch.tensor([*target, 0])
            with torch.inference_mode():
                scores = model(torch.tensor([[*source, 0]]), torch.tensor([[start, *target]])).log_softmax(-1)[0]
            assert float(scores[torch.arange(len(words)), words].sum()) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("activation", ["relu", "swish", "gelu"])
def test_activations_are_those_of_marian(tmp_path: Path, activation: str) -> None:
    """Inner states are large, so that what only approximates an activation shows."""
    arrays = marian_arrays(transformer_ffn_activation=activation)
    for name in [name for name in arrays if name.endswith("ffn_W1")]:
        arrays[name] *= 10
    path, vocabulary, texts = write(tmp_path / "model.npz", arrays), vocabulary_file(tmp_path), random_texts(tmp_path)
    options = DataOptions(source=texts[0], reference=(texts[1],), vocabs=(vocabulary, vocabulary), post_process="none")
    checkpoint = MarianCheckpoint.load(path)
    corpus = load_corpus(options, checkpoint.profile(), targets=True)
    settings = EngineSettings(MarianSearchOptions(), BatchLimits.of(None, 4), torch.device("cpu"), 1)
    losses = open_engine("native", checkpoint, settings).ablation(corpus).losses([{}])[0]
    assert losses == pytest.approx([-score for score in marian_scores(path, vocabulary, *texts)], abs=1e-3)


@pytest.mark.parametrize("variant", thinned(VARIANTS))
def test_losses_of_ablated_heads_are_those_of_marian(tmp_path: Path, variant: str) -> None:
    """`score --metric loss` for every head, against Marian on the masked file of some of them."""
    path = marian_model(tmp_path / "model.npz", **VARIANTS[variant])
    base, texts, vocabulary = MarianCheckpoint.load(path), random_texts(tmp_path), vocabulary_file(tmp_path)
    data = ("--vocabs", vocabulary, vocabulary, "--source", texts[0], "--reference", texts[1], "--post-process", "none")
    options = ("--metric", "loss", "--resamples", 2000, "--correction", "none", "--threads", 1, "--device", "cpu")
    result = nmtprune("score", path, *data, *options, "-o", tmp_path / "scores.json", "-q")
    assert result.code == 0, result.stderr
    scores = Scores.read(tmp_path / "scores.json")
    tokens = sum(len(line.split()) + 1 for line in texts[1].read_text().splitlines())
    full = -sum(marian_scores(path, vocabulary, *texts)) / tokens
    assert scores.baseline["value"] == pytest.approx(full, abs=1e-4)
    heads = base.architecture.head_ids()
    for head in (heads[0], heads[len(heads) // 2], heads[-1]):
        slim.apply(Plan.removing(base.base, [head]), base, "masked").save(tmp_path / "one.npz", force=True)
        without = -sum(marian_scores(tmp_path / "one.npz", vocabulary, *texts)) / tokens
        (entry,) = (entry for entry in scores.heads if entry.id == head)
        assert entry.delta == pytest.approx(without - full, abs=2e-4)


@pytest.mark.parametrize("metric", ["confidence", "importance"])
def test_heads_are_scored_without_masking(tmp_path: Path, metric: str) -> None:
    path, vocabulary, texts = marian_model(tmp_path / "model.npz"), vocabulary_file(tmp_path), random_texts(tmp_path)
    data = ("--vocabs", vocabulary, vocabulary, "--source", texts[0], "--reference", texts[1], "--post-process", "none")
    result = nmtprune(
        "score", path, *data, "--metric", metric, "--format", "json", "-q", "-o", tmp_path / "scores.json"
    )
    assert result.code == 0, result.stderr
    found = json.loads(result.stdout)
    most = 1 if metric == "confidence" else float("inf")
    assert len(found["heads"]) == 24 and all(0 <= entry["score"] <= most for entry in found["heads"])
    plan = nmtprune("plan", path, "--scores", tmp_path / "scores.json", "--lowest", 6, "-o", tmp_path / "plan.json")
    assert plan.code == 0 and len(Plan.read(tmp_path / "plan.json").removed()) == 6


def test_refusals(tmp_path: Path, tiny: Path) -> None:
    path, vocabulary, texts = marian_model(tmp_path / "model.npz"), vocabulary_file(tmp_path), random_texts(tmp_path)
    data = ("--source", texts[0], "--reference", texts[1], "--post-process", "none")
    vocabs, output = ("--vocabs", vocabulary, vocabulary), ("-o", tmp_path / "scores.json")
    data_bin = ("--data-bin", tiny.parent / "data-bin")
    code, line = refused("score", path, *data_bin, *output)
    assert (code, line) == (
        2,
        "data: a Marian model: name its vocabularies with --vocabs A B, and text with --source FILE",
    )
    assert refused("score", tiny, *vocabs, *data, *output) == (
        2, "data: --vocabs are Marian's: this model has fairseq's dictionaries in --data-bin DIR"
    )  # fmt: skip
    assert refused("score", path, *vocabs, *output)[1].endswith("--vocabs goes with raw text: name --source FILE")
    assert refused("score", path, *vocabs, *data_bin, *data, *output)[0] == 2
    importance = ("--importance-subset", "train", "--order", "importance", "-o", tmp_path / "run")
    assert refused("greedy", path, *vocabs, *data, *importance) == (
        2, "importance: --importance-subset names binarized data and needs --data-bin DIR"
    )  # fmt: skip
    other = vocabulary_file(tmp_path / "other")
    for content, message in (
        ("a: [1", "no vocabulary of Marian's: no YAML"),
        ("a: 0\n<unk>: 1\n</s>: 50\n", "</s> has id 50, but the model has 40 rows: the vocabulary of another model"),
        ("a: 0\nb: 1\n", "it has no </s> and no <unk>"),
    ):
        other.write_text(content)
        code, line = refused("score", path, "--vocabs", other, other, *data, *output)
        assert code == 5 and message in line
    assert refused("score", path, "--vocabs", tmp_path / "none.spm", other, *data, *output)[0] == 5


def test_words_that_yaml_takes_for_something_else(tmp_path: Path) -> None:
    path = tmp_path / "vocab.yml"
    path.write_text("</s>: 0\n<unk>: 1\nno: 2\n1_000: 3\n0x10: 4\n'~': 5\n1.0: 6\n")
    vocabulary = MarianVocabulary.read(path)
    assert vocabulary.symbols == ("</s>", "<unk>", "no", "1_000", "0x10", "~", "1.0")
    assert vocabulary.encode("no 0x10 other").tolist() == [2, 4, 1, 0] and vocabulary.start == 7
    assert vocabulary.string([2, 1, 0]) == "no <unk>"


def test_each_side_has_its_own_sentencepiece_model(tmp_path: Path) -> None:
    import sentencepiece

    texts = {"source": "aa ab aab\n" * 40, "target": "ba bb bba ab\n" * 40}
    paths = []
    for side, text in texts.items():
        (tmp_path / side).write_text(text)
        sentencepiece.SentencePieceTrainer.train(
            input=str(tmp_path / side), model_prefix=str(tmp_path / f"{side}-model"), vocab_size=9, model_type="char",
            bos_id=-1, minloglevel=3, hard_vocab_limit=False,
        )  # fmt: skip
        paths.append((tmp_path / f"{side}-model.model").rename(tmp_path / f"{side}.spm"))
    options = DataOptions(source=tmp_path / "source", reference=(tmp_path / "target",), vocabs=(paths[0], paths[1]))
    corpus = load_corpus(options, ModelProfile(vocabulary_files=True), targets=True)
    for path, sentences, text in zip(paths, (corpus.source, corpus.target), texts.values(), strict=True):
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
        assert sentences is not None
        assert sentences[0].tolist() == [*pieces.encode(text.splitlines()[0]), pieces.eos_id()]
    assert corpus.target is not None and corpus.decode(corpus.target[0]) == texts["target"].splitlines()[0]


def test_the_real_model_by_sentencepiece(test_models: Path, tmp_path: Path) -> None:
    """Losses of 10 sentences with the model's own vocabulary are those of Marian."""
    folder, texts = test_models / "m30k-ende-marian", (tmp_path / "en", tmp_path / "de")
    texts[0].write_text("A man in an orange hat.\nTwo dogs run.\n" * 5)
    texts[1].write_text("Ein Mann mit einem orangefarbenen Hut.\nZwei Hunde rennen.\n" * 5)
    vocabulary = folder / "vocab.spm"
    data = ("--vocabs", vocabulary, vocabulary, "--source", texts[0], "--reference", texts[1])
    options = ("--metric", "loss", "--kinds", "decoder", "--resamples", 2000, "--correction", "none", "--threads", 1)
    result = nmtprune(
        "score", folder / "model.npz", *data, *options, "-o", tmp_path / "s.json", "-q", "--format", "json"
    )
    assert result.code == 0, result.stderr
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(vocabulary))
    tokens = sum(len(pieces.encode(line)) + 1 for line in texts[1].read_text().splitlines())
    expected = -sum(marian_scores(folder / "model.npz", vocabulary, *texts)) / tokens
    assert json.loads(result.stdout)["baseline"]["value"] == pytest.approx(expected, abs=1e-4)
