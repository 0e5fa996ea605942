"""Write the pages that come from code: commands, recipes, schemas, scorers, fields of fairseq, options of Marian.

They are not under version control: `make docs` writes them anew each time.
"""

import json
import re
import shutil
import warnings
from pathlib import Path

from nmtprune.cli.main import COMMANDS
from nmtprune.formats.fairseq import fields, tasks
from nmtprune.formats.marian.option_lists import OF_COMMANDS, REFUSED, SUPPORTED, WITHOUT_EFFECT, Supported
from nmtprune.runs.report import FILES
from nmtprune.runs.scorers import REESTIMATED, SCORERS, names_of, options_of, owners_of

DOCS = Path(__file__).parent
RECIPES = DOCS.parent / "recipes"

_LINK = re.compile(r"\[([^\]]+)\]\(([^)#]+)\)")

_ABOUT_MARIAN = """# Options of Marian models

A Marian model carries its options in `special:model.yml`. Every option that Marian knows is in one of three lists, and
an option in none of them is refused by name (exit code 3). If an option is missing, nmtprune uses the value that
Marian uses then. The tests are in `tests/formats/marian/test_options.py`: Marian itself trains a model for every value,
and texts and losses of nmtprune's native engine must equal Marian's.
"""


_ABOUT_FAIRSEQ = """# Fields of fairseq checkpoints

A fairseq checkpoint carries its settings in `cfg`, an older one in `args`. Every field of `cfg.model` and `cfg.task` of
fairseq 0.12's transformers, language models and RoBERTa, and of their tasks, is in one of three lists. A field that is
in none of the lists and that stock fairseq does not know either is ignored, as in stock fairseq: `inspect` and every
command that reads sentences name the field. The tests are in `tests/formats/fairseq/test_fields.py`.
"""
_ABOUT_TASKS = (
    "A name that begins with one of these names is the same task. nmtprune treats a task that fairseq does not have as "
    "`translation`, or for RoBERTa as `sentence_prediction`, and says so."
)


_ABOUT_SCORERS = """# Scorers

A scorer gives every head a number, where higher means keep, and every neuron or layer if it knows them (`--group`).
`score --metric NAME` writes the numbers to a score file, and `greedy --order NAME` removes the units with the lowest
numbers first. `greedy` also takes `random` and score files.
[Methods](../methods.md) has the formulas, and [Extending](../extending.md) shows how to add a scorer.
"""


def main() -> None:
    """Replace the folders commands, recipes, schemas, scorers, fairseq and marian."""
    for name, write in (
        ("commands", write_commands),
        ("recipes", write_recipes),
        ("schemas", write_schemas),
        ("scorers", write_scorers),
        ("fairseq", write_fairseq),
        ("marian", write_marian),
    ):
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
        "Every command writes results to stdout (`--format text|json|tsv`) and messages to stderr; a failure is one "
        "line and an exit code. Every option can be given as an environment variable `NMTPRUNE_COMMAND_OPTION`."
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
    parts = ["# JSON schemas\n\nGenerated from the code; tests check the output of commands against these schemas.\n"]
    for name, model in FILES.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # defaults that are no JSON are left out of a schema
            schema = model.model_json_schema()
        path = folder / f"{name}.schema.json"
        path.write_text(json.dumps(schema, indent=2) + "\n", encoding="utf-8")
        parts.append(f"## {name}\n\n```{{literalinclude}} {path.name}\n:language: json\n```\n")
    (folder / "index.md").write_text("\n".join(parts))


