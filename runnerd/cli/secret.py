"""`runnerd secret`: the secrets that this host gives to jobs. A value comes from a prompt or standard input,
never from the command line, where every user of the host could read it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from runnerd.cli import options
from runnerd.cli.output import Code, duration, fail, show_json, table

if TYPE_CHECKING:
    from runnerd.store.secrets import Secrets

commands = typer.Typer(help="Keep the secrets that jobs may have.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The secret's name, as a workflow says it.")]
ForRepository = Annotated[
    str, typer.Option("--repository", "-r", metavar="OWNER/NAME", help="Only for this repository.")
]


@commands.command("set")
def set_(
    name: Name,
    repository: ForRepository = "",
    state: options.State = None,
    config: options.ConfigFile = None,
) -> None:
    """Keep a secret. Its value is asked for, or read from standard input up to its end."""
    from runnerd.store.secrets import LIMIT, SecretError, checked_name

    secrets = _secrets(config, state)
    try:
        name = checked_name(name)
        if sys.stdin.isatty():
            value = typer.prompt(f"Value of {name}", hide_input=True)
        else:
            data = sys.stdin.buffer.read(LIMIT + 2)
            value = data.decode("utf-8").removesuffix("\n").removesuffix("\r")
        secrets.set(name, value, repository)
    except UnicodeDecodeError:
        fail(f"the value of {name} is not UTF-8 text", Code.USAGE)
    except SecretError as error:
        fail(str(error), Code.USAGE)
    typer.echo(f"{name} is kept for {repository or 'every repository'}; jobs that start from now on get it")


@commands.command("list")
def list_(state: options.State = None, config: options.ConfigFile = None, json: options.Json = False) -> None:
    """List the secrets there are, never their values."""
    from runnerd.store.secrets import SecretError

    try:
        found = _secrets(config, state).list()
    except SecretError as error:
        fail(str(error), Code.USAGE)
    if json:
        show_json([msgspec.to_builtins(entry) for entry in found])
        return
    now = time.time()
    rows = [
        (
            entry.name,
            entry.repository or "every repository",
            "systemd" if entry.credential else duration(max(0.0, now - entry.changed)) + " ago",
        )
        for entry in found
    ]
    typer.echo(table(("name", "for", "set"), rows))


@commands.command()
def remove(
    name: Name,
    repository: ForRepository = "",
    state: options.State = None,
    config: options.ConfigFile = None,
) -> None:
    """Forget a secret."""
    from runnerd.store.secrets import SecretError

    try:
        gone = _secrets(config, state).remove(name, repository)
    except SecretError as error:
        fail(str(error), Code.USAGE)
    if not gone:
        fail(f"there is no secret {name} for {repository or 'every repository'}", Code.NOTHING)
    typer.echo(f"{name.upper()} is removed")


def _secrets(config: Path | None, state: Path | None) -> Secrets:
    from runnerd.store.secrets import Secrets

    settings = options.load_config(config, state_directory=state)
    given = os.environ.get("CREDENTIALS_DIRECTORY")
    return Secrets(settings.state_directory / "secrets", Path(given) if given else None)
