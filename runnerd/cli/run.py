"""`runnerd run`: a checkout's workflows, here and now, without a daemon and without a forge."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from runnerd.cli import loading, options
from runnerd.cli.follow import paint, told
from runnerd.cli.output import Code, clean, fail, log_text, show_json
from runnerd.cli.runs import tree

if TYPE_CHECKING:
    from runnerd.daemon import Report


def run(
    path: Annotated[Path, typer.Argument(help="The checkout; its working tree is taken as it is.")] = Path(),
    workflows: Annotated[
        list[str] | None,
        typer.Option("--workflow", "-W", metavar="FILE", help="Only this workflow file. May be repeated."),
    ] = None,
    job: Annotated[str | None, typer.Option("--job", "-j", help="Only this job and what it needs.")] = None,
    event: Annotated[str, typer.Option(help="The event that happened.")] = "push",
    payload: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The event's payload (github.event) as JSON.")
    ] = None,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", "-i", metavar="K=V", help="An input of workflow_dispatch.")
    ] = None,
    secrets: Annotated[
        list[str] | None,
        typer.Option("--secret", "-s", metavar="K[=V]", help="A secret; bare, from the environment."),
    ] = None,
    variables: Annotated[
        list[str] | None, typer.Option("--var", metavar="K=V", help="A configuration variable (vars.K).")
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option("--env", metavar="K=V", help="An environment variable of every job.")
    ] = None,
    driver: Annotated[
        str | None, typer.Option(help="How machines are made: qemu, firecracker, fcctl, process.")
    ] = None,
    config: options.ConfigFile = None,
    state: options.State = None,
    json: options.Json = False,
) -> None:
    """Run the workflows of a checkout that an event would start; exit 0 when all is green, 1 when not."""
    if not path.is_dir():
        fail(f"{path} is not a folder: name the checkout whose workflows to run")
    if payload is not None and not payload.is_file():
        fail(f"{payload} is not a file: --payload wants the event's JSON")
    given = {
        "secrets": options.pairs("--secret", secrets or (), from_environment=True),
        "variables": options.pairs("--var", variables or ()),
        "env": options.pairs("--env", env or ()),
    }
    settings = options.load_config(config, state_directory=state, machines__driver=driver)
    options.start_logging(settings, quiet=True)

    with loading.for_good():
        from runnerd import daemon, log
        from runnerd.cli.event import happened
        from runnerd.git.process import GitError
        from runnerd.machines.driver import NoMachine

    log.redact(*given["secrets"].values())
    names = workflows or []
    what = happened(
        path,
        event,
        payload,
        workflow=names[0] if len(names) == 1 else "",
        inputs=options.pairs("--input", inputs or ()),
    )
    request = daemon.Request(
        path=path.absolute(),
        event=what.event,
        body=what.body,
        changed=what.changed,
        workflow_files=names,
        job=job,
        **given,
    )
    try:
        report = daemon.run_once(
            request,
            config=settings,
            show=_quiet if json else _Printer(),
            note=lambda sentence: typer.echo(f"runnerd: {sentence}", err=True),
        )
    except daemon.Nothing as error:
        fail(str(error), Code.NOTHING)
    except (daemon.Unusable, GitError) as error:
        fail(str(error), Code.USAGE)
    except NoMachine as error:
        fail(str(error), Code.NO_MACHINE)
    except KeyboardInterrupt:
        raise typer.Exit(Code.INTERRUPTED) from None
    if json:
        show_json(msgspec.to_builtins(report))
    else:
        typer.echo("\n".join(_summary(report)))
    if report.interrupted:
        raise typer.Exit(Code.INTERRUPTED)
    raise typer.Exit(_code(report))


def _code(report: Report) -> Code:
    """Tell a run for which no machine could be had from one that did not go well."""
    jobs = [job for _, jobs in report.runs for job in jobs]
    if any(job.outcome == "infra_error" for job in jobs) and not any(job.machine for job in jobs):
        return Code.NO_MACHINE
    return Code.GREEN if report.green else Code.NOT_GREEN


def _quiet(job: str, line: str) -> None:
    """Print nothing while it runs: the JSON at the end says all."""


class _Printer:
    """Prints lines as `runnerd logs` does while they come, each with its job's name."""

    def __init__(self) -> None:
        self._colour = sys.stdout.isatty()
        self._jobs: dict[str, str] = {}

    def __call__(self, job: str, line: str) -> None:
        if job not in self._jobs:
            self._jobs[job] = (
                paint(clean(job) + " │ ", len(self._jobs)) if self._colour else clean(job) + " │ "
            )
        if (text := told(log_text(line, colour=self._colour), colour=self._colour)) is not None:
            typer.echo(self._jobs[job] + text)


def _summary(report: Report) -> Iterator[str]:
    """Yield what came of it: each run with its jobs and steps, and the files that did not match."""
    for run, jobs in report.runs:
        yield ""
        yield from tree(msgspec.to_builtins(run), [msgspec.to_builtins(job) for job in jobs])
    for note in report.notes:
        if not note.matched:
            yield f"{clean(note.path)} was not run: {clean(note.reason)}"
