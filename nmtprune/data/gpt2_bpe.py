"""Byte-pair encoding of GPT-2 as fairseq has it: texts become numbers of ``encoder.json``, words of dictionaries."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from nmtprune import strictjson
from nmtprune.data.text import first_of, read_text
from nmtprune.errors import DataError
from nmtprune.strictjson import is_int


class Gpt2Segmenter:
    """What ``--bpe gpt2`` makes of texts.

    Attributes:
        path: the merges, ``vocab.bpe``.
        sha256: of both files.
    """

    def __init__(self, encoder_json: Path, vocab_bpe: Path) -> None:
        """Read both files.

        Raises:
            DataError: one cannot be read, or is not of this kind; all faults of the file.
            EngineError: the package tokenizers is not installed.
        """
        from nmtprune.data.huggingface_tokenizer import tokenizers_package

        package = tokenizers_package()
        merges, encoder = read_text(vocab_bpe), read_text(encoder_json)
        pairs = [*_pairs(vocab_bpe, merges.lines)]
        numbers = _numbers(encoder_json)
        lacking = [f"'{each}' of {vocab_bpe.name}" for each in _symbols(pairs) if each not in numbers]
        if lacking:
            raise DataError.of_faults(f"{encoder_json}: has no number for", first_of(lacking))
        self.path = vocab_bpe
        self.sha256 = hashlib.sha256(f"{encoder.sha256} {merges.sha256}".encode()).hexdigest()
        self.inputs = {str(encoder_json): encoder.sha256, str(vocab_bpe): merges.sha256}
        self._tokenizer: Any = package.Tokenizer(package.models.BPE(vocab=numbers, merges=pairs))
        self._tokenizer.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)

    def encode(self, text: str) -> str:
        """Numbers of the pieces of a text, separated by blanks."""
        return " ".join(map(str, self._tokenizer.encode(text, add_special_tokens=False).ids))


def _pairs(path: Path, lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The merges of a file, less its first line, which has the version."""
    faults = []
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if number == 1 or not line:
            continue
        if len(fields) != 2:
            faults.append(f"line {number}: '{line[:40]}' is not two symbols")
        else:
            yield fields[0], fields[1]
    if faults:
        raise DataError.of_faults(f"{path}: no merges of GPT-2's byte-pair encoding", first_of(faults))


def _numbers(path: Path) -> dict[str, int]:
    """Number of each symbol."""
    found = strictjson.loads(strictjson.read(path, DataError), str(path), DataError)
    if not isinstance(found, dict) or not found or not all(is_int(number) and number >= 0 for number in found.values()):
        raise DataError(f"{path}: no numbers of symbols (encoder.json of GPT-2)")
    return dict(found)


def _symbols(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    for first, second in pairs:
        yield from (first, second, first + second)
