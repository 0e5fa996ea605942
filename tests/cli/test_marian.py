"""Commands on Marian models as a user meets them: settings beside the model, search, engines, slim and score."""

import json
from pathlib import Path

import pytest

from nmtprune.formats.marian import MarianCheckpoint
from nmtprune.scores import Scores
from tests.support.cli import documented, nmtprune, refused
from tests.support.marian_files import VARIANTS, marian_model
from tests.support.marian_program import marian_translations, random_texts, vocabulary_file
from tests.support.subwords import TEXT, sentencepiece_vocabulary

PRE_NORM = VARIANTS["pre-norm with norms at both ends"]


def _settings(model: Path, text: str) -> Path:
    path = model.with_name(model.name + ".decoder.yml")
    path.write_text(text)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model, ``source`` and ``target`` beside it, and settings that name its vocabulary."""
    folder = tmp_path / "model"
    folder.mkdir()
    path = marian_model(folder / "model.npz", **VARIANTS["post-norm, all tied"])
    vocabulary_file(folder)
    random_texts(folder)
    _settings(path, "relative-paths: true\nvocabs: [vocab.yml, vocab.yml]\nbeam-size: 2\nnormalize: 0.6\n")
    return path


def test_settings_beside_the_model_are_its_defaults(model: Path) -> None:
    source, vocabulary = model.with_name("source"), model.with_name("vocab.yml")
    raw = ("--source", source, "--post-process", "none", "--batch-size", 1, "--threads", 1)
    found = nmtprune("translate", model, *raw, "--scores", "--n-best", 2)
    assert (found.code, found.stderr) == (0, "")
    theirs = marian_translations(model, vocabulary, source, "--beam-size", 2, "--normalize", 0.6)
    lines = [line.split("\t") for line in found.stdout.splitlines()]
    assert [text for _, _, text in lines] == [best.text for own in theirs for best in own]
    scores = [best.score for own in theirs for best in own]
    assert [float(score) for _, score, _ in lines] == pytest.approx(scores, abs=2e-4)
    given = ("--beam", 3, "--normalize", 0, "--word-penalty", 0.2, "--max-length-factor", 2, "--allow-unk")
    found = nmtprune("translate", model, *raw, *given, "--vocabs", vocabulary, vocabulary)
    options = ("--beam-size", 3, "--word-penalty", 0.2, "--max-length-factor", 2, "--allow-unk")
    theirs = marian_translations(model, vocabulary, source, *options)
    assert found.stdout.splitlines() == [own[0].text for own in theirs]


def test_the_size_of_batches_does_not_matter(model: Path) -> None:
    """Other batches give the same file, and so does a line alone; limits of whole batches are asked for."""
    source, vocabulary = model.with_name("source"), model.with_name("vocab.yml")
    raw = ("--post-process", "none", "--threads", 1, "--beam", 2, "--vocabs", vocabulary, vocabulary)
    raw = (*raw, "--max-length-factor", 1.5)
    found = [nmtprune("translate", model, "--source", source, *raw, "--batch-size", size).stdout for size in (1, 5, 12)]
    assert found[0] == found[1] == found[2]
    by_batch = nmtprune("translate", model, "--source", source, *raw, "--marian-batch-length-limit").stdout
    assert by_batch != found[0]
    engine = ("--engine", "marian", "--marian-batch-length-limit", "--batch-size", 5)
    five = nmtprune("translate", model, "--source", source, *raw, *engine[2:]).stdout
    assert five == nmtprune("translate", model, "--source", source, *raw, *engine).stdout
    assert five not in (by_batch, found[0])


def test_settings_of_a_model_that_was_moved(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without relative paths files are those of the current folder; where they are gone, those beside the model."""
    raw = ("--source", model.with_name("source"), "--post-process", "none", "--threads", 1, "--beam", 2)
    expected = nmtprune("translate", model, *raw, "--normalize", 0.6).stdout
    monkeypatch.chdir(model.parent)
    for vocabs in ("[vocab.yml, vocab.yml]", f"[{model.parent}/vocab.yml, /nowhere/vocab.yml]"):
        _settings(model, f"vocabs: {vocabs}\nnormalize: 0.6\n")
        assert nmtprune("translate", model, *raw).stdout == expected
    model.with_name("model.npz.decoder.yml").unlink()
    assert refused("translate", model, *raw) == (
        2,
        "data: a Marian model: name its vocabularies with --vocabs A B (there is no model.npz.decoder.yml beside it "
        "that names them)",
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("vocabs: [a", "cannot be read: "),
        ("- 1\n", "holds no settings of a decoder"),
        ("vocabs: [a]\nbeam-size: 2.5\nallow-unk: 3\n",
         "beam-size is '2.5', no whole number from 1 on; allow-unk is '3', not true or false; "
         "vocabs are 1 files, not a source and a target vocabulary"),
    ],
)  # fmt: skip
def test_damaged_settings(model: Path, text: str, reason: str) -> None:
    settings = _settings(model, text)
    code, line = refused("translate", model, "--source", model.with_name("source"))
    assert code == 3 and line.startswith(f"{settings}: ") and reason in line


