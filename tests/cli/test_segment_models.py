"""Language models with a memory, which fairseq trains and no command reads yet: the line that says so."""

from pathlib import Path

import pytest

from nmtprune.formats.fairseq.segment_settings import SEGMENT_MODELS
from tests.support.cli import refused
from tests.support.fairseq_files import data_bin
from tests.support.segment_files import train_segments

COMMANDS = (
    "inspect M",
    "plan M --random 50% --seed 1 -o NEW",
    "slim M --plan T -o NEW",
    "drift M M",
    "score M --data-bin D -o NEW",
    "score M --metric importance --data-bin D -o NEW",
    "greedy M --data-bin D -o NEW",
    "check M --baseline M --data-bin D --max-drop 1",
    "translate M --data-bin D --subset test",
    "refit M M --data-bin D -o NEW",
    "functions M --data-bin D -o NEW",
    "attention M x --data-bin D --post-process none -o PAGE",
    "bench M --data-bin D",
    "export M --to ctranslate2 --data-bin D -o NEW",
    "convert M NEW --to marian --data-bin D",
    "lottery --late-reset M --prune-updates 1 --until 50% --data-bin D -o NEW",
    "l0 M --l0-weight 0.1 --data-bin D -o NEW",
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    data = data_bin(folder / "text", language_model=True)
    data_bin(folder / "data-bin")
    for arch in sorted(SEGMENT_MODELS):  # in the middle of an epoch: the file has a memory too
        train_segments(data, folder / arch, "--max-update", 1, arch=arch)
    return {arch: folder / arch / "checkpoint_last.pt" for arch in SEGMENT_MODELS}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_refuse_models_with_a_memory(models: dict[str, Path], tmp_path: Path, command: str) -> None:
    text, new = tmp_path / "text", tmp_path / "new"
    text.write_text("a b\nc d\n")
    for arch, model in models.items() if command == COMMANDS[0] else list(models.items())[:1]:
        data = model.parents[1] / "data-bin"
        given = [
            {"M": model, "T": text, "D": data, "NEW": new, "PAGE": tmp_path / "new.html"}.get(word, word)
            for word in command.split()
        ]
        code, line = refused(*given)
        assert (code, line) == (
            3,
            f"{model}: unsupported: architecture '{arch}' (trained by nmtprune's plug-in: fairseq-train and "
            "fairseq-eval-lm run it, nmtprune's commands do not read it yet)",
        )
        assert not new.exists() and not (tmp_path / "new.html").exists()
