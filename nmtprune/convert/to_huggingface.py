"""Models as folders of transformers: the first class that can say a model, or why none can."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nmtprune.convert import language_tokenizers, vocabularies
from nmtprune.convert.language_tokenizers import Found
from nmtprune.convert.portable import Portable
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
from nmtprune.data.options import DataOptions
from nmtprune.formats.huggingface import config as configs
from nmtprune.formats.huggingface import generation, language_codes, layout, model_folder
from nmtprune.formats.huggingface.config import Config
from nmtprune.formats.huggingface.families import ACTIVATIONS, M2M100, MARIAN, MBART, Family
from nmtprune.formats.huggingface.folder_checkpoint import noted
from nmtprune.formats.huggingface.folder_config import FILE, NOTE
from nmtprune.network import Stack

_FAMILIES = (MARIAN, M2M100, MBART)
_WEIGHTS = "model.safetensors"
_EPSILON = 1e-5
_NEVER = -1e4
"""Bias of a padding symbol that the model did not have: no probability is left of it, and half precision has it."""
_LONGEST = 512
"""Tokens of a translation at most, as in the folders of OPUS-MT."""
_NAMES = {own: name for name, own in reversed([*ACTIVATIONS.items()])}
_ORDERS = {("n", "a"): "pre-norm", ("", "an"): "post-norm"}
_VOCABULARY, _TARGET_VOCABULARY, _SUBWORDS = "vocab.json", "target_vocab.json", ("source.spm", "target.spm")


class HuggingFaceTarget(ConversionTarget):
    """Folders that ``from_pretrained`` loads, with the tokenizer of Marian's models."""

    format = "huggingface"
    marker = FILE

    def faults(self, model: Portable) -> Iterator[str]:
        """Of the model whatever the class, and those of each class, if none can say it."""
        common = [*_common_faults(model)]
        found = {family.model_class: [*_family_faults(model, family)] for family in _FAMILIES}
        yield from common
        if all(found.values()):
            yield from (f"{name}: {', '.join(own)}" for name, own in found.items())

    def write(self, model: Portable, folder: Path, provenance: Mapping[str, Any]) -> tuple[str, ...]:
        """Settings, weights, settings of the search, tokenizer."""
        family = next(each for each in _FAMILIES if not any(_family_faults(model, each)))
        model = model.uniform(full_heads(model))
        values = _values(model, family)
        note = noted(model.architecture, model.checkpoint.lineage)
        config = configs.parse_config(values, FILE)
        tensors = _tensors(model, config)
        values[NOTE] = {**note, "provenance": dict(provenance)}
        weights = model_folder.WeightFiles({_WEIGHTS: tuple(tensors)}, {_WEIGHTS: {}}, None, _WEIGHTS)
        model_folder.write_weights(folder, weights, tensors)
        _write_settings(folder / FILE, values)
        _write_settings(folder / generation.FILE, _search(model, config))
        if (found := language_tokenizers.tokenizer_for(model, family)) is not None:
            _write_language_tokenizer(model, found, folder)
        else:
            _write_tokenizer(model, config, folder)
        return tuple(_notes(model, config))

    def model(self, folder: Path) -> Path:
        """The folder itself."""
        return folder

    def data(self, folder: Path, given: DataOptions) -> DataOptions:
        """Its own vocabularies and SentencePiece models."""
        values = json.loads((folder / FILE).read_text(encoding="utf-8"))
        own = language_codes.tokenizer_of(folder, configs.parse_config(values, FILE))
        if own is not None and own.tokenizer is not None:
            file, pieces = folder / own.tokenizer.vocabulary, folder / own.tokenizer.subwords
            return read_with(given, vocabs=(file, file), pieces=[pieces, pieces])
        separate = folder / _TARGET_VOCABULARY
        target = separate if separate.exists() else folder / _VOCABULARY
        return read_with(given, vocabs=(folder / _VOCABULARY, target), pieces=[folder / name for name in _SUBWORDS])


