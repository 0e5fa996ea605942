"""What a checkpoint asks of the sentences that are fed to it."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from nmtprune.data.options import ModelProfile
from nmtprune.errors import CheckpointError

if TYPE_CHECKING:
    from nmtprune.formats.base import Checkpoint
    from nmtprune.formats.fairseq import FairseqCheckpoint


def profile(checkpoint: "Checkpoint") -> ModelProfile:
    """Sizes of the vocabularies, longest sentences, languages and padding of a translation model.

    Raises:
        CheckpointError: a language model: it has no source side.
    """
    return _PROFILES[checkpoint.format](checkpoint)


def _fairseq(checkpoint: "Checkpoint") -> ModelProfile:
    """From the tensors, and the settings of the task that the model was trained for."""
    from nmtprune.formats.fairseq.values import truth

    task: Mapping[str, Any] = cast("FairseqCheckpoint", checkpoint).section("task")
    if not checkpoint.architecture.of_kind("encoder") and not checkpoint.architecture.of_kind("cross"):
        raise CheckpointError(f"{checkpoint.path}: a language model: it has no source sentence to translate")
    source, target = (_words(checkpoint, side) for side in ("encoder", "decoder"))
    positions = _positions(checkpoint)
    return ModelProfile(
        source_symbols=source,
        target_symbols=target,
        source_lang=task.get("source_lang") or None,
        target_lang=task.get("target_lang") or None,
        max_source_positions=positions[0],
        max_target_positions=positions[1],
        left_pad_source=truth(task.get("left_pad_source"), True),
        left_pad_target=truth(task.get("left_pad_target"), False),
        truncate_source=_truncation(task, positions[0]) if truth(task.get("truncate_source"), False) else None,
        notes=tuple(f"{checkpoint.path}: {note}" for note in checkpoint.notes),
    )


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


def _marian(checkpoint: "Checkpoint") -> ModelProfile:
    """From the tables alone: a Marian model knows neither its vocabularies nor a longest sentence."""
    tables = checkpoint.model_tensors
    source, target = (tables.get(f"{side}_Wemb", tables.get("Wemb")) for side in ("encoder", "decoder"))
    sizes = [None if table is None else int(table.shape[0]) for table in (source, target)]
    return ModelProfile(
        source_symbols=sizes[0],
        target_symbols=sizes[1],
        left_pad_source=False,
        marian=True,
        right_to_left=checkpoint.right_to_left,
    )


_PROFILES: Mapping[str, Callable[["Checkpoint"], ModelProfile]] = {"fairseq": _fairseq, "marian": _marian}
