"""``config.json`` of a classifier: its settings with transformers' defaults, and what is not supported."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from nmtprune.architecture import Architecture, GroupId
from nmtprune.errors import CheckpointError
from nmtprune.formats.base import UnitAxis
from nmtprune.formats.huggingface import classifier_layout as layout
from nmtprune.formats.huggingface import generation
from nmtprune.formats.huggingface.classifier_families import CLASSIFIERS, READ, WITHOUT_EFFECT, ClassifierFamily
from nmtprune.formats.huggingface.entries import Entry
from nmtprune.formats.huggingface.families import ACTIVATIONS
from nmtprune.formats.huggingface.folder_config import FolderConfig, foreign_faults
from nmtprune.strictjson import is_int, show

_COUNTS = ("vocab_size", "max_position_embeddings", "type_vocab_size")
_MOST, _MOST_LAYERS, _MOST_POSITIONS = (1 << 31) - 1, 10_000, 1_000_000
"""Values above which settings are damaged: no memory is spent on finding that out by the tensors."""
_MOST_LABELS = 1_000_000
_LABELS = 2
"""Labels of a model whose settings name none, as in transformers."""


@dataclass(frozen=True)
class ClassifierConfig(FolderConfig):
    """The settings of a classifier.

    Attributes:
        family: what the model is.
        label_names: names of labels by number.
    """

    family: ClassifierFamily
    label_names: tuple[str, ...]

    known: ClassVar = READ | WITHOUT_EFFECT | generation.NAMES

    @property
    def model_class(self) -> str:
        """The class in transformers."""
        return self.family.model_class

    @property
    def same(self) -> Mapping[str, str]:
        """Other names that transformers has for settings -> their own."""
        return self.family.same

    def size(self, what: str) -> int:
        """A size by this package's word for it: width, layers, heads or inner."""
        return int(self.settings[self.family.names[what]])

    @property
    def labels(self) -> int:
        """Number of labels."""
        return len(self.label_names)

    @property
    def epsilon(self) -> float:
        """What every norm adds to the variance."""
        own = self.family.epsilon
        return float(self.settings["layer_norm_eps"]) if own is None else own

    @property
    def first_position(self) -> int:
        """Row of a text's first token in the table of positions."""
        return int(self.settings["pad_token_id"]) + 1 if self.family.positions_behind_padding else 0

    def heads(self, stack: str) -> int:
        """Heads of every module."""
        return self.size("heads")

    def stored_architecture(self) -> Architecture:
        """The groups for which the file has rows and columns."""
        return layout.stored_architecture(self)

    def unit_axes(self, architecture: Architecture) -> Mapping[GroupId, tuple[UnitAxis, ...]]:
        """Every axis in which heads and neurons lie."""
        return layout.unit_axes(self, architecture)

    def entries(self, names: Iterable[str]) -> dict[str, Entry]:
        """What is known of the tensors of a model."""
        return layout.entries(self, names)

    def table_aliases(self, names: Iterable[str]) -> dict[str, str]:
        """No table has two names."""
        return {}

    def table_faults(self, names: Container[str]) -> Iterator[str]:
        """None: a classifier has one table of each kind, which `entries` asks for."""
        return iter(())

    def is_buffer(self, name: str) -> bool:
        """Whether old versions of transformers stored numbers of positions and segments, which are computed anew."""
        return layout.is_buffer(self, name)

    def without_layers(self, names: Iterable[str], kept: Mapping[str, Sequence[int]]) -> dict[str, str]:
        """Name of each tensor that stays -> its name in the model without the other layers."""
        return layout.without_layers(self, names, kept)

    def width_setting(self, stack: str) -> str:
        """The setting of the number of neurons of every layer."""
        return self.family.names["inner"]

    def depth_setting(self, stack: str) -> str:
        """The setting of the number of layers."""
        return self.family.names["layers"]

    def native_of(self, name: str) -> str | None:
        """Native name of a tensor; None for one that transformers leaves out."""
        return layout.native_of(self, name)


def parse_config(values: Any, where: str) -> ClassifierConfig:
    """The settings in a file.

    Args:
        values: what it holds.
        where: its path.

    Raises:
        CheckpointError: no settings of a classifier, or of one that is not supported; all reasons.
    """
    kind = values.get("model_type") if isinstance(values, dict) else None
    family = CLASSIFIERS.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise CheckpointError(f"{where}: holds {show(values)}, no settings of a classifier")
    settings = {name: values.get(name, default) for name, default in family.defaults.items()}
    settings |= {name: values[other] for other, name in family.same.items() if other in values and name not in values}
    faults = [*_class_faults(values, family), *_value_faults(values, settings, family), *_label_faults(values)]
    if not faults:
        faults = list(_size_faults(settings, family))
    if faults:
        raise CheckpointError.of_faults(f"{where}: unsupported", faults)
    return ClassifierConfig(values, settings, family, _label_names(values))


