"""What a fairseq model asks of its sentences, from its tensors and the settings of the task it was trained for."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nmtprune.errors import CheckpointError
from nmtprune.formats.fairseq.values import truth
from nmtprune.profile import ModelProfile

if TYPE_CHECKING:
    from nmtprune.formats.base import Checkpoint


def describe(checkpoint: "Checkpoint", task: Mapping[str, Any]) -> ModelProfile:
    """Sizes of the vocabularies, longest sentences, languages and padding of a translation model.

    Args:
        checkpoint: the model.
        task: settings of its task.

    Raises:
        CheckpointError: a language model: it has no source side.
    """
    if not checkpoint.architecture.of_kind("encoder") and not checkpoint.architecture.of_kind("cross"):
        raise CheckpointError(f"{checkpoint.path}: a language model: it has no source sentence to translate")
    source, target = (_words(checkpoint, side) for side in ("encoder", "decoder"))
    positions = _positions(checkpoint)
    return ModelProfile(
        source_symbols=source,
        target_symbols=target,
        source_lang=_language(task.get("source_lang")),
        target_lang=_language(task.get("target_lang")),
        max_source_positions=positions[0],
        max_target_positions=positions[1],
        left_pad_source=truth(task.get("left_pad_source"), True),
        left_pad_target=truth(task.get("left_pad_target"), False),
        truncate_source=_truncation(task, positions[0]) if truth(task.get("truncate_source"), False) else None,
        notes=tuple(f"{checkpoint.path}: {note}" for note in checkpoint.notes),
    )


def _language(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _words(checkpoint: "Checkpoint", side: str) -> int | None:
    """Rows of a table of embeddings; None for adaptive ones, whose bands are several tables."""
    table = checkpoint.model_tensors.get(f"{side}.embed_tokens.weight")
    return None if table is None else table.shape[0]


def _positions(checkpoint: "Checkpoint") -> tuple[int | None, int | None]:
    """Longest source and target sentence; unknown for a network that only its own toolkit can describe."""
    try:
        network = checkpoint.network()
    except CheckpointError:
        return None, None
    return network.encoder.max_positions if network.encoder else None, network.decoder.max_positions


def _truncation(task: Mapping[str, Any], positions: int | None) -> int | None:
    """Tokens that longer sources are cut to: the limit of the task, which may be below that of the model."""
    limits = [limit for limit in (task.get("max_source_positions"), positions) if isinstance(limit, int)]
    return min(limits, default=None)
