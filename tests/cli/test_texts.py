"""Raw and segmented text of a release like OPUS-MT's: two subword models, a joint vocabulary, language tokens."""

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.cli import JUDGED, nmtprune, refused
from tests.support.marian_files import VARIANTS, marian_model
from tests.support.marian_program import marian_scores, marian_translations
from tests.support.subwords import ENGLISH, GERMAN, bpe_codes, pieces, sentencepiece_model, subwords, written

TAGS = (">>deu<<", ">>fra<<")


@dataclass(frozen=True)
class Release:
    """A model, the subword models of both sides, and text as a user has it and as Marian takes it."""

    model: Path
    vocabulary: Path
    source_model: Path
    target_model: Path
    raw: Path
    reference: Path
    segmented: Path
    segmented_reference: Path

    @property
    def vocabs(self) -> tuple[object, ...]:
        return ("--vocabs", self.vocabulary, self.vocabulary, "--threads", 1)


def _release(folder: Path, segmented: tuple[list[str], list[str]], models: tuple[Path, Path]) -> Release:
    tagged = [f"{tag} {line}" for line, tag in zip(segmented[0], TAGS * len(ENGLISH), strict=False)]
    symbols = sorted({symbol for line in (*tagged, *segmented[1], *TAGS) for symbol in line.split()})
    names = ["</s>", "<unk>", *symbols]
    vocabulary = folder / "joint.yml"
    vocabulary.write_text(json.dumps({name: number for number, name in enumerate(names)}), encoding="utf-8")
    raw = [f"{tag} {line}" for line, tag in zip(ENGLISH, TAGS * len(ENGLISH), strict=False)]
    return Release(
        marian_model(folder / "model.npz", words=len(names), **VARIANTS["post-norm, all tied"]),
        vocabulary,
        *models,
        written(folder / "raw", raw),
        written(folder / "reference", GERMAN),
        written(folder / "segmented", tagged),
        written(folder / "segmented.reference", segmented[1]),
    )


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    folder = tmp_path_factory.mktemp("release")
    models = sentencepiece_model(folder / "source.spm", ENGLISH), sentencepiece_model(folder / "target.spm", GERMAN)
    return _release(folder, (pieces(models[0], ENGLISH), pieces(models[1], GERMAN)), models)


def _joined(lines: Iterable[str]) -> list[str]:
    return [line.replace(" ", "").replace("▁", " ").strip() for line in lines]


def _words_of_marian(release: Release, *options: object) -> list[str]:
    found = marian_translations(release.model, release.vocabulary, release.segmented, *options)
    return _joined(own[0].text for own in found)


def test_raw_and_segmented_text_are_translated_as_marian_translates(release: Release) -> None:
    search = ("--beam", 2, "--normalize", 1, "--batch-size", 1)
    theirs = _words_of_marian(release, "--beam-size", 2, "--normalize", 1)
    assert any(theirs)
    sides = ("--source-sentencepiece", release.source_model, "--target-sentencepiece", release.target_model)
    for text in (
        (*sides, "--source", release.raw),
        ("--source-sentencepiece", release.source_model, "--source", release.raw),
        ("--post-process", "sentencepiece", "--source", release.segmented),
    ):
        found = nmtprune("translate", release.model, *release.vocabs, *search, *text)
        assert (found.code, found.stdout.splitlines()) == (0, theirs)
    none = ("--post-process", "none", "--source", release.segmented)
    found = nmtprune("translate", release.model, *release.vocabs, *search, *none)
    assert _joined(found.stdout.splitlines()) == theirs


def _loss(release: Release, output: Path, *text: object) -> tuple[float, str]:
    options = ("--metric", "loss", "--kinds", "cross", "--resamples", 200, "--correction", "none", "-o", output)
    found = nmtprune("score", release.model, *release.vocabs, *options, *text)
    assert found.code == 0, found.stderr
    return json.loads(output.read_text())["baseline"]["value"], found.stderr


def test_losses_are_of_the_targets_own_symbols(release: Release, tmp_path: Path) -> None:
    files = (release.model, release.vocabulary, release.segmented, release.segmented_reference)
    tokens = sum(len(line.split()) + 1 for line in release.segmented_reference.read_text().splitlines())
    expected = pytest.approx(-sum(marian_scores(*files)) / tokens, abs=1e-4)
    raw = ("--source", release.raw, "--reference", release.reference)
    sides = ("--source-sentencepiece", release.source_model, "--target-sentencepiece", release.target_model)
    loss, remarks = _loss(release, tmp_path / "own.json", *raw, *sides)
    assert loss == expected and "cuts" not in remarks and "not in" not in remarks
    segmented = ("--source", release.segmented, "--reference", release.segmented_reference)
    assert _loss(release, tmp_path / "segmented.json", *segmented, "--post-process", "sentencepiece")[0] == expected
    recorded = json.loads((tmp_path / "own.json").read_text())["provenance"]["data"]
    assert {str(release.source_model), str(release.target_model)} <= recorded.keys()


