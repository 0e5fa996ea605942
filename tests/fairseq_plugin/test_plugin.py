"""The package as fairseq meets it."""

import subprocess
import sys
from argparse import Namespace

from nmtprune.user_dir import USER_DIR


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_fairseq_the_error_names_the_command() -> None:
    code = (
        "import sys; sys.modules['fairseq'] = None\n"
        "from nmtprune.errors import EngineError\n"
        "try:\n    import nmtprune.fairseq_plugin\n"
        "except EngineError as error:\n    print(error, error.exit_code)\n"
    )
    assert python(code) == "fairseq is not installed: pip install 'nmtprune[fairseq]' 6\n"


def test_the_user_dir_loads_twice() -> None:
    """Again in one process: fairseq only remembers the path."""
    from fairseq.models import ARCH_MODEL_REGISTRY
    from fairseq.utils import import_user_module

    for _ in range(2):
        import_user_module(Namespace(user_dir=str(USER_DIR)))
    import_user_module.memo.clear()
    import_user_module(Namespace(user_dir=str(USER_DIR)))
    assert {"nmtprune", "nmtprune_lm"} <= set(ARCH_MODEL_REGISTRY)
