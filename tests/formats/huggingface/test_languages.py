"""Folders with language codes against Hugging Face's transformers: forward, search, tokens, what is cut or exported."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nmtprune import slim
from nmtprune.architecture import EVERY_KIND, UnitId
from nmtprune.data.corpus import Corpus, load_corpus
from nmtprune.data.options import DataOptions
from nmtprune.engines import native
from nmtprune.errors import CheckpointError, DataError, UsageError
from nmtprune.evaluate.verify import verify
from nmtprune.formats import load
from nmtprune.formats.huggingface import generation, language_codes
from nmtprune.model.search import GenerateOptions, translate_batch
from nmtprune.plan import Plan
from nmtprune.runs.bench import random_sentences
from tests.support import huggingface_folders
from tests.support.cli import nmtprune, refused
from tests.support.subwords import ENGLISH, GERMAN

PAD, EOS = 1, 2


@dataclass(frozen=True)
class Kind:
    """A family with one of its tokenizers."""

    make: Callable[..., Path]
    model_class: str
    vocabulary: str
    languages: tuple[str, str]
    tokens: tuple[str, str]


_M2M100 = "M2M100ForConditionalGeneration"
KINDS = {
    "nllb": Kind(huggingface_folders.nllb_folder, _M2M100, "sentencepiece.bpe.model", ("eng_Latn", "deu_Latn"),
                 ("eng_Latn", "deu_Latn")),
    "mbart50": Kind(huggingface_folders.mbart50_folder, "MBartForConditionalGeneration", "sentencepiece.bpe.model",
                    ("en_XX", "de_DE"), ("en_XX", "de_DE")),
    "m2m100": Kind(huggingface_folders.m2m100_folder, _M2M100, "vocab.json", ("en", "de"), ("__en__", "__de__")),
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def folder(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kind.make(tmp_path_factory.mktemp("languages") / "model")


def corpus_of(folder: Path, kind: Kind, text: Path, *, targets: bool = False, **options: Any) -> Corpus:
    vocabulary, pieces = folder / kind.vocabulary, folder / "sentencepiece.bpe.model"
    source, target = kind.languages
    data: dict[str, Any] = {
        "source": text, "vocabs": (vocabulary, vocabulary), "source_sentencepiece": pieces,
        "target_sentencepiece": pieces, "source_lang": source, "target_lang": target,
    }  # fmt: skip
    return load_corpus(DataOptions(**data | options), load(folder).profile(), references=False, targets=targets)


def model_of(theirs: Any, kind: Kind, folder: Path) -> Any:
    return getattr(theirs, kind.model_class).from_pretrained(folder, dtype=torch.float32).eval()


def tokenizer_of(theirs: Any, kind: Kind, folder: Path, **options: Any) -> Any:
    options |= dict(zip(("src_lang", "tgt_lang"), kind.languages, strict=True))
    if kind.model_class != _M2M100:
        return huggingface_folders.mbart50_tokenizer(theirs, folder, **options)
    if kind.vocabulary != "vocab.json":
        return huggingface_folders.nllb_tokenizer(theirs, folder, **options)
    return theirs.M2M100Tokenizer.from_pretrained(folder, **options)


@pytest.mark.parametrize("stored", ["as it is", "as transformers writes it", "as old versions wrote it"])
def test_the_native_model_computes_what_transformers_computes(
    theirs: Any, kind: Kind, folder: Path, tmp_path: Path, stored: str
) -> None:
    model = model_of(theirs, kind, folder)
    if stored == "as transformers writes it":
        model.save_pretrained(folder := tmp_path / "again")
    elif stored == "as old versions wrote it":
        tensors = dict(load(folder).tensors)
        (folder := tmp_path / "old").mkdir()
        (folder / "config.json").write_bytes((Path(model.config.name_or_path) / "config.json").read_bytes())
        for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
            tensors[f"model.{name}"] = tensors["model.shared.weight"].clone()
        tensors["lm_head.weight"] = tensors["model.shared.weight"].clone()
        tensors["model.encoder.embed_positions.weights"] = torch.zeros(42, 16)
        torch.save(tensors, folder / "pytorch_model.bin")
    checkpoint = load(folder)
    rows = checkpoint.profile().source_symbols or 0
    torch.manual_seed(1)
    source, previous = torch.randint(4, rows - 1, (3, 7)), torch.randint(4, rows - 1, (3, 5))
    source[1, 5:], previous[:, 0] = PAD, EOS
    with torch.no_grad():
        expected = model(input_ids=source, attention_mask=(source != PAD).long(), decoder_input_ids=previous).logits
    previous[:, 0] = rows  # the row behind the table is what starts a sentence
    found = native.load(checkpoint)(source, previous)
    assert (found - expected).abs().max() < 1e-5 * max(1.0, float(expected.abs().max()))


def test_a_shared_table_is_in_memory_once(folder: Path) -> None:
    """A quarter of NLLB-200's 600M parameters are in it."""
    tensors = load(folder).native_tensors()
    names = ("encoder.embedding.tokens.weight", "decoder.embedding.tokens.weight", "output.weight")
    assert len({tensors[name].data_ptr() for name in names}) == 1


