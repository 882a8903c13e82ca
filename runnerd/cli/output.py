"""How commands speak: exit codes, JSON, plain tables, and text of strangers made safe for a terminal."""

from __future__ import annotations

import enum
import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn

import typer


class Code(enum.IntEnum):
    """What a command's exit status says."""

    GREEN = 0
    NOT_GREEN = 1
    USAGE = 2
    """The command line or the configuration is wrong."""
    UNREACHABLE = 3
    NOTHING = 4
    """No workflow or job matched."""
    NO_MACHINE = 5
    INTERRUPTED = 130


# Colours and weights stay; whatever moves the cursor, sets titles or talks to the terminal goes.
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_].*?(?:\x07|\x1b\\|$)|.?)", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def fail(sentence: str, code: Code = Code.USAGE) -> NoReturn:
    """Say on standard error what is wrong and what to do, and end the command."""
    typer.echo(f"runnerd: {sentence}", err=True)
    raise typer.Exit(code)


def show_json(value: object) -> None:
    """Print a value as JSON, one line unless a terminal reads it."""
    indent = 2 if sys.stdout.isatty() else None
    typer.echo(json.dumps(value, indent=indent, ensure_ascii=False))


def show_json_line(value: object) -> None:
    """Print a value as one line of JSON, one of several."""
    typer.echo(json.dumps(value, ensure_ascii=False))


def clean(text: object) -> str:
    """Return a stranger's text as one line without anything a terminal would act on."""
    return _CONTROL.sub("?", _SEQUENCE.sub("", str(text)).replace("\n", " ").replace("\t", " "))


def log_text(text: str, *, colour: bool) -> str:
    """Return job output for a terminal: colours kept or not, every other control sequence dropped."""

    def keep(match: re.Match[str]) -> str:
        return match[0] if colour and _COLOUR.fullmatch(match[0]) else ""

    return _CONTROL.sub("", _SEQUENCE.sub(keep, text))


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return aligned columns, cleaned; the last column is not padded."""
    lines = [list(headers), *([clean(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    padded = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
    )
    return "\n".join(line.rstrip() for line in padded)


def duration(seconds: float | None) -> str:
    """Return a time span as people say it: `340 ms`, `12.3 s`, `4 min 05 s`, `2 h 10 min`."""
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def span(started: float | None, ended: float | None) -> str:
    """Return how long something took; `-` when it has not both begun and ended."""
    return "-" if started is None or ended is None else duration(ended - started)
