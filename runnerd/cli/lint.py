"""`runnerd lint`: what is wrong with workflow files, as `file:line:column: severity: message`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runnerd.cli import options
from runnerd.cli.output import Code, clean, fail, show_json

if TYPE_CHECKING:
    from runnerd.workflow import Problem, Workflow

FOLDER = Path(".github/workflows")
FILE_LIMIT = 1 << 20


class Format(StrEnum):
    """How problems are written."""

    TEXT = "text"
    GITHUB = "github"


def lint(
    files: Annotated[list[Path] | None, typer.Argument(help=f"Instead of all in {FOLDER}.")] = None,
    format: Annotated[
        Format, typer.Option(help="`github` writes workflow commands that become annotations.")
    ] = Format.TEXT,
    json: options.Json = False,
) -> None:
    """Check workflow files; exit 1 if any has an error."""
    chosen = files or workflow_files(Path())
    if not chosen:
        fail(f"no workflow files in {FOLDER}: name some, or go to a checkout", Code.NOTHING)
    problems = [problem for path in chosen for problem in read(path, str(path))[1]]
    if json:
        show_json(
            [
                {
                    "path": problem.path,
                    "line": problem.line,
                    "column": problem.column,
                    "severity": problem.severity,
                    "message": problem.message,
                }
                for problem in problems
            ]
        )
    else:
        for problem in problems:
            typer.echo(command(problem) if format is Format.GITHUB else clean(problem))
    wrong = any(problem.severity == "error" for problem in problems)
    raise typer.Exit(Code.NOT_GREEN if wrong else Code.GREEN)


def workflow_files(root: Path) -> list[Path]:
    """Return the workflow files of a checkout, in the order of their names."""
    return sorted(path for path in (root / FOLDER).glob("*") if path.suffix in (".yml", ".yaml"))


def read(path: Path, name: str) -> tuple[Workflow | None, tuple[Problem, ...]]:
    """Read one file and everything said about it; the workflow is None where there are errors.

    `name` is what problems call the file.
    """
    from runnerd.workflow import Problem, WorkflowErrors, load

    try:
        with path.open("rb") as file:
            data = file.read(FILE_LIMIT + 1)
        if len(data) > FILE_LIMIT:
            raise ValueError(f"larger than {FILE_LIMIT} bytes")
        text = data.decode()
    except OSError as error:
        return None, (Problem(path=name, line=1, column=1, message=f"cannot be read: {error.strerror}"),)
    except ValueError as error:
        return None, (Problem(path=name, line=1, column=1, message=str(error)),)
    try:
        workflow = load(text, path=name, resolve=beside(path))
    except WorkflowErrors as errors:
        return None, tuple(errors.problems)
    problems = (
        *workflow.unsupported,
        *workflow.warnings,
        *unknown_zones(workflow),
        *foreign_actions(workflow),
    )
    return workflow, tuple(sorted(problems, key=lambda each: (each.line, each.column)))


def unknown_zones(workflow: Workflow) -> Iterator[Problem]:
    """Yield a warning for each schedule whose time zone this host does not have: it would never start."""
    from zoneinfo import ZoneInfo

    from runnerd.workflow import Problem

    for trigger in workflow.triggers:
        for cron, zone in trigger.schedules:
            try:
                ZoneInfo(zone)
            except (LookupError, ValueError, OSError):
                yield Problem(
                    path=workflow.path,
                    line=trigger.place.line,
                    column=trigger.place.column,
                    severity="warning",
                    message=f"the schedule {cron!r} never starts here: there is no time zone {zone!r}",
                )


def foreign_actions(workflow: Workflow) -> Iterator[Problem]:
    """Yield a warning for each step whose action this version cannot run: there its job would fail."""
    from runnerd.jobs.checkout import ACTION
    from runnerd.workflow import Problem

    for job in workflow.jobs.values():
        for step in (inner for outer in job.steps for inner in (outer, *(outer.parallel or ()))):
            if step.uses is not None and not ACTION.fullmatch(step.uses):
                yield Problem(
                    path=workflow.path,
                    line=step.place.line,
                    column=step.place.column,
                    severity="warning",
                    message=f"the action {step.uses} cannot be run yet: its step would fail here",
                )


def beside(path: Path) -> Callable[[str], str]:
    """Return how reusable workflows named in this file are found: `./…` from the root of its checkout."""
    from runnerd.workflow.model import NotLookedUp

    root = next(
        (folder.parent for folder in path.absolute().parents if folder.name == ".github"), path.parent
    )

    def resolve(name: str) -> str:
        if not name.startswith("./") or ".." in Path(name).parts:
            raise NotLookedUp("it is not in this checkout, and its jobs are not known here")
        try:
            with (root / name).open("rb") as file:
                data = file.read(FILE_LIMIT + 1)
            if len(data) > FILE_LIMIT:
                raise LookupError(f"{name} is larger than {FILE_LIMIT} bytes")
            return data.decode()
        except OSError as error:
            raise LookupError(f"{name} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise LookupError(f"{name} is not UTF-8 text") from error

    return resolve


def command(problem: Problem) -> str:
    """Return the workflow command that makes GitHub annotate the place."""
    kind = problem.severity if problem.severity in ("error", "warning") else "notice"
    place = f"file={_escaped(problem.path, ':,')},line={problem.line},col={problem.column}"
    return f"::{kind} {place}::{_escaped(problem.message)}"


def _escaped(text: str, also: Iterable[str] = ()) -> str:
    for sign in ("%", "\r", "\n", *also):
        text = text.replace(sign, f"%{ord(sign):02X}")
    return text
