"""What a smoke has in the place of GLUE and GPT-2's pieces: tables of generated sentences, and merges learned on them.

Reads SUBSET.src and SUBSET.tgt, as `nmtprune.demo.corpus` writes them, and writes TASK/FILE of `glue.py`'s tasks,
``encoder.json`` and ``vocab.bpe``.
"""

import argparse
from pathlib import Path

from glue import COLUMNS, SUBSETS, SUBSETS_OF
from tokenizers import ByteLevelBPETokenizer

SUBSET_FILES = {"train": "train", "valid": "val", "test": "test"}
"""Sets of the generated corpus by subset."""

LABELS = {
    "MNLI": ("entailment", "contradiction", "neutral"),
    "QQP": ("1", "0"),
    "QNLI": ("entailment", "not_entailment"),
    "SST-2": ("1", "0"),
}


def main() -> None:
    """Write the tables, and the merges."""
    options = _options()
    texts = []
    for subset, name in SUBSET_FILES.items():
        pairs = list(
            zip(
                *((options.made / f"{name}.{side}").read_text("utf-8").splitlines() for side in ("src", "tgt")),
                strict=True,
            )
        )
        texts += [text for pair in pairs for text in pair]
        for task in COLUMNS:
            file = SUBSETS_OF.get(task, SUBSETS).get(subset)
            if file:
                write_table(options.output / task / file, task, pairs)
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=options.vocabulary, show_progress=False)
    vocabulary, merges = tokenizer.save_model(str(options.output))
    Path(vocabulary).rename(options.output / "encoder.json")
    Path(merges).rename(options.output / "vocab.bpe")


def write_table(path: Path, task: str, pairs: list[tuple[str, str]]) -> None:
    """Label n stands for a sentence and the translation of the n-th one after it."""
    labels = LABELS[task]
    rows = ["\t".join(["index", *COLUMNS[task]])]
    for number, (source, _) in enumerate(pairs):
        kind = number % len(labels)
        texts = [source, pairs[(number + kind) % len(pairs)][1]][: len(COLUMNS[task]) - 1]
        rows.append("\t".join([str(number), *texts, labels[kind]]))
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("made", type=Path, help="the generated corpus")
    parser.add_argument("output", type=Path)
    parser.add_argument("--vocabulary", type=int, required=True, help="pieces at most; 256 of them are bytes")
    return parser.parse_args()


if __name__ == "__main__":
    main()
