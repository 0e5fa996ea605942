"""What a file is that was named as a subword model and is none."""

import re
from pathlib import Path

from nmtprune.files.kinds import SENTENCEPIECE, describe

_SHOWN = 200
_MERGE = r"\S+ \S+( \d+)?"
_BYTE_LEVEL = "Ġ"
_MOSTLY_BYTE_LEVEL = 0.2


def what_it_is(path: Path, stored: bytes, option: str) -> str | None:
    """The kind of a file by its content, and what to do with it; None where it is nothing known.

    SENTENCEPIECE alone for what begins as such a model, and cannot be loaded.

    Args:
        path: its name.
        stored: its bytes.
        option: that named it, for which it is not the right file.
    """
    other = describe(path)
    if other is not None and SENTENCEPIECE not in other:
        return f"it {other}"
    found = _kind(path, stored)
    if found is not None and not found.endswith(option):
        return found
    return None if other is None else SENTENCEPIECE


def _kind(path: Path, stored: bytes) -> str | None:
    try:
        lines = stored.decode("utf-8-sig").splitlines()[:_SHOWN]
    except UnicodeDecodeError:
        return "it is a SentencePiece model: name it with --sentencepiece" if is_sentencepiece(stored) else None
    if stored.startswith((b"{", b"[")):
        return "it is JSON"
    if not lines:
        return None
    pieces = f"it is a list of SentencePiece's pieces: name the model, {path.with_suffix('.model').name}"
    words = "it is a list of words with their counts, such as fairseq's dictionaries"
    codes = "it holds BPE codes: name it with --bpe-codes"
    forms = {r".*\t-?[\d.e+-]+": pieces, r".+: \d+": "it is a vocabulary", r"\S+ \d+\s*": words, _MERGE: codes}
    if lines[0].startswith("#version:"):
        return codes
    return next((kind for form, kind in forms.items() if all(re.fullmatch(form, line) for line in lines)), None)


def is_sentencepiece(stored: bytes) -> bool:
    """Whether the bytes are a SentencePiece model."""
    import sentencepiece

    try:
        return bool(stored) and bool(sentencepiece.SentencePieceProcessor().LoadFromSerializedProto(stored))
    except RuntimeError:
        return False


def is_count(line: str) -> bool:
    """Whether a line is a word and its count, the form of dictionaries."""
    return re.fullmatch(r"\S+ \d+", line.rstrip()) is not None


def is_byte_level(merges: list[list[str]]) -> bool:
    """Whether merge operations are of byte-level BPE, which writes a blank as a letter of its own."""
    return sum(merge[0].startswith(_BYTE_LEVEL) for merge in merges) > _MOSTLY_BYTE_LEVEL * len(merges)
