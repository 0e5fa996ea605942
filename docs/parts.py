"""Draw the parts of the package and what they import, from the import statements: `python docs/parts.py`.

A part is a package or a module at the top level. Arrows lead from a part to what it imports; an arrow that follows from
two others is left out, and so is `errors`, which every part imports.
"""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "images" / "parts.svg"
LEFT_OUT = ("errors",)

_CHARACTER, _BOX, _GAP, _ROW, _MARGIN = 7.2, 26, 22, 66, 16
_ROUNDS = 24
"""Sweeps that move every part towards its neighbours in the other rows."""

Graph = dict[str, set[str]]


def imports(package: Path = ROOT / "nmtprune") -> Graph:
    """For each part the other parts that its modules import anywhere, for types alone or not."""
    found: Graph = {}
    for path in sorted(package.rglob("*.py")):
        own = path.relative_to(package).with_suffix("").parts[0]
        if own not in ("__init__", *LEFT_OUT):
            used = {name.split(".")[1] for name in _imported(path) if name.startswith(f"{package.name}.")}
            found.setdefault(own, set()).update(used - {own, *LEFT_OUT})
    return {part: used & found.keys() for part, used in found.items()}


def _imported(path: Path) -> Iterable[str]:
    """Dotted names that a module imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    """Parts that a part imports, itself or through others."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for part in graph[waiting.pop()] - found:
            found.add(part)
            waiting.append(part)
    return found


def reduced(graph: Graph) -> Graph:
    """The graph without the arrows that follow from others.

    Raises:
        ValueError: parts import each other in a circle.
    """
    circles = [part for part in graph if part in reachable(graph, part)]
    if circles:
        raise ValueError(f"parts that import each other in a circle: {', '.join(circles)}")
    return {
        part: {used for used in own if not any(used in reachable(graph, other) for other in own - {used})}
        for part, own in graph.items()
    }


def rows(graph: Graph) -> list[list[str]]:
    """Parts by the longest way that leads to them, those that nothing imports first."""
    importers = {part: [other for other in graph if part in graph[other]] for part in graph}
    depths: dict[str, int] = {}

    def depth(part: str) -> int:
        if part not in depths:
            depths[part] = 1 + max(map(depth, importers[part]), default=-1)
        return depths[part]

    bottom = max(map(depth, graph))
    return [sorted(part for part in graph if depths[part] == level) for level in range(bottom + 1)]


def _with_ways(graph: Graph, levels: list[list[str]]) -> tuple[list[list[str]], list[list[str]]]:
    """Rows in which an arrow that crosses a row has a place there, and every arrow as the places that it passes."""
    level_of = {part: level for level, row in enumerate(levels) for part in row}
    filled = [list(row) for row in levels]
    ways = []
    for part in sorted(graph):
        for used in sorted(graph[part]):
            way = [part]
            for level in range(level_of[part] + 1, level_of[used]):
                way.append(f"{part}>{used}@{level}")
                filled[level].append(way[-1])
            ways.append([*way, used])
    return filled, ways


def _width(name: str) -> float:
    return 10.0 if ">" in name else len(name) * _CHARACTER + 20


def _placed(levels: list[list[str]], ways: list[list[str]]) -> dict[str, float]:
    """The middle of every part and place, from left to right, near those that it is joined with."""
    joined: dict[str, list[str]] = {}
    for way in ways:
        for first, second in zip(way, way[1:], strict=False):
            joined.setdefault(first, []).append(second)
            joined.setdefault(second, []).append(first)
    middle = {name: float(place) for row in levels for place, name in enumerate(row)}
    for sweep in range(_ROUNDS):
        for row in levels if sweep % 2 else levels[::-1]:
            wanted = {name: sum(middle[other] for other in joined[name]) / len(joined[name]) for name in row}
            row.sort(key=lambda name: (wanted[name], name))
            middle.update(_apart(row, wanted))
    left = min(middle[name] - _width(name) / 2 for row in levels for name in row)
    return {name: place - left + _MARGIN for name, place in middle.items()}


def _apart(row: list[str], wanted: Mapping[str, float]) -> dict[str, float]:
    """Places of a row as near to the wanted ones as the widths of its names allow."""
    clusters: list[tuple[list[str], float]] = []
    for name in row:
        clusters.append(([name], wanted[name]))
        while len(clusters) > 1 and _end(*clusters[-2]) > _begin(*clusters[-1]):
            (names, middle), (more, other) = clusters[-2], clusters[-1]
            whole = (middle * len(names) + other * len(more)) / (len(names) + len(more))
            clusters[-2:] = [([*names, *more], whole)]
    places = {}
    for names, middle in clusters:
        at = _begin(names, middle)
        for name in names:
            places[name] = at + (_width(name) + _GAP) / 2
            at += _width(name) + _GAP
    return places


def _begin(names: list[str], middle: float) -> float:
    return middle - sum(_width(name) + _GAP for name in names) / 2


def _end(names: list[str], middle: float) -> float:
    return middle + sum(_width(name) + _GAP for name in names) / 2


def svg(graph: Graph, package: Path = ROOT / "nmtprune") -> str:
    """The picture of a graph without superfluous arrows."""
    levels, ways = _with_ways(graph, rows(graph))
    across = _placed(levels, ways)
    down = {name: _MARGIN + _BOX / 2 + number * _ROW for number, row in enumerate(levels) for name in row}
    width = max(across[name] + _width(name) / 2 for row in levels for name in row) + _MARGIN
    height = max(down.values()) + _BOX / 2 + _MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        'font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="12">',
        "<title>Parts of nmtprune; arrows lead to what a part imports</title>",
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 1 L7 4 L0 7" fill="none" stroke="#567"/></marker></defs>',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#fff"/>',
    ]
    for way in ways:
        lines.append(f'<path d="{_curve(way, across, down)}" fill="none" stroke="#89a" marker-end="url(#a)"/>')
    for part in sorted(graph):
        x, y, wide = across[part], down[part], _width(part)
        fill = "#e4eefa" if (package / part).is_dir() else "#f6f6f0"
        lines.append(
            f'<rect x="{x - wide / 2:.1f}" y="{y - _BOX / 2:.1f}" width="{wide:.1f}" height="{_BOX}" rx="4" '
            f'fill="{fill}" stroke="#567"/><text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle">{part}</text>'
        )
    return "\n".join([*lines, "</svg>\n"])


def _curve(way: list[str], across: Mapping[str, float], down: Mapping[str, float]) -> str:
    """A smooth line from the lower edge of the first box to the upper edge of the last one."""
    x, y = across[way[0]], down[way[0]] + _BOX / 2
    text = f"M{x:.1f} {y:.1f}"
    for name in way[1:]:
        last = name == way[-1]
        end, until = across[name], down[name] - (_BOX / 2 if last else 0)
        half = (y + until) / 2
        text += f" C{x:.1f} {half:.1f} {end:.1f} {half:.1f} {end:.1f} {until:.1f}"
        x, y = end, until
    return text


if __name__ == "__main__":
    PICTURE.write_text(svg(reduced(imports())), encoding="utf-8")