def write_scorers(folder: Path) -> None:
    """The scorers that `score` and `greedy` offer, with their options."""
    parts = [_ABOUT_SCORERS, "| scorer | `score --metric` | `greedy --order` | scores |\n|---|---|---|---|"]
    for scorer in SCORERS.values():
        again = f", `{scorer.name}{REESTIMATED}`" if scorer.reestimates else ""
        order = f"`{scorer.name}`{again}" if scorer.of_order else ""
        metric = f"`{scorer.name}`" if scorer.of_metric else ""
        parts.append(f"| {scorer.name} | {metric} | {order} | {scorer.summary} |")
    parts.append("\n## Options\n\n| option | goes with | meaning |\n|---|---|---|")
    for _, field, _ in options_of(SCORERS.values()):
        owners = names_of(owners_of(field.name, SCORERS.values()))
        parts.append(f"| `--{field.name.replace('_', '-')}` | {owners} | {field.metadata['click']['help']} |")
    (folder / "index.md").write_text("\n".join(parts) + "\n", encoding="utf-8")


def write_fairseq(folder: Path) -> None:
    """The fields of fairseq's model and task, list by list, and its tasks."""
    about = {
        fields.SUPPORTED: "Models with these fields are compared with fairseq's: `tests/model/test_transformer.py`.",
        fields.WITHOUT_EFFECT: "The model computes the same as fairseq's: `test_fields_without_effect`.",
        fields.REFUSED: "Refused unless off, by name and value: `test_what_is_not_computed_is_refused_with_its_value`.",
    }
    parts = [_ABOUT_FAIRSEQ]
    for title, held in about.items():
        rows = "".join(f"| `{name}` | {meaning} |\n" for name, own, meaning in fields.field_table() if own == title)
        parts.append(f"## {title.capitalize()}\n\n{held}\n\n| field | meaning |\n|---|---|\n{rows}")
    rows = "".join(f"| `{name}` | supported | {meaning} |\n" for name, meaning in tasks.SUPPORTED.items())
    rows += "".join(f"| `{name}` | supported (RoBERTa) | {meaning} |\n" for name, meaning in tasks.OF_ENCODERS.items())
    rows += "".join(
        f"| `{name}` | refused | {reason} |\n"
        for name, reason in tasks.REFUSED.items()
        if name not in tasks.OF_ENCODERS
    )
    parts.append(f"## Tasks\n\n{_ABOUT_TASKS}\n\n| task | list | meaning |\n|---|---|---|\n{rows}")
    (folder / "fields.md").write_text("\n".join(parts), encoding="utf-8")


def write_marian(folder: Path) -> None:
    """The options of a Marian model, list by list."""
    supported = [(name, _values(option), option.meaning, "test_supported") for name, option in SUPPORTED.items()]
    inert = [(name, "any", reason, "test_without_effect") for name, reason in WITHOUT_EFFECT.items()]
    named = "test_refused_by_name"
    refused = [(name, f"`{json.dumps(option.neutral)}`", option.reason, named) for name, option in REFUSED.items()]
    commands = "test_options_of_commands_are_refused"
    refused += [(name, "none", "an option of Marian's commands", commands) for name in sorted(OF_COMMANDS)]
    parts = [_ABOUT_MARIAN]
    for title, what, rows in (
        ("Supported", "Other values are refused.", supported),
        ("Without effect on transformers", "A translation model does not read these.", inert),
        ("Refused", "Refused with any value other than the one listed, which changes nothing.", refused),
    ):
        table = "".join(f"| `{name}` | {values} | {meaning} | `{test}` |\n" for name, values, meaning, test in rows)
        parts.append(f"## {title}\n\n{what}\n\n| option | values | meaning | test |\n|---|---|---|---|\n{table}")
    (folder / "options.md").write_text("\n".join(parts), encoding="utf-8")


def _values(option: Supported) -> str:
    """What an option takes, for a table."""
    named = ", ".join(f"`{choice}`" if choice else "empty" for choice in option.choices)
    kinds = {"flag": "true, false", "count": "from 1 on", "size": "from 0 on", "numbers": "list of whole numbers"}
    forms = {"choice": named, "operations": f"letters among {named}", "types": f"list of {named}"}
    return {**kinds, **forms}[option.kind] + (" (SSRU decoders only)" if option.recurrent else "")


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
