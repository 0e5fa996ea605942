"""The task `segment_language_modeling`: segments of a text in their order, with a memory from batch to batch."""

import logging
import os
from dataclasses import asdict, dataclass, field
from typing import Any, Optional

from fairseq import utils
from fairseq.data import Dictionary, data_utils
from fairseq.data.indexed_dataset import get_available_dataset_impl
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.tasks import TASK_REGISTRY, FairseqTask, register_task
from omegaconf import II, MISSING

from nmtprune.errors import DataError, UsageError
from nmtprune.fairseq_plugin.segment_data import InOrder, Segment, SegmentDataset, text_of
from nmtprune.fairseq_plugin.segment_models import Carried, SegmentLanguageModel
from nmtprune.formats.fairseq.segment_settings import SEGMENT_MODELS, TASK

logger = logging.getLogger(__name__)


@dataclass
class SegmentLanguageModelingConfig(FairseqDataclass):  # type: ignore[misc]  # fairseq has no types
    """Options of the task."""

    data: str = field(default=MISSING, metadata={"help": "folder of the binarized text; several with : for epochs"})
    tokens_per_sample: int = field(default=192, metadata={"help": "T, tokens of a segment"})
    dataset_impl: Optional[ChoiceEnum(get_available_dataset_impl())] = II("dataset.dataset_impl")  # type: ignore[valid-type]  # noqa: UP045


