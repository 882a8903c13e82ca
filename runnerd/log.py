"""Structured logs in one place: JSON lines for machines, short lines on a terminal, never a secret.

Ask for a logger with `get`, bind run and job ids with `context`; whoever starts the process calls
`configure` once. A line that cannot be rendered or written never raises into the code that logged it.
"""

from __future__ import annotations

import json as plain_json
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import AbstractContextManager
from typing import Any, TextIO, cast

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger

LEVELS = ("debug", "info", "warning", "error")

_COLOURS = {"debug": "\x1b[2m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}

_hidden: tuple[str, ...] = ()


def get(name: str) -> FilteringBoundLogger:
    """Return the logger of one module; costs nothing until it logs and follows later `configure` calls."""
    return cast(FilteringBoundLogger, structlog.get_logger(module=name))


def context(**fields: object) -> AbstractContextManager[None]:
    """Add fields to every line logged inside the block, by this task and the tasks it starts."""
    return cast(AbstractContextManager[None], structlog.contextvars.bound_contextvars(**fields))


def redact(*values: str) -> None:
    """Hide these values, and every line of a value of several lines, in all later output.

    The forms they take inside JSON and Python quoting are hidden too. Blank values are ignored.
    """
    global _hidden
    forms = set(_hidden)
    for value in values:
        for part in {value, *value.splitlines()}:
            if part.strip():
                forms.update(twice for once in _forms(part) for twice in _forms(once))
    _hidden = tuple(sorted(forms, key=lambda form: (-len(form), form)))


def hide(text: str) -> str:
    """Return the text with every redacted value replaced by `***`."""
    for form in _hidden:
        if form in text:
            text = text.replace(form, "***")
    return text


def configure(*, level: str = "info", json: bool | None = None, stream: TextIO | None = None) -> None:
    """Decide what is logged, how and where.

    `json` None means JSON unless the stream is a terminal; `stream` None means whatever `sys.stderr`
    is when a line is written. Raises ValueError for an unknown level.
    """
    if level not in LEVELS:
        raise ValueError(f"unknown log level {level!r}: use one of {', '.join(LEVELS)}")
    terminal = (stream or sys.stderr).isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            _as_text if json is False or (json is None and terminal) else _as_json,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Lines(stream, colour=terminal),
        cache_logger_on_first_use=False,
    )


class _Lines:
    """Writes one rendered line with one write, so that lines of several threads do not mix."""

    def __init__(self, stream: TextIO | None, *, colour: bool) -> None:
        self._stream = stream
        self._colour = colour

    def _write(self, line: str, level: str = "info") -> None:
        line = hide(line)
        if self._colour and level in _COLOURS:
            line = f"{_COLOURS[level]}{line}\x1b[0m"
        stream = self._stream or sys.stderr
        try:
            stream.write(line + "\n")
            stream.flush()
        except (OSError, ValueError):  # a closed pipe or stream must not end what was logging
            pass

    def debug(self, line: str) -> None:
        self._write(line, "debug")

    def info(self, line: str) -> None:
        self._write(line)

    def warning(self, line: str) -> None:
        self._write(line, "warning")

    def error(self, line: str) -> None:
        self._write(line, "error")

    critical = exception = fatal = error
    warn = warning
    msg = info


def _forms(value: str) -> Iterator[str]:
    """Give a value as it stands and as quoting leaves it; a repr inside JSON is quoted twice."""
    yield value
    yield plain_json.dumps(value)[1:-1]
    yield plain_json.dumps(value, ensure_ascii=False)[1:-1]
    yield repr(value)[1:-1]


def _as_json(logger: object, method: str, fields: MutableMapping[str, Any]) -> str:
    first = {"time": "", "level": method, "module": "", "event": ""}
    line = {key: fields.pop(key, value) for key, value in first.items()} | dict(fields)
    try:
        return msgspec.json.encode(line, enc_hook=str).decode()
    except Exception:  # lone surrogates, odd keys, a __str__ that raises: still a line
        return plain_json.dumps({str(key): _shown(value) for key, value in line.items()})


def _as_text(logger: object, method: str, fields: MutableMapping[str, Any]) -> str:
    clock = str(fields.pop("time", ""))[11:19]
    level = fields.pop("level", method)
    event = _quoted(fields.pop("event", ""), spaces=True)
    name = fields.pop("module", "")
    trace = fields.pop("exception", None)
    pairs = "".join(f" {key}={_quoted(value)}" for key, value in fields.items())
    line = f"{clock} {level:<7} {name}: {event}{pairs}"
    return f"{line}\n{trace}" if trace else line


def _quoted(value: object, *, spaces: bool = False) -> str:
    """Show a value on a terminal; control characters of a stranger are escaped, never sent."""
    text = _shown(value)
    plain = text.isprintable() and text and (spaces or not any(sign in text for sign in ' "='))
    return text if plain else plain_json.dumps(text)


def _shown(value: object) -> str:
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"


configure(level="warning")
