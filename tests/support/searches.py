"""Tiny models whose search is not trivial, the same search by fairseq, and what both must agree on."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nmtprune.architecture import KINDS, NEURON_KINDS, GroupId
from nmtprune.engines import native
from nmtprune.formats import load
from nmtprune.model import Transformer
from nmtprune.model.ablation.shared_prefix import UnitMasks
from nmtprune.model.search import Hypothesis, SearchOptions, Symbols, translate_batch
from tests.support import fairseq_files
from tests.support.fairseq_files import Build
from tests.support.networks import VARIANTS, randomized

SYMBOLS = Symbols(pad=1, eos=2, unk=3)
TRAINED = 40
"""Updates after which translations have many lengths and depend on the source, while every head still matters."""

Texts = list[tuple[int, ...]]


def checkpoint(build: Build, variant: str, *, trained: bool = True) -> Path:
    """A variant of `VARIANTS` after some training, or with random weights, whose translations repeat themselves."""
    if trained:
        return build(updates=TRAINED, dropout=0.0, **VARIANTS[variant])
    return randomized(build(**VARIANTS[variant]))


@cache
def model_of(path: Path) -> Transformer:
    """The native model of a checkpoint, full or slim."""
    return native.load(load(path))


def batch(words: int, lengths: Sequence[int] = (7, 3, 1, 9, 5, 4), seed: int = 1, *, left: bool = True) -> Tensor:
    """Source sentences [B, S] of these lengths, the end-of-sentence symbol included, padded on one side."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for length in lengths:
        text = torch.cat([torch.randint(4, words, (length - 1,), generator=generator), torch.tensor([SYMBOLS.eos])])
        missing = max(lengths) - length
        rows.append(F.pad(text, (missing, 0) if left else (0, missing), value=SYMBOLS.pad))
    return torch.stack(rows)


def lengths(source: Tensor) -> list[int]:
    """Tokens of each sentence of a batch, without padding."""
    found: list[int] = (source != SYMBOLS.pad).sum(1).tolist()
    return found


@cache
def _fairseq(path: Path, data: Path) -> tuple[Any, Any]:
    """fairseq's model of a checkpoint and its task."""
    from fairseq import checkpoint_utils

    with mock.patch.dict("os.environ", TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1"):
        models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], arg_overrides={"data": str(data)})
    return models[0].eval(), task


def fairseq_search(
    path: Path, source: Tensor, options: SearchOptions, data: Path | None = None
) -> list[list[Hypothesis]]:
    """What fairseq's SequenceGenerator finds with a checkpoint's model; its data-bin lies beside it, or in `data`."""
    from fairseq.dataclass.configs import GenerationConfig

    model, task = _fairseq(path, data or path.parent / "data-bin")
    names = ("beam", "lenpen", "max_len_a", "max_len_b", "min_len", "unkpen", "unnormalized")
    generator = task.build_generator([model], GenerationConfig(**{name: getattr(options, name) for name in names}))
    lengths = (source != SYMBOLS.pad).sum(1)
    found = generator.generate([model], {"net_input": {"src_tokens": source, "src_lengths": lengths}})
    return [
        [Hypothesis(tuple(each["tokens"].tolist()), float(each["score"])) for each in hypotheses]
        for hypotheses in found
    ]


def alone(source: Tensor) -> list[Tensor]:
    """The sentences of a batch as batches of one, without padding."""
    return [row[row != SYMBOLS.pad].unsqueeze(0) for row in source]


def assert_same(found: list[list[Hypothesis]], expected: list[list[Hypothesis]]) -> None:
    """All hypotheses of all sentences agree: tokens exactly, scores to 1e-4."""
    assert [[each.tokens for each in own] for own in found] == [[each.tokens for each in own] for own in expected]
    for own, theirs in zip(found, expected, strict=True):
        for one, other in zip(own, theirs, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-4)


def best(model: Transformer, source: Tensor, options: SearchOptions, masks: UnitMasks | None = None) -> Texts:
    """The best translation of each sentence from scratch; empty for none."""
    found = translate_batch(model, source, lengths(source), options, SYMBOLS, masks)
    return [hypotheses[0].tokens if hypotheses else () for hypotheses in found]


def mask(model: Transformer, group: str, *units: int) -> dict[GroupId, Tensor]:
    """Zeros for these heads of a module, or neurons of a feed-forward layer."""
    id = GroupId.parse(group, (*KINDS, *NEURON_KINDS))
    found = torch.ones(model.architecture.group(id).units, dtype=model.dtype)
    found[list(units)] = 0
    return {id: found}


def random_masks(model: Transformer, seed: int, share: float = 0.3) -> dict[GroupId, Tensor]:
    """Some heads of all modules, and neurons of all feed-forward layers, masked, at least one."""
    generator = torch.Generator().manual_seed(seed)
    masks = {each.id: (torch.rand(each.units, generator=generator) > share).to(model.dtype)
             for each in model.architecture.groups}  # fmt: skip
    last = list(masks.values())[-1]
    last[0] = 0
    return masks


def saved(state: dict[str, Any], path: Path) -> Path:
    """Write a changed state of a checkpoint."""
    torch.save(state, path)
    return path


def stored(path: Path) -> dict[str, Any]:
    """Everything in a checkpoint."""
    return fairseq_files.load(path)
