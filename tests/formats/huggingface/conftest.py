from pathlib import Path
from typing import Any

import pytest

from tests.support import huggingface_folders
from tests.support.subwords import ENGLISH, GERMAN


@pytest.fixture(scope="session")
def theirs() -> Any:
    """The package transformers."""
    return huggingface_folders.transformers()


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """English lines, and German ones beside them."""
    found = tmp_path_factory.mktemp("text") / "english"
    found.write_text("\n".join(ENGLISH) + "\n")
    (found.parent / "german").write_text("\n".join(GERMAN) + "\n")
    return found
