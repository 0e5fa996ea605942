"""A checkpoint of fairseq's RoBERTa: an encoder alone that predicts masked words, or gives labels to texts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtprune.errors import CheckpointError
from nmtprune.formats.base import NO_TRANSLATION
from nmtprune.formats.fairseq import encoder_layout, layout, tasks
from nmtprune.formats.fairseq.checkpoint import FairseqCheckpoint
from nmtprune.profile import ClassifierProfile, PairFrame

if TYPE_CHECKING:
    from torch import Tensor

    from nmtprune.formats.settings_beside import DecoderSettings
    from nmtprune.model.search.options import Search
    from nmtprune.network import ClassifierNetwork, MaskedWordsNetwork, Network
    from nmtprune.profile import ModelProfile

_NO_SEARCH = "an encoder alone, which translates nothing"
_FINE_TUNE = f"fine-tune it first, with fairseq-train and its task {tasks.PREDICTION}"


@dataclass(frozen=True, eq=False, repr=False)
class FairseqEncoder(FairseqCheckpoint):
    """A checkpoint of RoBERTa's class, stock or slim, with any number of heads that give labels."""

    searches = False

    @classmethod
    def search_options(cls) -> "type[Search]":
        """Those of no search: an encoder has none."""
        raise CheckpointError(_NO_SEARCH)

    @classmethod
    def decoder_settings(cls, path: Path, named: Path | None = None) -> "DecoderSettings | None":
        """None: an encoder has no decoder."""
        raise CheckpointError(f"{path}: {_NO_SEARCH}")

    def profile(self) -> "ModelProfile":
        """What a translation model asks of its sentences: an encoder is none."""
        raise CheckpointError(f"{self.path}: {self._no_translation}")

    def network(self) -> "Network":
        """The network of a translation model: an encoder is none."""
        raise CheckpointError(f"{self.path}: {self._no_translation}")

    def trainable(self, refusal: str = "") -> "FairseqCheckpoint":
        """What l0 and lottery start from: they train translation models."""
        raise CheckpointError(f"{self.path}: {self._no_translation}")

    @property
    def _no_translation(self) -> str:
        """Why commands refuse it."""
        if self.classifies:
            return NO_TRANSLATION
        what = "an encoder without a classification head, which neither translates nor gives labels"
        return f"{what}: nmtprune inspect, plan, slim and drift take it; {_FINE_TUNE}"

    def toolkit_faults(self, format: str) -> Iterator[str]:
        """No toolkit translates with it."""
        yield "an encoder alone" if format == self.format else self.a_model

    def engines(self, mode: str) -> str:
        """Stock fairseq needs the plug-in for layers of several shapes, and for heads that do not fill the width."""
        if self.description.needs_plugin:
            return "runs in nmtprune, and in stock fairseq with --user-dir $(nmtprune user-dir)"
        what = "runs in nmtprune, and in stock fairseq without --user-dir"
        return f"{what}; masked heads and neurons are computed too" if mode == "masked" else what

    @property
    def encoder_only(self) -> bool:
        """It translates nothing."""
        return True

    @property
    def classifies(self) -> bool:
        """It has a head that gives labels."""
        return bool(self.label_heads)

    @property
    def label_heads(self) -> tuple[str, ...]:
        """Names of its heads that give labels."""
        return encoder_layout.label_heads(self.model_tensors)

    @property
    def label_head(self) -> str:
        """Name of the head that gives the labels: that of the settings, or the only one.

        Raises:
            CheckpointError: there is none, or there are several and the settings name none of them.
        """
        heads, named = self.label_heads, self._named_head
        if named in heads:
            return str(named)
        if len(heads) == 1:
            return heads[0]
        if not heads:
            raise CheckpointError(f"{self.path}: {self.architecture_name} has no classification head: {_FINE_TUNE}")
        raise CheckpointError(
            f"{self.path}: has the classification heads {', '.join(heads)}, and its classification_head_name "
            f"is {named!r}: name one of them in the settings, or keep one in the file"
        )

    @property
    def _named_head(self) -> Any:
        return next(
            (
                name
                for part in ("criterion", "task")
                if (name := self.section(part).get("classification_head_name")) is not None
            ),
            None,
        )

    def classifier_network(self) -> "ClassifierNetwork":
        """What the native model must know beside tensors and numbers of units."""
        from nmtprune.formats.fairseq import encoder_network

        head = self.label_head
        self._check_activations()
        return encoder_network.describe_classifier(self.description, self._built_tensors, head)

    def masked_words_network(self) -> "MaskedWordsNetwork":
        """What the native model must know of the encoder with the head that predicts masked words."""
        from nmtprune.formats.fairseq import encoder_network

        self._check_activations()
        return encoder_network.describe_masked_words(self.description, self._built_tensors)

    def _check_activations(self) -> None:
        from nmtprune.formats.fairseq import encoder_network

        faults = list(encoder_network.activation_faults(self.description))
        if faults:
            raise CheckpointError.of_faults(f"{self.path}: the native model cannot run this checkpoint", faults)

    def classifier_profile(self) -> ClassifierProfile:
        """Labels, positions, and how the task ``sentence_prediction`` frames texts."""
        network, task = self.classifier_network(), self.section("task")
        if self.section("criterion").get("regression_target") or task.get("regression_target"):
            raise CheckpointError(f"{self.path}: regression_target: its outputs are numbers, not labels")
        return ClassifierProfile(
            labels=network.labels,
            symbols=int(self.model_tensors[encoder_layout.word_table(self.description)].shape[0]),
            max_positions=network.encoder.max_positions,
            padding=network.padding,
            frame=PairFrame(
                init=task.get("init_token"),
                separator=task.get("separator_token"),
                shorten=str(task.get("shorten_method") or "none"),
            ),
            notes=tuple(f"{self.path}: {note}" for note in self.notes),
        )

    def native_tensors(self) -> "Mapping[str, Tensor]":
        """The tensors under the names of the native model's parameters, with the head that it was trained for."""
        from nmtprune.formats.fairseq import encoder_network

        return encoder_network.native_tensors(self.description, self._built_tensors, self._head)

    @property
    def file_names(self) -> Mapping[str, str]:
        """Native name -> name in the file; as for translation models."""
        from nmtprune.formats.fairseq import encoder_network

        built = {name: layout.as_built(name, self.description) for name in self.parameters}
        natives = {
            name: encoder_network.native_of(own, self.description, self._head)
            for name, own in built.items()
            if own is not None
        }
        return {native: name for name, native in natives.items() if native is not None}

    def _value_faults(self) -> Iterator[str]:
        yield from super()._value_faults()
        classes = self.section("task").get("num_classes")
        if self._named_head in self.label_heads and isinstance(classes, int):
            name = f"{encoder_layout.LABEL_HEADS}.{self._named_head}.out_proj.weight"
            labels = self.model_tensors[name].shape[0]
            if labels != classes:
                yield f"{name} gives {labels} labels, num_classes is {classes}"

    @property
    def _head(self) -> str | None:
        """The head that gives the labels; None: that of masked words counts."""
        try:
            return self.label_head if self.classifies else None
        except CheckpointError:
            return ""  # nothing says which: the encoder is read without a head
