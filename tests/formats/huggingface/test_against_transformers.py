"""Folders against Hugging Face's transformers itself: forward, search, tokens, what is written."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from nmtprune import slim
from nmtprune.architecture import EVERY_KIND, UnitId
from nmtprune.data.corpus import Corpus, load_corpus
from nmtprune.data.options import DataOptions
from nmtprune.engines import native
from nmtprune.formats import load
from nmtprune.formats.base import Checkpoint
from nmtprune.formats.huggingface.families import FAMILIES
from nmtprune.model.ablation.masked_search import MaskedSearch
from nmtprune.model.search import GenerateOptions, Hypothesis, translate_batch
from nmtprune.plan import Plan
from tests.support import huggingface_folders
from tests.support.cli import nmtprune
from tests.support.subwords import ENGLISH, GERMAN

TEXTS = [*ENGLISH[:5], "a man </s> and a dog", "a <unk> man<unk>", ">>de<< a man", ">>nn<< a dog", "a >>nn<< dog",
         " a  dog ", "Ž <unk>", "a</s>"]  # fmt: skip
"""Special symbols and languages, known and unknown, among them."""

SEPARATE: dict[str, Any] = {
    "share_encoder_decoder_embeddings": False, "tie_word_embeddings": False, "scale_embedding": False,
    "activation_function": "gelu_new", "decoder_attention_heads": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def opus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Separate vocabularies of two sizes."""
    return huggingface_folders.folder_of(tmp_path_factory.mktemp("opus") / "model", separate_vocabs=True, **SEPARATE)


def corpus_of(folder: Path, tmp: Path, lines: Sequence[str] = ENGLISH[:6]) -> Corpus:
    (tmp / "text").write_text("\n".join(lines) + "\n")
    data = DataOptions(
        source=tmp / "text", vocabs=(folder / "vocab.json", folder / "target_vocab.json"),
        source_sentencepiece=folder / "source.spm", target_sentencepiece=folder / "target.spm",
    )  # fmt: skip
    return load_corpus(data, load(folder).profile(), references=False)


def batch_of(corpus: Corpus) -> tuple[torch.Tensor, list[int]]:
    import numpy as np

    batch = corpus.batch(np.arange(len(corpus)))
    return batch.source, batch.source_lengths.tolist()


def generated(model: Any, source: torch.Tensor, pad: int, eos: int, **options: Any) -> list[tuple[list[int], float]]:
    """Tokens of every hypothesis without the start token and padding, and its score."""
    beam = options["num_beams"]
    found = model.generate(
        input_ids=source, attention_mask=(source != pad).long(), do_sample=False, num_return_sequences=beam,
        return_dict_in_generate=True, output_scores=True, **options,
    )  # fmt: skip
    texts = []
    for sequence in found.sequences[:, 1:].tolist():
        ended = sequence[: sequence.index(eos) + 1] if eos in sequence else sequence
        texts.append([token for token in ended if token != pad])
    scores = found.sequences_scores.tolist() if beam > 1 else [0.0] * len(texts)
    return list(zip(texts, scores, strict=True))


