"""`runnerd run`: a checkout's workflows, here and now, without a daemon and without a forge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runnerd.cli import options
from runnerd.cli.output import fail


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
    driver: Annotated[str | None, typer.Option(help="How machines are made: qemu, fcctl, process.")] = None,
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
        "inputs": options.pairs("--input", inputs or ()),
        "secrets": options.pairs("--secret", secrets or (), from_environment=True),
        "variables": options.pairs("--var", variables or ()),
        "env": options.pairs("--env", env or ()),
    }
    settings = options.load_config(config, state_directory=state, machines__driver=driver)
    options.start_logging(settings)

    from runnerd import daemon, log

    log.redact(*given["secrets"].values())
    code = daemon.run_once(
        path.absolute(),
        config=settings,
        workflow_files=workflows or [],
        job=job,
        event=event,
        payload=payload,
        driver=driver,
        json=json,
        **given,
    )
    raise typer.Exit(code)
