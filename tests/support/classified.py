"""A small classifier that knows most labels of a table, in a folder with its tokenizer, and what transformers says."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nmtprune.data.options import DataOptions
from tests.support import huggingface_folders
from tests.support.classifier_folders import SETTINGS, classifier_folder, random_weights
from tests.support.huggingface_folders import write_weights
from tests.support.labelled import byte_level_folder, wordpiece_folder, write_table
from tests.support.subwords import ENGLISH

COLUMNS = ("first", "second", "label")
_WORDS = sorted({word for sentence in ENGLISH for word in sentence.split()})
_WRONG = 0.15
_CLEAR = 1e-3
"""By how much the largest logit is ahead, at least: other batches and other kernels round otherwise."""


@dataclass(frozen=True)
class Classified:
    """A folder and a table.

    Attributes:
        folder: of transformers.
        table: of pairs with labels, which the model knows but for some.
        names: of the labels.
    """

    folder: Path
    table: Path
    names: tuple[str, ...]

    @property
    def data(self) -> DataOptions:
        """The table as options name it."""
        return DataOptions(examples=self.table, text_column="first,second", label_column="label", truncate=True)

    @property
    def options(self) -> tuple[object, ...]:
        """The same on the command line."""
        return ("--examples", self.table, "--text-column", "first,second", "--label-column", "label", "--truncate")

    @cached_property
    def rows(self) -> list[list[str]]:
        """First text, second text and label."""
        return [line.split("\t") for line in self.table.read_text().splitlines()[1:]]

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Numbers of the labels of the table."""
        return np.array([self.names.index(row[2]) for row in self.rows])

    def logits(self, folder: Path | None = None) -> torch.Tensor:
        """What transformers says of every pair, [N, C], of a model that reads by the same tokenizer."""
        transformers = huggingface_folders.transformers()
        (name,) = json.loads((self.folder / "config.json").read_text())["architectures"]
        model = getattr(transformers, name).from_pretrained(folder or self.folder).eval()
        limit = model.config.max_position_embeddings - (2 if model.config.model_type == "roberta" else 0)
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder)
        first, second, _ = zip(*self.rows, strict=True)
        read: Any = tokenizer(
            list(first), list(second), truncation="longest_first", max_length=limit, padding=True, return_tensors="pt"
        )
        with torch.inference_mode():
            return model(**read).logits


def classified(
    place: Path,
    kind: str = "bert",
    *,
    count: int = 60,
    names: tuple[str, ...] = ("no", "yes"),
    columns: tuple[str, str, str] = COLUMNS,
) -> Classified:
    """A random model whose output is balanced, and a table with its own labels, some of them changed."""
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(_WORDS, rng.integers(2, 25))) for _ in range(2 * count)]
    folder = place / "model"
    numbered = {"id2label": {str(number): name for number, name in enumerate(names)}}
    vocabulary = byte_level_folder if kind == "roberta" else wordpiece_folder
    vocabulary(place / "tokenizer", texts)
    size = _size(place / "tokenizer")
    settings = SETTINGS[kind] | numbered | {"vocab_size": size, "label2id": {own: at for at, own in enumerate(names)}}
    classifier_folder(folder, kind, **settings)
    for path in (place / "tokenizer").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    rows = [(texts[row], texts[-row - 1], names[0]) for row in range(count)]
    table = write_table(place / "dev.tsv", rows, columns)
    made = Classified(folder, table, names)
    said = _balance(made, settings)
    changed = np.where(rng.random(count) < _WRONG, rng.integers(0, len(names), count), said)
    write_table(table, [(*row[:2], names[label]) for row, label in zip(rows, changed, strict=True)], columns)
    return Classified(folder, table, names)


def _size(folder: Path) -> int:
    if (folder / "vocab.txt").exists():
        return len((folder / "vocab.txt").read_text().splitlines())
    return len(json.loads((folder / "vocab.json").read_text()))


def _balance(made: Classified, settings: dict[str, Any]) -> NDArray[np.int64]:
    """Give the head a bias with which every label is said about as often; the labels that are said then."""
    logits = made.logits()
    weights = random_weights(settings)
    name = next(name for name in ("classifier.bias", "classifier.out_proj.bias") if name in weights)
    weights[name] = weights[name] - logits.quantile(0.5, dim=0)  # between two texts where their number is even
    write_weights(made.folder, weights)
    first, second = made.logits().topk(2).values.unbind(1)
    assert float((first - second).min()) > _CLEAR
    return made.logits().argmax(1).numpy()
