"""Draw the house: rooms in the layers of the import contract, who imports whom, and what flows through them.

    python scripts/architecture_drawing.py            # writes docs/images/architecture.svg and imports.svg

Layers come from `.importlinter`, arrows from the imports that are really there (grimp), the line in a room's box from
its docstring, so tests/test_documents.py can hold the committed drawings to the code.
"""

from __future__ import annotations

import ast
import configparser
import re
import textwrap
from html import escape
from pathlib import Path

import grimp

REPO = Path(__file__).parents[1]
IMAGES = REPO / "docs" / "images"
FLOW = (
    ("Observation", "foveate.types", "envs"),
    ("ModelInputs", "foveate.models.base", "models"),
    ("Prefix", "foveate.types", "models"),
    ("Selection", "foveate.types", "pruning"),
    ("Inference", "foveate.engine.base", "engine"),
    ("ActionChunk", "foveate.types", "policy"),
    ("Trace", "foveate.types", "policy"),
    ("EpisodeResult", "foveate.types", "evaluation"),
)
"""A value, the module that defines it, and the room that makes it, in the order of one inference in closed loop."""

WIDTH = 880
FILLS = ("#e8f4f2", "#d5eae6")
INK, TEAL, RUST = "#1d2b2a", "#00796b", "#b4431f"


def layers() -> list[list[str]]:
    """Rooms by layer, the highest first, as the import contract names them; those that are there."""
    contract = configparser.ConfigParser()
    contract.read(REPO / ".importlinter")
    rows = [
        re.findall(r"foveate\.(\w+)", row) for row in contract["importlinter:contract:rooms"]["layers"].splitlines()
    ]
    there = [[room for room in row if source(f"foveate.{room}").exists()] for row in rows]
    return [row for row in there if row]


def source(module: str) -> Path:
    """The file of a module or a package."""
    path = REPO / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def summary(room: str) -> str:
    """The first sentence of a room's docstring."""
    doc = ast.get_docstring(ast.parse(source(f"foveate.{room}").read_text("utf-8"))) or ""
    return re.split(r"\.\s|\n\n", doc, maxsplit=1)[0].rstrip(".").replace("\n", " ")


def imports(rooms: list[str]) -> set[tuple[str, str]]:
    """(importer, imported) between rooms; tests and imports for type checkers left aside."""
    graph = grimp.build_graph("foveate", exclude_type_checking_imports=True, cache_dir=None)
    pairs = set()
    for module in graph.modules:
        if module.endswith(("_test", ".conftest")):
            continue
        for imported in graph.find_modules_directly_imported_by(module):
            pairs.add((room_of(module), room_of(imported)))
    return {(one, other) for one, other in pairs if one != other and {one, other} <= set(rooms)}


def room_of(module: str) -> str:
    return module.removeprefix("foveate.").split(".")[0]


def text(x: float, y: float, words: str, *, size: float = 12, anchor: str = "middle", more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}" {more}>{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, fill: str, stroke: str) -> str:
    shape = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"'
    return f'<rect {shape} fill="{fill}" stroke="{stroke}"/>'


def title(y: float, words: str) -> str:
    return text(16, y, words, size=15, anchor="start", more='font-weight="bold"')


def badge(x: float, y: float, number: int) -> str:
    circle = f'<circle cx="{x:g}" cy="{y:g}" r="9" fill="{RUST}"/>'
    return circle + text(x, y + 4, str(number), size=11, more='fill="#fff" font-weight="bold"')


def svg(parts: list[str], width: float, height: float, name: str) -> str:
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" fill="{INK}">'
    return "\n".join(
        [head, f"<title>{escape(name)}</title>", '<rect width="100%" height="100%" fill="#fff"/>', *parts, "</svg>", ""]
    )


def architecture() -> str:
    """Layers from the command line down to the types, and below them the values of one inference in their order."""
    parts, left, gap, y = [title(24, "The rooms: each imports only rooms in lower rows")], 16, 12, 40
    for number, row in enumerate(layers()):
        width = (WIDTH - 2 * left - gap * (len(row) - 1)) / len(row)
        wrapped = [textwrap.wrap(summary(room), int(width / 6.2)) for room in row]
        height = 32 + 15 * max(map(len, wrapped))
        for column, (room, lines) in enumerate(zip(row, wrapped, strict=True)):
            x = left + column * (width + gap)
            parts.append(box(x, y, width, height, FILLS[number % 2], TEAL))
            parts.append(text(x + width / 2, y + 19, room, size=14, more='font-weight="bold"'))
            parts += [text(x + width / 2, y + 37 + 15 * n, line) for n, line in enumerate(lines)]
            steps = [n for n, (_, _, maker) in enumerate(FLOW, 1) if maker == room]
            parts += [badge(x + 14 + 20 * n, y + 14, step) for n, step in enumerate(steps)]
        y += height + gap
    parts.append(title(y + 26, "One inference in closed loop: what is made, and by which room"))
    y, gap, in_row = y + 44, 28, 4
    width = (WIDTH - 2 * left) / in_row - gap
    for number, (value, module, room) in enumerate(FLOW):
        if f"class {value}" not in source(module).read_text("utf-8"):
            raise SystemExit(f"FLOW says that {module} defines {value}; it does not")
        row, column = divmod(number, in_row)
        x, top = left + gap + column * (width + gap), y + 70 * row
        parts.append(box(x, top, width, 54, "#fbeee8", RUST))
        parts.append(badge(x + 14, top + 14, number + 1))
        parts.append(text(x + width / 2, top + 24, value, size=14, more='font-weight="bold"'))
        parts.append(text(x + width / 2, top + 42, room))
        if number:
            arrow = f'd="M{x - 25:g} {top + 27:g}h20m-6 -5l7 5l-7 5"'
            parts.append(f'<path {arrow} fill="none" stroke="{RUST}" stroke-width="2"/>')
    return svg(parts, WIDTH, top + 70, "The rooms of foveate and what flows through them")


def matrix() -> str:
    """A square per pair of rooms: filled where the room of the row imports the room of the column."""
    rooms = [room for row in layers() for room in row]
    pairs, cell, left, top = imports(rooms), 26, 150, 130
    parts, size = [], cell * len(rooms)
    for n, room in enumerate(rooms):
        at = cell * n + cell / 2
        parts.append(text(left - 8, top + at + 4, room, size=13, anchor="end"))
        turned = f'transform="rotate(-55 {left + at:g} {top - 8})"'
        parts.append(text(left + at, top - 8, room, size=13, anchor="start", more=turned))
        parts.append(
            f'<rect x="{left + cell * n}" y="{top + cell * n}" width="{cell}" height="{cell}" fill="#ccd6d4"/>'
        )
    for n in range(len(rooms) + 1):
        parts.append(f'<path d="M{left} {top + cell * n}h{size}M{left + cell * n} {top}v{size}" stroke="#dfe6e5"/>')
    for importer, imported in sorted(pairs):
        x, y = left + cell * rooms.index(imported) + cell / 2, top + cell * rooms.index(importer) + cell / 2
        said = f"<title>{importer} imports {imported}</title>"
        parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="7" fill="{TEAL}">{said}</circle>')
    return svg(parts, left + size + 90, top + size + 16, "Which room imports which")


DRAWINGS = {"architecture.svg": architecture, "imports.svg": matrix}


def main() -> None:
    for name, draw in DRAWINGS.items():
        (IMAGES / name).write_text(draw(), encoding="utf-8")
        print(f"{IMAGES / name}")


if __name__ == "__main__":
    main()