def _common_faults(model: Portable) -> Iterator[str]:
    yield from unusual(model)
    tokens = model.corpus.model.language_tokens
    if tokens is None:
        yield from frame_faults(model)
    elif not language_tokenizers.is_in_front(tokens):
        yield from frame_faults(model, ", which stand in other places than in transformers")
    yield from head_faults(model)
    yield from scale_faults(model, one=True)
    yield from activation_fault(model, _NAMES)
    if model.width != model.width_of_encoder:
        yield f"an encoder of width {model.width_of_encoder} and a decoder of width {model.width}"
    for side, vocabulary, pieces in zip(
        ("source", "target"), (model.source, model.target), model.subwords, strict=True
    ):
        yield from vocabularies.symbol_faults(vocabulary, side)
        if pieces is None:
            yield f"no SentencePiece model of the {side} side, which the tokenizer needs: name `{side}_sentencepiece`"
    yield from _padding_faults(model)
    codec = model.corpus.codec
    if codec.tokenizers or codec.lowercased:
        yield "text that is tokenized or lower-cased before it is split, which the tokenizer does not do"


def _padding_faults(model: Portable) -> Iterator[str]:
    """Why a padding symbol cannot be added, where there is none, or the first word cannot follow what it followed."""
    if model.source.pad != model.target.pad or model.source.eos != model.target.eos:
        yield "padding or </s> with other ids in the source than in the target vocabulary"
    if model.target.pad >= 0:
        if not _start_is_a_symbol(model):
            yield "what stands before the first word is no symbol of the vocabulary"
        return
    rows = {len(model.source_table), len(model.target_table)}
    if len(rows) > 1:
        yield (
            f"vocabularies of {' and '.join(map(str, sorted(rows)))} symbols without padding: what is added must have "
            "one id in both"
        )
    if vocabularies.PAD in {*model.source.symbols, *model.target.symbols}:
        yield f"a symbol {vocabularies.PAD} that is no padding"
    if bool(model.start_row.any()):
        yield "what stands before the first word is neither a symbol nor a row of zeros"


def _start_is_a_symbol(model: Portable) -> bool:
    start = model.target.start
    return start < len(model.target_table) and torch.equal(model.start_row, model.target_table[start])


def _family_faults(model: Portable, family: Family) -> Iterator[str]:
    """Why a class cannot say a model."""
    for name, stack in model.stacks.items():
        yield from (f"{fault} in the {name}" for fault in _stack_faults(stack, family))
        if not family.position_table and not model.are_sinusoids(name, model.target.pad + 1):
            yield f"{_described(stack)} in the {name}"
    if family.always_tied and not (model.shares_tables and model.ties_output):
        yield "separate tables of embeddings"
    if family.always_tied and not model.same_vocabulary:
        yield "two vocabularies"
    if model.output_bias is not None and not family.logits_bias:
        yield "a bias of the output layer"
    if model.corpus.model.language_tokens is not None and language_tokenizers.tokenizer_for(model, family) is None:
        known = " and ".join(own.name for own in language_codes.OF_FAMILY.get(family.model_type, ())) or "its tokenizer"
        yield f"symbols and languages with other ids than {known} has"
    if family.first_position is None and model.target.pad < 0:
        yield "a row of zeros before the first word"


def _stack_faults(stack: Stack, family: Family) -> Iterator[str]:
    wanted = ("n", "a") if family.pre_norm else ("", "an")
    if (stack.preprocess, stack.postprocess) != wanted:
        yield f"{_ORDERS.get((stack.preprocess, stack.postprocess), 'other')} layers"
    if stack.final_norm != family.final_norm:
        yield "a final norm" if stack.final_norm else "no final norm"
    if stack.embedding_norm != family.embedding_norm:
        yield "a norm of embeddings" if stack.embedding_norm else "no norm of embeddings"


def _described(stack: Stack) -> str:
    """The positions of a stack in the words of a message."""
    if stack.positions is None:
        return "no positions"
    return "learned positions" if stack.positions.learned else f"sinusoids from row {stack.positions.first}"


