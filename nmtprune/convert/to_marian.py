"""Models as Marian's archives."""

import filecmp
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from nmtprune import files
from nmtprune.convert import vocabularies
from nmtprune.convert.portable import Portable, are_computed
from nmtprune.convert.refusals import (
    activation_fault,
    epsilon_notes,
    frame_faults,
    full_heads,
    head_faults,
    scale_faults,
    search_notes,
    unusual,
)
from nmtprune.convert.target import ConversionTarget, read_with
from nmtprune.convert.to_huggingface import length_exponent
from nmtprune.data.options import DataOptions
from nmtprune.data.vocabulary import Vocabulary
from nmtprune.formats.marian import archive, layout, network, note
from nmtprune.formats.marian import options as marian_options
from nmtprune.formats.marian.archive import Arrays
from nmtprune.formats.marian.decoder import ENDING

_MODEL = "model.npz"
_EPSILON = 1e-6
_NAMES = {"swish": "swish", "relu": "relu", "gelu": "gelu", "sigmoid": "sigmoid", "linear": ""}
_VERSION = "v1.12.0"
_SIDES = ("source", "target")


class MarianTarget(ConversionTarget):
    """``model.npz``, its vocabularies, and the settings of marian-decoder."""

    format = "marian"
    marker = _MODEL

    def faults(self, model: Portable) -> Iterator[str]:
        """What options of Marian cannot say."""
        yield from unusual(model)
        yield from frame_faults(model)
        yield from head_faults(model)
        yield from activation_fault(model, _NAMES)
        yield from _position_faults(model)
        yield from _stack_faults(model)
        yield from _table_faults(model)
        for side, vocabulary in zip(_SIDES, (model.source, model.target), strict=True):
            yield from vocabularies.symbol_faults(vocabulary, side)

    def write(self, model: Portable, folder: Path, provenance: Mapping[str, Any]) -> tuple[str, ...]:
        """The archive, vocabularies, settings of the decoder."""
        model = _without_padding_symbol(model.uniform(full_heads(model)))
        options = marian_options.encoded(_options(model))
        arrays = _arrays(model, marian_options.parse(options, _MODEL))
        arrays[marian_options.ENTRY] = note.as_text(options)
        arrays[note.NOTE] = note.entry(model.architecture, model.checkpoint.lineage, provenance)
        with files.atomic_output(folder / _MODEL) as file:
            archive.write_archive(file, arrays)
        _write_settings(model, folder)
        return tuple(_notes(model))

    def model(self, folder: Path) -> Path:
        """The archive."""
        return folder / _MODEL

    def data(self, folder: Path, given: DataOptions) -> DataOptions:
        """As the settings of the decoder say."""
        settings = yaml.safe_load((folder / f"{_MODEL}{ENDING}").read_text(encoding="utf-8"))
        source, target = (folder / name for name in settings["vocabs"])
        return read_with(given, vocabs=(source, target), pieces=[folder / f"{side}.spm" for side in _SIDES])


def _position_faults(model: Portable) -> Iterator[str]:
    """Positions that differ from Marian's, and factors of embeddings, which Marian has with positions alone."""
    stacks = model.stacks
    for name, stack in stacks.items():
        if stack.positions is None:
            if stack.embedding_scale != 1.0:
                yield f"scaled embeddings without positions in the {name}"
        elif not model.are_sinusoids(name, 0):
            what = "a table" if stack.positions.learned else f"sinusoids from row {stack.positions.first}"
            own = " (`marian_positions` takes these)" if are_computed(model, name) else ""
            yield f"positions of the {name} are {what}: Marian has its own sinusoids from row 0{own}"
    if all(stack.positions is not None for stack in stacks.values()):
        yield from scale_faults(model, one=False)
    elif any(stack.positions is not None for stack in stacks.values()):
        yield "positions in one stack alone"


def _stack_faults(model: Portable) -> Iterator[str]:
    """Norms and widths that differ between the stacks."""
    stacks = model.stacks
    for what in ("preprocess", "postprocess", "final_norm", "embedding_norm"):
        if len({getattr(stack, what) for stack in stacks.values()}) > 1:
            yield f"{what.replace('_', ' ')} of one stack differs from that of the other"
    if model.width != model.width_of_encoder:
        yield f"an encoder of width {model.width_of_encoder} and a decoder of width {model.width}"
    elif len({width for stack in stacks for width in model.head_dims(stack)}) > 1:
        yield "another number of heads in the encoder than in the decoder"


def _table_faults(model: Portable) -> Iterator[str]:
    """What stands before the first word, and a padding symbol in the midst of the vocabulary."""
    if bool(model.start_row.any()):
        start = model.target.start_symbol
        yield f"translations that begin with {start or 'a symbol'}: Marian begins with a row of zeros"
    for side, vocabulary in zip(_SIDES, (model.source, model.target), strict=True):
        if 0 <= vocabulary.pad < len(vocabulary) - 1:
            yield f"{vocabulary.symbols[vocabulary.pad]} in the midst of the {side} vocabulary: Marian has no padding"
    if model.shares_tables and not model.ties_output:
        yield "a table shared by source and target, and another one in the output layer"


def _without_padding_symbol(model: Portable) -> Portable:
    """The model without the last row of its tables, if that is padding."""
    tensors = dict(model.tensors)
    if model.source.pad >= 0:
        rows = len(model.source_table) - 1
        tensors["encoder.embedding.tokens.weight"] = model.source_table[:rows]
    if model.target.pad >= 0:
        rows = len(model.target_table) - 1
        tensors["decoder.embedding.tokens.weight"] = torch.cat([model.target_table[:rows], model.start_row[None]])
        tensors["output.weight"] = model.output_table[:rows]
        if "output.bias" in tensors:
            tensors["output.bias"] = tensors["output.bias"][:rows]
        # Its id is that of the row behind the tables now, as in any model of Marian's.
        corpus = replace(model.corpus, frame=replace(model.corpus.frame, start=rows))
        return replace(model, tensors=tensors, corpus=corpus)
    return replace(model, tensors=tensors)


