"""``config.json``: which family a model is of, its settings with transformers' defaults, and what is not supported."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nmtprune.architecture import STACKS
from nmtprune.errors import CheckpointError
from nmtprune.formats.huggingface import generation
from nmtprune.formats.huggingface.families import ACTIVATIONS, FAMILIES, READ, SAME, WITHOUT_EFFECT, Family
from nmtprune.strictjson import is_int, show

FILE = "config.json"
NOTE = "nmtprune"
"""Setting in which nmtprune writes lineage and padding; transformers keeps it."""

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
class Config:
    """The settings of a model.

    Attributes:
        values: all of them, as the file has them.
        settings: those that are read, with transformers' values where the file does not say.
        family: what the model is.
    """

    values: Mapping[str, Any]
    settings: Mapping[str, Any]
    family: Family

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

    def with_sizes(self, sizes: Mapping[str, int], note: Mapping[str, Any] | None) -> dict[str, Any]:
        """The values of a model with other layers or widths.

        Args:
            sizes: settings that change.
            note: what `NOTE` says; None leaves it out.
        """
        found = {name: value for name, value in self.values.items() if name != NOTE}
        found |= {name: size for name, size in sizes.items() if self.settings[name] != size or name in found}
        found |= {other: found[name] for other, name in SAME.items() if other in found and name in found}
        return found if note is None else {**found, NOTE: dict(note)}

    @property
    def unknown(self) -> list[str]:
        """Settings that are neither read nor known to be without effect, with their values."""
        known = READ | WITHOUT_EFFECT | generation.NAMES
        return [f"{name} = {show(value)}" for name, value in self.values.items() if name not in known and value]


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
    known = ", ".join(family.model_class for family in FAMILIES.values())
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
    if values.get("quantization_config"):
        kind = values["quantization_config"]
        method = kind.get("quant_method") if isinstance(kind, dict) else None
        yield f"quantization_config ({method or 'quantized weights'}): slim the model that it was made from"
    if values.get("pruned_heads"):
        yield f"pruned_heads {show(values['pruned_heads'])} (heads that transformers took out)"
    if values.get("auto_map"):
        yield "auto_map (code of its own, which nmtprune does not run)"


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
