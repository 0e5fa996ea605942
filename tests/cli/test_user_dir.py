"""``nmtprune user-dir``."""

import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from nmtprune.cli.user_dir import user_dir


def test_prints_a_folder_that_fairseq_can_import() -> None:
    result = CliRunner().invoke(user_dir)
    assert result.exit_code == 0
    folder = Path(result.stdout.removesuffix("\n"))
    assert folder.is_absolute()
    assert (folder / "__init__.py").is_file()
    assert folder.name == "nmtprune_fairseq"


def test_needs_neither_torch_nor_fairseq() -> None:
    code = "import sys, nmtprune.cli.user_dir; print({'torch', 'fairseq'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