def _limit(model: Portable) -> int:
    """Positions of both stacks: as many as the shorter one has, or as many as a model with sinusoids may have."""
    tables = [stack for stack, own in model.stacks.items() if own.positions is not None and own.positions.learned]
    if tables:
        return min(model.length_limit(stack) for stack in tables)
    return max(model.length_limit(stack) for stack in model.stacks)


def _values(model: Portable, family: Family) -> dict[str, Any]:
    """Settings of ``config.json``."""
    added = model.target.pad < 0
    rows, target_rows = (len(table) + added for table in (model.source_table, model.target_table))
    pad = rows - 1 if added else model.target.pad
    heads = {module.id.stack: module.stored_heads for module in model.architecture}
    sizes = {f"{stack}_layers": own.layers for stack, own in model.stacks.items()}
    sizes |= {f"{group.id.stack}_ffn_dim": group.stored for group in model.architecture.feed_forwards}
    sizes |= {f"{stack}_attention_heads": count for stack, count in heads.items()}
    values: dict[str, Any] = {
        "architectures": [family.model_class], "model_type": family.model_type, "is_encoder_decoder": True,
        "d_model": model.width, **sizes, "num_hidden_layers": sizes["encoder_layers"], "vocab_size": rows,
        "max_position_embeddings": _limit(model), "activation_function": _NAMES[model.network.activation],
        "scale_embedding": model.stacks["encoder"].embedding_scale != 1.0, "tie_word_embeddings": model.ties_output,
        "pad_token_id": pad, "eos_token_id": model.target.eos,
        "decoder_start_token_id": pad if added else model.target.start,
        "dtype": str(model.dtype).removeprefix("torch."), "use_cache": True,
        "dropout": 0.1, "attention_dropout": 0.0, "activation_dropout": 0.0, **family.must_be,
    }  # fmt: skip
    if family.separate_vocabularies:
        values |= {"share_encoder_decoder_embeddings": model.shares_tables, "decoder_vocab_size": target_rows}
    return values


def _tensors(model: Portable, config: Config) -> dict[str, Tensor]:
    """Tensors by the names that transformers gives them."""
    added = model.target.pad < 0
    tables = {
        layout.SHARED: model.source_table,
        layout.TABLES["encoder"]: model.source_table,
        layout.TABLES["decoder"]: model.target_table,
        config.family.head: model.output_table,
    }
    positions = {layout.POSITIONS.format(stack): stack for stack in model.stacks}
    found: dict[str, Tensor] = {}
    for name in layout.entries(config, ()):
        if name in tables:
            found[name] = _with_row(tables[name]) if added else tables[name]
        elif name in positions:
            found[name] = _positions(model, positions[name], config)
        elif name == layout.LOGITS_BIAS:
            found[name] = _bias(model)
        else:
            native = layout.native_of(name, config)
            found[name] = model.tensors[native or name]
    return {name: tensor.contiguous() for name, tensor in found.items()}


def _with_row(table: Tensor) -> Tensor:
    """A table with a row of zeros for padding, which Marian feeds before the first word."""
    return torch.cat([table, table.new_zeros(1, table.shape[1])])


def _positions(model: Portable, stack: str, config: Config) -> Tensor:
    """A table of positions [P, D]; rows before that of the first token are zeros."""
    rows = model.positions(stack, int(config.settings["max_position_embeddings"]))
    return torch.cat([rows.new_zeros(config.first_position, rows.shape[1]), rows])


def _bias(model: Portable) -> Tensor:
    """The output layer's bias [1, V], by which padding that was added is never chosen."""
    bias = model.tensors.get("output.bias")
    found = model.output_table.new_zeros(len(model.output_table)) if bias is None else bias
    if model.target.pad < 0:
        found = torch.cat([found, found.new_full((1,), _NEVER)])
    return found[None]