SEARCHES: list[dict[str, Any]] = [
    {"num_beams": 1, "max_length": 9},
    {"num_beams": 4, "max_length": 12},
    {"num_beams": 4, "max_length": 16, "early_stopping": True, "length_penalty": 0.3, "forced_eos_token_id": 2},
]


@pytest.mark.parametrize("search", SEARCHES, ids=str)
def test_the_search_is_that_of_generate(
    theirs: Any, kind: Kind, folder: Path, text: Path, search: dict[str, Any]
) -> None:
    """Tokens and scores of all hypotheses, which begin with the language."""
    corpus, model = corpus_of(folder, kind, text), model_of(theirs, kind, folder)
    batch = corpus.batch(np.arange(len(corpus)))
    first = corpus.target_vocabulary.encode(kind.tokens[1]).tolist()[0]
    own_settings = {name: getattr(model.generation_config, name) for name in ("forced_eos_token_id", "early_stopping")}
    search = {**own_settings, "bad_words_ids": [[PAD]], **search}
    options = GenerateOptions(**generation.parse_search(search, EOS, 1000, "settings", languages=True).search)
    own = native.load(load(folder))
    found = translate_batch(
        own, batch.source, batch.source_lengths.tolist(), options, native.symbols_of(corpus, options)
    )
    beam = search["num_beams"]
    made = model.generate(
        input_ids=batch.source, attention_mask=(batch.source != PAD).long(), num_return_sequences=beam,
        forced_bos_token_id=first, return_dict_in_generate=True, output_scores=True, **search,
    )  # fmt: skip
    expected = [[token for token in row if token != PAD] for row in made.sequences[:, 1:].tolist()]
    flat = [hypothesis for sentence in found for hypothesis in sentence]
    assert [list(hypothesis.tokens) for hypothesis in flat] == expected
    assert len({tuple(tokens) for tokens in expected}) > len(ENGLISH) // 2
    if beam > 1:
        assert [each.score for each in flat] == pytest.approx(made.sequences_scores.tolist(), abs=1e-4)


TEXTS = [*ENGLISH[:4], " a man", "a</s>", "a ŽŽ man 12%", "Ž", "", "<unk>a", "<s> a", "eng_Latn a", "__de__ a"]


def test_text_becomes_the_tokens_of_transformers_and_text_again(
    theirs: Any, kind: Kind, folder: Path, tmp_path: Path, text: Path
) -> None:
    tokenizer = tokenizer_of(theirs, kind, folder)
    if kind is KINDS["nllb"]:
        folder = _copied(folder, tmp_path / "listed")
        tokenizer.save_pretrained(folder)  # it gives the languages other ids than the folders of version 4 have
    (tmp_path / "lines").write_text("\n".join(TEXTS) + "\n")
    corpus = corpus_of(folder, kind, tmp_path / "lines")
    assert [ids.tolist() for ids in corpus.source] == tokenizer(TEXTS)["input_ids"]
    german = corpus_of(folder, kind, text, targets=True, reference=(text.parent / "german",))
    expected = tokenizer(text_target=GERMAN)["input_ids"]
    assert german.target is not None and [ids.tolist() for ids in german.target] == expected
    for ids in expected:
        assert german.decode(ids) == tokenizer.decode(ids, skip_special_tokens=True)


def test_the_code_of_old_models_ends_the_source(theirs: Any, tmp_path: Path, text: Path) -> None:
    """And CTranslate2 adds no end to it."""
    kind = KINDS["nllb"]
    folder = huggingface_folders.nllb_folder(tmp_path / "model", legacy=True)
    tokenizer = tokenizer_of(theirs, kind, folder, legacy_behaviour=True)
    tokenizer.save_pretrained(folder)
    corpus = corpus_of(folder, kind, text)
    assert [ids.tolist() for ids in corpus.source] == tokenizer(ENGLISH)["input_ids"]
    assert corpus.source_text(0) == ENGLISH[0]
    line = ("translate", folder, "--source", text, "-s", "eng_Latn", "-t", "deu_Latn", "--beam", 1, "--threads", 1)
    found = nmtprune(*line, "--engine", "ctranslate2")
    assert found.code == 0 and found.stdout == nmtprune(*line).stdout, found.stderr


