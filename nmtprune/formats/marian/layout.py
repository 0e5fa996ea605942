"""Which parameters a Marian transformer has: names, shapes and parts, and where heads and neurons lie in them."""

from collections.abc import Iterator
from dataclasses import dataclass

from nmtprune.architecture import STACKS, Architecture, AttentionModule, GroupId, Neurons
from nmtprune.formats.base import UnitAxis
from nmtprune.formats.marian.options import Options, head_counts

SPECIAL = "special:"
"""Entries that are no parameters; Marian leaves out what begins so."""

TABLES = ("Wemb", "encoder_Wemb", "decoder_Wemb")
OUTPUT = ("decoder_ff_logit_out_Wt", "decoder_ff_logit_out_W")
OUTPUT_BIAS = "decoder_ff_logit_out_b"

_PREFIXES = {"encoder": "encoder_l{}_self", "decoder": "decoder_l{}_self", "cross": "decoder_l{}_context"}
_PROJECTIONS = ("q", "k", "v")

_FEED_FORWARD_DEPTH = 2
"""Matrices of a feed-forward layer whose neurons can be cut."""

Shape = tuple[int | None, ...]
"""Sizes of an array; None for any."""


@dataclass(frozen=True)
class Parameter:
    """What is known of a parameter.

    Attributes:
        shape: its sizes.
        part: of the model, as `Checkpoint.part_of` names it.
    """

    shape: Shape
    part: str


def prefix(id: GroupId) -> str:
    """How the names of an attention module's parameters begin."""
    return _PREFIXES[id.kind].format(id.layer + 1)


def module_ids(options: Options) -> Iterator[tuple[GroupId, int]]:
    """Attention modules that have parameters, tied ones once under their first layer, with that layer's number from 1.

    A tied module stands under the layer whose number its parameters have in their names.
    """
    kinds = ("encoder", "decoder", "cross") if options.autoregression == "self-attention" else ("encoder", "cross")
    for kind in kinds:
        for layer in options.stored_layers("encoder" if kind == "encoder" else "decoder"):
            yield GroupId(kind, layer - 1), layer


def architecture(options: Options) -> tuple[Architecture, list[str]]:
    """What the model stores of each group, padding units counted as units, and what is wrong with head counts."""
    faults, counts = [], {}
    for kind in ("encoder", "decoder", "cross"):
        try:
            counts[kind] = head_counts(options, kind)
        except ValueError as error:
            faults.append(str(error))
    modules = [
        AttentionModule(id, (counts.get(id.kind) or {}).get(layer, options.heads), options.head_dim)
        for id, layer in module_ids(options)
    ]
    return Architecture(tuple(modules), tuple(_feed_forwards(options))), faults


def _feed_forwards(options: Options) -> Iterator[Neurons]:
    """Feed-forward layers of one hidden layer, tied ones once."""
    for stack in STACKS:
        inner, depth = options.feed_forward(stack)
        for layer in options.stored_layers(stack) if depth == _FEED_FORWARD_DEPTH else ():
            yield Neurons(GroupId(f"{stack}-ffn", layer - 1), inner)


def unit_axes(options: Options, architecture: Architecture) -> dict[GroupId, tuple[UnitAxis, ...]]:
    """Every axis in which units lie.

    Heads: columns of W_q, W_k, W_v and their biases, rows of W_o; without W_o the output of a head is that of its
    values. Neurons: columns of W1 and b1, rows of W2.
    """
    found = {}
    for module in architecture:
        own, joined = prefix(module.id), options.projection
        axes = [
            UnitAxis(f"{own}_{kind}{name}", 1, module.head_dim, output=not joined and name == "v")
            for name in _PROJECTIONS
            for kind in ("W", "b")
        ]
        found[module.id] = (*axes, *([UnitAxis(f"{own}_Wo", 0, module.head_dim, output=True)] if joined else []))
    for group in architecture.feed_forwards:
        own = f"{group.id.stack}_l{group.id.layer + 1}_ffn"
        axes = [UnitAxis(f"{own}_W1", 1, 1), UnitAxis(f"{own}_b1", 1, 1), UnitAxis(f"{own}_W2", 0, 1, output=True)]
        found[group.id] = tuple(axes)
    return found