class SegmentLanguageModelingTask(FairseqTask):  # type: ignore[misc]
    """Language modeling on a text in ``--batch-size`` lanes, read segment by segment.

    The model carries its memory (`SegmentLanguageModel`); a checkpoint that is written in the middle of an epoch has
    that of training, so that a resumed training is the one that was interrupted.

    Source: Dai et al. 2019, section 3.2.
    """

    cfg: SegmentLanguageModelingConfig
    carries_memory = True

    def __init__(self, cfg: Any, dictionary: Any) -> None:
        super().__init__(cfg)
        self.dictionary = dictionary
        self._model: SegmentLanguageModel | None = None
        self._resumed: Carried | None = None

    @classmethod
    def setup_task(cls, cfg: Any, **_: Any) -> "SegmentLanguageModelingTask":
        """Read the dictionary of the data.

        Raises:
            DataError: there is none.
        """
        path = os.path.join(utils.split_paths(cfg.data)[0], "dict.txt")
        if not os.path.isfile(path):
            raise DataError(f"{path}: no such file; `fairseq-preprocess --only-source` makes it with the data")
        return cls(cfg, Dictionary.load(path))

    @property
    def source_dictionary(self) -> Any:
        """Words that are read."""
        return self.dictionary

    @property
    def target_dictionary(self) -> Any:
        """Words that are predicted: the same."""
        return self.dictionary

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> SegmentLanguageModel:
        """Build a model with a memory.

        Raises:
            UsageError: the model has no memory.
        """
        name = getattr(cfg, "_name", None) or getattr(cfg, "arch", None)
        if name not in SEGMENT_MODELS:
            raise UsageError(f"--task {TASK} is for --arch {' and '.join(sorted(SEGMENT_MODELS))}, not for {name}")
        model: SegmentLanguageModel = super().build_model(cfg, from_checkpoint)
        self._model = model
        return model

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **_: Any) -> None:
        """Read a split, as one lane.

        Raises:
            DataError: it is not there, empty, or of another dictionary.
        """
        paths = utils.split_paths(self.cfg.data)
        path = os.path.join(paths[(epoch - 1) % len(paths)], split)
        found = data_utils.load_indexed_dataset(path, self.dictionary, self.cfg.dataset_impl, combine=combine)
        if found is None:
            raise DataError(f"{path}: no binarized text (`fairseq-preprocess --only-source` makes it)")
        text = text_of(found, self.dictionary, path)
        self.datasets[split] = SegmentDataset(text, self.dictionary, self.cfg.tokens_per_sample, 1, path)

    def get_batch_iterator(  # noqa: PLR0913  # the signature is fairseq's
        self,
        dataset: SegmentDataset,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        num_shards: int = 1,
        num_workers: int = 0,
        epoch: int = 1,
        data_buffer_size: int = 0,
        skip_remainder_batch: bool = False,
        **_: Any,
    ) -> InOrder:
        """Segments of a text in lanes.

        Args:
            dataset: the text.
            max_tokens: of a batch.
            max_sentences: lanes.
            num_shards: processes that train together.
            num_workers: processes that read data.
            epoch: counted from 1.
            data_buffer_size: batches that are read in advance.
            skip_remainder_batch: leave out the last segment.

        Raises:
            UsageError: no number of lanes, one that does not fit the text or ``--max-tokens``, or several processes.
        """
        if num_shards > 1:
            raise UsageError(
                f"--task {TASK} runs in one process, not in {num_shards}: a checkpoint has the memory of one "
                "(--distributed-world-size 1; --update-freq has more tokens in an update)"
            )
        if max_sentences is None:
            raise UsageError(f"--task {TASK} needs --batch-size, the number of lanes that the text is read in")
        if max_tokens is not None and max_sentences * dataset.length > max_tokens:
            raise UsageError(
                f"--batch-size {max_sentences} lanes of segments of {dataset.length} tokens do not fit --max-tokens "
                f"{max_tokens}: leave it out"
            )
        lanes = dataset.in_lanes(max_sentences)
        self._remark_on_memory(lanes)
        return InOrder(
            lanes,
            num_workers=num_workers,
            epoch=epoch,
            buffer_size=data_buffer_size,
            skip_remainder_batch=skip_remainder_batch,
            persistent_workers=False,
        )

    def eval_lm_dataloader(  # noqa: PLR0913  # the signature is fairseq's
        self,
        dataset: SegmentDataset,
        batch_size: int | None = None,
        num_shards: int = 1,
        num_workers: int = 0,
        data_buffer_size: int = 0,
        context_window: int = 0,
        **_: Any,
    ) -> Any:
        """Segments for fairseq-eval-lm, in one lane if no ``--batch-size`` is given: then no memory is cut short.

        Raises:
            UsageError: a context window, or several processes.
        """
        if context_window:
            raise UsageError(
                f"--context-window {context_window}: the memory is the context; another one: "
                "--model-overrides \"{'memory_length': N}\""
            )
        iterator = self.get_batch_iterator(
            dataset,
            max_sentences=batch_size or 1,
            num_shards=num_shards,
            num_workers=num_workers,
            data_buffer_size=data_buffer_size,
        )
        return iterator.next_epoch_itr(shuffle=False)

    def build_generator(self, *_: Any, **__: Any) -> Any:
        """Refuse to generate text: batches are parts of lanes, no sentences to continue.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"--task {TASK} scores a text (fairseq-eval-lm) and generates none")

    def get_checkpoint_dict(self) -> dict[str, Any]:
        """What a checkpoint is given: the memory of training, in the middle of an epoch."""
        carried = None if self._model is None else self._model.carried(training=True)
        if carried is None:
            return {}
        states = [each.cpu().clone() for each in carried.states]  # of a view all around it would be saved too
        return {type(self).__name__: {**asdict(carried.segment), "memory": states}}

    def set_checkpoint_dict(self, state: dict[str, Any]) -> None:
        """Take over what a checkpoint has, for the rest of its epoch; the model checks that it fits the batches."""
        state = dict(state)
        memory = state.pop("memory")
        self._resumed = Carried(Segment(**state), memory)

    def begin_epoch(self, epoch: int, model: SegmentLanguageModel) -> None:
        """Begin an epoch without a memory, or go on in the middle of one with that of the checkpoint."""
        model.remember(self._resumed, training=True)
        self._resumed = None

    def _remark_on_memory(self, lanes: SegmentDataset) -> None:
        memory = 0 if self._model is None else self._model.decoder.sizes.memory
        if memory > lanes.lane_length:
            logger.warning(
                f"--memory-length {memory} is longer than a lane of {lanes.name}, {lanes.lane_length} tokens: "
                "it never fills, and a shorter one gives the same"
            )


def register_segment_task() -> None:
    """Make the task known to fairseq; once, however often it is called."""
    if TASK not in TASK_REGISTRY:
        register_task(TASK, dataclass=SegmentLanguageModelingConfig)(SegmentLanguageModelingTask)
