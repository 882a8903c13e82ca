"""Where keys stand in a TOML file, which the standard library's parser does not say."""

from __future__ import annotations

import re
import tomllib

Path = tuple[str, ...]
Place = tuple[int, int]
"""Line and column, from 1."""

_KEY = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_KEYS = rf"{_KEY}(?:[ \t]*\.[ \t]*{_KEY})*"
_HEADER = re.compile(rf"[ \t]*\[\[?[ \t]*({_KEYS})[ \t]*\]")
_ASSIGNMENT = re.compile(rf"[ \t]*({_KEYS})[ \t]*=")
_LONG_STRING = re.compile(r'"""|' + r"'''")


def find(text: str) -> dict[Path, Place]:
    """Return the place of every table and key of a text that `tomllib` accepts.

    Keys inside an inline table stand where the table's own key stands, so they are not listed.
    """
    places: dict[Path, Place] = {}
    table: Path = ()
    until = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if until:
            until = "" if until in line else until
            continue
        if header := _HEADER.match(line):
            table = _split(header[1])
            places.setdefault(table, (number, header.start(1) + 1))
        elif assignment := _ASSIGNMENT.match(line):
            path = table + _split(assignment[1])
            places.setdefault(path, (number, assignment.start(1) + 1))
            quotes = _LONG_STRING.findall(line, assignment.end())
            until = quotes[0] if len(quotes) == 1 else ""
    return places


def nearest(places: dict[Path, Place], path: Path) -> Place:
    """Return the place of a key, or of the innermost table around it that has one."""
    while path:
        if path in places:
            return places[path]
        path = path[:-1]
    return 1, 1


def _split(keys: str) -> Path:
    """Split a dotted key, by letting the parser read it."""
    value: object = tomllib.loads(f"{keys} = 0")
    parts: list[str] = []
    while isinstance(value, dict):
        ((part, value),) = value.items()
        parts.append(part)
    return tuple(parts)
