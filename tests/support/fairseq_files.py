"""Tiny fairseq checkpoints and binarized data, made in code by fairseq itself: no downloads, no binary fixtures."""

import contextlib
import dataclasses
import json
import random
import warnings
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from nmtprune import slim
from nmtprune.architecture import parse_heads
from nmtprune.formats.fairseq.checkpoint import FairseqCheckpoint
from nmtprune.plan import Plan
from tests.support.fairseq_settings import composed_quickly

Build = Callable[..., Path]
"""`fairseq_checkpoint` without the folder: equal options give the same file."""

SOURCE, TARGET = "xx", "yy"
WORDS = 24
PARAMETERS = "parameters.json"
LM_ARCH = "transformer_lm"


def data_bin(
    folder: Path, *, language_model: bool = False, joined: bool = True, sentences: int = 16, seed: int = 1
) -> Path:
    """Binarize random sentences into ``folder`` (train, valid and test) with fairseq's dictionaries and binarizer.

    The text files lie beside them as ``train.xx``, ``train.yy`` (``train.txt`` of a language model). With `joined` both
    languages have the same dictionary; without, the target has more words. An existing folder is used as it is.
    """
    from fairseq.data import Dictionary

    if folder.exists():
        return folder
    folder.mkdir(parents=True)
    rng = random.Random(seed)
    languages = {"": WORDS} if language_model else {SOURCE: WORDS, TARGET: WORDS if joined else WORDS + 7}
    for language, words in languages.items():
        dictionary = Dictionary()
        for word in range(words):
            dictionary.add_symbol(f"w{word}" if joined or language_model else f"{language}{word}", n=words - word)
        dictionary.save(str(folder / (f"dict.{language}.txt" if language else "dict.txt")))
        for subset in ("train", "valid", "test"):
            lines = [_sentence(rng, dictionary, words) for _ in range(sentences)]
            text = folder / f"{subset}.{language or 'txt'}"
            text.write_text("".join(f"{line}\n" for line in lines))
            pair = f".{SOURCE}-{TARGET}.{language}" if language else ""
            binarize(text, dictionary, folder / f"{subset}{pair}")
    return folder


def _sentence(rng: random.Random, dictionary: Any, words: int) -> str:
    first = dictionary.nspecial
    return " ".join(dictionary[first + rng.randrange(words)] for _ in range(rng.randint(2, 9)))


def binarize(text: Path, dictionary: Any, prefix: Path) -> None:
    from fairseq.binarizer import FileBinarizer, VocabularyDatasetBinarizer

    FileBinarizer.multiprocess_dataset(
        str(text),
        "mmap",
        VocabularyDatasetBinarizer(dictionary, append_eos=True),
        str(prefix),
        vocab_size=len(dictionary),
        num_workers=1,
    )


def fairseq_checkpoint(
    folder: Path, *, arch: str = "transformer", updates: int = 0, seed: int = 1, **options: Any
) -> Path:
    """Make a model with fairseq and save it as fairseq-train does; the path is ``folder/checkpoint.pt``.

    Beside it lies ``parameters.json``: name -> shape of the model's parameters in fairseq's order.

    Args:
        folder: gets the checkpoint and, as ``data-bin``, the data that it is trained on.
        arch: fairseq's ``--arch``.
        updates: real updates through fairseq's trainer; 0 leaves random weights and an empty optimizer state.
        seed: of the weights.
        options: fairseq-train options by their Python names (``encoder_normalize_before=True``), and these of our own:
            heads, layers, width, ffn: one number, or a pair for encoder and decoder (the second is a language model's);
            joined: one dictionary for both languages (default True);
            stored: how the file differs from what fairseq-train writes, see `store_as`.
    """
    from fairseq.trainer import Trainer

    stored = options.pop("stored", {})
    joined = options.pop("joined", True)
    language_model = arch.startswith(LM_ARCH)
    data = data_bin(folder / "data-bin", language_model=language_model, joined=joined)
    with on_cpu():
        cfg = fairseq_config(data, arch=arch, seed=seed, **options)
        cfg.common.tpu = False  # fairseq takes bf16 without a GPU for a TPU
        task, model, criterion = fairseq_model(cfg, seed)
        trainer = Trainer(cfg, task, model, criterion)
        iterator = trainer.get_train_iterator(epoch=1, load_dataset=True)
        train(trainer, iterator, updates)
        path = folder / "checkpoint.pt"
        extra = {"train_iterator": iterator.state_dict(), "val_loss": 3.25, "best": 3.125}
        trainer.consolidate_optimizer()
        trainer.save_checkpoint(str(path), extra)
    parameters = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    (folder / PARAMETERS).write_text(json.dumps(parameters))
    if stored:
        store_as(path, path, **stored)
    return path


