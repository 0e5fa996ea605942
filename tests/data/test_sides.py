"""Raw text with a subword model per side: ids equal fairseq's, and text of another kind is noticed."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nmtprune.data.corpus import Corpus, load_corpus, stream_corpus
from nmtprune.data.options import DataOptions
from nmtprune.errors import DataError
from nmtprune.profile import ModelProfile
from nmtprune.runs.quality import contents
from tests.support.data import write_dictionary
from tests.support.subwords import ENGLISH, GERMAN, bpe_codes, pieces, sentencepiece_model, subwords, written


class Sides:
    """A folder with two models of each kind, raw text, and dictionaries of the symbols of what was segmented."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.english, self.german = written(folder / "text.en", ENGLISH), written(folder / "text.de", GERMAN)
        self.spm = {"en": sentencepiece_model(folder / "en.spm", ENGLISH)}
        self.spm["de"] = sentencepiece_model(folder / "de.spm", GERMAN)
        self.codes = {"en": bpe_codes(folder / "codes.en", ENGLISH), "de": bpe_codes(folder / "codes.de", GERMAN)}

    def data_bin(self, name: str, source: list[str], target: list[str], *more: str) -> Path:
        """Dictionaries of the symbols of segmented text, `more` in both."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        for language, lines in (("en", source), ("de", target)):
            symbols = sorted({symbol for line in lines for symbol in line.split()} | set(more))
            write_dictionary(folder / f"dict.{language}.txt", symbols)
        return folder

    def corpus(self, data_bin: Path, **options: Any) -> Corpus:
        """Both sides read, for losses."""
        given = {
            "source": self.english,
            "reference": (self.german,),
            "source_lang": "en",
            "target_lang": "de",
            **options,
        }
        return load_corpus(DataOptions(data_bin=data_bin, **given), ModelProfile(), references=False, targets=True)


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Sides:
    return Sides(tmp_path_factory.mktemp("sides"))


def _ids(corpus: Corpus) -> list[list[list[int]]]:
    assert corpus.target is not None
    return [[sentence.tolist() for sentence in side] for side in (corpus.source, corpus.target)]


def _theirs(data_bin: Path, *texts: list[str]) -> list[list[list[int]]]:
    from fairseq.data import Dictionary

    files = (data_bin / "dict.en.txt", data_bin / "dict.de.txt")
    dictionaries = [Dictionary.load(str(path)) for path in files]
    return [
        [own.encode_line(line, add_if_not_exist=False, line_tokenizer=str.split).tolist() for line in lines]
        for own, lines in zip(dictionaries, texts, strict=True)
    ]


def test_each_side_is_cut_by_its_own_model(sides: Sides) -> None:
    kinds = {
        "sentencepiece": {language: pieces(sides.spm[language], text) for language, text in _both()},
        "bpe_codes": {language: subwords(sides.codes[language], text) for language, text in _both()},
        None: {"en": ENGLISH, "de": GERMAN},
    }
    files = {"sentencepiece": sides.spm, "bpe_codes": sides.codes}
    joined = {"sentencepiece": "sentencepiece", "bpe_codes": "subword_nmt", None: "none"}
    for source, target in ((a, b) for a in kinds for b in kinds if a or b):
        data_bin = sides.data_bin(f"{source}-{target}", kinds[source]["en"], kinds[target]["de"])
        options = {f"source_{source}": files[source]["en"]} if source else {}
        options |= {f"target_{target}": files[target]["de"]} if target else {}
        corpus = sides.corpus(data_bin, **options)
        assert _ids(corpus) == _theirs(data_bin, kinds[source]["en"], kinds[target]["de"])
        assert (corpus.notes, corpus.codec.post_process) == ((), joined[target])
        assert [corpus.decode(ids) for ids in corpus.target or ()] == GERMAN
        assert [corpus.source_text(place) for place in range(len(corpus))] == ENGLISH
        assert {str(path) for path in options.values()} <= corpus.inputs.keys()


def _both() -> list[tuple[str, list[str]]]:
    return [("en", ENGLISH), ("de", GERMAN)]


def test_text_that_is_segmented_already_is_joined(sides: Sides, tmp_path: Path) -> None:
    source, target = pieces(sides.spm["en"], ENGLISH), pieces(sides.spm["de"], GERMAN)
    data_bin = sides.data_bin("segmented", source, target)
    segmented = {"source": written(tmp_path / "en", source), "reference": (written(tmp_path / "de", target),)}
    corpus = sides.corpus(data_bin, **segmented, post_process="sentencepiece", tokenizer="moses")
    assert _ids(corpus) == _theirs(data_bin, source, target)
    assert [corpus.decode(ids) for ids in corpus.target or ()] == GERMAN
    assert corpus.notes == ()


def test_iwslt14(sides: Sides, tmp_path: Path) -> None:
    """tokenizer.perl without -a, lowercase.perl, then codes that were learnt on lower-cased text; as fairseq has it."""
    from fairseq.data.encoders.moses_tokenizer import MosesTokenizer
    from fairseq.data.encoders.subword_nmt_bpe import SubwordNMTBPE

    lines = ['A Well-Known Man\'s "Hat" & more.', "Two DOGS are running [fast]; aren't they?", "IT's 3.14 %"]
    english, german = written(tmp_path / "en", lines), written(tmp_path / "de", lines[::-1])
    for escape in (True, False):
        moses = {"moses_no_dash_splits": True, "moses_no_escape": not escape}
        bpe = SubwordNMTBPE(SimpleNamespace(bpe_codes=str(sides.codes["en"]), bpe_separator="@@"))
        texts = []
        for language, own in (("en", lines), ("de", lines[::-1])):
            tokenizer = MosesTokenizer(SimpleNamespace(source_lang=language, target_lang=language, **moses))
            texts.append([bpe.encode(tokenizer.encode(line).lower()) for line in own])
        data_bin = sides.data_bin(f"iwslt-{escape}", *texts)
        options = {
            "source": english,
            "reference": (german,),
            "bpe_codes": sides.codes["en"],
            "tokenizer": "moses",
            **moses,
        }
        corpus = sides.corpus(data_bin, **options, lowercase_source=True, lowercase_target=True)
        assert (_ids(corpus), corpus.notes) == (_theirs(data_bin, *texts), ())
        found = corpus.codec.describe()
        assert found["lowercased"] == "source target"
        assert found["moses"] == "--moses-no-dash-splits" + (" --moses-no-escape" if not escape else "")
        joined = [tokenizer.decode(bpe.decode(text)) for text in texts[1]]
        assert [corpus.decode(ids) for ids in corpus.target or ()] == joined
        cased = sides.corpus(data_bin, **options)
        assert [note.partition(": ")[2] for note in cased.notes] == [
            f"it knows them lower-cased: `lowercase_{side}` lower-cases the text" for side in ("source", "target")
        ]


@pytest.mark.parametrize("tag", [">>deu<<", "<2de>", "__de__", "[de]", "zho_Hans"])
@pytest.mark.parametrize("kind", ["sentencepiece", "bpe_codes"])
def test_language_tokens_are_put_before_what_is_segmented(sides: Sides, tmp_path: Path, kind: str, tag: str) -> None:
    """As OPUS-MT's preprocess.sh does; the same words elsewhere are words."""
    segment, models = (pieces, sides.spm) if kind == "sentencepiece" else (subwords, sides.codes)
    inside = f"{ENGLISH[0]} {tag}"
    english, german = segment(models["en"], [*ENGLISH, inside]), segment(models["de"], [*GERMAN, "ein", "die"])
    data_bin = sides.data_bin(f"tags-{kind}-{tag}", english, german, tag, "the", "a")
    source = written(tmp_path / "source", [*(f"{tag} {line}" for line in ENGLISH), inside, tag])
    reference = written(tmp_path / "reference", [*GERMAN, "ein", "die"])
    options = {f"source_{kind}": models["en"], f"target_{kind}": models["de"]}
    corpus = sides.corpus(data_bin, source=source, reference=(reference,), **options)
    expected = [*(f"{tag} {line}" for line in english[:-1]), english[-1], tag]
    assert _ids(corpus)[0] == _theirs(data_bin, expected, [])[0]
    assert corpus.notes == ()
    moses = sides.corpus(data_bin, source=source, reference=(reference,), tokenizer="moses", **options)
    assert _ids(moses)[0][: len(ENGLISH)] == _ids(corpus)[0][: len(ENGLISH)]


