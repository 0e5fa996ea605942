"""Recipes of this project and their settings, as their shell reads them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
LIB = RECIPES / "lib"
NAMES = sorted(path.parent.name for path in RECIPES.glob("*/run.sh"))


def settings_of(recipe: str, *names: str) -> list[str]:
    """Values of settings, blanks squeezed."""
    script = f'. "{LIB}/defaults.sh"; . "{RECIPES}/{recipe}/settings.sh"; ' + "".join(
        f'echo "$(echo ${{{name}:-}})";' for name in names
    )
    return subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True).stdout.splitlines()


def run_python(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script of recipes/lib."""
    return subprocess.run(
        [sys.executable, LIB / script, *map(str, arguments)], capture_output=True, text=True, env=environment()
    )


def environment(**changes: str) -> dict[str, str]:
    """The environment with the programs of this Python first on PATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"PATH": path} | changes
