"""Print values of a JSON file by their dotted paths, on one line; ``PATH=VALUE`` has a default."""

import json
import sys


def main() -> None:
    """FILE PATH...; a part of a path that is a number picks from a list."""
    with open(sys.argv[1], encoding="utf-8") as file:
        content = json.load(file)
    print(*(value_at(content, path) for path in sys.argv[2:]))


def value_at(content: object, path: str) -> object:
    """The value at the end of a path, else the default behind it; SystemExit where there is neither."""
    keys, _, default = path.partition("=")
    for key in keys.split("."):
        try:
            content = content[int(key)] if isinstance(content, list) else content[key]  # type: ignore[index]
        except (KeyError, IndexError, TypeError, ValueError):
            return default or sys.exit(f"Error: {sys.argv[1]}: nothing at {keys}")
    return content


if __name__ == "__main__":
    main()
