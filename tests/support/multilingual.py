"""Small multilingual models of fairseq's tasks with language tokens, trained by fairseq-train, and their data."""

from dataclasses import dataclass
from pathlib import Path

from tests.support import fairseq_commands, networks
from tests.support.data import random_sentences, write_dataset, write_dictionary

WORDS = tuple(f"w{number}" for number in range(25))
LANGUAGES = ("en", "de", "fr")
DIRECTIONS = ("en-de", "en-fr")

_MULTI = ("--task", "translation_multi_simple_epoch")
TASKS: dict[str, tuple[str, ...]] = {
    "front": (*_MULTI, "--encoder-langtok", "src", "--decoder-langtok"),
    "target in front": (*_MULTI, "--encoder-langtok", "tgt", "--lang-tok-style", "mbart"),
    "ends": (*_MULTI, "--encoder-langtok", "tgt", "--decoder-langtok", "--lang-tok-replacing-bos-eos"),
    "behind": ("--task", "translation_from_pretrained_bart"),
}
"""Options of fairseq's commands, by where language tokens stand."""

_SIZES = {"layers": 2, "embed-dim": 16, "ffn-embed-dim": 24, "attention-heads": 4}


@dataclass(frozen=True)
class Multilingual:
    """A model and its data.

    Attributes:
        path: the checkpoint, with random weights in the place of those that were trained.
        data: a folder with the subsets ``train``, ``valid`` and ``test`` for both directions, and a file ``langs.txt``.
        name: of the task, in TASKS.
    """

    path: Path
    data: Path
    name: str

    def options(self, direction: str) -> tuple[str, ...]:
        """Options with which fairseq-generate and fairseq-validate run the model."""
        source, target = direction.split("-")
        pairs = ("--lang-pairs", direction) if "simple_epoch" in TASKS[self.name][1] else ()
        return (*TASKS[self.name], *_languages(self.name, self.data), *pairs, "-s", source, "-t", target)

    def generate(self, direction: str, *options: str | int, path: Path | None = None) -> str:
        """Output of fairseq-generate on ``test``; it has fewer sentences than a batch."""
        return fairseq_commands.generate(
            path or self.path, self.data, *self.options(direction), "--required-batch-size-multiple", 1, *options
        )


def data_bin(folder: Path) -> Path:
    """Subsets of two directions with a joint dictionary."""
    folder.mkdir()
    for language in LANGUAGES:
        write_dictionary(folder / f"dict.{language}.txt", WORDS)
    for number, direction in enumerate(DIRECTIONS):
        for place, (subset, count) in enumerate({"train": 24, "valid": 9, "test": 11}.items()):
            for side, language in enumerate(direction.split("-")):
                sentences = random_sentences(count, len(WORDS), 100 * number + 10 * place + side, longest=8)
                write_dataset(folder / f"{subset}.{direction}.{language}", sentences)
    (folder / "langs.txt").write_text("\n".join(LANGUAGES) + "\n")
    return folder


def _languages(name: str, data: Path) -> tuple[str, str]:
    """How a task is told its languages."""
    return ("--lang-dict", str(data / "langs.txt")) if name == "target in front" else ("--langs", ",".join(LANGUAGES))


def train(folder: Path, name: str) -> Multilingual:
    """Train a model of a task for two updates on both directions, or on the first one where it takes one."""
    data = data_bin(folder / "data-bin")
    sizes = [(f"--{stack}-{size}", value) for stack in ("encoder", "decoder") for size, value in _SIZES.items()]
    several = "simple_epoch" in TASKS[name][1]
    task = ("--lang-pairs", ",".join(DIRECTIONS)) if several else ("-s", "en", "-t", "de")
    fairseq_commands.train(
        data, folder, *TASKS[name], *task, *_languages(name, data), "--arch", "transformer", "--share-all-embeddings",
        *(word for pair in sizes for word in pair), "--max-update", 2, "--seed", 1, "--dropout", 0,
        plugin=False,
    )  # fmt: skip
    return Multilingual(networks.randomized(folder / "checkpoint_last.pt"), data, name)