def test_cropped_sources_are_compared(model: Path, tmp_path: Path) -> None:
    """Each file and answer of a comparison has the number of tokens that longer sources are cut to."""
    source, reference = random_texts(tmp_path)
    _settings(model, "relative-paths: true\nvocabs: [vocab.yml, vocab.yml]\nmax-length: 4\nmax-length-crop: true\n")
    data = ("--source", source, "--reference", reference, "--post-process", "none", "--threads", 1, "--beam", 1)
    asked = (*data, "--resamples", 100, "--format", "json", "-q")
    commands = (
        ("check", model, "--baseline", model, "--max-drop", 1),
        ("bench", model, "--batch-size", 4, "--repeat", 1),
        ("greedy", model, "--order", "random", "--samples", 1, "--step", 8, "--until", 8, "-o", tmp_path / "run"),
    )
    for command in commands:
        found = nmtprune(*command, *asked)
        assert found.code == 0, found.stderr
        assert documented(found.stdout)["crop_source"] == 4


def test_a_missing_model_is_said_to_be_missing(model: Path) -> None:
    missing, text = model.with_name("none.npz"), ("--source", model.with_name("source"))
    assert refused("translate", missing, *text) == (3, f"{missing}: there is no such file")
    assert refused("translate", missing, "--normalize", 1, *text) == (3, f"{missing}: there is no such file")
    assert refused("score", model.parent, *text, "-o", "scores.json")[0] == 3


def test_settings_that_are_named(model: Path, tiny: Path) -> None:
    """A file of another name: cropping as Marian does it, and everything that is not used in one note."""
    source, vocabulary, settings = model.with_name("source"), model.with_name("vocab.yml"), model.with_name("my.yml")
    text = "relative-paths: true\nmodels: [model.npz]\nvocabs: [vocab.yml, vocab.yml]\nbeam-size: 3\nmax-length: 4\n"
    settings.write_text(f"{text}max-length-crop: true\nskip-cost: true\nquiet: true\n")
    raw = ("--source", source, "--post-process", "none", "--threads", 1, "--decoder-config", settings)
    found = nmtprune("translate", model, *raw)
    assert (found.code, found.stderr.splitlines()[0]) == (
        0,
        f"{settings}: ignored: skip-cost (Marian may translate otherwise with them); quiet (without effect on texts)",
    )
    cropped = sum(len(line.split()) > 3 for line in source.read_text().splitlines())
    assert f"max-length-crop: {cropped} of 12 sources are cut to 4 tokens" in found.stderr
    options = ("--beam-size", 3, "--max-length", 4, "--max-length-crop")
    theirs = marian_translations(model, vocabulary, source, *options)
    assert found.stdout.splitlines() == [own[0].text for own in theirs]
    assert nmtprune("translate", model, *raw, "--engine", "marian").stdout == found.stdout
    settings.write_text("vocabs: [/nowhere/a.yml, vocab.yml]\n")
    assert refused("translate", model, *raw) == (
        5, f"/nowhere/a.yml: no such file ({settings} names it): name the vocabularies with --vocabs A B",
    )  # fmt: skip
    settings.write_text("beam-size: 3\n")
    code, line = refused("translate", model, *raw)
    assert code == 2 and line.endswith(f"name its vocabularies with --vocabs A B ({settings} names none)")
    data_bin = ("--data-bin", tiny.parent / "data-bin")
    assert refused("translate", tiny, *raw, *data_bin) == (
        2, "--decoder-config goes with models of Marian: this is none",
    )  # fmt: skip