def fairseq_config(data: Path, *, arch: str, seed: int = 1, **options: Any) -> Any:
    """What fairseq-train makes of its command line: the configuration with every default filled in."""
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    with composed_quickly():
        return convert_namespace_to_omegaconf(fairseq_arguments(data, arch=arch, seed=seed, **options))


A_SHORT_TRAINING = {
    "optimizer": "adam",
    "adam_betas": "(0.9, 0.98)",
    "lr_scheduler": "inverse_sqrt",
    "warmup_updates": 4,
    "lr": 0.01,
    "max_tokens": 400,
    "num_workers": 0,
    "ddp_backend": "legacy_ddp",
    "required_batch_size_multiple": 1,
    "cpu": True,
    "no_progress_bar": True,
    "disable_validation": True,
}
"""Options of fairseq-train for a few updates on a CPU."""


def fairseq_arguments(data: Path, *, arch: str, seed: int = 1, **options: Any) -> Namespace:
    """The parsed command line of fairseq-train; `options` are those of `fairseq_checkpoint`."""
    from fairseq import options as fairseq_options

    language_model = arch.startswith(LM_ARCH)
    chosen: dict[str, Any] = {
        "arch": arch,
        "task": "language_modeling" if language_model else "translation",
        "criterion": "adaptive_loss" if options.get("adaptive_softmax_cutoff") else "cross_entropy",
        **A_SHORT_TRAINING,
        "seed": seed,
    }
    if options.get("optimizer", "adam") != "adam":
        chosen["adam_betas"] = None
    if language_model:
        chosen |= {"tokens_per_sample": 32, "sample_break_mode": "none"}
    else:
        chosen |= {"source_lang": SOURCE, "target_lang": TARGET, "max_source_positions": 40, "max_target_positions": 40}
    chosen |= _sizes(options, language_model) | options
    parser = fairseq_options.get_training_parser()
    parsed: Namespace = fairseq_options.parse_args_and_arch(parser, command_line(data, chosen))
    return parsed


def command_line(data: Path, chosen: Mapping[str, Any]) -> list[str]:
    """Options by name as a command line has them: True stands for a flag, False and None for no option."""
    arguments = [str(data)]
    for name, value in chosen.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            arguments.append(option)
        elif value is not None and value is not False:
            arguments += [option, str(value)]
    return arguments


def fairseq_model(cfg: Any, seed: int = 1) -> tuple[Any, Any, Any]:
    """Task, model with fresh weights and criterion of a configuration, as fairseq-train sets them up."""
    from fairseq import tasks, utils

    np.random.seed(seed)
    utils.set_torch_seed(seed)
    task = tasks.setup_task(cfg.task)
    return task, task.build_model(cfg.model), task.build_criterion(cfg.criterion)


