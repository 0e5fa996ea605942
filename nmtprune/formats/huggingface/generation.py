"""How a folder wants its model to be searched: ``generation_config.json``, or old files' settings of the model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nmtprune.errors import CheckpointError
from nmtprune.strictjson import is_int, show

FILE = "generation_config.json"

_USED = ("num_beams", "length_penalty", "max_length", "max_new_tokens", "min_length", "early_stopping",
         "forced_eos_token_id", "bad_words_ids", "suppress_tokens", "renormalize_logits")  # fmt: skip
_OFF: Mapping[str, Any] = {
    "do_sample": False,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_new_tokens": None,
    "force_words_ids": None,
    "constraints": None,
    "forced_bos_token_id": None,
    "sequence_bias": None,
    "begin_suppress_tokens": None,
    "exponential_decay_length_penalty": None,
    "penalty_alpha": None,
    "forced_decoder_ids": None,
    "stop_strings": None,
    "max_time": None,
    "guidance_scale": None,
}
"""Settings with which ``generate`` may write other texts than nmtprune, and the values with which it does not."""

_OTHER = """
    _from_model_config bos_token_id cache_implementation decoder_start_token_id epsilon_cutoff eos_token_id
    eta_cutoff finetuning_task low_memory num_return_sequences output_attentions output_hidden_states output_scores
    pad_token_id prefix remove_invalid_values return_dict_in_generate task_specific_params
    temperature tf_legacy_loss tie_encoder_decoder top_k top_p torchscript transformers_version typical_p
    use_bfloat16 use_cache
"""

_WITHOUT_EFFECT = frozenset(_OTHER.split())

NAMES = frozenset((*_USED, *_OFF)) | _WITHOUT_EFFECT
"""Settings of the search, all of which old versions keep in ``config.json``."""


def single_id(value: Any) -> Any:
    """The id in a list of one, which transformers takes for the id itself; any other value as it is."""
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


@dataclass(frozen=True)
class FolderSearch:
    """A search.

    Attributes:
        search: options that are set, by the names of `GenerateOptions`.
        notes: what is ignored, and what else a user should know.
        first_word: id of the token that every translation begins with, of models with languages.
    """

    search: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    first_word: int | None = None


def parse_search(
    values: Mapping[str, Any], eos: int, words: int, where: str, *, languages: bool = False
) -> FolderSearch:
    """The search that settings ask for.

    Args:
        values: of ``generation_config.json``, or of ``config.json`` where there is no such file.
        eos: id of the end-of-sentence symbol.
        words: rows of the target embeddings.
        where: the file.
        languages: the first word is the code of the target language, which ``forced_bos_token_id`` names if no user
            does.

    Raises:
        CheckpointError: values that no search can have; all of them.
    """
    given = {name: value for name, value in values.items() if value is not None}
    faults = list(_faults(given)) or list(_id_faults(given, eos, words))
    if faults:
        raise CheckpointError.of_faults(where, faults)
    search: dict[str, Any] = {"forced_eos": given.get("forced_eos_token_id") in (eos, [eos])}
    for name, option in (("num_beams", "beam"), ("length_penalty", "length_penalty"), ("min_length", "min_length")):
        if name in given:
            search[option] = given[name]
    if "early_stopping" in given:
        search["early_stopping"] = str(given["early_stopping"]).lower()
    if "max_new_tokens" in given:
        search["max_length"] = given["max_new_tokens"] + 1
    elif "max_length" in given:
        search["max_length"] = given["max_length"]
    search["never"] = tuple(_never(given, eos))
    search["renormalize"] = given.get("renormalize_logits", False)
    first = single_id(given.pop("forced_bos_token_id", None)) if languages else None
    return FolderSearch(search, tuple(_notes(given, eos, where)), first)


def _faults(given: Mapping[str, Any]) -> Iterator[str]:
    for name, least in (("num_beams", 1), ("max_length", 2), ("max_new_tokens", 1), ("min_length", 0)):
        value = given.get(name, least)
        if not is_int(value) or value < least:
            yield f"{name} is {show(value)}, no whole number from {least}"
    penalty = given.get("length_penalty", 1.0)
    if isinstance(penalty, bool) or not isinstance(penalty, int | float):
        yield f"length_penalty is {show(penalty)}, no number"
    renormalize = given.get("renormalize_logits", False)
    if not isinstance(renormalize, bool):
        yield f"renormalize_logits is {show(renormalize)}, neither true nor false"
    stopping = given.get("early_stopping", False)
    if not isinstance(stopping, bool) and stopping != "never":
        yield f'early_stopping is {show(given["early_stopping"])}, not true, false or "never"'
    if not all(isinstance(word, list) and word and all(map(is_int, word)) for word in _words(given)):
        yield f"bad_words_ids is {show(given['bad_words_ids'])}, no list of lists of token ids"
    tokens = given.get("suppress_tokens", [])
    if not isinstance(tokens, list) or not all(map(is_int, tokens)):
        yield f"suppress_tokens is {show(tokens)}, no list of token ids"
    first = single_id(given.get("forced_bos_token_id", 0))
    if not is_int(first):
        yield f"forced_bos_token_id is {show(first)}, no id of a token"


def _id_faults(given: Mapping[str, Any], eos: int, words: int) -> Iterator[str]:
    """Barred tokens that the model does not have, and an end that is barred.

    ``generate`` drops the end from ``bad_words_ids``, and obeys ``suppress_tokens``: no translation would end.
    """
    barred = {"bad_words_ids": sum(_words(given), []), "suppress_tokens": given.get("suppress_tokens", [])}
    first = [single_id(given["forced_bos_token_id"])] if "forced_bos_token_id" in given else []
    for name, ids in {**barred, "forced_bos_token_id": first}.items():
        outside = [id for id in ids if not 0 <= id < words]
        if outside:
            yield f"{name} has the id {outside[0]}, the model has {words} words"
    if eos in barred["suppress_tokens"]:
        yield f"suppress_tokens has the id {eos} of the end of a sentence: no translation could end"


def _words(given: Mapping[str, Any]) -> list[Any]:
    words = given.get("bad_words_ids", [])
    return words if isinstance(words, list) else [words]


def _never(given: Mapping[str, Any], eos: int) -> Iterator[int]:
    """Single tokens that are never chosen; the end of a sentence can always be."""
    single = [word[0] for word in _words(given) if len(word) == 1]
    yield from (token for token in dict.fromkeys([*single, *given.get("suppress_tokens", [])]) if token != eos)


def _notes(given: Mapping[str, Any], eos: int, where: str) -> Iterator[str]:
    ignored = [f"{name} {show(given[name])}" for name, off in _OFF.items() if name in given and given[name] != off]
    longer = [word for word in _words(given) if len(word) > 1]
    ignored += [f"bad_words_ids of several tokens ({len(longer)} of them)"] if longer else []
    forced = given.get("forced_eos_token_id")
    ignored += [] if forced in (None, eos, [eos]) else [f"forced_eos_token_id {show(forced)}"]
    if ignored:
        yield f"{where}: ignored: {', '.join(ignored)} (generate may translate otherwise with them)"
    if not {"max_length", "max_new_tokens"} & given.keys():
        yield (
            f"{where}: no max_length: translations may be as long as the model has positions (generate itself would "
            "stop at 20 tokens)"
        )