def test_a_release_with_a_subword_model_per_side(tmp_path: Path) -> None:
    """A folder as OPUS-MT releases it: raw text and its token in front go in, Marian's pieces come out joined."""
    import sentencepiece

    model = tmp_path / "opus.spm32k-spm32k.transformer-align.model1.npz.best-perplexity.npz"
    spm = sentencepiece_vocabulary(tmp_path, vocab_size=75).rename(tmp_path / "source.spm")
    (tmp_path / "target.spm").write_bytes(spm.read_bytes())
    processor = sentencepiece.SentencePieceProcessor(model_file=str(spm))
    pieces = [processor.IdToPiece(id) for id in range(processor.GetPieceSize())]
    symbols = [*pieces, ">>deu<<", "\u2581nur", "quelle"]
    lines = "".join(f"{json.dumps(symbol)}: {id}\n" for id, symbol in enumerate(symbols))
    vocabulary = tmp_path / "opus.spm32k-spm32k.vocab.yml"
    vocabulary.write_text(lines)
    marian_model(model, words=len(symbols), seed=6)
    (tmp_path / "decoder.yml").write_text(
        f"relative-paths: true\nmodels: [{model.name}]\nvocabs: [{vocabulary.name}, {vocabulary.name}]\nbeam-size: 4\n"
    )
    source, segmented = tmp_path / "in", tmp_path / "segmented"
    source.write_text("".join(f">>deu<< {line}\n" for line in TEXT))
    segmented.write_text("".join(f">>deu<< {' '.join(processor.EncodeAsPieces(line))}\n" for line in TEXT))
    found = nmtprune("translate", model, "--source", source, "--threads", 1)
    used = f"{tmp_path / 'decoder.yml'}: text is split by {spm} and {tmp_path / 'target.spm'} beside it"
    assert found.code == 0 and found.stderr.splitlines() == [used]
    theirs = [own[0].text for own in marian_translations(model, vocabulary, segmented, "--beam-size", 4)]
    assert found.stdout.splitlines() == [line.replace(" ", "").replace("\u2581", " ").strip() for line in theirs]
    joined = nmtprune("translate", model, "--source", segmented, "--post-process", "sentencepiece", "--threads", 1)
    assert joined.stdout == found.stdout


def test_options_of_the_other_toolkit(model: Path, tiny: Path) -> None:
    source = ("--source", model.with_name("source"), "--post-process", "none")
    assert refused("translate", model, *source, "--lenpen", 1, "--unkpen", 2) == (
        2,
        "search: --lenpen goes with models of fairseq: this is a Marian model; --unkpen goes with models of fairseq: "
        "this is a Marian model",
    )
    data_bin = ("--data-bin", tiny.parent / "data-bin")
    assert refused("translate", tiny, *source, *data_bin, "--normalize", 1) == (
        2, "search: --normalize goes with models of Marian: this is a checkpoint of fairseq"
    )  # fmt: skip
    assert refused("translate", model, *source, "--fairseq-batch-length-limit")[1] == (
        "search: --fairseq-batch-length-limit goes with models of fairseq: this is a Marian model"
    )
    assert refused("translate", tiny, *source, *data_bin, "--marian-batch-length-limit")[1] == (
        "search: --marian-batch-length-limit goes with models of Marian: this is a checkpoint of fairseq"
    )
    assert refused("translate", model, *source, "--max-length-factor", 0)[1] == (
        "search: --max-length-factor 0.0 is not a number above 0, up to 1e+06"
    )


