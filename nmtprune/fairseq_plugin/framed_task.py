"""The task `translation_framed`: translation with given first words, and any words that begin and end a sentence.

It takes sentences as they are in the data folder, language tokens included; the engine `fairseq` runs it.
"""

from dataclasses import dataclass, field
from typing import Any

from fairseq.tasks import TASK_REGISTRY, register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask

TASK = "translation_framed"
"""Its name, which `nmtprune.engines.fairseq` knows too."""


@dataclass
class FramedTranslationConfig(TranslationConfig):  # type: ignore[misc]  # fairseq has no types
    """Options of the task."""

    start_word: int = field(default=2, metadata={"help": "id of the word that stands before the first one"})
    end_word: int = field(default=2, metadata={"help": "id of the word that ends a translation"})
    first_words: str = field(default="", metadata={"help": "ids of the words that translations begin with: N,N,..."})


class FramedTranslationTask(TranslationTask):  # type: ignore[misc]
    """Translation whose search begins and ends as the options say."""

    cfg: FramedTranslationConfig

    def build_generator(self, models: Any, args: Any, *others: Any, **options: Any) -> Any:
        """Build the search; the data have been read, with the ends that they have in the folder."""
        self.tgt_dict.eos_index = self.cfg.end_word
        return super().build_generator(models, args, *others, **options)

    def inference_step(
        self, generator: Any, models: Any, sample: Any, prefix_tokens: Any = None, constraints: Any = None
    ) -> Any:
        """Search the translations of a batch."""
        source = sample["net_input"]["src_tokens"]
        words = [int(word) for word in self.cfg.first_words.split(",") if word]
        prefix = source.new_tensor(words).expand(len(source), -1) if words else None
        return generator.generate(models, sample, prefix_tokens=prefix, bos_token=self.cfg.start_word)


def register_framed_task() -> None:
    """Make the task known to fairseq; once, however often it is called."""
    if TASK not in TASK_REGISTRY:
        register_task(TASK, dataclass=FramedTranslationConfig)(FramedTranslationTask)
