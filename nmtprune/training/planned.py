"""How many updates a training with fairseq-train will make."""

import math
from typing import TYPE_CHECKING, Any

from nmtprune.training.fairseq_train import Training
from nmtprune.training.options import parsed, quietly, value_of

if TYPE_CHECKING:
    from nmtprune.formats.trainable import TrainableCheckpoint


def planned_updates(training: Training, start: "TrainableCheckpoint") -> int | None:
    """Updates with which a training ends by its ``--max-update`` or ``--max-epoch``; None where it has neither.

    fairseq itself counts the batches of an epoch, which takes as long as it does at the start of a training.

    Args:
        training: with its options.
        start: the checkpoint from which it starts.

    Raises:
        UsageError: options that fairseq-train would refuse.
    """
    words = training.words
    updates, epochs = (_positive(value_of(words, name)) for name in ("--max-update", "--max-epoch"))
    if epochs is None:
        return updates
    argv = (str(training.data_bin), "--arch", "nmtprune", "--finetune-from-model", str(training.start), *words)
    args = parsed(argv, start)
    of_epochs: int = epochs * math.ceil(_batches(args) / args.update_freq[0])
    return of_epochs if updates is None else min(updates, of_epochs)


def _positive(text: str | None) -> int | None:
    """A number of updates or epochs; None for what is no end."""
    return int(text) if text is not None and text.isdecimal() and int(text) else None


def _batches(args: Any) -> int:
    """Batches of an epoch of one of the processes that fairseq-train starts."""
    with quietly():
        import torch
        from fairseq import tasks
        from fairseq.dataclass.utils import convert_namespace_to_omegaconf

        config = convert_namespace_to_omegaconf(args)
        task, data = tasks.setup_task(config.task), config.dataset
        task.load_dataset(data.train_subset)
        gpus = 0 if args.cpu else torch.cuda.device_count()
        iterator = task.get_batch_iterator(
            dataset=task.dataset(data.train_subset),
            max_tokens=data.max_tokens,
            max_sentences=data.batch_size,
            max_positions=(args.max_source_positions, args.max_target_positions),
            ignore_invalid_inputs=True,
            required_batch_size_multiple=data.required_batch_size_multiple,
            seed=config.common.seed,
            num_shards=max(1, gpus),
            shard_id=0,
        )
        return int(len(iterator))