def test_heads_scored_by_both_engines(model: Path, tmp_path: Path) -> None:
    """`score` by BLEU on the native engine, and by decoding masked files with Marian itself."""
    raw = ("--source", model.with_name("source"), "--reference", model.with_name("target"), "--post-process", "none")
    options = ("--kinds", "cross", "--resamples", 200, "--correction", "none", "--threads", 1, "--metric", "chrf")
    found = []
    for engine in ("native", "marian"):
        output = tmp_path / f"{engine}.json"
        result = nmtprune("score", model, *raw, *options, "--engine", engine, "--batch-size", 8, "-o", output, "-q")
        assert result.code == 0, result.stderr
        found.append(Scores.read(output))
    assert found[0].baseline["value"] == found[1].baseline["value"]
    assert [(entry.id, entry.delta) for entry in found[0].heads] == [
        (entry.id, entry.delta) for entry in found[1].heads
    ]
    search = found[0].baseline["search"]
    assert search["beam"] == 2 and search["normalize"] == 0.6 and search["max_length_factor"] == 3.0


def test_greedy_prunes_a_marian_model(model: Path, tmp_path: Path) -> None:
    """From importance without a training set to a slim model that translates as its plan says."""
    raw = ("--source", model.with_name("source"), "--reference", model.with_name("target"), "--post-process", "none")
    options = ("--order", "importance", "--step", "25%", "--until", "50%", "--resamples", 200, "--threads", 1)
    result = nmtprune("greedy", model, *raw, *options, "-o", tmp_path / "run", "-q")
    assert result.code == 0, result.stderr
    plans = sorted((tmp_path / "run").rglob("*.json"))
    plan = next(path for path in plans if json.loads(path.read_text()).get("format") == "nmtprune-plan")
    assert nmtprune("slim", model, "--plan", plan, "-o", tmp_path / "slim.npz").code == 0
    translate = ("--source", model.with_name("source"), "--post-process", "none", "--threads", 1, "--beam", 2)
    vocabs = ("--vocabs", model.with_name("vocab.yml"), model.with_name("vocab.yml"), "--normalize", 0.6)
    cut = nmtprune("translate", tmp_path / "slim.npz", *translate, *vocabs)
    assert cut.code == 0, cut.stderr
    assert cut.stdout == nmtprune("translate", model, *translate, "--plan", plan).stdout
    code, line = refused("translate", tmp_path / "slim.npz", *translate, *vocabs, "--engine", "marian")
    assert code == 6 and "the official Marian runs slim models of --mode masked only" in line


def test_pre_norm_decoders_are_named_once(tmp_path: Path) -> None:
    path, vocabulary = marian_model(tmp_path / "model.npz", **PRE_NORM), vocabulary_file(tmp_path)
    source, _ = random_texts(tmp_path)
    raw = ("--source", source, "--post-process", "none", "--vocabs", vocabulary, vocabulary, "--threads", 1)
    result = nmtprune("translate", path, *raw, "--buffer-size", 4)
    assert result.stderr.count("pre-norm decoder: searched as it was trained; Marian up to 1.12 does not") == 1
    as_marian = nmtprune("translate", path, *raw, "--unnormalized-keys", "--beam", 2, "--batch-size", 1)
    assert as_marian.stderr == ""
    theirs = marian_translations(path, vocabulary, source, "--beam-size", 2)
    assert as_marian.stdout.splitlines() == [own[0].text for own in theirs]


def test_slim_says_before_it_cuts_what_it_could_not_verify(tmp_path: Path) -> None:
    model = marian_model(tmp_path / "model.npz", transformer_postprocess_top="a")
    plan, slim = tmp_path / "plan.json", tmp_path / "slim.npz"
    assert nmtprune("plan", model, "--random", 4, "-o", plan).code == 0
    assert refused("slim", model, "--plan", plan, "-o", slim) == (
        3,
        f"{model}: the result cannot be verified (--no-verify writes it all the same): the native model cannot run "
        "this checkpoint: transformer-postprocess-top: a",
    )
    assert not slim.exists()
    assert nmtprune("slim", model, "--plan", plan, "-o", slim, "--no-verify").code == 0
    assert MarianCheckpoint.load(slim).architecture.count() == MarianCheckpoint.load(model).architecture.count() - 4