def test_a_user_defined_symbol_is_sentencepieces_own(sides: Sides, tmp_path: Path) -> None:
    from fairseq.data.encoders.sentencepiece_bpe import SentencepieceBPE

    model = sentencepiece_model(tmp_path / "spm.model", ENGLISH, user_defined_symbols=[">>deu<<"])
    lines = [f">>deu<< {line}" for line in ENGLISH]
    settings = {"sentencepiece_enable_sampling": False, "sentencepiece_alpha": None}
    own = SentencepieceBPE(SimpleNamespace(sentencepiece_model=str(model), **settings))
    data_bin = sides.data_bin("own-tags", list(map(own.encode, lines)), pieces(sides.spm["de"], GERMAN))
    models = {"source_sentencepiece": model, "target_sentencepiece": sides.spm["de"]}
    corpus = sides.corpus(data_bin, source=written(tmp_path / "source", lines), **models)
    assert _ids(corpus)[0] == _theirs(data_bin, list(map(own.encode, lines)), [])[0]


def test_words_torn_by_the_model_of_the_other_side(sides: Sides) -> None:
    """A joint vocabulary knows the symbols of both models: nothing is unknown, and yet wrong."""
    for kind, segment in (("sentencepiece", pieces), ("bpe_codes", subwords)):
        models = sides.spm if kind == "sentencepiece" else sides.codes
        symbols = [*segment(models["en"], [*ENGLISH, *GERMAN]), *segment(models["de"], [*ENGLISH, *GERMAN])]
        data_bin = sides.data_bin(f"joint-{kind}", symbols, symbols)
        reason = _refused(sides, data_bin, **{kind: models["en"]})
        assert reason.startswith(f"{sides.german}: {models['en']} cuts ")
        assert "reference words that" in reason and "is it the subword model of the target side?" in reason
        reason = _refused(sides, data_bin, **{kind: models["de"]})
        assert "source words that" in reason and "is it the subword model of the source side?" in reason
        both = {f"source_{kind}": models["en"], f"target_{kind}": models["de"]}
        assert sides.corpus(data_bin, **both).notes == ()
        wrong = DataOptions(data_bin=data_bin, source=sides.english, source_lang="en", target_lang="de",
                            **{kind: models["de"]})  # fmt: skip
        (note,) = load_corpus(wrong, ModelProfile(), references=False).notes
        assert reason == f"{sides.english}: {note}"


