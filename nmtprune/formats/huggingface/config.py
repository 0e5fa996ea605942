"""``config.json``: which family a model is of, its settings with transformers' defaults, and what is not supported."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from nmtprune.architecture import STACKS, Architecture, GroupId
from nmtprune.errors import CheckpointError
from nmtprune.formats.base import UnitAxis
from nmtprune.formats.huggingface import generation, layout
from nmtprune.formats.huggingface.classifier_families import CLASSIFIERS
from nmtprune.formats.huggingface.entries import Entry
from nmtprune.formats.huggingface.families import ACTIVATIONS, FAMILIES, READ, SAME, WITHOUT_EFFECT, Family
from nmtprune.formats.huggingface.folder_config import FolderConfig, foreign_faults
from nmtprune.strictjson import is_int, show

_COUNTS = ("d_model", "encoder_layers", "decoder_layers", "encoder_ffn_dim", "decoder_ffn_dim", "vocab_size",
           "src_vocab_size", "tgt_vocab_size", "encoder_attention_heads", "decoder_attention_heads",
           "max_position_embeddings")  # fmt: skip
_FLAGS = ("scale_embedding", "tie_word_embeddings", "share_encoder_decoder_embeddings")
_IDS = ("pad_token_id", "eos_token_id", "decoder_start_token_id")
_MAY_BE_NONE = ("decoder_vocab_size",)
_MOST = {**dict.fromkeys((*_COUNTS, *_MAY_BE_NONE), (1 << 31) - 1), "max_position_embeddings": 1_000_000,
         "encoder_layers": 10_000, "decoder_layers": 10_000}  # fmt: skip
"""Values above which settings are damaged: no memory is spent on finding that out by the tensors."""

_DECODERS = ("CausalLM", "LMHeadModel")


@dataclass(frozen=True)
class Config(FolderConfig):
    """The settings of a translation model.

    Attributes:
        family: what the model is.
    """

    family: Family

    known: ClassVar = READ | WITHOUT_EFFECT | generation.NAMES

    @property
    def model_class(self) -> str:
        """The class in transformers."""
        return self.family.model_class

    @property
    def same(self) -> Mapping[str, str]:
        """Other names that transformers has for settings -> their own."""
        return {**SAME, **self.family.same}

    @property
    def shared_vocabulary(self) -> bool:
        """Whether source and target have one vocabulary and one table of embeddings."""
        return _shared(self.settings, self.family)

    @property
    def words(self) -> tuple[int, int]:
        """Rows of the source and target embeddings."""
        return _words(self.settings, self.family)

    @property
    def first_position(self) -> int:
        """Row of a sentence's first token in a table of positions."""
        own = self.family.first_position
        return int(self.settings["pad_token_id"]) + 1 if own is None else own

    def heads(self, stack: str) -> int:
        """Heads of every module of a stack."""
        return int(self.settings[f"{stack}_attention_heads"])

    def stored_architecture(self) -> Architecture:
        """The groups for which the file has rows and columns."""
        return layout.stored_architecture(self)

    def unit_axes(self, architecture: Architecture) -> Mapping[GroupId, tuple[UnitAxis, ...]]:
        """Every axis in which heads and neurons lie."""
        return layout.unit_axes(architecture)

    def entries(self, names: Iterable[str]) -> dict[str, Entry]:
        """What is known of the tensors of a model."""
        return layout.entries(self, names)

    def table_aliases(self, names: Iterable[str]) -> dict[str, str]:
        """Name -> the first name of the same table, for tables that a file stores several times."""
        return layout.table_aliases(self, names)

    def table_faults(self, names: Container[str]) -> Iterator[str]:
        """Tables that a file lacks although transformers takes no other in their place."""
        return layout.table_faults(self, names)

    def is_buffer(self, name: str) -> bool:
        """Whether old versions of transformers stored a tensor that is computed anew."""
        return layout.is_buffer(name)

    def without_layers(self, names: Iterable[str], kept: Mapping[str, Sequence[int]]) -> dict[str, str]:
        """Name of each tensor that stays -> its name in the model without the other layers."""
        return layout.without_layers(names, kept)

    def width_setting(self, stack: str) -> str:
        """The setting of the number of neurons of every layer of a stack."""
        return f"{stack}_ffn_dim"

    def depth_setting(self, stack: str) -> str:
        """The setting of the number of layers of a stack."""
        return f"{stack}_layers"

    def native_of(self, name: str) -> str | None:
        """Native name of a tensor that the native model takes as it is; None for others."""
        return layout.native_of(name, self)


def parse_config(values: Any, where: str) -> Config:
    """The settings in a file.

    Args:
        values: what it holds.
        where: its path.

    Raises:
        CheckpointError: no settings of a model, or of one that is not supported; all reasons.
    """
    if not isinstance(values, dict):
        raise CheckpointError(f"{where}: holds {show(values)}, no settings of a model")
    kind = values.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise CheckpointError(f"{where}: unsupported: {_other_family(values)}")
    settings = {name: values.get(name, default) for name, default in family.defaults.items()}
    settings["eos_token_id"] = generation.single_id(settings["eos_token_id"])
    faults = [*_class_faults(values, family), *_value_faults(values, settings, family)]
    if not faults:
        faults = list(_size_faults(settings, family))
    if faults:
        raise CheckpointError.of_faults(f"{where}: unsupported", faults)
    return Config(values, settings, family)