def _label_names(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of labels by number, those of transformers where the settings name none."""
    names = values.get("id2label")
    if isinstance(names, dict):
        return tuple(name for _, name in sorted((int(number), name) for number, name in names.items()))
    return tuple(f"LABEL_{number}" for number in range(values.get("num_labels", _LABELS)))


def _label_faults(values: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with ``id2label``, or with the number of labels where there is none."""
    names, count = values.get("id2label"), values.get("num_labels", _LABELS)
    if not isinstance(names, dict) or not names:
        count = count if names is None else 0
        if not is_int(count) or not 1 <= count <= _MOST_LABELS:
            yield f"num_labels is {show(count)}, no whole number from 1"
    elif set(names) != {str(number) for number in range(len(names))}:
        yield f"id2label {show(names)} does not number its labels from 0"
    elif any(not isinstance(name, str) for name in names.values()):
        yield f"id2label {show(names)} has labels that are no text"


def _class_faults(values: Mapping[str, Any], family: ClassifierFamily) -> Iterator[str]:
    classes = values.get("architectures")
    if classes and classes not in ([family.model_class], (family.model_class,)):
        yield (
            f"architectures {show(classes)}, not {family.model_class}: nmtprune reads encoders with a classification "
            "head, so fine-tune this one on a task first"
        )
    yield from foreign_faults(values)


def _value_faults(values: Mapping[str, Any], settings: Mapping[str, Any], family: ClassifierFamily) -> Iterator[str]:
    names = family.names
    counts = [name for name in (*_COUNTS, *(names[what] for what in ("width", "layers", "heads", "inner")))
              if name in settings]  # fmt: skip
    for name in counts:
        if not is_int(settings[name]) or settings[name] < 1:
            yield f"{name} is {show(settings[name])}, no whole number from 1"
    if not is_int(settings["pad_token_id"]) or settings["pad_token_id"] < 0:
        yield f"pad_token_id is {show(settings['pad_token_id'])}, no id of a token"
    yield from _kind_faults(values, settings, family)
    for other, name in family.same.items():
        if other in values and values[other] != settings[name]:
            yield f"{other} {show(values[other])} and {name} {show(settings[name])} differ"


def _kind_faults(values: Mapping[str, Any], settings: Mapping[str, Any], family: ClassifierFamily) -> Iterator[str]:
    """Settings of other networks than these."""
    function, name = settings[family.names["activation"]], family.names["activation"]
    if not isinstance(function, str) or function not in ACTIVATIONS:
        yield f"{name} {show(function)}"
    epsilon = settings.get("layer_norm_eps", family.epsilon)
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 < epsilon < 1:
        yield f"layer_norm_eps is {show(epsilon)}, no number between 0 and 1"
    for name in ("is_decoder", "add_cross_attention"):
        if settings.get(name):
            yield f"{name} {show(settings[name])} (a decoder)"
    if values.get("position_embedding_type", "absolute") != "absolute":
        kind = show(values["position_embedding_type"])
        yield f"position_embedding_type {kind} (transformers 5 ignores it, and computes another network than it says)"


def _size_faults(settings: Mapping[str, Any], family: ClassifierFamily) -> Iterator[str]:
    """What does not fit together, or no model has."""
    names = family.names
    most = {names[what]: _MOST for what in ("width", "heads", "inner")} | dict.fromkeys(_COUNTS, _MOST)
    most |= {"max_position_embeddings": _MOST_POSITIONS, names["layers"]: _MOST_LAYERS}
    too_large = [name for name in most if settings.get(name, 1) > most[name]]
    if too_large:
        yield from (f"{name} is {show(settings[name])}, more than {most[name]}" for name in too_large)
        return
    width, heads, padding = settings[names["width"]], settings[names["heads"]], settings["pad_token_id"]
    if width % heads:
        yield f"{names['heads']} {heads} does not divide {names['width']} {width}"
    if padding >= settings["vocab_size"]:
        yield f"pad_token_id {padding}: the embeddings have {settings['vocab_size']} rows"
    first = padding + 1 if family.positions_behind_padding else 0
    if settings["max_position_embeddings"] <= first:
        yield f"max_position_embeddings {settings['max_position_embeddings']}: texts begin at position {first}"