def test_one_side_of_each_kind(tmp_path: Path) -> None:
    """SentencePiece for the source, BPE for the target; what joins is the target's."""
    models = sentencepiece_model(tmp_path / "source.spm", ENGLISH), bpe_codes(tmp_path / "codes", GERMAN, 60)
    release = _release(tmp_path, (pieces(models[0], ENGLISH), subwords(models[1], GERMAN)), models)
    sides = ("--source-sentencepiece", models[0], "--target-bpe-codes", models[1], "--source", release.raw)
    search = ("--beam", 2, "--batch-size", 1)
    found = nmtprune("translate", release.model, *release.vocabs, *search, *sides)
    theirs = marian_translations(release.model, release.vocabulary, release.segmented, "--beam-size", 2)
    assert (found.code, found.stderr) == (0, "")
    assert found.stdout.splitlines() == [f"{own[0].text} ".replace("@@ ", "").rstrip() for own in theirs]
    files = (release.model, release.vocabulary, release.segmented, release.segmented_reference)
    tokens = sum(len(line.split()) + 1 for line in release.segmented_reference.read_text().splitlines())
    loss, _ = _loss(release, tmp_path / "loss.json", *sides, "--reference", release.reference)
    assert loss == pytest.approx(-sum(marian_scores(*files)) / tokens, abs=1e-4)


def test_subwords_are_not_measured_against_words(release: Release, tmp_path: Path) -> None:
    pieces_of_it = ("--source", release.segmented, "--post-process", "none")
    words = ("--reference", release.reference)
    reason = "of the references: join subwords with --post-process sentencepiece"
    few = ("--resamples", 200, "--correction", "none", "--kinds", "cross", "--beam", 1)
    commands = (
        ("score", release.model, "-o", tmp_path / "scores.json", *few),
        ("greedy", release.model, "-o", tmp_path / "run", "--order", "random", "--resamples", 200, "--beam", 1),
        ("bench", release.model, "--batch-size", 1, "--repeat", 1, "--beam", 1),
        ("check", release.model, "--baseline", release.model, "--max-drop", 1, "--beam", 1, "--resamples", 200),
    )
    for name, *command in commands:
        code, line = refused(name, *command, *release.vocabs, *pieces_of_it, *words, env=JUDGED)
        assert code == 5 and "subwords measured against words: " in line and reason in line, (name, line)
    assert not (tmp_path / "scores.json").exists()


def test_a_real_model_in_the_layout_of_a_release(test_models: Path, tmp_path: Path) -> None:
    """A joint vocabulary and a segmenter per side; a rare piece's place is the language token's."""
    import sentencepiece

    folder = test_models / "m30k-ende-marian"
    own = sentencepiece.SentencePieceProcessor(model_file=str(folder / "vocab.spm"))
    names = [own.id_to_piece(number) for number in range(len(own))]
    names[-1] = TAGS[0]
    vocabulary = tmp_path / "joint.yml"
    vocabulary.write_text(json.dumps({name: number for number, name in enumerate(names)}), encoding="utf-8")
    raw, reference = written(tmp_path / "raw", (f"{TAGS[0]} {line}" for line in ENGLISH)), tmp_path / "reference"
    written(reference, GERMAN)
    segmented = written(tmp_path / "pieces", (f"{TAGS[0]} {line}" for line in pieces(folder / "vocab.spm", ENGLISH)))
    options = ("--vocabs", vocabulary, vocabulary, "--threads", 1, "--beam", 6, "--normalize", 1, "--batch-size", 1)
    theirs = marian_translations(folder / "model.npz", vocabulary, segmented, "--beam-size", 6, "--normalize", 1)
    sides = ("--source-sentencepiece", folder / "vocab.spm", "--target-sentencepiece", folder / "vocab.spm")
    for text in ((*sides, "--source", raw), ("--post-process", "sentencepiece", "--source", segmented)):
        found = nmtprune("translate", folder / "model.npz", *options, *text)
        assert (found.code, found.stderr) == (0, "")
        assert found.stdout.splitlines() == _joined(best[0].text for best in theirs)


def test_no_remark_on_text_of_the_right_kind(test_models: Path, tmp_path: Path) -> None:
    """The model's own subword model on its own data: words are whole where the vocabulary has them whole."""
    from nmtprune.data.corpus import load_corpus
    from nmtprune.data.options import DataOptions
    from nmtprune.profile import ModelProfile

    folder = test_models / "m30k-ende"
    options = DataOptions(data_bin=folder / "data-bin", subset="test")
    binarized = load_corpus(options, ModelProfile(6000, 6000, "en", "de"))
    assert binarized.notes == (
        "joining subwords as `post_process` sentencepiece, which the symbols of dict.de.txt suggest",
    )
    source = tmp_path / "source.gz"
    lines = (binarized.codec.decode(binarized.source_vocabulary.string(ids)) for ids in binarized.source)
    source.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))
    reference = written(tmp_path / "reference", (binarized.references or ((),))[0])
    raw = DataOptions(
        data_bin=folder / "data-bin", source=source, reference=(reference,), sentencepiece=folder / "spm.model"
    )
    assert load_corpus(raw, ModelProfile(6000, 6000, "en", "de"), targets=True).notes == ()
