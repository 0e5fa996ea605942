from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from nmtprune.cli.data_options import data_options, translation_data_options
from nmtprune.cli.options import in_options
from nmtprune.cli.reported_data_options import with_test_data
from nmtprune.data.options import DataOptions
from nmtprune.errors import UsageError


@click.command()
@click.argument("checkpoint")
@data_options
@with_test_data
def score(checkpoint: str, data: DataOptions, test_data: DataOptions | None) -> None:
    click.echo(repr((checkpoint, data, test_data)))


@click.command()
@translation_data_options
def translate(data: DataOptions) -> None:
    click.echo(repr(data))


def _run(command: click.Command, line: str, env: dict[str, str] | None = None) -> str:
    result = CliRunner().invoke(command, line.split(), env=env, auto_envvar_prefix=f"NMTPRUNE_{command.name}".upper())
    if result.exception is not None:
        raise result.exception
    return result.output.rstrip("\n")


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that are there: what they are decides which options go with them."""
    monkeypatch.chdir(tmp_path)
    for name in ("model.pt", "m"):
        Path(name).touch()


def test_binarized_data() -> None:
    expected = ("model.pt", DataOptions(data_bin=Path("bin")), None)
    assert _run(score, "model.pt --data-bin bin") == repr(expected)


def test_every_option_arrives() -> None:
    line = (
        "model.pt --data-bin bin --source a.gz --reference - --bpe-codes codes -s en --target-lang de "
        "--post-process @@ --tokenizer moses --skip-invalid-size-inputs-valid-test --test-subset test"
    )
    data = DataOptions(
        data_bin=Path("bin"), source=Path("a.gz"), reference=(Path("-"),), bpe_codes=Path("codes"), source_lang="en",
        target_lang="de", post_process="@@", tokenizer="moses", skip_invalid=True,
    )  # fmt: skip
    test_data = DataOptions(
        data_bin=Path("bin"), subset="test", bpe_codes=Path("codes"), source_lang="en",
        target_lang="de", post_process="@@", tokenizer="moses", skip_invalid=True,
    )  # fmt: skip
    assert _run(score, line) == repr(("model.pt", data, test_data))


def test_a_subword_model_for_each_side_and_options_of_moses() -> None:
    line = (
        "model.pt --data-bin bin --source a --source-sentencepiece s --target-bpe-codes t --tokenizer moses "
        "--moses-no-dash-splits --moses-no-escape --lowercase-source --lowercase-target"
    )
    data = DataOptions(
        data_bin=Path("bin"), source=Path("a"), source_sentencepiece=Path("s"), target_bpe_codes=Path("t"),
        tokenizer="moses", moses_no_dash_splits=True, moses_no_escape=True, lowercase_source=True,
        lowercase_target=True,
    )  # fmt: skip
    assert _run(score, line) == repr(("model.pt", data, None))
    other = "model.pt --data-bin bin --source a --source-bpe-codes s --target-sentencepiece t"
    sides = {"source_bpe_codes": Path("s"), "target_sentencepiece": Path("t")}
    expected = DataOptions(data_bin=Path("bin"), source=Path("a"), **sides)
    assert _run(score, other) == repr(("model.pt", expected, None))


def test_raw_test_data() -> None:
    output = _run(score, "m --data-bin bin --sentencepiece spm --test-source a --test-reference b")
    data = DataOptions(data_bin=Path("bin"), sentencepiece=Path("spm"))
    test_data = DataOptions(data_bin=Path("bin"), sentencepiece=Path("spm"), source=Path("a"), reference=(Path("b"),))
    assert output == repr(("m", data, test_data))


def test_environment_variables() -> None:
    env = {"NMTPRUNE_SCORE_DATA_BIN": "bin", "NMTPRUNE_SCORE_SUBSET": "test", "NMTPRUNE_SCORE_TOKENIZER": "moses"}
    expected = DataOptions(data_bin=Path("bin"), subset="test", tokenizer="moses")
    assert _run(score, "m", env) == repr(("m", expected, None))


def test_several_references_and_one_of_the_environment() -> None:
    """A colon separates nothing: the variable holds one path."""
    expected = DataOptions(data_bin=Path("bin"), reference=(Path("a"), Path("b")))
    assert _run(score, "m --data-bin bin --reference a --reference b") == repr(("m", expected, None))
    one = DataOptions(data_bin=Path("bin"), reference=(Path("a:b"),))
    assert _run(score, "m --data-bin bin", {"NMTPRUNE_SCORE_REFERENCE": "a:b"}) == repr(("m", one, None))
    line = "m --data-bin bin --sentencepiece s --test-source c --test-reference d --test-reference e"
    assert "reference=(PosixPath('d'), PosixPath('e'))" in _run(score, line)


def test_translation_reads_standard_input_unless_told_otherwise() -> None:
    line = "--data-bin bin --sentencepiece spm"
    piped = DataOptions(data_bin=Path("bin"), source=Path("-"), sentencepiece=Path("spm"))
    assert _run(translate, line) == repr(piped)
    assert _run(translate, f"{line} --source -") == repr(piped)
    subset = DataOptions(data_bin=Path("bin"), subset="valid", sentencepiece=Path("spm"))
    assert _run(translate, f"{line} --subset valid") == repr(subset)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("m", "data: none given: name --data-bin DIR, --source FILE or --examples FILE"),
        (
            "m --data-bin bin --source a",
            "data: --source needs --sentencepiece MODEL or --bpe-codes FILE, for one side or both "
            "(--source-sentencepiece, ...); text that is segmented already needs --post-process METHOD, and "
            "--post-process none where its words are the dictionary's symbols",
        ),
        (
            "m --data-bin bin --subset x --source a --sentencepiece s",
            "data: --subset names binarized data and --source raw text: give one of the two",
        ),
        ("m --data-bin bin --test-source a", "test data: --test-source needs --test-reference FILE"),
        (
            "m --data-bin bin --test-reference a",
            "test data: --test-reference needs --test-source FILE or --test-subset NAME",
        ),
        (
            "m --data-bin bin --test-subset t --test-source a --test-reference b",
            "test data: give --test-subset or --test-source, not both",
        ),
    ],
)
def test_usage_errors(line: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        _run(score, line)
    assert (in_options(str(caught.value)), caught.value.exit_code) == (message, 2)


def test_help_names_every_option() -> None:
    text = CliRunner().invoke(score, ["--help"]).output
    for name in ("--data-bin DIR", "--subset", "--source FILE", "--reference", "--sentencepiece", "--bpe-codes",
                 "--post-process", "--tokenizer", "-s, --source-lang", "--skip-invalid-size-inputs-valid-test",
                 "--test-subset", "[default: valid]"):  # fmt: skip
        assert name in text


def test_references_have_no_options_where_there_are_none() -> None:
    result = CliRunner().invoke(translate, ["--data-bin", "bin", "--sentencepiece", "s", "--lowercase-target"])
    assert result.exit_code == 2 and "No such option" in result.output


def test_unknown_methods_are_usage_errors() -> None:
    result = CliRunner().invoke(score, ["m", "--data-bin", "bin", "--post-process", "x"])
    assert result.exit_code == 2
