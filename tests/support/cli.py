"""Commands as a user runs them, in this process."""

import json
from dataclasses import dataclass
from typing import Any

from click.testing import CliRunner

from nmtprune.cli.main import main

_UNTRAINED = {
    f"NMTPRUNE_{command}_ALLOW_BAD_BASELINE": "1" for command in ("BENCH", "CHECK", "SCORE", "GREEDY", "L0", "LOTTERY")
}
"""Most models of the tests have learned nothing, which commands that compare would refuse."""

JUDGED = dict.fromkeys(_UNTRAINED, "")
"""Environment of a command that looks at its baseline as it does for any user."""


@dataclass(frozen=True)
class Result:
    """What a command leaves."""

    code: int
    stdout: str
    stderr: str


def nmtprune(*arguments: Any, stdin: str | bytes | None = None, env: dict[str, str] | None = None) -> Result:
    """Run ``nmtprune ARGUMENTS``; baselines may be bad unless `env` says otherwise."""
    variables = _UNTRAINED | (env or {})
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin, env=variables)
    return Result(result.exit_code, result.stdout, result.stderr)


def refused(*arguments: Any, stdin: str | bytes | None = None, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit code and the one line of a command that fails; it must print nothing else on stdout."""
    result = nmtprune(*arguments, stdin=stdin, env=env)
    assert result.stdout == ""
    *before, line = result.stderr.splitlines()
    assert line.startswith("Error: "), result.stderr
    assert not any(other.startswith(("Error", "Traceback")) for other in before)
    return result.code, line.removeprefix("Error: ")


def documented(text: str) -> Any:
    """The JSON of a command's file or answer, which must fit the schema that the manual has of it."""
    from nmtprune.runs.report import FILES

    content = json.loads(text)
    FILES[content["format"].removeprefix("nmtprune-")].model_validate(content)
    return content
