"""The task `translation_l0`: translation with a model whose heads have gates, and of which a part may stay as it is."""

import logging
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.tasks import TASK_REGISTRY, register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from torch import nn

from nmtprune.architecture import STACKS
from nmtprune.errors import UsageError
from nmtprune.fairseq_plugin.gate_steps import drop_other_gradients, step_gates
from nmtprune.fairseq_plugin.unit_gates import gates_of
from nmtprune.gates import TASK

logger = logging.getLogger(__name__)


@dataclass
class TranslationL0Config(TranslationConfig):  # type: ignore[misc]  # fairseq has no types
    """Options of the task."""

    freeze: Optional[str] = field(  # noqa: UP045  # fairseq knows no other way to write it
        default=None, metadata={"help": "what does not learn, gates excepted: encoder, decoder or encoder,decoder"}
    )


class TranslationL0Task(TranslationTask):  # type: ignore[misc]
    """Translation with gates on the heads (Voita et al. 2019, section 6)."""

    cfg: TranslationL0Config

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Build the model, and let parts of it stay as they are: no optimizer sees their parameters.

        Raises:
            UsageError: the model has no gates, a part is named that it does not have, or nothing would learn.
        """
        model = super().build_model(cfg, from_checkpoint)
        gates = gates_of(model)
        # Slim models of gated ones name this task too: they are for evaluation as they are.
        if gates is None and not from_checkpoint:
            raise UsageError(f"--task {TASK} needs a model with gates: train with --arch nmtprune")
        if self.cfg.freeze:
            freeze_stacks(model, [part.strip() for part in self.cfg.freeze.split(",")])
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not from_checkpoint and gates is not None and gates.frozen and gates.holds(learning):
            raise UsageError(f"--freeze {self.cfg.freeze} and --gate-freeze-updates 0: nothing is left to train")
        return model

    def train_step(self, sample: Any, model: Any, *others: Any, **options: Any) -> Any:
        """Compute the derivatives of a batch; those of gates alone as long as only gates learn."""
        found = super().train_step(sample, model, *others, **options)
        gates = gates_of(model)
        if gates is not None and gates.alone:
            drop_other_gradients(model, gates)
        return found

    def optimizer_step(self, optimizer: Any, model: Any, update_num: int) -> None:
        """Let the optimizer make a step; gates with a step of their own move by that."""
        gates = gates_of(model)
        if gates is None or gates.settings.step is None or gates.frozen:
            super().optimizer_step(optimizer, model, update_num)
        else:
            step_gates(gates, optimizer)


def freeze_stacks(model: nn.Module, stacks: list[str]) -> None:
    """Take the parameters of stacks out of training, all but their gates; tables that both stacks share with them.

    Raises:
        UsageError: there is no such stack.
    """
    faults = [f"'{stack}'" for stack in stacks if stack not in STACKS or not hasattr(model, stack)]
    if faults:
        raise UsageError(f"--freeze {', '.join(faults)}: choose encoder, decoder or encoder,decoder")
    gates = gates_of(model)
    frozen = {}
    for stack in stacks:
        for name, parameter in getattr(model, stack).named_parameters():
            if gates is None or not gates.holds([parameter]):
                parameter.requires_grad_(False)
                frozen[id(parameter)] = f"{stack}.{name}"
    for stack in set(STACKS) - set(stacks):
        for name, parameter in getattr(model, stack).named_parameters():
            if id(parameter) in frozen:
                logger.info(f"{stack}.{name} is frozen too: it is {frozen[id(parameter)]}")
    logger.info(f"--freeze {','.join(stacks)}: {len(frozen)} tensors do not learn")


def register_tasks() -> None:
    """Make the task known to fairseq; once, however often it is called."""
    if TASK not in TASK_REGISTRY:
        register_task(TASK, dataclass=TranslationL0Config)(TranslationL0Task)
