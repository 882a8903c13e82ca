"""`runnerd eval`: the value of one expression, as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from runnerd.cli.output import Code, clean, fail, show_json


def evaluate(
    expression: Annotated[str, typer.Argument(help="With or without ${{ }} around it.")],
    contexts: Annotated[
        Path | None, typer.Option(metavar="FILE", help='JSON object of contexts: {"github": {…}, …}.')
    ] = None,
) -> None:
    """Print the value of an expression as JSON; a bad one exits 2 with a caret under the place.

    `success()` and `always()` are true, `failure()` and `cancelled()` false; `hashFiles()` reads files from
    the current folder.
    """
    from runnerd import workflow

    given: Any = {}
    if contexts is not None:
        try:
            given = json.loads(contexts.read_text("utf-8"))
        except (OSError, ValueError) as error:
            fail(f"{contexts} cannot be read as JSON: {error}")
        if not isinstance(given, dict):
            fail(f"{contexts} must hold an object that maps names of contexts to their values")
    try:
        value = workflow.evaluate(expression, given, functions=functions(Path.cwd()))
    except workflow.ExpressionError as error:
        typer.echo(caret(str(error), error.text or expression, error.offset), err=True)
        raise typer.Exit(Code.USAGE) from None
    show_json(plain(value))


def functions(root: Path) -> dict[str, Callable[..., Any]]:
    """Return the functions that need a world: a job that goes well so far, and the files below `root`."""

    def hash_files(*patterns: Any) -> str:
        from runnerd.jobs import hash_files
        from runnerd.workflow import ExpressionError

        try:
            return hash_files([str(pattern) for pattern in patterns], root)
        except (ValueError, OSError) as error:
            raise ExpressionError(f"hashFiles: {error}") from error

    return {
        "success": lambda *_: True,
        "always": lambda *_: True,
        "failure": lambda *_: False,
        "cancelled": lambda *_: False,
        "hashFiles": hash_files,
    }


def caret(message: str, text: str, offset: int) -> str:
    """Return the message with the line it is about and a caret under the place."""
    before = text[:offset]
    start = before.rfind("\n") + 1
    line = text[start:].partition("\n")[0]
    return f"runnerd: {clean(message)}\n  {clean(line)}\n  {' ' * (offset - start)}^"


def plain(value: Any) -> Any:
    """Return a value as JSON writes it: whole numbers without a fraction, what is no number as null."""
    if isinstance(value, float):
        return (
            int(value)
            if value.is_integer()
            else value
            if value == value and abs(value) != float("inf")
            else None
        )
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value