def test_text_of_another_case(sides: Sides, tmp_path: Path) -> None:
    letters = " ".join(chr(ord("A") + number) for number in range(26))
    for kind, segment in (("sentencepiece", pieces), ("bpe_codes", subwords)):
        models = sides.spm if kind == "sentencepiece" else sides.codes
        upper = written(tmp_path / "upper", [line.upper() for line in ENGLISH])
        symbols = [*segment(models["en"], ENGLISH), *segment(models["en"], [line.upper() for line in ENGLISH]), letters]
        data_bin = sides.data_bin(f"case-{kind}", symbols, segment(models["de"], GERMAN))
        options = {"source": upper, f"source_{kind}": models["en"], f"target_{kind}": models["de"]}
        (note,) = sides.corpus(data_bin, **options).notes
        assert note.endswith("has whole in lower case: `lowercase_source` lower-cases the text")
        assert sides.corpus(data_bin, **options, lowercase_source=True).notes == ()


def test_names_in_a_text_of_another_script_are_torn_by_right(sides: Sides, tmp_path: Path) -> None:
    """The vocabulary has them whole for the other side."""
    chinese = [f"一个 man 在 grass 里 hat 跑 {'很多的字' * 20}" for _ in range(12)]
    model = sentencepiece_model(tmp_path / "zh.spm", [line.replace("man", "") for line in chinese], model_type="char")
    symbols = pieces(model, chinese)
    data_bin = sides.data_bin("script", pieces(sides.spm["en"], ENGLISH), [*symbols, "▁man ▁grass ▁hat"])
    reference = written(tmp_path / "zh", chinese)
    own = {"source_sentencepiece": sides.spm["en"], "target_sentencepiece": model}
    assert sides.corpus(data_bin, reference=(reference,), **own).notes == ()


