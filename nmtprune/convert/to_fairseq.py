"""Models as checkpoints of fairseq's transformer."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nmtprune import files
from nmtprune.convert import vocabularies
from nmtprune.convert.language_tokenizers import is_in_front
from nmtprune.convert.portable import Portable
from nmtprune.convert.refusals import (
    activation_fault,
    epsilon_notes,
    frame_faults,
    scale_faults,
    search_notes,
    unusual,
)
from nmtprune.convert.target import ConversionTarget, read_with
from nmtprune.data.options import DataOptions
from nmtprune.formats.fairseq import containers, inert, language_tokens, layout, network, settings, slim_settings
from nmtprune.formats.fairseq.network import EOS, PADDING
from nmtprune.formats.fairseq.settings import Description
from nmtprune.network import Stack

_MODEL = "checkpoint.pt"
_ARCH = "transformer"
_EPSILON = 1e-5
_NAMES = {
    "relu": "relu", "relu_squared": "relu_squared", "gelu": "gelu", "gelu_tanh": "gelu_accurate", "tanh": "tanh",
    "linear": "linear", "swish": "swish",
}  # fmt: skip
_VERSION = 3.0
"""Of encoder and decoder, from which on pre-norm stacks have a norm behind the last layer."""
_FORM = "__{}__"
_NOT_TRAINED = {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}
"""What fairseq reads of the training before, of which nothing is left."""

_SIDES = ("source", "target")


class FairseqTarget(ConversionTarget):
    """``checkpoint.pt`` with its dictionaries, and the SentencePiece models of its text."""

    format = "fairseq"
    marker = _MODEL

    def faults(self, model: Portable) -> Iterator[str]:
        """What fairseq's transformer cannot say."""
        yield from unusual(model)
        tokens = model.corpus.model.language_tokens
        if tokens is None:
            yield from frame_faults(model)
        elif not is_in_front(tokens):
            yield from frame_faults(model, ", which stand in other places than in fairseq")
        yield from activation_fault(model, _NAMES)
        yield from scale_faults(model, one=True)
        yield from _stack_faults(model)
        yield from _table_faults(model)
        if model.output_bias is not None:
            yield "a bias of the output layer"
        for side, vocabulary in zip(_SIDES, (model.source, model.target), strict=True):
            yield from vocabularies.dictionary_faults(vocabulary, side)
        if len({*_languages(model)}) == 1 and not model.same_vocabulary:
            yield "two vocabularies and one language: name `source_lang` and `target_lang`"

    def write(self, model: Portable, folder: Path, provenance: Mapping[str, Any]) -> tuple[str, ...]:
        """The checkpoint and its dictionaries."""
        model = model.compact()
        state = _state(model)
        with files.atomic_output(folder / _MODEL) as file:
            inert.save({**state, "nmtprune": json.dumps(dict(provenance))}, file)
        for language, vocabulary in zip(_languages(model), (model.source, model.target), strict=True):
            vocabularies.write_dictionary(folder / f"dict.{language}.txt", _renamed(model, vocabulary))
        for side, pieces in zip(_SIDES, model.subwords, strict=True):
            if pieces is not None:
                vocabularies.copy(pieces, folder / f"{side}.model")
        return tuple(_notes(model))

    def model(self, folder: Path) -> Path:
        """The checkpoint."""
        return folder / _MODEL

    def data(self, folder: Path, given: DataOptions) -> DataOptions:
        """The dictionaries of the folder."""
        return read_with(given, data_bin=folder, pieces=[folder / f"{side}.model" for side in _SIDES])


def _languages(model: Portable) -> tuple[str, str]:
    languages = model.corpus.languages
    return languages.source, languages.target


def _stack_faults(model: Portable) -> Iterator[str]:
    """Norms that fairseq has no options for, and heads that differ within a stack in their width."""
    for name, stack in model.stacks.items():
        order = (stack.preprocess, stack.postprocess)
        if order not in (("n", "a"), ("", "an")):
            yield f"'{stack.preprocess}' before and '{stack.postprocess}' after the sublayers of the {name}"
        elif stack.final_norm and order == ("", "an"):
            yield f"a norm behind the last layer of the post-norm {name}"
        elif not stack.final_norm and order == ("n", "a") and name == "encoder":
            yield f"no norm behind the last layer of the pre-norm {name}"
        widths = sorted(model.head_dims(name))
        if len(widths) > 1:
            yield f"heads of {' and '.join(map(str, widths))} in the {name}"
    normed = [name for name, stack in model.stacks.items() if stack.embedding_norm]
    if len(normed) == 1:
        yield f"a norm of embeddings in the {normed[0]} alone"
    if len({stack.positions is None for stack in model.stacks.values()}) > 1:
        yield "positions in one stack alone"


def _table_faults(model: Portable) -> Iterator[str]:
    """What stands before the first word, where the row of ``</s>`` serves elsewhere too."""
    rows = len(model.target_table)
    if rows > EOS and not torch.equal(model.start_row, model.target_table[EOS]) and not _start_is_free(model):
        start = model.target.start_symbol
        what = f"translations that begin with {start}" if start else "translations that begin with a row of zeros"
        yield f"{what}: fairseq begins with </s>, whose embedding is that of the {_elsewhere(model)} too"


def _start_is_free(model: Portable) -> bool:
    """Whether the row of ``</s>`` among the decoder's embeddings is read before the first word alone."""
    return not model.shares_tables and not model.ties_output


def _elsewhere(model: Portable) -> str:
    return "output layer" if model.ties_output else "source"


