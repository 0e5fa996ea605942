"""Settings beside a Marian model: which file counts, what is used, what is named, what is refused."""

from pathlib import Path

import pytest

from nmtprune.errors import CheckpointError
from nmtprune.formats.marian.decoder import MarianDecoderSettings

_MARIANS_OWN = (
    "relative-paths: {relative}\nmodels:\n  - model.npz\nvocabs:\n  - vocab.yml\n  - vocab.yml\nbeam-size: 6\n"
    "normalize: 0.6\nword-penalty: 0\nmini-batch: 32\nmaxi-batch: 100\nmaxi-batch-sort: src\n"
)


def _read(folder: Path, text: str, name: str = "model.npz.decoder.yml") -> MarianDecoderSettings:
    (folder / name).write_text(text)
    return MarianDecoderSettings.beside(folder / "model.npz")


def _fault(folder: Path, text: str) -> str:
    with pytest.raises(CheckpointError) as refusal:
        _read(folder, text)
    line = str(refusal.value)
    assert "\n" not in line
    return line.removeprefix(f"{folder / 'model.npz.decoder.yml'}: ")


def test_what_marian_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _read(tmp_path, _MARIANS_OWN.format(relative="true"))
    assert found.file == tmp_path / "model.npz.decoder.yml"
    assert found.vocabs == (tmp_path / "vocab.yml",) * 2
    assert found.search == {"beam": 6, "normalize": 0.6, "word_penalty": 0}
    assert found.notes == (f"{found.file}: ignored: mini-batch, maxi-batch, maxi-batch-sort (without effect on texts)",)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "vocab.yml").touch()
    assert _read(tmp_path, _MARIANS_OWN.format(relative="false")).vocabs == (Path("vocab.yml"),) * 2
    (tmp_path / "elsewhere" / "vocab.yml").rename(tmp_path / "vocab.yml")
    assert _read(tmp_path, _MARIANS_OWN.format(relative="false")).vocabs == (tmp_path / "vocab.yml",) * 2


def test_files_of_the_folder_count_where_they_name_the_model(tmp_path: Path) -> None:
    assert _read(tmp_path, "models: [other.npz]\nbeam-size: 3\n", "config.yml") == MarianDecoderSettings()
    assert _read(tmp_path, "beam-size: 3\n", "config.yml") == MarianDecoderSettings()
    assert _read(tmp_path, "models: [a", "config.yml") == MarianDecoderSettings()
    assert _read(tmp_path, "models: [/old/model.npz]\nbeam-size: 3\n", "config.yml").search == {"beam": 3}
    assert _read(tmp_path, "models: [model.npz]\nbeam-size: 4\n", "decoder.yml").search == {"beam": 4}
    assert _read(tmp_path, "beam-size: 5\n").search == {"beam": 5}
    named = tmp_path / "named.yml"
    named.write_text("models: [a.npz, b.npz]\nbeam-size: 6\n")
    found = MarianDecoderSettings.read(named, tmp_path / "b.npz")
    assert found.search == {"beam": 6}
    assert found.notes == (f"{named}: settings of an ensemble of 2 models: b.npz is run alone",)
    named.write_text("models: [a.npz]\n")
    assert MarianDecoderSettings.read(named, tmp_path / "b.npz").notes == (
        f"{named}: settings of another model, a.npz",
    )


def test_subword_models_of_a_release(tmp_path: Path) -> None:
    for name in ("source.spm", "target.spm", "vocab.yml"):
        (tmp_path / name).touch()
    assert _read(tmp_path, _MARIANS_OWN.format(relative="true")).subwords == (
        tmp_path / "source.spm", tmp_path / "target.spm",
    )  # fmt: skip
    own = "relative-paths: true\nvocabs: [source.spm, vocab.yml]\n"
    assert _read(tmp_path, own).subwords == (None, tmp_path / "target.spm")
    (tmp_path / "target.spm").unlink()
    assert _read(tmp_path, own).subwords == (None, None)


