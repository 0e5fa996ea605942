"""Tiny RoBERTa checkpoints and their data, made in code by fairseq itself."""

import json
import random
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nmtprune.formats import load
from nmtprune.formats.fairseq.encoder_checkpoint import FairseqEncoder
from tests.support import fairseq_files
from tests.support.fairseq_settings import composed_quickly

BuildEncoder = Callable[..., Path]
"""`encoder_checkpoint` without the folder: equal options give the same file."""

LABELS, TEXTS, POSITIONS = ("no", "yes", "maybe"), 16, 40
INIT, SEPARATOR = 0, 2
SHORT = {
    "heads": "encoder_attention_heads",
    "layers": "encoder_layers",
    "width": "encoder_embed_dim",
    "ffn": "encoder_ffn_embed_dim",
}


def labelled_data(folder: Path, *, pairs: bool = True, labels: int = len(LABELS)) -> Path:
    """Binarize random texts with labels as the task ``sentence_prediction`` reads them: input0, input1, label.

    The label follows from the first word. The text files lie beside the binary ones, as ``train.txt``.
    """
    from fairseq.data import Dictionary

    if folder.exists():
        return folder
    rng, words, names = random.Random(3), Dictionary(), Dictionary()
    for word in range(fairseq_files.WORDS):
        words.add_symbol(f"w{word}", n=fairseq_files.WORDS - word)
    for number, label in enumerate(LABELS[:labels]):
        names.add_symbol(label, n=len(LABELS) - number)
    for subset in ("train", "valid", "test"):
        first = [_words(rng) for _ in range(TEXTS)]
        sides = {"input0": first, "label": [LABELS[int(own.split()[0][1:]) % labels] for own in first]}
        if pairs:
            sides["input1"] = [_words(rng) for _ in range(TEXTS)]
        for side, lines in sides.items():
            dictionary = names if side == "label" else words
            (folder / side).mkdir(parents=True, exist_ok=True)
            dictionary.save(str(folder / side / "dict.txt"))
            text = folder / side / f"{subset}.txt"
            text.write_text("".join(f"{line}\n" for line in lines))
            fairseq_files.binarize(text, dictionary, folder / side / subset)
    return folder


def _words(rng: random.Random) -> str:
    return " ".join(f"w{rng.randrange(fairseq_files.WORDS)}" for _ in range(rng.randint(2, 9)))


def encoder_checkpoint(
    folder: Path, *, task: str = "sentence_prediction", updates: int = 0, seed: int = 1, **options: Any
) -> Path:
    """Make a RoBERTa with fairseq and save it as fairseq-train does; the path is ``folder/checkpoint.pt``.

    Args:
        folder: gets the checkpoint and, as ``data-bin``, the data that it is trained on.
        task: ``sentence_prediction`` or ``masked_lm``.
        updates: real updates through fairseq's trainer; 0 leaves random weights and an empty optimizer state.
        seed: of the weights.
        options: fairseq-train options by their Python names, and heads, layers, width, ffn: numbers; pairs: of texts
            (default True); stored: as `fairseq_files.store_as` takes it.
    """
    from fairseq.trainer import Trainer

    stored, pairs = options.pop("stored", {}), options.pop("pairs", True)
    labelled = task == "sentence_prediction"
    if labelled:
        data = labelled_data(folder / "data-bin", pairs=pairs, labels=int(options.get("num_classes", len(LABELS))))
    else:
        data = fairseq_files.data_bin(folder / "data-bin", language_model=True)
    with fairseq_files.on_cpu():
        cfg = encoder_config(data, task=task, seed=seed, **options)
        cfg.common.tpu = False
        own, model, criterion = fairseq_files.fairseq_model(cfg, seed)
        trainer = Trainer(cfg, own, model, criterion)
        iterator = trainer.get_train_iterator(epoch=1, load_dataset=True)
        fairseq_files.train(trainer, iterator, updates)
        path = folder / "checkpoint.pt"
        trainer.consolidate_optimizer()
        trainer.save_checkpoint(str(path), {"train_iterator": iterator.state_dict(), "val_loss": 3.25, "best": 3.125})
    parameters = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    (folder / fairseq_files.PARAMETERS).write_text(json.dumps(parameters))
    if stored:
        fairseq_files.store_as(path, path, **stored)
    return path


def encoder_arguments(data: Path, *, task: str = "sentence_prediction", seed: int = 1, **options: Any) -> list[str]:
    """The command line of fairseq-train; `options` are those of `encoder_checkpoint`."""
    labelled = task == "sentence_prediction"
    chosen: dict[str, Any] = {
        "arch": "roberta",
        "task": task,
        "criterion": task,
        **fairseq_files.A_SHORT_TRAINING,
        "seed": seed,
    }
    if labelled:
        chosen |= {"num_classes": len(LABELS), "init_token": INIT, "separator_token": SEPARATOR,
                   "max_positions": POSITIONS}  # fmt: skip
    else:
        chosen |= {"tokens_per_sample": POSITIONS, "sample_break_mode": "none"}
    if not str(options.get("arch", "")).startswith("nmtprune"):
        chosen |= {SHORT[name]: value for name, value in {"heads": 4, "layers": 3, "width": 16, "ffn": 24}.items()}
    chosen |= {SHORT.get(name, name): value for name, value in options.items()}
    return fairseq_files.command_line(data, chosen)


def encoder_config(data: Path, **options: Any) -> Any:
    """What fairseq-train makes of its command line: the configuration with every default filled in."""
    from fairseq import options as fairseq_options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    parser = fairseq_options.get_training_parser()
    parsed: Namespace = fairseq_options.parse_args_and_arch(parser, encoder_arguments(data, **options))
    with composed_quickly():
        return convert_namespace_to_omegaconf(parsed)


def randomized(path: Path, seed: int = 5) -> Path:
    """The file with random weights of a size that makes every part matter: norms, biases, heads."""
    state = fairseq_files.load(path)
    generator = torch.Generator().manual_seed(seed)
    done: dict[int, torch.Tensor] = {}
    output, table = (state["model"][f"encoder.{name}.weight"] for name in ("lm_head", "sentence_encoder.embed_tokens"))
    tied = torch.equal(output, table)
    for name, tensor in state["model"].items():
        if not tensor.is_floating_point() or name.endswith("version"):
            continue
        if tensor.data_ptr() not in done:
            drawn = 0.4 * torch.randn(tensor.shape, generator=generator)
            gain = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            done[tensor.data_ptr()] = (drawn + gain).to(tensor.dtype)
        state["model"][name] = done[tensor.data_ptr()]
    if tied:  # half precision stores two copies
        state["model"]["encoder.lm_head.weight"] = state["model"]["encoder.sentence_encoder.embed_tokens.weight"]
    torch.save(state, path)
    return path


def load_encoder(path: Path) -> FairseqEncoder:
    """The checkpoint, which must be one of an encoder alone."""
    found = load(path)
    assert isinstance(found, FairseqEncoder)
    return found


def stock_model(path: Path, **overrides: Any) -> Any:
    """The model of a file as stock fairseq loads it for evaluation."""
    from functools import partial
    from unittest import mock

    from fairseq import checkpoint_utils

    with fairseq_files.on_cpu(), mock.patch("torch.load", partial(torch.load, weights_only=False)):
        models, _, _ = checkpoint_utils.load_model_ensemble_and_task([str(path)], arg_overrides=overrides)
    return models[0].eval()
