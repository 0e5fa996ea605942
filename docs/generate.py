"""Write the pages that come from code: one per command, one per recipe, and the JSON schemas of the file formats.

They are not under version control: `make docs` writes them anew each time.
"""

import json
import re
import shutil
import warnings
from pathlib import Path

from nmtprune.cli.main import COMMANDS
from nmtprune.runs.report import FILES

DOCS = Path(__file__).parent
RECIPES = DOCS.parent / "recipes"

_LINK = re.compile(r"\[([^\]]+)\]\(([^)#]+)\)")


def main() -> None:
    """Replace the folders commands, recipes and schemas."""
    for name, write in (("commands", write_commands), ("recipes", write_recipes), ("schemas", write_schemas)):
        folder = DOCS / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        write(folder)


def write_commands(folder: Path) -> None:
    """A page per command, made by sphinx-click, and their list."""
    for name, target in COMMANDS.items():
        # reStructuredText: there the directive's own title is that of the page.
        (folder / f"{name}.rst").write_text(f".. click:: {target}\n   :prog: nmtprune {name}\n   :nested: full\n")
    text = (
        "Every command: stdout is data (`--format text|json|tsv`), stderr is for people, a failure is one line and an "
        "exit code. Every option can be given as an environment variable `NMTPRUNE_COMMAND_OPTION`."
    )
    (folder / "index.md").write_text(f"# Commands\n\n{text}\n\n{toctree(COMMANDS)}")


def write_recipes(folder: Path) -> None:
    """The READMEs of the recipes, with links that fit the manual."""
    names = sorted(path.parent.name for path in RECIPES.glob("*/run.sh"))
    for name in names:
        (folder / f"{name}.md").write_text(linked((RECIPES / name / "README.md").read_text(encoding="utf-8")))
    overview = linked((RECIPES / "README.md").read_text(encoding="utf-8"))
    (folder / "index.md").write_text(f"{overview}\n{toctree(names)}")


def write_schemas(folder: Path) -> None:
    """A JSON schema per file format, and a page that shows them all."""
    parts = ["# JSON schemas\n\nGenerated from the code; commands' outputs are held against them by tests.\n"]
    for name, model in FILES.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # defaults that are no JSON are left out of a schema
            schema = model.model_json_schema()
        path = folder / f"{name}.schema.json"
        path.write_text(json.dumps(schema, indent=2) + "\n", encoding="utf-8")
        parts.append(f"## {name}\n\n```{{literalinclude}} {path.name}\n:language: json\n```\n")
    (folder / "index.md").write_text("\n".join(parts))


def toctree(names: "list[str] | dict[str, str]") -> str:
    """A table of contents of pages in the same folder."""
    return "```{toctree}\n:maxdepth: 1\n\n" + "\n".join(names) + "\n```\n"


def linked(text: str) -> str:
    """Text of a README whose links lead to pages of the manual; what is no page becomes a name."""

    def replaced(match: re.Match[str]) -> str:
        label, target = match.groups()
        if target.startswith("http"):
            return match[0]
        if target == "../README.md" or target == "README.md":
            return f"[{label}](index.md)"
        if target.startswith("../../docs/"):
            return f"[{label}](../{target.removeprefix('../../docs/')})"
        page = re.fullmatch(r"([\w-]+)/README\.md", target)
        return f"[{label}]({page[1]}.md)" if page else f"`{label}`"

    return _LINK.sub(replaced, text)


if __name__ == "__main__":
    main()
