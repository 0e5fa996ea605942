"""A classifier of Hugging Face's transformers: an encoder with a head that gives labels to texts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtprune.errors import CheckpointError
from nmtprune.formats.base import NO_TRANSLATION
from nmtprune.formats.huggingface import classifier_config, classifier_layout
from nmtprune.formats.huggingface.classifier_config import ClassifierConfig
from nmtprune.formats.huggingface.folder_checkpoint import FolderCheckpoint

if TYPE_CHECKING:
    from torch import Tensor

    from nmtprune.formats.settings_beside import DecoderSettings
    from nmtprune.formats.trainable import TrainableCheckpoint
    from nmtprune.model.search.options import Search
    from nmtprune.network import ClassifierNetwork, Network
    from nmtprune.profile import ClassifierProfile, ModelProfile


@dataclass(frozen=True, eq=False, repr=False)
class HuggingFaceClassifier(FolderCheckpoint):
    """A BERT, RoBERTa or DistilBERT with a classification head, full or slim."""

    config: ClassifierConfig

    searches = False

    @classmethod
    def parse_config(cls, values: Any, where: str) -> ClassifierConfig:
        """The settings in a file."""
        return classifier_config.parse_config(values, where)

    @classmethod
    def search_options(cls) -> "type[Search]":
        """Those of no search: a classifier has none."""
        raise CheckpointError(NO_TRANSLATION)

    @classmethod
    def decoder_settings(cls, path: Path, named: Path | None = None) -> "DecoderSettings | None":
        """None: a classifier has no decoder."""
        raise CheckpointError(f"{path}: {NO_TRANSLATION}")

    def profile(self) -> "ModelProfile":
        """What a translation model asks of its sentences: a classifier is none."""
        raise CheckpointError(f"{self.path}: {NO_TRANSLATION}")

    def network(self) -> "Network":
        """The network of a translation model: a classifier is none."""
        raise CheckpointError(NO_TRANSLATION)

    def trainable(self, refusal: str = "") -> "TrainableCheckpoint":
        """What fairseq-train could start from: a classifier is not."""
        raise CheckpointError(f"{self.path}: {NO_TRANSLATION}")

    @property
    def classifies(self) -> bool:
        """It gives labels to texts."""
        return True

    def classifier_network(self) -> "ClassifierNetwork":
        """What the native model must know beside tensors and numbers of units."""
        return classifier_layout.describe_network(self.config)

    def engines(self, mode: str) -> str:
        """Nothing but transformers, where heads that are gone are computed as zeros."""
        what = "loads in transformers (from_pretrained), without code of its own"
        zeros = sum(group.padding for group in self.architecture.modules)
        if mode == "masked":
            return f"{what}; masked heads and neurons are computed too"
        if zeros:
            return (
                f"{what}; the {zeros} heads that are gone are stored and computed as zeros there, since transformers "
                "has no other number of heads: only fewer neurons and layers make this model smaller and faster"
            )
        return what

    def classifier_profile(self) -> "ClassifierProfile":
        """Labels, positions and tokens."""
        return classifier_layout.describe_profile(self.config, self.path, self.notes)

    def native_tensors(self) -> "Mapping[str, Tensor]":
        """The tensors under the names of the native model's parameters."""
        natives = {name: self.config.native_of(name) for name in self.tensors}
        return {native: self.tensors[name] for name, native in natives.items() if native is not None}
