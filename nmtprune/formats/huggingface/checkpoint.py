"""A translation model of Hugging Face's transformers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtprune.formats.huggingface import config as configs
from nmtprune.formats.huggingface import decoding, language_codes, layout, model_folder
from nmtprune.formats.huggingface.config import Config
from nmtprune.formats.huggingface.folder_checkpoint import FolderCheckpoint
from nmtprune.formats.huggingface.folder_config import FILE
from nmtprune.profile import ModelProfile, SpecialTokens

if TYPE_CHECKING:
    from torch import Tensor

    from nmtprune.formats.settings_beside import DecoderSettings
    from nmtprune.model.search.options import Search
    from nmtprune.network import Network


@dataclass(frozen=True, eq=False, repr=False)
class HuggingFaceCheckpoint(FolderCheckpoint):
    """A translation model of transformers, full or slim."""

    config: Config

    @classmethod
    def parse_config(cls, values: Any, where: str) -> Config:
        """The settings in a file."""
        return configs.parse_config(values, where)

    @classmethod
    def search_options(cls) -> "type[Search]":
        """As ``generate`` names them."""
        from nmtprune.model.search.options import GenerateOptions

        return GenerateOptions

    @classmethod
    def decoder_settings(cls, path: Path, named: Path | None = None) -> "DecoderSettings":
        """What ``generation_config.json`` and the tokenizer's files say."""
        config = configs.parse_config(model_folder.read_config(path), str(path / FILE))
        return decoding.folder_settings(path, config)

    @property
    def notes(self) -> tuple[str, ...]:
        """Also a table that the decoder lacks."""
        lacking = layout.lacks_a_table(self.config, self.tensors)
        if lacking is None:
            return super().notes
        note = (
            f"no {lacking}: the decoder's other table takes its place, as in transformers 4 (transformers 5 "
            "draws it at random)"
        )
        return (note, *super().notes)

    def profile(self) -> ModelProfile:
        """From the settings, and those of the tokenizer of a model with language codes."""
        source, target = self.config.words
        tokenizer = language_codes.tokenizer_of(self.path, self.config)
        languages = self.config.settings.get("langs") or (
            (None, None) if tokenizer is None else (tokenizer.source, tokenizer.target)
        )
        settings, positions = self.config.settings, int(self.config.settings["max_position_embeddings"])
        return ModelProfile(
            source_symbols=source,
            target_symbols=target,
            max_source_positions=positions,
            max_target_positions=positions,
            left_pad_source=False,
            vocabulary_files=True,
            notes=tuple(f"{self.path}: {note}" for note in self.notes),
            special=SpecialTokens(
                settings["pad_token_id"],
                settings["eos_token_id"],
                settings["decoder_start_token_id"],
                () if tokenizer is None else tokenizer.added,
                settings.get("bos_token_id"),
            ),
            source_lang=languages[0],
            target_lang=languages[1],
            language_tokens=None if tokenizer is None else tokenizer.tokens,
            first_word=decoding.folder_search(self.path, self.config)[1].first_word,
        )

    def network(self) -> "Network":
        """What the native model must know beside tensors and numbers of units."""
        from nmtprune.formats.huggingface import network

        return network.describe_network(self.config, self.tensors)

    def native_tensors(self) -> "Mapping[str, Tensor]":
        """The tensors under the names of the native model's parameters."""
        from nmtprune.formats.huggingface import network

        return network.native_tensors(self.config, self.tensors)