def _copied(folder: Path, to: Path) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


CUT = ("encoder-layers.0", *(f"encoder-ffn.1.{neuron}" for neuron in (1, 5, 23)),
       *(f"decoder-ffn.{layer}.{layer}" for layer in range(3)), "encoder.1.1", "cross.2.0", "decoder.1.0")  # fmt: skip


@pytest.fixture(scope="module")
def cut(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cut folder: neurons, a layer, and heads as zeros."""
    base, made = load(folder), tmp_path_factory.mktemp("cut") / "cut"
    plan = Plan.removing(base.base, [UnitId.parse(name, EVERY_KIND) for name in CUT])
    slim.apply(plan, base).save(made)
    verify(base, load(made), plan).raise_if_different()
    return made


def test_stock_transformers_translates_with_what_is_written(
    theirs: Any, kind: Kind, folder: Path, cut: Path, text: Path
) -> None:
    """As the masked model does."""
    model = theirs.AutoModelForSeq2SeqLM.from_pretrained(cut).eval()
    corpus = corpus_of(cut, kind, text)
    first = corpus.target_vocabulary.encode(kind.tokens[1]).tolist()[0]
    sources = [corpus.source[place] for place in range(len(corpus))]
    made = [
        model.generate(input_ids=torch.from_numpy(ids)[None], forced_bos_token_id=first, num_beams=2,
                       early_stopping=False, max_length=12, bad_words_ids=[[PAD]])[0, 1:].tolist()
        for ids in sources
    ]  # fmt: skip
    expected = [corpus.decode(tokens) for tokens in made]
    line = ("--source", text, "-s", kind.languages[0], "-t", kind.languages[1], "--threads", 1, "--beam", 2,
            "--max-length", 12, "--early-stopping", "false")  # fmt: skip
    found = nmtprune("translate", cut, *line)
    assert found.code == 0 and found.stdout.splitlines() == expected, found.stderr
    plan = cut.parent / "plan.json"
    base = load(folder)
    Plan.removing(base.base, [UnitId.parse(name, EVERY_KIND) for name in CUT]).write(plan)
    assert nmtprune("translate", folder, *line, "--plan", plan).stdout == found.stdout


@pytest.mark.slow
def test_every_command_takes_such_a_folder(kind: Kind, folder: Path, cut: Path, text: Path, tmp_path: Path) -> None:
    def done(*arguments: Any) -> None:
        found = nmtprune(*arguments)
        assert found.code == 0, found.stderr

    languages = ("-s", kind.languages[0], "-t", kind.languages[1])
    data = ("--source", text, "--threads", 1, "--reference", text.parent / "german", *languages)
    few = ("--beam", 1, "--allow-few-sentences", "--allow-bad-baseline")
    done("inspect", cut)
    done("refit", folder, cut, *data, "--force-worse", "-o", tmp_path / "refit")
    done("check", cut, "--baseline", folder, *data, *few, "--max-drop", 100)
    done("bench", folder, cut, *data, "--beam", 1, "--batch-size", 4, "--repeat", 3, "--allow-bad-baseline",
         "-o", tmp_path / "bench.json")  # fmt: skip
    done("score", folder, *data, "--metric", "importance", "-o", tmp_path / "importance.json")
    done("greedy", folder, *data, *few, "--budget", "macs=80%", "--uniform", "--refit", "-o", tmp_path / "greedy")
    assert load(tmp_path / "greedy" / "slim").lineage is not None
    done("export", cut, "--to", "ctranslate2", "-o", tmp_path / "ct2", "--sentences", 12, *languages)
    found = nmtprune("translate", cut, *data[:4], *languages, "--engine", "ctranslate2", "--beam", 1)
    assert found.stdout == nmtprune("translate", cut, *data[:4], *languages, "--beam", 1).stdout


def test_bad_languages_are_one_line(kind: Kind, folder: Path, text: Path) -> None:
    line, (source, target) = ("translate", folder, "--source", text), kind.languages
    code, message = refused(*line, "-s", source)
    assert code == UsageError.exit_code and "has language tokens: name --target-lang, of " in message
    code, message = refused(*line, "-s", source, "-t", "xx_Xxxx")
    assert code == DataError.exit_code
    assert "no language token for xx_Xxxx: the model has tokens for " in message and "in all)" in message
    code, message = refused(*line, "-s", source, "-t", target, "--target-prefix", "a")
    assert code == UsageError.exit_code and "Tokenizer have language tokens there" in message


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_the_folder_says_the_target_language(
    theirs: Any, kind: Kind, folder: Path, text: Path, tmp_path: Path, file: str
) -> None:
    """As `generate` has it; a user who names one is obeyed."""
    first = int(corpus_of(folder, kind, text).target_vocabulary.encode(kind.tokens[1])[0])
    forced = _copied(folder, tmp_path / "forced")
    settings = {"max_length": 12, "num_beams": 1, "forced_bos_token_id": first}
    there = json.loads((forced / file).read_text()) if (forced / file).exists() else {}
    own = {"decoder_start_token_id": EOS, "eos_token_id": EOS, "pad_token_id": PAD, "bos_token_id": 0}
    (forced / file).write_text(json.dumps({**own, **there, **settings}))
    line = ("translate", forced, "--source", text, "-s", kind.languages[0], "--threads", 1)
    found = nmtprune(*line)
    assert found.code == 0 and f"translations are in {kind.languages[1]}: no --target-lang" in found.stderr
    corpus = corpus_of(folder, kind, text)
    model = model_of(theirs, kind, forced)
    made = [
        model.generate(input_ids=torch.from_numpy(corpus.source[place])[None], bad_words_ids=[[PAD]])[0, 1:].tolist()
        for place in range(len(corpus))
    ]
    assert found.stdout.splitlines() == [corpus.decode(tokens) for tokens in made]
    other = nmtprune(*line, "-t", kind.languages[0])
    assert other.code == 0 and other.stdout != found.stdout and "translations are in" not in other.stderr


def test_a_forced_token_that_is_no_language_is_not_guessed(
    kind: Kind, folder: Path, text: Path, tmp_path: Path
) -> None:
    bad = _copied(folder, tmp_path / "bad")
    line = ("translate", bad, "--source", text, "-s", kind.languages[0])
    for forced, exit_code, message in (
        (EOS, UsageError.exit_code, "name --target-lang, of "),
        ("de", CheckpointError.exit_code, 'forced_bos_token_id is "de", no id of a token'),
        (1 << 20, CheckpointError.exit_code, "forced_bos_token_id has the id 1048576, the model has"),
    ):
        (bad / "generation_config.json").write_text(json.dumps({"forced_bos_token_id": forced}))
        code, found = refused(*line)
        assert code == exit_code and message in found
    said = nmtprune(*line, "-t", kind.languages[1]).stderr
    assert "forced_bos_token_id has the id" in said
    (bad / "generation_config.json").write_text('{"max_length": 9, "eos_token_id": 2}')
    said = nmtprune(*line, "-t", kind.languages[1]).stderr
    assert "generation_config.json does not say decoder_start_token_id 2: generate may begin or end otherwise" in said


def test_made_up_sentences_have_language_tokens(kind: Kind, folder: Path, tmp_path: Path) -> None:
    """Those that cost tables are measured on."""
    profile = random_sentences.fitting_profile(load(folder).profile())
    data = random_sentences.write_fitting(tmp_path / "sentences", profile, 3, 5, seed=1)
    corpus = load_corpus(data, profile, references=False)
    assert corpus.source.sizes.tolist() == [5 + 2] * 3 and len(corpus.source_vocabulary) == profile.source_symbols
    assert {int(ids[0]) for ids in corpus.source} == set(corpus.frame.source_front)
    assert corpus.frame.source_front != corpus.frame.target_front and len(corpus.frame.target_front) == 1


def test_tokens_that_a_user_added_are_named(kind: Kind, folder: Path, text: Path, tmp_path: Path) -> None:
    own = _copied(folder, tmp_path / "added")
    rows = load(own).profile().source_symbols or 0
    corpus = corpus_of(folder, kind, text)
    listed = {kind.tokens[place]: int(corpus.source_vocabulary.encode(kind.tokens[place])[0]) for place in (0, 1)}
    listed["<mask>"] = rows - 2
    line = ("translate", own, "--source", text, "-s", kind.languages[0], "-t", kind.languages[1], "--beam", 1)
    for added in ({}, {"<sep>": rows - 1}):
        (own / "added_tokens.json").write_text(json.dumps(listed | added))
        found = nmtprune(*line)
        assert found.code == 0, found.stderr
        assert ('are cut like words in a text: "<sep>"' in found.stderr) == bool(added)


def test_a_large_tokenizer_file_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And again when it has changed."""
    folder = huggingface_folders.nllb_folder(tmp_path / "model")
    path, first = folder / "tokenizer.json", load(folder).profile().source_symbols or 0
    codes = {"eng_Latn": first - 6, "deu_Latn": first - 5}
    read: list[Path] = []
    plain = language_codes.settings_in

    def noted(where: Path) -> Any:
        read.append(where)
        return plain(where)

    monkeypatch.setattr(language_codes, "settings_in", noted)
    for listed in (codes, {**codes, "fra_Latn": first - 4}):
        path.write_text(json.dumps({"added_tokens": [{"content": code, "id": id} for code, id in listed.items()]}))
        profiles = [load(folder).profile() for _ in range(3)]
        assert all(own.special is not None and dict(own.special.added) == listed for own in profiles)
        assert read.count(path) == 1
        read.clear()


def _changed(**settings: Any) -> Callable[[Path], Any]:
    return lambda folder: huggingface_folders.changed(folder, **settings)


def _without(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = {own: tensor.clone() for own, tensor in load(folder).tensors.items() if own != name}
        huggingface_folders.write_weights(folder, tensors)

    return damage


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a tensor": (_without("model.encoder.layer_norm.weight"), "model.encoder.layer_norm.weight is missing"),
    "mixture": (_changed(model_type="nllb-moe", architectures=["NllbMoeForConditionalGeneration"]),
                '"nllb-moe" (NllbMoeForConditionalGeneration): nmtprune reads MarianMTModel, M2M100For'),
    "three tables": (_changed(tie_word_embeddings=False), "tie_word_embeddings false (transformers then has one more"),
    "another head": (_changed(architectures=["M2M100Model"]), 'architectures ["M2M100Model"], not'),
}  # fmt: skip


BAD_MBART: dict[str, tuple[dict[str, Any], str]] = {
    "no start": ({"decoder_start_token_id": None}, "decoder_start_token_id is null, no id of a token"),
    "post-norm": ({"normalize_before": False}, "normalize_before false (transformers ignores it"),
    "positions": ({"max_position_embeddings": 41}, "embed_positions.weight is 42 x 16, the settings make it 43 x 16"),
}


@pytest.mark.parametrize(("settings", "message"), BAD_MBART.values(), ids=BAD_MBART)
def test_bad_mbart_folders_are_one_line(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    folder = huggingface_folders.mbart50_folder(tmp_path / "bad")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | settings))
    with pytest.raises(CheckpointError) as error:
        load(folder)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("damage", "message"), BAD.values(), ids=BAD)
