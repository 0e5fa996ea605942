"""The options that a Marian model carries in ``special:model.yml``, and what of them is not supported."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from nmtprune.errors import CheckpointError

ENTRY = "special:model.yml"
HEAD_LISTS = {
    "encoder": "transformer-encoder-heads",
    "decoder": "transformer-decoder-heads",
    "cross": "transformer-context-heads",
}
"""Where the branch ``pruned_final`` of Behnke's Marian reads head counts layer by layer."""
HEAD_DIM, HEAD_FILE = "transformer-head-dim", "transformer-head-file"

_OPERATIONS = "dan"
_SEQUENCES = (
    "transformer-preprocess",
    "transformer-postprocess",
    "transformer-postprocess-emb",
    "transformer-postprocess-top",
)
_REFUSED = {
    "transformer-pool": "pooled attention",
    "ulr": "universal language representations",
    "factors-dim-emb": "factored embeddings",
    "lemma-dim-emb": "factored embeddings",
    "lemma-dependency": "factored embeddings",
    "transformer-no-affine": "norms without scale and bias",
    "transformer-no-bias": "layers without bias",
    "transformer-train-position-embeddings": "trained positions",
    "transformer-rnn-projection": "a projection of the SSRU's output",
    "layer-normalization": "layer normalization inside recurrent cells",
    "transformer-alibi-trainable": "trained ALiBi slopes",
}
"""Options that change the network where they are set."""


@dataclass(frozen=True)
class Options:
    """What is needed of a transformer's options.

    Attributes:
        values: all of them, as the file has them.
        depths: encoder and decoder layers.
        width: D.
        heads: of every module that has no count of its own.
        tied: for each decoder layer the number, from 1, of the layer whose parameters it has.
        autoregression: of the decoder, ``self-attention`` or ``ssru``.
        projection: heads are joined by W_O.
    """

    values: Mapping[str, Any]
    depths: tuple[int, int]
    width: int
    heads: int
    tied: tuple[int, ...]
    autoregression: str
    projection: bool

    @property
    def head_dim(self) -> int:
        """K."""
        given = self.values.get(HEAD_DIM)
        return int(given) if given else self.width // self.heads

    def stored_layers(self, stack: str) -> tuple[int, ...]:
        """Numbers, from 1, of the layers that have parameters, in order."""
        return tuple(range(1, self.depths[0] + 1)) if stack == "encoder" else tuple(dict.fromkeys(self.tied))

    def sequence(self, name: str) -> str:
        """What is done before or after a sublayer, without dropout."""
        return str(self.values.get(name) or "").replace("d", "")

    def feed_forward(self, stack: str) -> tuple[int, int]:
        """Inner width and number of linear layers."""
        width, depth = (int(self.values.get(f"transformer-{name}") or 0) for name in ("dim-ffn", "ffn-depth"))
        if stack == "decoder":
            width = int(self.values.get("transformer-decoder-dim-ffn") or 0) or width
            depth = int(self.values.get("transformer-decoder-ffn-depth") or 0) or depth
        return width, depth or 2

    def flag(self, name: str) -> bool:
        """Whether an option is set."""
        return bool(self.values.get(name))


def parse(content: bytes, where: str) -> Options:
    """The options of a model from the bytes of its entry, padded with NULs.

    Raises:
        CheckpointError: no YAML, options that are missing, or that nmtprune does not support; all reasons.
    """
    try:
        values = yaml.safe_load(content.rstrip(b"\0").decode())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        line = str(error).splitlines()[0]
        raise CheckpointError(f"{where}: {ENTRY} is no YAML: {line}") from None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise CheckpointError(f"{where}: {ENTRY} holds no options")
    faults = [*_type_faults(values)] or [*_faults(values)]
    if faults:
        raise CheckpointError.of_faults(f"{where}: unsupported", faults)
    depths = int(values["enc-depth"]), int(values["dec-depth"])
    recurrent = values.get("transformer-decoder-autoreg") == "rnn"
    return Options(
        values=values,
        depths=depths,
        width=int(values["dim-emb"]),
        heads=int(values["transformer-heads"]),
        tied=tuple(values.get("transformer-tied-layers") or range(1, depths[1] + 1)),
        autoregression="ssru" if recurrent else "self-attention",
        projection=not values.get("transformer-no-projection"),
    )


