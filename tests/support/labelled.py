"""Texts and pairs with labels, tokenizers that are learned from them, and folders of fairseq's sentence_prediction."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.data import write_dataset, write_dictionary

ROOT = Path(__file__).parents[2]
LABELS = ("no", "yes", "maybe")

HARD = (
    "Ein Mädchen  mit\u00a0rotem Hut isst Crème brûlée …",
    "it's 3,50 € — isn't it?  ", "日本語のテキスト と mixed 😀👍🏽",
    "[SEP] in a text, <s>, </s> and <mask> too [MASK]", "ALL CAPS, naïve café; résumé\u0301", "x" * 150, " ",
    "a\u200bzero-width, a\u2028separator and \u0007 a bell", "ﬁne ligatures ½ ² Ⅳ", "don't they'll we've I'm O'Neil's",
)  # fmt: skip


def real_texts(count: int = 300) -> list[str]:
    """Lines of the manual, long ones too, and lines that tokenizers differ in."""
    lines = [line.strip() for path in sorted((ROOT / "docs").glob("*.md"))[:6] for line in path.read_text().split("\n")]
    return [*HARD, *[line.replace("\t", " ") for line in lines if line][: count - len(HARD)]]


def write_table(path: Path, rows: Sequence[Sequence[str]], names: Sequence[str]) -> Path:
    path.write_text("".join("\t".join(row) + "\n" for row in (names, *rows)), encoding="utf-8")
    return path


def wordpiece_folder(folder: Path, texts: Sequence[str], size: int = 300, **settings: Any) -> Path:
    """vocab.txt and tokenizer_config.json of a BERT; its pieces are all characters of texts, then what is frequent.

    The trainer of tokenizers gives other numbers each time, and so other models.
    """
    from tokenizers import normalizers, pre_tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    normalizer = normalizers.BertNormalizer(lowercase=settings.get("do_lower_case", True))
    split = pre_tokenizers.BertPreTokenizer()
    words = Counter(word for text in texts for word, _ in split.pre_tokenize_str(normalizer.normalize_str(text)))
    characters = sorted({character for word in words for character in word})
    parts: Counter[str] = Counter()
    for word, count in words.items():
        parts[word] += count
        parts.update({f"##{word[-length:]}": count for length in range(2, min(len(word), 5))})
    frequent = sorted(parts, key=lambda part: (-parts[part], part))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{own}" for own in characters), *frequent]
    vocabulary = list(dict.fromkeys(pieces))[: max(size, 5 + 2 * len(characters))]
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in vocabulary))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **settings}))
    return folder


def byte_level_folder(folder: Path, texts: Sequence[str], size: int = 400, **settings: Any) -> Path:
    """vocab.json and merges.txt of a RoBERTa, learned from texts."""
    from tokenizers import ByteLevelBPETokenizer

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(texts, vocab_size=size, special_tokens=special, show_progress=False)
    tokenizer.save_model(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer", **settings}))
    return folder


def gpt2_files(folder: Path, texts: Sequence[str]) -> tuple[Path, Path]:
    """encoder.json and vocab.bpe as GPT-2 has them, and fairseq's dictionary of their numbers as dict.txt."""
    made = byte_level_folder(folder / "made", texts)
    encoder, merges = folder / "encoder.json", folder / "vocab.bpe"
    encoder.write_text((made / "vocab.json").read_text())
    lines = (made / "merges.txt").read_text().split("\n")
    merges.write_text("\n".join(lines))
    numbers = sorted(json.loads(encoder.read_text()).values())
    write_dictionary(folder / "dict.txt", [str(number) for number in numbers])
    return encoder, merges


def prediction_bin(
    folder: Path, *, pairs: bool = True, words: int = 30, count: int = 20, longest: int = 12, subsets: str = "valid"
) -> Path:
    """A folder of fairseq's task sentence_prediction with random texts and LABELS."""
    rng = np.random.default_rng(count)
    parts = ["input0", "input1"] if pairs else ["input0"]
    for part in (*parts, "label"):
        (folder / part).mkdir(parents=True)
        names = LABELS if part == "label" else [f"w{number}" for number in range(words)]
        write_dictionary(folder / part / "dict.txt", names)
        for subset in subsets.split(","):
            write_dataset(folder / part / subset, list(_items(rng, part, words, count, longest)))
    return folder


def _items(rng: np.random.Generator, part: str, words: int, count: int, longest: int) -> Iterator[list[int]]:
    for _ in range(count):
        size = 1 if part == "label" else int(rng.integers(1, longest))
        highest = len(LABELS) if part == "label" else words
        yield [*rng.integers(4, highest + 4, size).tolist(), 2]


def prediction_task(folder: Path, **settings: Any) -> Any:
    """fairseq's own task on such a folder."""
    from fairseq.tasks.sentence_prediction import SentencePredictionConfig, SentencePredictionTask

    defaults = {"num_classes": len(LABELS), "init_token": 0, "separator_token": 2, "no_shuffle": True,
                "max_positions": 40, "regression_target": False, "classification_head_name": "head", "seed": 1,
                "shorten_method": "none"}  # fmt: skip
    config = SentencePredictionConfig(data=str(folder))
    for name, value in (defaults | settings).items():
        setattr(config, name, value)
    return SentencePredictionTask.setup_task(config)
