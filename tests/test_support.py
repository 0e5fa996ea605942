"""What tests share: only modules of tests/support, among them the tiny checkpoints."""

import ast
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from tests.support import fairseq_files
from tests.support.fairseq_files import Build
from tests.support.fairseq_settings import composed_quickly
from tests.support.fairseq_variants import difference

TESTS = Path(__file__).parent
MODULES = sorted(TESTS.rglob("*.py"))


def _imported_tests(code: str) -> set[str]:
    """Modules below tests, by their full names, that code imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write the full name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if f"{name}.".startswith("tests.")}


def test_tests_import_nothing_of_each_other_but_tests_support() -> None:
    imported = {
        (str(path.relative_to(TESTS)), name)
        for path in MODULES
        for name in _imported_tests(path.read_text(encoding="utf-8"))
    }
    assert imported and {(path, name) for path, name in imported if not name.startswith("tests.support.")} == set()


@pytest.mark.parametrize(
    "code",
    [
        "from tests.runs.test_score import SEARCH",
        "from tests.conftest import Build",
        "from tests.runs import test_score",
        "from tests import conftest",
        "import tests.runs.test_score as other",
        "def test_x():\n    from tests.test_plan import HEADS",
    ],
)
def test_imports_of_other_tests_are_found(code: str) -> None:
    assert any(not name.startswith("tests.support.") for name in _imported_tests(code))


def test_test_modules_are_there_to_be_checked() -> None:
    assert Path(__file__) in MODULES and TESTS / "support" / "fairseq_files.py" in MODULES


def test_equal_options_give_equal_checkpoints(build: Build, tiny: Path, tmp_path: Path) -> None:
    state = fairseq_files.load(tiny)
    again = fairseq_files.load(fairseq_files.fairseq_checkpoint(tmp_path, updates=2, encoder_normalize_before=True,
        decoder_normalize_before=True, share_all_embeddings=True, dropout=0.0))  # fmt: skip
    assert list(state) == list(again)
    assert list(state["model"]) == list(again["model"])
    assert all(torch.equal(tensor, again["model"][name]) for name, tensor in state["model"].items())
    assert state["optimizer_history"][-1]["num_updates"] == 2


@pytest.mark.parametrize(
    ("kind", "types"),
    [("dict", (dict, dict)), ("namespace", (Namespace, Namespace)), ("omegaconf", None), ("args", (type(None), None))],
)
def test_cfg_is_stored_as_asked(build: Build, kind: str, types: Any) -> None:
    state = fairseq_files.load(build(stored={"cfg": kind}))
    if kind == "args":
        assert state["cfg"] is None
        assert state["args"].encoder_attention_heads == 4
    elif kind == "omegaconf":
        assert type(state["cfg"]).__name__ == "DictConfig"
    else:
        model = state["cfg"]["model"] if kind == "dict" else state["cfg"].model
        assert (type(state["cfg"]), type(model)) == types


@pytest.mark.parametrize(
    "options",
    [
        {"arch": "transformer", "save_dir": "a 'b' = [c], {d}", "dropout": 0.3},
        {"arch": "transformer", "optimizer": "nag", "fp16": True, "encoder_normalize_before": True},
        {"arch": "transformer", "optimizer": "adafactor", "lr_scheduler": "fixed", "warmup_updates": None},
        {"arch": "transformer_align", "criterion": "label_smoothed_cross_entropy", "label_smoothing": 0.1},
        {"arch": "transformer_lm_gpt", "adaptive_softmax_cutoff": "8,16", "store_ema": True},
    ],
    ids=str,
)
def test_quick_settings_are_those_of_hydra(tmp_path: Path, options: dict[str, Any]) -> None:
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    parsed = fairseq_files.fairseq_arguments(tmp_path, **options)
    expected = _plain(convert_namespace_to_omegaconf(parsed))
    with composed_quickly():
        found = _plain(convert_namespace_to_omegaconf(parsed))
    assert difference(found, expected) == ""
    assert found["model"]["_name" if "_name" in found["model"] else "arch"] == options["arch"]


def _plain(config: Any) -> dict[str, Any]:
    """All settings by group; a group that fairseq keeps as a Namespace becomes a dict."""
    found = {}
    for name in config:
        value = config._get_node(name)
        value = getattr(value, "_val", value)
        found[name] = vars(value) if isinstance(value, Namespace) else OmegaConf.to_container(value) \
            if OmegaConf.is_config(value) else value  # fmt: skip
    return found
