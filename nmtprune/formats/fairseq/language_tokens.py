"""Language tokens of fairseq's multilingual tasks: which symbols their dictionaries get, and where these stand.

As `fairseq.data.multilingual.multilingual_data_manager` and `fairseq.tasks.translation_from_pretrained_bart` have it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from nmtprune.formats.fairseq.containers import fields, is_off, quoted, truth
from nmtprune.profile import LanguageTokens

MULTI = "translation_multi_simple_epoch"
BART = "translation_from_pretrained_bart"
TASKS = (MULTI, BART)

_STYLES = {"multilingual": "__{}__", "mbart": "[{}]"}
_MASK = "<mask>"
_DENOISING = "mono_dae"


def language_tokens(task: Mapping[str, Any]) -> LanguageTokens | None:
    """Language tokens of a task, whose settings have no `faults`; None for a task without."""
    name = task.get("_name")
    if name == BART:
        pair = task.get("source_lang"), task.get("target_lang")
        languages = _listed(task.get("langs")) or ()
        directions = ((str(pair[0]), str(pair[1])),) if all(pair) else ()
        form = _STYLES["mbart"]
        return LanguageTokens(
            languages, None, (form,), (_MASK,), form, "source", form, "behind", directions, _models(name)
        )  # fmt: skip
    if name != MULTI:
        return None
    style = str(task.get("lang_tok_style") or "multilingual")
    source, target = _places(task)
    pairs = _pairs(task)
    masked = style == "mbart" or _DENOISING in (fields(task.get("extra_data")) or {})
    return LanguageTokens(
        languages=_languages(task),
        languages_file=_file(task),
        forms=tuple(_form(style, spec) for spec in _listed(task.get("langtoks_specs")) or ("main",)),
        others=(_MASK,) if masked else (),
        source=_form(style, source) if source else None,
        source_side="source" if str(source).startswith("src") else "target",
        target=_form(style, target) if target else None,
        place="ends" if truth(task.get("lang_tok_replacing_bos_eos"), False) else "front",
        directions=pairs,
        models=_models(name),
    )


def _models(name: Any) -> str:
    return f"models of the task '{name}'"


def faults(task: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the settings of a task with language tokens."""
    if task.get("_name") == BART:
        if not _listed(task.get("langs")):
            yield f"langs is {quoted(task.get('langs'))}: no languages, whose tokens the dictionaries get"
        return
    if not _file(task) and not _languages(task):
        yield "neither langs nor lang_dict nor lang_pairs name the languages, whose tokens the dictionaries get"
    style = task.get("lang_tok_style") or "multilingual"
    if style not in _STYLES:
        yield f"lang_tok_style {quoted(style)} (fairseq has {' and '.join(_STYLES)})"
    if any(not isinstance(spec, str | None) for spec in _places(task)):
        yield f"langtoks {quoted(task.get('langtoks'))}: no places of language tokens for 'main'"


def _languages(task: Mapping[str, Any]) -> tuple[str, ...] | None:
    """In the order of their tokens; None where a file lists them."""
    if _file(task):
        return None
    return _listed(task.get("langs")) or tuple(sorted({language for pair in _pairs(task) for language in pair}))


def _file(task: Mapping[str, Any]) -> str | None:
    """Name of the file that lists the languages."""
    path = task.get("lang_dict")
    return path if isinstance(path, str) and path else None


def _places(task: Mapping[str, Any]) -> tuple[Any, Any]:
    """What source and target of plain translations have: ``src``, ``tgt``, ``src.mined``, ...; None: nothing."""
    given = (fields(task.get("langtoks")) or {}).get("main")
    if isinstance(given, list | tuple) and len(given) == 2:
        return given[0] or None, given[1] or None
    encoder = task.get("encoder_langtok")
    return (None if is_off(encoder) else encoder), ("tgt" if truth(task.get("decoder_langtok"), False) else None)


def _form(style: str, spec: str) -> str:
    """How a language becomes a token."""
    kind = next((kind for kind in ("dae", "mined") if spec.endswith(kind)), None)
    return _STYLES.get(style, "{}").format("{}" if kind is None else f"{{}}_{kind}")


def _pairs(task: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    pairs = (pair.split("-") for pair in _listed(task.get("lang_pairs")) or ())
    return tuple((pair[0], pair[1]) for pair in pairs if len(pair) > 1)


def _listed(value: Any) -> tuple[str, ...] | None:
    """A list, which old checkpoints hold as text with commas."""
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(map(str, parts)) if isinstance(parts, list | tuple) and parts else None
