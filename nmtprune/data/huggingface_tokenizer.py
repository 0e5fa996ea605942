"""The tokenizer in the folder of a classifier of transformers: texts and pairs to framed token ids.

What AutoTokenizer of transformers 5 makes of a folder, by the same package (tokenizers): WordPiece as BERT has it, and
the byte-level pair encoding of RoBERTa.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from nmtprune import strictjson
from nmtprune.data.ragged import Sentences
from nmtprune.errors import DataError, EngineError

_ALL = "tokenizer.json"
_SETTINGS, _SPECIAL_SETTINGS = "tokenizer_config.json", "special_tokens_map.json"
_WORDPIECE_FILES, _BPE_FILES = ("vocab.txt",), ("vocab.json", "merges.txt")
_WORDPIECE, _BPE = "WordPiece", "BPE"
_CLASSES = {"BertTokenizer": _WORDPIECE, "DistilBertTokenizer": _WORDPIECE, "RobertaTokenizer": _BPE}
_AS_IT_IS = ("PreTrainedTokenizer", "TokenizersBackend")
_SPECIAL = {
    _WORDPIECE: {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]",
                 "mask_token": "[MASK]"},
    _BPE: {"bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>", "unk_token": "<unk>",
           "pad_token": "<pad>", "mask_token": "<mask>"},
}  # fmt: skip
"""Special tokens of the classes, where no settings name others."""
_PIECE = 2048
"""Texts that are encoded together."""


def tokenizers_package() -> ModuleType:
    """The package tokenizers with the modules that tokenizers are built of.

    Raises:
        EngineError: it is not installed.
    """
    try:
        import tokenizers
        import tokenizers.models
        import tokenizers.normalizers
        import tokenizers.pre_tokenizers
        import tokenizers.processors
    except ImportError as error:
        raise EngineError("the package tokenizers is not installed: pip install 'nmtprune[hf]'") from error
    return tokenizers


@dataclass(frozen=True)
class Encoded:
    """Framed token ids of texts, and the segment of each token."""

    tokens: Sentences
    segments: Sentences


class HuggingFaceTokenizer:
    """The tokenizer of a folder.

    Attributes:
        inputs: SHA-256 by path of every file read.
        notes: remarks on the files.
    """

    def __init__(self, folder: Path) -> None:
        """Read the files of the tokenizer.

        Raises:
            DataError: there are none, they are damaged, or of a kind that is not supported.
            EngineError: the package tokenizers is not installed.
        """
        self._package = tokenizers_package()
        self._folder = folder
        self.inputs: dict[str, str] = {}
        self.notes: list[str] = []
        self._settings = {**self._json(_SPECIAL_SETTINGS), **self._json(_SETTINGS)}
        self._tokenizer: Any = self._read()
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def encode(self, texts: Sequence[Sequence[str]], most: int | None = None) -> Encoded:
        """Ids of texts or pairs with the tokens around them.

        Args:
            texts: one column of texts, or two of the same length for pairs.
            most: tokens that longer ones are cut to, of a pair from the longer text first; None cuts none.

        Raises:
            DataError: so few tokens leave no room for a text.
        """
        if most is not None and most < self._tokenizer.num_special_tokens_to_add(len(texts) > 1) + len(texts):
            raise DataError(f"{self._folder}: the model's {most} positions leave no room for texts")
        if most is None:
            self._tokenizer.no_truncation()
        else:
            self._tokenizer.enable_truncation(max_length=most, strategy="longest_first")
        tokens, segments = [], []
        rows = texts[0] if len(texts) == 1 else list(zip(*texts, strict=True))
        for first in range(0, len(rows), _PIECE):
            for found in self._tokenizer.encode_batch(rows[first : first + _PIECE]):
                tokens.append(np.array(found.ids, dtype=np.int64))
                segments.append(np.array(found.type_ids, dtype=np.int64))
        return Encoded(Sentences.of(tokens), Sentences.of(segments))

    def _read(self) -> Any:
        """The tokenizer as AutoTokenizer has it."""
        name = str(self._settings.get("tokenizer_class") or "").removesuffix("Fast")
        if name and name not in (*_CLASSES, *_AS_IT_IS):
            supported = ", ".join(_CLASSES)
            raise DataError(f"{self._folder / _SETTINGS}: tokenizer_class {name} is not supported (of {supported} is)")
        tokenizer = self._stored()
        kind = type(tokenizer.model).__name__
        if kind not in (_WORDPIECE, _BPE):
            raise DataError(f"{self._folder / _ALL}: a tokenizer of the kind {kind}: WordPiece and BPE are supported")
        if name in _CLASSES and _CLASSES[name] != kind:
            raise DataError(f"{self._folder}: a {kind} tokenizer, but {_SETTINGS} has tokenizer_class {name}")
        if name not in _AS_IT_IS:
            self._add_special(tokenizer, kind)
            (self._as_bert if kind == _WORDPIECE else self._as_roberta)(tokenizer)
        return tokenizer

    def _stored(self) -> Any:
        """What tokenizer.json has, or else a tokenizer of the vocabulary."""
        models = self._package.models
        path = self._folder / _ALL
        try:
            if path.exists():
                content = self._content(path)
                return self._package.Tokenizer.from_str(content)
            wordpiece, bpe = ([self._folder / name for name in names] for names in (_WORDPIECE_FILES, _BPE_FILES))
            if all(path.exists() for path in wordpiece):
                lines = self._content(wordpiece[0]).removesuffix("\n").split("\n")
                vocab = {token.removesuffix("\r"): number for number, token in enumerate(lines)}
                unknown = self._special(_WORDPIECE)["unk_token"]
                return self._package.Tokenizer(models.WordPiece(vocab, unk_token=unknown))
            if all(path.exists() for path in bpe):
                for each in bpe:
                    self._content(each)
                return self._package.Tokenizer(models.BPE.from_file(*map(str, bpe), fuse_unk=False))
        except Exception as error:  # tokenizers raises plain Exception for every fault of a file
            if isinstance(error, DataError):
                raise
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"{self._folder}: files of a tokenizer that are damaged: {reason}") from error
        wanted = f"{_ALL}, {_WORDPIECE_FILES[0]}, or {' and '.join(_BPE_FILES)}"
        raise DataError(f"{self._folder}: has no tokenizer ({wanted}): copy the files of the model's tokenizer there")

    def _as_bert(self, tokenizer: Any) -> None:
        """What BertTokenizer of transformers does, whatever the file says."""
        package, settings = self._package, self._settings
        made = package.normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
            strip_accents=settings.get("strip_accents"),
            lowercase=settings.get("do_lower_case", True),
        )
        self._remark(tokenizer.normalizer, made, "lower case, accents and Chinese characters")
        tokenizer.normalizer = made
        tokenizer.pre_tokenizer = package.pre_tokenizers.BertPreTokenizer()
        first, end = (self._special(_WORDPIECE)[name] for name in ("cls_token", "sep_token"))
        tokenizer.post_processor = package.processors.TemplateProcessing(
            single=f"{first}:0 $A:0 {end}:0",
            pair=f"{first}:0 $A:0 {end}:0 $B:1 {end}:1",
            special_tokens=[(token, self._id(tokenizer, token)) for token in (first, end)],
        )

    def _as_roberta(self, tokenizer: Any) -> None:
        """What RobertaTokenizer of transformers does, whatever the file says."""
        prefix, trim = self._settings.get("add_prefix_space", False), self._settings.get("trim_offsets", True)
        made = self._package.pre_tokenizers.ByteLevel(add_prefix_space=prefix)
        self._remark(tokenizer.pre_tokenizer, made, "blanks in front of texts")
        tokenizer.normalizer = None
        tokenizer.pre_tokenizer = made
        end, first = (self._special(_BPE)[name] for name in ("sep_token", "cls_token"))
        tokenizer.post_processor = self._package.processors.RobertaProcessing(
            (end, self._id(tokenizer, end)), (first, self._id(tokenizer, first)), trim, prefix
        )

    def _remark(self, stored: Any, made: Any, what: str) -> None:
        """Say that transformers 5 takes its settings where tokenizer.json has others."""
        if stored is not None and _state(stored) != _state(made):
            self.notes.append(
                f"{self._folder}: {_ALL} and {_SETTINGS} differ in what they do with {what}: transformers 5 follows "
                f"{_SETTINGS}, and so does nmtprune"
            )

    def _id(self, tokenizer: Any, token: str) -> int:
        found = tokenizer.token_to_id(token)
        if found is None:
            raise DataError(f"{self._folder}: the vocabulary has no '{token}', which stands around every text")
        return int(found)

    def _add_special(self, tokenizer: Any, kind: str) -> None:
        """Make special tokens of a text these tokens, as transformers does."""
        for content, options in self._added(kind):
            if content in {token.content for token in tokenizer.get_added_tokens_decoder().values()}:
                continue
            if tokenizer.token_to_id(content) is None:
                raise DataError(f"{self._folder}: the vocabulary has no '{content}', which {_SETTINGS} names")
            tokenizer.add_tokens([self._package.AddedToken(content, **options)])

    def _added(self, kind: str) -> Iterator[tuple[str, Mapping[str, bool]]]:
        flags = ("lstrip", "rstrip", "normalized", "single_word", "special")
        listed = self._settings.get("added_tokens_decoder") or {}
        for _, own in sorted(listed.items(), key=lambda each: int(each[0])):
            yield own["content"], {name: own[name] for name in flags if name in own}
        for name, content in self._special(kind).items():
            own = self._settings.get(name)
            options = {flag: own[flag] for flag in flags if flag in own} if isinstance(own, Mapping) else {}
            yield content, {"normalized": False, **options, "special": True}

    def _special(self, kind: str) -> dict[str, str]:
        """Special tokens by their names in settings."""
        found = {name: self._settings.get(name) or default for name, default in _SPECIAL[kind].items()}
        return {name: str(own["content"] if isinstance(own, Mapping) else own) for name, own in found.items()}

    def _json(self, name: str) -> Mapping[str, Any]:
        path = self._folder / name
        if not path.exists():
            return {}
        found = strictjson.loads(strictjson.read(path, DataError), str(path), DataError)
        if not isinstance(found, Mapping):
            raise DataError(f"{path}: no settings of a tokenizer")
        self._content(path)
        return found

    def _content(self, path: Path) -> str:
        """Text of a file, which becomes an input."""
        try:
            stored = path.read_bytes()
            text = stored.decode()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read: {error}") from error
        self.inputs[str(path)] = hashlib.sha256(stored).hexdigest()
        return text


def _state(part: Any) -> Any:
    """Settings of a part of a tokenizer."""
    return part.__getstate__()
