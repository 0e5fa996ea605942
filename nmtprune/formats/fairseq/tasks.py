"""fairseq's tasks: whose sentences nmtprune makes as the task does, and why those of the others are something else."""

from collections.abc import Mapping
from typing import Any

from nmtprune.formats.fairseq import fields
from nmtprune.formats.fairseq.values import show

TRANSLATION = "translation"

SUPPORTED: Mapping[str, str] = {
    TRANSLATION: "sentences of one language pair",
    "translation_l0": "likewise, with gates on the heads (nmtprune l0)",
    "language_modeling": "language models are inspected and cut, and given no texts",
}
"""Tasks that nmtprune knows."""

_SEVERAL = "multilingual or with several models"
_NO_TEXT = "not text to text"

REFUSED: Mapping[str, str] = {
    "multilingual": _SEVERAL,
    "translation_multi_simple_epoch": _SEVERAL,
    "semisupervised_translation": _SEVERAL,
    "online_backtranslation": _SEVERAL,
    "cross_lingual_lm": _SEVERAL,
    "translation_from_pretrained_bart": "a language token ends every sentence",
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


def faults(task: Mapping[str, Any]) -> list[str]:
    """Why models of a task are not supported: the task itself, or fields of it."""
    name = task.get("_name")
    reason = next((why for start, why in REFUSED.items() if isinstance(name, str) and name.startswith(start)), None)
    if reason is not None and name not in SUPPORTED:
        return [f"task {show(name)} ({reason}): models of the task 'translation' are supported, for one language pair"]
    return fields.task_faults(task)


def note(task: Mapping[str, Any]) -> str | None:
    """A remark on a task that fairseq does not have, which a user's own code may have changed the sentences with."""
    name = task.get("_name")
    if name is None or name in SUPPORTED:
        return None
    return f"task {show(name)} is not one of fairseq's: its sentences are taken for those of the task 'translation'"
