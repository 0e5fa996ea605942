"""Folders of FSMTForConditionalGeneration against transformers: forward, search, tokens, what is cut or exported."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nmtprune import slim
from nmtprune.architecture import EVERY_KIND, UnitId
from nmtprune.data.batching import BatchLimits
from nmtprune.data.corpus import Corpus, load_corpus
from nmtprune.data.options import DataOptions
from nmtprune.engines import EngineSettings, native
from nmtprune.errors import CheckpointError, DataError
from nmtprune.evaluate.verify import verify
from nmtprune.formats import load
from nmtprune.formats.huggingface import generation
from nmtprune.model.search import GenerateOptions, translate_batch
from nmtprune.plan import Plan
from tests.support import huggingface_folders
from tests.support.cli import nmtprune, refused
from tests.support.subwords import ENGLISH, GERMAN

PAD, EOS = 1, 2
TABLE, HEAD = "model.decoder.embed_tokens.weight", "model.decoder.output_projection.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return huggingface_folders.fsmt_folder(tmp_path_factory.mktemp("fsmt") / "model")


def corpus_of(folder: Path, text: Path, *, targets: bool = False, **options: Any) -> Corpus:
    merges = folder / "merges.txt"
    data: dict[str, Any] = {
        "source": text, "vocabs": (folder / "vocab-src.json", folder / "vocab-tgt.json"), "source_bpe_codes": merges,
        "target_bpe_codes": merges,
    }  # fmt: skip
    return load_corpus(DataOptions(**data | options), load(folder).profile(), references=False, targets=targets)


def model_of(theirs: Any, folder: Path) -> Any:
    return theirs.FSMTForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model: Any, source: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(
            input_ids=source, attention_mask=(source != PAD).long(), decoder_input_ids=previous, use_cache=False
        ).logits
    return found


STORED = ["as it is", "as transformers writes it", "with positions", "tied", "in half precision"]


@pytest.mark.parametrize("stored", STORED)
def test_the_native_model_computes_what_transformers_computes(
    theirs: Any, folder: Path, tmp_path: Path, stored: str
) -> None:
    if stored == "tied":
        folder = huggingface_folders.fsmt_folder(tmp_path / "tied", tie_word_embeddings=True, tgt_vocab_size=150,
                                                 src_vocab_size=150)  # fmt: skip
    elif stored in ("with positions", "in half precision"):
        tensors = {name: tensor.clone() for name, tensor in load(folder).tensors.items()}
        if stored == "with positions":
            tensors |= {
                f"model.{stack}.embed_positions.weight": torch.randn(42, 16) for stack in ("encoder", "decoder")
            }
        else:
            tensors = {name: tensor.half() for name, tensor in tensors.items()}
        copied(folder, folder := tmp_path / "changed")
        huggingface_folders.write_weights(folder, tensors)
    model = model_of(theirs, folder)
    if stored == "as transformers writes it":
        model.save_pretrained(folder := tmp_path / "again")
    checkpoint = load(folder)
    profile = checkpoint.profile()
    torch.manual_seed(1)
    words, rows = profile.source_symbols or 0, profile.target_symbols or 0
    source, previous = torch.randint(4, words, (3, 7)), torch.randint(4, rows, (3, 5))
    source[1, 5:], previous[:, 0] = PAD, EOS
    expected = logits(model, source, previous)
    previous[:, 0] = rows  # the id behind the table is what starts a sentence
    found = native.load(checkpoint)(source, previous)
    assert (found - expected).abs().max() < 1e-5 * max(1.0, float(expected.abs().max()))


def copied(folder: Path, to: Path) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


SEARCHES: list[dict[str, Any]] = [
    {"num_beams": 1, "max_length": 9},
    {"num_beams": 4, "max_length": 12},
    {"num_beams": 4, "max_length": 16, "early_stopping": True, "length_penalty": 0.3},
]


@pytest.mark.parametrize("search", SEARCHES, ids=str)
def test_the_search_is_that_of_generate(theirs: Any, folder: Path, text: Path, search: dict[str, Any]) -> None:
    """Tokens and scores of all hypotheses."""
    corpus, model = corpus_of(folder, text), model_of(theirs, folder)
    batch = corpus.batch(np.arange(len(corpus)))
    search = {"length_penalty": 1.15, "forced_eos_token_id": 2, "bad_words_ids": [[PAD]], **search}
    options = GenerateOptions(**generation.parse_search(search, EOS, 1000, "settings").search)
    own = native.load(load(folder))
    found = translate_batch(
        own, batch.source, batch.source_lengths.tolist(), options, native.symbols_of(corpus, options)
    )
    beam = search["num_beams"]
    made = model.generate(
        input_ids=batch.source, attention_mask=(batch.source != PAD).long(), num_return_sequences=beam,
        return_dict_in_generate=True, output_scores=True, **search,
    )  # fmt: skip
    expected = [[token for token in row if token != PAD] for row in made.sequences[:, 1:].tolist()]
    flat = [hypothesis for sentence in found for hypothesis in sentence]
    assert [list(hypothesis.tokens) for hypothesis in flat] == expected
    assert len({tuple(tokens) for tokens in expected}) > len(ENGLISH) // 2
    if beam > 1:
        assert [each.score for each in flat] == pytest.approx(made.sequences_scores.tolist(), abs=1e-4)


TEXTS = [*ENGLISH[:4], " a  man", "a</s>", "a ŽŽ man 12%", "Ž", "", "<unk>a", "<s> a", "a man's \"dog\"", "& <b> [x]",
         "“a” – well… （１２）。 b", "a\u00adb\u200bc", "a</w>b", "don't @-@ &amp;", "http://a.b/",
         "a <pad> b"]  # fmt: skip


def test_text_becomes_the_tokens_of_transformers_and_text_again(
    theirs: Any, folder: Path, tmp_path: Path, text: Path
) -> None:
    """That tokenizer has no target side: one with both sides exchanged has."""
    tokenizer = theirs.FSMTTokenizer.from_pretrained(folder)
    (tmp_path / "lines").write_text("\n".join(TEXTS) + "\n")
    corpus = corpus_of(folder, tmp_path / "lines")
    for line, ids in zip(TEXTS, corpus.source, strict=True):
        assert ids.tolist() == tokenizer(line)["input_ids"], line
    german = corpus_of(folder, text, targets=True, reference=(text.parent / "german",))
    exchanged = theirs.FSMTTokenizer(
        langs=["de", "en"], src_vocab_file=str(folder / "vocab-tgt.json"),
        tgt_vocab_file=str(folder / "vocab-src.json"), merges_file=str(folder / "merges.txt"),
    )  # fmt: skip
    expected = exchanged(GERMAN)["input_ids"]
    assert german.target is not None and [ids.tolist() for ids in german.target] == expected
    for ids in expected:
        assert german.decode(ids) == tokenizer.decode(ids, skip_special_tokens=True)


def test_losses_are_those_of_the_references(theirs: Any, folder: Path, text: Path) -> None:
    corpus = corpus_of(folder, text, targets=True, reference=(text.parent / "german",))
    settings = EngineSettings(GenerateOptions(beam=1), BatchLimits.of(None, 4), torch.device("cpu"))
    found = native.NativeEngine(load(folder), settings).ablation(corpus).losses([{}])[0]
    model, expected = model_of(theirs, folder), []
    assert corpus.target is not None
    for source, target in zip(corpus.source, corpus.target, strict=True):
        labels = torch.from_numpy(target)
        scores = logits(model, torch.from_numpy(source)[None], torch.tensor([[EOS, *labels[:-1]]]))
        expected.append(float(torch.nn.functional.cross_entropy(scores[0], labels, reduction="sum")))
    assert found == pytest.approx(expected, rel=1e-5)


CUT = ("encoder-layers.0", *(f"encoder-ffn.1.{neuron}" for neuron in (1, 5, 23)),
       *(f"decoder-ffn.{layer}.{layer}" for layer in range(3)), "encoder.1.1", "cross.2.0", "decoder.1.0")  # fmt: skip


@pytest.fixture(scope="module")
def cut(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cut folder: neurons, a layer, and heads as zeros."""
    base, made = load(folder), tmp_path_factory.mktemp("cut") / "cut"
    plan = Plan.removing(base.base, [UnitId.parse(name, EVERY_KIND) for name in CUT])
    plan.write(made.parent / "plan.json")
    slim.apply(plan, base).save(made)
    verify(base, load(made), plan).raise_if_different()
    return made