FOLDERS = [
    pytest.param({}, "as transformers writes it", id="shared, as transformers writes it"),
    pytest.param(SEPARATE, "with positions", id="separate, with positions"),
    pytest.param({}, "with positions", id="shared, with positions", marks=pytest.mark.slow),
    pytest.param(SEPARATE, "as transformers writes it", id="separate, as it writes it", marks=pytest.mark.slow),
    pytest.param(
        {**SEPARATE, "tie_word_embeddings": True, "separate_vocabs": True},
        "in half precision",
        id="separate, tied, in half precision",
    ),
    pytest.param(SEPARATE, "in shards, as pickles", id="separate, in shards", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("settings", "stored"), FOLDERS)
def test_the_native_model_computes_what_transformers_computes(
    theirs: Any, tmp_path: Path, settings: dict[str, Any], stored: str
) -> None:
    folder = huggingface_folders.folder_of(tmp_path / "a", **settings)
    if stored == "with positions":
        tensors = {name: tensor.clone() for name, tensor in load(folder).tensors.items()}
        for stack in ("encoder", "decoder"):
            tensors[f"model.{stack}.embed_positions.weight"] = torch.randn(40, 16)
        huggingface_folders.write_weights(folder, tensors)
    elif stored == "in half precision":
        halves = {name: tensor.half() for name, tensor in load(folder).tensors.items()}
        huggingface_folders.write_weights(folder, halves)
    model = theirs.MarianMTModel.from_pretrained(folder, dtype=torch.float32).eval()
    if stored == "as transformers writes it":
        model.save_pretrained(folder := tmp_path / "b")
    elif stored == "in shards, as pickles":
        tensors = {name: tensor.clone() for name, tensor in load(folder).tensors.items()}
        names = sorted(tensors)
        shards = {f"pytorch_model-{part}-of-2.bin": names[part::2] for part in (0, 1)}
        (folder / "model.safetensors").unlink()
        for shard, own in shards.items():
            torch.save({name: tensors[name] for name in own}, folder / shard)
        places = {name: shard for shard, own in shards.items() for name in own}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    checkpoint = load(folder)
    found = native.load(checkpoint)
    profile, pad = checkpoint.profile(), checkpoint.network().padding
    words, rows = profile.source_symbols or 0, profile.target_symbols or 0
    torch.manual_seed(1)
    source, previous = torch.randint(3, words - 1, (3, 7)), torch.randint(3, rows - 1, (3, 5))
    source[1, 5:], previous[:, 0] = pad, pad
    with torch.no_grad():
        expected = model(input_ids=source, attention_mask=(source != pad).long(), decoder_input_ids=previous).logits
    previous[:, 0] = rows  # the row behind the table is what starts a sentence
    assert (found(source, previous) - expected).abs().max() < 1e-5 * max(1.0, float(expected.abs().max()))


SEARCHES: list[dict[str, Any]] = [
    {"num_beams": 1, "max_length": 9},
    {"num_beams": 4, "max_length": 9},
    {"num_beams": 4, "max_length": 16, "early_stopping": True, "length_penalty": 0.3},
    {"num_beams": 3, "max_length": 12, "early_stopping": "never", "min_length": 5, "forced_eos_token_id": None},
    {"num_beams": 4, "max_length": 16, "length_penalty": -0.5, "bad_words_ids": [[5], [9]]},
    {"num_beams": 4, "max_length": 12, "min_length": 4, "renormalize_logits": True, "bad_words_ids": [[5], [9]]},
]


def options_of(search: dict[str, Any], pad: int) -> GenerateOptions:
    from nmtprune.formats.huggingface import generation

    return GenerateOptions(**generation.parse_search(search, 0, 1000, "settings").search)


def expected_of(search: dict[str, Any], pad: int) -> dict[str, Any]:
    never = [*search.get("bad_words_ids", []), [pad]]
    return {"forced_eos_token_id": 0, **search, "bad_words_ids": never}


@pytest.mark.parametrize("search", [SEARCHES[3], SEARCHES[5], *(pytest.param(each, marks=pytest.mark.slow) for each in
                                                    (*SEARCHES[:3], SEARCHES[4]))], ids=str)  # fmt: skip
def test_the_search_is_that_of_generate(theirs: Any, opus: Path, tmp_path: Path, search: dict[str, Any]) -> None:
    """Tokens and scores of all hypotheses; and under masks the result is that of a search from scratch."""
    model, checkpoint, corpus = theirs.MarianMTModel.from_pretrained(opus).eval(), load(opus), corpus_of(opus, tmp_path)
    source, lengths = batch_of(corpus)
    pad = checkpoint.network().padding
    given = expected_of(search, pad)
    options = options_of(given, pad)
    own = native.load(checkpoint)
    symbols = native.symbols_of(corpus, options)
    found = translate_batch(own, source, lengths, options, symbols)
    _compare(found, generated(model, source, pad, 0, **given), scores=search["num_beams"] > 1)
    kept = {group.id: tuple(range(1, group.units)) for group in checkpoint.architecture.modules[::3]}
    masks = native.masks_of(own, kept)
    masked = MaskedSearch(own, options, symbols)
    records = masked.record(source, lengths, range(len(lengths)))
    by_place = {
        place: tokens
        for _, places, texts in masked.translations(records, [masks])
        for place, tokens in zip(places, texts, strict=True)
    }
    scratch = translate_batch(own, source, lengths, options, symbols, masks)
    assert [by_place[place] for place in range(len(lengths))] == [texts[0].tokens for texts in scratch]
    assert [texts[0].tokens for texts in scratch] != [texts[0].tokens for texts in found]


def _compare(found: Sequence[Sequence[Hypothesis]], expected: list[tuple[list[int], float]], *, scores: bool) -> None:
    flat = [hypothesis for sentence in found for hypothesis in sentence]
    assert [list(hypothesis.tokens) for hypothesis in flat] == [tokens for tokens, _ in expected]
    if scores:
        assert [hypothesis.score for hypothesis in flat] == pytest.approx([score for _, score in expected], abs=1e-4)


def test_text_becomes_the_tokens_of_transformers_and_text_again(theirs: Any, opus: Path, tmp_path: Path) -> None:
    tokenizer = theirs.MarianTokenizer.from_pretrained(opus)
    corpus = corpus_of(opus, tmp_path)
    assert [ids.tolist() for ids in corpus.source] == tokenizer(ENGLISH[:6])["input_ids"]
    for line in (*TEXTS, "a <pad>b<pad>", ">>x y<< a", ">>de<<>>de<< a", "</s>", ">>de<<", "</s>>>de<<a", ">>a", "<<"):
        for side, vocabulary in (("source", corpus.source_vocabulary), ("target", corpus.target_vocabulary)):
            expected = tokenizer(**{"text" if side == "source" else "text_target": line})["input_ids"]
            assert vocabulary.encode(corpus.codec.encode(line, side)).tolist() == expected, (line, side)
    notes = " ".join(corpus_of(opus, tmp_path, [">>nn<< a", "a <pad> man", "a"]).notes)
    assert "<pad> in 1 of 3 sentences is not read (it is padding)" in notes
    assert "'>>nn<<' in front of 1 of 3 sentences is no symbol of the source vocabulary (which has >>de<<)" in notes
    assert "it is an unknown word" in notes
    for line in [*GERMAN, "zwei unbekannte ŽŽ wörter, 12 %"]:
        ids = tokenizer(text_target=line)["input_ids"]
        assert corpus.decode(ids) == tokenizer.decode(ids, skip_special_tokens=True)
        assert corpus.target_vocabulary.encode(corpus.codec.encode(line, "target")).tolist() == ids


GENERATION: dict[str, Any] = {
    "num_beams": 3, "max_length": 14, "min_length": 3, "early_stopping": True, "length_penalty": 0.7,
    "eos_token_id": [0], "forced_eos_token_id": 0, "pad_token_id": 2, "decoder_start_token_id": 2,
    "bad_words_ids": [[2], [0]], "suppress_tokens": [7, 8],
}  # fmt: skip


def test_a_folder_is_translated_as_transformers_translates_it(theirs: Any, tmp_path: Path) -> None:
    """With ``generation_config.json``, two vocabularies, the output tied to the target's, in half precision."""
    folder = huggingface_folders.folder_of(
        tmp_path / "model", separate_vocabs=True, share_encoder_decoder_embeddings=False, eos_token_id=[0]
    )
    huggingface_folders.write_weights(folder, {name: each.half() for name, each in load(folder).tensors.items()})
    (folder / "generation_config.json").write_text(json.dumps(GENERATION))
    (tmp_path / "source").write_text("\n".join(TEXTS) + "\n")
    found = nmtprune("translate", folder, "--source", tmp_path / "source", "--threads", 1)
    tokenizer = theirs.MarianTokenizer.from_pretrained(folder)
    model = theirs.MarianMTModel.from_pretrained(folder, dtype=torch.float32).eval()
    made = model.generate(**tokenizer(TEXTS, return_tensors="pt", padding=True))
    assert found.code == 0, found.stderr
    assert found.stdout.split("\n")[:-1] == tokenizer.batch_decode(made, skip_special_tokens=True)


def cut(base: Checkpoint, names: Sequence[str], saved: Path, mode: str = "cut") -> Checkpoint:
    plan = Plan.removing(base.base, [UnitId.parse(name, EVERY_KIND) for name in names])
    slim.apply(plan, base, mode).save(saved, provenance={"made": "here"})
    return load(saved)


UNIFORM = ["encoder-layers.0", *(f"encoder-ffn.1.{neuron}" for neuron in (1, 5, 23)),
           *(f"decoder-ffn.{layer}.{layer}" for layer in range(3))]  # fmt: skip


@pytest.mark.parametrize(
    "removed",
    [pytest.param(UNIFORM, marks=pytest.mark.slow), ["encoder.0.1", "cross.2.0", "cross.2.1", "decoder.1.0"]],
    ids=["uniform", "heads"],
)
def test_stock_transformers_loads_what_is_written(theirs: Any, opus: Path, tmp_path: Path, removed: list[str]) -> None:
    """Without remote code; it computes what the native model computes, and keeps the lineage when it writes."""
    checkpoint = cut(load(opus), removed, tmp_path / "cut")
    model = theirs.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "cut").eval()
    own, corpus = native.load(checkpoint), corpus_of(opus, tmp_path)
    source, lengths = batch_of(corpus)
    options = options_of(expected_of(SEARCHES[1], checkpoint.network().padding), 0)
    found = translate_batch(own, source, lengths, options, native.symbols_of(corpus, options))
    pad = checkpoint.network().padding
    _compare(found, generated(model, source, pad, 0, **expected_of(SEARCHES[1], pad)), scores=True)
    model.save_pretrained(tmp_path / "again")
    again = load(tmp_path / "again")
    assert again.lineage == checkpoint.lineage is not None
    assert again.architecture == checkpoint.architecture


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_defaults_are_those_of_transformers(theirs: Any, family: Any) -> None:
    defaults = theirs.CONFIG_MAPPING[family.model_type]()
    own = dict(family.defaults)
    if own.get("decoder_vocab_size", 0) is None:
        own["decoder_vocab_size"] = own["vocab_size"]
    assert own == {name: getattr(defaults, name) for name in own}


