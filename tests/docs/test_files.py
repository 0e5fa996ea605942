"""Files and modules that the manual names are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "tutorials").glob("*.md"), *ROOT.glob("*.md")]
FILES = [f"/{path.relative_to(ROOT)}" for part in ("nmtprune", "tests", "docs", "recipes", "benchmarks")
         for path in (ROOT / part).rglob("*") if path.suffix == ".py"]  # fmt: skip
_NAMED = re.compile(r"`([\w./-]+\.py)`")


def _missing(text: str) -> set[str]:
    return {name for name in _NAMED.findall(text) if not any(path.endswith(f"/{name}") for path in FILES)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page: Path) -> None:
    history = page.name == "CHANGELOG.md"
    assert history or _missing(page.read_text(encoding="utf-8")) == set()


def test_a_file_that_is_not_there_is_found() -> None:
    assert _missing("`plan/plan.py` and `slots.py`, `nothing/plan.py`") == {"slots.py", "nothing/plan.py"}