def test_stock_transformers_translates_with_what_is_written(theirs: Any, folder: Path, cut: Path, text: Path) -> None:
    """By the settings in config.json, from text to text, as the masked model does."""
    model = theirs.AutoModelForSeq2SeqLM.from_pretrained(cut).eval()
    tokenizer = theirs.AutoTokenizer.from_pretrained(cut)
    made = [model.generate(**tokenizer(line, return_tensors="pt"), bad_words_ids=[[PAD]])[0] for line in ENGLISH]
    line = ("--source", text, "--threads", 1)
    found = nmtprune("translate", cut, *line)
    assert found.code == 0, found.stderr
    assert found.stdout.splitlines() == [tokenizer.decode(each, skip_special_tokens=True) for each in made]
    assert "merges.txt beside it" in found.stderr
    masked = nmtprune("translate", folder, *line, "--plan", cut.parent / "plan.json")
    assert masked.stdout == found.stdout != nmtprune("translate", folder, *line).stdout
    model.save_pretrained(cut.parent / "again")
    again = load(cut.parent / "again")
    assert again.lineage == load(cut).lineage is not None and again.architecture == load(cut).architecture


@pytest.mark.parametrize("mode", ["masked", "uniform"])
def test_masked_is_cut(folder: Path, tmp_path: Path, mode: str) -> None:
    base = load(folder)
    plan = Plan.removing(base.base, [UnitId.parse(name, EVERY_KIND) for name in (*CUT, "decoder-ffn.1.7")])
    slim.apply(plan, base, mode).save(tmp_path / "cut")
    verify(base, load(tmp_path / "cut"), plan).raise_if_different()