@pytest.mark.parametrize("beam", [1, 4])
def test_a_prefix_is_a_forced_first_token(theirs: Any, opus: Path, tmp_path: Path, beam: int) -> None:
    """As `forced_bos_token_id` of models with language codes; and a source prefix is a token in front."""
    model, checkpoint = theirs.MarianMTModel.from_pretrained(opus).eval(), load(opus)
    plain = corpus_of(opus, tmp_path)
    first, second = plain.source_vocabulary.symbols[7], plain.target_vocabulary.symbols[9]
    data = DataOptions(
        source=tmp_path / "text", vocabs=(opus / "vocab.json", opus / "target_vocab.json"), source_prefix=first,
        source_sentencepiece=opus / "source.spm", target_sentencepiece=opus / "target.spm", target_prefix=second,
    )  # fmt: skip
    corpus = load_corpus(data, checkpoint.profile(), references=False)
    assert [own.tolist() for own in corpus.source] == [[7, *own.tolist()] for own in plain.source]
    source, lengths = batch_of(corpus)
    pad = checkpoint.network().padding
    given = expected_of({"num_beams": beam, "max_length": 9}, pad)
    options = options_of(given, pad)
    found = translate_batch(native.load(checkpoint), source, lengths, options, native.symbols_of(corpus, options))
    _compare(found, generated(model, source, pad, 0, **given, forced_bos_token_id=9), scores=beam > 1)
    assert corpus.decode(found[0][0].tokens) == plain.decode(found[0][0].tokens[1:])