def test_everything_else_is_named(tmp_path: Path) -> None:
    text = (
        "shortlist: [lex.gz, 50, 50]\nskip-cost: true\noutput-sampling: []\nfp16: false\n"
        "gemm-precision: int8shiftAlphaAll\nmax-length-break: 128\nssplit-mode: paragraph\ncpu-threads: 4\n"
        "workspace: 128\nquiet: true\nn-best: true\n"
        "type: transformer\ndim-emb: 16\nmax-length: 80\nbeam_size: 2\n"
    )  # fmt: skip
    found = _read(tmp_path, text)
    assert found.crop is None
    assert found.notes == (
        f"{found.file}: ignored: shortlist, skip-cost, gemm-precision, max-length-break, ssplit-mode, max-length "
        "(Marian may translate otherwise with them); type, dim-emb (the options in the model's own file count); "
        "cpu-threads, workspace, quiet, n-best (without effect on texts); beam_size (no options of Marian's decoder)",
    )


def test_values_are_read_as_marian_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "beam-size: '2'\nnormalize: true\nword-penalty: .5\nmax-length-factor: 2e0\nallow-unk: yes\n"
    expected = {
        "beam": 2, "normalize": 1, "word_penalty": 0.5, "max_length_factor": 2.0, "allow_unk": True,
        "allow_special": False,
    }  # fmt: skip
    assert _read(tmp_path, text + 'allow-special: "false"\n').search == expected
    assert _read(tmp_path, "max-length-crop: true\n").crop == 1000
    assert _read(tmp_path, "max-length-crop: true\nmax-length: 7\n").crop == 7
    monkeypatch.setenv("NMTPRUNE_TEST_FOLDER", "/models")
    text = "interpolate-env-vars: true\nvocabs: ['${NMTPRUNE_TEST_FOLDER}/a.spm', b.spm]\n"
    assert _read(tmp_path, text).vocabs == (Path("/models/a.spm"), Path("b.spm"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("beam-size: 2.5", "beam-size is '2.5', no whole number from 1 on"),
        ("beam-size: 0", "beam-size is '0', no whole number from 1 on"),
        ("beam-size: [6]", "beam-size is a list, no whole number from 1 on"),
        ("beam-size:", "beam-size is empty, no whole number from 1 on"),
        ("normalize: 1_0", "normalize is '1_0', no number"),
        ("normalize: .nan", "normalize is '.nan', no number"),
        ("word-penalty: {a: 1}", "word-penalty is a mapping, no number"),
        ("allow-unk: 3", "allow-unk is '3', not true or false"),
        ("relative-paths: here", "relative-paths is 'here', not true or false"),
        ("max-length-crop: true\nmax-length: many", "max-length is 'many', no whole number from 1 on"),
        ("vocabs: [a]", "vocabs are 1 files, not a source and a target vocabulary"),
        ("vocabs: a.spm", "vocabs is 'a.spm', not a list of files ('vocabs: [FILE, FILE]')"),
        ("vocabs: [a, [b]]", "vocabs is a list, not a list of files ('vocabs: [FILE, FILE]')"),
        ("models: model.npz", "models is 'model.npz', not a list of files ('models: [FILE, FILE]')"),
        ("interpolate-env-vars: true\nvocabs: ['${NO_SUCH_VARIABLE_}', b]",
         "vocabs name the environment variable NO_SUCH_VARIABLE_, which is not set"),
        ("beam-size: 2\nbeam-size: 3", "beam-size stands twice"),
        ("- 1", "holds no settings of a decoder ('KEY: VALUE' in every line)"),
    ],
)  # fmt: skip
def test_values_of_another_type(tmp_path: Path, text: str, reason: str) -> None:
    assert _fault(tmp_path, text + "\n") == reason


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert _fault(tmp_path, "vocabs: [a").startswith("cannot be read: ")
    with pytest.raises(CheckpointError, match="none.yml: cannot be read: No such file or directory"):
        MarianDecoderSettings.read(tmp_path / "none.yml", tmp_path / "model.npz")
