"""How many updates a training with fairseq-train will make."""

import math
from typing import TYPE_CHECKING, Any

from nmtprune.errors import DataError
from nmtprune.training.fairseq_train import Training
from nmtprune.training.options import parsed, quietly, value_of

if TYPE_CHECKING:
    from nmtprune.formats.trainable import TrainableCheckpoint


def planned_updates(training: Training, start: "TrainableCheckpoint", processes: int = 1) -> int | None:
    """Updates with which a training ends by its ``--max-update`` or ``--max-epoch``; None where it has neither.

    fairseq itself counts the batches of an epoch, which takes as long as it does at the start of a training.

    Args:
        training: with its options.
        start: the checkpoint from which it starts.
        processes: that fairseq-train starts; each takes its share of the batches.

    Raises:
        UsageError: options that fairseq-train would refuse.
        DataError: data of which it cannot make batches.
    """
    words = training.words
    updates, epochs = (_positive(value_of(words, name)) for name in ("--max-update", "--max-epoch"))
    if epochs is None:
        return updates
    # A file to restore: for one to start from fairseq would look into a folder of checkpoints first.
    args = parsed((str(training.data_bin), "--arch", "nmtprune", "--restore-file", str(training.start), *words), start)
    try:
        batches = _batches(args, processes)
    except Exception as error:  # whatever fairseq raises of its data, it would raise in the training too
        raise DataError(f"fairseq-train cannot make batches of {training.data_bin}: {error}") from error
    # A list of --update-freq has a number for each epoch; its last one is also that of the epochs behind.
    numbers: list[int] = args.update_freq
    of_epochs = sum(math.ceil(batches / numbers[min(epoch, len(numbers) - 1)]) for epoch in range(epochs))
    return of_epochs if updates is None else min(updates, of_epochs)


def _positive(text: str | None) -> int | None:
    """A number of updates or epochs; None for what is no end."""
    return int(text) if text is not None and text.isdecimal() and int(text) else None


def _batches(args: Any, processes: int) -> int:
    """Batches of the first epoch of one of the processes, as fairseq's trainer makes them."""
    with quietly():
        from fairseq import tasks, utils
        from fairseq.dataclass.utils import convert_namespace_to_omegaconf

        config = convert_namespace_to_omegaconf(args)
        task, data = tasks.setup_task(config.task), config.dataset
        task.load_dataset(data.train_subset, epoch=1, combine=True)
        positions = (args.max_source_positions, args.max_target_positions)
        iterator = task.get_batch_iterator(
            dataset=task.dataset(data.train_subset),
            max_tokens=data.max_tokens,
            max_sentences=data.batch_size,
            max_positions=utils.resolve_max_positions(task.max_positions(), positions, data.max_tokens),
            ignore_invalid_inputs=True,
            required_batch_size_multiple=data.required_batch_size_multiple,
            seed=config.common.seed,
            num_shards=processes,
            shard_id=0,
        )
        return int(len(iterator))