def _refused(sides: Sides, data_bin: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        sides.corpus(data_bin, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_text_of_another_kind(sides: Sides, tmp_path: Path) -> None:
    english, german = (pieces(sides.spm[language], text) for language, text in _both())
    data_bin = sides.data_bin("separate", english, german)
    models = {"source_sentencepiece": sides.spm["en"], "target_sentencepiece": sides.spm["de"]}
    assert _refused(sides, data_bin, post_process="sentencepiece").endswith(
        "the text is not segmented: name its subword model with `source_sentencepiece`"
    )
    alone = {"source_sentencepiece": sides.spm["en"]}
    refused = _refused(sides, data_bin, **alone)
    assert f"reference tokens (100%) are not in {data_bin / 'dict.de.txt'}: " in refused
    assert refused.endswith("the text is not segmented: name its subword model with `target_sentencepiece`")
    segmented = written(tmp_path / "segmented", english)
    assert _refused(sides, data_bin, source=segmented, **models) == (
        f"{segmented}: the text is segmented already (it carries the mark '▁' of SentencePiece) and would be once "
        "more: leave the subword model and the tokenizer of that side out, or give text of words"
    )
    segmented = written(tmp_path / "segmented", german)
    assert _refused(sides, data_bin, reference=(segmented,), **models).startswith(f"{segmented}: the text is segmented")
    exchanged = {"source": sides.german, "reference": (sides.english,)}
    swapped = {"source_sentencepiece": sides.spm["de"], "target_sentencepiece": sides.spm["en"]}
    assert "the vocabulary of the other side knows them: are the two languages exchanged?" in str(
        _notes_or_error(sides, data_bin, **exchanged, **swapped)
    )
    tokenized = written(tmp_path / "tokenized", ["it &apos;s a man", "a well @-@ known hat", *ENGLISH[2:]])
    notes = sides.corpus(data_bin, source=tokenized, tokenizer="moses", **models).notes
    assert any(note.startswith("the source looks tokenized by Moses already (2 of 12 lines") for note in notes)


def _notes_or_error(sides: Sides, data_bin: Path, **options: Any) -> object:
    try:
        return sides.corpus(data_bin, **options).notes
    except DataError as error:
        return error


def test_what_is_only_translated_is_remarked_on(sides: Sides, tmp_path: Path) -> None:
    """Once, for the first piece; text with a language that the vocabulary does not have is still translated."""
    data_bin = sides.data_bin("stream", pieces(sides.spm["en"], ENGLISH), pieces(sides.spm["de"], GERMAN))
    source = written(tmp_path / "source", ["Δύο σκύλοι τρέχουν", "μέσα στο γρασίδι", "δύο"])
    options = DataOptions(
        data_bin=data_bin, source=source, sentencepiece=sides.spm["en"], source_lang="en", target_lang="de"
    )
    pieces_of_it = list(stream_corpus(options, ModelProfile(), 2))
    assert [len(piece.notes) for piece in pieces_of_it] == [1, 0]
    assert "are not in" in pieces_of_it[0].notes[0]


def test_another_model_of_a_side_is_another_state(sides: Sides) -> None:
    en, other = sides.spm["en"], sentencepiece_model(sides.folder / "both.spm", [*ENGLISH, *GERMAN], 250)
    symbols = [*pieces(en, ENGLISH), *pieces(other, ENGLISH)]
    data_bin = sides.data_bin("identity", symbols, symbols)
    choices: list[dict[str, Any]] = [
        {"sentencepiece": en},
        {"sentencepiece": other},
        {"source_sentencepiece": en, "target_sentencepiece": other},
        {"source_sentencepiece": other, "target_sentencepiece": en},
        {"sentencepiece": en, "lowercase_source": True},
        {"sentencepiece": en, "lowercase_target": True},
        {"sentencepiece": en, "tokenizer": "moses"},
        {"sentencepiece": en, "tokenizer": "moses", "moses_no_escape": True},
    ]
    text = {"source": sides.english, "reference": (sides.english,)}
    corpora = [sides.corpus(data_bin, **text, **choice) for choice in choices]
    keys = [(tuple(sorted(corpus.describe().items())), contents(corpus)) for corpus in corpora]
    assert len(set(keys)) == len(choices)
    same = sides.corpus(data_bin, **text, source_sentencepiece=en, target_sentencepiece=en)
    assert (tuple(sorted(same.describe().items())), contents(same)) == keys[0]