def _shared(settings: Mapping[str, Any], family: Family) -> bool:
    if family.two_vocabularies:
        return bool(settings["tie_word_embeddings"])
    return not family.separate_vocabularies or bool(settings["share_encoder_decoder_embeddings"])


def _words(settings: Mapping[str, Any], family: Family) -> tuple[int, int]:
    if family.two_vocabularies:
        return settings["src_vocab_size"], settings["tgt_vocab_size"]
    source = settings["vocab_size"]
    return source, source if _shared(settings, family) else settings["decoder_vocab_size"] or source


def _other_family(values: Mapping[str, Any]) -> str:
    """What a model is that is of no supported family."""
    translators = [family.model_class for family in FAMILIES.values()]
    known = ", ".join([*translators, *(family.model_class for family in CLASSIFIERS.values())])
    classes = values.get("architectures")
    name = classes[0] if isinstance(classes, list | tuple) and classes else None
    if not values.get("model_type") and name is None:
        return "no model_type: these are no settings of a model of transformers"
    what = f"model_type {show(values.get('model_type'))}" + (f" ({name})" if isinstance(name, str) else "")
    if isinstance(name, str) and name.endswith(_DECODERS):
        return f"{what}, a language model without an encoder: nmtprune reads {known}"
    return f"{what}: nmtprune reads {known}"


def _class_faults(values: Mapping[str, Any], family: Family) -> Iterator[str]:
    classes = values.get("architectures")
    if classes and classes not in ([family.model_class], (family.model_class,)):
        yield f"architectures {show(classes)}, not {family.model_class}"
    yield from foreign_faults(values)


def _value_faults(values: Mapping[str, Any], settings: Mapping[str, Any], family: Family) -> Iterator[str]:
    yield from _form_faults(settings)
    if isinstance(settings["activation_function"], str) and settings["activation_function"] not in ACTIVATIONS:
        yield f"activation_function {show(settings['activation_function'])}"
    if settings["is_encoder_decoder"] is not True:
        yield f"is_encoder_decoder {show(settings['is_encoder_decoder'])} (a model without an encoder)"
    for name, harmless in family.must_be.items():
        if values.get(name, harmless) != harmless:
            yield f"{name} {show(values[name])} (transformers ignores it, and computes another network than it says)"
    if family.always_tied and settings["tie_word_embeddings"] is False:
        yield "tie_word_embeddings false (transformers then has one more table of embeddings for each stack)"
    for other, name in {**SAME, **family.same}.items():
        if other in values and values[other] != settings[name]:
            yield f"{other} {show(values[other])} and {name} {show(settings[name])} differ"


def _form_faults(settings: Mapping[str, Any]) -> Iterator[str]:
    """Values of another form than theirs."""
    forms: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
        (_COUNTS, lambda value: is_int(value) and value >= 1, "no whole number from 1"),
        (_FLAGS, lambda value: isinstance(value, bool), "not true or false"),
        (_IDS, lambda value: is_int(value) and value >= 0, "no id of a token"),
        (_MAY_BE_NONE, lambda value: value is None or is_int(value) and value >= 1, "no whole number from 1"),
        (("activation_function",), lambda value: isinstance(value, str), "no name of a function"),
        (("bos_token_id",), lambda value: value is None or is_int(value) and value >= 0, "no id of a token"),
        (("langs",), _are_two_texts, "no two languages"),
    )
    for names, fits, what in forms:
        there = (name for name in names if name in settings)
        yield from (f"{name} is {show(settings[name])}, {what}" for name in there if not fits(settings[name]))


def _are_two_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(each, str) for each in value)


def _size_faults(settings: Mapping[str, Any], family: Family) -> Iterator[str]:
    """What does not fit together, or no model has."""
    too_large = [name for name, most in _MOST.items() if (settings.get(name) or 0) > most]
    if too_large:
        yield from (f"{name} is {show(settings[name])}, more than {_MOST[name]}" for name in too_large)
        return
    for stack in STACKS:
        heads = settings[f"{stack}_attention_heads"]
        if settings["d_model"] % heads:
            yield f"{stack}_attention_heads {heads} does not divide d_model {settings['d_model']}"
    source, target = _words(settings, family)
    if family.two_vocabularies and _shared(settings, family) and source != target:
        yield f"src_vocab_size {source} and tgt_vocab_size {target} differ, though tie_word_embeddings makes one table"
    for name in _IDS:
        rows = target if name == "decoder_start_token_id" else min(source, target)
        if settings[name] >= rows:
            yield f"{name} {settings[name]}: the embeddings have {rows} rows"
    if (settings.get("bos_token_id") or 0) >= min(source, target):
        yield f"bos_token_id {show(settings['bos_token_id'])}: the embeddings have {min(source, target)} rows"
    if settings["pad_token_id"] == settings["eos_token_id"]:
        yield f"pad_token_id and eos_token_id are both {settings['eos_token_id']}: sentences would end with padding"
    if family.first_position is None and settings["pad_token_id"] == settings["decoder_start_token_id"]:
        yield (
            f"pad_token_id and decoder_start_token_id are both {settings['pad_token_id']}: transformers gives what "
            "starts a sentence the position of padding"
        )