def test_bad_folders_are_one_line(tmp_path: Path, damage: Callable[[Path], Any], message: str) -> None:
    folder = huggingface_folders.nllb_folder(tmp_path / "bad")
    damage(folder)
    with pytest.raises(CheckpointError) as error:
        load(folder)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_start_and_padding_have_positions_of_their_own(tmp_path: Path) -> None:
    folder = huggingface_folders.changed(huggingface_folders.nllb_folder(tmp_path / "bad"), decoder_start_token_id=1)
    with pytest.raises(CheckpointError, match="pad_token_id and decoder_start_token_id are both 1"):
        load(folder)


TOKENIZERS: dict[str, tuple[dict[str, Any], int, str]] = {
    "another class": ({"tokenizer_class": "SmallTokenizer"}, 5, "the text of SmallTokenizer is not read (Nllb"),
    "another id": ({"added_tokens_decoder": {"5": {"content": "deu_Latn"}, "6": {"content": "eng_Latn"}}}, 5,
                   'sentencepiece.bpe.model: not the vocabulary of the tokenizer\'s settings: "deu_Latn" has id 5'),
    "no id": ({"added_tokens_decoder": {"x": {"content": "deu_Latn"}}}, 3, 'the id of the token "deu_Latn" is "x"'),
    "large": ({"added_tokens_decoder": {"999": {"content": "deu_Latn"}, "998": {"content": "eng_Latn"}}}, 5,
              "ids up to"),
}  # fmt: skip


@pytest.mark.parametrize(("settings", "code", "message"), TOKENIZERS.values(), ids=TOKENIZERS)
def test_bad_tokenizers_are_one_line(
    tmp_path: Path, text: Path, settings: dict[str, Any], code: int, message: str
) -> None:
    folder = huggingface_folders.nllb_folder(tmp_path / "bad")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    found = refused("translate", folder, "--source", text, "-s", "eng_Latn", "-t", "deu_Latn")
    assert found[0] == code and message in found[1]
