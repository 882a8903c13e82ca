"""Workflow commands in a step's output, `::name key=value,…::data` and `##[name key=value;…]data`, as data.

Pure: a line becomes a command or stays text; what it does is decided by who asked. Rules of GitHub's runner.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from runnerd.model import Annotation

KNOWN = frozenset(
    {
        "add-mask",
        "add-matcher",
        "add-path",
        "debug",
        "echo",
        "endgroup",
        "error",
        "group",
        "notice",
        "remove-matcher",
        "save-state",
        "set-env",
        "set-output",
        "stop-commands",
        "warning",
    }
)
ANNOTATIONS = frozenset({"error", "notice", "warning"})

MESSAGE = 16 << 10
"""Characters kept of an annotation's message."""
SHORT_TEXT = 1024
"""Characters kept of an annotation's title and path."""

_NUMBER = 9
"""Digits of the largest line or column that is believed."""


class WorkflowCommand(msgspec.Struct, frozen=True, kw_only=True):
    """One command; names of command and properties in lower case, values unescaped."""

    name: str
    properties: Mapping[str, str] = {}
    data: str = ""


class CommandReader:
    """Finds the commands in one step's lines, in order: commands may be stopped until a token comes."""

    def __init__(self) -> None:
        self._token: str | None = None

    @property
    def stopped(self) -> bool:
        """Whether lines are text until the token comes."""
        return self._token is not None

    def read(self, line: str) -> WorkflowCommand | None:
        """Return the command in this line; None when it is text.

        `stop-commands` takes effect here. The line with its token, which ends the stop, is a
        `resume-commands`. A token that is empty or a command's name stops nothing.
        """
        known = KNOWN if self._token is None else frozenset({self._token})
        command = _parse(line, known)
        if command is None:
            return None
        if self._token is not None:
            self._token = None
            return WorkflowCommand(name="resume-commands")
        if command.name == "stop-commands":
            token = command.data.lower()
            if token and token not in KNOWN and token != "resume-commands":
                self._token = token
        return command


def annotation(command: WorkflowCommand, *, step: int, workspace: str) -> Annotation:
    """Return the annotation of an `error`, `warning` or `notice`.

    A path inside the workspace is made relative to it. A column needs a line, and both ends on one line;
    what contradicts itself is left out, as GitHub does.
    """
    line, end_line = _number(command, "line"), _number(command, "endline")
    column, end_column = _number(command, "col"), _number(command, "endcolumn")
    line = end_line if line is None else line
    column = end_column if column is None else column
    if line is None or (end_line is not None and end_line != line):
        column = end_column = None
    if line is not None and end_line is not None and end_line < line:
        line = end_line = None
    if column is not None and end_column is not None and end_column < column:
        column = end_column = None
    return Annotation(
        level=command.name,
        message=command.data[:MESSAGE],
        title=command.properties.get("title", "")[:SHORT_TEXT],
        path=command.properties.get("file", "")[:SHORT_TEXT].removeprefix(workspace + "/"),
        line=line,
        end_line=end_line,
        column=column,
        end_column=end_column,
        step=step,
    )


def _parse(line: str, known: frozenset[str]) -> WorkflowCommand | None:
    start = line.lstrip()
    if start.startswith("::"):
        head, found, data = start[2:].partition("::")
        if found and (command := _build(head, ",", data, known, _DATA, _PROPERTY)):
            return command
    _, found, rest = line.partition("##[")
    head, closed, data = rest.partition("]")
    if found and closed:
        return _build(head, ";", data, known, _OLD, _OLD)
    return None


_DATA = (("%0D", "\r"), ("%0A", "\n"), ("%25", "%"))
_PROPERTY = (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%"))
_OLD = (("%3B", ";"), ("%0D", "\r"), ("%0A", "\n"), ("%5D", "]"), ("%25", "%"))
Escapes = tuple[tuple[str, str], ...]


def _build(
    head: str, separator: str, data: str, known: frozenset[str], data_escapes: Escapes, escapes: Escapes
) -> WorkflowCommand | None:
    name, _, written = head.partition(" ")
    if name.lower() not in known:
        return None
    properties = {}
    for part in written.strip().split(separator):
        key, _, value = part.partition("=")
        if key and value:
            properties[key.strip().lower()] = _unescaped(value, escapes)
    return WorkflowCommand(name=name.lower(), properties=properties, data=_unescaped(data, data_escapes))


def _unescaped(text: str, escapes: Escapes) -> str:
    if "%" in text:
        for escape, character in escapes:
            text = text.replace(escape, character)
    return text


def _number(command: WorkflowCommand, name: str) -> int | None:
    text = command.properties.get(name, "").strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _NUMBER else None