def _search(model: Portable, config: Config) -> dict[str, Any]:
    """Settings of ``generation_config.json``."""
    settings, search = config.settings, model.search
    never = [settings["pad_token_id"]]
    if getattr(search, "allow_unk", True) is False:
        never.append(model.target.unk)
    return {
        "num_beams": search.beam, "length_penalty": length_exponent(search), "bad_words_ids": [[id] for id in never],
        "max_length": min(_LONGEST, int(settings["max_position_embeddings"])),
        "pad_token_id": settings["pad_token_id"], "eos_token_id": settings["eos_token_id"],
        "decoder_start_token_id": settings["decoder_start_token_id"],
        "forced_eos_token_id": settings["eos_token_id"],
    }  # fmt: skip


def length_exponent(search: Any) -> float:
    """The power of the length by which a search divides scores."""
    return round(float(search.scale(torch.tensor([2])).log2()), 6)


def _write_tokenizer(model: Portable, config: Config, folder: Path) -> None:
    limit, pad = int(config.settings["max_position_embeddings"]), int(config.settings["pad_token_id"])
    separate = not model.same_vocabulary
    sides = {_VOCABULARY: model.source} | ({_TARGET_VOCABULARY: model.target} if separate else {})
    for name, vocabulary in sides.items():
        symbols = vocabularies.numbered(vocabulary)
        vocabularies.write_json(folder / name, symbols | ({vocabularies.PAD: pad} if vocabulary.pad < 0 else {}))
    for name, pieces in zip(_SUBWORDS, model.subwords, strict=True):
        if pieces is not None:
            vocabularies.copy(pieces, folder / name)
    languages = model.corpus.languages
    pad_symbol = vocabularies.PAD if model.target.pad < 0 else model.target.symbols[model.target.pad]
    _write_settings(folder / language_codes.CONFIG, {
        "tokenizer_class": language_codes.PLAIN, "source_lang": languages.source, "target_lang": languages.target,
        "separate_vocabs": separate, "model_max_length": limit, "eos_token": vocabularies.EOS,
        "unk_token": vocabularies.UNKNOWN, "pad_token": pad_symbol,
    })  # fmt: skip


def _write_language_tokenizer(model: Portable, found: Found, folder: Path) -> None:
    """A tokenizer with language codes."""
    languages, tokenizer = model.corpus.languages, found.tokenizer
    if tokenizer.vocabulary != tokenizer.subwords:
        symbols = {symbol: id for symbol, id in vocabularies.numbered(model.source).items() if id < found.count}
        vocabularies.write_json(folder / tokenizer.vocabulary, symbols)
    if model.subwords[0] is not None:
        vocabularies.copy(model.subwords[0], folder / tokenizer.subwords)
    about = {"tokenizer_class": tokenizer.name, "src_lang": languages.source, "tgt_lang": languages.target}
    sets = {language_codes.SETS: found.codes} if len(tokenizer.codes) > 1 else {}
    _write_settings(folder / language_codes.CONFIG, {**about, **sets})


def _write_settings(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _notes(model: Portable, config: Config) -> Iterator[str]:
    limit = int(config.settings["max_position_embeddings"])
    yield from epsilon_notes(model, _EPSILON)
    yield from search_notes(model, ("beam", "lenpen", "unnormalized", "normalize", "allow_unk"), ())
    if config.family.position_table and not config.family.learned_positions:
        yield (
            f"positions are tables of {limit} rows in the file, for sentences of up to {limit} tokens: transformers "
            "reads them, but save_pretrained leaves them out, and another folder that it writes computes others"
        )
    elif model.limits_length:
        yield f"sentences may have up to {limit} tokens"
    zeros = sum(module.padding for module in model.architecture.modules)
    if zeros:
        yield f"{zeros} heads that are gone are stored as zeros: transformers has no other number of heads"
    neurons = sum(group.padding for group in model.architecture.feed_forwards)
    if neurons:
        yield f"{neurons} zero neurons make the layers of a stack equally wide"