def _sizes(options: dict[str, Any], language_model: bool) -> dict[str, Any]:
    """Take heads, layers, width and ffn out of the options and spell them as fairseq does."""
    sizes: dict[str, Any] = {}
    names = {"heads": "attention_heads", "layers": "layers", "width": "embed_dim", "ffn": "ffn_embed_dim"}
    for short, default in {"heads": 4, "layers": 2, "width": 16, "ffn": 24}.items():
        value = options.pop(short, default)
        encoder, decoder = value if isinstance(value, tuple) else (value, value)
        sizes[f"decoder_{names[short]}"] = decoder
        if not language_model:
            sizes[f"encoder_{names[short]}"] = encoder
    if language_model:
        sizes |= {"decoder_input_dim": sizes["decoder_embed_dim"], "decoder_output_dim": sizes["decoder_embed_dim"]}
    return sizes


@contextlib.contextmanager
def on_cpu() -> Iterator[None]:
    """Let fairseq's fp16 optimizer, which asks for the current GPU, run where there is none; keep fairseq quiet."""
    from fairseq.logging import metrics

    metrics.reset()
    with mock.patch("torch.cuda.current_device", return_value=0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def train(trainer: Any, iterator: Any, updates: int) -> None:
    from fairseq.data.iterators import GroupedIterator

    trainer.begin_epoch(1)
    if updates == 0:
        iterator.next_epoch_itr(shuffle=True)
    done = 0
    while done < updates:
        for samples in GroupedIterator(iterator.next_epoch_itr(shuffle=True), 1):
            trainer.train_step(samples)
            done += 1
            if done == updates:
                break


def resumed(data: Path, *, arch: str = "transformer", **options: Any) -> tuple[Any, Any, Any]:
    """Start fairseq-train up to its first update: trainer, extra state and iterator after it has loaded its file."""
    from fairseq import checkpoint_utils
    from fairseq.trainer import Trainer

    with on_cpu(), mock.patch("torch.load", partial(torch.load, weights_only=False)):
        cfg = fairseq_config(data, arch=arch, **options)
        task, model, criterion = fairseq_model(cfg)
        trainer = Trainer(cfg, task, model, criterion)
        extra, iterator = checkpoint_utils.load_checkpoint(cfg.checkpoint, trainer)
        trainer.begin_epoch(iterator.next_epoch_idx)
    return trainer, extra, iterator


def load(path: Path) -> dict[str, Any]:
    """Everything in a checkpoint that the tests themselves made."""
    loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
    return loaded


def store_as(source: Path, target: Path, **changes: Any) -> Path:
    """Rewrite a checkpoint as other versions and settings of fairseq store it.

    Args:
        source: a checkpoint of `fairseq_checkpoint`.
        target: where to write; may be `source`.
        changes: ``cfg``: "omegaconf", "dict" (cfg.model a dict too), "namespace" (cfg and its parts) or "args" (the
            legacy flat Namespace under ``args``, no cfg); ``dtype``: floating-point weights in that torch type;
            ``packed``: query, key and value of self-attention in one legacy ``in_proj_weight``; ``cloned``: shared
            tables stored once per name, as averaging writes them; ``old_zip``: the file format before torch 1.6;
            ``without_settings``: names of settings that an old version did not store; ``without_optimizer``: no
            optimizer state; ``ema``: weights of that scale as a moving average.
    """
    state = load(source)
    for name, value in changes.items():
        if name != "old_zip":
            _CHANGES[name](state, value)
    torch.save(state, target, _use_new_zipfile_serialization=not changes.get("old_zip", False))
    return target


def _change_cfg(state: dict[str, Any], kind: str) -> None:
    cfg = state["cfg"]
    if kind == "args":
        names = {"arch": _plain(cfg["model"])["_name"], "task": _plain(cfg["task"])["_name"]}
        state["args"], state["cfg"] = Namespace(**_plain(cfg["model"]) | names), None
        for group in ("task", "criterion", "optimizer", "lr_scheduler", "optimization", "common"):
            for name, value in _plain(cfg[group]).items():
                if name not in state["args"]:
                    setattr(state["args"], name, value)
    elif kind == "dict":
        cfg["model"] = _plain(cfg["model"])
    elif kind == "namespace":
        state["cfg"] = Namespace(**{n: Namespace(**v) if isinstance(v, dict) else v for n, v in cfg.items()})
    elif kind == "omegaconf":
        from omegaconf import OmegaConf

        cfg["model"] = _plain(cfg["model"])
        state["cfg"] = OmegaConf.create(cfg)
    else:
        raise ValueError(kind)


def _plain(group: Any) -> dict[str, Any]:
    return dict(group) if isinstance(group, dict) else dict(vars(group))


def _change_dtype(state: dict[str, Any], dtype: torch.dtype) -> None:
    _each_storage_once(state["model"], lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)


def _each_storage_once(tensors: dict[str, torch.Tensor], change: Any) -> None:
    """Apply a change so that tensors that shared a storage share one afterwards."""
    done: dict[tuple[int, tuple[int, ...]], torch.Tensor] = {}
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if key not in done:
            done[key] = change(tensor)
        tensors[name] = done[key]


def _change_packed(state: dict[str, Any], wanted: bool) -> None:
    if not wanted:
        return
    packed: OrderedDict[str, torch.Tensor] = OrderedDict()
    for name, tensor in state["model"].items():
        module, _, part = name.rpartition("_proj.")
        if module.endswith(("attn.q", "attn.v")):
            continue
        if module.endswith("attn.k"):
            parts = [state["model"][f"{module[:-1]}{kind}_proj.{part}"] for kind in "qkv"]
            packed[f"{module[:-1]}in_proj_{part}"] = torch.cat(parts)
        else:
            packed[name] = tensor
    state["model"] = packed


def _change_cloned(state: dict[str, Any], wanted: bool) -> None:
    if wanted:
        state["model"] = OrderedDict((name, tensor.clone()) for name, tensor in state["model"].items())


def _change_settings(state: dict[str, Any], names: tuple[str, ...]) -> None:
    holder = state["args"] if state.get("args") is not None else state["cfg"]["model"]
    for name in names:
        if isinstance(holder, Namespace):
            delattr(holder, name)
        else:
            del holder[name]


def _change_optimizer(state: dict[str, Any], without: bool) -> None:
    if without:
        del state["last_optimizer_state"]


def _change_ema(state: dict[str, Any], scale: float) -> None:
    average = OrderedDict(state["model"].items())
    _each_storage_once(average, lambda tensor: tensor * scale)
    state["extra_state"]["ema"] = average


_CHANGES: dict[str, Callable[[dict[str, Any], Any], None]] = {
    "cfg": _change_cfg,
    "dtype": _change_dtype,
    "packed": _change_packed,
    "cloned": _change_cloned,
    "without_settings": _change_settings,
    "without_optimizer": _change_optimizer,
    "ema": _change_ema,
}


REMOVED = "encoder.0.1 encoder.1 decoder.0.0-2 cross.1 cross.0.0"
SIZES = {
    "encoder_layers": 2, "decoder_layers": 2, "encoder_embed_dim": 16, "encoder_ffn_embed_dim": 24,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "max_source_positions": 40, "max_target_positions": 40,
}  # fmt: skip
"""What a user must repeat to train the stock model; --arch nmtprune finds it in the checkpoint."""


@dataclasses.dataclass(frozen=True)
class Files:
    """A checkpoint, its data, and what a plan makes of it in every mode."""

    data: Path
    full: Path
    cut: Path
    masked: Path
    uniform: Path


def make_files(folder: Path, removed: str = REMOVED, **options: Any) -> Files:
    """Train a model for a few updates and slim it."""
    full = fairseq_checkpoint(folder, updates=3, **options)
    checkpoint = FairseqCheckpoint.load(full)
    plan = Plan.removing(checkpoint.base, parse_heads(removed, checkpoint.architecture))
    paths = {mode: folder / f"{mode}.pt" for mode in slim.MODES}
    for mode, path in paths.items():
        slim.apply(plan, checkpoint, mode).save(path, provenance={"command": "slim"})
    return Files(folder / "data-bin", full, **paths)
