"""`runnerd serve`: the daemon in the foreground."""

from __future__ import annotations

from typing import Annotated

import typer

from runnerd.cli import loading, options
from runnerd.cli.output import Code, fail


def serve(
    config: options.ConfigFile = None,
    state: options.State = None,
    host: Annotated[str | None, typer.Option(help="Where POST /webhook listens.")] = None,
    port: Annotated[int | None, typer.Option(help="Its port; 0 takes any free one.")] = None,
    driver: Annotated[
        str | None, typer.Option(help="How machines are made: qemu, firecracker, fcctl, process.")
    ] = None,
) -> None:
    """Take webhooks and run the workflows they mean, until SIGTERM.

    The first SIGTERM or SIGINT lets running jobs end, the second cancels them, the third exits at once.
    """
    settings = options.load_config(
        config, state_directory=state, server__host=host, server__port=port, machines__driver=driver
    )
    if reason := settings.why_not_serve():
        fail(reason, Code.USAGE)
    options.start_logging(settings)

    with loading.for_good():
        from runnerd import daemon

    raise typer.Exit(daemon.serve(settings))