def _options(model: Portable) -> dict[str, Any]:
    """The options of the model, all that change what is computed."""
    encoder, decoder = model.stacks["encoder"], model.stacks["decoder"]
    heads = next((module.stored_heads for module in model.architecture), 1)
    widths = {group.id.stack: group.stored for group in model.architecture.feed_forwards}
    values: dict[str, Any] = {
        "type": "transformer", "version": _VERSION, "dim-emb": model.width, "enc-depth": encoder.layers,
        "dec-depth": decoder.layers, "dim-vocabs": [len(model.source_table), len(model.target_table)],
        "transformer-heads": heads, "transformer-ffn-depth": 2, "transformer-decoder-ffn-depth": 0,
        "transformer-decoder-dim-ffn": 0, "transformer-ffn-activation": _NAMES[model.network.activation],
        "transformer-preprocess": decoder.preprocess, "transformer-postprocess": f"d{decoder.postprocess}",
        "transformer-postprocess-emb": f"d{'n' if decoder.embedding_norm else ''}",
        "transformer-postprocess-top": "n" if decoder.final_norm else "",
        "transformer-decoder-autoreg": "self-attention", "transformer-tied-layers": [],
        "transformer-no-projection": False, "transformer-train-position-embeddings": False,
        "transformer-disable-position-embeddings": decoder.positions is None, "dec-cell": "gru", "enc-cell": "gru",
        "tied-embeddings-all": model.shares_tables and model.ties_output, "tied-embeddings-src": False,
        "tied-embeddings": model.ties_output and not model.shares_tables, "output-omit-bias": False,
        "layer-normalization": False, "right-left": False, "input-types": [], "skip": False,
    }  # fmt: skip
    return marian_options.with_widths(values, widths["encoder"], widths["decoder"])


def _arrays(model: Portable, options: marian_options.Options) -> Arrays:
    """Parameters by Marian's names: matrices transposed, vectors with a second axis."""
    stored = layout.architecture(options)[0]
    found: Arrays = {}
    for name in layout.parameters(options, stored, set()):
        if name in layout.TABLES:
            value = model.target_table if name == "decoder_Wemb" else model.source_table
        elif name == layout.OUTPUT_BIAS:
            bias = model.tensors.get("output.bias")
            value = (model.output_table.new_zeros(len(model.output_table)) if bias is None else bias)[None]
        elif name in layout.OUTPUT:
            value = model.output_table
        else:
            tensor = model.tensors[network.native_parameter(name)]
            value = tensor.T if tensor.dim() == 2 else tensor[None]
        # NumPy has no bfloat16; single precision holds every number of it.
        value = value.float() if value.dtype == torch.bfloat16 else value
        found[name] = np.ascontiguousarray(value.numpy())
    return found


def _write_settings(model: Portable, folder: Path) -> None:
    """Vocabularies and the settings of marian-decoder."""
    sides = zip(_SIDES, (model.source, model.target), model.subwords, strict=True)
    names = [_vocabulary(model, side, vocabulary, pieces, folder) for side, vocabulary, pieces in sides]
    values = {
        "relative-paths": True, "models": [_MODEL], "vocabs": names, "beam-size": model.search.beam,
        "normalize": length_exponent(model.search), "word-penalty": float(model.search.word_penalty),
    }  # fmt: skip
    never = getattr(model.search, "never", None)
    if never is not None and model.target.unk not in never:
        values["allow-unk"] = True
    (folder / f"{_MODEL}{ENDING}").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def _vocabulary(model: Portable, side: str, vocabulary: Vocabulary, pieces: Path | None, folder: Path) -> str:
    """Write the vocabulary of a side; the name of its file.

    A SentencePiece model with the same ids is the vocabulary itself, so that Marian splits text.
    """
    symbols = {symbol: id for symbol, id in vocabularies.numbered(vocabulary).items() if id != vocabulary.pad}
    shared = model.same_vocabulary and _same_file(*model.subwords)
    start = "" if shared else f"{side}."
    if pieces is not None and vocabularies.is_of_pieces(symbols, pieces):
        vocabularies.copy(pieces, folder / f"{start}vocab.spm")
        return f"{start}vocab.spm"
    if pieces is not None:
        vocabularies.copy(pieces, folder / f"{side}.spm")
    vocabularies.write_yaml(folder / f"{start}vocab.yml", symbols)
    return f"{start}vocab.yml"


def _same_file(first: Path | None, second: Path | None) -> bool:
    """Whether both sides have the same SentencePiece model, or none."""
    if first is None or second is None:
        return first is second
    return first == second or filecmp.cmp(first, second, shallow=False)


def _notes(model: Portable) -> Iterator[str]:
    yield from epsilon_notes(model, _EPSILON)
    yield from search_notes(model, ("beam", "length_penalty"), (model.target.pad, model.target.unk))
    zeros = sum(module.padding for module in model.architecture.modules)
    if zeros:
        yield f"{zeros} heads that are gone are stored as zeros, so that every Marian runs the model"
    neurons = sum(group.padding for group in model.architecture.feed_forwards)
    if neurons:
        yield f"{neurons} zero neurons make the layers of a stack equally wide"
    if model.dtype == torch.bfloat16:
        yield "bfloat16 weights are stored in single precision, which holds every number of them"