@pytest.mark.slow
def test_every_command_takes_such_a_folder(folder: Path, cut: Path, text: Path, tmp_path: Path) -> None:
    def done(*arguments: Any) -> None:
        found = nmtprune(*arguments)
        assert found.code == 0, found.stderr

    data = ("--source", text, "--threads", 1, "--reference", text.parent / "german")
    few = ("--beam", 1, "--allow-few-sentences", "--allow-bad-baseline")
    done("inspect", cut)
    done("refit", folder, cut, *data, "--force-worse", "-o", tmp_path / "refit")
    done("check", cut, "--baseline", folder, *data, *few, "--max-drop", 100)
    done("bench", folder, cut, *data, "--beam", 1, "--batch-size", 4, "--repeat", 3, "--allow-bad-baseline",
         "-o", tmp_path / "bench.json")  # fmt: skip
    done("score", folder, *data, "--metric", "importance", "-o", tmp_path / "importance.json")
    done("greedy", folder, *data, *few, "--budget", "macs=80%", "--uniform", "--refit", "-o", tmp_path / "greedy")
    assert load(tmp_path / "greedy" / "slim").lineage is not None
    done("export", cut, "--to", "ctranslate2", "-o", tmp_path / "ct2", "--sentences", 12)
    found = nmtprune("translate", cut, *data[:4], "--engine", "ctranslate2", "--beam", 1)
    assert found.stdout == nmtprune("translate", cut, *data[:4], "--beam", 1).stdout


def test_a_table_that_transformers_4_did_not_write_is_the_other_one(folder: Path, tmp_path: Path) -> None:
    """It wrote one of the two, which it ties whatever the settings say; transformers 5 does not: a note says so."""
    tensors = {name: tensor.clone() for name, tensor in load(folder).tensors.items()}
    tensors[HEAD] = tensors[TABLE]
    models = {}
    for missing in ("", TABLE, HEAD):
        own = copied(folder, tmp_path / (missing or "whole"))
        huggingface_folders.write_weights(own, {name: each for name, each in tensors.items() if name != missing})
        models[missing] = load(own)
        assert [note for note in models[missing].notes if f"no {missing}: the decoder's other table" in note] == (
            [] if not missing else list(models[missing].notes)
        )
    source, previous = torch.randint(4, 90, (2, 6)), torch.randint(4, 90, (2, 5))
    expected, *others = (native.load(each)(source, previous) for each in models.values())
    assert all(torch.equal(expected, other) for other in others)


def _config(**settings: Any) -> Callable[[Path], Any]:
    return lambda folder: huggingface_folders.changed(folder, **settings)


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "one language": (_config(langs=["en"]), 'langs is ["en"], no two languages'),
    "tables of two sizes": (_config(tie_word_embeddings=True), "differ, though tie_word_embeddings makes one table"),
    "another size": (_config(vocab_size=7), "vocab_size 7 and tgt_vocab_size "),
    "no words": (_config(src_vocab_size="7"), 'src_vocab_size is "7", no whole number from 1'),
    "pre-norm": (_config(normalize_before=True), "normalize_before true (transformers ignores it"),
}


@pytest.mark.parametrize(("damage", "message"), BAD.values(), ids=BAD)
def test_bad_folders_are_one_line(folder: Path, tmp_path: Path, damage: Callable[[Path], Any], message: str) -> None:
    bad = copied(folder, tmp_path / "bad")
    damage(bad)
    with pytest.raises(CheckpointError) as error:
        load(bad)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("settings", "message"), [
    ({"do_lower_case": True}, "with do_lower_case is not read"),
    ({"langs": ["de", "en"]}, 'tokenizer_config.json has the langs ["de", "en"], config.json ["en", "de"]'),
    (None, "has no vocab-tgt.json and no merges.txt, which turn text into tokens"),
])  # fmt: skip
def test_bad_tokenizers_are_one_line(
    folder: Path, tmp_path: Path, text: Path, settings: dict[str, Any] | None, message: str
) -> None:
    bad = copied(folder, tmp_path / "bad")
    if settings is None:
        (bad / "vocab-tgt.json").unlink()
        (bad / "merges.txt").unlink()
    else:
        (bad / "tokenizer_config.json").write_text(json.dumps(settings))
    code, line = refused("translate", bad, "--source", text)
    assert code == DataError.exit_code and message in line
