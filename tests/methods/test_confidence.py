"""Confidence is the mean of the maximum attention weight over query tokens: of a plain loop, and in known cases."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from nmtprune.architecture import GroupId, UnitId
from nmtprune.data.batching import BatchLimits
from nmtprune.data.ragged import Sentences
from nmtprune.engines import native
from nmtprune.errors import CheckpointError, DataError
from nmtprune.formats import load
from nmtprune.methods.confidence import confidence
from nmtprune.methods.measuring import batches, on_translations
from nmtprune.model import Transformer
from nmtprune.model.attention import CrossAttention, SelfAttention
from nmtprune.slim import apply
from tests.support import networks
from tests.support.examples import ALONE, MODELS, Example, close
from tests.support.fairseq_files import Build
from tests.support.oracles import measures as slow

EOS = 2
ENDS = (EOS, EOS)
"""Of source and target sentences."""


@pytest.fixture(scope="module", params=MODELS)
def example(request: pytest.FixtureRequest, build: Build) -> Example:
    return Example.of(build, request.param)


@pytest.fixture(scope="module")
def plain(build: Build) -> Example:
    return Example.of(build, "pre-norm, shared tables")


def attending(example: Example, scale: float) -> Transformer:
    """The model with queries that are `scale` times as large: 0 attends to all visible keys alike."""
    model = native.load(example.checkpoint, dtype=torch.float64)
    for attention in model.modules():
        if isinstance(attention, SelfAttention):
            for tensor in (attention.input_weight, attention.input_bias):
                tensor.data[: attention.inner] *= scale
        elif isinstance(attention, CrossAttention):
            for tensor in (attention.query_weight, attention.query_bias):
                tensor.data *= scale
    return model


def uniform(example: Example, kind: str, exclude_eos: bool) -> float:
    """Confidence of heads that attend to all visible keys alike."""
    found = []
    for source, target in example.pairs:
        tokens = source if kind == "encoder" else target
        for query, token in enumerate(tokens):
            if not (exclude_eos and token == EOS):
                found.append(1 / (query + 1 if kind == "decoder" else len(source)))
    return sum(found) / len(found)


@pytest.mark.parametrize("exclude_eos", [False, True])
def test_confidence_is_that_of_plain_loops(example: Example, exclude_eos: bool) -> None:
    found = confidence(example.model, batches(example.corpus), left_out=ENDS if exclude_eos else None)
    network, architecture = example.checkpoint.network(), example.checkpoint.architecture
    assert close(found, slow.confidence(network, architecture, example.tensors, example.pairs, exclude_eos))
    assert tuple(found) == example.heads
    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize("exclude_eos", [False, True])
def test_batches_make_no_difference(example: Example, exclude_eos: bool) -> None:
    expected = confidence(example.model, batches(example.corpus), left_out=ENDS if exclude_eos else None)
    for limits in (ALONE, BatchLimits(max_tokens=50, multiple=1), BatchLimits(max_sentences=5, multiple=1)):
        assert close(
            confidence(example.model, batches(example.corpus, limits), left_out=ENDS if exclude_eos else None), expected
        )


@pytest.mark.parametrize("exclude_eos", [False, True])
def test_heads_that_attend_to_all_keys_alike(example: Example, exclude_eos: bool) -> None:
    found = confidence(attending(example, 0.0), batches(example.corpus), left_out=ENDS if exclude_eos else None)
    assert close(found, {id: uniform(example, id.group.kind, exclude_eos) for id in example.heads})
    assert uniform(example, "cross", exclude_eos) != uniform(example, "cross", not exclude_eos)


def test_heads_that_attend_to_one_key_have_confidence_one(example: Example) -> None:
    found = confidence(attending(example, 1e9), batches(example.corpus))
    assert close(found, dict.fromkeys(example.heads, 1.0))


def test_tokens_count_alike_whatever_the_length_of_their_sentence(plain: Example) -> None:
    by_sentence = [confidence(plain.model, [batch]) for batch in batches(plain.corpus, ALONE)]
    order = [int(positions[0]) for positions in plain.corpus.batches(ALONE)]
    found = confidence(plain.model, batches(plain.corpus))
    for id in plain.heads:
        side = 0 if id.group.kind == "encoder" else 1
        lengths = [len(plain.pairs[place][side]) for place in order]
        pairs = zip(by_sentence, lengths, strict=True)
        weighted = math.fsum(own[id] * length for own, length in pairs) / sum(lengths)
        assert found[id] == pytest.approx(weighted, abs=1e-9)
        assert abs(found[id] - math.fsum(own[id] for own in by_sentence) / len(order)) > 1e-6


def test_translations_take_the_place_of_references(plain: Example) -> None:
    assert plain.corpus.target is not None
    translations = [(5 + place, *sentence.tolist()[1:]) for place, sentence in enumerate(plain.corpus.target)]
    translated = replace(plain.corpus, references=(tuple("" for _ in translations),))
    corpus = on_translations(translated, translations)
    assert [tuple(sentence.tolist()) for sentence in corpus.target or ()] == translations
    assert corpus.references is None
    other = Example(plain.checkpoint)
    other.__dict__["corpus"] = corpus
    network, architecture = plain.checkpoint.network(), plain.checkpoint.architecture
    found = confidence(plain.model, batches(corpus))
    assert close(found, slow.confidence(network, architecture, plain.tensors, other.pairs, False))
    of_references = confidence(plain.model, batches(plain.corpus))
    for id in plain.heads:
        same = abs(found[id] - of_references[id]) < 1e-12
        assert same == (id.group.kind == "encoder")


def test_an_empty_translation_is_its_end(plain: Example) -> None:
    translations: list[tuple[int, ...]] = [(7, EOS)] * (len(plain.corpus) - 1)
    empty, ended = (on_translations(plain.corpus, [*translations, end]) for end in ((), (EOS,)))
    assert confidence(plain.model, batches(empty)) == confidence(plain.model, batches(ended))
    with pytest.raises(ValueError, match="15 translations of 16 sentences"):
        on_translations(plain.corpus, translations)


@pytest.mark.parametrize("mode", ["cut", "uniform"])
def test_masked_heads_are_gone(plain: Example, mode: str) -> None:
    removed = "encoder.0.1 encoder.1.0,3 decoder.0 decoder.1.2 cross.1.0-2"
    plan = plain.plan(removed)
    slim = Example(apply(plan, plain.checkpoint, mode))
    cut = confidence(slim.model, batches(slim.corpus))
    expected = {UnitId(id.group, plan.kept(id.group)[id.number]): value for id, value in cut.items()}
    found = confidence(plain.model, batches(plain.corpus), masks=plain.masks(removed))
    assert close(found, expected)
    full = confidence(plain.model, batches(plain.corpus))
    assert found[UnitId(GroupId("cross", 1), 3)] != full[UnitId(GroupId("cross", 1), 3)]
    nothing = Example(apply(plain.plan("encoder.0 encoder.1 decoder.0 decoder.1 cross.0 cross.1"), plain.checkpoint))
    assert confidence(nothing.model, batches(nothing.corpus)) == {}


def test_joint_attention_sees_the_source_too(build: Build) -> None:
    example = Example(load(networks.randomized(build(**networks.VARIANTS["joint and cross-attention"]))))
    found = confidence(attending(example, 0.0), batches(example.corpus))
    weights = [1 / (len(source) + query + 1) for source, target in example.pairs for query in range(len(target))]
    expected = sum(weights) / len(weights)
    assert all(found[id] == pytest.approx(expected, abs=1e-9) for id in found if id.group.kind == "decoder")


def test_what_makes_no_sense_is_refused(plain: Example) -> None:
    without = (replace(batch, target=None, previous=None) for batch in batches(plain.corpus))
    empty = on_translations(
        replace(plain.corpus, source=Sentences.of([torch.tensor([EOS]).numpy()] * 16)), [()] * len(plain.corpus)
    )
    broken = native.load(plain.checkpoint, dtype=torch.float64)
    broken.decoder.embedding.tokens.get_parameter("weight").data.fill_(math.nan)
    calls: list[tuple[type[Exception], Callable[[], object], str]] = [
        (DataError, lambda: confidence(plain.model, []), "confidence: there are no tokens to measure it on"),
        (DataError, lambda: confidence(plain.model, batches(empty), left_out=ENDS), "there are no tokens"),
        (ValueError, lambda: confidence(plain.model, without), "a batch without references as token ids"),
        (ValueError, lambda: confidence(plain.model, [], masks={GroupId("cross", 0): torch.ones(1)}), "cross.0 is"),
        (CheckpointError, lambda: confidence(broken, batches(plain.corpus)), "attention weights of .*decoder.0.0, "
         ".* are no numbers: check the model's weights"),
    ]  # fmt: skip
    for error, call, message in calls:
        with pytest.raises(error, match=message):
            call()
    assert confidence(plain.model, batches(empty))[UnitId(GroupId("encoder", 0), 0)] == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("exclude_eos", [False, True])
def test_on_a_gpu(plain: Example, exclude_eos: bool) -> None:
    there = native.load(plain.checkpoint, "cuda", torch.float64)
    masks = plain.masks("encoder.1.0,3 cross.0")
    found = confidence(there, batches(plain.corpus), left_out=ENDS if exclude_eos else None, masks=masks)
    assert close(
        found, confidence(plain.model, batches(plain.corpus), left_out=ENDS if exclude_eos else None, masks=masks)
    )
