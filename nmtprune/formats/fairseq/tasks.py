"""The task and the criterion of a training: with which sentences, and with what loss, a model can be used.

nmtprune makes sentences as the supported tasks do; those of the others are something else.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtprune.errors import CheckpointError
from nmtprune.formats.fairseq import fields, language_tokens
from nmtprune.formats.fairseq.containers import quoted, truth
from nmtprune.profile import ModelProfile

if TYPE_CHECKING:
    from nmtprune.formats.base import Checkpoint

TRANSLATION = "translation"

SUPPORTED: Mapping[str, str] = {
    TRANSLATION: "sentences of one language pair",
    "translation_l0": "likewise, with gates on the heads (nmtprune l0)",
    language_tokens.MULTI: "several languages, which tokens name; `-s` and `-t` name the direction",
    language_tokens.BART: "one language pair, whose tokens end its sentences",
    "language_modeling": "language models are inspected and cut, and given no texts",
}
"""Tasks that nmtprune knows."""

PREDICTION = "sentence_prediction"

OF_ENCODERS: Mapping[str, str] = {
    PREDICTION: "labels of texts or pairs of texts, by a classification head",
    "masked_lm": "masked words of texts (pre-training)",
    "multilingual_masked_lm": "likewise, of several languages",
}
"""Tasks of RoBERTa's class that nmtprune knows."""

_SEVERAL = "multilingual or with several models"
_NO_TEXT = "not text to text"

REFUSED: Mapping[str, str] = {
    "multilingual_translation": "an encoder and a decoder of its own for each language or direction",
    "multilingual": _SEVERAL,
    f"{language_tokens.MULTI}_": "a variant of fairseq's task, with language tokens of its own",
    "semisupervised_translation": _SEVERAL,
    "online_backtranslation": _SEVERAL,
    "cross_lingual_lm": _SEVERAL,
    "translation_from_pretrained_xlm": "its dictionaries have other special symbols",
    "translation_lev": "not autoregressive",
    "denoising": "masked sentences",
    "span_masked_lm": "masked sentences",
    "masked_lm": "masked sentences",
    "legacy_masked_lm": "masked sentences",
    "sentence_prediction": "labels of sentences",
    "sentence_ranking": "labels of sentences",
    "nlu_finetuning": "labels of sentences",
    "simul_": "translation before the source ends",
    "audio_": _NO_TEXT,
    "hubert_pretraining": _NO_TEXT,
    "speech_": _NO_TEXT,
    "text_to_speech": _NO_TEXT,
    "frm_text_to_speech": _NO_TEXT,
}
"""How names of fairseq's other tasks begin -> what keeps nmtprune from handling their models."""

_UNSMOOTHED = ("cross_entropy", "adaptive_loss")


def task_refusals(task: Mapping[str, Any], *, encoder: bool = False) -> list[str]:
    """Why models of a task are not supported: the task itself, or fields of it.

    Args:
        task: its settings.
        encoder: of a model of RoBERTa's class.
    """
    name = task.get("_name")
    reason = next((why for start, why in REFUSED.items() if isinstance(name, str) and name.startswith(start)), None)
    if encoder and name in SUPPORTED:
        reason = "of models with a decoder"
    known: Mapping[str, str] = OF_ENCODERS if encoder else SUPPORTED
    if reason is not None and name not in known:
        names = ", ".join(name for name in known if encoder or name.startswith(TRANSLATION))
        return [f"task {quoted(name)} ({reason}): models of these tasks are supported: {names}"]
    own = list(language_tokens.faults(task)) if name in language_tokens.TASKS else []
    return own + fields.task_faults(task)


def task_note(task: Mapping[str, Any], *, encoder: bool = False) -> str | None:
    """A remark on a task that fairseq does not have, which a user's own code may have changed the sentences with."""
    name = task.get("_name")
    if name is None or name in (OF_ENCODERS if encoder else SUPPORTED):
        return None
    like = PREDICTION if encoder else TRANSLATION
    return f"task {quoted(name)} is not one of fairseq's: its sentences are taken for those of the task '{like}'"


def label_smoothing(criterion: Mapping[str, Any], path: Path) -> float:
    """Label smoothing of a criterion; 0 for a loss without, or where its settings do not tell.

    Raises:
        CheckpointError: what they say is no number from 0 to below 1.
    """
    # A legacy file has one set of settings for all parts: what the criterion did not ask for may be there all the same.
    found = None if criterion.get("_name") in _UNSMOOTHED else criterion.get("label_smoothing")
    try:
        value = 0.0 if found is None else float(found)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value < 1:
        raise CheckpointError(
            f"{path}: label_smoothing is {found!r}, not a number from 0 to below 1: give `label_smoothing`"
        )
    return value


def check_criterion(criterion: Mapping[str, Any], path: Path) -> None:
    """Check that a criterion is the loss of whole references, which is what nmtprune computes.

    Raises:
        CheckpointError: it leaves out the first words of every reference.
    """
    left_out = criterion.get("ignore_prefix_size")
    if left_out:
        raise CheckpointError(
            f"{path}: ignore_prefix_size {left_out!r}: its loss leaves out the first words of every "
            "reference, which nmtprune counts: use BLEU or chrF"
        )


def profile_of(checkpoint: "Checkpoint", task: Mapping[str, Any]) -> ModelProfile:
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
        language_tokens=language_tokens.language_tokens(task),
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
