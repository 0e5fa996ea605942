"""The architectures `nmtprune`, `nmtprune_lm`, `nmtprune_roberta`: any heads and neurons in each layer."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from fairseq.models import (
    ARCH_MODEL_REGISTRY,
    MODEL_REGISTRY,
    BaseFairseqModel,
    register_model,
    register_model_architecture,
)
from fairseq.models.roberta import RobertaModel
from fairseq.models.transformer_align import TransformerAlignModel
from fairseq.models.transformer_lm import TransformerLanguageModel
from fairseq.modules.transformer_sentence_encoder import init_bert_params
from omegaconf import OmegaConf

from nmtprune.architecture import STACKS
from nmtprune.errors import CheckpointError
from nmtprune.fairseq_plugin import gate_options
from nmtprune.fairseq_plugin.heads import StoredHeads
from nmtprune.fairseq_plugin.neurons import StoredNeurons
from nmtprune.fairseq_plugin.surgery import replace_attention, resize_feed_forwards
from nmtprune.fairseq_plugin.train_settings import choose_settings, complete_settings
from nmtprune.formats.fairseq.architectures import stock
from nmtprune.formats.fairseq.slim_settings import BASE_ARCH, HEADS, NEURONS, SLIM
from nmtprune.formats.fairseq.unsupported import unsupported


class PrunableTransformer(BaseFairseqModel):  # type: ignore[misc]  # fairseq has no types
    """Builds a fairseq translation model whose layers have any number of heads of any width, and of neurons.

    What is built is a model of fairseq's own class: only its attention modules and feed-forward layers differ.
    """

    name: ClassVar[str] = "nmtprune"
    base: ClassVar[type] = TransformerAlignModel
    stacks: ClassVar[tuple[str, ...]] = tuple(STACKS)
    gated: ClassVar[bool] = True
    """Whether its heads and neurons may have gates."""
    draw: ClassVar[Any] = None
    """What draws the weights of layers of other shapes, where they are drawn otherwise than a transformer's."""

    @classmethod
    def add_args(cls, parser: Any) -> None:
        """Add the options of the base model and those for heads."""
        cls.base.add_args(parser)  # type: ignore[attr-defined]
        for stack in cls.stacks:
            parser.add_argument(
                f"--{stack}-head-dim",
                type=int,
                metavar="N",
                help=f"width of a {stack} attention head (default: {stack} embedding dimension / heads)",
            )
        parser.add_argument(
            "--nmtprune-base-arch",
            choices=list(SLIM[cls.name]),
            metavar="ARCH",
            help="architecture whose defaults apply where training starts from no checkpoint "
            f"(default: {next(iter(SLIM[cls.name]))})",
        )
        if cls.gated:
            gate_options.add_args(parser)

    @classmethod
    def build_model(cls, args: Any, task: Any) -> Any:
        """Build the base architecture's model and give its layers their heads and neurons.

        Args:
            args: settings; those of a checkpoint, or what `choose_settings` has made of the command line.
            task: fairseq's task, for its dictionaries.

        Raises:
            CheckpointError: settings that do not fit together, or that nmtprune does not support; all of them.
        """
        settings = args if isinstance(args, Namespace) else Namespace(**OmegaConf.to_container(args, resolve=True))
        settings._name = cls.name
        faults = unsupported({"args": settings, "model": {}})
        if faults:
            raise CheckpointError.of_faults("settings of the model: unsupported", faults)
        heads, neurons = StoredHeads.of_settings(settings), StoredNeurons.of_settings(settings)
        base = stock(getattr(settings, BASE_ARCH))
        complete_settings(base, settings)
        for stack in cls.stacks:
            heads = _of_kept_layers(heads, stack, settings)
            neurons = _neurons_of_kept_layers(neurons, stack, settings)
        with _heads_that_divide(settings, cls.stacks):
            model = ARCH_MODEL_REGISTRY[base].build_model(settings, task)
        resize_feed_forwards(model, neurons, draw=cls.draw)
        replace_attention(model, heads, gate_options.of_settings(settings), draw=cls.draw)
        return model


class PrunableLanguageModel(PrunableTransformer):
    """Builds a fairseq language model whose layers have any number of heads of any width, and of neurons."""

    name = "nmtprune_lm"
    base = TransformerLanguageModel
    stacks = ("decoder",)


class PrunableEncoder(PrunableTransformer):
    """Builds fairseq's RoBERTa, an encoder alone, with any number of heads of any width, and of neurons."""

    name = "nmtprune_roberta"
    base = RobertaModel
    stacks = ("encoder",)
    gated = False
    draw = staticmethod(init_bert_params)


def _of_kept_layers(heads: StoredHeads, stack: str, settings: Any) -> StoredHeads:
    """Heads of the layers that are used, where LayerDrop's option names some; they replace those in the settings."""
    keep = getattr(settings, f"{stack}_layers_to_keep", None)
    if not keep:
        return heads
    layers = [int(layer) for layer in keep.split(",")]
    if all(len(heads.counts[kind]) in (0, len(layers)) for kind in STACKS[stack]):
        return heads
    kept = heads.layers_kept(stack, layers)
    setattr(settings, HEADS, kept.to_json())
    return kept


def _neurons_of_kept_layers(neurons: StoredNeurons, stack: str, settings: Any) -> StoredNeurons:
    """Likewise the neurons of those layers."""
    keep = getattr(settings, f"{stack}_layers_to_keep", None)
    listed = neurons.counts.get(f"{stack}-ffn", ())
    if not keep or len(listed) in (0, keep.count(",") + 1):
        return neurons
    kept = neurons.layers_kept(stack, map(int, keep.split(",")))
    setattr(settings, NEURONS, kept.to_json())
    return kept


@contextmanager
def _heads_that_divide(settings: Any, stacks: tuple[str, ...]) -> Iterator[None]:
    """While fairseq builds its own attention: one head where the width of a stack is no multiple of its heads."""
    changed = {}
    for stack in stacks:
        name = f"{stack}_attention_heads"
        heads = getattr(settings, name)
        if not heads or getattr(settings, f"{stack}_embed_dim") % heads:
            changed[name] = heads
            setattr(settings, name, 1)
    try:
        yield
    finally:
        for name, heads in changed.items():
            setattr(settings, name, heads)


def register_architectures() -> None:
    """Make the architectures known to fairseq; once, however often it is called."""
    for model in (PrunableTransformer, PrunableLanguageModel, PrunableEncoder):
        if model.name in MODEL_REGISTRY:
            continue
        register_model(model.name)(model)
        register_model_architecture(model.name, model.name)(_architecture_function(model.name))


def _architecture_function(name: str) -> Any:
    """What fairseq calls with the options of fairseq-train, and with the settings of each model that it builds."""

    def fill(settings: Any) -> None:
        # fairseq names settings when it makes a configuration of options: those of a checkpoint have their name.
        if getattr(settings, HEADS, None) is None and not hasattr(settings, "_name"):
            choose_settings(settings, name)

    return fill
