"""What the files beside a model say of how it is to be run."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class DecoderSettings(ABC):
    """Settings of a toolkit's decoder for a model.

    Attributes:
        file: where they stand; None where there are none.
        vocabs: source and target vocabulary; None where they are not named.
        search: options of the search that are set, by the names of the native search.
        crop: tokens that longer sources are cut to, the end-of-sentence symbol included; None cuts nothing.
        subwords: SentencePiece models or merges of byte-pair encoding (``.txt``) of source and target that lie in the
            folder and split text for vocabularies that are lists of symbols; None for those that are not there.
        notes: what is ignored, and what else a user should know.
    """

    file: Path | None = None
    vocabs: tuple[Path, Path] | None = None
    search: Mapping[str, Any] = field(default_factory=dict)
    crop: int | None = None
    subwords: tuple[Path | None, Path | None] = (None, None)
    notes: tuple[str, ...] = ()

    @abstractmethod
    def needed_vocabs(self, model: Path) -> tuple[Path, Path]:
        """The vocabularies of a model for which the user names none.

        Raises:
            UsageError: the settings name none either.
            DataError: those that they name are not there.
        """