def _type_faults(values: Mapping[str, Any]) -> Iterator[str]:
    if values.get("type") != "transformer":
        yield f"type {values.get('type')!r} (transformer is supported)"


def _faults(values: Mapping[str, Any]) -> Iterator[str]:
    for name in ("enc-depth", "dec-depth", "dim-emb", "transformer-heads", "transformer-dim-ffn"):
        if not _is_count(values.get(name)):
            yield f"{name} is {values.get(name)!r}, not a number from 1 on"
    for name, what in _REFUSED.items():
        if values.get(name):
            yield f"{what} ({name}: {values[name]})"
    if values.get("transformer-attention-mask", "default") != "default":
        yield f"attention masks (transformer-attention-mask: {values['transformer-attention-mask']})"
    inputs = values.get("input-types") or []
    if isinstance(inputs, list) and any(kind != "sequence" for kind in inputs):
        yield f"inputs other than sequences (input-types: {', '.join(map(str, inputs))})"
    for name in _SEQUENCES:
        unknown = sorted(set(str(values.get(name) or "")) - set(_OPERATIONS))
        if unknown:
            yield f"operation {', '.join(unknown)} in {name}: {values[name]} (known: d, a, n)"
    yield from _decoder_faults(values)
    yield from _head_faults(values)


def _head_faults(values: Mapping[str, Any]) -> Iterator[str]:
    heads, width = values.get("transformer-heads"), values.get("dim-emb")
    divides = not (_is_count(heads) and _is_count(width)) or int(str(width)) % int(str(heads)) == 0
    if not values.get(HEAD_DIM) and not divides:
        yield f"transformer-heads: {heads} does not divide dim-emb: {width}"
    if values.get(HEAD_FILE):
        yield f"{HEAD_FILE}: true (heads are counted beside the model: write {', '.join(HEAD_LISTS.values())} into it)"


def _decoder_faults(values: Mapping[str, Any]) -> Iterator[str]:
    kind = values.get("transformer-decoder-autoreg", "self-attention")
    if kind == "rnn":
        if values.get("dec-cell") != "ssru":
            yield f"decoder cell {values.get('dec-cell')!r} (dec-cell: ssru is supported)"
    elif kind != "self-attention":
        yield f"decoder of kind {kind!r} (transformer-decoder-autoreg: self-attention and rnn are supported)"
    tied, depth = values.get("transformer-tied-layers") or [], values.get("dec-depth")
    if not isinstance(tied, list) or not all(_is_count(number) for number in tied):
        yield f"transformer-tied-layers: {tied!r} is no list of layers"
    elif tied and (len(tied) != depth or any(number > place for place, number in enumerate(tied, start=1))):
        yield f"transformer-tied-layers: {tied} for {depth} layers"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def head_counts(options: Options, kind: str) -> dict[int, int] | None:
    """Stored heads of the layers of a kind by their numbers from 1, as the lists say; None where there are none.

    Raises:
        ValueError: a list that does not fit.
    """
    name = HEAD_LISTS[kind]
    counts = options.values.get(name)
    if counts is None:
        return None
    layers: Sequence[int] = range(1, options.depths[0] + 1) if kind == "encoder" else options.tied
    if not isinstance(counts, list) or len(counts) != len(layers) or not all(_is_count(count) for count in counts):
        raise ValueError(f"{name}: {counts!r} is no list of {len(layers)} numbers of heads")
    found: dict[int, int] = {}
    for layer, count in zip(layers, counts, strict=True):
        if found.setdefault(layer, count) != count:
            raise ValueError(f"{name}: {counts!r} gives tied layers other numbers of heads")
    return found


def with_heads(options: Options, counts: Mapping[str, Mapping[int, int]]) -> dict[str, Any]:
    """The options of a model with these numbers of stored heads by kind and layer."""
    found = {**options.values, HEAD_DIM: options.head_dim, HEAD_FILE: False}
    for kind, name in HEAD_LISTS.items():
        own = counts.get(kind, {})
        layers: Sequence[int] = range(1, options.depths[0] + 1) if kind == "encoder" else options.tied
        found[name] = [own.get(layer, options.heads) for layer in layers]
    return found


def encode(values: Mapping[str, Any]) -> bytes:
    """Options as the bytes of their entry."""
    text: str = yaml.safe_dump(dict(values), sort_keys=True, default_flow_style=None)
    return text.encode() + b"\0"
