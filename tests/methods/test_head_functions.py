"""Functions of heads are those of plain loops; a head that was built to look at a neighbour is found."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nmtprune.architecture import GroupId, UnitId
from nmtprune.data.batching import BatchLimits
from nmtprune.data.words import NO_WORD, Words
from nmtprune.engines import native
from nmtprune.formats import load
from nmtprune.methods.head_functions import (
    OFFSETS,
    Annotated,
    Finding,
    HeadFindings,
    Links,
    functions_of,
    head_functions,
)
from nmtprune.methods.measuring import batches
from tests.support import fairseq_files
from tests.support.examples import LEARNED, MODELS, Example
from tests.support.fairseq_files import Build
from tests.support.oracles import functions as slow
from tests.support.oracles.transformer import Heads, scores

EOS = 2


@pytest.fixture(scope="module", params=["pre-norm, shared tables", "ragged, other depths"])
def example(request: pytest.FixtureRequest, build: Build) -> Example:
    assert request.param in MODELS
    return Example.of(build, request.param)


def observed(example: Example) -> list[dict[GroupId, Any]]:
    """Attention weights [H][T][S] of each sentence."""
    found = []
    network, architecture = example.checkpoint.network(), example.checkpoint.architecture
    for source, target in example.pairs:
        heads = Heads()
        previous = torch.tensor([EOS, *target[:-1]])
        scores(network, architecture, example.tensors, torch.tensor(source), previous, heads)
        found.append({id: weights[0].tolist() for id, weights in heads.observed.items()})
    return found


def annotated(example: Example, links: dict[str, dict[int, Links]] | None = None) -> Annotated:
    sides = ([np.array([token != EOS for token in own]) for own in side] for side in zip(*example.pairs, strict=True))
    counts = (example.corpus.source_vocabulary, example.corpus.target_vocabulary)
    return Annotated(*sides, tuple(np.array(own.counts) for own in counts), links or {})  # type: ignore[attr-defined]


def views(example: Example, head: UnitId, weights: list[dict[GroupId, Any]]) -> list[Any]:
    """What the oracles take of each sentence."""
    found = []
    for (source, target), own in zip(example.pairs, weights, strict=True):
        kind = head.group.kind
        keys = list(range(1, len(target))) if kind == "decoder" else list(range(len(source) - 1))
        queries = list(range(len(target) - 1)) if kind == "cross" else keys
        found.append((own[head.group][head.number], queries, keys, kind == "decoder"))
    return found


def agrees(found: Finding, hits: int, cases: int, chance: float) -> bool:
    expected = (hits / cases, chance / cases)
    return found.cases == cases and (found.accuracy, found.chance) == pytest.approx(expected, abs=1e-12)


def test_positions_and_rare_words_are_those_of_plain_loops(example: Example) -> None:
    weights = observed(example)
    known = annotated(example)
    found = head_functions(example.model, batches(example.corpus), known)
    assert tuple(found) == example.heads
    small = head_functions(example.model, batches(example.corpus, BatchLimits(max_sentences=3, multiple=1)), known)
    for head, own in found.items():
        sentences = views(example, head, weights)
        assert own.positional is not None and own.rare is not None
        expected = {offset: slow.positional(sentences, offset) for offset in OFFSETS[head.group.kind]}
        assert agrees(own.positional, *expected[own.positional.offset or 0])
        assert own.positional.accuracy == max(hits / cases for hits, cases, _ in expected.values())
        side = 1 if head.group.kind == "decoder" else 0
        counts = [[int(known.rarity[side][token]) for token in pair[side][:-1]] for pair in example.pairs]
        assert agrees(own.rare, *slow.rare(sentences, counts))
        for name in ("positional", "rare"):
            both = getattr(own, name), getattr(small[head], name)
            assert both[0].accuracy == both[1].accuracy and both[0].p == pytest.approx(both[1].p)


def words_of(rng: random.Random, tokens: int) -> Words:
    """Words of one to three tokens, one of them without tokens, the end of the sentence outside."""
    own: list[int] = []
    while len(own) < tokens - 1:
        own += [len(set(own)) + (len(own) > 2)] * rng.randint(1, 3)
    return Words(np.array([*own[: tokens - 1], NO_WORD]), max(own) + 1)


def columns(words: Words) -> list[list[int]]:
    return [np.flatnonzero(words.of_token == word).tolist() for word in range(words.count)]


def test_links_between_words_are_those_of_plain_loops(example: Example) -> None:
    rng = random.Random(1)
    links: dict[str, dict[int, Links]] = {"encoder": {}, "cross": {}}
    for place, (source, target) in enumerate(example.pairs):
        keys, sending = words_of(rng, len(source)), words_of(rng, len(target))
        for kind, queries in (("encoder", keys), ("cross", sending)):
            pairs = [(rng.choice("ab"), rng.randrange(queries.count), rng.randrange(keys.count)) for _ in range(6)]
            links[kind][place] = Links.of(queries, keys, pairs)
    weights = observed(example)
    found = head_functions(example.model, batches(example.corpus), annotated(example, links))
    for head, own in found.items():
        kind = head.group.kind
        assert set(own.links) == (set("ab") if kind in links else set())
        for relation, finding in own.links.items():
            sentences = [
                (weights[place][head.group][head.number], columns(each.queries), columns(each.keys),
                 each.relations.get(relation, {}))
                for place, each in links[kind].items()
            ]  # fmt: skip
            hits, cases, chance, offset, baseline = slow.links(sentences)
            assert agrees(finding, hits, cases, chance)
            assert (finding.offset, finding.baseline) == (offset, pytest.approx(baseline / cases))


def test_a_planted_positional_head_is_found_and_no_other(build: Build, tmp_path: Path) -> None:
    """Positions are points on two circles, which the queries of one head turn back by one."""
    path = build(**LEARNED)
    state = fairseq_files.load(path)
    model = state["model"]
    model["encoder.embed_tokens.weight"][:, :4] = 0
    places = torch.arange(len(model["encoder.embed_positions.weight"]))
    circles = torch.zeros(4, 4)
    for circle, speed in enumerate((1.0, 0.37)):
        angle = torch.tensor(speed)
        model["encoder.embed_positions.weight"][:, 2 * circle] = torch.cos(speed * places)
        model["encoder.embed_positions.weight"][:, 2 * circle + 1] = torch.sin(speed * places)
        turned = torch.tensor([[angle.cos(), angle.sin()], [-angle.sin(), angle.cos()]])
        circles[2 * circle : 2 * circle + 2, 2 * circle : 2 * circle + 2] = turned
    planted = UnitId.parse("encoder.0.2")
    rows = slice(4 * planted.number, 4 * planted.number + 4)
    for name, matrix in (("q", 1e3 * circles), ("k", torch.eye(4))):
        weight = model[f"encoder.layers.0.self_attn.{name}_proj.weight"]
        weight[rows], model[f"encoder.layers.0.self_attn.{name}_proj.bias"][rows] = 0, 0
        weight[rows, :4] = matrix
    torch.save(state, tmp_path / "planted.pt")
    checkpoint = load(tmp_path / "planted.pt")
    example = Example.of(build, "pre-norm, shared tables")
    found = head_functions(native.load(checkpoint), batches(example.corpus), annotated(example))
    own = found[planted].positional
    assert own is not None and (own.offset, own.accuracy) == (-1, 1.0) and own.p < 1e-3
    positional = [head for head, each in found.items() if "positional" in functions_of(head.group.kind, each, 1.0)]
    assert positional == [planted]


@pytest.mark.parametrize(
    ("kind", "positional", "rare", "p_rare", "link", "functions"),
    [
        ("encoder", 0.9, 0.2, 0.0, None, ("positional",)),
        ("encoder", 0.89, 0.3, 0.001, 0.6, ("rare", "syntactic")),
        ("encoder", 0.89, 0.3, 0.02, 0.59, ()),
        ("cross", 0.95, 0.1, 1.0, 0.6, ("positional", "alignment")),
    ],
)
def test_criteria(
    kind: str, positional: float, rare: float, p_rare: float, link: float | None, functions: tuple[str, ...]
) -> None:
    """90 % at one offset; three times chance and significant; ten points above the best distance."""
    found = HeadFindings(
        positional=Finding(positional, 0.1, 100, 0.0, offset=1),
        rare=Finding(rare, 0.1, 100, 0.0),
        links={} if link is None else {"some": Finding(link, 0.1, 100, 0.0, offset=2, baseline=0.5)},
        outside=0.0,
    )
    assert functions_of(kind, found, p_rare) == functions