def parameters(options: Options, architecture: Architecture, names: set[str]) -> dict[str, Parameter]:
    """Every parameter that the model must have.

    Args:
        options: of the model.
        architecture: its attention modules.
        names: those that are there, which decide how an output layer of its own is stored.
    """
    width, words = options.width, options.rows[1]
    found = {table: Parameter((rows, width), "embeddings") for table, rows in _tables(options).items()}
    if not options.flag("tied-embeddings") and not options.flag("tied-embeddings-all"):
        transposed = OUTPUT[0] in names or OUTPUT[1] not in names
        found[OUTPUT[not transposed]] = Parameter((words, width) if transposed else (width, words), "output")
    if not options.flag("output-omit-bias"):
        found[OUTPUT_BIAS] = Parameter((1, words), "output")
    for stack in ("encoder", "decoder"):
        found |= _norm(options, f"{stack}_emb", "transformer-postprocess-emb", "_pre")
        found |= _norm(options, f"{stack}_top", "transformer-postprocess-top", "")
        for layer in options.stored_layers(stack):
            found |= _feed_forward(options, stack, layer)
            if stack == "decoder" and options.autoregression == "ssru":
                found |= _recurrence(options, layer)
    for module in architecture:
        found |= _attention(options, module)
    return found


def _tables(options: Options) -> dict[str, int | None]:
    """Tables of embeddings with their rows, as far as the options tell."""
    source, target = options.rows
    if options.flag("tied-embeddings-all") or options.flag("tied-embeddings-src"):
        return {TABLES[0]: source or target}
    return dict(zip(TABLES[1:], (source, target), strict=True))


def _attention(options: Options, module: AttentionModule) -> dict[str, Parameter]:
    own, part = prefix(module.id), f"attention.{module.id.kind}"
    inner = module.stored_heads * module.head_dim
    found = {}
    for name in _PROJECTIONS:
        found[f"{own}_W{name}"] = Parameter((options.width, inner), part)
        found[f"{own}_b{name}"] = Parameter((1, inner), part)
    if options.projection:
        found[f"{own}_Wo"] = Parameter((inner, options.width), part)
        found[f"{own}_bo"] = Parameter((1, options.width), part)
    return found | _sublayer_norms(options, f"{own}_Wo")


def _feed_forward(options: Options, stack: str, layer: int) -> dict[str, Parameter]:
    own, (inner, depth), width = f"{stack}_l{layer}_ffn", options.feed_forward(stack), options.width
    sizes = [width, *[inner] * (depth - 1), width]
    found = {}
    for number, (inputs, outputs) in enumerate(zip(sizes, sizes[1:], strict=False), start=1):
        found[f"{own}_W{number}"] = Parameter((inputs, outputs), "feed-forward")
        found[f"{own}_b{number}"] = Parameter((1, outputs), "feed-forward")
    return found | _sublayer_norms(options, f"{own}_ffn")


def _recurrence(options: Options, layer: int) -> dict[str, Parameter]:
    """Of the SSRU (Kim et al. 2019), which stands where self-attention would."""
    own, width = f"decoder_l{layer}_rnn", options.width
    shapes: dict[str, Shape] = {"W": (width, width), "Wf": (width, width), "bf": (1, width)}
    if options.flag("layer-normalization"):
        shapes |= {"gamma": (1, width), "gammaf": (1, width)}
    if options.flag("transformer-rnn-projection"):
        shapes |= {"Wo": (width, width), "bo": (1, width)}
    found = {f"{own}_{name}": Parameter(shape, "recurrence") for name, shape in shapes.items()}
    before = _norm(options, own, "transformer-preprocess", "_pre")
    return found | before | _norm(options, f"{own}_ffn", "transformer-postprocess", "")


def _sublayer_norms(options: Options, own: str) -> dict[str, Parameter]:
    before = _norm(options, own, "transformer-preprocess", "_pre")
    return before | _norm(options, own, "transformer-postprocess", "")


def _norm(options: Options, own: str, sequence: str, ending: str) -> dict[str, Parameter]:
    if "n" not in options.sequence(sequence):
        return {}
    return {f"{own}_ln_{name}{ending}": Parameter((1, options.width), "norms") for name in ("scale", "bias")}
