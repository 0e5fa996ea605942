"""Random weights of a named shape, full and cut, and random sentences: questions of speed without a trained model."""

import json
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nmtprune import slim
from nmtprune.architecture import NEURON_KINDS, UnitId
from nmtprune.budget import Amount, Limits, Units
from nmtprune.data.options import DataOptions
from nmtprune.errors import NmtpruneError, UsageError
from nmtprune.methods import layer_choice, plans, widths
from nmtprune.methods.chance import random_scores
from nmtprune.plan import Base, Plan
from nmtprune.runs.bench.random_sentences import FIRST_WORD, LANGUAGES, write_binarized

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """A transformer as fairseq builds it: post-norm, all embeddings shared.

    Attributes:
        d: width.
        ffn: inner width of feed-forward layers.
        heads: per module.
        head_dim: width of a head; 0: d / heads.
        encoder_layers: of them.
        decoder_layers: of them.
        vocab: words.
    """

    d: int = 512
    ffn: int = 2048
    heads: int = 8
    head_dim: int = 0
    encoder_layers: int = 6
    decoder_layers: int = 6
    vocab: int = 32000

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """Read ``NAME [FIELD=NUMBER ...]``, as ``transformer_big heads=8 head_dim=64``.

        Raises:
            UsageError: no such name or field, or sizes that make no transformer; all reasons.
        """
        name, *changes = text.split() or [""]
        if name not in SHAPES:
            raise UsageError(f"--synthetic '{text}': begin with {', '.join(SHAPES)}")
        known = {field.name for field in fields(cls)}
        faults, given = [], {}
        for change in changes:
            field, _, value = change.partition("=")
            if field not in known or not value.isdigit() or not int(value):
                faults.append(f"'{change}' is none of {', '.join(f'{own}=N' for own in sorted(known))}")
            else:
                given[field] = int(value)
        shape = replace(SHAPES[name], **given)
        if not faults and not shape.head_dim and shape.d % shape.heads:
            faults.append(f"{shape.heads} heads do not divide d={shape.d}: give head_dim=N")
        if not faults and shape.vocab < FIRST_WORD + 2:
            faults.append(f"vocab={shape.vocab} leaves no words beside special ones")
        if faults:
            raise UsageError.of_faults(f"--synthetic '{text}'", faults)
        return replace(shape, head_dim=shape.head_dim or shape.d // shape.heads)


SHAPES = {
    "transformer_base": Shape(),
    "transformer_big": Shape(d=1024, ffn=4096, heads=16),
    "student": Shape(d=256, ffn=1536, decoder_layers=2),
}
"""Vaswani et al. 2017, table 3; the small students of Behnke & Heafield 2020, with self-attention for their SSRU."""


@dataclass(frozen=True)
class Synthetic:
    """What is made up.

    Attributes:
        shape: of the full model.
        keep: pattern of heads that stay, as `plan --keep` takes it; or None.
        random: amount of heads that go, as `plan --random` takes it; or None.
        keep_neurons: neurons that stay, as `plan --keep-neurons` takes it; or None.
        remove_neurons: amount of neurons that go, as `plan --remove-neurons` takes it; or None.
        keep_layers: number of layers that stay, as `plan --keep-layers` takes it; or None.
        source_length: words of every source sentence.
        target_length: words of every translation.
        sentences: number of sentences.
        seed: of weights, words and plan.
    """

    shape: Shape
    keep: str | None
    random: str | None
    source_length: int
    target_length: int
    sentences: int
    seed: int
    keep_neurons: str | None = None
    remove_neurons: str | None = None
    keep_layers: str | None = None

    def write(self, folder: Path) -> tuple[Path, Path, DataOptions]:
        """Write the full and the cut model and the sentences into a folder.

        Raises:
            UsageError, BudgetError: no plan, two of the same units, or one that cannot be made.
        """
        from nmtprune.formats import load

        self._check()
        full, cut = folder / "full.pt", folder / "cut.pt"
        write_checkpoint(self.shape, full, self.seed)
        base = load(full)
        slim.apply(self._plan(base.base), base).save(cut)
        words = self.shape.vocab, self.shape.vocab
        return full, cut, write_binarized(folder / "data", words, self.sentences, self.source_length, self.seed)

    def _check(self) -> None:
        options = {
            name: getattr(self, name) is not None
            for name in ("keep", "random", "keep_neurons", "remove_neurons", "keep_layers")
        }
        if not any(options.values()):
            listed = ", ".join(f"--{name.replace('_', '-')}" for name in options)
            raise UsageError(f"--synthetic goes with what the cut model loses: give one of {listed}")
        faults = []
        if options["keep"] and options["random"]:
            faults.append("--synthetic goes with exactly one of --keep and --random")
        if options["keep_neurons"] and options["remove_neurons"]:
            faults.append("--synthetic goes with one of --keep-neurons and --remove-neurons")
        if faults:
            raise UsageError("; ".join(faults), faults)

    def _plan(self, base: Base) -> Plan:
        """What the cut model keeps: of the layers that stay, heads and neurons."""
        layers, errors = layer_choice.keep_layers(base, self.keep_layers) if self.keep_layers is not None else ([], [])
        left = base.with_layers(Plan.removing(base, layers).kept_layers())
        neurons, wrong = self._neurons(left.feed_forwards)
        if errors or wrong:
            faults = [fault for error in (*errors, *wrong) for fault in error.faults]
            raise type([*errors, *wrong][0])("; ".join(faults), faults)
        return Plan.removing(base, [*layers, *self._heads(left), *neurons])

    def _heads(self, base: Base) -> tuple[UnitId, ...]:
        if self.keep is not None:
            return plans.keep_heads(base, self.keep, self.seed, Limits()).removed()
        if self.random is not None:
            scores = random_scores(base.modules, self.seed)
            return plans.remove_lowest(base, scores, Amount.parse(self.random), Limits(), "model").removed()
        return ()

    def _neurons(self, units: Units) -> tuple[list[UnitId], list[NmtpruneError]]:
        scores, limits = random_scores(units, self.seed), Limits(NEURON_KINDS)
        if self.keep_neurons is not None:
            return widths.keep_neurons(units, self.keep_neurons, scores, limits)
        if self.remove_neurons is not None:
            return widths.remove_neurons(units, self.remove_neurons, scores, limits)
        return [], []


def write_checkpoint(shape: Shape, path: Path, seed: int) -> None:
    """A checkpoint of fairseq's with random weights."""
    import torch

    heads = {
        "encoder": [shape.heads] * shape.encoder_layers,
        "decoder": [shape.heads] * shape.decoder_layers,
        "cross": [shape.heads] * shape.decoder_layers,
    }
    settings: dict[str, object] = {"arch": "transformer", "task": "translation", "share_all_embeddings": True}
    settings |= {"source_lang": LANGUAGES.source, "target_lang": LANGUAGES.target}
    for stack, layers in (("encoder", shape.encoder_layers), ("decoder", shape.decoder_layers)):
        settings |= {
            f"{stack}_embed_dim": shape.d,
            f"{stack}_ffn_embed_dim": shape.ffn,
            f"{stack}_attention_heads": shape.heads,
            f"{stack}_layers": layers,
        }
    if shape.heads * shape.head_dim != shape.d:
        settings |= {"arch": "nmtprune", "nmtprune_base_arch": "transformer", "nmtprune_heads": json.dumps(heads)}
        settings |= {"encoder_head_dim": shape.head_dim, "decoder_head_dim": shape.head_dim}
    generator = torch.Generator().manual_seed(seed)
    history = [{"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}]
    state = {"args": Namespace(**settings), "model": dict(_tensors(shape, generator)), "optimizer_history": history}
    torch.save({**state, "extra_state": {"train_iterator": {"epoch": 1}}}, path)


def _tensors(shape: Shape, generator: "torch.Generator") -> "Iterator[tuple[str, Tensor]]":
    import torch

    def drawn(rows: int, columns: int) -> "Tensor":
        return torch.randn(rows, columns, generator=generator).mul_(columns**-0.5)

    def linear(name: str, rows: int, columns: int) -> "Iterator[tuple[str, Tensor]]":
        yield f"{name}.weight", drawn(rows, columns)
        yield f"{name}.bias", torch.zeros(rows)

    def norm(name: str) -> "Iterator[tuple[str, Tensor]]":
        yield f"{name}.weight", torch.ones(shape.d)
        yield f"{name}.bias", torch.zeros(shape.d)

    table = drawn(shape.vocab, shape.d)
    inner = shape.heads * shape.head_dim
    yield "decoder.output_projection.weight", table
    for stack, layers in (("encoder", shape.encoder_layers), ("decoder", shape.decoder_layers)):
        yield f"{stack}.embed_tokens.weight", table
        modules = ("self_attn",) if stack == "encoder" else ("self_attn", "encoder_attn")
        for own in (f"{stack}.layers.{layer}" for layer in range(layers)):
            for module in modules:
                for part in ("k_proj", "v_proj", "q_proj"):
                    yield from linear(f"{own}.{module}.{part}", inner, shape.d)
                yield from linear(f"{own}.{module}.out_proj", shape.d, inner)
                yield from norm(f"{own}.{module}_layer_norm")
            yield from linear(f"{own}.fc1", shape.ffn, shape.d)
            yield from linear(f"{own}.fc2", shape.d, shape.ffn)
            yield from norm(f"{own}.final_layer_norm")
