"""The options that a Marian model carries in ``special:model.yml``, and what of them is not supported."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from nmtprune.errors import CheckpointError
from nmtprune.formats.marian.option_lists import (
    DECODER_DIM_FFN,
    DIM_FFN,
    HEAD_DIM,
    HEAD_FILE,
    HEAD_LISTS,
    OF_COMMANDS,
    REFUSED,
    SUPPORTED,
    WITHOUT_EFFECT,
    Supported,
)

ENTRY = "special:model.yml"

_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")


@dataclass(frozen=True)
class Options:
    """A transformer's options.

    Attributes:
        values: all of them, as the file has them.
        settings: those that are supported, in one form and with Marian's value where they are missing.
    """

    values: Mapping[str, Any]
    settings: Mapping[str, Any]

    @property
    def depths(self) -> tuple[int, int]:
        """Encoder and decoder layers."""
        return self.settings["enc-depth"], self.settings["dec-depth"]

    @property
    def width(self) -> int:
        """D."""
        return int(self.settings["dim-emb"])

    @property
    def heads(self) -> int:
        """Heads of every module that has no count of its own."""
        return int(self.settings["transformer-heads"])

    @property
    def head_dim(self) -> int:
        """K."""
        return self.settings[HEAD_DIM] or self.width // self.heads

    @property
    def tied(self) -> tuple[int, ...]:
        """For each decoder layer the number, from 1, of the layer whose parameters it has."""
        return self.settings["transformer-tied-layers"] or tuple(range(1, self.depths[1] + 1))

    @property
    def autoregression(self) -> str:
        """Of the decoder, ``self-attention`` or ``ssru``."""
        return "ssru" if self.settings["transformer-decoder-autoreg"] == "rnn" else "self-attention"

    @property
    def projection(self) -> bool:
        """Heads are joined by W_O."""
        return not self.flag("transformer-no-projection")

    @property
    def rows(self) -> tuple[int | None, int | None]:
        """Rows of the source and of the target table, as far as the options tell."""
        told = [size or None for size in self.settings["dim-vocabs"][:2]]
        source, target = (*told, None, None)[:2]
        return source, target

    def stored_layers(self, stack: str) -> tuple[int, ...]:
        """Numbers, from 1, of the layers that have parameters, in order."""
        return tuple(range(1, self.depths[0] + 1)) if stack == "encoder" else tuple(sorted({*self.tied}))

    def sequence(self, name: str) -> str:
        """What is done before or after a sublayer, without dropout."""
        return str(self.settings[name]).replace("d", "")

    def feed_forward(self, stack: str) -> tuple[int, int]:
        """Inner width and number of linear layers."""
        width, depth = self.settings[DIM_FFN], self.settings["transformer-ffn-depth"]
        if stack == "decoder":
            width = self.settings[DECODER_DIM_FFN] or width
            depth = self.settings["transformer-decoder-ffn-depth"] or depth
        return width, depth

    def flag(self, name: str) -> bool:
        """Whether an option is set; one that only an SSRU reads is not set without one."""
        return bool(self.settings[name]) and (self.autoregression == "ssru" or not SUPPORTED[name].recurrent)


def parse(content: bytes, where: str) -> Options:
    """The options of a model from the bytes of its entry, padded with NULs.

    Raises:
        CheckpointError: no YAML, no options, or some that nmtprune does not support; all reasons.
    """
    values = _read(content, where)
    settings, faults = _settings(values)
    if SUPPORTED["type"].choices != (settings.get("type"),):
        faults = [f"type {values.get('type', SUPPORTED['type'].default)!r} (transformer is supported)"]
    else:
        faults += [*_refusals(values), *_unknown(values)]
        faults = faults or [*_disagreements(settings)]
    if faults:
        raise CheckpointError.of_faults(f"{where}: unsupported", faults)
    return Options(values, settings)


def _read(content: bytes, where: str) -> dict[str, Any]:
    try:
        text = content.rstrip(b"\0").decode()
        values, names = yaml.safe_load(text), _names(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        line = str(error).splitlines()[0]
        raise CheckpointError(f"{where}: {ENTRY} is no YAML: {line}") from None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise CheckpointError(f"{where}: {ENTRY} holds no options")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise CheckpointError(f"{where}: {ENTRY} holds {', '.join(twice)} more than once")
    return values


def _names(text: str) -> list[str]:
    """Keys as often as they stand there: of two, YAML's readers take another one than Marian."""
    node = yaml.compose(text, yaml.SafeLoader)
    return [str(key.value) for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []


def _settings(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Supported options that can be read, and what is wrong with the others."""
    found, faults = {}, []
    recurrent = values.get("transformer-decoder-autoreg") == "rnn"
    for name, option in SUPPORTED.items():
        found[name] = option.default
        if option.recurrent and not recurrent:
            continue
        if name in values or option.kind == "choice":
            value = values.get(name, option.default)
            try:
                found[name] = _converted(option, value)
            except ValueError as error:
                faults.append(f"{name}: {_shown(value)} ({error})")
    return found, faults


def _refusals(values: Mapping[str, Any]) -> Iterator[str]:
    for name, option in REFUSED.items():
        if name in values and not _same(values[name], option.neutral):
            yield f"{name}: {_shown(values[name])} ({option.reason})"


def _same(value: Any, neutral: Any) -> bool:
    if isinstance(neutral, bool):
        return value is neutral or str(value).lower() == str(neutral).lower()
    return type(value) is type(neutral) and bool(value == neutral)


def _shown(value: Any) -> str:
    """A value as YAML has it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def _unknown(values: Mapping[str, Any]) -> Iterator[str]:
    known = {*SUPPORTED, *WITHOUT_EFFECT, *REFUSED}
    for name in values:
        if name in OF_COMMANDS:
            yield f"{name}, which is an option of Marian's commands and not of a model: remove it from {ENTRY}"
        elif name not in known:
            yield f"{name}, which is no option of a model that nmtprune knows"


def _disagreements(settings: Mapping[str, Any]) -> Iterator[str]:
    heads, width = settings["transformer-heads"], settings["dim-emb"]
    if not settings[HEAD_DIM] and width % heads:
        yield f"transformer-heads: {heads} does not divide dim-emb: {width}"
    tied, depth = settings["transformer-tied-layers"], settings["dec-depth"]
    if tied and (len(tied) != depth or not all(1 <= number <= depth for number in tied)):
        yield f"transformer-tied-layers: {list(tied)} for {depth} layers"
    rows = [size for size in settings["dim-vocabs"][:2] if size]
    shared = settings["tied-embeddings-all"] or settings["tied-embeddings-src"]
    if shared and len({*rows}) > 1:
        yield f"dim-vocabs: {list(settings['dim-vocabs'])} for one table"


def head_counts(options: Options, kind: str) -> dict[int, int] | None:
    """Stored heads of the layers of a kind by their numbers from 1, as the lists say; None where there are none.

    Raises:
        ValueError: a list that does not fit.
    """
    name = HEAD_LISTS[kind]
    counts = options.settings[name]
    if counts is None:
        return None
    layers: Sequence[int] = range(1, options.depths[0] + 1) if kind == "encoder" else options.tied
    if len(counts) != len(layers) or not all(counts):
        raise ValueError(f"{name}: {list(counts)} is no list of {len(layers)} numbers of heads")
    found: dict[int, int] = {}
    for layer, count in zip(layers, counts, strict=True):
        if found.setdefault(layer, count) != count:
            raise ValueError(f"{name}: {list(counts)} gives tied layers other numbers of heads")
    return found


def with_heads(options: Options, counts: Mapping[str, Mapping[int, int]]) -> dict[str, Any]:
    """The options of a model with these numbers of stored heads by kind and layer."""
    found = {**options.values, HEAD_DIM: options.head_dim, HEAD_FILE: False}
    for kind, name in HEAD_LISTS.items():
        own = counts.get(kind, {})
        layers: Sequence[int] = range(1, options.depths[0] + 1) if kind == "encoder" else options.tied
        found[name] = [own.get(layer, options.heads) for layer in layers]
    return found


def with_widths(values: Mapping[str, Any], encoder: int, decoder: int) -> dict[str, Any]:
    """Options with these inner widths of feed-forward layers.

    The decoder's own option, which Marian has since 1.11, is written only where the widths differ; where they do not, a
    model that has it says 0.
    """
    found = {**values, DIM_FFN: encoder}
    if encoder != decoder:
        found[DECODER_DIM_FFN] = decoder
    elif DECODER_DIM_FFN in found:
        found[DECODER_DIM_FFN] = 0
    return found


def encoded(values: Mapping[str, Any]) -> bytes:
    """Options as the bytes of their entry."""
    text: str = yaml.safe_dump(dict(values), sort_keys=True, default_flow_style=None)
    return text.encode() + b"\0"


def _converted(option: Supported, value: Any) -> Any:
    """The value of an option: a truth value, a whole number, text, or a tuple.

    Raises:
        ValueError: it is something else; how the message goes on after the name and the value.
    """
    match option.kind:
        case "flag":
            return _flag(value)
        case "count":
            return _number(value, 1)
        case "size":
            return _number(value, 0)
        case "numbers":
            return tuple(_number(entry, 0, "not a list of whole numbers") for entry in _listed(value))
        case "types":
            # Marian asks of the first one only when it translates.
            if all(entry in option.choices for entry in _listed(value)) and value[:1] in ([], [option.choices[0]]):
                return tuple(value)
        case "choice" if isinstance(value, str) and value in option.choices:
            return value
        case "operations" if isinstance(value, str) and set(value) <= set(option.choices):
            return value
    choices = ", ".join(choice or "''" for choice in option.choices)
    raise ValueError(f"supported: {choices}")


def _flag(value: Any) -> bool:
    """Marian takes 0 and 1 for truth values too, and quotes for nothing."""
    text = str(value).lower()
    if isinstance(value, bool | str) and text in (*_TRUE, *_FALSE):
        return text in _TRUE
    if value in (0, 1) and not isinstance(value, str):
        return bool(value)
    raise ValueError("not true or false")


def _number(value: Any, least: int, otherwise: str = "") -> int:
    whole = isinstance(value, int) and not isinstance(value, bool)
    quoted = isinstance(value, str) and value.isascii() and value.isdigit()
    rounded = isinstance(value, float) and value.is_integer()
    if not (whole or quoted or rounded) or int(value) < least:
        raise ValueError(otherwise or f"not a whole number from {least} on")
    return int(value)


def _listed(value: Any) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError("not a list")
    return value
