"""Tiny data folders, written by fairseq's own writers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

SOURCE_WORDS = tuple(f"s{number}" for number in range(20))
TARGET_WORDS = tuple(f"t{number}" for number in range(30))


def write_dictionary(path: Path, words: Sequence[str]) -> Path:
    path.write_text("".join(f"{word} {100 - number}\n" for number, word in enumerate(words)), encoding="utf-8")
    return path


def write_dataset(prefix: Path, sentences: Sequence[Sequence[int]], impl: str = "mmap", vocabulary: int = 100) -> None:
    """PREFIX.bin and PREFIX.idx as fairseq-preprocess writes them."""
    import torch
    from fairseq.data import indexed_dataset

    writer = indexed_dataset.make_builder(f"{prefix}.bin", impl=impl, vocab_size=vocabulary)
    for sentence in sentences:
        writer.add_item(torch.tensor(sentence, dtype=torch.int64))
    writer.finalize(f"{prefix}.idx")


def random_sentences(count: int, words: int, seed: int = 1, longest: int = 12) -> list[list[int]]:
    """Sentences of ids above the special symbols, each ending in </s>."""
    random = np.random.default_rng(seed)
    return [[*random.integers(4, words + 4, random.integers(1, longest)).tolist(), 2] for _ in range(count)]


def write_data_bin(folder: Path, subsets: dict[str, int], impl: str = "mmap") -> Path:
    """A folder of one language pair with random subsets of the given sizes."""
    folder.mkdir(exist_ok=True)
    write_dictionary(folder / "dict.en.txt", SOURCE_WORDS)
    write_dictionary(folder / "dict.de.txt", TARGET_WORDS)
    for number, (subset, count) in enumerate(subsets.items()):
        write_dataset(folder / f"{subset}.en-de.en", random_sentences(count, len(SOURCE_WORDS), 2 * number), impl)
        write_dataset(folder / f"{subset}.en-de.de", random_sentences(count, len(TARGET_WORDS), 2 * number + 1), impl)
    return folder


def fairseq_task(folder: Path) -> Any:
    """fairseq's translation task on a data folder."""
    from fairseq.tasks.translation import TranslationConfig, TranslationTask

    config = TranslationConfig(data=str(folder), source_lang="en", target_lang="de", train_subset="train")
    config.dataset_impl = None
    config.required_seq_len_multiple = 1
    return TranslationTask.setup_task(config)