def _renamed(model: Portable, vocabulary: Any) -> Any:
    """A vocabulary in which languages have fairseq's names."""
    tokens = model.corpus.model.language_tokens
    if tokens is None:
        return vocabulary
    names = {form.format(own): _FORM.format(own) for form in tokens.forms for own in tokens.languages or ()}
    return replace(vocabulary, symbols=tuple(names.get(symbol, symbol) for symbol in vocabulary.symbols))


def _model_settings(model: Portable) -> dict[str, Any]:
    """``cfg.model``."""
    found: dict[str, Any] = {
        "_name": _ARCH, "arch": _ARCH, "activation_fn": _NAMES[model.network.activation],
        "share_all_embeddings": model.shares_tables and model.ties_output,
        "share_decoder_input_output_embed": model.ties_output,
        "no_scale_embedding": model.stacks["decoder"].embedding_scale == 1.0,
        "no_token_positional_embeddings": model.stacks["decoder"].positions is None,
        "layernorm_embedding": model.stacks["decoder"].embedding_norm, "adaptive_input": False,
        "no_decoder_final_norm": "n" in model.network.decoder.preprocess and not model.network.decoder.final_norm,
        "max_source_positions": model.length_limit("encoder"), "max_target_positions": model.length_limit("decoder"),
        "dropout": 0.1, "attention_dropout": 0.0, "activation_dropout": 0.0,
    }  # fmt: skip
    for name, stack in model.stacks.items():
        width = model.width if name == "decoder" else model.width_of_encoder
        widths = [group.stored for group in model.architecture.feed_forwards if group.id.stack == name]
        found |= {
            f"{name}_embed_dim": width, f"{name}_layers": stack.layers, f"{name}_ffn_embed_dim": max(widths, default=1),
            f"{name}_attention_heads": width // next(iter(model.head_dims(name)), width),
            f"{name}_normalize_before": "n" in stack.preprocess, f"{name}_learned_pos": _is_table(model, name, stack),
        }  # fmt: skip
    found |= {"decoder_input_dim": model.width, "decoder_output_dim": model.width}
    return found


def _is_table(model: Portable, name: str, stack: Stack) -> bool:
    """Whether positions are written as a table: fairseq's own sinusoids are not."""
    return stack.positions is not None and not model.are_sinusoids(name, PADDING + 1)


def _task(model: Portable) -> dict[str, Any]:
    """``cfg.task``."""
    source, target = _languages(model)
    found = {"_name": "translation", "source_lang": source, "target_lang": target, "left_pad_source": True,
             "left_pad_target": False, "max_source_positions": model.length_limit("encoder"),
             "max_target_positions": model.length_limit("decoder"), "data": ""}  # fmt: skip
    tokens = model.corpus.model.language_tokens
    if tokens is None:
        return found
    return found | {
        "_name": language_tokens.MULTI, "langs": list(tokens.languages or ()), "lang_pairs": [f"{source}-{target}"],
        "encoder_langtok": "src", "decoder_langtok": True, "lang_tok_style": "multilingual",
    }  # fmt: skip


def _state(model: Portable) -> dict[str, Any]:
    """The top-level dict of the checkpoint."""
    versions = {f"{stack}.version": torch.tensor([_VERSION]) for stack in model.stacks}
    state: dict[str, Any] = {
        "args": None, "cfg": {"_name": None, "model": _model_settings(model), "task": _task(model)},
        "model": versions, "criterion": None, "optimizer_history": [dict(_NOT_TRAINED)], "task_state": {},
        "extra_state": {}, "last_optimizer_state": None,
    }  # fmt: skip
    full = settings.read_settings(state, _MODEL)
    changes, removed = slim_settings.shape_fields(full, model.architecture, model.checkpoint.lineage)
    state = containers.with_model_fields(state, changes, removed)
    description = settings.read_settings(state, _MODEL)
    return {**state, "model": versions | _tensors(model, description, versions)}


def _tensors(model: Portable, description: Description, versions: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters by fairseq's names; names that share a table share its memory."""
    target = model.target_table
    if not torch.equal(model.start_row, target[EOS]):
        target = target.clone()
        target[EOS] = model.start_row
    shared = description.settings["share_all_embeddings"]
    tables = {
        "encoder.embed_tokens.weight": model.source_table.contiguous(),
        "decoder.embed_tokens.weight": target.contiguous(),
        "decoder.output_projection.weight": model.output_table.contiguous(),
    }
    if shared:
        tables["decoder.embed_tokens.weight"] = tables["encoder.embed_tokens.weight"]
    if description.settings["share_decoder_input_output_embed"]:
        tables["decoder.output_projection.weight"] = tables["decoder.embed_tokens.weight"]
    found: dict[str, Tensor] = {}
    for name, spec in layout.expected_tensors(description, versions).items():
        stack = name.partition(".")[0]
        if name in tables:
            found[name] = tables[name]
        elif name.endswith("embed_positions.weight"):
            rows = model.positions(stack, model.length_limit(stack)).to(model.dtype_of_positions(stack))
            found[name] = torch.cat([rows.new_zeros(PADDING + 1, rows.shape[1]), rows])
        elif spec.draw is not None:
            native = network.native_name(name, description.settings)
            found[name] = model.tensors[native or name].contiguous()
    return found


def _notes(model: Portable) -> Iterator[str]:
    yield from epsilon_notes(model, _EPSILON)
    yield from search_notes(model, (), (PADDING,))
    for name, stack in model.stacks.items():
        if _is_table(model, name, stack) and stack.positions is not None and not stack.positions.learned:
            limit = model.length_limit(name)
            yield f"positions of the {name} are a learned table, for sentences of up to {limit} tokens"
    if model.corpus.model.language_tokens is not None:
        source, target = _languages(model)
        yield f"the dictionaries are those of {source} and {target}: copy one to dict.LANG.txt for another language"
